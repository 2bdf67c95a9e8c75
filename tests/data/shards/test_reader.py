import dataclasses
import json
import shutil
import threading

import numpy as np
import pytest
import soundfile

from jfreq.data.prepare.run import prepare
from jfreq.data.prepare.statistics import pooled_moments
from jfreq.data.shards import describe
from jfreq.data.shards.metadata import ShardsInfo, SignalInfo
from jfreq.data.shards.reader import open_shards
from jfreq.types import InputError, SignalSpec


@pytest.fixture
def copied(machines, tmp_path):
    return shutil.copytree(machines, tmp_path / "copy")


def shard_of(folder):
    return next(folder.glob("*.array_record-00000-of-*"))


def test_len_getitem_read_and_columns_agree(machine_shards):
    shards = machine_shards
    assert len(shards) == 21
    found = [dataclasses.replace(s, mean=(), std=()) for s in shards.spec.signals]
    assert found == [
        SignalSpec("audio", 16000.0, 4000, 1),
        SignalSpec("vibration", 6400.0, 1600, 2),
    ]
    ids = [20, 0, 7, 7]
    block = shards.read(ids)
    for i, row in enumerate(ids):
        for name, value in shards[row].items():
            np.testing.assert_array_equal(block[name][i], value)
    np.testing.assert_array_equal(block["id"], ids)
    np.testing.assert_array_equal(shards.column("label")[ids], block["label"])
    np.testing.assert_array_equal(shards[-1]["audio"], shards[20]["audio"])
    with pytest.raises(IndexError):
        shards[21]
    with pytest.raises(IndexError):
        shards.read([21])


def test_rows_selects_by_fold(machine_shards):
    fold = machine_shards.column("fold")
    np.testing.assert_array_equal(machine_shards.rows(folds=[1]), np.flatnonzero(fold == 1))
    np.testing.assert_array_equal(machine_shards.rows(exclude_folds=[0, 2]),
                                  np.flatnonzero((fold != 0) & (fold != 2)))  # fmt: skip
    with pytest.raises(InputError, match=r"split: no rows of split 'train'; the set has: none"):
        machine_shards.rows("train")
    with pytest.raises(InputError, match="fold: no rows of fold 9; the set has: 0, 1"):
        machine_shards.rows(exclude_folds=[9])
    with pytest.raises(InputError, match="no column 'speaker'"):
        machine_shards.column("speaker")


