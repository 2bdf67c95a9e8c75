"""One walk for every kind of source, and what folder names mean."""

import os
import socket

import pytest

from jfreq.data.sources.folders import (
    composed,
    listing,
    natural,
    shown,
    split_name,
    splits_and_labels,
)
from jfreq.types import InputError


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def names(found, root):
    return [path.relative_to(root).as_posix() for path in found]


def test_hidden_files_and_leftovers_of_other_systems_are_not_looked_at(tmp_path):
    touch(tmp_path, "b/1.wav", "a/2.WAV", "a/._2.wav", ".git/3.wav", "__MACOSX/a/4.wav",
          "a/@eaDir/5.wav", "a/.DS_Store")  # fmt: skip
    assert names(listing(tmp_path).files, tmp_path) == ["a/2.WAV", "b/1.wav"]
    assert names(listing(tmp_path).folders, tmp_path) == ["a", "b"]


def test_links_are_followed_once_and_loops_end(tmp_path):
    touch(tmp_path, "store/yes/1.wav", "set/no/2.wav", "other/3.wav")
    root = tmp_path / "set"
    (root / "yes").symlink_to(tmp_path / "store/yes")
    (root / "again").symlink_to("no")
    (root / "no/up").symlink_to("..")
    (root / "no/far_up").symlink_to(tmp_path)
    (root / "no/4.wav").symlink_to(tmp_path / "other/3.wav")
    (root / "gone.wav").symlink_to(tmp_path / "nowhere")
    (root / "self.wav").symlink_to("self.wav")
    found = listing(root)
    assert names(found.files, root) == ["no/2.wav", "no/4.wav", "yes/1.wav"]
    reasons = {path.relative_to(root).as_posix(): why for path, why in found.unreadable}
    assert reasons.pop("again").endswith("set/no, which is read already")
    assert reasons == {
        "no/up": "is a link to a folder above it",
        "no/far_up": "is a link to a folder above it",
        "gone.wav": "is a link to nothing",
        "self.wav": "is a link that leads back to itself",
    }


def test_two_linked_folders_that_link_to_each_other_are_entered_once(tmp_path):
    for a, b in ("xy", "yx"):
        touch(tmp_path, f"{a}/{a}.wav")
        (tmp_path / f"set/{a}").parent.mkdir(exist_ok=True)
        (tmp_path / f"set/{a}").symlink_to(tmp_path / a)
        (tmp_path / a / "link").symlink_to(tmp_path / b)
    assert names(listing(tmp_path / "set").files, tmp_path) == ["set/x/x.wav", "set/y/y.wav"]


def test_what_is_no_file_is_named_and_never_opened(tmp_path):
    touch(tmp_path, "a.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.wav"))
        found = listing(tmp_path)
    assert names(found.files, tmp_path) == ["a.wav"]
    assert {path.name: why for path, why in found.unreadable} == {
        "pipe.wav": "is a pipe, not a file",
        "s.wav": "is a socket, not a file",
    }
    with pytest.raises(InputError, match=r"a.wav is not a folder"):
        listing(tmp_path / "a.wav")


def test_patterns_match_the_last_names(tmp_path):
    touch(tmp_path, "x/proband1/data/1.csv", "proband2/data/.2.csv", "data/3.csv")
    assert names(listing(tmp_path).matching("proband*/data"), tmp_path) == [
        "proband2/data",
        "x/proband1/data",
    ]
    assert names(listing(tmp_path).matching("*.csv"), tmp_path) == [
        "data/3.csv",
        "x/proband1/data/1.csv",
    ]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["dog/1", "cat/deep/2", "3"], [("", "dog"), ("", "cat"), ("", "")]),
        (["train/dog/1", "Test/cat/2"], [("train", "dog"), ("test", "cat")]),
        (["x/training/dog/1", "x/dev/cat/2", "x/evaluation/cat/deep/3"],
         [("train", "dog"), ("validation", "cat"), ("test", "cat")]),
        (["dog/train/1", "cat/test/2"], [("train", "dog"), ("test", "cat")]),
        (["fan/train/1", "fan/test/2"], [("train", "fan"), ("test", "fan")]),
        (["train/1", "test/2"], [("train", ""), ("test", "")]),
        (["train/1", "bus/2", "train/3"], [("", "train"), ("", "bus"), ("", "train")]),
        (["train/fast/1", "bus/2"], [("", "train"), ("", "bus")]),
        (["train/dog/1", "test/dog/2", "noise/3"],
         [("train", "dog"), ("test", "dog"), ("", "noise")]),
        (["my set/dog/1", "my set/cat/2"], [("", "dog"), ("", "cat")]),
        (["dog/deep/1", "dog/deep/2"], [("", "dog"), ("", "dog")]),
        (["cafe\N{COMBINING ACUTE ACCENT}/1", "caf\N{LATIN SMALL LETTER E WITH ACUTE}/2"],
         [("", composed("café"))] * 2),
        ([], []),
    ],
)  # fmt: skip
def test_splits_and_classes_from_folders(paths, expected):
    places, notes = splits_and_labels([f"{path}.wav" for path in paths])
    assert places == expected
    guessed = any(split for split, _ in places) or any(path.startswith("my set") for path in paths)
    assert bool(notes) == guessed


def test_notes_say_what_was_guessed():
    _, notes = splits_and_labels(["train/dog/1", "dev/dog/2", "noise/3"])
    assert notes == (
        "splits from folders: dev as validation, train; classes are the folders in them",
        "the folder 'noise' beside them is read as a class without a split",
    )


def test_the_natural_order():
    wanted = ["-1", "0", "0.5", "2", "10", "class1", "class2", "class10", "class10b", "nan"]
    assert sorted(set(wanted), key=natural) == wanted
    assert sorted(["a1", "a01", "1", "01"], key=natural) == ["01", "1", "a01", "a1"]


def test_names_of_splits():
    assert [split_name(v) for v in ("Training", " valid", "dev", "eval", "balanced_train", "")] == [
        "train", "validation", "validation", "test", "balanced_train", "",
    ]  # fmt: skip


def test_names_that_are_not_utf8_are_shown_escaped():
    assert shown(os.fsdecode(b"caf\xe9.wav")) == "caf\\xe9.wav"
    assert shown("café.wav") == "café.wav"
