"""Ranges of numbers, declared where a number is declared and checked in this one place.

A field or an option says ``lr: Positive`` or ``workers: Workers | None``. :func:`checked` makes a
frozen dataclass that refuses values outside; :func:`checked_call` does the same for the arguments
of a function. Both look inside tuples and optionals. A plain ``float`` must be finite and a plain
``int`` fit 64 bits, so a forgotten annotation still keeps NaN, infinity and absurd sizes out.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import math
import numbers
import re
import reprlib
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import (
    Annotated,
    Any,
    Literal,
    ParamSpec,
    TypeVar,
    cast,
    dataclass_transform,
    get_args,
    get_origin,
)

T = TypeVar("T", bound=type)
P = ParamSpec("P")
R = TypeVar("R")


class InputError(ValueError):
    """Bad input or configuration: the message says what, where, and what to do.

    It is one line, whatever a file or its names hold. The command line exits with code 2.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(filter(None, message.splitlines())))


class OutOfRange(InputError):
    """A value is not one that its field allows: ``owner.field: advice``.

    ``owner`` is the class of a config, the path to it where one is known, or empty.
    """

    def __init__(self, owner: str, field: str, advice: str):
        super().__init__(f"{owner}.{field}: {advice}" if owner else f"{field}: {advice}")
        self.owner, self.field, self.advice = owner, field, advice


