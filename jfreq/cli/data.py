"""``jfreq data``: makes shards from recordings and prints what shards hold."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from jfreq.data.options import Options
from jfreq.ranges import Count, InputError

DEFAULTS = Options()


def data_prepare(
    name: Positional[str],
    /,
    out: Path,
    source: str | None = None,
    part: str | None = None,
    finish: bool = False,
    runner: str | None = None,
    runner_options: tuple[str, ...] = (),
    options: Annotated[Options, arg(name="")] = DEFAULTS,
) -> None:
    """Turns recordings into shards that `jfreq train` reads.

    Args:
        name: name of the set. Without --source it is also the source: a folder, `tfds:NAME`, or
            `synthetic:machines|machines_load|tones|harmonic_tones|motion`.
        out: folder of the shards; the same command continues an interrupted one there.
        source: folder (index.csv, a folder per class, sensor files, a published set as it was
            unpacked) or AudioSet segment CSV.
        part: prepare one part of many, for instance 3/64; parts count from 1/64 and may run on
            several machines at once.
        finish: join the parts: the same bytes as without parts.
        runner: prepare by Apache Beam: DirectRunner, DataflowRunner, FlinkRunner, SparkRunner or
            DaskRunner; the same bytes again.
        runner_options: options of Beam, for instance direct_num_workers=8
            direct_running_mode=multi_processing.
        options: how recordings are read, cut and stored.
    """
    from jfreq.data.prepare.parts import finish_parts, prepare_part
    from jfreq.data.prepare.run import prepare
    from jfreq.data.shards.describe import describe
    from jfreq.data.shards.reader import open_shards

    fields = {f.name: getattr(options, f.name) for f in dataclasses.fields(options) if f.init}
    fields["name"] = name if source else None
    ways = [way for way, chosen in (
        ("part", part), ("finish", finish), ("runner", runner)
    ) if chosen]  # fmt: skip
    if len(ways) > 1:
        raise InputError(f"{ways[0]}: cannot be used together with --{ways[1]}; leave one out")
    if runner_options and runner is None:
        raise InputError("runner_options: are for Apache Beam; name a --runner")
    if part is not None:
        prepare_part(source or name, out, part, **fields)
        return
    if runner is not None:
        from jfreq.data.prepare.beam import prepare_with_beam

        prepare_with_beam(source or name, out, runner, runner_options, **fields)
    else:
        (finish_parts if finish else prepare)(source or name, out, **fields)
    print(describe(open_shards(out)))


def data_info(shards: Positional[Path]) -> None:
    """Prints what a folder of shards holds.

    Args:
        shards: the folder.
    """
    from jfreq.data.shards.describe import describe
    from jfreq.data.shards.reader import open_shards

    print(describe(open_shards(shards)))


def data_peek(shards: Positional[Path], n: Count = 4) -> None:
    """Prints the first rows of a folder of shards.

    Args:
        shards: the folder.
        n: number of rows.
    """
    from jfreq.data.shards.describe import peek
    from jfreq.data.shards.reader import open_shards

    print(peek(open_shards(shards), n))
