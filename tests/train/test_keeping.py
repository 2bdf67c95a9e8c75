"""Which checkpoints stay, and when the time to save is up."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jfreq.config import Checkpoint, ResumeFrom, Source, replace
from jfreq.train.keeping import SaveClock, is_due, reasons
from jfreq.types import InputError

POLICIES = st.builds(
    Checkpoint,
    every=st.none() | st.integers(1, 9),
    keep=st.integers(1, 4),
    keep_every=st.none() | st.integers(1, 20),
    best=st.none() | st.just("val/loss"),
)


def stay(steps, cfg, best=None):
    return {step for step, why in reasons(steps, cfg, best).items() if why}


@settings(max_examples=100, deadline=None)
@given(st.sets(st.integers(1, 200), min_size=1), POLICIES, st.integers(1, 200) | st.none())
def test_what_stays(steps, cfg, best):
    found = stay(steps, cfg, best)
    assert max(steps) in found <= steps
    assert {s for s in steps if s == best} <= found
    assert {s for s in steps if cfg.keep_every and s % cfg.keep_every == 0} <= found
    others = {s for s in found if s != best and not (cfg.keep_every and s % cfg.keep_every == 0)}
    assert others <= set(sorted(steps)[-cfg.keep :])
    assert len(found) >= min(cfg.keep, len(steps))
    assert stay(found, cfg, best) == found, "nothing more goes the next time"


@settings(max_examples=50, deadline=None)
@given(POLICIES, st.integers(1, 120), st.integers(0, 119))
def test_pruning_on_the_way_loses_nothing_that_is_kept_for_ever(cfg, steps, killed):
    """Saved, pruned, and once killed and gone on with from the newest: as saved all at once."""
    on_disk, step = set(), 0
    for end in (min(killed, steps), steps):
        while step < end:
            step += 1
            if is_due(step, cfg) or step == steps:
                on_disk = stay(on_disk | {step}, cfg)
        step = max(on_disk, default=0)
    always = range(cfg.keep_every or steps + 1, steps + 1, cfg.keep_every or 1)
    assert set(always) <= on_disk and steps in on_disk


def test_why_checkpoints_stay():
    cfg = Checkpoint(keep=2, keep_every=100, best="val/loss")
    assert reasons([400, 90, 100, 250, 300], cfg, best=90) == {
        90: ["best by val/loss"],
        100: ["every 100"],
        250: [],
        300: ["newest", "every 100"],
        400: ["newest", "every 100"],
    }


@settings(max_examples=50, deadline=None)
@given(st.floats(0.02, 30), st.floats(0.5, 2), st.integers(0, 2**31 - 1))
def test_minutes(step_s, minutes, seed):
    """With steps that take about ``step_s`` seconds, a save is late by two steps at most, and the
    processes ask each other rarely."""
    rng, now, asked, saved = np.random.default_rng(seed), [0.0], 0, [0.0]
    clock = SaveClock(minutes, 7, now=lambda: now[0])
    steps = 400
    for step in range(8, 8 + steps):
        now[0] += step_s * rng.uniform(0.8, 1.25)
        if clock.asks(step):
            asked += 1
            if clock.is_up(step):
                clock.saved(step)
                saved.append(now[0])
    late = np.diff([*saved, now[0]]) - 60 * minutes
    assert (late <= 2 * 1.25 * step_s).all() and (late[:-1] >= 0).all()
    per_save = 60 * minutes / step_s
    assert asked <= (len(late)) * min(per_save * 1.25 + 2, 6 + 4 * np.log2(per_save + 2))


def test_without_minutes_no_clock_is_read():
    def now():
        return 0.0

    assert not any(SaveClock(None, 0, now).asks(step) for step in range(1, 100))


def test_a_whole_state_and_parts_of_it_exclude_each_other():
    with pytest.raises(InputError, match="leave one out"):
        Checkpoint(init_from=(Source("a"),), resume_from=ResumeFrom("b"))
    with pytest.raises(InputError, match="keep_every: must be 1 or more, got 0"):
        replace(Checkpoint(), keep_every=0)
