import hashlib
import json
from typing import Any

import numpy as np
import pytest
import soundfile

from jfreq.data.prepare import journal
from jfreq.data.prepare import plan as plan_module
from jfreq.data.prepare.run import prepare
from jfreq.data.shards.reader import open_shards
from jfreq.types import InputError
from tests.data.prepared import made


def test_pcm_round_trip_is_bit_exact(audio_set, tmp_path):
    folder, waves, rows = audio_set
    shards = made(folder, tmp_path / "out")
    block = shards.read(np.arange(12))
    np.testing.assert_array_equal(block["audio"], np.stack(waves))
    np.testing.assert_array_equal(block["label"], [r["label_id"] for r in rows])
    np.testing.assert_array_equal(block["length"], np.full(12, 8000))
    assert shards.info.labels == ("a", "b", "c")
    assert shards.info.folds == (0, 1)
    assert shards.info.splits == ("test", "train")
    np.testing.assert_array_equal(shards.column("subject"), [r["subject"] for r in rows])
    np.testing.assert_array_equal(shards.column("path"), [r["path"] for r in rows])
    np.testing.assert_array_equal(shards.rows("test"), [9, 10, 11])


def test_shards_never_mix_with_their_recordings(audio_set):
    folder, *_ = audio_set
    before = sorted(folder.rglob("*"))
    for out in (folder, folder.parent, folder / ".." / folder.name):
        with pytest.raises(InputError, match=r"out: .* is the source or holds it"):
            prepare(str(folder), out, progress=False)
    assert sorted(folder.rglob("*")) == before


def test_statistics_come_from_training_rows_only(audio_set, tmp_path):
    folder, waves, _ = audio_set
    signal = made(folder, tmp_path / "out").info.signals[0]
    train = np.concatenate(waves[:9]).astype(np.float64) / 32768
    np.testing.assert_allclose(signal.mean, train.mean(0), rtol=1e-9)
    np.testing.assert_allclose(signal.std, train.std(0), rtol=1e-9)
    assert signal.scale == 1 / 32768


def test_the_result_does_not_depend_on_workers(audio_set, tmp_path, monkeypatch):
    monkeypatch.setattr(plan_module, "rows_of_shards", pieces_of(2))
    one = made(audio_set[0], tmp_path / "one", workers=1)
    four = made(audio_set[0], tmp_path / "four", workers=4)
    assert one.manifest_hash == four.manifest_hash
    assert len(one.info.shards) == 6


def pieces_of(size):
    return lambda rows, row_bytes: [rows[i : i + size] for i in range(0, len(rows), size)]


def test_an_interrupted_prepare_goes_on_and_ends_the_same(audio_set, tmp_path, monkeypatch):
    monkeypatch.setattr(plan_module, "rows_of_shards", pieces_of(3))
    whole = made(audio_set[0], tmp_path / "whole")
    write, written = journal.write, []

    def failing(folder, index, *args, **kwargs):
        if index == 2 and not written.count("failed"):
            written.append("failed")
            raise KeyboardInterrupt
        written.append(index)
        return write(folder, index, *args, **kwargs)

    monkeypatch.setattr(journal, "write", failing)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        prepare(str(audio_set[0]), out, workers=1, progress=False)
    assert not (out / "metadata.json").exists()
    with pytest.raises(InputError, match=r"is not a finished set"):
        open_shards(out)
    before = [i for i in written if i != "failed"]
    assert 0 in before
    again = made(audio_set[0], out, workers=1)
    after = written[written.index("failed") + 1 :]
    assert sorted(i for i in written if i != "failed") == [0, 1, 2, 3], "each part is written once"
    assert 2 in after
    assert (out / "metadata.json").read_bytes() == (tmp_path / "whole/metadata.json").read_bytes()
    assert again.manifest_hash == whole.manifest_hash
    assert not (out / ".parts").exists()


