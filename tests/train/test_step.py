"""Micro-batches of runs of rows, what a loss hands to the target, streams of randomness."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial

from jfreq import methods
from jfreq.config import replace
from jfreq.method import Method, Streams, summarise
from jfreq.methods.ssast import SSAST
from jfreq.nn.vit import ViT
from jfreq.testing import CLIP
from jfreq.train import initial_state, plan, step
from jfreq.train.state import State


def test_streams_share_no_key():
    """Nor does a stream depend on which others there are: a name alone tells its key."""
    names = (
        "mask",
        "fill",
        "views",
        "map_views",
        "mixup",
        "spec_augment",
        "noise",
        "roll",
        "dropout",
    )
    rngs = Streams(jax.random.key(0))
    streams = [rngs, *(rngs.at(i) for i in range(3)), *(rngs.at(0).at(i) for i in range(3))]
    keys = [at.key for at in streams] + [at(name) for at in streams for name in names]
    data = {tuple(np.asarray(jax.random.key_data(key)).tolist()) for key in keys}
    assert len(data) == len(keys)


def test_equal_methods_share_a_program():
    """A method is static: a second one of the same fields is not traced again, another one is."""

    @functools.partial(jax.jit, static_argnums=0)
    @chex.assert_max_traces(n=1)
    def init(method, key):
        return method.init(key)

    def bound(depth):
        return SSAST(encoder=ViT(width=8, depth=depth, heads=1)).bind(CLIP)

    for _ in range(2):
        init.trace(bound(1), jax.random.key(0))
    with pytest.raises(AssertionError):
        init.trace(bound(2), jax.random.key(0))
    for cls in methods.PAPERS:
        assert cls() == cls() and hash(cls()) == hash(cls())


def test_a_seed_is_no_part_of_the_program(experiment):
    one, other = (plan.plan_run(replace(experiment, seed=seed)) for seed in (0, 1))
    with jax.set_mesh(one.mesh):
        texts = [step.lower_step(setup).as_text() for setup in (one, other)]
        keys = [jax.random.key_data(initial_state.run_key(setup)) for setup in (one, other)]
    assert texts[0] == texts[1]
    assert (keys[0] != keys[1]).any()


def spread(x):
    return {"spread": (jnp.ptp(x), jnp.ones(()))}


class Diagnosed(Method):
    """Least squares on four samples, with a diagnostic of its rows."""

    def loss(self, params, target, batch, rngs, step):
        x = batch["audio"][:, :4, 0].astype(jnp.float32)
        loss = summarise({"loss": jnp.square(x @ params["w"])}, batch)
        return loss._replace(diagnostics=Partial(spread, x))


@pytest.mark.parametrize("parts", [1, 2])
def test_diagnostics_are_computed_where_they_are_logged(experiment, parts):
    """Every second update and the last; with micro-batches they are added up like all metrics."""
    cfg = replace(experiment, log__every=2, steps=3, accumulate=parts)
    optimiser = optax.sgd(1e-3)
    setup = dataclasses.replace(plan.plan_run(cfg), method=Diagnosed(), optimiser=optimiser)
    rng = np.random.default_rng(0)
    audio = rng.normal(size=(8, 6, 1)).astype(np.float32)
    batch = {"audio": audio, "_mask": np.ones(8, np.float32)}
    params = {"w": jnp.ones(4)}
    state = State(jnp.zeros((), jnp.int32), params, optimiser.init(params), {})
    update, found = jax.jit(step.make_step(setup)), []
    for _ in range(3):
        state, metrics = update(state, batch, jax.random.key(0))
        found.append(tuple(map(float, metrics["spread"])))
    wanted = sum(np.ptp(audio[i::parts, :4]) for i in range(parts))
    assert found == [(0, 0), *[(pytest.approx(wanted), parts)] * 2]
    assert step.is_logged(cfg, 3) and not step.is_logged(cfg, 1)
