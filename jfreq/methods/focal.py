"""FOCAL: contrastive learning of several synchronous sensors (Liu et al., NeurIPS 2023).

One half of the vector of a sensor holds what sensors have in common, the other, orthogonal to it,
what only this sensor knows. Vectors of rows that were recorded one after the other lie close.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from jfreq import losses
from jfreq.augment import Views
from jfreq.config import check
from jfreq.frontends.sensor_stft import Spectrum
from jfreq.method import Loss, Streams, summarise
from jfreq.methods.common.raw_sensors import twice
from jfreq.methods.common.sensor_spectra import SpectraMethod, Spectrogram, SpectrogramSpec, any_of
from jfreq.nn.apply import apply
from jfreq.nn.deepsense_stft import DeepSenseSTFT
from jfreq.nn.heads import MLPHead
from jfreq.nn.swin import Swin
from jfreq.nn.swin_autoencoder import ModalityEncoder
from jfreq.ops.scale import unit
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
    """An encoder for each sensor, trained on two views of every window by a loss of four terms."""

    headline: ClassVar[tuple[str, ...]] = ("accuracy", "shared_accuracy", "collapse")

    frontend: Spectrum = Spectrum(form="real_imag")
    encoder: Swin | DeepSenseSTFT = Swin(window=(3, 3), shift=(1, 1))
    """The attention windows of a Swin are no larger than the spectrogram of a sensor."""
    embedding: Size = 256
    """Width of the vector of a sensor after a Swin; after a ``DeepSenseSTFT`` it is twice its
    ``hidden``. The clip vector holds the vectors of all sensors."""
    projection: tuple[Size, Size] = (256, 256)
    """Hidden and output width of the MLP of each sensor, which only training uses; the first half
    of the output is shared, the second private."""
    views: Views = POOL
    sequence: Count = 4
    """Rows of a sub-sequence, side by side in the batch: set ``data.sequence`` to the same. 1 turns
    the term of order in time off."""
    temperature: Positive = 0.07
    margin: NonNegative = 1.0
    orthogonality: Literal["hinge", "absolute"] = "hinge"
    """``hinge``: angles above 90 degrees cost nothing, as released; ``absolute``: they do."""
    shared_weight: NonNegative = 1.0
    private_weight: NonNegative = 1.0
    orthogonality_weight: NonNegative = 3.0
    temporal_weight: NonNegative = 5.0

    def __post_init__(self):
        super().__post_init__()
        out = self.projection[1]
        check(out % 2 == 0, "method.projection", f"the output must be even, got {out}")
        if self.bound:
            self.views.check(self.signals)

    def bind(self, spec: DataSpec) -> Self:
        cfg = super().bind(spec)
        check(
            len(cfg.signals) > 1,
            "method.modalities",
            f"FOCAL compares sensors, but reads only {cfg.signals[0].name!r}; name two or more",
        )
        return cfg

    @property
    def higher_is_better(self) -> Mapping[str, bool]:
        terms = dict.fromkeys(("shared", "private", "orthogonality", "temporal"), False)
        return {**super().higher_is_better, **terms, "shared_accuracy": True, "collapse": False}

    @property
    def step(self) -> int:
        """How many patches along time a token holds."""
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

    def padded(self, tokens: tuple[int, int]) -> tuple[int, int]:
        if isinstance(self.encoder, Swin):
            return self.encoder.fitted(tokens).padded(tokens)
        return tokens

    # ------------------------------------------------------------------ the paper

    def init(self, key: Array) -> PyTree:
        """Parameters ``encoder`` and ``projection``, by sensor."""
        encoder_key, project_key = jax.random.split(key)
        patches = self.example_patches
        valid = {name: jnp.ones(x.shape[:2], bool) for name, x in patches.items()}
        vectors = {s.name: jnp.zeros((1, w)) for s, w in zip(self.signals, self.branch_widths)}
        return {
            "encoder": _Encoder(self).init(encoder_key, patches, valid)["params"],
            "projection": _Projection(self).init(project_key, vectors)["params"],
        }

    def loss(self, params, target, batch: Batch, rngs: Streams, step) -> Loss:
        del target, step
        pairs = {name: twice(x) for name, x in batch.items()}
        spectra = self.spectra(pairs, views=lambda series: self.views(rngs("views"), series))
        _, vectors = self._encoded(params["encoder"], spectra, rngs("dropout"))
        z: dict[str, Array] = apply(_Projection(self), params["projection"], vectors)
        first, second = ({name: x[view::2] for name, x in z.items()} for view in (0, 1))
        mask = batch.get("_mask", jnp.ones(next(iter(first.values())).shape[0]))
        mask = (mask > 0).astype(jnp.float32)
        present = {name: spectra[name].present[::2] & (mask > 0) for name in z}
        values = {
            name: term.over_batch(mask)
            for name, term in terms(self, first, second, present).items()
        }
        total = jnp.zeros(mask.shape)
        for name, x in values.items():
            total += getattr(self, f"{name}_weight") * x.sum(axis=0)
        for name, term in collapse_metrics(self, first, second, present).items():
            values[name] = term.over_batch(mask)
        return summarise(
            {"loss": total} | {name: x.mean(axis=0) for name, x in values.items()}, batch
        )

    def features_of(self, params: PyTree, batch: Batch, dropout: Array | None = None) -> Features:
        spectra = self.spectra(batch)
        tokens, vectors = self._encoded(params["encoder"], spectra, dropout)
        _, patch_valid = self.patches(spectra)
        valid = []
        for name, spec in self.specs.items():
            frames = patch_valid[name].reshape(-1, *spec.grid.shape).any(axis=2)
            valid.append(any_of(frames, self.step, self.grid.time))
        return Features(
            tokens=jnp.concatenate(list(tokens.values()), axis=-1),
            grid=self.grid,
            clip=jnp.concatenate(list(vectors.values()), axis=-1),
            valid=jnp.stack(valid).any(axis=0),
        )

    def _encoded(
        self, params: PyTree, spectra: dict[str, Spectrogram], dropout: Array | None
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Tokens ``[b t d]`` and vectors ``[b d]`` by sensor; zeros where it is absent."""
        patches, valid = self.patches(spectra)
        states: dict[str, tuple[Array, Array]] = apply(
            _Encoder(self), params, patches, valid, train=dropout is not None, dropout=dropout
        )
        present = {name: spectra[name].present[:, None] for name in states}
        vectors = {name: jnp.where(present[name], x, 0.0) for name, (_, x) in states.items()}
        tokens = {
            name: jnp.where(present[name][..., None], x, 0.0) for name, (x, _) in states.items()
        }
        return tokens, vectors


