"""The wavelet front end as a contract: frames, clock, padding, silence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq.config_json import from_dict, to_dict
from jfreq.frontends.scalogram import Scalogram
from jfreq.methods.ssast import SSAST
from jfreq.nn.vit import ViT
from jfreq.ops import wavelet
from jfreq.testing import assert_step_specs, fake_batch
from jfreq.types import DataSpec, InputError, SignalSpec

SENSOR = Scalogram(rate=50.0, n_scales=16)
RAW = Scalogram(rate=50.0, n_scales=16, standardise="none")
MOTION = DataSpec((SignalSpec("acc", 50.0, 400, 3),), ("a", "b"))


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(2, 400, 3)).astype(np.float32)


def run(frontend, x, length=None, frames=100):
    return jax.jit(lambda x, n: frontend(x, frames=frames, length=n)[0])(x, length)


def test_defaults_are_those_of_the_sheet():
    frontend = Scalogram(rate=50.0)
    assert (frontend.bins, frontend.hop_length, frontend.frequencies[0]) == (64, 4, 0.5)
    assert frontend.frequencies[-1] == pytest.approx(20.0)
    steps = np.diff(np.log(frontend.frequencies))
    np.testing.assert_allclose(steps, steps[0])


def test_whole_clips_are_the_transform(x):
    expected = jax.jit(lambda x: wavelet.scalogram(x, frequencies=RAW.frequencies, rate=50.0))(x)
    np.testing.assert_allclose(run(RAW, x), expected, atol=1e-5)
    np.testing.assert_allclose(run(RAW, x, np.full(2, 400, np.int32)), expected, atol=1e-5)


def test_standardising(x):
    raw = np.asarray(run(RAW, x))
    row = Scalogram(rate=50.0, n_scales=16, standardise="row")
    for frontend, axes in ((SENSOR, (1, 2)), (row, 1)):
        mean, std = raw.mean(axes, keepdims=True), np.sqrt(raw.var(axes, keepdims=True) + 1e-5)
        np.testing.assert_allclose(run(frontend, x), (raw - mean) / std, atol=1e-3)


@pytest.mark.parametrize("frontend", [SENSOR, RAW], ids=["clip", "raw"])
def test_what_lies_beyond_the_length_does_not_matter(frontend, x):
    length = np.array([301, 3], np.int32)
    inside = np.arange(400)[None, :, None] < length[:, None, None]
    spec = run(frontend, x * inside, length)
    np.testing.assert_array_equal(spec, run(frontend, np.where(inside, x, 9).astype("f4"), length))
    assert np.abs(spec[0, :75]).min() > 0
    np.testing.assert_array_equal(spec[0, 75:], 0.0)
    np.testing.assert_array_equal(spec[1], 0.0)


def test_a_short_clip_goes_on_as_its_mirror_image(x):
    """A step to zero at its end, of gravity say, would fill every row."""
    x = 0.01 * x + 9.81
    short = run(RAW, x, np.full(2, 202, np.int32))
    mirrored = np.concatenate([x[:, :202], x[:, 201:3:-1]], axis=1)
    np.testing.assert_allclose(short[:, :50], run(RAW, mirrored)[:, :50], atol=1e-4)
    assert np.abs(short).max() < 0.1


def test_frames_are_cut_and_padded(x):
    spec = run(RAW, x)
    np.testing.assert_array_equal(run(RAW, x, frames=30), spec[:, :30])
    longer = run(RAW, x, frames=120)
    np.testing.assert_array_equal(longer[:, :100], spec)
    np.testing.assert_array_equal(longer[:, 100:], 0.0)


def test_gradient_at_silence_is_finite():
    for frontend in (SENSOR, RAW):
        grad = jax.jit(jax.grad(lambda x, f=frontend: jnp.sum(jnp.sin(f(x, frames=9)[0]))))
        assert np.isfinite(grad(jnp.zeros((1, 40, 1)))).all()


def test_int16_is_full_scale(x):
    pcm = np.rint(x * 3000).astype(np.int16)
    np.testing.assert_allclose(run(RAW, pcm), run(RAW, pcm / np.float32(32768)), atol=1e-6)


def test_ssast_reads_scalograms():
    cfg = SSAST(frontend=SENSOR, patch=(5, 4), encoder=ViT(width=16, depth=1, heads=2))
    bound = method = cfg.bind(MOTION)
    assert (bound.frames, bound.grid.freq, bound.grid.time) == (100, 4, 20)
    assert (bound.grid.first, bound.grid.hop) == (10.0, 20.0)
    params = jax.jit(lambda k: method.init(k))(jax.random.key(0))
    features = jax.jit(method.encode)(params, fake_batch(MOTION, 2))
    assert features.tokens.shape == (2, 80, 16)
    assert from_dict(SSAST, to_dict(bound)) == bound


def test_ssast_step_traces():
    from jfreq.config import Experiment

    cfg = SSAST(frontend=SENSOR, patch=(5, 4), encoder=ViT(width=16, depth=1, heads=2))
    assert_step_specs(Experiment("x", cfg, batch=4), MOTION)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"low_hz": 21.0}, "from low_hz 21 up to high_hz 20"),
        ({"high_hz": 30.0}, "above half the rate 50 Hz"),
        ({"n_scales": 1}, "no 1 rows"),
        ({"pool": 0}, "Scalogram.pool"),
        ({"bandwidth": 0.0}, "bandwidth"),
    ],
)
def test_impossible_sizes(changes, match):
    with pytest.raises(InputError, match=match):
        Scalogram(rate=50.0, **changes)


def test_other_data_are_refused():
    SENSOR.check(SignalSpec("acc", 50, 400))
    with pytest.raises(InputError, match=r"frontend.rate: the data hold 'acc' at 100 Hz"):
        SENSOR.check(SignalSpec("acc", 100, 400))
    with pytest.raises(InputError, match="hold no frame of 4"):
        SENSOR.check(SignalSpec("acc", 50, 3))
