"""What AST, SSAST and their kin share: spectrogram in, tokens of a trunk out."""

from __future__ import annotations

from typing import Literal, Self, cast

import jax
import jax.numpy as jnp

from jfreq.config import MethodConfig, check, replace
from jfreq.nn.conv import ConvNeXt
from jfreq.nn.frontends import Fbank, LogSpectrogram, default_frontend
from jfreq.nn.sblu import AaPE
from jfreq.nn.scalogram import Scalogram
from jfreq.nn.trunk import Encoded, SpectrogramTrunk
from jfreq.nn.vit import ViT
from jfreq.ops.patch import grid_shape
from jfreq.ranges import Count, Whole, checked
from jfreq.types import Array, Batch, DataSpec, Features, Grid, InputError, SignalSpec

FRAME_BLOCK = 128
"""Audio clips are padded to a multiple of this many frames: 10 s to 1024, 5 s to 512, 1 s to 128,
the lengths that the published recipes use."""


@checked
class SpectrogramConfig(MethodConfig):
    """Spectrogram, patches and encoder; open fields (None) are decided by the data."""

    modality: str | None = None
    """Which signal to read; None: the first."""
    frontend: Fbank | LogSpectrogram | Scalogram | None = None
    frames: Count | None = None
    """Spectrogram frames per clip; shorter clips are padded, longer ones cut."""
    patch: tuple[Count, Count] | None = (16, 16)
    """Patch height in frequency bins and width in frames."""
    stride: tuple[Count, Count] | None = None
    """Steps between patches; None: no overlap."""
    order: Literal["freq_major", "time_major"] = "freq_major"
    special_tokens: Whole = 2
    """Learned tokens beside the patches: 2 as AST's cls and dist, 0 for ConvNeXt."""
    embed: Literal["plain", "aape"] = "plain"
    """How patches become tokens: a linear map; or with it a branch that measures the modulations
    which patches fold, set up by ``aape``."""
    aape: AaPE = AaPE()
    positions: Literal["learned", "sincos"] = "learned"
    """``sincos``: fixed sines and cosines, the same for any length of clip."""
    encoder: ViT | ConvNeXt = ViT()
    pool: Literal["mean", "special"] = "mean"
    """Clip vector: mean of the patch tokens, or of the special tokens."""

    def __post_init__(self):
        check(self.positions == "learned" or self.encoder.width % 4 == 0, "method.encoder.width",
              "must be a multiple of 4, for sines as positions")  # fmt: skip
        check(
            not (isinstance(self.encoder, ConvNeXt) and self.special_tokens),
            "method.special_tokens",
            "ConvNeXt reads the patch grid only; set it to 0",
        )
        check(
            self.pool == "mean" or self.special_tokens > 0,
            "method.pool",
            "'special' needs special_tokens of 1 or more",
        )
        if self.signals and self.frontend is not None:
            self.frontend.check(self.signal)
        if self.bound:
            check(
                min(self.grid.freq, self.grid.time) >= 1,
                "method.patch",
                f"{self.patch} does not fit into a spectrogram of {self.frontend.bins} bins x "  # type: ignore[union-attr]
                f"{self.frames} frames",
            )
            if self.embed == "aape":
                assert self.frames is not None and self.patch is not None
                self.aape.check(self.frames, self.patch[1])

    @property
    def bound(self) -> bool:
        return bool(self.signals) and None not in (self.frontend, self.frames, self.patch)

    @property
    def signal(self) -> SignalSpec:
        """The one modality this method reads."""
        return self.signals[0]

    @property
    def grid(self) -> Grid:
        """Token lattice of a bound config, placed on the signal."""
        assert self.frontend is not None and self.frames is not None and self.patch is not None
        stride = self.stride or self.patch
        freq, time = grid_shape(self.frames, self.frontend.bins, patch=self.patch, stride=stride)
        hop = self.frontend.hop_length
        first = self.frontend.win_length / 2 + (self.patch[1] - 1) / 2 * hop
        return Grid(time=time, freq=freq, order=self.order, first=first, hop=stride[1] * hop)

    def bind(self, spec: DataSpec) -> Self:
        """Decides signal, front end, frames and patch; ``InputError`` where the data don't fit."""
        signal = spec.signal(self.modality)
        frontend = self.frontend or default_frontend(signal)
        frontend.check(signal)
        patch = self.patch
        if patch is None:
            audio = isinstance(frontend, Fbank)
            patch = (16, 16) if audio else (max(1, frontend.bins // 8), 2)
        frames = self.frames
        if frames is None:
            real = 1 + (signal.samples - frontend.win_length) // frontend.hop_length
            block = FRAME_BLOCK if isinstance(frontend, Fbank) else patch[1]
            if real < 1 or (block == patch[1] and real < block):
                raise InputError(
                    f"data: clips of {signal.samples} samples ({signal.seconds:.3g} s) of "
                    f"{signal.name!r} are shorter than one patch of {patch[1]} frames"
                )
            frames = -(-real // block) * block
        return replace(
            self, signals=(signal,), modality=signal.name, frontend=frontend, frames=frames,
            patch=patch,
        )  # fmt: skip

    def unbind(self) -> Self:
        return replace(super().unbind(), frames=None)


def trunk(cfg: SpectrogramConfig, name: str | None = None) -> SpectrogramTrunk:
    """The trunk of a bound config."""
    assert cfg.patch is not None
    return SpectrogramTrunk(
        patch=cfg.patch,
        stride=cfg.stride or cfg.patch,
        grid=cfg.grid,
        special=cfg.special_tokens,
        encoder_cfg=cfg.encoder,
        alias_cfg=cfg.aape if cfg.embed == "aape" else None,
        position_kind=cfg.positions,
        name=name,
    )


def spectrogram(cfg: SpectrogramConfig, batch: Batch) -> Batch:
    """Adds ``spectrogram`` ``[b t f c]`` float32 unless it is there."""
    if "spectrogram" in batch:
        return batch
    assert cfg.frontend is not None and cfg.frames is not None
    x = batch[cfg.signal.name]
    with jax.named_scope("frontend"):
        spec = cfg.frontend(x, frames=cfg.frames, length=batch.get("length"))
    # Without the barrier XLA:CPU fuses the transform into its readers and computes it repeatedly.
    return {**batch, "spectrogram": jax.lax.optimization_barrier(jax.lax.stop_gradient(spec))}


def valid_tokens(grid: Grid, batch: Batch, rows: int) -> Array:
    """``[b n]`` bool: tokens whose centre lies inside the signal; the first always does."""
    if "length" not in batch:
        return jnp.ones((rows, grid.size), bool)
    centre = grid.first + grid.hop * jnp.arange(grid.time, dtype=jnp.float32)
    inside = centre[None] <= batch["length"][:, None].astype(jnp.float32)
    inside = inside | (jnp.arange(grid.time) == 0)[None]
    return jnp.tile(inside, (1, grid.freq)) if grid.order == "freq_major" else jnp.repeat(
        inside, grid.freq, axis=1
    )  # fmt: skip


def features(cfg: SpectrogramConfig, net: SpectrogramTrunk, params, batch: Batch) -> Features:
    """Unmasked encoding of a batch with the trunk's parameters; padding is never attended to."""
    spec = spectrogram(cfg, batch)["spectrogram"]
    grid = cfg.grid
    valid = valid_tokens(grid, batch, spec.shape[0])

    def forward(module):
        return module.encode(module.embed(spec, valid=valid), valid=valid, layers=True)

    states = cast(Encoded, net.apply({"params": params}, method=forward))
    special, tokens, layers = states
    if cfg.pool == "special":
        clip = special.mean(axis=1)
    else:
        weight = valid[..., None].astype(tokens.dtype)
        clip = jnp.sum(tokens * weight, axis=1) / jnp.sum(weight, axis=1)
    return Features(tokens=tokens, grid=grid, clip=clip, valid=valid, layers=layers)


def example_spectrogram(cfg: SpectrogramConfig) -> Array:
    """Zeros ``[1 t f c]`` to initialise a bound config's modules with."""
    assert cfg.frontend is not None and cfg.frames is not None
    return jnp.zeros((1, cfg.frames, cfg.frontend.bins, cfg.signal.channels), jnp.float32)
