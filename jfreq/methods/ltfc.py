"""LTFC: localized time-frequency contrastive learning (Rahimi Taghanaki, Rainbow, Etemad 2022)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from jfreq import augment, losses
from jfreq.augment import Views
from jfreq.augment import scalogram as change
from jfreq.config import check, replace
from jfreq.methods.base import Method, Metrics, summarise
from jfreq.methods.series import SeriesConfig, encoder, features, init_encoder, pooled, sensors
from jfreq.methods.spectrogram import valid_tokens
from jfreq.nn.local import Conv2d, MapNet, Projection, RowLevel
from jfreq.nn.scalogram import Scalogram
from jfreq.nn.series import Conv1d, DeepSense, one_length
from jfreq.nn.stf import STF
from jfreq.ranges import Count, Fraction, NonNegative, Positive, Probability, Share, Size, checked
from jfreq.types import Array, Batch, DataSpec, Features, Grid, PyTree

STREAMS = {"both": ("time", "frequency"), "time": ("time",), "frequency": ("frequency",)}


@checked
class MapViews:
    """How a view of a scalogram is drawn, anew for every clip."""

    freq_mask: Fraction = 0.2
    time_mask: Fraction = 0.3
    """Widest hidden band of each axis, as a share of it."""
    gain: tuple[Positive, Positive] = (0.5, 2.0)
    """Of the signal's amplitude."""
    shift: NonNegative = 2.0
    """Rows up or down."""
    area: tuple[Share, Share] = (0.3, 0.7)
    """Share of the scalogram in a crop (``local`` ``crops``)."""

    def __post_init__(self):
        for name in ("gain", "area"):
            low, high = getattr(self, name)
            check(low <= high, f"method.map_views.{name}", f"must rise, got {low} to {high}")


@checked
class LTFC(SeriesConfig):
    """Two encoders that share nothing, one of the series and one of its scalogram, each trained
    by contrast; their clip vectors stand side by side.

    Only the paper's abstract could be read: what is local, the views and all sizes are a reading
    of it, and fields.
    """

    modalities: tuple[str, ...] | None = ("acc",)
    encoder: STF | Conv1d | DeepSense = Conv1d()
    """Of the time stream."""
    frontend: Scalogram | None = None
    """Of the time-frequency stream; None: 64 rows from 0.01 to 0.4 of the rate."""
    map_encoder: Conv2d = Conv2d()
    stream: Literal["both", "time", "frequency"] = "both"
    local: Literal["dense", "crops", "none"] = "dense"
    """Time-frequency stream. ``dense``: beside whole clips, cells of time are held against the
    same cell of other clips, never against other cells of their own; ``crops``: whole clips,
    seen in parts; ``none``: whole clips."""
    cells: Count = 5
    """Cells of time (``dense``)."""
    global_weight: Probability = 0.5
    """Share of whole clips in the ``dense`` loss."""
    temperature: Positive = 0.1
    rows: RowLevel = "learned"
    """Level of every row and channel: a learned scale and offset, zero mean and unit variance
    over each clip (which hides how loud a row is), or as it comes."""
    views: Views = Views(time=("rotate", "scale", "jitter", "permute", "warp_time"), frequency=())
    """Of the series, for the time stream."""
    map_views: MapViews = MapViews()
    time_projection: tuple[Size, ...] = (256, 128, 50)
    map_projection: tuple[Size, ...] = (128, 64)
    """Layers of the heads that contrast is computed after; the encoder is used without them."""

    def __post_init__(self):
        if "time" in self.paths:
            super().__post_init__()
            if self.signals:
                self.views.check(self.signals)
        check(bool(self.time_projection and self.map_projection), "method.map_projection",
              "heads need one layer or more")  # fmt: skip
        frontend = self.frontend
        check(frontend is None or frontend.standardise == "none", "method.frontend.standardise",
              "views change the amplitude; set it to 'none' and choose method.rows")  # fmt: skip
        if self.signals and "frequency" in self.paths and frontend is not None:
            one_length(self.signals)
            for signal in self.signals:
                frontend.check(signal)
            if self.local == "dense":
                steps = self.grid.time
                check(self.cells <= steps, "method.cells", f"must be {steps} or less, the time "
                      f"steps of the map, got {self.cells}")  # fmt: skip

    @property
    def paths(self) -> tuple[str, ...]:
        """The streams in use, in the order of the clip vector."""
        return STREAMS[self.stream]

    @property
    def frames(self) -> int:
        """Scalogram frames of a bound config."""
        assert self.frontend is not None
        return self.signals[0].samples // self.frontend.pool

    @property
    def grid(self) -> Grid:
        """Time steps of the map, or tokens of the time stream where that is alone."""
        if self.stream == "time":
            return super().grid
        assert self.frontend is not None
        steps, _ = self.map_encoder.shape(self.frames, self.frontend.bins)
        hop = self.frontend.hop_length
        return Grid(steps, first=hop / 2, hop=hop * self.map_encoder.stride[0])

    @property
    def streams(self) -> tuple[int, ...]:
        if self.stream != "both":
            return ()
        return self.series_width, self.map_encoder.width

    @property
    def series(self) -> SeriesConfig:
        """What the time stream reads, by itself."""
        names = {f.name for f in dataclasses.fields(SeriesConfig)}
        return SeriesConfig(**{name: getattr(self, name) for name in names})

    @property
    def series_width(self) -> int:
        """Width of the time stream's clip vector."""
        zeros = {s.name: jnp.zeros((1, s.samples, s.channels)) for s in self.signals}

        def width(key):
            return features(self.series, init_encoder(self.series, key), zeros).clip

        return jax.eval_shape(width, jax.random.key(0)).shape[-1]

    def bind(self, spec: DataSpec) -> Self:
        cfg = super().bind(spec)
        for s in cfg.signals:
            check(len(s.mean) > 0 or cfg.standardise != "data", "method.standardise",
                  f"the data do not say mean and deviation of {s.name!r}; use 'clip'")  # fmt: skip
        if "frequency" not in cfg.paths or cfg.frontend is not None:
            return cfg
        frontend = Scalogram(rate=float(cfg.signals[0].rate), standardise="none")
        return replace(cfg, frontend=frontend)


