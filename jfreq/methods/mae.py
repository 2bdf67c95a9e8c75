"""A masked autoencoder over the spectra of several sensors (He et al. 2022; Audio-MAE, Huang et
al. 2022, for one sensor): the encoder reads the visible patches alone, a small decoder reconstructs
the masked ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jfreq import losses, masks
from jfreq.config import check
from jfreq.method import Loss, Streams, summarise
from jfreq.methods.common.sensor_spectra import SpectraMethod, Spectrogram, SpectrogramSpec
from jfreq.nn.aape import AaPE, AliasBranch
from jfreq.nn.apply import apply
from jfreq.nn.heads import trunc_normal
from jfreq.nn.vit import SIZES, ViT
from jfreq.ops.gather import (
    masked_tokens,
    restore_tokens,
    take_entries,
    take_tokens,
    visible_tokens,
)
from jfreq.ops.patch import unpatchify
from jfreq.ops.posemb import sincos_tokens
from jfreq.ranges import Between, checked
from jfreq.types import Array, Batch, Features, Mask, PyTree, Reconstruction, TokenGrid

xavier = nn.initializers.xavier_uniform()
"""Initial values of every linear map outside the blocks, as released with the image recipe:
embedded patches are then as large as their positions."""
Masks: TypeAlias = dict[str, Mask]
"""A mask for each sensor, by name."""


@checked
class MAE(SpectraMethod):
    """The patches of all sensors are one sequence, of which the encoder reads the visible part."""

    mask_ratio: Between = 0.75
    mask_kind: Literal["random", "time", "frequency"] = "random"
    embed: Literal["plain", "aape"] = "plain"
    """How patches become tokens. ``plain``: by a linear map; ``aape``: by a linear map and a
    branch, configured by ``aape``, that measures the modulations which patches of several frames
    alias."""
    aape: AaPE = AaPE()
    encoder: ViT = SIZES["tiny"]
    decoder: ViT = ViT(width=96, depth=2, heads=3)
    norm_patch: bool = False
    """Standardise the targets of every patch, as in the image recipe. Faint patches, which are
    noise, then weigh as much as loud ones."""
    pool: Literal["freq", "modality", "mean"] = "freq"
    """The clip vector. ``freq``: the means over time of every frequency row of every sensor, side
    by side; ``modality``: the mean of the tokens of every sensor, side by side; ``mean``: the mean
    of all tokens."""

    def __post_init__(self):
        for name in ("encoder", "decoder"):
            net: ViT = getattr(self, name)
            check(
                net.width % 4 == 0,
                f"method.{name}.width",
                f"must be a multiple of 4, for sines as positions, got {net.width}",
            )
            check(
                net.bias is None,
                f"method.{name}.bias",
                "the tokens of several sensors lie on no one grid; set it to None",
            )
        super().__post_init__()
        if self.bound:
            for name, spec in self.specs.items():
                if self.embed == "aape":
                    self.aape.check(spec.tokens[0] * spec.patch[0], spec.patch[0])
                visible, n = self.visible(spec), spec.grid.size
                check(
                    1 <= visible < n,
                    "method.mask_ratio",
                    f"{self.mask_ratio} of {n} tokens of {name!r} leaves {visible} visible; one "
                    "must be visible and one masked: take longer windows or another ratio",
                )
                if self.mask_kind != "random":
                    masks.check_count(self.mask_kind, spec.grid, n - visible)

    def visible(self, spec: SpectrogramSpec) -> int:
        """How many tokens of a sensor stay visible."""
        n = spec.grid.size
        line = {"time": spec.grid.freq, "frequency": spec.grid.time}.get(self.mask_kind, 1)
        return n - max(line, round(self.mask_ratio * n / line) * line)

    @property
    def grid(self) -> TokenGrid:
        """The tokens of all sensors, those of one moment side by side on the frequency axis."""
        return self.time_grid(freq=sum(spec.grid.freq for spec in self.specs.values()))

    @property
    def higher_is_better(self) -> Mapping[str, bool]:
        return {**super().higher_is_better, **dict.fromkeys(self.specs, False)}

    # ------------------------------------------------------------------ the paper

    def init(self, key: Array) -> PyTree:
        patches = self.example_patches
        mask = {
            name: masks.random(key, 1, spec.grid, spec.grid.size - 1)
            for name, spec in self.specs.items()
        }
        valid = {name: jnp.ones(x.shape[:2], bool) for name, x in patches.items()}
        return _Net(self).init(key, patches, mask, valid)["params"]

    def loss(self, params, target, batch: Batch, rngs: Streams, step) -> Loss:
        del target, step
        spectra = self.spectra(batch)
        mask = self.sample_masks(rngs("mask"), spectra)
        return self.loss_with_masks(params, batch, spectra, mask, rngs)

    def loss_with_masks(
        self,
        params: PyTree,
        batch: Batch,
        spectra: dict[str, Spectrogram],
        mask: Masks,
        rngs: Streams,
    ) -> Loss:
        """The loss of a batch, whose spectrograms are ``spectra``, under these masks."""
        patches, valid = self.patches(spectra)
        out = apply(_Net(self), params, patches, mask, valid, train=True, dropout=rngs("dropout"))
        values = {}
        for name, spec in self.specs.items():
            ids = mask[name].masked
            truth = take_tokens(patches[name], ids)
            counted = take_entries(valid[name], ids)
            cells = spec.patch_weights(spec.valid_cells)
            weight = jnp.asarray(cells)[ids] * counted[..., None]
            if self.norm_patch:
                truth = losses.standardise_patches(truth)
            values[name] = losses.weighted_mse(masked_tokens(out[name], mask[name]), truth, weight)
        present = {name: spectra[name].present for name in self.specs}
        values["loss"] = losses.mean_present(values, present)
        return summarise(values, batch)

    def features_of(self, params: PyTree, batch: Batch, dropout: Array | None = None) -> Features:
        patches, valid_patches = self.patches(self.spectra(batch))
        valid = joined(self, valid_patches)

        def forward(module: _Trunk, *, train: bool):
            tokens = module.embed(patches, valid_patches)
            return module.encode(joined(self, tokens), valid, layers=True, train=train)

        states, layers = apply(
            _Trunk(self),
            params["trunk"],
            method=forward,
            train=dropout is not None,
            dropout=dropout,
        )
        return Features(states, self.grid, clip_vector(self, states, valid), valid, layers)

    def reconstruct(self, params, batch: Batch, rngs: Streams) -> Reconstruction:
        spectra = self.spectra(batch)
        mask = self.sample_masks(rngs("mask"), spectra)
        return self.reconstruct_with_masks(params, spectra, mask)

    def reconstruct_with_masks(
        self, params: PyTree, spectra: dict[str, Spectrogram], mask: Masks
    ) -> Reconstruction:
        """The spectrograms with the masked patches as the decoder reconstructs them. Where targets
        are standardised, they get the mean and the variance of the true ones, which the loss leaves
        open."""
        patches, valid = self.patches(spectra)
        out = apply(_Net(self), params, patches, mask, valid)
        if self.norm_patch:
            out = {name: losses.like_patches(x, patches[name]) for name, x in out.items()}
        return self.reconstruction(spectra, {n: m.is_masked for n, m in mask.items()}, out)

    # ------------------------------------------------------------------ its masks

    def sample_masks(self, key: Array, spectra: dict[str, Spectrogram]) -> Masks:
        """Masks by sensor, with static counts."""
        out = {}
        for k, (name, spec) in zip(jax.random.split(key, len(self.specs)), self.specs.items()):
            rows, count = spectra[name].inputs.shape[0], spec.grid.size - self.visible(spec)
            out[name] = masks.sample(k, rows, spec.grid, count, kind=self.mask_kind)
        return out

    @property
    def mask_units(self) -> dict[str, SpectrogramSpec]:
        """The units that are masked as a whole, by sensor: patches."""
        return self.specs

    def masks_of_units(self, masks: Masks) -> Masks:
        """Masks over ``mask_units`` as :meth:`loss_with_masks` takes them."""
        return masks


# ------------------------------------------------------------------ the network


class _PatchEmbed(nn.Module):
    """A linear map of the patches of every sensor, and fixed positions. The bias of the map is what
    distinguishes the tokens of a sensor from those of others."""

    cfg: MAE

    @nn.compact
    def __call__(
        self, patches: dict[str, Array], valid: dict[str, Array], visible: dict[str, Array] | None
    ) -> dict[str, Array]:
        """Tokens ``[b n d]`` by sensor; ``valid`` and ``visible`` ``[b n]`` as in
        ``AliasBranch``."""
        cfg, out = self.cfg, {}
        width = cfg.encoder.width
        for name, spec in cfg.specs.items():
            x = nn.Dense(width, kernel_init=xavier, name=name)(patches[name])
            if cfg.embed == "aape":
                patch, grid = spec.patch, spec.grid
                cells = unpatchify(patches[name], grid=grid.shape, patch=patch, order=grid.order)
                branch = AliasBranch(cfg.aape, patch, patch, grid, name=f"alias_{name}")
                sensor_visible = None if visible is None else visible[name]
                x = branch(cells, x, valid=valid[name], visible=sensor_visible)
            out[name] = x + sincos_tokens(spec.grid, width)[None]
        return out


class _Trunk(nn.Module):
    """``embed`` turns the patches of every sensor into tokens; ``encode`` gives tokens context."""

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
    """Reconstructs all patches ``[b n p]`` by sensor: the visible states and mask tokens pass a few
    blocks, then a linear map for every sensor."""

    cfg: MAE

    @nn.compact
    def __call__(
        self, states: Array, mask: Masks, valid: dict[str, Array], *, train: bool = False
    ) -> dict[str, Array]:
        cfg = self.cfg
        width, specs = cfg.decoder.width, cfg.specs
        states = nn.Dense(width, kernel_init=xavier, name="embed")(states)
        token = self.param("mask_token", trunc_normal, (width,))
        sensor = self.param("modality", trunc_normal, (len(specs), width))
        edges = np.cumsum([mask[name].visible.shape[1] for name in specs])[:-1]
        full = []
        for i, (name, visible) in enumerate(zip(specs, jnp.split(states, edges, axis=1))):
            tokens = jnp.broadcast_to(token[None, None], (*mask[name].masked.shape, width))
            x = restore_tokens(jnp.concatenate([visible, tokens], axis=1), mask[name].restore)
            positions = sincos_tokens(specs[name].grid, width)
            full.append(x + sensor[None, None, i] + positions[None])
        x, _ = cfg.decoder.build("encoder")(
            jnp.concatenate(full, axis=1),
            grid=TokenGrid(sum(x.shape[1] for x in full)),
            train=train,
            valid=jnp.concatenate([valid[name] for name in specs], axis=1),
        )
        edges = np.cumsum([part.shape[1] for part in full])[:-1]
        return {
            n: nn.Dense(spec.patch_size, kernel_init=xavier, name=f"reconstruct_{n}")(part)
            for (n, spec), part in zip(specs.items(), jnp.split(x, edges, axis=1))
        }


class _Net(nn.Module):
    cfg: MAE

    def setup(self):
        self.trunk = _Trunk(self.cfg)
        self.decoder = _Decoder(self.cfg)

    def __call__(
        self,
        patches: dict[str, Array],
        mask: Masks,
        valid: dict[str, Array],
        *,
        train: bool = False,
    ) -> dict[str, Array]:
        """Reconstructed patches ``[b n p]`` of every sensor."""
        visible = {name: ~m.is_masked for name, m in mask.items()}
        tokens = self.trunk.embed(patches, valid, visible)
        ids = {name: mask[name].visible for name in self.cfg.specs}
        states, _ = self.trunk.encode(
            jnp.concatenate([visible_tokens(tokens[n], mask[n]) for n in ids], axis=1),
            jnp.concatenate([take_entries(valid[n], i) for n, i in ids.items()], axis=1),
            train=train,
        )
        return self.decoder(states, mask, valid, train=train)


# ------------------------------------------------------------------ the clip vector


def joined(cfg: MAE, parts: dict[str, Array]) -> Array:
    """Tokens ``[b n ...]`` by sensor on one axis, in the order of ``cfg.grid``."""
    on_grids = [
        parts[name].reshape(-1, *spec.grid.shape, *parts[name].shape[2:])
        for name, spec in cfg.specs.items()
    ]
    x = jnp.concatenate(on_grids, axis=2)
    return x.reshape(x.shape[0], cfg.grid.size, *x.shape[3:])


def clip_vector(cfg: MAE, states: Array, valid: Array) -> Array:
    """Clip vectors ``[b parts*d]``: the means of ``states`` ``[b n d]`` over time and over the
    frequency rows of every part that ``cfg.pool`` names, side by side.

    Only ``valid`` tokens ``[b n]`` count; a part without any gives zeros.
    """
    grid, width = cfg.grid, states.shape[-1]
    rows = {
        "freq": [1] * grid.freq,
        "modality": [spec.grid.freq for spec in cfg.specs.values()],
        "mean": [grid.freq],
    }[cfg.pool]
    in_part = np.repeat(np.eye(len(rows), dtype=np.float32), rows, axis=1)  # [parts freq]

    def sums(x: Array) -> Array:
        by_row = x.reshape(-1, grid.time, grid.freq, x.shape[-1]).sum(1)
        return jnp.einsum("pf,bfd->bpd", in_part, by_row)

    weight = valid[..., None].astype(states.dtype)
    total, count = sums(states * weight), sums(weight)
    return (total / jnp.maximum(count, 1.0)).reshape(-1, len(rows) * width)
