from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq.nn.deepsense_stft import DeepSenseSTFT
from jfreq.types import InputError

CFG = DeepSenseSTFT(width=8, blocks=2, hidden=4)


@pytest.fixture(scope="module")
def net():
    module = CFG.build()
    x = jax.random.normal(jax.random.key(1), (2, 5, 6, 3))
    return module, jax.jit(module.init)(jax.random.key(0), x), x


def test_frames_meet_in_the_grus_only(net):
    """Before them a change stays in its frame; behind them it reaches all, both ways."""
    module, params, x = net

    @jax.jit
    def run(x):
        out, seen = module.apply(params, x, capture_intermediates=True)
        return out, seen["intermediates"]["frame"]["__call__"][0]

    (out, frame), (moved, moved_frame) = run(x), run(x.at[0, 2].add(1.0))
    assert out.shape == (2, 5, 8) and frame.shape == (2, 5, 8)
    changed = np.abs(moved_frame - frame).max(-1) > 0
    assert changed.tolist() == [[False, False, True, False, False], [False] * 5]
    assert (np.abs(moved - out).max(-1) > 0).tolist() == [[True] * 5, [False] * 5]


def test_what_stands_in_frames_without_signal_does_not_matter(net):
    module, params, x = net
    run = jax.jit(lambda x, valid: module.apply(params, x, valid))
    valid = jnp.array([[True] * 3 + [False] * 2, [True] * 5])
    np.testing.assert_array_equal(run(x, valid), run(x.at[0, 3:].set(9.0), valid))


def test_bad_sizes_are_refused():
    for field, value in (("width", 1), ("kernel", 0), ("dropout", 1.0)):
        change: dict[str, Any] = {field: value}
        with pytest.raises(InputError, match=rf"\.{field}: must be"):
            DeepSenseSTFT(**change)
