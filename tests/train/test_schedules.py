"""Learning rates over the steps, against their closed forms."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jfreq.config import Experiment, Optim
from jfreq.methods.ssast import SSAST
from jfreq.train import optimizer
from jfreq.types import InputError


def rates(cfg, steps):
    schedule = optimizer.schedule(cfg, steps)
    return np.array([schedule(jnp.asarray(step)) for step in range(steps)], np.float32)


def warm(cfg, steps):
    """Warm-up, its length, and the steps after it."""
    warmup = min(cfg.warmup, steps // 2)
    step = np.arange(steps)
    return step, warmup, np.where(step < warmup, step / max(warmup, 1), 1.0)


@pytest.mark.parametrize("warmup", [0, 4, 1000])
@pytest.mark.parametrize("final", [0.0, 0.1])
def test_constant_and_cosine(warmup, final):
    steps = 20
    cfg = Optim(lr=3e-3, schedule="cosine", warmup=warmup, final_lr=final)
    step, start, ramp = warm(cfg, steps)
    part = np.maximum(step - start, 0) / (steps - start)
    curve = final + (1 - final) * 0.5 * (1 + np.cos(np.pi * part))
    np.testing.assert_allclose(rates(cfg, steps), 3e-3 * ramp * curve, rtol=1e-5, atol=1e-9)
    flat = Optim(lr=3e-3, schedule="constant", warmup=warmup)
    np.testing.assert_allclose(rates(flat, steps), 3e-3 * ramp, rtol=1e-5)


@pytest.mark.parametrize(
    ("steps", "start", "every", "decay", "warmup"),
    [
        (10, 0.4, 0.2, 0.5, 0),
        (20, 0.5, 0.1, 0.5, 3),
        (33, 0.2, 0.04, 0.85, 0),
        (30, 5 / 30, 1 / 30, 0.85, 2),
        (12, 0.25, 0.02, 0.9, 0),  # several falls on one step
        (20, 0.1, 0.2, 0.5, 8),  # the first falls lie in the warm-up
    ],
)
def test_steps_down(steps, start, every, decay, warmup):
    """At step s the rate has dropped once for every ``round((start + i every) steps) <= s``."""
    cfg = Optim(
        lr=1e-2, schedule="step", step_from=start, step_every=every, step_decay=decay, warmup=warmup
    )
    step, _, ramp = warm(cfg, steps)
    edges, i = [], 0
    while start + i * every < 1 - 1e-9:
        edges.append(round((start + i * every) * steps))
        i += 1
    falls = (np.array(edges)[None] <= step[:, None]).sum(axis=1)
    expected = 1e-2 * np.where(step < warmup, ramp, decay**falls)
    np.testing.assert_allclose(rates(cfg, steps), expected, rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["constant", "cosine", "step"]), st.integers(1, 30), st.integers(0, 40))
def test_rates_stay_within_the_peak(kind, steps, warmup):
    found = rates(Optim(lr=0.1, schedule=kind, warmup=warmup), steps)
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert (found <= 0.1 * (1 + 1e-6)).all()
    assert steps == 1 or found.max() > 0


def test_warmup_as_a_fraction_of_the_run():
    cfg = Optim(lr=1e-3, schedule="constant", warmup_fraction=0.2)
    np.testing.assert_array_equal(
        rates(cfg, 50), rates(Optim(lr=1e-3, schedule="constant", warmup=10), 50)
    )
    assert rates(dataclasses.replace(cfg, warmup=4), 50)[4] == np.float32(1e-3)


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_cooldown_after_a_constant_rate(final):
    """As optax joins a constant and a line; before it the rates are the same bits."""
    cfg = Optim(lr=2e-3, schedule="constant", warmup=3, final_lr=final)
    found = rates(dataclasses.replace(cfg, cooldown=8), 20)
    np.testing.assert_array_equal(found[:13], rates(cfg, 20)[:13])
    line = optax.linear_schedule(2e-3, 2e-3 * final, 8)
    np.testing.assert_allclose(found[12:], np.array([line(i) for i in range(8)]), rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["constant", "cosine", "step"]),
    st.integers(2, 40),
    st.integers(1, 60),
    st.integers(0, 10),
    st.data(),
)
def test_cooldown_falls_in_a_line_from_any_schedule(kind, steps, length, warmup, data):
    """Of a run that ends before its schedule does: r(b) + (end - r(b)) (s - b) / c."""
    cooldown = data.draw(st.integers(1, steps))
    begin, length = steps - cooldown, length + steps
    cfg = Optim(lr=0.1, schedule=kind, warmup=warmup, final_lr=0.02)
    plain = rates(cfg, length)[:steps]
    cfg = dataclasses.replace(cfg, schedule_steps=length)
    np.testing.assert_array_equal(rates(cfg, steps), plain)
    found = rates(dataclasses.replace(cfg, cooldown=cooldown), steps)
    part = np.arange(cooldown) / cooldown
    np.testing.assert_array_equal(found[:begin], plain[:begin])
    np.testing.assert_allclose(
        found[begin:], plain[begin] + (0.002 - plain[begin]) * part, rtol=1e-5, atol=1e-9
    )


def test_a_cooldown_that_is_longer_than_the_run():
    with pytest.raises(InputError, match=r"optim.cooldown: is 30, but the run has 20 steps"):
        Experiment("x", SSAST(), optim=Optim(cooldown=30), steps=20)
