"""The rows and crops of the batch of a step: pure functions of (seed, step), in numpy."""

from __future__ import annotations

import numpy as np

_ROUNDS = 8
_MIN_BITS = 6
_CROP = 0x63726F70
"""Keeps the random numbers of crops apart from those of the permutation."""
_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(*words: np.ndarray | int) -> np.ndarray:
    """Hashes integer words to uint64, elementwise: the finaliser of splitmix64, chained."""
    state = np.zeros(np.broadcast_shapes(*(np.shape(w) for w in words)), np.uint64)
    for word in words:
        state = _absorb(state, np.asarray(word).astype(np.uint64))
    return state


def _absorb(state: np.ndarray, word: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        state = (state ^ word) + _GOLDEN
        state = (state ^ (state >> np.uint64(30))) * _M1
        state = (state ^ (state >> np.uint64(27))) * _M2
    return state ^ (state >> np.uint64(31))


def permute(index: np.ndarray, *, size: int, seed: int, epoch: np.ndarray | int) -> np.ndarray:
    """A keyed permutation of ``range(size)``, applied to ``index`` without being built.

    It is a balanced Feistel network on the next even number of bits. Values that fall outside of
    ``size`` are permuted again until they are inside, so that it stays a bijection.

    Args:
      index: ``[n]`` integers in ``[0, size)``.
      size: number of elements.
      seed: key.
      epoch: ``[n]`` or scalar; each epoch has another permutation.

    Returns:
      ``[n]`` int64 in ``[0, size)``.

    Reference:
      Black and Rogaway, "Ciphers with arbitrary finite domains" (2002), cycle walking.
    """
    half = np.uint64((max(_MIN_BITS, (size - 1).bit_length()) + 1) // 2)
    low = (np.uint64(1) << half) - np.uint64(1)
    value = np.asarray(index).astype(np.uint64)
    rounds = np.arange(_ROUNDS)[:, None]
    keys = np.broadcast_to(mix(seed, epoch, rounds), (_ROUNDS, value.size))
    outside = np.arange(value.size)
    while outside.size:
        left, right = value[outside] >> half, value[outside] & low
        for key in keys[:, outside]:
            left, right = right, left ^ (_absorb(key, right) & low)
        value[outside] = (left << half) | right
        outside = outside[value[outside] >= size]
    return value.astype(np.int64)


def global_ids(step: int, *, batch: int, rows: int, seed: int, shuffle: bool = True) -> np.ndarray:
    """Positions ``[batch]`` int64 in ``[0, rows)`` of the global batch of ``step``.

    Epochs follow each other without a gap: a batch may hold the end of one and the start of the
    next, and a set that is smaller than the batch repeats within it.
    """
    position = step * batch + np.arange(batch, dtype=np.int64)
    epoch, index = np.divmod(position, rows)
    return permute(index, size=rows, seed=seed, epoch=epoch) if shuffle else index


def fractions(step: int, *, batch: int, seed: int) -> np.ndarray:
    """Uniform float64 in [0, 1) for the rows of the global batch of ``step``, ``[batch]``."""
    position = step * batch + np.arange(batch, dtype=np.int64)
    return (mix(seed, position, _CROP) >> np.uint64(11)).astype(np.float64) * 2.0**-53
