"""SSAST as pre-trained (YuanGongND/ssast, ``.pth``), of patches or of frames."""

from __future__ import annotations

from jfreq.methods.ssast import SSAST
from jfreq.ops.patch import grid_shape
from jfreq.types import InputError
from jfreq.weights.maps import linear, reshaped
from jfreq.weights.read import WeightFile
from jfreq.weights.release import UNKNOWN, Found, Lattice, Options, Release, fbank, shape_of, vit_of
from jfreq.weights.releases import ast

SIZE = ("p_input_fdim", "p_input_tdim")
"""Scalars of the file: bins and frames of the spectrograms."""


def matches(file: WeightFile) -> bool:
    return "mask_embed" in file.tensors and "cpredlayer.0.weight" in file.tensors


def read(file: WeightFile, options: Options) -> Found:
    width, _, *sides = shape_of(file, "v.patch_embed.proj.weight", 4)
    patch = (sides[1], sides[0])
    for name in SIZE:
        shape_of(file, name, 0)
    bins, frames = (int(file.tensors[name]) for name in SIZE)
    if not (0 < bins <= 4096 and 0 < frames <= 1 << 20):
        raise InputError(f"{file.path}: states spectrograms of {frames} frames x {bins} bins")
    lattice = Lattice(frames, patch, grid_shape(frames, bins, patch=patch, stride=patch))
    special = ast.special_of(file)
    encoder = vit_of(file, "v.", width, options)
    square = patch[0] == patch[1]
    method = SSAST(
        frontend=fbank(UNKNOWN, n_mels=bins),
        frames=frames,
        patch=patch,
        special_tokens=special,
        encoder=encoder,
        pool=options.pool or "mean",
        padding="attended",
        mask_kind="cluster" if square else "random",
        cluster_mode="official",
        info_nce="official",
    )
    size = patch[0] * patch[1]
    shape, final = (1, 1, width), (1, width)
    heads = {"classification_head": "cpredlayer", "reconstruction_head": "gpredlayer"}
    entries = [
        *ast.trunk_entries("trunk", encoder, patch, lattice, special),
        reshaped("mask_token", "mask_embed", shape, final),
    ]
    for ours, theirs in heads.items():
        entries += linear(f"{ours}/hidden", f"{theirs}.0", width, width)
        entries += linear(f"{ours}/out", f"{theirs}.2", width, size)
    return Found(method, frames, entries, replaced=SIZE)


RELEASE = Release(
    "SSAST",
    "SSAST as pre-trained by YuanGongND/ssast (.pth)",
    frozenset({"pool", "heads"}),
    matches,
    read,
)
