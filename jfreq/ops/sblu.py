"""Structured bilateral Laplace unit: two-sided exponential kernels, another one for every patch.

    y[n] = sum_{|m| <= c} k[m] u[n + m],    k[m] = g exp(-alpha |m|) exp(-+ i omega m)

``alpha`` is the decay per frame, ``beta = omega / (2 pi)`` the frequency in cycles per frame,
both real arrays that may differ for every patch and channel. Two readings of the phase:

``even``       ``g exp(-L |m|)`` with ``L = alpha + i omega`` and ``g = 2 sinh(L / 2) / L``, the
               published line (Yamamoto and Okusa 2025, arXiv 2512.03637): real and imaginary part
               are even, so both outputs have zero phase. The peak gain is about ``1 / alpha``.
``hermitian``  ``tanh(alpha / 2) exp(-alpha |m|) exp(i omega m)``, a window times a sinusoid, our
               reading of the text: the two outputs are a quadrature pair, the gain at ``beta`` is 1
               and falls monotonically on both sides.

``g`` holds the signal constant on a cell around each sample, where a state-space model holds it
from one sample to the next. All arithmetic is real and in float32.
"""

from __future__ import annotations

import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Float64

from jfreq.ops import frames
from jfreq.ops.frames import WindowName
from jfreq.types import InputError

Phase = Literal["even", "hermitian"]
Pair = tuple[jax.Array, jax.Array]
"""Real and imaginary part."""
_HIGHEST = jax.lax.Precision.HIGHEST
_BLOCK = 128
"""Frames that :func:`filter_time` takes at a time."""


def kernel(
    alpha: Float[Array, "*a"],
    beta: Float[Array, "*a"],
    *,
    taps: int,
    phase: Phase = "even",
    unit_gain: bool = False,
) -> tuple[Float32[Array, "*a {taps}"], Float32[Array, "*a {taps}"]]:
    """Real and imaginary part of ``k``, ``[*a taps]`` for ``m = -c..c``, ``taps = 2 c + 1``.

    ``alpha`` per frame, 0 or more, ``beta`` in cycles per frame, both float32. ``unit_gain``
    multiplies ``even`` by ``alpha``; ``hermitian`` has unit gain by itself.
    Raises ``InputError`` for even ``taps``, another phase and another dtype.
    """
    reach = _reach(taps)
    _check_float32(alpha=alpha, beta=beta)
    alpha, beta = alpha[..., None], beta[..., None]
    scale = _scale(alpha, beta, phase, unit_gain)
    m = np.arange(reach + 1, dtype=np.float32).reshape(*[1] * (alpha.ndim - 1), -1)
    past, ahead = (_times(scale, _power(alpha, turn, m)) for turn in _turns(beta, phase))
    re, im = (jnp.concatenate([p[..., :0:-1], a], -1) for p, a in zip(past, ahead))
    return re, im


def windows(
    x: Float[Array, "b t c"], *, patch: int, stride: int, taps: int, local: bool = False
) -> Float[Array, "b p w c"]:
    """Every patch in time with its neighbours, ``[b p patch+taps-1 c]``, for :func:`apply`.

    Patch ``p`` starts at frame ``p stride``; ``(t - patch) // stride + 1`` patches fit. The
    ``(taps - 1) / 2`` frames on either side are those of the clip and zeros beyond its ends, or
    with ``local`` zeros everywhere, so that nothing of another patch is seen.
    Raises ``InputError`` for even ``taps`` and for kernels longer than the clip or, with
    ``local``, than ``patch + 1``, where most taps of a frame at an edge would meet zeros.
    """
    reach, t = _reach(taps), x.shape[1]
    if not 1 <= patch <= t or stride < 1:
        raise InputError(
            f"no patch of {patch} frames every {stride} fits {t} frames: "
            "use longer clips or a smaller patch"
        )
    if local and taps > patch + 1:
        raise InputError(
            f"taps {taps}: a local kernel sees one patch of {patch} frames: "
            f"use {_odd(patch + 1)} taps or fewer"
        )
    if taps > t:
        raise InputError(
            f"taps {taps}: the kernel is longer than the clip of {t} frames: "
            f"use {_odd(t)} taps or fewer"
        )
    beyond = ((0, 0), (reach, reach), (0, 0))
    if local:
        return jnp.pad(_cut(x, patch, stride), ((0, 0), *beyond))
    return _cut(jnp.pad(x, beyond), patch + 2 * reach, stride)


