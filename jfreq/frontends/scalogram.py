"""Scalograms ``[b t f c]`` of raw signals by complex Morlet wavelets."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from jfreq.frontends.frontend import check_rate, up_to, valid_frames
from jfreq.ops import fbank, scale, wavelet
from jfreq.ops.gather import take_tokens
from jfreq.ranges import Count, Hertz, Positive, Size, checked
from jfreq.types import InputError, SignalSpec


@checked
class Scalogram:
    """``log(1 + |W|)`` of complex Morlet wavelets at log-spaced frequencies, averaged in time."""

    rate: Hertz
    n_scales: Size = 64
    low_hz: Hertz | None = None
    """Frequency of the lowest row; None: 0.01 of the rate (0.5 Hz at 50 Hz)."""
    high_hz: Hertz | None = None
    """Frequency of the highest row; None: 0.4 of the rate (20 Hz at 50 Hz)."""
    pool: Count = 4
    """Samples that are averaged into one frame."""
    bandwidth: Positive = 1.5
    centre: Positive = 1.0
    """``cmor1.5-1.0``: a Gaussian of ``exp(-s^2 / bandwidth)`` around ``centre`` cycles a scale."""
    norm: Literal["l2", "l1"] = "l2"
    """Wavelets of equal energy (``1 / sqrt(a)``), or of equal gain for a tone (``1 / a``)."""
    pad: Literal["symmetric", "constant", "edge"] = "symmetric"
    standardise: Literal["clip", "row", "none"] = "clip"
    """Zero mean and unit variance of every channel of a clip, of each of its rows, or neither."""

    def __post_init__(self):
        if self.low >= self.high or self.n_scales < 2:
            raise InputError(
                f"frontend.n_scales: there are no {self.n_scales} rows from low_hz {self.low:g} up "
                f"to high_hz {self.high:g}; take two or more, and low_hz below high_hz"
            )
        if self.high > self.rate / 2:
            raise InputError(
                f"frontend.high_hz: {self.high:g} Hz lies above half the rate {self.rate:g} Hz"
            )

    @property
    def low(self) -> float:
        return 0.01 * self.rate if self.low_hz is None else self.low_hz

    @property
    def high(self) -> float:
        return 0.4 * self.rate if self.high_hz is None else self.high_hz

    @property
    def frequencies(self) -> tuple[float, ...]:
        """Hz of every row, rising."""
        return tuple(wavelet.log_frequencies(self.low, self.high, self.n_scales).tolist())

    @property
    def win_length(self) -> int:
        """Samples that are averaged into a frame; wavelets are longer."""
        return self.pool

    @property
    def hop_length(self) -> int:
        return self.pool

    @property
    def bins(self) -> int:
        return self.n_scales

    @property
    def fill(self) -> float:
        """Value of padding: the mean of the clip, or silence where it is not standardised."""
        return 0.0

    def check(self, signal: SignalSpec) -> None:
        """Raises ``InputError`` when the data are not at this front end's rate."""
        check_rate(self.rate, signal)
        if signal.samples < self.pool:
            raise InputError(
                f"frontend.pool: windows of {signal.samples} samples hold no frame of {self.pool}; "
                "take a smaller pool or longer windows"
            )

    def __call__(
        self, x: Shaped[Array, "b t c"], *, frames: int, length: Int[Array, " b"] | None = None
    ) -> tuple[Float[Array, "b frames {self.n_scales} c"], Bool[Array, "b frames"]]:
        """The spectrogram, and which frames are valid; ``length``: valid samples of every row,
        beyond which the signal is replaced by its mirror image."""
        b, t, c = x.shape
        x = scale.pcm_to_float(x)
        if length is not None:
            x = _mirror_beyond(x, length)
        spec = wavelet.scalogram(
            x,
            frequencies=self.frequencies,
            rate=self.rate,
            pool=self.pool,
            bandwidth=self.bandwidth,
            centre=self.centre,
            norm=self.norm,
            pad=self.pad,
        )
        total, count = t // self.pool, valid_frames(self, x, length)
        if self.standardise != "none":
            inside = up_to(count, total)[:, :, None, None]
            axes = (1,) if self.standardise == "row" else (1, 2)
            spec = scale.standardise_clip(spec, axes=axes, valid=inside)
        spec = fbank.pad_frames(spec.reshape(b, total, -1), frames, valid_frames=count)
        return spec.reshape(b, frames, self.bins, c), up_to(count, frames)


def _mirror_beyond(x: Float[Array, "b t c"], length: Int[Array, " b"]) -> Float[Array, "b t c"]:
    """The first ``length`` samples of every row, then their mirror image, again and again."""
    valid = jnp.maximum(length, 1)[:, None]
    at = jnp.arange(x.shape[1], dtype=length.dtype)[None] % (2 * valid)
    return take_tokens(x, jnp.where(at < valid, at, 2 * valid - 1 - at))
