"""Bundles: bit for bit there and back, all or nothing, and clear words for broken ones."""

import hashlib
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jfreq import methods, param_paths, recipes
from jfreq.config import replace
from jfreq.config_json import to_dict
from jfreq.export import bundle
from jfreq.export.bundle import (
    encoder_shapes,
    load_bundle,
    load_trained,
    read_weights,
    save_bundle,
)
from jfreq.export.export_run import export_run
from jfreq.files import write_json
from jfreq.method import encoder_params
from jfreq.train import checkpoint, run_folder
from jfreq.train.state import State
from jfreq.types import DataSpec, InputError, SignalSpec

SPEC = DataSpec((SignalSpec("audio", 16000.0, 16000),))


@pytest.fixture(scope="module")
def experiment():
    bound = methods.bind(recipes.load("ssast_nano"), SPEC)
    return replace(bound, data__path=("shards/esc10",), data__exclude_folds=(5,))


@pytest.fixture(scope="module")
def params(experiment):
    method = experiment.method
    return jax.device_get(jax.jit(method.init)(jax.random.key(1)))


@pytest.fixture
def saved(tmp_path, experiment, params):
    return save_bundle(tmp_path / "enc", experiment=experiment, params=params, note="A test.")


def assert_same(a, b):
    a, b = param_paths.flatten(a), param_paths.flatten(b)
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        assert np.shape(a[name]) == np.shape(b[name])
        assert np.asarray(a[name]).tobytes() == np.asarray(b[name]).tobytes(), name


def test_round_trip_is_bit_exact(saved, experiment, params):
    found = load_bundle(saved)
    assert found.experiment == experiment
    assert_same(found.params, params)
    assert sorted(p.name for p in saved.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert [p.name for p in saved.parent.iterdir()] == ["enc"]
    assert load_trained(saved).experiment == experiment


def test_odd_leaves_survive(tmp_path, experiment, monkeypatch):
    monkeypatch.setattr(bundle, "model_card", lambda *a, **k: "card")
    odd = {
        "scalar": np.float32(-0.0),
        "nan": np.array([np.nan, np.inf, -np.inf, 1e-42], np.float32),
        "view": np.arange(12, dtype=np.float32).reshape(3, 4).T[::2],
        "deep": {"er": {"half": np.arange(3).astype(ml_dtypes.bfloat16)}},
        "count": np.array(7, np.int32),
    }
    path = save_bundle(tmp_path / "odd", experiment=experiment, params=odd)
    assert_same(read_weights(path), odd)


@pytest.mark.parametrize("params", [{"a": [np.ones(2)]}, {"a/b": np.ones(2)}, {1: np.ones(2)}])
def test_trees_that_would_change_shape_are_refused(tmp_path, experiment, params):
    with pytest.raises(InputError, match="nested dicts"):
        save_bundle(tmp_path / "enc", experiment=experiment, params=params)
    assert not list(tmp_path.iterdir())


def test_card_says_what_a_user_needs(saved):
    card = (saved / "README.md").read_text()
    for fact in (
        "SSAST",
        "16000 Hz | 1, the first of a recording",
        "160 ms",
        "87.5 ms",
        "8 in time x 8 in frequency",
        "esc10",
        "folds 5 never read",
        "load_encoder",
        "A test.",
    ):
        assert fact in card, fact
    total = sum(leaf.size for leaf in param_paths.flatten(load_bundle(saved).params).values())
    assert f"{total:,}" in card


def test_a_bundle_is_replaced_whole(saved, experiment, params):
    doubled = jax.tree.map(lambda x: 2 * x, params)
    save_bundle(saved, experiment=experiment, params=doubled)
    assert_same(load_bundle(saved).params, doubled)
    assert [p.name for p in saved.parent.iterdir()] == ["enc"]


def test_a_failed_write_leaves_the_old_bundle(saved, experiment, params, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle, "model_card", fail)
    with pytest.raises(OSError, match="space"):
        save_bundle(saved, experiment=experiment, params=jax.tree.map(np.zeros_like, params))
    assert_same(load_bundle(saved).params, params)
    assert [p.name for p in saved.parent.iterdir()] == ["enc"]


def test_other_folders_are_not_overwritten(tmp_path, experiment, params):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="not a bundle"):
        save_bundle(tmp_path, experiment=experiment, params=params)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    save_bundle(tmp_path / "empty", experiment=experiment, params=params)


def test_not_there_or_a_file(saved, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        load_trained(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is a file"):
        load_trained(saved / "model.safetensors")


def test_checksum_is_of_the_weights(saved):
    header = json.loads((saved / "config.json").read_text())
    blob = (saved / "model.safetensors").read_bytes()
    assert header["sha256"] == hashlib.sha256(blob).hexdigest()


def test_export_keeps_what_encode_reads(saved, tmp_path, experiment, params):
    out = export_run(saved, tmp_path / "small")
    kept = param_paths.flatten(load_bundle(out).params)
    full = param_paths.flatten(params)
    dropped = {name.split("/")[0] for name in full.keys() - kept.keys()}
    assert dropped == {"classification_head", "reconstruction_head", "mask_token"}
    method, signals = experiment.method, experiment.method.signals
    batch = {"audio": np.ones((1, 16000, 1), np.float32), "length": np.array([9000], np.int32)}
    encode = jax.jit(method.encode)
    before, after = (encode(p, batch) for p in (params, load_bundle(out).params))
    np.testing.assert_array_equal(before.tokens, after.tokens)
    again = encoder_params(method, load_bundle(out).params)
    assert param_paths.flatten(again).keys() == kept.keys()
    assert encoder_shapes(method, signals, again).clip.shape == (1, 96)


def test_a_run_folder_loads_like_a_bundle(tmp_path, experiment, params):
    arrays = jax.tree.map(jnp.asarray, params)
    state = State(step=jnp.int32(3), params=arrays, opt={"mu": jnp.zeros(2)}, target={})
    write_json(tmp_path / "run" / run_folder.CONFIG, to_dict(experiment))
    saves = checkpoint.Checkpoints(tmp_path / "run")
    saves.save(state, 3, {"step": 3})
    saves.wait()
    saves.close()
    found = load_trained(tmp_path / "run")
    assert found.experiment == experiment
    assert_same(found.params, params)
    kept = load_bundle(export_run(tmp_path / "run", tmp_path / "enc")).params
    assert param_paths.flatten(kept).keys() < param_paths.flatten(params).keys()


def test_a_folder_of_hugging_face_is_not_replaced(saved, tmp_path):
    """It has files of the same names as a bundle."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "config.json").write_text('{"model_type": "audio-spectrogram-transformer"}')
    (theirs / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(InputError, match="exists and is not a bundle"):
        export_run(saved, theirs)
    assert (theirs / "model.safetensors").read_bytes() == b"weights"
