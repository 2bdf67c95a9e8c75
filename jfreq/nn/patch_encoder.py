"""The trunk of every spectrogram transformer: patches, positions, special tokens, encoder."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jfreq.nn.aape import AaPE, AliasBranch
from jfreq.nn.heads import normal, torch_bias, torch_kernel, torch_linear, trunc_normal
from jfreq.nn.vit import Layers
from jfreq.ops import patch as patches
from jfreq.ops.posemb import sincos_tokens
from jfreq.types import Mask, TokenGrid


class InitialValues(NamedTuple):
    """Initialisers of what a trunk has beside its encoder."""

    patches: nn.initializers.Initializer = torch_kernel
    tokens: nn.initializers.Initializer = trunc_normal
    """Special tokens and registers."""
    positions: nn.initializers.Initializer = trunc_normal


SSAST_VALUES = InitialValues(tokens=normal, positions=normal)
"""As released with AST and SSAST."""
EAT_VALUES = InitialValues(
    patches=nn.initializers.xavier_uniform(), tokens=nn.initializers.normal(1.0)
)
"""As released with EAT, whose positions are fixed."""


def released_sines(key, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """The sines that Audio-MAE starts from, as a table ``[f t d]``; zeros ``[s d]`` for special
    tokens.

    The released code makes the table for ``f`` rows of ``t`` patches and reads it in the order of
    its tokens, ``t`` rows of ``f``: patch ``(t, f)`` has the sines of the ``(t * freq + f)``-th
    place of a grid of ``freq x time``.
    """
    del key
    if len(shape) == 2:
        return jnp.zeros(shape, dtype)
    freq, time, width = shape
    turned = TokenGrid(time=freq, freq=time, order="time_major")
    table = sincos_tokens(turned, width).reshape(time, freq, width)
    return jnp.asarray(table.transpose(1, 0, 2), dtype)


AUDIOMAE_VALUES = InitialValues(
    patches=nn.initializers.xavier_uniform(), tokens=normal, positions=released_sines
)
"""As released with Audio-MAE."""


class PatchEmbed(nn.Module):
    """A linear map of every ``patch`` at ``stride``, both (time, freq), in the order of
    ``grid``."""

    patch: tuple[int, int]
    stride: tuple[int, int]
    width: int
    grid: TokenGrid
    initial: InitialValues = InitialValues()

    @nn.compact
    def __call__(self, spec: Float[Array, "b t f c"]) -> Float[Array, "b n d"]:
        size = self.patch[0] * self.patch[1] * spec.shape[-1]
        kernel = self.param("kernel", self.initial.patches, (size, self.width))
        bias = self.param("bias", torch_bias(size), (self.width,), jnp.float32)
        tokens = patches.embed_patches(
            spec, kernel, patch=self.patch, stride=self.stride, order=self.grid.order
        )
        return tokens + bias[None, None]


class NormedPatchEmbed(nn.Module):
    """Two linear maps of every patch with a layer norm between them, the first to ``inner`` numbers
    and without a bias (BEATs); patches do not overlap. The initial values are torch's."""

    patch: tuple[int, int]
    inner: int
    width: int
    grid: TokenGrid

    @nn.compact
    def __call__(self, spec: Float[Array, "b t f c"]) -> Float[Array, "b n d"]:
        size = self.patch[0] * self.patch[1] * spec.shape[-1]
        kernel = self.param("kernel", torch_kernel, (size, self.inner))
        tokens = patches.embed_patches(
            spec, kernel, patch=self.patch, stride=self.patch, order=self.grid.order
        )
        tokens = nn.LayerNorm(epsilon=1e-5, name="norm")(tokens)
        return torch_linear(self.width, tokens, "proj")


class Positions(nn.Module):
    """Positions of the special tokens and of the patches.

    ``learned``: a table ``grid`` ``[f t d]``, and ``special`` ``[s d]``, a vector for every special
    token; ``sincos``: fixed sines of both axes, and none for special tokens (EAT); ``none``: none.
    """

    grid: TokenGrid
    special: int
    width: int
    kind: Literal["learned", "sincos", "none"] = "learned"
    initial: InitialValues = InitialValues()

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "s d"] | None, Float[Array, "n d"] | None]:
        if self.kind == "none":
            return None, None
        if self.kind == "sincos":
            return None, jnp.asarray(sincos_tokens(self.grid, self.width))
        shape = (self.grid.freq, self.grid.time, self.width)
        table = self.param("grid", self.initial.positions, shape)
        if self.grid.order == "time_major":
            table = table.transpose(1, 0, 2)
        table = table.reshape(self.grid.size, self.width)
        if not self.special:
            return None, table
        return self.param("special", self.initial.positions, (self.special, self.width)), table


