"""A masked autoencoder over the spectra of several sensors (He et al. 2022; Audio-MAE, Huang et
al. 2022, for one sensor): the encoder reads only what is left, a small decoder draws the rest."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jfreq import losses, masks
from jfreq.config import check
from jfreq.method import Loss, Streams, summarise
from jfreq.methods.common.sensor_spectra import (
    Place,
    Plane,
    Spectra,
    SpectraMethod,
    cell_weights,
    example,
    from_tokens,
    inside_tokens,
    side_by_side,
    spectra,
    to_tokens,
)
from jfreq.nn.aape import AaPE, AliasBranch
from jfreq.nn.apply import apply
from jfreq.nn.heads import trunc_normal
from jfreq.nn.vit import SIZES, ViT
from jfreq.ops.gather import restore_tokens, take_entries, take_tokens
from jfreq.ops.patch import unpatchify
from jfreq.ops.posemb import sincos_tokens
from jfreq.ranges import Between, checked
from jfreq.types import Array, Batch, Features, Mask, PyTree, Reconstruction, TokenGrid

xavier = nn.initializers.xavier_uniform()
"""Of every map outside the blocks, as released with the image recipe: patches and positions have to
be of one size."""
Masks: TypeAlias = dict[str, Mask]


@checked
class MAE(SpectraMethod):
    """Patches of every sensor in one sequence; masked ones are dropped before the encoder."""

    mask_ratio: Between = 0.75
    mask_kind: Literal["random", "time", "frequency"] = "random"
    embed: Literal["plain", "aape"] = "plain"
    """How patches become tokens: a linear map; or with it a branch that measures the modulations
    which patches of several frames fold, set up by ``aape``."""
    aape: AaPE = AaPE()
    encoder: ViT = SIZES["tiny"]
    decoder: ViT = ViT(width=96, depth=2, heads=3)
    norm_patch: bool = False
    """Targets with zero mean and unit variance in every patch, as in the image recipe; it makes
    faint patches, which are noise, as heavy as loud ones."""
    pool: Literal["freq", "modality", "mean"] = "freq"
    """Clip vector: means over time of every frequency row of every sensor, side by side; means over
    all tokens of each sensor; or over all tokens."""

    def __post_init__(self):
        for name in ("encoder", "decoder"):
            check(
                getattr(self, name).width % 4 == 0,
                f"method.{name}.width",
                "must be a multiple of 4, for positions",
            )
            check(
                getattr(self, name).bias is None,
                f"method.{name}.bias",
                "the tokens of several sensors lie on no one grid; set it to None",
            )
        super().__post_init__()
        if self.bound:
            for name, plane in self.planes.items():
                n = math.prod(plane.tokens)
                if self.embed == "aape":
                    self.aape.check(plane.tokens[0] * plane.patch[0], plane.patch[0])
                check(
                    1 <= self.kept(plane) < n,
                    "method.mask_ratio",
                    f"{self.mask_ratio} of {n} tokens of {name!r} leaves "
                    f"{self.kept(plane)}; one must be left and one masked",
                )
                if self.mask_kind != "random":
                    masks.check_count(self.mask_kind, plane_grid(plane), n - self.kept(plane))

    def kept(self, plane: Plane) -> int:
        """Tokens of a sensor that stay visible."""
        n = math.prod(plane.tokens)
        line = {"time": plane.tokens[1], "frequency": plane.tokens[0]}.get(self.mask_kind, 1)
        return n - max(line, round(self.mask_ratio * n / line) * line)

    @property
    def grid(self) -> TokenGrid:
        """All sensors' tokens of a moment side by side on the frequency axis."""
        return self.time_grid(freq=sum(p.tokens[1] for p in self.planes.values()))

    # ------------------------------------------------------------------ the paper

    def init(self, key: Array) -> PyTree:
        planes = self.planes
        patches = {
            name: to_tokens(x, planes[name], planes[name].tokens)
            for name, x in example(self).items()
        }
        drop = {
            name: masks.random(key, 1, plane_grid(p), math.prod(p.tokens) - 1)
            for name, p in planes.items()
        }
        valid = {name: jnp.ones(x.shape[:2], bool) for name, x in patches.items()}
        return _Net(self).init(key, patches, drop, valid)["params"]

    def loss(self, params, target, batch: Batch, rngs: Streams, step) -> Loss:
        del target
        found = spectra(self, batch)
        return self.loss_under(params, batch, found, self.sample_masks(rngs("mask"), found), rngs)

    def loss_under(
        self, params: PyTree, batch: Batch, found: dict[str, Spectra], drop: Masks, rngs: Streams
    ) -> Loss:
        """The loss of a batch, whose spectra were ``found``, under masks."""
        patches, valid = self._patches_of(found)
        out = apply(_Net(self), params, patches, drop, valid, train=True, dropout=rngs("dropout"))
        values = {}
        for name, plane in self.planes.items():
            ids = drop[name].masked
            truth = take_tokens(patches[name], ids)
            counts = take_entries(valid[name], ids)
            cells = cell_weights(plane, plane.tokens, plane.real_cells(plane.tokens))
            weight = jnp.asarray(cells)[ids] * counts[..., None]
            if self.norm_patch:
                truth = losses.unit_patches(truth)
            values[name] = losses.weighted_mse(take_tokens(out[name], ids), truth, weight)
        present = {name: found[name].present for name in self.planes}
        values["loss"] = losses.mean_present(values, present)
        return summarise(values, batch)

    def encode(self, params, batch: Batch) -> Features:
        return self._features(params, batch)

    def forward(self, params, batch: Batch, rngs: Streams) -> Features:
        """With the encoder's dropout."""
        return self._features(params, batch, rngs("dropout"))

    def _features(self, params: PyTree, batch: Batch, dropout: Array | None = None) -> Features:
        patches, valid = self._patches_of(spectra(self, batch))
        everywhere = joined(self, valid)

        def forward(module: _Trunk, *, train: bool):
            tokens = module.embed(patches, valid)
            return module.encode(joined(self, tokens), everywhere, layers=True, train=train)

        states, layers = apply(
            _Trunk(self),
            params["trunk"],
            method=forward,
            train=dropout is not None,
            dropout=dropout,
        )
        clip = clip_vector(self, states, everywhere)
        return Features(states, self.grid, clip, everywhere, layers)

    def reconstruct(self, params, batch: Batch, rngs: Streams) -> Reconstruction:
        found = spectra(self, batch)
        return self.reconstruct_under(params, found, self.sample_masks(rngs("mask"), found))

    def reconstruct_under(
        self, params: PyTree, found: dict[str, Spectra], drop: Masks
    ) -> Reconstruction:
        """What the decoder puts in place of the masked patches of spectra."""
        patches, valid = self._patches_of(found)
        out = apply(_Net(self), params, patches, drop, valid)
        hidden, planes_drawn = {}, {}
        for name, p in self.planes.items():
            shape = patches[name].shape
            veil = jnp.broadcast_to(drop[name].is_masked[..., None], shape).astype(jnp.float32)
            hidden[name] = from_tokens(veil, p, p.tokens)[..., 0] > 0
            planes_drawn[name] = from_tokens(out[name], p, p.tokens)
        return side_by_side(self, found, hidden, planes_drawn)

    # ------------------------------------------------------------------ its masks

    def sample_masks(self, key: Array, found: dict[str, Spectra]) -> Masks:
        """Masks by sensor, with static counts."""
        planes = self.planes
        keys = jax.random.split(key, len(planes))
        return {
            name: masks.sample(
                k,
                found[name].x.shape[0],
                plane_grid(p),
                math.prod(p.tokens) - self.kept(p),
                kind=self.mask_kind,
            )
            for k, (name, p) in zip(keys, planes.items())
        }

    @property
    def mask_units(self) -> dict[str, Place]:
        """What a mask chooses among: patches, by sensor."""
        return {name: Place(p, p.patch, p.tokens) for name, p in self.planes.items()}

    def of_units(self, chosen: Masks) -> Masks:
        """Masks over ``mask_units`` as :meth:`loss_under` takes them."""
        return chosen

    def _patches_of(self, found: dict[str, Spectra]) -> tuple[dict[str, Array], dict[str, Array]]:
        """Patches ``[b n p]`` and whether they hold signal ``[b n]``, by sensor."""
        planes = self.planes.items()
        x = {name: to_tokens(found[name].x, p, p.tokens) for name, p in planes}
        return x, {name: inside_tokens(found[name], p, p.tokens) for name, p in planes}


