"""Token masks are the same on a mesh and need no collective."""

import jax
import jax.numpy as jnp
import numpy as np

from ..masks.test_tokens import PATCHES, SPANS, masks


def test_same_masks_on_a_mesh_and_no_collectives(key):
    from jfreq.sharding import batch_sharding, make_mesh

    mesh = make_mesh((8, 1, 1))

    def draw(k):
        return masks.cluster(k, 16, PATCHES, 400)

    alone = jax.jit(draw)(key)
    place = batch_sharding(mesh)
    sharded = jax.jit(draw, out_shardings=type(alone)(place, place, place))
    np.testing.assert_array_equal(alone.masked, sharded(key).masked)
    text = sharded.lower(key).compile().as_text()
    assert text
    assert not any(op in text for op in ("all-gather", "all-to-all", "collective-permute"))
    rows = jnp.sort(sharded(key).masked, axis=1)
    assert len({tuple(r) for r in np.asarray(rows).tolist()}) == 16


def test_inverse_blocks_need_no_collective(key):
    from jfreq.sharding import batch_sharding, make_mesh

    place = batch_sharding(make_mesh((4, 2, 1)))
    alone = jax.jit(lambda k: masks.inverse_block(k, 16, SPANS, 102))(key)
    draw = jax.jit(
        lambda k: masks.inverse_block(k, 16, SPANS, 102),
        out_shardings=type(alone)(place, place, place),
    )
    np.testing.assert_array_equal(alone.visible, draw(key).visible)
    text = draw.lower(key).compile().as_text()
    assert text
    assert not any(op in text for op in ("all-gather", "all-to-all", "collective-permute"))
