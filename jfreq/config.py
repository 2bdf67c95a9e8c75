"""Experiments as data: frozen dataclasses, checked when made.

A config holds numbers, strings, tuples and other configs; never arrays or functions. A change
is ``replace(experiment, optim__lr=1e-4)``; an ablation is a function ``Experiment -> Experiment``.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal, TypeVar

from jfreq.buckets import folder_or_url
from jfreq.config_checkpoint import Checkpoint
from jfreq.config_checkpoint import Part as Part
from jfreq.config_checkpoint import ResumeFrom as ResumeFrom
from jfreq.config_checkpoint import Saved as Saved
from jfreq.config_checkpoint import Source as Source
from jfreq.config_watching import Eval, Log
from jfreq.files import local_path
from jfreq.method import Method
from jfreq.ranges import (
    BelowOne,
    Count,
    Finite,
    FoldBy,
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
    Whole,
    Workers,
    check,
    checked,
    close_match,
    shown,
)
from jfreq.types import InputError

T = TypeVar("T")


@checked
class Data:
    """Where batches come from."""

    path: tuple[str, ...] = ()
    """Shard folders. Several are read as one set, labelled where their classes agree."""
    cache: str | None = None
    """A folder on a disk of each host: shards whose path is a URL, s3:// or gs://, are copied to it
    once and verified."""
    split: str | None = None
    """Read only rows of this split, for instance ``train``."""
    exclude_folds: tuple[Whole, ...] = ()
    """Never read rows of these folds."""
    make_folds: Count | None = None
    """Divide the rows into this many folds, in place of those that the shards have."""
    fold_by: FoldBy | None = None
    """What such a fold keeps whole; by default subjects where enough are known, else recordings."""
    label_fraction: Fraction = 1.0
    """Below 1: read only this fraction of the labelled rows, in proportion to the classes."""
    label_seed: Seed = 0
    """Decides which rows; a smaller fraction by the same seed is part of a larger one."""
    label_at_least_one: bool = False
    """Keep a row of every class, however small the fraction; else such a fraction is refused."""
    backend: Literal["auto", "tfdata", "memory"] = "auto"
    """``memory`` keeps the set in host memory and needs no TensorFlow; ``auto`` picks it for
    sets under ``memory_mb``."""
    memory_mb: Whole = 1024
    crop_seconds: Seconds | None = None
    """Train on random windows of this length; None: whole rows."""
    shuffle: bool = True
    sampling: Literal["uniform", "balanced"] = "uniform"
    """``balanced``: rows are drawn by the sum over their classes of 1000 / (rows of the class +
    0.01), so that rare classes come up about as often as others (AST, Audio-MAE, EAT)."""
    epoch_rows: Count | None = None
    """An epoch is a new sample of this many different rows. None: all rows, each of them once; or,
    where ``sampling`` is balanced, every row is drawn independently of all others."""
    sequence: Count = 1
    """Rows of a batch come in runs of this many consecutive rows of one recording."""
    threads: Workers = 2
    """Threads of the tf.data pipeline."""

    def __post_init__(self):
        for path in self.path:
            folder_or_url(path, "data.path")
        if self.cache is not None:
            local_path(self.cache, "data.cache")


Schedule = Literal["constant", "cosine", "step", "plateau"]
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
        changes = {k: v for k, v in vars(self).items() if k != "pattern" and v is not None}
        return dataclasses.replace(common, groups=(), **changes)


@checked
class Optim:
    """The optimiser: one optax chain of clip, update rule, decay, schedule, per-parameter rules."""

    lr: Positive = 1e-4
    schedule: Schedule = "cosine"
    warmup: Whole = 0
    """Steps of linear warm-up from 0, at most half of the run."""
    warmup_fraction: Probability = 0.0
    """The same as a fraction of the run, where ``warmup`` is 0."""
    final_lr: Probability = 0.0
    """Where ``cosine`` and ``cooldown`` end, as a fraction of ``lr``."""
    schedule_steps: Count | None = None
    """The updates over which the schedule is laid out; None: ``steps`` of the run."""
    cooldown: Whole = 0
    """In the last so many updates the rate falls linearly to ``final_lr``, after any schedule."""
    step_decay: NonNegative = 0.5
    step_every: StepEvery = 0.2
    step_from: Probability = 0.4
    """``step``: multiply by ``step_decay`` at ``step_from`` of the run and every ``step_every``."""
    plateau_decay: Annotated[float, Range(0, 1, "both", "above 0 and below 1")] = 0.5
    """``plateau``: multiply by this where ``plateau_figure`` stands still."""
    plateau_patience: Whole = 2
    """``plateau``: lower the rate after this many + 1 figures in a row without improvement (torch's
    ReduceLROnPlateau)."""
    plateau_threshold: NonNegative = 1e-4
    """``plateau``: a figure is better by more than this part of the best."""
    plateau_figure: str = "val/loss"
    """``plateau``: the figure of metrics.jsonl that it follows, ``val/...`` or ``eval/...``."""
    kind: str = "adamw"
    """``adamw``; ``adam_l2``, which adds the decay to the gradient, as torch's Adam does; or an
    optimiser of optax by its name there, for instance ``optax.lion`` or ``optax.contrib.muon``."""
    options: tuple[tuple[str, Integer | Finite | bool | str | None], ...] = ()
    """Further arguments of the optimiser by name, for instance ``nesterov True``."""
    weight_decay: NonNegative = 0.0
    b1: BelowOne | None = None
    """None here and below: the optimiser's own default."""
    b2: BelowOne | None = None
    eps: Positive | None = None
    clip: Positive | None = None
    """Global gradient norm."""
    decay: tuple[Pattern, ...] = (r".*/kernel",)
    """Path patterns of the parameters that decay."""
    groups: tuple[ParamGroup, ...] = ()
    """Parameters with a schedule of their own."""
    lr_mult: tuple[tuple[Pattern, NonNegative], ...] = ()
    """First matching path pattern multiplies the learning rate; 0 freezes."""
    layer_decay: Fraction = 1.0
    """Learning rate times this per block below the head (fine-tuning)."""
    layer_decay_of: Literal["all", "blocks"] = "all"
    """Which parameters ``layer_decay`` applies to. ``all``: the blocks, and what comes before them
    one block further (BEiT, Audio-MAE); ``blocks``: the blocks alone (EAT)."""
    mu_dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        known = ("adamw", "adam_l2")
        if self.kind not in known and (not self.kind.startswith("optax.")):
            raise InputError(
                f"optim.kind: must be {', '.join(known)} or an optimiser of optax, for instance "
                f"'optax.lion'; got {shown(self.kind)}{close_match(self.kind, known)}"
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
    slices: Count | None = None
    """Groups of devices that a slower network joins, with ``data`` split over them; None: the TPU
    slices that JAX reports."""
    rules: ShardingRules = TRANSFORMER_RULES
    """Path pattern, and the mesh axis of each trailing dimension (None: whole). The first match
    decides; what no pattern names is split over ``fsdp`` when it is large."""

    def __post_init__(self):
        check(0 not in self.sizes, "mesh", f"sizes must be -1, or 1 or more, got {self.sizes}")
        check(self.sizes.count(-1) <= 1, "mesh", f"only one size may be -1, got {self.sizes}")
        known = ("data", "fsdp", "tensor")
        for pattern, axes in self.rules:
            named = [axis for axis in axes if axis is not None]
            for axis in named:
                if axis not in known:
                    raise InputError(
                        f"mesh.rules: {pattern!r}: no axis "
                        f"{shown(axis)}{close_match(axis, known)}; there are {', '.join(known)}"
                    )
                check(named.count(axis) == 1, "mesh.rules", f"{pattern!r} names {axis} twice")

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Of ``data``, ``fsdp`` and ``tensor``."""
        return self.data, self.fsdp, self.tensor


@checked
class Validation:
    """Rows that are held out of training, and on which a run is measured as it goes."""

    every: Count | None = None
    """Measure each time after this many updates; None: never, and nothing is held out."""
    split: str | None = None
    """Hold out the rows of this split, for instance ``validation``; or name folds or a fraction."""
    folds: tuple[Whole, ...] = ()
    """Hold out the rows of these folds, in place of a split or a fraction."""
    fraction: Annotated[float, Range(0, 0.5, "low", "above 0 and at most 0.5")] | None = None
    """Hold out this fraction of the rows, 1 of a whole number of folds, with classes in proportion:
    whole subjects where enough are known, else whole recordings."""
    rows: Count | None = None
    """Measure on at most so many of these, spread evenly; None: on all."""

    def __post_init__(self):
        ways = [name for name in ("split", "folds", "fraction") if getattr(self, name)]
        check(
            self.every is not None or not ways,
            "validation",
            "has no effect without validation.every; set it",
        )
        check(
            self.every is None or len(ways) == 1,
            "validation",
            "name the rows to hold out in one way, by validation.split, folds or fraction; "
            f"got {', '.join(ways) or 'none of them'}",
        )


@checked
class Average:
    """Snapshots of the parameters in the later part of a run, and what is averaged over them."""

    every: StepEvery | None = None
    """Take a snapshot each time that this fraction of the run has passed; None: none are taken."""
    start: Probability = 0.0
    """Take none before this fraction of the run."""
    of: Literal["weights", "predictions"] = "weights"
    """``weights``: the run ends in the mean of the snapshots, which fine-tuning, export and probes
    read. ``predictions``: `jfreq finetune` averages the probabilities that the snapshots give."""


@checked
class Experiment:
    """Everything that defines a run."""

    name: str
    method: Method
    data: Data = Data()
    optim: Optim = Optim()
    mesh: Mesh = Mesh()
    checkpoint: Checkpoint = Checkpoint()
    validation: Validation = Validation()
    average: Average = Average()
    evals: tuple[Eval, ...] = ()
    """Labelled sets on which the encoder is measured while it trains."""
    log: Log = Log()
    seed: Seed = 0
    steps: Count = 1000
    batch: Count = 32
    """Global batch size."""
    accumulate: Count = 1
    """Micro-batches per step; the global batch is cut into that many."""

    def __post_init__(self):
        if self.batch % self.accumulate != 0:
            raise InputError(f"accumulate: must divide batch {self.batch}, got {self.accumulate}")
        check(
            self.optim.cooldown <= self.steps,
            "optim.cooldown",
            f"is {self.optim.cooldown}, but the run has {self.steps} steps; cool down for fewer",
        )
        names = [each.name for each in self.evals]
        twice = [name for name in names if names.count(name) > 1]
        check(not twice, "evals", f"{shown(twice[:1])[1:-1]}: given twice; choose another name")


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
        except OutOfRange as error:  # its owner is the class; name the path to it instead
            owner = error.owner.removeprefix(type(part).__name__).strip(".")
            raise OutOfRange(f"{head}.{owner}".strip("."), error.field, error.advice) from None
    return dataclasses.replace(cfg, **flat)  # type: ignore[type-var]
