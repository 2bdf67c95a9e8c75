"""What front ends of sensors share: the check of their rate, and which frames hold signal."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jfreq.ops.frames import num_frames
from jfreq.types import InputError, SignalSpec


def check_rate(rate: float, signal: SignalSpec) -> None:
    """Raises ``InputError`` when the data are not at ``rate`` Hz, the front end's."""
    if signal.rate != rate:
        raise InputError(
            f"frontend.rate: the data hold {signal.name!r} at {signal.rate:g} Hz, the front "
            f"end is set to {rate:g} Hz"
        )


def valid_frames(
    spec: Float[Array, "b frames *rest"],
    length: Int[Array, " b"] | None,
    win_length: int,
    hop_length: int,
) -> Int[Array, " b"]:
    """How many frames of every row of ``spec`` lie inside its ``length`` samples; all for None."""
    if length is None:
        return jnp.full(spec.shape[:1], spec.shape[1])
    return num_frames(length, win_length, hop_length)
