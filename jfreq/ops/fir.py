"""Zero-phase FIR filters along time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from jfreq.ops.frames import WindowName, frame_time
from jfreq.ops.frames import window as make_window
from jfreq.types import InputError

_BLOCK = 128
"""Frames of a block in :func:`filter_time`."""


def half_width(taps: int) -> int:
    """Frames to either side of the centre of ``taps`` taps; ``InputError`` unless they are odd.

    >>> half_width(9)
    4
    """
    if taps < 1 or taps % 2 == 0:
        raise InputError(f"taps {taps}: must be odd and 1 or more, so that a kernel has a centre")
    return taps // 2


def high_pass(
    taps: int, cutoff: float | int, *, window: WindowName = "hamming"
) -> Float32[np.ndarray, " {taps}"]:
    """Taps of a zero-phase high-pass: one minus a low-pass, a windowed sinc of sum 1.

    The gain is 0 at 0 and a half at ``cutoff``, in cycles per frame. Raises ``InputError`` for even
    ``taps``, fewer than 3, and a cut-off outside ``(0, 1/2)``.

    >>> h = high_pass(33, 0.25)
    >>> h.shape, bool(abs(h.sum()) < 1e-6), bool(np.allclose(h, h[::-1]))
    ((33,), True, True)
    """
    half = half_width(taps)
    if not half or not 0 < cutoff < 0.5:
        raise InputError(
            f"no high-pass of {taps} taps at {cutoff:g} cycles per frame: "
            "use 3 taps or more and a cut-off between 0 and 0.5"
        )
    low = make_window(window, taps, periodic=False)
    low *= np.sinc(2 * cutoff * np.arange(-half, half + 1))
    h = -low / low.sum()
    h[half] += 1
    return h.astype(np.float32)


def filter_time(
    x: Float[Array, "b t f c"], h: Float32[Array, " l"] | Float32[np.ndarray, " l"]
) -> Float32[Array, "b t f c"]:
    """``y[n] = sum_m h[c + m] x[n + m]`` along time, ``[b t f c]``, ``h [l]``, in float32.

    The taps are centred on every frame: symmetric ones have zero phase. Clips are reflected at
    their ends, whose frames are not repeated. Raises ``InputError`` for an even number of taps and
    for clips that are too short.

    >>> slow = jnp.ones((1, 20, 1, 1))
    >>> fast = slow * jnp.where(jnp.arange(20) % 2, 1.0, -1.0)[None, :, None, None]
    >>> y = filter_time(slow + fast, high_pass(9, 0.25))
    >>> bool(jnp.allclose(y, fast, atol=0.02))
    True
    """
    shape, half, t = x.shape, half_width(len(h)), x.shape[1]
    if half >= t:
        raise InputError(
            f"a filter of {len(h)} taps reflects {half} frames at the ends of a clip of {t}: "
            f"use {2 * t - 1} taps or fewer"
        )
    count = -(-t // _BLOCK)
    x = x.astype(jnp.float32).reshape(*x.shape[:2], -1)
    x = jnp.pad(x, ((0, 0), (half, half), (0, 0)), mode="reflect")
    x = jnp.pad(x, ((0, 0), (0, count * _BLOCK - t), (0, 0)))
    # Blocks of frames times a banded matrix: a convolution of one channel is 8 times slower.
    tap = np.arange(_BLOCK + 2 * half)[:, None] - np.arange(_BLOCK)
    inside = (tap >= 0) & (tap < len(h))
    band = jnp.where(inside, jnp.asarray(h)[np.clip(tap, 0, len(h) - 1)], 0)
    blocks = frame_time(x, _BLOCK + 2 * half, _BLOCK)
    y = jnp.einsum("bnwc,wo->bnoc", blocks, band, precision=jax.lax.Precision.HIGHEST)
    return y.reshape(y.shape[0], count * _BLOCK, -1)[:, :t].reshape(shape)