def check(condition: bool, field: str, advice: str) -> None:
    """Raises ``InputError`` naming the config field unless ``condition`` holds."""
    if not condition:
        raise InputError(f"{field}: {advice}")


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``; ``without`` leaves out an end: ``low``, ``high``, ``both``.

    ``wording`` completes "must be ..." in messages; None names the two ends.
    """

    low: float
    high: float
    without: Literal["", "low", "high", "both"] = ""
    wording: str | None = None

    def refusal(self, value: Any) -> str | None:
        """What is wrong with ``value``; None for a number inside."""
        if not isinstance(value, numbers.Real) or isinstance(value, bool):
            return f"must be a number, got {shown(value)}"
        number = cast(float, value)
        if not isinstance(value, numbers.Integral) and not math.isfinite(number):
            return f"must be a finite number, got {value}"
        above = number > self.low if self.without in ("low", "both") else number >= self.low
        below = number < self.high if self.without in ("high", "both") else number <= self.high
        if above and below:
            return None
        if above and self.high > 1 and self.wording is not None:
            return f"must be {self.high} or less, got {shown(value)}"
        wording = self.wording or f"between {self.low} and {self.high}"
        return f"must be {wording}, got {shown(value)}"


@dataclasses.dataclass(frozen=True)
class Compiles:
    """Strings that are regular expressions."""

    def refusal(self, value: Any) -> str | None:
        """What is wrong with ``value``; None for a pattern."""
        if not isinstance(value, str):
            return f"must be a pattern, got {shown(value)}"
        try:
            re.compile(value)
        except (re.error, RecursionError, OverflowError) as error:
            return f"{shown(value)} is not a valid pattern: {error}"
        return None


_LARGE = 3.4e38
"""About the largest float32, which is what devices compute in."""
_INT = 2**31 - 1
_ANY_FLOAT = Range(-_LARGE, _LARGE, wording="a number of single precision")
_ANY_INT = Range(-(2**63), 2**63 - 1, wording="a whole number of 64 bits")

Finite = Annotated[float, _ANY_FLOAT]
"""Any number but NaN and infinity."""
Positive = Annotated[float, Range(0, _LARGE, "low", "positive")]
NonNegative = Annotated[float, Range(0, _LARGE, wording="0 or more")]
Hertz = Annotated[float, Range(0, 1e9, "low", "positive")]
"""A sampling rate or a frequency."""
Seconds = Annotated[float, Range(0, 1e9, "low", "positive")]
"""A length of time above 0."""
Milliseconds = Annotated[float, Range(0, 1e12, "low", "a positive number of milliseconds")]
Fraction = Annotated[float, Range(0, 1, "low", "above 0 and at most 1")]
"""0 < x <= 1: a part of a whole."""
Probability = Annotated[float, Range(0, 1, wording="between 0 and 1")]
"""0 <= x <= 1."""
BelowOne = Annotated[float, Range(0, 1, "high", "0 or more and below 1")]
"""0 <= x < 1: a dropout, a decay."""
Between = Annotated[float, Range(0, 1, "both", "between 0 and 1, without the ends")]
"""0 < x < 1."""
Integer = Annotated[int, Range(-_INT, _INT, wording="a whole number of 32 bits")]
"""Any whole number."""
Count = Annotated[int, Range(1, _INT, wording="1 or more")]
Size = Annotated[int, Range(1, 2**16, wording="1 or more")]
"""Of a network: widths, layers, heads, taps."""
Whole = Annotated[int, Range(0, _INT, wording="0 or more")]
Workers = Annotated[int, Range(1, 1024)]
"""Threads, processes or whatever else works side by side on one machine."""
Repeats = Annotated[int, Range(1, 10_000, wording="1 or more")]
"""How often something long, such as a training, is repeated."""
Seed = Annotated[int, Range(0, 2**32 - 1)]
Pattern = Annotated[str, Compiles()]
"""A regular expression."""
Encoding = Literal["raw", "flac"]
"""How the samples of a signal lie in a record: as they are, or as FLAC."""
Mix = Literal["first", "mean", "keep"]
"""Which channels of sound are kept: the first, their mean, or all of them."""
FoldBy = Literal["subject", "recording", "row"]
"""What a fold keeps whole."""


def shown(value: Any) -> str:
    """``repr`` cut to a length that fits a line, of any value: large, deep, or broken."""
    try:
        return _SHORT.repr(value)
    except (ValueError, RecursionError, OverflowError):  # an integer of thousands of digits
        return f"a very large {type(value).__name__}"


def brief(text: str, *, most: int = 120) -> str:
    """Text of a file that may be damaged, short enough for a message."""
    return text if len(text) <= most else f"{text[:most]}..."


def shortlist(names: Sequence[str], most: int) -> str:
    """``a, b and 3 more``: the first ``most`` of a list that may be long."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def first_line(error: BaseException) -> str:
    """What an error says; its class where it says nothing.

    An ``InputError`` is given whole, others in at most 200 characters, and ``KeyError`` without
    the quotes that it adds.
    """
    said: Any = error.args[0] if isinstance(error, KeyError) and error.args else error
    line = next(iter(str(said).strip().splitlines()), type(error).__name__)
    return line if isinstance(error, InputError) else line[:200]


