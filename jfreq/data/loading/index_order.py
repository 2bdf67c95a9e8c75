"""Which rows make up the batch of a step: pure functions of (seed, step), numpy only."""

from __future__ import annotations

import numpy as np

_ROUNDS = 8
_MIN_BITS = 6
_CROP = 0x63726F70
"""Separates the crops' stream from the permutation's."""
_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(*words: np.ndarray | int) -> np.ndarray:
    """64 well-mixed bits from integer words, elementwise (splitmix64's finaliser, chained)."""
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
    """Where a keyed permutation of ``range(size)`` sends ``index``, without building it.

    A balanced Feistel network on the next even number of bits; values that fall outside
    ``size`` walk the cycle until they are inside (Black and Rogaway, "Ciphers with arbitrary
    finite domains", 2002), which keeps it a bijection.

    Args:
      index: ``[n]`` integers in ``[0, size)``.
      size: number of elements.
      seed: key.
      epoch: ``[n]`` or scalar; each epoch has a permutation of its own.

    Returns:
      ``[n]`` int64 in ``[0, size)``.
    """
    half = np.uint64((max(_MIN_BITS, (size - 1).bit_length()) + 1) // 2)
    low = (np.uint64(1) << half) - np.uint64(1)
    value = np.asarray(index).astype(np.uint64)
    rounds = np.arange(_ROUNDS)[:, None]
    keys = np.broadcast_to(mix(seed, epoch, rounds), (_ROUNDS, value.size))
    todo = np.arange(value.size)
    while todo.size:
        left, right = value[todo] >> half, value[todo] & low
        for key in keys[:, todo]:
            left, right = right, left ^ (_absorb(key, right) & low)
        value[todo] = (left << half) | right
        todo = todo[value[todo] >= size]
    return value.astype(np.int64)


def global_ids(step: int, *, batch: int, rows: int, seed: int, shuffle: bool = True) -> np.ndarray:
    """Positions ``[batch]`` int64 in ``[0, rows)`` of the global batch of ``step``.

    Batches run through one epoch after another without a gap, so a batch may hold the end of one
    epoch and the start of the next, and a set smaller than the batch repeats.
    """
    position = step * batch + np.arange(batch, dtype=np.int64)
    epoch, index = np.divmod(position, rows)
    return permute(index, size=rows, seed=seed, epoch=epoch) if shuffle else index


def local(ids: np.ndarray, *, process_index: int, process_count: int) -> np.ndarray:
    """The rows of a global batch that one process reads: the ``process_index``-th block.

    Blocks in the order of processes are the global batch, as the devices hold it.
    """
    return np.split(ids, process_count)[process_index]


def fractions(step: int, *, batch: int, seed: int) -> np.ndarray:
    """Uniform ``[batch]`` float64 in [0, 1), one for each row of the global batch of ``step``."""
    position = step * batch + np.arange(batch, dtype=np.int64)
    return (mix(seed, position, _CROP) >> np.uint64(11)).astype(np.float64) * 2.0**-53
