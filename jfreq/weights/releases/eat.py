"""EAT (cwx-worst-one/EAT, fairseq's ``.pt``): student or average teacher, and fine-tuned models."""

from __future__ import annotations

from typing import Any

import numpy as np

from jfreq.config import replace
from jfreq.methods.eat import EAT
from jfreq.methods.supervised import Classify
from jfreq.nn.predictors import ConvDecoder
from jfreq.nn.vit import ViT
from jfreq.ops.posemb import sincos_tokens
from jfreq.types import InputError, TokenGrid
from jfreq.weights.maps import Entry, blocks, linear, norm, patch_embed, plain, reshaped
from jfreq.weights.read import WeightFile
from jfreq.weights.release import (
    BINS,
    TASKS,
    Found,
    Options,
    Release,
    Task,
    assumed_constants,
    depth_of,
    fbank,
    head_of,
    shape_of,
    vit_of,
)

IMAGE = "modality_encoders.IMAGE."
PATCHES = f"{IMAGE}local_encoder.proj"
DECODER = f"{IMAGE}decoder"
POSITIONS = f"{IMAGE}fixed_positional_encoder.positions"
TEACHER = "_ema."
CLASSIFIER = "model."
"""What the names of the encoder begin with in a fine-tuned model."""
AUDIOSET = Task(-4.268, 4.569, 1024, "bce", multi_label=True)
RELEASED_TASKS = {
    527: AUDIOSET,
    50: TASKS[50]._replace(mean=-6.627, std=5.359),
    35: TASKS[35]._replace(mean=-6.846, std=5.565),
}
"""The release rounds the constants of the front end."""
LARGE: dict[str, Any] = {"mask_ratio": 0.75, "adjust": 0.1, "ema_steps": 150_000}
"""How EAT-large was trained, where it differs from base."""


def matches(file: WeightFile) -> bool:
    return any(f"{prefix}{PATCHES}.weight" in file.tensors for prefix in ("", CLASSIFIER))


