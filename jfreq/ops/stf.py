"""Multi-resolution block spectra (the STFNets hologram) in real arithmetic.

Blocks do not overlap and are not windowed (STFNets, section 3). A series ``[b t c]`` is cut at the
longest window into ``m`` blocks and laid out *position first*, ``[s b m c]``: sample ``s`` of every
block. A window ``n`` cuts each of these into ``p = s / n`` parts without moving a byte, and its
spectrum is ``[p k 2 b m c]``: part, bin, real and imaginary. So every transform is one matrix
product over long rows ``(b m c)``. No FFT: a batch-sharded call stays where it is.

Bins stand in *owner order* (:func:`bin_order`): those taken from the shortest window first.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from jfreq.types import InputError

_HIGHEST = jax.lax.Precision.HIGHEST
Sizes = tuple[int, ...]
"""Block lengths, the shortest first."""


def check_windows(windows: Sizes, sizes: Sizes, samples: int | None = None) -> None:
    """Raises ``InputError`` unless windows are a divisor chain that fits.

    Each window divides the next and ``samples``; ``sizes``, the lengths after pooling, are even
    and shrink every window by one factor.
    """
    chain = bool(windows) and all(a < b and b % a == 0 for a, b in itertools.pairwise(windows))
    if not chain or min(windows) < 4 or min(windows) % 2:
        raise InputError(f"windows: {windows} is not a chain of even lengths that divide the next")
    ratios = {size / n for size, n in zip(sizes, windows)}
    if len(sizes) != len(windows) or len(ratios) > 1 or max(ratios) > 1 or min(sizes) % 2:
        raise InputError(
            f"pooled: {sizes} must shrink the windows {windows} by one factor to even lengths"
        )
    if samples is not None and samples % max(windows):
        raise InputError(
            f"windows: {samples} samples are not a multiple of the longest window "
            f"{max(windows)}; choose shorter windows or prepare with another --seconds"
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
) -> list[Float32[Array, "p k 2 b m c"]]:
    """The native bins of every resolution; all others are made from these."""
    return [block_spectrum(x, n, bins) for n, bins in zip(windows, native_bins(windows, sizes))]


def block_spectrum(
    x: Float[Array, "s b m c"], n: int, bins: np.ndarray
) -> Float32[Array, "p k 2 b m c"]:
    """The DFT at ``bins`` of the blocks of ``n`` samples: forward sum, no scaling."""
    parts = x.astype(jnp.float32).reshape(-1, n, *x.shape[1:])
    basis = _analysis(n, tuple(bins.tolist()))
    if bins.size and np.all(bins % 2):
        # Odd bins change sign after half a block: one butterfly halves the product.
        parts, basis = parts[:, : n // 2] - parts[:, n // 2 :], basis[..., : n // 2]
    return _each_part("pkzn,pnbmc->pkzbmc", basis, parts)


def merge_blocks(
    spectrum: Float[Array, "p k 2 b m c"],
    ratio: int,
    weight: Float[Array, "2 r r"] | None = None,
    bias: Float[Array, "2 r"] | None = None,
) -> Float[Array, "_ k 2 b m c"]:
    """Bins of ``ratio`` neighbouring blocks as one bin of the block ``ratio`` times as long.

    ``ratio * sum_q alpha_q S_q`` with ``alpha = softmax_q |sum_p S_p weight[p, q] + bias[q]|``
    (hologram interleaving). Without weights alpha is uniform and the result the exact DFT bin.
    """
    parts = spectrum.reshape(-1, ratio, *spectrum.shape[1:])
    if weight is None or bias is None:
        return parts.sum(axis=1)
    table = weight.swapaxes(1, 2).reshape(-1, ratio)
    by_weight = _each_part("pqr,prkzbmc->pqkzbmc", table, parts)
    by_weight = by_weight.reshape(-1, 2, *parts.shape[1:])
    shift = bias.reshape(2, 1, ratio, 1, 1, 1, 1)
    real = by_weight[:, 0, :, :, 0] - by_weight[:, 1, :, :, 1] + shift[0]
    imag = by_weight[:, 0, :, :, 1] + by_weight[:, 1, :, :, 0] + shift[1]
    share = jax.nn.softmax(modulus(real, imag), axis=1)
    # Terms one by one: a sum over this axis fused with the softmax crashes XLA:CPU (jax 0.10.2).
    terms = [parts[:, q] * share[:, q, :, None] for q in range(ratio)]
    return ratio * functools.reduce(jnp.add, terms)


def _each_part(form: str, table, x: Array) -> Array:
    """A matrix product of every part with one table; as a batched product, nothing is moved."""
    table = jnp.broadcast_to(table, (x.shape[0], *table.shape))
    return jnp.einsum(form, table, x, precision=_HIGHEST)


def modulus(real: Float[Array, ...], imag: Float[Array, ...]) -> Float[Array, ...]:
    """``|real + j imag|`` with gradient 0 at 0."""
    power = jnp.square(real) + jnp.square(imag)
    zero = power == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, power)))


def whiten(
    spectrum: Float[Array, "p k 2 b m c"], *, eps: float | int = 1e-4
) -> tuple[Float[Array, "p k b m c"], Float[Array, "p k b m c"]]:
    """Complex layer normalisation, ``(real, imag)``: each row's real and imaginary part centred
    and decorrelated over bins, blocks and channels together, by the inverse root of their 2 x 2
    covariance (deep complex networks' whitening with layer statistics, as STFNets release it).

    ``eps`` is added to both variances; the released code adds it to the covariance too, and
    divides by zero on silence.
    """
    axes = (0, 1, 3, 4)
    real, imag = spectrum[:, :, 0], spectrum[:, :, 1]
    real = real - real.mean(axes, keepdims=True)
    imag = imag - imag.mean(axes, keepdims=True)
    rr = jnp.mean(jnp.square(real), axes, keepdims=True) + eps
    ii = jnp.mean(jnp.square(imag), axes, keepdims=True) + eps
    ri = jnp.mean(real * imag, axes, keepdims=True)
    s = jnp.sqrt(rr * ii - jnp.square(ri))
    scale = 1 / (s * jnp.sqrt(rr + ii + 2 * s))
    a, d, o = scale * (ii + s), scale * (rr + s), -scale * ri
    return a * real + o * imag, o * real + d * imag


def pad_bins(
    real: Float[Array, "p f b m c"], imag: Float[Array, "p f b m c"], width: int
) -> tuple[Float[Array, "p f+2*{width} b m c"], Float[Array, "p f+2*{width} b m c"]]:
    """``width`` bins more on either side, in natural order: the slice of the whole Hermitian
    spectrum, mirrored and conjugated about bin 0 and the last bin (spectral padding)."""

    def pad(x, sign):
        left, right = x[:, width:0:-1], x[:, -2 : -width - 2 : -1]
        return jnp.concatenate([sign * left, x, sign * right], axis=1)

    return pad(real, 1), pad(imag, -1)


def synthesise(
    spectrum: Float[Array, "p k 2 b m c"], n: int, bins: Sequence[int] | np.ndarray
) -> Float32[Array, "s b m c"]:
    """Blocks of ``n`` samples from their half spectrum at ``bins`` (any order), end to end.

    The imaginary parts of bin 0 and bin ``n / 2`` are ignored.
    """
    basis = _synthesis(n, tuple(int(k) for k in bins))
    parts = _each_part("pnkz,pkzbmc->pnbmc", basis, spectrum)
    return parts.reshape(-1, *parts.shape[2:])


@functools.lru_cache(maxsize=64)
def _analysis(n: int, bins: tuple[int, ...]) -> np.ndarray:
    """``[k 2 n]`` float32: cosines, minus sines."""
    angle = _angles(n, bins)
    return np.stack([np.cos(angle), -np.sin(angle)], axis=1).astype(np.float32)


@functools.lru_cache(maxsize=64)
def _synthesis(n: int, bins: tuple[int, ...]) -> np.ndarray:
    """``[n k 2]`` float32; inner bins count twice, for their mirror images."""
    angle, k = _angles(n, bins), np.array(bins)
    weight = np.where((k == 0) | (2 * k == n), 1.0, 2.0)[:, None] / n
    basis = np.stack([weight * np.cos(angle), -weight * np.sin(angle)], axis=1)
    return basis.transpose(2, 0, 1).astype(np.float32)


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
