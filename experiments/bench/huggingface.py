"""Embeddings a second: jfreq beside the same AST in Hugging Face transformers, in one run.

    jfreq bench huggingface

One random AST of each size is written by transformers, and jfreq imports the folder, so that both
hold the same weights; logits agree to 1e-3 before anything is timed. Clips last 10 s (1212 tokens).
"Network" starts from spectrograms that are given, "waves" from float32 samples in memory: jfreq's
`Encoder`, and the feature extractor of transformers with its model, as their pages show it. Every
contender gets all clips and computes so many of them at once as it does fastest. All share the
cores.
"""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import common
import jax
import numpy as np

import jfreq
from jfreq.encoder.encoder import Encoder
from jfreq.export.bundle import load_bundle, save_bundle
from jfreq.types import InputError
from jfreq.weights.importing import import_weights

RATE, SAMPLES = 16000, 160_000
CLASSES = 527


class Size(NamedTuple):
    """An AST and how it is timed."""

    width: int
    heads: int
    clips: int
    rounds: int


SIZES = {"tiny": Size(192, 3, 8, 15), "base": Size(768, 12, 2, 7)}
BATCHES = (1, 2, 8)
Call = Callable[[np.ndarray], np.ndarray]


def written(folder: Path, size: Size) -> Path:
    """The folder of a random AST, as transformers writes it."""
    import torch
    from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

    torch.manual_seed(0)
    config = ASTConfig(
        hidden_size=size.width,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.width,
        num_labels=CLASSES,
    )
    model = ASTForAudioClassification(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    path = folder / "huggingface"
    model.save_pretrained(path)
    ASTFeatureExtractor().save_pretrained(path)
    return path


def ours(path: Path, folder: Path) -> tuple[Encoder, Call]:
    """The imported encoder, and its network: spectrograms ``[b t f]`` to logits."""
    found = import_weights(path)
    bundle = save_bundle(folder / "bundle", experiment=found.experiment, params=found.params)
    method, params = found.experiment.method, jax.device_put(load_bundle(bundle).params)
    run = jax.jit(lambda params, batch: method.encode(params, batch).logits)

    def network(spectrogram: np.ndarray) -> np.ndarray:
        valid = np.ones(spectrogram.shape[:2], bool)
        batch = {"spectrogram": spectrogram[..., None], "valid_frames": valid}
        return jax.device_get(run(params, batch))

    return jfreq.load_encoder(bundle), network


def theirs(path: Path) -> dict[str, Call]:
    """Their networks, eager and compiled: spectrograms ``[b t f]`` to logits."""
    import torch
    from transformers import ASTForAudioClassification

    model = ASTForAudioClassification.from_pretrained(path).eval()

    def network(forward: Any) -> Call:
        def call(spectrogram: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return forward(torch.from_numpy(spectrogram)).logits.numpy()

        return call

    return {"transformers": network(model), "torch.compile": network(torch.compile(model))}


def contenders(path: Path, folder: Path, size: Size) -> tuple[dict[str, Call], dict[str, Call]]:
    """By name what maps spectrograms ``[b t f]``, and what maps waves ``[b t]``, to logits."""
    extractor = _extractor(path)
    encoder, network = ours(path, folder)
    other = theirs(path)

    def embed(waves: np.ndarray) -> np.ndarray:
        logits = encoder(waves[..., None], RATE, batch_size=len(waves)).logits
        assert logits is not None
        return logits

    def extracted(call: Call) -> Call:
        return lambda waves: call(spectrograms(extractor, waves))

    on_waves = {"jfreq": embed} | {name: extracted(call) for name, call in other.items()}
    return {"jfreq": network} | other, on_waves


def _extractor(path: Path) -> Any:
    from transformers import ASTFeatureExtractor

    return ASTFeatureExtractor.from_pretrained(path)


def spectrograms(extractor: Any, waves: np.ndarray) -> np.ndarray:
    """``[b t f]`` of ``[b t]``."""
    return extractor(list(waves), sampling_rate=RATE, return_tensors="np")["input_values"]


def in_parts(call: Call, x: np.ndarray, rows: int) -> np.ndarray:
    """``call`` on so many rows at a time."""
    return np.concatenate([call(x[i : i + rows]) for i in range(0, len(x), rows)])


def fastest(call: Call, x: np.ndarray) -> int:
    """The batch with which ``x`` takes the shortest time, of two calls after the first."""
    seconds = {}
    for rows in sorted({min(rows, len(x)) for rows in BATCHES}):
        run = functools.partial(in_parts, call, x, rows)
        seconds[rows] = min([common.first_call(run) for _ in range(3)][1:])
    return min(seconds, key=lambda rows: seconds[rows])


def timed(title: str, calls: dict[str, Call], x: np.ndarray, rounds: int) -> common.Table:
    """The table of one kind of input. Raises ``InputError`` where logits differ."""
    one = x[:1]
    first = {name: common.first_call(lambda call=call: call(one)) for name, call in calls.items()}
    wanted = calls["jfreq"](one)
    timings, compile_s = {}, {}
    for name, call in calls.items():
        error = float(np.abs(call(one) - wanted).max())
        if not error <= 1e-3 * max(1.0, float(np.abs(wanted).max())):
            raise InputError(f"{name}: logits differ by {error:.3g}, nothing is timed")
        rows = fastest(call, x)
        label = f"{name}, batch {rows}"
        timings[label] = functools.partial(in_parts, call, x, rows)
        if name != "transformers":
            compile_s[label] = first[name]
    return common.Table(title, common.paired(timings, rounds=rounds), compile_s)


def main(
    sizes: tuple[Literal["tiny", "base"], ...] = ("tiny", "base"),
    threads: int = 2,
    isa: common.Isa = "native",
    out: Path | None = None,
) -> None:
    """Times embeddings of AST tiny and base and writes bench_huggingface.md and .json.

    Args:
        sizes: of the AST.
        threads: cores that all contenders share.
        isa: native, or avx2 to keep all contenders from AVX-512.
        out: folder of the results, by default experiments/results.
    """
    common.need("torch")
    common.need("transformers")
    facts = common.begin(threads, isa)
    rng, tables = np.random.default_rng(0), []
    for name in sizes:
        size = SIZES[name]
        with tempfile.TemporaryDirectory() as tmp:
            folder = Path(tmp)
            path = written(folder, size)
            network, waves = contenders(path, folder, size)
            x = rng.normal(0, 0.1, (size.clips, SAMPLES)).astype(np.float32)
            for what, calls, given in (
                ("network", network, spectrograms(_extractor(path), x)),
                ("waves", waves, x),
            ):
                title = f"AST {name}, {what}, {size.clips} clips"
                tables.append(timed(title, calls, given, size.rounds))
                print(tables[-1].to_markdown(), flush=True)
    intro = (
        "Random weights, clips of 10 s, 1212 tokens each. A ratio above 1 means that jfreq is so "
        "many times as fast. The extractor of transformers computes the spectrogram with "
        f"{_spectrogram_library()}."
    )
    common.save("huggingface", "Embeddings beside Hugging Face transformers", intro, tables,
                facts=facts, out=out)  # fmt: skip


def _spectrogram_library() -> str:
    from transformers.utils import is_speech_available

    return "torchaudio" if is_speech_available() else "NumPy, which it does without torchaudio"


if __name__ == "__main__":
    common.run(main)
