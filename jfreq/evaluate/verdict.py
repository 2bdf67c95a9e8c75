"""What a table of probes says, in plain sentences."""

from __future__ import annotations

import math

from jfreq.evaluate.results import HAND_MADE, TRAINED, UNTRAINED, Report, Result, difference

KINDS = ("logistic", "ridge", "knn")
"""The verdict is about the first of these in the table: fixed before any score is known."""


def verdict(report: Report) -> tuple[str, ...]:
    """Two lines: how well the frozen encoder does, and how it compares with its untrained self
    and with hand-crafted statistics.

    They are about one probe and one metric, with all labels or the largest fraction of them. A
    difference is called one only where its paired 95 % interval leaves out zero. Nothing for a
    table without a frozen encoder, and no second line for one without baselines.
    """
    trained = [r for r in report.results if r.features == TRAINED]
    if not trained:
        return ()
    kind = next(k for k in KINDS if any(r.kind == k for r in trained))
    mine = max((r for r in trained if r.kind == kind), key=lambda r: r.fraction or 1.0)
    others = {r.features: r for r in report.results if r.key[1:] == mine.key[1:]}
    compared = [
        sentence(mine, others[name])
        for name, sentence in ((UNTRAINED, _learned), (HAND_MADE, _against_statistics))
        if name in others
    ]
    return (_level(mine, report), *([" ".join(compared)] if compared else []))


def _level(mine: Result, report: Report) -> str:
    """How good it is, beside guessing."""
    classes = report.settings.get("classes")
    guess = report.settings.get("majority_class")
    line = f"A {mine.kind} probe of the frozen encoder reaches {_named(mine)} {mine.mean:.3f}"
    line += f" on {classes} classes" if classes else ""
    line += f" with {100 * mine.fraction:g} % of the labels" if mine.fraction else ""
    if guess is not None and mine.metric == "accuracy":
        line += f"; always guessing the most common class reaches {guess:.3f}"
    return line + "."


def _learned(mine: Result, untrained: Result) -> str:
    """Against the encoder as initialised."""
    sign, amount = _compared(mine, untrained)
    if sign > 0:
        return f"Training helped: {amount} better than the same encoder untrained."
    if sign < 0:
        return f"Training did harm: {amount} worse than the same encoder untrained."
    return f"No effect of training is proven: {amount} against the same encoder untrained."


def _against_statistics(mine: Result, plain: Result) -> str:
    """Against mean and standard deviation of the spectrogram."""
    sign, amount = _compared(mine, plain)
    level = f"hand-crafted statistics of the spectrogram ({plain.mean:.3f})"
    if sign > 0:
        return f"It beats {level} by {amount}."
    if sign < 0:
        return f"The {level} are better than this encoder, by {amount}."
    return f"Neither it nor the {level} is proven better: {amount}."


def _compared(mine: Result, other: Result) -> tuple[int, str]:
    """The sign of a proven difference (0: none), and its amount with the interval in words."""
    gap = difference(mine, other)
    if gap is None:
        return 0, f"{mine.mean - other.mean:+.3f} (a single test split, so no interval)"
    if not math.isfinite(gap.low):
        return 0, f"{gap.mean:+.3f} (too few folds for an interval)"
    if gap.low == gap.high == 0:
        return 0, "the same score everywhere"
    if gap.low > 0:
        return 1, f"{gap.mean:.3f} (95 % CI {gap.low:.3f} to {gap.high:.3f})"
    if gap.high < 0:
        return -1, f"{-gap.mean:.3f} (95 % CI {-gap.high:.3f} to {-gap.low:.3f})"
    return 0, f"{gap.mean:+.3f} (95 % CI {gap.low:+.3f} to {gap.high:+.3f})"


def _named(result: Result) -> str:
    """The metric as a word of a sentence."""
    return {"accuracy": "an accuracy of", "mAP": "a mAP of"}.get(result.metric, result.metric)
