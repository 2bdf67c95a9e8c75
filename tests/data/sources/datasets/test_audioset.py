"""AudioSet's lists, and clips by the names that downloaders give them."""

import shutil

import pytest

from jfreq.data.options import Options
from jfreq.data.prepare.run import prepare
from jfreq.data.sources.kinds import open_source
from jfreq.types import InputError

HEAD = "# Segments csv\n# num_ytids=1\n# YTID, start_seconds, end_seconds, positive_labels\n"


def opened(source, **options):
    return open_source(str(source), kind="auto", options=Options(**options))


def told(source):
    return {
        row.path.split("/")[-1]: (tuple(source.labels[i] for i in row.label), row.split)
        for row in source.rows
    }


def test_the_list_alone_finds_clips_and_labels_beside_it(sets, tmp_path):
    sets.build["audioset"](tmp_path / "set")
    whole = opened(tmp_path / "set")
    source = opened(tmp_path / "set/balanced_train_segments.csv")
    lists = tmp_path / "set/balanced_train_segments.csv"
    lists.write_text("".join(lists.read_text().splitlines(keepends=True)[2:]))  # no comments
    assert told(opened(lists)) == told(source)
    assert told(source) == {k: v for k, v in told(whole).items() if v[1] == "balanced_train"}
    assert source.multi_label and source.labels == whole.labels
    # As the tagging networks' archives have it: lists in metadata, parts of them below it.
    home = tmp_path / "other"
    (home / "metadata/unbalanced_partial_csvs").mkdir(parents=True)
    for file in (tmp_path / "set").glob("*.csv"):
        shutil.copy(file, home / "metadata")
    shutil.copy(
        home / "metadata/eval_segments.csv",
        home / "metadata/unbalanced_partial_csvs/unbalanced_train_segments_part00.csv",
    )
    for folder in ("balanced_train_segments", "eval_segments"):
        shutil.copytree(tmp_path / "set" / folder, home / "audios" / folder)
    assert told(opened(home)) == told(whole)
    assert told(opened(home / "metadata/balanced_train_segments.csv")) == told(source)


def test_clips_elsewhere_and_the_list_of_labels_elsewhere(sets, tmp_path):
    sets.build["audioset"](tmp_path / "set")
    (tmp_path / "lists").mkdir()
    segments = (tmp_path / "set/eval_segments.csv").rename(tmp_path / "lists/eval_segments.csv")
    labels = (tmp_path / "set/class_labels_indices.csv").rename(tmp_path / "labels.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"labels: .* has no class_labels_indices.csv; name it"):
        opened(segments)
    source = opened(segments, labels=(str(labels),), clips=tmp_path / "set/eval_segments")
    assert told(source) == {"Yzyxwvutsrqp.wav": (("Music",), "eval")}
    with pytest.raises(InputError, match="none of its 1 clips is on disk"):
        opened(segments, labels=(str(labels),), clips=tmp_path / "empty")
    with pytest.raises(InputError, match=r"clips: .*/nowhere is not a folder"):
        opened(segments, labels=(str(labels),), clips=tmp_path / "nowhere")


def test_another_part_of_the_video_is_not_the_clip(sets, tmp_path):
    """A start in a name must be the list's, in seconds or in milliseconds."""
    home = tmp_path / "set"
    sets.build["audioset"](home)
    ids = [f"{i:011d}" for i in range(5)]
    lines = [
        f'{ytid}, {start}, 40.000, "/t/dd00003"\n'
        for ytid, start in zip(ids, ("30.000", "30.000", "0.000", "2.500", "30.000"))
    ]
    (home / "balanced_train_segments.csv").write_text(HEAD + "".join(lines))
    for name in (f"{ids[0]}_60_70", f"{ids[1]}_30000", f"{ids[2]}_0_10", f"{ids[3]}_2500_12500"):
        sets.wav(home / "clips" / f"{name}.wav")
    source = opened(home / "balanced_train_segments.csv")
    assert {row.subject for row in source.rows} == set(ids[1:4])
    assert source.missing == tuple(f"{i}: listed, but not on disk" for i in (ids[0], ids[4]))
    (note,) = source.notes
    assert note == (
        "files that are not in balanced_train_segments.csv: 12 left out, for instance "
        "balanced_train_segments/--00000007__30.0_40.0.flac"
    )


def test_a_clip_in_the_folder_of_each_of_its_classes_is_one(sets, tmp_path):
    want = sets.build["audioset"](tmp_path)
    for file in list(want)[:3]:
        shutil.copytree(tmp_path / "eval_segments/part00", tmp_path / "Music", dirs_exist_ok=True)
        (tmp_path / "Speech").mkdir(exist_ok=True)
        shutil.copy(tmp_path / file, tmp_path / "Speech")
    source = opened(tmp_path)
    assert len(source.rows) == len(want)
    (note,) = source.notes
    assert note.startswith("copies of clips that are read: 4 left out")


def test_a_list_of_which_nothing_was_downloaded_and_a_clip_in_two_lists(sets, tmp_path, capsys):
    want = sets.build["audioset"](tmp_path / "in")
    lines = "".join(f'{i:011d}, 0.000, 10.000, "/t/dd00003"\n' for i in range(500))
    (tmp_path / "in/unbalanced_train_segments.csv").write_text(HEAD + lines)
    with (tmp_path / "in/eval_segments.csv").open("a") as file:
        file.write('-00000000-, 30.000, 40.000, "/t/dd00003"\n')
        file.write('-000000000-, 30.000, 40.000, "/t/dd00003"\n')
        file.write('-gone000000, 0.000, 10.000, "/t/dd00003"\n')
    source = opened(tmp_path / "in")
    assert len(source.rows) == len(want)
    assert source.missing == (
        "-00000000-: listed, but not on disk",
        "-gone000000: listed, but not on disk",
        "balanced_train_segments/-000000000-.wav: is in eval_segments.csv and in another list",
    )
    assert source.notes == ("none of the 500 clips of unbalanced_train_segments.csv is on disk",)
    prepare(str(tmp_path / "in"), tmp_path / "out", rate=sets.rate)
    assert "-gone000000: listed, but not on disk" in capsys.readouterr().err


def test_classes_left_out(sets, tmp_path):
    sets.build["audioset"](tmp_path)
    source = opened(tmp_path, drop_labels=("Speech",))
    assert source.labels == ("Male speech, man speaking", "Music")
    assert {row.label for row in source.rows} == {(0,), (1,)}
