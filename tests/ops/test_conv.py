"""Grouped convolution against SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate2d

from jfreq.ops import conv
from jfreq.sharding import make_mesh
from jfreq.types import InputError

CASES = [
    ((3, 5, 4, 6), (3, 3, 3, 4)),  # two groups, other channels out
    ((2, 4, 3, 4), (1, 5, 1, 4)),  # a group per channel
    ((2, 3, 6, 2), (3, 1, 2, 3)),  # one group
]
FORMS = [conv.grouped_conv, conv._conv]


def reference(x, kernel):
    """Float64, one pair of channels after the other."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    size, out = kernel.shape[2:]
    groups = x.shape[-1] // size
    y = np.zeros((*x.shape[:3], out))
    for row in range(len(x)):
        for o in range(out):
            first = o // (out // groups) * size
            for c in range(size):
                plane, taps = x[row, :, :, first + c], kernel[:, :, c, o]
                full = correlate2d(np.pad(plane, [(s // 2, s // 2) for s in taps.shape]), taps)
                inner = [slice(s - 1, s - 1 + n) for s, n in zip(taps.shape, plane.shape)]
                y[row, :, :, o] += full[tuple(inner)]
    return y


def sample(shape, kernel):
    rng = np.random.default_rng()
    return (jnp.asarray(rng.normal(size=s), jnp.float32) for s in (shape, kernel))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("shape", "size"), CASES)
def test_against_scipy(form, shape, size):
    x, kernel = sample(shape, size)
    np.testing.assert_allclose(jax.jit(form)(x, kernel), reference(x, kernel), rtol=1e-5, atol=1e-5)


@pytest.fixture
def one_device():
    with jax.set_mesh(make_mesh((1, 1, 1), jax.devices()[:1])):
        yield


@pytest.mark.usefixtures("one_device")
def test_one_device_in_a_scan():
    """As a decoder runs it: layers with stacked kernels, values and gradients."""
    x, kernels = sample((2, 5, 4, 6), (3, 3, 3, 3, 6))

    def run(form):
        def loss(x, kernels):
            y, _ = jax.lax.scan(lambda x, kernel: (jnp.tanh(form(x, kernel)), None), x, kernels)
            return jnp.sum(jnp.square(y))

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(x, kernels)

    for mine, theirs in zip(
        jax.tree.leaves(run(conv.grouped_conv)), jax.tree.leaves(run(conv._conv))
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [(3, 3, 4, 6), (2, 3, 3, 4), (3, 3, 3, 5)])
def test_sizes_that_do_not_fit_are_refused(size):
    with pytest.raises(InputError, match="does not fit 6 channels"):
        conv.grouped_conv(*sample((1, 4, 4, 6), size))
