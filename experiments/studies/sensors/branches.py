"""LTFC: what each branch gives alone and what fusing them brings, on HAPT and on seismic records.

    python -m experiments.studies.sensors.branches --hapt ../shared/data/hapt \\
        --seismic ../shared/data/seismic_phasenet --runs runs/branches

The two branches have nothing in common, so one pre-training of both serves all rows. Linear probes read the
series' part of the clip vector, the scalogram's, both side by side (feature fusion), or average the
probabilities of the first two (late fusion). On HAPT (windows of 8 s, official split) the encoder is
also fine-tuned, with a classifier for each branch (late fusion, and each of them by itself) and with
one over both; `sit/stand` is the fraction of sitting and standing test windows that are taken for each
other. Seismic records (noise, P, S; windows of 1.28 s) are pre-trained and probed station-disjoint,
fold by fold. Finished parts are kept. Writes `experiments/results/ltfc_branches.md` and `.json`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from experiments.studies.sensors.common import markdown, save, shards_of, spread, trained_once

METRICS = ("balanced_accuracy", "macro_f1")
SWAPPED = "sit/stand"


def measured(label: np.ndarray, score: np.ndarray, names: tuple[str, ...]) -> dict[str, float]:
    """Metrics of the test rows, and how often sitting and standing are mixed up."""
    from jfreq.metrics import SINGLE_LABEL, confusion

    found = {name: float(SINGLE_LABEL[name](label, score)) for name in METRICS}
    if {"sitting", "standing"} <= set(names):
        a, b = names.index("sitting"), names.index("standing")
        counts = confusion(label, score)
        found[SWAPPED] = float((counts[a, b] + counts[b, a]) / counts[[a, b]].sum())
    return found


def probed(trained: Any, shards: Any, only: str) -> dict[str, dict[str, float]]:
    """Logistic probes of the branches, alone and fused, tested on one fold."""
    from jfreq.evaluate.features import extract
    from jfreq.evaluate.folds import divide, labelled_rows, make_task
    from jfreq.evaluate.probe import fit_logistic, probe_scores

    rows = labelled_rows(shards)
    task = make_task(shards, rows, divide(shards, rows, only=(only,)))
    (fold,) = task.folds
    cfg = trained.experiment.method
    x = extract(cfg, trained.params, shards, rows, batch=64).x
    first, _ = cfg.branch_widths
    parts = {"series": x[:, :first], "scalogram": x[:, first:], "both, features": x}
    scores = {}
    for name, part in parts.items():
        scores[name], _ = probe_scores(
            part[fold.train], task.label[fold.train], part[fold.test], classes=task.classes,
            fit=fit_logistic, group=task.groups[0][fold.train],
        )  # fmt: skip
    scores["both, late"] = late([scores["series"], scores["scalogram"]])
    return {
        name: measured(task.label[fold.test], s, shards.info.labels) for name, s in scores.items()
    }


def late(logits: list[np.ndarray]) -> np.ndarray:
    """Log of the summed probabilities."""
    from scipy.special import log_softmax

    return np.logaddexp.reduce([log_softmax(x, axis=1) for x in logits], axis=0)


def tuned(folder: Path, shards: Path, out: Path, **changes: Any) -> dict[str, dict[str, float]]:
    """Fine-tuning with both fusions; of late fusion also each branch by itself."""
    from jfreq.config import replace
    from jfreq.data.shards.reader import open_shards
    from jfreq.evaluate.finetune import finetune, predict, read_predictions
    from jfreq.evaluate.finetune_experiment import experiment_for
    from jfreq.export.bundle import load_trained
    from jfreq.train.state import Trained

    found, opened = {}, open_shards(shards)
    names = opened.info.labels
    for fusion in ("feature", "late"):
        experiment = replace(experiment_for(folder), data__path=(str(shards),),
                             method__head__fusion=fusion, **changes)  # fmt: skip
        finetune(experiment, out / fusion, folds=("test",))
        made = read_predictions(out / fusion / "test")
        found[{"feature": "both, features", "late": "both, late"}[fusion]] = measured(
            made.label, made.score, names
        )
    trained = load_trained(out / "late" / "test")
    for name, weights in {"series": (1.0, 0.0), "scalogram": (0.0, 1.0)}.items():
        weighted = replace(trained.experiment, method__head__fusion_weights=weights)
        made = predict(Trained(weighted, trained.params), opened, made.id)
        found[name] = measured(made.label, made.score, names)
    return found


def hapt(args) -> dict[str, list[dict[str, dict[str, float]]]]:
    """Results of every pre-training, by protocol."""
    from jfreq import recipes
    from jfreq.data.shards.reader import open_shards

    plain, labelled = (shards_of(n, args.hapt, args.runs) for n in ("8s", "8s_6"))
    found = {"linear probe": [], "fine-tuned": []}
    for seed in args.seeds:
        folder = args.runs / f"ltfc_hapt_{seed}"
        trained = trained_once(recipes.load("ltfc_hapt"), plain, folder, seed=seed, **args.changes)
        found["linear probe"].append(probed(trained, open_shards(labelled), "test"))
        found["fine-tuned"].append(
            tuned(
                folder, labelled, args.runs / f"ltfc_hapt_{seed}_tuned", seed=seed, **args.changes
            )
        )
    return found


def seismic(args) -> dict[str, list[dict[str, dict[str, float]]]]:
    """Results of every fold."""
    from jfreq import recipes
    from jfreq.data.shards.reader import open_shards

    shards = shards_of("seismic", args.seismic, args.runs)
    found = []
    for fold in range(5):
        trained = trained_once(
            recipes.load("ltfc_seismic"), shards, args.runs / f"ltfc_seismic_{fold}",
            data__split=None, data__exclude_folds=(fold,), **args.changes,
        )  # fmt: skip
        found.append(probed(trained, open_shards(shards), str(fold)))
    return {"linear probe": found}


def table(protocol: str, trainings: list[dict[str, dict[str, float]]]) -> list[str]:
    """The lines of one protocol's table."""
    metrics = list(next(iter(trainings[0].values())))
    order = ("series", "scalogram", "both, features", "both, late")
    rows = [[name, *(spread([t[name][m] for t in trainings]) for m in metrics)] for name in order]
    return [f"### {protocol}, n = {len(trainings)}", "", *markdown(["branch", *metrics], rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--hapt", default="../shared/data/hapt")
    parser.add_argument("--seismic", default="../shared/data/seismic_phasenet")
    parser.add_argument("--runs", type=Path, default=Path("runs/branches"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument(
        "--steps", type=int, default=None, help="of every training; by default the recipes'"
    )
    args = parser.parse_args()
    args.changes = {} if args.steps is None else {"steps": args.steps}
    from jfreq.monitoring import provenance

    facts = provenance.facts()
    found = {"HAPT": hapt(args), "Seismic records": seismic(args)}
    text = [
        "# LTFC, its branches alone and fused",
        "",
        "Mean and 95 % Student-t interval, on HAPT over pre-trainings, on seismic records over station-disjoint "
        f"folds (one pre-training each), {args.steps or 400} updates of pre-training. Same test rows for all "
        f"rows of a table. {provenance.sentence(facts)}.",
        "",
    ]
    for name, protocols in found.items():
        text += [f"## {name}", ""]
        for protocol, trainings in protocols.items():
            text += table(protocol, trainings)
    save("ltfc_branches", text, {"machine": facts, "results": found})


if __name__ == "__main__":
    main()
