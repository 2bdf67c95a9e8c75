"""What a transformer on log-mel consists of: its trunk, its classifier, and where they lie."""

from __future__ import annotations

from typing import Any, NamedTuple

from jfreq import param_paths
from jfreq.config import replace
from jfreq.export.portable import Adapter, Flat, without_bfloat16
from jfreq.frontends.fbank import Fbank
from jfreq.method import Method, Wrapper
from jfreq.methods.common.patches import PatchMethod
from jfreq.methods.supervised import Classify, Head, Supervised
from jfreq.nn.vit import ViT
from jfreq.types import Array, Batch, InputError

FOLDER = "huggingface"
"""Where the files lie in the folder of a bundle."""
FORWARD = ("encode", "features_of", "attended_tokens", "with_spectrogram", "trunk")
"""What of a method decides what its encoder computes."""


class Parts(NamedTuple):
    """An encoder that becomes a folder of transformers."""

    name: str
    """Of the experiment."""
    backbone: PatchMethod
    frontend: Fbank
    encoder: ViT
    head: Head | None
    """Its classifier, if it has one."""

    @property
    def trunk(self) -> str:
        """Path of the parameters of the trunk."""
        return "trunk" if self.head is None else "backbone/trunk"


def parts_of(adapter: Adapter) -> Parts:
    """The parts of an encoder.

    Raises:
      InputError: unless it is a transformer that reads one channel of sound by log-mel.
    """
    method = adapter.experiment.method
    head = method.head if isinstance(method, Supervised) else None
    if isinstance(method, Supervised) and type(method).encode is Supervised.encode:
        method = method.backbone
    while isinstance(method, Wrapper) and type(method).encode is Wrapper.encode:
        method = method.wrapped
    inner = method if isinstance(adapter.experiment.method, Wrapper) else adapter.experiment.method
    if why := _why_not(method, type(inner).__name__):
        raise refusal(why)
    assert isinstance(method, PatchMethod)
    frontend, encoder = method.geometry.frontend, method.encoder
    assert isinstance(frontend, Fbank) and isinstance(encoder, ViT)
    return Parts(adapter.experiment.name, method, frontend, encoder, head)


def refusal(why: str) -> InputError:
    """What is said of an encoder that becomes no folder."""
    return InputError(
        f"export: Hugging Face folders hold transformers on log-mel, but {why}; take --format "
        "onnx or stablehlo"
    )


def _why_not(method: Method, name: str) -> str | None:
    """Why the encoder ``method`` of ``name`` is no transformer on log-mel; None where it is."""
    if not isinstance(method, PatchMethod):
        return f"{name} has no transformer on log-mel"
    own = [part for part in FORWARD if getattr(type(method), part) != getattr(PatchMethod, part)]
    if own:
        return f"{name} defines {own[0]} by itself"
    geometry = method.geometry
    if not isinstance(geometry.frontend, Fbank):
        return f"this encoder reads a {type(geometry.frontend).__name__}"
    if not isinstance(method.encoder, ViT):
        return f"this encoder is a {type(method.encoder).__name__}"
    if geometry.signal.channels != 1:
        return f"this encoder reads {geometry.signal.channels} channels"
    return None


def as_folder(parts: Parts, adapter: Adapter, **changes: Any) -> Adapter:
    """The encoder as a folder computes it, its products in float32, and fields of the backbone
    changed; it returns ``tokens`` ``[b n d]``, ``clip`` ``[b d]`` and, of a classifier, ``logits``
    ``[b classes]``."""
    method: Method = without_bfloat16(replace(parts.backbone, **changes).portable())
    if parts.head is not None:
        method = Classify(method.signals, method, parts.head)

    def encode(flat: Flat, window: Batch) -> dict[str, Array]:
        features = method.encode(param_paths.unflatten(flat), window)
        outputs = {"tokens": features.tokens, "clip": features.clip}
        return outputs if features.logits is None else outputs | {"logits": features.logits}

    return adapter._replace(encode=encode)