def apply(
    windows: Float[Array, "b p w c"],
    alpha: Float[Array, "b p c"],
    beta: Float[Array, "b p c"],
    *,
    taps: int,
    phase: Phase = "even",
    unit_gain: bool = False,
) -> tuple[Float32[Array, "b p w-{taps}+1 c"], Float32[Array, "b p w-{taps}+1 c"]]:
    """Real and imaginary part of ``y``, ``[b p patch c]``: each patch under its own kernels.

    ``windows`` from :func:`windows`; the other arguments and errors as in :func:`kernel`. The
    kernel is never laid out: either side of it is a first-order recursion over the frames of a
    patch that drops the sample which leaves the kernel, exact for the truncated kernel. It starts
    anew in every patch, where ``alpha`` and ``beta`` change: ``patch + c`` steps instead of
    ``patch * taps`` products. Differentiable in reverse mode only.
    """
    reach, patch = _reach(taps), windows.shape[2] - taps + 1
    _check_float32(windows=windows, alpha=alpha, beta=beta)
    if patch < 1:
        raise InputError(f"windows of {windows.shape[2]} frames are too short for {taps} taps")
    scale = _scale(alpha[:, :, None], beta[:, :, None], phase, unit_gain)
    return _times(scale, _sums(windows, alpha, jnp.stack(_turns(beta, phase)), reach))


# ------------------------------------------------------------------ the recursion


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _sums(u: Array, alpha: Array, turns: Array, reach: int) -> Pair:
    """``sum_{|m| <= c} q^|m| u[n + m]``, ``[b p patch c]`` of ``u [b p patch+2c c]``.

    ``q = exp(-alpha + i turn)`` with a turn for either side, ``turns [2 b p c]``. Both sides run
    at once, each from its own end of the window. ``e``, one side's sum of ``q^(m-1) u[n - m]``
    over ``m = 1..c``, goes on as ``q e + u[n] - q^c u[n - c]``.

    The derivative by ``log q`` obeys a recursion of the same kind beside ``e``, so the backward
    pass keeps no states: a quarter of the memory that differentiating the loop takes.
    """
    q, last = (_power(alpha[None], turns, m) for m in (1, reach))
    patch = u.shape[2] - 2 * reach

    def fill(i, e):
        re, im = _times(q, e)
        return re + _ends(u, i), im

    def step(i, carry):
        e, (sum_re, sum_im) = carry
        re, im = _times(q, e)
        new, old = _ends(u, reach + i), _ends(u, i)
        e = re + new - last[0] * old, im - last[1] * old
        return e, (_add_ends(sum_re, i, re), _add_ends(sum_im, i, im))

    here = u[:, :, reach : reach + patch]
    e = jax.lax.fori_loop(0, reach, fill, _zeros(turns))
    return jax.lax.fori_loop(0, patch, step, (e, (here, jnp.zeros_like(here))))[1]


def _sums_forward(u: Array, alpha: Array, turns: Array, reach: int):
    return _sums(u, alpha, turns, reach), (u, alpha, turns)


def _sums_backward(reach: int, saved, grads: Pair) -> tuple[Array, Array, Array]:
    """Cotangents as complex numbers: of the sums ``grads``, of ``e`` ``back``."""
    u, alpha, turns = saved
    q, last = (_power(alpha[None], turns, m) for m in (1, reach))
    patch = u.shape[2] - 2 * reach

    def slopes(s: Pair, slope: Pair) -> Pair:
        """``d (q e) / d log q`` from ``s = q e`` and ``slope = d e / d log q``."""
        re, im = _times(q, slope)
        return s[0] + re, s[1] + im

    def fill(i, carry):
        e, slope = carry
        s = _times(q, e)
        return (s[0] + _ends(u, i), s[1]), slopes(s, slope)

    def step(i, carry):
        e, slope, total = carry
        s = _times(q, e)
        slope = slopes(s, slope)
        new, old = _ends(u, reach + i), _ends(u, i)
        gain = _times(_conj(slope), (_ends(grads[0], i), _ends(grads[1], i)))
        e = s[0] + new - last[0] * old, s[1] - last[1] * old
        slope = slope[0] - reach * last[0] * old, slope[1] - reach * last[1] * old
        return e, slope, (total[0] + gain[0], total[1] + gain[1])

    zeros = _zeros(turns)
    carry = jax.lax.fori_loop(0, reach, fill, (zeros, zeros))
    _, _, (d_size, d_turn) = jax.lax.fori_loop(0, patch, step, (*carry, zeros))

    def step_back(k, carry):
        back, d_u = carry
        i = patch - 1 - k
        d_u = _add_ends(d_u, reach + i, back[0])
        d_u = _add_ends(d_u, i, -_times(_conj(last), back)[0])
        onto = back[0] + _ends(grads[0], i), back[1] + _ends(grads[1], i)
        return _times(_conj(q), onto), d_u

    def fill_back(k, carry):
        back, d_u = carry
        return _times(_conj(q), back), _add_ends(d_u, reach - 1 - k, back[0])

    d_u = jnp.pad(grads[0], ((0, 0), (0, 0), (reach, reach), (0, 0)))
    carry = jax.lax.fori_loop(0, patch, step_back, (zeros, d_u))
    _, d_u = jax.lax.fori_loop(0, reach, fill_back, carry)
    return d_u, -jnp.sum(d_size, axis=0), d_turn


