"""Each published set of sound, small, in its owners' layout: labels, folds, splits, subjects."""

import shutil

import numpy as np
import pytest
import soundfile

from jfreq.data.options import Options
from jfreq.data.prepare.run import prepare
from jfreq.data.shards.describe import describe
from jfreq.data.shards.reader import open_shards
from jfreq.data.sources import datasets
from jfreq.data.sources.kinds import open_source
from jfreq.evaluate.folds import divide
from jfreq.types import InputError

KINDS = (
    "esc50",
    "urbansound8k",
    "speech_commands",
    "fsd50k",
    "audioset",
    "librispeech",
    "ravdess",
    "cremad",
    "emodb",
    "gtzan",
    "nsynth",
)

FOLDS = {
    "esc50": {"fold 1", "fold 2"},
    "urbansound8k": {"fold 1", "fold 10"},
    "speech_commands": {"test"},
    "fsd50k": {"test"},
    "nsynth": {"test"},
}
"""What a probe of a set tests on, where the owners say."""
SPEAKERS = {"ravdess": 2, "cremad": 3, "emodb": 3}


def opened(folder, kind="auto", **options):
    return open_source(str(folder), kind=kind, options=Options(**options))


def rows(source):
    """``(labels, fold, split, subject)`` of every row by its path."""
    assert len({row.path for row in source.rows}) == len(source.rows)
    return {
        row.path: (tuple(source.labels[i] for i in row.label), row.fold, row.split, row.subject)
        for row in source.rows
    }


@pytest.mark.parametrize("kind", KINDS)
def test_as_downloaded(kind, sets, tmp_path):
    """From the folder itself and from two above it, also with a Mac's leavings beside it."""
    home = tmp_path / "downloads" / "unpacked"
    want = sets.build[kind](home)
    for folder in ("__MACOSX", ".cache"):
        for file in list(want)[:2]:
            sets.wav(home / folder / file.replace("/", "/._"))
    for place in (home, tmp_path):
        assert datasets.recognise(place) == kind
        source = opened(place)
        assert source.kind == kind
        assert source.labels == sets.order[kind]
        assert {tail(path, want): known for path, known in rows(source).items()} == want
        assert not source.missing
        assert all("_background_noise_" in note for note in source.notes)


def tail(path, want):
    return next((known for known in want if path.endswith(known)), path)


@pytest.mark.parametrize("kind", KINDS)
def test_prepared(kind, sets, tmp_path):
    """To shards, with every row's own sound, label, fold, split and subject."""
    want = sets.build[kind](tmp_path / "in")
    prepare(str(tmp_path / "in"), tmp_path / "out", rate=sets.rate, progress=False)
    shards = open_shards(tmp_path / "out")
    assert kind in describe(shards)
    assert shards.info.labels == sets.order[kind]
    assert len(shards) == len(want) and not shards.info.skipped
    label = shards.column("label")
    for i, path in enumerate(shards.column("path").tolist()):
        labels, fold, split, subject = want[tail(path, want)]
        if shards.info.multi_label:
            found = tuple(np.array(shards.info.labels)[label[i] > 0])
            assert found == labels
        else:
            assert label[i] == (shards.info.labels.index(labels[0]) if labels else -1)
        said = tuple(shards.column(name)[i] for name in ("fold", "split", "subject"))
        assert said == (fold, split, subject)
        if path.endswith((".wav", ".flac")):
            root = next(
                p for p in (tmp_path / "in", *(tmp_path / "in").iterdir()) if (p / path).is_file()
            )
            x, _ = soundfile.read(root / path, dtype="int16")
            np.testing.assert_array_equal(shards[i]["audio"][:, 0], x)
    if kind in FOLDS:
        assert {fold.name for fold in divide(shards, np.arange(len(shards)))} == FOLDS[kind]
    if kind == "audioset":
        (fold,) = divide(shards, np.arange(11), train_split="balanced_train", test_split="eval")
        assert (len(fold.train), len(fold.test)) == (10, 1)
    if kind in SPEAKERS:
        people = divide(shards, np.arange(len(shards)), leave_one_subject_out=True)
        assert len(people) == SPEAKERS[kind]


