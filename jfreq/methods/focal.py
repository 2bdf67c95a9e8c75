"""FOCAL: contrastive learning of several synchronous sensors (Liu et al., NeurIPS 2023).

What sensors share and what only one of them knows lie in two orthogonal halves of a vector; rows
recorded one after the other lie close together.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from jfreq import losses
from jfreq.augment import Views
from jfreq.config import check
from jfreq.frontends.sensor_stft import Spectrum
from jfreq.method import Loss, Streams, summarise
from jfreq.methods.common.sensor_spectra import (
    Plane,
    Spectra,
    SpectraMethod,
    any_of,
    example,
    inside_tokens,
    spectra,
    to_tokens,
)
from jfreq.nn.apply import apply
from jfreq.nn.deepsense_stft import DeepSenseSTFT
from jfreq.nn.heads import MLPHead
from jfreq.nn.swin import Swin
from jfreq.nn.swin_autoencoder import ModalityEncoder
from jfreq.ranges import Count, NonNegative, Positive, Size, checked
from jfreq.types import Array, Batch, DataSpec, Features, PyTree, TokenGrid

POOL = Views(
    time=("permute", "negate", "warp_time", "flip", "warp_magnitude", "scale"),
    frequency=("shift",),
    scale=0.2,
)
"""The released pool and strengths; FOCAL permutes the intervals of the spectrum."""


@checked
class FOCAL(SpectraMethod):
    """Two views of every window, an encoder for each sensor, four terms."""

    headline: ClassVar[tuple[str, ...]] = ("accuracy", "shared_accuracy", "collapse")

    frontend: Spectrum = Spectrum(form="real_imag")
    encoder: Swin | DeepSenseSTFT = Swin(window=(3, 3), shift=(1, 1))
    """A Swin's windows shrink to small lattices."""
    embedding: Size = 256
    """Width of a sensor's vector behind a Swin; the clip vector holds those of all sensors. A
    ``DeepSenseSTFT`` gives twice its ``hidden``."""
    projection: tuple[Size, Size] = (256, 256)
    """Hidden and output width of the MLP of each sensor that only training has; the first half of
    the output is shared, the second private."""
    views: Views = POOL
    sequence: Count = 4
    """Rows of a sub-sequence, side by side in the batch: set ``data.sequence`` to the same. With 1
    there is no order in time and that term is off."""
    temperature: Positive = 0.07
    margin: NonNegative = 1.0
    orthogonality: Literal["hinge", "absolute"] = "hinge"
    """``hinge``: angles above 90 degrees are free, as released; ``absolute``: they are not."""
    shared_weight: NonNegative = 1.0
    private_weight: NonNegative = 1.0
    orthogonality_weight: NonNegative = 3.0
    temporal_weight: NonNegative = 5.0

    def __post_init__(self):
        super().__post_init__()
        out = self.projection[1]
        check(out % 2 == 0, "method.projection", f"the output is cut in two halves, got {out}")
        if self.bound:
            self.views.check(self.signals)

    def bind(self, spec: DataSpec) -> Self:
        cfg = super().bind(spec)
        check(
            len(cfg.signals) > 1,
            "method.modalities",
            f"FOCAL compares sensors, the data give only {cfg.signals[0].name!r}",
        )
        return cfg

    @property
    def step(self) -> int:
        """Patches along time in a token."""
        return self.encoder.scale if isinstance(self.encoder, Swin) else 1

    @property
    def grid(self) -> TokenGrid:
        """One token of all sensors for each moment of the encoders' last layer."""
        return self.time_grid(self.step)

    @property
    def branch_widths(self) -> tuple[int, ...]:
        encoder = self.encoder
        width = self.embedding if isinstance(encoder, Swin) else 2 * encoder.hidden
        return (width,) * len(self.signals)

    def lattice(self, plane: Plane) -> tuple[int, int]:
        """Tokens (time, freq) of a sensor with the padding that its encoder needs."""
        if isinstance(self.encoder, Swin):
            return self.encoder.fitted(plane.tokens).padded(plane.tokens)
        return plane.tokens

    # ------------------------------------------------------------------ the paper

    def init(self, key: Array) -> PyTree:
        """Parameters ``encoder`` and ``projection``, by sensor."""
        encoder_key, project_key = jax.random.split(key)
        zeros = example(self)
        patches = {n: to_tokens(zeros[n], p, self.lattice(p)) for n, p in self.planes.items()}
        valid = {name: jnp.ones(x.shape[:2], bool) for name, x in patches.items()}
        vectors = {s.name: jnp.zeros((1, w)) for s, w in zip(self.signals, self.branch_widths)}
        return {
            "encoder": _Encoder(self).init(encoder_key, patches, valid)["params"],
            "projection": _Projection(self).init(project_key, vectors)["params"],
        }

    def loss(self, params, target, batch: Batch, rngs: Streams, step) -> Loss:
        del target, step
        # The two views of a row lie side by side, so that a sharded batch stays where it is.
        twice = {name: jnp.repeat(x, 2, axis=0) for name, x in batch.items()}
        found = spectra(self, twice, change=lambda series: self.views(rngs("views"), series))
        _, vectors = self._sensors(params["encoder"], found, rngs("dropout"))
        z: dict[str, Array] = apply(_Projection(self), params["projection"], vectors)
        first, second = ({name: x[view::2] for name, x in z.items()} for view in (0, 1))
        mask = batch.get("_mask", jnp.ones(next(iter(first.values())).shape[0]))
        mask = (mask > 0).astype(jnp.float32)
        present = {name: found[name].present[::2] & (mask > 0) for name in z}
        parts = {
            name: term.per_row(mask) for name, term in terms(self, first, second, present).items()
        }
        total = jnp.zeros(mask.shape)
        for name, x in parts.items():
            total += getattr(self, f"{name}_weight") * x.sum(axis=0)
        for name, term in collapse_metrics(self, first, second, present).items():
            parts[name] = term.per_row(mask)
        return summarise(
            {"loss": total} | {name: x.mean(axis=0) for name, x in parts.items()}, batch
        )

    def encode(self, params, batch: Batch) -> Features:
        return self._features(params, batch)

    def forward(self, params, batch: Batch, rngs: Streams) -> Features:
        return self._features(params, batch, rngs("dropout"))

    def _features(self, params: PyTree, batch: Batch, dropout: Array | None = None) -> Features:
        found = spectra(self, batch)
        tokens, vectors = self._sensors(params["encoder"], found, dropout)
        _, valid = self._inputs(found)
        any_sensor = jnp.stack(
            [
                any_of(
                    valid[name].reshape(-1, *self.lattice(plane)).any(axis=2),
                    self.step,
                    self.grid.time,
                )
                for name, plane in self.planes.items()
            ]
        ).any(axis=0)
        return Features(
            tokens=jnp.concatenate(list(tokens.values()), axis=-1),
            grid=self.grid,
            clip=jnp.concatenate(list(vectors.values()), axis=-1),
            valid=any_sensor,
        )

    def _inputs(self, found: dict[str, Spectra]) -> tuple[dict[str, Array], dict[str, Array]]:
        """Patches ``[b n p]`` and whether they hold signal ``[b n]``, by sensor."""
        patches, valid = {}, {}
        for name, plane in self.planes.items():
            lattice = self.lattice(plane)
            patches[name] = to_tokens(found[name].x, plane, lattice)
            valid[name] = inside_tokens(found[name], plane, lattice)
        return patches, valid

    def _sensors(
        self, params: PyTree, found: dict[str, Spectra], dropout: Array | None
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Tokens ``[b t d]`` and vectors ``[b d]`` by sensor; zeros where it is absent."""
        states: dict[str, tuple[Array, Array]] = apply(
            _Encoder(self), params, *self._inputs(found), train=dropout is not None, dropout=dropout
        )
        here = {name: found[name].present[:, None] for name in states}
        vectors = {name: jnp.where(here[name], x, 0.0) for name, (_, x) in states.items()}
        tokens = {name: jnp.where(here[name][..., None], x, 0.0) for name, (x, _) in states.items()}
        return tokens, vectors


# ------------------------------------------------------------------ the networks


class _Encoder(nn.Module):
    """Every sensor by itself: patches ``[b n p]`` to tokens over time ``[b t d]`` and a vector
    ``[b d]``. ``valid`` ``[b n]``: patches with signal."""

    cfg: FOCAL

    @nn.compact
    def __call__(
        self, patches: dict[str, Array], valid: dict[str, Array], *, train: bool = False
    ) -> dict[str, tuple[Array, Array]]:
        encoder = self.cfg.encoder
        return {
            name: self._swin(encoder, plane, patches[name], train)
            if isinstance(encoder, Swin)
            else self._sense(encoder, plane, patches[name], valid[name], train)
            for name, plane in self.cfg.planes.items()
        }

    def _swin(
        self, encoder: Swin, plane: Plane, patches: Array, train: bool
    ) -> tuple[Array, Array]:
        cfg = self.cfg
        lattice = cfg.lattice(plane)
        real = plane.real_tokens(lattice)
        vector, last = ModalityEncoder(
            encoder.fitted(plane.tokens),
            lattice,
            cfg.embedding,
            None if real.all() else real,
            name=plane.signal.name,
        )(patches, train=train)
        bins = -(-plane.tokens[1] // cfg.step)
        return last[:, : cfg.grid.time, :bins].mean(axis=2), vector

    def _sense(
        self, encoder: DeepSenseSTFT, plane: Plane, patches: Array, valid: Array, train: bool
    ) -> tuple[Array, Array]:
        frames = valid.reshape(-1, *plane.tokens).any(axis=2)
        x = patches.reshape(-1, *plane.tokens, plane.size)
        states = encoder.build(plane.signal.name)(x, frames, train=train)
        weight = frames[..., None].astype(x.dtype)
        return states, jnp.sum(states * weight, axis=1) / jnp.maximum(jnp.sum(weight, axis=1), 1.0)


class _Projection(nn.Module):
    cfg: FOCAL

    @nn.compact
    def __call__(self, vectors: dict[str, Array]) -> dict[str, Array]:
        return {name: MLPHead(*self.cfg.projection, name=name)(x) for name, x in vectors.items()}


# ------------------------------------------------------------------ the terms


Comparisons = list[tuple[Array, ...]]
"""What is compared with what, each time with the rows ``[b]`` (bool) that count."""


class Term(NamedTuple):
    """Values ``[k b]`` of ``k`` comparisons and the rows ``[k b]`` (bool) that each counts."""

    value: Array
    rows: Array

    def per_row(self, mask: Array) -> Array:
        """``[k b]`` whose means over the rows of ``mask`` ``[b]`` are those of every comparison
        over its own rows."""
        weight = self.rows.astype(jnp.float32) * mask[None]
        scale = jnp.sum(mask) / jnp.maximum(jnp.sum(weight, axis=1, keepdims=True), 1.0)
        return jnp.where(weight > 0, self.value, 0.0) * weight * scale


def terms(
    cfg: FOCAL, first: dict[str, Array], second: dict[str, Array], present: dict[str, Array]
) -> dict[str, Term]:
    """The comparisons of each of the four terms.

    ``first`` and ``second``: projected vectors ``[b d]`` of the two views by sensor; ``present``
    ``[b]`` bool: rows in which a sensor has signal. A comparison counts rows in which all of its
    sensors are present, and only those are negatives.
    """
    views = [
        {name: jnp.split(z, 2, axis=-1) for name, z in view.items()} for view in (first, second)
    ]
    both = {(m, n): present[m] & present[n] for m, n in itertools.combinations(first, 2)}
    shared: Comparisons = [
        (view[m][0], view[n][0], rows) for view in views for (m, n), rows in both.items()
    ]
    private: Comparisons = [(views[0][m][1], views[1][m][1], present[m]) for m in first]
    orthogonal: Comparisons = [(*view[m], present[m]) for view in views for m in first]
    orthogonal += [
        (view[m][1], view[n][1], rows) for view in views for (m, n), rows in both.items()
    ]

    def contrast(a: Array, b: Array, rows: Array) -> Term:
        value = losses.nt_xent_by_position(
            a, b, sequence=cfg.sequence, temperature=cfg.temperature, valid=rows
        )
        return Term(value, rows)

    def angle(a: Array, b: Array, rows: Array) -> Term:
        return Term(losses.orthogonality(a, b, form=cfg.orthogonality), rows)

    def order(z: Array, rows: Array) -> Term:
        return Term(*losses.temporal_order(z, sequence=cfg.sequence, margin=cfg.margin, valid=rows))

    out = {
        "shared": _each(contrast, shared),
        "private": _each(contrast, private),
        "orthogonality": _each(angle, orthogonal),
    }
    if cfg.sequence > 1:
        both_views = [(z, present[m]) for view in (first, second) for m, z in view.items()]
        out["temporal"] = _each(order, both_views)
    return out


def collapse_metrics(
    cfg: FOCAL, first: dict[str, Array], second: dict[str, Array], present: dict[str, Array]
) -> dict[str, Term]:
    """What people look at: how often partners find each other, in private halves of the two views
    and in shared halves of two sensors, and whether all is one direction."""
    half = cfg.projection[1] // 2
    private = [(first[m][:, half:], second[m][:, half:], present[m]) for m in first]
    shared = [
        (first[m][:, :half], first[n][:, :half], present[m] & present[n])
        for m, n in itertools.combinations(first, 2)
    ]

    def found(a: Array, b: Array, rows: Array) -> Term:
        cut = [x.reshape(-1, cfg.sequence, *x.shape[1:]) for x in (a, b, rows)]
        return Term(jax.vmap(_matches, in_axes=1, out_axes=1)(*cut).reshape(-1), rows)

    def collapse(a: Array, b: Array, rows: Array) -> Term:
        each = (losses.unit(a) + losses.unit(b)) / 2
        weight = rows[:, None].astype(each.dtype)
        mean = jnp.sum(each * weight, axis=0) / jnp.maximum(jnp.sum(weight), 1.0)
        return Term(each @ mean, rows)

    return {
        "accuracy": _each(found, private),
        "shared_accuracy": _each(found, shared),
        "collapse": _each(collapse, [(first[m], second[m], present[m]) for m in first]),
    }


def _each(compare: Callable[..., Term], comparisons: Comparisons) -> Term:
    """All comparisons of one kind in one operation."""
    return jax.vmap(compare)(*(jnp.stack(x) for x in zip(*comparisons)))


def _matches(a: Array, b: Array, rows: Array) -> Array:
    """``[b]``: share of the two vectors of a row whose most similar one is its partner."""
    scores = jnp.matmul(losses.unit(a), losses.unit(b).T, precision="highest")
    own = jnp.arange(a.shape[0])
    seen = (rows[:, None] & rows[None]) | (own[:, None] == own[None])
    scores = jnp.where(seen, scores, -jnp.inf)
    hits = scores.argmax(1) == own, scores.argmax(0) == own
    return (hits[0].astype(jnp.float32) + hits[1].astype(jnp.float32)) / 2
