"""Masked autoencoders and contrast on several sensors: which pretext task, which mask, and what for?

    python -m experiments.studies.sensors.masked --hapt ../shared/data/hapt --runs runs/masked

Two sets. HAPT: accelerometer and gyroscope, windows of 2.56 s, 21 subjects train (pre-training also
on what nobody labelled), 9 test, 6 activities. Machines (synthetic): microphone at 16 kHz and two
accelerometers at 6.4 kHz, windows of 1 s, 4 states; pre-trained and probed on four bands of load,
tested on the fifth. Every method has 300 updates of 64 (HAPT) or 32 windows and a network of the same
scale; frozen encoders are probed with 1, 10 and 100 % of the labels by ridge regression and by nearest
neighbours. `supervised` trains FreqMAE's encoder end to end on the same labels. Finished parts are
kept; the page shows the parts that are asked for. Writes `experiments/results/masked_SET.md`, `.json`
and figures.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from experiments.studies.sensors.common import (
    RESULTS,
    cell,
    markdown,
    over_trainings,
    save,
    shards_of,
    trained_once,
)

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "MAE .75": ("mae", {}),
    "MAE .90": ("mae", {"method__mask_ratio": 0.9}),
    "MAE .96": ("mae", {"method__mask_ratio": 0.96}),
    "FreqMAE": ("freqmae", {}),
    "FreqMAE, as released": ("freqmae_released", {}),
    "PhyMask .75": ("phymask", {"method__trunk__mask_ratio": 0.75, "method__anneal_steps": 150}),
    "PhyMask .90": ("phymask", {"method__anneal_steps": 150}),
    "PhyMask .96": ("phymask", {"method__trunk__mask_ratio": 0.96, "method__anneal_steps": 150}),
    "FOCAL": ("focal", {}),
}
"""Name -> recipe without its ending, and changes to it."""
COMMON = {"steps": 300, "optim__warmup": 30, "checkpoint__every": 75, "checkpoint__keep": 4}
BATCH = {"hapt": 64, "machines": 32}
APART = {("machines", "FOCAL"): {"data__sequence": 1, "method__sequence": 1}}
"""Every machine is recorded once: no window follows another."""
SETS = {"hapt": ("all", "6", "test", {}), "machines": ("machines", "machines", "4",
        {"data__split": None, "data__exclude_folds": (4,)})}  # fmt: skip
"""Pre-training shards, labelled shards, the fold that is tested, and how pre-training avoids it."""
FRACTIONS = (0.01, 0.1, 1.0)
METRIC = "macro_f1"
STEPS = (75, 150, 225, 300)


def recipe(where: str, method: str):
    from jfreq import recipes
    from jfreq.config import replace

    base, changes = METHODS[method]
    name = f"{base}_{'hapt' if where == 'hapt' else 'nano'}"
    changes = COMMON | changes | APART.get((where, method), {})
    return replace(recipes.load(name), batch=BATCH[where], **changes)


def pretrained(where: str, method: str, seed: int, args):
    shards, _, _, data = SETS[where]
    folder = args.runs / where / f"{method}_{seed}".replace(" ", "_").replace(",", "")
    shards = shards_of(shards, args.hapt, args.runs)
    return trained_once(recipe(where, method), shards, folder, seed=seed, **data), folder


def probed(where: str, method: str, seed: int, args):
    """Probes by fraction of the labels, kept in the folder of the run."""
    from jfreq.data.shards.reader import open_shards
    from jfreq.evaluate.probe_protocol import probe
    from jfreq.evaluate.results import Report

    trained, folder = pretrained(where, method, seed, args)
    path = folder / "probes.json"
    if not path.exists():
        _, labelled, test, _ = SETS[where]
        shards = open_shards(shards_of(labelled, args.hapt, args.runs))
        probe(trained, shards, kinds=("ridge", "knn"), only=(test,), repeats=1, batch=128,
              fractions=FRACTIONS, at_least_one=True, with_baselines=(method, seed) == ("FreqMAE", 0)).save(path)  # fmt: skip
    return Report.read(path)


def over_time(where: str, method: str, args) -> list[tuple[float, float]]:
    """(seconds of training, macro F1 of a ridge probe with all labels) at every checkpoint of the
    first training."""
    from jfreq.data.shards.reader import open_shards
    from jfreq.evaluate.probe_protocol import probe
    from jfreq.monitoring.metrics_writer import read_metrics
    from jfreq.train.checkpoint import load_run

    _, folder = pretrained(where, method, 0, args)
    path = folder / "over_time.json"
    if not path.exists():
        _, labelled, test, _ = SETS[where]
        shards = open_shards(shards_of(labelled, args.hapt, args.runs))
        times = sorted(row["step_time"] for row in read_metrics(folder))
        pace, points = times[len(times) // 2], []
        for step in STEPS:
            report = probe(load_run(folder, step=step), shards, kinds=("ridge",), only=(test,),
                           batch=128, with_baselines=False)  # fmt: skip
            score = next(r.mean for r in report.results if r.metric == METRIC)
            points.append((step * pace, score))
        path.write_text(json.dumps(points))
    return [tuple(point) for point in json.loads(path.read_text())]


def supervised(where: str, args, seeds: int):
    """FreqMAE's encoder from scratch with each fraction of the labels."""
    from jfreq.config import Checkpoint, Data, Log, Optim, replace
    from jfreq.evaluate.finetune import by_fraction
    from jfreq.methods.supervised import Classify, Head

    _, labelled, test, _ = SETS[where]
    base = recipe(where, "FreqMAE")
    experiment = replace(
        base,
        name=f"supervised_{where}",
        method=Classify(backbone=base.method, head=Head()),
        data=Data(path=(str(shards_of(labelled, args.hapt, args.runs)),), label_at_least_one=True),
        optim=Optim(lr=1e-3, warmup=40, weight_decay=0.05),
        checkpoint=Checkpoint(every=400, keep=1),
        log=Log(every=50, writers=()),
    )
    return by_fraction(
        experiment, args.runs / where / "supervised", FRACTIONS, repeats=seeds, folds=(test,)
    )


