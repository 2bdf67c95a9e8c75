"""Cutting signals into overlapping frames, and windows."""

from __future__ import annotations

import functools
from typing import Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float64, Num

from jfreq.types import InputError

WindowName = Literal["hann", "hamming", "povey", "rectangular"]
Count = TypeVar("Count", int, Array, np.ndarray)


def num_frames(samples: Count, frame_length: int, hop_length: int) -> Count:
    """How many complete frames fit into ``samples`` samples.

    ``samples`` is an int or an integer array, and so is the result: ``1 + (samples - frame_length)
    // hop_length`` (Kaldi's "snip edges"), and 0 where that is negative.

    >>> num_frames(16000, 400, 160)
    98
    """
    count = 1 + (samples - frame_length) // hop_length
    return count * (count > 0)


def frame(
    x: Num[Array, "... t"], *, frame_length: int, hop_length: int
) -> Num[Array, "... n frame_length"]:
    """Overlapping complete frames of the last axis: ``[... t]`` to ``[... n frame_length]``.

    ``n = num_frames(t, frame_length, hop_length)``; samples after the last frame are left out.
    Frames are put together from blocks of ``hop_length``: contiguous slices, no gather.

    >>> frame(jnp.arange(6), frame_length=4, hop_length=2).tolist()
    [[0, 1, 2, 3], [2, 3, 4, 5]]
    """
    _check_lengths(frame_length, hop_length)
    *lead, t = x.shape
    n = num_frames(t, frame_length, hop_length)
    if n == 0:
        return jnp.zeros((*lead, 0, frame_length), x.dtype)
    blocks = _blocks(x, n, frame_length, hop_length)
    slices = [
        blocks[..., j : j + n, : min(hop_length, frame_length - j * hop_length)]
        for j in range(-(-frame_length // hop_length))
    ]
    return jnp.concatenate(slices, axis=-1)


def frame_time(x: Num[Array, "b t c"], length: int, hop: int) -> Num[Array, "b n length c"]:
    """:func:`frame` along the time axis of ``[b t c]``.

    >>> frame_time(jnp.arange(4.0).reshape(1, 4, 1), 2, 2)[0, :, :, 0].tolist()
    [[0.0, 1.0], [2.0, 3.0]]
    """
    cut = functools.partial(frame, frame_length=length, hop_length=hop)
    return jax.vmap(cut, in_axes=2, out_axes=3)(x)


def frame_sums(
    x: Num[Array, "... t"], *, frame_length: int, hop_length: int
) -> Num[Array, "... n"]:
    """Sums over the frames of :func:`frame`, ``[... n]``, computed from sums of blocks.

    >>> frame_sums(jnp.arange(6), frame_length=4, hop_length=2).tolist()
    [6, 14]
    """
    _check_lengths(frame_length, hop_length)
    n = num_frames(x.shape[-1], frame_length, hop_length)
    if n == 0:
        return jnp.zeros((*x.shape[:-1], 0), x.dtype)
    blocks = _blocks(x, n, frame_length, hop_length)
    whole, rest = divmod(frame_length, hop_length)
    full = jnp.sum(blocks, axis=-1)
    parts = [full[..., j : j + n] for j in range(whole)]
    if rest:
        parts.append(jnp.sum(blocks[..., whole : whole + n, :rest], axis=-1))
    return functools.reduce(jnp.add, parts)


def _blocks(x, n: int, frame_length: int, hop_length: int):
    """The blocks ``[... rows hop_length]`` of ``x`` that ``n`` frames are put together from."""
    *lead, _ = x.shape
    rows = n - 1 + -(-frame_length // hop_length)
    x = x[..., : rows * hop_length]
    x = jnp.pad(x, [(0, 0)] * len(lead) + [(0, rows * hop_length - x.shape[-1])])
    return x.reshape(*lead, rows, hop_length)


def window(name: WindowName, length: int, *, periodic: bool) -> Float64[np.ndarray, " length"]:
    """A window of ``length`` samples in float64.

    A ``periodic`` window has the period ``length`` (librosa, scipy ``fftbins=True``), others
    ``length - 1`` (Kaldi, symmetric). ``povey`` is Hann to the power 0.85 (Kaldi).
    Raises ``InputError`` for another name.

    >>> window("hann", 4, periodic=True).round(3).tolist()
    [0.0, 0.5, 1.0, 0.5]
    """
    if length == 1:
        return np.ones(1)
    angle = 2 * np.pi * np.arange(length) / (length if periodic else length - 1)
    match name:
        case "hann":
            return 0.5 - 0.5 * np.cos(angle)
        case "hamming":
            return 0.54 - 0.46 * np.cos(angle)
        case "povey":
            return (0.5 - 0.5 * np.cos(angle)) ** 0.85
        case "rectangular":
            return np.ones(length)
    raise InputError(f"unknown window {name!r}: use hann, hamming, povey or rectangular")


def _check_lengths(frame_length: int, hop_length: int) -> None:
    if frame_length < 1 or hop_length < 1:
        raise InputError(
            f"frame_length {frame_length} and hop_length {hop_length} must be 1 or more samples"
        )
