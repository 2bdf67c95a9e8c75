"""The interface of a paper: one frozen class whose methods are pure functions.

Static configuration is ``self``, everything that changes is an argument, so a method can be a
static argument of ``jax.jit`` and equal methods share a compiled program. A paper gives ``init``,
``loss`` and ``encode``; everything else has a default.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jfreq import param_paths
from jfreq.ranges import InputError, checked
from jfreq.types import (
    Array,
    Batch,
    BatchSpec,
    DataSpec,
    Features,
    PyTree,
    Reconstruction,
    SignalSpec,
    TokenGrid,
)

if TYPE_CHECKING:
    from jfreq.config import Experiment

T = TypeVar("T")
M = TypeVar("M", bound="Method")

STEM = (
    r"(.*/)?(patch_embed|alias|positions|special_tokens|register_tokens|mask_token|attention_bias)"
    r"(/.*)?",
)
"""What comes before the first block of a trunk of patches: patterns of whole paths."""

Metrics = dict[str, tuple[Any, Any]]
"""``{name: (sum, count)}``: summed over devices, micro-batches and steps, divided once."""


class Loss(NamedTuple):
    """The loss of a batch, its metrics, and what the update of the target needs of the batch.

    ``value`` is the scalar whose gradient is taken; ``metrics["loss"]`` the ``(sum, count)`` whose
    ratio it is, and gradient accumulation weighs by that count. ``aux`` reaches
    :meth:`Method.update_target`: over micro-batches its arrays are summed (statistics: sums with
    their counts), and those in :class:`Rows` are put one after the other (queues).

    ``diagnostics`` are metrics that are too expensive for every update, a ``jax.tree_util.Partial``
    of a function and the arrays it reads; training computes them at updates that are logged only.
    """

    value: Array
    metrics: Metrics
    aux: PyTree = None
    diagnostics: Callable[[], Metrics] | None = None

    @property
    def all_metrics(self) -> Metrics:
        """The metrics, and the diagnostics computed now."""
        return self.metrics | (self.diagnostics() if self.diagnostics is not None else {})


class Rows(NamedTuple):
    """An array ``[b ...]`` of ``aux`` with one entry for each row of the batch, in its order."""

    array: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Streams:
    """Independent streams of randomness by name: ``rngs("mask")`` is a key of its own.

    Two names never share a key, and a name that is added moves none of the others.
    """

    key: Array

    def __call__(self, name: str) -> Array:
        return jax.random.fold_in(self.key, zlib.crc32(name.encode()))

    def at(self, number: Any) -> Streams:
        """The streams of a step or a micro-batch."""
        return Streams(jax.random.fold_in(self.key, number))


@checked
class Method:
    """Base of every paper; the concrete ones are in ``jfreq/methods/`` or in a file of the user.

    A recipe may leave ``None`` in fields that depend on the data; ``bind`` fills them in, and only
    a bound method is trained, saved and exported.
    """

    signals: tuple[SignalSpec, ...] = ()
    """The modalities the method reads; empty until bound."""

    supervised: ClassVar[bool] = False
    """Learns from labels: rows without one are not read."""
    headline: ClassVar[tuple[str, ...]] = ()
    """Metrics that the line of progress shows beside the loss."""
    collapse_thresholds: ClassVar[Mapping[str, float]] = {}
    """Metrics and the values below which targets collapse to one for all clips; the loop warns."""
    sequence: ClassVar[int] = 1
    """Consecutive rows of a recording that the loss needs side by side (``data.sequence``)."""
    inner: ClassVar[str | None] = None
    """The field that holds the method which this one wraps."""

    # ------------------------------------------------------------------ the paper

    def init(self, key: Array) -> PyTree:
        """Fresh parameters."""
        raise NotImplementedError(f"{type(self).__name__} has no init(self, key)")

    def loss(self, params: PyTree, target: PyTree, batch: Batch, rngs: Streams, step: Any) -> Loss:
        """The loss of a batch at update ``step``."""
        raise NotImplementedError(f"{type(self).__name__} has no loss")

    def encode(self, params: PyTree, batch: Batch) -> Features:
        """Tokens and clip vectors of a batch; no randomness, no labels."""
        raise NotImplementedError(f"{type(self).__name__} has no encode(self, params, batch)")

    # ------------------------------------------------------------------ what most leave alone

    def validation_loss(
        self, params: PyTree, target: PyTree, batch: Batch, rngs: Streams, step: Any
    ) -> Loss:
        """The loss of rows that training never reads, with the same keys each time.

        This is :meth:`loss` itself, dropout and masks included; a method that changes its rows
        only to train on them (augmentation, noise) leaves that out here.
        """
        return self.loss(params, target, batch, rngs, step)

    def forward(self, params: PyTree, batch: Batch, rngs: Streams) -> Features:
        """As :meth:`encode`, but as training sees it (dropout), for a head that trains through."""
        del rngs
        return self.encode(params, batch)

    def with_spectrogram(self, batch: Batch) -> Batch:
        """Adds what the front end computes, ``spectrogram`` ``[b t f c]`` and ``valid_frames``
        ``[b t]``, unless the spectrogram is there.

        ``loss`` and ``encode`` call it themselves; a supervised head augments in between.
        """
        return batch

    def reconstruct(self, params: PyTree, batch: Batch, rngs: Streams) -> Reconstruction | None:
        """The batch under one random mask and what the method puts in its place, for people to
        look at; None where there is no mask."""
        del params, batch, rngs
        return None

    def init_target(self, params: PyTree) -> PyTree:
        """State beside the parameters that no gradient reaches: an EMA teacher, a codebook."""
        del params
        return {}

    def update_target(self, target: PyTree, params: PyTree, aux: PyTree, step: Any) -> PyTree:
        """The target after an update that led to ``params``; ``aux`` is the loss's."""
        del params, aux, step
        return target

    # ------------------------------------------------------------------ what it is bound to

    def bind(self, spec: DataSpec) -> Self:
        """The same method with every open field decided for this data."""
        return dataclasses.replace(self, signals=self.signals or spec.signals)

    def calibrate(self, batch: Mapping[str, Any]) -> Self:
        """The same method with what has to be measured on a sample of the training rows.

        It is called once, after ``bind`` and before anything is compiled.
        """
        del batch
        return self

    def unbind(self) -> Self:
        """The method with its signals open, and all fields that depend on them or on classes."""
        return dataclasses.replace(self, signals=())

    # ------------------------------------------------------------------ what others ask

    @property
    def labels(self) -> tuple[str, ...]:
        """Classes of a supervised method, in the order of its logits; empty for other methods."""
        return ()

    @property
    def multi_label(self) -> bool:
        """Whether a recording may have several of these classes."""
        return False

    @property
    def scores(self) -> Literal["softmax", "sigmoid"]:
        """What turns logits into the probabilities that the loss was trained on."""
        return "softmax"

    @property
    def higher_is_better(self) -> Mapping[str, bool]:
        """Metrics of the loss of which validation may keep the best, or lower the learning rate
        by: whether a higher value is better. A method adds its own."""
        return {"loss": False, "accuracy": True}

    @property
    def branch_widths(self) -> tuple[int, ...]:
        """Widths of the parts of the clip vector that come from encoders of their own; a head
        may classify each by itself. Empty for a single encoder."""
        return ()

    @property
    def allows_gaps(self) -> bool:
        """A sensor that is all zero in a window, or NaN somewhere, is read as absent. Others take
        zeros for signal and no NaN."""
        return False

    @property
    def encoder_method(self) -> Method:
        """The method whose encoder this one trains: itself, or the innermost one it wraps."""
        return self

    @property
    def token_grid(self) -> TokenGrid | None:
        """The grid of its tokens where training may leave some of them out, by the ids
        ``kept_tokens`` ``[b k]`` of a batch; None where it reads all."""
        return None

    @property
    def stored_target(self) -> tuple[str, ...]:
        """Parts of the target that a bundle may hold beside the parameters: a codebook."""
        return ()

    @property
    def stem(self) -> tuple[str, ...]:
        """Patterns of whole paths: parameters before the first block, for ``optim.layer_decay``."""
        return STEM

    @property
    def without_head(self) -> Method:
        """The method that a new classifier is put on."""
        return self

    @property
    def spectrogram_fill(self) -> float:
        """What a masked band of its spectrogram is filled with."""
        return 0.0

    @property
    def trained_elsewhere(self) -> tuple[str, ...]:
        """Paths of the target that a fresh run must get whole from ``checkpoint.init_from``:
        networks that another run has trained and that stay as they are here."""
        return ()

    @property
    def frame_hop(self) -> float | None:
        """Samples of the first signal from one spectrogram frame to the next, if it has frames."""
        return None

    @property
    def stacked_bins(self) -> Mapping[str, int]:
        """Bins of every sensor whose spectra stand one above the other in a reconstruction."""
        return {}

    def example_signals(
        self, seconds: float | None = None, rate: float | None = None
    ) -> tuple[SignalSpec, ...]:
        """What it is bound to where no data are given: 10 s of sound at 16 kHz."""
        rate = 16000.0 if rate is None else rate
        seconds = 10.0 if seconds is None else seconds
        return (SignalSpec("audio", rate, round(seconds * rate)),)

    def finetune_defaults(self, pretraining: Experiment) -> Mapping[str, Any]:
        """Fields of the experiment that trains a classifier on this method's encoder, as
        ``config.replace`` takes them; ``pretraining`` is what trained it."""
        del pretraining
        optim = {"optim__lr": 5e-4, "optim__layer_decay": 0.75}
        return {"method__head__spec_augment": (96, 24), **optim, "steps": 400, "batch": 16}

    def portable(self) -> Self:
        """The same encoder without kernels that only one platform has."""
        encoder: Any = getattr(self, "encoder", None)
        if not hasattr(encoder, "attention"):
            return self
        changes: dict[str, Any] = {"encoder": dataclasses.replace(encoder, attention="auto")}
        return dataclasses.replace(self, **changes)


