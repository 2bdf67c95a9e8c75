"""What the commands share: the parser of options, its messages, first arguments, progress."""

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

from jfreq.buckets import folder_or_url, url_of
from jfreq.files import local_path
from jfreq.ranges import InputError, OutOfRange, check_call, close_match, shown

if TYPE_CHECKING:
    from jfreq.config import Experiment

T = TypeVar("T")
HELP = ("-h", "--help")
TRUST_HELP = (
    "--trust FILE.py|PACKAGE  with any command, once or more: code outside of jfreq that a run or\n"
    "                         bundle may name; no other code is imported"
)
_TYPE_NAMES = {
    "FLOAT": "a number",
    "INT": "a whole number",
    "{None}": "None",
    "PATH": "a path",
    "STR": "a word",
}
"""What messages call the types of tyro."""


def parse(kind: type[T], *, args: Sequence[str], prog: str, default: T, description: str) -> T:
    """Parses options into an object of ``kind``.

    Args:
      kind: a dataclass; an option sets each of its fields.
      args: the words of the command line after ``prog``.
      prog: the command, for help and messages.
      default: the values of fields that no option sets.
      description: the beginning of the help.

    Raises:
      InputError: for anything wrong with the options.
    """
    options = _parsed(kind, args, prog, default=default, description=description)
    _refuse_urls(vars(options), URLS.get(prog.split()[1], ()))
    return options


