"""Spectrograms of several sensors: which rows and frames count, patches there and back."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jfreq.frontends.sensor_stft import Spectrum
from jfreq.methods.common.sensor_spectra import SpectraMethod, SpectrogramSpec
from jfreq.testing import ACC_MIC, fake_batch
from jfreq.types import DataSpec, InputError, SignalSpec, TokenGrid

SPECTRA = jax.jit(SpectraMethod.spectra, static_argnums=0)


def test_sensors_of_two_rates_have_the_same_frames():
    cfg = SpectraMethod().bind(ACC_MIC)
    specs = cfg.specs
    assert [p.frames for p in specs.values()] == [8, 8]
    assert [p.bins for p in specs.values()] == [8, 32]
    assert [p.grid.shape for p in specs.values()] == [(8, 8), (8, 16)]
    found = SPECTRA(cfg, fake_batch(ACC_MIC, 3))
    assert found["acc"].inputs.shape == (3, 8, 8, 9) and found["mic"].inputs.shape == (3, 8, 32, 3)


def test_zero_and_nan_windows_are_absent():
    cfg = SpectraMethod().bind(ACC_MIC)
    batch = fake_batch(ACC_MIC, 4)
    batch["acc"] = batch["acc"].at[1].set(0.0).at[2, 5, 1].set(jnp.nan).at[3, 0, 0].set(jnp.inf)
    found = SPECTRA(cfg, batch)
    assert np.asarray(found["acc"].present).tolist() == [True, False, False, False]
    assert np.asarray(found["mic"].present).all()
    for part in (found["acc"].real, found["acc"].inputs):
        assert np.isfinite(part).all() and not np.asarray(part[1:]).any()
    assert not np.asarray(found["acc"].valid[1:]).any()
    assert not np.asarray(cfg.patches(found)[1]["acc"][1:]).any()


def test_frames_beyond_the_signal_do_not_count():
    cfg = SpectraMethod().bind(ACC_MIC)
    batch = fake_batch(ACC_MIC, 3) | {"length": jnp.array([128, 64, 3])}
    found = SPECTRA(cfg, batch)
    for name in ("acc", "mic"):  # lengths are in samples of the first sensor
        assert np.asarray(found[name].valid.sum(1)).tolist() == [8, 4, 1]


def test_energy_is_parsevals():
    cfg = SpectraMethod(standardise="none", frontend=Spectrum(0.32, two_sided=True)).bind(ACC_MIC)
    batch = fake_batch(ACC_MIC, 2)
    energy = SPECTRA(cfg, batch)["acc"].energy
    np.testing.assert_allclose(energy, np.sum(np.square(batch["acc"]), axis=(1, 2)), rtol=1e-4)


def test_a_sensor_silent_in_the_whole_set_is_refused():
    dead = SignalSpec("gyro", 50, 128, 2, (0.0, 0.0), (1.0, 1.0))
    with pytest.raises(InputError, match="'gyro' is zero in every training row"):
        SpectraMethod().bind(DataSpec((*ACC_MIC.signals, dead)))
    SpectraMethod(modalities=("acc",)).bind(DataSpec((*ACC_MIC.signals, dead)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"patch_bins": (1, 2, 3)}, "3 sizes for 2 sensors"),
        ({"patch_bins": (9,)}, "larger than the spectra of 'acc'"),
        ({"patch_frames": 9}, "larger than the spectra"),
        ({"modalities": ("light",)}, "no signal 'light'"),
    ],
)
def test_bad_settings_are_refused(changes, words):
    with pytest.raises(InputError, match=words):
        SpectraMethod(**changes).bind(ACC_MIC)


@settings(deadline=None, max_examples=12)
@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2)
)
def test_tokens_there_and_back(frames, bins, pt, pf, more):
    tokens = (-(-frames // pt) + more, -(-bins // pf) + more)
    grid = TokenGrid(*tokens, order="time_major")
    spec = SpectrogramSpec(SignalSpec("x", 50, 128), frames, bins, 2, (pt, pf), grid)
    x = np.random.default_rng(frames * 100 + bins).normal(size=(2, frames, bins, 2))
    number = np.arange(grid.size, dtype=np.float32)[None]

    @jax.jit
    def there_and_back(x, number):
        flat = spec.patchify(x)
        cells = spec.unpatchify(jnp.repeat(number[..., None], spec.patch_size, axis=2))
        return flat, spec.unpatchify(flat), cells, spec.cells_of(number)

    flat, back, cells, cells_of = there_and_back(x.astype(np.float32), number)
    assert flat.shape == (2, tokens[0] * tokens[1], spec.patch_size)
    np.testing.assert_array_equal(back, x.astype(np.float32))
    assert spec.tokens == tuple(n - more for n in tokens)
    assert spec.valid_tokens.sum() == spec.tokens[0] * spec.tokens[1]
    np.testing.assert_array_equal(cells_of, cells[..., 0])


def test_weights_lie_like_patches():
    cfg = SpectraMethod(patch_frames=2, patch_bins=(3,)).bind(ACC_MIC)
    grid = TokenGrid(5, 4, order="time_major")
    spec = dataclasses.replace(cfg.specs["acc"], grid=grid)
    rng = np.random.default_rng(0)
    weight = rng.uniform(size=(10, 12)) * spec.valid_cells
    full = weight[None, : spec.frames, : spec.bins, None] * np.ones(spec.channels)
    patches = spec.patchify(jnp.asarray(full))[0]
    np.testing.assert_allclose(spec.patch_weights(weight), patches, rtol=1e-6)


def test_log_moments_are_those_of_the_present_windows():
    cfg = SpectraMethod().bind(ACC_MIC)
    batch = fake_batch(ACC_MIC, 6)
    loud = np.asarray(SPECTRA(cfg, batch)["mic"].inputs)[..., 0]
    found = cfg.calibrate(batch).log_moments
    assert found is not None
    moments = dict(zip(("acc", "mic"), found))
    np.testing.assert_allclose(moments["mic"], (loud.mean(), loud.std()), rtol=1e-4)
    batch["mic"] = batch["mic"].at[:2].set(0.0)
    found = cfg.calibrate(batch).log_moments
    assert found is not None
    part = dict(zip(("acc", "mic"), found))
    np.testing.assert_allclose(part["mic"], (loud[2:].mean(), loud[2:].std()), rtol=1e-4)
    done = cfg.calibrate(batch)
    level = np.asarray(SPECTRA(done, batch)["mic"].inputs)[2:, ..., 0]
    assert abs(level.mean()) < 1e-4 and abs(level.std() - 1) < 1e-4
    assert done.calibrate(fake_batch(ACC_MIC, 2, seed=5)) == done  # measured once
    assert done.unbind().log_moments is None
    batch["mic"] = 0 * batch["mic"]
    found = cfg.calibrate(batch).log_moments
    assert found is not None and found[1] == (0.0, 1.0)