class Wrapper(Method):
    """A method around another one, which answers for everything that it does not define itself."""

    @property
    def wrapped(self) -> Method:
        """The method in the field ``inner``."""
        return getattr(self, str(self.inner))

    def init(self, key: Array) -> PyTree:
        return self.wrapped.init(key)

    def encode(self, params: PyTree, batch: Batch) -> Features:
        return self.wrapped.encode(params, batch)

    def forward(self, params: PyTree, batch: Batch, rngs: Streams) -> Features:
        return self.wrapped.forward(params, batch, rngs)

    def with_spectrogram(self, batch: Batch) -> Batch:
        return self.wrapped.with_spectrogram(batch)

    @property
    def higher_is_better(self) -> Mapping[str, bool]:
        return self.wrapped.higher_is_better

    @property
    def branch_widths(self) -> tuple[int, ...]:
        return self.wrapped.branch_widths

    @property
    def allows_gaps(self) -> bool:
        return self.wrapped.allows_gaps

    @property
    def encoder_method(self) -> Method:
        return self.wrapped.encoder_method

    @property
    def token_grid(self) -> TokenGrid | None:
        return self.wrapped.token_grid

    @property
    def stem(self) -> tuple[str, ...]:
        return self.wrapped.stem

    @property
    def spectrogram_fill(self) -> float:
        return self.wrapped.spectrogram_fill

    @property
    def frame_hop(self) -> float | None:
        return self.wrapped.frame_hop

    @property
    def stacked_bins(self) -> Mapping[str, int]:
        return self.wrapped.stacked_bins

    def example_signals(
        self, seconds: float | None = None, rate: float | None = None
    ) -> tuple[SignalSpec, ...]:
        return self.wrapped.example_signals(seconds, rate)

    def finetune_defaults(self, pretraining: Experiment) -> Mapping[str, Any]:
        return self.wrapped.finetune_defaults(pretraining)

    def portable(self) -> Self:
        changes: dict[str, Any] = {str(self.inner): self.wrapped.portable()}
        return dataclasses.replace(self, **changes)


