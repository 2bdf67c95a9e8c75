"""What methods standardise by is that of the rows that training reads."""

import json

import numpy as np
import pytest

from jfreq.config import Data
from jfreq.config_json import from_dict, to_dict
from jfreq.data.loading.pipeline import open_pipeline
from jfreq.data.prepare.run import prepare
from jfreq.data.shards.describe import describe
from jfreq.data.shards.reader import open_shards
from jfreq.types import SignalSpec


@pytest.fixture(scope="module")
def sensors(tmp_path_factory):
    """Six recordings of three folds whose levels differ, and their samples; one channel of acc is
    0.1 throughout, which float32 cannot hold exactly."""
    folder = tmp_path_factory.mktemp("sensors")
    rng = np.random.default_rng(0)
    lines, waves = ["path,fold,split,label"], []
    for i in range(6):
        x = rng.normal(10.0**i, 1 + i, (130, 6)).astype(np.float32)
        x[:, 2] = 0.1
        np.savez(folder / f"{i}.npz", x=x, sr=50)
        waves.append(x)
        lines.append(f"{i}.npz,{i % 3},{'test' if i == 5 else 'train'},{'ab'[i % 2]}")
    (folder / "index.csv").write_text("\n".join(lines) + "\n")
    out = folder / "shards"
    prepare(str(folder), out, seconds=1.0, progress=False)
    return out, waves


def expected(waves, rows):
    """Windows are of 50 samples; the rest of 30 is a row of its own."""
    x = np.concatenate([waves[i] for i in rows]).astype(np.float64)
    return x.mean(0), x.std(0)


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({}, range(6)),
        ({"split": "train"}, range(5)),
        ({"exclude_folds": (0,)}, (1, 2, 4, 5)),
        ({"split": "train", "exclude_folds": (1,)}, (0, 2, 3)),
        ({"split": "train", "crop_seconds": 0.5}, range(5)),
    ],
)
def test_the_pipelines_statistics_are_those_of_its_rows(sensors, options, rows):
    out, waves = sensors
    pipeline = open_pipeline(Data(path=(str(out),), **options), batch=2, seed=0)
    mean, std = expected(waves, rows)
    varies = np.arange(6) != 2
    for spec, part in zip(pipeline.spec.signals, (slice(0, 3), slice(3, 6))):
        np.testing.assert_allclose(spec.mean, mean[part], rtol=1e-8)
        keep = varies[part]
        np.testing.assert_allclose(np.array(spec.std)[keep], std[part][keep], rtol=1e-8)
    assert pipeline.batch_spec["acc"].shape[1] == (25 if "crop_seconds" in options else 50)


def test_the_sets_own_statistics_leave_the_test_split_out(sensors):
    out, waves = sensors
    acc, gyro = open_shards(out).spec.signals
    np.testing.assert_allclose(gyro.mean, expected(waves, range(5))[0][3:], rtol=1e-8)
    np.testing.assert_allclose(acc.std[:2], expected(waves, range(5))[1][:2], rtol=1e-8)


def test_a_constant_channel_standardises_to_zero_exactly(sensors):
    shards = open_shards(sensors[0])
    acc = shards.spec.signals[0]
    assert acc.std[2] == 1.0
    x = shards.read(shards.rows())["acc"][:, :30, 2]
    z = (x - np.float32(acc.mean[2])) / np.float32(acc.std[2])
    np.testing.assert_array_equal(z, 0)
    assert "constant: channel 2; standardising makes it 0" in describe(shards)


def test_several_sets_are_pooled_over_the_training_rows_of_each(sensors, tmp_path, rng):
    out, waves = sensors
    more = rng.normal(-3, 2, (100, 6)).astype(np.float32)
    (tmp_path / "in").mkdir()
    np.savez(tmp_path / "in" / "more.npz", x=more, sr=50)
    prepare(str(tmp_path / "in"), tmp_path / "more", seconds=1.0, progress=False)
    paths = (str(out), str(tmp_path / "more"))
    mean, _ = expected([*waves, more], range(7))
    found = open_pipeline(Data(path=paths), batch=2, seed=0).spec.signal("gyro")
    np.testing.assert_allclose(found.mean, mean[3:], rtol=1e-8)
    mean, _ = expected(waves, range(5))
    np.testing.assert_allclose(open_shards(paths).spec.signal("gyro").mean, mean[3:], rtol=1e-8)


def test_statistics_survive_json_exactly_and_do_not_change_the_manifest(sensors):
    out, _ = sensors
    pipeline = open_pipeline(Data(path=(str(out),), exclude_folds=(2,)), batch=2, seed=0)
    again = open_pipeline(Data(path=(str(out),), exclude_folds=(2,)), batch=2, seed=9)
    for spec, other in zip(pipeline.spec.signals, again.spec.signals):
        assert from_dict(SignalSpec, json.loads(json.dumps(to_dict(spec)))) == spec == other
    assert pipeline.manifest_hash == open_shards(out).manifest_hash
