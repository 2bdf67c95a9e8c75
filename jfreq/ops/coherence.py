"""Coherence of spectra: between neighbouring frames, and between two sensors.

``gamma = |S[x conj(y)]| / sqrt(S[|x|^2] S[|y|^2])`` is 1 where one spectrum is the other times a
constant, and never more. ``S`` is a Hann mean over ``taps`` bins, all weights above zero; spectra
of fewer bins take fewer taps, at least 3. Without ``S`` the ratio would be 1 everywhere.
"""

from __future__ import annotations

import functools
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jfreq.types import InputError

Cells = Float[Array, "b t f c"]
Others = Float[Array, "b t3 f3 k"]

_ROUNDING = 1e-12
"""Fraction of the power of a frame, far below what float32 spectra resolve."""


def pair_coherence(
    real: Cells, imag: Cells, *, taps: int = 11
) -> tuple[Float[Array, "b t2 f"], Bool[Array, "b t2"]]:
    """Coherence of every frame but the last with the next, 0 to 1, and whether neither is silent
    (docs/phymask.md).

    ``S`` also sums over channels. Raises ``InputError`` for ``taps`` that are even or below 3.

    >>> same = jnp.ones((1, 3, 8, 1))
    >>> gamma, live = pair_coherence(same, jnp.zeros_like(same), taps=3)
    >>> gamma.shape, bool(jnp.allclose(gamma, 1)), live.tolist()
    ((1, 2, 8), True, [[True, True]])
    """
    check_taps(taps)
    power = jnp.sum(jnp.square(real) + jnp.square(imag), axis=-1)
    root = _root(power, taps)
    now, after = (real[:, :-1], imag[:, :-1]), (real[:, 1:], imag[:, 1:])
    re = jnp.sum(now[0] * after[0] + now[1] * after[1], axis=-1)
    im = jnp.sum(now[1] * after[0] - now[0] * after[1], axis=-1)
    live = jnp.sum(power, axis=-1) > 0  # XLA:CPU takes far longer for any()
    gamma = _ratio(re, im, root[:, :-1], root[:, 1:], taps)
    return gamma, live[:, :-1] & live[:, 1:]


def pairs_to_frames(
    pairs: Float[Array, "b t2 f"], live: Bool[Array, "b t2"]
) -> Float[Array, "b t f"]:
    """Values of frames from those of pairs of neighbouring frames: the mean over the ``live`` pairs
    that a frame belongs to, 0 where there is none.

    >>> pairs, live = jnp.array([[[0.25], [0.75]]]), jnp.array([[True, True]])
    >>> pairs_to_frames(pairs, live).tolist()
    [[[0.25], [0.5], [0.75]]]
    """

    def both_sides(x):
        return jnp.pad(x, ((0, 0), (1, 0), (0, 0))) + jnp.pad(x, ((0, 0), (0, 1), (0, 0)))

    weight = live[:, :, None].astype(pairs.dtype)
    return both_sides(pairs * weight) / jnp.maximum(both_sides(weight), 1.0)


def cross_coherence(
    one: tuple[Cells, Cells],
    other: tuple[Others, Others],
    *,
    taps: int = 11,
) -> Float[Array, "b t f"]:
    """Coherence of two sensors, each ``(real, imag)``, in the same cell, 0 to 1.

    It is the mean over all pairs of a channel of one and a channel of the other, because their axes
    have no common basis to sum in; pairs with a silent channel count as 0. Raises ``InputError``
    for ``taps`` that are even or below 3, and for sensors that differ in frames or bins.

    >>> noise = np.random.default_rng(0).standard_normal((2, 1, 4, 16, 1))
    >>> real, imag = jnp.asarray(noise, jnp.float32)
    >>> rotated = -imag, real  # by a quarter of a turn
    >>> bool(jnp.allclose(cross_coherence((real, imag), rotated, taps=3), 1, atol=1e-4))
    True
    """
    check_taps(taps)
    shapes = [x.shape[1:3] for x in (*one, *other)]
    if len(set(shapes)) > 1:
        raise InputError(
            f"coherence: one sensor has {shapes[0]} (frames, bins), the other {shapes[2]}: take "
            "sensors of one rate"
        )
    parts = [[(re[..., i], im[..., i]) for i in range(re.shape[-1])] for re, im in (one, other)]
    roots = [[_root(jnp.square(re) + jnp.square(im), taps) for re, im in p] for p in parts]
    total = jnp.zeros(one[0].shape[:3], jnp.float32)
    for (re0, im0), root0 in zip(parts[0], roots[0]):
        for (re1, im1), root1 in zip(parts[1], roots[1]):
            re, im = re0 * re1 + im0 * im1, im0 * re1 - re0 * im1
            total = total + _ratio(re, im, root0, root1, taps)
    return total / (len(parts[0]) * len(parts[1]))


