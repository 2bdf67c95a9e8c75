"""Multi-resolution block spectra (the STFNets hologram) in real arithmetic.

Blocks do not overlap and are not windowed (STFNets, section 3). A series ``[b t c]`` is cut into
``m`` blocks of the longest window, whose samples come first: ``[s b m c]``. A window of ``n``
samples cuts each block into ``p = s / n`` parts by a reshape alone, and its spectrum is
``[p 2 k b m c]``: part, real and imaginary, bin. So every transform is one matrix product over long
rows ``(b m c)``, and where the batch is sharded it needs no communication, as an FFT would.

Bins are ordered by the shortest window that has them (:func:`bin_order`).
"""

from __future__ import annotations

import functools
import itertools
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
    """Raises ``InputError`` unless every window divides the next one and ``samples``, and
    ``sizes``, the lengths after pooling, are even and shrink all windows by one factor.

    >>> check_windows((16, 24), (4, 6))
    Traceback (most recent call last):
    jfreq.ranges.InputError: windows: (16, 24) is not a chain of even lengths that divide the next
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
    """The bins of each window that no shorter window has: its part of the hologram.

    Bin ``k`` of a window is bin ``k / r`` of one ``r`` times shorter, where ``r`` divides ``k``.

    >>> [bins.tolist() for bins in native_bins((4, 8), (4, 8))]
    [[0, 1, 2], [1, 3]]
    """
    out = []
    for j, (n, size) in enumerate(zip(windows, sizes)):
        bins = np.arange(size // 2 + 1)
        ratios = [n // shorter for shorter in windows[:j]]
        out.append(bins[[all(k % r for r in ratios) for k in bins]])
    return tuple(out)


def bin_order(windows: Sizes, sizes: Sizes, j: int) -> np.ndarray:
    """The bins of window ``j``, ordered by the shortest window that has them.

    >>> bin_order((4, 8), (4, 8), 1).tolist()
    [0, 2, 4, 1, 3]
    """
    native = native_bins(windows, sizes)
    return np.concatenate([native[i] * (windows[j] // windows[i]) for i in range(j + 1)])


def to_blocks(x: Float[Array, "b t c"], longest: int) -> Float[Array, "s b m c"]:
    """Cuts series into blocks of ``s = longest`` samples, which become the first axis.

    >>> to_blocks(jnp.arange(4.0).reshape(1, 4, 1), 2)[:, 0, :, 0].tolist()
    [[0.0, 2.0], [1.0, 3.0]]
    """
    b, t, c = x.shape
    return x.reshape(b, t // longest, longest, c).transpose(2, 0, 1, 3)


def to_series(x: Float[Array, "s b m c"]) -> Float[Array, "b t c"]:
    """The inverse of :func:`to_blocks`.

    >>> x = jnp.arange(4.0).reshape(1, 4, 1)
    >>> bool((to_series(to_blocks(x, 2)) == x).all())
    True
    """
    s, b, m, c = x.shape
    return x.transpose(1, 2, 0, 3).reshape(b, m * s, c)


def hologram(
    x: Float[Array, "s b m c"], windows: Sizes, sizes: Sizes
) -> list[Float32[Array, "p 2 k b m c"]]:
    """The native bins of every resolution, from which all others are computed.

    >>> blocks = to_blocks(jnp.ones((1, 16, 1)), 8)
    >>> [part.shape for part in hologram(blocks, (4, 8), (4, 8))]
    [(2, 2, 3, 1, 2, 1), (1, 2, 2, 1, 2, 1)]
    """
    return [block_spectrum(x, n, bins) for n, bins in zip(windows, native_bins(windows, sizes))]


def block_spectrum(
    x: Float[Array, "s b m c"], n: int, bins: np.ndarray
) -> Float32[Array, "p 2 k b m c"]:
    """The DFT at ``bins`` of the blocks of ``n`` samples: forward sum, no scaling.

    >>> tone = to_blocks(jnp.cos(2 * jnp.pi * 2 * jnp.arange(8) / 8).reshape(1, 8, 1), 8)
    >>> spectrum = block_spectrum(tone, 8, np.arange(5))
    >>> int(spectrum[0, 0, :, 0, 0, 0].argmax()), round(float(spectrum.max()), 3)
    (2, 4.0)
    """
    parts = x.astype(jnp.float32).reshape(-1, n, *x.shape[1:])
    basis = _analysis(n, tuple(bins.tolist()))
    if bins.size and np.all(bins % 2):
        # Odd bins change sign after half a block, so that half of the product is enough.
        parts, basis = parts[:, : n // 2] - parts[:, n // 2 :], basis[..., : n // 2]
    out = _matmul_parts(basis.swapaxes(0, 1).reshape(2 * bins.size, -1), parts)
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

    >>> blocks = to_blocks(jnp.arange(8.0).reshape(1, 8, 1), 8)
    >>> short = block_spectrum(blocks, 4, np.arange(3))
    >>> long = block_spectrum(blocks, 8, np.array([0, 2, 4]))
    >>> bool(jnp.allclose(merge_blocks(short, 2), long, atol=1e-4))
    True
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
    x: Float[Array, "j v k b m c"], table: Float[Array, "u v"], bias: Float[Array, " u"]
) -> Float[Array, "j 2 k b m c"]:
    """``y_z = r sum_q alpha_q x_qz`` with ``alpha = softmax_q |s_q|`` and ``s = table x + bias``.

    ``x`` has rows ``v = (q z)``, ``s`` rows ``u = (z q)``: real and imaginary part ``z`` of block
    ``q``. The backward pass computes ``s``, which is as large as ``x``, again::

        dL_dalpha_q = r sum_z x_qz dL_dy_z
        dL_d|s|_q   = alpha_q (dL_dalpha_q - sum_q' alpha_q' dL_dalpha_q')
                    = alpha_q (dL_dalpha_q - sum_z y_z dL_dy_z)
        dL_ds_zq    = dL_d|s|_q s_zq / |s_q|, 0 where s_q = 0
        dL_dx       = tableT dL_ds + r alpha_q dL_dy_z
        dL_dtable   = sum dL_ds xT and dL_dbias = sum dL_ds, over all positions
    """
    _, _, alpha = _scores(x, table, bias)
    return _weighted_sum(x, alpha)


def _scores(x, table, bias):
    """``s`` as ``[j 2 q k b m c]``, its modulus and the softmax of that over ``q``."""
    s = _matmul_parts(table, x) + bias.reshape(1, -1, 1, 1, 1, 1)
    s = s.reshape(s.shape[0], 2, -1, *s.shape[2:])
    size = modulus(s[:, 0], s[:, 1])
    alpha = jnp.exp(size - size.max(axis=1, keepdims=True))
    # Term by term: a sum over this axis fused with the softmax crashes XLA:CPU (jax 0.10.2).
    total = _sum(alpha[:, q] for q in range(alpha.shape[1]))
    return s, size, alpha / total[:, None]


def _weighted_sum(x, alpha):
    ratio = alpha.shape[1]
    x = x.reshape(-1, ratio, 2, *x.shape[2:])
    return ratio * _sum(x[:, q] * alpha[:, q, None] for q in range(ratio))


def _sum(terms: Iterable[Array]) -> Array:
    return functools.reduce(jnp.add, terms)


def _merge_forward(x, table, bias):
    y = _merge(x, table, bias)
    return y, (x, table, bias, y)


def _merge_backward(saved, dL_dy):
    x, table, bias, y = saved
    s, size, alpha = _scores(x, table, bias)
    ratio = alpha.shape[1]
    blocks = x.reshape(-1, ratio, 2, *x.shape[2:])
    dL_dalpha = ratio * (blocks[:, :, 0] * dL_dy[:, None, 0] + blocks[:, :, 1] * dL_dy[:, None, 1])
    mean = y[:, 0] * dL_dy[:, 0] + y[:, 1] * dL_dy[:, 1]
    zero = size == 0
    dL_dsize = alpha * (dL_dalpha - mean[:, None])
    dL_ds = jnp.where(zero, 0.0, dL_dsize / jnp.where(zero, 1.0, size))[:, None] * s
    dL_ds = dL_ds.reshape(-1, 2 * ratio, *x.shape[2:])
    direct = ratio * alpha[:, :, None] * dL_dy[:, None]
    dL_dx = _matmul_parts(table.T, dL_ds) + direct.reshape(x.shape)
    dL_dtable = jnp.einsum(
        "ju...x,jv...x->j...uv", _flatten_rows(dL_ds), _flatten_rows(x), precision=_HIGHEST
    )
    return dL_dx, dL_dtable.reshape(-1, *table.shape).sum(0), dL_ds.sum((0, 2, 3, 4, 5))


_merge.defvjp(_merge_forward, _merge_backward)


def _matmul_parts(table, x: Float[Array, "p v ..."]) -> Float[Array, "p u ..."]:
    """``table [u v]`` times the rows of every part.

    The table is repeated for each part: with one free axis on each side, neither pass multiplies
    transposed copies, which would take most of the time on a CPU.
    """
    table = jnp.broadcast_to(table, (x.shape[0], *table.shape))
    over = (((2,), (1,)), ((0,), (0,)))
    out = jax.lax.dot_general(table, _flatten_rows(x), over, precision=_HIGHEST)
    return out.reshape(*out.shape[:2], *x.shape[2:])


def _flatten_rows(x: Float[Array, "p v ..."]) -> Float[Array, "p v ..."]:
    """``[p v k b m c]`` as ``[p v x]``, or as ``[p v k x]`` where the batch lies on several
    devices, so that no row changes its device; ``[p v b m c]`` as ``[p v x]``."""
    keep = 3 if x.ndim == 6 and sharding.devices() > 1 else 2
    return x.reshape(*x.shape[:keep], -1)


def modulus(real: Float[Array, ...], imag: Float[Array, ...]) -> Float[Array, ...]:
    """``|real + j imag|`` with gradient 0 at 0.

    >>> modulus(jnp.array([3.0, 0.0]), jnp.array([4.0, 0.0])).tolist()
    [5.0, 0.0]
    """
    power = jnp.square(real) + jnp.square(imag)
    zero = power == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, power)))


def whiten(
    spectrum: Float[Array, "p 2 k b m c"], eps: float = 1e-4, *, eps_in_covariance: bool = False
) -> tuple[Float[Array, "p k b m c"], Float[Array, "p k b m c"]]:
    """Complex layer normalisation: the real and imaginary parts of every row of the batch are
    centred and decorrelated over all parts, bins, blocks and channels.

    ``V ** -0.5 (z - mean(z))`` with ``V`` the 2 x 2 covariance of real and imaginary part. ``eps``
    is added to both variances.

    Rounding makes the determinant of ``V`` negative where all of ``z`` has one phase, as in a clean
    tone, so it is kept at its exact lower bound. Without ``eps`` it is not negative (Cauchy and
    Schwarz), so with trace ``t`` and determinant ``d`` of the covariance without ``eps``::

        det V = d + eps t + eps ** 2 >= eps t + eps ** 2
        det V = d + eps E(real - imag) ** 2 >= eps E(real - imag) ** 2, with eps_in_covariance

    Relative to the squared trace of ``V`` it is not taken for smaller than float32's rounding,
    2 ** -23, either: it is not known better than that, and values and gradients stay finite at any
    level, also for silence with ``eps_in_covariance``. Both variances grow by what the determinant
    lacks, so that they agree with it.

    Args:
        spectrum: The real and imaginary parts of the bins.
        eps: Added to the variance of the real and of the imaginary part.
        eps_in_covariance: Add ``eps`` to the covariance of both parts too. The released STFNets do
            so, and divide by zero on silence.

    Returns:
        Real and imaginary part.

    Reference:
        Trabelsi et al., Deep Complex Networks, ICLR 2018, section 3.5, with the statistics of a
        layer, as STFNets are released.

    >>> real, imag = whiten(jax.random.normal(jax.random.key(0), (1, 2, 8, 1, 16, 1)))
    >>> [bool(jnp.allclose(x, 0, atol=0.01)) for x in (real.std() - 1, (real * imag).mean())]
    [True, True]
    """

    def mean(x):
        return x.mean((0, 1, 3, 4), keepdims=True)

    real, imag = (x - mean(x) for x in (spectrum[:, 0], spectrum[:, 1]))
    vrr, vii = mean(jnp.square(real)) + eps, mean(jnp.square(imag)) + eps
    vri = mean(real * imag) + (eps if eps_in_covariance else 0.0)
    # All relative to the trace, so that no product overflows.
    trace = vrr + vii
    vrr, vii, vri, share = vrr / trace, vii / trace, vri / trace, eps / trace
    least = share * (1 - (2 * vri if eps_in_covariance else share))
    least = jnp.maximum(least, float(jnp.finfo(jnp.float32).eps))
    # V ** -0.5 = [[vii + s, -vri], [-vri, vrr + s]] / (s t), where s ** 2 = det V and
    # t ** 2 = trace V + 2 s.
    det = vrr * vii - jnp.square(vri)
    lacks = jax.lax.stop_gradient(jnp.maximum(least - det, 0))
    s = jnp.sqrt(jnp.maximum(det, least))
    scale = 1 / (s * jnp.sqrt((1 + 2 * s) * trace))
    rr, ii, ri = scale * (vii + lacks + s), scale * (vrr + lacks + s), -scale * vri
    return rr * real + ri * imag, ri * real + ii * imag


def pad_bins(
    real: Float[Array, "p f b m c"], imag: Float[Array, "p f b m c"], width: int
) -> tuple[Float[Array, "p g b m c"], Float[Array, "p g b m c"]]:
    """Spectral padding of bins in natural order by ``width`` bins on either side: the spectrum is
    mirrored and conjugated about bin 0 and the last bin, as the whole Hermitian spectrum is.

    >>> real = jnp.arange(4.0).reshape(1, 4, 1, 1, 1)
    >>> pad_bins(real, jnp.zeros_like(real), 1)[0].ravel().tolist()
    [1.0, 0.0, 1.0, 2.0, 3.0, 2.0]
    """

    def pad(x, sign):
        left, right = x[:, width:0:-1], x[:, -2 : -width - 2 : -1]
        return jnp.concatenate([sign * left, x, sign * right], axis=1)

    return pad(real, 1), pad(imag, -1)


def synthesise(
    spectrum: Float[Array, "p 2 k b m c"], n: int, bins: Sequence[int] | np.ndarray
) -> Float32[Array, "s b m c"]:
    """Blocks of ``n`` samples from their half spectrum at ``bins`` (any order), end to end.

    The imaginary parts of bin 0 and bin ``n / 2`` are ignored.

    >>> blocks = to_blocks(jnp.arange(8.0).reshape(1, 8, 1), 8)
    >>> spectrum = block_spectrum(blocks, 8, np.arange(5))
    >>> bool(jnp.allclose(synthesise(spectrum, 8, range(5)), blocks, atol=1e-4))
    True
    """
    basis = _synthesis(n, tuple(int(k) for k in bins))
    parts = _matmul_parts(basis, spectrum.reshape(-1, basis.shape[1], *spectrum.shape[3:]))
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
    """``[target source]`` float64: linear interpolation that keeps the first and the last point.

    >>> (align_corners(5, 3) @ [0.0, 1.0, 2.0]).tolist()
    [0.0, 0.5, 1.0, 1.5, 2.0]
    """
    at = np.linspace(0, source - 1, target) if target > 1 else np.zeros(1)
    low = np.minimum(at.astype(int), max(source - 2, 0))
    weight = at - low
    out = np.zeros((target, source))
    out[np.arange(target), low] = 1 - weight
    out[np.arange(target), np.minimum(low + 1, source - 1)] += weight
    return out


def tap_response(taps: int, n: int, *, zero_pad: bool) -> np.ndarray:
    """``[n//2+1 2 taps]`` float32: frequency response at length ``n`` of real taps.

    The DFT of the taps, resized by :func:`align_corners`; with ``zero_pad``, lengths above
    ``taps`` take the DFT of the zero-padded taps instead, the exact response.

    >>> tap_response(3, 8, zero_pad=True).shape
    (5, 2, 3)
    """
    if zero_pad and n > taps:
        return _analysis(n, tuple(range(n // 2 + 1)))[..., :taps]
    response = _analysis(taps, tuple(range(taps // 2 + 1)))
    resize = align_corners(n // 2 + 1, taps // 2 + 1)
    return np.einsum("fg,gzn->fzn", resize, response).astype(np.float32)


@functools.lru_cache(maxsize=16)
def merge_basis(ratio: int) -> np.ndarray:
    """``[r 2 2(r+1)]`` float32: bins 1 to r of the DFT of length 2(r+1), which turns the real
    parameters ``V[q, :]`` into the complex weights ``W[p, q]`` of a merge.

    >>> merge_basis(2).shape
    (2, 2, 6)
    """
    return _analysis(2 * (ratio + 1), tuple(range(1, ratio + 1)))
