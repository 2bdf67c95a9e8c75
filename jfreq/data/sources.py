"""The layouts that can be made into shards."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Callable
from pathlib import Path

from jfreq.config import check, close_match
from jfreq.data import layouts, synthetic
from jfreq.data.arrays import array_source, from_sensors
from jfreq.data.folders import listing, natural
from jfreq.data.layouts import audioset
from jfreq.data.layouts.common import refuse_pickles
from jfreq.data.source import (
    ARRAYS,
    AUDIO,
    Options,
    Row,
    Signal,
    Source,
    audio_source,
    files_in,
    given_labels,
    number,
    read_csv,
)
from jfreq.data.spans import unnamed
from jfreq.data.tables import TABLES
from jfreq.data.tfds_source import open_tfds


def open_source(source: str, *, kind: str, options: Options) -> Source:
    """Finds out what ``source`` is (``kind="auto"``) and lists it; ``InputError`` with advice."""
    scheme, _, rest = source.partition(":")
    if scheme in ("synthetic", "tfds") and rest:
        found = from_synthetic(rest, options) if scheme == "synthetic" else open_tfds(rest, options)
    else:
        path = Path(source).expanduser()
        check(path.exists(), "source", f"{path} does not exist")
        kind = _guess(path) if kind == "auto" else kind
        check(kind in KINDS, "kind", f"no kind {kind!r}{close_match(kind, KINDS)}; there are: "
              f"{', '.join(KINDS)}, and the sources synthetic:NAME and tfds:NAME")  # fmt: skip
        found = KINDS[kind](path, options)
    found = _only(found, options.only)
    check(len(found.rows) > 0, "source", f"{source}: nothing to read{_why_empty(found)}")
    return found


def _why_empty(source: Source) -> str:
    return f"; none of its {len(source.missing)} clips is on disk" if source.missing else ""


def _only(source: Source, patterns: tuple[str, ...]) -> Source:
    """The rows whose path matches one of the patterns, all where there is none."""
    if not patterns:
        return source

    def kept(rows: tuple[Row, ...]) -> tuple[Row, ...]:
        return tuple(r for r in rows if any(fnmatch.fnmatch(r.path, p) for p in patterns))

    rows = kept(source.rows)
    check(bool(rows or not source.rows), "only", f"no row's path matches {' or '.join(patterns)}; "
          f"they look like {source.rows[0].path if source.rows else ''}")  # fmt: skip
    return dataclasses.replace(source, rows=rows, rest=kept(source.rest))


def _guess(path: Path) -> str:
    if path.is_dir():
        if (path / "index.csv").is_file():
            return "index"
        if (owner := layouts.recognise(path)) is not None:
            return owner
        names = [p.suffix.lower() for p in listing(path).files]
        if any(name in AUDIO for name in names):
            return "folders"
        if not any(name in ARRAYS for name in names):
            refuse_pickles(path)
        check(any(name in ARRAYS for name in names), "source", f"{path} holds no index.csv, "
              f"no audio ({' '.join(AUDIO)}) and no arrays ({' '.join(ARRAYS)})")  # fmt: skip
        return "sensors"
    if path.suffix.lower() in TABLES:
        if audioset.is_list(path):
            return "audioset"
        head = path.open(encoding="utf-8", errors="replace").read(2000)
        return "index" if "path" in head.partition("\n")[0].strip().split(",") else "sensors"
    check(path.suffix != ".mat", "kind", f"{path} may hold anything; name its layout, for instance "
          "cwru or csi")  # fmt: skip
    return "sensors" if path.suffix.lower() in ARRAYS else "folders"


def from_index(path: Path, options: Options) -> Source:
    """A folder with ``index.csv``: column ``path``, and any of ``label`` ``fold`` ``split``
    ``subject`` ``sr`` ``start`` ``end`` ``row``."""
    index = path / "index.csv" if path.is_dir() else path
    root = index.parent
    table = list(read_csv(index, required=("path",)))
    labels = _label_names(table, options, index)
    known = {name: i for i, name in enumerate(labels)}
    listed = [(r.get("label") or "", _index_row(r, known, f"{index}:{line}", options))
              for line, r in enumerate(table, start=2)]  # fmt: skip
    rows = [row for name, row in listed if not options.drops(name)]
    audio = bool(rows) and Path(rows[0].path).suffix.lower() in AUDIO
    make = audio_source if audio else array_source
    source = make(root.name, "index", rows, root, options, labels=labels)
    if not options.unlabelled:
        return source

    def length(row: Row) -> int:
        return len(next(iter(source.read(row).values())).x)

    return dataclasses.replace(source, rest=unnamed([row for _, row in listed], length))


def _index_row(r: dict[str, str], known: dict[str, int], where: str, options: Options) -> Row:
    name = r.get("label") or ""
    check(not name or name in known or options.drops(name), where, f"label {name!r} is not in the "
          f"list of labels{close_match(name, known)}")  # fmt: skip
    check(bool(r["path"]), where, "names no path")
    return Row(
        path=r["path"],
        label=(known[name],) if name in known else (),
        fold=number(r.get("fold"), int, f"{where} fold", -1),
        split=r.get("split") or "",
        subject=r.get("subject") or "",
        start=number(r.get("start"), int, f"{where} start", 0),
        end=number(r.get("end"), int, f"{where} end", None),
        item=number(r.get("row"), int, f"{where} row", None),
        rate=number(r.get("sr"), float, f"{where} sr", None),
    )


def from_folders(path: Path, options: Options) -> Source:
    """One folder per class of audio files; files that lie in no class folder are unlabelled."""
    root = path.parent if path.is_file() else path
    paths = [path] if path.is_file() else sorted(files_in(path, AUDIO))
    names = [file.relative_to(root).as_posix() for file in paths]
    listed = [(name, name.split("/")[0] if "/" in name else "") for name in names]
    listed = [(name, label) for name, label in listed if not options.drops(label)]
    labels = given_labels(options) or tuple(sorted({label for _, label in listed} - {""}))
    known = {label: i for i, label in enumerate(labels)}
    for name, label in listed:
        check(not label or label in known, name, f"the folder {label!r} is not in the list of "
              f"labels{close_match(label, known)}")  # fmt: skip
    rows = [Row(name, (known[label],) if label else ()) for name, label in listed]
    return audio_source(root.name, "folders", rows, root, options, labels=labels)


def from_synthetic(name: str, options: Options) -> Source:
    """``synthetic:NAME``, of a family of :mod:`jfreq.data.synthetic`."""
    family = synthetic.family(name)
    seconds = family.seconds if options.seconds is None else options.seconds
    n = options.n or 24 * len(family.labels)

    def make(index: int) -> synthetic.Clip:
        return synthetic.clip(name, index, seconds=seconds, seed=options.seed)

    def row(i: int) -> Row:
        label, subject, fold = synthetic.place(name, i)
        return Row(f"{name}/{i:06d}", (label,), fold, subject=f"{name}-{subject}", item=i)

    def read(r: Row) -> dict[str, Signal]:
        assert r.item is not None
        return {k: Signal(x, rate) for k, (x, rate) in make(r.item).signals.items()}

    rows = tuple(row(i) for i in range(n))
    title = f"synthetic-{name}-{options.seed}"
    return Source(title, "synthetic", rows, read, lambda _: seconds, False, labels=family.labels)


KINDS: dict[str, Callable[[Path, Options], Source]] = {
    "index": from_index,
    "folders": from_folders,
    "sensors": from_sensors,
    **layouts.LAYOUTS,
}


def _label_names(table: list[dict[str, str]], options: Options, where: Path) -> tuple[str, ...]:
    """Given names, else those of the index ordered by ``label_id`` where it has one."""
    given = given_labels(options)
    if given:
        return given
    ids: dict[str, float] = {}
    for r in table:
        name = r.get("label") or ""
        if name and not options.drops(name):
            ids.setdefault(name, number(r.get("label_id"), float, f"{where} label_id", 0.0))
    return tuple(sorted(ids, key=lambda name: (ids[name], natural(name))))
