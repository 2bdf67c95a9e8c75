"""Maps between the tensors of a release and the parameters of jfreq, in both directions.

An :class:`Entry` says which tensors become which parameter: joined, cut, reshaped, transposed and
reshaped again. Nothing else happens to a number, so that every map has an inverse.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jfreq import param_paths
from jfreq.nn.vit import ViT
from jfreq.nn.window_decoder import WindowDecoder
from jfreq.ranges import shortlist
from jfreq.types import InputError, PyTree

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One parameter, or one layer of it, and the tensors that it comes from."""

    ours: str
    """Path of the parameter."""
    theirs: tuple[str, ...]
    """Names of the tensors, all of one shape, joined along their axis ``join``."""
    each: Shape
    """Shape of each tensor."""
    split: Shape
    """The joined (and cut) tensor is reshaped to this,"""
    order: Shape
    """transposed by this,"""
    final: Shape
    """and reshaped to this."""
    join: int = 0
    rows: tuple[int, int] | None = None
    """First and last (exclusive) index along axis 1 of a tensor that holds more than one
    parameter."""
    layer: int | None = None
    """Number of the layer in a parameter of stacked layers."""


def plain(ours: str, theirs: str, *shape: int, layer: int | None = None) -> Entry:
    """A tensor that is taken as it is."""
    return Entry(ours, (theirs,), shape, shape, tuple(range(len(shape))), shape, layer=layer)


def reshaped(ours: str, theirs: str, each: Shape, final: Shape, layer: int | None = None) -> Entry:
    """A tensor in another shape, its numbers in the same order."""
    return Entry(ours, (theirs,), each, each, tuple(range(len(each))), final, layer=layer)


def linear(ours: str, theirs: str, inputs: int, outputs: int, layer: int | None = None):
    """``weight`` ``[out in]`` and ``bias`` of a torch Linear as ``kernel`` ``[in out]`` and
    ``bias``."""
    kernel, shape = f"{ours}/kernel", (outputs, inputs)
    yield Entry(kernel, (f"{theirs}.weight",), shape, shape, (1, 0), shape[::-1], layer=layer)
    yield plain(f"{ours}/bias", f"{theirs}.bias", outputs, layer=layer)


def norm(ours: str, theirs: str, width: int, layer: int | None = None):
    """``weight`` and ``bias`` of a LayerNorm as ``scale`` and ``bias``."""
    yield plain(f"{ours}/scale", f"{theirs}.weight", width, layer=layer)
    yield plain(f"{ours}/bias", f"{theirs}.bias", width, layer=layer)


def patch_embed(ours: str, theirs: str, patch: tuple[int, int], width: int, *, time_first: bool):
    """The convolution ``[d 1 f t]`` (``time_first``: ``[d 1 t f]``) of patches ``(time, freq)``
    as ``kernel`` ``[f*t d]`` and ``bias``."""
    yield patch_kernel(ours, theirs, patch, width, time_first=time_first)
    yield plain(f"{ours}/bias", f"{theirs}.bias", width)


def patch_kernel(
    ours: str, theirs: str, patch: tuple[int, int], width: int, *, time_first: bool
) -> Entry:
    """Its ``kernel`` alone."""
    time, freq = patch
    each = (width, 1, time, freq) if time_first else (width, 1, freq, time)
    order = (3, 2, 1, 0) if time_first else (2, 3, 1, 0)
    name = (f"{theirs}.weight",)
    return Entry(f"{ours}/kernel", name, each, each, order, (time * freq, width))


def positions(
    ours: str,
    theirs: str,
    special: int,
    grid: tuple[int, int],
    width: int,
    *,
    time_major: bool,
    read: bool = True,
):
    """The table ``[1 s+n d]`` as ``special`` ``[s d]`` and ``grid`` ``[f t d]``; ``grid`` is
    (time, freq), ``time_major`` the order of the tokens in the table, and ``special`` is left out
    where nothing would ``read`` it."""
    time, freq = grid
    total = special + time * freq
    each = (1, total, width)
    first = (1, special, width)
    if special and read:
        name = (theirs,)
        yield Entry(f"{ours}/special", name, each, first, (0, 1, 2), first[1:], rows=(0, special))
    split = (time, freq, width) if time_major else (freq, time, width)
    order = (1, 0, 2) if time_major else (0, 1, 2)
    final = (freq, time, width)
    yield Entry(f"{ours}/grid", (theirs,), each, split, order, final, rows=(special, total))


