"""HAPT: what STF-CSL learns without labels, and which of its views matter.

    python -m experiments.studies.sensors.contrast --source ../shared/data/hapt --runs runs/hapt

Pre-training reads all windows of the 21 training subjects, labelled or not. Frozen encoders are
probed on 6 activities with 1 to 100 % of the labels; with the same labels they are fine-tuned, beside
the same network from scratch. `views`: changes in time and frequency (as the recipe has them), in one
of them only, none (two views then differ by dropout alone), or both but none that rotates the device.
Finished parts are kept; the page shows the parts that are asked for. Writes
`experiments/results/hapt_contrast.md`, `.json` and figures.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from experiments.studies.sensors.common import (
    RESULTS,
    cell,
    markdown,
    only,
    over_trainings,
    save,
    shards_of,
    trained_once,
)
from jfreq.evaluate.label_subsets import FRACTIONS
from jfreq.evaluate.results import HAND_CRAFTED, TRAINED, UNTRAINED

ENCODERS = {"STFNet": "stf_csl_hapt", "CNN": "cnn_csl_hapt"}
KEEP_GRAVITY = ("jitter", "scale", "permute", "warp_time", "warp_magnitude")
"""Changes in time that leave the direction of gravity."""
VIEWS = {
    "both": {},
    "time": {"method__views__frequency": ()},
    "frequency": {"method__views__time": ()},
    "none": {"method__views__time": (), "method__views__frequency": ()},
    "both, no rotation": {"method__views__time": KEEP_GRAVITY},
}
FEW = (0.01, 0.1, 1.0)
METRICS = ("macro_f1", "balanced_accuracy")


def pretrain(encoder: str, views: str, seed: int, args):
    from jfreq import recipes

    name = ENCODERS[encoder]
    shards = shards_of("all", args.source, args.runs)
    folder = args.runs / "contrast" / f"{name}_{views}_{seed}"
    steps = {} if args.steps is None else {"steps": args.steps}
    return trained_once(
        recipes.load(name), shards, folder, seed=seed, **VIEWS[views], **steps
    ), folder


def probed(encoder: str, views: str, seed: int, args):
    """Linear probes by fraction of the labels, kept in the folder of the run; for the full method all
    fractions, and its baselines beside the first training."""
    from jfreq.data.shards.reader import open_shards
    from jfreq.evaluate.probe_protocol import probe
    from jfreq.evaluate.results import Report

    trained, folder = pretrain(encoder, views, seed, args)
    if not (folder / "fractions.json").exists():
        shards = open_shards(shards_of("6", args.source, args.runs))
        probe(trained, shards, kinds=("logistic",), only=("test",), repeats=3, at_least_one=True,
              fractions=FRACTIONS if views == "both" else FEW,
              with_baselines=(views, seed) == ("both", 0)).save(folder / "fractions.json")  # fmt: skip
    return Report.read(folder / "fractions.json")


def tuned(encoder: str, fractions: tuple[float, ...], args):
    """Fine-tuned and from scratch, with these fractions of the labels, each with three seeds."""
    from jfreq.config import replace
    from jfreq.evaluate.finetune import by_fraction
    from jfreq.evaluate.finetune_experiment import experiment_for

    _, folder = pretrain(encoder, "both", 0, args)
    shards = shards_of("6", args.source, args.runs)
    found = {}
    for name, changes in {
        "fine-tuned": {},
        "from scratch": {"checkpoint__init_from": ()},
    }.items():
        experiment = replace(experiment_for(folder), data__path=(str(shards),), **changes)
        out = args.runs / "contrast" / f"{ENCODERS[encoder]}_{name.replace(' ', '_')}"
        report = by_fraction(experiment, out, fractions, repeats=3, folds=("test",))
        start = folder.name if name == "fine-tuned" else None
        settings = {**report.settings, "init_from": start}  # a name: folders differ by machine
        found[name] = dataclasses.replace(report, settings=settings)
    return found


# ------------------------------------------------------------------ the page


def of(report, metric: str, *, features: str, fraction: float | None = 1.0):
    return next(r for r in report.results
                if (r.metric, r.features, r.fraction) == (metric, features, fraction))  # fmt: skip


def probe_tables(found) -> list[str]:
    """All labels by views, then the curve of the full method."""
    rows = []
    for (encoder, views), reports in found.items():
        merged = over_trainings(reports)
        cells = [cell(of(merged, m, features=TRAINED)) for m in METRICS]
        rows.append([encoder, views, str(len(reports)), *cells])
        if views == "both":
            cells = [cell(of(reports[0], m, features=UNTRAINED)) for m in METRICS]
            rows.append([encoder, "untrained", "1", *cells])
    for reports in [reports for (_, views), reports in found.items() if views == "both"][:1]:
        cells = [cell(of(reports[0], m, features=HAND_CRAFTED)) for m in METRICS]
        rows.append(["none", "mean and std of the spectrogram", "1", *cells])
    out = [
        "## Linear probe, all labels",
        "",
        *markdown(["encoder", "views", "trainings", *METRICS], rows),
    ]
    for (encoder, views), reports in found.items():
        if views != "both":
            continue
        features = [TRAINED, UNTRAINED, f"{TRAINED} - {UNTRAINED}"]
        one, rows = reports[0], []
        for fraction in FRACTIONS:
            kinds = features[:2] if fraction == 1.0 else features  # one sample of labels, no pairs
            cells = [cell(of(one, METRICS[0], features=k, fraction=fraction)) for k in kinds]
            count = of(one, METRICS[0], features=TRAINED, fraction=fraction).rows
            rows.append([f"{100 * fraction:g} %", f"{count:g}", *cells, *[""] * (3 - len(cells))])
        out += [
            f"## Linear probe by fraction of labels, {encoder}, {METRICS[0]}",
            "",
            *markdown(["labels", "rows", *features], rows),
        ]
    return out


def tuned_table(encoder: str, found) -> list[str]:
    rows = []
    for fraction in sorted({r.fraction for r in found["fine-tuned"].results}):
        pair = [of(report, m, features=name, fraction=fraction)
                for m in METRICS for name, report in found.items()]  # fmt: skip
        rows.append([f"{100 * fraction:g} %", f"{pair[0].rows:g}", *map(cell, pair)])
    head = ["labels", "rows", *[f"{m}, {name}" for m in METRICS for name in found]]
    return [f"## Fine-tuning by fraction of labels, {encoder}", "", *markdown(head, rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--source", default="../shared/data/hapt")
    parser.add_argument("--runs", type=Path, default=Path("runs/hapt"))
    parser.add_argument("--probes", nargs="*", default=[f"{e}:{v}:{s}" for e in ENCODERS for v in VIEWS
                                                        for s in range(3)],
                        help="ENCODER:VIEWS:SEED ...")  # fmt: skip
    parser.add_argument(
        "--tuned",
        nargs="*",
        default=list(ENCODERS),
        help="ENCODER or ENCODER:FRACTION,FRACTION ...",
    )
    parser.add_argument("--steps", type=int, default=None)
    args = parser.parse_args()
    from jfreq.evaluate.plot import curves
    from jfreq.monitoring import provenance

    found: dict[tuple[str, str], list] = {}
    for name in args.probes:
        encoder, views, seed = name.split(":")
        found.setdefault((encoder, views), []).append(probed(encoder, views, int(seed), args))
    tunings = {}
    for name in args.tuned:
        encoder, _, fractions = name.partition(":")
        wanted = tuple(map(float, fractions.split(","))) if fractions else FRACTIONS
        tunings[encoder] = tuned(encoder, wanted, args)

    facts = provenance.facts()
    text = [
        "# HAPT, contrast without labels",
        "",
        "STF-CSL, pre-trained on all windows of 2.56 s of 21 subjects, tested on 9 others, 6 activities. "
        "Intervals are 95 %: over pre-trainings (Student t) where there are several, else over test rows; "
        "curves over 3 samples of the labels; fine-tuning over 3 trainings, each with its own seed and sample. "
        f"{provenance.sentence(facts)}.",
        "",
        *probe_tables(found),
    ]
    for encoder, pair in tunings.items():
        text += tuned_table(encoder, pair)
    body = {
        "machine": facts,
        "probe": {
            f"{e}:{v}": [json.loads(r.to_json()) for r in rs] for (e, v), rs in found.items()
        },
        "tuned": {
            e: {n: json.loads(r.to_json()) for n, r in pair.items()} for e, pair in tunings.items()
        },
    }
    lines = {e: reports[0] for (e, v), reports in found.items() if v == "both"}
    for encoder in list(lines)[1:]:  # hand-made features are the same for all encoders
        lines[encoder] = only(lines[encoder], TRAINED, UNTRAINED)
    if lines:
        curves(lines, RESULTS / "hapt_contrast_probe.svg", metric=METRICS[0])
    lines = {f"{e}, {n}": report for e, pair in tunings.items() for n, report in pair.items()}
    if lines:
        curves(lines, RESULTS / "hapt_contrast_tuned.svg", metric=METRICS[0])
    save("hapt_contrast", text, body)


if __name__ == "__main__":
    main()
