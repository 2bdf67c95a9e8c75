"""Estimates of a step from its trace: against closed forms and against what XLA compiles."""

import functools

import jax
import jax.numpy as jnp
import pytest

from jfreq.plan import estimate

N, M, K, L = 64, 96, 32, 5


def traced(fn, *shapes):
    return jax.make_jaxpr(fn)(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)).jaxpr


def loop(x, w):
    return jax.lax.scan(lambda c, w: (jnp.tanh(c @ w), c), x, w)


def test_products_read_and_write_once_and_all_else_is_fused():
    found = traced(lambda x, w: jax.nn.gelu(x @ w) + 1, (N, K), (K, M))
    assert estimate._traffic(found) == 4 * (N * K + K * M + N * M)


def test_loops_move_what_they_are_given_and_keep():
    """A round reads its input, its weight and writes a product; weights are read in slices of the
    stack, and inputs are kept in one."""
    found = traced(loop, (8, N, K), (L, K, K))
    each = 8 * N * K + K * K + 8 * N * K
    assert estimate._traffic(found) == 4 * (L * each + L * K * K + L * 8 * N * K)


def test_the_stream_is_what_a_loop_over_blocks_carries():
    assert estimate._stream(traced(loop, (8, N, K), (L, K, K))) == 4 * L * 8 * N * K
    assert estimate._stream(traced(loop, (N, K), (L, K, K))) == 0, "no tokens, no stream"


def test_live_values_are_those_that_are_still_needed():
    """Of a chain two values live at a time; a value that is read at the end lives through it."""
    size = 4 * N * N

    def chain(x, depth, late):
        y = first = x * 2
        for _ in range(depth):
            y = y @ y
        return y + first if late else y

    for depth in (2, 7):
        found = [
            estimate._live(traced(functools.partial(chain, depth=depth, late=late), (N, N)))
            for late in (False, True)
        ]
        assert found == [2 * size, 3 * size]


@pytest.mark.parametrize("remat", [False, True])
def test_what_the_backward_pass_keeps(remat):
    """XLA's own count of temporaries, within a half: it keeps what the estimate says is alive."""
    rows, width, depth = 256, 64, 12

    def block(x, w):
        return x + jnp.tanh(x @ w) @ w.T

    def loss(w, x):
        body = jax.checkpoint(block) if remat else block
        return jnp.square(jax.lax.scan(lambda c, w: (body(c, w), None), x, w)[0]).sum()

    shapes = (depth, width, width), (rows, 8, width)
    args = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
    program = jax.jit(jax.grad(loss)).lower(*args).compile()
    stats = program.memory_analysis()
    real = stats.temp_size_in_bytes + stats.output_size_in_bytes
    found = estimate._live(jax.make_jaxpr(jax.grad(loss))(*args).jaxpr)
    assert found == pytest.approx(real, rel=0.5)


def test_a_line_through_two_costs():
    low, high = estimate.Cost(10.0, 20.0, 30.0, 4.0), estimate.Cost(14.0, 20.0, 60.0, 8.0)
    assert low.at(high, 0.0) == low and low.at(high, 1.0) == high
    assert low.at(high, 3.0) == estimate.Cost(22.0, 20.0, 120.0, 16.0)
    assert low.at(high, -1.0) == estimate.Cost(6.0, 20.0, 0.0, 0.0), "never below nothing"
