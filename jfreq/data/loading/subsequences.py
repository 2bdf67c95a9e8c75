"""Rows that follow each other in a recording, as runs of equal length."""

from __future__ import annotations

import numpy as np

from jfreq.data.shards.reader import Shards

_GAP = 1.5
"""Rows further apart than this many usual steps do not follow each other."""


def runs_of(shards: Shards, rows: np.ndarray, length: int) -> np.ndarray:
    """``rows`` in runs of ``length`` that follow each other in one recording.

    A recording is what shares a folder of shards and a ``path``; its rows are taken by ``start``.
    Where a file holds many recordings, so that starts come twice, its rows keep their order, and
    a start that does not grow begins anew. Two rows follow each other where nothing lies between
    them, in ``rows`` or not, and their starts differ by at most 1.5 times the usual step of the
    recording, its most common one. Stretches of such rows are cut into runs; the last run is the
    last ``length`` rows, so it may overlap the one before, and a stretch that is shorter repeats
    its last row.

    Args:
      rows: row numbers ``[n]``, ascending.

    Returns:
      Positions in ``rows``, ``[k length]`` int64; runs in the order of their first row.
    """
    order, follows = _in_time(shards)
    chosen = np.zeros(len(shards), bool)
    chosen[rows] = True
    follows &= chosen[order][1:] & chosen[order][:-1]
    stretch = np.concatenate([[0], np.cumsum(~follows)])[chosen[order]]
    ids = order[chosen[order]][_cut(np.unique(stretch, return_counts=True)[1], length)]
    ids = ids[np.argsort(ids[:, 0], kind="stable")]
    return np.searchsorted(rows, ids)


def _in_time(shards: Shards) -> tuple[np.ndarray, np.ndarray]:
    """All row numbers by recording and time ``[n]``; from one to the next, whether it follows."""
    number, start = np.arange(len(shards)), shards.column("start")
    path = np.unique(shards.column("path"), return_inverse=True)[1]
    group = shards.part_of(number) * (path.max(initial=0) + 1) + path
    order = np.lexsort((start, group))
    twice = (np.diff(group[order]) == 0) & (np.diff(start[order]) == 0)
    key = np.where(np.isin(group, group[order][1:][twice]), number, start)
    order = np.lexsort((key, group))
    step, same = np.diff(start[order]), np.diff(group[order]) == 0
    later = same & (step > 0)
    usual = _usual(group[order][1:][later], step[later], int(group.max(initial=0)) + 1)
    return order, later & (step <= _GAP * usual[group[order][1:]])


def _usual(group: np.ndarray, step: np.ndarray, groups: int) -> np.ndarray:
    """The most common step of every group ``[groups]``, the smaller of two as common; else 0."""
    pairs, count = np.unique(np.stack([group, step], 1), axis=0, return_counts=True)
    best_first = np.lexsort((pairs[:, 1], -count, pairs[:, 0]))
    name, first = np.unique(pairs[best_first, 0], return_index=True)
    out = np.zeros(groups)
    out[name] = pairs[best_first, 1][first]
    return out


def _cut(sizes: np.ndarray, length: int) -> np.ndarray:
    """Positions ``[k length]`` of the runs of stretches of ``sizes`` that lie one after another."""
    count = -(-sizes // length)
    offset = np.repeat(np.cumsum(sizes) - sizes, count)
    size = np.repeat(sizes, count)
    turn = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    begin = np.minimum(turn * length, np.maximum(size - length, 0))
    inside = np.minimum(begin[:, None] + np.arange(length), size[:, None] - 1)
    return offset[:, None] + inside
