"""Folders of sound: classes, splits, and whatever else lies in them."""

import os
import unicodedata
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from jfreq.data.options import Options
from jfreq.data.prepare.run import prepare
from jfreq.data.readers import sound
from jfreq.data.shards.reader import open_shards
from jfreq.data.sources.kinds import open_source
from jfreq.encoder import inputs
from jfreq.types import InputError


@pytest.fixture
def wav(tmp_path):
    def write(*names, channels=1, seconds=0.1, **options):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            x = np.sin(np.arange(int(16_000 * seconds)) / 9)
            soundfile.write(path, np.tile(x[:, None] / 2, channels), 16_000, **options)
        return tmp_path

    return write


def opened(folder, **options):
    return open_source(str(folder), kind="auto", options=Options(**options))


def classes(source):
    return {r.path: (source.labels[r.label[0]] if r.label else "", r.split) for r in source.rows}


def test_splits_above_the_classes(wav):
    source = opened(wav("Train/dog/1.wav", "Train/cat/1.wav", "valid/dog/2.wav", "test/cat/3.wav"))
    assert source.labels == ("cat", "dog")
    assert classes(source) == {
        "Train/cat/1.wav": ("cat", "train"), "Train/dog/1.wav": ("dog", "train"),
        "test/cat/3.wav": ("cat", "test"), "valid/dog/2.wav": ("dog", "validation"),
    }  # fmt: skip
    assert "Train as train, test, valid as validation" in source.notes[0]


def test_classes_are_in_the_natural_order(wav):
    assert opened(wav(*(f"{i}/a.wav" for i in range(12)))).labels == tuple(map(str, range(12)))


def test_names_that_differ_in_their_accents_only_are_one_class(wav):
    name = "caf\N{LATIN SMALL LETTER E WITH ACUTE}"
    source = opened(wav(f"{name}/1.wav", f"{unicodedata.normalize('NFD', name)}/2.wav"))
    assert source.labels == (name,) and [r.label for r in source.rows] == [(0,), (0,)]


def test_what_is_left_out_is_counted_and_named(wav, tmp_path):
    wav("dog/1.wav", "cat/2.wav", ".cache/3.wav", "__MACOSX/dog/4.wav")
    for name in ("0.m4a", "1.M4A", "2.aac", "notes.txt", "a.jpg", "b.jpg"):
        (tmp_path / "dog" / name).write_bytes(b"x")
    (tmp_path / "bird").mkdir()
    (tmp_path / "cat" / "back").symlink_to("..")
    source = opened(tmp_path)
    assert source.labels == ("cat", "dog")
    assert source.notes == (
        "3 files of a format that cannot be read (aac, m4a): convert them, for instance "
        "`ffmpeg -i 0.m4a 0.wav`",
        "files other than sound are left out: .jpg (2), .txt (1)",
        "no sound in folder bird",
        "cat/back is a link to a folder above it: left out",
    )


def test_files_that_cannot_be_read_are_skipped_one_by_one(wav, tmp_path, capsys):
    wav("dog/1.wav", "dog/2.wav")
    os.rename(tmp_path / "dog/2.wav", os.fsencode(tmp_path / "dog") + b"/caf\xe9.wav")
    wav("bear/3.wav")
    os.rename(tmp_path / "bear", os.fsencode(tmp_path) + b"/b\xe4r")
    os.mkfifo(tmp_path / "dog/pipe.wav")
    (tmp_path / "dog/gone.wav").symlink_to("nowhere.wav")
    (tmp_path / "dog/4.m4a").write_bytes(b"x")
    out = tmp_path.with_name(tmp_path.name + "_out")
    prepare(str(tmp_path), out)
    shards = open_shards(out)
    assert shards.column("path").tolist() == ["dog/1.wav"] and shards.info.labels == ("dog",)
    assert (out / "skipped.txt").read_text().splitlines() == [
        "b\\xe4r/3.wav: has a name that is not UTF-8; rename it",
        "dog/4.m4a: is of a format that cannot be read; convert it, for instance "
        "`ffmpeg -i 4.m4a 4.wav`",
        "dog/caf\\xe9.wav: has a name that is not UTF-8; rename it",
        "dog/gone.wav: is a link to nothing",
        "dog/pipe.wav: is a pipe, not a file",
    ]
    assert "dog/caf\\xe9.wav" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"b\\xe4r/3.wav: has a name that is not UTF-8"):
        prepare(str(tmp_path), tmp_path.with_name("strict"), strict=True, progress=False)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "holds no files"),
        ((".a.wav",), "holds no files .hidden files are not read"),
        (("dog/a.m4a",), r"holds 1 file.* formats that cannot be read; convert .*ffmpeg -i a.m4a"),
        (("a.txt", "b.txt", "c"), r"holds no index.csv, no sound .*, only .txt \(2\), no suffix"),
        (("metadata.json",), "is a finished set of shards"),
    ],
)
def test_folders_of_other_things(tmp_path, files, message):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=message):
        opened(tmp_path)


