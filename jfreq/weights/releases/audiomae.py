"""Audio-MAE (facebookresearch/AudioMAE, ``.pth``): the encoder, pre-trained or fine-tuned."""

from __future__ import annotations

from typing import Any

from jfreq.config import replace
from jfreq.methods.ast import AST
from jfreq.methods.ssast import SSAST
from jfreq.nn.vit import ViT
from jfreq.weights.maps import Entry, blocks, classifier, norm, patch_embed, positions, reshaped
from jfreq.weights.read import WeightFile
from jfreq.weights.release import (
    BINS,
    TASKS,
    UNKNOWN,
    Found,
    Lattice,
    Options,
    Release,
    assumed_constants,
    fbank,
    head_of,
    lattice_of,
    shape_of,
    vit_of,
)


def matches(file: WeightFile) -> bool:
    names = file.tensors
    shape = getattr(names.get("patch_embed.proj.weight"), "shape", ())
    tuned = "fc_norm.weight" in names and "head.weight" in names
    return len(shape) == 4 and shape[1] == 1 and (tuned or "decoder_pos_embed" in names)


def read(file: WeightFile, options: Options) -> Found:
    width, _, *sides = shape_of(file, "patch_embed.proj.weight", 4)
    patch = (sides[0], sides[1])
    lattice = lattice_of(
        shape_of(file, "pos_embed", 3)[1] - 1,
        patch,
        bins=BINS,
        strides=(patch,),
        options=options,
        where=file.path,
    )
    encoder = vit_of(file, "", width, options)
    common: dict[str, Any] = {
        "frames": lattice.frames,
        "patch": patch,
        "stride": lattice.stride,
        "order": "time_major",
        "special_tokens": 1,
        "pool": options.pool or "mean",
        "padding": "attended",
    }
    if "decoder_pos_embed" in file.tensors:
        entries = trunk_entries("trunk", encoder, patch, lattice)
        method = SSAST(frontend=fbank(UNKNOWN), encoder=encoder, **common)
        return Found(method, lattice.frames, entries)
    encoder = replace(encoder, final_norm=False)
    classes = shape_of(file, "head.weight", 2)[0]
    task = TASKS.get(classes, UNKNOWN)
    head = head_of(classes, task, options.labels)
    method = AST(frontend=fbank(task), encoder=encoder, head=head, **common)
    entries = trunk_entries("backbone/trunk", encoder, patch, lattice)
    entries += classifier("fc_norm", "head", width, classes)
    return Found(method, lattice.frames, entries, options.labels, assumed_constants(classes))


def trunk_entries(ours: str, encoder: ViT, patch: tuple[int, int], lattice: Lattice) -> list[Entry]:
    """The encoder, with the positions that the file holds: they are not the sines of its grid."""
    width, shape = encoder.width, (1, 1, encoder.width)
    table = positions(f"{ours}/positions", "pos_embed", 1, lattice.grid, width, time_major=True)
    last = norm(f"{ours}/encoder/norm", "norm", width) if encoder.final_norm else ()
    return [
        *patch_embed(f"{ours}/patch_embed", "patch_embed.proj", patch, width, time_first=True),
        reshaped(f"{ours}/special_tokens", "cls_token", shape, shape[1:]),
        *table,
        *blocks(f"{ours}/encoder/blocks", encoder, ""),
        *last,
    ]


RELEASE = Release(
    "Audio-MAE",
    "the encoder of Audio-MAE of facebookresearch/AudioMAE, pre-trained or fine-tuned (.pth)",
    frozenset({"pool", "heads", "frames", "stride", "labels"}),
    matches,
    read,
)
