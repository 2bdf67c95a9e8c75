"""Transformer encoder over tokens, pre- or post-norm (Dosovitskiy et al. 2021; sizes of DeiT)."""

from __future__ import annotations

from typing import Literal, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from jfreq.nn.attention import SAVED, Kind, check_kind, self_attention, split_qkv
from jfreq.nn.bias import ALiBi, RelativeBias
from jfreq.nn.dense import Affine, LayerNorm, as_matrix, dense, mlp
from jfreq.nn.dropout import dropping
from jfreq.nn.heads import normal, trunc_normal
from jfreq.nn.position_conv import PositionConv
from jfreq.ranges import BelowOne, Positive, Size, checked
from jfreq.sharding import axis_size, constrain
from jfreq.types import InputError, TokenGrid

M = TypeVar("M", bound=nn.Module)
Remat = Literal["none", "dots", "full"]
Layers = bool | Literal["ffn"]
"""What an encoder returns of its blocks: False: nothing; True: the stream after each block;
``ffn``: what the MLP of each block adds to the stream (the targets of data2vec 2.0)."""


INITIAL = {
    "cut": trunc_normal,
    "normal": normal,
    "xavier": nn.initializers.xavier_uniform(),
    "xavier_normal": nn.initializers.variance_scaling(1.0, "fan_avg", "normal"),
}


@checked
class ViT:
    """Config of :class:`ViTEncoder`; the defaults are ViT-B."""

    width: Size = 768
    depth: Size = 12
    heads: Size = 12
    mlp_ratio: Positive = 4.0
    eps: Positive = 1e-6
    norm: Literal["pre", "post"] = "pre"
    """``pre``: norms before attention and MLP, one more at the end; ``post``: after each sum, and
    one more at the input (data2vec 2.0, EAT)."""
    final_norm: bool = True
    """Off: ``pre`` ends without a norm, for heads that normalise the pooled tokens."""
    deep_norm: bool = False
    """DeepNet (Wang et al. 2022, section 4; BEATs): ``post``, with the stream scaled by
    ``(2 depth)^(1/4)`` before each sum, and the initial values of the MLP and of the values and
    outputs of attention by ``(8 depth)^(-1/4)``."""
    bias: RelativeBias | ALiBi | None = None
    """What the positions of two tokens add to their score; it is 0 for special tokens."""
    position_conv: PositionConv | None = None
    """A convolution over the sequence of tokens, added to them before the first norm, tells where
    they are (BEATs, WavLM); not to special tokens. Tokens that are not valid are 0 then."""
    dropout: BelowOne = 0.0
    """Rate of dropout in training: of the tokens before the blocks, after the projection of
    attention and after both layers of the MLP (Dosovitskiy et al. 2021, appendix B.1)."""
    mlp_dropout: BelowOne | None = None
    """Rate after the first layer of the MLP; None: that of ``dropout``."""
    attention_dropout: BelowOne = 0.0
    """Rate of dropout of the weights of attention (Vaswani et al. 2017, data2vec 2.0), whose n x m
    tables are then kept for the backward pass."""
    drop_path: BelowOne = 0.0
    """Probability with which a clip skips a branch of the last block, growing linearly from 0 at
    the first (stochastic depth, Huang et al. 2016, section 3; fine-tuning of EAT and DeiT)."""
    initial: Literal["cut", "normal", "xavier", "xavier_normal"] = "cut"
    """Initial values of kernels: normal of standard deviation 0.02, ``cut`` at twice that, which
    leaves one of 0.0176, or not, as in timm and BERT; Xavier's uniform ones, as in MAE; or Xavier's
    normal ones, where queries, keys and values are maps of their own and the bias of attention is
    normal of standard deviation 0.02, as in BEATs."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the matrix products of blocks; norms and softmax stay float32."""
    stream: Literal["float32", "bfloat16"] = "float32"
    """Type of the residual stream between blocks. ``bfloat16`` halves its bytes and rounds every
    sum to 8 bits."""
    attention: Kind = "auto"
    """``auto``: XLA's; ``cudnn``: fused, GPU, bfloat16; ``splash``: fused, TPU, long clips;
    ``whole``: fused, TPU, up to 1536 tokens where the core has 128 MiB (v5e, v6e)."""
    remat: Remat = "none"
    """What the backward pass recomputes: nothing, all but matrix products and attention, or every
    block."""
    unroll: bool = False
    """Unroll the scan over blocks: longer compilation; same parameters."""

    def __post_init__(self):
        if self.width % self.heads:
            raise InputError(
                f"encoder.width: {self.width} must be a multiple of heads {self.heads}"
            )
        if self.attention == "cudnn" and self.dtype != "bfloat16":
            raise InputError("encoder.attention: cudnn wants encoder.dtype bfloat16")
        check_kind(self.attention, plain=self.bias is None and not self.attention_dropout)
        if self.norm == "post" and not self.final_norm:
            raise InputError("encoder.final_norm: only norm 'pre' has one; leave it on")
        if self.position_conv is not None and self.width % self.position_conv.groups:
            raise InputError(
                f"encoder.position_conv.groups: {self.position_conv.groups} do not divide the "
                f"width {self.width}"
            )
        if self.norm == "pre" and self.deep_norm:
            raise InputError("encoder.deep_norm: scales sums before their norm; set norm 'post'")

    @property
    def stream_scale(self) -> float:
        """What the stream is multiplied by before each sum."""
        return (2 * self.depth) ** 0.25 if self.deep_norm else 1.0

    @property
    def stem(self) -> tuple[str, ...]:
        """Patterns of the paths of its parameters before the first block."""
        parts = ("attention_bias/.*", "position_conv/.*")
        return (*parts, *(("norm/.*",) if self.norm == "post" else ()))

    @property
    def initial_scale(self) -> float:
        """Factor of the initial values of maps that are added to the stream, and of their
        inputs."""
        return (8 * self.depth) ** -0.25 if self.deep_norm else 1.0

    def build(self, name: str | None = None) -> ViTEncoder:
        return ViTEncoder(self, name=name)


