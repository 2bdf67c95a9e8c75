"""From recordings to shards by one process: decoded in parallel, finished in one atomic step.

The rows of a source are dealt to shards by their number and size alone, and a shard is written by
one thread, so neither the number of workers nor an interruption changes a byte of the result.
Finished shards are kept in ``.parts`` until the set is finished.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from jfreq.data.options import Options
from jfreq.data.prepare import messages, workplace
from jfreq.data.prepare.finish import finish
from jfreq.data.prepare.outline import finished_set
from jfreq.data.prepare.plan import plan_set, write_shards
from jfreq.data.shards.metadata import ShardsInfo
from jfreq.files import disk_errors


def prepare(
    source: str, out: Path | str, *, name: str | None = None, progress: bool = True, **fields: Any
) -> ShardsInfo:
    """Makes a set of shards from recordings; the same call continues an interrupted one.

    Args:
      source: a folder or file, ``synthetic:NAME`` or ``tfds:NAME``.
      out: the folder of shards. It may hold an unfinished set, or the finished set of the same
        call, which is returned as it is.
      name: of the set; by default that of the source.
      progress: show on standard error what was recognised and how much is done.
      fields: those of :class:`jfreq.data.options.Options`, for instance ``seconds=2.0``.

    Returns:
      What the finished set holds.

    Raises:
      InputError: for anything wrong with the source or the options, where ``out`` holds anything
        else, where no row can be used, or for a full disk.
    """
    say = messages.say if progress else lambda lines: None
    plan = plan_set(source, out, name, Options(**fields), say)
    outline = plan.outline
    if finished := finished_set(outline, strict=plan.strict):
        workplace.clear(outline)
        return finished
    with (
        disk_errors(outline.out, kept="it goes on from the finished shards"),
        contextlib.closing(workplace.alone(outline)),
    ):
        write_shards(plan, range(len(plan.shards)), quiet=not progress)
        return finish(outline, say)
