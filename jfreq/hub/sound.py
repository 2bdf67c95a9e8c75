"""What the contracts share: an encoder of sound, with frames from the beginning of a recording."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jfreq.encoder.encoder import Encoder
from jfreq.encoder.windowing import grid_of_window
from jfreq.export.bundle import encoder_shapes, load_trained
from jfreq.method import Method, Wrapper
from jfreq.ranges import Milliseconds, check_value, checked
from jfreq.train.state import Trained
from jfreq.types import Batch, Embedding, Features, InputError, PyTree


def load_sound(path: str | Path, contract: str) -> Trained:
    """A trained encoder that reads one channel of sound. Its parameters are on the device, where
    all encoders that are made of it share them.

    Args:
      path: a bundle or a run folder.
      contract: what it is loaded for, in messages.

    Raises:
      InputError: as :func:`jfreq.export.bundle.load_trained`, for no path, and for an encoder of
        sensors or of several channels.
    """
    if not str(path):
        raise InputError(f"{contract}: no encoder is named; give the folder of a bundle or a run")
    trained = load_trained(path)
    signals = trained.experiment.method.signals
    if [(s.name, s.channels) for s in signals] != [("audio", 1)]:
        reads = ", ".join(f"{s.name} ({s.channels} x {s.rate:g} Hz)" for s in signals)
        raise InputError(
            f"{path}: reads {reads}, but {contract} hands over one channel of sound; give an "
            "encoder that was trained on sound alone"
        )
    return trained._replace(params=jax.device_put(trained.params))


def sound_encoder(
    trained: Trained, frame_ms: float | None = None, *, states: bool = False
) -> Encoder:
    """The encoder, with frames at most ``frame_ms`` milliseconds apart; None: as far as its tokens.

    With ``states`` a frame is what :class:`BlockStates` puts side by side.
    """
    method, params = trained.experiment.method, trained.params
    if states:
        method = BlockStates(method.signals, method)

    signals, step = method.signals, frame_ms
    if step is not None:
        check_value(Milliseconds, step, "", "frame_ms")
        grid = grid_of_window(encoder_shapes(method, signals, params).grid, signals[0])
        step = None if 1000 * grid.hop / signals[0].rate <= step else step
    return Encoder(method, params, signals=signals, frame_ms=step, gaps=method.allows_gaps)


def frames_from_start(encoder: Encoder, waves: Sequence[Any], rate: float) -> Embedding:
    """Embeds recordings with frames from their beginning to their end.

    The first token of an encoder is centred half its length after the beginning. Silence is put
    before the recording, so that frame ``k`` is centred ``k + 1/2`` hops after the beginning, to
    half a sample. Tokens shorter than the hop are centred earlier and stay where they are.

    Args:
      encoder: of one signal.
      waves: ``[t]`` each, float in [-1, 1] or signed integer PCM.
      rate: Hz of ``waves``.

    Returns:
      The embedding; its times are those of the recording, its clip vectors are of the recording
      with the silence.

    Raises:
      InputError: as a call of the encoder.
    """
    (signal,) = encoder.signals
    silence = max(0, math.ceil(encoder.grid.first - encoder.grid.hop / 2))
    clips = [encoder.clip(wave, rate, f"recording {i}") for i, wave in enumerate(waves)]
    out = encoder([np.pad(clip[signal.name], ((silence, 0), (0, 0))) for clip in clips])
    return out._replace(times_ms=out.times_ms - 1000.0 * silence / signal.rate)


@checked
class BlockStates(Wrapper):
    """The method ``whole``, whose tokens are all states of its blocks side by side.

    These are the states after each block and then the tokens as the method gives them, after its
    last norm: ``[b n (l+1)*d]``. A method that returns no states gives its tokens alone.
    """

    inner: ClassVar[str] = "whole"

    whole: Method = Method()

    def encode(self, params: PyTree, batch: Batch) -> Features:
        features = self.whole.encode(params, batch)
        states = [] if features.layers is None else [x.astype(jnp.float32) for x in features.layers]
        tokens = jnp.concatenate([*states, features.tokens], axis=-1)
        return features._replace(tokens=tokens, layers=None)
