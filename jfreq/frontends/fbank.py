"""Kaldi's log-mel filter bank as a front end."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from jfreq.frontends.frontend import check_rate, up_to, valid_frames
from jfreq.ops import fbank, scale
from jfreq.ranges import Count, Finite, NonNegative, Positive, Size, checked
from jfreq.types import SignalSpec

AUDIOSET_MEAN, AUDIOSET_STD = -4.2677393, 4.5689974


@checked
class Fbank:
    """Kaldi log-mel filter bank, normalised as (x - mean) / (2 std) (AST, section 2.1)."""

    rate: Count = 16000
    n_mels: Size = 128
    win_length_ms: Positive = 25.0
    hop_length_ms: Positive = 10.0
    window: Literal["hann", "hamming", "povey"] = "hann"
    low_hz: NonNegative = 20.0
    remove_clip_mean: bool = True
    scale: Positive = 1.0
    """What samples in -1 to 1 are multiplied by. It adds a constant to every log energy, and lowers
    Kaldi's floor relative to the signal; 32768 is the scale of 16-bit samples (Kaldi, BEATs)."""
    beyond: Literal["zero", "silence"] = "zero"
    """Frames beyond the signal, before normalisation. ``zero``: 0, as AST, SSAST and EAT are
    released; ``silence``: the log energy of digital silence, as where waveforms are padded."""
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
        """Value of padding, normalised."""
        return (self._padding - self.mean) / (2 * self.std)

    @property
    def _padding(self) -> float:
        return 0.0 if self.beyond == "zero" else fbank.SILENCE

    def check(self, signal: SignalSpec) -> None:
        """Raises ``InputError`` when the data are not at this front end's rate."""
        check_rate(self.rate, signal)

    def __call__(
        self, x: Shaped[Array, "b t c"], *, frames: int, length: Int[Array, " b"] | None = None
    ) -> tuple[Float[Array, "b frames {self.n_mels} c"], Bool[Array, "b frames"]]:
        """The spectrogram, and which frames are valid; ``length``: valid samples of every row."""
        b, _, c = x.shape
        flat = scale.pcm_to_float(x).transpose(0, 2, 1).reshape(b * c, -1)
        flat = flat if self.scale == 1 else flat * np.float32(self.scale)
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
        count = valid_frames(self, x, length)
        valid = None if length is None else jnp.repeat(count, c)
        spec = fbank.pad_frames(spec, frames, fill=self._padding, valid_frames=valid)
        spec = scale.standardise(spec, self.mean, self.std)
        spec = spec.reshape(b, c, frames, self.n_mels).transpose(0, 2, 3, 1)
        return spec, up_to(count, frames)