def patch_values(ours: str, theirs: str, inputs: int, patch: tuple[int, int]):
    """A Linear whose outputs are the values of a patch (time, freq), in that order, as ``kernel``
    ``[d f*t]`` and ``bias``."""
    time, freq = patch
    size = time * freq
    kernel, weight = f"{ours}/kernel", (f"{theirs}.weight",)
    split = (time, freq, inputs)
    yield Entry(kernel, weight, (size, inputs), split, (2, 1, 0), (inputs, size))
    yield Entry(f"{ours}/bias", (f"{theirs}.bias",), (size,), split[:2], (1, 0), (size,))


def attention_in(
    ours: str, theirs: Sequence[str], width: int, heads: int, layer: int | None = None
):
    """Queries, keys and values, as one Linear ``[3 d d]`` or as three, as ``kernel``
    ``[d 3 h k]`` and ``bias`` ``[3 h k]``."""
    outputs, size = 3 * width // len(theirs), width // heads
    yield Entry(
        f"{ours}/kernel",
        tuple(f"{name}.weight" for name in theirs),
        (outputs, width),
        (3 * width, width),
        (1, 0),
        (width, 3, heads, size),
        layer=layer,
    )
    yield Entry(
        f"{ours}/bias",
        tuple(f"{name}.bias" for name in theirs),
        (outputs,),
        (3 * width,),
        (0,),
        (3, heads, size),
        layer=layer,
    )


