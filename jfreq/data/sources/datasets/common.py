"""What the layouts share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jfreq.config import check
from jfreq.data.options import Options
from jfreq.data.sources.base import Listed, Row, Signal, classes_of, split_channels, unrecorded
from jfreq.data.sources.folders import listing
from jfreq.ranges import brief
from jfreq.types import InputError


def find(folder: Path, pattern: str, *, kind: str) -> list[Path]:
    """Files or folders anywhere in ``folder``, sorted; ``InputError`` where there are none."""
    found = listing(folder).matching(pattern)
    if not found:
        refuse_pickles(folder)
    if not found:
        raise InputError(
            f"source: {folder} has no {pattern} in it, as {kind} has; docs/data.md shows what the "
            "layout looks like"
        )
    return found


def refuse_pickles(folder: Path) -> None:
    """``InputError`` where a folder holds samples that were saved by torch."""
    pickles = (".pt", ".pth", ".pkl", ".pickle")
    file = next((f for f in listing(folder).files if f.suffix.lower() in pickles), None)
    if file is not None:
        raise InputError(
            f"source: {file} is a pickle, which can run any code when it is loaded, so it is never "
            "read; prepare the raw recordings instead (kinds mod, acids, pamap2, realworld), or "
            "save arrays as .npz (x [time, channels], sr, label)"
        )


def sensors_of(
    found: Mapping[str, Signal], shapes: Mapping[str, tuple[float, int]], options: Options
) -> dict[str, Signal]:
    """Signals that come in files of their own, all of ``shapes``; what is not ``found`` is NaN.

    ``shapes`` are Hz and channels. The signals of ``found`` set the length. ``options.channels``
    picks signals by their names, and channels of them.
    """
    seconds = min(len(s.x) / (s.rate or 1.0) for s in found.values())
    out = {
        name: found.get(name, Signal(unrecorded(max(1, round(seconds * rate)), channels), rate))
        for name, (rate, channels) in shapes.items()
    }
    if not options.channels:
        return out
    return {
        name: split_channels({}, out[name], {name: channels})[name]
        for name, channels in options.channels.items()
    }


def lacking(found: Sequence[str], names: Sequence[str], options: Options) -> str:
    """Why a recording that has the modalities ``found`` of ``names`` cannot be used, if so."""
    wanted = tuple(options.channels or names)
    for name in wanted:
        if name not in names:
            raise InputError(
                f"modalities: no modality {name!r} in this layout; it has: {', '.join(names)}"
            )
    lost = [name for name in wanted if name not in found]
    few = len(lost) == len(wanted) or not options.allow_missing
    return f"has no {' and no '.join(lost)}" if lost and few else ""


def side_by_side(grid: Signal, present: Sequence[bool]) -> Signal:
    """Sensors of three channels each: those of ``grid`` where ``present``, NaN elsewhere."""
    blocks = iter(np.split(grid.x, max(1, sum(present)), axis=1))
    empty = unrecorded(len(grid.x), 3)
    return grid._replace(x=np.hstack([next(blocks) if here else empty for here in present]))


def labelled(
    entries: Sequence[tuple[Row, str]],
    options: Options,
    *,
    order: Sequence[str] = (),
    missing: Iterable[str] = (),
) -> Listed:
    """Rows with the number of their class; those of no class where they were asked for."""
    named = [(row.path, name) for row, name in entries]
    labels, numbers, dropped = classes_of(named, options, order=order)
    rows = tuple(r._replace(label=(numbers[name],)) for r, name in entries if name in numbers)
    rest = tuple(r for r, name in entries if not name and options.unlabelled)
    return Listed(rows, labels, tuple(missing), rest, dropped)


def table(source: Any, names: Sequence[str], *, where: str, delimiter: str = ",") -> np.ndarray:
    """Columns ``names`` ``[n c]`` float64 of a text file with a header; ``source`` is its lines."""
    header = [name.strip().strip('"') for name in next(iter(source), "").split(delimiter)]
    for name in names:
        check(name in header, where, f"has no column {name!r}; it has: {brief(', '.join(header))}")
    columns = [header.index(name) for name in names]
    return numbers(source, where=where, delimiter=delimiter, usecols=columns)


def numbers(source: Any, *, where: str, **options: Any) -> np.ndarray:
    """``[n c]`` float64, or of ``dtype``, of lines of text; NaN is a number, an empty field not."""
    options = {"ndmin": 1 if "dtype" in options else 2, **options}
    try:
        return np.loadtxt(source, **options)
    except (ValueError, OSError) as error:
        raise InputError(f"{where}: {str(error).splitlines()[0]}") from error
