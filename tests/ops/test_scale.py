import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from jfreq.ops import scale
from jfreq.types import InputError


@pytest.mark.parametrize(("dtype", "bits"), [("int8", 8), ("int16", 16), ("int32", 32)])
def test_pcm_full_scale(dtype, bits):
    info = np.iinfo(dtype)
    out = scale.pcm_to_float(jnp.asarray([info.min, 0, 1, info.max], dtype))
    assert out.dtype == jnp.float32
    expected = np.array([info.min, 0, 1, info.max], np.float64) / 2.0 ** (bits - 1)
    np.testing.assert_allclose(out, expected, rtol=1e-7)
    assert out[0] == -1


def test_pcm_matches_soundfile(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    pcm = np.random.default_rng(1).integers(-32768, 32768, 500).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", pcm, 8000, subtype="PCM_16")
    expected, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    np.testing.assert_array_equal(scale.pcm_to_float(pcm), expected)


def test_pcm_keeps_floats_and_rejects_unsigned():
    x = np.linspace(-2, 2, 9)
    out = scale.pcm_to_float(x)
    assert out.dtype == jnp.float32
    np.testing.assert_array_equal(out, x.astype(np.float32))
    with pytest.raises(InputError, match="uint8"):
        scale.pcm_to_float(np.zeros(3, np.uint8))


def test_standardise_ast_values_of_padding_and_silence():
    """T2: raw 0 becomes +0.467032, the floor of the log-mel -1.277594 (AudioSet statistics)."""
    x = jnp.asarray([0.0, np.log(1.1920929e-07)], jnp.float32)
    out = scale.standardise(x, -4.2677393, 4.5689974)
    np.testing.assert_allclose(out, [0.467032, -1.277594], atol=2e-6)


def test_standardise_per_channel_is_standard_scaler():
    x = np.random.default_rng(2).normal(3, 5, (4, 6, 3)).astype(np.float32)
    scaler = StandardScaler().fit(x.reshape(-1, 3))
    mean, std = np.asarray(scaler.mean_), np.asarray(scaler.scale_)
    out = scale.standardise(jnp.asarray(x), mean, std, gain=1.0)
    expected = np.asarray(scaler.transform(x.reshape(-1, 3))).reshape(x.shape)
    np.testing.assert_allclose(out, expected, atol=1e-5)


@pytest.mark.parametrize("axes", [(1,), (1, 2), (1, 2, 3)])
def test_standardise_clip_ignores_padding(axes):
    rng = np.random.default_rng(3)
    x = rng.normal(-5, 3, (3, 20, 4, 2)).astype(np.float32)
    lengths = [20, 13, 7]
    valid = (np.arange(20)[None] < np.array(lengths)[:, None])[:, :, None, None]
    run = jax.jit(lambda x, valid: scale.standardise_clip(x, axes, valid=valid))
    out = np.asarray(run(x, valid))
    polluted = np.asarray(run(np.where(valid, x, 1e4).astype(np.float32), valid))
    np.testing.assert_array_equal(out, polluted)
    for row, n in enumerate(lengths):
        part = x[row, :n].astype(np.float64)
        over = tuple(a - 1 for a in axes)
        mean, var = part.mean(over, keepdims=True), part.var(over, keepdims=True)
        np.testing.assert_allclose(out[row, :n], (part - mean) / np.sqrt(var + 1e-5), atol=1e-5)
        assert not out[row, n:].any()


def test_standardise_clip_without_mask_and_on_silence():
    x = jnp.asarray(np.random.default_rng(4).normal(size=(2, 30)), jnp.float32)
    everything = scale.standardise_clip(x, 1, valid=jnp.ones((2, 1), bool))
    np.testing.assert_array_equal(scale.standardise_clip(x, 1), everything)
    silence, cotangent = jnp.zeros((2, 30)), jnp.roll(x, 1, axis=0)
    nothing = jnp.zeros((2, 30), bool)
    for valid in (None, nothing):

        @jax.jit
        def run(x, valid=valid):
            return jax.vjp(lambda x: scale.standardise_clip(x, 1, valid=valid), x)[1](cotangent)[0]

        assert np.isfinite(run(silence)).all()
        assert not scale.standardise_clip(silence, 1, valid=valid).any()
