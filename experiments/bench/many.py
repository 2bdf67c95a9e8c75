"""Does memory depend on how many clips a set has?

    jfreq bench many
    python experiments/bench/many.py --sizes 1000 100000

Synthetic sets of 1,000 to 2,000,000 clips of 10 ms are prepared in two parts by two processes at
once and joined, then opened, shuffled and fed through tf.data from the first step and from one deep
in a later epoch. Each stage is a process of its own; its peak resident memory is what it says.
About fifteen minutes on two CPU cores.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

SIZES = (1_000, 100_000, 2_000_000)
AHEAD = 200_000_000
"""Rows for which the table computes what the others measured."""
BATCH, BATCHES = 64, 500
PARTS = 2


def clips(n: int) -> dict:
    """The set: ``n`` clips of 160 samples."""
    return {"n": n, "seconds": 0.01, "progress": False, "workers": 1}


def prepare_part(folder: Path, n: int, part: int) -> dict:
    """One part of the set."""
    from jfreq.data.prepare.parts import prepare_part

    prepare_part("synthetic:tones", folder, f"{part}/{PARTS}", **clips(n))
    return {}


def finish(folder: Path, n: int, _: int) -> dict:
    """Joins the parts; the size of the columns on disk."""
    from jfreq.data.prepare.parts import finish_parts

    finish_parts("synthetic:tones", folder, **clips(n))
    return {"columns_bytes": (folder / "rows.npz").stat().st_size}


def shuffle(folder: Path, n: int, start: int) -> dict:
    """Opens the set for training and takes the ids of ``BATCHES`` steps; no clip is read."""
    from jfreq.config import Data
    from jfreq.data.loading.pipeline import open_pipeline

    pipeline = open_pipeline(Data(path=(str(folder),), backend="tfdata"), batch=BATCH, seed=0)
    ids = {int(i) for step in range(start, start + BATCHES) for i in pipeline.global_ids(step)}
    pipeline.close()
    return {"rows": len(pipeline.rows), "different_ids": len(ids)}


def feed(folder: Path, n: int, start: int) -> dict:
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


STAGES = {"part": prepare_part, "finish": finish, "shuffle": shuffle, "feed": feed}


def begin(name: str, folder: Path, n: int, value: int = 0) -> subprocess.Popen:
    """A stage in a process of its own."""
    command = [sys.executable, "-P", __file__, name, str(folder), str(n), str(value)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def result(process: subprocess.Popen) -> dict:
    """What a stage found, with its seconds and peak memory."""
    text, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"a stage failed: {process.args}")
    return json.loads(text.splitlines()[-1])


def work(name: str, folder: str, n: str, value: str) -> None:
    """What a stage's process does."""
    began = time.perf_counter()
    found = STAGES[name](Path(folder), int(n), int(value))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**found, "seconds": time.perf_counter() - began, "peak_mb": peak}))


def measure(folder: Path, n: int) -> dict[str, dict]:
    """All stages of a set of ``n`` clips."""
    parts = [begin("part", folder, n, i + 1) for i in range(PARTS)]
    done = [result(process) for process in parts]
    late = 5 * n // (2 * BATCH)
    return {
        "part": {key: max(part[key] for part in done) for key in done[0]},
        "finish": result(begin("finish", folder, n)),
        "shuffle": result(begin("shuffle", folder, n, late)),
        "feed": result(begin("feed", folder, n)),
        "resumed": result(begin("feed", folder, n, late)),
    }


def line(n: int, found: dict[str, dict]) -> str:
    """The row of the table of a set."""
    part, joined, order, fresh, resumed = found.values()
    return (
        f"| {n:,} | {part['seconds']:.0f} s | {part['peak_mb']:.0f} MB "
        f"| {joined['seconds']:.0f} s | {joined['peak_mb']:.0f} MB "
        f"| {order['seconds']:.1f} s | {order['peak_mb']:.0f} MB "
        f"| {fresh['first_batch_s']:.1f} s | {fresh['clips_per_s']:.0f} | {fresh['peak_mb']:.0f} MB "
        f"| {resumed['first_batch_s']:.1f} s | {resumed['peak_mb']:.0f} MB |"
    )


def ahead(sizes: Sequence[int], found: dict[int, dict]) -> str:
    """What ``AHEAD`` rows would take, from the slope between the two largest sets."""
    small, large = sorted(sizes)[-2:]
    lines = [
        "",
        f"## {AHEAD:,} rows, computed",
        "",
        f"The slope between {small:,} and {large:,} clips, times {AHEAD:,}.",
        "",
        "| | bytes a row | together |",
        "|---|---|---|",
    ]

    def add(what: str, a: float, b: float) -> None:
        per_row = max(0.0, (b - a) / (large - small))
        lines.append(f"| {what} | {per_row:.1f} | {per_row * AHEAD / 1e9:.1f} GB |")

    names = {
        "part": "preparing a part: the list of the source's rows",
        "finish": "joining the parts",
        "shuffle": "a training: opening, statistics, shuffled ids",
        "feed": "a training, through tf.data",
    }
    for stage, what in names.items():
        add(what, *(found[n][stage]["peak_mb"] * 2**20 for n in (small, large)))
    add("`rows.npz` on disk", *(found[n]["finish"]["columns_bytes"] for n in (small, large)))
    return "\n".join(lines) + "\n"


def main(out: Path | None = None, sizes: tuple[int, ...] = SIZES) -> None:
    """Writes bench_many.md and .json.

    Args:
        out: folder of the results, by default experiments/results.
        sizes: numbers of clips.
    """
    import common

    common.need("tensorflow")
    facts = common.begin(2)
    lines = [
        "| clips | two parts | peak | joined | peak | opened, shuffled | peak | first batch | clips/s "
        "| peak | resumed: first batch | peak |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    found = {}
    for n in sizes:
        with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as tmp:
            found[n] = measure(Path(tmp) / str(n), n)
        lines.append(line(n, found[n]))
        print(lines[-1], flush=True)
    intro = (
        "Clips of 10 ms, prepared by two processes at once. Peak resident memory of one process for "
        f"each stage; opened and shuffled: the ids of {BATCHES} batches of {BATCH} in the middle of "
        f"the third epoch; feeding: {BATCHES} batches through tf.data, from step 0 and from there. "
        "The first batch waits for TensorFlow to be imported."
    )
    table = "\n".join(lines) + "\n" + (ahead(sizes, found) if len(sizes) > 1 else "")
    common.save("many", "Sets of many clips", intro, [table], facts=facts,
                more={"stages": found}, out=out)  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in STAGES:
        work(*sys.argv[1:])
    else:
        import common

        common.run(main)
