"""What a signal says about its tokens, and masks drawn by it ("PhyMask-style": only the abstract of
PhyMask is public; sheet section 2.c).

Planes are complex spectra ``real``, ``imag`` ``[b t f c]`` float32, patches ``(time, frequency)``;
the last patch of an axis may hang over the border. Scores are planes of tokens, flat tokens are
time-major. All are float32, without gradient, per sample, and do not change with the amplitude
while powers stay within float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jfreq.ops.coherence import beside, check_taps, cross_coherence, noise_floor, pair_coherence
from jfreq.types import InputError, Mask

Patch: TypeAlias = tuple[int, int]
"""(frames, bins)."""
Cells = Float[Array, "b t f c"]
Others = Float[Array, "b t3 f3 k"]
Tokens = Float[Array, "b t2 f2"]
Bins = Float[Array, " f"] | Float[np.ndarray, " f"]
Valid = Bool[Array, "..."] | Bool[np.ndarray, "..."]
"""False in padding: ``[t f]`` of the tokens, or by sample ``[b n]`` or ``[b t f]``."""

_QUIET = 1e-6
"""Of the loudest patch: what stands in for a median of zero."""

# ------------------------------------------------------------------ energy


def patch_energy(real: Cells, imag: Cells, patch: Patch) -> Tokens:
    """Sum of ``|z|^2`` over the cells and channels of every patch."""
    return _pooled(jnp.sum(jnp.square(real) + jnp.square(imag), axis=-1), patch, mean=False)


def energy(
    real: Cells,
    imag: Cells,
    patch: Patch,
    *,
    spectrum: Bins | None = None,
    span: tuple[Bins, Bins] | None = None,
    valid: Valid | None = None,
) -> Tokens:
    """How loud a patch is, 0 to 1: ``log(1 + e / median(e))`` of its mean power ``e``, min-max
    normalised in the sample.

    ``spectrum`` is an average power by bin to whiten by, in any unit; bins where it is 0 are left
    out. ``span`` gives the least and largest power of every bin in a data set (summed over
    channels) instead: the score is then the mean over the patch of the power's place between them,
    which does change with the amplitude. Padding scores 0, and so does every patch of a sample
    whose patches are equally loud, or silent. Raises ``InputError`` for both options at once.
    """
    if spectrum is not None and span is not None:
        raise InputError("energy: whiten by spectrum or place within span, not both")
    power = jnp.sum(jnp.square(real) + jnp.square(imag), axis=-1)
    if span is not None:
        low, high = (jnp.asarray(x)[None, None] for x in span)
        place = jnp.where(high > low, (power - low) / jnp.where(high > low, high - low, 1.0), 0.0)
        score = _pooled(jnp.clip(place, 0.0, 1.0), patch)
        return jax.lax.stop_gradient(jnp.where(_valid(valid, score), score, 0.0))
    if spectrum is not None:
        level = jnp.asarray(spectrum)[None, None]
        power = jnp.where(level > 0, power / jnp.where(level > 0, level, 1.0), 0.0)
    e = _pooled(power, patch)
    return jax.lax.stop_gradient(_normalised(e, _valid(valid, e)))


def _normalised(e: Tokens, valid: Bool[Array, "b t2 f2"]) -> Tokens:
    b = e.shape[0]
    flat, seen = e.reshape(b, -1), valid.reshape(b, -1)
    rising = jnp.sort(jnp.where(seen, flat, jnp.inf), axis=-1)
    number = jnp.maximum(jnp.sum(seen, axis=-1, keepdims=True), 1)
    halves = jnp.concatenate([(number - 1) // 2, number // 2, number - 1], axis=-1)
    middle = jnp.take_along_axis(rising, halves, axis=-1, mode="clip")
    top = middle[:, 2:]
    median = 0.5 * (middle[:, :1] + middle[:, 1:2])
    unit = jnp.maximum(median, _QUIET * top)
    some = (unit > 0) & jnp.isfinite(unit)
    loud = jnp.log1p(flat / jnp.where(some, unit, 1.0))
    low = jnp.min(jnp.where(seen, loud, jnp.inf), axis=-1, keepdims=True)
    high = jnp.max(jnp.where(seen, loud, -jnp.inf), axis=-1, keepdims=True)
    # Patches that differ by rounding only are equally loud.
    spread = some & (high - low > 1e-4)
    score = (loud - low) / jnp.where(spread, high - low, 1.0)
    return jnp.where(seen & spread, score, 0.0).reshape(e.shape)


def entropy(
    real: Cells, imag: Cells, patch: Patch, valid: Valid | None = None
) -> Float[Array, " b"]:
    """Entropy in nats of how the energy of a sample is spread over its patches; 0 for silence."""
    e = patch_energy(real, imag, patch)
    e = jnp.where(_valid(valid, e), e, 0.0)
    whole = jnp.sum(e, axis=(1, 2), keepdims=True)
    p = e / jnp.where(whole > 0, whole, 1.0)
    return jax.lax.stop_gradient(jnp.sum(jax.scipy.special.entr(p), axis=(1, 2)))


# ------------------------------------------------------------------ coherence


def coherence(
    real: Cells,
    imag: Cells,
    patch: Patch,
    *,
    taps: int = 11,
    other: tuple[Others, Others] | None = None,
) -> Tokens:
    """How well a patch follows from its neighbours in time, 0 (white noise) to 1.

    The mean coherence of its cells with the frames beside them, minus what white noise
    gives (:func:`jfreq.ops.coherence.noise_floor`) and stretched so that 1 stays 1. With ``other``,
    spectra of a sensor with the same frames and bins, ``cross_coherence`` of both instead. All 0
    for a single bin, where nothing can be averaged, and for a single frame without ``other``. The
    floor holds for frames that do not overlap; those that do are coherent by themselves.

    Raises ``InputError`` for ``taps`` that are even or below 3, and for another shape of ``other``.
    """
    check_taps(taps)
    frames, bins, channels = real.shape[1:]
    if bins == 1 or (other is None and frames == 1):
        return jnp.zeros((real.shape[0], -(-frames // patch[0]), -(-bins // patch[1])))
    if other is None:
        pairs, live = pair_coherence(real, imag, taps=taps)
        # Along frequency first: what comes after is small.
        gamma = _pooled(beside(_pooled(pairs, (1, patch[1])), live), (patch[0], 1))
    else:
        gamma = _pooled(cross_coherence((real, imag), other, taps=taps), patch)
        channels = 1
    noise = np.asarray(noise_floor(bins, taps=taps, channels=channels), np.float32)
    floor = _pooled(jnp.asarray(noise)[None, None], (1, patch[1]))
    return jax.lax.stop_gradient(jnp.clip((gamma - floor) / (1.0 - floor), 0.0, 1.0))


# ------------------------------------------------------------------ masks


def importance(energy: Tokens, coherence: Tokens, alpha: float | int) -> Float[Array, "b n"]:
    """``alpha * energy + (1 - alpha) * coherence``, flat and time-major.

    Raises ``InputError`` for ``alpha`` outside [0, 1].
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha: must lie between 0 (coherence) and 1 (energy), got {alpha:g}")
    return (alpha * energy + (1 - alpha) * coherence).reshape(energy.shape[0], -1)


