"""Do masks that follow energy suppress a rare class, and does a part of uniform patches repair it?

    python -m experiments.studies.sensors.rare --runs runs/masked

Synthetic machines again, but only 6 % of one class (faults of the inner race) are left where encoders
pre-train: 2 % of all windows. The frozen encoders are probed on the whole balanced set, with 10 % of
the labels of four load bands, and tested on the fifth: recall of the rare class and macro F1 over all.
`visible_energy` is the fraction of the energy of the rare class's training windows that stays visible, at the last
temperature. Finished parts are kept. Writes `experiments/results/masked_rare.md` and `.json`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from experiments.studies.sensors.common import markdown, save, shards_of, spread, trained_once
from experiments.studies.sensors.masked import COMMON, recipe

RARE = "inner_race"
MASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "random": ("MAE .90", {}),
    "PhyMask, floor 0": ("PhyMask .90", {"method__floor": 0.0}),
    "PhyMask, floor .1": ("PhyMask .90", {}),
    "PhyMask, floor .3": ("PhyMask .90", {"method__floor": 0.3}),
    "PhyMask, opposite sign": (
        "PhyMask .90",
        {"method__high_scores": "masked", "method__floor": 0.0},
    ),
}
LABELS = 0.1


def pretrained(mask: str, seed: int, args):
    from jfreq.config import replace

    method, changes = MASKS[mask]
    experiment = replace(recipe("machines", method), **changes)
    folder = args.runs / "rare" / f"{mask}_{seed}".replace(" ", "_").replace(",", "")
    return trained_once(
        experiment, shards_of("machines_rare", "", args.runs), folder, seed=seed,
        data__split=None, data__exclude_folds=(4,),
    ), folder  # fmt: skip


def measured(mask: str, seed: int, args) -> dict[str, float]:
    """Recall of the rare class and macro F1 of a logistic probe; kept in the folder of the run."""
    from jfreq.data.shards.reader import open_shards
    from jfreq.evaluate.features import extract
    from jfreq.evaluate.folds import divide, labelled_rows, make_task
    from jfreq.evaluate.label_subsets import label_subsets
    from jfreq.evaluate.probe import fit_logistic, probe_scores
    from jfreq.metrics import SINGLE_LABEL, confusion

    trained, folder = pretrained(mask, seed, args)
    path = folder / "rare.json"
    if path.exists():
        return json.loads(path.read_text())
    shards = open_shards(shards_of("machines", "", args.runs))
    rows = labelled_rows(shards)
    task = make_task(shards, rows, divide(shards, rows, only=("4",)))
    x = extract(trained.experiment.method, trained.params, shards, rows, batch=64).x
    (subset,) = label_subsets(task, (LABELS,), repeats=5, at_least_one=True)
    found = []
    for (fold,) in subset.repeats:
        score, _ = probe_scores(x[fold.train], task.label[fold.train], x[fold.test],
                                classes=task.classes, fit=fit_logistic)  # fmt: skip
        counts = confusion(task.label[fold.test], score)
        rare = shards.info.labels.index(RARE)
        f1 = float(SINGLE_LABEL["macro_f1"](task.label[fold.test], score))
        found.append((counts[rare, rare] / counts[rare].sum(), f1))
    recall, f1 = np.mean(found, axis=0)
    values = {
        "recall": float(recall),
        "macro_f1": float(f1),
        "visible_energy": visible_energy(trained, args),
    }
    path.write_text(json.dumps(values))
    return values


def visible_energy(trained: Any, args) -> float:
    """Fraction of the energy of the rare class that one mask leaves visible, over its windows."""
    import jax
    import jax.numpy as jnp

    from jfreq.data.shards.reader import open_shards
    from jfreq.masks import energy_coherence
    from jfreq.ops.gather import take_tokens

    shards = open_shards(shards_of("machines_rare", "", args.runs))
    rare = np.flatnonzero(shards.column("label") == shards.info.labels.index(RARE))
    read = shards.read(rare)
    cfg = trained.experiment.method
    trunk = cfg.encoder_method
    found = trunk.spectra({s.name: jnp.asarray(read[s.name]) for s in trunk.signals})
    sampled, kept = cfg.sample_masks(jax.random.key(0), found), 0.0
    for name, spec in trunk.specs.items():
        power = energy_coherence.patch_energy(found[name].real, found[name].imag, spec.patch)
        flat = power.reshape(len(rare), -1, 1) / power.sum()
        kept += float(take_tokens(flat, sampled[name].visible).sum())
    return kept / len(trunk.specs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=Path, default=Path("runs/masked"))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    args = parser.parse_args()
    from jfreq.monitoring import provenance

    values = {
        mask: [measured(mask, seed, args) for seed in args.seeds] for mask in MASKS
    }  # fmt: skip
    rows = [
        [mask, str(len(runs)),
         *(spread([run[name] for run in runs]) for name in ("recall", "macro_f1", "visible_energy"))]
        for mask, runs in values.items()
    ]  # fmt: skip
    facts = provenance.facts()
    text = [
        "# A rare class under masks that follow energy (synthetic machines)",
        "",
        f"{COMMON['steps']} updates, 90 % masked, {RARE} is 2 % of the windows that encoders pre-train "
        f"on; probes learn from {100 * LABELS:g} % of the labels of a balanced set (mean of 5 samples of them). "
        f"Intervals: 95 %, Student t over pre-trainings. {provenance.sentence(facts)}.",
        "",
        *markdown(["masks", "trainings", f"recall of {RARE}", "macro F1", "energy visible"], rows),
    ]
    save("masked_rare", text, {"machine": facts, "runs": values})


if __name__ == "__main__":
    main()
