"""Experiments as data: frozen dataclasses, checked when made, saved as strict tagged JSON.

A config holds numbers, strings, tuples and other configs; never arrays or functions. A change
is ``replace(experiment, optim__lr=1e-4)``; an ablation is a function ``Experiment -> Experiment``.
"""

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
from jfreq.files import local_path
from jfreq.method import Method
from jfreq.ranges import (
    Count,
    Finite,
    Fraction,
    Integer,
    NonNegative,
    OutOfRange,
    Pattern,
    Positive,
    Probability,
    Range,
    Seconds,
    Seed,
    Share,
    Whole,
    Workers,
    check_value,
    checked,
    close_match,
    shown,
)
from jfreq.types import InputError

T = TypeVar("T")


def check(condition: bool, field: str, advice: str) -> None:
    """Raises ``InputError`` naming the config field unless ``condition`` holds."""
    if not condition:
        raise InputError(f"{field}: {advice}")


@checked
class Data:
    """Where batches come from."""

    path: tuple[str, ...] = ()
    """Shard folders. Several are read as one set, labelled where their classes agree."""
    split: str | None = None
    """Read only rows of this split, for instance ``train``."""
    exclude_folds: tuple[Whole, ...] = ()
    """Never read rows of these folds."""
    make_folds: Count | None = None
    """Divide the rows into this many folds, in place of those that the shards have."""
    fold_by: Literal["subject", "recording", "row"] | None = None
    """What such a fold keeps whole; by default subjects where enough are known, else recordings."""
    label_fraction: Share = 1.0
    """Below 1: read only this share of the labelled rows, in proportion to the classes."""
    label_seed: Seed = 0
    """Draws these rows; a smaller share of the same draw is part of a larger one."""
    label_at_least_one: bool = False
    """Draw a row of every class, however small the share; else such a share is refused."""
    backend: Literal["auto", "tfdata", "memory"] = "auto"
    """``memory`` keeps the set in host memory and needs no TensorFlow; ``auto`` picks it for
    sets under ``memory_mb``."""
    memory_mb: Whole = 1024
    crop_seconds: Seconds | None = None
    """Train on random windows of this length; None: whole rows."""
    shuffle: bool = True
    sequence: Count = 1
    """Rows of a batch come in runs of this many consecutive rows of one recording."""
    threads: Workers = 2
    """Threads of the tf.data pipeline."""

    def __post_init__(self):
        for path in self.path:
            local_path(path, "data.path")


Schedule = Literal["constant", "cosine", "step"]
StepEvery = Annotated[float, Range(1e-4, 1)]


@checked
class ParamGroup:
    """Parameters with a learning rate and a decay of their own. What is None is as in ``Optim``."""

    pattern: Pattern
    """Of their paths; the first group whose pattern matches takes a parameter."""
    lr: Positive | None = None
    schedule: Schedule | None = None
    warmup: Whole | None = None
    final_lr: Probability | None = None
    step_decay: NonNegative | None = None
    step_every: StepEvery | None = None
    step_from: Probability | None = None
    weight_decay: NonNegative | None = None

    def over(self, common: Optim) -> Optim:
        """The optimiser of this group alone."""
        own = {k: v for k, v in vars(self).items() if k != "pattern" and v is not None}
        return dataclasses.replace(common, groups=(), **own)


@checked
class Optim:
    """The optimiser: one optax chain of clip, update rule, decay, schedule, per-parameter rules."""

    lr: Positive = 1e-4
    schedule: Schedule = "cosine"
    warmup: Whole = 0
    """Steps of linear warm-up from 0, at most half of the run."""
    final_lr: Probability = 0.0
    """Where ``cosine`` ends, as a fraction of ``lr``."""
    step_decay: NonNegative = 0.5
    step_every: StepEvery = 0.2
    step_from: Probability = 0.4
    """``step``: multiply by ``step_decay`` at ``step_from`` of the run and every ``step_every``."""
    kind: str = "adamw"
    """``adamw``; ``adam_l2``, which adds the decay to the gradient, as torch's Adam does; or an
    optimiser of optax by its name there, for instance ``optax.lion`` or ``optax.contrib.muon``."""
    options: tuple[tuple[str, Integer | Finite | bool | str | None], ...] = ()
    """Further arguments of the optimiser by name, for instance ``nesterov True``."""
    weight_decay: NonNegative = 0.0
    b1: Fraction | None = None
    """None here and below: the optimiser's own default."""
    b2: Fraction | None = None
    eps: Positive | None = None
    clip: Positive | None = None
    """Global gradient norm."""
    decay: tuple[Pattern, ...] = (r".*/kernel",)
    """Path patterns of the parameters that decay."""
    groups: tuple[ParamGroup, ...] = ()
    """Parameters with a schedule of their own."""
    lr_mult: tuple[tuple[Pattern, NonNegative], ...] = ()
    """First matching path pattern multiplies the learning rate; 0 freezes."""
    layer_decay: Share = 1.0
    """Learning rate times this per block below the head (fine-tuning)."""
    mu_dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        known = ("adamw", "adam_l2")
        check(
            self.kind in known or self.kind.startswith("optax."),
            "optim.kind",
            f"must be {', '.join(known)} or an optimiser of optax, for instance 'optax.lion'; got "
            f"{shown(self.kind)}{close_match(self.kind, known)}",
        )
        for field, names in {
            "options": [name for name, _ in self.options],
            "groups": [group.pattern for group in self.groups],
        }.items():
            twice = [name for name in names if names.count(name) > 1]
            check(not twice, f"optim.{field}", f"{shown(twice[:1])[1:-1]}: given twice")