def keep_by_importance(
    key: Key[Array, ""],
    scores: Float[Array, "b n"],
    keep: int,
    *,
    temperature: float | int | Float[Array, ""],
    floor: float | int = 0.0,
    sign: Literal[1, -1] = 1,
    valid: Valid | None = None,
) -> Mask:
    """Keeps ``keep`` tokens by Gumbel-top-K on ``sign * scores / temperature``; the others are
    masked.

    At temperature 0 these are the highest scores (lowest for ``sign`` -1) with ties broken at
    random, towards infinity any tokens. The share ``floor`` of them is drawn uniformly from what
    the scores left, so that no token is never seen. Padding is kept only where nothing else is
    left. Raises ``InputError`` unless ``keep`` leaves tokens on both sides, and for ``floor``
    outside [0, 1].
    """
    b, n = scores.shape
    if not 1 <= keep < n:
        raise InputError(f"mask: {keep} of {n} tokens cannot be kept; choose 1 to {n - 1}")
    if not 0 <= floor <= 1:
        raise InputError(f"mask: floor must lie between 0 and 1, got {floor:g}")
    seen = jnp.ones((b, n), bool) if valid is None else jnp.broadcast_to(_rows(valid, n), (b, n))
    noise_key, rest_key, round_key = jax.random.split(key, 3)
    noise = jax.random.gumbel(noise_key, (b, n))
    # Multiplied, not divided: defined at 0; the noise itself then breaks ties.
    rank = sign * scores + jnp.minimum(temperature, 1e6) * noise
    ids = jax.lax.broadcasted_iota(jnp.int32, (b, n), 1)
    order = jax.lax.sort((~seen, -rank, -noise, ids), num_keys=3)[3]
    if floor > 0:
        # Rounded at random: a tenth of three tokens is one of them in three draws of ten.
        top = keep - jnp.floor(floor * keep + jax.random.uniform(round_key, (b, 1)))
        left = jnp.take_along_axis(seen, order, axis=1, mode="clip")
        place = jax.random.uniform(rest_key, (b, n)) + jnp.where(left, 0.0, 1.0)
        place = jnp.where(ids < top, -1.0, place)
        order = jnp.take_along_axis(order, jnp.argsort(place, axis=1), axis=1, mode="clip")
    restore = jnp.argsort(order, axis=1).astype(jnp.int32)
    return Mask(order[:, :keep], order[:, keep:], restore)


