"""ONNX beside a bundle: ``encoder.onnx``, which onnxruntime runs for any batch size."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

import jfreq
from jfreq.config_json import to_dict
from jfreq.export.cards import (
    AGREED,
    SIGNALS,
    example_window,
    inputs_and_outputs,
    listed,
    mebibytes,
    scores_in_numpy,
)
from jfreq.export.onnx.lower import OPSET, serialise
from jfreq.export.portable import Adapter, Agreement, Extra, agreement, in_float32, need

FILE = "encoder.onnx"


def extra(adapter: Adapter) -> Extra:
    """The file and its section of the model card.

    The file is checked by ``onnx.checker``, run by onnxruntime and compared with the JAX encoder.

    Raises:
      InputError: where the two differ, for an operation that has no form in ONNX, and where onnx
        or onnxruntime is missing.
    """
    need(("onnx", "onnxruntime"), "ONNX")
    adapter = in_float32(adapter)
    blob = serialise(adapter, metadata(adapter))
    found = agreement(adapter, runner(blob), "onnx")
    return Extra({FILE: blob}, _card(adapter, len(blob), found))


def metadata(adapter: Adapter) -> dict[str, str]:
    """What the file says about the encoder: text by key, JSON where it is more than a word."""
    first = adapter.signals[0]
    entries = {
        "jfreq": jfreq.__version__,
        "name": adapter.experiment.name,
        "method": type(adapter.experiment.method).__name__,
        "sample_rate": f"{first.rate:g}",
        "window": f"{first.samples}",
        "signals": json.dumps([to_dict(signal) for signal in adapter.signals]),
    }
    if adapter.labels:
        entries |= {"labels": json.dumps(adapter.labels), "scores": adapter.scores}
    return entries


def runner(blob: bytes) -> Callable[..., dict[str, np.ndarray]]:
    """``call(params, window) -> outputs`` of onnxruntime; the weights are those of the file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(blob, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def call(params: Any, window: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        del params
        return dict(zip(names, map(np.asarray, session.run(names, window))))

    return call


def _card(adapter: Adapter, size: int, found: Agreement) -> str:
    inputs, outputs = inputs_and_outputs(adapter)
    labels = 'labels = json.loads(session.get_modelmeta().custom_metadata_map["labels"])\n'
    classes = labels * bool(adapter.labels) + scores_in_numpy(adapter)
    return f"""## ONNX

`{FILE}` ({mebibytes(size)}, opset {OPSET}) is the same encoder with its weights, for any batch size
b: {listed(inputs)} to {listed(outputs)}. {SIGNALS} The metadata of the
file hold the signals, the sample rate and the classes.

```python
# In this folder; needs numpy and onnxruntime. Two windows of noise.
{"import json" + chr(10) + chr(10) if adapter.labels else ""}import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("{FILE}")
window = {{
{example_window(adapter)}
}}
names = [output.name for output in session.get_outputs()]
outputs = dict(zip(names, session.run(names, window)))
{classes}```

{AGREED}: {found}.
"""