def test_esc10_is_a_part_of_esc50(sets, tmp_path):
    want = sets.build["esc50"](tmp_path)
    source = opened(tmp_path, "esc10")
    assert rows(source) == {path: known for path, known in want.items() if known[0] == ("dog",)}
    assert not source.missing and not source.notes


@pytest.mark.parametrize(
    ("kind", "table"),
    [("esc50", "meta/esc50.csv"), ("urbansound8k", "metadata/UrbanSound8K.csv")],
)
def test_the_table_stands_for_its_set(kind, table, sets, tmp_path):
    want = sets.build[kind](tmp_path)
    for place in (tmp_path / table, (tmp_path / table).parent):
        source = opened(place)
        assert source.kind == kind and rows(source) == want


def test_esc50_with_clips_at_several_rates(sets, tmp_path):
    """One of the mirrors has the table on top and every clip three times."""
    want = sets.build["esc50"](tmp_path / "in")
    shutil.move(tmp_path / "in/audio", tmp_path / "audio")
    for folder in ("in/audio/audio", "in/audio/audio/16000", "in/audio/audio/44100"):
        shutil.copytree(tmp_path / "audio", tmp_path / folder, dirs_exist_ok=True)
    shutil.move(tmp_path / "in/meta/esc50.csv", tmp_path / "in/esc50.csv")
    source = opened(tmp_path / "in")
    assert {f"audio/{path.split('/')[-1]}": known for path, known in rows(source).items()} == want
    assert not any("000/" in row.path for row in source.rows)
    assert source.notes == (
        "copies of files that are read: 24 left out, for instance audio/audio/16000/1-1000-A-0.wav",
    )


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("esc50", "audio/1-1000-A-0.wav"),
        ("urbansound8k", "audio/fold1/105-0-0-0.wav"),
        ("speech_commands", "yes/00a1b2c3_nohash_0.wav"),
        ("fsd50k", "FSD50K.dev_audio/64760.wav"),
        ("nsynth", "nsynth-test/audio/bass_acoustic_004-022-050.wav"),
        ("librispeech", "dev-clean/84/847/84-847-0001.flac"),
    ],
)
def test_listed_and_not_on_disk_and_the_other_way_round(kind, file, sets, tmp_path):
    want = sets.build[kind](tmp_path)
    (tmp_path / file).rename((tmp_path / file).with_name("other.wav"))
    source = opened(tmp_path)
    assert rows(source) == {path: known for path, known in want.items() if path != file}
    lost = [line for line in source.missing if "not on disk" in line]
    assert len(lost) == 1 and (tmp_path / file).stem in lost[0]
    said = [line for line in (*source.notes, *source.missing) if "other.wav" in line]
    assert len(said) == 1
    with pytest.raises(InputError, match="mend or remove it, or prepare without strict"):
        prepare(str(tmp_path), tmp_path / "out", strict=True, progress=False)


@pytest.mark.parametrize("kind", ["ravdess", "cremad", "emodb", "gtzan"])
def test_names_that_say_nothing_are_named(kind, sets, tmp_path):
    want = sets.build[kind](tmp_path)
    folder = next(tmp_path.rglob("*.wav")).parent
    for name in ("mine.wav", "03-01-09-01-01-01-01.wav", "1001_DFA_JOY_XX.wav", "03a01Xa.wav"):
        sets.wav(folder / name)
    source = opened(tmp_path)
    assert rows(source) == want
    assert len(source.missing) == 4
    assert any("mine.wav: is not called" in line for line in source.missing)


def test_ravdess_that_holds_itself_twice_and_song_beside_speech(sets, tmp_path):
    want = sets.build["ravdess"](tmp_path / "Audio_Speech_Actors_01-24")
    sets.build["ravdess"](tmp_path / "Audio_Speech_Actors_01-24/audio_speech_actors_01-24")
    sets.wav(tmp_path / "Audio_Song_Actors_01-24/Actor_01/03-02-03-02-01-02-01.wav")
    source = opened(tmp_path)
    assert source.kind == "ravdess" and len(source.rows) == len(want) + 1
    assert source.notes[0].startswith(f"copies of files that are read: {len(want)} left")
    assert len(opened(tmp_path, only=("*/03-02-*",)).rows) == 1


