"""The interface of front ends, and functions that several of them use."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from jfreq.ops.frames import num_frames
from jfreq.types import InputError, SignalSpec


@runtime_checkable
class Frontend(Protocol):
    """A config that turns a raw signal into a spectrogram, without parameters."""

    @property
    def win_length(self) -> int:
        """Samples of a frame."""
        ...

    @property
    def hop_length(self) -> int:
        """Samples from one frame to the next."""
        ...

    @property
    def bins(self) -> int:
        """Frequency bins."""
        ...

    @property
    def fill(self) -> float:
        """Value of padding."""
        ...

    def check(self, signal: SignalSpec) -> None:
        """Raises ``InputError`` for data that the front end cannot read."""
        ...

    def __call__(
        self, x: Shaped[Array, "b t c"], *, frames: int, length: Int[Array, " b"] | None = None
    ) -> tuple[Float[Array, "b t2 f c"], Bool[Array, "b t2"]]:
        """A spectrogram of ``frames`` frames, cut or padded at its end, and which frames are valid.

        A frame is valid when it lies inside the signal: the first ``length`` samples of a row, or
        all of them for None. Other frames hold ``fill``.
        """
        ...


def check_rate(rate: float | int, signal: SignalSpec) -> None:
    """Raises ``InputError`` when the data are not at ``rate`` Hz, the front end's."""
    if signal.rate != rate:
        raise InputError(
            f"frontend.rate: the data hold {signal.name!r} at {signal.rate:g} Hz, the front end "
            f"wants {rate:g} Hz; prepare the data again with --rate {rate:g}"
        )


def valid_frames(
    frontend: Frontend, x: Shaped[Array, "b t c"], length: Int[Array, " b"] | None
) -> Int[Array, " b"]:
    """How many frames of every row lie inside its ``length`` samples; None: all its samples."""
    samples = jnp.full(x.shape[:1], x.shape[1]) if length is None else length
    return num_frames(samples, frontend.win_length, frontend.hop_length)


def up_to(count: Int[Array, " b"], frames: int) -> Bool[Array, "b frames"]:
    """True for the first ``count`` of ``frames`` frames."""
    return jnp.arange(frames)[None] < count[:, None]
