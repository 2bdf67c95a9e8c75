"""Supervised training of any encoder: fine-tuning, training from scratch, linear heads."""

from __future__ import annotations

import dataclasses
from typing import Literal, Self

import jax
import jax.numpy as jnp
import optax

from jfreq import augment
from jfreq.config import MethodConfig, check, replace
from jfreq.methods.base import Method, Metrics, encoder_params, summarise
from jfreq.nn.heads import NormLinear
from jfreq.types import Array, Batch, DataSpec, InputError


@dataclasses.dataclass(frozen=True)
class Head:
    """Classifier on the clip vector and the augmentation of its training data (AST, section 2)."""

    classes: int | None = None
    multi_label: bool | None = None
    """Several labels per clip; None: as the data."""
    loss: Literal["auto", "ce", "bce"] = "auto"
    """``auto``: cross-entropy for one label, binary cross-entropy for several."""
    mixup: float = 0.0
    """Probability of mixing a clip with another, lambda ~ Beta(10, 10)."""
    spec_augment: tuple[int, int] = (0, 0)
    """Widest masked (frequency, time) band of the spectrogram; 0 for none."""
    noise: bool = False
    """Uniform noise up to 0.1 and a roll of up to 10 frames, on the spectrogram."""

    def __post_init__(self):
        check(0 <= self.mixup <= 1, "head.mixup", f"is a probability, got {self.mixup}")
        check(min(self.spec_augment) >= 0, "head.spec_augment", "widths must be 0 or more")

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
        multi = spec.multi_label if self.multi_label is None else self.multi_label
        loss = self.loss if self.loss != "auto" else ("bce" if multi else "ce")
        return replace(self, classes=self.classes or len(spec.labels), multi_label=multi, loss=loss)

    def unbind(self) -> Self:
        return replace(self, classes=None, multi_label=None, loss="auto")


@dataclasses.dataclass(frozen=True)
class Classify(MethodConfig):
    """A backbone of any method under a classifier."""

    backbone: MethodConfig = MethodConfig()
    head: Head = Head()

    def bind(self, spec: DataSpec) -> Self:
        backbone = self.backbone.bind(spec)
        return replace(self, backbone=backbone, head=self.head.bind(spec), signals=backbone.signals)

    def unbind(self) -> Self:
        return replace(super().unbind(), backbone=self.backbone.unbind(), head=self.head.unbind())


def classify(cfg: Classify) -> Method:
    from jfreq.methods import build

    frontend = getattr(cfg.backbone, "frontend", None)
    return supervise(build(cfg.backbone), cfg.head, fill=frontend.fill if frontend else 0.0)


def supervise(backbone: Method, head: Head, *, fill: float = 0.0) -> Method:
    """A classifier over ``backbone``'s clip vector, trained through.

    Parameters: ``backbone`` (only what ``encode`` reads) and ``head``. Spectrogram augmentation
    applies where the backbone has a spectrogram front end; ``fill`` is its value of masked bands.
    """
    assert head.classes is not None
    net = NormLinear(head.classes)

    def init(key, batch_spec):
        backbone_key, head_key = jax.random.split(key)
        params = encoder_params(backbone, backbone.init(backbone_key, batch_spec), batch_spec)
        width = jax.eval_shape(backbone.encode, params, batch_spec).clip.shape[-1]
        return {"backbone": params, "head": net.init(head_key, jnp.zeros((1, width)))["params"]}

    def loss(params, target, batch: Batch, key, step) -> tuple[Array, Metrics]:
        del target, step
        batch, labels = _augment(backbone, head, batch, key, fill)
        logits = encode(params, batch).logits
        assert logits is not None
        if head.loss == "bce":
            value = optax.sigmoid_binary_cross_entropy(logits, labels).mean(axis=-1)
        else:
            value = optax.softmax_cross_entropy(logits, labels)
        values = {"loss": value}
        if not head.multi_label:
            hit = jnp.argmax(logits, axis=-1) == jnp.argmax(labels, axis=-1)
            values["accuracy"] = hit.astype(jnp.float32)
            known = jnp.sum(labels, axis=-1) > 0  # rows without a label teach nothing
            batch = {**batch, "_mask": batch.get("_mask", jnp.ones(known.shape)) * known}
        return summarise(values, batch)

    def encode(params, batch: Batch):
        features = backbone.encode(params["backbone"], batch)
        return features._replace(logits=net.apply({"params": params["head"]}, features.clip))

    return Method(init=init, loss=loss, encode=encode, frontend=backbone.frontend)


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
