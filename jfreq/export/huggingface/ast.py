"""An encoder that is an AST as the folder of transformers' ``ASTForAudioClassification``, or of
``ASTModel`` where it has no classifier."""

from __future__ import annotations

from typing import Any

from jfreq import param_paths
from jfreq.export.huggingface.parts import Parts
from jfreq.export.portable import Flat
from jfreq.frontends.fbank import Fbank
from jfreq.weights.maps import Entry, classifier, to_tensors
from jfreq.weights.release import Lattice
from jfreq.weights.releases import huggingface_ast as release

VERSION = 4
"""Names of transformers 4, which 5 reads too."""


def why_not(parts: Parts) -> list[str]:
    """What of an encoder transformers' AST does not have; empty where it is one."""
    cfg, encoder, geometry = parts.backbone, parts.encoder, parts.backbone.geometry
    fbank = parts.frontend
    released = Fbank(
        n_mels=fbank.n_mels,
        remove_clip_mean=fbank.remove_clip_mean,  # which every frame loses anyway
        mean=fbank.mean,
        std=fbank.std,
    )
    asked = {
        "16 kHz, frames of 25 ms every 10 ms, a Hann window and filters from 20 Hz": fbank
        == released,
        "square patches": geometry.patch[0] == geometry.patch[1],
        "tokens in the order of frequency": cfg.order == "freq_major",
        "two special tokens": cfg.special_tokens == 2,
        "the mean of its special tokens as clip vector": cfg.pool == "special",
        "no registers": cfg.registers == 0,
        "a plain embedding of patches": cfg.embed == "plain",
        "learned positions": cfg.positions == "learned",
        "norms before attention and MLP, and one at the end": encoder.norm == "pre"
        and encoder.final_norm,
        "no attention bias": encoder.bias is None,
        "a norm before its classifier": parts.head is None or parts.head.norm,
    }
    return [what for what, has in asked.items() if not has]


def tensors(parts: Parts, params: Flat) -> dict[str, Any]:
    """The tensors by their names in transformers."""
    return to_tensors(_entries(parts), param_paths.unflatten(params))


def _entries(parts: Parts) -> list[Entry]:
    geometry, encoder = parts.backbone.geometry, parts.encoder
    lattice = Lattice(geometry.frames, geometry.stride, (geometry.grid.time, geometry.grid.freq))
    prefix = "" if parts.head is None else release.BASE
    names = release.NAMES[VERSION]
    entries = release.trunk_entries(parts.trunk, encoder, geometry.patch, lattice, prefix, names)
    if parts.head is not None:
        classes = len(parts.head.names)
        entries += classifier(*release.CLASSIFIER, encoder.width, classes)
    return entries


def config(parts: Parts) -> dict[str, Any]:
    """``config.json``."""
    geometry, encoder = parts.backbone.geometry, parts.encoder
    return {
        "architectures": ["ASTModel" if parts.head is None else "ASTForAudioClassification"],
        "model_type": "audio-spectrogram-transformer",
        "torch_dtype": "float32",
        "hidden_size": encoder.width,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.heads,
        "intermediate_size": round(encoder.width * encoder.mlp_ratio),
        "hidden_act": "gelu",
        "hidden_dropout_prob": encoder.dropout,
        "attention_probs_dropout_prob": encoder.attention_dropout,
        "layer_norm_eps": encoder.eps,
        "qkv_bias": True,
        "patch_size": geometry.patch[0],
        "time_stride": geometry.stride[0],
        "frequency_stride": geometry.stride[1],
        "max_length": geometry.frames,
        "num_mel_bins": parts.frontend.n_mels,
        **classes_of(parts),
    }


def classes_of(parts: Parts) -> dict[str, Any]:
    """What ``config.json`` says of the classes; empty without a classifier."""
    if parts.head is None:
        return {}
    names, kind = parts.head.names, "multi" if parts.head.loss == "bce" else "single"
    return {
        "problem_type": f"{kind}_label_classification",
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }


def preprocessor(parts: Parts) -> dict[str, Any]:
    """``preprocessor_config.json``."""
    return {
        "feature_extractor_type": "ASTFeatureExtractor",
        "feature_size": 1,
        "sampling_rate": parts.frontend.rate,
        "num_mel_bins": parts.frontend.n_mels,
        "max_length": parts.backbone.geometry.frames,
        "do_normalize": True,
        "mean": parts.frontend.mean,
        "std": parts.frontend.std,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
    }
