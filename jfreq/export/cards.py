"""Parts of the model card that several formats share."""

from __future__ import annotations

from typing import Any

import jax

from jfreq.export.portable import Adapter, shapes

Layout = dict[str, dict[str, Any]]
"""Shape and dtype of arrays by name."""


SIGNALS = """Signals are float in [-1, 1] and zero-padded at the end, `length` counts valid
samples of the first."""
AGREED = "Largest difference to the JAX encoder when it was written"


def inputs_and_outputs(adapter: Adapter) -> tuple[Layout, Layout]:
    """What an encoder reads and returns, with ``b`` for the batch."""
    returned = jax.eval_shape(adapter.encode, *shapes(adapter, 1))
    return _layout(shapes(adapter, 1)[1]), _layout(returned)


def _layout(tree: dict[str, Any]) -> Layout:
    return {
        name: {"shape": ["b", *leaf.shape[1:]], "dtype": str(leaf.dtype)}
        for name, leaf in tree.items()
    }


def listed(layout: Layout) -> str:
    """```clip` [b 768] float32, ...``."""
    return ", ".join(
        f"`{name}` [{' '.join(map(str, entry['shape']))}] {entry['dtype']}"
        for name, entry in layout.items()
    )


def mebibytes(size: int) -> str:
    """``12.3 MiB``."""
    return f"{size / 2**20:.1f} MiB"


def example_window(adapter: Adapter, rows: int = 2) -> str:
    """Windows of noise, one line of Python for each input."""
    lines = [
        f'    "{s.name}": np.random.normal(0, 0.1, {(rows, s.samples, s.channels)})'
        ".astype(np.float32),"
        for s in adapter.signals
    ]
    full = f'    "length": np.full({rows}, {adapter.signals[0].samples}, np.int32),'
    return "\n".join([*lines, full])


def scores_in_numpy(adapter: Adapter, *, named: bool = True) -> str:
    """Lines of Python that turn ``outputs["logits"]`` into probabilities and, from a list
    ``labels``, name the best class; empty without labels."""
    if not adapter.labels:
        return ""
    if adapter.scores == "sigmoid":
        formula = 'scores = 1 / (1 + np.exp(-outputs["logits"]))'
    else:
        formula = (
            'scores = np.exp(outputs["logits"] - outputs["logits"].max(-1, keepdims=True))\n'
            "scores /= scores.sum(-1, keepdims=True)"
        )
    best = "" if not named else "best = [labels[i] for i in scores.argmax(-1)]\n"
    return f"{formula}  # [b, {len(adapter.labels)}]\n{best}"