_sums.defvjp(_sums_forward, _sums_backward)


def _ends(x: Array, i) -> Array:
    """Frame ``i`` of ``[b p t c]`` counted from the start and from the end: ``[2 b p c]``."""
    return jnp.stack([_at(x, i), _at(x, x.shape[2] - 1 - i)])


def _add_ends(x: Array, i, value: Array) -> Array:
    """The transpose of :func:`_ends`, added to ``x``."""
    for at, part in zip((i, x.shape[2] - 1 - i), value):
        x = jax.lax.dynamic_update_index_in_dim(x, _at(x, at) + part, at, axis=2)
    return x


def _at(x: Array, i) -> Array:
    return jax.lax.dynamic_index_in_dim(x, i, axis=2, keepdims=False)


# ------------------------------------------------------------------ the kernel's parts


def _turns(beta: Array, phase: Phase) -> Pair:
    """Radians per frame of distance, for frames before and after the centre."""
    omega = 2 * math.pi * beta
    return -omega, (-omega if phase == "even" else omega)


def _power(alpha: Array, turn: Array, m) -> Pair:
    """``exp((-alpha + i turn) m)``."""
    size, angle = jnp.exp(-alpha * m), turn * m
    return size * jnp.cos(angle), size * jnp.sin(angle)


def _scale(alpha: Array, beta: Array, phase: Phase, unit_gain: bool) -> Pair:
    """The factor before the window, ``[*a]``."""
    if phase == "hermitian":
        return jnp.tanh(alpha / 2), jnp.zeros_like(alpha)
    if phase != "even":
        raise InputError(f"unknown phase {phase!r}: use even or hermitian")
    re, im = _sinhc(alpha / 2, math.pi * beta)
    return (alpha * re, alpha * im) if unit_gain else (re, im)


def _sinhc(re: Array, im: Array) -> Pair:
    """``sinh(z) / z`` of ``z = re + i im``: 1 at 0, where the quotient has no value or gradient.

    Below ``|z| = 1`` the power series in ``z^2``, whose 6 terms are exact in float32.
    """
    size = re * re + im * im
    small = size < 1
    a, b, size = jnp.where(small, 1.0, re), jnp.where(small, 1.0, im), jnp.where(small, 2.0, size)
    sinh, cosh, sin, cos = jnp.sinh(a), jnp.cosh(a), jnp.sin(b), jnp.cos(b)
    far = (a * sinh * cos + b * cosh * sin) / size, (a * cosh * sin - b * sinh * cos) / size
    a, b = jnp.where(small, re, 0.0), jnp.where(small, im, 0.0)
    square = a * a - b * b, 2 * a * b
    near = jnp.ones_like(re), jnp.zeros_like(re)
    for k in range(5, 0, -1):
        grown = _times(square, near)
        near = 1 + grown[0] / (2 * k * (2 * k + 1)), grown[1] / (2 * k * (2 * k + 1))
    return jnp.where(small, near[0], far[0]), jnp.where(small, near[1], far[1])


def _zeros(like: Array) -> Pair:
    return jnp.zeros_like(like), jnp.zeros_like(like)


def _conj(z: Pair) -> Pair:
    return z[0], -z[1]


def _times(one: Pair, other: Pair) -> Pair:
    """Product of two, of which ``one`` may lack the first axis of ``other``."""
    (a, b), (c, d) = one, other
    if a.ndim < c.ndim:
        a, b = a[None], b[None]
    return a * c - b * d, a * d + b * c


# ------------------------------------------------------------------ what goes before and around


