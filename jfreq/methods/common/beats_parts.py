"""What BEATs and its tokenizers share: front end, patches and networks, as released in
microsoft/unilm, ``beats/`` (Chen et al., ICML 2023, arXiv 2212.09058)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import flax.linen as nn
import jax.numpy as jnp

from jfreq.frontends.fbank import Fbank
from jfreq.methods.common.patches import PatchMethod
from jfreq.nn.bias import RelativeBias
from jfreq.nn.heads import torch_linear, trunc_normal
from jfreq.nn.patch_encoder import SpectrogramTrunk
from jfreq.nn.position_conv import PositionConv
from jfreq.nn.vit import ViT
from jfreq.ops.posemb import sincos_tokens
from jfreq.ops.scale import unit
from jfreq.ranges import Size, Whole, checked
from jfreq.types import Array, Batch, DataSpec, TokenGrid

FBANK = Fbank(
    window="povey",
    remove_clip_mean=False,
    scale=2.0**15,
    beyond="silence",
    mean=15.41663,
    std=6.55582,
)
"""The released front end."""
PUBLISHED = ViT(
    eps=1e-5,
    norm="post",
    deep_norm=True,
    bias=RelativeBias(gate="query"),
    position_conv=PositionConv(),
    dropout=0.1,
    mlp_dropout=0.0,
    attention_dropout=0.1,
    initial="xavier_normal",
)
"""The transformer of all parts: ViT-B, distances in the order of the tokens (section 3.3)."""


@checked
class BEATsPatches(PatchMethod):
    """What model and tokenizer share: patches that do not overlap, in the order of time.

    By itself it is the encoder alone, parameters ``trunk``.
    """

    released_blocks: ClassVar[Literal["normal", "xavier", "xavier_normal"]] = "xavier_normal"
    frame_block: ClassVar[int] = 1
    collapse_thresholds: ClassVar[Mapping[str, float]] = {"perplexity": 2.0}
    """A tokenizer that uses fewer codes has collapsed."""

    order: Literal["freq_major", "time_major"] = "time_major"
    special_tokens: Whole = 0
    positions: Literal["learned", "sincos", "none"] = "none"
    patch_width: Size | None = 512
    """Numbers between the two linear maps that embed a patch, with a norm between them; None: one
    map embeds it."""
    encoder: ViT = PUBLISHED

    @property
    def higher_is_better(self) -> Mapping[str, bool]:
        return {**super().higher_is_better, "perplexity": True, "cosine": True, "commitment": False}

    def bind(self, spec: DataSpec) -> Self:
        bound = super().bind(spec)
        bound.check_no_overlap()
        return bound

    @property
    def trunk(self) -> SpectrogramTrunk:
        return super().trunk.clone(patch_width=self.patch_width)

    def attended_tokens(self, batch: Batch) -> Array | None:
        """As in :meth:`PatchMethod.attended_tokens`, but for the last column of patches that has a
        frame of the signal: as released, the frames are cut into as many parts as there are
        patches, and a patch is attended to where its part has a frame of the signal. For patches of
        16 x 16 of 128 bins part ``i`` has two of the sixteen frames of patch ``i``."""
        if self.padding == "attended" or "valid_frames" not in batch:
            return None
        frames, grid = batch["valid_frames"], self.grid
        first = jnp.arange(grid.size) < grid.freq
        step = max(1, frames.shape[1] // grid.size)
        # Valid frames come first, so that a part has one where its first frame is valid.
        parts = jnp.minimum(jnp.arange(grid.size) * step, frames.shape[1] - 1)
        return first[None] | jnp.take(frames, parts, axis=1)

    def read_tokens(self, batch: Batch) -> Array:
        """``[b n]`` bool: the patches that are attended to, have a code and count in the loss."""
        attended = self.attended_tokens(batch)
        rows = batch["spectrogram"].shape[0]
        return jnp.ones((rows, self.grid.size), bool) if attended is None else attended


class Quantiser(nn.Module):
    """Spectrograms to the vectors whose nearest codes a tokenizer looks for."""

    trunk: SpectrogramTrunk
    code_width: int

    def setup(self):
        self.to_code = ToCode(self.code_width)

    def __call__(self, spec: Array, valid: Array | None = None, *, train: bool = False) -> Array:
        """Vectors ``[b n d]`` of length 1 of the patches of ``spec`` ``[b t f c]``."""
        tokens = self.trunk.embed(spec, valid=valid)
        _, states, _ = self.trunk.encode(tokens, valid=valid, train=train)
        return self.to_code(states)


class ToCode(nn.Module):
    """Linear, tanh, linear, as released; the result is scaled to length 1. Float32."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.tanh(torch_linear(x.shape[-1], x, "hidden"))
        return unit(torch_linear(self.width, x, "out"))


class Predictor(nn.Module):
    """A transformer over all tokens of a grid and a linear map; with fixed sines as positions where
    the transformer has no convolution for them."""

    cfg: ViT
    out: int
    grid: TokenGrid

    @nn.compact
    def __call__(self, x: Array, valid: Array, *, train: bool = False) -> Array:
        """``[b n d]`` to ``[b n out]``; states of another width go through a linear map first."""
        width = self.cfg.width
        if x.shape[-1] != width:
            x = nn.Dense(width, kernel_init=trunc_normal, name="embed")(x)
        if self.cfg.position_conv is None:
            x = x + jnp.asarray(sincos_tokens(self.grid, width))[None]
        x, _ = self.cfg.build(name="encoder")(x, grid=self.grid, valid=valid, train=train)
        return nn.Dense(self.out, kernel_init=trunc_normal, name="out")(x)
