"""Does the pipeline deliver clips faster than a training step takes them, and does its memory stay flat?

    jfreq bench feed

Ten-second int16 clips of noise in shards: clips per second through tf.data and through memory
(medians of rounds of 40 batches, the two in turn), beside what a training step of `ssast_tiny`
consumes on this machine (batch 8, median of five steps, compilation apart), and resident memory
over 10,000 fed batches. Writes `experiments/results/bench_feed.md` and `.json`.
"""

import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import jax
import numpy as np

from jfreq import recipes
from jfreq.config import Data, Mesh, replace
from jfreq.data.loading.pipeline import open_pipeline
from jfreq.data.prepare.run import prepare
from jfreq.train import initial_state, plan, step
from jfreq.train.loop import Feed

CLIPS, BATCH, BATCHES, FLAT = 256, 8, 40, 10_000


def shards(folder: Path) -> Path:
    """Noise clips of 10 s, decoded and written once."""
    import soundfile

    rng = np.random.default_rng(0)
    for i in range(CLIPS):
        path = folder / "clips" / f"class{i % 2}" / f"{i}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, rng.normal(0, 0.1, 160_000), 16_000)
    prepare(str(folder / "clips"), folder / "shards", progress=False)
    return folder / "shards"


def feeding(path: Path, backend: Any) -> Callable[[], None]:
    """Takes the next batches of an endless pipeline."""
    batches = open_pipeline(Data(path=(str(path),), backend=backend), batch=BATCH, seed=0).iterate(
        0
    )

    def take() -> None:
        for _ in range(BATCHES):
            next(batches)

    return take


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def growth(path: Path, backend: Any) -> list[float]:
    """Resident memory in MB after every fifth of the fed batches."""
    pipeline = open_pipeline(Data(path=(str(path),), backend=backend), batch=BATCH, seed=0)
    found, batches = [], pipeline.iterate(0)
    for i in range(FLAT):
        next(batches)
        if (i + 1) % (FLAT // 5) == 0:
            found.append(resident_mb())
    return found


def consuming(path: Path) -> tuple[float, float]:
    """Clips per second of a tiny training step, and its compile time in seconds."""
    experiment = replace(
        recipes.load("ssast_tiny"), data__path=(str(path),), batch=BATCH, mesh=Mesh(1, 1, 1)
    )
    setup = plan.plan_run(experiment)
    with jax.set_mesh(setup.mesh):
        update, compile_s = step.compile_step(setup)
        state, key = initial_state.first_state(setup), initial_state.run_key(setup)
        feed, times = Feed(setup, 0), []
        for _ in range(6):
            batch = next(feed)
            began = time.perf_counter()
            state, metrics = update(state, batch, key)
            jax.block_until_ready(metrics)
            times.append(time.perf_counter() - began)
    return BATCH / statistics.median(times[1:]), compile_s


def main(rounds: int = 7, threads: int = 2, out: Path | None = None) -> None:
    """Times both backends and writes bench_feed.md and .json.

    Args:
        rounds: timed rounds of 40 batches; every backend once in each.
        threads: cores for feeding and for the step.
        out: folder of the results, by default experiments/results.
    """
    facts = common.begin(threads)
    backends = ("memory", "tfdata") if common.available("tensorflow") else ("memory",)
    with tempfile.TemporaryDirectory() as folder:
        path = shards(Path(folder))
        consumed, compile_s = consuming(path)
        times = common.paired(
            {backend: feeding(path, backend) for backend in backends}, rounds=rounds
        )
        memory = {backend: growth(path, backend) for backend in backends}
    lines = [
        f"| backend | clips/s | x the step | MB resident after each fifth of {FLAT:,} batches |",
        "|---|---|---|---|",
    ]
    rates = {
        backend: BATCHES * BATCH / statistics.median(spent) for backend, spent in times.items()
    }
    for backend, rate in rates.items():
        flat = ", ".join(f"{mb:.0f}" for mb in memory[backend])
        lines.append(f"| {backend} | {rate:,.0f} | {rate / consumed:,.0f} | {flat} |")
    intro = (
        f"10 s int16 clips, batch {BATCH}. A step of `ssast_tiny` (two passes, 512 tokens) takes "
        f"{consumed:.1f} clips/s; it compiled in {compile_s:.0f} s."
    )
    more = {"clips_per_s": rates, "step_clips_per_s": consumed, "resident_mb": memory}
    print(common.save("feed", "Feeding", intro, ["\n".join(lines) + "\n"], facts=facts,
                      more={**more, "times_s": times}, out=out))  # fmt: skip


if __name__ == "__main__":
    common.run(main)
