"""How long one embedding takes: jfreq's jitted encoder, the StableHLO program, PyTorch.

    jfreq bench export

The frozen `ssast_tiny` encoder on 10 s waveforms, front end included, to one clip vector: numpy in,
numpy out, batch 1 and batch 8. The program is written, read back from its folder and called as a
user would. PyTorch gets the same weights; clip vectors agree to 1e-3 before anything is timed.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import jax
import numpy as np

from jfreq import methods, param_paths, recipes
from jfreq.export import stablehlo
from jfreq.export.bundle import save_bundle
from jfreq.export.export_run import export_run
from jfreq.export.portable import adapt
from jfreq.types import DataSpec, InputError, SignalSpec

CLIP = DataSpec((SignalSpec("audio", 16000.0, 160_000),))


def written(folder: Path) -> tuple[Any, Any]:
    """Experiment and parameters of an untrained encoder, exported to ``folder / "enc"``."""
    experiment = methods.bind(recipes.load("ssast_tiny"), CLIP)
    params = jax.device_get(jax.jit(experiment.method.init)(jax.random.key(0)))
    save_bundle(folder / "run", experiment=experiment, params=params)
    export_run(folder / "run", folder / "enc", formats=("bundle", "stablehlo"))
    return experiment, params


def torch_encoder(params: Any) -> Callable[[np.ndarray], np.ndarray]:
    """``[b t c]`` float32 to clip vectors ``[b d]``, eager."""
    import torch
    from torch_models import SSAST, Embedder, load_jfreq

    device = common.torch_device()
    model = SSAST()
    load_jfreq(model, param_paths.flatten(params))
    embedder = Embedder(model).to(device).eval()

    def encode(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return embedder(torch.from_numpy(x[..., 0]).to(device)).cpu().numpy()

    return encode


def encoders(folder: Path) -> tuple[dict[str, Callable[[np.ndarray], np.ndarray]], float]:
    """Contenders by name, and the seconds that reading the program took."""
    experiment, params = written(folder)
    adapter = adapt(experiment, params)
    run, weights = jax.jit(adapter.encode), jax.device_put(adapter.params)

    def jitted(x: np.ndarray) -> np.ndarray:
        length = np.full(len(x), x.shape[1], np.int32)
        return jax.device_get(run(weights, {"audio": x, "length": length}))["clip"]

    loaded: list[stablehlo.Program] = []
    load_s = common.first_call(lambda: loaded.append(stablehlo.load(folder / "enc")))
    found = {"jfreq jit": jitted, "StableHLO": lambda x: loaded[0](x)["clip"]}
    if common.available("torch"):
        found["torch eager"] = torch_encoder(params)
    return found, load_s


def timed(found: dict[str, Any], x: np.ndarray, rounds: int) -> tuple[common.Table, float]:
    """The table of one batch size, and the largest difference between the clip vectors."""
    calls = {name: (lambda encode=encode: encode(x)) for name, encode in found.items()}
    compile_s = {
        name: common.first_call(call) for name, call in calls.items() if "torch" not in name
    }
    wanted, worst = calls["jfreq jit"](), 0.0
    for name, call in calls.items():
        error = float(np.abs(call() - wanted).max())
        if not error <= 1e-3:
            raise InputError(f"{name}: clip vectors differ by {error:.3g}, nothing is timed")
        worst = max(worst, error)
    return common.Table(f"Batch {len(x)}", common.paired(calls, rounds=rounds), compile_s), worst


def main(rounds: int = 21, threads: int = 2, out: Path | None = None) -> None:
    """Times the encoders and writes bench_export.md and .json.

    Args:
        rounds: timed rounds; every contender once in each.
        threads: cores that all contenders share.
        out: folder of the results, by default experiments/results.
    """
    facts = common.begin(threads)
    rng = np.random.default_rng(0)
    tables, differences = [], {}
    with tempfile.TemporaryDirectory() as folder:
        found, load_s = encoders(Path(folder))
        for batch in (1, 8):
            x = rng.normal(0, 0.1, (batch, 160_000, 1)).astype(np.float32)
            table, differences[f"batch {batch}"] = timed(found, x, rounds)
            tables.append(table)
            print(table.to_markdown(), flush=True)
    intro = (
        f"`ssast_tiny` encoder, 10 s waveforms, {rounds} rounds. Reading the program and its "
        f"weights: {load_s:.2f} s. Largest difference between clip vectors: "
        f"{max(differences.values()):.1e}."
    )
    common.save("export", "Latency of exported encoders", intro, tables, facts=facts,
                more={"load_s": load_s, "differences": differences}, out=out)  # fmt: skip


if __name__ == "__main__":
    common.run(main)
