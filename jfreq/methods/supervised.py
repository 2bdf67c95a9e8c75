"""Supervised training of any encoder: fine-tuning, training from scratch, linear heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jfreq import augment
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
from jfreq.nn.apply import apply
from jfreq.nn.heads import NormLinear
from jfreq.ops.scale import pcm_to_float
from jfreq.ranges import Count, NonNegative, Probability, Whole, checked, shortlist
from jfreq.types import Array, Batch, DataSpec, Features, InputError, PyTree


@checked
class Head:
    """Classifier on the clip vector and the augmentation of its training data (AST, section 2)."""

    classes: Count | None = None
    multi_label: bool | None = None
    """Several labels per clip; None: as the data."""
    loss: Literal["auto", "ce", "bce"] = "auto"
    """``auto``: cross-entropy for one label, binary cross-entropy for several."""
    mixup: Probability = 0.0
    """Probability of mixing a clip with another, lambda ~ Beta(10, 10)."""
    spec_augment: tuple[Whole, Whole] = (0, 0)
    """Widest masked span of frames and band of bins in the spectrogram; 0 for none."""
    noise: bool = False
    """Uniform noise up to 0.1 and a roll of up to 10 frames, on the spectrogram."""
    norm: bool = True
    """Layer norm before the linear map."""
    fusion: Literal["feature", "late"] = "feature"
    """For an encoder with several branches: one classifier over all of them, or one for each, each
    trained on a loss of its own, and their probabilities averaged."""
    fusion_weights: tuple[NonNegative, ...] | None = None
    """Weights of the branches' probabilities (``late``); None: equal."""
    labels: tuple[str, ...] = ()
    """Names of the classes, in the order of the logits; empty: those of the data. Where names are
    given, data with other classes are refused."""

    def __post_init__(self):
        weights = self.fusion_weights
        check(weights is None or sum(weights) > 0, "head.fusion_weights", "must not all be 0")
        check(
            self.classes is None or len(self.labels) <= self.classes,
            "head.labels",
            f"{len(self.labels)} names for {self.classes} classes",
        )

    @property
    def names(self) -> tuple[str, ...]:
        """One name for each logit; ``class 7`` where the data name none."""
        rest = range(len(self.labels), self.classes or 0)
        return (*self.labels, *(f"class {i}" for i in rest))

    def bind(self, spec: DataSpec) -> Self:
        if self.classes is None and len(spec.labels) < 2:
            raise InputError(
                f"data: a classifier needs two or more labels, these have {len(spec.labels)}"
            )
        check(
            self.classes is None or self.classes >= len(spec.labels),
            "head.classes",
            f"{self.classes} classes for data with {len(spec.labels)} labels",
        )
        check(
            self.labels in ((), spec.labels),
            "head.labels",
            f"are {shortlist(self.labels, 5)}, the data have {shortlist(spec.labels, 5)}",
        )
        multi = spec.multi_label if self.multi_label is None else self.multi_label
        return replace(
            self,
            classes=self.classes or len(spec.labels),
            multi_label=multi,
            loss=self.loss if self.loss != "auto" else ("bce" if multi else "ce"),
            labels=spec.labels,
        )

    def unbind(self) -> Self:
        return replace(self, labels=(), classes=None, multi_label=None, loss="auto")