def split_trust(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command line without its options ``--trust CODE``, and the values of these."""
    rest, trusted = [], []
    words = iter(argv)
    for word in words:
        option, equals, value = word.partition("=")
        if option != "--trust":
            rest.append(word)
            continue
        value = value if equals else next(words, "")
        if not value or value.startswith("-"):
            raise InputError("--trust: needs a value; name a Python file or a package")
        trusted.append(value)
    return rest, trusted


def call(command: Callable[..., None], args: Sequence[str], prog: str) -> None:
    """Runs ``command``, whose parameters are the options of ``prog``, with those of ``args``.

    Raises:
      InputError: before the command starts, for anything wrong with the options.
    """

    @functools.wraps(command)
    def arguments(*values: Any, **named: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return values, named

    values, named = _parsed(arguments, args, prog)
    given = inspect.signature(command).bind(*values, **named).arguments
    _refuse_urls(given, URLS.get(prog.removeprefix("jfreq "), ()))
    try:
        check_call(command, values, named)
        command(*values, **named)
    except OutOfRange as error:
        if error.owner:
            raise
        raise InputError(f"{_option(error.field, args)}: {error.advice}") from None


def _parsed(kind: Any, args: Sequence[str], prog: str, **more: Any) -> Any:
    """``tyro.cli``, whose own errors and those of configs become one ``InputError``."""
    import tyro

    from jfreq.cli.compound import registry

    _refuse_repeats(args)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(kind, args=args, prog=prog, registry=registry(), **more)
    except (SystemExit, InputError) as raised:
        if isinstance(raised, SystemExit) and not raised.code:  # it printed the help
            print(f"\n{TRUST_HELP}")
            raise
        error: BaseException | None = raised
        while error is not None:
            if isinstance(error, OutOfRange):
                message = f"{_option(error.field, args, error.owner)}: {error.advice}"
                raise InputError(message) from None
            if isinstance(error, InputError):
                raise error from None
            error = error.__context__
        raise InputError(f"{_one_line(printed.getvalue())}; see {prog} --help") from None


def _refuse_repeats(args: Sequence[str]) -> None:
    """``InputError`` for an option that is given twice, of which tyro would use the last value."""
    options = [a.partition("=")[0].replace("_", "-") for a in args if a.startswith("--")]
    counts = Counter(re.sub(r"(^--|\.)no-", r"\1", option) for option in options)
    for option, count in counts.items():
        if count > 1:
            raise InputError(f"{option}: is given {count} times; give it once")


def _option(field: str, args: Sequence[str], owner: str = "") -> str:
    """The option of ``args`` that sets ``field``, as it is written there."""
    options = dict.fromkeys(a.partition("=")[0] for a in args if a.startswith("--"))
    setting = [o for o in options if o.strip("-").rpartition(".")[2].replace("-", "_") == field]
    if len(setting) == 1:
        return setting[0]
    return f"{owner}.{field}" if owner else f"--{field.replace('_', '-')}"


def _one_line(box: str) -> str:
    """The message in a box of tyro as one line: the option, what is wrong, and a suggestion."""
    rows = [row.strip("│╭╮╰╯ ") for row in box.splitlines()]
    parts: list[list[str]] = [[]]  # between rules; the title is the first, or its first row
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
    for pattern, reword in _REWORDINGS:
        if match := pattern.search(body):
            return reword(match, offered)
    return body.rstrip(".") or "the options cannot be read"


def _unknown(match: re.Match, offered: list[str]) -> str:
    words = match[1].split(", ")
    option = next((w for w in words if w.startswith("-")), words[0])
    if not option.startswith("-"):
        return f"{shown(option)}: no further argument is expected"
    last = option.strip("-").rpartition(".")[2]
    same = [o for o in offered if o.strip("-").rpartition(".")[2] == last]
    hint = f" (did you mean {same[0]}?)" if same else close_match(option, offered).replace("'", "")
    return f"{option}: no such option{hint}"


def _missing(match: re.Match, offered: list[str]) -> str:
    items = [item.strip() for item in match[1].split("(required)")]
    options = ", ".join(item.split()[0] for item in items if item.startswith("--"))
    if items[0].startswith("--"):
        return f"{options}: is required and was not given"
    what = items[0].partition(" ")[2].partition(". ")[0].rstrip(". ")
    return f"the first argument is missing: {what}" + (f"; so is {options}" if options else "")


def _not_among(match: re.Match, offered: list[str]) -> str:
    known = re.findall(r"'([^']*)'", match[3])
    hint = close_match(match[1], known)
    return f"{match[2]}: {match[1]!r} is not one of {', '.join(known)}{hint}"


def _mistyped(match: re.Match, offered: list[str]) -> str:
    option, why = match[1], match[2].strip()
    if union := re.search(r"no type matching (.*) could be instantiated from \[(.*?)\]", why):
        kinds = [_TYPE_NAMES.get(k.strip("[]").split()[0], k) for k in union[1].split("|")]
        return f"{option}: expected {' or '.join(reversed(kinds))}, got {union[2]}"
    for start, kind in _NOT_A_NUMBER.items():
        if why.startswith(start):
            return f"{option}: expected {kind}, got {why.removeprefix(start)}"
    return f"{option}: {why.partition(';')[0]}"


_NOT_A_NUMBER = {
    "could not convert string to float: ": "a number",
    "invalid literal for int() with base 10: ": "a whole number",
}
_CHOICE = r"invalid choice '(.*)' for argument '(.*?)'. Expected one of \((.*)\)"
_REWORDINGS: list[tuple[re.Pattern, Callable[[re.Match, list[str]], str]]] = [
    (re.compile(r"Unrecognized options: (.*)"), _unknown),
    (re.compile(r"Missing from [^:]*: (.*)"), _missing),
    (re.compile(r"Missing value for argument '(.*?)'"), lambda m, _: f"{m[1]}: needs a value"),
    (re.compile(_CHOICE), _not_among),
    (re.compile(r"Error parsing (\S+?): (.*)"), _mistyped),
]
"""Messages of tyro, and functions that make ours of them and of the options that it suggests."""


URLS: Mapping[str, tuple[str, ...]] = {
    "train": ("workdir",),
    "finetune": ("workdir",),
    "ablate": ("workdir",),
    "checkpoints": ("run", "out"),
    "probe": ("trained",),
    "export": ("trained", "out"),
    "import": ("out",),
    "embed": ("encoder",),
    "predict": ("encoder",),
    "report": ("folder", "out"),
}
"""By command the options that take a URL of object storage too."""


def _refuse_urls(options: Mapping[str, Any], but: Sequence[str] = ()) -> None:
    """``InputError`` for a URL where an option expects a path."""
    for name, value in options.items():
        for path in value if isinstance(value, tuple) else (value,):
            if isinstance(path, Path):
                (folder_or_url if name in but else local_path)(path, f"--{name.replace('_', '-')}")
            elif dataclasses.is_dataclass(path):
                _refuse_urls(vars(path))


def option_value(option: str, args: Sequence[str]) -> str | None:
    """The value of an option that has to be known before the others are read, if it is given."""
    for word, after in zip(args, [*args[1:], ""]):
        name, equals, value = word.partition("=")
        if name == option and (equals or not after.startswith("-")):
            return (value if equals else after) or None
    return None


def with_data(experiment: Experiment, paths: tuple[str, ...]) -> Experiment:
    """The experiment on the shards ``paths``, or on those of its config where there are none."""
    from jfreq.config import replace

    return replace(experiment, data__path=paths) if paths else experiment


def experiment_name(command: str, argv: Sequence[str]) -> tuple[str, list[str]]:
    """The name of the experiment that a command is about, and the words after it."""
    from jfreq import recipes

    usage = "NAME [options]; NAME is an experiment or FILE.py:NAME"
    more = ""
    if argv and argv[0] in HELP:
        more = f"\n\n{_columns(sorted(recipes.known()))}"
    advice = f"; jfreq {command} --help lists the experiments"
    return first_argument(command, argv, usage, more=more, advice=advice)


def first_argument(
    command: str, argv: Sequence[str], usage: str, *, more: str = "", advice: str = ""
) -> tuple[str, list[str]]:
    """The first argument of a command, and the words after it; prints the help if asked to.

    Args:
      usage: the arguments of the command.
      more: the end of the help.
      advice: the end of the message where the first argument is missing.

    Raises:
      InputError: where it is missing.
    """
    if argv and argv[0] in HELP:
        print(f"usage: jfreq {command} {usage}{more}\n\n{TRUST_HELP}")
        raise SystemExit(0)
    if not argv or not argv[0].strip() or argv[0].startswith("-"):
        raise InputError(f"the first argument is missing; usage: jfreq {command} {usage}{advice}")
    return argv[0], list(argv[1:])


def print_note(line: str) -> None:
    """Prints a line for the user on standard error."""
    print(f"jfreq: {line}", file=sys.stderr, flush=True)


def run_or_bundle(path: Path) -> Path:
    """``path`` where it is a run or bundle, or the only run inside it, which is then printed."""
    from jfreq.export.bundle import trained_folder

    if url_of(path):
        return path
    folder = trained_folder(path)
    if folder != path:
        print_note(f"{path}: uses the only run in it, {folder}")
    return folder


def _columns(names: Sequence[str], width: int = 100) -> str:
    """Names in columns, as many as fit into ``width`` characters."""
    column = max(map(len, names), default=0) + 2
    rows = -(-len(names) // max(1, width // column))
    lines = ("".join(f"{name:{column}}" for name in names[i::rows]) for i in range(rows))
    return "\n".join(line.rstrip() for line in lines)


def progress_bars() -> Callable[[str, int, int], None]:
    """``show(part, done, total)`` for a job of several parts; one of several processes shows it."""
    from jfreq import distributed
    from jfreq.monitoring.progress import part_progress

    return part_progress(quiet=not distributed.is_chief())
