"""Configs as strict, tagged JSON and back; fingerprints and differences of configs."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from jfreq.classes import class_name, find_class
from jfreq.config import check
from jfreq.ranges import check_value, close_match, shown
from jfreq.types import InputError

T = TypeVar("T")


class OtherSettings(InputError):
    """A name that no config has, or one that is missing: written by hand, or by another version."""


def to_dict(cfg: Any) -> Any:
    """Plain JSON values; every config carries the name of its class under ``type``.

    Raises ``InputError`` for a class that a saved config could not name.
    """
    if dataclasses.is_dataclass(cfg) and not isinstance(cfg, type):
        fields = {f.name: to_dict(getattr(cfg, f.name)) for f in dataclasses.fields(cfg)}
        return {"type": class_name(type(cfg)), **fields}
    if isinstance(cfg, tuple | list):
        return [to_dict(v) for v in cfg]
    return cfg


def check_plain(value: Any, path: str = "") -> None:
    """Raises ``InputError`` for a field that a saved config could not hold.

    Fields hold numbers, strings, None, tuples and configs of these. A class attribute that looks
    like a field, but is not one, is refused too.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        _check_fields(type(value), names)
        for name in names:
            check_plain(getattr(value, name), f"{path}.{name}".strip("."))
    elif isinstance(value, tuple | list):
        for i, item in enumerate(value):
            check_plain(item, f"{path}[{i}]")
    else:
        if not _is_plain(value):
            raise InputError(
                f"{path}: a run cannot save {shown(value)}; numbers, words, None, tuples and "
                "dataclasses of these can be fields"
            )


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _check_fields(config: type, fields: Sequence[str]) -> None:
    """Raises ``InputError`` for attributes that look like fields: declared in a base that is not a
    dataclass, or given a value without a type. Names in capitals are constants."""
    for cls in config.__mro__:
        declared = inspect.get_annotations(cls)
        wrong = [name for name in fields if name in vars(cls) and name not in declared]
        if "__dataclass_fields__" not in vars(cls):
            hinted = [name for name, hint in declared.items() if "ClassVar" not in str(hint)]
            wrong += [name for name in hinted if name in vars(cls) or not _has(config, name)]
        else:
            wrong += [
                name
                for name, value in vars(cls).items()
                if name not in declared
                and name[0] != "_"
                and not name.isupper()
                and _is_plain(value)
            ]
        for name in wrong:
            raise InputError(
                f"{cls.__name__}.{name}: is not a field as it stands; give it a type and write "
                "@checked (jfreq.ranges) above the class"
            )


def _has(config: type, name: str) -> bool:
    """Whether the class has an attribute that one of its bases only annotates."""
    return name in config.__dataclass_fields__ or hasattr(config, name)


def fingerprint(value: Any) -> str:
    """16 hexadecimal digits that name a config, or plain values and configs inside them.

    Fields that equal the default of their class are left out, so a class may gain fields and
    nothing changes its name; a changed default changes what the name stands for. The order of
    fields and of keys does not matter.
    """
    text = json.dumps(_without_defaults(value), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _without_defaults(value: Any) -> Any:
    """As :func:`to_dict`, without the fields that equal the default of their class."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: (getattr(value, f.name), _default(f)) for f in dataclasses.fields(value)}
        kept = {k: _without_defaults(v) for k, (v, default) in fields.items() if v != default}
        return {"type": class_name(type(value)), **kept}
    if isinstance(value, Mapping):
        return {k: _without_defaults(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_without_defaults(v) for v in value]
    return value


def _default(field: dataclasses.Field) -> Any:
    """The default of a field; ``dataclasses.MISSING`` where a value has to be given."""
    factory = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Dotted field -> JSON value, of what :func:`to_dict` gives: ``{"optim.lr": 1e-4, ...}``."""
    if not isinstance(value, Mapping):
        return {path: value}
    return {
        k: v for name, x in value.items() for k, v in flat(x, f"{path}.{name}".strip(".")).items()
    }


def changes(before: Any, after: Any) -> dict[str, tuple[Any, Any]]:
    """Dotted fields in which two results of :func:`to_dict` differ, with both values."""
    a, b = flat(before), flat(after)
    return {k: (a.get(k), b.get(k)) for k in dict.fromkeys([*a, *b]) if a.get(k) != b.get(k)}


def from_dict(
    cls: type[T],
    value: Any,
    variants: Mapping[type, Mapping[str, type]] | None = None,
    path: str = "",
) -> T:
    """The inverse of :func:`to_dict`, strict.

    ``variants`` names the concrete classes that may stand where a field asks for a base class; so
    may a class of another module that derives from it (:func:`jfreq.classes.find_class`).
    Raises ``InputError`` for unknown or missing keys, wrong types and unknown tags, each with the
    dotted path of the field.
    """
    variants = variants or {}
    where = path or cls.__name__
    check(isinstance(value, Mapping), where, f"expected an object, got {shown(value)}")
    choices = {class_name(cls): cls, **variants.get(cls, {})}
    concrete = _tagged_class(choices, value.get("type"), where)
    hints = typing.get_type_hints(concrete, include_extras=True)
    names = {f.name: f for f in dataclasses.fields(concrete)}
    kwargs = {}
    for key, item in value.items():
        if key == "type":
            continue
        if key not in names:
            hint = f"no such field in {concrete.__name__}{close_match(key, names)}"
            raise OtherSettings(f"{where}.{shown(key)[1:-1]}: {hint}")
        kwargs[key] = _decode(hints[key], item, variants, f"{where}.{key}")
    for name, field in names.items():
        if name not in kwargs and _default(field) is dataclasses.MISSING:
            raise OtherSettings(f"{where}.{name}: is missing and has no default")
    try:
        return concrete(**kwargs)  # type: ignore[return-value]
    except InputError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError, AssertionError) as error:
        # Each field is good, but not with the others; such a file was not written by jfreq.
        raise InputError(f"{where}: its fields do not fit together ({error})") from error


