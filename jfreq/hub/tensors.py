"""Between the tensors of PyTorch and arrays."""

from __future__ import annotations

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from jfreq.types import InputError


def to_waves(audio: torch.Tensor) -> list[np.ndarray]:
    """The rows of a batch ``[b t]`` of mono recordings.

    Raises:
      InputError: for a tensor of another shape.
    """
    if audio.ndim != 2:
        shape = " x ".join(map(str, audio.shape))
        raise InputError(
            f"audio: must be recordings x samples of one channel, got a tensor of {shape or 'one'}"
        )
    return [to_wave(row) for row in audio]


def to_wave(audio: torch.Tensor) -> np.ndarray:
    """``[t]`` float32, or integer PCM as it is."""
    audio = audio.detach().cpu()
    return (audio.float() if audio.is_floating_point() else audio).numpy()


def to_tensor(x: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """``x`` on the device of ``like``, without a gradient."""
    return torch.from_numpy(np.ascontiguousarray(x)).to(like.device)
