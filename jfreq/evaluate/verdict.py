"""Sums up a table of probes in plain sentences."""

from __future__ import annotations

import math

from jfreq.evaluate.results import HAND_CRAFTED, TRAINED, UNTRAINED, Report, Result, difference

KINDS = ("logistic", "ridge", "knn")
"""The sentences are about the first of these in the table, so that scores do not select it."""


def verdict(report: Report) -> tuple[str, ...]:
    """Sums up a report in at most two lines.

    The first says how good the frozen encoder is, the second how it compares with the untrained
    encoder and with hand-crafted statistics. They are about one probe and one metric, with all
    labels or the largest fraction of them. A difference is significant where its paired 95 %
    interval excludes zero.

    Returns:
      No line for a report without a frozen encoder, and no second line for one without baselines.
    """
    trained = [r for r in report.results if r.features == TRAINED]
    if not trained:
        return ()
    kind = next(k for k in KINDS if any(r.kind == k for r in trained))
    result = max((r for r in trained if r.kind == kind), key=lambda r: r.fraction or 1.0)
    others = {r.features: r for r in report.results if r.key[1:] == result.key[1:]}
    comparisons = [
        sentence(result, others[name])
        for name, sentence in ((UNTRAINED, _against_untrained), (HAND_CRAFTED, _against_statistics))
        if name in others
    ]
    return (_score(result, report), *([" ".join(comparisons)] if comparisons else []))


def _score(result: Result, report: Report) -> str:
    """The score of the encoder, and that of guessing."""
    classes = report.settings.get("classes")
    guess = report.settings.get("majority_class")
    line = f"A {result.kind} probe of the frozen encoder reaches {_named(result)} {result.mean:.3f}"
    line += f" on {classes} classes" if classes else ""
    line += f" with {100 * result.fraction:g} % of the labels" if result.fraction else ""
    if guess is not None and result.metric == "accuracy":
        line += f"; always guessing the most common class reaches {guess:.3f}"
    return line + "."


def _against_untrained(result: Result, untrained: Result) -> str:
    sign, amount = _compared(result, untrained)
    if sign > 0:
        return f"Training helped: {amount} better than the same encoder untrained."
    if sign < 0:
        return f"Training did harm: {amount} worse than the same encoder untrained."
    return (
        f"No significant effect of training was found: {amount} against the same encoder untrained."
    )


def _against_statistics(result: Result, statistics: Result) -> str:
    sign, amount = _compared(result, statistics)
    baseline = f"hand-crafted statistics of the spectrogram ({statistics.mean:.3f})"
    if sign > 0:
        return f"It is better than {baseline}, by {amount}."
    if sign < 0:
        return f"It is worse than {baseline}, by {amount}."
    return f"No significant difference from {baseline} was found: {amount}."


def _compared(result: Result, other: Result) -> tuple[int, str]:
    """The sign of a significant difference (else 0), and the difference with its interval."""
    gap = difference(result, other)
    if gap is None:
        return 0, f"{result.mean - other.mean:+.3f} (a single test split, so no interval)"
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
    """The metric as it stands in a sentence."""
    return {"accuracy": "an accuracy of", "mAP": "a mAP of"}.get(result.metric, result.metric)
