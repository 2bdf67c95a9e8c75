"""What do untrained tokens carry of modulations that patches fold?

    jfreq data prepare synthetic:tones --out shards/tones --n 600
    jfreq data prepare synthetic:harmonic_tones --out shards/harmonic --n 600 --seconds 1.295
    python -m experiments.studies.alias.tones --shards shards/tones shards/harmonic

Six classes of tones that differ in kind and rate (12, 20, 32 Hz) of a modulation; carrier, loudness, phase
and depth do not depend on the class. Tokens come from random weights, one sample for each seed: the plain embedding,
or the alias branch alone, both 96 wide. A clip is the mean of its tokens, which shows what a nonlinear
embedding has made of the modulation; or their mean and std over time, averaged over the rows of
patches. Five folds by recorder. No pretext task is involved: this
is what each embedding makes easy to read, before any training. Writes
`experiments/results/alias_tones.md` and `.json`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.studies.sensors.common import markdown, save, spread

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
    from jfreq.frontends.fbank import Fbank

    front = Fbank()
    rows = np.arange(len(shards))
    frames = 1 + (shards.spec.signal().samples - front.win_length) // front.hop_length
    frames = frames // PATCH[0] * PATCH[0]
    run = jax.jit(lambda x: front(x, frames=frames)[0])
    parts = [np.asarray(run(shards.read(part)["audio"])) for part in np.array_split(rows, 10)]
    return np.concatenate(parts), shards.column("label"), shards.column("fold")


def tokens_of(form: str, seed: int, spec: np.ndarray) -> np.ndarray:
    """``[rows time freq d]`` of random weights."""
    from jfreq.nn.aape import AaPE, AliasBranch
    from jfreq.nn.patch_encoder import PatchEmbed
    from jfreq.types import TokenGrid

    grid = TokenGrid(spec.shape[1] // PATCH[0], spec.shape[2] // PATCH[1], "time_major")
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


def pooled(tokens: np.ndarray) -> dict[str, np.ndarray]:
    """Mean of all tokens ``[rows d]``; and beside it the std over time, averaged over
    frequency, ``[rows 2d]``."""
    mean = tokens.mean((1, 2))
    return {"mean": mean, "mean and std": np.concatenate([mean, tokens.std(1).mean(1)], 1)}


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


def of_set(
    spec: np.ndarray, label: np.ndarray, fold: np.ndarray, *, seeds: int
) -> dict[str, dict[str, list[float]]]:
    """Accuracies by form and pool, one for each seed; last the spectrogram's own statistics."""
    found: dict[str, dict[str, list[float]]] = {}
    for form in ("plain", *FORMS):
        for seed in range(seeds):
            for pool, x in pooled(tokens_of(form, seed, spec)).items():
                scores = found.setdefault(form, {}).setdefault(pool, [])
                scores.append(accuracy(x, label, fold))
        print(form, found[form], flush=True)
    mean, std = (x[..., 0] for x in (spec.mean(1), spec.std(1)))
    found["spectrogram"] = {
        "mean": [accuracy(mean, label, fold)],
        "mean and std": [accuracy(np.concatenate([mean, std], 1), label, fold)],
    }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shards", type=Path, nargs="+", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    from jfreq.data.shards.reader import open_shards
    from jfreq.monitoring import provenance

    facts = provenance.facts()
    text = [
        "# Untrained tokens on synthetic tones",
        "",
        "Accuracy of a ridge probe of pooled tokens, six classes (chance .167), mean of five folds. "
        f"Intervals: 95 %, Student t over {args.seeds} samples of weights. {provenance.sentence(facts)}.",
        "",
    ]
    body: dict[str, Any] = {"machine": facts}
    for path in args.shards:
        shards = open_shards(path)
        found = body[shards.info.name] = of_set(*spectrograms(shards), seeds=args.seeds)
        rows = [[form, *map(spread, pools.values())] for form, pools in found.items()]
        text += [f"## {shards.info.name}, {len(shards)} clips", ""]
        text += markdown(["tokens", *next(iter(found.values()))], rows)
    save("alias_tones", text, body)


if __name__ == "__main__":
    main()
