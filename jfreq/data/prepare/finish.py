"""The last step of preparing a set: its shards become one folder, ``metadata.json`` last.

Only the facts and columns of the shards are read, one shard at a time, so memory does not grow
with the number of rows.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from jfreq.data.fold_assignment import advice_without_folds
from jfreq.data.prepare import journal, messages
from jfreq.data.prepare.journal import Written
from jfreq.data.prepare.messages import Say
from jfreq.data.prepare.outline import SKIPPED, Outline
from jfreq.data.prepare.statistics import measured, training_rows
from jfreq.data.shards import columns as tables
from jfreq.data.shards import tfds_metadata
from jfreq.data.shards.metadata import ColumnDigest, ShardFile, ShardsInfo
from jfreq.data.sources.folders import COLUMNS, METADATA, shown
from jfreq.files import write_atomically, write_text
from jfreq.types import InputError

MISSING = "missing.txt"
MOVES = "moves.json"
"""Where shards are moved to while a set is finished, so that it can be done again."""
_BLOCK = 1 << 16
"""Rows that are looked at together."""


def finish(outline: Outline, say: Say) -> ShardsInfo:
    """Moves the shards to their place and writes everything else there, ``metadata.json`` last.

    All shards are finished. Recordings are not needed any more.

    Raises:
      InputError: where not a single row could be used.
    """
    out, folder = outline.out, outline.folder
    done = [_facts(folder, i)._replace(skipped=()) for i in range(outline.shards)]
    filled = [shard for shard in done if shard.rows]
    if not filled:
        first = next(_skipped(outline))
        raise InputError(
            f"nothing is left of {outline.info.name}, all rows were skipped; the first: {first}"
        )
    skipped = _write_skipped(outline)
    shards = _move(outline, filled)
    digests = tables.write(out / COLUMNS, _columns(folder, filled))
    columns = tables.mapped(out / COLUMNS)
    info = dataclasses.replace(
        outline.info,
        rows=sum(s.rows for s in shards),
        shards=shards,
        signals=measured(
            outline.info.signals, columns.__getitem__, training_rows(np.asarray(columns["split"]))
        ),
        folds=tuple(int(f) for f in _values(columns["fold"]) if f >= 0),
        splits=tuple(s.decode() for s in _values(columns["split"]) if s),
        skipped=skipped,
        columns=tuple(ColumnDigest(name, digests[name]) for name in sorted(digests)),
    )
    tfds_metadata.write(out, info)
    if outline.cutter.allow_missing:
        write_text(out / MISSING, "".join(_absences(info, columns)))
    write_text(out / METADATA, info.to_json())
    shutil.rmtree(folder)
    say(messages.clipped(columns))
    say(messages.skipped(info.skipped, out / SKIPPED))
    if note := advice_without_folds(info, (s.decode() for s in _values(columns["subject"]))):
        say([note])
    return info


def _facts(folder: Path, index: int) -> Written:
    written = journal.load(folder, index)
    if written is None:
        raise InputError(
            f"{journal.file_of(folder, index, journal.RECORDS)}: is missing or was changed; run "
            "the same command again, which goes on from the finished shards"
        )
    return written


def _skipped(outline: Outline) -> Iterator[str]:
    """Rows that could not be used, in the order of the source."""
    for index in range(outline.shards):
        yield from _facts(outline.folder, index).skipped
    yield from outline.missing


def _write_skipped(outline: Outline) -> int:
    """Writes ``skipped.txt``; the number of its lines."""
    count = 0

    def fill(file) -> None:
        nonlocal count
        for line in _skipped(outline):
            file.write((shown(line) + "\n").encode())
            count += 1

    write_atomically(outline.out / SKIPPED, fill)
    return count


def _move(outline: Outline, filled: Sequence[Written]) -> tuple[ShardFile, ...]:
    """Gives the files of records their final names."""
    names = [tfds_metadata.shard_name(i, len(filled)) for i in range(len(filled))]
    moves = {name: shard.index for name, shard in zip(names, filled)}
    write_text(outline.folder / MOVES, json.dumps(moves, indent=1) + "\n")
    for name, index in moves.items():
        os.replace(journal.file_of(outline.folder, index, journal.RECORDS), outline.out / name)
    return tuple(ShardFile(name, s.rows, s.sha256) for name, s in zip(names, filled))


def put_back(outline: Outline) -> None:
    """Takes back the moves of a :func:`finish` that was stopped before its end."""
    file = outline.folder / MOVES
    if not file.exists():
        return
    for name, index in json.loads(file.read_text("utf-8")).items():
        place = journal.file_of(outline.folder, index, journal.RECORDS)
        if (outline.out / name).exists() and not place.exists():
            os.replace(outline.out / name, place)
    file.unlink()


def _columns(folder: Path, filled: Sequence[Written]) -> dict[str, tables.Column]:
    """The columns of the set, each read from one shard after the other."""
    rows = sum(shard.rows for shard in filled)
    out = {}
    for name in journal.names(folder, filled[0].index):
        kinds = [(x.dtype, x.shape[1:]) for x in _blocks(folder, filled, name)]
        dtype = kinds[0][0]
        for other, _ in kinds[1:]:
            dtype = np.promote_types(dtype, other)
        out[name] = tables.Column(dtype, (rows, *kinds[0][1]), _blocks(folder, filled, name))
    return out


def _blocks(folder: Path, filled: Sequence[Written], name: str) -> Iterator[np.ndarray]:
    return (journal.column(folder, shard.index, name) for shard in filled)


def _values(column: np.ndarray) -> np.ndarray:
    """The values that occur in a column, sorted."""
    blocks = [np.unique(column[i : i + _BLOCK]) for i in range(0, len(column), _BLOCK)]
    return np.unique(np.concatenate(blocks))


def _absences(info: ShardsInfo, columns: dict[str, np.ndarray]) -> Iterator[str]:
    """Lines of ``missing.txt``: one for every modality that a recording lacks, in order."""
    for s in info.signals:
        absent: dict[bytes, int] = {}
        for path, count in _pairs(columns["path"], columns[f"{s.name}.count"]):
            for name in path[count == 0].tolist():
                absent[name] = absent.get(name, 0) + 1
        rows = dict.fromkeys(absent, 0)
        for path, _ in _pairs(columns["path"], columns["path"]):
            for name in path.tolist() if absent else ():
                if name in rows:
                    rows[name] += 1
        for name, windows in absent.items():
            yield f"{name.decode()}: no {s.name} in {windows} of {rows[name]} windows\n"


def _pairs(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The two columns, a block at a time."""
    for i in range(0, len(a), _BLOCK):
        yield np.asarray(a[i : i + _BLOCK]), np.asarray(b[i : i + _BLOCK])