def plane_grid(plane: Plane) -> TokenGrid:
    """The lattice of one sensor's tokens, time-major."""
    return TokenGrid(*plane.tokens, order="time_major")


# ------------------------------------------------------------------ the network


class _PatchEmbed(nn.Module):
    """A linear map for every sensor, whose bias tells it from the others, and fixed positions."""

    cfg: MAE

    @nn.compact
    def __call__(
        self, patches: dict[str, Array], valid: dict[str, Array], visible: dict[str, Array] | None
    ) -> dict[str, Array]:
        """``valid``, ``visible`` ``[b n]`` by sensor: as in ``AliasBranch``."""
        cfg, out = self.cfg, {}
        width = cfg.encoder.width
        for name, plane in cfg.planes.items():
            x = nn.Dense(width, kernel_init=xavier, name=name)(patches[name])
            if cfg.embed == "aape":
                patch, grid = plane.patch, plane_grid(plane)
                spec = unpatchify(patches[name], grid=plane.tokens, patch=patch, order=grid.order)
                branch = AliasBranch(cfg.aape, patch, patch, grid, name=f"alias_{name}")
                shown = None if visible is None else visible[name]
                x = branch(spec, x, valid=valid[name], visible=shown)
            out[name] = x + sincos_tokens(plane_grid(plane), width)[None]
        return out


