"""What methods on the spectrogram of one signal share: spectrogram in, tokens of a trunk out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple, Self, TypeAlias

import jax
import jax.numpy as jnp

from jfreq.config import check, replace
from jfreq.frontends.default import default_frontend
from jfreq.frontends.fbank import Fbank
from jfreq.frontends.log_spectrogram import LogSpectrogram
from jfreq.frontends.scalogram import Scalogram
from jfreq.method import decided
from jfreq.methods.common.features import FeatureMethod, on_grid, pooled, valid_tokens
from jfreq.nn.aape import AaPE
from jfreq.nn.apply import apply
from jfreq.nn.convnext import ConvNeXt
from jfreq.nn.patch_encoder import SSAST_VALUES, InitialValues, SpectrogramTrunk
from jfreq.nn.vit import ViT
from jfreq.ops.gather import take_entries, take_tokens
from jfreq.ops.patch import grid_shape
from jfreq.ranges import Count, Whole, checked
from jfreq.types import (
    Array,
    Batch,
    DataSpec,
    Features,
    InputError,
    Mask,
    PyTree,
    Reconstruction,
    SignalSpec,
    TokenGrid,
)

FrontEnd: TypeAlias = Fbank | LogSpectrogram | Scalogram
FRAME_BLOCK = 128
"""As a rule sound is padded to a multiple of this many frames: 10 s to 1024, 5 s to 512 and 1 s to
128, the lengths that the published recipes use."""


class PatchGeometry(NamedTuple):
    """What ``bind`` decided: a spectrogram of ``frames`` frames and the patches (time, freq) that
    it is cut into; ``grid`` says where they lie on the signal."""

    signal: SignalSpec
    frontend: FrontEnd
    frames: int
    patch: tuple[int, int]
    stride: tuple[int, int]
    grid: TokenGrid

    @property
    def patch_size(self) -> int:
        """Values in a patch."""
        return self.patch[0] * self.patch[1] * self.signal.channels

    @property
    def example(self) -> Array:
        """Zeros ``[1 t f c]`` to initialise modules with."""
        return jnp.zeros((1, self.frames, self.frontend.bins, self.signal.channels), jnp.float32)


@checked
class PatchMethod(FeatureMethod):
    """Spectrogram, patches and encoder; open fields (None) are decided by the data.

    By itself it is the encoder alone, parameters ``trunk``.
    """

    released_values: ClassVar[InitialValues] = SSAST_VALUES
    """The initial values that ``initial`` ``released`` stands for."""
    released_blocks: ClassVar[Literal["normal", "xavier", "xavier_normal"]] = "normal"
    """The initial values that ``initial`` ``released`` stands for in the blocks of a ViT."""
    frame_block: ClassVar[int] = FRAME_BLOCK
    """Spectrograms of sound are padded to a multiple of this many frames."""

    modality: str | None = None
    """Which signal to read; None: the first."""
    frontend: FrontEnd | None = None
    frames: Count | None = None
    """Spectrogram frames per clip; shorter clips are padded, longer ones cut."""
    patch: tuple[Count, Count] | None = (16, 16)
    """Frames and frequency bins of a patch."""
    stride: tuple[Count, Count] | None = None
    """Frames and bins between patches; None: no overlap."""
    order: Literal["freq_major", "time_major"] = "freq_major"
    special_tokens: Whole = 2
    """Learned tokens beside the patches: 2 for the cls and dist of AST, 0 for ConvNeXt."""
    registers: Whole = 0
    """Learned tokens that all others attend to and nothing reads (Darcet et al. 2024); 0 for
    ConvNeXt."""
    embed: Literal["plain", "aape"] = "plain"
    """How patches become tokens. ``plain``: by a linear map; ``aape``: by a linear map and a
    branch, configured by ``aape``, that measures the modulations which patches alias."""
    aape: AaPE = AaPE()
    positions: Literal["learned", "sincos", "none"] = "learned"
    """``sincos``: fixed sines and cosines, the same for any length of clip; ``none``: the encoder
    tells positions by itself, by a convolution or a bias."""
    encoder: ViT | ConvNeXt = ViT()
    pool: Literal["mean", "special"] = "mean"
    """Clip vector: the mean of the patch tokens, or of the special tokens."""
    padding: Literal["masked", "attended"] = "masked"
    """Patches beyond the end of a clip, in a trained encoder. ``masked``: those without a frame of
    the signal are not attended to and do not count in the clip vector, so that a clip gives the
    same vector in a longer window; ``attended``: all patches of the window are read like signal, as
    in the released code of AST, SSAST, EAT and Audio-MAE."""
    initial: Literal["cut", "released"] = "cut"
    """Initial values. ``cut``: blocks, tokens and positions are normal of standard deviation 0.02,
    cut at twice that, and the map of the patches is torch's; ``released``: as in the code of the
    paper, where nothing is cut, EAT has a special token of standard deviation 1 and Xavier's map of
    the patches, and Audio-MAE has Xavier's maps everywhere and sines as learned positions."""

    def __post_init__(self):
        check(
            self.positions != "sincos" or self.encoder.width % 4 == 0,
            "method.encoder.width",
            f"must be a multiple of 4, for sines as positions, got {self.encoder.width}",
        )
        check(
            not (isinstance(self.encoder, ConvNeXt) and self.special_tokens + self.registers),
            "method.special_tokens",
            "ConvNeXt reads the patch grid only; set it and registers to 0",
        )
        check(
            self.pool == "mean" or self.special_tokens > 0,
            "method.pool",
            "'special' needs a special token: set method.special_tokens to 1 or more",
        )
        if self.signals and self.frontend is not None:
            self.frontend.check(self.signals[0])
        if self.bound:
            geometry = self.geometry
            check(
                min(geometry.grid.shape) >= 1,
                "method.patch",
                f"{geometry.patch} does not fit into a spectrogram of {geometry.frames} frames x "
                f"{geometry.frontend.bins} bins; take smaller patches or longer clips",
            )
            if self.embed == "aape":
                self.aape.check(geometry.frames, geometry.patch[0])

    @property
    def bound(self) -> bool:
        return bool(self.signals) and None not in (self.frontend, self.frames, self.patch)

    @functools.cached_property
    def geometry(self) -> PatchGeometry:
        """What ``bind`` decided; ``InputError`` while the method is open."""
        frontend = decided(self.frontend, "method.frontend")
        frames, patch = decided(self.frames, "method.frames"), decided(self.patch, "method.patch")
        stride = self.stride or patch
        time, freq = grid_shape(frames, frontend.bins, patch=patch, stride=stride)
        hop = frontend.hop_length
        first = frontend.win_length / 2 + (patch[0] - 1) / 2 * hop
        grid = TokenGrid(time=time, freq=freq, order=self.order, first=first, hop=stride[0] * hop)
        return PatchGeometry(self.signals[0], frontend, frames, patch, stride, grid)

    @property
    def grid(self) -> TokenGrid:
        """The tokens, placed on the signal."""
        return self.geometry.grid

    @property
    def stem(self) -> tuple[str, ...]:
        return (*super().stem, *(f"trunk/encoder/{path}" for path in self.encoder.stem))

    @property
    def trunk(self) -> SpectrogramTrunk:
        """Embedding and encoder as a module."""
        geometry, released = self.geometry, self.initial == "released"
        encoder = self.encoder
        if released and isinstance(encoder, ViT):
            encoder = replace(encoder, initial=self.released_blocks)
        return SpectrogramTrunk(
            patch=geometry.patch,
            stride=geometry.stride,
            grid=geometry.grid,
            special=self.special_tokens,
            encoder_cfg=encoder,
            alias_cfg=self.aape if self.embed == "aape" else None,
            position_kind=self.positions,
            registers=self.registers,
            initial=self.released_values if released else InitialValues(),
        )

    def bind(self, spec: DataSpec) -> Self:
        """Decides signal, front end, frames and patch; ``InputError`` where the data do not fit."""
        signal = spec.signal(self.modality)
        frontend = self.frontend or default_frontend(signal)
        frontend.check(signal)
        patch = self.patch
        if patch is None:
            audio = isinstance(frontend, Fbank)
            patch = (16, 16) if audio else (2, max(1, frontend.bins // 8))
        frames = self.frames
        if frames is None:
            whole = 1 + (signal.samples - frontend.win_length) // frontend.hop_length
            block = self.frame_block if isinstance(frontend, Fbank) else patch[0]
            if whole < 1 or (block == patch[0] and whole < block):
                raise InputError(
                    f"data: clips of {signal.samples} samples ({signal.seconds:.3g} s) of "
                    f"{signal.name!r} are shorter than one patch of {patch[0]} frames; prepare "
                    "longer clips or take a smaller method.patch"
                )
            frames = -(-whole // block) * block
        return replace(
            self,
            signals=(signal,),
            modality=signal.name,
            frontend=frontend,
            frames=frames,
            patch=patch,
        )

    def unbind(self) -> Self:
        return replace(super().unbind(), frames=None)

    # ------------------------------------------------------------------ the encoder

    def init(self, key: Array) -> PyTree:
        return {"trunk": self.trunk.init(key, self.geometry.example, method=_encoded)["params"]}

    def with_spectrogram(self, batch: Batch) -> Batch:
        """Adds ``spectrogram`` ``[b t f c]`` float32 and ``valid_frames`` ``[b t]`` bool, unless it
        is there."""
        if "spectrogram" in batch:
            return batch
        signal, frontend, frames, *_ = self.geometry
        with jax.named_scope("frontend"):
            spec, valid = frontend(batch[signal.name], frames=frames, length=batch.get("length"))
        # Without the barrier XLA:CPU fuses the transform into its readers and repeats it.
        spec = jax.lax.optimization_barrier(jax.lax.stop_gradient(spec))
        return {**batch, "spectrogram": spec, "valid_frames": valid}

    def features_of(self, params: PyTree, batch: Batch, dropout: Array | None = None) -> Features:
        batch = self.with_spectrogram(batch)
        spec, attended, kept = batch["spectrogram"], self.attended_tokens(batch), None
        if "kept_tokens" in batch and dropout is not None:
            kept = batch["kept_tokens"]
        special, tokens, layers = apply(
            self.trunk,
            params["trunk"],
            spec,
            valid=attended,
            kept=kept,
            layers=True,
            method=_encoded,
            train=dropout is not None,
            dropout=dropout,
        )
        valid = valid_tokens(self.grid, batch, spec.shape[0])
        if kept is not None:
            valid = take_entries(valid, kept)
            attended = None if attended is None else _kept(attended, kept)
        if self.pool == "special":
            clip = special.mean(axis=1)
        else:
            clip = tokens.mean(axis=1) if attended is None else pooled(tokens, attended, "mean")
        return Features(tokens=tokens, grid=self.grid, clip=clip, valid=valid, layers=layers)

    def attended_tokens(self, batch: Batch) -> Array | None:
        """``[b n]`` bool: the patches that are attended to, those with a frame of the signal and
        the first ones of every clip; None: all, by ``padding`` or where a batch holds spectrograms
        without ``valid_frames``.

        :attr:`jfreq.types.Features.valid` asks more of a patch: that its centre, the time of its
        features, lies inside the signal.
        """
        if self.padding == "attended" or "valid_frames" not in batch:
            return None
        grid, step = self.grid, self.geometry.stride[0]
        # Valid frames come first, so that a patch has one where its first frame is valid.
        columns = batch["valid_frames"][:, ::step][:, : grid.time]
        return on_grid(grid, columns | (jnp.arange(grid.time) == 0)[None])

    # ------------------------------------------------------------------ what is masked

    def check_no_overlap(self) -> None:
        """Raises ``InputError`` where patches overlap: neighbours would show what is masked."""
        check(
            self.stride in (None, self.patch),
            "method.stride",
            f"pre-training patches must not overlap (a neighbour would show the answer), got "
            f"{self.stride} for patches of {self.patch}; set it when fine-tuning",
        )

    def check_visible(self, mask_ratio: float, visible: int) -> None:
        """Raises ``InputError`` unless one patch or more is visible and one is masked."""
        check(
            1 <= visible < self.grid.size,
            "method.mask_ratio",
            f"{mask_ratio} of {self.grid.size} patches leaves {visible} visible; one must be "
            "visible and one masked: take longer clips or another ratio",
        )

    def show_mask(self, batch: Batch, sample: Callable[[int], Mask]) -> Reconstruction:
        """The batch and the mask that ``sample`` gives for its number of rows, without a
        reconstruction: for methods that predict no spectrogram."""
        spec = self.with_spectrogram(batch)["spectrogram"]
        return Reconstruction(spec, self.masked_cells(sample(spec.shape[0])), None)

    def masked_cells(self, mask: Mask) -> Array:
        """``[b t f]`` bool: the cells of the spectrogram that lie in masked patches."""
        geometry = self.geometry
        cells = mask.is_masked.reshape(-1, *geometry.grid.shape)
        cells = cells.swapaxes(1, 2) if self.order == "freq_major" else cells
        cells = jnp.repeat(jnp.repeat(cells, geometry.patch[0], axis=1), geometry.patch[1], axis=2)
        past = geometry.frames - cells.shape[1], geometry.frontend.bins - cells.shape[2]
        return jnp.pad(cells, ((0, 0), (0, past[0]), (0, past[1])))

    # ------------------------------------------------------------------ what others ask

    @property
    def token_grid(self) -> TokenGrid | None:
        return self.grid if isinstance(self.encoder, ViT) else None

    @property
    def spectrogram_fill(self) -> float:
        return self.geometry.frontend.fill

    @property
    def frame_hop(self) -> float | None:
        return self.geometry.frontend.hop_length


def _encoded(
    trunk: SpectrogramTrunk,
    spec: Array,
    *,
    valid: Array | None = None,
    kept: Array | None = None,
    **options,
):
    """All tokens of a spectrogram in context, or those with the ids ``kept`` ``[b k]``."""
    tokens = trunk.embed(spec, valid=valid)
    if kept is not None:
        tokens = take_tokens(tokens, kept)
        valid = None if valid is None else _kept(valid, kept)
    return trunk.encode(tokens, ids=kept, valid=valid, **options)


def _kept(valid: Array, kept: Array) -> Array:
    """Which of the ``kept`` tokens are valid; all of a clip that has kept none that is."""
    valid = take_entries(valid, kept)
    return valid | ~valid.any(axis=1, keepdims=True)
