"""LTFC: localized time-frequency contrastive learning (Rahimi Taghanaki, Rainbow, Etemad 2022)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Literal, Self

import jax
import jax.numpy as jnp
import numpy as np

from jfreq import augment, losses
from jfreq.augment import Views
from jfreq.augment import scalogram as change
from jfreq.config import check, replace
from jfreq.frontends.scalogram import Scalogram
from jfreq.method import Loss, Streams, decided, part_of, summarise
from jfreq.methods.common.features import pooled, valid_tokens
from jfreq.methods.common.raw_sensors import RawSensorMethod, twice
from jfreq.nn.apply import apply
from jfreq.nn.cnn1d import Conv1d, one_length
from jfreq.nn.cnn2d import Conv2d, MapNet, Projection, RowNorm
from jfreq.nn.deepsense import DeepSense
from jfreq.nn.stf import STF
from jfreq.ranges import (
    BelowOne,
    Count,
    Fraction,
    NonNegative,
    Positive,
    Probability,
    Size,
    checked,
)
from jfreq.types import Array, Batch, DataSpec, Features, PyTree, TokenGrid

BRANCHES = {"both": ("time", "frequency"), "time": ("time",), "frequency": ("frequency",)}


@checked
class MapViews:
    """How views of scalograms are sampled, independently for every clip."""

    freq_mask: BelowOne = 0.2
    time_mask: BelowOne = 0.3
    """Widest masked band of frequencies or frames, as a fraction of all."""
    gain: tuple[Positive, Positive] = (0.5, 2.0)
    """Range of the factor of the amplitude of the signal."""
    shift: NonNegative = 2.0
    """Largest shift along frequency, in rows."""
    area: tuple[Fraction, Fraction] = (0.3, 0.7)
    """Range of the fraction of the scalogram that a crop takes (``local`` ``crops``)."""

    def __post_init__(self):
        for name in ("gain", "area"):
            low, high = getattr(self, name)
            check(low <= high, f"method.map_views.{name}", f"must rise, got {low} to {high}")


@checked
class LTFC(RawSensorMethod):
    """Two encoders with nothing in common, one of the series and one of its scalogram, each trained
    by contrast; their clip vectors are concatenated.

    Only the abstract of the paper was available to us: what is local, the views and all sizes are
    our reading, and fields of this class.
    """

    modalities: tuple[str, ...] | None = ("acc",)
    encoder: STF | Conv1d | DeepSense = Conv1d()
    """Encoder of the time branch."""
    frontend: Scalogram | None = None
    """Front end of the frequency branch; None: 64 rows from 0.01 to 0.4 of the rate."""
    map_encoder: Conv2d = Conv2d()
    branch: Literal["both", "time", "frequency"] = "both"
    local: Literal["dense", "crops", "none"] = "dense"
    """What the frequency branch contrasts. ``dense``: whole clips, and cells of time with the same
    cell of other clips, not with other cells of their clip; ``crops``: whole clips by views that
    are crops; ``none``: whole clips."""
    cells: Count = 5
    """Number of cells of time (``dense``)."""
    global_weight: Probability = 0.5
    """Weight of whole clips in the ``dense`` loss; cells have the rest."""
    temperature: Positive = 0.1
    rows: RowNorm = "learned"
    """Normalisation of every row and channel of a scalogram: by a learned scale and offset; to zero
    mean and unit variance over each clip, which hides how loud a row is; or none."""
    views: Views = Views(time=("rotate", "scale", "jitter", "permute", "warp_time"), frequency=())
    """Views of the series, for the time branch."""
    map_views: MapViews = MapViews()
    time_projection: tuple[Size, ...] = (256, 128, 50)
    map_projection: tuple[Size, ...] = (128, 64)
    """Widths of the layers of the heads that contrast is computed after, in training only."""

    def __post_init__(self):
        if "time" in self.branches:
            super().__post_init__()
            if self.signals:
                self.views.check(self.signals)
        check(
            bool(self.time_projection and self.map_projection),
            "method.map_projection",
            "heads need one layer or more; name a width in it and in method.time_projection",
        )
        frontend = self.frontend
        check(
            frontend is None or frontend.standardise == "none",
            "method.frontend.standardise",
            "views change the amplitude; set it to 'none' and choose method.rows",
        )
        if self.signals and "frequency" in self.branches and frontend is not None:
            one_length(self.signals)
            for signal in self.signals:
                frontend.check(signal)
            if self.local == "dense":
                steps = self.grid.time
                check(
                    self.cells <= steps,
                    "method.cells",
                    f"must be {steps} or less, the time steps of the map, got {self.cells}",
                )

    @property
    def branches(self) -> tuple[str, ...]:
        """The branches in use, in the order of the clip vector."""
        return BRANCHES[self.branch]

    @property
    def frames(self) -> int:
        """Frames of the scalogram, of a bound method."""
        return self.signals[0].samples // decided(self.frontend, "method.frontend").pool

    @property
    def grid(self) -> TokenGrid:
        """Time steps of the map, or tokens of the time branch where that is alone."""
        if self.branch == "time":
            return super().grid
        frontend = decided(self.frontend, "method.frontend")
        steps, _ = self.map_encoder.shape(self.frames, frontend.bins)
        hop = frontend.hop_length
        return TokenGrid(steps, first=hop / 2, hop=hop * self.map_encoder.stride[0])

    @property
    def branch_widths(self) -> tuple[int, ...]:
        if self.branch != "both":
            return ()
        return self.series_width, self.map_encoder.width

    @functools.cached_property
    def series(self) -> RawSensorMethod:
        """The encoder of the time branch as a method."""
        return part_of(RawSensorMethod, self)

    @property
    def series_width(self) -> int:
        """Width of the clip vector of the time branch."""
        zeros = {s.name: x for s, x in zip(self.signals, self.zeros)}

        def width(key):
            return self.series.encode(self.series.init(key), zeros).clip

        return jax.eval_shape(width, jax.random.key(0)).shape[-1]

    def bind(self, spec: DataSpec) -> Self:
        cfg = super().bind(spec)
        cfg.check_statistics()
        if "frequency" not in cfg.branches or cfg.frontend is not None:
            return cfg
        frontend = Scalogram(rate=float(cfg.signals[0].rate), standardise="none")
        return replace(cfg, frontend=frontend)

    @property
    def higher_is_better(self) -> Mapping[str, bool]:
        return {
            **super().higher_is_better,
            **dict.fromkeys(("time", "frequency", "global", "local"), False),
        }

    # ------------------------------------------------------------------ the paper

    def init(self, key: Array) -> PyTree:
        init = {"time": self._init_time, "frequency": self._init_frequency}
        keys = jax.random.split(key, len(self.branches))
        return {name: init[name](k) for name, k in zip(self.branches, keys)}

    def loss(self, params, target, batch: Batch, rngs: Streams, step) -> Loss:
        """The sum of the losses of the branches, which have no parameters in common."""
        del target, step
        batch = self.with_spectrogram(batch)
        values: dict[str, Array] = {}
        if "time" in self.branches:
            values |= self._time_loss(params["time"], batch, rngs)
        if "frequency" in self.branches:
            values |= self._frequency_loss(params["frequency"], batch, rngs)
        total = functools.reduce(jnp.add, (values[name] for name in self.branches))
        return summarise({"loss": total, **values}, batch)

    def features_of(self, params: PyTree, batch: Batch, dropout: Array | None = None) -> Features:
        batch, features = self.with_spectrogram(batch), []
        if "time" in self.branches:
            features.append(self.series.features_of(params["time"], batch, dropout))
        if "frequency" in self.branches:
            tokens = self._map_tokens(params["frequency"], batch["spectrogram"])
            valid = valid_tokens(self.grid, batch, tokens.shape[0])
            features.append(Features(tokens, self.grid, pooled(tokens, valid, "mean"), valid))
        return features[0] if len(features) == 1 else side_by_side(*features)

    def with_spectrogram(self, batch: Batch) -> Batch:
        """Adds the scalogram of all sensors ``[b t f c]``, unless the time branch is alone."""
        if "spectrogram" in batch or "frequency" not in self.branches:
            return batch
        frontend = decided(self.frontend, "method.frontend")
        x = jnp.concatenate(self.inputs(batch), axis=-1)
        with jax.named_scope("frontend"):
            spec, valid = frontend(x, frames=self.frames, length=batch.get("length"))
        spec = jax.lax.optimization_barrier(jax.lax.stop_gradient(spec))
        return {**batch, "spectrogram": spec, "valid_frames": valid}

    @property
    def spectrogram_fill(self) -> float:
        return 0.0 if self.frontend is None else self.frontend.fill

    @property
    def frame_hop(self) -> float | None:
        return None if self.frontend is None else self.frontend.hop_length

    # ------------------------------------------------------------------ the time branch

    def _init_time(self, key: Array) -> PyTree:
        encoder_key, head_key = jax.random.split(key)
        head = Projection(self.time_projection)
        return self.series.init(encoder_key) | {
            "projection": head.init(head_key, jnp.zeros((1, self.series_width)))["params"],
        }

    def _time_loss(self, params: PyTree, batch: Batch, rngs: Streams) -> dict[str, Array]:
        views = self.views(rngs("views"), [twice(x) for x in self.inputs(batch)])
        clip = self.clip_vector(params["encoder"], views, rngs("dropout"))
        z = apply(Projection(self.time_projection), params["projection"], clip)
        return {"time": losses.nt_xent(z[::2], z[1::2], temperature=self.temperature)}

    # ------------------------------------------------------------------ the frequency branch

    def _init_frequency(self, key: Array) -> PyTree:
        net_key, *head_keys = jax.random.split(key, 3)
        channels = sum(s.channels for s in self.signals)
        bins = decided(self.frontend, "method.frontend").bins
        spec = jnp.zeros((1, self.frames, bins, channels))
        width = jnp.zeros((1, self.map_encoder.width))
        names = ("global", "local") if self.local == "dense" else ("global",)
        head = Projection(self.map_projection)
        heads = {name: head.init(k, width)["params"] for name, k in zip(names, head_keys)}
        net = MapNet(self.map_encoder, self.rows)
        return {"net": net.init(net_key, spec)["params"], "projection": heads}

    def _map_tokens(self, params: PyTree, spec: Array) -> Array:
        """Tokens ``[b n d]`` of scalograms ``[b t f c]``."""
        return apply(MapNet(self.map_encoder, self.rows), params["net"], spec)

    def _frequency_loss(self, params: PyTree, batch: Batch, rngs: Streams) -> dict[str, Array]:
        views = map_view(rngs("map_views"), twice(batch["spectrogram"]), self)
        tokens = self._map_tokens(params, views)
        head, heads = Projection(self.map_projection), params["projection"]
        z = apply(head, heads["global"], tokens.mean(axis=1))
        whole = losses.nt_xent(z[::2], z[1::2], temperature=self.temperature)
        if self.local != "dense":
            return {"frequency": whole}
        z = apply(head, heads["local"], cell_means(tokens, self.cells))
        local = dense_contrast(z[::2], z[1::2], temperature=self.temperature)
        weight = self.global_weight
        total = weight * whole + (1 - weight) * local
        return {"frequency": total, "global": whole, "local": local}


# ------------------------------------------------------------------ local contrast


def cell_means(tokens: Array, cells: int) -> Array:
    """Means ``[b u d]`` of tokens ``[b n d]`` over ``cells`` parts of the clip of equal length."""
    edges = np.linspace(0, tokens.shape[1], cells + 1)
    at = np.arange(tokens.shape[1])
    overlap = np.minimum(at + 1, edges[1:, None]) - np.maximum(at, edges[:-1, None])
    weight = np.maximum(overlap, 0) / np.diff(edges)[:, None]
    return jnp.einsum("un,bnd->bud", weight.astype(np.float32), tokens)


def dense_contrast(a: Array, b: Array, *, temperature: float) -> Array:
    """NT-Xent ``[b]`` of the cells ``[b u d]`` of two views, averaged over cells.

    The positive of a cell is the same cell of the other view, and its negatives are that cell of
    other clips. Other cells of its clip are no negatives, because a periodic motion repeats itself.
    """
    contrast = functools.partial(losses.nt_xent, temperature=temperature)
    return jax.vmap(contrast, in_axes=1, out_axes=1)(a, b).mean(axis=1)


def map_view(key: Array, spec: Array, cfg: LTFC) -> Array:
    """One view of every scalogram ``[b t f c]``; frames keep their time unless ``local`` is
    ``crops``."""
    views, (_, t, f, _) = cfg.map_views, spec.shape
    keys = jax.random.split(key, 4)
    if cfg.local == "crops":
        spec = change.random_crop(keys[0], spec, area=views.area)
    spec = change.scale_amplitude(keys[1], spec, gain=views.gain)
    spec = change.shift_frequency(keys[2], spec, rows=views.shift)
    return augment.spec_augment(
        keys[3], spec, time=1 + int(views.time_mask * t), freq=1 + int(views.freq_mask * f)
    )


def side_by_side(time: Features, frequency: Features) -> Features:
    """The features of both branches concatenated on the grid of the map, onto which the tokens of
    the series are interpolated."""
    grid = frequency.grid
    at = (grid.first + grid.hop * np.arange(grid.time) - time.grid.first) / time.grid.hop
    at = np.clip(at, 0, time.grid.time - 1)[:, None]
    weight = np.maximum(0, 1 - np.abs(at - np.arange(time.grid.time)))
    placed = jnp.einsum("mn,bnd->bmd", weight.astype(np.float32), time.tokens)
    return Features(
        tokens=jnp.concatenate([placed, frequency.tokens], axis=-1),
        grid=grid,
        clip=jnp.concatenate([time.clip, frequency.clip], axis=-1),
        valid=frequency.valid,
    )
