"""A frozen encoder as one pure function of arrays, from which other formats are made."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jfreq import param_paths
from jfreq.config import Experiment
from jfreq.encoder.encoder import pool_frames
from jfreq.method import window_spec
from jfreq.types import Array, Batch, InputError, PyTree, SignalSpec

Flat = dict[str, Any]
"""Parameters by path, as they lie in ``model.safetensors``."""
TOLERANCE = 1e-4
"""Largest absolute difference that a written format may have from the JAX encoder."""
NOISE_ROWS = (1, 3)
"""Batch sizes of the noise on which a written program is compared with the JAX encoder."""


class Adapter(NamedTuple):
    """``encode(params, window) -> outputs`` and what it is called with.

    ``window`` holds one fixed window per row: each signal ``[b t c]`` float32 by its name,
    zero-padded at the end, and ``length`` ``[b]`` int32, valid samples of the first signal.
    ``outputs``: ``clip`` ``[b d]`` and ``frames`` ``[b t d]`` float32, ``valid`` ``[b]`` int32
    count of valid frames, and ``logits`` ``[b classes]`` of a supervised method, whose classes are
    ``labels``; ``scores`` turns logits into probabilities.
    """

    encode: Callable[..., dict[str, Array]]
    params: Flat
    signals: tuple[SignalSpec, ...]
    experiment: Experiment
    labels: tuple[str, ...] = ()
    scores: Literal["softmax", "sigmoid"] = "softmax"
    windows: tuple[dict[str, np.ndarray], ...] = ()
    """Batches on which a written format is compared with the JAX encoder."""


class Extra(NamedTuple):
    """What a format adds to a bundle: files by name, and a section of the model card."""

    files: dict[str, bytes]
    """By path in the folder, whose first part is one of ``jfreq.export.bundle.MEMBERS``."""
    card: str
    notes: tuple[str, ...] = ()
    """What the user is told when it is written."""


def adapt(
    experiment: Experiment, params: PyTree, clips: Sequence[dict[str, np.ndarray]] = ()
) -> Adapter:
    """The adapter of a bound experiment and the parameters of its encoder.

    Args:
      experiment: what trained the encoder.
      params: its parameters.
      clips: windows of recordings, laid out as in :class:`Adapter`, on which written formats are
        checked beside noise.
    """
    method = experiment.method.portable()

    def encode(flat: Flat, window: Batch) -> dict[str, Array]:
        features = method.encode(param_paths.unflatten(flat), window)
        clip, frames, valid = pool_frames(features)
        outputs = {"clip": clip, "frames": frames, "valid": valid}
        return outputs if features.logits is None else outputs | {"logits": features.logits}

    cfg = experiment.method
    signals = tuple(cfg.signals)
    windows = (*(noise(signals, rows) for rows in NOISE_ROWS), *clips)
    flat = param_paths.flatten(params)
    return Adapter(encode, flat, signals, experiment, cfg.labels, cfg.scores, windows)


def one_device() -> contextlib.AbstractContextManager[Any]:
    """A context that traces for a single device, whatever this machine has."""
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((1,), ("device",)))


def noise(signals: tuple[SignalSpec, ...], rows: int, *, seed: int = 0) -> dict[str, np.ndarray]:
    """A batch of noise; the first row is full, the others end at a random sample."""
    rng = np.random.default_rng(seed)
    window: dict[str, np.ndarray] = {}
    length = rng.integers(1, signals[0].samples + 1, rows).astype(np.int32)
    length[0] = signals[0].samples
    for signal in signals:
        x = rng.normal(0, 0.1, (rows, signal.samples, signal.channels)).astype(np.float32)
        end = np.ceil(length * (signal.samples / signals[0].samples))
        window[signal.name] = x * (np.arange(signal.samples) < end[:, None])[..., None]
    return window | {"length": length}


def compare(adapter: Adapter, call: Callable[..., dict[str, Any]]) -> float:
    """Compares a written program with the JAX encoder on the windows of ``adapter``.

    Args:
      adapter: the encoder.
      call: the program, called as ``adapter.encode`` is.

    Returns:
      The largest absolute difference.

    Raises:
      InputError: where it is above ``TOLERANCE`` or NaN, and for outputs of another name, shape or
        count of valid frames.
    """
    encode, worst = jax.jit(adapter.encode), 0.0
    for window in adapter.windows:
        with one_device():
            wanted = jax.device_get(encode(adapter.params, window))
        outputs = jax.device_get(call(adapter.params, window))
        for name, value in wanted.items():
            other = outputs.get(name, np.zeros(0))
            if other.shape != value.shape or outputs.keys() != wanted.keys():
                raise InputError(
                    f"export: the written program does not return {name!r} as the JAX encoder "
                    "does; nothing was written"
                )
            error = float(np.abs(other.astype(np.float64) - value).max())
            if not error <= (0 if name == "valid" else TOLERANCE):
                raise InputError(
                    f"export: {name!r} of the written program differs by {error:.3g} from the JAX "
                    f"encoder at batch {len(value)} (limit {TOLERANCE:g}); nothing was written"
                )
            worst = max(worst, error)
    return worst


def shapes(adapter: Adapter, rows: Any) -> tuple[PyTree, PyTree]:
    """The shapes of ``(params, window)``; ``rows`` may be a symbolic dimension."""
    params = {
        name: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype)
        for name, leaf in adapter.params.items()
    }
    return params, window_spec(adapter.signals, rows)
