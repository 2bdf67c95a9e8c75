"""STF-CSL: the loss against its parts, views of a row, the global batch, learning."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jfreq import losses
from jfreq.augment import Views
from jfreq.method import Streams
from jfreq.methods.common.raw_sensors import standardised
from jfreq.methods.stf_csl import STFCSL, match_accuracy
from jfreq.nn.cnn1d import Conv1d
from jfreq.testing import compiled, fake_batch, loss_and_grad
from jfreq.types import DataSpec, InputError, SignalSpec

MOTION = DataSpec(
    tuple(SignalSpec(n, 50.0, 64, 3, mean=(0.0,) * 3, std=(0.1,) * 3) for n in ("acc", "gyro"))
)
FEW = Views(time=("scale", "rotate"), frequency=("shift",))
SMALL = Conv1d(widths=(16, 16), kernels=(7, 5), dropout=0.0, pool="mean")


def made(**fields):
    method = STFCSL(**{"encoder": SMALL, "views": FEW, **fields}).bind(MOTION)
    return method, compiled(method, "init")(jax.random.key(0))


def ratio(metrics):
    return {k: float(a / b) for k, (a, b) in metrics.items()}


def test_loss_is_nt_xent_of_the_projections_of_two_views(key):
    """The same views by hand: rows twice side by side, one key for each."""
    method, params = made(temperature=0.2)
    batch, rngs = fake_batch(MOTION, 5), Streams(key)
    value, metrics, *_ = compiled(method, "loss")(params, {}, batch, rngs, 0)

    @jax.jit
    def by_hand(params, batch):
        twice = [jnp.repeat(x, 2, axis=0) for x in standardised(method.signals, batch, how="data")]
        net, views = method.encoder.build(), method.views(rngs("views"), twice)
        clip = jnp.mean(jnp.asarray(net.apply({"params": params["encoder"]}, views)), axis=1)
        hidden, out = (params["projection"][k] for k in ("hidden", "out"))
        z = jax.nn.relu(clip @ hidden["kernel"] + hidden["bias"][None]) @ out["kernel"]
        z = z + out["bias"][None]
        return losses.nt_xent(z[::2], z[1::2], temperature=0.2)

    np.testing.assert_allclose(value, by_hand(params, batch).mean(), rtol=1e-4)
    found = ratio(metrics)
    assert found["loss"] == pytest.approx(float(value))
    assert {"accuracy", "alignment", "collapse"} <= found.keys()


def test_equal_views_are_aligned(key):
    method, params = made(views=Views(prob=0.0))
    found = ratio(
        compiled(method, "loss")(params, {}, fake_batch(MOTION, 6), Streams(key), 0).metrics
    )
    assert found["alignment"] == pytest.approx(1, abs=1e-5) and found["accuracy"] == 1


def test_accuracy_counts_partners_in_both_directions():
    a = jnp.eye(4)
    assert match_accuracy(a, a).mean() == 1
    assert match_accuracy(a, jnp.roll(a, 1, axis=0)).mean() == 0


def test_learning_pairs_raises_accuracy():
    """Windows of different pitch become tellable apart."""
    rng = np.random.default_rng(0)
    t = np.arange(64) / 50

    def batch():
        hz = rng.uniform(1, 15, (16, 1, 3))
        wave = np.sin(2 * np.pi * hz * t[None, :, None] + rng.uniform(0, 6, (16, 1, 3)))
        signals = {n: jnp.asarray(0.1 * wave, jnp.float32) for n in ("acc", "gyro")}
        return {**fake_batch(MOTION, 16), **signals}

    method, params = made(views=Views(time=("jitter", "scale"), frequency=("shift",)))
    optimiser = optax.adam(3e-3)
    state = optimiser.init(params)

    @jax.jit
    def step(params, state, batch, key):
        found, grads = loss_and_grad(method, params, batch, key)
        updates, state = optimiser.update(grads, state)
        return optax.apply_updates(params, updates), state, found.metrics

    seen = []
    for i in range(60):
        params, state, metrics = step(params, state, batch(), jax.random.key(i))
        seen.append(ratio(metrics))
    assert np.mean([m["loss"] for m in seen[-10:]]) < 0.6 * np.mean([m["loss"] for m in seen[:5]])
    assert seen[-1]["collapse"] < 0.9


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(InputError, match=r"STFCSL\.temperature"):
        STFCSL(temperature=0.0)
    bare = DataSpec((SignalSpec("acc", 50.0, 64, 3),))
    with pytest.raises(
        InputError, match="do not say mean and standard deviation of 'acc'; use 'clip'"
    ):
        STFCSL(encoder=SMALL).bind(bare)
    wide = DataSpec((SignalSpec("x", 50.0, 64, 4, mean=(0.0,) * 4, std=(1.0,) * 4),))
    with pytest.raises(InputError, match="'rotate' rotates triads"):
        STFCSL(encoder=SMALL).bind(wide)
