"""Attention whose score tables never leave the cache.

Each head of each row is an item of work; threads take them one by one, and nothing is added up over
items, so results do not depend on who computed what. An item goes through its queries a few at a
time, forward as in section 3.1 of Dao et al., FlashAttention (NeurIPS 2022), with all keys at once,
and backward as :func:`jfreq.kernels.cpu.grouped_attention._head_major` says.
"""

from __future__ import annotations

import functools

import numpy as np
from numba import cfunc, njit, types

from jfreq.kernels.cpu.native import calls, lanes
from jfreq.kernels.cpu.native.calls import (
    FREE,
    ITEMS,
    argument,
    data,
    get,
    put,
    rank,
    result,
    size,
)
from jfreq.kernels.cpu.native.lanes import COLUMNS, LANES, ROWS
from jfreq.kernels.cpu.native.memory import (
    allocate,
    fill,
    options,
    read_float,
    round_up,
    write_float,
)

_QUERIES = 36
"""Queries at a time: whole tiles; 24 to 130 were equally fast."""

(_H, _N, _M, _D, _Q, _K, _V, _MASK, _STRIDE, _OUT, _STATISTICS,
 _DOUT, _DQ, _DK, _DV, _WORDS) = range(FREE, FREE + 16)  # fmt: skip
"""Words of the work: heads, queries, keys, width of a head; addresses; floats between tokens."""


@njit(**options)
def _copy(source, source_stride, rows, d, out, out_stride, factor):
    """``rows`` times ``d`` floats, times ``factor``."""
    for i in range(rows):
        first, to = source + 4 * i * source_stride, out + 4 * i * out_stride
        for j in range(d):
            write_float(to + 4 * j, read_float(first + 4 * j) * factor)


@njit(**options)
def _panels(source, stride, rows, d, out, factor):
    """``[rows d]`` as ``[d/COLUMNS rows COLUMNS]``, the right side of products, zero-padded."""
    for first in range(0, d, COLUMNS):
        width = min(COLUMNS, d - first)
        panel = out + 4 * first * rows
        if width < COLUMNS:
            fill(panel, rows * COLUMNS, np.float32(0))
            _copy(source + 4 * first, stride, rows, width, panel, COLUMNS, factor)
        else:
            _copy(source + 4 * first, stride, rows, COLUMNS, panel, COLUMNS, factor)


@njit(**options)
def _transposed(source, stride, rows, d, out, width, factor):
    """``[rows d]`` as ``[rows/width d width]``, zero-padded: the left side of products for
    ``width`` ROWS, the right side for COLUMNS."""
    for first in range(0, rows, width):
        panel, count = out + 4 * first * d, min(width, rows - first)
        if count < width:
            fill(panel, d * width, np.float32(0))
        for i in range(count):
            token = source + 4 * (first + i) * stride
            for j in range(d):
                write_float(panel + 4 * (j * width + i), read_float(token + 4 * j) * factor)


@njit(error_model="numpy", nogil=True, fastmath={"reassoc", "contract"})
def _dot(x, y, d):
    total = np.float32(0)
    for j in range(d):
        total += read_float(x + 4 * j) * read_float(y + 4 * j)
    return total


@njit(**options)
def _mask_row(work, row, out):
    """What is added to the scores of a row; minus infinity for padding."""
    m, given = get(work, _M), get(work, _MASK)
    _copy(given + 4 * row * m, 0, 1, m, out, 0, np.float32(1))
    fill(out + 4 * m, round_up(m, COLUMNS) - m, np.float32(-np.inf))


@njit(**options)
def _table(left, right, d, table, stride, tiles, keys):
    """A product of transposed panels, the scores of ``tiles`` times ROWS queries."""
    for first in range(0, keys, COLUMNS):
        for t in range(tiles):
            lanes.multiply(
                left + 4 * t * ROWS * d, ROWS, right + 4 * first * d,
                table + 4 * (t * ROWS * stride + first), stride, d,
            )  # fmt: skip


@njit(**options)
def _weighted(table, stride, right, m, out, wide, tiles):
    """Sums of panels ``[wide/COLUMNS m COLUMNS]`` with the weights of a table."""
    for first in range(0, wide, COLUMNS):
        for t in range(tiles):
            lanes.multiply_rows(
                table + 4 * t * ROWS * stride, stride, right + 4 * first * m,
                out + 4 * (t * ROWS * wide + first), wide, m,
            )  # fmt: skip


