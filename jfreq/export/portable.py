"""A frozen encoder as one pure function of arrays, from which other formats are made."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import numpy as np

from jfreq import param_paths
from jfreq.config import Experiment
from jfreq.encoder.encoder import pool_frames
from jfreq.method import Method, window_spec
from jfreq.types import Array, Batch, InputError, PyTree, SignalSpec

C = TypeVar("C", bound=Any)
Flat = dict[str, Any]
"""Parameters by path, as they lie in ``model.safetensors``."""
TOLERANCE = 1e-4
"""Largest difference that a written format may have from the JAX encoder, in the unit of the output
or, where an output is larger than 1, as a part of its largest value."""
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
    """Batches on which a written format is compared with the JAX encoder: noise, then clips."""


class Agreement(NamedTuple):
    """The largest differences that were found between a written format and the JAX encoder."""

    noise: float
    clips: float = 0.0
    count: int = 0
    """Windows of recordings that were compared."""

    def __str__(self) -> str:
        batches = " and ".join(map(str, NOISE_ROWS))
        found = f"{self.noise:.1e} on noise at batch {batches}"
        if self.count:
            found += f", {self.clips:.1e} on {self.count} window{'s' * (self.count != 1)}"
        return found + " of recordings" * bool(self.count)


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
    cfg = experiment.method
    signals = tuple(cfg.signals)
    windows = (*(noise(signals, rows) for rows in NOISE_ROWS), *clips)
    flat = param_paths.flatten(params)
    encode = _function(cfg.portable())
    return Adapter(encode, flat, signals, experiment, cfg.labels, cfg.scores, windows)


def in_float32(adapter: Adapter) -> Adapter:
    """The same encoder with all products in float32, for formats that know no bfloat16."""
    method = without_bfloat16(adapter.experiment.method.portable())
    return adapter._replace(encode=_function(method))


def without_bfloat16(cfg: C) -> C:
    """A method, or a network of one, that computes all products in float32."""
    changes = {}
    for field in dataclasses.fields(cfg):
        value = getattr(cfg, field.name)
        if dataclasses.is_dataclass(value):
            changes[field.name] = without_bfloat16(value)
        elif field.name == "dtype" and value == "bfloat16":
            changes[field.name] = "float32"
    return dataclasses.replace(cfg, **changes)


@functools.lru_cache(8)
def _function(method: Method) -> Callable[..., dict[str, Array]]:
    """The same function for equal methods, so that all formats share its compiled programs."""

    def encode(flat: Flat, window: Batch) -> dict[str, Array]:
        features = method.encode(param_paths.unflatten(flat), window)
        clip, frames, valid = pool_frames(features)
        outputs = {"clip": clip, "frames": frames, "valid": valid}
        return outputs if features.logits is None else outputs | {"logits": features.logits}

    return encode


def need(packages: Sequence[str], what: str) -> None:
    """Raises ``InputError`` where a package that ``what`` needs is missing; names as imported."""
    missing = [p.replace("_", "-") for p in packages if importlib.util.find_spec(p) is None]
    if missing:
        pip = " ".join(missing)
        raise InputError(f"{what} needs the package {missing[0]}: pip install {pip}")


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


def agreement(
    adapter: Adapter,
    call: Callable[..., dict[str, Any]],
    what: str,
    limit: float = TOLERANCE,
    instead: str = "",
) -> Agreement:
    """The largest :func:`differences` on noise and on clips."""
    rows, found = len(NOISE_ROWS), differences(adapter, call, what, limit, instead)
    count = sum(len(window["length"]) for window in adapter.windows[rows:])
    return Agreement(max(found[:rows]), max(found[rows:], default=0.0), count)


def differences(
    adapter: Adapter,
    call: Callable[..., dict[str, Any]],
    what: str,
    limit: float = TOLERANCE,
    instead: str = "",
) -> list[float]:
    """Compares a written program with the JAX encoder on the windows of ``adapter``.

    Args:
      adapter: the encoder.
      call: the program, called as ``adapter.encode`` is.
      what: the name of its format, which begins the messages.
      limit: the largest difference allowed, measured as in ``TOLERANCE``.
      instead: what to do where it is above.

    Returns:
      The largest difference on each of the windows.

    Raises:
      InputError: where one is above ``limit`` or NaN, and for outputs of another name, shape or
        count of valid frames.
    """
    encode, found = jax.jit(adapter.encode), []
    for i, window in enumerate(adapter.windows):
        with one_device():
            wanted = jax.device_get(encode(adapter.params, window))
        outputs = jax.device_get(call(adapter.params, window))
        check_layout(wanted, outputs)
        worst = 0.0
        for name, value in wanted.items():
            other = outputs[name]
            scale = 1.0 if name == "valid" else max(1.0, float(np.abs(value).max()))
            error = float(np.abs(other.astype(np.float64) - value).max()) / scale
            if not error <= (0 if name == "valid" else limit):
                on, clip = f"noise at batch {len(value)}", i - len(NOISE_ROWS) + 1
                on = f"window {clip} of the recordings" if clip > 0 else on
                raise InputError(
                    f"{what}: {name!r} of the written program differs by {error:.3g} from the JAX "
                    f"encoder on {on} (limit {limit:g}); {instead}nothing was written"
                )
            worst = max(worst, error)
        found.append(worst)
    return found


def check_layout(wanted: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> None:
    """Raises ``InputError`` where outputs have other names or shapes than those ``wanted``."""
    for name in (*wanted, *(found.keys() - wanted.keys())):
        if name not in wanted or name not in found or found[name].shape != wanted[name].shape:
            raise InputError(
                f"export: the written program does not return {name!r} as the JAX encoder does; "
                "nothing was written"
            )


def shapes(adapter: Adapter, rows: Any) -> tuple[PyTree, PyTree]:
    """The shapes of ``(params, window)``; ``rows`` may be a symbolic dimension."""
    params = {
        name: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype)
        for name, leaf in adapter.params.items()
    }
    return params, window_spec(adapter.signals, rows)