def decided(value: T | None, field: str) -> T:
    """A field that ``bind`` decides; ``InputError`` while it is open."""
    if value is None:
        raise InputError(f"{field}: is open until the method is bound to data")
    return value


def part_of(kind: type[M], whole: M) -> M:
    """The fields of ``whole`` that a base class of it has, as that class: its encoder alone."""
    return kind(**{f.name: getattr(whole, f.name) for f in dataclasses.fields(kind)})


def summarise(values: dict[str, Array], batch: Batch, aux: PyTree = None) -> Loss:
    """Per-clip values ``[b]`` as the scalar loss and metrics; filling rows do not count."""
    rows = values["loss"].shape[0]
    mask = batch.get("_mask", jnp.ones(rows)).astype(jnp.float32)
    count = jnp.sum(mask)
    metrics = {name: (jnp.sum(value * mask), count) for name, value in values.items()}
    return Loss(metrics["loss"][0] / jnp.maximum(count, 1.0), metrics, aux)


def window_spec(signals: Sequence[SignalSpec], rows: Any = 1) -> BatchSpec:
    """A batch of ``rows`` windows, as shapes; ``rows`` may be a symbolic dimension."""
    shapes = {s.name: ((rows, s.samples, s.channels), np.float32) for s in signals}
    return {
        name: jax.ShapeDtypeStruct(*shape)
        for name, shape in (shapes | {"length": ((rows,), np.int32)}).items()
    }


@functools.partial(jax.jit, static_argnums=0)
def encode(method: Method, params: PyTree, batch: Batch) -> Features:
    """``method.encode``, traced once for each shape: to check a bundle, to describe an encoder and
    to compile it for a window is the same trace."""
    return method.encode(params, batch)


def stored_shapes(method: Method) -> PyTree:
    """Shapes of all that a bundle may hold: the parameters and parts of the target."""

    def make(key: Array) -> PyTree:
        params = method.init(key)
        parts = method.stored_target
        target = method.init_target(params) if parts else {}
        return {**params, **{name: target[name] for name in parts}}

    return jax.eval_shape(make, jax.random.key(0))


def encoder_params(method: Method, params: PyTree) -> PyTree:
    """The part of ``params`` that ``encode`` reads: without decoders and the heads of the pretext
    task, which a paper need not name.

    ``encode`` is traced, not run. The inputs of the traced program are the parameters, in the order
    of the tree's leaves, and then the batch; a parameter that no operation takes as an operand and
    that is not returned as it is, is not read.
    """
    flat = param_paths.flatten(params)
    program = encode.trace(method, params, window_spec(method.signals)).jaxpr.jaxpr
    read = {id(var) for operation in program.eqns for var in operation.invars}
    read |= {id(var) for var in program.outvars}
    paths = [path for path, var in zip(flat, program.invars) if id(var) in read]
    return param_paths.unflatten({path: flat[path] for path in paths})
