"""Shared by several layouts: finding files, labelled rows, signals of several files, numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jfreq.config import check
from jfreq.data.options import Options
from jfreq.data.sources.base import (
    Listed,
    Row,
    Signal,
    classes_of,
    split_channels,
    unrecorded,
)
from jfreq.data.sources.folders import listing
from jfreq.ranges import brief, first_line
from jfreq.types import InputError


def find(folder: Path, pattern: str, *, kind: str) -> list[Path]:
    """Files or folders anywhere in ``folder``, sorted; ``InputError`` where there are none."""
    paths = listing(folder).matching(pattern)
    if not paths:
        refuse_pickles(folder)
        raise InputError(
            f"source: {folder} has no {pattern} in it, as {kind} has; docs/data.md shows what the "
            "layout looks like"
        )
    return paths


def refuse_pickles(folder: Path) -> None:
    """``InputError`` where a folder holds pickles, as torch saves them."""
    pickles = (".pt", ".pth", ".pkl", ".pickle")
    file = next((f for f in listing(folder).files if f.suffix.lower() in pickles), None)
    if file is not None:
        raise InputError(
            f"source: {file} is a pickle, which can run any code when it is loaded, so it is never "
            "read; prepare the raw recordings instead (kinds mod, acids, pamap2, realworld), or "
            "save arrays as .npz (x [time, channels], sr, label)"
        )


def sensors_of(
    recorded: Mapping[str, Signal], shapes: Mapping[str, tuple[float, int]], options: Options
) -> dict[str, Signal]:
    """The modalities of a recording whose signals are in files of their own.

    Args:
      recorded: the signals that there are; they decide the length.
      shapes: Hz and number of channels of every modality; one that was not recorded is NaN.
      options: ``channels`` selects modalities by name, and channels of them.
    """
    seconds = min(len(s.x) / (s.rate or 1.0) for s in recorded.values())
    out = {
        name: recorded.get(name, Signal(unrecorded(max(1, round(seconds * rate)), channels), rate))
        for name, (rate, channels) in shapes.items()
    }
    for name, channels in (options.channels or {}).items():
        out |= split_channels({}, out[name], {name: channels})
    return {name: out[name] for name in options.channels or out}


def lacking(recorded: Sequence[str], names: Sequence[str], options: Options) -> str:
    """Why a recording with these modalities of ``names`` is left out; empty where it is not.

    Raises:
      InputError: for a modality in ``options`` that is not among ``names``.
    """
    wanted = tuple(options.channels or names)
    for name in wanted:
        if name not in names:
            raise InputError(
                f"modalities: no modality {name!r} in this layout; it has: {', '.join(names)}"
            )
    absent = [name for name in wanted if name not in recorded]
    if not absent or (options.allow_missing and len(absent) < len(wanted)):
        return ""
    return f"has no {' and no '.join(absent)}"


def side_by_side(grid: Signal, present: Sequence[bool]) -> Signal:
    """Sensors of three channels each: those of ``grid`` where ``present``, NaN for the others."""
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
    """Rows with the number of their class, and rows without a class where they were asked for."""
    named = [(row.path, name) for row, name in entries]
    labels, numbers, dropped = classes_of(named, options, order=order)
    rows = tuple(r._replace(label=(numbers[name],)) for r, name in entries if name in numbers)
    rest = tuple(r for r, name in entries if not name and options.unlabelled)
    return Listed(rows, labels, tuple(missing), rest, dropped)


def table(source: Any, names: Sequence[str], *, where: str, delimiter: str = ",") -> np.ndarray:
    """Columns ``names`` ``[n c]`` float64 of the lines of a text file with a header."""
    header = [name.strip().strip('"') for name in next(iter(source), "").split(delimiter)]
    for name in names:
        check(name in header, where, f"has no column {name!r}; it has: {brief(', '.join(header))}")
    columns = [header.index(name) for name in names]
    return numbers(source, where=where, delimiter=delimiter, usecols=columns)


def numbers(source: Any, *, where: str, **options: Any) -> np.ndarray:
    """Numbers ``[n c]`` float64 in lines of text, by ``np.loadtxt`` with its ``options``.

    With a ``dtype`` the result is an array of that type, by default ``[n]``.

    Raises:
      InputError: for lines that are not numbers; an empty field is none.
    """
    options = {"ndmin": 1 if "dtype" in options else 2, **options}
    try:
        return np.loadtxt(source, **options)
    except (ValueError, OSError) as error:
        raise InputError(f"{where}: {first_line(error)}") from error
