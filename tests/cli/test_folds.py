"""Folds and splits from the command line: prepare, probe, and what each refuses."""

import json

import numpy as np
import pytest

from jfreq.data.shards.reader import open_shards

QUICK = ("--kinds", "ridge", "--no-baselines")


@pytest.fixture
def audioset(said, sound, tmp_path):
    """Two segment lists of AudioSet's kind, each prepared by itself: folders of shards."""
    names = tmp_path / "class_labels_indices.csv"
    names.write_text('index,mid,display_name\n0,/m/1,"Speech"\n1,/m/2,"Dog, bark"\n2,/m/3,"Bell"\n')
    rng, found = np.random.default_rng(0), []
    for split, n in (("balanced_train", 12), ("eval", 8)):
        lines = ["# YTID, start_seconds, end_seconds, positive_labels"]
        for i in range(n):
            sound(f"{split}/{split}{i:02d}.wav", 0.1 * rng.normal(size=8000))
            both = ",/m/3" if split == "balanced_train" and i > 8 else ""
            lines.append(f'{split}{i:02d}, 0.0, 10.0, "/m/{1 + i % 2}{both}"')
        (tmp_path / f"{split}_segments.csv").write_text("\n".join(lines) + "\n")
        out = tmp_path / f"{split}.s"
        said("data", "prepare", "audioset", "--source", tmp_path / f"{split}_segments.csv",
             "--clips", tmp_path / split, "--labels", names, "--out", out)  # fmt: skip
        found.append(out)
    return found


def test_the_splits_of_audioset_over_two_folders(said, refused, bundle, audioset, tmp_path):
    probe = ["probe", bundle, *QUICK, "--out", tmp_path / "out"]
    line = refused(*probe, "--data", *audioset)
    assert "it has folds none and splits balanced_train, eval; name two of its splits" in line
    splits = ("--train-split", "balanced_train", "--test-split", "eval")
    text = said(*probe, "--data", *audioset, *splits)
    assert "mAP" in text and "d_prime" in text
    assert "Note: eval: without a positive test row, 1 of 3 classes are left out of mAP" in text
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["folds"] == ["eval"] and found["results"][0]["n"] == 8
    assert found["data"] == "audioset+audioset"
    assert "no labelled rows of split 'eval'" in refused(*probe, "--data", audioset[0], *splits)


def test_folds_are_made_for_a_folder_of_sound_without_any(said, refused, sound, bundle, tmp_path):
    rng = np.random.default_rng(0)
    for i in range(12):
        sound(f"{i:02d}.wav", 0.1 * rng.normal(size=8000))
    lines = [f"{i:02d}.wav,{'ab'[i % 2]},s{i // 2}" for i in range(12)]
    (tmp_path / "index.csv").write_text("\n".join(["path,label,subject", *lines]) + "\n")
    prepare = ["data", "prepare", "mine", "--source", tmp_path / "index.csv", "--out"]
    said(*prepare, tmp_path / "plain")
    probe = ["probe", bundle, "--data", tmp_path / "plain", *QUICK, "--out", tmp_path / "out"]
    line = refused(*probe)
    assert "with --leave-one-subject-out, or make folds of whole subjects with --make-folds" in line
    text = said(*probe, "--make-folds", "3")
    assert "| fold 0 | fold 1 | fold 2 |" in text
    two = said(*probe, "--make-folds", "2")
    assert "to 1." not in two.replace("to 1.000", "") and "| -0." not in two
    assert "--make-folds" in refused(*probe, "--fold-by", "subject")
    line = refused(*probe, "--make-folds", "3", "--leave-one-subject-out")
    assert "make-folds: is no use with --leave-one-subject-out" in line

    made = said(*prepare, tmp_path / "made", "--make-folds", "3", "--fold-by", "recording")
    assert "folds: 0 (4), 1 (4), 2 (4)" in made
    assert open_shards(tmp_path / "made").info.fold_by == "recording"
    line = refused(*prepare, tmp_path / "none", "--make-folds", "7", "--fold-by", "subject")
    assert "7 folds of whole subjects need 7 of them" in line and "--fold-by recording" in line
    assert "must be 1 or more" in refused(*prepare, tmp_path / "none", "--make-folds", "0")
    line = refused("finetune", bundle, "--data", tmp_path / "plain", "--workdir", tmp_path / "w")
    assert "fine-tuning needs two folds" in line and "probe" not in line
    line = refused("finetune", bundle, "--data", tmp_path / "plain", "--workdir", tmp_path / "w",
                   "--make-folds", "30")  # fmt: skip
    assert "30 folds of whole recordings need 30 of them" in line
