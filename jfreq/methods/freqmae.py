"""FreqMAE: a frequency-aware masked autoencoder for several sensors (Kara et al., WWW 2024).

Numbers in brackets are sections of the released code's description that the tests follow. The
released code has three flaws: a temporal shift that shifts nothing (windows one frame high), a
weight exponent without gradient, and half of the frequency weight on padding. The default is what
was meant; :func:`as_released` is what was run.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Literal, TypeAlias, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jfreq import losses
from jfreq.config import check, replace
from jfreq.masks import windows
from jfreq.methods.base import Method, Metrics, summarise
from jfreq.methods.spectra import (
    Plane,
    Spectra,
    SpectraConfig,
    any_of,
    cell_weights,
    from_tokens,
    side_by_side,
    spectra,
    to_tokens,
)
from jfreq.nn.modality import CrossPredictor, ModalityDecoder, ModalityEncoder
from jfreq.nn.swin import Swin
from jfreq.ranges import Between, NonNegative, Size, checked
from jfreq.types import Array, Batch, Features, Grid, Reconstruction

Hidden: TypeAlias = dict[str, Array]
"""``[b t f]`` bool by sensor, over the padded lattice."""
Draw: TypeAlias = Callable[..., Hidden]
"""``(key, spectra by sensor, step) -> hidden``, the same number in every row."""


@checked
class FreqMAE(SpectraConfig):
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
    mask_kind: windows.Kind = "random"
    loss: Literal["intended", "as_released", "mae"] = "intended"
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
                windows.check(place.real, place.swin.window, self.mask_ratio,
                              kind=self.mask_kind, mirror=self.mirror)  # fmt: skip

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
    def grid(self) -> Grid:
        """Places of the last plane in time; all frequencies and sensors side by side in a token."""
        return self.time_grid(self.encoder.scale)


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


def as_released(cfg: FreqMAE) -> FreqMAE:
    """Everything as in the released code for MOD, its three flaws included."""
    spectrum = replace(cfg.frontend, form="magnitude_phase", two_sided=True, remove_mean=True,
                       normalise=False, taper="rectangular")  # fmt: skip
    swin = replace(cfg.encoder, window=(1, cfg.encoder.window[1]), shift=(1, 0), wrap_mask=False)
    return replace(
        cfg, frontend=spectrum, encoder=swin, standardise="none", loss="as_released",
        padding="as_released",
    )  # fmt: skip


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
        places = {name: cfg.lattice(name) for name in cfg.planes}
        self.sensor = {
            name: ModalityEncoder(p.swin, p.tokens, cfg.embedding, p.valid)
            for name, p in places.items()
        }
        decoders = {
            kind: {name: ModalityDecoder(p.swin, p.tokens, p.plane.size, p.valid)
                   for name, p in places.items()}
            for kind in ("own", "fused")
        }  # fmt: skip
        self.draw_own = decoders["own"]
        if cfg.fused:
            self.predict = {name: CrossPredictor(cfg.fusion, cfg.embedding) for name in places}
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
        planes."""  # fmt: skip
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


# ------------------------------------------------------------------ the method


