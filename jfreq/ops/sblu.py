"""Structured bilateral Laplace unit (SBLU): two-sided exponential kernels that differ by patch.

    y[n] = sum_{|m| <= c} k[m] u[n + m],    k[m] = g exp(-alpha |m|) exp(-+ i omega m)

``alpha`` is the decay per frame, ``beta = omega / (2 pi)`` the frequency in cycles per frame,
both real arrays that may differ for every patch and channel. The phase can be read in two ways:

``even``       ``g exp(-L |m|)`` with ``L = alpha + i omega`` and ``g = 2 sinh(L / 2) / L``, the
               published formula (Yamamoto and Okusa 2025, arXiv 2512.03637): real and imaginary
               part are even, so both outputs have zero phase. The peak gain is about ``1 / alpha``.
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

from jfreq.ops.fir import half_width
from jfreq.ops.frames import frame_time
from jfreq.types import InputError

Phase = Literal["even", "hermitian"]
Pair = tuple[jax.Array, jax.Array]
"""Real and imaginary part."""


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

    >>> re, im = kernel(jnp.array(0.5), jnp.array(0.2), taps=5, phase="hermitian")
    >>> re.shape, bool(jnp.allclose(re, re[::-1])), bool(jnp.allclose(im, -im[::-1]))
    ((5,), True, True)
    """
    reach = half_width(taps)
    _check_float32(alpha=alpha, beta=beta)
    alpha, beta = alpha[..., None], beta[..., None]
    scale = _scale(alpha, beta, phase, unit_gain)
    m = np.arange(reach + 1, dtype=np.float32).reshape(*[1] * (alpha.ndim - 1), -1)
    past, ahead = (_times(scale, _power(alpha, omega, m)) for omega in _omegas(beta, phase))
    re, im = (jnp.concatenate([p[..., :0:-1], a], -1) for p, a in zip(past, ahead))
    return re, im


def windows(
    x: Float[Array, "b t c"], *, patch: int, stride: int, taps: int, local: bool = False
) -> Float[Array, "b p w c"]:
    """Every patch in time with its neighbouring frames, ``[b p patch+taps-1 c]``, for
    :func:`apply`.

    Args:
        x: Frames.
        patch: Frames of a patch; ``(t - patch) // stride + 1`` patches fit.
        stride: Frames from the start of a patch to that of the next.
        taps: Length of the kernels, odd. The ``(taps - 1) / 2`` frames on either side of a patch
            are those of the clip, and zeros beyond its ends.
        local: Put zeros on either side of every patch, so that a kernel sees one patch only.

    Raises:
        InputError: For even ``taps``, and for kernels longer than the clip or, with ``local``, than
            ``patch + 1``, where most taps of a frame at an edge would meet zeros.

    >>> x = jnp.arange(1.0, 5.0).reshape(1, 4, 1)
    >>> windows(x, patch=2, stride=2, taps=3)[0, :, :, 0].tolist()
    [[0.0, 1.0, 2.0, 3.0], [2.0, 3.0, 4.0, 0.0]]
    """
    reach, t = half_width(taps), x.shape[1]
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
        return jnp.pad(frame_time(x, patch, stride), ((0, 0), *beyond))
    return frame_time(jnp.pad(x, beyond), patch + 2 * reach, stride)


def apply(
    windows: Float[Array, "b p w c"],
    alpha: Float[Array, "b p c"],
    beta: Float[Array, "b p c"],
    *,
    taps: int,
    phase: Phase = "even",
    unit_gain: bool = False,
) -> tuple[Float32[Array, "b p w-{taps}+1 c"], Float32[Array, "b p w-{taps}+1 c"]]:
    """Real and imaginary part of ``y``, ``[b p patch c]``: every patch filtered by its kernels.

    ``windows`` comes from :func:`windows`; the other arguments and errors are those of
    :func:`kernel`. Either side of the kernel is a first-order recursion over the frames of a patch
    that subtracts the sample which leaves the kernel. It is exact for the truncated kernel and
    takes ``patch + c`` steps instead of ``patch * taps`` products. Differentiable in reverse mode
    only.

    >>> x, alpha, beta = jnp.ones((1, 8, 1)), jnp.ones((1, 2, 1)), jnp.zeros((1, 2, 1))
    >>> real, imag = apply(windows(x, patch=4, stride=4, taps=3), alpha, beta, taps=3)
    >>> gain = kernel(alpha, beta, taps=3)[0].sum(-1)  # of a constant signal
    >>> real.shape, bool(jnp.allclose(real[0, 0, 1:], gain[:, 0]))
    ((1, 2, 4, 1), True)
    """
    reach, patch = half_width(taps), windows.shape[2] - taps + 1
    _check_float32(windows=windows, alpha=alpha, beta=beta)
    if patch < 1:
        raise InputError(f"windows of {windows.shape[2]} frames are too short for {taps} taps")
    scale = _scale(alpha[:, :, None], beta[:, :, None], phase, unit_gain)
    return _times(scale, _sums(windows, alpha, jnp.stack(_omegas(beta, phase)), reach))


