"""Supervised training of any encoder: fine-tuning, training from scratch, linear heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np

from jfreq.config import check, replace
from jfreq.method import (
    Loss,
    Method,
    Streams,
    Wrapper,
    decided,
    encoder_params,
    summarise,
    window_spec,
)
from jfreq.methods.common.augmentation import augmented, hot_labels
from jfreq.nn.apply import apply
from jfreq.nn.heads import NormLinear
from jfreq.ranges import (
    BelowOne,
    Count,
    NonNegative,
    Positive,
    Probability,
    Whole,
    checked,
    shortlist,
)
from jfreq.types import Array, Batch, DataSpec, Features, InputError, PyTree


@checked
class Head:
    """A classifier on the clip vector, and how its training data are augmented (AST, section 2)."""

    classes: Count | None = None
    multi_label: bool | None = None
    """Whether a clip may have several labels; None: as in the data."""
    loss: Literal["auto", "ce", "bce"] = "auto"
    """``auto``: cross-entropy for one label, binary cross-entropy for several."""
    label_smoothing: BelowOne = 0.0
    """Share of a label that is spread evenly over all classes; cross-entropy only."""
    mixup: Probability = 0.0
    """Probability of mixing a clip with another: ``lambda`` of its own, the rest of the other."""
    mixup_of: Literal["waveform", "spectrogram"] = "waveform"
    """What is mixed."""
    mixup_alpha: Positive = 10.0
    """``lambda ~ Beta(alpha, alpha)``: 10 stays near a half, 0.8 is nearly uniform."""
    mixup_shared: bool = False
    """Mix the whole batch, or none of it, with one lambda, in place of one for each clip."""
    roll: bool = False
    """Roll the waveform by any number of samples; its end comes back at its beginning."""
    gain: bool = False
    """Multiply the waveform by 0.5 + Beta(10, 10), which lies between 0.5 and 1.5."""
    spec_augment: tuple[Whole, Whole] = (0, 0)
    """Masks a span of frames and a band of bins, each of a random width below this one: the widest
    masked span is one less. 0 masks nothing."""
    spec_augment_at: Literal["log_mel", "input"] = "log_mel"
    """Where it masks. ``log_mel``: before standardisation, with a log-mel of 0, and before noise
    (AST, SSAST, Audio-MAE); ``input``: what the encoder reads, last of all, with 0 (EAT)."""
    noise: bool = False
    """Add uniform noise of up to 0.1 to the spectrogram and roll it by up to 10 frames."""
    token_drop: tuple[BelowOne, BelowOne] = (0.0, 0.0)
    """Fraction of the columns (time) and of the rows (frequency) of tokens that the encoder does
    not read in training (Audio-MAE)."""
    norm: bool = True
    """Put a layer norm before the linear map."""
    eps: Positive = 1e-5
    """What this norm adds to the variance: 1e-5 for AST and SSAST, 1e-6 for EAT and Audio-MAE."""
    initial: Positive | None = None
    """Standard deviation of the initial linear map: 0.02 for EAT, 0.00002 for Audio-MAE; None:
    torch's initial values, as in AST and SSAST."""
    fusion: Literal["feature", "late"] = "feature"
    """For an encoder with several branches. ``feature``: one classifier over all of them; ``late``:
    a classifier for each branch, each with its own loss (the losses are summed); their
    probabilities are averaged."""
    fusion_weights: tuple[NonNegative, ...] | None = None
    """Weights of the branches' probabilities (``late``); None: equal."""
    labels: tuple[str, ...] = ()
    """Names of the classes, in the order of the logits; empty: those of the data. Data with other
    classes than these are an error."""

    def __post_init__(self):
        weights = self.fusion_weights
        check(weights is None or sum(weights) > 0, "head.fusion_weights", "must not all be 0")
        check(
            self.classes is None or len(self.labels) <= self.classes,
            "head.labels",
            f"there are {len(self.labels)} names for {self.classes} classes; give one name a class",
        )

    @property
    def names(self) -> tuple[str, ...]:
        """One name for each logit; ``class 7`` where the data name none."""
        rest = range(len(self.labels), self.classes or 0)
        return (*self.labels, *(f"class {i}" for i in rest))

    def bind(self, spec: DataSpec) -> Self:
        if self.classes is None and len(spec.labels) < 2:
            raise InputError(
                f"data: a classifier needs two labels or more, the data have {len(spec.labels)}; "
                "prepare them with labels"
            )
        check(
            self.classes is None or self.classes >= len(spec.labels),
            "head.classes",
            f"must be {len(spec.labels)} or more, the labels of the data, got {self.classes}",
        )
        check(
            self.labels in ((), spec.labels),
            "head.labels",
            f"are {shortlist(self.labels, 5)}, the data have {shortlist(spec.labels, 5)}; take "
            "data with the same classes",
        )
        multi = spec.multi_label if self.multi_label is None else self.multi_label
        loss = self.loss if self.loss != "auto" else ("bce" if multi else "ce")
        check(
            not self.label_smoothing or loss == "ce",
            "head.label_smoothing",
            "is for cross-entropy, and the loss is bce; set it to 0",
        )
        return replace(
            self,
            classes=self.classes or len(spec.labels),
            multi_label=multi,
            loss=loss,
            labels=spec.labels,
        )

    def unbind(self) -> Self:
        return replace(self, labels=(), classes=None, multi_label=None, loss="auto")


