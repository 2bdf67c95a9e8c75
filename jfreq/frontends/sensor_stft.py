"""Spectra of short intervals, the same number of frames for every sensor whatever its rate."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jfreq.ops import dft, frames
from jfreq.ranges import Positive, Seconds, checked
from jfreq.types import InputError, SignalSpec

FRAMES = (8, 10, 12, 16, 9, 6, 5, 4)
"""Numbers of intervals in a window that are tried, in this order, where none is set."""
_SHORTEST = 8
Part = Float[Array, "b t f c"]


@checked
class Spectrum:
    """Complex spectra of intervals and the channels that a network reads of them.

    FreqMAE as released (docs/freqmae.md): ``form`` ``magnitude_phase``, ``two_sided``,
    ``remove_mean``, not ``normalise``. FOCAL as released: ``real_imag``, ``two_sided``.
    """

    interval: Seconds | None = None
    """Seconds; None: an eighth of the window, or another part of it that suits all rates."""
    hop: Seconds | None = None
    """Seconds from the start of an interval to that of the next; None: they do not overlap."""
    form: Literal["log_phase", "magnitude_phase", "real_imag"] = "log_phase"
    """What a network reads of a channel. ``log_phase``: the logarithm log(1 + gain |z|),
    standardised, and it times the cosine and the sine of the phase, which gives little weight to
    the phase of a faint bin, which is noise; ``magnitude_phase``: magnitude and angle in radians,
    which is 0 where the magnitude is; ``real_imag``."""
    two_sided: bool = False
    """Include negative frequencies; off: bins from 0 Hz to below Nyquist."""
    remove_mean: bool = False
    """Subtract the mean of every interval, which hides offsets and the direction of gravity.
    Without a taper bin 0 is exactly 0, and so is its phase."""
    taper: Literal["rectangular", "hann"] = "rectangular"
    normalise: bool = True
    """Scale so that white noise of unit variance has unit power in every bin; off: the DFT sum."""
    gain: Positive = 10.0
    phase: Positive = 0.5
    """Scale of the two channels of the phase relative to the standardised logarithm."""
    fill: ClassVar[float] = 0.0

    def __post_init__(self):
        if self.hop is not None and self.interval is not None and self.hop > self.interval:
            raise InputError(
                f"frontend.hop: {self.hop:g} s leaves gaps between intervals of "
                f"{self.interval:g} s; take a shorter hop"
            )

    @property
    def parts(self) -> int:
        """Channels for each channel of a sensor."""
        return 3 if self.form == "log_phase" else 2

    def fitted(self, signals: Sequence[SignalSpec]) -> Spectrum:
        """The config with an interval that is a whole number of samples of every sensor.

        Raises ``InputError`` where no number of :data:`FRAMES` gives one.
        """
        if self.interval is not None:
            return self
        for count in FRAMES:
            sizes = [Fraction(s.samples, count) for s in signals]
            if all(n.denominator == 1 and n >= _SHORTEST for n in sizes):
                return dataclasses.replace(self, interval=signals[0].seconds / count)
        windows = ", ".join(f"{s.name!r} {s.samples}" for s in signals)
        raise InputError(
            f"frontend.interval: windows ({windows} samples) cannot be cut into {min(FRAMES)} to "
            f"{max(FRAMES)} whole intervals of {_SHORTEST} samples or more; set "
            "method.frontend.interval, or prepare other --seconds"
        )

    def sizes(self, signal: SignalSpec) -> tuple[int, int]:
        """Samples ``(interval, hop)`` of a sensor; ``InputError`` unless they are whole."""
        assert self.interval is not None
        hop = self.interval if self.hop is None else self.hop
        sizes = []
        for name, seconds in (("interval", self.interval), ("hop", hop)):
            samples = seconds * signal.rate
            if abs(samples - round(samples)) > 1e-3 or round(samples) < 1:
                raise InputError(
                    f"frontend.{name}: {seconds:g} s are {samples:g} samples of {signal.name!r} "
                    f"at {signal.rate:g} Hz; take a whole number of samples of every sensor"
                )
            sizes.append(round(samples))
        if sizes[0] > signal.samples:
            raise InputError(
                f"frontend.interval: {self.interval:g} s are longer than the window of "
                f"{signal.seconds:g} s of {signal.name!r}; take shorter intervals"
            )
        return sizes[0], sizes[1]

    def shape(self, signal: SignalSpec) -> tuple[int, int]:
        """``(frames, bins)`` of a sensor."""
        size, hop = self.sizes(signal)
        bins = size if self.two_sided else size // 2
        return frames.num_frames(signal.samples, size, hop), bins

    def check(self, signals: Sequence[SignalSpec]) -> None:
        """Raises ``InputError`` where the sensors do not share one number of frames."""
        counts = {s.name: self.shape(s)[0] for s in signals}
        if len(set(counts.values())) > 1:
            raise InputError(
                f"frontend.interval: windows hold different numbers of intervals: {counts}; "
                "prepare all sensors with one --seconds"
            )
        for s in signals:
            if self.shape(s)[1] < 2:
                raise InputError(
                    f"frontend.interval: {self.interval:g} s of {s.name!r} at {s.rate:g} Hz have "
                    "fewer than 2 bins; take longer intervals"
                )

    def transform(
        self, x: Float[Array, "b t c"], signal: SignalSpec
    ) -> tuple[Float[Array, "b t2 f c"], Float[Array, "b t2 f c"]]:
        """``(real, imag)`` of the intervals of a sensor, frames by bins.

        What is 0 of every interval is 0 and not the rounding of the transform, whose phase would be
        any: the imaginary part of bin 0 and Nyquist, and all of bin 0 where the mean is removed.
        """
        size, hop = self.sizes(signal)
        cut = frames.frame(x.transpose(0, 2, 1), frame_length=size, hop_length=hop)
        if self.remove_mean:
            cut = cut - jnp.mean(cut, axis=-1, keepdims=True)
        taper = frames.window(self.taper, size, periodic=True)
        scale = np.sqrt(np.sum(taper**2)) if self.normalise else 1.0
        if self.normalise or self.taper != "rectangular":
            cut = cut * (taper / scale).astype(np.float32)[None, None, None]
        real, imag = dft.rdft(cut, n_fft=size)
        bins = np.arange(size // 2 + 1)[None, None, None]
        imag = jnp.where(2 * bins % size == 0, 0.0, imag)
        if self.remove_mean and self.taper == "rectangular":
            real = jnp.where(bins == 0, 0.0, real)
        both = real, imag
        if self.two_sided:
            last = (size - 1) // 2
            real, imag = (
                jnp.concatenate([part, sign * part[..., last:0:-1]], axis=-1)
                for part, sign in zip(both, (1.0, -1.0))
            )
        else:
            real, imag = (part[..., : size // 2] for part in both)
        return real.transpose(0, 2, 3, 1), imag.transpose(0, 2, 3, 1)

    def channels(
        self, real: Part, imag: Part, *, mean: float = 0.0, std: float = 1.0
    ) -> Float[Array, "b t f c2"]:
        """What a network reads, channels of one sensor channel side by side.

        ``mean`` and ``std`` are those of the logarithm over a data set. Without them a network that
        begins with a norm of every patch would hardly see how loud a patch is.
        """
        if self.form == "real_imag":
            parts = [real, imag]
        else:
            magnitude = jnp.sqrt(jnp.square(real) + jnp.square(imag))
            if self.form == "magnitude_phase":
                # A zero with a minus would give -pi where the real part is negative.
                parts = [magnitude, jnp.arctan2(jnp.where(imag == 0, 0.0, imag), real)]
            else:
                loud = self.loudness(magnitude)
                scale = self.phase / math.hypot(mean, std)
                gain = scale * loud / jnp.where(magnitude > 0, magnitude, 1.0)
                parts = [(loud - mean) / std, real * gain, imag * gain]
        out = jnp.stack(parts, axis=-1)
        return out.reshape(*out.shape[:-2], -1)

    def loudness(self, magnitude: Part) -> Part:
        """log(1 + gain |z|)."""
        return jnp.log1p(self.gain * magnitude)
