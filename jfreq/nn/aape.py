"""Aliasing-aware patch embedding, AaPE (Yamamoto and Okusa 2025, arXiv 2512.03637).

Patches of P frames sample modulations at 1/P of the frame rate, so that those above 1/(2P) cycles
per frame are aliased. A branch beside the patch embedding filters that band with kernels whose
parameters a small network, the Lambda Encoder, predicts for every patch, and adds the result to the
token. Only the outline of the paper is public: forms, sizes and ranges here are our reading of it.
"""

from __future__ import annotations

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jfreq.nn.vit import ViT
from jfreq.ops import fir, sblu
from jfreq.ops.patch import Shape2, patchify
from jfreq.ops.posemb import sincos_tokens
from jfreq.ranges import Positive, Size, checked
from jfreq.types import InputError, TokenGrid

lecun = nn.initializers.lecun_normal
_MAX_OFFSET = 1.5
"""Largest distance of a kernel from the centre of its cell, in half widths of the cell."""


@checked
class AaPE:
    """Config of the alias branch (:class:`AliasBranch`)."""

    kernels: Size = 16
    """Kernels of every sub-band, one sub-band for each row of patches."""
    taps: Size = 49
    """Length of a kernel in frames, odd."""
    phase: sblu.Phase = "even"
    """``even``: the published formula, both parts of which have zero phase; ``hermitian``: a window
    times a sinusoid, whose magnitude hardly changes when the signal is shifted within a patch."""
    context: Literal["full", "masked", "local"] = "full"
    """What a token depends on. ``full``: the clip, so that masked patches leak into visible tokens;
    ``masked``: visible patches; ``local``: its patch alone, with ``taps`` up to ``patch + 1``."""
    fusion: Literal["concat", "residual"] = "concat"
    """``concat``: a linear map of both, after a norm of each; ``residual``: added to the plain
    token by a linear map that is zero at first, so that an untrained branch has no effect."""
    adaptive: bool = True
    """Predict kernels for every patch; off: learn one set for each sub-band."""
    high_pass: Size = 97
    """Taps of the zero-phase high-pass before the kernels, odd; not used in ``local``."""
    decay: tuple[Positive, Positive] = (0.125, 1.0)
    """Range of alpha, per frame; slow decay needs more taps."""
    band: tuple[Positive, Positive] | None = None
    """Range of beta in cycles per frame; None: what patches alias, 1 / (2 patch) to 1/2."""
    unit_gain: bool = False
    """Multiply kernels by alpha, so that slow ones are not louder."""
    magnitude: bool = False
    """Also read the logarithm of the magnitude of the output of every kernel."""
    width: Size = 192
    """Width of the Lambda Encoder, which has ``depth`` blocks of ``heads`` heads."""
    depth: Size = 2
    heads: Size = 3
    out: Size = 192
    """Width of the branch before it is combined with the plain token."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the blocks of the Lambda Encoder; kernels and filters are always float32."""

    def __post_init__(self):
        for name in ("taps", "high_pass"):
            if getattr(self, name) < 3 or getattr(self, name) % 2 == 0:
                raise InputError(f"aape.{name}: must be odd, 3 or more, got {getattr(self, name)}")
        if self.width % 4 or self.width % self.heads:
            raise InputError(f"aape.width: {self.width} must be a multiple of 4 and of heads")
        low, high = self.decay
        if low >= high:
            raise InputError(f"aape.decay: must rise, got {self.decay}")
        if self.band is not None and not self.band[0] < self.band[1] <= 0.5:
            raise InputError(
                f"aape.band: {self.band} must rise from above 0 to 0.5 cycles per frame or less, "
                "half the frame rate"
            )

    def check(self, frames: int, patch: int) -> None:
        """Raises ``InputError`` where the kernels do not fit clips of ``frames`` frames in patches
        of ``patch`` frames."""
        if patch < 2:
            raise InputError(
                "aape: patches of one frame alias nothing; take patches of 2 frames or more"
            )
        if self.context == "local":
            if self.taps > patch + 1:
                raise InputError(
                    f"aape.taps: {self.taps} taps reach beyond a patch of {patch} frames; context "
                    f"'local' takes {patch + 1 - patch % 2} or fewer"
                )
            return
        for name, need in (("taps", self.taps), ("high_pass", (self.high_pass + 1) // 2)):
            if need > frames:
                raise InputError(
                    f"aape.{name}: {getattr(self, name)} taps are too long for clips of {frames} "
                    "frames; take fewer"
                )

    def range(self, patch: int) -> tuple[float, float]:
        """The band of beta for patches of ``patch`` frames, cycles per frame."""
        return self.band or (1 / (2 * patch), 0.5)


class LambdaEncoder(nn.Module):
    """Predicts decay and frequency of the kernels of patches by a "narrow and shallow" transformer.

    Both heads are zero at first: before training the branch is a fixed bank of filters, one for
    each of ``kernels`` log-spaced cells of the band. Their outputs are bounded (:func:`bounded`).
    """

    cfg: AaPE
    patch: Shape2
    grid: TokenGrid

    @nn.compact
    def __call__(
        self, patches: Float[Array, "b n p"], valid: Bool[Array, "b n"] | None
    ) -> tuple[Float[Array, "b n s"], Float[Array, "b n s"]]:
        """``alpha`` per frame and ``beta`` in cycles per frame ``[b n s]``, float32."""
        cfg, grid = self.cfg, self.grid
        b, n, _ = patches.shape
        zeros = nn.initializers.zeros
        if cfg.adaptive:
            encoder = ViT(width=cfg.width, depth=cfg.depth, heads=cfg.heads, dtype=cfg.dtype)
            x = nn.Dense(cfg.width, name="embed")(patches) + sincos_tokens(grid, cfg.width)[None]
            if cfg.context == "local":  # every token by itself
                x, valid = x.reshape(b * n, 1, -1), None
            x, _ = encoder.build("encoder")(x, grid=grid, valid=valid)
            x = x.reshape(b, n, -1)
            h_a = nn.Dense(cfg.kernels, kernel_init=zeros, name="alpha")(x)
            h_b = nn.Dense(cfg.kernels, kernel_init=zeros, name="beta")(x)
        else:
            h_a, h_b = (
                self._for_all_tokens(self.param(name, zeros, (grid.freq, cfg.kernels)), b)
                for name in ("alpha", "beta")
            )
        return bounded(cfg, self.patch[0], h_a.astype(jnp.float32), h_b.astype(jnp.float32))

    def _for_all_tokens(self, x: Float[Array, "g s"], rows: int) -> Float[Array, "b n s"]:
        """The values of the sub-band of each token, for ``rows`` clips."""
        x = jnp.expand_dims(x, 1 if self.grid.order == "freq_major" else 0)[None]
        return jnp.broadcast_to(x, (rows, *self.grid.shape, x.shape[-1])).reshape(
            rows, self.grid.size, -1
        )


def bounded(
    cfg: AaPE, patch: int, h_a: Float[Array, "*n s"], h_b: Float[Array, "*n s"]
) -> tuple[Float[Array, "*n s"], Float[Array, "*n s"]]:
    """Maps any numbers to ``alpha`` and ``beta`` in their ranges: the logarithm of alpha by a
    sigmoid, beta by a tanh about the centre of the cell of its kernel."""
    low, high = cfg.decay
    alpha = low * (high / low) ** nn.sigmoid(h_a)
    start, end = cfg.range(patch)
    centre, half = (jnp.asarray(x, jnp.float32) for x in sblu.cells(cfg.kernels, start, end))
    lead = (1,) * (h_b.ndim - 1)
    beta = centre.reshape(*lead, -1) + _MAX_OFFSET * half.reshape(*lead, -1) * jnp.tanh(h_b)
    return alpha, jnp.clip(beta, start, end)


class AliasBranch(nn.Module):
    """Adds what patches alias to the tokens of a spectrogram.

    ``patch``, ``stride`` = (time, freq). All but the blocks of the Lambda Encoder is float32.
    """

    cfg: AaPE
    patch: Shape2
    stride: Shape2
    grid: TokenGrid

    def setup(self):
        cfg = self.cfg
        self.encoder = LambdaEncoder(cfg, self.patch, self.grid)
        self.bands = Grouped(cfg.kernels)
        self.mix = Grouped(cfg.kernels)
        self.project = nn.Dense(cfg.out)
        self.fuse = Fusion(cfg.fusion)

    def __call__(
        self,
        spec: Float[Array, "b t f c"],
        tokens: Float[Array, "b n d"],
        *,
        valid: Bool[Array, "b n"] | None = None,
        visible: Bool[Array, "b n"] | None = None,
    ) -> Float[Array, "b n d"]:
        """``tokens`` combined with the branch.

        Args:
            spec: Spectrogram.
            tokens: Its plain patch embedding.
            valid: False in padding, which the Lambda Encoder does not attend to.
            visible: Used in context ``masked`` only: masked tokens are not attended to, and their
                patches are set to zero.
        """
        return self.fuse(tokens, self.measure(spec, valid, visible))

    def rates(
        self,
        spec: Float[Array, "b t f c"],
        valid: Bool[Array, "b n"] | None = None,
        visible: Bool[Array, "b n"] | None = None,
    ) -> tuple[Float[Array, "b p g s"], Float[Array, "b p g s"]]:
        """``alpha`` and ``beta`` of every patch in time, sub-band and kernel."""
        if self.cfg.context == "masked" and visible is not None:
            valid = visible if valid is None else valid & visible
        alpha, beta = self.encoder(cut(spec, self.patch, self.stride, self.grid), valid)
        return _by_time(alpha, self.grid), _by_time(beta, self.grid)

    def measure(
        self,
        spec: Float[Array, "b t f c"],
        valid: Bool[Array, "b n"] | None,
        visible: Bool[Array, "b n"] | None,
    ) -> Float[Array, "b n e"]:
        """Tokens of the band that patches alias.

        Suffixes name axes: ``t`` frames, ``p`` patches in time, ``g`` sub-bands, ``s`` kernels,
        ``w`` frames of a patch and its neighbours, ``m`` frames of a patch, ``i`` inputs.
        """
        cfg, grid, (frames, bins) = self.cfg, self.grid, self.patch
        spec = spec.astype(jnp.float32)
        if cfg.context == "masked" and visible is not None:
            spec = zero_masked(spec, visible, self.patch, self.stride, grid)
        alpha_bpgs, beta_bpgs = self.rates(spec, valid, visible)
        b, p, g, s = alpha_bpgs.shape

        x_btgi = sub_bands(self.high_passed(spec), bins, self.stride[1], g)
        x_btc = self.bands(x_btgi).reshape(b, spec.shape[1], g * s)
        local = cfg.context == "local"
        x_bpwc = sblu.windows(
            x_btc, patch=frames, stride=self.stride[0], taps=cfg.taps, local=local
        )
        if local:
            x_bpwc = _centred(x_bpwc, fir.half_width(cfg.taps))
        real, imag = sblu.apply(
            x_bpwc,
            alpha_bpgs.reshape(b, p, g * s),
            beta_bpgs.reshape(b, p, g * s),
            taps=cfg.taps,
            phase=cfg.phase,
            unit_gain=cfg.unit_gain,
        )

        parts_bpmgs = [y.reshape(b, p, frames, g, s) for y in (real, imag)]
        if cfg.magnitude:
            power = jnp.square(parts_bpmgs[0]) + jnp.square(parts_bpmgs[1])
            parts_bpmgs.append(0.5 * jnp.log(power + 1e-6))
        y_bpmgs = self.mix(jnp.concatenate(parts_bpmgs, axis=-1))
        y_bpmgs = nn.gelu(y_bpmgs, approximate=False)
        by_token = (0, 3, 1, 2, 4) if grid.order == "freq_major" else (0, 1, 3, 2, 4)
        return self.project(y_bpmgs.transpose(by_token).reshape(b, p * g, -1))

    def high_passed(self, spec: Float[Array, "b t f c"]) -> Float[Array, "b t f c"]:
        """``spec`` above the patches' Nyquist frequency; unchanged in context ``local``."""
        if self.cfg.context == "local":
            return spec
        return fir.filter_time(spec, fir.high_pass(self.cfg.high_pass, 1 / (2 * self.patch[0])))


class Grouped(nn.Module):
    """A linear map for each sub-band without bias: ``[... g i]`` to ``[... g out]``. Float32."""

    out: int

    @nn.compact
    def __call__(self, x: Float[Array, "*b g i"]) -> Float[Array, "*b g o"]:
        shape = (*x.shape[-2:], self.out)
        kernel = self.param("kernel", lecun(in_axis=-2, out_axis=-1, batch_axis=0), shape)
        return jnp.einsum("...gi,gio->...go", x, kernel)


class Fusion(nn.Module):
    """Combines plain and alias tokens ``[b n d]``; before training the alias part has no weight.

    ``concat`` then gives the normalised plain tokens, ``residual`` the plain tokens themselves.
    """

    form: Literal["concat", "residual"]

    @nn.compact
    def __call__(
        self, plain: Float[Array, "b n d"], alias: Float[Array, "b n e"]
    ) -> Float[Array, "b n d"]:
        width, more = plain.shape[-1], alias.shape[-1]
        alias = nn.LayerNorm(epsilon=1e-6, name="norm_alias")(alias)
        if self.form == "residual":
            zeros = nn.initializers.zeros
            return plain + nn.Dense(width, use_bias=False, kernel_init=zeros, name="linear")(alias)
        plain = nn.LayerNorm(epsilon=1e-6, name="norm_plain")(plain)

        def identity(key, shape, dtype=jnp.float32):
            del key
            return jnp.eye(width + more, width, dtype=dtype).reshape(shape)

        both = jnp.concatenate([plain, alias], axis=-1)
        return nn.Dense(width, kernel_init=identity, name="linear")(both)


# ------------------------------------------------------------------ patches, bands


def cut(spec: Float[Array, "b t f c"], patch: Shape2, stride: Shape2, grid: TokenGrid):
    """The patches ``[b n p]``, which may overlap, in the order of ``grid``."""
    if stride == patch:
        tiled = spec[:, : grid.time * patch[0], : grid.freq * patch[1]]
        return patchify(tiled, patch=patch, order=grid.order)
    t, f = (
        np.arange(n)[:, None] * s + np.arange(p)
        for n, s, p in zip((grid.time, grid.freq), stride, patch)
    )
    x = jnp.take(jnp.take(spec, t, axis=1), f, axis=3)  # [b time pt freq pf c]
    axes = (0, 3, 1, 4, 2, 5) if grid.order == "freq_major" else (0, 1, 3, 4, 2, 5)
    return x.transpose(axes).reshape(spec.shape[0], grid.size, -1)


def sub_bands(
    x: Float[Array, "b t f c"], size: int, stride: int, count: int
) -> Float[Array, "b t g i"]:
    """The bins of every row of patches, ``[b t g size*c]``."""
    b, t, _, c = x.shape
    if stride == size:
        return x[:, :, : count * size].reshape(b, t, count, size * c)
    rows = np.arange(count)[:, None] * stride + np.arange(size)
    return jnp.take(x, rows, axis=2).reshape(b, t, count, size * c)


def zero_masked(
    spec: Float[Array, "b t f c"],
    visible: Bool[Array, "b n"],
    patch: Shape2,
    stride: Shape2,
    grid: TokenGrid,
) -> Float[Array, "b t f c"]:
    """``spec`` with zeros in the patches that are not visible, and past the last patch."""
    if stride != patch:
        raise InputError(
            f"aape.context: 'masked' needs patches that do not overlap, got stride {stride} for "
            f"patches of {patch}"
        )
    cells = _by_time(visible[..., None], grid)[..., 0]
    cells = jnp.repeat(jnp.repeat(cells, patch[0], axis=1), patch[1], axis=2)
    edge = ((0, 0), *((0, n - m) for n, m in zip(spec.shape[1:3], cells.shape[1:])))
    return jnp.where(jnp.pad(cells, edge)[..., None], spec, 0.0)


def _centred(windows: Float[Array, "b p w c"], pad: int) -> Float[Array, "b p w c"]:
    """Every patch less its mean, between ``pad`` zeros: a filter that does not reach beyond a patch
    cannot remove what varies more slowly."""
    patches = windows[:, :, pad : windows.shape[2] - pad]
    patches = patches - jnp.mean(patches, axis=2, keepdims=True)
    return jnp.pad(patches, ((0, 0), (0, 0), (pad, pad), (0, 0)))


def _by_time(x: Array, grid: TokenGrid) -> Array:
    """Values ``[b n k]`` of tokens as ``[b time freq k]``."""
    x = x.reshape(x.shape[0], *grid.shape, x.shape[-1])
    return x.transpose(0, 2, 1, 3) if grid.order == "freq_major" else x
