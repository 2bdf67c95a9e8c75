"""What methods on the spectrograms of several sensors share.

A sensor whose window is all zero, or holds a NaN, is absent in that clip: it is read as zeros, no
token attends to it, and no term of a loss counts it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from jfreq.config import check, replace
from jfreq.frontends.sensor_stft import Spectrum
from jfreq.method import decided
from jfreq.methods.common.raw_sensors import SensorMethod, standardised
from jfreq.ops import scale
from jfreq.ops.patch import patchify, unpatchify
from jfreq.ranges import Count, Finite, Positive, checked
from jfreq.types import Array, Batch, DataSpec, Reconstruction, SignalSpec, TokenGrid

BANDS = 16
"""Most patches along frequency where their size is left open."""


@dataclasses.dataclass(frozen=True)
class SpectrogramSpec:
    """Static sizes of the spectrogram ``[t f k]`` of one sensor and the patches it is cut into.

    ``frames`` x ``bins`` cells of ``channels`` numbers, in patches of ``patch`` = (frames, bins)
    cells. The patches of ``grid`` are numbered time-major and cover the spectrogram. The last ones
    may reach beyond it, and where an encoder needs more patches these hold padding alone.
    """

    signal: SignalSpec
    frames: int
    bins: int
    channels: int
    patch: tuple[int, int]
    grid: TokenGrid

    @property
    def tokens(self) -> tuple[int, int]:
        """(time, freq): how many patches hold a cell of the spectrogram."""
        return -(-self.frames // self.patch[0]), -(-self.bins // self.patch[1])

    @property
    def patch_size(self) -> int:
        """Values in a patch."""
        return self.patch[0] * self.patch[1] * self.channels

    @property
    def valid_cells(self) -> np.ndarray:
        """``[t f]`` bool over the cells of all patches: False in padding."""
        frames, bins = (n * p for n, p in zip(self.grid.shape, self.patch))
        return (np.arange(frames) < self.frames)[:, None] & (np.arange(bins) < self.bins)

    @property
    def valid_tokens(self) -> np.ndarray:
        """``[t f]`` bool over the patches: False where a patch holds padding alone."""
        time, freq = (np.arange(n) < m for n, m in zip(self.grid.shape, self.tokens))
        return time[:, None] & freq

    def patchify(self, x: Array) -> Array:
        """Patches ``[b n p]`` of ``x`` ``[b t f k]``, zero-padded at the end of both axes; the
        values of a patch run (frequency, time, channel)."""
        frames, bins = (n * p for n, p in zip(self.grid.shape, self.patch))
        x = jnp.pad(x, ((0, 0), (0, frames - x.shape[1]), (0, bins - x.shape[2]), (0, 0)))
        return patchify(x, patch=self.patch, order="time_major")

    def unpatchify(self, patches: Array) -> Array:
        """The inverse of :meth:`patchify`, without the padding."""
        x = unpatchify(patches, grid=self.grid.shape, patch=self.patch, order="time_major")
        return x[:, : self.frames, : self.bins]

    def cells_of(self, tokens: Array) -> Array:
        """A value for each patch ``[b n]`` as one for each cell ``[b t f]``."""
        x = tokens.reshape(-1, *self.grid.shape)
        x = jnp.repeat(jnp.repeat(x, self.patch[0], axis=1), self.patch[1], axis=2)
        return x[:, : self.frames, : self.bins]

    def tokens_with(self, frames: Array) -> Array:
        """``[b n]`` bool: patches with a cell in any of the ``frames`` ``[b t]`` bool."""
        time = any_of(frames, self.patch[0], self.grid.time)
        freq = np.arange(self.grid.freq) < self.tokens[1]
        return (time[:, :, None] & freq[None, None]).reshape(-1, self.grid.size)

    def patch_weights(self, weight: np.ndarray) -> np.ndarray:
        """``[n p]`` float32: ``weight`` ``[t f]`` of the cells of all patches (0 in padding) as the
        weight of every value of every patch."""
        (pt, pf), (time, freq) = self.patch, self.grid.shape
        full = np.repeat(weight[:, :, None], self.channels, axis=2)
        cells = full.reshape(time, pt, freq, pf, -1).transpose(0, 2, 3, 1, 4)
        return cells.reshape(self.grid.size, -1).astype(np.float32)


class Spectrogram(NamedTuple):
    """The spectra of one sensor in a batch.

    ``real`` and ``imag`` ``[b t f c]`` are the parts of the spectrum, ``inputs`` ``[b t f k]`` the
    channels that a network reads, ``present`` ``[b]`` bool whether the sensor is there, and
    ``valid`` ``[b t]`` bool the frames that hold its signal.
    """

    real: Array
    imag: Array
    inputs: Array
    present: Array
    valid: Array

    @property
    def energy(self) -> Array:
        """``[b]``: sum of |z|² over frames, bins and channels."""
        return jnp.sum(jnp.square(self.real) + jnp.square(self.imag), axis=(1, 2, 3))


@checked
class SpectraMethod(SensorMethod):
    """Spectrograms and patches of sensors, whose rates may differ; open fields (None) are decided
    by the data."""

    frontend: Spectrum = Spectrum()
    patch_frames: Count = 1
    patch_bins: tuple[Count, ...] | None = None
    """Bins of a patch for each sensor, or one number for all; None: as few as give 16 patches along
    frequency or fewer."""
    log_moments: tuple[tuple[Finite, Positive], ...] | None = None
    """Mean and standard deviation of each sensor's log magnitudes; None: measured before
    training."""

    def __post_init__(self):
        super().__post_init__()
        check(
            self.patch_bins is None or len(self.patch_bins) > 0,
            "method.patch_bins",
            "must name one size or more",
        )
        if self.bound:
            self.frontend.check(self.signals)
            self._check_patches()

    @property
    def bound(self) -> bool:
        return bool(self.signals) and None not in (self.frontend.interval, self.patch_bins)

    @property
    def allows_gaps(self) -> bool:
        return True

    def bind(self, spec: DataSpec) -> Self:
        """Takes the sensors from the data and decides intervals and patches; ``InputError`` where
        a sensor is missing, silent in all training rows, or does not fit."""
        fields = self.sensors_of(spec)
        signals = fields["signals"]
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
        return replace(self, **fields, frontend=frontend, patch_bins=bins)

    def unbind(self) -> Self:
        return replace(super().unbind(), log_moments=None)

    def calibrate(self, batch: Mapping[str, Any]) -> Self:
        """Measures ``log_moments`` on ``batch``; a sensor that is absent in all of it gets
        (0, 1)."""
        if self.log_moments is not None or self.frontend.form != "log_phase":
            return self
        bare = replace(self, log_moments=((0.0, 1.0),) * len(self.signals))

        def moments(batch: Batch) -> list[tuple[Array, Array]]:
            return [_log_moments(self.frontend, x) for x in bare.spectra(batch).values()]

        # Six digits, so that machines agree.
        rounded = [
            (float(f"{mean:.6g}"), float(f"{std:.6g}")) if std > 0 else (0.0, 1.0)
            for mean, std in jax.device_get(jax.jit(moments)(dict(batch)))
        ]
        return replace(self, log_moments=tuple(rounded))

    def _check_patches(self) -> None:
        sizes = decided(self.patch_bins, "method.patch_bins")
        check(
            len(sizes) == len(self.signals),
            "method.patch_bins",
            f"names {len(sizes)} sizes for {len(self.signals)} sensors; give one per sensor",
        )
        for spec in self.specs.values():
            check(
                spec.patch[0] <= spec.frames and spec.patch[1] <= spec.bins,
                "method.patch_bins",
                f"patches of {spec.patch[0]} frames x {spec.patch[1]} bins are larger than the "
                f"spectra of {spec.signal.name!r}, {spec.frames} x {spec.bins}",
            )

    # ------------------------------------------------------------------ geometry

    @functools.cached_property
    def specs(self) -> dict[str, SpectrogramSpec]:
        """The spectrogram of every sensor, by name, of a bound method."""
        sizes = decided(self.patch_bins, "method.patch_bins")
        return {s.name: self._spec(s, (self.patch_frames, n)) for s, n in zip(self.signals, sizes)}

    def _spec(self, signal: SignalSpec, patch: tuple[int, int]) -> SpectrogramSpec:
        frames, bins = self.frontend.shape(signal)
        tokens = self.padded((-(-frames // patch[0]), -(-bins // patch[1])))
        grid = TokenGrid(*tokens, order="time_major")
        channels = self.frontend.parts * signal.channels
        return SpectrogramSpec(signal, frames, bins, channels, patch, grid)

    def padded(self, tokens: tuple[int, int]) -> tuple[int, int]:
        """How many patches (time, freq) the encoder reads of a sensor that has ``tokens``."""
        return tokens

    def time_grid(self, step: int = 1, *, freq: int = 1) -> TokenGrid:
        """A grid whose tokens hold ``step`` patches along time, placed on the first sensor."""
        spec = self.specs[self.signals[0].name]
        size, hop = self.frontend.sizes(spec.signal)
        span = step * self.patch_frames
        return TokenGrid(
            time=-(-spec.tokens[0] // step),
            freq=freq,
            order="time_major",
            first=size / 2 + (span - 1) / 2 * hop,
            hop=span * hop,
        )

    @property
    def example_patches(self) -> dict[str, Array]:
        """Zeros ``[1 n p]`` by sensor to initialise modules with."""
        return {name: jnp.zeros((1, p.grid.size, p.patch_size)) for name, p in self.specs.items()}

    # ------------------------------------------------------------------ spectrograms of a batch

    def spectra(
        self, batch: Batch, *, views: Callable[[list[Array]], list[Array]] | None = None
    ) -> dict[str, Spectrogram]:
        """The spectrograms of a batch by sensor; float32, no gradient.

        ``views`` changes the standardised sensors, a list of ``[b t c]``, before the transform.
        """
        raw = {s.name: scale.pcm_to_float(batch[s.name]) for s in self.signals}
        present = {
            name: jnp.any(x != 0, axis=(1, 2)) & jnp.all(jnp.isfinite(x), axis=(1, 2))
            for name, x in raw.items()
        }
        without_nan = {
            name: jnp.where(present[name][:, None, None], x, 0.0) for name, x in raw.items()
        }
        series = standardised(self.signals, {**batch, **without_nan}, how=self.standardise)
        if views is not None:
            series = views(series)
        return {
            name: self._spectrogram(spec, x, present[name], batch.get("length"))
            for (name, spec), x in zip(self.specs.items(), series)
        }

    def _spectrogram(
        self, spec: SpectrogramSpec, x: Array, present: Array, length: Array | None
    ) -> Spectrogram:
        """The spectrogram of the standardised series ``x`` ``[b t c]`` of one sensor; ``length``
        ``[b]`` in samples of the first sensor."""
        signal = spec.signal
        with jax.named_scope("frontend"):
            # Standardising subtracted a mean from absent sensors too, which left a constant.
            x = jnp.where(present[:, None, None], x, 0.0)
            real, imag = self.frontend.transform(x, signal)
            moments = dict(zip((s.name for s in self.signals), self.log_moments or ()))
            mean, std = moments.get(signal.name, (0.0, 1.0))
            inputs = self.frontend.channels(real, imag, mean=mean, std=std)
        valid = jnp.broadcast_to(present[:, None], (x.shape[0], spec.frames))
        if length is not None:
            size, hop = self.frontend.sizes(signal)
            # In whole samples, as in `valid_tokens` of features.
            samples = length.astype(jnp.float32) * (signal.rate / self.signals[0].rate)
            last = jnp.floor(samples + 0.5).astype(jnp.int32)
            starts = np.arange(spec.frames, dtype=np.int32) * hop
            valid &= (starts[None] + size <= last[:, None]) | (starts == 0)[None]
        # Without the barrier XLA:CPU fuses the transform into its readers, which repeat it.
        real, imag, inputs = jax.lax.optimization_barrier(
            jax.lax.stop_gradient((real, imag, inputs))
        )
        return Spectrogram(real, imag, inputs, present, valid)

    def patches(
        self, spectra: Mapping[str, Spectrogram]
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Patches ``[b n p]`` and whether they hold signal ``[b n]`` bool, by sensor."""
        patches = {name: p.patchify(spectra[name].inputs) for name, p in self.specs.items()}
        valid = {name: p.tokens_with(spectra[name].valid) for name, p in self.specs.items()}
        return patches, valid

    def reconstruction(
        self,
        spectra: Mapping[str, Spectrogram],
        masked: Mapping[str, Array],
        patches: Mapping[str, Array],
    ) -> Reconstruction:
        """The first input channel of all sensors on one frequency axis, to look at; ``masked``
        ``[b n]`` bool and reconstructed ``patches`` ``[b n p]`` by sensor."""
        truth = [spectra[name].inputs[..., :1] for name in self.specs]
        cells = [p.cells_of(masked[name]) for name, p in self.specs.items()]
        out = [p.unpatchify(patches[name])[..., :1] for name, p in self.specs.items()]
        shown = [jnp.where(m[..., None], y, x) for x, m, y in zip(truth, cells, out)]
        return Reconstruction(*(jnp.concatenate(parts, axis=2) for parts in (truth, cells, shown)))

    # ------------------------------------------------------------------ what others ask

    @property
    def frame_hop(self) -> float | None:
        return self.frontend.sizes(self.signals[0])[1]

    @property
    def stacked_bins(self) -> Mapping[str, int]:
        return {name: spec.bins for name, spec in self.specs.items()}


def _log_moments(frontend: Spectrum, spectrogram: Spectrogram) -> tuple[Array, Array]:
    """Mean and standard deviation of the log magnitudes where a sensor is present."""
    real, imag, _, _, valid = spectrogram
    loud = frontend.loudness(jnp.sqrt(jnp.square(real) + jnp.square(imag)))
    weight = jnp.broadcast_to(valid[:, :, None, None], loud.shape).astype(jnp.float32)
    count = jnp.maximum(jnp.sum(weight), 1.0)
    mean = jnp.sum(loud * weight) / count
    return mean, jnp.sqrt(jnp.sum(jnp.square(loud - mean) * weight) / count)


def any_of(frames: Array, span: int, count: int) -> Array:
    """``[b count]`` bool: whether any of ``span`` neighbouring ``frames`` ``[b t]`` is True."""
    padded = jnp.pad(frames, ((0, 0), (0, max(0, count * span - frames.shape[1]))))
    return padded[:, : count * span].reshape(-1, count, span).any(-1)
