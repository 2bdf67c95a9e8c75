"""Does memory depend on how many clips a set has?

    jfreq bench many

Synthetic sets of 1,000, 10,000 and 100,000 clips of 0.1 s are written, then opened, shuffled and
fed through tf.data from the first step and from one deep in a later epoch. Each stage is a process
of its own; its peak resident memory is what it says. Two minutes on two CPU cores.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = (1_000, 10_000, 100_000)
BATCH, BATCHES = 64, 500


def write(folder: Path, n: int) -> dict:
    from jfreq.data.prepare.run import prepare

    prepare("synthetic:tones", folder, n=n, seconds=0.1, progress=False)
    return {"clips": n}


def feed(folder: Path, start: int) -> dict:
    """``BATCHES`` batches from ``start``; the ids of the first say that it is the right one."""
    from jfreq.config import Data
    from jfreq.data.loading.pipeline import open_pipeline

    pipeline = open_pipeline(Data(path=(str(folder),), backend="tfdata"), batch=BATCH, seed=0)
    batches = pipeline.iterate(start)
    began = time.perf_counter()
    first = next(batches)
    wait = time.perf_counter() - began
    assert first["id"].tolist() == pipeline.global_ids(start).tolist()
    for _ in range(BATCHES - 1):
        next(batches)
    rate = BATCH * BATCHES / (time.perf_counter() - began)
    pipeline.close()
    return {"first_batch_s": wait, "clips_per_s": rate}


STAGES = {"write": write, "feed": feed}


def stage(name: str, folder: Path, value: int) -> dict:
    """A stage in a process of its own, with its seconds and peak memory."""
    command = [sys.executable, "-P", __file__, name, str(folder), str(value)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def work(name: str, folder: str, value: str) -> None:
    """What a stage's process does."""
    began = time.perf_counter()
    found = STAGES[name](Path(folder), int(value))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**found, "seconds": time.perf_counter() - began, "peak_mb": peak}))


def main(out: Path | None = None) -> None:
    """Writes bench_many.md and .json.

    Args:
        out: folder of the results, by default experiments/results.
    """
    import common

    common.need("tensorflow")
    facts = common.begin(2)
    lines = [
        "| clips | written in | peak | first batch | clips/s | peak | resumed: first batch | peak |",
        "|---|---|---|---|---|---|---|---|",
    ]
    found = {}
    with tempfile.TemporaryDirectory() as tmp:
        for n in SIZES:
            folder = Path(tmp) / str(n)
            wrote = stage("write", folder, n)
            fresh = stage("feed", folder, 0)
            resumed = stage("feed", folder, 5 * n // (2 * BATCH))
            found[n] = {"write": wrote, "feed": fresh, "resumed": resumed}
            lines.append(
                f"| {n:,} | {wrote['seconds']:.0f} s | {wrote['peak_mb']:.0f} MB "
                f"| {fresh['first_batch_s']:.2f} s | {fresh['clips_per_s']:.0f} "
                f"| {fresh['peak_mb']:.0f} MB "
                f"| {resumed['first_batch_s']:.2f} s | {resumed['peak_mb']:.0f} MB |"
            )
            print(lines[-1], flush=True)
    intro = (
        f"Clips of 0.1 s. Peak resident memory of one process for each stage; feeding: {BATCHES} "
        f"batches of {BATCH} through tf.data, from step 0 and from the middle of the third epoch. "
        "The first batch waits for TensorFlow to be imported."
    )
    table = "\n".join(lines) + "\n"
    common.save("many", "Sets of many clips", intro, [table], facts=facts,
                more={"stages": found}, out=out)  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in STAGES:
        work(*sys.argv[1:])
    else:
        import common

        common.run(main)