def temperature(
    step: int | Int[Array, ""],
    steps: int,
    *,
    start: float | int = 1.0,
    end: float | int = 0.1,
    share: float | int = 0.5,
) -> Float[Array, ""]:
    """From ``start`` to ``end`` along half a cosine over the first ``share`` of ``steps``."""
    done = jnp.clip(jnp.asarray(step, jnp.float32) / max(share * steps, 1.0), 0.0, 1.0)
    return end + (start - end) * 0.5 * (1.0 + jnp.cos(jnp.pi * done))


def budgets(counts: Sequence[int], ratio: float, entropies: Sequence[float]) -> tuple[int, ...]:
    """How many tokens each modality keeps when ``ratio`` of all are masked.

    The sum over modalities of ``max(1, round((1 - ratio) * count))`` is shared out in proportion to
    ``exp(entropy)``, the number of patches that hold the energy; at least one each and never all.
    Raises ``InputError`` for a ratio outside (0, 1), for a modality of fewer than two tokens, and
    unless there is one finite entropy for each.
    """
    if not 0 < ratio < 1:
        raise InputError(f"mask: ratio must lie between 0 and 1, got {ratio:g}")
    if len(entropies) != len(counts) or not np.all(np.isfinite(entropies)):
        raise InputError(f"mask: {len(counts)} modalities need a finite entropy each: {entropies}")
    if min(counts) < 2:
        raise InputError(
            f"mask: modalities of {tuple(counts)} tokens: one token cannot be both kept and masked;"
            " take smaller patches or longer windows"
        )
    whole = sum(min(n - 1, max(1, round((1 - ratio) * n))) for n in counts)
    weight = np.exp(np.asarray(entropies, float) - np.max(entropies))
    fair = whole * weight / weight.sum()
    out = np.ones(len(counts), int)
    for _ in range(whole - len(counts)):
        out[np.argmax(np.where(out < np.asarray(counts) - 1, fair - out, -np.inf))] += 1
    return tuple(int(k) for k in out)


# ------------------------------------------------------------------ patches


def _pooled(x: Float[Array, "b t f"], patch: Patch, *, mean: bool = True) -> Tokens:
    """Mean or sum over the cells of every patch that lie on the plane.

    By small matrices: XLA:CPU would fuse a reduction with all that made ``x``, which took 2 to 15
    times as long for coherence.
    """
    for axis, side in enumerate(patch, start=1):
        if side > 1:
            size = x.shape[axis]
            inside = np.arange(size)[:, None] // side == np.arange(-(-size // side))
            weight = inside / inside.sum(axis=0) if mean else inside
            axes = "btf,tu->buf" if axis == 1 else "btf,fu->btu"
            x = jnp.einsum(axes, x, weight.astype(np.float32), precision=jax.lax.Precision.HIGHEST)
    return x


def _rows(valid: Valid, n: int) -> Bool[Array, "b n"]:
    return jnp.asarray(valid).reshape(-1, n)


def _valid(valid: Valid | None, like: Tokens) -> Bool[Array, "b t2 f2"]:
    if valid is None:
        return jnp.ones(like.shape, bool)
    n = like.shape[1] * like.shape[2]
    return jnp.broadcast_to(_rows(valid, n).reshape(-1, *like.shape[1:]), like.shape)
