"""What the importers of all releases share: options, geometry from shapes, constants, results."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from jfreq.config import Experiment
from jfreq.frontends.fbank import AUDIOSET_MEAN, AUDIOSET_STD, Fbank
from jfreq.method import Method
from jfreq.methods.supervised import Head
from jfreq.nn.vit import ViT
from jfreq.ops.patch import grid_shape
from jfreq.ranges import Count, brief, checked
from jfreq.types import InputError, PyTree, SignalSpec
from jfreq.weights.maps import Entry
from jfreq.weights.read import WeightFile

BINS = 128
"""Mel bins of every released spectrogram; no tensor says so."""
HEAD_SIZE = 64
"""Width of an attention head in every released ViT; the number of heads is in no tensor."""


@checked
class Options:
    """What a file may leave open. None: as in the release."""

    part: Literal["student", "teacher"] = "student"
    pool: Literal["mean", "special"] | None = None
    heads: Count | None = None
    frames: Count | None = None
    stride: tuple[Count, Count] | None = None
    labels: tuple[str, ...] = ()


class Imported(NamedTuple):
    """An encoder read from a release."""

    experiment: Experiment
    params: PyTree
    notes: tuple[str, ...]
    """What was recognised, what was assumed, and which tensors were not taken."""


class Found(NamedTuple):
    """What a release makes of a file: an open method, and where its parameters come from."""

    method: Method
    frames: int
    """Of a window."""
    entries: Sequence[Entry]
    labels: tuple[str, ...] = ()
    """Names of the classes; empty where there are no classes, or no names."""
    assumed: tuple[str, ...] = ()
    """What the file does not say, in words."""
    replaced: tuple[str, ...] = ()
    """Tensors that the method computes itself, as they are in the file."""
    converted: Mapping[str, np.ndarray] | None = None
    """The tensors that ``entries`` read, where those of the file had to be changed first."""
    signal: SignalSpec | None = None
    """What it reads; None: the sound of the releases."""


class Release(NamedTuple):
    """One layout of files."""

    name: str
    what: str
    """Which files have it."""
    options: frozenset[str]
    """Fields of :class:`Options` that its files leave open."""
    matches: Callable[[WeightFile], bool]
    read: Callable[[WeightFile, Options], Found]


class Task(NamedTuple):
    """A set that released classifiers were trained on, known by its number of classes."""

    mean: float
    std: float
    frames: int
    loss: Literal["ce", "bce"]
    multi_label: bool = False


UNKNOWN = Task(AUDIOSET_MEAN, AUDIOSET_STD, 1024, "ce")
"""What is assumed of other classifiers, and of encoders without one."""
TASKS = {
    527: Task(AUDIOSET_MEAN, AUDIOSET_STD, 1024, "bce", multi_label=True),
    50: Task(-6.6268077, 5.358466, 512, "ce"),
    35: Task(-6.845978, 5.5654526, 128, "bce"),
}
"""AudioSet, ESC-50 and Speech Commands V2, as AST, SSAST and Audio-MAE were trained on them."""


def assumed_constants(classes: int) -> tuple[str, ...]:
    """What is assumed of the front end of a classifier of so many classes, in words."""
    name = {527: "AudioSet", 50: "ESC-50", 35: "Speech Commands V2"}.get(classes)
    return (f"the mean and standard deviation of the front end are those of {name or 'AudioSet'}",)


def class_names(path: Path, text: str) -> tuple[str, ...]:
    """The names in a ``text``, one a line, which is that of the file ``path``.

    Raises:
      InputError: for no names, an empty line before the last name, and a name that comes twice.
    """
    names = tuple(line.strip() for line in text.rstrip().split("\n"))
    if names == ("",):
        raise InputError(f"{path}: names no class; write one name a line")
    lines: dict[str, int] = {}
    for i, name in enumerate(names, 1):
        if not name:
            raise InputError(f"{path}: line {i} is empty; write one name a line")
        if name in lines:
            raise InputError(
                f"{path}: line {i} names {brief(name)} again, as line {lines[name]} does; classes "
                "need different names"
            )
        lines[name] = i
    return names


def head_of(classes: int, task: Task, labels: tuple[str, ...], **changes: Any) -> Head:
    """A classifier of ``classes`` classes, which ``labels`` name, if there are any.

    Raises:
      InputError: for another number of names.
    """
    if labels and len(labels) != classes:
        raise InputError(
            f"labels: there are {len(labels)} names for the {classes} classes of the file; give "
            "one name a line"
        )
    return Head(classes=classes, multi_label=task.multi_label, loss=task.loss, **changes)


def fbank(task: Task, **changes: Any) -> Fbank:
    """The front end of a release."""
    return Fbank(mean=task.mean, std=task.std, **changes)


def heads_of(width: int, options: Options, where: Path) -> int:
    """The number of attention heads of a released width."""
    if options.heads is None and width % HEAD_SIZE:
        raise InputError(
            f"{where}: a width of {width} is not cut into heads of {HEAD_SIZE}; give --heads"
        )
    heads = options.heads or width // HEAD_SIZE
    if width % heads:
        raise InputError(f"heads: {heads} do not divide {width}, the width of the encoder")
    return heads


def depth_of(file: WeightFile, prefix: str) -> int:
    """The number of blocks whose tensors begin with ``prefix`` and a number."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    found = {int(match[1]) for name in file.tensors if (match := pattern.match(name))}
    if not found or found != set(range(len(found))):
        raise InputError(f"{file.path}: blocks are missing below {prefix}; copy it again")
    return len(found)


