"""Recordings to shards: decoded in parallel, written in parts, finished in one atomic step.

The rows of a source are cut into parts by number alone. A part is decoded by one thread and
becomes one shard, so neither the number of workers nor an interruption changes a byte of the
result; parts that are done are kept in ``.parts`` until the set is finished.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np

from jfreq.config import check, fingerprint
from jfreq.data.fold_assignment import FoldBy, divided, undivided
from jfreq.data.prepare import journal, messages, summary
from jfreq.data.prepare.choose_windows import cutter_for
from jfreq.data.prepare.journal import Part
from jfreq.data.prepare.statistics import pooled_moments, training_rows, with_moments
from jfreq.data.prepare.windowing import Cutter, Window, windows_of
from jfreq.data.shards import tfds_metadata
from jfreq.data.shards.example import signal_bytes
from jfreq.data.shards.metadata import ShardFile, ShardsInfo, SignalInfo, columns_digest
from jfreq.data.sources.base import (
    UNREADABLE,
    Channels,
    Mix,
    Options,
    Row,
    Source,
    one_line,
    parse_modalities,
    parse_numbers,
)
from jfreq.data.sources.folders import COLUMNS, METADATA, PARTS, hidden, is_utf8, shown
from jfreq.data.sources.kinds import open_source
from jfreq.data.sources.segments import guarded, name_of
from jfreq.data.sources.subsample import thinned
from jfreq.files import Lock, disk_errors, local_path, write_atomically
from jfreq.monitoring.progress import Progress
from jfreq.ranges import Count, Hertz, NonNegative, Seconds, Seed, Workers, checked_call
from jfreq.types import InputError

FILL = 0.1
"""Seconds: a few samples of a wearable sensor, well under a step or a gesture."""
SKIPPED = "skipped.txt"
LOCK = ".lock"
MISSING = "missing.txt"


@checked_call
def prepare(
    source: str,
    out: Path | str,
    *,
    name: str | None = None,
    kind: str = "auto",
    rate: Hertz | None = None,
    rates: Mapping[str, float] | Sequence[str] = (),
    seconds: Seconds | None = None,
    hop_seconds: Seconds | None = None,
    workers: Workers | None = None,
    strict: bool = False,
    clips: Path | None = None,
    labels: tuple[str, ...] | Path | None = None,
    drop_labels: tuple[str, ...] = (),
    modalities: Channels | Sequence[str] = (),
    complex_as: Sequence[str] = ("amplitude",),
    only: Sequence[str] = (),
    thin: Mapping[str, float] | Sequence[str] = (),
    unlabelled: bool = False,
    allow_missing: bool = False,
    fill_seconds: NonNegative = FILL,
    guard_seconds: NonNegative | None = None,
    make_folds: Count | None = None,
    fold_by: FoldBy | None = None,
    replace_folds: bool = False,
    mix: Mix | None = None,
    dtype: summary.Dtype = "auto",
    n: Count | None = None,
    seed: Seed = 0,
    progress: bool = True,
) -> ShardsInfo:
    """Makes the shards ``out`` from ``source``; goes on where an interrupted call stopped.

    Args:
      source: a folder or file, ``synthetic:NAME`` or ``tfds:NAME``.
      out: the folder of shards; it may hold an unfinished set, nothing of a finished one.
      kind: a name of ``jfreq.data.sources.kinds.KINDS``, or ``auto`` to look.
      rate: Hz of the shards; default 16 kHz for audio files, the source's own for sensors. Where
        a source does not state its rate, it is taken to be this one. rates: of single modalities,
        for instance ``{"audio": 8000}``.
      seconds: window; default the longest clip, at most 10 s.
      hop_seconds: from window to window in what is longer than one; default ``seconds``.
      workers: decoding threads; default one per core.
      strict: refuse the first row that cannot be used, instead of skipping it.
      clips: AudioSet: folder of the clips. labels: class names in order, or AudioSet's
        ``class_labels_indices.csv``. drop_labels: patterns of classes to leave out.
      modalities: channels of each modality, for instance ``{"acc": (0, 1, 2)}``.
      complex_as: of complex recordings, ways of :mod:`jfreq.data.sources.complex_signals`.
      only: patterns of the paths to read, all where there is none.
      thin: share of a class's recordings to keep, for instance ``{"fall": 0.1}``.
      unlabelled: also take what no label names (``index``, and layouts that have such stretches).
      allow_missing: keep recordings that lack a modality and write zeros for it, which stand for
        an absent modality everywhere; ``missing.txt`` names them. Else they are skipped.
      fill_seconds: longest gap of NaN in a sensor's channel that is filled by linear
        interpolation; at a longer one the row is cut. Sound with NaN is refused.
      guard_seconds: rows of one recording in different folds or splits are kept this far apart.
      make_folds: divide the rows into this many folds. fold_by: what a fold keeps whole, by
        default subjects where enough are known, else recordings. replace_folds: also where the
        source has folds of its own. See :mod:`jfreq.data.fold_assignment`.
      mix: of audio: ``first`` channel, ``mean``, or ``keep`` them all; default as the layout
        says, mostly ``first``.
      dtype: of audio in the shards: ``auto`` is float32 where any file is stored as floating
        point, and 16-bit PCM otherwise.
      n: of synthetic recordings. seed: of these, and of the folds that are made.
      progress: show how far it is.

    Raises:
      InputError: for anything wrong with the source, a full disk, or where nothing is left.
    """
    out = local_path(out, "out")
    check(is_utf8(str(out)), "out", f"{shown(out)} is not UTF-8; choose another name")
    if Path(source).exists() and Path(source).resolve().is_relative_to(out.resolve()):
        raise InputError(
            f"out: {out} is the source or holds it; choose a folder of its own, so that shards and "
            "recordings do not mix"
        )
    _check_free(out)
    clips = None if clips is None else local_path(clips, "clips")
    labels = local_path(labels, "labels") if isinstance(labels, Path) else labels
    named = modalities if isinstance(modalities, Mapping) else parse_modalities(modalities)
    options = Options(
        rate,
        clips,
        labels,
        tuple(drop_labels),
        named or None,
        n,
        seconds,
        seed,
        unlabelled,
        tuple(only),
        tuple(complex_as),
        allow_missing,
    )
    own_rates = rates if isinstance(rates, Mapping) else parse_numbers(rates, "rates", sign=":")
    shares = thin if isinstance(thin, Mapping) else parse_numbers(thin, "thin", sign="=")
    opened = thinned(open_source(source, kind=kind, options=options), shares)
    read_as = summary.read_as(opened)
    opened, kept_whole = divided(opened, make_folds, fold_by, seed=seed, replace=replace_folds)
    if progress:
        messages.say((read_as, *opened.notes))
    if strict and opened.missing:
        raise InputError(f"{opened.missing[0]}; mend or remove it, or prepare without strict")
    found = opened.survey(row.path for row in opened.rows) if opened.survey else None
    stored = summary.stored_as(dtype, opened, found)
    cutter = cutter_for(opened, options, own_rates, seconds, hop_seconds, mix, fill_seconds, stored)
    if progress:
        messages.say(summary.lines(opened, cutter, found))
    opened = _arranged(opened, cutter, guard_seconds)
    rows = list(opened.rows)
    name = name or opened.name
    recipe = _recipe(name, opened, cutter, options, (kept_whole, guard_seconds))
    finished = _already_finished(out, recipe, strict=strict)
    if finished is not None:
        return finished
    info = ShardsInfo(
        name=name,
        signals=cutter.signals,
        rows=0,
        labels=opened.labels,
        multi_label=opened.multi_label,
        fold_by=kept_whole,
        guard_seconds=guard_seconds or 0.0,
        source=opened.description,
        recipe=recipe,
    )
    with disk_errors(out, kept="it goes on from the finished shards"):
        folder = out / PARTS
        with contextlib.closing(Lock(folder / LOCK, "writes")):
            _open_journal(folder, recipe)
            pieces = _pieces(rows, signal_bytes(info.signals))
            write = _part_writer(opened, cutter, info, folder, strict=strict)
            with Progress(len(rows), title="preparing", lines=10, quiet=not progress) as bar:
                done = _run(write, pieces, workers or os.cpu_count() or 1, bar.advance)
            info = _finish(out, folder, info, opened, done, cutter, progress=progress)
    if progress and (note := undivided(info, (row.subject for row in opened.rows))):
        messages.say([note])
    return info


def _arranged(source: Source, cutter: Cutter, guard_seconds: float | None) -> Source:
    """The rows as they are read: with a guard, and with unlabelled stretches at their end."""
    if guard_seconds is not None:
        kept, lost = guarded(source, guard_seconds, rate=cutter.rate)
        source = dataclasses.replace(source, rows=tuple(kept), missing=(*source.missing, *lost))
    long = [row for row in source.rest if 2 * (source.seconds(row) or 0.0) >= cutter.seconds]
    return dataclasses.replace(source, rows=(*source.rows, *long), rest=())


def _recipe(
    name: str, source: Source, cutter: Cutter, options: Options, kept: tuple[str, float | None]
) -> str:
    """Fingerprint of everything that decides a byte of the set, but for the files' contents.

    ``kept`` says what folds keep whole and how far apart; the folds themselves are in the rows.
    """
    rows = hashlib.sha256()
    for row in source.rows:
        rows.update(repr(tuple(row)).encode())
    named = (name, source.kind, source.labels, source.multi_label, rows.hexdigest())
    return fingerprint([named, cutter, options.modalities, options.complex_as, kept])


def _check_free(out: Path) -> None:
    """``InputError`` where ``out`` holds anything but a set of shards, finished or not."""
    check(out.is_dir() or not out.exists(), "out", f"{out} is a file, a folder is wanted")
    if (out / METADATA).exists() or (out / PARTS).exists() or not out.is_dir():
        return
    other = sorted(path.name for path in out.iterdir() if not hidden(path.name))
    some = ", ".join(map(shown, other[:3])) + ", ..." * (len(other) > 3)
    if other:
        raise InputError(
            f"out: {out} exists and is not a set of shards, it holds {some}; choose another folder"
        )


def _already_finished(out: Path, recipe: str, *, strict: bool) -> ShardsInfo | None:
    """The set itself where the same call finished it before; ``InputError`` for another one."""
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
            "names them); mend them and delete the folder"
        )
    return info


def _open_journal(folder: Path, recipe: str) -> None:
    """Empties the folder of finished parts where they belong to other data or options."""
    note = folder / "recipe.json"
    text = json.dumps(recipe) + "\n"
    if not note.exists() or note.read_text(errors="replace") != text:
        for path in folder.iterdir():
            if path.name != LOCK:
                path.unlink()
    write_atomically(note, lambda file: file.write(text.encode()))


def _pieces(rows: list[Row], row_bytes: int) -> list[list[Row]]:
    """Rows by part: about 64 parts of 4 to 256 MiB, whatever the number of workers."""
    target = min(max(len(rows) * row_bytes // 64, 4 * 2**20), 256 * 2**20)
    size = max(1, target // row_bytes)
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def _part_writer(
    source: Source, cutter: Cutter, info: ShardsInfo, folder: Path, *, strict: bool
) -> Callable[[int, list[Row]], Part]:
    def windows(rows: list[Row], skipped: list[str]) -> Iterator[Window]:
        for row in rows:
            try:
                if not is_utf8(row.path):
                    raise InputError("has a name that is not UTF-8; rename it")
                found = windows_of(cutter, row, source.read(row), info)
            except UNREADABLE as error:
                message = f"{name_of(row)}: {one_line(error)}"
                if strict:
                    raise InputError(
                        f"{message}; mend or remove it, or prepare without strict"
                    ) from error
                skipped.append(message)
                continue
            yield from found

    def write(index: int, rows: list[Row]) -> Part:
        done = journal.load(folder, index)
        if done is not None and not (strict and done.skipped):
            return done
        skipped: list[str] = []
        return journal.write(folder, index, windows(rows, skipped), skipped, info)

    return write


def _run(
    write: Callable[[int, list[Row]], Part],
    pieces: list[list[Row]],
    workers: int,
    show: Callable[[int], None],
) -> list[Part]:
    """Every part, in order; the first failure stops what has not begun and is raised."""
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
    cutter: Cutter,
    *,
    progress: bool,
) -> ShardsInfo:
    """Names the shards, writes columns and TFDS files, and last of all the metadata."""
    skipped = [s for part in done for s in part.skipped]
    skipped += source.missing
    filled = [part for part in done if part.rows]
    if not filled:
        raise InputError(
            f"nothing is left of {source.name}: all rows were skipped; the first: {skipped[0]}"
        )
    columns = {k: np.concatenate([p.columns[k] for p in filled]) for k in filled[0].columns}
    signals = _with_statistics(info.signals, columns)
    shards = []
    for i, part in enumerate(filled):
        file = tfds_metadata.shard_name(i, len(filled))
        os.replace(folder / journal.shard_file(part.index), out / file)
        shards.append(ShardFile(file, part.rows, part.sha256))
    splits = sorted({s.decode() for s in np.unique(columns["split"])} - {""})
    info = dataclasses.replace(
        info,
        rows=sum(s.rows for s in shards),
        shards=tuple(shards),
        signals=signals,
        folds=tuple(int(f) for f in np.unique(columns["fold"]) if f >= 0),
        splits=tuple(splits),
        skipped=len(skipped),
        columns=columns_digest(columns),
    )
    tfds_metadata.write(out, info)
    journal.write_columns(out / COLUMNS, columns)
    _write_text(out / SKIPPED, "".join(shown(s) + "\n" for s in skipped))
    if cutter.allow_missing:
        _write_text(out / MISSING, _absences(info, columns))
    _write_text(out / METADATA, info.to_json())
    shutil.rmtree(folder)
    if progress:
        messages.say(summary.clipped(columns))
    if skipped and progress:
        messages.say_skipped(skipped, out / SKIPPED)
    return info


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))


def _with_statistics(
    signals: tuple[SignalInfo, ...], columns: dict[str, np.ndarray]
) -> tuple[SignalInfo, ...]:
    """Mean and deviation over the training rows: split ``train`` where there is one, else all."""
    train = training_rows(columns["split"])
    for s in signals:
        present = bool(columns[f"{s.name}.count"][train].any())
        if not present:
            raise InputError(
                f"signals: {s.name} is absent in all training rows; leave it out with modalities"
            )
    return tuple(
        with_moments(
            s, *pooled_moments(*(columns[f"{s.name}.{k}"][train] for k in ("count", "mean", "var")))
        )
        for s in signals
    )


def _absences(info: ShardsInfo, columns: dict[str, np.ndarray]) -> str:
    """A line for every recording and modality that it lacks, in the order of rows."""
    lines, path = [], np.strings.decode(columns["path"], "utf-8")
    for s in info.signals:
        absent = columns[f"{s.name}.count"] == 0
        names, first, count = np.unique(path[absent], return_index=True, return_counts=True)
        for i in np.argsort(first):
            rows = np.count_nonzero(path == names[i])
            lines.append(f"{names[i]}: no {s.name} in {count[i]} of {rows} windows\n")
    return "".join(lines)