def test_statistics_match_numpy_over_valid_samples(machine_shards):
    rows = np.array([1, 4, 5, 11])
    found = machine_shards.measured(rows)
    block = machine_shards.read(rows)
    for s in found.signals:
        flat = block[s.name].reshape(-1, s.channels).astype(np.float64) * s.scale
        np.testing.assert_allclose(s.mean, flat.mean(0), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(s.std, flat.std(0), rtol=1e-9)


def test_missing_and_unfinished_folders(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        open_shards(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"is not a set of shards: it is empty"):
        open_shards(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.wav").touch()
    advice = r"it holds a sound file; make shards of recordings with `jfreq data prepare .* --out"
    with pytest.raises(InputError, match=advice):
        open_shards(tmp_path)
    with pytest.raises(InputError, match=r"1.wav is a file, not a folder of shards"):
        open_shards(tmp_path / "a" / "1.wav")
    (tmp_path / ".parts").mkdir()
    with pytest.raises(InputError, match=r"is not a finished set .* goes on where it stopped"):
        open_shards(tmp_path)
    with pytest.raises(InputError, match="name at least one folder"):
        open_shards([])


def test_a_truncated_shard_is_named(copied):
    path = shard_of(copied)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=rf"{path.name}: is damaged or cut .*prepare it again"):
        open_shards(copied).read([0])


def test_a_corrupted_record_is_named_and_others_still_read(copied):
    path = shard_of(copied)
    size = path.stat().st_size
    data = bytearray(path.read_bytes())
    data[size // 2 : size // 2 + 64] = bytes(64)
    path.write_bytes(data)
    shards, failed = open_shards(copied), []
    for i in range(shards.info.shards[0].rows):
        try:
            shards.read([i])
        except InputError as error:
            failed.append(str(error))
    assert len(failed) in (1, 2)
    assert all(path.name in message for message in failed)


def test_a_missing_shard_and_a_swapped_shard_are_named(copied):
    path = shard_of(copied)
    data = path.read_bytes()
    path.unlink()
    with pytest.raises(InputError, match=rf"{path.name}: is missing"):
        open_shards(copied)
    other = copied.parent / "other"
    prepare("synthetic:motion", other, n=3, seconds=1.0, progress=False)
    shutil.copy(shard_of(other), path)
    with pytest.raises(InputError, match="it holds 3 records"):
        open_shards(copied).read([0])
    path.write_bytes(data)
    (copied / "rows.npz").write_bytes(b"")
    with pytest.raises(InputError, match=r"rows.npz: cannot be read"):
        open_shards(copied).column("fold")


def test_metadata_is_strict(copied):
    path = copied / "metadata.json"
    value = json.loads(path.read_text())
    for change, message in [
        ({"colour": 1}, "no such field.*another version of jfreq.*prepare them again"),
        ({"format": 99}, "format 99 is not 3"),
        ({"rows": "many"}, "expected int"),
        ({"name": "renamed"}, "was changed by hand"),
    ]:
        path.write_text(json.dumps(value | change))
        with pytest.raises(InputError, match=message):
            open_shards(copied)
    path.write_text("{")
    with pytest.raises(InputError, match="no JSON"):
        open_shards(copied)


def test_info_round_trips_through_json(machine_shards):
    info = machine_shards.info
    assert ShardsInfo.from_json(info.to_json()) == info


def test_the_manifest_covers_content_and_statement(machine_shards):
    info = machine_shards.info
    shard = dataclasses.replace(info.shards[0], sha256="0" * 64)
    assert dataclasses.replace(info, shards=(shard,)).manifest_hash != info.manifest_hash
    assert dataclasses.replace(info, labels=()).manifest_hash != info.manifest_hash


@pytest.mark.parametrize("name", ["label", "_mask", "length", "not a name", ""])
def test_reserved_signal_names_are_refused(name):
    with pytest.raises(InputError, match="signal name"):
        SignalInfo(name, 100.0, 10, 1, "float32", 1.0)


def test_several_folders_of_other_classes_read_as_one_unlabelled_set(tmp_path, rng):
    waves = {}
    for name, seconds in (("long", 0.5), ("short", 0.25)):
        (tmp_path / name / name).mkdir(parents=True)
        for i in range(3):
            waves[name, i] = rng.integers(-9, 9, round(16000 * seconds)).astype(np.int16)
            soundfile.write(tmp_path / name / name / f"{i}.wav", waves[name, i], 16000)
        prepare(str(tmp_path / name), tmp_path / f"{name}.shards", progress=False)
    folders = [tmp_path / "long.shards", tmp_path / "short.shards"]
    both = open_shards(folders)
    assert len(both) == 6
    assert both.spec.labels == ()
    assert "short.shards has no class 'long'; " in both.why_unlabelled
    np.testing.assert_array_equal(both.column("label"), np.full(6, -1))
    block = both.read(np.arange(6))
    np.testing.assert_array_equal(block["label"], np.full(6, -1))
    np.testing.assert_array_equal(block["length"], [8000] * 3 + [4000] * 3)
    np.testing.assert_array_equal(block["audio"][4, :4000, 0], waves["short", 1])
    assert not block["audio"][4, 4000:].any()
    cut = open_shards(folders[::-1])
    np.testing.assert_array_equal(cut[5]["audio"][:, 0], waves["long", 2][:4000])
    assert cut[5]["length"] == 4000
    assert cut.column("length").max() == 4000
    assert both.manifest_hash != cut.manifest_hash


def test_several_folders_of_the_same_classes_keep_their_labels(tmp_path, rng):
    """Each folder has an order of its own; the first decides."""
    for name, order in (("one", ("x", "y", "z")), ("two", ("z", "x", "y"))):
        for label in "xyz":
            (tmp_path / name / label).mkdir(parents=True)
            wave = rng.integers(-9, 9, 800).astype(np.int16)
            soundfile.write(tmp_path / name / label / f"{name}.wav", wave, 16000)
        prepare(str(tmp_path / name), tmp_path / f"{name}.s", labels=order, progress=False)
    for folders in (("one.s", "two.s"), ("two.s", "one.s")):
        both = open_shards([tmp_path / folder for folder in folders])
        assert both.info.labels == open_shards(tmp_path / folders[0]).info.labels
        assert both.why_unlabelled == ""
        truth = [path[0] for path in both.column("path")]
        ids = rng.permutation(6)
        for label, rows in ((both.column("label"), range(6)), (both.read(ids)["label"], ids)):
            assert [both.info.labels[i] for i in label] == [truth[r] for r in rows]


def test_sets_that_differ_are_refused_by_field(machines, tmp_path):
    prepare("synthetic:motion", tmp_path / "motion", n=3, seconds=1.0, progress=False)
    with pytest.raises(InputError, match=r"signals: .*audio.*vibration.*acc.*gyro"):
        open_shards([machines, tmp_path / "motion"])
    prepare("synthetic:machines", tmp_path / "slow", n=3, seconds=0.25, rate=4000, progress=False)
    with pytest.raises(InputError, match=r"audio\.rate: is 16000.0 in .* and 4000.0 in"):
        open_shards([machines, tmp_path / "slow"])


def test_reading_from_many_threads_is_safe(machine_shards):
    expected = machine_shards.read(np.arange(21))["audio"]
    wrong = []

    def work(seed):
        ids = np.random.default_rng(seed).permutation(21)
        for _ in range(5):
            if (machine_shards.read(ids)["audio"] != expected[ids]).any():
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not wrong


def test_describe_and_peek_say_what_is_there(machine_shards):
    text = describe.describe(machine_shards)
    for word in ("21 rows", "audio: 4000 samples (0.25 s) x 1, 16000 Hz, int16", "inner_race 5"):
        assert word in text
    lines = describe.peek(machine_shards, 2).splitlines()
    assert len(lines) == 2
    assert "machines/000001" in lines[1]
    assert "imbalance" in lines[1]


def test_pooled_moments_of_unequal_groups(rng):
    groups = [rng.normal(rng.normal(), 1 + rng.random(), (n, 2)) for n in (3, 50, 7)]
    found = pooled_moments(
        np.array([len(g) for g in groups]),
        np.stack([g.mean(0) for g in groups]),
        np.stack([g.var(0) for g in groups]),
    )
    every = np.concatenate(groups)
    np.testing.assert_allclose(found[0], every.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found[1], every.std(0), rtol=1e-12)
