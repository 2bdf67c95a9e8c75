"""jfreq: self-supervised learning from frequency-domain data, in JAX."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_LAZY = {
    "load_encoder": "jfreq.encoder.encoder",
    "Encoder": "jfreq.encoder.encoder",
    "Method": "jfreq.method",
    "Experiment": "jfreq.config",
    "InputError": "jfreq.types",
    "trust": "jfreq.classes",
}

if TYPE_CHECKING:
    from jfreq.classes import trust
    from jfreq.config import Experiment
    from jfreq.encoder.encoder import Encoder, load_encoder
    from jfreq.method import Method
    from jfreq.types import InputError

__all__ = ["Encoder", "Experiment", "InputError", "Method", "__version__", "load_encoder", "trust"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'jfreq' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