# ------------------------------------------------------------------ the recursion


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _sums(u: Array, alpha: Array, omegas: Array, reach: int) -> Pair:
    """``sum_{|m| <= c} q^|m| u[n + m]``, ``[b p patch c]`` of ``u [b p patch+2c c]``.

    ``q = exp(-alpha + i omega)`` with an omega for either side, ``omegas [2 b p c]``, in radians
    per frame. Both sides are computed at once, each from its end of the window. With
    ``e_n = sum_{m=1}^{c} q^(m-1) u[n - m]``, one of them adds ``s_n`` to sum ``n``::

        s_n = q e_n,    e_{n+1} = s_n + u[n] - q^c u[n - c]
    """
    q, q_c = (_power(alpha[None], omegas, m) for m in (1, reach))
    patch = u.shape[2] - 2 * reach

    def fill(i, e):
        return _next(_times(q, e), _ends(u, i))

    def step(i, carry):
        e, sums = carry
        s = _times(q, e)
        sums = tuple(_add_ends(total, i, part) for total, part in zip(sums, s))
        return _next(s, _ends(u, reach + i), _times_real(q_c, _ends(u, i))), sums

    centre = u[:, :, reach : reach + patch]
    e = jax.lax.fori_loop(0, reach, fill, _zeros(omegas))
    return jax.lax.fori_loop(0, patch, step, (e, (centre, jnp.zeros_like(centre))))[1]


def _next(s: Pair, new: Array, leaving: Pair | None = None) -> Pair:
    """``s + new - leaving``; no sample leaves the kernel in its first steps."""
    if leaving is None:
        return s[0] + new, s[1]
    return s[0] + new - leaving[0], s[1] - leaving[1]


def _sums_forward(u: Array, alpha: Array, omegas: Array, reach: int):
    return _sums(u, alpha, omegas, reach), (u, alpha, omegas)


def _sums_backward(reach: int, saved, grads: Pair) -> tuple[Array, Array, Array]:
    """Gradients of :func:`_sums`, without keeping the states of its loop.

    Gradients by a complex number are those by its real and imaginary part. ``log q`` is
    ``-alpha + i omega``; the derivative by it, marked by a prime, is computed along with ``e``::

        s'_n = s_n + q e'_n,    e'_{n+1} = s'_n - c q^c u[n - c]
        dL/dlog q = sum_n conj(s'_n) dL/ds_n

    The gradient by ``u`` is computed backward::

        dL/du[n]   += Re dL/de_{n+1},    dL/du[n-c] -= Re(conj(q^c) dL/de_{n+1})
        dL/de_n     = conj(q) (dL/de_{n+1} + dL/ds_n)
    """
    u, alpha, omegas = saved
    q, q_c = (_power(alpha[None], omegas, m) for m in (1, reach))
    patch, zeros = u.shape[2] - 2 * reach, _zeros(omegas)

    def dl_ds(i) -> Pair:
        return _ends(grads[0], i), _ends(grads[1], i)

    def fill(i, carry):
        e, e_prime = carry
        s = _times(q, e)
        return _next(s, _ends(u, i)), _plus(s, _times(q, e_prime))

    def step(i, carry):
        e, e_prime, dl_dlogq = carry
        s = _times(q, e)
        s_prime = _plus(s, _times(q, e_prime))
        new, old = _ends(u, reach + i), _ends(u, i)
        dl_dlogq = _plus(dl_dlogq, _times(_conj(s_prime), dl_ds(i)))
        e_prime = _minus(s_prime, _times_real(_times_real(q_c, reach), old))
        return _next(s, new, _times_real(q_c, old)), e_prime, dl_dlogq

    carry = jax.lax.fori_loop(0, reach, fill, (zeros, zeros))
    _, _, (dl_dsize, dl_domega) = jax.lax.fori_loop(0, patch, step, (*carry, zeros))

    def step_back(k, carry):
        dl_de, dl_du = carry
        i = patch - 1 - k
        dl_du = _add_ends(dl_du, reach + i, dl_de[0])
        dl_du = _add_ends(dl_du, i, -_times(_conj(q_c), dl_de)[0])
        return _times(_conj(q), _plus(dl_de, dl_ds(i))), dl_du

    def fill_back(k, carry):
        dl_de, dl_du = carry
        return _times(_conj(q), dl_de), _add_ends(dl_du, reach - 1 - k, dl_de[0])

    dl_du = jnp.pad(grads[0], ((0, 0), (0, 0), (reach, reach), (0, 0)))
    carry = jax.lax.fori_loop(0, patch, step_back, (zeros, dl_du))
    _, dl_du = jax.lax.fori_loop(0, reach, fill_back, carry)
    return dl_du, -jnp.sum(dl_dsize, axis=0), dl_domega


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