# ------------------------------------------------------------------ local contrast


def cell_means(tokens: Array, cells: int) -> Array:
    """``[b n d]`` to ``[b u d]``: means over ``cells`` stretches of time of equal length."""
    edges = np.linspace(0, tokens.shape[1], cells + 1)
    at = np.arange(tokens.shape[1])
    share = np.minimum(at + 1, edges[1:, None]) - np.maximum(at, edges[:-1, None])
    weight = np.maximum(share, 0) / np.diff(edges)[:, None]
    return jnp.einsum("un,bnd->bud", weight.astype(np.float32), tokens)


def dense_contrast(a: Array, b: Array, *, temperature: float) -> Array:
    """``[b u d]`` twice to ``[b]``: NT-Xent among clips of every cell, averaged over cells.

    The positive of a cell is the same cell of the other view, its negatives are that cell of
    other clips: a periodic motion repeats itself, so other cells of its own clip are none.
    """
    contrast = functools.partial(losses.nt_xent, temperature=temperature)
    return jax.vmap(contrast, in_axes=1, out_axes=1)(a, b).mean(axis=1)


# ------------------------------------------------------------------ the two streams


class _Stream(NamedTuple):
    """``init(key) -> params``; ``loss(params, batch, key) -> {name: [b]}``, the stream's own
    name among them; ``features(params, batch, key or None) -> Features``."""

    init: Callable[..., PyTree]
    loss: Callable[..., dict[str, Array]]
    features: Callable[..., Features]


def _twice(x: Array) -> Array:
    """Both views of a row lie side by side, so that a sharded batch stays where it is."""
    return jnp.repeat(x, 2, axis=0)


def _project(widths: tuple[int, ...], params, x: Array) -> Array:
    out = Projection(widths).apply({"params": params}, x)
    assert isinstance(out, jax.Array)
    return out


def _time_stream(cfg: LTFC) -> _Stream:
    series, run = cfg.series, encoder(cfg.series)

    def init(key):
        encoder_key, head_key = jax.random.split(key)
        params = init_encoder(series, encoder_key)
        head = Projection(cfg.time_projection)
        return {
            "encoder": params,
            "projection": head.init(head_key, jnp.zeros((1, cfg.series_width)))["params"],
        }

    def loss(params, batch: Batch, key) -> dict[str, Array]:
        view_key, drop_key = jax.random.split(key)
        twice = [_twice(x) for x in sensors(cfg.signals, batch, how=cfg.standardise)]
        tokens = run(params["encoder"], cfg.views(view_key, twice), drop_key)
        clip = pooled(tokens, jnp.ones(tokens.shape[:2], bool), cfg.encoder.pool)
        z = _project(cfg.time_projection, params["projection"], clip)
        return {"time": losses.nt_xent(z[::2], z[1::2], temperature=cfg.temperature)}

    def read(params, batch: Batch, key=None) -> Features:
        return features(series, params["encoder"], batch, key)

    return _Stream(init, loss, read)