class Supervised(Method):
    """A classifier over the clip vector of ``backbone``, trained through.

    Parameters: ``backbone`` (only what its ``encode`` reads) and ``head``. Spectrogram
    augmentation applies where the backbone has a spectrogram front end.
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
        return replace(super().bind(spec), head=self.head.bind(spec))

    def unbind(self) -> Self:
        return replace(super().unbind(), head=self.head.unbind())

    def loss(self, params, target, batch: Batch, rngs: Streams, step) -> Loss:
        del target, step
        head = self.head
        batch, labels = augmented(self.backbone, head, batch, rngs)
        clip = self.backbone.forward(params["backbone"], batch, rngs).clip
        logits = self._classify(params["head"], clip)
        values = {"loss": jnp.sum(jnp.stack([_loss(head, x, labels) for x in logits]), axis=0)}
        if not head.multi_label:
            hit = jnp.argmax(_fused(head, logits), axis=-1) == jnp.argmax(labels, axis=-1)
            values["accuracy"] = hit.astype(jnp.float32)
            known = jnp.sum(labels, axis=-1) > 0  # rows without a label teach nothing
            batch = {**batch, "_mask": batch.get("_mask", jnp.ones(known.shape)) * known}
        return summarise(values, batch)

    def encode(self, params, batch: Batch) -> Features:
        return self._labelled(params, self.backbone.encode(params["backbone"], batch))

    def forward(self, params, batch: Batch, rngs: Streams) -> Features:
        return self._labelled(params, self.backbone.forward(params["backbone"], batch, rngs))

    def _labelled(self, params: PyTree, features: Features) -> Features:
        logits = self._classify(params["head"], features.clip)
        return features._replace(logits=_fused(self.head, logits))

    def with_spectrogram(self, batch: Batch) -> Batch:
        return self.backbone.with_spectrogram(batch)

    @property
    def _classifier(self) -> NormLinear:
        return NormLinear(decided(self.head.classes, "head.classes"), self.head.norm)

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
    """A backbone of any method under a classifier."""

    inner: ClassVar[str] = "backbone"

    backbone: Method = Method()
    head: Head = Head()

    @property
    def without_head(self) -> Method:
        return self.backbone

    def bind(self, spec: DataSpec) -> Self:
        backbone = self.backbone.bind(spec)
        head = self.head.bind(spec)
        if head.fusion == "late":
            widths = backbone.branch_widths
            check(len(widths) > 1, "head.fusion", "'late' needs an encoder with several branches")
            check(head.loss == "ce", "head.fusion", "'late' averages probabilities of one label")
            weights = head.fusion_weights or widths
            check(
                len(weights) == len(widths),
                "head.fusion_weights",
                f"{len(weights)} weights for {len(widths)} branches",
            )
        return replace(self, backbone=backbone, head=head, signals=backbone.signals)

    def unbind(self) -> Self:
        return replace(super().unbind(), backbone=self.backbone.unbind())

    def calibrate(self, batch: Mapping[str, Any]) -> Self:
        return replace(self, backbone=self.backbone.calibrate(batch))


def _loss(head: Head, logits: Array, labels: Array) -> Array:
    """``[b]``: the loss of each row."""
    if head.loss == "bce":
        return optax.sigmoid_binary_cross_entropy(logits, labels).mean(axis=-1)
    return optax.softmax_cross_entropy(logits, labels)


def _fused(head: Head, logits: list[Array]) -> Array:
    """Of one classifier its logits; of several the logarithm of their mean probability."""
    if len(logits) == 1:
        return logits[0]
    weights = np.asarray(head.fusion_weights or (1.0,) * len(logits), np.float32)
    with np.errstate(divide="ignore"):
        log_weights = np.log(weights / weights.sum())
    log_probs = jnp.stack([jax.nn.log_softmax(x) for x in logits])
    return jax.nn.logsumexp(log_probs + log_weights[:, None, None], axis=0)


def augmented(backbone: Method, head: Head, batch: Batch, rngs: Streams) -> tuple[Batch, Array]:
    """The batch with its augmented spectrogram, and (soft) labels ``[b classes]``."""
    labels = batch["label"]
    if labels.ndim == 1:
        labels = jax.nn.one_hot(labels, decided(head.classes, "head.classes"))
    if head.mixup:
        names = [k for k, v in batch.items() if v.ndim == 3 and k != "spectrogram"]
        if len(names) != 1:
            raise InputError(f"head.mixup: mixes one signal, the batch holds {names}")
        mixed, labels = augment.mixup(
            rngs("mixup"), pcm_to_float(batch[names[0]]), labels, prob=head.mixup
        )
        batch = {k: v for k, v in batch.items() if k != "spectrogram"} | {names[0]: mixed}
    batch = backbone.with_spectrogram(batch)
    if "spectrogram" in batch:
        spec = batch["spectrogram"]
        if max(head.spec_augment):
            time, freq = head.spec_augment
            spec = augment.spec_augment(
                rngs("spec_augment"), spec, time=time, freq=freq, fill=backbone.spectrogram_fill
            )
        if head.noise:
            noisy = augment.add_noise(rngs("noise"), spec)
            spec = augment.roll_time(rngs("roll"), noisy, shift=10)
        batch = {**batch, "spectrogram": spec}
    return batch, labels
