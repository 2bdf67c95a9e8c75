import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jfreq.data.prepare.missing_samples import runs, stretches
from jfreq.data.prepare.run import prepare
from jfreq.data.shards.reader import open_shards
from jfreq.data.sources.base import Signal
from jfreq.types import InputError

RATE = 50.0


def ramp(samples=100, channels=2):
    """A straight line in every channel: linear interpolation gives it back exactly."""
    return np.arange(samples)[:, None] * np.arange(1.0, channels + 1)


def cut(x, fill=0.1, **more):
    return stretches({"acc": Signal(x, RATE, **more)}, fill_seconds=fill)


def test_short_gaps_are_filled_by_the_line_between_their_neighbours():
    x = ramp()
    x[10:15, 0] = np.nan  # 5 samples are 0.1 s
    x[40, :] = np.inf
    (part,) = cut(x)
    assert part.whole and part.seconds == 0
    np.testing.assert_allclose(part.signals["acc"].x, ramp(), rtol=1e-12)
    assert np.isnan(x[10, 0]), "the source's own array is left alone"


def test_longer_gaps_and_missing_ends_cut():
    x = ramp()
    x[:3, 1] = np.nan
    x[20:26, 0] = np.nan  # 6 samples are 0.12 s
    x[50, 1] = np.nan
    x[98:] = np.nan
    parts = cut(x)
    assert [(p.seconds, p.whole) for p in parts] == [(0.06, False), (26 / RATE, False)]
    np.testing.assert_allclose(parts[0].signals["acc"].x, ramp()[3:20])
    np.testing.assert_allclose(parts[1].signals["acc"].x, ramp()[26:98])


def test_zero_fills_nothing():
    x = ramp()
    x[30, 0] = np.nan
    assert [len(p.signals["acc"].x) for p in cut(x, fill=0)] == [30, 69]


def test_breaks_cut_without_loss():
    parts = cut(ramp(), breaks=(40,))
    assert [len(p.signals["acc"].x) for p in parts] == [40, 60]


def test_a_gap_in_one_signal_cuts_them_all_at_its_time():
    slow, fast = ramp(100, 1), ramp(400, 1)
    slow[40:60] = np.nan
    found = {"slow": Signal(slow, 50.0), "fast": Signal(fast, 200.0)}
    a, b = stretches(found, fill_seconds=0.1)
    np.testing.assert_array_equal(a.signals["fast"].x, fast[:160])
    np.testing.assert_array_equal(b.signals["fast"].x, fast[240:])
    assert b.seconds == pytest.approx(1.2)


def test_a_channel_that_is_missing_throughout_is_named():
    x = ramp()
    x[:, 1] = np.nan
    with pytest.raises(InputError, match=r"acc: channel 1 is missing throughout"):
        cut(x)


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(0, 6))
def test_every_known_sample_is_kept_once_and_no_long_gap_is_bridged(missing, most):
    missing = np.array(missing)
    x = np.where(missing, np.nan, np.arange(1.0, len(missing) + 1))[:, None]
    if missing.all():
        with pytest.raises(InputError):
            cut(x, fill=most / RATE)
        return
    seen = []
    for part in cut(x, fill=most / RATE):
        values = part.signals["acc"].x[:, 0]
        first = round(part.seconds * RATE)
        np.testing.assert_allclose(values, np.arange(first, first + len(values)) + 1)
        seen += list(range(first, first + len(values)))
        inside = missing[first : first + len(values)]
        assert not inside[0] and not inside[-1]
        assert max((b - a for a, b in runs(inside)), default=0) <= most
    assert len(seen) == len(set(seen))
    assert set(np.flatnonzero(~missing)) <= set(seen)


@given(st.lists(st.booleans(), max_size=40))
def test_runs_are_the_maximal_true_ranges(flags):
    found = runs(np.array(flags, bool))
    rebuilt = np.zeros(len(flags), bool)
    for a, b in found:
        rebuilt[a:b] = True
    np.testing.assert_array_equal(rebuilt, np.array(flags, bool))
    assert all(b < c for (_, b), (c, _) in itertools.pairwise(found))


def test_windows_never_straddle_a_gap_and_shreds_are_dropped(tmp_path):
    (tmp_path / "in").mkdir()
    x = ramp(1000, 3).astype(np.float32)
    x[210:230] = np.nan  # then 20 samples, less than half a window, then another gap
    x[250:300] = np.nan
    x[700:703, 2] = np.nan
    np.savez(tmp_path / "in" / "a.npz", x=x, sr=50)
    prepare(str(tmp_path / "in"), tmp_path / "out", kind="sensors", seconds=2, progress=False)
    shards = open_shards(tmp_path / "out")
    assert shards.column("start").tolist() == [0, 100, 300, 400, 500, 600, 700, 800, 900]
    block = shards.read(np.arange(len(shards)))
    assert np.isfinite(block["signal"]).all()
    for start, window in zip(shards.column("start"), block["signal"]):
        np.testing.assert_allclose(window, ramp(1000, 3)[start : start + 100], rtol=1e-6)
    assert shards.info.skipped == 0


def test_a_row_of_shreds_is_skipped_by_name(tmp_path):
    (tmp_path / "in").mkdir()
    good, bad = ramp(100, 3), ramp(100, 3)
    bad[20::25] = np.nan
    for name, x in (("a", good), ("b", bad)):
        np.savez(tmp_path / "in" / f"{name}.npz", x=x.astype(np.float32), sr=50)
    prepare(
        str(tmp_path / "in"), tmp_path / "out", seconds=2, fill_seconds=0, progress=False
    )  # fmt: skip
    assert open_shards(tmp_path / "out").column("path").tolist() == ["a.npz"]
    assert (
        "b.npz: its gaps leave no stretch of half a window (1 s) without missing"
        in (tmp_path / "out" / "skipped.txt").read_text()
    )
    with pytest.raises(InputError, match="fill_seconds: must be 0 or more"):
        prepare(str(tmp_path / "in"), tmp_path / "o", fill_seconds=-1, progress=False)
