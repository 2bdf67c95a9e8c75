"""What the commands share: options over an experiment, first words, progress."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from tyro.conf import AvoidSubcommands, arg

from jfreq.config import Experiment
from jfreq.files import local_path
from jfreq.types import InputError

T = TypeVar("T")
Flat = Annotated[Experiment, arg(name=""), AvoidSubcommands]
HELP = ("-h", "--help")


def parse(kind: type[T], *, args: Sequence[str], prog: str, default: T, description: str) -> T:
    """Options over ``default``; what a config itself refuses comes out as its ``InputError``."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            found = tyro.cli(kind, args=args, prog=prog, default=default, description=description)
        refuse_urls(vars(found))
        return found
    except SystemExit as stop:
        error: BaseException | None = stop
        while error is not None:
            if isinstance(error, InputError):
                raise error from None
            error = error.__context__
        sys.stderr.write(said.getvalue())
        raise


def refuse_urls(options: Mapping[str, Any]) -> None:
    """``InputError`` for an option that asks for a path and was given a URL."""
    for name, value in options.items():
        for path in value if isinstance(value, tuple) else (value,):
            if isinstance(path, Path):
                local_path(path, f"--{name.replace('_', '-')}")


def with_data(experiment: Experiment, paths: tuple[str, ...]) -> Experiment:
    from jfreq.config import replace

    return replace(experiment, data__path=tuple(paths)) if paths else experiment


def experiment_name(command: str, argv: Sequence[str]) -> tuple[str, list[str]]:
    from jfreq import recipes

    named = argv and not argv[0].startswith("-")
    names = "" if named else ", ".join(sorted(recipes.load_all()))
    return subject(command, argv, f"NAME [options]; NAME is one of: {names}, or FILE.py:NAME")


def subject(command: str, argv: Sequence[str], usage: str) -> tuple[str, list[str]]:
    """What the command is about, and the options after it."""
    if argv and argv[0] in HELP:
        print(f"usage: jfreq {command} {usage}")
        raise SystemExit(0)
    if not argv or argv[0].startswith("-"):
        raise InputError(f"usage: jfreq {command} {usage}")
    return argv[0], list(argv[1:])


def bars() -> Callable[[str, int, int], None]:
    """Shows a job of several parts: ``show(part, done, total)``; ten lines each off a terminal."""
    from jfreq import distributed
    from jfreq.report.progress import Progress

    bars: dict[str, tuple[Progress, int]] = {}

    def show(part: str, done: int, total: int) -> None:
        quiet = not distributed.is_chief()
        bar, told = bars.pop(part, None) or (Progress(total, title=part, quiet=quiet), 0)
        tenth = 10 * done // total
        if tenth > told:
            bar.update(done, "")
        if done < total:
            bars[part] = bar, tenth
        else:
            bar.close()

    return show
