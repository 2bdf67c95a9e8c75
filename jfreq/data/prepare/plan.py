"""What a set of shards will be, decided before any of its rows is written.

The rows of a source are dealt to shards by their number and size alone, so any process that opens
the same source by the same options comes to the same plan.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from jfreq.config import check
from jfreq.config_json import fingerprint
from jfreq.data.fold_assignment import with_requested_folds
from jfreq.data.options import Options
from jfreq.data.prepare import journal, messages
from jfreq.data.prepare.choose_windows import cutter_for, sound_dtype
from jfreq.data.prepare.messages import Say
from jfreq.data.prepare.outline import Outline
from jfreq.data.prepare.windowing import Cutter, Window, windows_of
from jfreq.data.shards.example import signal_bytes
from jfreq.data.shards.metadata import ShardsInfo
from jfreq.data.sources.base import UNREADABLE, Row, Source
from jfreq.data.sources.folders import METADATA, PARTS, hidden, is_utf8, shown
from jfreq.data.sources.kinds import open_source
from jfreq.data.sources.rows import packed
from jfreq.data.sources.segments import guarded, name_of
from jfreq.data.sources.subsample import thinned
from jfreq.files import local_path
from jfreq.monitoring.progress import Progress
from jfreq.ranges import first_line, shortlist
from jfreq.types import InputError

LIBRARIES = "jfreq numpy scipy soxr soundfile array-record protobuf".split()
"""What the bytes of a shard may depend on beside the options and the recordings."""
_SMALLEST, _LARGEST = 4 * 2**20, 256 * 2**20
"""Bytes of a shard."""
_MOST_ROWS = 1 << 16
"""Rows of a shard, whose columns are in memory while it is written."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """A set of shards before it is written."""

    outline: Outline
    source: Source
    cutter: Cutter
    shards: tuple[Sequence[Row], ...]
    """The rows of the source that every shard is made of, in order."""
    strict: bool
    workers: int


def plan_set(source: str, out: Path | str, name: str | None, options: Options, say: Say) -> Plan:
    """Opens the source and decides everything; ``InputError`` as :func:`prepare`."""
    out = local_path(out, "out")
    _check_free(out, source)
    asked, begun = asked_for(source, name, options), Outline.read(out)
    known = begun.decided(asked) if begun else None
    opened, cutter, fold_by = _open_and_choose(source, options, known, say)
    name = opened.name if name is None else name
    info = ShardsInfo(
        name=name,
        signals=cutter.signals,
        rows=0,
        labels=opened.labels,
        multi_label=opened.multi_label,
        fold_by=fold_by,
        guard_seconds=options.guard_seconds or 0.0,
        source=opened.description,
        recipe=_recipe(name, opened, cutter, options, fold_by),
    )
    shards = tuple(rows_of_shards(opened.rows, signal_bytes(info.signals)))
    command = {
        "recipe": info.recipe,
        "versions": _versions(),
        "name": name,
        "rows": len(opened.rows),
        "options": {key: word for key, word in asked.items() if key not in ("source", "name")},
        "asked": asked,
    }
    outline = Outline(out, info, len(shards), opened.missing, cutter, command)
    workers = options.workers or os.cpu_count() or 1
    return Plan(outline, opened, cutter, shards, options.strict, workers)


def asked_for(source: str, name: str | None, options: Options) -> dict[str, str]:
    """The words of a command that decide what becomes of a set."""
    fields = {f.name: getattr(options, f.name) for f in dataclasses.fields(options) if f.init}
    kept = {k: str(v) for k, v in fields.items() if k not in ("workers", "strict", "clips")}
    return {"source": source, "name": str(name), **kept}


def _open_and_choose(
    source: str, options: Options, known: Cutter | None, say: Say
) -> tuple[Source, Cutter, str]:
    """The source with the rows to read, how they are cut, and what new folds keep whole.

    ``known`` is how they are cut, where that is decided: headers are not looked at again.
    """
    opened = thinned(open_source(source, kind=options.kind, options=options), options.fractions)
    read_as = messages.read_as(opened)
    opened, fold_by = with_requested_folds(opened, options)
    say((read_as, *opened.notes))
    if options.strict and opened.missing:
        raise InputError(f"{opened.missing[0]}; mend or remove it, or prepare without strict")
    cutter = known
    if cutter is None:
        survey = opened.survey(row.path for row in opened.rows) if opened.survey else None
        cutter = cutter_for(opened, options, sound_dtype(options.dtype, opened, survey))
        say(messages.about_sound(opened, cutter, survey))
    return _with_rows_to_read(opened, cutter, options.guard_seconds), cutter, fold_by


def _with_rows_to_read(source: Source, cutter: Cutter, guard_seconds: float | None) -> Source:
    """The source without the rows that a guard removes, and with its unlabelled stretches last."""
    if guard_seconds is not None:
        kept, lost = guarded(source, guard_seconds, rate=cutter.rate)
        source = dataclasses.replace(source, rows=packed(kept), missing=(*source.missing, *lost))
    long = [row for row in source.rest if 2 * (source.seconds(row) or 0.0) >= cutter.seconds]
    rows = packed(itertools.chain(source.rows, long)) if long else source.rows
    return dataclasses.replace(source, rows=rows, rest=())


def _recipe(name: str, source: Source, cutter: Cutter, options: Options, fold_by: str) -> str:
    """Fingerprint of everything that decides a byte of the set, except the contents of files."""
    rows = hashlib.sha256()
    for row in source.rows:
        rows.update(repr(tuple(row)).encode())
    content = (name, source.kind, source.labels, source.multi_label, rows.hexdigest())
    folds = (fold_by, options.guard_seconds)
    return fingerprint([content, cutter, options.channels, options.complex_as, folds])


def _versions() -> dict[str, str]:
    return {library: _version(library) for library in LIBRARIES} | {"libsndfile": _libsndfile()}


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "none"


def _libsndfile() -> str:
    import soundfile

    return soundfile.__libsndfile_version__


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


def rows_of_shards(rows: Sequence[Row], row_bytes: int) -> list[Sequence[Row]]:
    """The rows of every shard: about 64 shards of 4 to 256 MiB each, of at most 65536 rows."""
    target = min(max(len(rows) * row_bytes // 64, _SMALLEST), _LARGEST)
    size = min(max(1, target // row_bytes), _MOST_ROWS)
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def write_shard(plan: Plan, index: int) -> None:
    """Writes a shard, unless it is finished.

    Raises:
      InputError: for a finished shard of another command, and with ``strict`` for a row that
        cannot be used.
    """
    folder, outline = plan.outline.folder, plan.outline
    done = journal.load(folder, index)
    if done is not None:
        check_own(outline, done)
        if not (plan.strict and done.skipped):
            return
    skipped: list[str] = []
    windows = _windows(plan, plan.shards[index], skipped)
    journal.write(folder, index, windows, skipped, command=outline.fingerprint)


def check_own(outline: Outline, written: journal.Written) -> None:
    """``InputError`` for a shard that another command has written."""
    if written.command != outline.fingerprint:
        path = journal.file_of(outline.folder, written.index, journal.FACTS)
        raise InputError(
            f"{path}: belongs to another command (other data, options or versions of libraries); "
            f"prepare every part by the same command, or delete {outline.folder} and begin again"
        )


def _windows(plan: Plan, rows: Sequence[Row], skipped: list[str]) -> Iterator[Window]:
    """The windows of ``rows``; those that cannot be used are appended to ``skipped`` by name."""
    for row in rows:
        try:
            if not is_utf8(row.path):
                raise InputError("has a name that is not UTF-8; rename it")
            windows = windows_of(plan.cutter, row, plan.source.read(row), plan.outline.info)
        except UNREADABLE as error:
            message = f"{name_of(row)}: {first_line(error)}"
            if plan.strict:
                raise InputError(
                    f"{message}; mend or remove it, or prepare without strict"
                ) from error
            skipped.append(message)
            continue
        yield from windows


def write_shards(plan: Plan, indices: Sequence[int], *, quiet: bool) -> None:
    """Writes shards by several threads; the first error stops those that are not yet begun."""
    rows = sum(len(plan.shards[i]) for i in indices)
    with (
        Progress(rows, title="preparing", lines=10, quiet=quiet) as bar,
        ThreadPoolExecutor(plan.workers) as pool,
    ):
        futures = {pool.submit(write_shard, plan, i): i for i in indices}
        try:
            for future in as_completed(futures):
                future.result()
                bar.advance(len(plan.shards[futures[future]]))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
