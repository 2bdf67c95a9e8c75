"""Embeddings a second: jfreq beside the same AST in Hugging Face transformers, in one run.

    jfreq bench embed

One random AST of each size is written by transformers, and jfreq imports the folder, so that both
hold the same weights; logits agree to 1e-3 before anything is timed. Clips last 10 s (1212 tokens).
"Network" starts from a spectrogram that is given, "waves" from float32 samples in memory: jfreq's
`Encoder`, and the feature extractor of transformers with its model, as their pages show it. All
contenders share the cores.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

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
    batch: int
    """Clips at once."""
    rounds: int


SIZES = {"tiny": Size(192, 3, 8, 15), "base": Size(768, 12, 2, 7)}


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


def ours(path: Path, folder: Path) -> tuple[Encoder, Callable[[np.ndarray], np.ndarray]]:
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


def theirs(path: Path) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Their networks, eager and compiled: spectrograms ``[b t f]`` to logits."""
    import torch
    from transformers import ASTForAudioClassification

    model = ASTForAudioClassification.from_pretrained(path).eval()

    def network(forward: Any) -> Callable[[np.ndarray], np.ndarray]:
        def call(spectrogram: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return forward(torch.from_numpy(spectrogram)).logits.numpy()

        return call

    return {"transformers": network(model), "torch.compile": network(torch.compile(model))}


def contenders(
    path: Path, folder: Path, size: Size
) -> tuple[dict[str, Callable[[], np.ndarray]], dict[str, Callable[[], np.ndarray]]]:
    """Calls on a given spectrogram, and calls on waves."""
    from transformers import ASTFeatureExtractor

    rng = np.random.default_rng(0)
    waves = rng.normal(0, 0.1, (size.batch, SAMPLES)).astype(np.float32)
    extractor = ASTFeatureExtractor.from_pretrained(path)

    def extracted() -> np.ndarray:
        found = extractor(list(waves), sampling_rate=RATE, return_tensors="np")
        return found["input_values"]

    spectrogram = extracted()
    encoder, network = ours(path, folder)
    other = theirs(path)
    on_spectrogram = {"jfreq": lambda: network(spectrogram)} | {
        name: (lambda call=call: call(spectrogram)) for name, call in other.items()
    }
    on_waves = {
        "jfreq": lambda: encoder(waves[..., None], RATE, batch=size.batch).logits,
        **{name: (lambda call=call: call(extracted())) for name, call in other.items()},
    }
    return on_spectrogram, on_waves


def timed(title: str, calls: dict[str, Callable[[], np.ndarray]], size: Size) -> common.Table:
    """The table of one kind of input. Raises ``InputError`` where logits differ."""
    compile_s = {n: common.first_call(call) for n, call in calls.items() if n != "transformers"}
    wanted = calls["jfreq"]()
    for name, call in calls.items():
        error = float(np.abs(call() - wanted).max())
        if not error <= 1e-3 * max(1.0, float(np.abs(wanted).max())):
            raise InputError(f"{name}: logits differ by {error:.3g}, nothing is timed")
    return common.Table(title, common.paired(calls, rounds=size.rounds), compile_s)


def main(
    sizes: tuple[str, ...] = ("tiny", "base"), threads: int = 2, out: Path | None = None
) -> None:
    """Times embeddings of AST tiny and base and writes bench_embed.md and .json.

    Args:
        sizes: of the AST, tiny or base.
        threads: cores that all contenders share.
        out: folder of the results, by default experiments/results.
    """
    common.need("torch")
    common.need("transformers")
    facts = common.begin(threads)
    tables = []
    for name in sizes:
        size = SIZES[name]
        with tempfile.TemporaryDirectory() as tmp:
            folder = Path(tmp)
            network, waves = contenders(written(folder, size), folder, size)
            for what, calls in (("network", network), ("waves", waves)):
                title = f"AST {name}, {what}, batch {size.batch}"
                tables.append(timed(title, calls, size))
                print(tables[-1].to_markdown(), flush=True)
    intro = (
        "Random weights, clips of 10 s, 1212 tokens each. A ratio above 1 means that jfreq is so "
        "many times as fast. The extractor of transformers computes the spectrogram with "
        f"{_spectrogram_library()}."
    )
    common.save("embed", "Embeddings beside Hugging Face transformers", intro, tables,
                facts=facts, out=out)  # fmt: skip


def _spectrogram_library() -> str:
    from transformers.utils import is_speech_available

    return "torchaudio" if is_speech_available() else "NumPy, which it does without torchaudio"


if __name__ == "__main__":
    common.run(main)