def test_other_options_start_over(audio_set, tmp_path, monkeypatch):
    out, write, seen = tmp_path / "out", journal.write, []

    def failing(folder, index, *args, **kwargs):
        seen.append(index)
        write(folder, index, *args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(journal, "write", failing)
    with pytest.raises(KeyboardInterrupt):
        prepare(str(audio_set[0]), out, progress=False)
    monkeypatch.setattr(journal, "write", write)
    shards = made(audio_set[0], out, rate=8000)
    assert shards.info.signals[0].samples == 4000


def test_a_finished_set_is_kept_and_never_mixed(audio_set, tmp_path):
    first = made(audio_set[0], tmp_path / "out")
    time = (tmp_path / "out" / "metadata.json").stat().st_mtime_ns
    assert made(audio_set[0], tmp_path / "out").manifest_hash == first.manifest_hash
    assert (tmp_path / "out" / "metadata.json").stat().st_mtime_ns == time
    with pytest.raises(InputError, match=r"out: .*holds a finished set of other data or options"):
        prepare(str(audio_set[0]), tmp_path / "out", rate=8000, progress=False)


def test_stated_hashes_are_those_of_the_records(audio_set, tmp_path):
    shards = made(audio_set[0], tmp_path / "out")
    start = 0
    for shard in shards.info.shards:
        sha = hashlib.sha256()
        for record in shards.read_bytes(np.arange(start, start + shard.rows)):
            sha.update(record)
        assert sha.hexdigest() == shard.sha256
        start += shard.rows


@pytest.mark.parametrize(("rate", "target"), [(44100, 16000), (8000, 16000), (22050, 16000)])
def test_resampling_keeps_length_and_frequency(tmp_path, rate, target):
    folder = tmp_path / "in" / "tone"
    folder.mkdir(parents=True)
    t = np.arange(rate) / rate
    soundfile.write(folder / "t.wav", 0.5 * np.sin(2 * np.pi * 1000 * t), rate)
    row = made(tmp_path / "in", tmp_path / "out", rate=target)[0]
    x = row["audio"][:, 0] / 32768
    assert abs(int(row["length"]) - target) <= 1
    spectrum = np.abs(np.fft.rfft(x * np.hanning(len(x))))
    assert np.argmax(spectrum) == pytest.approx(1000, abs=1)
    middle = x[2000:-2000]
    assert np.sqrt(2 * np.mean(middle**2)) == pytest.approx(0.5, rel=2e-3)


def spoil(folder, kind):
    """Makes clip 05 unusable; what the message must say."""
    path = folder / "05.wav"
    if kind == "unreadable":
        path.write_bytes(b"RIFF but not really")
        return "05.wav"
    if kind == "empty":
        soundfile.write(path, np.zeros(0), 16000)
        return "05.wav: is empty"
    if kind == "nan":
        soundfile.write(path, np.full(8000, np.nan, np.float32), 16000, subtype="FLOAT")
        return "05.wav: holds NaN or infinity"
    if kind == "missing":
        path.unlink()
        return "05.wav: is not on disk"
    if kind == "header":
        soundfile.write(path, np.zeros(8000), 22050)
        return "05.wav: the file says 22050 Hz, the index says 16000 Hz"
    raise AssertionError(kind)


@pytest.mark.parametrize("kind", ["unreadable", "empty", "nan", "missing", "header"])
def test_bad_files_are_skipped_by_name_or_refused(audio_set, tmp_path, kind, capsys):
    folder, waves, _ = audio_set
    message = spoil(folder, kind)
    with pytest.raises(InputError, match=message):
        prepare(str(folder), tmp_path / "strict", strict=True, progress=False)
    assert not (tmp_path / "strict" / "metadata.json").exists()
    prepare(str(folder), tmp_path / "out")
    assert message in capsys.readouterr().err
    shards = open_shards(tmp_path / "out")
    assert len(shards) == 11
    assert shards.info.skipped == 1
    assert message in (tmp_path / "out" / "skipped.txt").read_text()
    scale = 32768 * shards.info.signals[0].scale  # a file of NaN is one of floating point
    np.testing.assert_array_equal(shards[5]["audio"] * scale, waves[6])
    with pytest.raises(InputError, match="made without 1 rows"):
        prepare(str(folder), tmp_path / "out", strict=True, progress=False)


def test_nothing_left_is_an_error(audio_set, tmp_path):
    for path in audio_set[0].glob("*.wav"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"none of the 12 rows .* can be used; the first: 00.wav"):
        prepare(str(audio_set[0]), tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("path", "where"), "has no column 'path'"),
        (("16000", "zero"), "index.csv:2 sr: expected a number, got 'zero'"),
        (("16000", "0"), "index.csv:2 sr: must be positive"),
    ],
)
def test_broken_indexes(audio_set, tmp_path, change, message):
    index = audio_set[0] / "index.csv"
    index.write_text(index.read_text().replace(change[0], change[1]))
    with pytest.raises(InputError, match=message):
        prepare(str(audio_set[0]), tmp_path / "out", progress=False)


def test_labels_outside_of_the_list(audio_set, tmp_path):
    with pytest.raises(InputError, match=r"index.csv:4: label 'c' is not in the list of labels"):
        prepare(str(audio_set[0]), tmp_path / "out", labels=("a", "b"), progress=False)
    shards = made(audio_set[0], tmp_path / "out", labels=("b", "a"), drop_labels=("c",))
    assert shards.info.labels == ("b", "a")
    np.testing.assert_array_equal(shards.column("label"), [1, 0] * 4)


