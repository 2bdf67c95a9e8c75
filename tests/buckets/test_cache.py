"""Shards that were copied from a store are those that lie there, whatever was in the way."""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from jfreq.buckets import Bucket
from jfreq.config import replace
from jfreq.data.shards import cache
from jfreq.data.shards.reader import open_shards
from jfreq.train.loop import train
from jfreq.types import InputError

pytestmark = pytest.mark.interop


@pytest.fixture(scope="session")
def stored_shards(store, shards):
    url = f"{store}://bucket/shards/tones"
    Bucket(url, "data").upload({path.name: path for path in shards.iterdir() if path.is_file()})
    return url


def files(folder):
    return {
        p.name: p.read_bytes() for p in folder.iterdir() if p.name not in (".lock", cache.NOTES)
    }


def test_the_copy_is_the_set(stored_shards, shards, tmp_path, capsys, monkeypatch):
    folder = cache.copied(stored_shards, tmp_path)
    assert files(folder) == files(shards)
    assert f"MB of {stored_shards} to {folder}" in capsys.readouterr().err
    ours, theirs = open_shards(stored_shards, cache=tmp_path), open_shards(shards)
    assert ours.manifest_hash == theirs.manifest_hash
    np.testing.assert_array_equal(ours.read([3, 1])["audio"], theirs.read([3, 1])["audio"])
    monkeypatch.setattr(Bucket, "download", None)  # nothing is copied a second time
    assert cache.copied(stored_shards, tmp_path) == folder
    assert capsys.readouterr().err == ""


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other(path):
    data = path.read_bytes()
    path.write_bytes(data[:5000] + bytes(len(data) - 5000))


@pytest.mark.parametrize("noted", [True, False])
@pytest.mark.parametrize("damage", [half, other])
def test_a_copy_that_is_not_whole_is_made_whole(
    stored_shards, shards, tmp_path, capsys, damage, noted
):
    """Also where the files are newer than those in the store, as after a clock that was wrong."""
    folder = cache.copied(stored_shards, tmp_path)
    if noted and damage is other:
        pytest.skip("the same size, after it was verified: array_record names it when it is read")
    if not noted:
        (folder / cache.NOTES).unlink()
    records = sorted(folder.glob("*array_record*"))[0]
    damaged = [records, folder / "rows.npz"] if damage is half else [records]
    for path in damaged:
        damage(path)
    sizes = [path.stat().st_size for path in damaged]
    capsys.readouterr()
    assert cache.copied(stored_shards, tmp_path) == folder
    assert files(folder) == files(shards)
    told = capsys.readouterr().err
    count = "2 files" if damage is half else "1 file"
    assert f"replaced {count} of {folder} that did not hold what the set states: " in told
    for path, size in zip(damaged, sizes):
        why = f"{size} bytes" if damage is half else "other contents"
        assert f"{path.name} ({why})" in told
    assert cache.copied(stored_shards, tmp_path) == folder
    assert capsys.readouterr().err == ""


def test_a_set_that_is_copied_by_hand_is_verified_not_copied(stored_shards, shards, tmp_path):
    name = cache.copied(stored_shards, tmp_path / "a").name
    shutil.copytree(shards, tmp_path / "b" / name)
    before = next((tmp_path / "b" / name).glob("*array_record*")).stat()
    folder = cache.copied(stored_shards, tmp_path / "b")
    assert next(folder.glob("*array_record*")).stat().st_ino == before.st_ino
    assert json.loads((folder / cache.NOTES).read_text()).keys() >= {"rows.npz"}


def test_damage_in_the_store_is_named(stored_shards, url, tmp_path):
    root, _, name = url.rpartition("/")
    bucket = Bucket(root, "data")
    bucket.copy({n: f"{name}/{n.rpartition('/')[2]}" for n in bucket.sizes("shards/tones")})
    records = next(n for n in Bucket(url, "data").sizes() if "array_record" in n)
    Bucket(url, "data").write(records, b"half")
    with pytest.raises(InputError, match=f"^{url}/{records}: is not what its metadata.json says"):
        cache.copied(url, tmp_path)
    (folder,) = tmp_path.iterdir()
    assert not (folder / records).exists() and not (folder / "metadata.json").exists()
    Bucket(url, "data").delete([records])
    with pytest.raises(InputError, match=f"^{url}/{records}: is missing; copy the set there again"):
        cache.copied(url, tmp_path)
    Bucket(url, "data").delete(["metadata.json"])
    with pytest.raises(InputError, match=f"^{url}: is not a finished set of shards, it has no met"):
        cache.copied(url, tmp_path)


def test_what_is_asked_for(stored_shards, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="name a folder for the copy with"):
        open_shards(stored_shards)
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 5))
    with pytest.raises(
        InputError, match=r"^data.cache: .* GB are to be copied and 0.0 GB are free"
    ):
        cache.copied(stored_shards, tmp_path)


def test_killed_copies_and_many_processes(stored_shards, shards, tmp_path):
    """Each of several processes gets the whole set, while others of them are killed."""
    code = (
        f"from jfreq.data.shards.cache import copied; copied({stored_shards!r}, {str(tmp_path)!r})"
    )
    runs = [subprocess.Popen([sys.executable, "-P", "-c", code]) for _ in range(3)]
    for run in runs[:2]:
        time.sleep(1.5)
        run.send_signal(signal.SIGKILL)
    assert runs[2].wait(120) == 0
    assert [run.wait(10) in (0, -9) for run in runs[:2]] == [True, True]
    (folder,) = tmp_path.iterdir()
    copy = cache.copied(stored_shards, tmp_path)
    assert copy == folder and open_shards(copy).manifest_hash == open_shards(shards).manifest_hash


def test_a_run_reads_them(stored_shards, experiment, finished_run, tmp_path):
    ours = replace(experiment, data__path=(stored_shards,), data__cache=str(tmp_path / "cache"))
    trained = train(ours, tmp_path / "run", quiet=True)
    for a, b in zip(trained.params["trunk"]["patch_embed"].values(),
                    finished_run[0].params["trunk"]["patch_embed"].values()):  # fmt: skip
        np.testing.assert_array_equal(a, b)
