"""From recordings to shards: decoded in parallel, written in parts, finished in one atomic step.

The rows of a source are divided into parts by their number and size alone. A part is decoded by
one thread and becomes one shard, so neither the number of workers nor an interruption changes a
byte of the result. Finished parts are kept in ``.parts`` until the set is finished.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np

from jfreq.config import check
from jfreq.config_json import fingerprint
from jfreq.data.fold_assignment import advice_without_folds, with_requested_folds
from jfreq.data.options import Options
from jfreq.data.prepare import journal, messages
from jfreq.data.prepare.choose_windows import cutter_for, sound_dtype
from jfreq.data.prepare.journal import Part
from jfreq.data.prepare.statistics import measured, training_rows
from jfreq.data.prepare.windowing import Cutter, Window, windows_of
from jfreq.data.shards import tfds_metadata
from jfreq.data.shards.example import signal_bytes
from jfreq.data.shards.metadata import ShardFile, ShardsInfo, columns_digest
from jfreq.data.sources.base import UNREADABLE, Row, Source, one_line
from jfreq.data.sources.folders import COLUMNS, METADATA, PARTS, hidden, is_utf8, shown
from jfreq.data.sources.kinds import open_source
from jfreq.data.sources.segments import guarded, name_of
from jfreq.data.sources.subsample import thinned
from jfreq.files import Lock, disk_errors, local_path, write_text
from jfreq.monitoring.progress import Progress
from jfreq.ranges import shortlist
from jfreq.types import InputError

SKIPPED = "skipped.txt"
LOCK = ".lock"
MISSING = "missing.txt"
Say = Callable[[Iterable[str]], None]


def prepare(
    source: str, out: Path | str, *, name: str | None = None, progress: bool = True, **fields: Any
) -> ShardsInfo:
    """Makes a set of shards from recordings; the same call continues an interrupted one.

    Args:
      source: a folder or file, ``synthetic:NAME`` or ``tfds:NAME``.
      out: the folder of shards. It may hold an unfinished set, or the finished set of the same
        call, which is returned as it is.
      name: of the set; by default that of the source.
      progress: show on standard error what was recognised and how much is done.
      fields: those of :class:`jfreq.data.options.Options`, for instance ``seconds=2.0``.

    Returns:
      What the finished set holds.

    Raises:
      InputError: for anything wrong with the source or the options, where ``out`` holds anything
        else, where no row can be used, or for a full disk.
    """
    options = Options(**fields)
    say = messages.say if progress else lambda lines: None
    out = local_path(out, "out")
    _check_free(out, source)
    opened, cutter, fold_by = _open_and_choose(source, options, say)
    name = name or opened.name
    recipe = _recipe(name, opened, cutter, options, fold_by)
    if finished := _already_finished(out, recipe, strict=options.strict):
        return finished
    info = ShardsInfo(
        name=name,
        signals=cutter.signals,
        rows=0,
        labels=opened.labels,
        multi_label=opened.multi_label,
        fold_by=fold_by,
        guard_seconds=options.guard_seconds or 0.0,
        source=opened.description,
        recipe=recipe,
    )
    with disk_errors(out, kept="it goes on from the finished shards"):
        folder = out / PARTS
        with contextlib.closing(Lock(folder / LOCK, "writes")):
            _open_journal(folder, recipe)
            pieces = rows_of_parts(opened.rows, signal_bytes(info.signals))
            write = _part_writer(opened, cutter, info, folder, strict=options.strict)
            rows, workers = len(opened.rows), options.workers or os.cpu_count() or 1
            with Progress(rows, title="preparing", lines=10, quiet=not progress) as bar:
                done = _run(write, pieces, workers, bar.advance)
            info = _finish(out, folder, info, opened, done, say, cutter.allow_missing)
    if note := advice_without_folds(info, (row.subject for row in opened.rows)):
        say([note])
    return info


def _open_and_choose(source: str, options: Options, say: Say) -> tuple[Source, Cutter, str]:
    """The source with the rows to read, how they are cut, and what new folds keep whole."""
    opened = thinned(open_source(source, kind=options.kind, options=options), options.fractions)
    read_as = messages.read_as(opened)
    opened, fold_by = with_requested_folds(opened, options)
    say((read_as, *opened.notes))
    if options.strict and opened.missing:
        raise InputError(f"{opened.missing[0]}; mend or remove it, or prepare without strict")
    survey = opened.survey(row.path for row in opened.rows) if opened.survey else None
    cutter = cutter_for(opened, options, sound_dtype(options.dtype, opened, survey))
    say(messages.about_sound(opened, cutter, survey))
    return _with_rows_to_read(opened, cutter, options.guard_seconds), cutter, fold_by


def _with_rows_to_read(source: Source, cutter: Cutter, guard_seconds: float | None) -> Source:
    """The source without the rows that a guard removes, and with its unlabelled stretches last."""
    if guard_seconds is not None:
        kept, lost = guarded(source, guard_seconds, rate=cutter.rate)
        source = dataclasses.replace(source, rows=tuple(kept), missing=(*source.missing, *lost))
    long = [row for row in source.rest if 2 * (source.seconds(row) or 0.0) >= cutter.seconds]
    return dataclasses.replace(source, rows=(*source.rows, *long), rest=())


def _recipe(name: str, source: Source, cutter: Cutter, options: Options, fold_by: str) -> str:
    """Fingerprint of everything that decides a byte of the set, except the contents of files."""
    rows = hashlib.sha256()
    for row in source.rows:
        rows.update(repr(tuple(row)).encode())
    content = (name, source.kind, source.labels, source.multi_label, rows.hexdigest())
    folds = (fold_by, options.guard_seconds)
    return fingerprint([content, cutter, options.channels, options.complex_as, folds])


def _check_free(out: Path, source: str) -> None:
    """``InputError`` where ``out`` is the source or holds anything but a set of shards."""
    check(is_utf8(str(out)), "out", f"the name {shown(out)} is not UTF-8; choose another name")
    if Path(source).exists() and Path(source).resolve().is_relative_to(out.resolve()):
        raise InputError(
            f"out: {out} is the source or holds it; choose another folder, so that shards and "
            "recordings do not mix"
        )
    check(out.is_dir() or not out.exists(), "out", f"{out} is a file; choose a folder")
    if (out / METADATA).exists() or (out / PARTS).exists() or not out.is_dir():
        return
    other = sorted(shown(path.name) for path in out.iterdir() if not hidden(path.name))
    if other:
        raise InputError(
            f"out: {out} exists and is not a set of shards, it holds {shortlist(other, 3)}; "
            "choose another folder"
        )


def _already_finished(out: Path, recipe: str, *, strict: bool) -> ShardsInfo | None:
    """The set where the same call has finished it; ``InputError`` for any other finished set."""
    if not (out / METADATA).exists():
        return None
    info = ShardsInfo.read(out)
    check(
        info.recipe == recipe,
        "out",
        f"{out} holds a finished set of other data or options; choose another folder or delete it",
    )
    if strict and info.skipped:
        raise InputError(
            f"out: {out} was made without {info.skipped} rows that could not be used ({SKIPPED} "
            "names them); mend them, delete the folder and prepare it again"
        )
    return info


def _open_journal(folder: Path, recipe: str) -> None:
    """Deletes the finished parts where they belong to other data or options."""
    file = folder / "recipe.json"
    text = json.dumps(recipe) + "\n"
    if not file.exists() or file.read_text(errors="replace") != text:
        for path in folder.iterdir():
            if path.name != LOCK:
                path.unlink()
    write_text(file, text)


def rows_of_parts(rows: Sequence[Row], row_bytes: int) -> list[Sequence[Row]]:
    """The rows of every part: about 64 parts of 4 to 256 MiB each."""
    target = min(max(len(rows) * row_bytes // 64, 4 * 2**20), 256 * 2**20)
    size = max(1, target // row_bytes)
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def _part_writer(
    source: Source, cutter: Cutter, info: ShardsInfo, folder: Path, *, strict: bool
) -> Callable[[int, Sequence[Row]], Part]:
    """A function that writes the part of a number from its rows, unless it is finished."""

    def cut(rows: Sequence[Row], skipped: list[str]) -> Iterator[Window]:
        for row in rows:
            try:
                if not is_utf8(row.path):
                    raise InputError("has a name that is not UTF-8; rename it")
                windows = windows_of(cutter, row, source.read(row), info)
            except UNREADABLE as error:
                message = f"{name_of(row)}: {one_line(error)}"
                if strict:
                    raise InputError(
                        f"{message}; mend or remove it, or prepare without strict"
                    ) from error
                skipped.append(message)
                continue
            yield from windows

    def write(index: int, rows: Sequence[Row]) -> Part:
        done = journal.load(folder, index)
        if done is not None and not (strict and done.skipped):
            return done
        skipped: list[str] = []
        return journal.write(folder, index, cut(rows, skipped), skipped)

    return write


def _run(
    write: Callable[[int, Sequence[Row]], Part],
    pieces: list[Sequence[Row]],
    workers: int,
    show: Callable[[int], None],
) -> list[Part]:
    """Writes all parts and returns them in order; the first error stops those not yet begun."""
    with ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(write, i, rows): i for i, rows in enumerate(pieces)}
        done: dict[int, Part] = {}
        try:
            for future in as_completed(futures):
                index = futures[future]
                done[index] = future.result()
                show(len(pieces[index]))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return [done[i] for i in range(len(pieces))]


def _finish(
    out: Path,
    folder: Path,
    info: ShardsInfo,
    source: Source,
    done: list[Part],
    say: Say,
    allow_missing: bool,
) -> ShardsInfo:
    """Moves the shards to ``out`` and writes everything else there, ``metadata.json`` last."""
    skipped = [*(s for part in done for s in part.skipped), *source.missing]
    filled = [part for part in done if part.rows]
    if not filled:
        raise InputError(
            f"nothing is left of {source.name}, all rows were skipped; the first: {skipped[0]}"
        )
    columns = {k: np.concatenate([p.columns[k] for p in filled]) for k in filled[0].columns}
    shards = []
    for i, part in enumerate(filled):
        file = tfds_metadata.shard_name(i, len(filled))
        os.replace(folder / journal.shard_file(part.index), out / file)
        shards.append(ShardFile(file, part.rows, part.sha256))
    info = dataclasses.replace(
        info,
        rows=sum(s.rows for s in shards),
        shards=tuple(shards),
        signals=measured(info.signals, columns.__getitem__, training_rows(columns["split"])),
        folds=tuple(int(f) for f in np.unique(columns["fold"]) if f >= 0),
        splits=tuple(s.decode() for s in np.unique(columns["split"]) if s),
        skipped=len(skipped),
        columns=columns_digest(columns),
    )
    tfds_metadata.write(out, info)
    journal.write_columns(out / COLUMNS, columns)
    write_text(out / SKIPPED, "".join(shown(s) + "\n" for s in skipped))
    if allow_missing:
        write_text(out / MISSING, _absences(info, columns))
    write_text(out / METADATA, info.to_json())
    shutil.rmtree(folder)
    say(messages.clipped(columns))
    say(messages.skipped(skipped, out / SKIPPED))
    return info


def _absences(info: ShardsInfo, columns: dict[str, np.ndarray]) -> str:
    """The text of ``missing.txt``: a line for every modality that a recording lacks, in order."""
    lines, path = [], np.strings.decode(columns["path"], "utf-8")
    for s in info.signals:
        absent = columns[f"{s.name}.count"] == 0
        names, first, count = np.unique(path[absent], return_index=True, return_counts=True)
        for i in np.argsort(first):
            rows = np.count_nonzero(path == names[i])
            lines.append(f"{names[i]}: no {s.name} in {count[i]} of {rows} windows\n")
    return "".join(lines)
