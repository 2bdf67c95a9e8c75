"""Are sensor tables read as fast as pandas reads them?

    jfreq bench tables

One CSV of motion as a phone writes it (time, six channels, a label that changes every minute), 1 GB by
default. jfreq reads it as `jfreq data prepare` does: how the file is written, columns by name, float32
samples, the clock, the labels; pandas reads it with `pandas.read_csv(path)`. Both in one process,
in turn, from the page cache. Writes `experiments/results/bench_tables.md` and `.json`.
"""

import statistics
import tempfile
from pathlib import Path

import common
import numpy as np

from jfreq.data.readers.recordings import read_recording

RATE, BLOCK = 100, 100_000
HEADER = "time,acc_x,acc_y,acc_z,gyro_x,gyro_y,gyro_z,activity\n"


def table(path: Path, mb: int) -> int:
    """Writes a table of that size; its number of lines."""
    rng = np.random.default_rng(0)
    lines, target = 0, mb * 10**6
    with path.open("w") as file:
        file.write(HEADER)
        while file.tell() < target:
            x = rng.normal(0, 3, (BLOCK, 6))
            time = (lines + np.arange(BLOCK)) / RATE
            names = ("walk", "run", "sit")
            file.writelines(
                f"{t:.3f},{a:.6f},{b:.6f},{c:.6f},{d:.6f},{e:.6f},{f:.6f},{names[int(t / 60) % 3]}\n"
                for t, (a, b, c, d, e, f) in zip(time.tolist(), x.tolist())
            )
            lines += BLOCK
    return lines


def main(mb: int = 1000, rounds: int = 5, threads: int = 2, out: Path | None = None) -> None:
    """Times both readers and writes bench_tables.md and .json.

    Args:
        mb: size of the table.
        rounds: timed rounds; both readers once in each.
        threads: cores for both.
        out: folder of the results, by default experiments/results.
    """
    common.need("pandas")
    import pandas  # pyright: ignore[reportMissingImports]

    facts = common.begin(threads)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "motion.csv"
        lines = table(path, mb)
        size = path.stat().st_size
        contenders = {
            "pandas.read_csv": lambda: pandas.read_csv(path),
            "jfreq": lambda: read_recording(path),
        }
        ours, theirs = read_recording(path).signals[""], pandas.read_csv(path)
        same = np.allclose(ours.x, theirs[list(ours.names)].to_numpy(), rtol=1e-6, atol=1e-6)
        kept = {
            "pandas.read_csv": int(theirs.memory_usage(deep=True).sum()),
            "jfreq": ours.x.nbytes,
        }
        del ours, theirs
        times = common.paired(contenders, rounds=rounds, warmup=1)
    speed = {name: size / 1e6 / statistics.median(spent) for name, spent in times.items()}
    intro = (
        f"{size / 1e9:.2f} GB, {lines:,} lines of eight columns. MB/s: "
        + ", ".join(f"{name} {rate:,.0f}" for name, rate in speed.items())
        + f". The samples are {'the same' if same else 'NOT the same'}; in memory they take "
        + ", ".join(f"{n / 1e6:,.0f} MB ({name})" for name, n in kept.items())
        + "."
    )
    more = {"mb_per_s": speed, "lines": lines, "bytes": size, "same": bool(same), "kept": kept}
    table_ = common.Table("Reading one table", times)
    print(common.save("tables", "Sensor tables", intro, [table_], facts=facts, more=more, out=out))


if __name__ == "__main__":
    common.run(main)
