"""``jfreq``: the command line.

Exit codes: 0 for success, 2 for bad input or configuration (one line on standard error), 1 for an
internal error or a training that is no longer finite, 128 + signal where a signal stopped it.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from jfreq.classes import trust
from jfreq.cli.checkpoints import checkpoints
from jfreq.cli.data import data_info, data_peek, data_prepare
from jfreq.cli.paper import new_paper
from jfreq.cli.parsing import HELP, TRUST_HELP, call, print_note, split_trust
from jfreq.cli.plan import plan
from jfreq.cli.report import report
from jfreq.cli.study import ablate, bench
from jfreq.cli.train import config, finetune, train
from jfreq.cli.use import embed, export, import_, predict, probe
from jfreq.files import FULL, disk_trouble
from jfreq.pages import keep_pages
from jfreq.ranges import InputError, close_match

COMMANDS: dict[str, Callable[..., Any]] = {
    "data prepare": data_prepare,
    "data info": data_info,
    "data peek": data_peek,
    "train": train,
    "checkpoints": checkpoints,
    "probe": probe,
    "finetune": finetune,
    "import": import_,
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
EXPERIMENT_COMMANDS = (train, finetune, plan, config)
"""They read their arguments themselves, because the experiment decides what the options are."""


UPDATING = (train, finetune)
"""They run one program again and again, which is faster where memory is kept. Others run many,
whose blocks of all sizes would not fit each other."""


def _usage(group: str = "") -> str:
    """The commands of a group, or all, each with the first line of its docstring."""
    lines = [
        f"  {name:14} {(command.__doc__ or '').splitlines()[0]}"
        for name, command in COMMANDS.items()
        if name.startswith(group)
    ]
    usage = f"usage: jfreq {group or 'COMMAND'} ..."
    more = "jfreq COMMAND --help describes a command and its options."
    return "\n".join([usage, "", *lines, "", more, "", TRUST_HELP])


def run(argv: Sequence[str]) -> None:
    """Runs one command line."""
    argv, trusted = split_trust(argv)
    for code in trusted:
        trust(code)
    group = "data" if argv and argv[0] == "data" else ""
    first = argv[1:2] if group else argv[:1]
    if not first or first[0] in HELP:
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
            f"no command {name!r}{close_match(name, COMMANDS)}; jfreq --help lists all commands"
        )
    command = COMMANDS[name]
    if command in UPDATING:
        keep_pages()
    if command in EXPERIMENT_COMMANDS:
        command(rest)
    else:
        call(command, rest, f"jfreq {name}")


def main(argv: Sequence[str] | None = None) -> None:
    """The entry point: runs one command line and turns errors into exit codes."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    for stream in (sys.stdout, sys.stderr):  # names that the terminal cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        _run_or_exit(sys.argv[1:] if argv is None else argv)
    except SystemExit as end:
        if end.code in (1, 2):
            _end_of_several(int(end.code))
        raise
    except Exception as error:
        _end_of_several(1, error)
        raise


def _end_of_several(code: int, error: Exception | None = None) -> None:
    """Ends a process of several that run as one; others end by themselves."""
    if "jfreq.distributed" in sys.modules:
        from jfreq import distributed

        distributed.end_in_error(code, error)


def _run_or_exit(argv: Sequence[str]) -> None:
    """Runs one command line; what is wrong with it, or stops it, becomes ``SystemExit``."""
    try:
        run(argv)
        sys.stdout.flush()
    except InputError as error:
        _refuse(str(error))
    except BrokenPipeError:  # as with `| head`: the reader has closed the pipe
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
        _refuse(f"there is not enough memory ({error}); use a smaller batch or fewer rows")
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except RuntimeError as error:
        from jfreq.train.loop import Stopped
        from jfreq.train.pending import NotFinite

        if not isinstance(error, NotFinite | Stopped):
            raise
        print_note(str(error))
        raise SystemExit(128 + error.signal if isinstance(error, Stopped) else 1) from None


def _refuse(message: str) -> NoReturn:
    print(f"jfreq: error: {' '.join(message.splitlines())}", file=sys.stderr)
    raise SystemExit(2) from None
