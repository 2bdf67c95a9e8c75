"""Published sets with files lost, renamed, damaged: read as far as they go, or one clear line."""

import contextlib
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from jfreq.data.options import Options
from jfreq.data.sources import datasets
from jfreq.data.sources.base import UNREADABLE
from jfreq.data.sources.kinds import open_source
from jfreq.types import InputError

from .test_sound_sets import KINDS

BYTES = (b"", b",", b'"', b"\n", b"\x00\xff", b"1e308", b"-1", b"{[", b"nan", b"x" * 200_000)


def damage(home, which, how, where, what):
    """One accident to one file of a set."""
    files = sorted(path for path in home.rglob("*") if path.is_file())
    if not files:
        return
    file = files[which % len(files)]
    raw = file.read_bytes()
    at = where % (len(raw) + 1)
    if how == "lose":
        file.unlink()
    elif how == "rename":
        target = file.with_name(("other.wav", "caf\udce9.wav", f"Y{file.name}")[what % 3])
        if not target.is_dir():
            file.rename(target)
    elif how == "cut":
        file.write_bytes(raw[:at])
    elif how == "flip" and at < len(raw):
        file.write_bytes(raw[:at] + bytes([raw[at] ^ 1 << what % 8]) + raw[at + 1 :])
    elif how == "insert":
        file.write_bytes(raw[:at] + BYTES[what % len(BYTES)] + raw[at:])
    elif how == "folder":
        file.unlink()
        file.mkdir()
    elif how == "copy":
        (home / "again").mkdir(exist_ok=True)
        (home / "again" / file.name).write_bytes(raw)


ACCIDENT = st.tuples(
    st.integers(0, 999),
    st.sampled_from(("lose", "rename", "cut", "flip", "insert", "folder", "copy")),
    st.integers(0, 999),
    st.integers(0, 99),
)


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(accidents=st.lists(ACCIDENT, min_size=1, max_size=5))
def test_accidents_never_end_in_a_traceback(sets, kind, accidents):
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        sets.build[kind](home)
        for accident in accidents:
            damage(home, *accident)
        source, message = None, ""
        try:
            datasets.recognise(home)
            source = open_source(folder, kind=kind, options=Options())
        except InputError as error:
            message = str(error)
        if source is None:
            assert 0 < len(message) < 1000 and "\n" not in message
            return
        assert len({row.path for row in source.rows}) == len(source.rows)
        for row in source.rows:
            assert all(0 <= number < len(source.labels) for number in row.label)
            with contextlib.suppress(*UNREADABLE):
                source.read(row)
        for line in (*source.missing, *source.notes):
            line.encode()
