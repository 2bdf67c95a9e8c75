"""TFLite beside a bundle: one window at a time, in float32, with float16 or with int8 weights.

Only trained weights are rounded. The tables of the front end (window, Fourier transform, filters)
stay in float32: rounding them ruins quiet parts of a spectrum.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jfreq.export.cards import (
    SIGNALS,
    example_window,
    inputs_and_outputs,
    listed,
    mebibytes,
    scores_in_numpy,
)
from jfreq.export.flat import evaluate, flatten_function
from jfreq.export.portable import (
    NOISE_ROWS,
    TOLERANCE,
    Adapter,
    Extra,
    agreement,
    check_layout,
    in_float32,
    need,
    one_device,
    shapes,
)
from jfreq.export.tensorflow import leave_accelerators, quiet
from jfreq.ranges import first_line
from jfreq.types import InputError

Weights = Literal["float32", "float16", "int8"]
FILES = {
    "float32": "encoder.tflite",
    "float16": "encoder_float16.tflite",
    "int8": "encoder_int8.tflite",
}
LIMITS = {"float32": TOLERANCE, "float16": 1e-2}
COSINE = 0.999
"""Least cosine between a clip vector of the int8 file and that of the JAX encoder."""
LARGE = 1024
"""Entries from which TensorFlow's converter rounds a constant."""


def float32(adapter: Adapter) -> Extra:
    """The file with all weights in float32; see :func:`extra`."""
    return extra(adapter, "float32")


def float16(adapter: Adapter) -> Extra:
    """The file with weights in float16; see :func:`extra`."""
    return extra(adapter, "float16")


def int8(adapter: Adapter) -> Extra:
    """The file with weights in int8; see :func:`extra`."""
    return extra(adapter, "int8")


def extra(adapter: Adapter, weights: Weights) -> Extra:
    """A file and its section of the model card.

    Raises:
      InputError: where its outputs differ too much from those of the JAX encoder, for an operation
        that TFLite lacks, and where TensorFlow or ai-edge-litert is missing.
    """
    need(("tensorflow", "ai_edge_litert"), "TFLite")
    leave_accelerators()
    adapter = in_float32(adapter)
    blob = convert(adapter, weights)
    call = runner(blob)
    if weights == "int8":
        clips = len(adapter.windows) - len(NOISE_ROWS)
        found = f"least cosine of clip vectors {_least_cosine(adapter, call):.5f} on noise"
        found += f" and {clips} windows of recordings" * bool(clips)
        limit = f"{COSINE}"
    else:
        limit, name = LIMITS[weights], FILES[weights].removesuffix(".tflite")
        name = name.replace("encoder", "tflite")
        instead = "export tflite, which rounds nothing; " * (weights == "float16")
        found = f"largest difference {agreement(adapter, call, name, limit, instead)}"
        limit = f"{limit:g}"
    return Extra({FILES[weights]: blob}, _card(adapter, weights, len(blob), found, limit))


def convert(adapter: Adapter, weights: Weights) -> bytes:
    """The encoder of one window as a file of TFLite."""
    import tensorflow as tf
    from jax.experimental import jax2tf

    encode = jax2tf.convert(
        _program(adapter, float_tables=weights != "float32"),
        with_gradient=False,
        native_serialization_platforms=("cpu",),
    )
    window = shapes(adapter, 1)[1]
    spec = {name: tf.TensorSpec(x.shape, x.dtype, name) for name, x in window.items()}
    module: Any = tf.Module()
    module.call = tf.function(lambda **given: encode(given), autograph=False)
    with tempfile.TemporaryDirectory() as folder, quiet():
        signature = module.call.get_concrete_function(**spec)
        tf.saved_model.save(module, folder, signatures={"serving_default": signature})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if weights != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if weights == "float16":
            converter.target_spec.supported_types = [tf.float16]
        try:
            return converter.convert()
        except Exception as error:  # the converter's own
            raise InputError(
                f"tflite: TensorFlow's converter refuses this encoder ({first_line(error)}); "
                "export ONNX (--format onnx)"
            ) from None