def test_speech_commands_noise_and_the_layout_of_the_challenge(sets, tmp_path):
    """The lists lie beside a folder ``audio`` there; the noise is read without a label if asked."""
    want = sets.build["speech_commands"](tmp_path / "train" / "audio")
    for name in ("testing_list.txt", "validation_list.txt"):
        shutil.move(tmp_path / "train/audio" / name, tmp_path / "train" / name)
    source = opened(tmp_path)
    assert rows(source) == want
    (note,) = source.notes
    assert "_background_noise_/pink_noise.wav" in note and "--unlabelled" in note
    source = opened(tmp_path, unlabelled=True)
    assert [(row.path, row.label) for row in source.rest] == [
        ("_background_noise_/pink_noise.wav", ())
    ]
    assert not source.notes
    prepare(str(tmp_path), tmp_path / "out", rate=sets.rate, unlabelled=True, progress=False)
    assert (open_shards(tmp_path / "out").column("label") < 0).sum() == 10


def test_converted_copies_keep_their_place(sets, tmp_path):
    """Lists name WAV files; a set that was converted to FLAC has the same labels and splits."""
    for kind in ("speech_commands", "esc50", "nsynth"):
        want = sets.build[kind](tmp_path / kind)
        for path in want:
            (tmp_path / kind / path).unlink()
            sets.wav((tmp_path / kind / path).with_suffix(".flac"))
        found = rows(opened(tmp_path / kind))
        assert found == {path.replace(".wav", ".flac"): known for path, known in want.items()}


def test_speech_commands_own_test_set(sets, tmp_path):
    for word in ("yes", "_unknown_", "_silence_"):
        sets.wav(tmp_path / word / "0a7c2a8d_nohash_0.wav")
    sets.wav(tmp_path / "_silence_" / "12.wav")
    source = opened(tmp_path)
    assert source.labels == ("_silence_", "_unknown_", "yes")
    assert {row.split for row in source.rows} == {"test"} and len(source.rows) == 4


def test_speech_commands_without_its_lists(sets, tmp_path):
    sets.build["speech_commands"](tmp_path)
    (tmp_path / "validation_list.txt").write_text((tmp_path / "testing_list.txt").read_text())
    with pytest.raises(InputError, match=r"list.txt:1: .*_nohash_0 is in the other list"):
        opened(tmp_path)
    (tmp_path / "testing_list.txt").unlink()
    with pytest.raises(InputError, match=r"has no testing_list.txt, .* unpack the archive again"):
        opened(tmp_path)


def test_one_subset_of_librispeech(sets, tmp_path):
    sets.build["librispeech"](tmp_path / "LibriSpeech")
    source = opened(tmp_path / "LibriSpeech/train-clean-100")
    assert {(row.split, row.subject) for row in source.rows} == {
        ("train-clean-100", "19"),
        ("train-clean-100", "26"),
    }


def test_gtzan_with_its_filtered_lists_and_its_damaged_file(sets, tmp_path):
    sets.build["gtzan"](tmp_path / "in")
    (tmp_path / "in/genres_original/jazz").mkdir()
    (tmp_path / "in/genres_original/jazz/jazz.00054.wav").write_bytes(b"RIFF damaged")
    prepare(str(tmp_path / "in"), tmp_path / "out", rate=sets.rate, progress=False)
    assert "jazz.00054.wav: " in (tmp_path / "out/skipped.txt").read_text()
    lists = {
        "train": "rock/rock.00000.au",
        "valid": "blues/blues.00001.wav",
        "test": "jazz/jazz.00054.wav",
    }
    for name, file in lists.items():
        (tmp_path / f"in/{name}_filtered.txt").write_text(file + "\n")
    source = opened(tmp_path)
    assert rows(source) == {
        "in/genres_original/rock/rock.00000.wav": (("rock",), -1, "train", ""),
        "in/genres_original/blues/blues.00001.wav": (("blues",), -1, "validation", ""),
        "in/genres_original/jazz/jazz.00054.wav": (("jazz",), -1, "test", ""),
    }
    assert source.notes[0].startswith("files that are not in the filtered lists: 2 left")
    (tmp_path / "in/valid_filtered.txt").unlink()
    with pytest.raises(InputError, match=r"has test_filtered.txt, but no valid_filtered.txt"):
        opened(tmp_path)


