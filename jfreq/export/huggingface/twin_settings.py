"""The settings and tensors of the twin in torch, whose code lies in ``twin/``."""

from __future__ import annotations

import dataclasses
import importlib.resources
from typing import Any

from jfreq import param_paths
from jfreq.config_json import to_dict
from jfreq.export.huggingface.ast import classes_of
from jfreq.export.huggingface.parts import Parts, refusal
from jfreq.export.portable import Flat
from jfreq.frontends.fbank import Fbank
from jfreq.method import Method
from jfreq.weights.maps import to_tensors
from jfreq.weights.releases import twin as release

CODE = importlib.resources.files("jfreq.export.huggingface") / "twin"
CLASSES = {
    "AutoConfig": "configuration_jfreq.JfreqConfig",
    "AutoModel": "modeling_jfreq.JfreqModel",
    "AutoModelForAudioClassification": "modeling_jfreq.JfreqForAudioClassification",
}
"""Where transformers finds what its own classes become."""


def check_covered(parts: Parts) -> None:
    """Raises ``InputError`` for what the twin does not have."""
    if parts.encoder.bias is not None:
        raise refusal(f"encoder.bias ({type(parts.encoder.bias).__name__}) is not in their code")
    plain = Fbank()
    known = {
        "encoder.position_conv": parts.encoder.position_conv is None,
        "positions 'none'": parts.backbone.positions != "none",
        "frontend.scale": parts.frontend.scale == plain.scale,
        "frontend.beyond": parts.frontend.beyond == plain.beyond,
    }
    for name, has in known.items():
        if not has:
            raise refusal(f"{name} is not in their code")


def sources() -> dict[str, bytes]:
    """The code by file name."""
    return {file.name: file.read_bytes() for file in CODE.iterdir() if file.name.endswith(".py")}


def tensors(parts: Parts, params: Flat) -> dict[str, Any]:
    """The tensors by their names in the twin."""
    entries = release.entries(parts.backbone, parts.head)
    return to_tensors(entries, param_paths.unflatten(params)) | release.constants(
        parts.backbone, parts.head
    )


def config(parts: Parts, method: Method) -> dict[str, Any]:
    """``config.json``. It is meant to be shared: of the experiment it holds the method alone, no
    paths of the machine that trained it."""
    backbone, encoder, frontend = parts.backbone, parts.encoder, parts.frontend
    geometry = backbone.geometry
    head = {}
    if parts.head is not None:
        head = {"classifier_norm": parts.head.norm, "classifier_eps": parts.head.eps}
    kind = "Model" if parts.head is None else "ForAudioClassification"
    return {
        "architectures": [f"Jfreq{kind}"],
        "model_type": release.MODEL,
        "auto_map": CLASSES,
        "torch_dtype": "float32",
        "hidden_size": encoder.width,
        "num_hidden_layers": encoder.depth,
        "num_attention_heads": encoder.heads,
        "intermediate_size": round(encoder.width * encoder.mlp_ratio),
        "layer_norm_eps": encoder.eps,
        "hidden_dropout_prob": encoder.dropout,
        "attention_probs_dropout_prob": encoder.attention_dropout,
        "drop_path_rate": encoder.drop_path,
        "norm": encoder.norm,
        "final_norm": encoder.final_norm,
        "residual_scale": encoder.stream_scale,
        "special_tokens": backbone.special_tokens,
        "registers": backbone.registers,
        "positions": {"learned": "learned", "sincos": "sines"}[backbone.positions],
        "token_order": backbone.order,
        "patch": geometry.patch,
        "stride": geometry.stride,
        "max_frames": geometry.frames,
        "padding": backbone.padding,
        "pool": backbone.pool,
        "sampling_rate": frontend.rate,
        "num_mel_bins": frontend.n_mels,
        "win_length": frontend.win_length,
        "hop_length": frontend.hop_length,
        "window": frontend.window,
        "low_hz": frontend.low_hz,
        "mean": frontend.mean,
        "std": frontend.std,
        "alias": _alias(parts),
        **head,
        **classes_of(parts),
        release.MODEL: to_dict(method),
    }


def _alias(parts: Parts) -> dict[str, Any] | None:
    """Settings of the branch that measures what patches alias; None without one."""
    if parts.backbone.embed == "plain":
        return None
    cfg = parts.backbone.aape
    names = {"width": "hidden_size", "depth": "num_hidden_layers", "heads": "num_attention_heads"}
    fields = {names.get(name, name): value for name, value in dataclasses.asdict(cfg).items()}
    del fields["dtype"]
    return fields | {"band": cfg.range(parts.backbone.geometry.patch[0])}


def preprocessor(parts: Parts) -> dict[str, Any]:
    """``preprocessor_config.json``: waves are padded, and the model makes spectrograms of them."""
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": parts.frontend.rate,
        "do_normalize": False,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": True,
    }
