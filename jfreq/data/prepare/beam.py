"""A set prepared by Apache Beam, on any of its runners.

Beam only decides where a shard is written: each element is the number of a shard, which a worker
writes as :func:`jfreq.data.prepare.run.prepare` does. So the bytes are the same, whatever the
runner, the number of workers and how often it tries.
"""

from __future__ import annotations

import contextlib
import functools
import io
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from jfreq.data.options import Options
from jfreq.data.prepare import messages, workplace
from jfreq.data.prepare.finish import finish
from jfreq.data.prepare.outline import finished_set
from jfreq.data.prepare.parts import check_parts
from jfreq.data.prepare.plan import Plan, plan_set, write_shard
from jfreq.data.shards.metadata import ShardsInfo
from jfreq.data.sources.folders import PARTS
from jfreq.files import disk_errors, write_text
from jfreq.ranges import brief, close_match, first_line
from jfreq.types import InputError

Runner = Literal["DirectRunner", "DataflowRunner", "FlinkRunner", "SparkRunner", "DaskRunner"]
"""Names of Beam's runners."""
RUNNERS: tuple[str, ...] = get_args(Runner)
INSTALL = "pip install 'jfreq[beam]'"
_EXTRAS = {"DataflowRunner": "apache-beam[gcp]", "DaskRunner": "apache-beam[dask]"}
"""What runners need beside Beam itself."""
_MODULES = {"DaskRunner": "apache_beam.runners.dask.dask_runner.DaskRunner"}
"""Runners that Beam does not know by their short names."""
_opening = threading.Lock()


class Job(NamedTuple):
    """What a worker needs to know; it is sent to other machines."""

    source: str
    out: str
    name: str
    fields: tuple[tuple[str, Any], ...]
    command: str
    """Fingerprint of the command as the machine that started it understood it."""


def prepare_with_beam(
    source: str,
    out: Path | str,
    runner: str = "DirectRunner",
    runner_options: Sequence[str] = (),
    *,
    name: str | None = None,
    progress: bool = True,
    **fields: Any,
) -> ShardsInfo:
    """Makes a set of shards by Apache Beam; the same call continues an interrupted one.

    Args:
      source: as in :func:`jfreq.data.prepare.run.prepare`; every worker sees it by this name.
      out: the folder of the set, which every worker sees by this name.
      runner: one of ``RUNNERS``.
      runner_options: options of Beam as ``name=value`` or ``name``, without dashes in front.
      name: of the set.
      progress: show what was recognised.
      fields: those of :class:`jfreq.data.options.Options`.

    Raises:
      InputError: as :func:`jfreq.data.prepare.run.prepare`; for a runner or an option that Beam
        does not know, and where Beam or what the runner needs is not installed.
    """
    say = messages.say if progress else lambda lines: None
    options = _options(runner, runner_options)
    plan = plan_set(source, out, name, Options(**fields), say)
    outline = plan.outline
    if finished := finished_set(outline, strict=plan.strict):
        workplace.clear(outline)
        return finished
    here = Path(source).expanduser()
    job = Job(
        str(here.absolute()) if here.exists() else source,
        str(outline.out.absolute()),
        outline.info.name,
        tuple(fields.items()),
        outline.fingerprint,
    )
    with (
        disk_errors(outline.out, kept="it goes on from the finished shards"),
        contextlib.closing(workplace.alone(outline)),
    ):
        say([f"{len(plan.shards)} shards are written by Apache Beam, {runner}"])
        _run(job, len(plan.shards), runner, options)
        check_parts(outline, plan.workers, strict=plan.strict)
        return finish(outline, say)


def _run(job: Job, shards: int, runner: str, options: Any) -> None:
    """Writes all shards; an ``InputError`` of a worker is raised here."""
    import apache_beam as beam  # pyright: ignore[reportMissingImports]

    refusal = _refusal(job)
    refusal.unlink(missing_ok=True)
    write = functools.partial(_write, job=job)
    try:
        with beam.Pipeline(runner=_MODULES.get(runner, runner), options=options) as pipeline:
            numbers = pipeline | "Shards" >> beam.Create(range(shards), reshuffle=False)
            numbers | beam.Reshuffle() | "Write" >> beam.Map(write)  # type: ignore[operator]
    except Exception as error:
        raise InputError(f"runner: {runner} failed: {brief(str(error), most=400)}") from error
    if refusal.exists():
        raise InputError(refusal.read_text("utf-8"))


def _write(index: int, job: Job) -> int:
    """Writes one shard, on whatever machine; a refusal is kept in a file, and not tried again."""
    if not _refusal(job).exists():
        try:
            with _opening:
                plan = _plan(job)
            write_shard(plan, index)
        except InputError as error:
            write_text(_refusal(job), str(error))
    return index


def _refusal(job: Job) -> Path:
    return Path(job.out) / PARTS / "refusal.txt"


@functools.lru_cache(maxsize=1)
def _plan(job: Job) -> Plan:
    """The plan on this machine, made once in each process."""
    plan = plan_set(job.source, job.out, job.name, Options(**dict(job.fields)), lambda lines: None)
    if plan.outline.fingerprint != job.command:
        raise InputError(
            f"source: {job.source} is not the same on every worker, or the versions of libraries "
            "differ; give all workers the same recordings and the same environment"
        )
    return plan


def _options(runner: str, words: Sequence[str]) -> Any:
    """Beam's options.

    Raises:
      InputError: for an unknown runner or option, and where something is not installed.
    """
    if runner not in RUNNERS:
        raise InputError(
            f"runner: no runner {runner!r}{close_match(runner, RUNNERS)}; there are: "
            f"{', '.join(RUNNERS)}"
        )
    try:
        from apache_beam.options.pipeline_options import (  # pyright: ignore[reportMissingImports]
            PipelineOptions,
        )
        from apache_beam.runners.runner import (  # pyright: ignore[reportMissingImports]
            create_runner,
        )
    except ImportError as error:
        raise InputError(f"runner: Apache Beam is not installed; {INSTALL}") from error
    try:
        create_runner(_MODULES.get(runner, runner))  # its module declares its options
    except ImportError as error:
        extra = _EXTRAS.get(runner, "apache-beam")
        raise InputError(
            f"runner: {runner} needs more than Beam ({first_line(error)}); pip install '{extra}'"
        ) from error
    for word in words:
        if word.startswith("-"):
            raise InputError(f"runner_options: write {word.lstrip('-')!r}, without dashes in front")
    options, said = PipelineOptions([f"--{word}" for word in words]), io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            known = options.get_all_options()
            both = options.get_all_options(retain_unknown_options=True)
    except SystemExit as error:
        why = said.getvalue().strip().rpartition("error: ")[2]
        raise InputError(f"runner_options: {why or ' '.join(words)}") from error
    if unknown := sorted(set(both) - set(known)):
        raise InputError(
            f"runner_options: {runner} has no option {unknown[0]!r}{close_match(unknown[0], known)}"
        )
    return options
