"""Runs of equal length of rows that follow each other in a recording."""

from __future__ import annotations

import numpy as np

from jfreq.data.shards.reader import Shards

_GAP = 1.5
"""Rows further apart than this many times the most common step do not follow each other."""


def runs_of(shards: Shards, rows: np.ndarray, length: int) -> np.ndarray:
    """Divides ``rows`` into runs of ``length`` rows that follow each other in one recording.

    Rows with the same folder of shards and the same ``path`` are one recording, sorted by
    ``start``. Where a file holds many recordings, so that starts repeat, its rows keep their
    order, and a start that is not above the one before begins a new recording. Two rows follow
    each other where no other row lies between them, in ``rows`` or not, and their starts differ by
    at most 1.5 times the most common step of the recording.

    Stretches of such rows are cut into runs. The last run of a stretch is its last ``length`` rows,
    so it may overlap the run before; a stretch shorter than ``length`` repeats its last row.

    Args:
      rows: row numbers ``[n]``, ascending.
      length: rows of a run.

    Returns:
      Positions in ``rows``, ``[k length]`` int64, the runs in the order of their first row.
    """
    order, follows = _by_time(shards)
    selected = np.isin(order, rows)
    follows &= selected[1:] & selected[:-1]
    stretch = np.concatenate([[0], np.cumsum(~follows)])[selected]
    sizes = np.unique(stretch, return_counts=True)[1]
    ids = order[selected][_run_positions(sizes, length)]
    ids = ids[np.argsort(ids[:, 0], kind="stable")]
    return np.searchsorted(rows, ids)


def _by_time(shards: Shards) -> tuple[np.ndarray, np.ndarray]:
    """All rows sorted by recording and time.

    Returns:
      Row numbers ``[n]``; whether row ``i + 1`` of these directly follows row ``i``, ``[n - 1]``.
    """
    number, start = np.arange(len(shards)), shards.column("start")
    path = np.unique(shards.column("path"), return_inverse=True)[1]
    recording = shards.folder_of(number) * (path.max(initial=0) + 1) + path
    order = np.lexsort((start, recording))
    # Equal starts: the file holds several recordings, so its rows stay in the order of the shards.
    repeated = ~np.diff(recording[order]).astype(bool) & ~np.diff(start[order]).astype(bool)
    several = np.isin(recording, recording[order][1:][repeated])
    order = np.lexsort((np.where(several, number, start), recording))
    step = np.diff(start[order])
    forward = (np.diff(recording[order]) == 0) & (step > 0)
    common = _most_common_steps(recording[order][1:][forward], step[forward], recording)
    return order, forward & (step <= _GAP * common[recording[order][1:]])


def _most_common_steps(group: np.ndarray, step: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The most common step of every group; of several as common the smallest, of no step 0.

    Args:
      group: the group of every step, ``[m]``.
      step: the steps, ``[m]``.
      groups: numbers of all groups, ``[n]``.

    Returns:
      ``[largest group + 1]``, to be indexed by the number of a group.
    """
    pairs, count = np.unique(np.stack([group, step], 1), axis=0, return_counts=True)
    best_first = np.lexsort((pairs[:, 1], -count, pairs[:, 0]))
    number, first = np.unique(pairs[best_first, 0], return_index=True)
    out = np.zeros(int(groups.max(initial=0)) + 1)
    out[number] = pairs[best_first, 1][first]
    return out


def _run_positions(sizes: np.ndarray, length: int) -> np.ndarray:
    """Positions ``[k length]`` of runs in stretches of ``sizes`` ``[s]`` rows, one by one."""
    count = -(-sizes // length)
    offset = np.repeat(np.cumsum(sizes) - sizes, count)
    size = np.repeat(sizes, count)
    number = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    begin = np.minimum(number * length, np.maximum(size - length, 0))
    inside = np.minimum(begin[:, None] + np.arange(length), size[:, None] - 1)
    return offset[:, None] + inside