def _frequency_stream(cfg: LTFC) -> _Stream:
    net, head = MapNet(cfg.map_encoder, cfg.rows), Projection(cfg.map_projection)

    def init(key):
        net_key, *head_keys = jax.random.split(key, 3)
        assert cfg.frontend is not None
        channels = sum(s.channels for s in cfg.signals)
        spec = jnp.zeros((1, cfg.frames, cfg.frontend.bins, channels))
        width = jnp.zeros((1, cfg.map_encoder.width))
        names = ("global", "local") if cfg.local == "dense" else ("global",)
        heads = {name: head.init(k, width)["params"] for name, k in zip(names, head_keys)}
        return {"net": net.init(net_key, spec)["params"], "projection": heads}

    def tokens(params, spec: Array) -> Array:
        out = net.apply({"params": params["net"]}, spec)
        assert isinstance(out, jax.Array)
        return out

    def loss(params, batch: Batch, key) -> dict[str, Array]:
        found = tokens(params, map_view(key, _twice(batch["spectrogram"]), cfg))
        heads = params["projection"]
        z = _project(cfg.map_projection, heads["global"], found.mean(axis=1))
        whole = losses.nt_xent(z[::2], z[1::2], temperature=cfg.temperature)
        if cfg.local != "dense":
            return {"frequency": whole}
        z = _project(cfg.map_projection, heads["local"], cell_means(found, cfg.cells))
        local = dense_contrast(z[::2], z[1::2], temperature=cfg.temperature)
        share = cfg.global_weight
        total = share * whole + (1 - share) * local
        return {"frequency": total, "global": whole, "local": local}

    def read(params, batch: Batch, key=None) -> Features:
        del key
        found = tokens(params, batch["spectrogram"])
        valid = valid_tokens(cfg.grid, batch, found.shape[0])
        return Features(found, cfg.grid, pooled(found, valid, "mean"), valid)

    return _Stream(init, loss, read)


def map_view(key: Array, spec: Array, cfg: LTFC) -> Array:
    """One view of every scalogram ``[b t f c]``: its places in time stay, unless ``local`` is
    ``crops``."""
    views, (_, t, f, _) = cfg.map_views, spec.shape
    keys = jax.random.split(key, 4)
    if cfg.local == "crops":
        spec = change.random_crop(keys[0], spec, area=views.area)
    spec = change.scale_amplitude(keys[1], spec, gain=views.gain)
    spec = change.shift_frequency(keys[2], spec, rows=views.shift)
    return augment.spec_augment(
        keys[3], spec, freq=1 + int(views.freq_mask * f), time=1 + int(views.time_mask * t)
    )


# ------------------------------------------------------------------ the method


def ltfc(cfg: LTFC) -> Method:
    """The method of a bound config: the sum of the losses of its streams, which share nothing."""
    makers = {"time": _time_stream, "frequency": _frequency_stream}
    streams = {name: makers[name](cfg) for name in cfg.paths}

    def init(key, batch_spec) -> PyTree:
        keys = jax.random.split(key, len(streams))
        return {name: stream.init(k) for (name, stream), k in zip(streams.items(), keys)}

    def frontend(batch: Batch) -> Batch:
        if "spectrogram" in batch or "frequency" not in streams:
            return batch
        assert cfg.frontend is not None
        x = jnp.concatenate(sensors(cfg.signals, batch, how=cfg.standardise), axis=-1)
        with jax.named_scope("frontend"):
            spec = cfg.frontend(x, frames=cfg.frames, length=batch.get("length"))
        return {**batch, "spectrogram": jax.lax.optimization_barrier(jax.lax.stop_gradient(spec))}

    def loss(params, target, batch: Batch, key, step) -> tuple[Array, Metrics]:
        del target, step
        batch = frontend(batch)
        values: dict[str, Array] = {}
        for (name, stream), k in zip(streams.items(), jax.random.split(key, len(streams))):
            values |= stream.loss(params[name], batch, k)
        total = functools.reduce(jnp.add, (values[name] for name in streams))
        return summarise({"loss": total, **values}, batch)

    def forward(params, batch: Batch, key: Array | None) -> Features:
        batch = frontend(batch)
        found = {n: s.features(params[n], batch, key) for n, s in streams.items()}
        return _joined(found["time"], found["frequency"]) if len(found) > 1 else found[cfg.stream]

    return Method(
        init=init, loss=loss, encode=lambda params, batch: forward(params, batch, None),
        frontend=frontend, forward=forward,
    )  # fmt: skip


def _joined(time: Features, frequency: Features) -> Features:
    """Side by side on the lattice of the map; tokens of the series are interpolated onto it."""
    grid = frequency.grid
    at = (grid.first + grid.hop * np.arange(grid.time) - time.grid.first) / time.grid.hop
    at = np.clip(at, 0, time.grid.time - 1)[:, None]
    weight = np.maximum(0, 1 - np.abs(at - np.arange(time.grid.time)))
    placed = jnp.einsum("mn,bnd->bmd", weight.astype(np.float32), time.tokens)
    return Features(
        tokens=jnp.concatenate([placed, frequency.tokens], axis=-1), grid=grid,
        clip=jnp.concatenate([time.clip, frequency.clip], axis=-1), valid=frequency.valid,
    )  # fmt: skip
