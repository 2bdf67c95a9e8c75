"""Audio-MAE (facebookresearch/AudioMAE, ``.pth``): pre-trained with its decoder, or fine-tuned."""

from __future__ import annotations

from collections.abc import Iterator

from jfreq.config import replace
from jfreq.methods.audiomae import AudioMAE
from jfreq.methods.supervised import Classify
from jfreq.nn.vit import ViT
from jfreq.nn.window_decoder import WindowDecoder
from jfreq.weights.maps import (
    Entry,
    blocks,
    classifier,
    linear,
    norm,
    patch_embed,
    patch_values,
    positions,
    reshaped,
    window_blocks,
)
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
    depth_of,
    fbank,
    head_of,
    lattice_of,
    shape_of,
    vit_of,
)

DECODER = "decoder_"
"""What the names of the decoder's tensors begin with."""
TEMPERATURE = f"{DECODER}blocks.0.attn.tau"
"""Only a decoder of windows has one."""
DECODER_HEADS = 16
"""Of a decoder without windows; no tensor says so."""


def matches(file: WeightFile) -> bool:
    names = file.tensors
    shape = getattr(names.get("patch_embed.proj.weight"), "shape", ())
    tuned = "fc_norm.weight" in names and "head.weight" in names
    return len(shape) == 4 and shape[1] == 1 and (tuned or f"{DECODER}pos_embed" in names)


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
    method = AudioMAE(
        frontend=fbank(UNKNOWN),
        frames=lattice.frames,
        patch=patch,
        stride=lattice.stride,
        positions="learned",
        encoder=encoder,
        pool=options.pool or "mean",
        padding="attended",
    )
    if f"{DECODER}pos_embed" in file.tensors:
        decoder = _decoder(file)
        method = replace(method, decoder=decoder)
        entries = trunk_entries("trunk", encoder, patch, lattice)
        entries += decoder_entries(decoder, width, patch, lattice)
        return Found(method, lattice.frames, entries, assumed=_assumed(decoder))
    encoder = replace(encoder, final_norm=False)
    classes = shape_of(file, "head.weight", 2)[0]
    task = TASKS.get(classes, UNKNOWN)
    method = replace(method, frontend=fbank(task), encoder=encoder)
    entries = trunk_entries("backbone/trunk", encoder, patch, lattice)
    entries += classifier("fc_norm", "head", width, classes)
    head = head_of(classes, task, options.labels, eps=1e-6)
    return Found(
        Classify(backbone=method, head=head),
        lattice.frames,
        entries,
        options.labels,
        assumed_constants(classes),
    )


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


def _decoder(file: WeightFile) -> WindowDecoder | ViT:
    """The decoder, whose windows and shifts are those of the release: no tensor says them."""
    width = shape_of(file, f"{DECODER}embed.weight", 2)[0]
    depth = depth_of(file, f"{DECODER}blocks.")
    ratio = shape_of(file, f"{DECODER}blocks.0.mlp.fc1.weight", 2)[0] / width
    if TEMPERATURE not in file.tensors:
        return ViT(width, depth, DECODER_HEADS, mlp_ratio=ratio)
    hidden = shape_of(file, f"{DECODER}blocks.0.attn.meta_mlp.fc1.weight", 2)[0]
    heads = shape_of(file, TEMPERATURE, 1)[0]
    return WindowDecoder(width, depth, heads, mlp_ratio=ratio, bias_width=hidden)


def decoder_entries(
    decoder: WindowDecoder | ViT, width: int, patch: tuple[int, int], lattice: Lattice
) -> Iterator[Entry]:
    """The decoder of an encoder of ``width``."""
    inner, table, ours = decoder.width, f"{DECODER}pos_embed", "decoder/transformer/blocks"
    special = isinstance(decoder, ViT)
    yield from linear("decoder/embed", f"{DECODER}embed", width, inner)
    yield reshaped("decoder/mask_token", "mask_token", (1, 1, inner), (1, inner))
    yield from positions(
        "decoder/positions", table, 1, lattice.grid, inner, time_major=True, read=special
    )
    if isinstance(decoder, WindowDecoder):
        yield from window_blocks(ours, decoder, DECODER)
    else:
        yield from blocks(ours, decoder, DECODER)
    yield from norm("decoder/transformer/norm", f"{DECODER}norm", inner)
    yield from patch_values("decoder/reconstruction", f"{DECODER}pred", inner, patch)


def _assumed(decoder: WindowDecoder | ViT) -> tuple[str, ...]:
    if isinstance(decoder, ViT):
        return (f"the decoder has {decoder.heads} attention heads",)
    (time, freq), shift = decoder.window, decoder.shift
    return (
        f"the decoder attends in windows of {time} x {freq} patches, every second block shifted by "
        f"{shift[0]} in time",
    )


RELEASE = Release(
    "Audio-MAE",
    "Audio-MAE of facebookresearch/AudioMAE, pre-trained or fine-tuned (.pth)",
    frozenset({"pool", "heads", "frames", "stride", "labels"}),
    matches,
    read,
)
