"""What a small label-free pre-training is worth: SSAST on ESC-10, probed frozen, five folds.

    python -m experiments.studies.esc10 --shards shards/esc10 --runs runs/esc10

For each official fold a fresh `ssast_esc10` encoder is pre-trained without labels on the clips of
the other four; the frozen encoder is then probed on the fold that was left out, beside its own
untrained self (three seeds) and beside mean and std of the log-mel spectrogram. Finished
folds are kept. Writes `experiments/results/esc10.md` and `.json`. About an hour on two CPU cores.
"""

import argparse
import itertools
import platform
from collections import defaultdict
from pathlib import Path

from experiments.studies.sensors.common import markdown, save, spread

FOLDS = ("1", "2", "3", "4", "5")
POOLS = ("clip", "mean_std")
SEEDS = (0, 1, 2)


def pretrain(shards: Path, runs: Path) -> None:
    """One run for each fold, without its clips."""
    from jfreq import recipes
    from jfreq.config import replace
    from jfreq.train.loop import train

    recipe = recipes.load("ssast_esc10")
    for fold in FOLDS:
        data = {"data__path": (str(shards),), "data__exclude_folds": (int(fold),)}
        train(replace(recipe, **data), runs / f"fold{fold}")


def probe(shards: Path, runs: Path) -> dict[tuple[str, str, str, str], list[float]]:
    """Scores by (pool, features, probe, metric), a value for each fold."""
    from jfreq.data.shards.reader import open_shards
    from jfreq.evaluate import probe_protocol
    from jfreq.export.bundle import load_trained

    scores = defaultdict(list)
    data = open_shards(shards)
    for fold in FOLDS:
        trained = load_trained(runs / f"fold{fold}")
        for pool in POOLS:
            report = probe_protocol.probe(
                trained, data, pool=pool, seeds=SEEDS, only=(fold,), cache=runs / "features"
            )
            for r in report.results:
                scores[pool, r.features, r.kind, r.metric].append(r.folds[0])
    return scores


def table(scores: dict, metric: str = "accuracy") -> list[str]:
    """Markdown rows: mean and 95 % interval over folds, and paired gains."""
    from jfreq.evaluate.results import HAND_CRAFTED, TRAINED, UNTRAINED

    head = ["pool", "probe", "trained", "untrained", "log-mel mean+std", "trained - untrained",
            "trained - log-mel"]  # fmt: skip
    lines = []
    for pool in POOLS:
        for kind in ("logistic", "ridge", "knn"):
            rows = [scores[pool, name, kind, metric] for name in (TRAINED, UNTRAINED, HAND_CRAFTED)]
            gains = [[a - b for a, b in zip(rows[0], other)] for other in rows[1:]]
            lines.append([pool, kind, *map(spread, [*rows, *gains])])
    return markdown(head, lines)


def minutes(runs: Path) -> list[float]:
    """Wall-clock minutes of the steps of each run."""
    from jfreq.monitoring.metrics_writer import read_metrics

    found = []
    for fold in FOLDS:
        rows = read_metrics(runs / f"fold{fold}")
        edges = [0, *(row["step"] for row in rows)]
        spans = [b - a for a, b in itertools.pairwise(edges)]
        found.append(sum(row["step_time"] * n for row, n in zip(rows, spans)) / 60)
    return found


def main() -> None:
    from jfreq.monitoring import provenance

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shards", type=Path, default=Path("shards/esc10"))
    parser.add_argument("--runs", type=Path, default=Path("runs/esc10"))
    parser.add_argument("--machine", default=f"{platform.machine()} CPU, 2 cores")
    args = parser.parse_args()
    pretrain(args.shards, args.runs)
    scores = probe(args.shards, args.runs)
    spent = minutes(args.runs)
    commit = provenance.commit()
    text = [
        "# ESC-10: frozen SSAST after a small pre-training",
        "",
        "Accuracy on the official five folds (80 test clips each, n = 400), mean over folds with",
        "the Student-t 95 % interval. Recipe `ssast_esc10`, pre-training seed 0, without labels on",
        "the 320 clips of the other folds; untrained: mean of seeds 0, 1, 2. C, l2 chosen inside",
        "the training folds. Gains are paired by fold. Chance is 0.10.",
        "",
        *table(scores),
        f"Pre-training took {min(spent):.0f} to {max(spent):.0f} minutes a fold on a shared "
        f"machine ({args.machine}), commit {commit}. `python -m experiments.studies.esc10` repeats it.",
    ]
    plain = {"/".join(key): values for key, values in scores.items()}
    settings = {"commit": commit, "machine": args.machine, "minutes": spent, "seeds": SEEDS}
    save("esc10", [*text, ""], {**settings, "folds": plain})


if __name__ == "__main__":
    main()