def close_match(word: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` where something known is close, else an empty string."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {match[0]!r}?)" if match else ""


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


def check_value(hint: Any, value: Any, owner: str, field: str) -> None:
    """Raises ``OutOfRange`` unless ``value`` is one that ``hint`` allows.

    ``hint`` is ``float``, ``int`` or one of the annotated types of this module.
    """
    base, rules = _unwrapped(hint)
    if base is int and (isinstance(value, bool) or not isinstance(value, numbers.Integral)):
        raise OutOfRange(owner, field, f"must be a whole number, got {shown(value)}")
    for rule in rules:
        if refusal := rule.refusal(value):
            raise OutOfRange(owner, field, refusal)


def _unwrapped(hint: Any) -> tuple[Any, tuple[Range | Compiles, ...]]:
    """The plain type and the rules that its values follow; a plain number has one too."""
    rules: tuple[Range | Compiles, ...] = ()
    if get_origin(hint) is Annotated:
        rules = tuple(m for m in hint.__metadata__ if isinstance(m, Range | Compiles))
        hint = get_args(hint)[0]
    if not rules and hint in (int, float):
        rules = (_ANY_INT,) if hint is int else (_ANY_FLOAT,)
    return hint, rules


Check = Callable[[Any, str, str], None]
"""``(value, owner, field)``, raises ``OutOfRange``."""


def _check_of(hint: Any) -> Check | None:
    """The check of the numbers and patterns in a value of this type; None where it has none."""
    base, rules = _unwrapped(hint)
    if rules:
        return functools.partial(check_value, hint)
    if get_origin(hint) is Annotated:
        return _check_of(base)
    origin, args = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _union_check([a for a in args if a is not type(None)])
    if origin in (tuple, Sequence):
        return _tuple_check(args if origin is tuple else (*args, Ellipsis))
    return None


def _union_check(members: list[Any]) -> Check | None:
    checks = [_check_of(member) for member in members]
    if len(checks) == 1 and checks[0] is not None:
        only = checks[0]
        return lambda value, owner, field: None if value is None else only(value, owner, field)
    numeric = [c for m, c in zip(members, checks) if c is not None and _unwrapped(m)[1]]
    if not numeric:
        return None

    def check(value: Any, owner: str, field: str) -> None:
        refusals: list[OutOfRange] = []
        for member_check in numeric if isinstance(value, numbers.Number) else ():
            try:
                member_check(value, owner, field)
            except OutOfRange as refusal:
                refusals.append(refusal)
        if refusals and len(refusals) == len(numeric) and not isinstance(value, bool):
            raise refusals[0]

    return check


def _tuple_check(args: tuple[Any, ...]) -> Check | None:
    alike = len(args) == 2 and args[1] is Ellipsis
    checks = [_check_of(a) for a in args if a is not Ellipsis]
    if not any(checks):
        return None

    def check(value: Any, owner: str, field: str) -> None:
        if not isinstance(value, Sequence) or (not alike and len(value) != len(checks)):
            wanted = "several values" if alike else f"{len(checks)} values"
            raise OutOfRange(owner, field, f"must be {wanted}, got {shown(value)}")
        for item_check, item in zip(checks * len(value) if alike else checks, value):
            if item_check is not None:
                item_check(item, owner, field)

    return check


@functools.cache
def _checks_of(owner: Any) -> Mapping[str, Check]:
    """By field of a class, or by argument of a function: those that hold numbers."""
    hints = typing.get_type_hints(owner, include_extras=True)
    checks = {name: _check_of(hint) for name, hint in hints.items() if name != "return"}
    return {name: check for name, check in checks.items() if check is not None}


@dataclass_transform(frozen_default=True)
def checked(cls: T) -> T:
    """A frozen dataclass whose numbers lie in the ranges that their annotations name.

    They are checked before the class's own ``__post_init__``, which can rely on them and has
    only to compare fields with each other. Raises ``OutOfRange`` as ``Class.field: ...``.
    """
    inner = cls.__dict__.get("__post_init__")

    def __post_init__(self) -> None:
        for name, check in _checks_of(type(self)).items():
            check(getattr(self, name), type(self).__name__, name)
        if inner is not None:
            inner(self)

    if inner is not None or not hasattr(cls, "__post_init__"):
        cls.__post_init__ = __post_init__  # type: ignore[attr-defined]
    return dataclasses.dataclass(frozen=True)(cls)  # type: ignore[return-value]


def check_call(function: Callable[..., Any], args: tuple, kwargs: Mapping[str, Any]) -> None:
    """Raises ``OutOfRange`` with the name of the first argument of ``function`` that lies outside
    the range of its annotation."""
    bound = inspect.signature(function).bind(*args, **kwargs)
    for name, check in _checks_of(function).items():
        if name in bound.arguments:
            check(bound.arguments[name], "", name)


def checked_call(function: Callable[P, R]) -> Callable[P, R]:
    """``function``, which refuses arguments outside the ranges of its annotations."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        check_call(function, args, kwargs)
        return function(*args, **kwargs)

    return call
