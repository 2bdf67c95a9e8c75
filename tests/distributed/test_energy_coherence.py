"""Masks by energy and coherence are the same on a mesh."""

import jax
import numpy as np

from jfreq.masks import energy_coherence

from ..masks.test_energy_coherence import noise, parts


def test_same_masks_on_a_mesh_and_no_collectives(key):
    from jfreq.sharding import batch_sharding, make_mesh

    def draw(k, real, imag):
        planes = (
            energy_coherence.energy(real, imag, (1, 4)),
            energy_coherence.coherence(real, imag, (1, 4), taps=3),
        )
        scores = energy_coherence.importance(*planes, 0.5)
        return energy_coherence.sample_by_importance(k, scores, 4, temperature=0.3, floor=0.25)

    real, imag = parts(noise(np.random.default_rng(6), 16, 3, 16, 1))
    place = batch_sharding(make_mesh((8, 1, 1)))
    spread = jax.device_put((real, imag), place)
    sharded = jax.jit(draw, out_shardings=place).lower(key, *spread).compile()
    for a, b in zip(jax.jit(draw)(key, real, imag), sharded(key, *spread)):
        np.testing.assert_array_equal(a, b)
    text = sharded.as_text()
    assert text
    assert not any(op in text for op in ("all-gather", "all-reduce", "all-to-all", "permute"))
