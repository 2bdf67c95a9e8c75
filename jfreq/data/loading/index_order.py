"""The rows and crops of the batch of a step: pure functions of (seed, step), in numpy."""

from __future__ import annotations

import numpy as np

_ROUNDS = 8
_MIN_BITS = 6
_CROP = 0x63726F70
"""Keeps the random numbers of crops apart from those of the permutation."""
_DRAW, _SAMPLE = 0x64726177, 0x73616D70
"""The same for rows that are drawn by weight, one by one and without repetition."""
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


def epochs(step: int, *, batch: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Epoch, and position in it below ``rows``, ``[batch]`` each, of the rows of ``step``.

    Epochs follow each other without a gap: a batch may hold the end of one and the start of the
    next, and a set that is smaller than the batch repeats within it.
    """
    return np.divmod(_position(step, batch), rows)


def global_ids(
    step: int,
    *,
    batch: int,
    rows: int,
    seed: int,
    shuffle: bool = True,
    epoch_rows: int | None = None,
) -> np.ndarray:
    """Positions ``[batch]`` int64 in ``[0, rows)`` of the global batch of ``step``.

    An epoch is all rows, or the first ``epoch_rows`` of its shuffled order.
    """
    epoch, index = epochs(step, batch=batch, rows=epoch_rows or rows)
    return permute(index, size=rows, seed=seed, epoch=epoch) if shuffle else index


def drawn(step: int, *, batch: int, seed: int, total: np.ndarray) -> np.ndarray:
    """Positions ``[batch]`` int64 that are drawn by weight, each independently of all others.

    Args:
      total: cumulative sum ``[n]`` of the weights.
    """
    uniform = _uniform(seed, _position(step, batch), _DRAW)
    found = np.searchsorted(total, uniform * total[-1], side="right")
    return np.minimum(found, len(total) - 1).astype(np.int64)


def weighted_sample(weights: np.ndarray, count: int, *, seed: int, epoch: int) -> np.ndarray:
    """The positions of ``count`` different rows, one after the other drawn by weight from the rest.

    Every row waits for a time that is exponential with the rate of its weight; the first ``count``
    are taken. This is the distribution of ``torch.multinomial`` without replacement.

    Args:
      weights: ``[n]``, above 0.
      count: at most n.
      seed: key.
      epoch: each epoch has another sample.

    Returns:
      ``[count]`` int64, ascending.

    Reference:
      Efraimidis and Spirakis, "Weighted random sampling with a reservoir" (2006).
    """
    uniform = _uniform(seed, epoch, np.arange(len(weights)), _SAMPLE)
    waiting = -np.log1p(-uniform) / weights
    return np.sort(np.argpartition(waiting, count - 1)[:count])


def fractions(step: int, *, batch: int, seed: int) -> np.ndarray:
    """Uniform float64 in [0, 1) for the rows of the global batch of ``step``, ``[batch]``."""
    return _uniform(seed, _position(step, batch), _CROP)


def _position(step: int, batch: int) -> np.ndarray:
    """The rows of a step ``[batch]``, counted from the first of step 0."""
    return step * batch + np.arange(batch, dtype=np.int64)


def _uniform(*words: np.ndarray | int) -> np.ndarray:
    """Uniform float64 in [0, 1) for each hash of ``words``."""
    return (mix(*words) >> np.uint64(11)).astype(np.float64) * 2.0**-53