def cells(
    kernels: int, low: float | int, high: float | int
) -> tuple[Float64[np.ndarray, " s"], Float64[np.ndarray, " s"]]:
    """Centres and half widths ``[s]`` of ``kernels`` cells that tile ``[low, high]``.

    Edges are evenly spaced in their logarithm, a centre is the geometric mean of its two edges
    (our reading). In the unit of ``low`` and ``high``. Raises ``InputError`` for an empty band.
    """
    if kernels < 1 or not 0 < low < high:
        raise InputError(f"no {kernels} cells from {low:g} up to {high:g} cycles per frame")
    edges = np.geomspace(low, high, kernels + 1)
    return np.sqrt(edges[1:] * edges[:-1]), np.diff(edges) / 2


def high_pass(
    taps: int, cutoff: float | int, *, window: WindowName = "hamming"
) -> Float32[np.ndarray, " {taps}"]:
    """Taps of a zero-phase high-pass: a sample less its windowed-sinc low-pass of sum 1.

    ``cutoff`` in cycles per frame, where the gain is a half; the gain at 0 is 0.
    Raises ``InputError`` for even ``taps``, fewer than 3, and a cut-off outside ``(0, 1/2)``.
    """
    reach = _reach(taps)
    if not reach or not 0 < cutoff < 0.5:
        raise InputError(
            f"no high-pass of {taps} taps at {cutoff:g} cycles per frame: "
            "use 3 taps or more and a cut-off between 0 and 0.5"
        )
    low = frames.window(window, taps, periodic=False)
    low *= np.sinc(2 * cutoff * np.arange(-reach, reach + 1))
    taken = -low / low.sum()
    taken[reach] += 1
    return taken.astype(np.float32)


def filter_time(
    x: Float[Array, "b t f c"], h: Float32[Array, " l"] | Float32[np.ndarray, " l"]
) -> Float32[Array, "b t f c"]:
    """``y[n] = sum_m h[c + m] x[n + m]`` along time, ``[b t f c]``, ``h [l]``, in float32.

    The taps are centred on every frame: symmetric ones have zero phase. Beyond its ends the clip
    is its reflection, without the end frame itself. Raises ``InputError`` for an even count of
    taps and for too short a clip.
    """
    shape, reach, t = x.shape, _reach(len(h)), x.shape[1]
    if reach >= t:
        raise InputError(
            f"a filter of {len(h)} taps reflects {reach} frames at the ends of a clip of {t}: "
            f"use {2 * t - 1} taps or fewer"
        )
    count = -(-t // _BLOCK)
    x = x.astype(jnp.float32).reshape(*x.shape[:2], -1)
    x = jnp.pad(x, ((0, 0), (reach, reach), (0, 0)), mode="reflect")
    x = jnp.pad(x, ((0, 0), (0, count * _BLOCK - t), (0, 0)))
    # Blocks of frames times a banded matrix; a convolution of one channel is 8 times slower.
    tap = np.arange(_BLOCK + 2 * reach)[:, None] - np.arange(_BLOCK)
    inside = (tap >= 0) & (tap < len(h))
    band = jnp.where(inside, jnp.asarray(h)[np.clip(tap, 0, len(h) - 1)], 0)
    blocks = _cut(x, _BLOCK + 2 * reach, _BLOCK)
    y = jnp.einsum("bnwc,wo->bnoc", blocks, band, precision=_HIGHEST)
    return y.reshape(y.shape[0], count * _BLOCK, -1)[:, :t].reshape(shape)


def _cut(x: Array, length: int, hop: int) -> Array:
    """``[b t c]`` to overlapping frames ``[b n length c]``."""
    cut = functools.partial(frames.frame, frame_length=length, hop_length=hop)
    return jax.vmap(cut, in_axes=2, out_axes=3)(x)


# ------------------------------------------------------------------ checks


def _reach(taps: int) -> int:
    """How many frames to either side ``taps`` see."""
    if taps < 1 or taps % 2 == 0:
        raise InputError(f"taps {taps}: must be odd and 1 or more, so that a kernel has a centre")
    return taps // 2


def _odd(count: int) -> int:
    """The largest odd number up to ``count``."""
    return count - 1 + count % 2


def _check_float32(**arrays: Array) -> None:
    for name, value in arrays.items():
        if value.dtype != jnp.float32:
            raise InputError(
                f"SBLU kernels are computed in float32, {name} has {value.dtype}: powers of "
                "exp(-alpha + i omega) lose their phase in fewer bits, so cast to float32"
            )
