"""Kaldi's log-mel filter bank of waves, in torch."""

# pyright: reportMissingImports=false

from __future__ import annotations

import functools

import numpy as np
import torch

PREEMPHASIS = 0.97
FLOOR = 1.1920929e-07
"""Smallest energy before the logarithm."""


@torch.no_grad()
def log_mel(waves, length, config):
    """The normalised spectrogram of waves.

    Args:
      waves: ``[b samples]`` in [-1, 1].
      length: ``[b]``, how many samples of each row are sound; the rest is padding.
      config: :class:`JfreqConfig`.

    Returns:
      ``[b frames bins]`` float32, padding as silence that is 0 before it is normalised, and which
      frames lie inside the sound ``[b frames]``.
    """
    size, hop, frames = config.win_length, config.hop_length, config.max_frames
    needed = size + (frames - 1) * hop
    if waves.shape[-1] > needed:
        raise ValueError(
            f"input_values: {waves.shape[-1]} samples are more than the {needed} of a window; cut "
            "the recording into windows, or let the feature extractor do it with truncation=True, "
            f"max_length={needed}"
        )
    with torch.autocast(waves.device.type, enabled=False):
        waves = torch.nn.functional.pad(waves.float(), (0, needed - waves.shape[-1]))
        inside = torch.arange(needed, device=waves.device) < length[:, None]
        x = torch.where(inside, waves, 0.0).unfold(1, size, hop)
        x = x - x.mean(dim=-1, keepdim=True)
        x = x - PREEMPHASIS * torch.cat([x[..., :1], x[..., :-1]], dim=-1)
        n_fft = 1 << (size - 1).bit_length()
        taper = torch.from_numpy(window(config.window, size)).to(x.device)
        power = torch.fft.rfft(x * taper, n_fft).abs().square()
        bank = torch.from_numpy(
            mel_filters(config.sampling_rate, n_fft, config.num_mel_bins, config.low_hz)
        )
        spec = (power @ bank.to(x.device)).clamp(min=FLOOR).log()
        count = (length - size).div(hop, rounding_mode="floor") + 1
        valid = torch.arange(frames, device=x.device) < count[:, None]
        spec = torch.where(valid[..., None], spec, 0.0)
        return (spec - config.mean) / (2 * config.std), valid


@functools.lru_cache
def window(name, size):
    """A symmetric window ``[size]``, float32."""
    angle = 2 * np.pi * np.arange(size) / (size - 1)
    if name == "hamming":
        return (0.54 - 0.46 * np.cos(angle)).astype(np.float32)
    power = {"hann": 1.0, "povey": 0.85}[name]
    return ((0.5 - 0.5 * np.cos(angle)) ** power).astype(np.float32)


@functools.lru_cache
def mel_filters(rate, n_fft, bins, low_hz):
    """Triangles on the mel scale up to half the rate, ``[n_fft // 2 + 1, bins]`` float32."""

    def mel(hz):
        return 1127.0 * np.log1p(np.asarray(hz, np.float64) / 700.0)

    edges = np.linspace(mel(low_hz), mel(rate / 2), bins + 2)
    at = mel(np.arange(n_fft // 2 + 1) * (rate / n_fft))[:, None]
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    slopes = np.minimum((at - left) / (centre - left), (right - at) / (right - centre))
    return np.maximum(0.0, slopes).astype(np.float32)
