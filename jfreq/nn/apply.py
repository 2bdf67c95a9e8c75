"""Running a module on a plain tree of parameters."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
from jaxtyping import Array

from jfreq.types import PyTree


def apply(
    module: nn.Module, params: PyTree, *args: Any, dropout: Array | None = None, **kwargs: Any
) -> Any:
    """Applies ``module`` with ``params``; ``dropout`` is the key of that stream, ``kwargs`` may
    name a ``method`` other than ``__call__``."""
    rngs = None if dropout is None else {"dropout": dropout}
    return module.apply({"params": params}, *args, rngs=rngs, **kwargs)
