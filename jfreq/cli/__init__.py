"""``jfreq``: the command line. Exit codes: 0 done, 2 bad input or configuration (one line on
stderr), 1 internal error, 128 + signal when stopped."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from jfreq.classes import trust
from jfreq.cli.common import HELP, TRUST_HELP, call, split_trust
from jfreq.cli.data import data_info, data_peek, data_prepare
from jfreq.cli.paper import new_paper
from jfreq.cli.report import report
from jfreq.cli.study import ablate, bench, plan
from jfreq.cli.train import config, finetune, train
from jfreq.cli.use import embed, export, predict, probe
from jfreq.files import FULL, disk_trouble
from jfreq.ranges import InputError, close_match

COMMANDS: dict[str, Callable[..., Any]] = {
    "data prepare": data_prepare,
    "data info": data_info,
    "data peek": data_peek,
    "train": train,
    "probe": probe,
    "finetune": finetune,
    "export": export,
    "embed": embed,
    "predict": predict,
    "ablate": ablate,
    "report": report,
    "plan": plan,
    "bench": bench,
    "config": config,
    "new-paper": new_paper,
}
ABOUT_AN_EXPERIMENT = (train, finetune, plan, config)
"""They read their first words themselves: what the options are depends on them."""


def _usage(group: str = "") -> str:
    first = {name: (fn.__doc__ or "").splitlines()[0] for name, fn in COMMANDS.items()}
    lines = [f"  {name:14} {text}" for name, text in first.items() if name.startswith(group)]
    return (
        f"usage: jfreq {group or 'COMMAND'} ...\n\n"
        + "\n".join(lines)
        + f"\n\njfreq COMMAND --help tells more.\n\n{TRUST_HELP}"
    )


def run(argv: Sequence[str]) -> None:
    """Runs one command line."""
    argv, trusted = split_trust(argv)
    for code in trusted:
        trust(code)
    group = "data" if argv and argv[0] == "data" else ""
    inner = argv[1:] if group else argv
    if not inner or inner[0] in HELP:
        print(_usage(group))
        return
    if argv[0] == "--version":
        import jfreq

        print(jfreq.__version__)
        return
    words = 2 if group else 1
    name, rest = " ".join(argv[:words]), list(argv[words:])
    if name not in COMMANDS:
        raise InputError(
            f"no command {name!r}{close_match(name, COMMANDS)}; jfreq --help lists them"
        )
    command = COMMANDS[name]
    if command in ABOUT_AN_EXPERIMENT:
        command(rest)
    else:
        call(command, rest, f"jfreq {name}")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point: runs and turns errors into exit codes."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show is no error
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except InputError as error:
        _refuse(str(error))
    except BrokenPipeError:  # whoever read our output has seen enough
        with open(os.devnull, "w") as nowhere, contextlib.suppress(OSError, ValueError):
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None
    except OSError as error:
        trouble = disk_trouble(error)
        if trouble is None or (error.filename is None and error.errno not in FULL):
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        _refuse(f"{where}{trouble}, then run the same command again")
    except MemoryError as error:
        _refuse(f"there is not enough memory here ({error}); ask for less at a time")
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except RuntimeError as error:
        from jfreq.train.loop import NotFinite, Stopped

        if isinstance(error, Stopped):
            print(f"jfreq: {error}", file=sys.stderr)
            raise SystemExit(128 + error.signal) from None
        if isinstance(error, NotFinite):
            print(f"jfreq: {error}", file=sys.stderr)
            raise SystemExit(1) from None
        raise


def _refuse(message: str) -> NoReturn:
    print(f"jfreq: error: {' '.join(message.splitlines())}", file=sys.stderr)
    raise SystemExit(2) from None
