"""Kaldi's log-mel filter bank, and frames of a fixed number."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from jfreq.ops.dft import Evaluator, power_spectrum
from jfreq.ops.frames import WindowName, frame, frame_sums, num_frames
from jfreq.ops.frames import window as make_window
from jfreq.types import InputError

KALDI_FLOOR = 1.1920929e-07
"""Smallest mel energy before the logarithm: float32 machine epsilon."""
SILENCE = float(np.log(np.float32(KALDI_FLOOR)))
"""Its logarithm, -15.94."""
_HIGHEST = jax.lax.Precision.HIGHEST


def kaldi_fbank(
    x: Float[Array, "b t"],
    *,
    rate: float | int = 16000,
    n_mels: int = 128,
    win_length_ms: float | int = 25.0,
    hop_length_ms: float | int = 10.0,
    window: WindowName = "hann",
    low_hz: float | int = 20.0,
    high_hz: float | int | None = None,
    preemphasis: float | int = 0.97,
    remove_clip_mean: bool = True,
    length: Int[Array, " b"] | None = None,
    evaluator: Evaluator = "auto",
) -> Float32[Array, "b n f"]:
    """Kaldi log-mel filter bank, without dither; complete frames only.

    The defaults are the front end of AST, SSAST and Audio-MAE (MAE-AST: ``window="povey"``).

    Args:
        x: Samples in [-1, 1].
        rate: Sample rate in Hz.
        n_mels: Mel bins.
        win_length_ms: Length of a frame in milliseconds.
        hop_length_ms: Time from one frame to the next in milliseconds.
        window: Symmetric window of the frames.
        low_hz: Lower edge of the lowest filter.
        high_hz: Upper edge of the highest filter; None: half the rate.
        preemphasis: Factor of the previous sample that is subtracted.
        remove_clip_mean: Subtracts the mean of every clip first.
        length: Valid samples of every clip; the mean is taken over these, the rest is silence.
        evaluator: Evaluator of the Fourier transform.

    Returns:
        Natural logarithm of the mel energies, which are :data:`KALDI_FLOOR` or more.

    Reference:
        Kaldi, ``compute-fbank-feats`` with ``use_energy=false``.

    >>> tone = jnp.sin(2 * jnp.pi * 1000 * jnp.arange(16000) / 16000)
    >>> spec = kaldi_fbank(tone[None], n_mels=40)
    >>> spec.shape, int(spec[0, 50].argmax())
    ((1, 98, 40), 13)
    """
    win_length, hop_length = kaldi_frame_sizes(rate, win_length_ms, hop_length_ms)
    n_fft = 1 << (win_length - 1).bit_length()
    x = _prepare_clip(x.astype(jnp.float32), length, remove_clip_mean)
    if num_frames(x.shape[1], win_length, hop_length) == 0:
        return jnp.zeros((x.shape[0], 0, n_mels), jnp.float32)
    taper = make_window(window, win_length, periodic=False).astype(np.float32)
    frames = _emphasised(x, win_length, hop_length, preemphasis, edge=bool(taper[0]))
    power = power_spectrum(frames * taper[None, None], n_fft=n_fft, evaluator=evaluator)
    bank = mel_filterbank(rate=rate, n_fft=n_fft, n_mels=n_mels, low_hz=low_hz, high_hz=high_hz)
    energy = jnp.matmul(power, bank, precision=_HIGHEST)
    return jnp.log(jnp.maximum(energy, np.float32(KALDI_FLOOR)))


def _emphasised(x, win_length: int, hop_length: int, preemphasis: float, *, edge: bool):
    """Frames ``[b n win_length]``, each without its mean m and pre-emphasised.

    Both are linear, so that samples are framed once: (s_i - m) - p (s_(i-1) - m) is
    (s_i - s_(i-1)) + q s_(i-1) - q m with q = 1 - p; differences come first, so that an offset of
    the samples costs no precision. Kaldi takes the first sample of a frame for its predecessor too;
    that is computed with ``edge`` alone, because without it the window is zero there.
    """
    q = np.float32(1 - preemphasis)
    sizes = {"frame_length": win_length, "hop_length": hop_length}
    before = jnp.concatenate([x[:, :1], x[:, :-1]], axis=1)
    mean = frame_sums(x, **sizes)[..., None] / np.float32(win_length)
    frames = frame((x - before) + q * before, **sizes) - q * mean
    if not edge:
        return frames
    first = frame(x, frame_length=1, hop_length=hop_length)[:, : frames.shape[1]]
    return jnp.concatenate([q * (first - mean), frames[..., 1:]], axis=-1)


def kaldi_frame_sizes(
    rate: float | int, win_length_ms: float | int = 25.0, hop_length_ms: float | int = 10.0
) -> tuple[int, int]:
    """``(win_length, hop_length)`` in samples, rounded down as Kaldi does.

    >>> kaldi_frame_sizes(16000)
    (400, 160)
    """
    return int(rate * win_length_ms / 1000), int(rate * hop_length_ms / 1000)


@functools.lru_cache(maxsize=32)
def mel_filterbank(
    *,
    rate: float | int,
    n_fft: int,
    n_mels: int,
    low_hz: float | int = 0.0,
    high_hz: float | int | None = None,
) -> Float32[np.ndarray, "f n_mels"]:
    """Kaldi's filters ``[n_fft // 2 + 1, n_mels]``, triangular on the mel scale; read-only.

    Low filters narrower than a bin can be empty. Raises ``InputError`` for an impossible band.

    >>> bank = mel_filterbank(rate=16000, n_fft=512, n_mels=40)
    >>> peaks = bank.argmax(axis=0) * 16000 / 512  # Hz
    >>> bank.shape, float(peaks[0]), float(peaks[-1])
    ((257, 40), 31.25, 7468.75)
    """
    high_hz = rate / 2 if high_hz is None else high_hz
    if not 0 <= low_hz < high_hz <= rate / 2:
        raise InputError(f"mel band {low_hz}..{high_hz} Hz must rise within 0..{rate / 2} Hz")
    edges = np.linspace(_to_mel(low_hz), _to_mel(high_hz), n_mels + 2)
    at = _to_mel(np.arange(n_fft // 2 + 1) * (rate / n_fft))
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising = (at[:, None] - left) / (centre - left)
    falling = (right - at[:, None]) / (right - centre)
    bank = np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
    bank.flags.writeable = False
    return bank


def _to_mel(hz):
    return 1127.0 * np.log1p(np.asarray(hz, np.float64) / 700.0)


def pad_frames(
    spec: Float[Array, "b t f"],
    frames: int,
    *,
    fill: float | int = 0.0,
    valid_frames: Int[Array, " b"] | None = None,
) -> Float[Array, "b frames f"]:
    """``[b t f]`` cut or padded at its end to ``frames`` frames of value ``fill``.

    Frames at or beyond ``valid_frames`` ``[b]`` become ``fill`` as well.

    >>> pad_frames(jnp.ones((1, 2, 1)), 4, fill=-1.0)[0, :, 0].tolist()
    [1.0, 1.0, -1.0, -1.0]
    """
    spec = spec[:, :frames]
    spec = jnp.pad(spec, ((0, 0), (0, frames - spec.shape[1]), (0, 0)), constant_values=fill)
    if valid_frames is None:
        return spec
    valid = np.arange(frames)[None] < valid_frames[:, None]
    return jnp.where(valid[:, :, None], spec, jnp.asarray(fill, spec.dtype))


def _prepare_clip(x, length, remove_clip_mean: bool):
    """Clips without their mean; samples at or beyond ``length`` become 0."""
    if length is None:
        return x - jnp.mean(x, axis=1, keepdims=True) if remove_clip_mean else x
    valid = np.arange(x.shape[1])[None] < length[:, None]
    x = jnp.where(valid, x, 0)
    if remove_clip_mean:
        count = jnp.clip(length, 1, x.shape[1]).astype(x.dtype)
        x = jnp.where(valid, x - (jnp.sum(x, axis=1) / count)[:, None], 0)
    return x