def read(file: WeightFile, options: Options) -> Found:
    tuned = f"{CLASSIFIER}{PATCHES}.weight" in file.tensors
    prefix = CLASSIFIER if tuned else TEACHER if options.part == "teacher" else ""
    _check(file, prefix, options)
    width, _, *patch = shape_of(file, f"{prefix}{PATCHES}.weight", 4)
    patch = (patch[0], patch[1])
    special = shape_of(file, f"{prefix}{IMAGE}extra_tokens", 3)[1]
    encoder = vit_of(file, prefix, width, options, norm="post")
    classes = shape_of(file, "head.weight", 2)[0] if tuned else 0
    task = RELEASED_TASKS.get(classes, AUDIOSET._replace(loss="ce", multi_label=False))
    frames = options.frames or task.frames
    replaced = _same_positions(file, prefix, frames // patch[0], BINS // patch[1], width)
    method = EAT(
        frontend=fbank(task),
        frames=frames,
        patch=patch,
        special_tokens=special,
        encoder=encoder,
        pool=options.pool or "special",
        padding="attended",
        **(LARGE if width >= 1024 else {}),
    )
    assumed = (
        f"windows have {frames} frames; its positions suit any (--frames)",
        *assumed_constants(classes),
    )
    if tuned:
        trunk = trunk_entries("backbone/trunk", encoder, patch, special, prefix)
        head = [*linear("head/linear", "head", width, classes)]
        normed = "fc_norm.weight" in file.tensors
        head += norm("head/norm", "fc_norm", width) if normed else ()
        tuned_head = head_of(classes, task, options.labels, norm=normed, eps=1e-6)
        method = Classify(backbone=method, head=tuned_head)
        return Found(method, frames, [*trunk, *head], options.labels, assumed, replaced)
    entries = trunk_entries("trunk", encoder, patch, special, prefix)
    if options.part == "student" and f"{DECODER}.proj.weight" in file.tensors:
        decoder, more = _decoder(file, width)
        method = replace(method, decoder=decoder)
        entries += more
    return Found(method, frames, entries, (), assumed, replaced)


def trunk_entries(
    ours: str, encoder: ViT, patch: tuple[int, int], special: int, prefix: str
) -> list[Entry]:
    """The encoder of the image branch of data2vec 2.0, whose tensors begin with ``prefix``."""
    width, image = encoder.width, f"{prefix}{IMAGE}"
    shape = (1, special, width)
    return [
        *patch_embed(f"{ours}/patch_embed", prefix + PATCHES, patch, width, time_first=True),
        reshaped(f"{ours}/special_tokens", f"{image}extra_tokens", shape, shape[1:]),
        *norm(f"{ours}/encoder/norm", f"{image}context_encoder.norm", width),
        *blocks(f"{ours}/encoder/blocks", encoder, prefix),
    ]


def _check(file: WeightFile, prefix: str, options: Options) -> None:
    """Raises ``InputError`` for models of the same code that are not EAT."""
    if options.part == "teacher" and f"{TEACHER}{PATCHES}.weight" not in file.tensors:
        raise InputError(f"{file.path}: holds no teacher (_ema); take the student")
    blocks = f"{prefix}{IMAGE}context_encoder.blocks."
    for name in file.tensors:
        if name.startswith(blocks) or name == f"{prefix}{IMAGE}alibi_scale":
            raise InputError(
                f"{file.path}: has {name}: it looks like a data2vec 2.0 of another form than EAT, "
                "which is not read"
            )


def _same_positions(
    file: WeightFile, prefix: str, time: int, freq: int, width: int
) -> tuple[str, ...]:
    """Names of the stored positions, once they are seen to be the sines that jfreq computes."""
    names = tuple(name for name in file.tensors if name.endswith(POSITIONS))
    for name in names:
        table = np.asarray(file.tensors[name])
        sines = sincos_tokens(TokenGrid(time, freq, "time_major"), width)
        if table.ndim != 3 or table.shape[1] < len(sines) or table.shape[2] != width:
            raise InputError(
                f"{file.path}: {name} has the shape {list(table.shape)}, which does not hold "
                f"{time} x {freq} positions of width {width}"
            )
        if not np.allclose(table[0, : len(sines)], sines, atol=2e-3):
            raise InputError(f"{file.path}: {name} are not the sines of EAT; they cannot be kept")
    return names


def _decoder(file: WeightFile, width: int) -> tuple[ConvDecoder, list[Entry]]:
    """The convolutions of the student."""
    depth = depth_of(file, f"{DECODER}.blocks.")
    shapes = [shape_of(file, f"{DECODER}.blocks.{i}.0.weight", 4) for i in range(depth)]
    out, inner, side, _ = shapes[0]
    decoder = ConvDecoder(width=out, depth=depth, kernel=side, groups=max(1, width // inner))
    entries = []
    for i in range(depth):
        first = i == 0 and out != width
        ours = "decoder/first" if first else "decoder/blocks"
        layer = None if first else i - (out != width)
        shape = (out, (width if i == 0 else out) // decoder.groups, side, side)
        final = (*shape[2:], *shape[1::-1])
        name = f"{DECODER}.blocks.{i}.0"
        kernel = (f"{name}.weight",)
        entries.append(
            Entry(f"{ours}/kernel", kernel, shape, shape, (2, 3, 1, 0), final, layer=layer)
        )
        entries.append(plain(f"{ours}/bias", f"{name}.bias", out, layer=layer))
    return decoder, [*entries, *linear("decoder/out", f"{DECODER}.proj", out, width)]


RELEASE = Release(
    "EAT",
    "EAT of cwx-worst-one/EAT, pre-trained (student, or --part teacher) or fine-tuned (.pt)",
    frozenset({"part", "pool", "heads", "frames", "labels"}),
    matches,
    read,
)
