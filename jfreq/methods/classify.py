"""Supervised training of any encoder: fine-tuning, training from scratch, linear heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jfreq import augment
from jfreq.config import MethodConfig, check, replace
from jfreq.methods.base import Method, Metrics, encoder_params, summarise
from jfreq.nn.heads import NormLinear
from jfreq.ranges import Count, NonNegative, Probability, Whole, checked
from jfreq.types import Array, Batch, DataSpec, InputError


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
    """Widest masked (frequency, time) band of the spectrogram; 0 for none."""
    noise: bool = False
    """Uniform noise up to 0.1 and a roll of up to 10 frames, on the spectrogram."""
    norm: bool = True
    """Layer norm before the linear map."""
    fusion: Literal["feature", "late"] = "feature"
    """Of an encoder with several streams: one classifier over all of them, or one for each, each
    trained on its own loss, their probabilities averaged."""
    fusion_weights: tuple[NonNegative, ...] | None = None
    """Shares of the streams' probabilities (``late``); None: equal."""
    labels: tuple[str, ...] = ()
    """Names of the classes, in the order of the logits; empty: those of the data. Where names are
    given, data with other classes are refused."""

    def __post_init__(self):
        weights = self.fusion_weights
        check(weights is None or sum(weights) > 0, "head.fusion_weights", "must not all be 0")
        check(self.classes is None or len(self.labels) <= self.classes, "head.labels",
              f"{len(self.labels)} names for {self.classes} classes")  # fmt: skip

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
        check(self.labels in ((), spec.labels), "head.labels", f"are {_shown(self.labels)}, the "
              f"data have {_shown(spec.labels)}")  # fmt: skip
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


def _shown(labels: tuple[str, ...]) -> str:
    """The first few names of a list that may be long."""
    more = f" and {len(labels) - 5} more" if len(labels) > 5 else ""
    return ", ".join(labels[:5]) + more


class Supervised:
    """What every config with a ``head`` says about its classes."""

    supervised: ClassVar[bool] = True
    head: Head

    @property
    def labels(self) -> tuple[str, ...]:
        return self.head.names

    @property
    def multi_label(self) -> bool:
        return bool(self.head.multi_label)

    @property
    def scores(self) -> Literal["softmax", "sigmoid"]:
        return "sigmoid" if self.head.loss == "bce" else "softmax"


@checked
class Classify(Supervised, MethodConfig):
    """A backbone of any method under a classifier."""

    backbone: MethodConfig = MethodConfig()
    head: Head = Head()

    @property
    def allows_gaps(self) -> bool:
        return self.backbone.allows_gaps

    def bind(self, spec: DataSpec) -> Self:
        backbone = self.backbone.bind(spec)
        head = self.head.bind(spec)
        if head.fusion == "late":
            streams = backbone.streams
            check(len(streams) > 1, "head.fusion", "'late' needs an encoder with several streams")
            check(head.loss == "ce", "head.fusion", "'late' averages probabilities of one label")
            shares = head.fusion_weights or streams
            check(len(shares) == len(streams), "head.fusion_weights",
                  f"{len(shares)} shares for {len(streams)} streams")  # fmt: skip
        return replace(self, backbone=backbone, head=head, signals=backbone.signals)

    def unbind(self) -> Self:
        return replace(super().unbind(), backbone=self.backbone.unbind(), head=self.head.unbind())

    def calibrate(self, batch: Mapping[str, Any]) -> Self:
        return replace(self, backbone=self.backbone.calibrate(batch))


def classify(cfg: Classify) -> Method:
    from jfreq.methods import build

    frontend = getattr(cfg.backbone, "frontend", None)
    fill = frontend.fill if frontend else 0.0
    return supervise(build(cfg.backbone), cfg.head, fill=fill, streams=cfg.backbone.streams)


