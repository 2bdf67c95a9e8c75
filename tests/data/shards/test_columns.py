"""``rows.npz``: numpy reads it, and columns are mapped without being read."""

import zipfile
from typing import Any

import numpy as np
import pytest

from jfreq.data.prepare import statistics
from jfreq.data.prepare.run import prepare
from jfreq.data.shards import columns
from jfreq.data.shards.reader import open_shards
from jfreq.types import InputError


@pytest.fixture
def values(rng):
    return {
        "label": rng.integers(-1, 5, 10).astype(np.int32),
        "path": np.array([b"a", b"bcd", b""] * 3 + [b"longer"]),
        "acc.mean": rng.normal(size=(10, 3)),
        "none": np.zeros((10, 0), np.uint8),
    }


def written(path, values):
    """In blocks of four rows."""

    def column(x):
        return columns.Column(x.dtype, x.shape, (x[i : i + 4] for i in range(0, 10, 4)))

    return columns.write(path, {name: column(x) for name, x in values.items()})


def test_what_is_written_is_read_by_numpy_and_mapped(values, tmp_path):
    path = tmp_path / "rows.npz"
    digests = written(path, values)
    with np.load(path) as file:
        loaded = {name: file[name] for name in file.files}
    mapped = columns.mapped(path)
    for name, value in values.items():
        for found in (loaded[name], mapped[name]):
            assert found.dtype == value.dtype
            np.testing.assert_array_equal(found, value)
        assert digests[name] == columns.digest(name, value) == columns.digest(name, mapped[name])
    assert isinstance(mapped["acc.mean"], np.memmap) and not mapped["acc.mean"].flags.writeable
    assert len(set(digests.values())) == len(digests)


def test_the_same_values_give_the_same_bytes(values, tmp_path, monkeypatch):
    written(tmp_path / "a", values)
    monkeypatch.setattr("time.time", lambda: 2e9)
    written(tmp_path / "b", values)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("how", ["compressed", "objects", "cut", "other"])
def test_other_archives_are_refused(values, tmp_path, how):
    path = tmp_path / "rows.npz"
    if how == "compressed":
        np.savez_compressed(path, **values)
    elif how == "objects":
        np.savez(path, label=np.array([{}, []], object), allow_pickle=True)
    elif how == "cut":
        written(path, values)
        path.write_bytes(path.read_bytes()[:-300])
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("label.npy", b"no array")
    with pytest.raises((ValueError, zipfile.BadZipFile)):
        columns.mapped(path)


def test_a_column_is_verified_when_it_is_used(tmp_path):
    out = tmp_path / "out"
    prepare("synthetic:tones", out, n=12, seconds=0.1, progress=False)
    path = out / "rows.npz"
    fold: Any = columns.mapped(path)["fold"]
    data = bytearray(path.read_bytes())
    data[fold.offset] ^= 1
    path.write_bytes(data)
    shards = open_shards(out)
    shards.column("label")
    with pytest.raises(InputError, match=r"rows.npz: is not what was written"):
        shards.column("fold")


def test_moments_are_summed_in_blocks(rng, monkeypatch):
    count = rng.integers(0, 9, 20)
    mean, var = rng.normal(size=(20, 2)), rng.uniform(size=(20, 2))
    rows = np.array([0, 3, 4, 7, 9, 12, 13, 19])
    whole = statistics.pooled_moments(count, mean, var, rows)
    monkeypatch.setattr(statistics, "_BLOCK", 3)
    blocks = statistics.pooled_moments(count, mean, var, rows)
    picked = statistics.pooled_moments(count[rows], mean[rows], var[rows])
    for a, b, c in zip(whole, blocks, picked):
        np.testing.assert_allclose(a, b, rtol=1e-13)
        np.testing.assert_array_equal(b, c)
