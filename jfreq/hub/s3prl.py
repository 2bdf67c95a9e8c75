"""An upstream of S3PRL (https://github.com/s3prl/s3prl), as SUPERB evaluates it.

:func:`register` adds it to ``s3prl.hub``, where S3PRL looks for upstreams by name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from s3prl.upstream.interfaces import UpstreamBase  # pyright: ignore[reportMissingImports]

from jfreq.hub.sound import frames_from_start, load_sound, sound_encoder
from jfreq.hub.tensors import to_tensor, to_wave
from jfreq.types import InputError

RATE = 16000
"""Hz of the audio of S3PRL."""
FRAME_MS = 20.0
"""The step of wav2vec 2.0 and HuBERT, for which the downstream models of SUPERB were made."""


class UpstreamExpert(UpstreamBase):
    """A frozen encoder; ``hidden_states`` are those after each block, then the frames.

    Its parameters are not PyTorch's: it is not fine-tuned, and :meth:`to` moves nothing.
    """

    def __init__(
        self,
        ckpt: str | Path = "",
        model_config: str | None = None,
        *,
        frame_ms: float = FRAME_MS,
        **options: Any,
    ):
        """Loads an encoder.

        Args:
          ckpt: folder of a bundle or a run.
          model_config: not used, everything is in the folder.
          frame_ms: the longest time between two frames, in milliseconds.

        Raises:
          InputError: for an encoder that does not read one channel of sound, or whose frames lie no
            whole number of samples of 16 kHz apart.
        """
        super().__init__(**options)
        del model_config
        self.name = "jfreq"
        trained = load_sound(ckpt, "S3PRL")
        self.width = sound_encoder(trained).frame_size
        self.encoder = sound_encoder(trained, frame_ms, states=True)
        stride = self.encoder.hop_ms * RATE / 1000
        self.stride = round(stride)
        if abs(stride - self.stride) > 1e-6:
            raise InputError(
                f"{ckpt}: frames every {self.encoder.hop_ms:g} ms are no whole number of samples "
                "at 16 kHz, which S3PRL asks for; give another frame_ms"
            )

    def get_downsample_rates(self, key: str) -> int:
        """Samples of 16 kHz from one frame to the next, of all states alike."""
        del key
        return self.stride

    def forward(self, wavs: Sequence[torch.Tensor]) -> dict[str, Any]:
        """States of recordings ``[t]`` at 16 kHz, of different lengths.

        Returns:
          ``hidden_states``, a list of ``[b t d]`` float32, and the last of them. A recording of n
          samples has ceil(n / stride) frames, as S3PRL counts; the last frame is repeated up to
          there, and beyond in a batch.

        Raises:
          InputError: for audio that is empty, not mono, or not finite.
        """
        waves = [to_wave(wav) for wav in wavs]
        out = frames_from_start(self.encoder, waves, RATE)
        count = math.ceil(max(map(len, waves)) / self.stride)
        index = np.minimum(np.arange(count)[None], out.valid[:, None] - 1)
        frames = np.take_along_axis(out.frames, index[..., None], axis=1)
        states = np.split(frames, frames.shape[-1] // self.width, axis=-1)
        hidden = [to_tensor(state, wavs[0]) for state in states]
        return {"hidden_states": hidden, "last_hidden_state": hidden[-1]}


def jfreq(ckpt: str | Path = "", refresh: bool = False, **options: Any) -> UpstreamExpert:
    """The upstream as an entry of ``s3prl.hub``; ``refresh`` has nothing to download again."""
    del refresh
    return UpstreamExpert(ckpt, **options)


def register() -> None:
    """Adds :func:`jfreq` to ``s3prl.hub``."""
    from s3prl import hub  # pyright: ignore

    hub.jfreq = jfreq
