"""AST of Hugging Face transformers, names of versions 4 and 5: a folder, or its file of tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jfreq.methods.ast import AST
from jfreq.methods.ssast import SSAST
from jfreq.nn.vit import ViT
from jfreq.ops.patch import grid_shape
from jfreq.ranges import shown
from jfreq.types import InputError
from jfreq.weights.maps import BlockNames, Entry, blocks, classifier, norm, patch_embed, positions
from jfreq.weights.read import WeightFile
from jfreq.weights.release import (
    TASKS,
    UNKNOWN,
    Found,
    Lattice,
    Options,
    Release,
    depth_of,
    fbank,
    head_of,
    shape_of,
)

BASE = "audio_spectrogram_transformer."
"""What the names begin with where there is a classifier beside the encoder."""
PATCHES = "embeddings.patch_embeddings.projection"
CLASSIFIER = ("classifier.layernorm", "classifier.dense")
NAMES = {
    4: BlockNames(
        "encoder.layer.{}.layernorm_before",
        tuple(f"encoder.layer.{{}}.attention.attention.{x}" for x in ("query", "key", "value")),
        "encoder.layer.{}.attention.output.dense",
        "encoder.layer.{}.layernorm_after",
        "encoder.layer.{}.intermediate.dense",
        "encoder.layer.{}.output.dense",
    ),
    5: BlockNames(
        "layers.{}.layernorm_before",
        tuple(f"layers.{{}}.attention.{x}_proj" for x in "qkv"),
        "layers.{}.attention.o_proj",
        "layers.{}.layernorm_after",
        "layers.{}.mlp.fc1",
        "layers.{}.mlp.fc2",
    ),
}
"""Names of a block by the major version of transformers."""
DEFAULTS = {
    "num_attention_heads": 12,
    "patch_size": 16,
    "frequency_stride": 10,
    "time_stride": 10,
    "max_length": 1024,
    "num_mel_bins": 128,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "qkv_bias": True,
}
"""Settings that a ``config.json`` may leave out, with their values there."""
FEATURES = {
    "mean": UNKNOWN.mean,
    "std": UNKNOWN.std,
    "sampling_rate": 16000,
    "do_normalize": True,
}
"""The same for ``preprocessor_config.json``."""


def matches(file: WeightFile) -> bool:
    return any(f"{prefix}{PATCHES}.weight" in file.tensors for prefix in ("", BASE))


def read(file: WeightFile, options: Options) -> Found:
    if not file.config:
        raise InputError(
            f"{file.path}: lies beside no config.json, which says how its patches lie; give the "
            "folder that holds both"
        )
    prefix = BASE if f"{BASE}{PATCHES}.weight" in file.tensors else ""
    settings = _settings(file, DEFAULTS, file.config, "config.json")
    features = _settings(file, FEATURES, file.preprocessor, "preprocessor_config.json")
    _check(file, settings, features)
    version = 5 if f"{prefix}layers.0.mlp.fc1.weight" in file.tensors else 4
    stem = prefix + NAMES[version].fc1.partition("{}")[0]
    width = shape_of(file, f"{prefix}{PATCHES}.weight", 4)[0]
    heads = settings["num_attention_heads"]
    if width % heads:
        raise InputError(f"{file.path}: {heads} attention heads do not divide a width of {width}")
    fc1 = prefix + NAMES[version].fc1.format(0)
    encoder = ViT(
        width,
        depth_of(file, stem),
        heads,
        mlp_ratio=shape_of(file, f"{fc1}.weight", 2)[0] / width,
        eps=settings["layer_norm_eps"],
    )
    side, frames = settings["patch_size"], settings["max_length"]
    patch = (side, side)
    stride = (settings["time_stride"], settings["frequency_stride"])
    grid = grid_shape(frames, settings["num_mel_bins"], patch=patch, stride=stride)
    lattice = Lattice(frames, stride, grid)
    assumed = _assumed(file, features)
    labelled = "classifier.dense.weight" in file.tensors
    common: dict[str, Any] = {
        "frontend": fbank(
            UNKNOWN._replace(mean=features["mean"], std=features["std"]),
            n_mels=settings["num_mel_bins"],
        ),
        "frames": frames,
        "patch": patch,
        "stride": stride,
        "encoder": encoder,
        "pool": options.pool or "special",
        "padding": "attended",
    }
    trunk = "backbone/trunk" if labelled else "trunk"
    entries = trunk_entries(trunk, encoder, patch, lattice, prefix, NAMES[version])
    if not labelled:
        return Found(SSAST(**common), frames, entries, assumed=assumed)
    classes = shape_of(file, "classifier.dense.weight", 2)[0]
    labels = options.labels or labels_of(file.config, classes)
    multi = file.config.get("problem_type") == "multi_label_classification"
    task = TASKS[527] if multi or classes == 527 else UNKNOWN
    entries += classifier(*CLASSIFIER, width, classes)
    head = head_of(classes, task, labels, eps=encoder.eps)
    method = AST(**common, head=head)
    return Found(method, frames, entries, labels=labels, assumed=assumed)


def trunk_entries(
    ours: str,
    encoder: ViT,
    patch: tuple[int, int],
    lattice: Lattice,
    prefix: str,
    names: BlockNames,
) -> list[Entry]:
    """The encoder, whose tensors begin with ``prefix``."""
    width = encoder.width
    tokens = tuple(f"{prefix}embeddings.{name}_token" for name in ("cls", "distillation"))
    table = f"{prefix}embeddings.position_embeddings"
    shape = (1, 2, width)
    special = Entry(
        f"{ours}/special_tokens", tokens, (1, 1, width), shape, (0, 1, 2), shape[1:], join=1
    )
    return [
        *patch_embed(f"{ours}/patch_embed", prefix + PATCHES, patch, width, time_first=False),
        special,
        *positions(f"{ours}/positions", table, 2, lattice.grid, width, time_major=False),
        *blocks(f"{ours}/encoder/blocks", encoder, prefix, names),
        *norm(f"{ours}/encoder/norm", f"{prefix}layernorm", width),
    ]


def _settings(
    file: WeightFile, defaults: Mapping[str, Any], given: Mapping[str, Any], name: str
) -> dict[str, Any]:
    """The settings of a JSON file, each of the type of its default."""
    found = {}
    for key, default in defaults.items():
        value = given.get(key, default)
        kind = type(default)
        number = kind is float and isinstance(value, int) and not isinstance(value, bool)
        if type(value) is not kind and not number:
            raise InputError(f"{file.path}: {name} gives {key} as {shown(value)}, not {default!r}")
        if kind is int and not 0 < value <= 1 << 20:
            raise InputError(f"{file.path}: {name} gives {key} as {shown(value)}, out of range")
        found[key] = float(value) if number else value
    return found


def _check(file: WeightFile, settings: Mapping[str, Any], features: Mapping[str, Any]) -> None:
    """Raises ``InputError`` for settings that no AST was released with."""
    for key, wanted in {"hidden_act": "gelu", "qkv_bias": True}.items():
        if settings[key] != wanted:
            raise InputError(
                f"{file.path}: config.json sets {key} to {shown(settings[key])}; only {wanted!r} "
                "is read"
            )
    for key, wanted in {"sampling_rate": 16000, "do_normalize": True}.items():
        if features[key] != wanted:
            raise InputError(
                f"{file.path}: preprocessor_config.json sets {key} to {shown(features[key])}; only "
                f"{wanted!r} is read"
            )
    for key in ("mean", "std"):
        if not math.isfinite(features[key]) or (key == "std" and features[key] <= 0):
            wanted = "a positive number" if key == "std" else "a finite number"
            raise InputError(
                f"{file.path}: preprocessor_config.json gives {key} as {features[key]:g}, not "
                f"{wanted}"
            )


def _assumed(file: WeightFile, features: Mapping[str, Any]) -> tuple[str, ...]:
    """The constants of the front end that no ``preprocessor_config.json`` gives, in words."""
    taken = [f"{key} {features[key]}" for key in ("mean", "std") if key not in file.preprocessor]
    if not taken:
        return ()
    return (
        f"preprocessor_config.json is missing or does not give them: {' and '.join(taken)} are "
        "taken for the front end, as for AudioSet",
    )


def labels_of(config: Mapping[str, Any], classes: int) -> tuple[str, ...]:
    """The names of ``id2label``; empty where they are only numbers, or not one for each class."""
    names = config.get("id2label")
    if not isinstance(names, dict) or set(names) != {str(i) for i in range(classes)}:
        return ()
    labels = tuple(str(names[str(i)]) for i in range(classes))
    numbered = all(label == f"LABEL_{i}" for i, label in enumerate(labels))
    return () if numbered else labels


RELEASE = Release(
    "Hugging Face AST",
    "ASTForAudioClassification or ASTModel of transformers 4 or 5 (a folder)",
    frozenset({"pool", "labels"}),
    matches,
    read,
)
