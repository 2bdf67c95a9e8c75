"""Recordings to shards: decoded in parallel, written in parts, finished in one atomic step.

The rows of a source are cut into parts by number alone. A part is decoded by one thread and
becomes one shard, so neither the number of workers nor an interruption changes a byte of the
result; parts that are done are kept in ``.parts`` until the set is finished.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np

from jfreq.config import check
from jfreq.data import console, parts, tfds_layout
from jfreq.data.cut import Cutter, Mix, Window, windows_of
from jfreq.data.moments import pooled_moments, training_rows, with_moments
from jfreq.data.parts import Part
from jfreq.data.records import signal_bytes
from jfreq.data.schema import COLUMNS, METADATA, ShardFile, ShardsInfo, SignalInfo
from jfreq.data.source import UNREADABLE, Options, Row, Source, parse_modalities
from jfreq.data.sources import open_source
from jfreq.data.spans import guarded, name_of
from jfreq.types import InputError

AUDIO_RATE = 16000.0
LONGEST = 10.0
"""Seconds of the default window at most."""
FILL = 0.1
"""Seconds: a few samples of a wearable sensor, well under a step or a gesture."""
_SHORT = 1e-3
"""A window may be this share longer than the longest recording: rounding, and lossy codecs."""
PARTS = ".parts"
SKIPPED = "skipped.txt"


def prepare(
    source: str,
    out: Path | str,
    *,
    name: str | None = None,
    kind: str = "auto",
    rate: float | None = None,
    seconds: float | None = None,
    hop_seconds: float | None = None,
    workers: int | None = None,
    strict: bool = False,
    clips: Path | None = None,
    labels: tuple[str, ...] | Path | None = None,
    drop_labels: tuple[str, ...] = (),
    modalities: Mapping[str, Sequence[int]] | Sequence[str] = (),
    complex_as: Sequence[str] = ("amplitude",),
    only: Sequence[str] = (),
    unlabelled: bool = False,
    fill_seconds: float = FILL,
    guard_seconds: float | None = None,
    mix: Mix = "first",
    n: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> ShardsInfo:
    """Makes the shards ``out`` from ``source``; goes on where an interrupted call stopped.

    Args:
      source: a folder or file, ``synthetic:NAME`` or ``tfds:NAME``.
      out: the folder of shards; it may hold an unfinished set, nothing of a finished one.
      kind: a name of ``jfreq.data.sources.KINDS``, or ``auto`` to look.
      rate: Hz of the shards; default 16 kHz for audio files, the source's own for sensors. Where
        a source does not state its rate, it is taken to be this one.
      seconds: window; default the longest clip, at most 10 s.
      hop_seconds: from window to window in what is longer than one; default ``seconds``.
      workers: decoding threads; default one per core.
      strict: refuse the first row that cannot be used, instead of skipping it.
      clips: AudioSet: folder of the clips. labels: class names in order, or AudioSet's
        ``class_labels_indices.csv``. drop_labels: patterns of classes to leave out.
      modalities: channels of each modality, for instance ``{"acc": (0, 1, 2)}``.
      complex_as: of complex recordings, ways of :mod:`jfreq.data.complexes`.
      only: patterns of the paths to read, all where there is none.
      unlabelled: also take what no label names (``index``, and layouts that have such stretches).
      fill_seconds: longest gap of NaN in a sensor's channel that is filled by linear
        interpolation; at a longer one the row is cut. Sound with NaN is refused.
      guard_seconds: rows of one recording in different folds or splits are kept this far apart.
      mix: of audio: ``first`` channel, ``mean``, or ``keep`` them all.
      n, seed: of synthetic recordings.
      progress: show how far it is.

    Raises:
      InputError: for anything wrong with the source, a full disk, or where nothing is left.
    """
    named = modalities if isinstance(modalities, Mapping) else parse_modalities(modalities)
    options = Options(
        rate, clips, labels, tuple(drop_labels), named or None, n, seconds, seed, unlabelled,
        tuple(only), tuple(complex_as),
    )  # fmt: skip
    opened = open_source(source, kind=kind, options=options)
    cutter = _cutter(opened, options, seconds, hop_seconds, mix, fill_seconds)
    opened = _arranged(opened, cutter, guard_seconds)
    rows = list(opened.rows)
    name = name or opened.name
    recipe = _recipe(name, opened, cutter, options)
    out = Path(out).expanduser()
    finished = _already_finished(out, recipe, strict=strict)
    if finished is not None:
        return finished
    info = ShardsInfo(
        name=name,
        signals=cutter.signals,
        rows=0,
        labels=opened.labels,
        multi_label=opened.multi_label,
        source=opened.description,
        recipe=recipe,
    )
    with _disk_errors(out):
        folder = _journal(out, recipe)
        pieces = _pieces(rows, signal_bytes(info.signals))
        write = _part_writer(opened, cutter, info, folder, strict=strict)
        with console.progress(len(rows), enabled=progress) as show:
            done = _run(write, pieces, workers or os.cpu_count() or 1, show)
        return _finish(out, folder, info, opened, done, progress=progress)


def _cutter(
    source: Source,
    options: Options,
    seconds: float | None,
    hop_seconds: float | None,
    mix: Mix,
    fill_seconds: float,
) -> Cutter:
    """Decides window, hop, rates and channels from the options and the first good row."""
    default = AUDIO_RATE if source.audio else source.rate
    rate = default if options.rate is None else options.rate
    check(rate is None or rate > 0, "rate", f"must be positive, got {rate}")
    check(seconds is None or seconds > 0, "seconds", f"must be positive, got {seconds}")
    check(
        hop_seconds is None or hop_seconds > 0,
        "hop_seconds",
        f"must be positive, got {hop_seconds}",
    )
    check(fill_seconds >= 0, "fill_seconds", f"must be 0 or more, got {fill_seconds}")
    if seconds is None:
        seconds = _longest(source)
    else:
        _check_window(source, seconds)
    open_ = Cutter((), rate, seconds, hop_seconds or seconds, mix, fill_seconds)
    reasons = []
    for row in source.rows:
        try:
            probe = open_.convert(row, source.read(row))[0].signals
        except UNREADABLE as error:
            reasons.append(f"{row.path}: {_one_line(error)}")
            continue
        signals = tuple(
            SignalInfo(
                name=name,
                rate=s.rate or 0.0,
                samples=round(seconds * (s.rate or 0.0)),
                channels=s.x.shape[1],
                dtype=s.x.dtype.name,
                scale=1 / 32768 if s.x.dtype == np.int16 else 1.0,
            )
            for name, s in probe.items()
        )
        return dataclasses.replace(open_, signals=signals)
    raise InputError(
        f"none of the {len(source.rows)} rows of {source.name} can be used; the first: {reasons[0]}"
    )


def _longest(source: Source) -> float:
    """Seconds of the longest clip, at most ``LONGEST``; stops looking where one is that long."""
    best = 0.0
    for row in source.rows:
        best = max(best, source.seconds(row) or 0.0)
        if best >= LONGEST:
            return LONGEST
    return best or LONGEST


def _check_window(source: Source, seconds: float) -> None:
    """``InputError`` where no recording is as long as a window, naming the longest."""
    longest, where = 0.0, ""
    for row in source.rows:
        found = source.seconds(row) or 0.0
        if found >= seconds * (1 - _SHORT):
            return
        if found > longest:
            longest, where = found, name_of(row)
    check(longest == 0, "seconds", f"a window of {seconds:g} s is longer than every recording; "
          f"the longest is {where} with {longest:g} s")  # fmt: skip


def _arranged(source: Source, cutter: Cutter, guard_seconds: float | None) -> Source:
    """The rows as they are read: with a guard, and with unlabelled stretches at their end."""
    if guard_seconds is not None:
        check(guard_seconds >= 0, "guard_seconds", f"must be 0 or more, got {guard_seconds}")
        kept, lost = guarded(source, guard_seconds, rate=cutter.rate)
        source = dataclasses.replace(source, rows=tuple(kept), missing=(*source.missing, *lost))
    long = [row for row in source.rest if 2 * (source.seconds(row) or 0.0) >= cutter.seconds]
    return dataclasses.replace(source, rows=(*source.rows, *long), rest=())


def _recipe(name: str, source: Source, cutter: Cutter, options: Options) -> str:
    """sha256 over everything that decides a byte of the set, but for the files' contents."""
    chosen = (options.modalities, options.complex_as)
    sha = hashlib.sha256(
        repr((name, source.kind, source.labels, source.multi_label, cutter, chosen)).encode()
    )
    for row in source.rows:
        sha.update(repr(tuple(row)).encode())
    return sha.hexdigest()