class _Trunk(nn.Module):
    """``embed`` the patches of every sensor; ``encode`` any of their tokens in context."""

    cfg: MAE

    def setup(self):
        self.patch_embed = _PatchEmbed(self.cfg)
        self.encoder = self.cfg.encoder.build()

    def embed(
        self,
        patches: dict[str, Array],
        valid: dict[str, Array],
        visible: dict[str, Array] | None = None,
    ) -> dict[str, Array]:
        return self.patch_embed(patches, valid, visible)

    def encode(self, tokens: Array, valid: Array, *, layers: bool = False, train: bool = False):
        return self.encoder(tokens, grid=self.cfg.grid, valid=valid, layers=layers, train=train)


class _Decoder(nn.Module):
    """Visible states and mask tokens of all sensors through a few blocks, drawn by sensor."""

    cfg: MAE

    @nn.compact
    def __call__(
        self, states: Array, drop: Masks, valid: dict[str, Array], *, train: bool = False
    ) -> dict[str, Array]:
        cfg = self.cfg
        width, planes = cfg.decoder.width, cfg.planes
        states = nn.Dense(width, kernel_init=xavier, name="embed")(states)
        token = self.param("mask_token", trunc_normal, (width,))
        sensor = self.param("modality", trunc_normal, (len(planes), width))
        edges = np.cumsum([drop[name].visible.shape[1] for name in planes])[:-1]
        full = []
        for i, (name, kept) in enumerate(zip(planes, jnp.split(states, edges, axis=1))):
            rows, hidden = drop[name].masked.shape
            gaps = jnp.broadcast_to(token[None, None], (rows, hidden, width))
            x = restore_tokens(jnp.concatenate([kept, gaps], axis=1), drop[name].restore)
            place = sincos_tokens(plane_grid(planes[name]), width)
            full.append(x + sensor[None, None, i] + place[None])
        grid = TokenGrid(sum(x.shape[1] for x in full))
        x, _ = cfg.decoder.build("encoder")(
            jnp.concatenate(full, axis=1),
            grid=grid,
            train=train,
            valid=jnp.concatenate([valid[name] for name in planes], axis=1),
        )
        edges = np.cumsum([part.shape[1] for part in full])[:-1]
        return {
            name: nn.Dense(planes[name].size, kernel_init=xavier, name=f"draw_{name}")(part)
            for name, part in zip(planes, jnp.split(x, edges, axis=1))
        }


class _Net(nn.Module):
    cfg: MAE

    def setup(self):
        self.trunk = _Trunk(self.cfg)
        self.decoder = _Decoder(self.cfg)

    def __call__(
        self,
        patches: dict[str, Array],
        drop: Masks,
        valid: dict[str, Array],
        *,
        train: bool = False,
    ) -> dict[str, Array]:
        """Drawn patches ``[b n p]`` of every sensor."""
        visible = {name: ~drop[name].is_masked for name in drop}
        tokens = self.trunk.embed(patches, valid, visible)
        left = [take_tokens(tokens[name], drop[name].visible) for name in self.cfg.planes]
        seen = [take_entries(valid[name], drop[name].visible) for name in self.cfg.planes]
        left, seen = jnp.concatenate(left, axis=1), jnp.concatenate(seen, axis=1)
        states, _ = self.trunk.encode(left, seen, train=train)
        return self.decoder(states, drop, valid, train=train)


# ------------------------------------------------------------------ the clip vector


def joined(cfg: MAE, parts: dict[str, Array]) -> Array:
    """``[b n ...]`` by sensor to one axis in the order of ``cfg.grid``."""
    planes = [
        parts[name].reshape(-1, *p.tokens, *parts[name].shape[2:]) for name, p in cfg.planes.items()
    ]
    x = jnp.concatenate(planes, axis=2)
    return x.reshape(x.shape[0], cfg.grid.size, *x.shape[3:])


def clip_vector(cfg: MAE, states: Array, valid: Array) -> Array:
    """``[b d]``: means over tokens with signal; zeros for an absent sensor. ``valid`` ``[b n]``."""
    grid, width = cfg.grid, states.shape[-1]
    rows = {
        "freq": [1] * grid.freq,
        "mean": [grid.freq],
        "modality": [p.tokens[1] for p in cfg.planes.values()],
    }[cfg.pool]
    weight = valid[..., None].astype(states.dtype)
    lattices = (
        x.reshape(-1, grid.time, grid.freq, x.shape[-1]).sum(1) for x in (states * weight, weight)
    )
    # Sums of neighbouring rows: [b f d] to [b parts d].
    which = np.repeat(np.arange(len(rows)), rows)
    share = (which[None] == np.arange(len(rows))[:, None]).astype(np.float32)
    total, count = (jnp.einsum("pf,bfd->bpd", share, x) for x in lattices)
    return (total / jnp.maximum(count, 1.0)).reshape(-1, len(rows) * width)
