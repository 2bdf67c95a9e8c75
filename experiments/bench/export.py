"""One encoder in every format: size on disk, how long an embedding takes, how far it is off.

    jfreq bench export

The frozen `ssast_tiny` encoder on 4 s waveforms, front end included, to one clip vector: numpy in,
numpy out, one recording and eight. Every format is written by `jfreq export`, read back from its folder
and called as its section in docs/export.md shows. The weights are random, but the largest difference
of the clip vectors is of the arithmetic. Formats whose libraries are missing are left out and named.
"""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import common
import jax
import numpy as np

from jfreq import methods, recipes
from jfreq.export import stablehlo
from jfreq.export.bundle import save_bundle
from jfreq.export.export_run import export_run
from jfreq.export.portable import adapt
from jfreq.types import DataSpec, InputError, SignalSpec

SAMPLES = 64_000
CLIP = DataSpec((SignalSpec("audio", 16000.0, SAMPLES),))
Encode = Callable[[np.ndarray], np.ndarray]
"""``[b t c]`` float32 to clip vectors ``[b d]``."""


class Format(NamedTuple):
    """How a format is called."""

    load: Callable[[Path, int], Encode]
    """From the folder, for so many threads."""
    file: str
    needs: tuple[str, ...]
    """Modules without which it is left out."""
    runs_with: str
    limit: float
    """Of the difference, in parts of the largest value of the clip vectors."""
    most: int = 8
    """Rows of a call."""


def from_stablehlo(folder: Path, threads: int) -> Encode:
    del threads
    program = stablehlo.load(folder)
    return lambda x: program(x)["clip"]


def from_onnx(folder: Path, threads: int) -> Encode:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(folder / "encoder.onnx", options)
    return lambda x: np.asarray(session.run(["clip"], {"audio": x, "length": lengths(x)})[0])


def from_saved_model(folder: Path, threads: int) -> Encode:
    del threads  # the process is pinned to that many cores
    import tensorflow as tf

    program = tf.saved_model.load(str(folder / "saved_model"))
    encode = program.signatures["serving_default"]  # type: ignore[attr-defined]

    def call(x: np.ndarray) -> np.ndarray:
        return encode(audio=tf.constant(x), length=tf.constant(lengths(x)))["clip"].numpy()

    call.program = program  # type: ignore[attr-defined]  # holds the weights
    return call


def from_tflite(name: str, folder: Path, threads: int) -> Encode:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(folder / name), num_threads=threads)
    encode = interpreter.get_signature_runner("serving_default")
    return lambda x: encode(audio=x, length=lengths(x))["clip"]


def from_huggingface(folder: Path, threads: int) -> Encode:
    import torch
    from transformers import AutoModel

    torch.set_num_threads(threads)
    model = AutoModel.from_pretrained(folder / "huggingface", trust_remote_code=True).eval()

    def call(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(x[..., 0])).pooler_output.numpy()

    return call


def _tflite(name: str, runs_with: str, limit: float) -> Format:
    load = functools.partial(from_tflite, name)
    return Format(load, name, ("tensorflow", "ai_edge_litert"), runs_with, limit, most=1)


FORMATS = {
    "stablehlo": Format(from_stablehlo, "encoder.stablehlo", (), "jax", 1e-4),
    "onnx": Format(from_onnx, "encoder.onnx", ("onnxruntime",), "onnxruntime", 1e-4),
    "saved_model": Format(from_saved_model, "saved_model", ("tensorflow",), "TensorFlow", 1e-4),
    "tflite": _tflite("encoder.tflite", "LiteRT", 1e-4),
    "tflite_float16": _tflite("encoder_float16.tflite", "LiteRT", 1e-2),
    "tflite_int8": _tflite("encoder_int8.tflite", "LiteRT", 0.1),
    "huggingface": Format(
        from_huggingface, "huggingface", ("torch", "transformers"), "torch, transformers", 1e-4
    ),
}


def lengths(x: np.ndarray) -> np.ndarray:
    """The valid samples ``[b]`` of rows that are full."""
    return np.full(len(x), x.shape[1], np.int32)


