"""Signals that instruments give and noise never is: every method has a finite loss, finite
gradients and finite features of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq import methods, recipes
from jfreq.config import replace
from jfreq.method import Streams
from jfreq.testing import MOTION, SECOND, fake_batch, small

NAMES = {
    "AST": "ast_nano", "AaSP": "aape_nano", "AudioMAE": "audiomae_nano", "BEATs": "beats_nano",
    "BEATsTokenizer": "beats_tokenizer_nano", "Data2Vec": "data2vec_nano", "EAT": "eat_nano",
    "FOCAL": "focal_hapt", "FreqMAE": "freqmae_hapt", "LTFC": "ltfc_hapt", "MAE": "mae_hapt",
    "PhyMask": "phymask_hapt", "SSAST": "ssast_nano", "STFCSL": "stf_csl_hapt",
    "STFNet": "stfnet_hapt",
}  # fmt: skip
"""A recipe of every method; a classifier of another's encoder is one of these and a linear map."""

STF = {"encoder__windows": (16, 32), "encoder__width": 8, "encoder__sensor_width": 8}
SMALLER = {
    "Data2Vec": {"features__widths": (8,) * 7, "encoder__width": 16},
    "FOCAL": {"encoder__depths": (1,)},
    "FreqMAE": {"encoder__depths": (1,)},
    "STFCSL": STF,
    "STFNet": STF,
}
"""What else is cut of those that take long to compile."""


def tone(rng, t, n):
    """Whole cycles in every sixteenth of a window, all channels in phase, loud and faint."""
    cycles, phase = 16 * rng.integers(1, n // 32), rng.uniform(-np.pi, np.pi)
    return rng.choice([1e-3, 1.0, 10.0]) * np.cos(2 * np.pi * cycles * t / n + phase)


def impulse(rng, t, n):
    return rng.choice([-1e-3, 1.0, 10.0]) * (t == rng.integers(n))


def constant(rng, t, n):
    return np.full(t.shape, rng.choice([-1e-3, 1.0, -10.0]))


def silence(rng, t, n):
    return np.zeros(t.shape)


def stuck(rng, t, n):
    """Noise up to a sample, then that sample for ever."""
    return rng.normal(size=n)[np.minimum(t, rng.integers(n))]


KINDS = tone, impulse, constant, silence, stuck


def batch_of(kind, spec, rows, *, other=None):
    """A batch whose sensors all give ``kind``, or whose last sensor gives ``other``, once they are
    standardised."""
    batch, rng = dict(fake_batch(spec, rows)), np.random.default_rng(0)
    for i, s in enumerate(spec.signals):
        made = other if other and i == len(spec.signals) - 1 else kind
        if made is not None:
            x = np.stack([made(rng, np.arange(s.samples), s.samples) for _ in range(rows)])
            x = np.repeat(x[..., None], s.channels, axis=2)
            if made is not silence and s.mean:
                x = x * s.std + s.mean
            batch[s.name] = jnp.asarray(x, jnp.float32)
    return batch


def bad(tree):
    """Paths of the arrays that are not finite."""
    found = jax.tree_util.tree_leaves_with_path(tree)
    return [jax.tree_util.keystr(path) for path, x in found if not np.isfinite(x).all()]


def program(method):
    """The state of a method, and its loss, gradients and features of a batch, compiled."""

    @jax.jit
    def init(key):
        params = method.init(key)
        return params, method.init_target(params)

    @jax.jit
    def run(state, batch):
        params, target = state

        def loss(params):
            found = method.loss(params, target, batch, Streams(jax.random.key(1)), 0)
            return found.value, found.metrics

        value, grads = jax.value_and_grad(loss, has_aux=True)(params)
        features = method.encode(params, batch)
        return value, grads, features.tokens, features.clip

    return functools.partial(run, init(jax.random.key(0)))


@pytest.mark.parametrize("name", NAMES)
def test_signals_that_are_no_noise(name):
    experiment = recipes.load(NAMES[name])
    spec = MOTION if "hapt" in experiment.name else SECOND
    method = replace(small(experiment.method), **SMALLER.get(name, {})).bind(spec)
    run, rows = program(method), 16 if spec is MOTION else 4
    batches = {kind.__name__: batch_of(kind, spec, rows) for kind in KINDS}
    if len(spec.signals) > 1:
        batches |= {
            f"one sensor: {kind.__name__}": batch_of(None, spec, rows, other=kind) for kind in KINDS
        }
    found = {kind: bad(run(batch)) for kind, batch in batches.items()}
    assert not any(found.values()), found


def test_every_method_is_here():
    assert set(NAMES) == {cls.__name__ for cls in methods.PAPERS} - {"Classify"}