def _program(adapter: Adapter, *, float_tables: bool) -> Callable[..., Any]:
    """The encoder of one window with its weights in it.

    With ``float_tables`` large tables are multiplied by a 1 that only the window says, so that the
    converter does not take them for weights.
    """
    with one_device():
        window = shapes(adapter, 1)[1]
        flat = flatten_function(adapter.encode, adapter.params, window, 1)

    def encode(window: dict[str, Any]) -> dict[str, Any]:
        known: dict[Any, Any] = dict(flat.known)
        one = (window["length"][0] >= 0).astype(jnp.float32)
        tables = {var: x for var, x in flat.known.items() if var not in flat.trained}
        for var, x in tables.items():
            if float_tables and x.size >= LARGE and x.dtype == np.float32:
                known[var] = x * one
        with one_device():
            return evaluate(flat, known, window)

    return encode


def runner(blob: bytes) -> Callable[..., dict[str, np.ndarray]]:
    """``call(params, window) -> outputs`` of LiteRT, row by row."""
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(model_content=blob).get_signature_runner("serving_default")

    def call(params: Any, window: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        del params
        rows = [
            run(**{name: x[i : i + 1] for name, x in window.items()})
            for i in range(len(window["length"]))
        ]
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

    return call


def _least_cosine(adapter: Adapter, call: Callable[..., dict[str, np.ndarray]]) -> float:
    """The least cosine between clip vectors of the two encoders.

    Of the other outputs counts of valid frames must be equal and numbers finite: how far int8 moves
    single frames and logits depends on the encoder.
    """
    encode, least = jax.jit(adapter.encode), 1.0
    for window in adapter.windows:
        with one_device():
            wanted = jax.device_get(encode(adapter.params, window))
        found = call({}, window)
        check_layout(wanted, found)
        if not np.array_equal(found["valid"], wanted["valid"]):
            raise InputError(
                "tflite_int8: the written program counts other valid frames than the JAX encoder; "
                "nothing was written"
            )
        for name, x in found.items():
            if not np.isfinite(x).all():
                raise InputError(
                    f"tflite_int8: {name!r} of the written program holds NaN or infinity; export "
                    "tflite_float16; nothing was written"
                )
        least = float(np.minimum(least, _cosines(wanted["clip"], found["clip"]).min()))
    if not least >= COSINE:
        raise InputError(
            f"tflite_int8: the cosine of clip vectors falls to {least:.4f} with int8 weights "
            f"(limit {COSINE}); export tflite_float16; nothing was written"
        )
    return least


def _cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Cosines ``[b]`` of vectors ``[b d]``; 1 for vectors that are equal, also where both are 0."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    norms = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((one == other).all(-1), 1.0, (one * other).sum(-1) / norms)


def _card(adapter: Adapter, weights: Weights, size: int, found: str, limit: str) -> str:
    inputs, outputs = inputs_and_outputs(adapter)
    kept = "" if weights == "float32" else " The tables of the front end stay in float32."
    listing = f"{listed(inputs)} to {listed(outputs)}".replace("[b ", "[1 ").replace("[b]", "[1]")
    return f"""## TFLite, {weights}

`{FILES[weights]}` ({mebibytes(size)}) is the same encoder with {weights} weights, one window at a
time: {listing}. {SIGNALS}{kept}

```python
# In this folder; needs numpy and ai-edge-litert. One window of noise.
import numpy as np
from ai_edge_litert.interpreter import Interpreter

encode = Interpreter("{FILES[weights]}").get_signature_runner("serving_default")
window = {{
{example_window(adapter, rows=1)}
}}
outputs = encode(**window)
{scores_in_numpy(adapter, named=False)}```

Compared with the JAX encoder when it was written: {found} (limit {limit}).
"""
