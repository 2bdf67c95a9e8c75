"""AST (YuanGongND/ast, ``.pth``), and SSAST once it is fine-tuned, whose files have its layout."""

from __future__ import annotations

from jfreq.methods.ast import AST
from jfreq.nn.vit import ViT
from jfreq.weights.maps import Entry, blocks, classifier, norm, patch_embed, positions
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
    return "v.pos_embed" in file.tensors and "mlp_head.1.weight" in file.tensors


def read(file: WeightFile, options: Options) -> Found:
    width, _, *sides = shape_of(file, "v.patch_embed.proj.weight", 4)
    patch = (sides[1], sides[0])
    special = special_of(file)
    lattice = lattice_of(
        shape_of(file, "v.pos_embed", 3)[1] - special,
        patch,
        bins=BINS,
        strides=((10, 10), patch) if patch == (16, 16) else (patch, (1, patch[1])),
        options=options,
        where=file.path,
    )
    classes = shape_of(file, "mlp_head.1.weight", 2)[0]
    task = TASKS.get(classes, UNKNOWN)
    pool = options.pool or ("special" if patch == (16, 16) and special == 2 else "mean")
    encoder = vit_of(file, "v.", width, options)
    method = AST(
        frontend=fbank(task),
        frames=lattice.frames,
        patch=patch,
        stride=lattice.stride,
        special_tokens=special,
        encoder=encoder,
        pool=pool,
        padding="attended",
        head=head_of(classes, task, options.labels),
    )
    trunk = trunk_entries("backbone/trunk", encoder, patch, lattice, special)
    vector = "patches" if pool == "mean" else "special tokens"
    assumed = (f"the clip vector is the mean of the {vector} (--pool)",)
    return Found(
        method,
        lattice.frames,
        [*trunk, *classifier("mlp_head.0", "mlp_head.1", width, classes)],
        labels=options.labels,
        assumed=(*assumed, *assumed_constants(classes)),
    )


def special_of(file: WeightFile, prefix: str = "v.") -> int:
    """The number of special tokens: cls and dist, or (``base_nokd``) cls alone."""
    return 2 if f"{prefix}dist_token" in file.tensors else 1


def trunk_entries(
    ours: str,
    encoder: ViT,
    patch: tuple[int, int],
    lattice: Lattice,
    special: int,
    prefix: str = "v.",
) -> list[Entry]:
    """The trunk of AST and SSAST: a DeiT below ``prefix``, tokens in the order of frequency."""
    width = encoder.width
    names = (f"{prefix}cls_token", f"{prefix}dist_token")[:special]
    kernel, table = f"{prefix}patch_embed.proj", f"{prefix}pos_embed"
    shape = (1, special, width)
    tokens = Entry(
        f"{ours}/special_tokens", names, (1, 1, width), shape, (0, 1, 2), shape[1:], join=1
    )
    return [
        *patch_embed(f"{ours}/patch_embed", kernel, patch, width, time_first=False),
        tokens,
        *positions(f"{ours}/positions", table, special, lattice.grid, width, time_major=False),
        *blocks(f"{ours}/encoder/blocks", encoder, prefix),
        *norm(f"{ours}/encoder/norm", f"{prefix}norm", width),
    ]


RELEASE = Release(
    "AST",
    "AST as trained by YuanGongND/ast, and SSAST fine-tuned by YuanGongND/ssast (.pth)",
    frozenset({"pool", "heads", "frames", "stride", "labels"}),
    matches,
    read,
)