def freqmae(cfg: FreqMAE, draw: Draw | None = None) -> Method:
    """The method of a bound config; ``draw`` chooses masks in another way than the config's."""
    net, planes = _Net(cfg), cfg.planes
    places = {name: cfg.lattice(name) for name in planes}
    weights = {name: _cell_weights(cfg, place) for name, place in places.items()}

    def draw_hidden(key, found: dict[str, Spectra], step) -> Hidden:
        if draw is not None:
            return draw(key, found, step)
        keys = jax.random.split(key, len(places))
        return {
            name: windows.draw(k, found[name].x.shape[0], p.real, window=p.swin.window,
                               ratio=cfg.mask_ratio, kind=cfg.mask_kind, mirror=cfg.mirror)
            for k, (name, p) in zip(keys, places.items())
        }  # fmt: skip

    def patches_of(found: dict[str, Spectra]) -> tuple[dict[str, Array], dict[str, Array]]:
        x = {name: to_tokens(found[name].x, p.plane, p.tokens) for name, p in places.items()}
        return x, {name: found[name].present for name in places}

    def init(key, batch_spec):
        del batch_spec
        patches = {n: jnp.zeros((1, math.prod(p.tokens), p.plane.size)) for n, p in places.items()}
        present = {name: jnp.ones(1, bool) for name in places}
        hidden = {name: jnp.zeros((1, *p.tokens), bool) for name, p in places.items()}
        return net.init(key, patches, present, hidden, method=_Net.everything)["params"]

    def loss(params, target, batch: Batch, key, step) -> tuple[Array, Metrics]:
        del target
        mask_key, drop_key = jax.random.split(key)
        found = spectra(cfg, batch)
        hidden = draw_hidden(mask_key, found, step)
        patches, present = patches_of(found)
        drawn = cast(tuple, net.apply(
            {"params": params}, patches, present, hidden, train=True, rngs={"dropout": drop_key},
        ))  # fmt: skip
        energy = losses.mean_present({n: s.energy for n, s in found.items()}, present)
        total, values = jnp.zeros(energy.shape), {}
        for kind, share, out in zip(("own", "fused"), (1.0, cfg.gamma), drawn):
            if not out:
                continue
            terms = {n: _term(cfg, places[n], out[n], patches[n], hidden[n], weights[n],
                              found[n].inside, energy) for n in out}  # fmt: skip
            part = sum(jnp.where(present[n], term, 0.0) for n, term in terms.items())
            values[kind] = part
            total = total + share * part
        return summarise({"loss": total, **values}, batch)

    def features(params, batch: Batch, key: Array | None = None) -> Features:
        found = spectra(cfg, batch)
        patches, present = patches_of(found)
        rngs = {} if key is None else {"dropout": key}
        own, fused, last = cast(tuple, net.apply(
            {"params": params}, patches, present, train=key is not None, rngs=rngs,
            method=_Net.vectors,
        ))  # fmt: skip
        parts = {"own": [*own.values()], "fused": [*fused.values()],
                 "both": [*own.values(), *fused.values()]}[cfg.embed]  # fmt: skip
        grid, shrink = cfg.grid, cfg.encoder.scale
        tokens = [_over_bins(last[n][:, : grid.time], p, present[n]) for n, p in places.items()]
        inside = jnp.any(jnp.stack([found[n].inside for n in places]), axis=0)
        return Features(
            tokens=jnp.concatenate(tokens, axis=-1), grid=grid,
            clip=jnp.concatenate(parts, axis=-1),
            valid=any_of(inside, shrink * cfg.patch_frames, grid.time),
        )  # fmt: skip

    def reconstruct(params, batch: Batch, key) -> Reconstruction:
        found = spectra(cfg, batch)
        hidden = draw_hidden(key, found, 10**9)
        patches, present = patches_of(found)
        own, _ = cast(tuple, net.apply({"params": params}, patches, present, hidden, train=False))
        veil, drawn = {}, {}
        for name, p in places.items():
            flat = hidden[name].reshape(hidden[name].shape[0], -1, 1).astype(jnp.float32)
            flat = jnp.broadcast_to(flat, patches[name].shape)
            veil[name] = from_tokens(flat, p.plane, p.tokens)[..., 0] > 0
            drawn[name] = from_tokens(own[name], p.plane, p.tokens)
        return side_by_side(cfg, found, veil, drawn)

    return Method(
        init=init, loss=loss, encode=lambda params, batch: features(params, batch),
        forward=features, reconstruct=reconstruct,
    )  # fmt: skip


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
    weight: np.ndarray,
    inside: Array,
    energy: Array,
) -> Array:
    """``[b]``: one sensor's loss of one drawing (sheet, section 1.b.8)."""  # fmt: skip
    full = hidden.reshape(hidden.shape[0], -1, 1) * weight[None]
    if cfg.padding == "ignored":
        lives = any_of(inside, place.plane.patch[0], place.tokens[0])
        full = full * jnp.repeat(lives, place.tokens[1], axis=1)[..., None]
    if cfg.loss == "mae":
        return losses.weighted_mse(out, truth, full)
    error = jnp.sum(full * jnp.square(out - truth), axis=(1, 2))
    if cfg.loss == "as_released":
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
