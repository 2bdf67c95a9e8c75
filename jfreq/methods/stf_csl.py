"""STF-CSL: contrastive learning of sensor series (Liu et al., ICCCN 2021).

Of the paper only the design is public: an STFNet encoder, a contrastive loss, augmentations in time
and in frequency. The loss (NT-Xent of SimCLR), the projection and the pools are our reading.
"""

from __future__ import annotations

from typing import Self

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jfreq import losses
from jfreq.augment import Views
from jfreq.config import check
from jfreq.methods.base import Method, Metrics, summarise
from jfreq.methods.series import SeriesConfig, encoder, features, init_encoder, pooled, sensors
from jfreq.nn.heads import MLPHead
from jfreq.ranges import Positive, Size, checked
from jfreq.types import Batch, DataSpec


@checked
class STFCSL(SeriesConfig):
    """Two views of every window, drawn together against all other windows of the batch."""

    views: Views = Views()
    temperature: Positive = 0.1
    projection: tuple[Size, Size] = (128, 64)
    """Hidden and output width of the MLP that only training has."""

    def __post_init__(self):
        super().__post_init__()
        if self.signals:
            self.views.check(self.signals)

    def bind(self, spec: DataSpec) -> Self:
        cfg = super().bind(spec)
        for s in cfg.signals:
            check(len(s.mean) > 0 or cfg.standardise != "data", "method.standardise",
                  f"the data do not say mean and deviation of {s.name!r}; use 'clip'")  # fmt: skip
        return cfg


def stf_csl(cfg: STFCSL) -> Method:
    """The method of a bound config; parameters ``encoder`` and ``projection``."""
    run = encoder(cfg)
    project = MLPHead(*cfg.projection)

    def init(key, batch_spec):
        del batch_spec
        encoder_key, project_key = jax.random.split(key)
        params = init_encoder(cfg, encoder_key)
        width = jax.eval_shape(lambda p: _vector(p, _zeros(cfg)), params).shape[-1]
        head = project.init(project_key, jnp.zeros((1, width)))["params"]
        return {"encoder": params, "projection": head}

    def _vector(params, series: list[Array], key: Array | None = None) -> Array:
        tokens = run(params, series, key)
        return pooled(tokens, jnp.ones(tokens.shape[:2], bool), cfg.encoder.pool)

    def loss(params, target, batch: Batch, key, step) -> tuple[Array, Metrics]:
        del target, step
        view_key, drop_key = jax.random.split(key)
        series = sensors(cfg.signals, batch, how=cfg.standardise)
        # The two views of a row lie side by side, so that a sharded batch stays where it is.
        twice = [jnp.repeat(x, 2, axis=0) for x in series]
        clip = _vector(params["encoder"], cfg.views(view_key, twice), drop_key)
        z = project.apply({"params": params["projection"]}, clip)
        assert isinstance(z, jax.Array)
        first, second = z[::2], z[1::2]
        value = losses.nt_xent(first, second, temperature=cfg.temperature)
        values = {
            "loss": value,
            "accuracy": match_accuracy(first, second),
            **_spread(first, second),
        }
        return summarise(values, batch)

    def encode(params, batch: Batch):
        return features(cfg, params["encoder"], batch)

    def forward(params, batch: Batch, key):
        return features(cfg, params["encoder"], batch, key)

    return Method(init=init, loss=loss, encode=encode, forward=forward)


def match_accuracy(a: Float[Array, "b d"], b: Float[Array, "b d"]) -> Float[Array, " b"]:
    """Share of views whose most similar view of another kind is their own partner's."""
    scores = _unit(a) @ _unit(b).T
    own = jnp.arange(a.shape[0])
    hits = (scores.argmax(1) == own, scores.argmax(0) == own)
    return (hits[0].astype(jnp.float32) + hits[1].astype(jnp.float32)) / 2


def _spread(a: Array, b: Array) -> dict[str, Array]:
    """Alignment of the pairs and similarity to the mean direction: 1 for collapsed embeddings."""
    a, b = _unit(a), _unit(b)
    mean = jnp.mean(jnp.concatenate([a, b]), axis=0)
    return {"alignment": jnp.sum(a * b, -1), "collapse": (a @ mean + b @ mean) / 2}


def _unit(x: Array) -> Array:
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), -1, keepdims=True), 1e-12))


def _zeros(cfg: SeriesConfig) -> list[Array]:
    return [jnp.zeros((1, s.samples, s.channels)) for s in cfg.signals]
