"""FreqMAE: a frequency-aware masked autoencoder for several sensors (Kara et al., WWW 2024).

Numbers in brackets are sections of the released code's description that the tests follow. The
released code has three flaws: a temporal shift that shifts nothing (windows one frame high), a
weight exponent without gradient, and half of the frequency weight on padding. The default is what
was meant; :func:`as_released` is what was run.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jfreq import losses
from jfreq.config import check, replace
from jfreq.masks import window_masks
from jfreq.method import Loss, Streams, summarise
from jfreq.methods.common.sensor_spectra import (
    Place,
    Plane,
    Spectra,
    SpectraMethod,
    any_of,
    cell_weights,
    from_tokens,
    side_by_side,
    spectra,
    to_tokens,
)
from jfreq.nn.apply import apply
from jfreq.nn.swin import Swin
from jfreq.nn.swin_autoencoder import ModalityDecoder, ModalityEncoder, SensorPredictor
from jfreq.ranges import Between, NonNegative, Size, checked
from jfreq.types import Array, Batch, Features, Mask, PyTree, Reconstruction, TokenGrid

Hidden: TypeAlias = dict[str, Array]
"""``[b t f]`` bool by sensor, over the padded lattice."""


@checked
class FreqMAE(SpectraMethod):
    """A window transformer for each sensor, one vector each; every sensor's masked patches are
    drawn from its own vector and again from what the other sensors predict of it."""

    encoder: Swin = Swin()
    """Windows larger than a sensor's lattice shrink to it."""
    embedding: Size = 256
    """Width of a sensor's vector."""
    fusion: Size = 512
    """Hidden width of the prediction from the other sensors."""
    gamma: NonNegative = 1.0
    """Weight of what is drawn from that prediction; 0 trains without fusion."""
    mask_ratio: Between = 0.75
    """Share of the attention windows, the unit of masking."""
    mask_kind: window_masks.Kind = "random"
    error: Literal["intended", "as_released", "mae"] = "intended"
    """Signal-to-noise ratio in dB, weighted by energy; the released form, whose energy factor has
    no gradient; or the weighted squared error."""
    exponent: NonNegative = 0.3
    """lambda: of the sample's energy in its weight."""
    frequency_weight: bool = True
    """Bins count 1 at 0 Hz falling to 0 at the highest frequency; off: alike."""
    padding: Literal["ignored", "as_released"] = "ignored"
    """Padding is never masked, attended to, weighted or counted; the released code does all."""
    embed: Literal["both", "own", "fused"] = "both"
    """Clip vector: the sensors' vectors, the predictions of them, or both (as published)."""

    def __post_init__(self):
        if len(self.signals) == 1:
            check(self.embed == "both", "method.embed", "one sensor has no others to predict it")
        super().__post_init__()
        if self.bound:
            for name in self.planes:
                place = self.lattice(name)
                window_masks.check(
                    place.real,
                    place.swin.window,
                    self.mask_ratio,
                    kind=self.mask_kind,
                    mirror=self.mirror,
                )

    def lattice(self, name: str) -> Lattice:
        """Where a sensor's tokens lie."""
        plane, swin = self.planes[name], self.encoder
        if self.padding == "ignored":
            swin = swin.fitted(plane.tokens)
        tokens = swin.padded(plane.tokens)
        real = plane.real_tokens(tokens)
        if self.padding == "as_released":
            real = np.ones_like(real)
        return Lattice(plane, swin, tokens, real)

    @property
    def mirror(self) -> bool:
        """A two-sided spectrum is masked with its mirror image, which would show the answer; the
        released code does so for tubes alone."""
        return self.frontend.two_sided and (self.padding == "ignored" or self.mask_kind == "tube")

    @property
    def fused(self) -> bool:
        """There are other sensors to predict one from."""
        return len(self.signals) > 1

    @property
    def grid(self) -> TokenGrid:
        """Places of the last plane in time; all frequencies and sensors side by side in a token."""
        return self.time_grid(self.encoder.scale)

    # ------------------------------------------------------------------ the paper

    def init(self, key: Array) -> PyTree:
        lattices = self.lattices
        patches = {
            n: jnp.zeros((1, math.prod(p.tokens), p.plane.size)) for n, p in lattices.items()
        }
        present = {name: jnp.ones(1, bool) for name in lattices}
        hidden = {name: jnp.zeros((1, *p.tokens), bool) for name, p in lattices.items()}
        return _Net(self).init(key, patches, present, hidden, method=_Net.everything)["params"]

    def loss(self, params, target, batch: Batch, rngs: Streams, step) -> Loss:
        del target, step
        found = spectra(self, batch)
        hidden = self.sample_masks(rngs("mask"), found)
        return self.loss_under(params, batch, found, hidden, rngs)

    def loss_under(
        self, params: PyTree, batch: Batch, found: dict[str, Spectra], hidden: Hidden, rngs: Streams
    ) -> Loss:
        """The loss of a batch, whose spectra were ``found``, under masks."""
        patches, present = self._patches_of(found)
        drawn = apply(
            _Net(self), params, patches, present, hidden, train=True, dropout=rngs("dropout")
        )
        energy = losses.mean_present({n: s.energy for n, s in found.items()}, present)
        lattices = self.lattices
        total, values = jnp.zeros(energy.shape), {}
        for kind, share, out in zip(("own", "fused"), (1.0, self.gamma), drawn):
            if not out:
                continue
            terms = {
                n: _term(self, lattices[n], out[n], patches[n], hidden[n], found[n].inside, energy)
                for n in out
            }
            part = sum(jnp.where(present[n], term, 0.0) for n, term in terms.items())
            values[kind] = part
            total = total + share * part
        return summarise({"loss": total, **values}, batch)

    def encode(self, params, batch: Batch) -> Features:
        return self._features(params, batch)

    def forward(self, params, batch: Batch, rngs: Streams) -> Features:
        return self._features(params, batch, rngs("dropout"))

    def _features(self, params: PyTree, batch: Batch, dropout: Array | None = None) -> Features:
        found = spectra(self, batch)
        patches, present = self._patches_of(found)
        own, fused, last = apply(
            _Net(self),
            params,
            patches,
            present,
            train=dropout is not None,
            dropout=dropout,
            method=_Net.vectors,
        )
        parts = {
            "own": [*own.values()],
            "fused": [*fused.values()],
            "both": [*own.values(), *fused.values()],
        }[self.embed]
        grid, lattices = self.grid, self.lattices
        tokens = [_over_bins(last[n][:, : grid.time], p, present[n]) for n, p in lattices.items()]
        inside = jnp.any(jnp.stack([found[n].inside for n in lattices]), axis=0)
        return Features(
            tokens=jnp.concatenate(tokens, axis=-1),
            grid=grid,
            clip=jnp.concatenate(parts, axis=-1),
            valid=any_of(inside, self.encoder.scale * self.patch_frames, grid.time),
        )

    def reconstruct(self, params, batch: Batch, rngs: Streams) -> Reconstruction:
        found = spectra(self, batch)
        return self.reconstruct_under(params, found, self.sample_masks(rngs("mask"), found))

    def reconstruct_under(
        self, params: PyTree, found: dict[str, Spectra], hidden: Hidden
    ) -> Reconstruction:
        """What every sensor's own vector gives of its masked patches."""
        patches, present = self._patches_of(found)
        own, _ = apply(_Net(self), params, patches, present, hidden, train=False)
        veil, drawn = {}, {}
        for name, p in self.lattices.items():
            flat = hidden[name].reshape(hidden[name].shape[0], -1, 1).astype(jnp.float32)
            flat = jnp.broadcast_to(flat, patches[name].shape)
            veil[name] = from_tokens(flat, p.plane, p.tokens)[..., 0] > 0
            drawn[name] = from_tokens(own[name], p.plane, p.tokens)
        return side_by_side(self, found, veil, drawn)

    # ------------------------------------------------------------------ its masks

    def sample_masks(self, key: Array, found: dict[str, Spectra]) -> Hidden:
        """Masked patches by sensor, the same number in every row."""
        keys = jax.random.split(key, len(self.planes))
        return {
            name: window_masks.sample(
                k,
                found[name].x.shape[0],
                p.real,
                window=p.swin.window,
                ratio=self.mask_ratio,
                kind=self.mask_kind,
                mirror=self.mirror,
            )
            for k, (name, p) in zip(keys, self.lattices.items())
        }

    @property
    def lattices(self) -> dict[str, Lattice]:
        """Where the tokens of every sensor lie."""
        return {name: self.lattice(name) for name in self.planes}

    @property
    def mask_units(self) -> dict[str, Place]:
        """What a mask chooses among: attention windows, by sensor."""
        return {name: lattice.windows for name, lattice in self.lattices.items()}

    def of_units(self, chosen: dict[str, Mask]) -> Hidden:
        """Masks over ``mask_units`` as :meth:`loss_under` takes them."""
        out = {}
        for name, lattice in self.lattices.items():
            plane = chosen[name].is_masked.reshape(-1, *lattice.windows.shape)
            for axis, size in enumerate(lattice.swin.window, 1):
                plane = jnp.repeat(plane, size, axis=axis)
            out[name] = plane
        return out

    def _patches_of(self, found: dict[str, Spectra]) -> tuple[dict[str, Array], dict[str, Array]]:
        """Patches ``[b n p]`` and presence ``[b]`` by sensor."""
        x = {n: to_tokens(found[n].x, p.plane, p.tokens) for n, p in self.lattices.items()}
        return x, {name: found[name].present for name in x}