def test_one_folder_of_nsynth(sets, tmp_path):
    sets.build["nsynth"](tmp_path)
    source = opened(tmp_path / "nsynth-valid")
    assert {row.split for row in source.rows} == {"validation"} and len(source.rows) == 2
    (tmp_path / "nsynth-valid/examples.json").write_text('{"bass_acoustic_005-022-050": {}}')
    with pytest.raises(
        InputError, match=r"examples.json: bass_acoustic_005-022-050: names no inst"
    ):
        opened(tmp_path)
    (tmp_path / "nsynth-valid/examples.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"examples.json: is not JSON"):
        opened(tmp_path)


def test_classes_left_out_of_a_set_with_several(sets, tmp_path):
    sets.build["fsd50k"](tmp_path)
    source = opened(tmp_path, drop_labels=("Music", "Zip*"))
    assert source.labels == ("Animal", "Bark", "Electric_guitar")
    assert [row.label for row in source.rows] == [(2,), (0, 1), (0,)]


@pytest.mark.parametrize(
    ("kind", "file", "old", "new", "message"),
    [
        ("esc50", "meta/esc50.csv", "target", "class", r"esc50.csv: has no column 'target'"),
        ("esc50", "meta/esc50.csv", ",14,", ",x,", r"50.csv:2 target: expected a number, got"),
        ("esc50", "meta/esc50.csv", ",True,", "\n", r"esc50.csv:4: has 4 of 7 fields"),
        ("esc50", "meta/esc50.csv", ",dog", ",cat", r"esc50.csv:5: class 0 is called 'dog'"),
        ("urbansound8k", "metadata/UrbanSound8K.csv", ",1,1,3", ",1,1.5,3", r":2 fold: expected"),
        ("fsd50k", "FSD50K.ground_truth/dev.csv", "Bark", "Brak", r"dev.csv:3: label 'Brak'"),
        ("fsd50k", "FSD50K.ground_truth/dev.csv", ",val", ",eval", r"dev.csv:3: split is 'eval'"),
        ("fsd50k", "FSD50K.ground_truth/eval.csv", "labels", "l", r"eval.csv: has no column"),
        ("audioset", "eval_segments.csv", "/t/dd00003", "/m/x", r"segments.csv:3: label '/m/x'"),
        (
            "audioset",
            "eval_segments.csv",
            "0.000",
            "zero",
            r"segments.csv:3 start_seconds: expected",
        ),
        ("audioset", "eval_segments.csv", "0.000,", "", r"segments.csv:3: expected 4 fields"),
        ("audioset", "class_labels_indices.csv", "mid", "id", r"indices.csv: has no column"),
    ],
)
def test_damaged_tables_are_named_with_their_line(kind, file, old, new, message, sets, tmp_path):
    sets.build[kind](tmp_path)
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=message) as error:
        opened(tmp_path, kind)
    assert "\n" not in str(error.value)


def test_two_sets_in_one_folder_are_refused(sets, tmp_path):
    sets.build["esc50"](tmp_path / "a")
    sets.build["emodb"](tmp_path / "b")
    with pytest.raises(InputError, match=r"several data sets, esc50 in .*/a and emodb in .*/b;"):
        opened(tmp_path)
    sets.build["esc50"](tmp_path / "c")
    with pytest.raises(InputError, match=r"holds esc50 2 times: .*/a and .*/c; name one of them"):
        opened(tmp_path, "esc50")
    with pytest.raises(InputError, match=r"has no metadata/UrbanSound8K.csv in it"):
        opened(tmp_path, "urbansound8k")
