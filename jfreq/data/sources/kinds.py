"""Kinds of sources by name, and opening one."""

from __future__ import annotations

import dataclasses
import fnmatch
import os
from collections.abc import Callable
from pathlib import Path

from jfreq.config import check, close_match
from jfreq.data.options import Options
from jfreq.data.sources import datasets, synthetic
from jfreq.data.sources.base import Row, Signal, Source
from jfreq.data.sources.class_folders import from_folders
from jfreq.data.sources.detect_kind import kind_of
from jfreq.data.sources.folders import shown
from jfreq.data.sources.index import from_index
from jfreq.data.sources.rows import LazyRows, packed
from jfreq.data.sources.sensor_files import from_sensors
from jfreq.data.sources.tfds import open_tfds
from jfreq.files import local_path
from jfreq.ranges import check_value
from jfreq.types import InputError


def open_source(source: str, *, kind: str, options: Options) -> Source:
    """Lists the recordings of a source.

    Args:
      source: a folder or file, ``synthetic:NAME`` or ``tfds:NAME``.
      kind: the layout of a folder or file, a name of ``KINDS``; ``auto`` recognises it.

    Raises:
      InputError: with advice, for a source that is not there or of no known layout, and for one
        of which nothing is left to read.
    """
    scheme, _, rest = source.partition(":")
    if scheme in ("synthetic", "tfds") and rest:
        opened = (
            from_synthetic(rest, options) if scheme == "synthetic" else open_tfds(rest, options)
        )
    else:
        path = local_path(source, "source")
        check(os.path.exists(path), "source", f"{shown(path)} does not exist")
        readable = os.access(path, os.R_OK | os.X_OK * path.is_dir())
        check(readable, "source", f"{shown(path)} cannot be opened (permission denied)")
        kind = kind_of(path) if kind == "auto" else kind
        if kind not in KINDS:
            raise InputError(
                f"kind: no kind {kind!r}{close_match(kind, KINDS)}; there are: {', '.join(KINDS)}, "
                "and the sources synthetic:NAME and tfds:NAME"
            )
        opened = KINDS[kind](path, options)
    _check_dropped(opened, options)
    opened = _only(opened, options)
    check(len(opened.rows) > 0, "source", f"{shown(source)}: nothing to read{_why_empty(opened)}")
    return dataclasses.replace(opened, name=shown(opened.name), rows=packed(opened.rows))


def _check_dropped(source: Source, options: Options) -> None:
    """``InputError`` for a pattern of ``drop_labels`` that matches no class of the source."""
    for pattern in options.drop_labels:
        if not fnmatch.filter(source.dropped, pattern):
            raise InputError(
                f"drop_labels: {pattern!r} matches no class{close_match(pattern, source.labels)}; "
                f"there are: {', '.join(source.labels) or 'none'}"
            )


def _why_empty(source: Source) -> str:
    missing = source.missing
    if all(line.endswith("not on disk") for line in missing):
        return f"; none of its {len(missing)} clips is on disk" if missing else ""
    return f"; {len(missing)} left out, the first: {missing[0]}"


def _only(source: Source, options: Options) -> Source:
    """The rows whose paths match ``options.only``; ``InputError`` where none does."""
    if not options.only:
        return source

    rows = packed(row for row in source.rows if options.keeps(row.path))
    patterns = " or ".join(options.only)
    if source.rows and not rows:
        raise InputError(f"only: no path matches {patterns}; paths look like {source.rows[0].path}")
    rest = tuple(row for row in source.rest if options.keeps(row.path))
    return dataclasses.replace(source, rows=rows, rest=rest)


def from_synthetic(name: str, options: Options) -> Source:
    """Recordings of a family of :mod:`jfreq.data.sources.synthetic`.

    Raises:
      InputError: for an unknown family, and for too many or too long recordings.
    """
    family = synthetic.family(name)
    seconds = family.seconds if options.seconds is None else options.seconds
    n = options.n or 24 * len(family.labels)
    check_value(synthetic.Rows, n, "", "n")
    check_value(synthetic.Length, seconds, "", "seconds")

    def make(index: int) -> synthetic.Clip:
        return synthetic.clip(name, index, seconds=seconds, seed=options.seed)

    def row(i: int) -> Row:
        label, subject, fold = synthetic.place(name, i)
        return Row(f"{name}/{i:06d}", (label,), fold, subject=f"{name}-{subject}", item=i)

    def read(r: Row) -> dict[str, Signal]:
        assert r.item is not None
        return {k: Signal(x, rate) for k, (x, rate) in make(r.item).signals.items()}

    rows = LazyRows(row, range(n))
    title = f"synthetic-{name}-{options.seed}"
    return Source(title, "synthetic", rows, read, lambda _: seconds, False, labels=family.labels)


KINDS: dict[str, Callable[[Path, Options], Source]] = {
    "index": from_index,
    "folders": from_folders,
    "sensors": from_sensors,
    **datasets.LAYOUTS,
}
