"""HAPT, official subject split: STFNets against a CNN and a DeepSense-style network, equal budget.

    python -m experiments.studies.sensors.supervised --source ../shared/data/hapt --runs runs/hapt

Windows of 2.56 s every 1.28 s; 6 activities, and all 12 labels with the transitions. Every network has
its recipe's 1500 updates of batch 64, the last state is tested, three seeds each. Beside them the
hand-made baseline on the same rows: logistic regression on log band energies and channel moments.
Prepared sets and finished trainings are kept, so the command goes on where it stopped. Writes
`experiments/results/hapt_supervised.md` and `.json`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from experiments.studies.sensors.common import cell, markdown, save, shards_of

NETWORKS = ("stfnet_hapt", "stfnet_conv_hapt", "cnn_hapt", "deepsense_hapt")
TASKS = ("6", "12")
METRICS = ("balanced_accuracy", "macro_f1", "accuracy")


def train_all(task: str, shards: Path, runs: Path, networks, seeds, steps: int | None):
    """Report over seeds of every network; one run for each seed."""
    from jfreq.config import replace
    from jfreq.evaluate.finetune import finetune
    from jfreq.evaluate.finetune_experiment import experiment_for
    from jfreq.evaluate.results import over_seeds

    found = {}
    for name in networks:
        reports = []
        for seed in seeds:
            experiment = replace(experiment_for(name), seed=seed, data__path=(str(shards),))
            experiment = experiment if steps is None else replace(experiment, steps=steps)
            reports.append(finetune(experiment, runs / task / f"{name}_{seed}", folds=("test",)))
        found[name] = over_seeds(reports) if len(reports) > 1 else reports[0]
    return found


def hand_made(shards: Path) -> dict[str, float]:
    """Logistic regression on 16 log band energies, mean and std of every channel."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from jfreq.data.loading.pipeline import eval_batches
    from jfreq.data.shards.reader import open_shards
    from jfreq.metrics import SINGLE_LABEL

    opened = open_shards(shards)
    x, y, test = [], [], opened.column("split") == "test"
    for batch in eval_batches(opened, np.arange(len(opened)), batch=256):
        keep = batch["_mask"] > 0
        series = np.concatenate([batch["acc"], batch["gyro"]], axis=-1)[keep]
        spectrum = np.abs(np.fft.rfft(series, axis=1))[:, 1:] ** 2
        bands = spectrum.reshape(len(series), 16, -1, series.shape[-1]).mean(2)
        moments = [series.mean(1), series.std(1)]
        x.append(np.concatenate([np.log(bands + 1e-8).reshape(len(series), -1), *moments], axis=1))
        y.append(batch["label"][keep])
    x, y = np.concatenate(x), np.concatenate(y)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=3000))
    score = model.fit(x[~test], y[~test]).predict_proba(x[test])
    return {name: SINGLE_LABEL[name](y[test], score) for name in METRICS}


def table(task: str, found, baseline: dict[str, float]) -> list[str]:
    rows = []
    for name, report in found.items():
        by_metric = {r.metric: r for r in report.results}
        count = len(report.settings.get("trainings", [0]))
        rows.append([f"`{name}`", str(count), *(cell(by_metric[m]) for m in METRICS)])
    plain = [f"{baseline[m]:.3f}" for m in METRICS]
    rows.append(["logistic regression, hand-made", "1", *plain])
    head = ["network", "trainings", *METRICS]
    return [f"## {task} classes", "", *markdown(head, rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--source", default="../shared/data/hapt")
    parser.add_argument("--runs", type=Path, default=Path("runs/hapt"))
    parser.add_argument(
        "--tasks", nargs="+", default=TASKS, help="6, 12, or 12:NETWORK,NETWORK ..."
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=None)
    args = parser.parse_args()
    from jfreq.monitoring import provenance

    facts = provenance.facts()
    text = [
        "# HAPT, supervised",
        "",
        "Official split, 21 training and 9 test subjects, windows of 2.56 s. Mean over trainings "
        "with different seeds, 95 % Student-t interval over them: it holds what a seed changes, not "
        f"what other subjects would. {provenance.sentence(facts)}.",
        "",
    ]
    results = {}
    for words in args.tasks:
        task, _, names = words.partition(":")
        networks = names.split(",") if names else NETWORKS
        shards = shards_of(task, args.source, args.runs)
        found = train_all(task, shards, args.runs, networks, args.seeds, args.steps)
        baseline = hand_made(shards)
        text += table(task, found, baseline)
        results[task] = {"hand_made": baseline} | {
            name: json.loads(report.to_json()) for name, report in found.items()
        }
    save("hapt_supervised", text, {"machine": facts, "tasks": results})


if __name__ == "__main__":
    main()
