import dataclasses
import math
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jfreq import ranges
from jfreq.config import Experiment, Optim, replace
from jfreq.config_json import from_dict, to_dict
from jfreq.methods import METHODS
from jfreq.ranges import (
    Count,
    Fraction,
    InputError,
    OutOfRange,
    Pattern,
    Positive,
    Probability,
    Seed,
    Workers,
    check_call,
    checked,
    first_line,
)


@checked
class Sizes:
    rate: Positive = 1.0
    fraction: Fraction = 0.5
    shape: tuple[Count, Count] = (1, 1)
    many: tuple[Probability, ...] = ()
    rules: tuple[tuple[Pattern, Positive], ...] = ()
    maybe: Workers | None = None
    seed: Seed = 0
    either: Positive | typing.Literal["auto"] = "auto"
    plain: float = 0.0
    whole: int = 0


GOOD = [
    {}, {"rate": 3}, {"fraction": 1}, {"shape": (2, 2**31 - 1)}, {"many": (0, 1, 0.5)},
    {"maybe": 1024}, {"seed": 2**32 - 1}, {"either": 2.0}, {"rules": ((".*", 1.0), ("a|b", 2))},
    {"plain": -1e30}, {"whole": -(2**63)},
]  # fmt: skip
BAD = [
    ({"rate": math.nan}, "Sizes.rate: must be a finite number, got nan"),
    ({"rate": -math.inf}, "Sizes.rate: must be a finite number, got -inf"),
    ({"rate": 0}, "Sizes.rate: must be positive, got 0"),
    ({"rate": 10**400}, r"Sizes.rate: must be 3.4e\+38 or less, got 1000"),
    ({"rate": 10**5000}, "got a very large int"),
    ({"rate": "2"}, "Sizes.rate: must be a number, got '2'"),
    ({"rate": None}, "Sizes.rate: must be a number, got None"),
    ({"rate": True}, "Sizes.rate: must be a number, got True"),
    ({"fraction": 1.5}, "Sizes.fraction: must be above 0 and at most 1, got 1.5"),
    ({"shape": (1, 0)}, "Sizes.shape: must be 1 or more, got 0"),
    ({"shape": (1, 2.0)}, "Sizes.shape: must be a whole number, got 2.0"),
    ({"shape": (1,)}, r"Sizes.shape: must be 2 values, got \(1,\)"),
    ({"shape": (2**31, 1)}, "Sizes.shape: must be 2147483647 or less"),
    ({"many": (0.5, -0.5)}, "Sizes.many: must be between 0 and 1, got -0.5"),
    ({"many": 3}, "Sizes.many: must be several values, got 3"),
    ({"rules": (("(", 1.0),)}, r"Sizes.rules: '\(' is not a valid pattern: missing \)"),
    ({"rules": ((".*", -1.0),)}, "Sizes.rules: must be positive, got -1.0"),
    ({"maybe": 10**9}, "Sizes.maybe: must be between 1 and 1024, got 1000000000"),
    ({"seed": -5}, "Sizes.seed: must be between 0 and 4294967295, got -5"),
    ({"either": -2.0}, "Sizes.either: must be positive"),
    ({"plain": math.nan}, "Sizes.plain: must be a finite number"),
    ({"plain": 1e39}, "Sizes.plain"),
    ({"whole": 2**63}, "Sizes.whole"),
]


@pytest.mark.parametrize("values", GOOD)
def test_good_values_stay(values):
    made = Sizes(**values)
    assert {name: getattr(made, name) for name in values} == values


@pytest.mark.parametrize(("values", "message"), BAD)
def test_bad_values_are_named(values, message):
    with pytest.raises(OutOfRange, match=message):
        Sizes(**values)


@given(st.floats() | st.integers())
def test_every_number_is_inside_or_refused(x):
    for hint, holds in [
        (Positive, 0 < x <= 3.4e38), (Probability, 0 <= x <= 1), (Fraction, 0 < x <= 1),
    ]:  # fmt: skip
        try:
            ranges.check_value(hint, x, "", "x")
        except OutOfRange:
            assert not holds
        else:
            assert holds


def test_arguments_of_a_function():
    def work(place: str, workers: Workers | None = None, *, fraction: Fraction = 1.0) -> int:
        return 0

    check_call(work, ("here",), {"fraction": 0.5, "workers": None})
    with pytest.raises(OutOfRange, match=r"^workers: must be between 1 and 1024, got 0"):
        check_call(work, ("here", 0), {})


def test_replace_names_the_dotted_field():
    experiment = Experiment("x", METHODS["SSAST"]())
    with pytest.raises(InputError, match=r"^optim.lr: must be positive, got -1"):
        replace(experiment, optim__lr=-1)
    with pytest.raises(InputError, match=r"^method.encoder.width: must be 1 or more"):
        replace(experiment, method__encoder__width=0)
    with pytest.raises(InputError, match=r"^Experiment.steps: must be 1 or more"):
        replace(experiment, steps=0)
    with pytest.raises(InputError, match=r"decay: '\(' is not a valid pattern"):
        Optim(decay=("(",))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (math.nan, "Optim.lr: must be a finite number, got nan"),
        (10**400, "Optim.lr: must be 3.4e"),
        ([[[[[[[[1]]]]]]]], "Optim.lr: expected float, got"),
        ({"a": 1}, "Optim.lr: expected float, got"),
        ("\ud800", "Optim.lr: expected float, got"),
        (True, "Optim.lr: expected float, got True"),
    ],
)
def test_from_dict_refuses_wrong_numbers(value, message):
    with pytest.raises(InputError, match=message):
        from_dict(Optim, {**to_dict(Optim()), "lr": value})


@pytest.mark.parametrize("tag", [[], {}, None, 3, 1e400, "\ud800", "optim"])
def test_from_dict_refuses_wrong_tags(tag):
    with pytest.raises(InputError, match="unknown type"):
        from_dict(Optim, {**to_dict(Optim()), "type": tag})


def configs():
    """Every config class that an experiment may hold."""
    found, left = [], [Experiment, *METHODS.values()]
    while left:
        cls = left.pop()
        if cls in found:
            continue
        found.append(cls)
        for hint in typing.get_type_hints(cls).values():
            left += [t for t in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(t)]
    return found


def plain_numbers(hint) -> bool:
    """Whether ``float`` or ``int`` stands somewhere in a type without a range."""
    if hint in (int, float):
        return True
    if typing.get_origin(hint) in (typing.Annotated, typing.ClassVar):
        return False
    return any(map(plain_numbers, typing.get_args(hint)))


def test_every_number_of_every_config_says_its_range():
    bare = [
        f"{cls.__name__}.{name}"
        for cls in configs()
        for name, hint in typing.get_type_hints(cls, include_extras=True).items()
        if plain_numbers(hint)
    ]
    assert not bare
    assert {cls for cls in configs() if not hasattr(cls, "__post_init__")} == set()


def test_the_first_line_of_an_error():
    assert first_line(ValueError(" two\nlines")) == "two"
    assert first_line(RuntimeError("")) == first_line(RuntimeError("\n")) == "RuntimeError"
    assert len(first_line(ValueError("x" * 1000))) == 200
    assert first_line(KeyError("no 'a'")) == "no 'a'"
    assert first_line(InputError("x" * 1000)) == "x" * 1000


def test_a_message_is_one_line_whatever_it_names():
    assert str(InputError("dev.csv: no column 'a\nb'\r\n\x0b")) == "dev.csv: no column 'a b'"
