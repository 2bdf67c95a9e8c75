"""The API of HEAR 2021 (https://hearbenchmark.com/hear-api.html), a module that its tools import.

``hear-validator jfreq.hub.hear --model encoder`` checks it, ``python -m heareval.embeddings.runner
jfreq.hub.hear --model encoder`` computes the embeddings of its tasks.
"""

from __future__ import annotations

from pathlib import Path

import torch  # pyright: ignore[reportMissingImports]

from jfreq.hub.sound import frames_from_start, load_sound, sound_encoder
from jfreq.hub.tensors import to_tensor, to_waves

RATES = (16000, 22050, 32000, 44100, 48000)
"""The rates in Hz at which HEAR has its audio."""
FRAME_MS = 40.0
"""HEAR asks for 50 ms or less."""


class HearModel(torch.nn.Module):
    """A frozen encoder. It has no tensors: :meth:`to` moves nothing, JAX chooses the device."""

    def __init__(self, path: str | Path, frame_ms: float = FRAME_MS):
        super().__init__()
        trained = load_sound(path, "HEAR")
        self.scenes = sound_encoder(trained)
        self.timestamps = sound_encoder(trained, frame_ms)
        own = self.scenes.sample_rate
        self.sample_rate = next((rate for rate in RATES if rate >= own), RATES[-1])
        """Hz of the audio that HEAR hands over; the encoder resamples where its own is another."""
        self.scene_embedding_size = self.scenes.clip_size
        self.timestamp_embedding_size = self.timestamps.frame_size


def load_model(model_file_path: str = "", frame_ms: float = FRAME_MS) -> HearModel:
    """Loads an encoder.

    Args:
      model_file_path: folder of a bundle or a run.
      frame_ms: the longest time between two timestamps, in milliseconds.

    Raises:
      InputError: for an encoder that does not read one channel of sound.
    """
    return HearModel(model_file_path, frame_ms)


def get_scene_embeddings(audio: torch.Tensor, model: HearModel) -> torch.Tensor:
    """The clip vectors ``[n d]`` float32 of ``audio`` ``[n t]`` in [-1, 1], at the model's rate.

    Raises:
      InputError: for audio of another shape, without samples, or that is not finite.
    """
    return to_tensor(model.scenes.encode(to_waves(audio), model.sample_rate), audio)


def get_timestamp_embeddings(
    audio: torch.Tensor, model: HearModel
) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames ``[n t d]`` float32 and their centres ``[n t]`` float64, in milliseconds.

    Raises:
      InputError: as :func:`get_scene_embeddings`.
    """
    waves = to_waves(audio)
    out = frames_from_start(model.timestamps, waves, model.sample_rate)
    return to_tensor(out.frames, audio), to_tensor(out.times_ms, audio).expand(len(waves), -1)
