"""The twin in torch that ``jfreq export --format huggingface`` writes: a folder of Hugging Face."""

from __future__ import annotations

from typing import Any

from jfreq.config import replace
from jfreq.config_json import OtherSettings, from_dict
from jfreq.method import Method
from jfreq.methods import METHODS
from jfreq.methods.common.patches import PatchMethod
from jfreq.methods.supervised import Classify, Head, Supervised
from jfreq.nn.aape import AaPE
from jfreq.nn.vit import ViT
from jfreq.ops.posemb import sincos_tokens
from jfreq.types import InputError
from jfreq.weights.maps import Entry, blocks, linear, norm, patch_embed, plain, positions, reshaped
from jfreq.weights.read import WeightFile
from jfreq.weights.release import Found, Options, Release, shape_of
from jfreq.weights.releases.huggingface_ast import labels_of

MODEL = "jfreq"
"""``model_type`` of its ``config.json``."""
ENCODER = "encoder."
"""What the names of the encoder begin with where there is a classifier beside it."""


def matches(file: WeightFile) -> bool:
    return file.config.get("model_type") == MODEL


def read(file: WeightFile, options: Options) -> Found:
    where = f"{file.path}: config.json: {MODEL}"
    try:
        method = from_dict(Method, file.config.get(MODEL), {Method: METHODS}, where)
    except OtherSettings as error:
        raise InputError(
            f"{error}; it was changed by hand, or written by another version of jfreq: export the "
            "encoder again with this one"
        ) from None
    labels: tuple[str, ...] = ()
    if "classifier.weight" in file.tensors:
        classes = shape_of(file, "classifier.weight", 2)[0]
        labels = options.labels or labels_of(file.config, classes)
        multi = file.config.get("problem_type") == "multi_label_classification"
        method = method if isinstance(method, Supervised) else Classify(backbone=method)
        head = {
            "classes": classes,
            "multi_label": multi and method.head.multi_label is not False,
            "loss": "bce" if multi else "ce",
            "norm": "classifier_norm.weight" in file.tensors,
            "eps": file.config.get("classifier_eps", Head().eps),
            "labels": labels,
        }
        method = replace(method, **{f"head__{name}": value for name, value in head.items()})
        backbone, head = method.backbone, method.head
    else:
        method = method.backbone if isinstance(method, Supervised) else method
        backbone, head = method, None
    if not isinstance(backbone, PatchMethod) or not backbone.bound:
        raise InputError(
            f"{file.path}: config.json names no encoder that jfreq exports; copy it again"
        )
    fixed = tuple(constants(backbone, head))
    return Found(
        method,
        backbone.geometry.frames,
        entries(backbone, head),
        labels=labels,
        replaced=fixed,
        signal=backbone.geometry.signal,
    )


def entries(backbone: PatchMethod, head: Head | None) -> list[Entry]:
    """The trunk of a method, and its classifier."""
    encoder, geometry = backbone.encoder, backbone.geometry
    assert isinstance(encoder, ViT)
    prefix, ours = ("", "trunk") if head is None else (ENCODER, "backbone/trunk")
    width, grid, special = encoder.width, geometry.grid, backbone.special_tokens
    patch = f"{prefix}patch_embed"
    found = [*patch_embed(f"{ours}/patch_embed", patch, geometry.patch, width, time_first=False)]
    for name, count in {"special": special, "register": backbone.registers}.items():
        shape = (1, count, width)
        if count:
            tensor = f"{prefix}{name}_tokens"
            found.append(reshaped(f"{ours}/{name}_tokens", tensor, shape, shape[1:]))
    if backbone.positions == "learned":
        table = f"{prefix}position_embeddings"
        size, time_major = (grid.time, grid.freq), grid.order == "time_major"
        found += positions(f"{ours}/positions", table, special, size, width, time_major=time_major)
    if backbone.embed == "aape":
        branch = f"{prefix}alias."
        found += _alias(f"{ours}/alias", branch, backbone.aape, backbone)
    found += _transformer(f"{ours}/encoder", f"{prefix}transformer.", encoder)
    if head is not None:
        found += norm("head/norm", "classifier_norm", width) if head.norm else ()
        found += linear("head/linear", "classifier", width, len(head.names))
    return found


def constants(backbone: PatchMethod, head: Head | None) -> dict[str, Any]:
    """Tensors of the twin that jfreq computes."""
    prefix, grid = "" if head is None else ENCODER, backbone.geometry.grid
    found = {}
    if backbone.positions == "sincos":
        found[f"{prefix}position_embeddings"] = sincos_tokens(grid, backbone.encoder.width)[None]
    if backbone.embed == "aape" and backbone.aape.adaptive:
        table = sincos_tokens(grid, backbone.aape.width)
        found[f"{prefix}alias.encoder.positions"] = table[None]
    return found


def _transformer(ours: str, theirs: str, encoder: ViT) -> list[Entry]:
    last = norm(f"{ours}/norm", f"{theirs}norm", encoder.width) if encoder.final_norm else ()
    return [*blocks(f"{ours}/blocks", encoder, theirs), *last]


def _alias(ours: str, theirs: str, cfg: AaPE, backbone: PatchMethod) -> list[Entry]:
    """The branch that measures what patches alias."""
    geometry, kernels = backbone.geometry, cfg.kernels
    rows, (frames, bins) = geometry.grid.freq, geometry.patch
    mixed = (3 if cfg.magnitude else 2) * kernels
    width, concat = backbone.encoder.width, cfg.fusion == "concat"
    found = [
        plain(f"{ours}/bands/kernel", f"{theirs}bands", rows, bins, kernels),
        plain(f"{ours}/mix/kernel", f"{theirs}mix", rows, mixed, kernels),
        *linear(f"{ours}/project", f"{theirs}project", frames * kernels, cfg.out),
        *norm(f"{ours}/fuse/norm_alias", f"{theirs}norm_alias", cfg.out),
    ]
    fuse = linear(f"{ours}/fuse/linear", f"{theirs}linear", cfg.out + width * concat, width)
    if concat:
        found += [*norm(f"{ours}/fuse/norm_plain", f"{theirs}norm_plain", width), *fuse]
    else:
        found.append(next(fuse))  # without a bias
    ours, theirs = f"{ours}/encoder", f"{theirs}encoder."
    if not cfg.adaptive:
        shape = (rows, kernels)
        return [*found, *(plain(f"{ours}/{x}", f"{theirs}{x}", *shape) for x in ("alpha", "beta"))]
    found += linear(f"{ours}/embed", f"{theirs}embed", frames * bins, cfg.width)
    found += _transformer(
        f"{ours}/encoder", f"{theirs}transformer.", ViT(cfg.width, cfg.depth, cfg.heads)
    )
    for name in ("alpha", "beta"):
        found += linear(f"{ours}/{name}", f"{theirs}{name}", cfg.width, kernels)
    return found


RELEASE = Release(
    "twins of jfreq's encoders",
    "what `jfreq export --format huggingface` wrote, or transformers saved of it (a folder)",
    frozenset({"labels"}),
    matches,
    read,
)
