"""The time of updates that count, over restarts, by hand."""

import pytest

from jfreq.monitoring.goodput import Ledger, productive_seconds

ROWS = [
    {"step": 10, "step_time": 2.0},
    {"step": 20, "step_time": 1.0, "val/loss": 3.0},
    {"step": 25, "val/loss": 2.0},
    {"step": 30, "step_time": 3.0},
]


@pytest.mark.parametrize(
    ("step", "seconds"),
    [(None, 60), (30, 60), (20, 30), (25, 35), (5, 0), (40, 90), (0, 0)],
)
def test_every_update_counts_once(step, seconds):
    """Up to 25: ten of 2 s, ten of 1 s, and five that no row has yet; later rows are repeated."""
    assert productive_seconds(ROWS, step) == seconds


def test_time_since_the_first_start():
    now = [1000.0]
    ledger = Ledger(1000.0, now=lambda: now[0])
    ledger.spent("compiling", 20.0)
    ledger.advanced(60.0)
    now[0] = 1100.0
    assert ledger.goodput() == pytest.approx(0.6)
    # Killed; 900 s later it goes on from where 40 of these seconds were saved.
    again = Ledger(1000.0, 40.0, now=lambda: now[0])
    now[0] = 2000.0
    again.spent("saving", 7200.0)
    again.advanced(360.0)
    assert again.goodput() == pytest.approx(0.4)
    assert str(again) == (
        "goodput 40.0%: updates took 6.7 min of the 16.7 min since the first start; this start "
        "spent 2.0 h saving"
    )


def test_a_clock_that_was_set_back_gives_no_more_than_all():
    ledger = Ledger(5000.0, 10.0, now=lambda: 1000.0)
    assert ledger.goodput() == 1.0