MeshSize = Annotated[int, Range(-1, 2**20)]
ShardingRules = tuple[tuple[Pattern, tuple[str | None, ...]], ...]
TRANSFORMER_RULES: ShardingRules = (
    (r"blocks/qkv/kernel", ("fsdp", None, "tensor", None)),
    (r"blocks/qkv/bias", (None, "tensor", None)),
    (r"blocks/q/kernel", ("fsdp", "tensor", None)),
    (r"blocks/kv/kernel", ("fsdp", None, "tensor", None)),
    (r"blocks/proj/kernel", ("tensor", None, "fsdp")),
    (r"blocks/fc1/kernel", ("fsdp", "tensor")),
    (r"blocks/fc1/bias", ("tensor",)),
    (r"blocks/fc2/kernel", ("tensor", "fsdp")),
    (r"blocks/gate_scale", ("tensor",)),
    (r"attention_bias/(sequence|time|freq)", (None, "tensor")),
    (r"attention_bias/scale", ("tensor",)),
)
"""Attention split by heads, the MLP by hidden units, both again over ``fsdp``."""


@checked
class Mesh:
    """Sizes of the three mesh axes, and which parameters are split over them.

    One size may be -1 and takes all remaining devices.
    """

    data: MeshSize = -1
    fsdp: MeshSize = 1
    tensor: MeshSize = 1
    rules: ShardingRules = TRANSFORMER_RULES
    """Path pattern, and the mesh axis of each trailing dimension (None: whole). The first match
    decides; what no pattern names is split over ``fsdp`` when it is large."""

    def __post_init__(self):
        check(0 not in self.sizes, "mesh", f"sizes must be -1 or 1 and more, got {self.sizes}")
        check(self.sizes.count(-1) <= 1, "mesh", f"only one size may be -1, got {self.sizes}")
        known = ("data", "fsdp", "tensor")
        for pattern, axes in self.rules:
            named = [axis for axis in axes if axis is not None]
            for axis in named:
                check(axis in known, "mesh.rules", f"{pattern!r}: no axis {shown(axis)}"
                      f"{close_match(axis, known)}; there are {', '.join(known)}")  # fmt: skip
                check(named.count(axis) == 1, "mesh.rules", f"{pattern!r} names {axis} twice")

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Of ``data``, ``fsdp`` and ``tensor``."""
        return self.data, self.fsdp, self.tensor


Part = Literal["params", "target"]


@checked
class Source:
    """A run or bundle that gives a fresh run some of its first values (partial load)."""

    path: str
    """Run folder or bundle; a bundle has parameters only."""
    read: str = ""
    """Take what lies below this path there, for instance ``trunk``; by default all."""
    write: str = ""
    """Put it below this path here, for instance ``teacher/trunk``; by default anywhere it fits."""
    what: Part = "params"
    """``target`` takes the state that no gradient reaches: an averaged teacher, a codebook."""
    into: Part = "params"
    """Part of the new run that it is for."""

    def __post_init__(self):
        local_path(self.path, "checkpoint.init_from")


@checked
class Checkpoint:
    """When states are saved and what a fresh run starts from."""

    every: Count = 500
    keep: Count = 2
    init_from: tuple[Source, ...] = ()
    """What a fresh run starts from, one after the other. A run or bundle alone gives its encoder;
    ``RUN,read=trunk,write=teacher,into=target`` says which part goes where."""


@checked
class Log:
    """Metrics and progress."""

    every: Count = 20
    tensorboard: bool = True
    peak_tflops: Positive | None = None
    """Peak of one device for MFU; None looks the device up and leaves MFU out if unknown."""


@checked
class Experiment:
    """Everything that defines a run."""

    name: str
    method: Method
    data: Data = Data()
    optim: Optim = Optim()
    mesh: Mesh = Mesh()
    checkpoint: Checkpoint = Checkpoint()
    log: Log = Log()
    seed: Seed = 0
    steps: Count = 1000
    batch: Count = 32
    """Global batch size."""
    accumulate: Count = 1
    """Micro-batches per step; the global batch is cut into that many."""

    def __post_init__(self):
        check(
            self.batch % self.accumulate == 0,
            "accumulate",
            f"must divide batch {self.batch}, got {self.accumulate}",
        )


def replace(cfg: T, **changes: Any) -> T:
    """``dataclasses.replace`` that reaches down: ``replace(e, optim__lr=1e-4)``.

    Raises ``InputError`` with a close match for an unknown field, or with the dotted field whose
    value is out of range.
    """
    nested: dict[str, dict[str, Any]] = {}
    flat: dict[str, Any] = {}
    names = [f.name for f in dataclasses.fields(cfg)]  # type: ignore[arg-type]
    for key, value in changes.items():
        head, _, rest = key.partition("__")
        if head not in names:
            where = f"{type(cfg).__name__}.{head}"
            raise InputError(f"{where}: no such field{close_match(head, names)}")
        if rest:
            nested.setdefault(head, {})[rest] = value
        else:
            flat[head] = value
    for head, inner in nested.items():
        part = flat.get(head, getattr(cfg, head))
        try:
            flat[head] = replace(part, **inner)
        except OutOfRange as error:  # named by its class so far
            owner = error.owner.removeprefix(type(part).__name__).strip(".")
            raise OutOfRange(f"{head}.{owner}".strip("."), error.field, error.advice) from None
    return dataclasses.replace(cfg, **flat)  # type: ignore[type-var]


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
    """Raises ``InputError`` at the dotted field that a saved config could not hold.

    That is any value but numbers, words, None, tuples and configs of these; and what looks like a
    field and is none.
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
        check(_is_plain(value), path, f"a run cannot save {shown(value)}; numbers, words, None, "
              "tuples and dataclasses of these can be fields")  # fmt: skip


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _check_fields(config: type, fields: Sequence[str]) -> None:
    """A base that is no dataclass declares no field, and a value without a type is none; names in
    capitals are constants."""
    for cls in config.__mro__:
        declared = inspect.get_annotations(cls)
        wrong = [name for name in fields if name in vars(cls) and name not in declared]
        if "__dataclass_fields__" not in vars(cls):
            own = [name for name, hint in declared.items() if "ClassVar" not in str(hint)]
            wrong += [name for name in own if name in vars(cls) or not _promised(config, name)]
        else:
            wrong += [name for name, value in vars(cls).items() if name not in declared
                      and name[0] != "_" and not name.isupper() and _is_plain(value)]  # fmt: skip
        for name in wrong:
            raise InputError(f"{cls.__name__}.{name}: is no field as it stands there; give it a "
                             "type and write @checked (jfreq.ranges) above the class")  # fmt: skip


