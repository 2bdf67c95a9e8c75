"""``jfreq data``: recordings into shards, and looks at shards."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from jfreq.data.options import Options
from jfreq.ranges import Count

DEFAULTS = Options()


def data_prepare(
    name: Positional[str],
    /,
    out: Path,
    source: str | None = None,
    options: Annotated[Options, arg(name="")] = DEFAULTS,
) -> None:
    """Turns recordings into shards that `jfreq train` reads.

    Args:
        name: name of the set. Without --source it is the source too: a folder, `tfds:NAME`, or
            `synthetic:machines|machines_load|tones|harmonic_tones|motion`.
        out: folder of the shards; an interrupted call goes on there.
        source: folder (index.csv, a folder per class, sensor files, a published set as it was
            unpacked) or AudioSet segment CSV.
        options: what to make of the recordings.
    """
    from jfreq.data.prepare.run import prepare
    from jfreq.data.shards.describe import describe
    from jfreq.data.shards.reader import open_shards

    fields = {f.name: getattr(options, f.name) for f in dataclasses.fields(options) if f.init}
    prepare(source or name, out, name=name if source else None, **fields)
    print(describe(open_shards(out)))


def data_info(shards: Positional[Path]) -> None:
    """What a folder of shards holds."""
    from jfreq.data.shards.describe import describe
    from jfreq.data.shards.reader import open_shards

    print(describe(open_shards(shards)))


def data_peek(shards: Positional[Path], n: Count = 4) -> None:
    """The first rows of a folder of shards."""
    from jfreq.data.shards.describe import peek
    from jfreq.data.shards.reader import open_shards

    print(peek(open_shards(shards), n))