@njit(**options)
def _add_up(table, stride, right, n, begin, count, out, wide, m):
    """``out [m wide] += tableT right`` over the queries from ``begin`` on."""
    for first in range(0, wide, COLUMNS):
        for key in range(0, m, ROWS):
            lanes.add_product(
                table + 4 * key, stride, right + 4 * (first * n + begin * COLUMNS),
                out + 4 * (key * wide + first), wide, count,
            )  # fmt: skip


@njit(**options)
def _floats(n, m, d, backward):
    """Floats that an item needs beside its arguments."""
    wide, keys = round_up(d, COLUMNS), round_up(m, COLUMNS)
    one = keys + keys * d + m * wide + round_up(n, ROWS) * d + _QUERIES * (keys + LANES + wide)
    two = keys * d + 2 * n * wide + round_up(n, ROWS) * d + _QUERIES * (keys + LANES)
    return one + (two + 2 * round_up(m, ROWS) * wide if backward else 0)


@njit(**options)
def _forward_item(work, item, place):
    h, n, m, d = get(work, _H), get(work, _N), get(work, _M), get(work, _D)
    row, head = item // h, item % h
    between = get(work, _STRIDE)
    q = get(work, _Q) + 4 * (row * n * between + head * d)
    k = get(work, _K) + 4 * (row * m * between + head * d)
    v = get(work, _V) + 4 * (row * m * between + head * d)
    out = get(work, _OUT) + 4 * (row * n * h + head) * d
    statistics = get(work, _STATISTICS) + 8 * item * n
    wide, keys = round_up(d, COLUMNS), round_up(m, COLUMNS)
    stride = keys + LANES  # no power of 2, whose rows would lie in few sets of the cache
    mask = place
    k_t = mask + 4 * keys
    v_panels = k_t + 4 * keys * d
    q_t = v_panels + 4 * m * wide
    scores = q_t + 4 * round_up(n, ROWS) * d
    sums = scores + 4 * _QUERIES * stride
    _mask_row(work, row, mask)
    _transposed(k, between, m, d, k_t, COLUMNS, np.float32(1))
    _panels(v, between, m, d, v_panels, np.float32(1))
    _transposed(q, between, n, d, q_t, ROWS, np.float32(1 / np.sqrt(d)))
    for begin in range(0, n, _QUERIES):
        count = min(_QUERIES, n - begin)
        tiles = (count + ROWS - 1) // ROWS
        _table(q_t + 4 * begin * d, k_t, d, scores, stride, tiles, keys)
        for i in range(count):
            line, kept = scores + 4 * i * stride, statistics + 8 * (begin + i)
            top = lanes.row_top(line, mask, keys // COLUMNS)
            total = lanes.row_weights(line, mask, top, keys // COLUMNS)
            write_float(kept, top)
            write_float(kept + 4, np.float32(1) / total)
        _weighted(scores, stride, v_panels, m, sums, wide, tiles)
        for i in range(count):
            factor = read_float(statistics + 8 * (begin + i) + 4)
            _copy(sums + 4 * i * wide, 0, 1, d, out + 4 * (begin + i) * h * d, 0, factor)


@njit(**options)
def _backward_item(work, item, place):
    h, n, m, d = get(work, _H), get(work, _N), get(work, _M), get(work, _D)
    row, head = item // h, item % h
    between, stride_o = get(work, _STRIDE), h * d
    at_q = 4 * (row * n * between + head * d)
    at_k = 4 * (row * m * between + head * d)
    at_o = 4 * (row * n * h + head) * d
    q, k, v = get(work, _Q) + at_q, get(work, _K) + at_k, get(work, _V) + at_k
    out, d_out = get(work, _OUT) + at_o, get(work, _DOUT) + at_o
    statistics = get(work, _STATISTICS) + 8 * item * n
    wide, keys, whole = round_up(d, COLUMNS), round_up(m, COLUMNS), round_up(m, ROWS)
    stride = keys + LANES
    mask = place
    k_t = mask + 4 * keys
    v_t = k_t + 4 * keys * d
    k_panels = v_t + 4 * keys * d
    q_panels = k_panels + 4 * m * wide
    o_panels = q_panels + 4 * n * wide
    q_t = o_panels + 4 * n * wide
    o_t = q_t + 4 * round_up(n, ROWS) * d
    scores = o_t + 4 * round_up(n, ROWS) * d
    gradient = scores + 4 * _QUERIES * stride
    sums = gradient + 4 * _QUERIES * stride
    d_k = sums + 4 * _QUERIES * wide
    d_v = d_k + 4 * whole * wide
    one, scale = np.float32(1), np.float32(1 / np.sqrt(d))
    _mask_row(work, row, mask)
    _transposed(k, between, m, d, k_t, COLUMNS, one)
    _transposed(v, between, m, d, v_t, COLUMNS, one)
    _transposed(q, between, n, d, q_t, ROWS, scale)
    _transposed(d_out, stride_o, n, d, o_t, ROWS, one)
    _panels(k, between, m, d, k_panels, scale)
    _panels(q, between, n, d, q_panels, scale)
    _panels(d_out, stride_o, n, d, o_panels, one)
    fill(d_k, 2 * whole * wide, np.float32(0))
    for begin in range(0, n, _QUERIES):
        count = min(_QUERIES, n - begin)
        tiles = (count + ROWS - 1) // ROWS
        _table(q_t + 4 * begin * d, k_t, d, scores, stride, tiles, keys)
        _table(o_t + 4 * begin * d, v_t, d, gradient, stride, tiles, keys)
        for i in range(count):
            at, kept = 4 * (begin + i) * stride_o, statistics + 8 * (begin + i)
            lanes.row_gradient(
                scores + 4 * i * stride, gradient + 4 * i * stride, mask, read_float(kept),
                read_float(kept + 4), _dot(out + at, d_out + at, d), keys // COLUMNS,
            )  # fmt: skip
        _weighted(gradient, stride, k_panels, m, sums, wide, tiles)
        _add_up(scores, stride, o_panels, n, begin, count, d_v, wide, m)
        _add_up(gradient, stride, q_panels, n, begin, count, d_k, wide, m)
        to = get(work, _DQ) + at_q + 4 * begin * between
        _copy(sums, wide, count, d, to, between, one)
    _copy(d_k, wide, m, d, get(work, _DK) + at_k, between, one)
    _copy(d_v, wide, m, d, get(work, _DV) + at_k, between, one)


@njit(**options)
def _work_floats(work):
    return _floats(get(work, _N), get(work, _M), get(work, _D), get(work, _DOUT) != 0)


@njit(**options)
def _item(work, item, place):
    if get(work, _DOUT) != 0:
        _backward_item(work, item, place)
    else:
        _forward_item(work, item, place)


_thread_address = calls.taking_items(_work_floats, _item)


@njit(**options)
def _part(buffer, i, joined):
    """Queries, keys or values: an array of their own, or inside of ``[b n 3 h k]``."""
    return data(buffer) + (4 * i * size(buffer, 3) * size(buffer, 4) if joined else 0)


@njit(**options)
def _run(frame):
    """Arguments are q, k, v ``[b n h k]``, or all of them as ``[b n 3 h k]``; the mask ``[b m]``;
    backward also output, statistics and the gradient of the output. Results are output and
    statistics ``[b h n 2]``, or the gradients of the first arguments."""
    if calls.asks_for_version(frame):
        return 0
    q = argument(frame, 0)
    joined = rank(q) == 5
    k, v, rest = (q, q, 1) if joined else (argument(frame, 1), argument(frame, 2), 3)
    h, d = size(q, rank(q) - 2), size(q, rank(q) - 1)
    work = allocate(8 * _WORDS)
    put(work, ITEMS, size(q, 0) * h)
    put(work, _H, h)
    put(work, _N, size(q, 1))
    put(work, _M, size(k, 1))
    put(work, _D, d)
    put(work, _STRIDE, (3 if joined else 1) * h * d)
    put(work, _Q, _part(q, 0, joined))
    put(work, _K, _part(k, 1, joined))
    put(work, _V, _part(v, 2, joined))
    put(work, _MASK, data(argument(frame, rest)))
    if calls.arguments(frame) == rest + 1:
        put(work, _OUT, data(result(frame, 0)))
        put(work, _STATISTICS, data(result(frame, 1)))
        put(work, _DOUT, 0)
    else:
        put(work, _OUT, data(argument(frame, rest + 1)))
        put(work, _STATISTICS, data(argument(frame, rest + 2)))
        put(work, _DOUT, data(argument(frame, rest + 3)))
        put(work, _DQ, _part(result(frame, 0), 0, joined))
        put(work, _DK, _part(result(frame, 0 if joined else 1), 1, joined))
        put(work, _DV, _part(result(frame, 0 if joined else 2), 2, joined))
    return calls.share(frame, work, _thread_address())


@functools.cache
def register(target: str) -> None:
    """Makes the kernel known to XLA by this name; once in a process."""
    digest = calls.digest()

    @cfunc(types.intp(types.intp), cache=True, error_model="numpy")
    def handler(frame):
        return _run(frame) + 0 * digest

    calls.register(target, handler)