def test_files_that_are_no_source(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "a.pdf").write_bytes(b"x")
    (tmp_path / "a.mp4").write_bytes(b"x")
    for name, message in (
        ("pipe.csv", "is a pipe, not a file"),
        ("a.pdf", "is not a file that can be read; name a folder"),
        ("a.mp4", "is of a format that cannot be read; convert it"),
    ):
        with pytest.raises(InputError, match=message):
            opened(tmp_path / name)


def test_one_file_is_a_source(wav):
    source = opened(wav("a.WAV") / "a.WAV")
    assert [r.path for r in source.rows] == ["a.WAV"]


@pytest.mark.parametrize(
    ("mix", "line"),
    [
        ("first", "2 of 3 files are stereo: the first channel is used (--mix)"),
        ("mean", "2 of 3 files are stereo: their channels are averaged (--mix)"),
    ],
)
def test_prepare_says_what_it_decided(wav, tmp_path, capsys, mix, line):
    folder = wav("in/a/1.wav", seconds=1) / "in"
    wav("in/a/2.wav", "in/b/3.wav", channels=2)
    info = prepare(str(folder), tmp_path / "out", mix=mix)
    said = capsys.readouterr().err
    assert "read as folders: 3 rows, 2 classes (a, b)" in said and line in said
    assert "windows are 1 s long and 60% of their samples are padding" in said
    assert info.signals[0].mix == info.spec.signals[0].mix == mix
    other = tmp_path / "other"
    prepare(str(folder), other, mix="first" if mix == "mean" else "mean", progress=False)
    with pytest.raises(InputError, match=r"audio.mix: is (first|mean) in in and (first|mean) in"):
        open_shards([tmp_path / "out", other])


def test_resampled_shards_and_embedding_agree_up_to_the_ends(tmp_path, rng):
    """Gravity in a float file: neither rings where the recording begins and ends."""
    path = tmp_path / "in/a/1.wav"
    path.parent.mkdir(parents=True)
    soundfile.write(path, 9.81 + rng.normal(size=(4000, 2)), 1024, subtype="FLOAT")
    shards = prepare(str(tmp_path / "in"), tmp_path / "out", rate=1000, mix="mean", progress=False)
    (signal,) = shards.spec.signals
    reader: Any = SimpleNamespace(signals=(signal,))
    read = np.concatenate([clip["audio"] for clip in inputs._sound_blocks(path, reader)])
    stored = open_shards(tmp_path / "out")[0]["audio"]
    np.testing.assert_allclose(read, stored[: len(read)], atol=1e-4)
    assert abs(stored[:3].mean() - 9.81) < 3


@pytest.mark.parametrize("mix", ["first", "mean", "keep"])
@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_shards_hold_what_embedding_reads(tmp_path, rng, mix, subtype):
    path = tmp_path / "in/a/1.wav"
    path.parent.mkdir(parents=True)
    soundfile.write(path, 0.2 * rng.normal(size=(1600, 2)), 16_000, subtype=subtype)
    prepare(str(tmp_path / "in"), tmp_path / "out", mix=mix, progress=False)
    shards = open_shards(tmp_path / "out")
    read = np.concatenate(list(sound.blocks(path, mix)))
    stored = shards[0]["audio"] * np.float32(shards.info.signals[0].scale)
    rounding = 2**-16 if (subtype, mix) == ("PCM_16", "mean") else 0
    np.testing.assert_allclose(stored, read, rtol=0, atol=rounding)
