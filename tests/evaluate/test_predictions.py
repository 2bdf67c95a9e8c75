"""Predictions of several classifiers averaged: against probabilities averaged by scipy."""

import os
import signal

import numpy as np
import pytest
from scipy.special import expit, softmax

from jfreq.config import Average, replace
from jfreq.evaluate import predictions
from jfreq.evaluate.finetune import finetune
from jfreq.evaluate.predictions import (
    Predictions,
    Snapshots,
    mean_probability,
    read_predictions,
    write_predictions,
)
from jfreq.methods.supervised import Classify
from jfreq.metrics import mean_average_precision
from jfreq.train.loop import Stopped
from jfreq.types import InputError


def test_the_mean_of_probabilities_is_given_as_logits():
    scores = list(np.random.default_rng().normal(scale=4, size=(5, 30, 7)).astype(np.float32))
    mean = np.mean([softmax(s, axis=-1) for s in np.asarray(scores, np.float64)], axis=0)
    np.testing.assert_allclose(softmax(mean_probability(scores, "softmax"), -1), mean, rtol=1e-5)
    mean = np.mean([expit(s) for s in np.asarray(scores, np.float64)], axis=0)
    found = mean_probability(scores, "sigmoid")
    np.testing.assert_allclose(expit(np.float64(found)), mean, rtol=1e-5)
    label = (np.random.default_rng(1).random((30, 7)) < 0.3).astype(np.float32)
    label[0] = 1
    ranked, expected = (mean_average_precision(label, x) for x in (found, mean))
    assert ranked == pytest.approx(expected)


def test_certain_classifiers_stay_in_order():
    """Probabilities that round to 1 in float64 still rank."""
    scores = [np.array([[50.0, 60.0, -800.0]], np.float32)] * 2
    np.testing.assert_allclose(mean_probability(scores, "sigmoid"), scores[0], rtol=1e-6)
    np.testing.assert_array_equal(np.argsort(mean_probability(scores, "softmax")), [[2, 0, 1]])


def test_files_of_snapshots(tmp_path):
    rng = np.random.default_rng()
    ids, label = np.arange(4), np.arange(4) % 2
    every = [Predictions(ids, label, rng.normal(size=(4, 2)).astype(np.float32)) for _ in "ab"]
    for step, found in zip((3, 6), every):
        write_predictions(tmp_path, found, f"snapshots/{step}.npz")
        again = read_predictions(tmp_path, f"snapshots/{step}.npz")
        np.testing.assert_array_equal(again.score, found.score)
    mean = Snapshots(tmp_path, None, ids).averaged((3, 6), "softmax")
    np.testing.assert_array_equal(mean.score, mean_probability([p.score for p in every], "softmax"))
    np.testing.assert_array_equal(mean.label, label)
    with pytest.raises(InputError, match=r"no predictions of the snapshots after steps 9,"):
        Snapshots(tmp_path, None, ids).averaged((3, 9), "softmax")


def test_a_fine_tuning_that_was_stopped_averages_what_it_would_have(
    experiment, tmp_path, monkeypatch
):
    """It is told to end while the first of two snapshots is taken, and goes on after the next."""
    cfg = replace(
        experiment,
        method=Classify(backbone=experiment.method),
        average=Average(every=0.5, of="predictions"),
        steps=4,
    )
    whole = finetune(cfg, tmp_path / "whole", folds=("1",))
    predict = predictions.predict

    def stopped(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return predict(*args)

    with monkeypatch.context() as patch:
        patch.setattr(predictions, "predict", stopped)
        with pytest.raises(Stopped, match=r"stopped at step [23]"):
            finetune(cfg, tmp_path / "parts", folds=("1",))
    assert [path.name for path in (tmp_path / "parts/fold1/snapshots").iterdir()] == ["2.npz"]
    assert finetune(cfg, tmp_path / "parts", folds=("1",)) == whole
    for name in ("predictions.npz", "snapshots/2.npz", "snapshots/4.npz"):
        one, two = (read_predictions(tmp_path / f"{run}/fold1", name) for run in ("whole", "parts"))
        np.testing.assert_array_equal(one.score, two.score)
    assert not np.array_equal(one.score, read_predictions(tmp_path / "whole/fold1").score)
