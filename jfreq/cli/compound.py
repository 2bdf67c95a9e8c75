"""Options whose values have several parts.

A sharding rule is written ``PATTERN=AXIS,AXIS``, with ``-`` for a dimension that is not sharded.
A config is its first field and others by name: ``backbone/.*,lr=1e-4,schedule=constant``. Several
words of one field are joined by ``+``: ``kinds=knn+ridge``.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import typing
from collections.abc import Callable, Sequence
from typing import Any

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from jfreq.config import Eval, ParamGroup, ResumeFrom, ShardingRules, Source, check, close_match
from jfreq.config_json import from_dict
from jfreq.ranges import shown

CONFIGS: dict[Any, tuple[str, type]] = {
    tuple[ParamGroup, ...]: ("optim.groups", ParamGroup),
    tuple[Source, ...]: ("checkpoint.init_from", Source),
    tuple[Eval, ...]: ("evals", Eval),
    ResumeFrom | None: ("checkpoint.resume_from", ResumeFrom),
}
"""Types of fields that are lists of configs, or one or None: the name of the field, and the class
of a config."""


def registry() -> ConstructorRegistry:
    """The rules by which tyro reads and prints such values."""
    rules = ConstructorRegistry()
    sharding = typing.get_type_hints(_Rules, include_extras=True)["rules"]

    @rules.primitive_rule
    def rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        if info.type in CONFIGS:
            field, cls = CONFIGS[info.type]
            first, second, *more = (f.name for f in dataclasses.fields(cls))
            metavar = f"{first.upper()}[,{second}=...{',...' * bool(more)}]"
            read = functools.partial(read_config, cls, field)
            several = typing.get_origin(info.type) is tuple
            return (_several if several else _one)(read, write_config, metavar)
        if info.type == sharding:
            return _several(read_rule, write_rule, "PATTERN=AXIS,...")
        return None

    return rules


class _Rules:
    rules: ShardingRules


def _several(
    read: Callable[[str], Any], write: Callable[[Any], str], metavar: str
) -> PrimitiveConstructorSpec:
    def read_all(words: Sequence[str]) -> tuple:
        return () if list(words) == ["None"] else tuple(map(read, words))

    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=metavar,
        instance_from_str=read_all,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda values: list(map(write, values)),
    )


def _one(
    read: Callable[[str], Any], write: Callable[[Any], str], metavar: str
) -> PrimitiveConstructorSpec:
    """A value that may be None."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{{None}}|{metavar}",
        instance_from_str=lambda words: None if words == ["None"] else read(words[0]),
        is_instance=lambda value: value is None or dataclasses.is_dataclass(value),
        str_from_instance=lambda value: ["None" if value is None else write(value)],
    )


def read_rule(text: str) -> tuple[str, tuple[str | None, ...]]:
    """The pattern and the axes of ``PATTERN=fsdp,-,tensor``."""
    pattern, equals, axes = text.rpartition("=")
    check(bool(equals), "mesh.rules", f"{shown(text)} is not PATTERN=AXIS,AXIS")
    return pattern, tuple(None if axis == "-" else axis for axis in axes.split(","))


def write_rule(rule: tuple[str, tuple[str | None, ...]]) -> str:
    """The inverse of :func:`read_rule`."""
    return f"{rule[0]}={','.join(axis or '-' for axis in rule[1])}"


def read_config(cls: type, where: str, text: str) -> Any:
    """A config from its first field and others by name, as in ``backbone/.*,lr=1e-4``.

    Args:
      cls: the class of the config.
      where: the field that holds it, for messages.
      text: as typed.

    Raises:
      InputError: for a field that does not exist, and for values that ``cls`` refuses.
    """
    first, *others = (field.name for field in dataclasses.fields(cls))
    head, *parts = re.split(r",(?=\w+=)", text)
    hints = typing.get_type_hints(cls)
    value: dict[str, Any] = {"type": cls.__name__, first: head}
    for part in parts:
        name, _, word = part.partition("=")
        check(
            name in others,
            where,
            f"no field {name!r}{close_match(name, others)}; there are: {', '.join(others)}",
        )
        several = typing.get_origin(hints[name]) is tuple
        value[name] = word.split("+") if several else _value(word)
    return from_dict(cls, value, path=where)


def write_config(config: Any) -> str:
    """The inverse of :func:`read_config`."""
    first, *others = dataclasses.fields(config)
    changed = [f for f in others if getattr(config, f.name) != f.default]
    return ",".join(
        [getattr(config, first.name), *(f"{f.name}={_words(config, f.name)}" for f in changed)]
    )


def _words(config: Any, field: str) -> str:
    value = getattr(config, field)
    return "+".join(value) if isinstance(value, tuple) else str(value)


def _value(word: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            pass
    return word