def test_missing_and_empty_sources(tmp_path):
    (tmp_path / "empty").mkdir()
    for source, kind, message in [
        ("nowhere", "auto", "does not exist"),
        ("empty", "auto", "holds no files"),
        ("empty", "folders", "nothing to read"),
        ("empty", "sensors", "nothing to read"),
        ("empty", "index", "has no index.csv"),
        ("empty", "indx", r"no kind 'indx' \(did you mean 'index'\?\)"),
    ]:
        with pytest.raises(InputError, match=message):
            prepare(str(tmp_path / source), tmp_path / "out", kind=kind, progress=False)
    with pytest.raises(InputError, match=r"no family 'machine' \(did you mean 'machines'"):
        prepare("synthetic:machine", tmp_path / "out", progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0.0}, "rate: must be positive"),
        ({"seconds": -1.0}, "seconds: must be positive"),
        ({"hop_seconds": 0.0}, "hop_seconds: must be positive"),
        ({"seconds": 1e-6}, "make it longer with --seconds"),
        ({"modalities": ("acc=0",)}, "is not NAME:FIRST-LAST"),
        ({"modalities": ("acc:0,7",)}, "has 1 channels, modality 'acc' asks for"),
    ],
)
def test_bad_options(audio_set, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        prepare(str(audio_set[0]), tmp_path / "out", progress=False, **options)


@pytest.mark.parametrize(
    "error", [OSError(28, "full"), RuntimeError("write() failed: No space left on device")]
)
def test_a_full_disk_keeps_finished_parts(audio_set, tmp_path, monkeypatch, error):
    monkeypatch.setattr(plan_module, "rows_of_shards", pieces_of(4))
    write, out = journal.write, tmp_path / "out"

    def full(folder, index, *args, **kwargs):
        if index == 1:
            raise error
        return write(folder, index, *args, **kwargs)

    monkeypatch.setattr(journal, "write", full)
    with pytest.raises(
        InputError,
        match=r"the disk is full; free some space; run the same command",
    ):
        prepare(str(audio_set[0]), out, workers=1, progress=False)
    assert (out / ".parts" / "000000.json").exists()
    assert not (out / "metadata.json").exists()
    monkeypatch.setattr(journal, "write", write)
    assert len(made(audio_set[0], out)) == 12


def test_an_out_path_that_is_a_file(audio_set, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match=r"out: .* is a file; choose a folder"):
        prepare(str(audio_set[0]), tmp_path / "out", progress=False)


def test_tensorflow_datasets_opens_the_folder(machines, machine_shards):
    import tensorflow_datasets as tfds

    builder: Any = tfds.builder_from_directory(str(machines))
    source = builder.as_data_source("rows")
    assert len(source) == len(machine_shards)
    for i in (0, 20):
        mine = machine_shards[i]
        np.testing.assert_array_equal(source[i]["audio"], mine["audio"])
        np.testing.assert_array_equal(source[i]["vibration"], mine["vibration"])
        assert source[i]["label"] == mine["label"]
        assert source[i]["path"] == machine_shards.column("path")[i].encode()


def test_progress_is_plain_lines_off_a_terminal(audio_set, tmp_path, capsys):
    prepare(str(audio_set[0]), tmp_path / "out")
    assert "preparing 12/12  ETA" in capsys.readouterr().err


def test_the_metadata_says_where_it_came_from_without_paths(audio_set, tmp_path):
    prepare(str(audio_set[0]), tmp_path / "out", name="mine", progress=False)
    text = (tmp_path / "out" / "metadata.json").read_text()
    assert json.loads(text)["name"] == "mine"
    assert str(tmp_path) not in text


def test_a_folder_of_other_files_is_never_written_into(tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "rows.npz").write_bytes(b"my own")
    with pytest.raises(
        InputError, match=r"out: .*mine exists and is not a set of shards.*rows.npz"
    ):
        prepare("synthetic:tones", mine, n=4, seconds=1, progress=False)
    assert [p.name for p in mine.iterdir()] == ["rows.npz"]
    assert (mine / "rows.npz").read_bytes() == b"my own"


def test_one_process_at_a_time_writes_a_set(tmp_path):
    from jfreq.files import Lock

    lock = Lock(tmp_path / "out" / ".parts" / ".lock", "writes")
    with pytest.raises(InputError, match=r"process \d+ on .* writes it now"):
        prepare("synthetic:tones", tmp_path / "out", n=4, seconds=1, progress=False)
    lock.close()
    prepare("synthetic:tones", tmp_path / "out", n=4, seconds=1, progress=False)
    assert not (tmp_path / "out" / ".parts").exists()


def test_shards_inside_the_source_are_no_recordings(tmp_path):
    source = tmp_path / "source"
    for name in ("walk", "run"):
        (source / name).mkdir(parents=True)
        np.savez(source / name / "a.npz", x=np.random.default_rng(0).normal(size=(200, 3)), sr=50)
    first = prepare(str(source), source / "shards", seconds=2, progress=False)
    assert first.labels == ("run", "walk")
    assert prepare(str(source), source / "shards", seconds=2, progress=False) == first
    assert prepare(str(source), tmp_path / "again", seconds=2, progress=False).rows == first.rows
