"""What does FLAC inside records save, and what does it cost to feed?

    jfreq bench flac

ESC-10 ($JFREQ_DATA, clips of 5 s at 16 kHz) is prepared with sound as it is and as FLAC. Bytes of the shards,
seconds of preparing, and clips a second through tf.data (medians of rounds of batches, the two in turn). Writes
`experiments/results/bench_flac.md` and `.json`.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import numpy as np

from jfreq.config import Data
from jfreq.data.loading.pipeline import open_pipeline
from jfreq.data.prepare.run import prepare
from jfreq.types import InputError

BATCH, BATCHES, ENCODINGS = 32, 10, ("raw", "flac")


def feeding(path: Path, threads: int) -> Callable[[], None]:
    """Takes the next batches of an endless pipeline."""
    cfg = Data(path=(str(path),), backend="tfdata", threads=threads)
    batches = open_pipeline(cfg, batch=BATCH, seed=0).iterate(0)

    def take() -> None:
        for _ in range(BATCHES):
            next(batches)

    return take


def check_same(folder: Path) -> None:
    """The first batches are the same bit for bit."""
    pipelines = [
        open_pipeline(Data(path=(str(folder / e),), backend="tfdata"), batch=BATCH, seed=0)
        for e in ENCODINGS
    ]
    for a, b, _ in zip(*(p.iterate(0) for p in pipelines), range(BATCHES)):
        assert all(np.array_equal(a[name], b[name]) for name in a)
    for pipeline in pipelines:
        pipeline.close()


def main(out: Path | None = None, rounds: int = 9, threads: int = 2) -> None:
    """Writes bench_flac.md and .json.

    Args:
        out: folder of the results, by default experiments/results.
        rounds: of paired measurements.
        threads: of tf.data.
    """
    common.need("tensorflow")
    facts = common.begin(threads)
    source = Path(os.environ.get("JFREQ_DATA", "data")) / "esc10"
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; set JFREQ_DATA to the folder with esc10")
    sizes: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)
        for encoding in ENCODINGS:
            began = time.perf_counter()
            prepare(str(source), folder / encoding, encoding=encoding, progress=False)
            sizes[encoding] = {
                "bytes": sum(p.stat().st_size for p in (folder / encoding).glob("*array_record*")),
                "prepare_s": time.perf_counter() - began,
            }
        check_same(folder)
        contenders = {encoding: feeding(folder / encoding, threads) for encoding in ENCODINGS}
        table = common.Table("Feeding", common.paired(contenders, rounds=rounds))
    lines = ["| | MB | of raw | prepared in | clips/s |", "|---|---|---|---|---|"]
    for encoding, found in sizes.items():
        rate = BATCH * BATCHES / statistics.median(table.times[encoding])
        share = found["bytes"] / sizes["raw"]["bytes"]
        lines.append(
            f"| {encoding} | {found['bytes'] / 1e6:.1f} | {share:.2f} | {found['prepare_s']:.1f} s "
            f"| {rate:,.0f} |"
        )
    intro = (
        f"ESC-10, clips of 5 s at 16 kHz, batches of {BATCH} through tf.data with {threads} threads; "
        f"a time is that of {BATCHES} batches. Batches are the same bit for bit."
    )
    common.save("flac", "Sound as FLAC inside records", intro, ["\n".join(lines) + "\n", table],
                facts=facts, more={"sizes": sizes}, out=out)  # fmt: skip


if __name__ == "__main__":
    common.run(main)
