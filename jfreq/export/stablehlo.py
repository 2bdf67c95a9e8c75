"""StableHLO beside a bundle: one program for CPU, CUDA and TPU and for any batch size.

``encoder.stablehlo`` is what ``jax.export`` serialises; it runs with jax, numpy, safetensors and
flatbuffers alone (``docs/export.md`` has the four lines). The weights are arguments and stay in
``model.safetensors``. Archive the bundle: jax promises to read a program for six months only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

import jfreq
from jfreq.config_json import from_dict, to_dict
from jfreq.export.bundle import WEIGHTS, read_weights
from jfreq.export.bundle_checks import read_sealed, sealed
from jfreq.export.cards import (
    AGREED,
    SIGNALS,
    example_window,
    inputs_and_outputs,
    listed,
    mebibytes,
)
from jfreq.export.portable import (
    NOISE_ROWS,
    Adapter,
    Agreement,
    Extra,
    agreement,
    need,
    one_device,
    shapes,
)
from jfreq.files import local_path
from jfreq.ranges import first_line
from jfreq.types import InputError, SignalSpec

PROGRAM, MANIFEST = "encoder.stablehlo", "stablehlo.json"
PLATFORMS = ("cpu", "cuda", "tpu")
FORMAT = 1
"""To be increased when an older jfreq can no longer read what this one writes."""
EXPIRY = (
    "A program can be read for at least six months after the release of the jax that wrote it, and "
    "by jax up to three weeks older; after that, export it again from the bundle"
)


def extra(adapter: Adapter) -> Extra:
    """The program, its manifest and its section of the model card.

    The serialised program is read back and compared with the JAX encoder.

    Raises:
      InputError: where the two differ, or where the package flatbuffers is missing.
    """
    blob = serialise(adapter)
    found = agreement(adapter, jax.jit(deserialise(blob, PROGRAM).call), "stablehlo")
    inputs, outputs = inputs_and_outputs(adapter)
    manifest = {
        "format": FORMAT,
        "jfreq": jfreq.__version__,
        "jax": jax.__version__,
        "platforms": list(PLATFORMS),
        "sha256": hashlib.sha256(blob).hexdigest(),
        "signals": [to_dict(signal) for signal in adapter.signals],
        "labels": list(adapter.labels),
        "scores": adapter.scores if adapter.labels else None,
        "inputs": inputs,
        "outputs": outputs,
        "checked": {
            "batches": list(NOISE_ROWS),
            "max_abs_error": found.noise,
            **({"clips": found.count, "max_abs_error_clips": found.clips} if found.count else {}),
        },
        "expiry": EXPIRY,
    }
    files = {PROGRAM: blob, MANIFEST: sealed(manifest).encode()}
    return Extra(files, _card(adapter, len(blob), found))


def serialise(adapter: Adapter) -> bytes:
    """The program as bytes, with a symbolic batch dimension, for all ``PLATFORMS``."""
    need(("flatbuffers",), "StableHLO")
    (rows,) = export.symbolic_shape("b")
    with one_device():
        exported = export.export(jax.jit(adapter.encode), platforms=PLATFORMS)(
            *shapes(adapter, rows)
        )
    return bytes(exported.serialize())


def deserialise(blob: bytes, where: str | Path) -> export.Exported:
    """The inverse of :func:`serialise`; raises ``InputError`` where this jax cannot read it."""
    need(("flatbuffers",), "StableHLO")
    try:
        return export.deserialize(bytearray(blob))
    except Exception as error:
        raise InputError(
            f"{where}: jax {jax.__version__} cannot read this program ({first_line(error)}); "
            "export it again from the bundle"
        ) from None


class Program:
    """An exported encoder: ``program(window) -> outputs``, laid out as in :class:`Adapter`.

    ``signals``, ``labels`` (of its logits) and ``platforms`` describe it; ``params`` are the
    weights by path. Every batch size is compiled when it is first used.
    """

    def __init__(
        self,
        exported: export.Exported,
        params: Any,
        signals: tuple[SignalSpec, ...],
        labels: tuple[str, ...] = (),
    ):
        self.signals = signals
        self.labels = labels
        self.platforms = exported.platforms
        self.params = jax.device_put(params)
        self._call = jax.jit(exported.call)

    def __call__(self, window: Mapping[str, Any] | Any) -> dict[str, np.ndarray]:
        """Encodes a batch of windows.

        Args:
          window: for each signal ``[b t c]`` float32 by its name, and ``length`` ``[b]`` integers,
            the valid samples of the first signal (all of them if left out). A single signal may be
            given as its array.

        Returns:
          The outputs of :class:`Adapter` as numpy arrays.

        Raises:
          InputError: for other signals, lengths of the window, channels or dtypes.
        """
        if not isinstance(window, Mapping):
            window = {self.signals[0].name: window}
        first = self.signals[0].name
        rows = len(window[first]) if first in window else 0
        batch = {s.name: _checked(window, s, rows) for s in self.signals}
        unknown = set(window) - set(batch) - {"length"}
        if unknown:
            raise InputError(
                f"window: has {', '.join(sorted(unknown))}, which the program does not read; give "
                f"{', '.join(batch)} and, if rows are shorter, length"
            )
        length = np.asarray(window.get("length", np.full(rows, self.signals[0].samples)))
        if length.shape != (rows,) or length.dtype.kind not in "iu":
            raise InputError(
                f"length: expected {rows} integers, got {length.dtype} of shape {length.shape}"
            )
        return jax.device_get(self._call(self.params, {**batch, "length": length.astype(np.int32)}))


def load(path: str | Path) -> Program:
    """Loads the program of a folder that ``jfreq export --format stablehlo`` wrote.

    Raises:
      InputError: for a folder without a program, altered files, a newer format, a program that this
        jax cannot read, and a platform that it was not written for.
    """
    path = local_path(path, "program")
    for name in (MANIFEST, PROGRAM):
        if not (path / name).is_file():
            raise InputError(
                f"{path}: holds no {name}; write it with `jfreq export RUN --out {path} --format "
                "stablehlo`"
            )
    manifest = _read_manifest(path / MANIFEST)
    blob = (path / PROGRAM).read_bytes()
    if hashlib.sha256(blob).hexdigest() != manifest["sha256"]:
        raise InputError(
            f"{path / PROGRAM}: is truncated or altered (its checksum differs from {MANIFEST}); "
            "export it again"
        )
    exported = deserialise(blob, path / PROGRAM)
    here = export.default_export_platform()
    if here not in exported.platforms:
        raise InputError(
            f"{path}: was written for {', '.join(exported.platforms)}, but jax runs on {here} "
            "here; set JAX_PLATFORMS to one of these"
        )
    where = f"{path / MANIFEST}: signal"
    signals = tuple(from_dict(SignalSpec, signal, path=where) for signal in manifest["signals"])
    labels = tuple(manifest["labels"])
    weights = read_weights(path)
    _check_arguments(exported, weights, path)
    return Program(exported, weights, signals, labels)


def _read_manifest(path: Path) -> dict[str, Any]:
    what = "the manifest of a program"
    manifest = read_sealed(path, what, FORMAT)
    lists = (manifest.get("signals"), manifest.get("labels"))
    if not all(isinstance(value, list) for value in lists) or "sha256" not in manifest:
        raise InputError(f"{path}: is not {what}; export the bundle again")
    return manifest


def _check_arguments(exported: export.Exported, weights: Mapping[str, Any], path: Path) -> None:
    """Raises ``InputError`` unless the program reads weights such as those that lie beside it."""
    (wanted, _), _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
    layout = {name: (x.shape, np.dtype(x.dtype)) for name, x in wanted.items()}
    if layout != {name: (x.shape, x.dtype) for name, x in weights.items()}:
        raise InputError(
            f"{path}: {WEIGHTS} and {PROGRAM} belong to different encoders; export them together"
        )


def _checked(window: Mapping[str, Any], signal: SignalSpec, rows: int) -> np.ndarray:
    wanted = f"[b, {signal.samples}, {signal.channels}] float32"
    if signal.name not in window:
        raise InputError(f"window: lacks the signal {signal.name!r}; give it as {wanted}")
    x = np.asarray(window[signal.name])
    if x.dtype != np.float32 or x.shape != (rows, signal.samples, signal.channels) or not rows:
        raise InputError(
            f"{signal.name}: expected {wanted}, got {list(x.shape)} {x.dtype}; the program reads "
            "windows of one length, use jfreq.load_encoder for recordings of other lengths"
        )
    return x


def _card(adapter: Adapter, size: int, found: Agreement) -> str:
    inputs, outputs = inputs_and_outputs(adapter)
    return f"""## StableHLO

`{PROGRAM}` ({mebibytes(size)}, written by jax {jax.__version__} for {", ".join(PLATFORMS)}) is the
same encoder as a program of weights and a window, for any batch size b: {listed(inputs)} to
{listed(outputs)}. {SIGNALS}

```python
# In this folder; needs jax, numpy, safetensors and flatbuffers. Two windows of noise.
{"import json" + chr(10) + chr(10) if adapter.labels else ""}import jax
import numpy as np
from jax import export
from safetensors.numpy import load_file

program = export.deserialize(bytearray(open("{PROGRAM}", "rb").read()))
weights = jax.device_put(load_file("model.safetensors"))
encode = jax.jit(program.call)

window = {{
{example_window(adapter)}
}}
outputs = encode(weights, window)
{_classes(adapter)}```

{AGREED}: {found}. {EXPIRY}.
"""


def _classes(adapter: Adapter) -> str:
    """The lines that turn logits into names and probabilities; empty without labels."""
    if not adapter.labels:
        return ""
    return f"""labels = json.load(open("{MANIFEST}"))["labels"]
scores = jax.nn.{adapter.scores}(outputs["logits"])  # [b, {len(adapter.labels)}]
best = [labels[i] for i in scores.argmax(-1)]
"""
