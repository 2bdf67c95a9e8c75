"""What the commands share: one parser for all options, first words, progress."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import io
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from jfreq.files import local_path
from jfreq.ranges import InputError, OutOfRange, check_call, close_match, shown

if TYPE_CHECKING:
    from jfreq.config import Experiment

T = TypeVar("T")
HELP = ("-h", "--help")
TRUST_HELP = (
    "--trust FILE.py|PACKAGE  with any command, also several times: code that does not come with\n"
    "                         jfreq and that a run or bundle may name; no other is imported"
)
WORDS = {
    "FLOAT": "a number",
    "INT": "a whole number",
    "{None}": "None",
    "PATH": "a path",
    "STR": "a word",
}
"""What the types of options are called."""


def parse(kind: type[T], *, args: Sequence[str], prog: str, default: T, description: str) -> T:
    """Options over ``default``; whatever is wrong with them is one ``InputError``."""
    found = _understood(kind, args, prog, default=default, description=description)
    refuse_urls(vars(found))
    return found


def split_trust(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command line without its options ``--trust CODE``, and what these name."""
    rest, trusted = [], []
    words = iter(argv)
    for word in words:
        option, equals, value = word.partition("=")
        if option != "--trust":
            rest.append(word)
            continue
        value = value if equals else next(words, "")
        if not value or value.startswith("-"):
            raise InputError("--trust: needs a value, a Python file or a package")
        trusted.append(value)
    return rest, trusted


def call(command: Callable[..., None], args: Sequence[str], prog: str) -> None:
    """Runs ``command`` with the arguments that its options say.

    Values outside the ranges of its annotations are refused before it starts.
    """

    @functools.wraps(command)
    def later(*values: Any, **named: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return values, named

    values, named = _understood(later, args, prog)
    refuse_urls(inspect.signature(command).bind(*values, **named).arguments)
    try:
        check_call(command, values, named)
        command(*values, **named)
    except OutOfRange as error:
        if error.owner:
            raise
        raise InputError(f"{_option(error.field, args)}: {error.advice}") from None


def _understood(kind: Any, args: Sequence[str], prog: str, **more: Any) -> Any:
    """What tyro makes of ``args``; its own errors and those of configs as one ``InputError``."""
    import tyro

    from jfreq.cli.compound import registry

    _each_once(args)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, args=args, prog=prog, registry=registry(), **more)
    except (SystemExit, InputError) as stop:
        if isinstance(stop, SystemExit) and not stop.code:  # help was asked for
            print(f"\n{TRUST_HELP}")
            raise
        error: BaseException | None = stop
        while error is not None:
            if isinstance(error, OutOfRange):
                message = f"{_option(error.field, args, error.owner)}: {error.advice}"
                raise InputError(message) from None
            if isinstance(error, InputError):
                raise error from None
            error = error.__context__
        raise InputError(f"{_one_line(said.getvalue())}; see {prog} --help") from None


def _each_once(args: Sequence[str]) -> None:
    """Of an option given twice only one value would count, and nothing would say which."""
    named = [a.partition("=")[0].replace("_", "-") for a in args if a.startswith("--")]
    plain = Counter(re.sub(r"(^--|\.)no-", r"\1", name) for name in named)
    twice = [name for name, count in plain.items() if count > 1]
    if twice:
        raise InputError(f"{twice[0]}: given {plain[twice[0]]} times; give it once")


def _option(field: str, args: Sequence[str], owner: str = "") -> str:
    """The option of ``args`` that sets ``field``, as it is written there."""
    names = dict.fromkeys(a.partition("=")[0] for a in args if a.startswith("--"))
    found = [n for n in names if n.strip("-").rpartition(".")[2].replace("-", "_") == field]
    if len(found) == 1:
        return found[0]
    return f"{owner}.{field}" if owner else f"--{field.replace('_', '-')}"


def _one_line(box: str) -> str:
    """What a box of tyro's says, in a line: the option, what is wrong, the nearest that exists."""
    rows = [row.strip("│╭╮╰╯ ") for row in box.splitlines()]
    parts: list[list[str]] = [[]]  # between rules; the title stands first, without a box by itself
    for row in filter(None, rows):
        if set(row) <= {"─", "-"}:
            parts.append([])
        else:
            parts[-1].append(row)
    if len(parts[0]) == 1:
        parts = parts[1:]
    else:
        parts[0] = parts[0][1:]
    body = " ".join(parts[0]) if parts else ""
    offered = [row.split()[0] for part in parts[1:] for row in part if row.startswith("--")]
    for pattern, reword in _REWORDED:
        if match := pattern.search(body):
            return reword(match, offered)
    return body.rstrip(".") or "the options are not understood"


def _unknown(match: re.Match, offered: list[str]) -> str:
    words = match[1].split(", ")
    option = next((w for w in words if w.startswith("-")), words[0])
    if not option.startswith("-"):
        return f"{shown(option)}: nothing more is expected here"
    last = option.strip("-").rpartition(".")[2]
    same = [o for o in offered if o.strip("-").rpartition(".")[2] == last]
    hint = f" (did you mean {same[0]}?)" if same else close_match(option, offered).replace("'", "")
    return f"{option}: no such option{hint}"