class Supervised(Method):
    """A classifier on the clip vector of ``backbone``, trained together with it.

    The parameters are ``backbone`` (only those that its ``encode`` uses) and ``head``. Spectrograms
    are augmented where the backbone has a front end.
    """

    supervised: ClassVar[bool] = True
    headline: ClassVar[tuple[str, ...]] = ("accuracy",)
    head: Head
    backbone: Method

    def init(self, key: Array) -> PyTree:
        backbone_key, head_key = jax.random.split(key)
        params = encoder_params(self.backbone, self.backbone.init(backbone_key))
        spec = window_spec(self.backbone.signals)
        width = jax.eval_shape(self.backbone.encode, params, spec).clip.shape[-1]
        net = self._classifier
        if not self._late:
            return {"backbone": params, "head": net.init(head_key, jnp.zeros((1, width)))["params"]}
        widths = self.backbone.branch_widths
        keys = jax.random.split(head_key, len(widths))
        heads = [net.init(key, jnp.zeros((1, w)))["params"] for key, w in zip(keys, widths)]
        return {"backbone": params, "head": {str(i): head for i, head in enumerate(heads)}}

    def bind(self, spec: DataSpec) -> Self:
        bound = replace(super().bind(spec), head=self.head.bind(spec))
        bound.check_token_drop()
        return bound

    def check_token_drop(self) -> None:
        """Raises ``InputError`` for an encoder that cannot leave tokens out."""
        check(
            not max(self.head.token_drop) or self.backbone.token_grid is not None,
            "head.token_drop",
            "this encoder reads all of its tokens; set it to 0 0",
        )

    def unbind(self) -> Self:
        return replace(super().unbind(), head=self.head.unbind())

    def loss(self, params, target, batch: Batch, rngs: Streams, step) -> Loss:
        del target, step
        batch, labels = augmented(self.backbone, self.head, batch, rngs)
        clip = self.backbone.forward(params["backbone"], batch, rngs).clip
        return self._measured(params, clip, labels, batch)

    def validation_loss(self, params, target, batch: Batch, rngs: Streams, step) -> Loss:
        """Without augmentation, dropout and smoothed labels."""
        del target, rngs, step
        labels = hot_labels(self.head, batch["label"])
        clip = self.backbone.encode(params["backbone"], batch).clip
        return replace(self, head__label_smoothing=0.0)._measured(params, clip, labels, batch)

    def _measured(self, params: PyTree, clip: Array, labels: Array, batch: Batch) -> Loss:
        """The loss of clip vectors ``[b d]`` with (soft) labels ``[b classes]``."""
        head = self.head
        logits = self._classify(params["head"], clip)
        values = {"loss": jnp.sum(jnp.stack([_loss(head, x, labels) for x in logits]), axis=0)}
        if not head.multi_label:
            correct = jnp.argmax(_fused(head, logits), axis=-1) == jnp.argmax(labels, axis=-1)
            values["accuracy"] = correct.astype(jnp.float32)
            labelled = jnp.sum(labels, axis=-1) > 0  # other rows do not count
            batch = {**batch, "_mask": batch.get("_mask", jnp.ones(labelled.shape)) * labelled}
        return summarise(values, batch)

    def encode(self, params, batch: Batch) -> Features:
        return self._with_logits(params, self.backbone.encode(params["backbone"], batch))

    def forward(self, params, batch: Batch, rngs: Streams) -> Features:
        return self._with_logits(params, self.backbone.forward(params["backbone"], batch, rngs))

    def _with_logits(self, params: PyTree, features: Features) -> Features:
        logits = self._classify(params["head"], features.clip)
        return features._replace(logits=_fused(self.head, logits))

    def with_spectrogram(self, batch: Batch) -> Batch:
        return self.backbone.with_spectrogram(batch)

    @property
    def _classifier(self) -> NormLinear:
        head = self.head
        classes = decided(head.classes, "head.classes")
        return NormLinear(classes, head.norm, head.eps, head.initial)

    @property
    def _late(self) -> bool:
        return self.head.fusion == "late"

    def _classify(self, params: PyTree, clip: Array) -> list[Array]:
        """Logits ``[b classes]`` of every classifier."""
        if not self._late:
            return [apply(self._classifier, params, clip)]
        parts = jnp.split(clip, np.cumsum(self.backbone.branch_widths)[:-1], axis=-1)
        return [apply(self._classifier, params[str(i)], x) for i, x in enumerate(parts)]

    # ------------------------------------------------------------------ what others ask

    @property
    def without_head(self) -> Method:
        return self.backbone

    @property
    def labels(self) -> tuple[str, ...]:
        return self.head.names

    @property
    def multi_label(self) -> bool:
        return bool(self.head.multi_label)

    @property
    def stem(self) -> tuple[str, ...]:
        return tuple(f"backbone/(?:{pattern})" for pattern in self.backbone.stem)

    @property
    def scores(self) -> Literal["softmax", "sigmoid"]:
        return "sigmoid" if self.head.loss == "bce" else "softmax"


