"""Rows longer or shorter than the encoder's window, against the runtime's own cutting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq.encoder.encoder import Encoder, by_time
from jfreq.evaluate.any_length import AnyLength, for_any_length, with_rescaled_length
from jfreq.method import Method
from jfreq.methods.ssast import SSAST
from jfreq.nn.vit import ViT
from jfreq.ranges import checked
from jfreq.testing import CLIP, compiled
from jfreq.types import DataSpec, Features, InputError, SignalSpec, TokenGrid

SAMPLES = CLIP.signals[0].samples


@pytest.fixture(scope="module")
def model():
    method = SSAST(encoder=ViT(width=16, depth=1, heads=2)).bind(CLIP)
    return method, compiled(method, "init")(jax.random.key(0))


@pytest.mark.parametrize("factor", [0.4, 1.0, 2.7, 3.9])
def test_agrees_with_the_runtime(model, factor):
    method, params = model
    wave = np.random.default_rng().normal(size=(round(factor * SAMPLES),)).astype(np.float32) * 0.1
    expected = Encoder(method, params, signals=method.signals)(wave, 16000)
    encode = jax.jit(AnyLength(method.signals, method).encode)
    found = encode(params, {"audio": jnp.asarray(wave)[None, :, None]})
    frames = np.asarray(by_time(found.tokens, found.grid).mean(2))[0]
    valid = np.asarray(by_time(found.valid, found.grid).any(2))[0]
    assert valid.sum() == expected.valid[0]
    np.testing.assert_allclose(frames[valid], expected.frames[0], atol=2e-4)
    np.testing.assert_allclose(found.clip, expected.clip, atol=2e-4)
    assert found.layers.shape[2] == found.tokens.shape[1] == found.grid.size


def test_padding_of_long_rows_does_not_matter(model):
    method, params = model
    encode = jax.jit(AnyLength(method.signals, method).encode)
    wave = jax.random.normal(jax.random.key(2), (2, 3 * SAMPLES, 1)) * 0.1
    length = jnp.array([3 * SAMPLES, round(1.6 * SAMPLES)])
    poisoned = wave.at[1, length[1] :].set(0.9)
    one, two = (encode(params, {"audio": x, "length": length}) for x in (wave, poisoned))
    np.testing.assert_allclose(one.clip, two.clip, atol=2e-4)
    np.testing.assert_array_equal(one.valid, two.valid)
    alone = encode(params, {"audio": wave[1:, : 2 * SAMPLES], "length": length[1:]})
    np.testing.assert_allclose(one.clip[1:], alone.clip, atol=2e-4)


# ------------------------------------------------------------------ several signals

FAST, SLOW = SignalSpec("fast", 1000.0, 500, 2), SignalSpec("slow", 100.0, 50, 1)
BOTH = (FAST, SLOW)
TOKEN_S = 0.1


@checked
class Powers(Method):
    """A token of 0.1 s holds the mean square of each signal; without a grid one token holds
    those of the whole window, as far as it is valid."""

    grid: bool = True

    def encode(self, params, batch):
        first = self.signals[0]
        hop, time = TOKEN_S * first.rate, round(first.seconds / TOKEN_S)
        parts = []
        for s in self.signals:
            x = batch[s.name].reshape(len(batch[s.name]), time, -1, s.channels)
            parts.append((x**2).mean((2, 3)))
        tokens = jnp.stack(parts, -1)
        centre = hop / 2 + hop * jnp.arange(time)
        valid = (centre[None] <= batch["length"][:, None]) | (jnp.arange(time) == 0)[None]
        clip = (tokens * valid[..., None]).sum(1) / valid.sum(1)[:, None]
        if self.grid:
            return Features(tokens, TokenGrid(time, first=hop / 2, hop=hop), clip, valid)
        return Features(clip[:, None], TokenGrid(1), clip, jnp.ones((len(clip), 1), bool))


class Odd(Method):
    """Tokens of 12.3 fast samples."""

    def encode(self, params, batch):
        rows = len(batch["fast"])
        valid = jnp.ones((rows, 7), bool)
        return Features(
            jnp.ones((rows, 7, 1)), TokenGrid(7, first=6.0, hop=12.3), jnp.ones((rows, 1)), valid
        )


def rows(seconds, count=3):
    """Signals of any duration, and the mean squares of each whole token ``[b t signal]``."""
    rng = np.random.default_rng()
    batch, expected = {}, []
    for s in (FAST, SLOW):
        x = rng.normal(size=(count, round(seconds * s.rate), s.channels)).astype(np.float32)
        batch[s.name], step = jnp.asarray(x), round(TOKEN_S * s.rate)
        whole = x[:, : x.shape[1] // step * step].reshape(count, -1, step * s.channels)
        expected.append((whole**2).mean(-1))
    return batch, np.stack(expected, -1)


@pytest.mark.parametrize("order", [(FAST, SLOW), (SLOW, FAST)], ids=["fast first", "slow first"])
@pytest.mark.parametrize("seconds", [0.3, 0.5, 1.0, 1.2, 1.7])
def test_two_rates_in_closed_form(order, seconds):
    batch, expected = rows(seconds)
    found = jax.jit(AnyLength(order, Powers(order)).encode)({}, batch)
    if order[0] is SLOW:
        expected = expected[..., ::-1]
    clip = expected.mean(1)
    np.testing.assert_allclose(found.clip, clip, rtol=1e-5)
    valid = np.asarray(found.valid)
    assert (valid.sum(1) == round(seconds / TOKEN_S)).all()
    np.testing.assert_allclose(found.tokens[0][valid[0]], expected[0], rtol=1e-5)


def test_without_a_lattice_windows_do_not_overlap():
    """One vector for each window: as many windows as fit, not one for each sample."""
    batch, expected = rows(1.5)
    encode = AnyLength(BOTH, Powers(BOTH, grid=False)).encode
    found = jax.jit(encode)({}, batch)
    assert found.grid == TokenGrid(3, first=250.0, hop=500.0)
    np.testing.assert_allclose(found.tokens, expected.reshape(3, 3, 5, 2).mean(2), rtol=1e-5)
    np.testing.assert_allclose(found.clip, expected.mean(1), rtol=1e-5)


def test_length_counts_samples_of_the_datas_first_signal():
    """An encoder of the slow signal reads rows whose length is given in fast samples."""
    batch, expected = rows(0.5)
    batch["length"] = jnp.array([500, 300, 100])
    method = for_any_length(Powers((SLOW,)), DataSpec(BOTH))
    found = compiled(method, "encode")({}, batch)
    np.testing.assert_array_equal(found.valid.sum(1), [5, 3, 1])
    for row, count in enumerate((5, 3, 1)):
        np.testing.assert_allclose(found.clip[row, 0], expected[row, :count, 1].mean(), rtol=1e-5)
    same = Powers(BOTH)
    assert with_rescaled_length(same, DataSpec(BOTH)) is same


def test_rows_that_no_hop_can_cut():
    """Tokens of 12.3 fast samples are never a whole number of slow ones within a window."""
    batch, _ = rows(1.2)
    with pytest.raises(
        InputError,
        match=r"rows of 1\.2 s cannot be cut into windows of 0\.5 s.*"
        r"fast, slow; prepare .* --seconds 0\.5",
    ):
        jax.eval_shape(AnyLength(BOTH, Odd(BOTH)).encode, {}, batch)
