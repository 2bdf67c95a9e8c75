"""TensorFlow's SavedModel beside a bundle, for any batch and any length.

The network reads windows of one length. Around it the graph does what :func:`jfreq.load_encoder`
does with a recording at the encoder's rate: pads it or cuts it into windows, and joins them again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jfreq import param_paths
from jfreq.encoder.windowing import WindowPlan, plan_windows
from jfreq.export.bundle import encoder_shapes
from jfreq.export.cards import (
    AGREED,
    SIGNALS,
    example_window,
    inputs_and_outputs,
    listed,
    mebibytes,
    scores_in_numpy,
)
from jfreq.export.flat import inlined
from jfreq.export.portable import Adapter, Agreement, Extra, agreement, in_float32, need, one_device
from jfreq.export.tensorflow import leave_accelerators, quiet

FOLDER = "saved_model"
PLATFORMS = ("cpu", "cuda", "tpu")


def extra(adapter: Adapter) -> Extra:
    """The folder and its section of the model card.

    Raises:
      InputError: where its outputs differ from those of the JAX encoder, for an operation that
        TensorFlow lacks, and where TensorFlow is missing.
    """
    need(("tensorflow",), "SavedModel")
    leave_accelerators()
    adapter = in_float32(adapter)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FOLDER
        save(adapter, path)
        found = agreement(adapter, runner(path), "saved_model")
        files = {
            f"{FOLDER}/{file.relative_to(path)}": file.read_bytes()
            for file in sorted(path.rglob("*"))
            if file.is_file()
        }
    return Extra(files, _card(adapter, sum(map(len, files.values())), found))


def save(adapter: Adapter, path: Path) -> None:
    """Writes the SavedModel to the folder ``path``."""
    import tensorflow as tf

    module: Any = tf.Module()
    module.weights = {
        name: tf.Variable(tf.constant(np.asarray(x))) for name, x in adapter.params.items()
    }
    if adapter.labels:
        module.labels = tf.Variable(tf.constant(list(adapter.labels)), trainable=False)
    encode = converted(adapter)
    plan = plan_of(adapter)

    def call(length: Any, **signals: Any) -> dict[str, Any]:
        return encode_recordings(plan, lambda w: encode(module.weights, w), signals, length)

    spec = {
        s.name: tf.TensorSpec([None, None, s.channels], tf.float32, s.name) for s in adapter.signals
    }
    spec["length"] = tf.TensorSpec([None], tf.int32, "length")
    module.call = tf.function(call, autograph=False)
    signature = module.call.get_concrete_function(**spec)
    with quiet():
        tf.saved_model.save(module, str(path), signatures={"serving_default": signature})


def converted(adapter: Adapter) -> Callable[..., Any]:
    """``encode(weights, window)`` of TensorFlow arrays, for windows of one length."""
    from jax.experimental import jax2tf

    def encode(params: Any, window: Any) -> Any:
        with one_device():
            return inlined(adapter.encode)(params, window)

    names = [*(s.name for s in adapter.signals), "length"]
    dimensions: Any = [None, dict.fromkeys(names, "(b, ...)")]
    return jax2tf.convert(
        encode,
        polymorphic_shapes=dimensions,
        with_gradient=False,
        native_serialization_platforms=PLATFORMS,
    )


def encode_recordings(
    plan: WindowPlan, encode: Callable[..., Any], signals: dict[str, Any], length: Any
) -> dict[str, Any]:
    """Recordings of any length through an encoder of windows, as :class:`jfreq.Encoder` does it.

    Args:
      plan: how recordings are cut.
      encode: from a window to its outputs.
      signals: ``[b t c]`` by name, zero-padded at the end.
      length: ``[b]`` int32, valid samples of the first signal.

    Returns:
      ``clip``, ``frames``, ``valid`` and ``logits``; clip vectors and logits are means over the
      windows of a recording, weighted by valid frames, and frames follow each other.
    """
    import tensorflow as tf

    first, cut = plan.signals[0], plan.cut
    if plan.windowing is None:
        short = tf.debugging.assert_less_equal(length, first.samples, "longer than the window")
        with tf.control_dependencies([short]):
            length = tf.identity(length)
    last = tf.maximum((length - plan.enough) // cut.steps[0] + 1, 0)
    count = tf.reduce_max(last) + 1
    number = tf.range(count)[None, :]
    left = tf.clip_by_value(length[:, None] - number * cut.steps[0], 0, first.samples)
    lengths = tf.where(number < last[:, None], cut.length, left)
    window = {
        s.name: _windows(signals[s.name], s.samples, step, count)
        for s, step in zip(plan.signals, cut.steps)
    }
    outputs = encode(window | {"length": tf.reshape(lengths, [-1])})
    rows = tf.stack([tf.shape(length)[0], count])
    outputs = {k: tf.reshape(x, tf.concat([rows, tf.shape(x)[1:]], 0)) for k, x in outputs.items()}
    return _joined(outputs, number, last[:, None], cut.tokens)


def _windows(x: Any, samples: int, step: int, count: Any) -> Any:
    """``count`` windows of each recording, ``[(b count) samples c]``."""
    import tensorflow as tf

    wanted = (count - 1) * step + samples
    missing = tf.maximum(wanted - tf.shape(x)[1], 0)
    x = tf.pad(x, [[0, 0], [0, missing], [0, 0]])[:, :wanted]
    parts = tf.signal.frame(x, samples, step, axis=1)
    return tf.reshape(parts, [-1, samples, x.shape[-1]])


def _joined(outputs: dict[str, Any], number: Any, last: Any, tokens: int) -> dict[str, Any]:
    """Outputs ``[b windows ...]`` of windows as those of recordings."""
    import tensorflow as tf

    valid, frames = outputs["valid"], outputs["frames"]
    counts = tf.where(number < last, tf.minimum(valid, tokens), tf.where(number == last, valid, 0))
    ends = tf.cumsum(counts, axis=1)
    found: dict[str, Any] = {}
    for name in outputs.keys() - {"valid", "frames"}:
        weight = tf.cast(counts, tf.float32)[:, :, None]
        parts = tf.where((number <= last)[:, :, None], weight * outputs[name], 0.0)
        mean = tf.reduce_sum(parts, 1) / tf.maximum(tf.reduce_sum(weight, 1), 1.0)
        found[name] = tf.where(last > 0, mean, outputs[name][:, 0])
    # Frame p of a recording is frame p - start of the window whose frames reach beyond p.
    size = tf.shape(frames)
    places = tf.range((size[1] - 1) * tokens + size[2])[None, :]
    every = tf.repeat(places, size[0], axis=0)
    window = tf.searchsorted(ends, every, side="right")
    window = tf.minimum(window, last)
    start = tf.gather(ends - counts, window, batch_dims=1)
    source = window * size[2] + tf.clip_by_value(places - start, 0, size[2] - 1)
    flat = tf.reshape(frames, [size[0], size[1] * size[2], frames.shape[3]])
    inside = (places < ends[:, -1:])[:, :, None]
    found["frames"] = tf.where(inside, tf.gather(flat, source, batch_dims=1), 0.0)
    return found | {"valid": ends[:, -1]}


def plan_of(adapter: Adapter) -> WindowPlan:
    """How recordings are cut."""
    params = param_paths.unflatten(adapter.params)
    shapes = encoder_shapes(adapter.experiment.method, adapter.signals, params)
    return plan_windows(shapes.grid, adapter.signals)


def runner(path: Path) -> Callable[..., dict[str, np.ndarray]]:
    """``call(params, window) -> outputs`` of TensorFlow; the weights are those of the folder."""
    import tensorflow as tf

    program = tf.saved_model.load(str(path))
    encode = program.signatures["serving_default"]

    def call(params: Any, window: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        del params
        given = {name: tf.constant(x) for name, x in window.items()}
        return {name: x.numpy() for name, x in encode(**given).items()}

    call.program = program  # type: ignore[attr-defined]  # whose variables it reads
    return call


def _card(adapter: Adapter, size: int, found: Agreement) -> str:
    inputs, outputs = inputs_and_outputs(adapter)
    open_length = {
        name: {**entry, "shape": ["b", "t", *entry["shape"][2:]] if name != "length" else ["b"]}
        for name, entry in inputs.items()
    }
    long = (
        "A recording that is longer than the window is cut into\nwindows, as jfreq cuts it: `clip` "
        "and `logits` are means over them, `frames` follow each other."
        if plan_of(adapter).windowing
        else "A recording that is longer than the window is\nrefused: this encoder cannot cut it."
    )
    labels = "labels = [name.decode() for name in program.labels.numpy()]\n"
    classes = labels * bool(adapter.labels) + scores_in_numpy(adapter)
    return f"""## SavedModel

`{FOLDER}` ({mebibytes(size)}) is the same encoder with its weights, for TensorFlow on
{", ".join(PLATFORMS)}, any batch size b and any length t, at the rate of the encoder:
{listed(open_length)} to {listed(outputs)}. {SIGNALS} {long}

```python
# In this folder; needs numpy and tensorflow. Two recordings of noise, as long as the window.
import numpy as np
import tensorflow as tf

program = tf.saved_model.load("{FOLDER}")
encode = program.signatures["serving_default"]
window = {{
{example_window(adapter)}
}}
outputs = encode(**{{name: tf.constant(x) for name, x in window.items()}})
outputs = {{name: x.numpy() for name, x in outputs.items()}}
{classes}```

{AGREED}: {found}.
"""
