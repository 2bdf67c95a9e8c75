"""``jfreq data prepare``: sources, bad files, options."""

import shutil

import numpy as np
import pytest
import soundfile

from jfreq.data.shards.reader import open_shards


def test_sources_that_cannot_be_prepared(refused, sound, tmp_path):
    out = ["--out", tmp_path / "out"]
    assert "does not exist" in refused("data", "prepare", tmp_path / "none", *out)
    (tmp_path / "empty").mkdir()
    line = refused("data", "prepare", "mine", "--source", tmp_path / "empty", *out)
    assert "holds no files" in line
    assert "did you mean 'tones'" in refused("data", "prepare", "synthetic:tone", *out)
    folder = sound("set/a.wav", np.ones(800)).parent
    index = folder / "index.csv"
    index.write_text("paths,label\na.wav,x\n")
    line = refused("data", "prepare", folder, *out)
    assert "has no column 'path' (did you mean 'paths'?)" in line
    index.write_text("path,label\na.wav,cat\n")
    line = refused("data", "prepare", folder, *out, "--labels", "cats", "dogs")
    assert f"{index}:2: label 'cat' is not in the list of labels (did you mean 'cats'?)" in line
    assert "seconds: must be positive" in refused(
        "data", "prepare", "synthetic:tones", *out, "--n", "4", "--seconds", "-1"
    )
    assert not (tmp_path / "out" / "metadata.json").exists()


def test_bad_files_are_named_and_skipped_or_refused(refused, said, sound, zero_rate, tmp_path):
    rng = np.random.default_rng()
    for label in ("left", "right"):
        for i in range(3):
            sound(f"set/{label}{i}.wav", rng.normal(0, 0.1, 8000))
    folder = tmp_path / "set"
    for label in ("left", "right"):
        (folder / label).mkdir()
        for path in folder.glob(f"{label}?.wav"):
            path.rename(folder / label / path.name)
    shutil.move(sound("set/nan.wav", [0.1] * 99 + [np.nan]), folder / "left")
    shutil.move(zero_rate(sound("set/zero.wav", np.ones(800))), folder / "left")
    (folder / "right" / "text.wav").write_text("not a sound")
    sound("set/right2.wav", []).rename(folder / "right" / "empty.wav")

    line = refused("data", "prepare", folder, "--out", tmp_path / "strict", "--strict")
    assert "mend or remove it, or prepare without strict" in line
    assert any(name in line for name in ("nan.wav", "zero.wav", "text.wav", "empty.wav"))
    assert not (tmp_path / "strict" / "metadata.json").exists()

    text = said("data", "prepare", folder, "--out", tmp_path / "kept")
    assert "labels: left 3, right 3" in text and "skipped: 4" in text
    named = (tmp_path / "kept" / "skipped.txt").read_text()
    assert all(name in named for name in ("nan.wav", "zero.wav", "text.wav", "empty.wav"))


def test_prepare_options_reach_the_shards(said, refused, tmp_path):
    """Rate, window, hop, channels, labels of a multi-channel set, through to training's view."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "set"
    folder.mkdir()
    x = rng.integers(-9999, 9999, (8000, 2)).astype(np.int16)
    for name in ("a", "b", "c"):
        soundfile.write(folder / f"{name}.wav", x, 8000)
    (folder / "index.csv").write_text(
        "path,label,fold\na.wav,cat,1\nb.wav,dog,2\nc.wav,other_1,2\n"
    )
    out = tmp_path / "out"
    text = said(
        "data", "prepare", "mine", "--source", folder, "--out", out, "--rate", "8000", "--seconds",
        "0.5", "--hop-seconds", "0.25", "--mix", "keep", "--labels", "dog", "cat",
        "--drop-labels", "other*", "--workers", "1", "--kind", "index",
    )  # fmt: skip
    assert text.startswith("mine: 6 rows")
    assert "audio: 4000 samples (0.5 s) x 2, 8000 Hz, int16" in text
    assert "labels: dog 3, cat 3" in text and "folds: 1 (3), 2 (3)" in text
    np.testing.assert_array_equal(open_shards(out)[1]["audio"], x[2000:6000])
    assert "another folder or delete it" in refused("data", "prepare", folder, "--out", out)
    assert "cat" in said("data", "peek", out, "--n", "1")


def test_prepare_audioset_with_its_own_lists(said, refused, sound, tmp_path):
    sound("clips/abc.wav", np.ones(1600) * 0.1)
    segments, names = tmp_path / "eval_segments.csv", tmp_path / "class_labels_indices.csv"
    segments.write_text('# YTID, start_seconds, end_seconds, positive_labels\nabc, 0.0, 10.0, "/m/1,/m/2"\n')  # noqa: E501  # fmt: skip
    names.write_text('index,mid,display_name\n0,/m/1,"Speech"\n1,/m/2,"Dog, bark"\n')
    words = ["data", "prepare", "audioset", "--source", segments, "--out"]
    assert "clips: " in refused(*words, tmp_path / "out", "--clips", tmp_path / "none")
    assert "labels: Speech 1, Dog, bark 1" in said(*words, tmp_path / "out")
    named = ["--clips", tmp_path / "clips", "--labels", names]
    assert "labels: Speech 1, Dog, bark 1" in said(*words, tmp_path / "named", *named)


@pytest.mark.data
def test_prepare_a_real_index(said, real_data, tmp_path):
    """Spoken digits: files, folds and speakers as their index says."""
    source, folder = real_data / "fsdd", tmp_path / "fsdd"
    folder.mkdir()
    head, *lines = (source / "index.csv").read_text().splitlines()
    lines = lines[:: len(lines) // 12]
    (folder / "index.csv").write_text("\n".join([head, *lines]) + "\n")
    for line in lines:
        path = line.split(",")[0]
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / path, folder / path)
    out = tmp_path / "shards"
    text = said("data", "prepare", "fsdd", "--source", folder, "--out", out, "--strict")
    shards = open_shards(out)
    assert text.startswith(f"fsdd: {len(lines)} rows") and "16000 Hz, int16" in text
    columns = dict(zip(head.split(","), zip(*(line.split(",") for line in lines))))
    assert shards.column("path").tolist() == list(columns["path"])
    assert shards.column("fold").tolist() == [int(f) for f in columns["fold"]]
    assert shards.column("subject").tolist() == list(columns["subject"])
    names = [shards.info.labels[i] for i in shards.column("label")]
    assert names == list(columns["label"])
    assert (shards.column("length") == [
        -(-int(n) * 16000 // int(sr)) for n, sr in zip(columns["n_samples"], columns["sr"])
    ]).all()  # fmt: skip
