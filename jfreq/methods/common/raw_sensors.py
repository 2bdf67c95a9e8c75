"""What methods on raw sensor series share: standardised sensors in, tokens of an encoder out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import jax.numpy as jnp

from jfreq.config import Experiment, check, replace
from jfreq.methods.common.features import FeatureMethod, pooled, valid_tokens
from jfreq.nn.apply import apply
from jfreq.nn.cnn1d import Conv1d
from jfreq.nn.deepsense import DeepSense
from jfreq.nn.stf import STF
from jfreq.ops import scale
from jfreq.ranges import checked
from jfreq.types import Array, Batch, DataSpec, Features, PyTree, SignalSpec, TokenGrid


@checked
class SensorMethod(FeatureMethod):
    """Which sensors are read and how they are standardised."""

    modalities: tuple[str, ...] | None = None
    """Sensors to read, in order; None: all of them. Some encoders read only sensors of one rate."""
    standardise: Literal["data", "clip", "none"] = "data"
    """``data``: every channel by its mean and standard deviation over the training rows, which
    keeps gravity and loudness; ``clip``: by those over each clip, for sensors whose gain is
    unknown; ``none``: as stored."""

    def __post_init__(self):
        check(
            self.modalities is None or len(self.modalities) > 0,
            "method.modalities",
            "must name one sensor or more",
        )

    def bind(self, spec: DataSpec) -> Self:
        """Takes the sensors from the data; ``InputError`` where one is missing or does not fit."""
        return replace(self, **self.sensors_of(spec))

    def sensors_of(self, spec: DataSpec) -> dict[str, Any]:
        """The fields ``modalities`` and ``signals`` for this data."""
        names = self.modalities or tuple(s.name for s in spec.signals)
        signals = self.signals or tuple(spec.signal(name) for name in names)
        return {"modalities": names, "signals": signals}

    def check_statistics(self) -> None:
        """Raises ``InputError`` where sensors are standardised by a mean and standard deviation
        that the data do not say."""
        for s in self.signals:
            check(
                len(s.mean) > 0 or self.standardise != "data",
                "method.standardise",
                f"the data do not say mean and standard deviation of {s.name!r}; use 'clip'",
            )

    def example_signals(
        self, seconds: float | None = None, rate: float | None = None
    ) -> tuple[SignalSpec, ...]:
        """Motion sensors of three axes: windows of 10.24 s at 50 Hz."""
        rate = 50.0 if rate is None else rate
        samples = round((10.24 if seconds is None else seconds) * rate)
        return tuple(
            SignalSpec(name, rate, samples, 3, mean=(0.0,) * 3, std=(1.0,) * 3)
            for name in self.modalities or ("acc", "gyro")
        )

    def finetune_defaults(self, pretraining: Experiment) -> Mapping[str, Any]:
        """All layers of an encoder of sensors get the same learning rate; no augmentation."""
        decay = pretraining.optim.decay
        return {"optim__lr": 1e-3, "optim__decay": decay, "steps": 600, "batch": 64}


@checked
class RawSensorMethod(SensorMethod):
    """An encoder of raw sensors; by itself it is the encoder alone, parameters ``encoder``."""

    encoder: STF | Conv1d | DeepSense = STF()

    def __post_init__(self):
        super().__post_init__()
        if self.signals:
            self.encoder.check(self.signals)

    @property
    def grid(self) -> TokenGrid:
        """The tokens of a bound method."""
        return self.encoder.grid(self.signals[0].samples)

    # ------------------------------------------------------------------ the encoder

    def init(self, key: Array) -> PyTree:
        return {"encoder": self.encoder.build().init(key, self.zeros)["params"]}

    @property
    def zeros(self) -> list[Array]:
        """Zeros ``[1 t c]`` for every sensor, to initialise modules with."""
        return [jnp.zeros((1, s.samples, s.channels)) for s in self.signals]

    def inputs(self, batch: Batch) -> list[Array]:
        """The standardised sensors ``[b t c]`` float32 that the encoder reads."""
        return standardised(self.signals, batch, how=self.standardise)

    def tokens(self, params: PyTree, series: list[Array], dropout: Array | None = None) -> Array:
        """Tokens ``[b n d]`` of standardised sensors; ``params`` are the encoder's. Dropout is on
        where its key is given."""
        net = self.encoder.build()
        return apply(net, params, series, train=dropout is not None, dropout=dropout)

    def clip_vector(self, params: PyTree, series: list[Array], dropout: Array) -> Array:
        """Clip vectors ``[b d]`` of windows without padding, in training: with dropout."""
        tokens = self.tokens(params, series, dropout)
        return pooled(tokens, jnp.ones(tokens.shape[:2], bool), self.encoder.pool)

    def features_of(self, params: PyTree, batch: Batch, dropout: Array | None = None) -> Features:
        tokens = self.tokens(params["encoder"], self.inputs(batch), dropout)
        valid = valid_tokens(self.grid, batch, tokens.shape[0])
        return Features(tokens, self.grid, pooled(tokens, valid, self.encoder.pool), valid)


def standardised(
    signals: tuple[SignalSpec, ...], batch: Batch, *, how: Literal["data", "clip", "none"]
) -> list[Array]:
    """The sensors ``[b t c]`` float32 of a batch, standardised; what lies beyond ``length`` is 0.

    A channel that is constant in the training rows becomes 0; ``data`` leaves sensors of unknown
    statistics as they are.
    """
    out = []
    for spec in signals:
        x = scale.pcm_to_float(batch[spec.name])
        inside = _inside(spec, signals[0], batch, x.shape[1])
        if how == "clip":
            # Far below the variance of the signal, above that of its rounding, whatever its gain.
            peak = jnp.max(jnp.square(x), axis=1, keepdims=True)
            x = scale.standardise_clip(x, axes=1, valid=inside, eps=1e-10 * peak + 1e-30)
        elif how == "data" and spec.mean:
            std = [s if s > 0 else 1.0 for s in spec.std]
            x = scale.standardise(x, jnp.asarray(spec.mean), jnp.asarray(std), gain=1.0)
        out.append(x if inside is None else jnp.where(inside, x, 0.0))
    return out


def twice(x: Array) -> Array:
    """``[2*b ...]``: every row of ``x`` ``[b ...]`` twice, for two views of it. Both lie side by
    side, so that a sharded batch stays on its devices."""
    return jnp.repeat(x, 2, axis=0)


def _inside(spec: SignalSpec, first: SignalSpec, batch: Batch, samples: int) -> Array | None:
    """``[b t 1]``: samples that hold signal; ``length`` counts samples of the first sensor."""
    if "length" not in batch:
        return None
    length = jnp.ceil(batch["length"].astype(jnp.float32) * (spec.rate / first.rate))
    return (jnp.arange(samples)[None] < length.astype(jnp.int32)[:, None])[..., None]
