"""A folder that was written against the JAX encoder: run by transformers, or read back."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jfreq.export.huggingface.parts import Parts, as_folder, parts_of
from jfreq.export.portable import Adapter, adapt, differences
from jfreq.types import Array, InputError
from jfreq.weights.importing import import_weights

PACKAGES = ("torch", "transformers")
LOG_MEL = 1e-3
"""Largest difference of normalised log-mel values. In bins that hold next to nothing two transforms
in float32 differ by more than networks do."""

Window = dict[str, np.ndarray]
"""As in :class:`jfreq.export.portable.Adapter`; ``spectrogram`` ``[b t f 1]`` and ``valid_frames``
``[b t]`` may be added."""


class Folder(NamedTuple):
    """A folder as transformers runs it."""

    log_mel: Callable[[Window], np.ndarray]
    """Spectrograms ``[b t f]`` of a window."""
    call: Callable[[Window], dict[str, np.ndarray]]
    """From a window to ``tokens``, ``clip`` and ``logits``."""
    least: int = 0
    """Samples that a row must have."""


class Checked(NamedTuple):
    """How a folder was checked."""

    by: str
    error: float
    """Largest absolute difference to the JAX encoder on the same spectrograms."""
    log_mel: float | None = None
    """Largest difference of the spectrograms, where they were computed twice."""
    note: str = ""
    """What was not done, for the user."""


def check(folder: Path, parts: Parts, adapter: Adapter, run: Callable[[Path], Folder]) -> Checked:
    """Compares a folder with the encoder whose files it holds.

    Args:
      folder: what was written.
      parts: of the encoder.
      adapter: the JAX encoder, as :func:`jfreq.export.huggingface.parts.as_folder` gives it.
      run: opens the folder with torch and transformers. Without these packages the folder is read
        back as ``jfreq import`` does, and what that gives is compared.

    Raises:
      InputError: where spectrograms or outputs differ.
    """
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        why = f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} not installed here"
        error = max(differences(adapter, _read_back(folder), "huggingface"))
        note = f"the Hugging Face folder was read back but not run, because {why}"
        return Checked("read back by jfreq, not run", error, None, note)
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]

    by = f"transformers {transformers.__version__}, torch {torch.__version__}"
    with _quiet():
        program = run(folder)
        found = [_with_spectra(parts, program, window) for window in adapter.windows]
        adapter = adapter._replace(windows=tuple(window for window, _ in found))
        error = max(differences(adapter, lambda _, window: program.call(window), "huggingface"))
    return Checked(by, error, max(apart for _, apart in found))


def _with_spectra(parts: Parts, program: Folder, window: Window) -> tuple[Window, float]:
    """A window with the spectrograms of the folder and with which of their frames are valid, and
    the largest difference to those of the front end."""
    geometry, name = parts.backbone.geometry, parts.backbone.geometry.signal.name
    window = window | {"length": np.maximum(window["length"], program.least)}
    spec = program.log_mel(window)
    frontend = jax.jit(lambda x, n: geometry.frontend(x, frames=geometry.frames, length=n))
    wanted, valid = (np.asarray(x) for x in frontend(window[name], window["length"]))
    worst = np.inf
    if spec.shape == wanted.shape[:3]:
        worst = float(np.abs(wanted[..., 0] - spec).max())
    if not worst <= LOG_MEL:
        raise InputError(
            f"export: log-mel spectrograms of the Hugging Face folder differ by {worst:.3g} from "
            f"those of the JAX encoder (limit {LOG_MEL:g}); nothing was written"
        )
    return window | {"spectrogram": spec[..., None], "valid_frames": valid}, worst


def _read_back(folder: Path) -> Callable[[Any, Window], dict[str, Array]]:
    """The encoder that ``jfreq import`` makes of the folder."""
    experiment, params, _ = import_weights(folder)
    adapter = adapt(experiment, params)
    adapter = as_folder(parts_of(adapter), adapter)
    encode, name = jax.jit(adapter.encode), adapter.signals[0].name

    def call(params: Any, window: Window) -> dict[str, Array]:
        del params
        (signal,) = window.keys() - {"length"}
        return encode(adapter.params, {"length": window["length"], name: window[signal]})

    return call


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, advice and warnings of transformers."""
    from transformers.utils import logging  # pyright: ignore[reportMissingImports]

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def run_ast(folder: Path) -> Folder:
    """transformers' own AST and its feature extractor."""
    import torch  # pyright: ignore[reportMissingImports]
    import transformers as hf  # pyright: ignore[reportMissingImports]

    extractor = hf.ASTFeatureExtractor.from_pretrained(folder)
    (kind,) = hf.ASTConfig.from_pretrained(folder).architectures
    model: Any = getattr(hf, kind).from_pretrained(folder).eval()
    labelled = kind != "ASTModel"
    trunk = model.audio_spectrogram_transformer if labelled else model

    def log_mel(window: Window) -> np.ndarray:
        (signal,) = window.keys() - {"length"}
        waves = [x[:n, 0] for x, n in zip(window[signal], window["length"])]
        read = extractor(waves, sampling_rate=extractor.sampling_rate, return_tensors="np")
        return read["input_values"]

    @torch.inference_mode()
    def call(window: Window) -> dict[str, np.ndarray]:
        found = trunk(torch.from_numpy(window["spectrogram"][..., 0]))
        outputs = {"tokens": found.last_hidden_state[:, 2:], "clip": found.pooler_output}
        if labelled:
            outputs["logits"] = model.classifier(found.pooler_output)
        return {name: x.numpy() for name, x in outputs.items()}

    return Folder(log_mel, call, least=400)


def run_twin(folder: Path) -> Folder:
    """The twin, whose classes are those of the files in the folder."""
    import torch  # pyright: ignore[reportMissingImports]

    from jfreq.export.huggingface.twin import log_mel_jfreq, modeling_jfreq

    kinds = (modeling_jfreq.JfreqForAudioClassification, modeling_jfreq.JfreqModel)
    config = modeling_jfreq.JfreqConfig.from_pretrained(folder)
    kind = next(kind for kind in kinds if kind.__name__ in config.architectures)
    model: Any = kind.from_pretrained(folder).eval()
    trunk = model.encoder if kind is kinds[0] else model

    @torch.inference_mode()
    def spectra(window: Window) -> tuple[Any, Any]:
        (signal,) = window.keys() - {"length", "spectrogram", "valid_frames"}
        wave, length = (torch.from_numpy(np.asarray(window[x])) for x in (signal, "length"))
        return log_mel_jfreq.log_mel(wave[..., 0], length, config)

    @torch.inference_mode()
    def call(window: Window) -> dict[str, np.ndarray]:
        found = trunk.encode(torch.from_numpy(window["spectrogram"][..., 0]), spectra(window)[1])
        tokens = found.last_hidden_state[:, config.special_tokens :]
        outputs = {"tokens": tokens, "clip": found.pooler_output}
        if trunk is not model:
            outputs["logits"] = model.classifier(model.classifier_norm(found.pooler_output))
        return {name: x.numpy() for name, x in outputs.items()}

    return Folder(lambda window: spectra(window)[0].numpy(), call)