def written(folder: Path, formats: list[str]) -> tuple[Path, Encode]:
    """The folder of an untrained encoder in all formats, and the encoder."""
    experiment = methods.bind(recipes.load("ssast_tiny"), CLIP)
    params = jax.device_get(jax.jit(experiment.method.init)(jax.random.key(0)))
    save_bundle(folder / "run", experiment=experiment, params=params)
    out = Path(export_run(folder / "run", folder / "enc", formats=("bundle", *formats), say=print))
    adapter = adapt(experiment, params)
    run, weights = jax.jit(adapter.encode), jax.device_put(adapter.params)
    return out, lambda x: jax.device_get(run(weights, {"audio": x, "length": lengths(x)}))["clip"]


def size_of(path: Path) -> float:
    """MB of a file or of all files of a folder."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(p.stat().st_size for p in files) / 1e6


def timed(calls: dict[str, Encode], x: np.ndarray, rounds: int) -> common.Table:
    """The table of so many recordings at once."""
    runs = {name: (lambda encode=encode: encode(x)) for name, encode in calls.items()}
    compile_s = {name: common.first_call(run) for name, run in runs.items()}
    title = "One recording" if len(x) == 1 else f"{len(x)} recordings at once"
    return common.Table(title, common.paired(runs, rounds=rounds), compile_s)


def differences(calls: dict[str, Encode], x: np.ndarray) -> dict[str, tuple[float, float]]:
    """Of each format the largest difference and the least cosine between clip vectors.

    Raises:
      InputError: for one that is further off than its limit.
    """
    wanted, found = calls["jfreq"](x), {}
    for name, encode in calls.items():
        if name == "jfreq":
            continue
        rows = FORMATS[name].most
        clip = np.concatenate([encode(x[i : i + rows]) for i in range(0, len(x), rows)])
        error = float(np.abs(clip - wanted).max())
        norms = np.linalg.norm(clip, axis=1) * np.linalg.norm(wanted, axis=1)
        found[name] = error, float(((clip * wanted).sum(1) / norms).min())
        if not error <= FORMATS[name].limit * float(np.abs(wanted).max()):
            raise InputError(f"{name}: clip vectors differ by {error:.3g}, nothing is timed")
    return found


def summary(folder: Path, found: dict[str, tuple[float, float]]) -> str:
    """The table of what every format is."""
    weights = size_of(folder / "model.safetensors")
    lines = [
        "| format | file | MB | runs with | recordings at once | largest difference | least cosine |",
        "|---|---|---|---|---|---|---|",
        f"| bundle | `model.safetensors` and `config.json` | {weights:.1f} | jfreq | any | 0 | 1 |",
    ]
    for name, (error, cosine) in found.items():
        kind = FORMATS[name]
        size = size_of(folder / kind.file) + (weights if name == "stablehlo" else 0)
        file = f"`{kind.file}`" + (" and the weights of the bundle" if name == "stablehlo" else "")
        rows = "any" if kind.most > 1 else "1"
        lines.append(
            f"| {name} | {file} | {size:.1f} | {kind.runs_with} | {rows} | {error:.1e} "
            f"| {cosine:.7f} |"
        )
    return "\n".join(lines) + "\n"


def main(rounds: int = 15, threads: int = 2, out: Path | None = None) -> None:
    """Measures all formats and writes export.md and .json.

    Args:
        rounds: timed rounds; every format once in each.
        threads: cores that all formats share.
        out: folder of the results, by default experiments/results.
    """
    facts = common.begin(threads)
    formats = [n for n, kind in FORMATS.items() if all(map(common.available, kind.needs))]
    x = np.random.default_rng(0).normal(0, 0.1, (8, SAMPLES, 1)).astype(np.float32)
    with tempfile.TemporaryDirectory() as tmp:
        folder, encode = written(Path(tmp), formats)
        calls = {"jfreq": encode} | {name: FORMATS[name].load(folder, threads) for name in formats}
        found = differences(calls, x)
        parts: list[common.Table | str] = [summary(folder, found), timed(calls, x[:1], rounds)]
        several = {n: f for n, f in calls.items() if n == "jfreq" or FORMATS[n].most >= len(x)}
        parts.append(timed(several, x, rounds))
    intro = (
        "`ssast_tiny`, 4 s waveforms to clip vectors, front end included. Every format is compared "
        "with the encoder in jfreq on noise; the rows of a time are paired, so that ratios above 1 "
        "say how many times as long a format takes. What each is good for: "
        "[docs/export.md](../../docs/export.md)."
    )
    text = common.save("export", "One encoder in every format", intro, parts, facts=facts,
                       more={"differences": found}, out=out, file="export")  # fmt: skip
    print(text)


if __name__ == "__main__":
    common.run(main)