Encoded: TypeAlias = tuple[
    Float[Array, "b s d"], Float[Array, "b n d"], Float[Array, "l b n d"] | None
]


class SpectrogramTrunk(nn.Module):
    """``embed`` turns a spectrogram into tokens; ``encode`` gives context to all of them, or to the
    visible ones."""

    patch: tuple[int, int]
    stride: tuple[int, int]
    grid: TokenGrid
    special: int
    encoder_cfg: Any
    alias_cfg: AaPE | None = None
    """Config of the branch that measures what patches alias; None: the plain embedding alone."""
    position_kind: Literal["learned", "sincos", "none"] = "learned"
    registers: int = 0
    """Learned tokens without a position whose states are not read (Darcet et al. 2024, section
    2.2)."""
    initial: InitialValues = InitialValues()
    patch_width: int | None = None
    """Numbers between the two maps of :class:`NormedPatchEmbed`; None: one map embeds a patch."""

    def setup(self):
        width, initial = self.encoder_cfg.width, self.initial
        if self.patch_width is None:
            self.patch_embed = PatchEmbed(self.patch, self.stride, width, self.grid, initial)
        else:
            self.patch_embed = NormedPatchEmbed(self.patch, self.patch_width, width, self.grid)
        if self.alias_cfg is not None:
            self.alias = AliasBranch(self.alias_cfg, self.patch, self.stride, self.grid)
        self.positions = Positions(self.grid, self.special, width, self.position_kind, initial)
        if self.special:
            shape = (self.special, width)
            self.special_tokens = self.param("special_tokens", initial.tokens, shape)
        if self.registers:
            shape = (self.registers, width)
            self.register_tokens = self.param("register_tokens", initial.tokens, shape)
        self.encoder = self.encoder_cfg.build()

    def embed(
        self,
        spec: Float[Array, "b t f c"],
        *,
        valid: Bool[Array, "b n"] | None = None,
        visible: Bool[Array, "b n"] | None = None,
    ) -> Float[Array, "b n d"]:
        """Tokens without positions; ``valid`` and ``visible`` as in :class:`AliasBranch`. A plain
        embedding treats each patch alone and uses neither."""
        tokens = self.patch_embed(spec)
        if self.alias_cfg is None:
            return tokens
        return self.alias(spec, tokens, valid=valid, visible=visible)

    def embed_under(self, spec: Float[Array, "b t f c"], mask: Mask) -> Float[Array, "r n d"]:
        """Tokens without positions under ``mask``, which has the clones of a clip side by side.
        Where tokens depend on what is masked there is a row for each clone, else for each clip."""
        if self.alias_cfg is None or self.alias_cfg.context != "masked":
            return self.embed(spec)
        clones = mask.visible.shape[0] // spec.shape[0]
        return self.embed(jnp.repeat(spec, clones, axis=0), visible=~mask.is_masked)

    def encode(
        self,
        tokens: Float[Array, "b k d"],
        *,
        ids: Int[Array, "b k"] | None = None,
        valid: Bool[Array, "b k"] | None = None,
        layers: Layers = False,
        train: bool = False,
    ) -> Encoded:
        """States of the special tokens and of the patch tokens, and states of the layers.

        Args:
            tokens: From :meth:`embed`.
            ids: Grid positions of ``tokens`` where these are not the whole grid.
            valid: Tokens that are not valid are not attended to.
            layers: Which states of the blocks to return.
            train: Turns dropout on and needs the ``dropout`` key.
        """
        special, table = self.positions()
        if table is not None:
            tokens = tokens + (table[None] if ids is None else jnp.take(table, ids, axis=0))
        first = []
        if self.special:
            first = [self.special_tokens if special is None else self.special_tokens + special]
        if self.registers:
            first.append(self.register_tokens)
        extra = self.special + self.registers
        if extra:
            tokens, valid = _with_first(jnp.concatenate(first), tokens, valid)
        x, states = self.encoder(
            tokens, grid=self.grid, ids=ids, special=extra, valid=valid, layers=layers, train=train
        )
        states = None if states is None else states[:, :, extra:]
        return x[:, : self.special], x[:, extra:], states


def _with_first(
    first: Float[Array, "s d"], tokens: Float[Array, "b k d"], valid: Bool[Array, "b k"] | None
) -> tuple[Float[Array, "b n d"], Bool[Array, "b n"] | None]:
    """The ``tokens`` of every row after ``first``, which are valid."""
    b, s = tokens.shape[0], first.shape[0]
    first = jnp.broadcast_to(first[None], (b, s, tokens.shape[-1]))
    if valid is not None:
        valid = jnp.concatenate([jnp.ones((b, s), bool), valid], axis=1)
    return jnp.concatenate([first, tokens], axis=1), valid
