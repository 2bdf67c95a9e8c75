"""What masks cost and save: PhyMask-style scores beside random masks, and ratios from .75 to .96.

    jfreq bench masking

Training steps of `mae_tiny` (an encoder of DeiT-tiny's size, a decoder of two narrow blocks) on
synthetic machines: a microphone at 16 kHz and two accelerometers at 6.4 kHz, windows of 1 s, 504
tokens. From waveforms to updated parameters, on one device. Memory is XLA's own analysis of the
compiled step: `work` is what it allocates beside parameters, optimiser and batch, `peak` everything.
FreqMAE's trunk sees every place and is left out: a high ratio saves nothing there.
"""

from pathlib import Path

import common
import numpy as np

from jfreq import recipes
from jfreq.config import Experiment, replace
from jfreq.data.sources import synthetic
from jfreq.methods.mae import MAE
from jfreq.methods.phymask import PhyMask
from jfreq.types import DataSpec, SignalSpec

RATIOS = (0.75, 0.9, 0.96)
PATCH = (32, 13)


def machines(rows: int) -> tuple[DataSpec, dict[str, np.ndarray]]:
    """Windows as training reads them, and what they promise."""
    clips = synthetic.make("machines", n=rows, seconds=1.0)
    names = list(clips[0].signals)
    batch = {n: np.stack([c.signals[n][0] for c in clips]) for n in names}
    batch = {n: x[..., None] if x.ndim == 2 else x for n, x in batch.items()}
    signals = []
    for name in names:
        x = batch[name].astype(np.float64)
        if batch[name].dtype == np.int16:
            x = x / 2**15
        mean, std = x.mean((0, 1)), x.std((0, 1))
        signals.append(SignalSpec(name, clips[0].signals[name][1], x.shape[1], x.shape[2],
                                  tuple(mean), tuple(std)))  # fmt: skip
    batch["length"] = np.full(rows, signals[0].samples, np.int32)
    batch["_mask"] = np.ones(rows, np.float32)
    return DataSpec(tuple(signals)), batch


def experiments(spec: DataSpec, batch: dict[str, np.ndarray]) -> dict[str, Experiment]:
    """By the name of a row; the first is what the others are compared with."""
    base = replace(recipes.load("mae_tiny"), batch=len(batch["_mask"]))
    assert isinstance(base.method, MAE)
    found = {}
    for ratio in RATIOS:
        trunk = replace(base.method, mask_ratio=ratio, patch_bins=PATCH)
        for name, method in {"random": trunk, "PhyMask": PhyMask(trunk=trunk)}.items():
            found[f"{name} {ratio}"] = replace(base, method=method.bind(spec).calibrate(batch))
    return found


def main(rounds: int = 15, rows: int = 32, threads: int = 2, out: Path | None = None) -> None:
    """Times the steps; medians over ``rounds``."""
    facts = common.begin(threads)
    spec, batch = machines(rows)
    steps, compile_s, memory = {}, {}, {}
    for name, experiment in experiments(spec, batch).items():
        step = common.jfreq_step(experiment, batch)
        step()
        found = step.update.memory_analysis()
        work = found.temp_size_in_bytes / 2**20
        memory[name] = (work, work + found.argument_size_in_bytes / 2**20)
        steps[name], compile_s[name] = step, step.compile_s
    times = common.paired(steps, rounds=rounds)
    base = "random 0.75"
    lines = ["## Memory of the compiled step", "",
             f"| | work MiB | x {base} | peak MiB | x {base} |", "|---|---|---|---|---|"]  # fmt: skip
    for name, (work, peak) in memory.items():
        lines.append(f"| {name} | {work:.0f} | {work / memory[base][0]:.2f} | {peak:.0f} | "
                     f"{peak / memory[base][1]:.2f} |")  # fmt: skip
    scores = ["## Scores and selection", "", "| ratio | PhyMask x random, median of rounds [95 %] |",
              "|---|---|"]  # fmt: skip
    cost = {r: common.ratio(times[f"PhyMask {r}"], times[f"random {r}"]) for r in RATIOS}
    scores += [f"| {r} | {found} |" for r, found in cost.items()]
    speed = common.ratio(times[base], times["random 0.9"])
    print(common.save(
        "masking",
        "What masks cost and save",
        f"Training steps of mae_tiny, {rows} windows of two sensors, 504 tokens. At a ratio of .9 "
        f"a step is {speed} times as fast as at .75.",
        [common.Table("Training steps", times, compile_s), "\n".join(scores) + "\n",
         "\n".join(lines) + "\n"],
        facts=facts, more={"memory_mib": memory, "cost": {str(r): c._asdict() for r, c in cost.items()}},
        out=out,
    ))  # fmt: skip


if __name__ == "__main__":
    common.run(main)
