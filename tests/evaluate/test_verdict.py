"""A verdict says what the intervals of a table say, whichever way they point."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jfreq.evaluate.results import HAND_CRAFTED, TRAINED, UNTRAINED, Report, Result
from jfreq.evaluate.verdict import verdict

FOLDS = st.lists(st.floats(0, 1), min_size=5, max_size=5)


def result(features, folds, *, kind="ridge", metric="accuracy", fraction=None):
    return Result(
        features, kind, metric, float(np.mean(folds)), 0.0, 1.0, tuple(folds), 90, fraction=fraction
    )


def said(trained, untrained=None, plain=None) -> tuple[str, ...]:
    rows = {TRAINED: trained, UNTRAINED: untrained, HAND_CRAFTED: plain}
    results = tuple(result(name, folds) for name, folds in rows.items() if folds is not None)
    names = tuple(map(str, range(len(trained))))
    return verdict(Report("set", names, results, {"classes": 4, "majority_class": 0.25}))


LOW, HIGH = [0.50, 0.52, 0.48, 0.51, 0.49], [0.71, 0.70, 0.69, 0.72, 0.68]


def test_better_than_untrained_and_worse_than_statistics():
    level, compared = said(HIGH, LOW, [0.9, 0.92, 0.91, 0.93, 0.89])
    assert level == (
        "A ridge probe of the frozen encoder reaches an accuracy of 0.700 on 4 classes; "
        "always guessing the most common class reaches 0.250."
    )
    assert compared.startswith("Training helped: 0.200 (95 % CI ")
    assert "It is worse than hand-crafted statistics of the spectrogram (0.910), by " in compared


def test_worse_than_untrained_and_better_than_statistics():
    _, compared = said(LOW, HIGH, [0.3, 0.31, 0.29, 0.3, 0.3])
    assert "Training did harm: 0.200 (" in compared
    assert (
        "It is better than hand-crafted statistics of the spectrogram (0.300), by 0.200 ("
        in compared
    )


def test_one_split_has_no_interval_and_without_baselines_nothing_is_compared():
    _, compared = said([0.9], [0.1], [0.2])
    assert compared.startswith(
        "No significant effect of training was found: +0.800 (a single test split"
    )
    assert "No significant difference from hand-crafted statistics" in compared
    assert len(said(HIGH)) == 1
    assert verdict(Report("set", ("0",), (result("fine-tuned", [0.5]),), {})) == ()


def test_equal_scores_need_no_interval():
    _, compared = said(HIGH, HIGH)
    assert compared.startswith(
        "No significant effect of training was found: the same score everywhere against"
    )


def test_the_first_probe_speaks_with_the_most_labels():
    rows = [
        result(TRAINED, [0.1, 0.1], kind="knn"),
        result(TRAINED, [0.2, 0.2], fraction=0.1),
        result(TRAINED, [0.3, 0.3], fraction=0.5),
    ]
    (level,) = verdict(Report("set", ("0", "1"), tuple(rows), {}))
    assert level == (
        "A ridge probe of the frozen encoder reaches an accuracy of 0.300 with 50 % of the labels."
    )


@settings(max_examples=60, deadline=None)
@given(FOLDS, FOLDS)
def test_a_difference_is_significant_where_a_paired_t_interval_excludes_zero(trained, untrained):
    delta = np.subtract(trained, untrained)
    if np.ptp(delta) < 1e-6:
        return
    low, high = stats.t.interval(0.95, 4, delta.mean(), stats.sem(delta))
    if min(abs(low), abs(high)) < 1e-9:
        return
    _, compared = said(trained, untrained)
    start = {1: "Training helped", -1: "Training did harm"}.get(
        int(np.sign(low) * (low * high > 0))
    )
    assert compared.startswith(start or "No significant effect of training was found"), (low, high)


@pytest.mark.parametrize("metric", ["mAP", "macro_f1"])
def test_guessing_is_compared_with_accuracy_only(metric):
    report = Report(
        "set",
        ("0",),
        (result(TRAINED, [0.4], metric=metric),),
        {"classes": 9, "majority_class": 0.2},
    )
    (level,) = verdict(report)
    assert level.endswith("0.400 on 9 classes.")


def test_two_folds_that_differ_have_no_interval():
    _, compared = said([0.9, 0.1], [0.1, 0.4])
    assert (
        "No significant effect of training was found: +0.250 (too few folds for an interval)"
        in compared
    )