def _promised(config: type, name: str) -> bool:
    """Whether the class has what one of its bases only says that it has."""
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
    concrete = _chosen(choices, value.get("type"), where)
    hints = typing.get_type_hints(concrete, include_extras=True)
    names = {f.name: f for f in dataclasses.fields(concrete)}
    kwargs = {}
    for key, item in value.items():
        if key == "type":
            continue
        if key not in names:
            hint = f"no such field in {concrete.__name__}{close_match(key, names)}"
            raise InputError(f"{where}.{shown(key)[1:-1]}: {hint}")
        kwargs[key] = _decode(hints[key], item, variants, f"{where}.{key}")
    for name, field in names.items():
        has_default = _default(field) is not dataclasses.MISSING
        check(name in kwargs or has_default, f"{where}.{name}", "missing")
    try:
        return concrete(**kwargs)  # type: ignore[return-value]
    except InputError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError, AssertionError) as error:
        # Fields that are each good and together nonsense, in a file that nobody wrote by hand.
        raise InputError(f"{where}: its fields do not fit together ({error})") from error


def _chosen(choices: Mapping[str, type], tag: Any, where: str) -> Any:
    """The class that a tag names: a choice, or a class of another module that derives from one."""
    if isinstance(tag, str) and tag in choices:
        return choices[tag]
    if isinstance(tag, str) and ":" in tag:
        found, bases = find_class(tag, where), tuple(choices.values())
        name = class_name(found)
        check(name == tag, where, f"{shown(tag)} is known as {name}; write that")
        names = " or ".join(base.__name__ for base in bases)
        check(issubclass(found, bases), where, f"{tag} does not derive from {names}")
        return found
    hint = close_match(tag, choices) if isinstance(tag, str) else ""
    raise InputError(f"{where}: unknown type {shown(tag)}{hint}")


def _decode(hint: Any, value: Any, variants, path: str) -> Any:
    """``value`` as the annotated type, or ``InputError`` at ``path``."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(args, value, variants, path)
    if origin is Literal:
        good = any(value == a and type(value) is type(a) for a in args)
        known = ", ".join(map(repr, args))
        check(good, path, f"must be one of {known}; got {shown(value)}")
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
    check(isinstance(plain, type), path, f"a field of type {plain} cannot be read back; use "
          "numbers, words, None, tuples, Literal and dataclasses of these")  # fmt: skip
    number = plain is float and isinstance(value, int)
    good = isinstance(value, plain) or number
    good = good and (plain is bool or not isinstance(value, bool))
    check(good, path, f"expected {getattr(plain, '__name__', plain)}, got {shown(value)}")
    check(not (isinstance(value, str) and "\0" in value), path, "holds a zero byte")
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
        return from_dict(_chosen(configs, value.get("type"), path), value, variants, path)
    errors = []
    for member in members:
        try:
            return _decode(member, value, variants, path)
        except InputError as error:
            errors.append(str(error))
    raise InputError(errors[0])