# ------------------------------------------------------------------ the networks


class _Encoder(nn.Module):
    """Encodes every sensor by itself: patches ``[b n p]`` to tokens over time ``[b t d]`` and a
    vector ``[b d]``. ``valid`` ``[b n]``: patches with signal."""

    cfg: FOCAL

    @nn.compact
    def __call__(
        self, patches: dict[str, Array], valid: dict[str, Array], *, train: bool = False
    ) -> dict[str, tuple[Array, Array]]:
        encoder, out = self.cfg.encoder, {}
        for name, spec in self.cfg.specs.items():
            if isinstance(encoder, Swin):
                out[name] = self._swin(encoder, spec, patches[name], train)
            else:
                out[name] = self._deepsense(encoder, spec, patches[name], valid[name], train)
        return out

    def _swin(
        self, encoder: Swin, spec: SpectrogramSpec, patches: Array, train: bool
    ) -> tuple[Array, Array]:
        cfg, valid = self.cfg, spec.valid_tokens
        vector, last = ModalityEncoder(
            encoder.fitted(spec.tokens),
            spec.grid.shape,
            cfg.embedding,
            None if valid.all() else valid,
            name=spec.signal.name,
        )(patches, train=train)
        bins = -(-spec.tokens[1] // cfg.step)
        return last[:, : cfg.grid.time, :bins].mean(axis=2), vector

    def _deepsense(
        self,
        encoder: DeepSenseSTFT,
        spec: SpectrogramSpec,
        patches: Array,
        valid: Array,
        train: bool,
    ) -> tuple[Array, Array]:
        frames = valid.reshape(-1, *spec.grid.shape).any(axis=2)
        x = patches.reshape(-1, *spec.grid.shape, spec.patch_size)
        states = encoder.build(spec.signal.name)(x, frames, train=train)
        weight = frames[..., None].astype(x.dtype)
        return states, jnp.sum(states * weight, axis=1) / jnp.maximum(jnp.sum(weight, axis=1), 1.0)


class _Projection(nn.Module):
    cfg: FOCAL

    @nn.compact
    def __call__(self, vectors: dict[str, Array]) -> dict[str, Array]:
        return {name: MLPHead(*self.cfg.projection, name=name)(x) for name, x in vectors.items()}


# ------------------------------------------------------------------ the terms


Comparison = tuple[Array, ...]
"""Vectors ``[b d]`` that are compared row by row, and the rows ``[b]`` (bool) that count."""


class Term(NamedTuple):
    """Values ``[k b]`` of ``k`` comparisons and the rows ``[k b]`` (bool) that count in each."""

    value: Array
    rows: Array

    def over_batch(self, mask: Array) -> Array:
        """The values ``[k b]``, scaled so that their mean over the batch is that over the rows that
        count; the others are 0. ``mask`` ``[b]`` is 0 for rows that only fill up the batch.

        A loss is averaged over all rows of the batch, but a comparison counts only rows in which
        its sensors are present: it is multiplied by the number of the first over that of these.
        """
        weight = self.rows.astype(jnp.float32) * mask[None]
        scale = jnp.sum(mask) / jnp.maximum(jnp.sum(weight, axis=1, keepdims=True), 1.0)
        return jnp.where(weight > 0, self.value, 0.0) * weight * scale


class Halves(NamedTuple):
    """The two halves ``[b d/2]`` of the projected vectors of a sensor in one view."""

    shared: Array
    private: Array


def halves(z: dict[str, Array]) -> dict[str, Halves]:
    """The halves of projected vectors ``[b d]`` by sensor."""
    return {name: Halves(*jnp.split(x, 2, axis=-1)) for name, x in z.items()}


def terms(
    cfg: FOCAL, first: dict[str, Array], second: dict[str, Array], present: dict[str, Array]
) -> dict[str, Term]:
    """The comparisons of the four terms of the loss.

    Args:
        first: Projected vectors ``[b d]`` of the first view, by sensor.
        second: Those of the second view.
        present: ``[b]`` bool: rows in which a sensor has signal. A comparison counts rows in which
            all of its sensors are present, and only those are negatives.

    Returns:
        ``shared`` pulls the sensors of a view together, ``private`` the views of a sensor;
        ``orthogonality`` keeps shared from private halves and private halves of sensors from each
        other; ``temporal`` (sequences of 2 or more) keeps rows of a sub-sequence closer than
        others.
    """
    views = [halves(first), halves(second)]
    sensors = list(first)
    both = {(m, n): present[m] & present[n] for m, n in itertools.combinations(sensors, 2)}

    def contrast(a: Array, b: Array, rows: Array) -> Term:
        value = losses.nt_xent_by_position(
            a, b, sequence=cfg.sequence, temperature=cfg.temperature, valid=rows
        )
        return Term(value, rows)

    def angle(a: Array, b: Array, rows: Array) -> Term:
        return Term(losses.orthogonality(a, b, form=cfg.orthogonality), rows)

    def order(z: Array, rows: Array) -> Term:
        return Term(*losses.temporal_order(z, sequence=cfg.sequence, margin=cfg.margin, valid=rows))

    between_halves = [
        (view[m].shared, view[m].private, present[m]) for view in views for m in sensors
    ]
    between_sensors = [
        (view[m].private, view[n].private, rows) for view in views for (m, n), rows in both.items()
    ]
    out = {
        "shared": _compared(
            contrast,
            [(v[m].shared, v[n].shared, rows) for v in views for (m, n), rows in both.items()],
        ),
        "private": _compared(
            contrast, [(views[0][m].private, views[1][m].private, present[m]) for m in sensors]
        ),
        "orthogonality": _compared(angle, between_halves + between_sensors),
    }
    if cfg.sequence > 1:
        out["temporal"] = _compared(
            order, [(z, present[m]) for view in (first, second) for m, z in view.items()]
        )
    return out


def collapse_metrics(
    cfg: FOCAL, first: dict[str, Array], second: dict[str, Array], present: dict[str, Array]
) -> dict[str, Term]:
    """Metrics of the vectors; the arguments are those of :func:`terms`.

    How often a vector is most similar to its partner among all of its position: ``accuracy`` for
    the private halves of two views, ``shared_accuracy`` for the shared halves of two sensors.
    ``collapse`` is 1 where all vectors point in one direction.
    """
    first_halves, second_halves = halves(first), halves(second)

    def accuracy(a: Array, b: Array, rows: Array) -> Term:
        parts = [x.reshape(-1, cfg.sequence, *x.shape[1:]) for x in (a, b, rows)]
        return Term(jax.vmap(_matches, in_axes=1, out_axes=1)(*parts).reshape(-1), rows)

    def collapse(a: Array, b: Array, rows: Array) -> Term:
        direction = (unit(a) + unit(b)) / 2
        weight = rows[:, None].astype(direction.dtype)
        mean = jnp.sum(direction * weight, axis=0) / jnp.maximum(jnp.sum(weight), 1.0)
        return Term(direction @ mean, rows)

    return {
        "accuracy": _compared(
            accuracy,
            [(first_halves[m].private, second_halves[m].private, present[m]) for m in first],
        ),
        "shared_accuracy": _compared(
            accuracy,
            [
                (first_halves[m].shared, first_halves[n].shared, present[m] & present[n])
                for m, n in itertools.combinations(first, 2)
            ],
        ),
        "collapse": _compared(collapse, [(first[m], second[m], present[m]) for m in first]),
    }


def _compared(compare: Callable[..., Term], comparisons: Sequence[Comparison]) -> Term:
    """The values of all comparisons of one kind, computed at once."""
    return jax.vmap(compare)(*(jnp.stack(x) for x in zip(*comparisons)))


def _matches(a: Array, b: Array, rows: Array) -> Array:
    """``[b]``: fraction of the two vectors of a row whose most similar vector is their partner."""
    scores = jnp.matmul(unit(a), unit(b).T, precision="highest")
    row = jnp.arange(a.shape[0])
    counted = (rows[:, None] & rows[None]) | (row[:, None] == row[None])
    scores = jnp.where(counted, scores, -jnp.inf)
    hits = scores.argmax(1) == row, scores.argmax(0) == row
    return (hits[0].astype(jnp.float32) + hits[1].astype(jnp.float32)) / 2
