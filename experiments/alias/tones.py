"""What do untrained tokens carry of modulations that patches fold?

    jfreq data prepare synthetic:tones --out shards/tones --n 600
    python -m experiments.alias.tones --shards shards/tones

Six classes of tones that differ in kind and rate (12, 20, 32 Hz) of a modulation; carrier, level, phase
and depth tell nothing. Tokens come from random weights, one draw for each seed: the plain embedding,
or the alias branch alone, both 96 wide. A clip is the mean and the deviation of its tokens over
time, averaged over the rows of patches; five folds by recorder. No pretext task is involved: this
is what each embedding makes easy to read, before anybody learns. Writes
`experiments/results/alias_tones.md` and `.json`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.sensors.common import markdown, save, spread

PATCH, WIDTH = (16, 16), 96
FORMS: dict[str, dict[str, Any]] = {
    "even": {},
    "hermitian": {"phase": "hermitian"},
    "even, magnitude": {"magnitude": True},
    "hermitian, magnitude": {"phase": "hermitian", "magnitude": True},
    "hermitian, local": {"phase": "hermitian", "magnitude": True, "context": "local", "taps": 17},
}


def spectrograms(shards) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-mel spectrograms ``[rows t f 1]``, whole patches only; labels; folds."""
    from jfreq.nn.frontends import Fbank

    front = Fbank()
    rows = np.arange(len(shards))
    frames = 1 + (shards.spec.signal().samples - front.win_length) // front.hop_length
    frames = frames // PATCH[1] * PATCH[1]
    run = jax.jit(lambda x: front(x, frames=frames))
    parts = [np.asarray(run(shards.read(part)["audio"])) for part in np.array_split(rows, 10)]
    return np.concatenate(parts), shards.column("label"), shards.column("fold")


def tokens_of(form: str, seed: int, spec: np.ndarray) -> np.ndarray:
    """``[rows time freq d]`` of random weights."""
    from jfreq.nn.sblu import AaPE, AliasBranch
    from jfreq.nn.trunk import PatchEmbed
    from jfreq.types import Grid

    grid = Grid(spec.shape[1] // PATCH[1], spec.shape[2] // PATCH[0], "time_major")
    if form == "plain":
        net: Any = PatchEmbed(PATCH, PATCH, WIDTH, grid)
        args, method = (jnp.asarray(spec[:1]),), None
    else:
        net = AliasBranch(AaPE(out=WIDTH, **FORMS[form]), PATCH, PATCH, grid)
        args, method = (jnp.asarray(spec[:1]), None, None), AliasBranch.measure
    params = jax.jit(lambda key: net.init(key, *args, method=method))(jax.random.key(seed))
    # Weights are arguments: with heads of zeros as constants of the program, XLA:CPU 0.10 reads
    # memory that nobody wrote.
    run = jax.jit(lambda params, x: net.apply(params, x, *args[1:], method=method))
    out = np.concatenate([np.asarray(run(params, part)) for part in np.array_split(spec, 10)])
    return out.reshape(len(spec), grid.time, grid.freq, -1)


def pooled(tokens: np.ndarray) -> np.ndarray:
    """``[rows 2d]``: mean and deviation over time, averaged over frequency."""
    return np.concatenate([tokens.mean(1).mean(1), tokens.std(1).mean(1)], axis=1)


def accuracy(x: np.ndarray, label: np.ndarray, fold: np.ndarray) -> float:
    """Of a ridge probe, averaged over the folds."""
    from jfreq.evaluate.probe import fit_ridge, probe_scores

    found = []
    for out in np.unique(fold):
        train, test = fold != out, fold == out
        scores, _ = probe_scores(
            x[train], label[train], x[test], classes=int(label.max()) + 1, fit=fit_ridge
        )
        found.append(np.mean(scores.argmax(1) == label[test]))
    return float(np.mean(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    from jfreq.data.records import open_shards
    from jfreq.report import machine

    spec, label, fold = spectrograms(open_shards(args.shards))
    found = {
        form: [accuracy(pooled(tokens_of(form, seed, spec)), label, fold)
               for seed in range(args.seeds)]
        for form in ("plain", *FORMS)
    }  # fmt: skip
    found["spectrogram, mean and deviation"] = [
        accuracy(np.concatenate([spec.mean(1), spec.std(1)], 1)[..., 0], label, fold)
    ]
    rows = [[form, str(len(values)), spread(values)] for form, values in found.items()]
    facts = machine.facts()
    text = [
        "# Untrained tokens on synthetic tones",
        "",
        f"Accuracy of a ridge probe, {len(label)} clips, six classes (chance .167), mean of five folds. "
        f"Intervals: 95 %, Student t over random weights. {machine.sentence(facts)}.",
        "",
        *markdown(["tokens", "draws of weights", "accuracy"], rows),
    ]
    save("alias_tones", text, {"machine": facts, "accuracy": found})


if __name__ == "__main__":
    main()
