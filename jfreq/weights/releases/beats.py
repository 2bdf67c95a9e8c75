"""BEATs (microsoft/unilm, ``.pt``): pre-trained or fine-tuned models, and tokenizers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jfreq.methods.beats import BEATs, BEATsTokenizer
from jfreq.methods.common.beats_parts import FBANK
from jfreq.methods.supervised import Classify
from jfreq.nn.bias import RelativeBias
from jfreq.nn.position_conv import PositionConv
from jfreq.nn.vit import ViT
from jfreq.types import InputError
from jfreq.weights.maps import (
    BlockNames,
    Entry,
    blocks,
    linear,
    norm,
    patch_kernel,
    plain,
    position_conv,
    reshaped,
)
from jfreq.weights.read import WeightFile
from jfreq.weights.release import (
    UNKNOWN,
    Found,
    Options,
    Release,
    depth_of,
    head_of,
    heads_of,
    shape_of,
)

PATCHES, PROJECTION = "patch_embedding", "post_extract_proj"
CONV = "encoder.pos_conv.0"
ATTENTION = "layers.{}.self_attn"
NAMES = BlockNames(
    "layers.{}.self_attn_layer_norm",
    (f"{ATTENTION}.q_proj", f"{ATTENTION}.k_proj", f"{ATTENTION}.v_proj"),
    f"{ATTENTION}.out_proj",
    "layers.{}.final_layer_norm",
    "layers.{}.fc1",
    "layers.{}.fc2",
)
TABLE, GATE = "relative_attention_bias.weight", "grep_linear"
CODEBOOK = "quantize.embedding.weight"
AUDIOSET = 527
"""Classes; every classifier gives probabilities of its own to each of its classes."""
FRAMES = 998
"""Of 10 s, all of them inside the clip: released models read nothing beyond it."""
FIXED = {"activation_fn": "gelu", "conv_bias": False}
"""What the settings of a release must say where they say it."""
TRAINING = (
    "encoder_layerdrop",
    "layer_wise_gradient_decay_ratio",
    "dropout_input",
    "predictor_dropout",
)
"""Settings that act in training alone and are not kept."""


def matches(file: WeightFile) -> bool:
    names = (f"{PATCHES}.weight", f"{PROJECTION}.weight", f"{CONV}.weight_g")
    return all(name in file.tensors for name in names)


def read(file: WeightFile, options: Options) -> Found:
    cfg = _settings(file)
    inner, _, *sides = shape_of(file, f"{PATCHES}.weight", 4)
    patch = (sides[0], sides[1])
    encoder = _encoder(file, cfg, options)
    tensors, replaced = _converted(file, encoder)
    frames = options.frames or FRAMES
    fields: dict[str, Any] = {
        "frontend": FBANK,
        "frames": frames,
        "patch": patch,
        "patch_width": inner,
        "encoder": encoder,
    }
    assumed = (
        f"windows have {frames} frames; its positions suit any (--frames)",
        *_said(file, cfg),
    )
    head = "predictor.weight" in file.tensors
    ours = "backbone/trunk" if head else "trunk"
    entries = list(trunk_entries(ours, encoder, patch, inner))
    if head:
        return _tuned(file, BEATs(**fields), entries, frames, options, assumed, replaced, tensors)
    method = BEATs(**fields)
    if CODEBOOK in file.tensors:
        codes, width = shape_of(file, CODEBOOK, 2)
        method = BEATsTokenizer(**fields, teacher=encoder, codes=codes, code_width=width)
        entries += linear("to_code/hidden", "quantize_layer.0", encoder.width, encoder.width)
        entries += linear("to_code/out", "quantize_layer.2", encoder.width, width)
        entries.append(plain("codebook/codes", CODEBOOK, codes, width))
        entries.append(plain("codebook/usage", "quantize.cluster_size", codes))
    return Found(method, frames, entries, (), assumed, replaced, tensors)


def _tuned(file, method, entries, frames, options, assumed, replaced, tensors) -> Found:
    """A fine-tuned model: the mean of the logits of its patches is the logit of the mean patch."""
    width = method.encoder.width
    classes = shape_of(file, "predictor.weight", 2)[0]
    labels = options.labels or _labels(file, classes)
    entries += linear("head/linear", "predictor", width, classes)
    task = UNKNOWN._replace(loss="bce", multi_label=classes == AUDIOSET)
    head = head_of(classes, task, labels, norm=False)
    tuned = Classify(backbone=method, head=head)
    return Found(tuned, frames, entries, labels, assumed, replaced, tensors)


# ------------------------------------------------------------------ the encoder


def _encoder(file: WeightFile, cfg: Mapping[str, Any], options: Options) -> ViT:
    """The transformer, by the shapes of its tensors and the settings ``cfg``."""
    hidden, width = shape_of(file, "encoder.layers.0.fc1.weight", 2)
    depth = depth_of(file, "encoder.layers.")
    table, gated = _first(TABLE), f"{_first(GATE)}.weight" in file.tensors
    bias, heads = None, _number(file, cfg, "encoder_attention_heads", 0)
    if table in file.tensors:
        buckets, heads = shape_of(file, table, 2)
        distance = int(_number(file, cfg, "max_distance", 800))
        bias = RelativeBias(buckets, distance, gate="query" if gated else "none")
    if options.heads not in (None, heads or options.heads):
        raise InputError(f"heads: {file.path} has {heads} heads; leave it out")
    _, inputs, taps = shape_of(file, f"{CONV}.weight_v", 3)
    first = bool(cfg.get("layer_norm_first", False))
    return ViT(
        width,
        depth,
        int(heads) or heads_of(width, options, file.path),
        mlp_ratio=hidden / width,
        eps=1e-5,
        norm="pre" if first else "post",
        deep_norm=bool(cfg.get("deep_norm", not first)),
        bias=bias,
        position_conv=PositionConv(taps, max(1, width // max(1, inputs))),
        dropout=_number(file, cfg, "dropout", 0.1),
        mlp_dropout=_number(file, cfg, "activation_dropout", 0.0),
        attention_dropout=_number(file, cfg, "attention_dropout", 0.1),
        initial="xavier_normal",
    )


def trunk_entries(ours: str, encoder: ViT, patch: tuple[int, int], inner: int) -> Iterator[Entry]:
    """The patches, by way of ``inner`` numbers, and the transformer."""
    width, heads, theirs = encoder.width, encoder.heads, "encoder."
    yield patch_kernel(f"{ours}/patch_embed", PATCHES, patch, inner, time_first=True)
    yield from norm(f"{ours}/patch_embed/norm", "layer_norm", inner)
    yield from linear(f"{ours}/patch_embed/proj", PROJECTION, inner, width)
    ours = f"{ours}/encoder"
    assert encoder.position_conv is not None
    taps, groups = encoder.position_conv.kernel, encoder.position_conv.groups
    yield from position_conv(f"{ours}/position_conv", CONV, width, groups, taps)
    yield from norm(f"{ours}/norm", f"{theirs}layer_norm", width)
    yield from blocks(f"{ours}/blocks", encoder, theirs, NAMES)
    if not isinstance(encoder.bias, RelativeBias):
        return
    yield plain(f"{ours}/attention_bias/sequence", _first(TABLE), encoder.bias.buckets, heads)
    if encoder.bias.gate == "none":
        return
    for i in range(encoder.depth):
        name = theirs + ATTENTION.format(i)
        yield from linear(f"{ours}/blocks/gate", f"{name}.{GATE}", width // heads, 2, i)
        shape = (1, heads, 1, 1)
        yield reshaped(f"{ours}/blocks/gate_scale", f"{name}.grep_a", shape, (heads,), i)


def _converted(file: WeightFile, encoder: ViT) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The tensors, where each gate is one map: the release adds four maps for each. And the names
    of the tables that layers after the first share with it."""
    tensors, shared = dict(file.tensors), []
    for i in range(encoder.depth):
        name = f"encoder.{ATTENTION.format(i)}."
        for part in (f"{name}{GATE}.weight", f"{name}{GATE}.bias"):
            if part in tensors:
                x = tensors[part]
                if x.ndim < 1 or x.shape[0] != 8:
                    raise InputError(
                        f"{file.path}: {part} has the shape {list(x.shape)}, not [8 ...]"
                    )
                tensors[part] = x.reshape(2, 4, *x.shape[1:]).sum(axis=1)
        if i and f"{name}{TABLE}" in tensors:
            if not np.array_equal(tensors[f"{name}{TABLE}"], tensors.get(_first(TABLE), ())):
                raise InputError(
                    f"{file.path}: {name}{TABLE} differs from that of the first layer, which all "
                    "layers of BEATs share; it cannot be kept"
                )
            shared.append(f"{name}{TABLE}")
    return tensors, tuple(shared)