def shape_of(file: WeightFile, name: str, axes: int) -> tuple[int, ...]:
    """The shape of a tensor that must be there."""
    if name not in file.tensors:
        raise InputError(f"{file.path}: lacks {name}; it is incomplete, copy it again")
    shape = np.shape(file.tensors[name])
    if len(shape) != axes:
        raise InputError(f"{file.path}: {name} has {len(shape)} axes, not {axes}")
    return shape


def vit_of(file: WeightFile, prefix: str, width: int, options: Options, **changes: Any) -> ViT:
    """The transformer whose blocks, named as in timm, begin with ``prefix``."""
    hidden = shape_of(file, f"{prefix}blocks.0.mlp.fc1.weight", 2)[0]
    depth, heads = depth_of(file, f"{prefix}blocks."), heads_of(width, options, file.path)
    return ViT(width, depth, heads, mlp_ratio=hidden / width, **changes)


class Lattice(NamedTuple):
    """Frames of a window and the patches in it; pairs are (time, freq)."""

    frames: int
    stride: tuple[int, int]
    grid: tuple[int, int]


def lattice_of(
    count: int,
    patch: tuple[int, int],
    *,
    bins: int,
    strides: tuple[tuple[int, int], ...],
    options: Options,
    where: Path,
) -> Lattice:
    """The lattice of ``count`` patches, which a table of positions does not name: that of a window
    of a whole number of blocks of 128 frames, as all releases have it.

    Raises:
      InputError: where there is none, or more than one; options decide.
    """
    fits = []
    for stride in (options.stride,) if options.stride else strides:
        rows = (bins - patch[1]) // stride[1] + 1
        if bins < patch[1] or count % rows:
            continue
        columns = count // rows
        least = (columns - 1) * stride[0] + patch[0]
        frames = options.frames or -(-least // 128) * 128
        if grid_shape(max(frames, patch[0]), bins, patch=patch, stride=stride) == (columns, rows):
            fits.append(Lattice(frames, stride, (columns, rows)))
    if len(fits) != 1:
        what = "no" if not fits else "more than one"
        raise InputError(
            f"{where}: {what} lattice of {patch[0]} x {patch[1]} patches on {bins} bins has its "
            f"{count} positions; give --frames and --stride (time freq) of its training"
        )
    return fits[0]