def supervise(
    backbone: Method, head: Head, *, fill: float = 0.0, streams: tuple[int, ...] = ()
) -> Method:
    """A classifier over ``backbone``'s clip vector, trained through.

    Parameters: ``backbone`` (only what ``encode`` reads) and ``head``. Spectrogram augmentation
    applies where the backbone has a spectrogram front end; ``fill`` is its value of masked bands.
    ``streams``: widths of the parts of the clip vector, for ``head.fusion`` ``late``.
    """
    assert head.classes is not None
    net = NormLinear(head.classes, head.norm)
    late = head.fusion == "late"

    def init(key, batch_spec):
        backbone_key, head_key = jax.random.split(key)
        params = encoder_params(backbone, backbone.init(backbone_key, batch_spec), batch_spec)
        width = jax.eval_shape(backbone.encode, params, batch_spec).clip.shape[-1]
        if not late:
            return {"backbone": params, "head": net.init(head_key, jnp.zeros((1, width)))["params"]}
        keys = jax.random.split(head_key, len(streams))
        heads = [net.init(key, jnp.zeros((1, w)))["params"] for key, w in zip(keys, streams)]
        return {"backbone": params, "head": {str(i): head for i, head in enumerate(heads)}}

    def classify(params, clip: Array) -> list[Array]:
        """Logits ``[b classes]`` of every classifier."""
        if not late:
            return [cast(Array, net.apply({"params": params}, clip))]
        parts = jnp.split(clip, np.cumsum(streams)[:-1], axis=-1)
        return [cast(Array, net.apply({"params": params[str(i)]}, x)) for i, x in enumerate(parts)]

    def loss(params, target, batch: Batch, key, step) -> tuple[Array, Metrics]:
        del target, step
        batch, labels = _augment(backbone, head, batch, key, fill)
        if backbone.forward is None:
            clip = backbone.encode(params["backbone"], batch).clip
        else:
            clip = backbone.forward(params["backbone"], batch, jax.random.fold_in(key, 1)).clip
        each = classify(params["head"], clip)
        values = {"loss": jnp.sum(jnp.stack([_loss(head, x, labels) for x in each]), axis=0)}
        logits = _fused(head, each)
        if not head.multi_label:
            hit = jnp.argmax(logits, axis=-1) == jnp.argmax(labels, axis=-1)
            values["accuracy"] = hit.astype(jnp.float32)
            known = jnp.sum(labels, axis=-1) > 0  # rows without a label teach nothing
            batch = {**batch, "_mask": batch.get("_mask", jnp.ones(known.shape)) * known}
        return summarise(values, batch)

    def encode(params, batch: Batch):
        features = backbone.encode(params["backbone"], batch)
        return features._replace(logits=_fused(head, classify(params["head"], features.clip)))

    return Method(init=init, loss=loss, encode=encode, frontend=backbone.frontend)


def _loss(head: Head, logits: Array, labels: Array) -> Array:
    """``[b]``."""
    if head.loss == "bce":
        return optax.sigmoid_binary_cross_entropy(logits, labels).mean(axis=-1)
    return optax.softmax_cross_entropy(logits, labels)


def _fused(head: Head, each: list[Array]) -> Array:
    """The logits themselves of one classifier; of several, the log of their mean probability."""
    if len(each) == 1:
        return each[0]
    weights = np.asarray(head.fusion_weights or (1.0,) * len(each), np.float32)
    with np.errstate(divide="ignore"):
        shares = np.log(weights / weights.sum())
    log_probs = jnp.stack([jax.nn.log_softmax(x) for x in each])
    return jax.nn.logsumexp(log_probs + shares[:, None, None], axis=0)


def _augment(backbone: Method, head: Head, batch: Batch, key, fill: float) -> tuple[Batch, Array]:
    """The batch with its augmented spectrogram, and (soft) labels ``[b classes]``."""
    mix_key, mask_key, noise_key, roll_key = jax.random.split(key, 4)
    labels = batch["label"]
    if labels.ndim == 1:
        assert head.classes is not None
        labels = jax.nn.one_hot(labels, head.classes)
    if head.mixup:
        from jfreq.ops.scale import pcm_to_float

        names = [k for k, v in batch.items() if v.ndim == 3 and k != "spectrogram"]
        if len(names) != 1:
            raise InputError(f"head.mixup: mixes one signal, the batch holds {names}")
        mixed, labels = augment.mixup(
            mix_key, pcm_to_float(batch[names[0]]), labels, prob=head.mixup
        )
        batch = {k: v for k, v in batch.items() if k != "spectrogram"} | {names[0]: mixed}
    batch = backbone.frontend(batch)
    if "spectrogram" in batch:
        spec = batch["spectrogram"]
        if max(head.spec_augment):
            freq, time = head.spec_augment
            spec = augment.spec_augment(mask_key, spec, freq=freq, time=time, fill=fill)
        if head.noise:
            spec = augment.roll_time(roll_key, augment.add_noise(noise_key, spec), shift=10)
        batch = {**batch, "spectrogram": spec}
    return batch, labels