SIZES = {
    "nano": ViT(width=96, depth=4, heads=3),
    "tiny": ViT(width=192, depth=12, heads=3),
    "small": ViT(width=384, depth=12, heads=6),
    "base": ViT(width=768, depth=12, heads=12),
}
"""``nano`` is ours, for tests and demonstrations; the others are DeiT's."""


class Block(nn.Module):
    """Attention, then an MLP, each added to the stream; exact GELU, biases everywhere.

    ``pre``: ``x + f(norm(x))``; ``post``: ``norm(x + f(x))``. ``train`` turns dropout on.
    """

    cfg: ViT
    train: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        valid: Bool[Array, "b n"] | None,
        bias: Float[Array, "#b h n n"] | None = None,
        drop_path: Float[Array, ""] | None = None,
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b n d"]]:
        """The stream, and what the MLP adds to it, before dropout; ``drop_path`` is the rate of
        this block."""
        cfg = self.cfg
        norms = [LayerNorm(cfg.eps, name=name) for name in ("norm1", "norm2")]
        drop = dropping(cfg.dropout, train=self.train)
        skip = dropping(0.0 if drop_path is None else drop_path, train=self.train, rows=True)

        def before(x, norm):
            return (norm(x) if cfg.norm == "pre" else x).astype(jnp.dtype(cfg.dtype))

        def add(x, y, norm):
            x = (x * cfg.stream_scale if cfg.deep_norm else x) + skip(drop(y))
            x = checkpoint_name(x, SAVED)
            return norm(x).astype(x.dtype) if cfg.norm == "post" else x

        y = self._attention(before(x, norms[0]), valid, bias)
        x = add(x, y.astype(x.dtype), norms[0])
        y = self._mlp(before(x, norms[1])).astype(x.dtype)
        return add(x, y, norms[1]), y

    def _attention(self, y: Array, valid: Array | None, bias: Array | None) -> Array:
        cfg = self.cfg
        shape = (3, cfg.heads, cfg.width // cfg.heads)
        # Of queries, keys and values, only the last are added to the stream. As one map they have
        # half of the variance that Xavier gives to each.
        size = 2**0.5 if cfg.initial == "xavier_normal" else 1.0
        init = scaled(cfg, np.repeat([size, size, size * cfg.initial_scale], cfg.width))
        params = Affine((cfg.width,), shape, init, name="qkv")()
        # The kernel for whole rows takes what one product of flat rows writes.
        flat = cfg.attention == "whole" and axis_size("tensor") == 1
        qkv = checkpoint_name(dense(y, as_matrix(params) if flat else params), SAVED)
        qkv = qkv.reshape(*y.shape[:2], *shape)
        if bias is not None and cfg.bias is not None and cfg.bias.gate != "none":
            q = split_qkv(qkv)[0]
            bias = bias * self._gate(q if cfg.bias.gate == "query" else y.reshape(q.shape))
        drop = None
        if self.train and cfg.attention_dropout:
            drop = dropping(cfg.attention_dropout, train=True)
        y = self_attention(qkv, valid=valid, bias=bias, drop=drop, kind=cfg.attention)
        init = scaled(cfg, cfg.initial_scale)
        params = Affine(shape[1:], (cfg.width,), init, name="proj")()
        return dense(y.reshape(*y.shape[:2], -1), as_matrix(params)) if flat else dense(y, params)

    def _gate(self, x: Float[Array, "b n h k"]) -> Float[Array, "b h n 1"]:
        """``2 + a (s c - 1)``: gates ``a`` and ``c`` in (0, 1) of each query, ``s`` of each head;
        ``a`` is one less the update gate of the paper (Chen et al. 2022, WavLM, section III-A)."""
        # Released: sums of four outputs of a map, each of standard deviation 0.02.
        released = self.cfg.initial == "xavier_normal"
        init = nn.initializers.normal(0.04) if released else trunc_normal
        gates = nn.Dense(2, kernel_init=init, name="gate")(x.astype(jnp.float32))
        a, c = jnp.moveaxis(nn.sigmoid(gates), -1, 0)
        scale = self.param("gate_scale", nn.initializers.ones, (self.cfg.heads,))
        return (2 + a * (scale[None, None] * c - 1)).swapaxes(1, 2)[..., None]

    def _mlp(self, y: Array) -> Array:
        cfg = self.cfg
        init = scaled(cfg, cfg.initial_scale)
        hidden = round(cfg.width * cfg.mlp_ratio)
        first = Affine((cfg.width,), (hidden,), init, name="fc1")()
        second = Affine((hidden,), (cfg.width,), init, name="fc2")()
        rate = cfg.dropout if cfg.mlp_dropout is None else cfg.mlp_dropout
        drop = dropping(rate, train=True) if self.train and rate else None
        return mlp(y, first, second, drop)


class ViTEncoder(nn.Module):
    """``cfg.depth`` blocks with stacked parameters ``[l ...]``, a ``norm`` after them (``pre``) or
    before them (``post``), and one ``attention_bias`` for all of them."""

    cfg: ViT

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        *,
        grid: TokenGrid,
        ids: Int[Array, "b k"] | None = None,
        special: int = 0,
        valid: Bool[Array, "b n"] | None = None,
        layers: Layers = False,
        train: bool = False,
    ) -> tuple[Float[Array, "b n d"], Float[Array, "l b n d"] | None]:
        """Encoded tokens and, if asked for, :data:`Layers`.

        Args:
            x: Tokens, the ``special`` ones first.
            grid: Grid of the other tokens, which only a bias needs.
            ids: Their positions on it; None: all of it.
            special: Number of tokens without a position.
            valid: Tokens that are not valid are not attended to.
            layers: Which states of the blocks to return.
            train: Turns dropout on and needs the ``dropout`` key.

        Raises:
            InputError: For tokens whose positions a bias cannot know.
        """
        cfg = self.cfg
        self._check_places(x.shape[1], grid, ids, special)
        x = self._with_positions(x, grid, ids, special, valid)
        bias = self._bias(grid, ids, special)
        rates = None
        if train and cfg.drop_path:
            rates = jnp.linspace(0.0, cfg.drop_path, cfg.depth)

        def body(module, carry, rate):
            carry, added = module(constrain(carry), valid, bias, rate)
            return carry, (added if layers == "ffn" else carry if layers else None)

        stack = nn.scan(
            body,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            length=cfg.depth,
            unroll=cfg.depth if cfg.unroll else 1,
        )
        norm = LayerNorm(cfg.eps, name="norm")
        x = norm(x) if cfg.norm == "post" else x
        x = dropping(cfg.dropout, train=train)(x)
        blocks, dtype = recomputed(Block, cfg.remat)(cfg, train, name="blocks"), x.dtype
        x, states = stack(blocks, x.astype(jnp.dtype(cfg.stream)), rates)
        return (norm(x) if cfg.norm == "pre" and cfg.final_norm else x).astype(dtype), states

    def _check_places(self, tokens: int, grid: TokenGrid, ids: Array | None, special: int) -> None:
        """Raises ``InputError`` for tokens whose positions a bias or a convolution cannot know."""
        for name in ("bias", "position_conv"):
            known = tokens == special + (grid.size if ids is None else ids.shape[1])
            if getattr(self.cfg, name) is not None and not known:
                raise InputError(
                    f"encoder.{name}: needs the position of every token on one grid, which this "
                    "method does not have; set it to None"
                )

    def _with_positions(
        self, x: Array, grid: TokenGrid, ids: Array | None, special: int, valid: Array | None
    ) -> Float[Array, "b n d"]:
        """The tokens, with positions from a convolution where there is one."""
        cfg = self.cfg
        if cfg.position_conv is None:
            return x
        x = x if valid is None else jnp.where(valid[..., None], x, 0.0)
        conv = cfg.position_conv.build(cfg.width, "position_conv")
        y = conv(x[:, special:], grid=grid, ids=ids)
        return x + jnp.pad(y, ((0, 0), (special, 0), (0, 0)))

    def _bias(
        self, grid: TokenGrid, ids: Array | None, special: int
    ) -> Float[Array, "#b h n n"] | None:
        """The bias of all pairs of tokens, 0 for pairs with a special token."""
        cfg = self.cfg
        if cfg.bias is None:
            return None
        init = INITIAL["normal" if cfg.initial == "xavier_normal" else "cut"]
        bias = cfg.bias.build(cfg.heads, "attention_bias", init)(grid, ids)
        return jnp.pad(bias, ((0, 0), (0, 0), (special, 0), (special, 0)))


PRODUCTS = jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    jax.checkpoint_policies.save_only_these_names(SAVED),
)
"""What ``dots`` saves: products with weights and what is named :data:`SAVED`."""


def recomputed(block: type[M], kind: Remat) -> type[M]:
    """The module ``block``, which the backward pass recomputes as ``kind`` says."""
    if kind == "none":
        return block
    return nn.remat(block, prevent_cse=False, policy=PRODUCTS if kind == "dots" else None)


def scaled(cfg: ViT, scale: float | np.ndarray) -> nn.initializers.Initializer:
    """The initial values of ``cfg`` times ``scale``, which broadcasts to the parameter."""
    plain = INITIAL[cfg.initial]
    if np.all(np.asarray(scale) == 1):
        return plain

    def init(key, shape, dtype=jnp.float32, out_sharding=None):
        del out_sharding
        return plain(key, shape, dtype) * np.broadcast_to(scale, shape).astype(dtype)

    return init