@checked
class Classify(Supervised, Wrapper):
    """A classifier on the encoder of any method."""

    inner: ClassVar[str] = "backbone"

    backbone: Method = Method()
    head: Head = Head()

    def bind(self, spec: DataSpec) -> Self:
        backbone = self.backbone.bind(spec)
        head = self.head.bind(spec)
        if head.fusion == "late":
            widths = backbone.branch_widths
            check(len(widths) > 1, "head.fusion", "'late' needs an encoder with several branches")
            check(head.loss == "ce", "head.fusion", "'late' averages probabilities of one label")
            weights = head.fusion_weights
            check(
                weights is None or len(weights) == len(widths),
                "head.fusion_weights",
                f"has {len(weights or ())} weights for {len(widths)} branches; give one per branch",
            )
        bound = replace(self, backbone=backbone, head=head, signals=backbone.signals)
        bound.check_token_drop()
        return bound

    def unbind(self) -> Self:
        return replace(super().unbind(), backbone=self.backbone.unbind())

    def calibrate(self, batch: Mapping[str, Any]) -> Self:
        return replace(self, backbone=self.backbone.calibrate(batch))


def _loss(head: Head, logits: Array, labels: Array) -> Array:
    """The loss ``[b]`` of each row."""
    import optax

    if head.loss == "bce":
        return optax.sigmoid_binary_cross_entropy(logits, labels).mean(axis=-1)
    return optax.softmax_cross_entropy(logits, labels)


def _fused(head: Head, logits: list[Array]) -> Array:
    """The logits of a single classifier, or the logarithm of the mean probability of several."""
    if len(logits) == 1:
        return logits[0]
    weights = np.asarray(head.fusion_weights or (1.0,) * len(logits), np.float32)
    with np.errstate(divide="ignore"):
        log_weights = np.log(weights / weights.sum())
    log_probs = jnp.stack([jax.nn.log_softmax(x) for x in logits])
    return jax.nn.logsumexp(log_probs + log_weights[:, None, None], axis=0)