def attention_out(ours: str, theirs: str, width: int, heads: int, layer: int | None = None):
    """The Linear after attention as ``kernel`` ``[h k d]`` and ``bias``."""
    shape, final = (width, width), (heads, width // heads, width)
    name = (f"{theirs}.weight",)
    yield Entry(f"{ours}/kernel", name, shape, shape, (1, 0), final, layer=layer)
    yield plain(f"{ours}/bias", f"{theirs}.bias", width, layer=layer)


@dataclasses.dataclass(frozen=True)
class BlockNames:
    """What the parts of a transformer block are called; ``{}`` is the number of the block."""

    norm1: str
    qkv: tuple[str, ...]
    proj: str
    norm2: str
    fc1: str
    fc2: str


TIMM = BlockNames(
    "blocks.{}.norm1",
    ("blocks.{}.attn.qkv",),
    "blocks.{}.attn.proj",
    "blocks.{}.norm2",
    "blocks.{}.mlp.fc1",
    "blocks.{}.mlp.fc2",
)


def blocks(ours: str, encoder: ViT | WindowDecoder, prefix: str, names: BlockNames = TIMM):
    """The blocks of ``encoder``, stacked, whose tensors begin with ``prefix``."""
    width, heads = encoder.width, encoder.heads
    hidden = round(width * encoder.mlp_ratio)
    for i in range(encoder.depth):
        qkv = [prefix + name.format(i) for name in names.qkv]
        yield from norm(f"{ours}/norm1", prefix + names.norm1.format(i), width, i)
        yield from attention_in(f"{ours}/qkv", qkv, width, heads, i)
        yield from attention_out(f"{ours}/proj", prefix + names.proj.format(i), width, heads, i)
        yield from norm(f"{ours}/norm2", prefix + names.norm2.format(i), width, i)
        yield from linear(f"{ours}/fc1", prefix + names.fc1.format(i), width, hidden, i)
        yield from linear(f"{ours}/fc2", prefix + names.fc2.format(i), hidden, width, i)


def window_blocks(ours: str, decoder: WindowDecoder, prefix: str):
    """The blocks of ``decoder``, as the code of Audio-MAE names them."""
    yield from blocks(ours, decoder, prefix)
    for i in range(decoder.depth):
        theirs = f"{prefix}blocks.{i}.attn"
        yield plain(f"{ours}/temperature", f"{theirs}.tau", decoder.heads, layer=i)
        hidden = decoder.bias_width
        yield from linear(f"{ours}/bias_in", f"{theirs}.meta_mlp.fc1", 2, hidden, i)
        yield from linear(f"{ours}/bias_out", f"{theirs}.meta_mlp.fc2", hidden, decoder.heads, i)


def position_conv(ours: str, theirs: str, width: int, groups: int, taps: int):
    """A weight-normed convolution along the tokens: ``weight_v`` ``[d c k]`` as ``kernel``
    ``[k c d]``, ``weight_g`` ``[1 1 k]`` as ``scale`` ``[k]``, and ``bias``."""
    each, name = (width, width // groups, taps), (f"{theirs}.weight_v",)
    yield Entry(f"{ours}/kernel", name, each, each, (2, 1, 0), each[::-1])
    yield reshaped(f"{ours}/scale", f"{theirs}.weight_g", (1, 1, taps), (taps,))
    yield plain(f"{ours}/bias", f"{theirs}.bias", width)


def classifier(first: str, last: str, width: int, classes: int):
    """The layer norm ``first`` and the Linear ``last`` as the ``head`` of a classifier."""
    yield from norm("head/norm", first, width)
    yield from linear("head/linear", last, width, classes)


# ------------------------------------------------------------------ both directions


def to_params(entries: Iterable[Entry], tensors: Mapping[str, Any], where: str) -> PyTree:
    """The parameters, float32, that the ``tensors`` of the file ``where`` hold.

    Raises:
      InputError: for tensors that are missing, of another shape, or not of floating-point numbers.
    """
    entries = list(entries)
    missing = sorted({name for e in entries for name in e.theirs} - tensors.keys())
    if missing:
        raise InputError(f"{where}: lacks {shortlist(missing, 3)}; it is incomplete, copy it again")
    whole: dict[str, np.ndarray] = {}
    layers: dict[str, list[np.ndarray]] = {}
    for entry in entries:
        parts = [_checked(entry, name, tensors[name], where) for name in entry.theirs]
        x = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=entry.join)
        if entry.rows is not None:
            x = x[:, slice(*entry.rows)]
        x = x.reshape(entry.split).transpose(entry.order).reshape(entry.final)
        x = np.ascontiguousarray(x, np.float32)
        if entry.layer is None:
            whole[entry.ours] = x
        else:
            layers.setdefault(entry.ours, []).append(x)
    return param_paths.unflatten(whole | {path: np.stack(xs) for path, xs in layers.items()})


def _checked(entry: Entry, name: str, x: Any, where: str) -> np.ndarray:
    if x.shape != entry.each:
        raise InputError(
            f"{where}: {name} has the shape {list(x.shape)}, but the other tensors ask for "
            f"{list(entry.each)}; its geometry is not one that is read"
        )
    if x.dtype.kind != "f":
        raise InputError(
            f"{where}: {name} holds {x.dtype}, not floating-point numbers; give the file of its "
            "owners, not a quantised or converted one"
        )
    return x


def to_tensors(entries: Iterable[Entry], params: PyTree) -> dict[str, np.ndarray]:
    """The inverse of :func:`to_params`: the tensors of a release, float32. Rows of a tensor that no
    parameter has are 0."""
    flat = param_paths.flatten(params)
    tensors: dict[str, np.ndarray] = {}
    for entry in entries:
        x = np.asarray(flat[entry.ours], np.float32)
        x = x if entry.layer is None else x[entry.layer]
        transposed = tuple(entry.split[i] for i in entry.order)
        x = x.reshape(transposed).transpose(np.argsort(entry.order))
        if entry.rows is not None:
            first, last = entry.rows
            whole = tensors.setdefault(entry.theirs[0], np.zeros(entry.each, np.float32))
            whole[:, first:last] = x.reshape(entry.each[0], last - first, *entry.each[2:])
            continue
        joined = list(entry.each)
        joined[entry.join] *= len(entry.theirs)
        split = np.split(x.reshape(joined), len(entry.theirs), axis=entry.join)
        tensors |= {name: np.ascontiguousarray(part) for name, part in zip(entry.theirs, split)}
    return tensors