def _first(part: str) -> str:
    return f"encoder.{ATTENTION.format(0)}.{part}"


# ------------------------------------------------------------------ settings


def _settings(file: WeightFile) -> Mapping[str, Any]:
    """``cfg``, checked; empty where the file has none."""
    cfg = file.settings.get("cfg") or {}
    for name, value in FIXED.items():
        if cfg.get(name, value) != value:
            raise InputError(
                f"{file.path}: cfg gives {name} as {cfg[name]!r}; only {value!r} is read"
            )
    if f"{PATCHES}.bias" in file.tensors:
        raise InputError(f"{file.path}: has {PATCHES}.bias, which BEATs as released has not")
    return cfg


def _number(file: WeightFile, cfg: Mapping[str, Any], name: str, default: float) -> Any:
    value = cfg.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{file.path}: cfg gives {name} as {value!r}; it must be a number")
    return value


def _said(file: WeightFile, cfg: Mapping[str, Any]) -> Iterator[str]:
    """What is assumed where there are no settings, and which of them are not kept."""
    if not cfg:
        yield (
            "no settings lie beside the tensors; those of the release are taken: distances up to "
            "800, norms after sums that DeepNorm scales, dropout 0.1"
        )
    left = {"layer_wise_gradient_decay_ratio": 1.0}
    kept = [
        f"{name} {cfg[name]}" for name in TRAINING if cfg.get(name, 0) not in (0, left.get(name))
    ]
    if kept:
        yield f"settings of its training that are not kept: {', '.join(kept)}"


def _labels(file: WeightFile, classes: int) -> tuple[str, ...]:
    """The names in ``label_dict``; none where there is no such table."""
    table = file.settings.get("label_dict") or {}
    names = tuple(str(table.get(str(i), "")) for i in range(classes))
    if table and (not all(names) or len(set(names)) < classes):
        raise InputError(
            f"{file.path}: label_dict does not give its {classes} classes a name each; give them "
            "with --labels"
        )
    return names if table else ()


RELEASE = Release(
    "BEATs",
    "BEATs of microsoft/unilm, pre-trained or fine-tuned, and its tokenizers (.pt)",
    frozenset({"heads", "frames", "labels"}),
    matches,
    read,
)
