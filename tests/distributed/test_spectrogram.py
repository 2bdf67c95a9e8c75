"""Spectrograms are augmented where their rows are, the same with and without jit."""

import re

import jax
import numpy as np
import pytest

from jfreq import augment

from ..augment.test_spectrogram import noise


def both_spans(key, x):
    return augment.spec_augment(key, x, freq=4, time=6)


def half_mixup(key, x):
    return augment.mixup(key, x, x[:, :3, 0, 0], prob=0.5)


@pytest.mark.parametrize("run", [both_spans, half_mixup, augment.add_noise, augment.roll_time])
def test_jit_keys_and_collectives(run, key):
    """Same key same result, eager or compiled; and no device gathers another's rows."""
    x = noise(16, 24, 8, 1)
    compiled = jax.jit(run)
    first = jax.tree.leaves(run(key, x))
    for a, b, c in zip(
        first, *map(jax.tree.leaves, (compiled(key, x), compiled(jax.random.key(1), x)))
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)
        assert (np.asarray(a) != np.asarray(c)).any()
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.P("data")))
    text = compiled.lower(key, rows).compile().as_text() or ""
    assert text
    assert not re.findall(r"all-gather|all-to-all", text)
    if run is not half_mixup:  # the neighbour's row comes from one other device
        assert "collective-permute" not in text
