"""Front ends: configs that turn a raw signal into a spectrogram ``[b t f c]``, no parameters."""

from __future__ import annotations

import math
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from jfreq.ops import dft, fbank, frames, scale
from jfreq.ranges import Count, Finite, Hertz, NonNegative, Positive, Size, checked
from jfreq.types import InputError, SignalSpec

AUDIOSET_MEAN, AUDIOSET_STD = -4.2677393, 4.5689974


@checked
class Fbank:
    """Kaldi log-mel filter bank, normalised as (x - mean) / (2 std) (AST, section 2.1).

    Frames beyond the signal hold raw 0 before normalisation, as in the released code.
    """

    rate: Count = 16000
    n_mels: Size = 128
    win_length_ms: Positive = 25.0
    hop_length_ms: Positive = 10.0
    window: Literal["hann", "hamming", "povey"] = "hann"
    low_hz: NonNegative = 20.0
    remove_clip_mean: bool = True
    mean: Finite = AUDIOSET_MEAN
    std: Positive = AUDIOSET_STD

    @property
    def _sizes(self) -> tuple[int, int]:
        return fbank.kaldi_frame_sizes(self.rate, self.win_length_ms, self.hop_length_ms)

    @property
    def win_length(self) -> int:
        return self._sizes[0]

    @property
    def hop_length(self) -> int:
        return self._sizes[1]

    @property
    def bins(self) -> int:
        return self.n_mels

    @property
    def fill(self) -> float:
        """Value of padding: raw 0, normalised."""
        return -self.mean / (2 * self.std)

    def check(self, signal: SignalSpec) -> None:
        """Raises ``InputError`` when the data are not at this front end's rate."""
        if signal.rate != self.rate:
            raise InputError(
                f"frontend.rate: the data hold {signal.name!r} at {signal.rate:g} Hz, the front "
                f"end wants {self.rate} Hz; prepare the data again with --rate {self.rate}"
            )

    def __call__(
        self, x: Shaped[Array, "b t c"], *, frames: int, length: Int[Array, " b"] | None = None
    ) -> Float[Array, "b frames {self.n_mels} c"]:
        """``length``: valid samples per row; what lies beyond counts as padding."""
        b, _, c = x.shape
        flat = scale.pcm_to_float(x).transpose(0, 2, 1).reshape(b * c, -1)
        spec = fbank.kaldi_fbank(
            flat,
            rate=self.rate,
            n_mels=self.n_mels,
            win_length_ms=self.win_length_ms,
            hop_length_ms=self.hop_length_ms,
            window=self.window,
            low_hz=self.low_hz,
            remove_clip_mean=self.remove_clip_mean,
            length=None if length is None else jnp.repeat(length, c),
        )
        valid = None if length is None else valid_frames(length, self.win_length, self.hop_length)
        valid = None if valid is None else jnp.repeat(valid, c)
        spec = fbank.pad_frames(spec, frames, valid_frames=valid)
        spec = scale.standardise(spec, self.mean, self.std)
        return spec.reshape(b, c, frames, self.n_mels).transpose(0, 2, 3, 1)


@checked
class LogSpectrogram:
    """Log power spectrogram of sensor channels, standardised per clip and channel.

    ``n_fft // 2`` bins from 0 Hz up (the Nyquist bin is left out), periodic Hann window.
    """

    rate: Hertz
    n_fft: Count = 32
    hop_length: Count = 4
    eps: Positive = 1e-6

    def __post_init__(self):
        if self.n_fft < 4 or self.n_fft % 2:
            raise InputError(f"frontend.n_fft: must be even and 4 or more, got {self.n_fft}")
        if self.hop_length > self.n_fft:
            raise InputError(
                f"frontend.hop_length: must be n_fft {self.n_fft} or less, got {self.hop_length}"
            )

    @property
    def win_length(self) -> int:
        return self.n_fft

    @property
    def bins(self) -> int:
        return self.n_fft // 2

    @property
    def fill(self) -> float:
        """Value of padding: the clip's mean."""
        return 0.0

    def check(self, signal: SignalSpec) -> None:
        """Raises ``InputError`` when the data are not at this front end's rate."""
        if signal.rate != self.rate:
            raise InputError(
                f"frontend.rate: the data hold {signal.name!r} at {signal.rate:g} Hz, the front "
                f"end is set to {self.rate:g} Hz"
            )

    def __call__(
        self, x: Shaped[Array, "b t c"], *, frames: int, length: Int[Array, " b"] | None = None
    ) -> Float[Array, "b frames {self.n_fft}//2 c"]:
        """``length``: valid samples per row; what lies beyond counts as padding (0)."""
        b, _, c = x.shape
        spec = _log_power(scale.pcm_to_float(x), self)
        count = spec.shape[1]
        valid = jnp.full((b,), count) if length is None else valid_frames(
            length, self.n_fft, self.hop_length
        )  # fmt: skip
        inside = (jnp.arange(count)[None] < valid[:, None])[:, :, None, None]
        spec = scale.standardise_clip(spec, axes=(1, 2), valid=inside)
        flat = spec.transpose(0, 3, 1, 2).reshape(b * c, count, self.bins)
        flat = fbank.pad_frames(flat, frames, valid_frames=jnp.repeat(valid, c))
        return flat.reshape(b, c, frames, self.bins).transpose(0, 2, 3, 1)


def _log_power(x: Float[Array, "b t c"], cfg: LogSpectrogram) -> Float[Array, "b frames f c"]:
    taps = frames.window("hann", cfg.n_fft, periodic=True).astype("float32")
    cut = frames.frame(x.transpose(0, 2, 1), frame_length=cfg.n_fft, hop_length=cfg.hop_length)
    power = dft.power_spectrum(cut * taps[None, None, None], n_fft=cfg.n_fft)[..., : cfg.bins]
    return jnp.log(power + cfg.eps).transpose(0, 2, 3, 1)


Frontend = Fbank | LogSpectrogram


def valid_frames(length: Int[Array, " b"], win_length: int, hop_length: int) -> Int[Array, " b"]:
    """Frames that lie wholly inside the first ``length`` samples."""
    return jnp.maximum(0, 1 + (length - win_length) // hop_length)


def default_frontend(signal: SignalSpec) -> Frontend:
    """Kaldi filter banks for audio rates, else a log spectrogram of about a quarter window."""
    if signal.rate >= 4000 and signal.channels <= 2:
        return Fbank(rate=round(signal.rate))
    n_fft = 2 ** max(3, min(8, int(math.log2(max(8, signal.samples // 4)))))
    return LogSpectrogram(rate=float(signal.rate), n_fft=n_fft, hop_length=max(1, n_fft // 8))
