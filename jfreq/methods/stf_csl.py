"""STF-CSL: contrastive learning of sensor series (Liu et al., ICCCN 2021).

Of the paper only the design is public: an STFNet encoder, a contrastive loss, augmentations in time
and in frequency. The loss (NT-Xent of SimCLR), the projection and the pools are our reading.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jfreq import losses
from jfreq.augment import Views
from jfreq.method import Loss, Streams, summarise
from jfreq.methods.common.raw_sensors import RawSensorMethod, twice
from jfreq.nn.apply import apply
from jfreq.nn.heads import MLPHead
from jfreq.ops.scale import unit
from jfreq.ranges import Positive, Size, checked
from jfreq.types import Batch, DataSpec, PyTree


@checked
class STFCSL(RawSensorMethod):
    """Two views of a window are pulled together and away from all other windows of the batch."""

    headline: ClassVar[tuple[str, ...]] = ("accuracy", "collapse")

    views: Views = Views()
    temperature: Positive = 0.1
    projection: tuple[Size, Size] = (128, 64)
    """Hidden and output width of the MLP, which only training uses, that the loss is computed
    after."""

    def __post_init__(self):
        super().__post_init__()
        if self.signals:
            self.views.check(self.signals)

    def bind(self, spec: DataSpec) -> Self:
        cfg = super().bind(spec)
        cfg.check_statistics()
        return cfg

    @property
    def higher_is_better(self) -> Mapping[str, bool]:
        return {**super().higher_is_better, "alignment": True, "collapse": False}

    # ------------------------------------------------------------------ the paper

    def init(self, key: Array) -> PyTree:
        """Parameters ``encoder`` and ``projection``."""
        encoder_key, project_key = jax.random.split(key)
        params = super().init(encoder_key)
        width = jax.eval_shape(self.clip_vector, params["encoder"], self.zeros, key).shape[-1]
        head = MLPHead(*self.projection).init(project_key, jnp.zeros((1, width)))["params"]
        return params | {"projection": head}

    def loss(self, params, target, batch: Batch, rngs: Streams, step) -> Loss:
        del target, step
        views = self.views(rngs("views"), [twice(x) for x in self.inputs(batch)])
        clip = self.clip_vector(params["encoder"], views, rngs("dropout"))
        z = apply(MLPHead(*self.projection), params["projection"], clip)
        first, second = z[::2], z[1::2]
        values = {
            "loss": losses.nt_xent(first, second, temperature=self.temperature),
            "accuracy": match_accuracy(first, second),
            **_collapse_metrics(first, second),
        }
        return summarise(values, batch)


def match_accuracy(a: Float[Array, "b d"], b: Float[Array, "b d"]) -> Float[Array, " b"]:
    """Fraction of the two views of a row whose most similar view is their partner."""
    a, b = unit(a)[None], unit(b)[None]
    return (losses.matched(a, b)[0] + losses.matched(b, a)[0]) / 2


def _collapse_metrics(a: Array, b: Array) -> dict[str, Array]:
    """Alignment of the pairs, and similarity to the mean direction, 1 for collapsed embeddings."""
    a, b = unit(a), unit(b)
    mean = jnp.mean(jnp.concatenate([a, b]), axis=0)
    return {"alignment": jnp.sum(a * b, -1), "collapse": (a @ mean + b @ mean) / 2}