@dataclasses.dataclass(frozen=True, eq=False)
class Lattice:
    """A sensor's tokens, padded for the window transformer: ``tokens`` = (time, freq), ``real``
    ``[t f]`` False in padding."""

    plane: Plane
    swin: Swin
    tokens: tuple[int, int]
    real: np.ndarray

    @property
    def valid(self) -> np.ndarray | None:
        """For attention: None where nothing is padding."""
        return None if self.real.all() else self.real

    @property
    def windows(self) -> Place:
        """The attention windows of the encoder."""
        window, patch = self.swin.window, self.plane.patch
        cells = (window[0] * patch[0], window[1] * patch[1])
        return Place(self.plane, cells, (self.tokens[0] // window[0], self.tokens[1] // window[1]))


def as_released(cfg: FreqMAE) -> FreqMAE:
    """Everything as in the released code for MOD, its three flaws included."""
    spectrum = replace(
        cfg.frontend,
        form="magnitude_phase",
        two_sided=True,
        remove_mean=True,
        normalise=False,
        taper="rectangular",
    )
    swin = replace(cfg.encoder, window=(1, cfg.encoder.window[1]), shift=(1, 0), wrap_mask=False)
    return replace(
        cfg,
        frontend=spectrum,
        encoder=swin,
        standardise="none",
        error="as_released",
        padding="as_released",
    )


def frequency_weights(bins: int, *, two_sided: bool) -> np.ndarray:
    """``[bins]``: 1 at 0 Hz, falling linearly to 0 at the highest frequency; two-sided rising
    back to 1 at the last bin (sheet, section 1.b.8)."""
    if not two_sided:
        return 1 - np.arange(bins) / max(1, bins - 1)
    half = bins // 2
    rise = np.arange(half) / max(1, half - 1)
    return np.concatenate([1 - rise, np.zeros(bins - 2 * half), rise])


# ------------------------------------------------------------------ the network


class _Net(nn.Module):
    cfg: FreqMAE

    def setup(self):
        cfg = self.cfg
        places = cfg.lattices
        self.sensor = {
            name: ModalityEncoder(p.swin, p.tokens, cfg.embedding, p.valid)
            for name, p in places.items()
        }
        decoders = {
            kind: {
                name: ModalityDecoder(p.swin, p.tokens, p.plane.size, p.valid)
                for name, p in places.items()
            }
            for kind in ("own", "fused")
        }
        self.draw_own = decoders["own"]
        if cfg.fused:
            self.predict = {name: SensorPredictor(cfg.fusion, cfg.embedding) for name in places}
            self.draw_fused = decoders["fused"]

    def vectors(
        self,
        patches: dict[str, Array],
        present: dict[str, Array],
        hidden: Hidden | None = None,
        *,
        train: bool = False,
    ) -> tuple[dict[str, Array], dict[str, Array], dict[str, Array]]:
        """The sensors' vectors (zeros where absent), what the others predict of each, and the last
        planes."""
        own, last = {}, {}
        for name, encoder in self.sensor.items():
            veil = None if hidden is None else hidden[name]
            h, last[name] = encoder(patches[name], veil, train=train)
            own[name] = jnp.where(present[name][:, None], h, 0.0)
        if not self.cfg.fused:
            return own, {}, last
        fused = {
            name: predict(jnp.concatenate([own[j] for j in own if j != name], axis=-1))
            for name, predict in self.predict.items()
        }
        return own, fused, last

    def __call__(
        self, patches: dict[str, Array], present: dict[str, Array], hidden: Hidden, *, train: bool
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Drawn patches ``[b n p]`` of every sensor, from its own vector and from the others'."""
        own, fused, _ = self.vectors(patches, present, hidden, train=train)
        first = {name: draw(own[name], train=train) for name, draw in self.draw_own.items()}
        if not fused or not self.cfg.gamma:
            return first, {}
        return first, {n: draw(fused[n], train=train) for n, draw in self.draw_fused.items()}

    def everything(self, patches, present, hidden):
        """Reaches every parameter, to initialise them."""
        own, fused, _ = self.vectors(patches, present, hidden)
        for name, draw in self.draw_own.items():
            draw(own[name])
            if fused:
                self.draw_fused[name](fused[name])


# ------------------------------------------------------------------ the terms


def _cell_weights(cfg: FreqMAE, place: Lattice) -> np.ndarray:
    """``[n p]``: frequency and channel weights; 0 in padding, unless as released."""
    plane, tokens = place.plane, place.tokens
    bins = tokens[1] * plane.patch[1]
    released = cfg.padding == "as_released"
    counted = bins if released else plane.bins
    by_bin = np.ones(counted)
    if cfg.frequency_weight:
        by_bin = frequency_weights(counted, two_sided=cfg.frontend.two_sided)
    cells = plane.real_cells(tokens)
    full = np.zeros(cells.shape)
    full[:, :counted] = by_bin
    return cell_weights(plane, tokens, full if released else full * cells)


def _term(
    cfg: FreqMAE,
    place: Lattice,
    out: Array,
    truth: Array,
    hidden: Array,
    inside: Array,
    energy: Array,
) -> Array:
    """``[b]``: one sensor's loss of one drawing (sheet, section 1.b.8)."""
    full = hidden.reshape(hidden.shape[0], -1, 1) * _cell_weights(cfg, place)[None]
    if cfg.padding == "ignored":
        lives = any_of(inside, place.plane.patch[0], place.tokens[0])
        full = full * jnp.repeat(lives, place.tokens[1], axis=1)[..., None]
    if cfg.error == "mae":
        return losses.weighted_mse(out, truth, full)
    error = jnp.sum(full * jnp.square(out - truth), axis=(1, 2))
    if cfg.error == "as_released":
        count = jnp.sum(hidden, axis=(1, 2))
        return losses.wpsnr_as_released(error, energy, exponent=cfg.exponent, count=count)
    signal = jnp.sum(full * jnp.square(truth), axis=(1, 2))
    return losses.snr_weighted(error, signal, energy, exponent=cfg.exponent)


def _over_bins(last: Array, place: Lattice, present: Array) -> Array:
    """``[b t f d]`` to ``[b t d]``: mean over the columns that hold a bin; 0 where absent."""
    shrink = place.swin.scale
    columns = place.real.any(0).reshape(-1, shrink).any(1).astype(np.float32)
    mean = jnp.einsum("btfd,f->btd", last, columns / columns.sum())
    return jnp.where(present[:, None, None], mean, 0.0)