def _missing(match: re.Match, offered: list[str]) -> str:
    items = [item.strip() for item in match[1].split("(required)")]
    options = ", ".join(item.split()[0] for item in items if item.startswith("--"))
    if items[0].startswith("--"):
        return f"{options}: required, and not given"
    what = items[0].partition(" ")[2].partition(". ")[0].rstrip(". ")
    return f"the first argument is missing: {what}" + (f"; {options} too" if options else "")


def _not_among(match: re.Match, offered: list[str]) -> str:
    known = re.findall(r"'([^']*)'", match[3])
    hint = close_match(match[1], known)
    return f"{match[2]}: {match[1]!r} is none of {', '.join(known)}{hint}"


def _mistyped(match: re.Match, offered: list[str]) -> str:
    option, why = match[1], match[2].strip()
    if found := re.search(r"no type matching (.*) could be instantiated from \[(.*?)\]", why):
        kinds = [WORDS.get(k.strip("[]").split()[0], k) for k in found[1].split("|")]
        return f"{option}: expected {' or '.join(reversed(kinds))}, got {found[2]}"
    for start, wanted in _NOT_A_NUMBER.items():
        if why.startswith(start):
            return f"{option}: expected {wanted}, got {why.removeprefix(start)}"
    return f"{option}: {why.partition(';')[0]}"


_NOT_A_NUMBER = {
    "could not convert string to float: ": "a number",
    "invalid literal for int() with base 10: ": "a whole number",
}
_CHOICE = r"invalid choice '(.*)' for argument '(.*?)'. Expected one of \((.*)\)"
_REWORDED: list[tuple[re.Pattern, Callable[[re.Match, list[str]], str]]] = [
    (re.compile(r"Unrecognized options: (.*)"), _unknown),
    (re.compile(r"Missing from [^:]*: (.*)"), _missing),
    (re.compile(r"Missing value for argument '(.*?)'"), lambda m, _: f"{m[1]}: needs a value"),
    (re.compile(_CHOICE), _not_among),
    (re.compile(r"Error parsing (\S+?): (.*)"), _mistyped),
]
"""What tyro says, and how it is said here."""


def refuse_urls(options: Mapping[str, Any]) -> None:
    """``InputError`` for an option that asks for a path and was given a URL."""
    for name, value in options.items():
        for path in value if isinstance(value, tuple) else (value,):
            if isinstance(path, Path):
                local_path(path, f"--{name.replace('_', '-')}")
            elif dataclasses.is_dataclass(path):
                refuse_urls(vars(path))


def with_data(experiment: Experiment, paths: tuple[str, ...]) -> Experiment:
    from jfreq.config import replace

    return replace(experiment, data__path=tuple(paths)) if paths else experiment


def experiment_name(command: str, argv: Sequence[str]) -> tuple[str, list[str]]:
    """The experiment that a command is about, and the options after it."""
    from jfreq import recipes

    usage = "NAME [options]; NAME is an experiment or FILE.py:NAME"
    more = ""
    if argv and argv[0] in HELP:
        more = f"\n\n{_columns(sorted(recipes.known()))}"
    return subject(command, argv, usage, more=more, advice=f"; jfreq {command} --help lists them")


def subject(
    command: str, argv: Sequence[str], usage: str, *, more: str = "", advice: str = ""
) -> tuple[str, list[str]]:
    """What the command is about, and the options after it.

    ``more`` ends the help, ``advice`` the refusal of a command without a subject.
    """
    if argv and argv[0] in HELP:
        print(f"usage: jfreq {command} {usage}{more}\n\n{TRUST_HELP}")
        raise SystemExit(0)
    if not argv or not argv[0].strip() or argv[0].startswith("-"):
        raise InputError(f"usage: jfreq {command} {usage}{advice}")
    return argv[0], list(argv[1:])


def tell(line: str) -> None:
    """One line for the person, beside the output."""
    print(f"jfreq: {line}", file=sys.stderr, flush=True)


def found_run(path: Path) -> Path:
    """The run, bundle or only run inside ``path``; says so where it is the one inside."""
    from jfreq.export.bundle import trained_folder

    found = trained_folder(path)
    if found != path:
        tell(f"{path}: takes the only run in it, {found}")
    return found


def _columns(names: Sequence[str], width: int = 100) -> str:
    """Names down the columns of a table."""
    wide = max(map(len, names), default=0) + 2
    rows = -(-len(names) // max(1, width // wide))
    lines = ("".join(f"{name:{wide}}" for name in names[i::rows]) for i in range(rows))
    return "\n".join(line.rstrip() for line in lines)


def bars() -> Callable[[str, int, int], None]:
    """``show(part, done, total)`` for a job of several parts; only one of the processes shows."""
    from jfreq import distributed
    from jfreq.monitoring.progress import part_progress

    return part_progress(quiet=not distributed.is_chief())
