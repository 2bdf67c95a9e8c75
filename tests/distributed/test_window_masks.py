"""Window masks are the same on a mesh and need no collective."""

import jax
import numpy as np

from jfreq.masks import window_masks

from ..masks.test_window_masks import plane


def test_same_masks_on_a_mesh_and_no_collectives(key):
    from jfreq.sharding import batch_sharding, make_mesh

    def both(k):
        options = {"window": (1, 3), "ratio": 0.7, "kind": "mixed"}
        valid = plane((4, 12), (4, 9))
        return (
            window_masks.sample(k, 16, valid, **options),
            window_masks.sample(k, 16, valid, **options, mirror=True),
        )

    place = batch_sharding(make_mesh((8, 1, 1)))
    sharded = jax.jit(both, out_shardings=(place, place)).lower(key).compile()
    for a, b in zip(jax.jit(both)(key), sharded(key)):
        np.testing.assert_array_equal(a, b)
    text = sharded.as_text()
    assert text
    assert not any(op in text for op in ("all-gather", "all-reduce", "all-to-all", "permute"))