def _omegas(beta: Array, phase: Phase) -> Pair:
    """The omega of frames before and of frames after the centre, in radians per frame."""
    omega = 2 * math.pi * beta
    return -omega, (-omega if phase == "even" else omega)


def _power(alpha: Array, omega: Array, m) -> Pair:
    """``exp((-alpha + i omega) m)``."""
    size, angle = jnp.exp(-alpha * m), omega * m
    return size * jnp.cos(angle), size * jnp.sin(angle)


def _scale(alpha: Array, beta: Array, phase: Phase, unit_gain: bool) -> Pair:
    """The constant factor of the kernel, ``[*a]``."""
    if phase == "hermitian":
        return jnp.tanh(alpha / 2), jnp.zeros_like(alpha)
    if phase != "even":
        raise InputError(f"unknown phase {phase!r}: use even or hermitian")
    re, im = _sinhc(alpha / 2, math.pi * beta)
    return (alpha * re, alpha * im) if unit_gain else (re, im)


def _sinhc(re: Array, im: Array) -> Pair:
    """``sinh(z) / z`` of ``z = re + i im``, which is 1 at 0.

    Below ``|z| = 1`` it is the power series in ``z^2``, whose 6 terms are exact in float32; there
    the quotient is imprecise and at 0 has neither value nor gradient.
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
        near = _times(square, near)
        near = 1 + near[0] / (2 * k * (2 * k + 1)), near[1] / (2 * k * (2 * k + 1))
    return jnp.where(small, near[0], far[0]), jnp.where(small, near[1], far[1])


def _zeros(like: Array) -> Pair:
    return jnp.zeros_like(like), jnp.zeros_like(like)


def _conj(z: Pair) -> Pair:
    return z[0], -z[1]


def _plus(x: Pair, y: Pair) -> Pair:
    return x[0] + y[0], x[1] + y[1]


def _minus(x: Pair, y: Pair) -> Pair:
    return x[0] - y[0], x[1] - y[1]


def _times_real(x: Pair, factor: Array | int) -> Pair:
    return x[0] * factor, x[1] * factor


def _times(x: Pair, y: Pair) -> Pair:
    """Complex product; ``x`` may lack the first axis of ``y``."""
    (a, b), (c, d) = x, y
    if a.ndim < c.ndim:
        a, b = a[None], b[None]
    return a * c - b * d, a * d + b * c


# ------------------------------------------------------------------ bands


def cells(
    kernels: int, low: float | int, high: float | int
) -> tuple[Float64[np.ndarray, " s"], Float64[np.ndarray, " s"]]:
    """Centres and half widths ``[s]`` of ``kernels`` cells that tile ``[low, high]``.

    Edges are evenly spaced in their logarithm, a centre is the geometric mean of its two edges
    (our reading). In the unit of ``low`` and ``high``. Raises ``InputError`` for an empty band.

    >>> centres, halves = cells(2, 0.01, 0.09)
    >>> centres.round(4).tolist(), halves.round(4).tolist()
    ([0.0173, 0.052], [0.01, 0.03])
    """
    if kernels < 1 or not 0 < low < high:
        raise InputError(
            f"there are no {kernels} cells from {low:g} up to {high:g} cycles per frame: take one "
            "or more, and 0 < low < high"
        )
    edges = np.geomspace(low, high, kernels + 1)
    return np.sqrt(edges[1:] * edges[:-1]), np.diff(edges) / 2


# ------------------------------------------------------------------ checks


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
