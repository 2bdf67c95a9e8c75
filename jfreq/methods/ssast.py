"""SSAST: masked spectrogram patch modelling (Gong, Lai, Chung, Glass, AAAI 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp

from jfreq import losses, masks
from jfreq.config import replace
from jfreq.method import Loss, Streams, decided, summarise
from jfreq.methods.common.patches import PatchMethod
from jfreq.nn.apply import apply
from jfreq.nn.heads import MLPHead
from jfreq.ops.gather import masked_tokens, restore_tokens, take_tokens
from jfreq.ops.patch import patchify, unpatchify
from jfreq.ranges import Count, NonNegative, checked
from jfreq.types import Array, Batch, DataSpec, Mask, PyTree, Reconstruction

Patches: TypeAlias = dict[str, Array]
"""Predicted patches ``[b m p]`` by task: ``classification`` and ``reconstruction``."""


@checked
class SSAST(PatchMethod):
    """The encoder reads mask tokens in place of the masked patches. Each of these is matched with
    the right patch among those of its clip (discriminative), and reconstructed (generative).

    ``official`` in a field reproduces the released code where it departs from the paper.
    """

    headline: ClassVar[tuple[str, ...]] = ("info_nce", "mse", "accuracy")

    mask: Count | None = None
    """Masked tokens of a clip; None: 400 of 512, and the same fraction on other grids."""
    mask_kind: masks.Kind = "cluster"
    """The paper uses ``cluster`` for patches and ``random`` for frames."""
    cluster: tuple[Count, Count] = (3, 5)
    """Smallest and largest side of a cluster (C in the paper), or number of neighbouring lines."""
    cluster_mode: masks.ClusterMode = "uniform"
    objective: Literal["joint", "discriminative", "generative"] = "joint"
    info_nce: losses.InfoNCEForm = "paper"
    generative_weight: NonNegative = 10.0
    """lambda in L = L_d + lambda L_g."""
    passes: Literal[1, 2] = 2
    """In ``joint``: 2, as released, samples a mask for each task; 1 takes one mask for both, at
    half the cost."""

    def __post_init__(self):
        super().__post_init__()
        if self.bound and self.mask is not None:
            masks.check_count(
                self.mask_kind, self.grid, self.mask, sizes=self.cluster, mode=self.cluster_mode
            )

    def bind(self, spec: DataSpec) -> Self:
        cfg = super().bind(spec)
        if cfg.mask is not None:
            return cfg
        grid = cfg.grid
        line = {"time": grid.freq, "frequency": grid.time}.get(cfg.mask_kind, 1)
        count = max(line, grid.size * 25 // 32 // line * line)
        return replace(cfg, mask=count)

    def unbind(self) -> Self:
        return replace(super().unbind(), mask=None)

    @property
    def higher_is_better(self) -> Mapping[str, bool]:
        return {**super().higher_is_better, "info_nce": False, "mse": False}

    # ------------------------------------------------------------------ the paper

    def init(self, key: Array) -> PyTree:
        mask_key, key = jax.random.split(key)
        mask = self.sample_mask(mask_key, self._passes)
        net = _Net(self)
        return net.init(key, self.geometry.example, mask, method=_Net.predict)["params"]

    def loss(self, params, target, batch: Batch, rngs: Streams, step) -> Loss:
        """L = L_d + lambda L_g (equation 3)."""
        del target, step
        self.check_no_overlap()
        batch = self.with_spectrogram(batch)
        spec = batch["spectrogram"]
        mask = self.sample_mask(rngs("mask"), spec.shape[0] * self._passes)
        predicted: Patches = apply(
            _Net(self), params, spec, mask, method=_Net.predict, train=True, dropout=rngs("dropout")
        )
        truth = jax.lax.stop_gradient(self.patches(spec))
        first, last = split_passes(mask.masked, spec.shape[0])
        values, total = {}, jnp.zeros(spec.shape[0])
        if "classification" in predicted:
            pred, masked = predicted["classification"], take_tokens(truth, first)
            values["info_nce"] = losses.info_nce(pred, masked, form=self.info_nce)
            values["accuracy"] = losses.match_accuracy(pred, masked)
            total = total + values["info_nce"]
        if "reconstruction" in predicted:
            values["mse"] = losses.mse(predicted["reconstruction"], take_tokens(truth, last))
            weight = 1.0 if self.objective == "generative" else self.generative_weight
            total = total + weight * values["mse"]
        return summarise({"loss": total, **values}, batch)

    def reconstruct(self, params, batch: Batch, rngs: Streams) -> Reconstruction:
        self.check_no_overlap()
        spec = self.with_spectrogram(batch)["spectrogram"]
        mask = self.sample_mask(rngs("mask"), spec.shape[0])
        truth = self.patches(spec)
        masked = self.masked_cells(mask)
        if self.objective == "discriminative":
            return Reconstruction(spec, masked, None)
        predicted: Patches = apply(_Net(self), params, spec, mask, method=_Net.predict)
        tokens = jnp.concatenate(
            [take_tokens(truth, mask.visible), predicted["reconstruction"]], axis=1
        )
        cells = self.unpatched(restore_tokens(tokens, mask.restore))
        return Reconstruction(spec, masked, cells)

    # ------------------------------------------------------------------ masks and patches

    @property
    def _passes(self) -> int:
        return self.passes if self.objective == "joint" else 1

    def sample_mask(self, key: Array, rows: int) -> Mask:
        """Masks of ``rows`` clips."""
        return masks.sample(
            key,
            rows,
            self.grid,
            decided(self.mask, "method.mask"),
            kind=self.mask_kind,
            sizes=self.cluster,
            mode=self.cluster_mode,
        )

    def patches(self, spec: Array) -> Array:
        """The patches ``[b n p]`` of spectrograms ``[b t f c]``."""
        return patchify(spec, patch=self.geometry.patch, order=self.order)

    def unpatched(self, tokens: Array) -> Array:
        """The inverse of :meth:`patches`."""
        size = (self.grid.time, self.grid.freq)
        return unpatchify(tokens, grid=size, patch=self.geometry.patch, order=self.order)


class _Net(nn.Module):
    """Trunk, mask token and the two heads, named as in the paper (figure 1)."""

    cfg: SSAST

    def setup(self):
        cfg = self.cfg
        self.trunk = cfg.trunk
        width = cfg.encoder.width
        # Xavier's normal for the released shape (1, 1, width), whose fans are both the width.
        init = nn.initializers.normal(width**-0.5)
        self.mask_token = self.param("mask_token", init, (1, width))
        size = cfg.geometry.patch_size
        if cfg.objective != "generative":
            self.classification_head = MLPHead(width, size)
        if cfg.objective != "discriminative":
            self.reconstruction_head = MLPHead(width, size)

    def __call__(self, spec: Array, mask: Mask, *, train: bool = False) -> Array:
        """States ``[r*b m d]`` of the masked tokens; ``mask`` has r rows for each clip, side by
        side."""
        tokens = self.trunk.embed_under(spec, mask)
        tokens = jnp.repeat(tokens, mask.masked.shape[0] // tokens.shape[0], axis=0)
        tokens = jnp.where(mask.is_masked[..., None], self.mask_token[None], tokens)
        _, states, _ = self.trunk.encode(tokens, train=train)
        return masked_tokens(states, mask)

    def predict(self, spec: Array, mask: Mask, *, train: bool = False) -> Patches:
        """Predicted patches by task."""
        cfg = self.cfg
        states = self(spec, mask, train=train)
        if cfg.objective == "discriminative":
            return {"classification": self.classification_head(states)}
        if cfg.objective == "generative":
            return {"reconstruction": self.reconstruction_head(states)}
        first, last = split_passes(states, spec.shape[0])
        return {
            "classification": self.classification_head(first),
            "reconstruction": self.reconstruction_head(last),
        }


def split_passes(x: Array, rows: int) -> tuple[Array, Array]:
    """The first and the last ``[b ...]`` of the passes of a clip, which lie side by side in
    ``x``."""
    x = x.reshape(rows, x.shape[0] // rows, *x.shape[1:])
    return x[:, 0], x[:, -1]