@functools.lru_cache(maxsize=64)
def white_noise_coherence(bins: int, *, taps: int = 11, channels: int = 1) -> tuple[float, ...]:
    """The mean coherence of independent complex white noise, by bin; higher at both borders.

    For ``m`` values of equal weight it is ``Gamma(3/2) Gamma(m) / Gamma(m + 1/2)``. Weights ``w``
    count as ``(sum w)^2 / sum w^2`` values, which overstates the mean by 0.02 at most (3 taps), and
    by 0.004 away from the borders at 11 taps, where it is 0.318.

    >>> round(white_noise_coherence(64)[32], 3)
    0.318
    """
    check_taps(taps)
    w = _weights(bins, taps)
    half = len(w) // 2
    out = []
    for i in range(bins):
        part = w[max(0, half - i) : half + bins - i]
        m = channels * part.sum() ** 2 / np.sum(part**2)
        out.append(math.exp(math.lgamma(1.5) + math.lgamma(m) - math.lgamma(m + 0.5)))
    return tuple(out)


def check_taps(taps: int) -> None:
    """Raises ``InputError`` for ``taps`` that are even or below 3.

    >>> check_taps(4)
    Traceback (most recent call last):
    jfreq.ranges.InputError: coherence: taps must be odd and 3 or more, got 4
    """
    if taps < 3 or taps % 2 == 0:
        raise InputError(f"coherence: taps must be odd and 3 or more, got {taps}")


def _weights(bins: int, taps: int) -> np.ndarray:
    """Hann weights above zero, of sum 1."""
    taps = max(3, min(taps, bins - 1 + bins % 2))
    w = np.sin(np.pi * np.arange(1, taps + 1) / (taps + 1)) ** 2
    return w / w.sum()


def _smooth(x: Float[Array, "b t f"], taps: int) -> Float[Array, "b t f"]:
    # Sums of shifted arrays fuse to one pass: 1.2 to 12 times faster on CPU than a banded matrix.
    bins = x.shape[-1]
    w = _weights(bins, taps)
    half = len(w) // 2
    wide = jnp.pad(x, ((0, 0), (0, 0), (half, half)))
    out = float(w[0]) * wide[..., :bins]
    for i in range(1, len(w)):
        out = out + float(w[i]) * wide[..., i : i + bins]
    return out


def _root(power: Float[Array, "b t f"], taps: int) -> Float[Array, "b t f"]:
    """Root of the smoothed power, plus so much that bins of rounding errors are incoherent."""
    rounding = _ROUNDING * jnp.mean(power, axis=-1, keepdims=True)
    return jnp.sqrt(_smooth(power, taps) + rounding)


def _ratio(re, im, one, other, taps: int) -> Float[Array, "b t f"]:
    # Divided before squares are taken, because fourth powers of amplitudes overflow float32.
    full = one * other
    unit = jnp.where(full > 0, 1.0 / jnp.where(full > 0, full, 1.0), 0.0)
    re, im = _smooth(re, taps) * unit, _smooth(im, taps) * unit
    return jnp.minimum(jnp.sqrt(jnp.square(re) + jnp.square(im)), 1.0)
