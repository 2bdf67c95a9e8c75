"""Multi-resolution block spectra (the STFNets hologram) in real arithmetic.

Blocks do not overlap and are not windowed (STFNets, section 3). A series ``[b t c]`` is cut at the
longest window into ``m`` blocks and laid out *position first*, ``[s b m c]``: sample ``s`` of every
block. A window ``n`` cuts each of these into ``p = s / n`` parts without moving a byte, and its
spectrum is ``[p 2 k b m c]``: part, real and imaginary, bin. So every transform is one matrix
product over long rows ``(b m c)``. No FFT: a batch-sharded call stays where it is.

Bins stand in *owner order* (:func:`bin_order`): those taken from the shortest window first.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from jfreq import sharding
from jfreq.types import InputError

_HIGHEST = jax.lax.Precision.HIGHEST
Sizes = tuple[int, ...]


def check_windows(windows: Sizes, sizes: Sizes, samples: int | None = None) -> None:
    """Raises ``InputError`` unless windows are a divisor chain that fits.

    Each window divides the next and ``samples``; ``sizes``, the lengths after pooling, are even
    and shrink every window by one factor.
    """
    chain = bool(windows) and all(a < b and b % a == 0 for a, b in itertools.pairwise(windows))
    if not chain or windows[0] < 4 or windows[0] % 2:
        raise InputError(f"windows: {windows} is not a chain of even lengths that divide the next")
    ratios = {n * windows[0] == m * sizes[0] for n, m in zip(sizes, windows)}
    if len(sizes) != len(windows) or ratios != {True} or sizes[0] % 2 or sizes[0] > windows[0]:
        raise InputError(
            f"pooled: {sizes} must shrink the windows {windows} by one factor to even lengths"
        )
    if samples is not None and samples % windows[-1]:
        raise InputError(
            f"windows: {samples} samples are not a multiple of the longest window "
            f"{windows[-1]}; choose shorter windows or prepare with another --seconds"
        )


@functools.lru_cache(maxsize=64)
def native_bins(windows: Sizes, sizes: Sizes) -> tuple[np.ndarray, ...]:
    """For each window the bins that no shorter window has: its own part of the hologram.

    Bin ``k`` of a window is bin ``k / r`` of one ``r`` times shorter, where ``r`` divides ``k``.
    """
    out = []
    for j, (n, size) in enumerate(zip(windows, sizes)):
        bins = np.arange(size // 2 + 1)
        ratios = [n // shorter for shorter in windows[:j]]
        out.append(bins[[all(k % r for r in ratios) for k in bins]])
    return tuple(out)


def bin_order(windows: Sizes, sizes: Sizes, j: int) -> np.ndarray:
    """The bins of window ``j`` in owner order: those of the shortest window first."""
    native = native_bins(windows, sizes)
    return np.concatenate([native[i] * (windows[j] // windows[i]) for i in range(j + 1)])


def to_blocks(x: Float[Array, "b t c"], longest: int) -> Float[Array, "s b m c"]:
    """Position first, ``s = longest``."""
    b, t, c = x.shape
    return x.reshape(b, t // longest, longest, c).transpose(2, 0, 1, 3)


def to_series(x: Float[Array, "s b m c"]) -> Float[Array, "b t c"]:
    """The inverse of :func:`to_blocks`."""
    s, b, m, c = x.shape
    return x.transpose(1, 2, 0, 3).reshape(b, m * s, c)


def hologram(
    x: Float[Array, "s b m c"], windows: Sizes, sizes: Sizes
) -> list[Float32[Array, "p 2 k b m c"]]:
    """The native bins of every resolution; all others are made from these."""
    return [block_spectrum(x, n, bins) for n, bins in zip(windows, native_bins(windows, sizes))]


def block_spectrum(
    x: Float[Array, "s b m c"], n: int, bins: np.ndarray
) -> Float32[Array, "p 2 k b m c"]:
    """The DFT at ``bins`` of the blocks of ``n`` samples: forward sum, no scaling."""
    parts = x.astype(jnp.float32).reshape(-1, n, *x.shape[1:])
    basis = _analysis(n, tuple(bins.tolist()))
    if bins.size and np.all(bins % 2):
        # Odd bins change sign after half a block: one butterfly halves the product.
        parts, basis = parts[:, : n // 2] - parts[:, n // 2 :], basis[..., : n // 2]
    out = _each_part(basis.swapaxes(0, 1).reshape(2 * bins.size, -1), parts)
    return out.reshape(-1, 2, bins.size, *x.shape[1:])


def merge_blocks(
    spectrum: Float[Array, "p 2 k b m c"],
    ratio: int,
    weight: Float[Array, "2 r r"] | None = None,
    bias: Float[Array, "2 r"] | None = None,
) -> Float[Array, "j 2 k b m c"]:
    """Bins of ``ratio`` neighbouring blocks as one bin of the block ``ratio`` times as long.

    ``ratio * sum_q alpha_q S_q`` with ``alpha = softmax_q |sum_p S_p weight[p, q] + bias[q]|``
    (hologram interleaving). Without weights alpha is uniform and the result the exact DFT bin.
    """
    if weight is None or bias is None:
        return spectrum.reshape(-1, ratio, *spectrum.shape[1:]).sum(axis=1)
    real, imag = weight
    # The complex matrix as a real one: rows (z q) of the scores, columns (p z) of the spectra.
    rows = [jnp.stack([real, -imag], axis=-1), jnp.stack([imag, real], axis=-1)]
    table = jnp.stack(rows).transpose(0, 2, 1, 3).reshape(2 * ratio, 2 * ratio)
    parts = spectrum.reshape(-1, 2 * ratio, *spectrum.shape[2:])
    return _merge(parts, table, bias.reshape(-1))


@jax.custom_vjp
def _merge(
    parts: Float[Array, "j v k b m c"], table: Float[Array, "u v"], bias: Float[Array, " u"]
) -> Float[Array, "j 2 k b m c"]:
    """Parts as rows ``(p z)``. The gradient computes the scores again instead of keeping them,
    and has every sum over positions as a matrix product."""
    _, _, share = _shares(parts, table, bias)
    return _mixed(parts, share)


def _shares(parts, table, bias):
    """Scores ``[j 2 q k b m c]``, their modulus and its softmax over ``q``."""
    scores = _each_part(table, parts) + bias.reshape(1, -1, 1, 1, 1, 1)
    scores = scores.reshape(scores.shape[0], 2, -1, *scores.shape[2:])
    size = modulus(scores[:, 0], scores[:, 1])
    share = jnp.exp(size - size.max(axis=1, keepdims=True))
    # Term by term: a sum over this axis fused with the softmax crashes XLA:CPU (jax 0.10.2).
    total = _sum(share[:, q] for q in range(share.shape[1]))
    return scores, size, share / total[:, None]


def _mixed(parts, share):
    ratio = share.shape[1]
    parts = parts.reshape(-1, ratio, 2, *parts.shape[2:])
    return ratio * _sum(parts[:, q] * share[:, q, None] for q in range(ratio))


def _sum(terms: Iterable[Array]) -> Array:
    return functools.reduce(jnp.add, terms)


def _merge_forward(parts, table, bias):
    merged = _merge(parts, table, bias)
    return merged, (parts, table, bias, merged)


def _merge_backward(kept, grad):
    parts, table, bias, merged = kept
    scores, size, share = _shares(parts, table, bias)
    ratio = size.shape[1]
    by_part = parts.reshape(-1, ratio, 2, *parts.shape[2:])
    pull = ratio * (by_part[:, :, 0] * grad[:, None, 0] + by_part[:, :, 1] * grad[:, None, 1])
    mean = merged[:, 0] * grad[:, 0] + merged[:, 1] * grad[:, 1]
    zero = size == 0
    pull = jnp.where(zero, 0.0, share * (pull - mean[:, None]) / jnp.where(zero, 1.0, size))
    to_scores = (pull[:, None] * scores).reshape(-1, 2 * ratio, *parts.shape[2:])
    direct = ratio * share[:, :, None] * grad[:, None]
    to_parts = _each_part(table.T, to_scores) + direct.reshape(parts.shape)
    to_table = jnp.einsum(
        "ju...x,jv...x->j...uv", _joined(to_scores), _joined(parts), precision=_HIGHEST
    )
    to_table = to_table.reshape(-1, *table.shape).sum(0)
    return to_parts, to_table, to_scores.sum((0, 2, 3, 4, 5))


_merge.defvjp(_merge_forward, _merge_backward)


@jax.custom_vjp
def _each_part(table, x: Float[Array, "p v ..."]) -> Float[Array, "p u ..."]:
    """``table [u v]`` times the rows of every part; constant in ``table``.

    A batched product of operands with one free axis each, forward and backward: any other form is
    a product of transposed copies on CPU.
    """
    table = jnp.broadcast_to(table, (x.shape[0], *table.shape))
    rows = _joined(x)
    over = (((2,), (1,)), ((0,), (0,)))
    out = jax.lax.dot_general(table, rows, over, precision=_HIGHEST)
    return out.reshape(*out.shape[:2], *x.shape[2:])


def _each_part_forward(table, x):
    return _each_part(table, x), table


def _each_part_backward(table, grad):
    return None, _each_part(table.T, grad)


_each_part.defvjp(_each_part_forward, _each_part_backward)


def _settled(x: Float[Array, "p v ..."]) -> Float[Array, "p v ..."]:
    """``x``, computed once: XLA:CPU would compute it again in each loop that reads it, and sees no
    barrier but a matrix product."""
    return _each_part(jnp.eye(x.shape[1], dtype=x.dtype), x)


def _joined(x: Float[Array, "p v ..."]) -> Float[Array, "p v ..."]:
    """``[p v k b m c]`` as ``[p v x]``, or, where the batch lies on several devices,
    ``[p v k x]``; ``[p v b m c]`` as ``[p v x]``: no device boundary is moved."""
    keep = 3 if x.ndim == 6 and sharding.devices() > 1 else 2
    return x.reshape(*x.shape[:keep], -1)


def modulus(real: Float[Array, ...], imag: Float[Array, ...]) -> Float[Array, ...]:
    """``|real + j imag|`` with gradient 0 at 0."""
    power = jnp.square(real) + jnp.square(imag)
    zero = power == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, power)))


def whiten(
    spectrum: Float[Array, "p 2 k b m c"], eps: float = 1e-4
) -> tuple[Float[Array, "p k b m c"], Float[Array, "p k b m c"]]:
    """Complex layer normalisation, ``(real, imag)``: each row's real and imaginary part centred
    and decorrelated over bins, blocks and channels together, by the inverse root of their 2 x 2
    covariance (deep complex networks' whitening with layer statistics, as STFNets release it).

    ``eps`` is added to both variances; the released code adds it to the covariance too, and
    divides by zero on silence.
    """
    return _whiten(spectrum, eps)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _whiten(spectrum, eps):
    return _whiten_forward(spectrum, eps)[0]


def _whiten_forward(spectrum, eps):
    rows = _Rows(spectrum)
    flat = rows.flat(spectrum)
    mean = rows.mean(flat)
    centred = flat - rows.spread(mean)
    rr, ii = rows.mean(jnp.square(centred)) + eps
    covariance = (rr, ii, rows.mean(centred[:, 0] * centred[:, 1]))
    a, d, o = (rows.spread(x) for x in _inverse_root(*covariance))
    real, imag = centred[:, 0], centred[:, 1]
    out = rows.unflat(a * real + o * imag), rows.unflat(o * real + d * imag)
    return out, (spectrum, mean, covariance)


def _whiten_backward(eps, kept, grads):
    del eps
    spectrum, mean, covariance = kept
    rows = _Rows(spectrum)
    centred = rows.flat(spectrum) - rows.spread(mean)
    real, imag = centred[:, 0], centred[:, 1]
    to_real, to_imag = (rows.flat(x) for x in grads)
    (a, d, o), pull = jax.vjp(_inverse_root, *covariance)
    to_root = (to_real * real, to_imag * imag, to_real * imag + to_imag * real)
    rr, ii, ri = pull(tuple(rows.mean(x) for x in to_root))
    shift_real, shift_imag = rows.mean(to_real), rows.mean(to_imag)
    shift = jnp.stack([a * shift_real + o * shift_imag, o * shift_real + d * shift_imag])
    by = [jnp.stack(x) for x in ((a, o), (o, d), (2 * rr, ri), (ri, 2 * ii))]
    by_real, by_imag, by_own_real, by_own_imag, shift = (rows.spread(x) for x in (*by, shift))
    out = by_real * to_real[:, None] + by_imag * to_imag[:, None] - shift
    out = out + by_own_real * real[:, None] + by_own_imag * imag[:, None]
    return (_settled(out.reshape(spectrum.shape)),)


_whiten.defvjp(_whiten_forward, _whiten_backward)


class _Rows:
    """Spectra ``[p 2 k b m c]`` with the last three axes as one, and what belongs to each row b.

    XLA:CPU makes vector code of a loop over these; one that divides positions by ``m c`` it does
    not.
    """

    def __init__(self, spectrum: Float[Array, "p 2 k b m c"]):
        parts, _, bins, *self.rest = spectrum.shape
        self.count = parts * bins * math.prod(self.rest[1:])

    def flat(self, x):
        """``[... b m c]`` to ``[... x]``."""
        return x.reshape(*x.shape[:-3], -1)

    def unflat(self, x):
        return x.reshape(*x.shape[:-1], *self.rest)

    def mean(self, x):
        """``[p (2) k x]`` to ``[(2) b]``."""
        total = x.sum((0, -2))
        return total.reshape(*total.shape[:-1], self.rest[0], -1).sum(-1) / self.count

    def spread(self, x):
        """``[2 b]`` to ``[1 2 1 x]``, ``[b]`` to ``[1 1 x]``; as a product, or it would join the
        loops that read it."""
        ones = jnp.ones((2, math.prod(self.rest[1:])), x.dtype)
        out = jnp.einsum(
            "...bi,ix->...bx", jnp.stack([x, x], axis=-1) / 2, ones, precision=_HIGHEST
        )
        return out.reshape((1, 2, 1, -1) if x.ndim == 2 else (1, 1, -1))


def _inverse_root(rr, ii, ri):
    """Diagonal and off-diagonal entries of ``[[rr, ri], [ri, ii]] ** -0.5``."""
    s = jnp.sqrt(rr * ii - jnp.square(ri))
    scale = 1 / (s * jnp.sqrt(rr + ii + 2 * s))
    return scale * (ii + s), scale * (rr + s), -scale * ri


def pad_bins(
    real: Float[Array, "p f b m c"], imag: Float[Array, "p f b m c"], width: int
) -> tuple[Float[Array, "p g b m c"], Float[Array, "p g b m c"]]:
    """``width`` bins more on either side, in natural order: the slice of the whole Hermitian
    spectrum, mirrored and conjugated about bin 0 and the last bin (spectral padding)."""

    def pad(x, sign):
        left, right = x[:, width:0:-1], x[:, -2 : -width - 2 : -1]
        return jnp.concatenate([sign * left, x, sign * right], axis=1)

    return pad(real, 1), pad(imag, -1)


def synthesise(
    spectrum: Float[Array, "p 2 k b m c"], n: int, bins: Sequence[int] | np.ndarray
) -> Float32[Array, "s b m c"]:
    """Blocks of ``n`` samples from their half spectrum at ``bins`` (any order), end to end.

    The imaginary parts of bin 0 and bin ``n / 2`` are ignored.
    """
    basis = _synthesis(n, tuple(int(k) for k in bins))
    parts = _each_part(basis, spectrum.reshape(-1, basis.shape[1], *spectrum.shape[3:]))
    return parts.reshape(-1, *parts.shape[2:])


@functools.lru_cache(maxsize=64)
def _analysis(n: int, bins: tuple[int, ...]) -> np.ndarray:
    """``[k 2 n]`` float32: cosines, minus sines."""
    angle = _angles(n, bins)
    return np.stack([np.cos(angle), -np.sin(angle)], axis=1).astype(np.float32)


@functools.lru_cache(maxsize=64)
def _synthesis(n: int, bins: tuple[int, ...]) -> np.ndarray:
    """``[n 2k]`` float32, real then imaginary; inner bins count twice, for their mirror images."""
    angle, k = _angles(n, bins), np.array(bins)
    weight = np.where((k == 0) | (2 * k == n), 1.0, 2.0)[:, None] / n
    basis = np.stack([weight * np.cos(angle), -weight * np.sin(angle)], axis=1)
    return basis.transpose(2, 1, 0).reshape(n, -1).astype(np.float32)


def _angles(n: int, bins: tuple[int, ...]) -> np.ndarray:
    """``[k n]`` radians; the product is reduced as an integer to keep full precision."""
    return 2 * np.pi * (np.array(bins, int)[:, None] * np.arange(n) % n) / n


# ------------------------------------------------------------ constant maps of filters and merges


@functools.lru_cache(maxsize=64)
def align_corners(target: int, source: int) -> np.ndarray:
    """``[target source]`` float64: linear interpolation that keeps the first and the last point."""
    at = np.linspace(0, source - 1, target) if target > 1 else np.zeros(1)
    low = np.minimum(at.astype(int), max(source - 2, 0))
    share = at - low
    out = np.zeros((target, source))
    out[np.arange(target), low] = 1 - share
    out[np.arange(target), np.minimum(low + 1, source - 1)] += share
    return out


def tap_response(taps: int, n: int, *, zero_pad: bool) -> np.ndarray:
    """``[n//2+1 2 taps]`` float32: frequency response at length ``n`` of real taps.

    Their own DFT resized by :func:`align_corners`; with ``zero_pad``, lengths above ``taps`` take
    the DFT of the zero-padded taps instead, the exact response.
    """
    if zero_pad and n > taps:
        return _analysis(n, tuple(range(n // 2 + 1)))[..., :taps]
    own = _analysis(taps, tuple(range(taps // 2 + 1)))
    resize = align_corners(n // 2 + 1, taps // 2 + 1)
    return np.einsum("fg,gzn->fzn", resize, own).astype(np.float32)


@functools.lru_cache(maxsize=16)
def merge_basis(ratio: int) -> np.ndarray:
    """``[r 2 2(r+1)]`` float32: bins 1 to r of the DFT of length 2(r+1), which make the complex
    merge weights ``W[p, q]`` of real parameters ``V[q, :]``."""
    return _analysis(2 * (ratio + 1), tuple(range(1, ratio + 1)))
