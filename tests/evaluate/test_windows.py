"""Rows longer or shorter than the encoder's window, against the runtime's own cutting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq.evaluate.windows import any_length
from jfreq.export.runtime import Encoder, by_time
from jfreq.methods.ssast import SSAST
from jfreq.nn.vit import ViT
from jfreq.testing import CLIP, bound_method

SAMPLES = CLIP.signals[0].samples


@pytest.fixture(scope="module")
def model():
    cfg, method = bound_method(SSAST(encoder=ViT(width=16, depth=1, heads=2)))
    return cfg, method, jax.jit(lambda key: method.init(key, {}))(jax.random.key(0))


@pytest.mark.parametrize("factor", [0.4, 1.0, 2.7, 3.9])
def test_agrees_with_the_runtime(model, factor):
    cfg, method, params = model
    wave = np.random.default_rng().normal(size=(round(factor * SAMPLES),)).astype(np.float32) * 0.1
    expected = Encoder(method, params, signals=cfg.signals)(wave, 16000)
    encode = jax.jit(any_length(method, cfg.signals).encode)
    found = encode(params, {"audio": jnp.asarray(wave)[None, :, None]})
    frames = np.asarray(by_time(found.tokens, found.grid).mean(2))[0]
    valid = np.asarray(by_time(found.valid, found.grid).any(2))[0]
    assert valid.sum() == expected.valid[0]
    np.testing.assert_allclose(frames[valid], expected.frames[0], atol=2e-4)
    np.testing.assert_allclose(found.clip, expected.clip, atol=2e-4)
    assert found.layers.shape[2] == found.tokens.shape[1] == found.grid.size


def test_padding_of_long_rows_does_not_matter(model):
    cfg, method, params = model
    encode = jax.jit(any_length(method, cfg.signals).encode)
    wave = jax.random.normal(jax.random.key(2), (2, 3 * SAMPLES, 1)) * 0.1
    length = jnp.array([3 * SAMPLES, round(1.6 * SAMPLES)])
    poisoned = wave.at[1, length[1] :].set(0.9)
    one, two = (encode(params, {"audio": x, "length": length}) for x in (wave, poisoned))
    np.testing.assert_allclose(one.clip, two.clip, atol=2e-4)
    np.testing.assert_array_equal(one.valid, two.valid)
    alone = encode(params, {"audio": wave[1:, : 2 * SAMPLES], "length": length[1:]})
    np.testing.assert_allclose(one.clip[1:], alone.clip, atol=2e-4)
