"""One set prepared by many processes: each writes its part of the shards, one joins them.

Parts are stretches of the shards that one process would write, so the set has the same bytes
whatever the number of parts.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jfreq.data.options import Options
from jfreq.data.prepare import journal, messages, workplace
from jfreq.data.prepare.finish import finish
from jfreq.data.prepare.outline import Outline, finished_set
from jfreq.data.prepare.plan import asked_for, check_own, plan_set, write_shards
from jfreq.data.shards.metadata import ShardsInfo
from jfreq.data.sources.folders import METADATA
from jfreq.files import disk_errors, local_path
from jfreq.parts import Part, parse_part
from jfreq.ranges import shortlist
from jfreq.types import InputError

_NAMED = 12
"""Parts that a message names."""


def prepare_part(
    source: str,
    out: Path | str,
    part: str,
    *,
    name: str | None = None,
    progress: bool = True,
    **fields: Any,
) -> int:
    """Writes one part of a set; the same call continues an interrupted one.

    Several processes on any number of machines may prepare parts in the same folder at once.
    :func:`finish_parts` joins them.

    Args:
      source: as in :func:`jfreq.data.prepare.run.prepare`, the same for all parts.
      out: the folder of the set, the same for all parts.
      part: which one, for instance ``3/64``; the first is ``1/64``.
      name: of the set.
      progress: show what was recognised and how much is done.
      fields: those of :class:`jfreq.data.options.Options`, the same for all parts.

    Returns:
      The number of shards of the part; it may be 0, where a set has fewer shards than parts.

    Raises:
      InputError: as :func:`jfreq.data.prepare.run.prepare`; where another process prepares this
        part now, or ``out`` holds parts of another command.
    """
    chosen = parse_part(part)
    say = messages.say if progress else lambda lines: None
    plan = plan_set(source, out, name, Options(**fields), say)
    indices = chosen.of(len(plan.shards))
    outline = plan.outline
    told = f"{outline.out} is finished already; part {chosen} has nothing to do"
    with disk_errors(outline.out, kept="it goes on from the finished shards"):
        if not finished_set(outline, strict=plan.strict):
            locks = workplace.for_part(outline, *chosen)
            with contextlib.closing(locks[0]), contextlib.closing(locks[1]):
                if not finished_set(outline, strict=plan.strict):  # in the meantime
                    write_shards(plan, indices, quiet=not progress)
                    told = _told(outline, chosen, indices)
        if (outline.out / METADATA).exists():
            workplace.clear(outline)
    say([told])
    return len(indices)


def _told(outline: Outline, part: Part, indices: Sequence[int]) -> str:
    """One line about a finished part."""
    done = [w for i in indices if (w := journal.load(outline.folder, i))]
    rows, skipped = sum(w.rows for w in done), sum(len(w.skipped) for w in done)
    left = f", {skipped} rows were skipped" if skipped else ""
    return (
        f"part {part} is finished: {len(indices)} of {outline.shards} shards, {rows} windows"
        f"{left}; once all parts are, run the same command with --finish in place of --part"
    )


def finish_parts(
    source: str, out: Path | str, *, name: str | None = None, progress: bool = True, **fields: Any
) -> ShardsInfo:
    """Joins the parts of a set that :func:`prepare_part` wrote; arguments as there.

    Recordings are not read again. Every file is compared with its sha256 before it counts. The
    result has the same bytes as that of :func:`jfreq.data.prepare.run.prepare`.

    Raises:
      InputError: naming the parts that are missing, damaged, or of another command; while a part
        is being prepared.
    """
    say = messages.say if progress else lambda lines: None
    options, place = Options(**fields), local_path(out, "out")
    outline = Outline.read(place)
    if outline is None and (place / METADATA).exists():
        outline = plan_set(source, place, name, options, say).outline
    if outline is None:
        raise InputError(
            f"out: {place} holds no parts; run the same command with --part 1/N to --part N/N "
            "before --finish"
        )
    if finished := finished_set(outline, strict=options.strict):
        workplace.clear(outline)
        return finished
    with (
        disk_errors(place, kept="no part is lost"),
        contextlib.closing(workplace.to_finish(outline, asked_for(source, name, options))),
    ):
        check_parts(outline, options.workers or os.cpu_count() or 1, strict=options.strict)
        return finish(outline, say)


def check_parts(outline: Outline, workers: int, *, strict: bool) -> None:
    """``InputError`` unless every shard is finished, of this command, and as it was written.

    With ``strict`` also for rows that could not be used.
    """
    count = workplace.parts_of(outline.folder)
    missing, done = [], []
    for index in range(outline.shards):
        if (written := journal.load(outline.folder, index)) is None:
            missing.append(index)
        else:
            check_own(outline, written)
            done.append(written)
    if missing:
        raise _again(outline, missing, count, "not finished")
    with ThreadPoolExecutor(workers) as pool:
        whole = pool.map(lambda written: journal.intact(outline.folder, written), done)
        damaged = [written.index for written, good in zip(done, whole) if not good]
    skipped = next((line for written in done for line in written.skipped), None)
    if strict and skipped is not None:
        raise InputError(f"{skipped}; mend or remove it, or finish without strict")
    if damaged:
        for index in damaged:
            journal.set_aside(outline.folder, index)
        raise _again(outline, damaged, count, "damaged: their files are not what was written")


def _again(outline: Outline, shards: Sequence[int], count: int, what: str) -> InputError:
    """What to say of shards that have to be written again."""
    total = outline.shards
    if not count:
        return InputError(
            f"out: {len(shards)} of {total} shards of {outline.out} are {what}; run the same "
            "command without --finish, which goes on where it stopped"
        )
    parts = list(_parts_of(shards, count, total))
    are = "parts is" if len(parts) == 1 else "parts are"
    return InputError(
        f"out: {len(parts)} of {count} {are} {what}: {shortlist(list(map(str, parts)), _NAMED)}; "
        f"run the same command with --part {parts[0]} "
        f"{'and so on ' if len(parts) > 1 else ''}again, then --finish"
    )


def _parts_of(shards: Sequence[int], count: int, total: int) -> Iterator[Part]:
    """The parts, of ``count``, that hold some of the ``shards``, of ``total``."""
    wanted = set(shards)
    for number in range(1, count + 1):
        part = Part(number, count)
        if not wanted.isdisjoint(part.of(total)):
            yield part