def _already_finished(out: Path, recipe: str, *, strict: bool) -> ShardsInfo | None:
    """The set itself where the same call finished it before; ``InputError`` for another one."""
    if not (out / METADATA).exists():
        return None
    info = ShardsInfo.read(out)
    check(info.recipe == recipe, "out", f"{out} holds a finished set of other data or options; "
          "choose another folder or delete it")  # fmt: skip
    check(not (strict and info.skipped), "out", f"{out} was made without {info.skipped} rows that "
          f"could not be used ({SKIPPED} names them); mend them and delete the folder")  # fmt: skip
    return info


def _journal(out: Path, recipe: str) -> Path:
    """The folder of finished parts, emptied where it belongs to other data or options."""
    folder = out / PARTS
    note = folder / "recipe.json"
    if folder.exists() and (not note.exists() or json.loads(note.read_text()) != recipe):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parts.write_atomic(note, json.dumps(recipe).encode())
    return folder


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
                found = windows_of(cutter, row, source.read(row), info)
            except UNREADABLE as error:
                message = f"{name_of(row)}: {_one_line(error)}"
                if strict:
                    raise InputError(
                        f"{message}; mend or remove it, or prepare without strict"
                    ) from error
                skipped.append(message)
                continue
            yield from found

    def write(index: int, rows: list[Row]) -> Part:
        done = parts.load(folder, index)
        if done is not None and not (strict and done.skipped):
            return done
        skipped: list[str] = []
        return parts.write(folder, index, windows(rows, skipped), skipped, info)

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
    out: Path, folder: Path, info: ShardsInfo, source: Source, done: list[Part], *, progress: bool
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
    shards = []
    for i, part in enumerate(filled):
        file = tfds_layout.shard_name(i, len(filled))
        os.replace(folder / parts.shard_file(part.index), out / file)
        shards.append(ShardFile(file, part.rows, part.sha256))
    splits = sorted({s.decode() for s in np.unique(columns["split"])} - {""})
    info = dataclasses.replace(
        info,
        rows=sum(s.rows for s in shards),
        shards=tuple(shards),
        signals=_with_statistics(info.signals, columns),
        folds=tuple(int(f) for f in np.unique(columns["fold"]) if f >= 0),
        splits=tuple(splits),
        skipped=len(skipped),
    )
    tfds_layout.write(out, info)
    parts.write_columns(out / COLUMNS, columns)
    parts.write_atomic(out / SKIPPED, "".join(s + "\n" for s in skipped).encode())
    parts.write_atomic(out / METADATA, info.to_json().encode())
    shutil.rmtree(folder)
    if skipped and progress:
        console.say_skipped(skipped, out / SKIPPED)
    return info


def _with_statistics(
    signals: tuple[SignalInfo, ...], columns: dict[str, np.ndarray]
) -> tuple[SignalInfo, ...]:
    """Mean and deviation over the training rows: split ``train`` where there is one, else all."""
    train = training_rows(columns["split"])
    return tuple(
        with_moments(
            s, *pooled_moments(*(columns[f"{s.name}.{k}"][train] for k in ("count", "mean", "var")))
        )
        for s in signals
    )


@contextlib.contextmanager
def _disk_errors(out: Path) -> Iterator[None]:
    """Turns a full or read-only disk into advice; finished parts stay."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        code = error.errno if isinstance(error, OSError) else None
        if code in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            raise InputError(
                f"{out}: the disk is full; make room and run the same command again, "
                "it goes on from the finished shards"
            ) from error
        if code is None:
            raise
        raise InputError(f"{out}: cannot be written ({_one_line(error)})") from error


def _one_line(error: BaseException) -> str:
    text: Any = error.args[0] if isinstance(error, KeyError) and error.args else error
    return (str(text) or type(error).__name__).splitlines()[0]
