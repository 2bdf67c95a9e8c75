"""What methods on raw sensor series share: standardised sensors in, tokens of an encoder out."""

from __future__ import annotations

from typing import Literal, Protocol, Self

import jax
import jax.numpy as jnp

from jfreq.config import MethodConfig, check, replace
from jfreq.methods.spectrogram import valid_tokens
from jfreq.nn.series import Conv1d, DeepSense
from jfreq.nn.stf import STF
from jfreq.ops import scale
from jfreq.ranges import checked
from jfreq.types import Array, Batch, DataSpec, Features, Grid, SignalSpec


@checked
class SeriesConfig(MethodConfig):
    """Which sensors are read, how they are levelled, and the encoder."""

    modalities: tuple[str, ...] | None = None
    """Sensors to read, in order; None: all of them."""
    standardise: Literal["data", "clip", "none"] = "data"
    """``data``: every channel by mean and deviation of the training rows, so that gravity and
    level stay visible; ``clip``: every clip and channel by its own, for sensors whose gain is
    unknown; ``none``: as stored."""
    encoder: STF | Conv1d | DeepSense = STF()

    def __post_init__(self):
        check(self.modalities is None or len(self.modalities) > 0, "method.modalities",
              "name one sensor or more")  # fmt: skip
        if self.signals:
            self.encoder.check(self.signals)

    @property
    def grid(self) -> Grid:
        """Token lattice of a bound config."""
        return self.encoder.grid(self.signals[0].samples)

    def bind(self, spec: DataSpec) -> Self:
        """Takes the sensors from the data; ``InputError`` where one is missing or does not fit."""
        names = self.modalities or tuple(s.name for s in spec.signals)
        signals = self.signals or tuple(spec.signal(name) for name in names)
        return replace(self, modalities=names, signals=signals)


def sensors(
    signals: tuple[SignalSpec, ...], batch: Batch, *, how: Literal["data", "clip", "none"]
) -> list[Array]:
    """The sensors ``[b t c]`` float32 of a batch, levelled; what lies beyond ``length`` is 0.

    A channel that is constant in the training rows becomes 0; ``data`` leaves sensors of unknown
    statistics as they are.
    """
    out = []
    for spec in signals:
        x = scale.pcm_to_float(batch[spec.name])
        inside = _inside(spec, signals[0], batch, x.shape[1])
        if how == "clip":
            # Far below the signal's own level, above its rounding: any gain gives the same result.
            top = jnp.max(jnp.square(x), axis=1, keepdims=True)
            x = scale.standardise_clip(x, axes=1, valid=inside, eps=1e-10 * top + 1e-30)
        elif how == "data" and spec.mean:
            std = [s if s > 0 else 1.0 for s in spec.std]
            x = scale.standardise(x, jnp.asarray(spec.mean), jnp.asarray(std), gain=1.0)
        out.append(x if inside is None else jnp.where(inside, x, 0.0))
    return out


def _inside(spec: SignalSpec, first: SignalSpec, batch: Batch, samples: int) -> Array | None:
    """``[b t 1]``: samples that hold signal; ``length`` counts samples of the first sensor."""
    if "length" not in batch:
        return None
    length = batch["length"].astype(jnp.float32) * (spec.rate / first.rate)
    return (jnp.arange(samples)[None] < length[:, None])[..., None]


class Encoder(Protocol):
    """A bound encoder: ``(params, sensors, key) -> tokens [b n d]``; no key, no dropout."""

    def __call__(self, params, sensors: list[Array], key: Array | None = None) -> Array: ...


def encoder(cfg: SeriesConfig) -> Encoder:
    """The encoder of a bound config as a function of its parameters."""
    net = cfg.encoder.build()

    def apply(params, sensors: list[Array], key: Array | None = None) -> Array:
        rngs = None if key is None else {"dropout": key}
        tokens = net.apply({"params": params}, sensors, train=key is not None, rngs=rngs)
        assert isinstance(tokens, jax.Array)
        return tokens

    return apply


def init_encoder(cfg: SeriesConfig, key: Array):
    """Parameters of the encoder of a bound config."""
    zeros = [jnp.zeros((1, s.samples, s.channels)) for s in cfg.signals]
    return cfg.encoder.build().init(key, zeros)["params"]


def features(cfg: SeriesConfig, params, batch: Batch, key: Array | None = None) -> Features:
    """Tokens and clip vector of a batch with the encoder's parameters."""
    levelled = sensors(cfg.signals, batch, how=cfg.standardise)
    tokens = encoder(cfg)(params, levelled, key)
    valid = valid_tokens(cfg.grid, batch, tokens.shape[0])
    return Features(tokens, cfg.grid, pooled(tokens, valid, cfg.encoder.pool), valid)


def pooled(tokens: Array, valid: Array, how: Literal["mean", "max"]) -> Array:
    """``[b n d]`` to ``[b d]`` over the valid tokens."""
    if how == "max":
        return jnp.max(jnp.where(valid[..., None], tokens, -jnp.inf), axis=1)
    weight = valid[..., None].astype(tokens.dtype)
    return jnp.sum(tokens * weight, axis=1) / jnp.sum(weight, axis=1)
