"""The first update of a recipe at test size, compiled once for golden numbers and odd signals."""

import functools

import jax

from jfreq import recipes, sharding
from jfreq.config import Data, Experiment, replace
from jfreq.testing import batch_spec, data_of, small
from jfreq.train import plan, step
from jfreq.train.state import init_state

ROWS = 4
EXPERIMENTS = recipes.load_all()


def reduced(name, **changes):
    """The method of a recipe at test size, bound; its optimiser, its steps and its data."""
    experiment = EXPERIMENTS[name]
    spec = data_of(experiment)
    optim = replace(experiment.optim, warmup=0)  # whose first update would be none
    method = replace(small(experiment.method), **changes).bind(spec)
    return method, optim, experiment.steps, spec


@functools.cache
def first_update(method, optim, steps, spec, rows):
    """``(key, batch) -> (metrics of the first update, features before it)``."""
    kinds = (jax.sharding.AxisType.Auto,) * 3
    mesh = jax.make_mesh((1, 1, 1), sharding.AXES, kinds, devices=jax.devices()[:1])
    data = Data(sequence=getattr(method, "sequence", 1))
    experiment = Experiment("golden", method, data, optim, steps=steps, batch=rows)
    with jax.set_mesh(mesh):
        setup = plan.plan_step(experiment, batch_spec(spec, rows), mesh)
    update = step.make_step(setup)

    @jax.jit
    def first(key, batch):
        state = init_state(setup.method, setup.optimiser, key)
        features = method.encode(state.params, batch)
        return update(state, batch, key)[1], (features.tokens, features.clip)

    def run(key, batch):
        with jax.set_mesh(mesh):
            return jax.device_get(first(key, batch))

    return run
