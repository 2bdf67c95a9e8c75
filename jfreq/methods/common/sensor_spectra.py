"""What methods on the spectra of several sensors share: planes of frames and bins, and which of
them hold signal.

A sensor whose window is all zero, or holds a NaN, is absent in that sample: it is read as zeros,
attended to by nobody and no term of a loss counts it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from jfreq.config import check, replace
from jfreq.frontends.sensor_stft import Spectrum
from jfreq.method import decided
from jfreq.methods.common.raw_sensors import SensorMethod, sensors
from jfreq.ops import scale
from jfreq.ops.patch import patchify, unpatchify
from jfreq.ranges import Count, Finite, Positive, checked
from jfreq.types import (
    Array,
    Batch,
    DataSpec,
    Reconstruction,
    SignalSpec,
    TokenGrid,
)

BANDS = 16
"""Most tokens along frequency where the patch is left open."""


class Plane(NamedTuple):
    """The spectral plane of one sensor, statically: ``frames x bins`` with ``channels`` that a
    network reads, in patches of ``patch`` = (frames, bins), ``tokens`` = (time, freq) of them;
    the last may hang over the border."""

    signal: SignalSpec
    frames: int
    bins: int
    channels: int
    patch: tuple[int, int]

    @property
    def tokens(self) -> tuple[int, int]:
        return -(-self.frames // self.patch[0]), -(-self.bins // self.patch[1])

    @property
    def size(self) -> int:
        """Numbers in a patch."""
        return self.patch[0] * self.patch[1] * self.channels

    def real_cells(self, tokens: tuple[int, int]) -> np.ndarray:
        """``[t f]`` bool: cells that lie on the plane, of ``tokens`` patches a side."""
        frames, bins = (n * p for n, p in zip(tokens, self.patch))
        return (np.arange(frames) < self.frames)[:, None] & (np.arange(bins) < self.bins)

    def real_tokens(self, tokens: tuple[int, int]) -> np.ndarray:
        """``[t f]`` bool: patches that hold a real cell."""
        return (np.arange(tokens[0]) < self.tokens[0])[:, None] & (
            np.arange(tokens[1]) < self.tokens[1]
        )


class Spectra(NamedTuple):
    """One sensor in a batch: ``real``, ``imag`` ``[b t f c]``; ``x`` ``[b t f k]`` what a network
    reads; ``present`` ``[b]`` bool; ``inside`` ``[b t]`` bool: frames of a present sensor that hold
    signal."""

    real: Array
    imag: Array
    x: Array
    present: Array
    inside: Array

    @property
    def energy(self) -> Array:
        """``[b]``: sum of |z|² over frames, bins and channels."""
        return jnp.sum(jnp.square(self.real) + jnp.square(self.imag), axis=(1, 2, 3))


@dataclasses.dataclass(frozen=True)
class Place:
    """A sensor's lattice of things to choose among: ``cells`` = (frames, bins) each, ``shape`` =
    (time, freq) of them."""

    plane: Plane
    cells: tuple[int, int]
    shape: tuple[int, int]

    @property
    def real(self) -> np.ndarray:
        """``[t f]`` bool: what lies on the plane at least in part."""
        time = np.arange(self.shape[0]) * self.cells[0] < self.plane.frames
        freq = np.arange(self.shape[1]) * self.cells[1] < self.plane.bins
        return time[:, None] & freq

    def padded(self, score: Array) -> Array:
        """``[b t f]`` of what lies on the plane, with zeros up to ``shape``."""
        more = (n - m for n, m in zip(self.shape, score.shape[1:]))
        return jnp.pad(score, ((0, 0), *((0, m) for m in more)))


@checked
class SpectraMethod(SensorMethod):
    """Spectra and patches of sensors, whose rates may differ; open fields (None) are decided by
    data."""

    frontend: Spectrum = Spectrum()
    patch_frames: Count = 1
    patch_bins: tuple[Count, ...] | None = None
    """Of each sensor, or one for all; None: as many as give 16 patches along frequency or fewer."""

    levels: tuple[tuple[Finite, Positive], ...] | None = None
    """Mean and deviation of each sensor's log magnitudes; None: measured before training."""

    def __post_init__(self):
        super().__post_init__()
        check(
            self.patch_bins is None or len(self.patch_bins) > 0,
            "method.patch_bins",
            "name one size or more",
        )
        if self.bound:
            self.frontend.check(self.signals)
            self._check_planes()

    @property
    def bound(self) -> bool:
        return bool(self.signals) and None not in (self.frontend.interval, self.patch_bins)

    @property
    def allows_gaps(self) -> bool:
        return True

    def bind(self, spec: DataSpec) -> Self:
        """Takes the sensors from the data and decides intervals and patches; ``InputError`` where
        a sensor is missing, silent in all training rows, or does not fit."""
        found = self.sensors_of(spec)
        signals = found["signals"]
        for s in signals:
            silent = bool(s.mean) and not any(s.mean) and set(s.std) == {1.0}
            check(
                not silent,
                "data",
                f"{s.name!r} is zero in every training row: leave it out with --method.modalities",
            )
        frontend = self.frontend.fitted(signals)
        bins = self.patch_bins
        if bins is None:
            bins = tuple(-(-frontend.shape(s)[1] // BANDS) for s in signals)
        elif len(bins) == 1:
            bins = bins * len(signals)
        return replace(self, **found, frontend=frontend, patch_bins=bins)

    def unbind(self) -> Self:
        return replace(super().unbind(), levels=None)

    def calibrate(self, batch: Mapping[str, Any]) -> Self:
        """With the levels of ``batch``; a sensor that is absent in all of it keeps (0, 1)."""
        if self.levels is not None or self.frontend.form != "log_phase":
            return self
        bare = replace(self, levels=((0.0, 1.0),) * len(self.signals))

        def moments(batch):
            found = spectra(bare, batch)
            return {n: _moments(self.frontend, s) for n, s in found.items()}

        found = jax.device_get(jax.jit(moments)(dict(batch)))
        # Six digits, so that machines agree.
        return replace(
            self,
            levels=tuple(
                (float(f"{mean:.6g}"), float(f"{std:.6g}")) if std > 0 else (0.0, 1.0)
                for mean, std in found.values()
            ),
        )

    def level(self, name: str) -> tuple[float, float]:
        """Of one sensor."""
        known = dict(zip((s.name for s in self.signals), self.levels or ()))
        return known.get(name, (0.0, 1.0))

    def _check_planes(self) -> None:
        sizes = decided(self.patch_bins, "method.patch_bins")
        check(
            len(sizes) == len(self.signals),
            "method.patch_bins",
            f"{len(sizes)} sizes for {len(self.signals)} sensors",
        )
        for p in self.planes.values():
            check(
                p.patch[0] <= p.frames and p.patch[1] <= p.bins,
                "method.patch_bins",
                f"patches of {p.patch[0]} frames x {p.patch[1]} bins are larger than the spectra "
                f"of {p.signal.name!r}, {p.frames} x {p.bins}",
            )

    @property
    def planes(self) -> dict[str, Plane]:
        """By sensor, of a bound method."""
        sizes = decided(self.patch_bins, "method.patch_bins")
        return {
            s.name: Plane(
                s,
                *self.frontend.shape(s),
                self.frontend.parts * s.channels,
                (self.patch_frames, bins),
            )
            for s, bins in zip(self.signals, sizes)
        }

    def time_grid(self, step: int = 1, *, freq: int = 1, time: int | None = None) -> TokenGrid:
        """The lattice of ``step`` patches along time, placed on the first sensor."""
        plane = next(iter(self.planes.values()))
        size, hop = self.frontend.sizes(plane.signal)
        span = step * self.patch_frames
        return TokenGrid(
            time=time or -(-plane.tokens[0] // step),
            freq=freq,
            order="time_major",
            first=size / 2 + (span - 1) / 2 * hop,
            hop=span * hop,
        )

    # ------------------------------------------------------------------ what others ask

    @property
    def frame_hop(self) -> float | None:
        return self.frontend.sizes(self.signals[0])[1]

    @property
    def stacked_bins(self) -> Mapping[str, int]:
        return {name: plane.bins for name, plane in self.planes.items()}


def spectra(
    cfg: SpectraMethod, batch: Batch, *, change: Callable[[list[Array]], list[Array]] | None = None
) -> dict[str, Spectra]:
    """The spectra of a batch by sensor; float32, no gradient. ``change`` makes views of the
    levelled sensors ``[b t c]`` before."""
    raw = {s.name: scale.pcm_to_float(batch[s.name]) for s in cfg.signals}
    finite = {k: jnp.all(jnp.isfinite(x), axis=(1, 2)) for k, x in raw.items()}
    heard = {k: jnp.any(x != 0, axis=(1, 2)) & finite[k] for k, x in raw.items()}
    clean = {k: jnp.where(heard[k][:, None, None], x, 0.0) for k, x in raw.items()}
    levelled = sensors(cfg.signals, {**batch, **clean}, how=cfg.standardise)
    if change is not None:
        levelled = change(levelled)
    first = cfg.signals[0]
    out = {}
    for plane, x in zip(cfg.planes.values(), levelled):
        signal = plane.signal
        present = heard[signal.name]
        with jax.named_scope("frontend"):
            x = jnp.where(present[:, None, None], x, 0.0)  # a mean that is taken out is no signal
            real, imag = cfg.frontend.transform(x, signal)
            mean, std = cfg.level(signal.name)
            seen = cfg.frontend.channels(real, imag, mean=mean, std=std)
        inside = jnp.broadcast_to(present[:, None], (x.shape[0], plane.frames))
        if "length" in batch:
            size, hop = cfg.frontend.sizes(signal)
            length = batch["length"].astype(jnp.float32) * (signal.rate / first.rate)
            starts = jnp.arange(plane.frames) * hop
            whole = (starts[None] + size <= length[:, None] + 0.5) | (starts == 0)[None]
            inside = inside & whole
        # Without the barrier XLA:CPU fuses the transform into its readers, which repeat it.
        real, imag, seen = jax.lax.optimization_barrier(jax.lax.stop_gradient((real, imag, seen)))
        out[signal.name] = Spectra(real, imag, seen, present, inside)
    return out


def _moments(frontend: Spectrum, found: Spectra) -> tuple[Array, Array]:
    """Mean and deviation of the log magnitudes where a sensor is present."""
    loud = frontend.loudness(jnp.sqrt(jnp.square(found.real) + jnp.square(found.imag)))
    weight = jnp.broadcast_to(found.inside[:, :, None, None], loud.shape).astype(jnp.float32)
    count = jnp.maximum(jnp.sum(weight), 1.0)
    mean = jnp.sum(loud * weight) / count
    return mean, jnp.sqrt(jnp.sum(jnp.square(loud - mean) * weight) / count)


# ------------------------------------------------------------------ planes and tokens


def to_tokens(x: Array, plane: Plane, tokens: tuple[int, int]) -> Array:
    """``[b t f k]`` to patches ``[b n p]`` of a lattice of ``tokens`` = (time, freq), time-major,
    zero-padded at the end of both axes; values of a patch run (frequency, time, channel)."""
    frames, bins = (n * p for n, p in zip(tokens, plane.patch))
    x = jnp.pad(x, ((0, 0), (0, frames - x.shape[1]), (0, bins - x.shape[2]), (0, 0)))
    return patchify(x, patch=plane.patch, order="time_major")


def from_tokens(x: Array, plane: Plane, tokens: tuple[int, int]) -> Array:
    """The inverse of :func:`to_tokens`, cut to the plane."""
    out = unpatchify(x, grid=tokens, patch=plane.patch, order="time_major")
    return out[:, : plane.frames, : plane.bins]


def inside_tokens(found: Spectra, plane: Plane, tokens: tuple[int, int]) -> Array:
    """``[b n]`` bool: patches with a frame of signal of a present sensor and a real bin."""
    time = any_of(found.inside, plane.patch[0], tokens[0])
    freq = np.arange(tokens[1]) < plane.tokens[1]
    return (time[:, :, None] & freq[None, None]).reshape(-1, math.prod(tokens))


def any_of(frames: Array, span: int, count: int) -> Array:
    """``[b t]`` to ``[b count]``: whether any of ``span`` neighbouring frames holds signal."""
    padded = jnp.pad(frames, ((0, 0), (0, max(0, count * span - frames.shape[1]))))
    return padded[:, : count * span].reshape(-1, count, span).any(-1)


def cell_weights(plane: Plane, tokens: tuple[int, int], weight: np.ndarray) -> np.ndarray:
    """``[n p]`` float32: the weight of every number of every patch in an error. ``weight``
    ``[frames bins]`` of the padded lattice (0 in padding)."""
    frames, bins = weight.shape
    full = np.repeat(weight[:, :, None], plane.channels, axis=2)
    pt, pf = plane.patch
    cells = full.reshape(frames // pt, pt, bins // pf, pf, -1).transpose(0, 2, 3, 1, 4)
    return cells.reshape(math.prod(tokens), -1).astype(np.float32)


def example(cfg: SpectraMethod) -> dict[str, Array]:
    """Zeros ``[1 t f k]`` by sensor to initialise modules with."""
    return {name: jnp.zeros((1, p.frames, p.bins, p.channels)) for name, p in cfg.planes.items()}


def side_by_side(
    cfg: SpectraMethod,
    found: dict[str, Spectra],
    masked: dict[str, Array],
    reconstruction: dict[str, Array],
) -> Reconstruction:
    """All sensors on one frequency axis, for people to look at: the magnitude of the first channel
    of each. ``masked`` ``[b t f]`` and ``reconstruction`` ``[b t f k]`` by sensor."""
    names = list(cfg.planes)
    first = {n: found[n].x[..., :1] for n in names}
    shown = [jnp.where(masked[n][..., None], reconstruction[n][..., :1], first[n]) for n in names]
    return Reconstruction(
        jnp.concatenate([first[n] for n in names], axis=2),
        jnp.concatenate([masked[n] for n in names], axis=2),
        jnp.concatenate(shown, axis=2),
    )
