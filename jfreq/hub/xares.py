"""An encoder of X-ARES (https://github.com/jimbozhang/xares), which its command line imports.

Its file holds one class whose name ends in ``Encoder``, and keeps embeddings and scores by that
name, so each encoder is a class of its own::

    class MyEncoder(xares.JfreqEncoder):
        path = "encoder"
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar

import torch  # pyright: ignore[reportMissingImports]

from jfreq.hub.sound import frames_from_start, load_sound, sound_encoder
from jfreq.hub.tensors import to_tensor, to_waves


class JfreqEncoder(torch.nn.Module):
    """A frozen encoder: audio ``[b t]`` at ``sampling_rate`` Hz to frames ``[b t output_dim]``.

    It has no tensors: :meth:`to` moves nothing, JAX chooses the device.
    """

    path: ClassVar[str | Path] = ""
    """Folder of a bundle or a run."""
    frame_ms: ClassVar[float] = 40.0
    """The longest time between two frames in milliseconds; 40 is that of Dasheng, the baseline."""

    def __init__(self, path: str | Path | None = None, frame_ms: float | None = None):
        super().__init__()
        trained = load_sound(self.path if path is None else path, "X-ARES")
        self.encoder = sound_encoder(trained, self.frame_ms if frame_ms is None else frame_ms)
        self.sampling_rate = math.ceil(self.encoder.sample_rate)
        self.output_dim = self.encoder.frame_size
        self.hop_size_in_ms = self.encoder.hop_ms

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        """Frames ``[b t d]`` float32; frame ``k`` is centred ``k + 1/2`` hops from the beginning.

        Raises:
          InputError: for audio of another shape, without samples, or that is not finite.
        """
        out = frames_from_start(self.encoder, to_waves(audio), self.sampling_rate)
        return to_tensor(out.frames, audio)
