"""Signals that instruments give and noise never is: every method has a finite loss, finite
gradients and finite features of them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq import methods
from jfreq.testing import fake_batch
from tests.first_update import ROWS, first_update, reduced

NAMES = {
    "AST": "ast_nano", "AaSP": "aape_nano", "AudioMAE": "audiomae_nano", "BEATs": "beats_nano",
    "BEATsTokenizer": "beats_tokenizer_nano", "Data2Vec": "data2vec_nano", "EAT": "eat_nano",
    "FOCAL": "focal_hapt", "FreqMAE": "freqmae_hapt", "LTFC": "ltfc_hapt", "MAE": "mae_hapt",
    "PhyMask": "phymask_hapt", "SSAST": "ssast_nano", "STFCSL": "stf_csl_hapt",
    "STFNet": "stfnet_hapt",
}  # fmt: skip
"""A recipe of every method; a classifier of another's encoder is one of these and a linear map."""

SMALLER = {"FOCAL": {"encoder__depths": (1,)}, "FreqMAE": {"encoder__depths": (1,)}}
"""What else is cut of those that have no golden step whose program could be shared."""


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


def batch_of(kind, spec, rows, *, other=None, seed=0):
    """A batch whose sensors all give ``kind``, or whose last sensor gives ``other``, once they are
    standardised."""
    batch, rng = dict(fake_batch(spec, rows)), np.random.default_rng(seed)
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


@pytest.mark.parametrize("name", NAMES)
def test_signals_that_are_no_noise(name):
    """Four batches of every kind; a norm of gradients that is finite has only finite parts."""
    *given, spec = reduced(NAMES[name], **SMALLER.get(name, {}))
    rows = 16 if name == "FOCAL" else ROWS  # its loss compares sub-sequences of four
    run = first_update(*given, spec, rows)
    kinds = {kind.__name__: {"kind": kind} for kind in KINDS}
    if len(spec.signals) > 1:
        kinds |= {f"one sensor: {k.__name__}": {"kind": None, "other": k} for k in KINDS}
    found = {}
    for (kind, made), seed in itertools.product(kinds.items(), range(4)):
        batch = batch_of(**made, spec=spec, rows=rows, seed=seed)
        metrics, features = run(jax.random.key(0), batch)
        assert {"loss", "grad_norm"} <= set(metrics)
        found[kind, seed] = bad((metrics, features))
    assert not any(found.values()), found


def test_every_method_is_here():
    assert set(NAMES) == {cls.__name__ for cls in methods.PAPERS} - {"Classify"}
