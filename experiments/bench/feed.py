"""Does the pipeline feed faster than the model eats, and does its memory stay flat?

    python experiments/bench/feed.py

Ten-second int16 clips of noise in shards: clips per second through tf.data and through memory
(medians of five runs of 40 batches after warm-up), beside what a training step of `ssast_tiny`
consumes on this machine (batch 8, median of five steps, compilation apart), and resident memory
over 10,000 fed batches. Writes `experiments/results/feed.md`.
"""

import platform
import resource
import statistics
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import soundfile

from jfreq import recipes, step
from jfreq.config import Data, Mesh, replace
from jfreq.data.pipeline import open_pipeline
from jfreq.data.prepare import prepare
from jfreq.train import Feed

CLIPS, BATCH, FLAT = 256, 8, 10_000


def shards(folder: Path) -> Path:
    """Noise clips of 10 s, decoded and written once."""
    rng = np.random.default_rng(0)
    for i in range(CLIPS):
        path = folder / "clips" / f"class{i % 2}" / f"{i}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, rng.normal(0, 0.1, 160_000), 16_000)
    prepare(str(folder / "clips"), folder / "shards", progress=False)
    return folder / "shards"


def feeding(path: Path, door) -> float:
    """Median clips per second."""
    pipeline = open_pipeline(Data(path=(str(path),), door=door), batch=BATCH, seed=0)
    batches = pipeline.iterate(0)
    rates = []
    for _ in range(6):
        began = time.perf_counter()
        for _ in range(40):
            next(batches)
        rates.append(40 * BATCH / (time.perf_counter() - began))
    return statistics.median(rates[1:])


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def growth(path: Path, door) -> list[float]:
    """Resident memory in MB after every fifth of the fed batches."""
    pipeline = open_pipeline(Data(path=(str(path),), door=door), batch=BATCH, seed=0)
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
    setup = step.prepare(experiment)
    with jax.set_mesh(setup.mesh):
        update, compile_s = step.compile_step(setup)
        state, feed, times = step.first_state(setup), Feed(setup, 0), []
        for _ in range(6):
            batch = next(feed)
            began = time.perf_counter()
            state, metrics = update(state, batch)
            jax.block_until_ready(metrics)
            times.append(time.perf_counter() - began)
    return BATCH / statistics.median(times[1:]), compile_s


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = shards(Path(folder))
        eaten, compile_s = consuming(path)
        lines = [
            "# Feeding",
            "",
            f"10 s int16 clips, batch {BATCH}, {platform.machine()} CPU with 2 cores, jax "
            f"{jax.__version__}. `ssast_tiny` step (two passes, 512 tokens): {eaten:.1f} clips/s, "
            f"compiled in {compile_s:.0f} s.",
            "",
            f"| door | clips/s | x the step | MB resident after each fifth of {FLAT:,} batches |",
            "|---|---|---|---|",
        ]
        for door in ("tfdata", "memory"):
            rate = feeding(path, door)
            memory = ", ".join(f"{mb:.0f}" for mb in growth(path, door))
            lines.append(f"| {door} | {rate:,.0f} | {rate / eaten:,.0f} | {memory} |")
    text = "\n".join(lines) + "\n"
    (Path(__file__).parent.parent / "results" / "feed.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
