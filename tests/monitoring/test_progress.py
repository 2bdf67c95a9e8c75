"""Progress off a terminal: how many lines it prints, and where."""

import pytest

from jfreq.monitoring.progress import Progress, part_progress


def test_a_line_for_every_update(capsys):
    with Progress(4, start=1, title="train") as bar:
        bar.say("a note")
        bar.update(2, "loss 1.0")
        bar.advance(2)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert not out and lines[0] == "a note"
    assert lines[1].startswith("train 2/4  loss 1.0  ETA 00:00:0")
    assert lines[2].startswith("train 4/4  ETA 00:00:00")


@pytest.mark.parametrize(("total", "printed"), [(3, 3), (10, 10), (1000, 10)])
def test_ten_lines_for_a_part(capsys, total, printed):
    show = part_progress()
    for done in range(1, total + 1):
        show("rows", done, total)
    assert len(capsys.readouterr().err.splitlines()) == printed


def test_quiet(capsys):
    with Progress(2, quiet=True) as bar:
        bar.say("a note")
        bar.update(2)
    part_progress(quiet=True)("rows", 1, 1)
    assert capsys.readouterr() == ("", "")
