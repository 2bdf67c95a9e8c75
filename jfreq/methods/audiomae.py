"""Audio-MAE: a masked autoencoder on log-mel patches, with a decoder of local attention (Huang et
al., Masked Autoencoders that Listen, NeurIPS 2022, arXiv 2207.06405)."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from jfreq import augment, losses, masks
from jfreq.config import check, replace
from jfreq.method import Loss, Streams, summarise
from jfreq.methods.common.augmentation import with_waveform
from jfreq.methods.common.patches import PatchMethod
from jfreq.nn.apply import apply
from jfreq.nn.convnext import ConvNeXt
from jfreq.nn.patch_encoder import AUDIOMAE_VALUES, InitialValues, Positions
from jfreq.nn.vit import INITIAL, ViT
from jfreq.nn.window_decoder import WindowDecoder
from jfreq.ops.gather import masked_tokens, restore_tokens, take_tokens, visible_tokens
from jfreq.ops.patch import patchify, unpatchify
from jfreq.ops.scale import pcm_to_float
from jfreq.ranges import BelowOne, Between, Whole, checked
from jfreq.types import Array, Batch, DataSpec, InputError, Mask, PyTree, Reconstruction


@checked
class AudioMAE(PatchMethod):
    """The encoder reads the visible fifth of the patches, a decoder reconstructs the others.

    The defaults are those of the paper's ViT-B: of 64 x 8 patches 102 are visible.
    """

    released_values: ClassVar[InitialValues] = AUDIOMAE_VALUES
    released_blocks: ClassVar[Literal["normal", "xavier"]] = "xavier"

    order: Literal["freq_major", "time_major"] = "time_major"
    special_tokens: Whole = 1
    positions: Literal["learned", "sincos"] = "sincos"
    encoder: ViT | ConvNeXt = ViT()
    initial: Literal["cut", "released"] = "released"
    mask_ratio: Between = 0.8
    mask_axes: tuple[BelowOne, BelowOne] | None = None
    """Masks whole columns of time and whole rows of frequency in place of single patches: which
    fraction of either, (time, freq). ``mask_ratio`` does not count then."""
    decoder: WindowDecoder | ViT = WindowDecoder()
    """``WindowDecoder``: attention in windows (16 blocks of width 512); ``ViT``: between all
    patches (published: 8 blocks of width 512, 16 heads)."""
    norm_patch: bool = True
    """Standardise the targets of every patch."""
    gain: bool = False
    """Multiply every clip by a factor between 0.5 and 1.5, Beta(10, 10) + 0.5, while training."""

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.encoder, ViT):
            raise InputError("method.encoder: must be a ViT, which can read a part of the tokens")
        check(
            self.decoder.width % 4 == 0,
            "method.decoder.width",
            f"must be a multiple of 4, for sines as positions, got {self.decoder.width}",
        )
        if self.bound and self.mask_axes is None:
            self.check_visible(self.mask_ratio, self.visible)
        elif self.bound:
            time, freq = self.visible_lines
            size = (self.grid.time, self.grid.freq)
            check(
                min(time, freq) >= 1 and (time, freq) != size,
                "method.mask_axes",
                f"{self.mask_axes} of {size[0]} x {size[1]} patches leaves {time} x {freq} "
                "visible; one line of each axis must be visible and one masked",
            )

    @property
    def visible(self) -> int:
        """Visible patches of a clip, rounded down as released."""
        if self.mask_axes is None:
            return int(self.grid.size * (1 - self.mask_ratio))
        time, freq = self.visible_lines
        return time * freq

    @property
    def visible_lines(self) -> tuple[int, int]:
        """Visible columns and rows where whole lines are masked, rounded down as released."""
        time, freq = self.mask_axes or (0.0, 0.0)
        return int(self.grid.time * (1 - time)), int(self.grid.freq * (1 - freq))

    def bind(self, spec: DataSpec) -> Self:
        cfg = super().bind(spec)
        cfg.check_no_overlap()
        return cfg

    # ------------------------------------------------------------------ the paper

    def init(self, key: Array) -> PyTree:
        mask = self.sample_mask(key, 1)
        return _Net(self).init(key, self.geometry.example, mask)["params"]

    def loss(self, params, target, batch: Batch, rngs: Streams, step) -> Loss:
        """The squared error of the masked patches (section 3)."""
        del target, step
        batch = self.with_spectrogram(self._louder(batch, rngs) if self.gain else batch)
        spec = batch["spectrogram"]
        mask = self.sample_mask(rngs("mask"), spec.shape[0])
        predicted = apply(_Net(self), params, spec, mask, train=True, dropout=rngs("dropout"))
        truth = take_tokens(self.patches(spec), mask.masked)
        truth = losses.standardise_patches(truth) if self.norm_patch else truth
        error = losses.mse(predicted, jax.lax.stop_gradient(truth))
        return summarise({"loss": error}, batch)

    def validation_loss(self, params, target, batch: Batch, rngs: Streams, step) -> Loss:
        """Without ``gain``."""
        return replace(self, gain=False).loss(params, target, batch, rngs, step)

    def reconstruct(self, params, batch: Batch, rngs: Streams) -> Reconstruction:
        """Where targets are standardised, predicted patches get the mean and the variance of the
        true ones, which the loss leaves open."""
        spec = self.with_spectrogram(batch)["spectrogram"]
        mask = self.sample_mask(rngs("mask"), spec.shape[0])
        patches, predicted = self.patches(spec), apply(_Net(self), params, spec, mask)
        if self.norm_patch:
            predicted = losses.like_patches(predicted, take_tokens(patches, mask.masked))
        tokens = jnp.concatenate([take_tokens(patches, mask.visible), predicted], axis=1)
        geometry = self.geometry
        cells = unpatchify(
            restore_tokens(tokens, mask.restore),
            grid=(self.grid.time, self.grid.freq),
            patch=geometry.patch,
            order=self.order,
        )
        return Reconstruction(spec, self.masked_cells(mask), cells)

    def _louder(self, batch: Batch, rngs: Streams) -> Batch:
        name = self.geometry.signal.name
        wave = augment.change_gain(rngs("gain"), pcm_to_float(batch[name]))
        return with_waveform(batch, name, wave)

    # ------------------------------------------------------------------ masks and patches

    def sample_mask(self, key: Array, rows: int) -> Mask:
        """Masks of ``rows`` clips."""
        if self.mask_axes is None:
            return masks.random(key, rows, self.grid, self.grid.size - self.visible)
        return masks.axes(key, rows, self.grid, self.visible_lines)

    def patches(self, spec: Array) -> Array:
        """The patches ``[b n p]`` of spectrograms ``[b t f c]``."""
        return patchify(spec, patch=self.geometry.patch, order=self.order)


# ------------------------------------------------------------------ the network


class _Net(nn.Module):
    """Trunk and decoder."""

    cfg: AudioMAE

    def setup(self):
        self.trunk = self.cfg.trunk
        self.decoder = _Decoder(self.cfg)

    def __call__(self, spec: Array, mask: Mask, *, train: bool = False) -> Array:
        """Predictions ``[b m p]`` of the masked patches."""
        tokens = visible_tokens(self.trunk.embed_under(spec, mask), mask)
        special, states, _ = self.trunk.encode(tokens, ids=mask.visible, train=train)
        return self.decoder(special, states, mask, train=train)


class _Decoder(nn.Module):
    """The visible states and mask tokens in their places, blocks, and a linear map.

    Attention of all patches (``ViT``) reads the states of the special tokens too; windows have no
    place for them.
    """

    cfg: AudioMAE

    @nn.compact
    def __call__(self, special: Array, states: Array, mask: Mask, *, train: bool = False) -> Array:
        cfg, released = self.cfg, self.cfg.initial == "released"
        blocks = replace(cfg.decoder, initial="xavier") if released else cfg.decoder
        values = cfg.released_values if released else InitialValues()
        init, width = INITIAL[blocks.initial], blocks.width
        local = isinstance(blocks, WindowDecoder)

        embed = nn.Dense(width, kernel_init=init, name="embed")
        token = self.param("mask_token", values.tokens, (1, width))
        tokens = jnp.broadcast_to(token[None], (*mask.masked.shape, width))
        x = restore_tokens(jnp.concatenate([embed(states), tokens], axis=1), mask.restore)
        count = 0 if local else cfg.special_tokens
        places = Positions(cfg.grid, count, width, cfg.positions, values, name="positions")
        first, table = places()
        assert table is not None  # every kind of positions that it has is a table
        x = x + table[None]
        if local:
            x = blocks.build("transformer")(x, grid=cfg.grid, train=train)
        else:
            special = embed(special) if first is None else embed(special) + first[None]
            x, _ = blocks.build("transformer")(
                jnp.concatenate([special, x], axis=1), grid=cfg.grid, special=count, train=train
            )
            x = x[:, count:]
        x = masked_tokens(x, mask)
        return nn.Dense(cfg.geometry.patch_size, kernel_init=init, name="reconstruction")(x)
