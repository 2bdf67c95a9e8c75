"""Rows of a source take little memory, whether they are made or kept."""

import tracemalloc
from pathlib import Path

import pytest

from jfreq.data.options import Options
from jfreq.data.prepare.plan import rows_of_shards
from jfreq.data.sources import synthetic
from jfreq.data.sources.base import Row
from jfreq.data.sources.folders import by_parts
from jfreq.data.sources.kinds import open_source
from jfreq.data.sources.rows import LazyRows, packed


def some_rows(rng, count):
    names = ["a/b.wav", "a b.wav", "é/音.wav", "bad\udce9.wav", "", "x" * 300]
    for i in range(count):
        start = int(rng.integers(0, 2**62))
        yield Row(
            path=f"{names[i % len(names)]}{rng.integers(9)}",
            label=tuple(rng.integers(0, 5, rng.integers(3)).tolist()),
            fold=int(rng.integers(-1, 3)),
            split=("", "train", "test")[i % 3],
            subject=f"s{rng.integers(4)}",
            start=start,
            end=None if i % 2 else start + 5,
            item=None if i % 3 else i,
            rate=(None, 16000.0, 22050.5)[rng.integers(3)],
        )


def test_packed_rows_are_the_rows(rng):
    rows = list(some_rows(rng, 200))
    found = packed(iter(rows))
    assert list(found) == rows and len(found) == 200 and packed(found) is found
    assert [repr(tuple(row)) for row in found] == [repr(tuple(row)) for row in rows]
    for part in (slice(3, 50), slice(None, None, -7), slice(190, 900), slice(5, 5)):
        assert list(found[part]) == rows[part]
    assert found[-1] == rows[-1] and found[10:20][-3] == rows[17] and rows[42] in found
    with pytest.raises(IndexError):
        found[200]
    assert list(packed([])) == []


def test_a_row_of_a_thousand_million_is_made_alone():
    made = []
    rows = LazyRows(lambda i: made.append(i) or Row(f"clip{i}"), range(10**9))
    assert rows[987_654_321].path == "clip987654321"
    shards = rows_of_shards(rows, row_bytes=32_000)
    assert sum(map(len, shards)) == 10**9
    assert shards[1][0].path == f"clip{len(shards[0])}"
    assert made == [987_654_321, len(shards[0])]


def test_a_hundred_million_recordings_are_listed_in_no_memory():
    n = 100_000_000
    tracemalloc.start()
    source = open_source("synthetic:tones", kind="auto", options=Options(n=n))
    shards = rows_of_shards(source.rows, row_bytes=64_000)
    last = shards[-1][-1]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    label, subject, fold = synthetic.place("tones", n - 1)
    assert last == Row("tones/99999999", (label,), fold, subject=f"tones-{subject}", item=n - 1)
    assert peak < 300 * len(shards), "a small object for each shard, nothing for a row"


def test_packed_rows_take_36_bytes_and_their_paths():
    count, path = 50_000, "speaker_0042/recording_00000000.wav"
    tracemalloc.start()
    rows = packed(
        Row(f"speaker_0042/recording_{i:08d}.wav", (i % 10,), i % 5, subject=f"s{i % 99}")
        for i in range(count)
    )
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rows) == count
    # Growing arrays have up to an eighth in reserve; 990 rows differ in what is shared.
    assert held < 1.125 * (36 + len(path)) * count + 500 * 990
    assert peak < 2.5 * held, "rows are taken one at a time"


def test_text_of_paths_sorts_as_paths_do(rng):
    words = ["a", "a b", "a-b", "b", "A", "ä", "a\udce9", "a.b"]
    text = ["/".join(rng.choice(words, rng.integers(1, 4))) for _ in range(300)]
    assert sorted(text, key=by_parts) == [str(p) for p in sorted(map(Path, text))]
