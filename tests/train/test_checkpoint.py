"""Run folders: full disks, unreadable folders, nothing half-written."""

import jax.numpy as jnp
import numpy as np
import pytest

from jfreq.config import Checkpoint, Experiment, Source
from jfreq.methods.ssast import SSAST
from jfreq.train import checkpoint, run_folder, transfer
from jfreq.train.state import State
from jfreq.types import InputError


def test_folders_that_are_no_runs(tmp_path):
    with pytest.raises(InputError, match="not a run folder"):
        checkpoint.load_run(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="no JSON"):
        checkpoint.load_run(tmp_path)


def test_nothing_that_fits_is_an_error():
    with pytest.raises(InputError, match="no parameter of this source fits"):
        transfer.fit_params(
            {"x": np.zeros(3)}, {"trunk": {"w": np.zeros(2)}}, Source("this source")
        )


def test_looking_at_a_folder_never_races_with_its_clean_up(tmp_path):
    """Saves in the background, old steps vanishing, and somebody who keeps looking."""
    tree = {"w": np.arange(4096, dtype=np.float32)}
    state = State(step=jnp.int32(0), params=tree, opt={"mu": np.zeros(2)}, target={})
    run_folder.lock_run_folder(tmp_path, Experiment("x", SSAST()))
    saves = checkpoint.Checkpoints(tmp_path, Checkpoint(keep=1))
    for step in range(1, 16):
        saves.save(state, step, {})
        assert step in saves.steps()
        if step > 1:
            loaded = checkpoint.load_run(tmp_path)
            np.testing.assert_array_equal(loaded.params["w"], tree["w"])
    saves.wait()
    assert saves.steps() == [15]
    saves.close()
