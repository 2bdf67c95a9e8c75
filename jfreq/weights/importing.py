"""From a file of another project to an encoder of jfreq."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from jfreq import param_paths
from jfreq.config import Experiment
from jfreq.method import Method, encoder_params, stored_shapes
from jfreq.ranges import shortlist
from jfreq.types import DataSpec, InputError, PyTree, SignalSpec
from jfreq.weights.maps import to_params
from jfreq.weights.read import WeightFile, read_weights_file
from jfreq.weights.release import Found, Imported, Options, Release
from jfreq.weights.releases import ast, audiomae, beats, deit, eat, huggingface_ast, ssast, twin

RELEASES: tuple[Release, ...] = (
    ssast.RELEASE,
    huggingface_ast.RELEASE,
    eat.RELEASE,
    audiomae.RELEASE,
    beats.RELEASE,
    ast.RELEASE,
    deit.RELEASE,
    twin.RELEASE,
)
"""The layouts that are read; the first that matches is taken."""
OTHERS: Mapping[str, str] = {
    "wav2vec 2.0, HuBERT, WavLM or data2vec": "feature_extractor.conv_layers",
    "Whisper": "encoder.embed_positions",
    "Whisper as OpenAI released it": "encoder.positional_embedding",
    "HTS-AT or CLAP": "layers.0.blocks.0.attn.relative_position",
    "PANNs": "conv_block1.conv1",
    "VGGish": "embeddings.0.weight",
    "a vision transformer for images": "patch_embed.proj.weight",
    "a language model": "word_embeddings",
}
"""By a part of the name of a tensor, what a file looks like that is not read."""
RATE, HOP = 16000.0, 0.01
"""Hz, and seconds from frame to frame, of every release."""
SECONDS = {1024: 10.0, 998: 10.0, 512: 5.0, 128: 1.0}
"""Seconds of the clips of so many frames, padded or (998) not."""


def import_weights(path: str | Path, options: Options | None = None) -> Imported:
    """The encoder in a released checkpoint, as an experiment and its parameters.

    Args:
      path: a file of tensors (``.pth``, ``.pt``, ``.safetensors``), or a folder of Hugging Face.
      options: what the file leaves open; None: as in the release.

    Returns:
      The experiment, bound to windows of the release, the parameters as numpy arrays, and in words
      what was recognised, assumed and left out.

    Raises:
      InputError: for files that cannot be read, another architecture, a geometry that does not fit,
        and numbers that are not finite.
    """
    file = read_weights_file(path)
    release = next((release for release in RELEASES if release.matches(file)), None)
    if release is None:
        raise InputError(f"{file.path}: {_unknown(file)}")
    options = options or Options()
    _check_options(options, release, file.path)
    found = release.read(file, options)
    if options.labels and not found.labels:
        raise InputError(f"labels: {file.path} holds no classifier whose classes they could name")
    params = to_params(found.entries, found.converted or file.tensors, str(file.path))
    experiment = Experiment(file.path.stem or release.name, _bound(found))
    _check(experiment, params, file.path)
    return Imported(experiment, params, _notes(file, release, found))


def _check_options(options: Options, release: Release, where: Path) -> None:
    """Raises ``InputError`` for an option that a file does not leave open."""
    for name, value in vars(options).items():
        if name not in release.options and value != getattr(Options(), name):
            raise InputError(
                f"{name}: is no use with {where}, a checkpoint of {release.name}; leave it out"
            )


def _bound(found: Found) -> Method:
    """The method on windows of the released length."""
    samples = round(SECONDS.get(found.frames, found.frames * HOP) * RATE)
    signal = found.signal or SignalSpec("audio", RATE, samples)
    return found.method.bind(DataSpec((signal,), found.labels))


def _check(experiment: Experiment, params: PyTree, where: Path) -> None:
    """Raises ``InputError`` unless every parameter of the encoder is there, and finite."""
    method = experiment.method
    shapes = jax.eval_shape(method.init, jax.random.key(0))
    known = {path: x.shape for path, x in param_paths.flatten(stored_shapes(method)).items()}
    needed = param_paths.flatten(encoder_params(method, shapes)).keys()
    flat = param_paths.flatten(params)
    wrong = [path for path, x in flat.items() if known.get(path) != x.shape]
    if wrong or (wrong := sorted(needed - flat.keys())):
        raise InputError(
            f"{where}: does not fit the {type(method).__name__} that its shapes ask for, in "
            f"{shortlist(wrong, 3)}"
        )
    bad = [path for path, x in flat.items() if not np.isfinite(x).all()]
    if bad:
        raise InputError(f"{where}: holds NaN or infinite numbers in {shortlist(bad, 3)}")


def _notes(file: WeightFile, release: Release, found: Found) -> tuple[str, ...]:
    used = {name for entry in found.entries for name in entry.theirs} | set(found.replaced)
    left = sorted(file.tensors.keys() - used)
    count = sum(int(np.size(file.tensors[name])) for name in used)
    notes = [f"{file.path}: {release.name}, {count:,} numbers taken", *found.assumed]
    if left:
        notes.append(f"not taken: {', '.join(_grouped(left))}")
    return tuple(notes)


def _grouped(names: list[str]) -> list[str]:
    """Names of tensors, those of one module by its name."""
    modules: dict[str, list[str]] = {}
    for name in names:
        modules.setdefault(_module(name), []).append(name)
    return [f"{module}.*" if len(found) > 1 else found[0] for module, found in modules.items()]


def _module(name: str) -> str:
    """The beginning of a name, up to the first number or the last part."""
    parts = name.split(".")
    stop = next((i for i, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
    return ".".join(parts[: max(1, stop)])


def _unknown(file: WeightFile) -> str:
    names = list(file.tensors)
    looks = next((what for what, part in OTHERS.items() if any(part in n for n in names)), None)
    seen = f"it looks like {looks}" if looks else f"it holds {shortlist(names, 3)}"
    known = ", ".join(release.name for release in RELEASES)
    return f"is not a checkpoint that is read: {seen}; supported are {known}"
