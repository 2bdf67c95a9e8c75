"""States measured on held-out rows: against the loss by hand, scikit-learn, and not augmented."""

import jax
import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from jfreq.config import Validation, replace
from jfreq.method import Streams
from jfreq.methods.supervised import Classify, Head
from jfreq.train import initial_state, plan
from jfreq.train.validation import Validator, metrics_of


def measured(cfg, wanted=()):
    setup = plan.plan_run(cfg)
    with jax.set_mesh(setup.mesh):
        state = initial_state.first_state(setup)
        validator = Validator(setup, wanted)
        found = validator(state)
        assert validator(state) == found, "the same keys every time"
    return setup, jax.device_get(state), found


def test_a_classifier_without_augmentation(experiment):
    """The cross-entropy of its logits, and scikit-learn's balanced accuracy, over all rows."""
    method = Classify(
        backbone=experiment.method,
        head=Head(mixup=1.0, spec_augment=(60, 60), noise=True, label_smoothing=0.3),
    )
    cfg = replace(
        experiment,
        method=method,
        validation=Validation(every=2, fraction=0.5),
        accumulate=2,
    )
    setup, state, found = measured(cfg, ["balanced_accuracy"])
    assert metrics_of(setup)["balanced_accuracy"] and not metrics_of(setup)["loss"]
    rows = setup.pipeline.held_out
    assert len(rows) % 4, "the last batch is filled up"
    batch = setup.pipeline.shards.read(rows)
    batch.pop("id")
    logits = np.float64(jax.jit(setup.method.encode)(state.params, batch).logits)
    label = batch["label"]
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert found["loss"] == pytest.approx(-log_probs[np.arange(len(label)), label].mean(), rel=1e-3)
    assert found["accuracy"] == pytest.approx((logits.argmax(1) == label).mean())
    assert found["balanced_accuracy"] == pytest.approx(
        balanced_accuracy_score(label, logits.argmax(1))
    )


def test_outputs_are_read_one_batch_behind(experiment, monkeypatch):
    validation = Validation(every=2, fraction=0.5)
    setup = plan.plan_run(replace(experiment, validation=validation, accumulate=2))
    events, read = [], jax.device_get
    with jax.set_mesh(setup.mesh):
        state, validator = initial_state.first_state(setup), Validator(setup)
        measure = validator._measure
        monkeypatch.setattr(jax, "device_get", lambda x: events.append("read") or read(x))

        def computed(*args):
            events.append("computed")
            return measure(*args)

        monkeypatch.setattr(validator, "_measure", computed)
        validator(state)
    assert len(events) == 8, "four batches"
    assert events == ["computed", *["computed", "read"] * 3, "read"]


def test_a_pretext_loss_with_keys_of_its_own(experiment):
    """The method's loss over all batches, whose masks come from the stream of validation."""
    cfg = replace(experiment, validation=Validation(every=2, fraction=0.5, rows=8))
    setup, state, found = measured(cfg)
    (rows,) = setup.pipeline.validation(8)
    key = Streams(jax.random.key(cfg.seed))("validation")
    with jax.set_mesh(setup.mesh):
        loss = jax.jit(setup.method.loss)(state.params, state.target, rows, Streams(key).at(0), 0)
    total, count = loss.metrics["loss"]
    assert found["loss"] == pytest.approx(float(total / count), rel=1e-4)
    assert set(found) == set(loss.metrics)
