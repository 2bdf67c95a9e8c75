"""The whole chain of commands for methods of several sensors, on real motion."""

import json

import numpy as np
import pytest

from jfreq import cli
from jfreq.data.shards.reader import open_shards
from jfreq.encoder.encoder import load_encoder
from jfreq.export import stablehlo

pytestmark = pytest.mark.data

TINY = {f"trunk.{part}.{name}": value for part in ("encoder", "decoder")
        for name, value in (("width", 16), ("depth", 1), ("heads", 2))}  # fmt: skip
"""Options that reach into the trunk of `phymask_hapt`; FreqMAE and FOCAL compile for a minute."""


@pytest.fixture(scope="module")
def motion(real_data, tmp_path_factory):
    """Two recordings of training people and one of a test person, labelled windows."""
    from jfreq.data.prepare.run import prepare

    if not (real_data / "hapt").is_dir():
        pytest.skip(f"hapt not found in {real_data} (set JFREQ_DATA)")
    out = tmp_path_factory.mktemp("hapt") / "shards"
    people = ("*exp01_user01*", "*exp05_user03*", "*exp07_user04*")
    prepare(
        str(real_data / "hapt"), out, seconds=2.56, hop_seconds=5.12, only=people,
        drop_labels=("*_to_*",), progress=False,
    )  # fmt: skip
    return out


@pytest.mark.slow
def test_train_probe_export_embed(motion, real_data, tmp_path, capsys):
    run, enc, out = (tmp_path / part for part in ("run", "enc", "out.npz"))
    options = [word for field, value in {**TINY, "trunk.mask-ratio": 0.8}.items()
               for word in (f"--method.{field}", value)]  # fmt: skip
    # Every row of the shards, and a recording of many windows as its owners store it.
    whole = real_data / "hapt" / "recordings" / "exp01_user01.npz"
    for line in (
        ["train", "phymask_hapt", "--data", motion, "--workdir", run, "--steps", 2, "--batch", 8,
         "--data.split", "None", "--log.every", 1, "--log.writers", *options],
        ["probe", run, "--data", motion, "--kinds", "knn", "--no-baselines", "--folds", "test"],
        ["export", run, "--out", enc, "--format", "bundle", "stablehlo"],
        ["embed", enc, motion, whole, "--out", out],
    ):  # fmt: skip
        cli.main([str(word) for word in line])
    table = capsys.readouterr().out
    assert "| trained | knn | balanced_accuracy |" in table
    config = json.loads((run / "config.json").read_text())["method"]
    assert config["trunk"]["encoder"]["width"] == 16
    assert [s["name"] for s in config["signals"]] == ["acc", "gyro"]
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 2 and np.isfinite(losses).all()

    shards = open_shards(motion)
    with np.load(out) as file:
        found = {key: file[key] for key in file.files}
    rows = len(shards)
    assert len(found["clip"]) == rows + 1
    assert all(np.isfinite(found[key]).all() for key in ("clip", "frames"))
    assert found["label"].tolist() == [*shards.column("label"), -1]
    assert found["labels"][found["label"][0]] in shards.info.labels
    assert np.ptp(found["clip"][:rows], axis=0).max() > 1e-3
    frame = load_encoder(enc).hop_ms / 1000
    assert found["valid"][-1] == pytest.approx(20598 / 50 / frame, rel=0.01)

    # The program without jfreq's runtime says the same of the same rows.
    program = stablehlo.load(enc)
    window = {s.name: shards.read(range(4))[s.name] for s in program.signals}
    outputs = program({**window, "length": shards.read(range(4))["length"]})
    np.testing.assert_allclose(outputs["clip"], found["clip"][:4], atol=1e-4)
