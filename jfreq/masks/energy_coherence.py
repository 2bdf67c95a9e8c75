"""Scores of tokens by energy and coherence, and masks sampled by these scores.

This is "PhyMask-style": only the abstract of PhyMask is public (docs/phymask.md). Spectra are
complex, ``real`` and ``imag`` ``[b t f c]`` float32; patches are ``(time, frequency)``, and the
last patch of an axis may reach beyond the border. Scores are ``[b t f]`` over patches, or flat
``[b n]`` and then time-major. They are float32 without a gradient, depend on one sample only and
do not change with the amplitude while powers stay within float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jfreq.ops.coherence import (
    check_taps,
    cross_coherence,
    pair_coherence,
    pairs_to_frames,
    white_noise_coherence,
)
from jfreq.types import InputError, Mask

Patch: TypeAlias = tuple[int, int]
"""(frames, bins)."""
Cells = Float[Array, "b t f c"]
Others = Float[Array, "b t3 f3 k"]
Tokens = Float[Array, "b t2 f2"]

_QUIET = 1e-6
"""The least that the median counts as, as a fraction of the power of the loudest patch."""

# ------------------------------------------------------------------ energy


def patch_energy(real: Cells, imag: Cells, patch: Patch) -> Tokens:
    """Sum of ``|z|^2`` over the cells and channels of every patch."""
    return _pooled(jnp.sum(jnp.square(real) + jnp.square(imag), axis=-1), patch, mean=False)


def energy(real: Cells, imag: Cells, patch: Patch) -> Tokens:
    """How loud a patch is, 0 to 1: ``log(1 + e / median(e))`` of its mean power ``e``, min-max
    normalised within the sample.

    It is 0 in a sample that is silent or whose patches are equally loud.
    """
    power = _pooled(jnp.sum(jnp.square(real) + jnp.square(imag), axis=-1), patch)
    flat = power.reshape(power.shape[0], -1)
    ascending, n = jnp.sort(flat, axis=-1), flat.shape[1]
    median = (ascending[:, (n - 1) // 2] + ascending[:, n // 2])[:, None] / 2
    reference = jnp.maximum(median, _QUIET * ascending[:, -1:])
    audible = (reference > 0) & jnp.isfinite(reference)
    loudness = jnp.log1p(flat / jnp.where(audible, reference, 1.0))
    low, high = (f(loudness, axis=-1, keepdims=True) for f in (jnp.min, jnp.max))
    # Patches that differ by rounding only are equally loud.
    differs = audible & (high - low > 1e-4)
    score = jnp.where(differs, (loudness - low) / jnp.where(differs, high - low, 1.0), 0.0)
    return jax.lax.stop_gradient(score.reshape(power.shape))


def entropy(real: Cells, imag: Cells, patch: Patch) -> Float[Array, " b"]:
    """Entropy in nats of the distribution of a sample's energy over its patches; 0 for silence."""
    e = patch_energy(real, imag, patch)
    total = jnp.sum(e, axis=(1, 2), keepdims=True)
    p = e / jnp.where(total > 0, total, 1.0)
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
    """How coherent a patch is with its neighbours in time, 0 (white noise) to 1.

    The score is the mean coherence of its cells with the neighbouring frames, less that of white
    noise (:func:`jfreq.ops.coherence.white_noise_coherence`) and scaled so that 1 stays 1. White
    noise is coherent too where frames overlap; that is not subtracted.

    Args:
        real: Real part.
        imag: Imaginary part.
        patch: (frames, bins) of a patch.
        taps: Bins that coherence is averaged over.
        other: Spectra of a sensor with the same frames and bins: coherence with these instead.

    Returns:
        Scores of the patches; all 0 for a single bin, where nothing can be averaged, and for a
        single frame without ``other``.

    Raises:
        InputError: For ``taps`` that are even or below 3, and for another shape of ``other``.
    """
    check_taps(taps)
    frames, bins, channels = real.shape[1:]
    if bins == 1 or (other is None and frames == 1):
        return jnp.zeros((real.shape[0], -(-frames // patch[0]), -(-bins // patch[1])))
    if other is None:
        pairs, live = pair_coherence(real, imag, taps=taps)
        # Along frequency first, which leaves less to do along time.
        gamma = _pooled(pairs_to_frames(_pooled(pairs, (1, patch[1])), live), (patch[0], 1))
    else:
        gamma = _pooled(cross_coherence((real, imag), other, taps=taps), patch)
        channels = 1
    noise = np.asarray(white_noise_coherence(bins, taps=taps, channels=channels), np.float32)
    noise = _pooled(jnp.asarray(noise)[None, None], (1, patch[1]))
    return jax.lax.stop_gradient(jnp.clip((gamma - noise) / (1.0 - noise), 0.0, 1.0))


# ------------------------------------------------------------------ masks


def importance(energy: Tokens, coherence: Tokens, alpha: float | int) -> Float[Array, "b n"]:
    """``alpha * energy + (1 - alpha) * coherence``, flat and time-major.

    Raises ``InputError`` for ``alpha`` outside [0, 1].
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha: must lie between 0 (coherence) and 1 (energy), got {alpha:g}")
    return (alpha * energy + (1 - alpha) * coherence).reshape(energy.shape[0], -1)


@jax.named_scope("mask")
def sample_by_importance(
    key: Key[Array, ""],
    scores: Float[Array, "b n"],
    visible: int,
    *,
    temperature: float | int | Float[Array, ""],
    floor: float | int = 0.0,
    sign: Literal[1, -1] = 1,
    valid: Bool[Array, "b n"] | None = None,
) -> Mask:
    """Makes ``visible`` tokens visible by Gumbel-top-K on ``sign * scores / temperature``.

    At temperature 0 these are the tokens of the highest scores (lowest for ``sign`` -1), with ties
    broken at random; at a high temperature they are uniform. Padding is visible only where there
    are too few other tokens.

    Args:
        key: Random key.
        scores: Score of every token.
        visible: Visible tokens of every row; the others are masked.
        temperature: Scale of the Gumbel noise relative to the scores, 0 or more.
        floor: Fraction of the visible tokens that is sampled uniformly from those that the scores
            leave masked, so that every token is visible at times.
        sign: -1 makes low scores visible.
        valid: False in padding.

    Raises:
        InputError: Unless there are visible and masked tokens, and for ``floor`` outside [0, 1].

    Reference:
        Kool et al., ICML 2019, "Stochastic beams and where to find them": Gumbel-top-K.
    """
    b, n = scores.shape
    if not 1 <= visible < n:
        raise InputError(f"mask: {visible} of {n} tokens cannot be visible; choose 1 to {n - 1}")
    if not 0 <= floor <= 1:
        raise InputError(f"mask: floor must lie between 0 and 1, got {floor:g}")
    inside = jnp.ones((b, n), bool) if valid is None else valid
    noise_key, uniform_key, round_key = jax.random.split(key, 3)
    noise = jax.random.gumbel(noise_key, (b, n))
    # The noise is multiplied so that temperature 0 is defined; there it only breaks ties.
    perturbed = sign * scores + jnp.minimum(temperature, 1e6) * noise
    order = jnp.lexsort((-noise, -perturbed, ~inside), axis=-1).astype(jnp.int32)
    if floor > 0:
        # Rounded at random: a tenth of three tokens is one token in three samples of ten.
        uniform = jnp.floor(floor * visible + jax.random.uniform(round_key, (b, 1)))
        by_score = jnp.arange(n)[None] < visible - uniform
        padding = ~jnp.take_along_axis(inside, order, axis=1, mode="clip")
        rank = jnp.where(by_score, -1.0, jax.random.uniform(uniform_key, (b, n)) + padding)
        order = jnp.take_along_axis(order, jnp.argsort(rank, axis=1), axis=1, mode="clip")
    restore = jnp.argsort(order, axis=1).astype(jnp.int32)
    return Mask(order[:, :visible], order[:, visible:], restore)


def temperature(
    step: int | Int[Array, ""],
    steps: int,
    *,
    start: float | int = 1.0,
    end: float | int = 0.1,
    fraction: float | int = 0.5,
) -> Float[Array, ""]:
    """From ``start`` to ``end`` along half a cosine over the first ``fraction`` of ``steps``."""
    done = jnp.clip(jnp.asarray(step, jnp.float32) / max(fraction * steps, 1.0), 0.0, 1.0)
    return end + (start - end) * 0.5 * (1.0 + jnp.cos(jnp.pi * done))


def budgets(counts: Sequence[int], ratio: float, entropies: Sequence[float]) -> tuple[int, ...]:
    """How many tokens of each modality stay visible when ``ratio`` of all are masked.

    Their total, the sum of ``max(1, round((1 - ratio) * count))`` over modalities, is distributed
    in proportion to ``exp(entropy)``, the effective number of patches that hold the energy.

    Args:
        counts: Tokens of each modality, two or more.
        ratio: Fraction that is masked, between 0 and 1.
        entropies: :func:`entropy` of each modality, finite.

    Returns:
        Visible tokens of each modality: one at least, and fewer than ``counts``.

    Raises:
        InputError: For other arguments than these.
    """
    if not 0 < ratio < 1:
        raise InputError(f"mask: ratio must lie between 0 and 1, got {ratio:g}")
    if len(entropies) != len(counts) or not np.all(np.isfinite(entropies)):
        raise InputError(f"mask: {len(counts)} modalities need a finite entropy each: {entropies}")
    if min(counts) < 2:
        raise InputError(
            f"mask: modalities of {tuple(counts)} tokens: one token cannot be both visible and "
            "masked; take smaller patches or longer windows"
        )
    total = sum(min(n - 1, max(1, round((1 - ratio) * n))) for n in counts)
    patches = np.exp(np.asarray(entropies, float) - np.max(entropies))
    target = total * patches / patches.sum()
    # Token by token, to the modality that is furthest below its target and has tokens left.
    visible = np.ones(len(counts), int)
    for _ in range(total - len(counts)):
        shortfall = np.where(visible < np.asarray(counts) - 1, target - visible, -np.inf)
        visible[np.argmax(shortfall)] += 1
    return tuple(visible.tolist())


# ------------------------------------------------------------------ patches


def _pooled(x: Float[Array, "b t f"], patch: Patch, *, mean: bool = True) -> Tokens:
    """Mean or sum over those cells of every patch that lie within the spectrum.

    Products with small matrices do it: XLA:CPU would fuse a reduction with all that computes ``x``,
    which takes 2 to 15 times as long for coherence.
    """
    for axis, side in enumerate(patch, start=1):
        if side > 1:
            size = x.shape[axis]
            inside = np.arange(size)[:, None] // side == np.arange(-(-size // side))
            weight = inside / inside.sum(axis=0) if mean else inside
            axes = "btf,tu->buf" if axis == 1 else "btf,fu->btu"
            x = jnp.einsum(axes, x, weight.astype(np.float32), precision=jax.lax.Precision.HIGHEST)
    return x