def _tagged_class(choices: Mapping[str, type], tag: Any, where: str) -> Any:
    """The class that a tag names: a choice, or a class of another module that derives from one."""
    if isinstance(tag, str) and tag in choices:
        return choices[tag]
    if isinstance(tag, str) and ":" in tag:
        cls, bases = find_class(tag, where), tuple(choices.values())
        name = class_name(cls)
        check(name == tag, where, f"{shown(tag)} is another name of {name}; write {name}")
        names = " or ".join(base.__name__ for base in bases)
        check(issubclass(cls, bases), where, f"{tag} does not derive from {names}")
        return cls
    hint = close_match(tag, choices) if isinstance(tag, str) else ""
    raise OtherSettings(f"{where}: unknown type {shown(tag)}{hint}")


def _decode(hint: Any, value: Any, variants, path: str) -> Any:
    """``value`` as the annotated type, or ``InputError`` at ``path``."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(args, value, variants, path)
    if origin is Literal:
        good = any(value == a and type(value) is type(a) for a in args)
        if not good:
            known = ", ".join(map(repr, args))
            raise OtherSettings(f"{path}: must be one of {known}; got {shown(value)}")
        return value
    if origin is tuple:
        check(isinstance(value, list | tuple), path, f"expected a list, got {shown(value)}")
        items = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        check(len(items) == len(value), path, f"expected {len(items)} values, got {len(value)}")
        return tuple(
            _decode(a, v, variants, f"{path}[{i}]") for i, (a, v) in enumerate(zip(items, value))
        )
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value, variants, path)  # type: ignore[arg-type]
    plain = args[0] if origin is Annotated else hint
    if not isinstance(plain, type):
        raise InputError(
            f"{path}: a field of type {plain} cannot be read back; use numbers, words, None, "
            "tuples, Literal and dataclasses of these"
        )
    number = plain is float and isinstance(value, int)
    good = isinstance(value, plain) or number
    good = good and (plain is bool or not isinstance(value, bool))
    check(good, path, f"expected {getattr(plain, '__name__', plain)}, got {shown(value)}")
    check(not (isinstance(value, str) and "\0" in value), path, "contains a zero byte")
    check_value(hint, value, "", path)
    return float(value) if number else value


def _decode_union(members: tuple, value: Any, variants, path: str) -> Any:
    if value is None and type(None) in members:
        return None
    members = tuple(m for m in members if m is not type(None))
    configs = {
        class_name(m): m for m in members if isinstance(m, type) and dataclasses.is_dataclass(m)
    }
    if isinstance(value, Mapping) and configs:
        return from_dict(_tagged_class(configs, value.get("type"), path), value, variants, path)
    errors = []
    for member in members:
        try:
            return _decode(member, value, variants, path)
        except InputError as error:
            errors.append(str(error))
    raise InputError(errors[0])