# ------------------------------------------------------------------ the page


def row(name: str, report, count: int | str, *, features: str, kinds=("ridge", "knn")):
    """One line: every probe at every fraction."""
    cells = []
    for kind in kinds:
        for fraction in FRACTIONS:
            found = [r for r in report.results if (r.kind, r.metric, r.features) ==
                     (kind, METRIC, features) and r.fraction in (fraction, None)]  # fmt: skip
            found = [r for r in found if r.fraction == fraction] or found
            cells.append(cell(found[0]) if found else "")
    return [name, str(count), *cells]


def table(found, baseline, tuned) -> list[str]:
    from jfreq.evaluate.results import HAND_CRAFTED, TRAINED, UNTRAINED

    head = ["method", "trainings",
            *[f"{kind}, {100 * s:g} %" for kind in ("ridge", "kNN") for s in FRACTIONS]]  # fmt: skip
    lines = [row(name, over_trainings(r), len(r), features=TRAINED) for name, r in found.items()]
    if baseline is not None:
        lines.append(row("untrained FreqMAE encoder", baseline, 1, features=UNTRAINED))
        lines.append(row("mean and std of spectra", baseline, 1, features=HAND_CRAFTED))
    if tuned is not None:
        count = len(tuned.settings.get("trainings", [0]))
        cells = [cell(r) for r in sorted((r for r in tuned.results if r.metric == METRIC),
                                         key=lambda r: r.fraction)]  # fmt: skip
        lines.append(["supervised, end to end", str(count), *cells, *[""] * len(FRACTIONS)])
    return markdown(head, lines)


def time_figure(lines: dict[str, list[tuple[float, float]]], path: Path) -> None:
    from jfreq.evaluate.plot import STYLES
    from jfreq.evaluate.plot import save as save_figure

    def draw(figure) -> None:
        axes = figure.subplots()
        for i, (name, points) in enumerate(lines.items()):
            colour, dashes, marker = STYLES[i % len(STYLES)]
            axes.plot(*zip(*points), color=colour, linestyle=dashes, marker=marker, label=name)
        axes.set_xscale("log")
        axes.set_xlabel("seconds of pre-training, one core")
        axes.set_ylabel(f"{METRIC} of a ridge probe, all labels")
        axes.grid(color="0.9")
        axes.legend(frameon=False)

    save_figure(path, path.stem, (5.5, 3.6), draw)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--hapt", default="../shared/data/hapt")
    parser.add_argument("--runs", type=Path, default=Path("runs/masked"))
    parser.add_argument("--set", choices=list(SETS), default="hapt")
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--supervised", type=int, default=5, help="trainings for each fraction")
    parser.add_argument("--over-time", action="store_true", help="also probe every checkpoint")
    parser.add_argument("--finished", action="store_true", help="only show what is there")
    args = parser.parse_args()
    from jfreq.monitoring import provenance

    found: dict[str, list] = {}
    for seed in args.seeds:  # all methods get a training before any gets its second
        for method in args.methods:
            folder = args.runs / args.set / f"{method}_{seed}".replace(" ", "_").replace(",", "")
            if not args.finished or (folder / "probes.json").exists():
                found.setdefault(method, []).append(probed(args.set, method, seed, args))
    tuned = supervised(args.set, args, args.supervised) if args.supervised else None
    facts = provenance.facts()
    baseline = next((r[0] for m, r in found.items() if m == "FreqMAE"), None)
    text = [
        f"# {'HAPT' if args.set == 'hapt' else 'Machines (synthetic)'}: masked autoencoders",
        "",
        f"{METRIC} on the test fold. Intervals are 95 %: Student t over pre-trainings where there "
        "are several (each with its own seed), else over test rows. "
        f"{provenance.sentence(facts)}.",
        "",
        *table(found, baseline, tuned),
    ]
    body: dict[str, Any] = {
        "machine": facts,
        "probes": {m: [json.loads(r.to_json()) for r in rs] for m, rs in found.items()},
        "supervised": None if tuned is None else json.loads(tuned.to_json()),
    }
    if args.over_time:
        body["over_time"] = {m: over_time(args.set, m, args) for m in found}
        time_figure(body["over_time"], RESULTS / f"masked_{args.set}_time.svg")
    save(f"masked_{args.set}", text, body)


if __name__ == "__main__":
    main()
