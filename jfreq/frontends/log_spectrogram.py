"""Log power spectra of sensor channels, standardised per clip."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from jfreq.frontends.frontend import check_rate, up_to, valid_frames
from jfreq.ops import dft, fbank, frames, scale
from jfreq.ranges import Count, Hertz, Positive, checked
from jfreq.types import InputError, SignalSpec


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
        check_rate(self.rate, signal)

    def __call__(
        self, x: Shaped[Array, "b t c"], *, frames: int, length: Int[Array, " b"] | None = None
    ) -> tuple[Float[Array, "b frames {self.n_fft}//2 c"], Bool[Array, "b frames"]]:
        """The spectrogram, and which frames are valid; ``length``: valid samples of every row."""
        b, _, c = x.shape
        spec = _log_power(scale.pcm_to_float(x), self)
        total, count = spec.shape[1], valid_frames(self, x, length)
        inside = up_to(count, total)[:, :, None, None]
        spec = scale.standardise_clip(spec, axes=(1, 2), valid=inside)
        flat = spec.transpose(0, 3, 1, 2).reshape(b * c, total, self.bins)
        flat = fbank.pad_frames(flat, frames, valid_frames=jnp.repeat(count, c))
        spec = flat.reshape(b, c, frames, self.bins).transpose(0, 2, 3, 1)
        return spec, up_to(count, frames)


def _log_power(x: Float[Array, "b t c"], cfg: LogSpectrogram) -> Float[Array, "b frames f c"]:
    taps = frames.window("hann", cfg.n_fft, periodic=True).astype("float32")
    cut = frames.frame(x.transpose(0, 2, 1), frame_length=cfg.n_fft, hop_length=cfg.hop_length)
    power = dft.power_spectrum(cut * taps[None, None, None], n_fft=cfg.n_fft)[..., : cfg.bins]
    return jnp.log(power + cfg.eps).transpose(0, 2, 3, 1)
