"""A vision transformer of ImageNet (DeiT, ViT; timm's names) as the start of an AST (Gong, Chung,
Glass, Interspeech 2021, section 2.2)."""

from __future__ import annotations

from typing import Any

import numpy as np

from jfreq.methods.ssast import SSAST
from jfreq.ops.patch import grid_shape
from jfreq.ops.posemb import resize_positions
from jfreq.ranges import shortlist
from jfreq.types import InputError
from jfreq.weights.read import WeightFile
from jfreq.weights.release import (
    BINS,
    UNKNOWN,
    Found,
    Lattice,
    Options,
    Release,
    fbank,
    shape_of,
    vit_of,
)
from jfreq.weights.releases import ast

COLOURS = 3
PATCHES = "patch_embed.proj.weight"
STRIDE = (10, 10)
"""Frames and bins between patches, as AST is published."""


def matches(file: WeightFile) -> bool:
    names = file.tensors
    shape = getattr(names.get(PATCHES), "shape", ())
    known = ("cls_token", "pos_embed", "norm.weight", "blocks.0.attn.qkv.weight")
    return len(shape) == 4 and shape[1] == COLOURS and all(name in names for name in known)


def read(file: WeightFile, options: Options) -> Found:
    width, _, *sides = shape_of(file, PATCHES, 4)
    patch = (sides[1], sides[0])
    special = ast.special_of(file, "")
    frames, stride = options.frames or UNKNOWN.frames, options.stride or STRIDE
    lattice = Lattice(frames, stride, grid_shape(frames, BINS, patch=patch, stride=stride))
    encoder = vit_of(file, "", width, options)
    method = SSAST(
        frontend=fbank(UNKNOWN),
        frames=frames,
        patch=patch,
        stride=stride,
        special_tokens=special,
        encoder=encoder,
        pool=options.pool or "special",
        padding="attended",
    )
    entries = ast.trunk_entries("trunk", encoder, patch, lattice, special, prefix="")
    _check(file, {name for entry in entries for name in entry.theirs})
    side = _side(file, special)
    time, freq = lattice.grid
    tensors = {
        **file.tensors,
        PATCHES: file.tensors[PATCHES].sum(axis=1, keepdims=True),
        "pos_embed": _positions(file.tensors["pos_embed"], special, side, lattice),
    }
    return Found(
        method,
        frames,
        entries,
        assumed=(
            f"patches of images as patches of spectrograms: {COLOURS} colours are added, positions "
            f"cut or stretched from {side} x {side} to {time} x {freq} (time x frequency)",
            f"windows have {frames} frames, patches lie {stride[0]} frames and {stride[1]} bins "
            "apart (--frames, --stride)",
        ),
        converted=tensors,
    )


def _check(file: WeightFile, read: set[str]) -> None:
    """Raises ``InputError`` for transformers with parts that an AST does not have."""
    parts = ("blocks.", "norm_pre.", "reg_token")
    left = [name for name in file.tensors if name.startswith(parts) and name not in read]
    if left:
        raise InputError(
            f"{file.path}: has {shortlist(left, 3)}, which an AST has not; only the blocks of DeiT "
            "and ViT are read"
        )


def _side(file: WeightFile, special: int) -> int:
    """Patches along a side of the images."""
    count = shape_of(file, "pos_embed", 3)[1] - special
    side = round(max(0, count) ** 0.5)
    if side < 1 or side**2 != count:
        raise InputError(
            f"{file.path}: pos_embed has {count} positions beside its {special} special tokens, "
            "which are no square of patches; only models of square images are read"
        )
    return side


def _positions(table: Any, special: int, side: int, lattice: Lattice) -> np.ndarray:
    """The table ``[1 s+n d]`` for another grid, as AST cuts and stretches it."""
    table = np.asarray(table, np.float32)
    time, freq = lattice.grid
    grid = table[0, special:].reshape(side, side, -1)
    grid = np.asarray(resize_positions(grid, (freq, time)))
    rows = [table[0, :special], grid.reshape(freq * time, -1)]
    return np.concatenate(rows)[None]


RELEASE = Release(
    "DeiT",
    "DeiT or ViT of ImageNet, timm's names, as the start of an AST (.pth, .safetensors)",
    frozenset({"pool", "heads", "frames", "stride"}),
    matches,
    read,
)
