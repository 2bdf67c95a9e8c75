"""Convolution of groups of channels, whose neighbourhoods never leave the cache.

Forward each group of each row is an item of work, for the gradient by the kernel each group. An
item lays its channels out with zeros around them, and multiplies the neighbourhoods of a few
positions at a time. Nothing is added up over items, so results do not depend on who computed what.
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
    result,
    size,
)
from jfreq.kernels.cpu.native.lanes import COLUMNS, ROWS
from jfreq.kernels.cpu.native.memory import (
    allocate,
    fill,
    options,
    read_float,
    round_up,
    write_float,
)

(_B, _H, _T, _C, _HIGH, _WIDE, _SIZE, _OUT, _X, _GIVEN, _FOUND, _BY_KERNEL,
 _WORDS) = range(FREE, FREE + 13)  # fmt: skip
"""Words of the work: sizes of x ``[b h t c]`` and of the kernel ``[high wide size out]``; addresses
of x, of the kernel or the gradient by the output, and of the result; whether that is the gradient
by the kernel."""


@njit(**options)
def _spread(x, stride, h, t, high, wide, size, out, length):
    """``[h t size]`` as ``[size length]``, each channel a grid with zeros around it."""
    across = t + wide - 1
    fill(out, size * length, np.float32(0))
    for i in range(h):
        for j in range(t):
            source = x + 4 * (i * t + j) * stride
            to = out + 4 * ((i + high // 2) * across + j + wide // 2)
            for c in range(size):
                write_float(to + 4 * c * length, read_float(source + 4 * c))


@njit(**options)
def _weights(kernel, taps, out, each, first, panels):
    """One group of a kernel ``[taps out]`` as ``[each/ROWS taps ROWS]``, zero-padded."""
    for o in range(0, each, ROWS):
        panel = panels + 4 * o * taps
        count = min(ROWS, each - o)
        for k in range(taps):
            for i in range(ROWS):
                x = np.float32(0)
                if i < count:
                    x = read_float(kernel + 4 * (k * out + first + o + i))
                write_float(panel + 4 * (k * ROWS + i), x)


@njit(**options)
def _near(grid, length, across, high, wide, size, begin, panel):
    """Neighbourhoods of ``COLUMNS`` positions from ``begin`` on, ``[high wide size COLUMNS]``."""
    to = panel
    for i in range(high):
        for j in range(wide):
            source = grid + 4 * (begin + i * across + j)
            for _ in range(size):
                lanes.move(source, to)
                source += 4 * length
                to += 4 * COLUMNS


@njit(**options)
def _length(h, t, high, wide):
    """Floats of a channel: the grid with zeros around it, and what a last tile reads beyond it."""
    return (h + high) * (t + wide) + 2 * COLUMNS


@njit(**options)
def _floats(h, t, high, wide, size, each, by_kernel):
    length = _length(h, t, high, wide)
    if by_kernel:
        columns = round_up(each, COLUMNS)
        return length * (size + columns) + high * wide * round_up(size, ROWS) * columns + ROWS
    taps, rows = high * wide * size, round_up(each, ROWS)
    return taps * (rows + COLUMNS) + size * length + rows * COLUMNS


@njit(**options)
def _forward_item(work, item, place):
    h, t, c, out = get(work, _H), get(work, _T), get(work, _C), get(work, _OUT)
    high, wide, size = get(work, _HIGH), get(work, _WIDE), get(work, _SIZE)
    groups, taps = c // size, high * wide * size
    each, row, group = out // groups, item // groups, item % groups
    length, across = _length(h, t, high, wide), t + wide - 1
    panels = place
    grid = panels + 4 * taps * round_up(each, ROWS)
    near = grid + 4 * size * length
    sums = near + 4 * taps * COLUMNS
    _weights(get(work, _GIVEN), taps, out, each, group * each, panels)
    x = get(work, _X) + 4 * (row * h * t * c + group * size)
    _spread(x, c, h, t, high, wide, size, grid, length)
    y = get(work, _FOUND) + 4 * (row * h * t * out + group * each)
    for begin in range(0, h * across, COLUMNS):
        _near(grid, length, across, high, wide, size, begin, near)
        for o in range(0, each, ROWS):
            lanes.multiply(panels + 4 * o * taps, ROWS, near, sums + 4 * o * COLUMNS, COLUMNS, taps)
        i, j = begin // across, begin % across
        for p in range(COLUMNS):
            if i < h and j < t:
                to = y + 4 * (i * t + j) * out
                for o in range(each):
                    write_float(to + 4 * o, read_float(sums + 4 * (o * COLUMNS + p)))
            i, j = (i + 1, 0) if j == across - 1 else (i, j + 1)


@njit(**options)
def _laid_out(x, stride, h, t, across, at, count, pitch, out):
    """``[h t count]`` as positions ``[.. pitch]`` of a grid that is ``across`` wide, from position
    ``at`` on."""
    for i in range(h):
        for j in range(t):
            source, to = x + 4 * (i * t + j) * stride, out + 4 * (at + i * across + j) * pitch
            for c in range(count):
                write_float(to + 4 * c, read_float(source + 4 * c))


@njit(**options)
def _by_kernel_item(work, group, place):
    h, t, c, out = get(work, _H), get(work, _T), get(work, _C), get(work, _OUT)
    high, wide, size = get(work, _HIGH), get(work, _WIDE), get(work, _SIZE)
    each = out // (c // size)
    length, across = _length(h, t, high, wide), t + wide - 1
    columns, rows = round_up(each, COLUMNS), round_up(size, ROWS)
    sums = place
    gradient = sums + 4 * high * wide * rows * columns
    grid = gradient + 4 * length * columns
    all_floats = high * wide * rows * columns + length * (columns + size) + ROWS
    fill(sums, all_floats, np.float32(0))
    for row in range(get(work, _B)):
        x = get(work, _X) + 4 * (row * h * t * c + group * size)
        y = get(work, _GIVEN) + 4 * (row * h * t * out + group * each)
        first = (high // 2) * across + wide // 2
        _laid_out(x, c, h, t, across, first, size, size, grid)
        for o in range(0, each, COLUMNS):
            part = gradient + 4 * o * length
            _laid_out(y + 4 * o, out, h, t, across, 0, min(COLUMNS, each - o), COLUMNS, part)
        for tap in range(high * wide):
            near = grid + 4 * (tap // wide * across + tap % wide) * size
            for i in range(0, size, ROWS):
                for o in range(0, each, COLUMNS):
                    to = sums + 4 * ((tap * rows + i) * columns + o)
                    part = gradient + 4 * o * length
                    lanes.add_product(near + 4 * i, size, part, to, columns, h * across)
    for tap in range(high * wide):
        for i in range(size):
            to = get(work, _FOUND) + 4 * ((tap * size + i) * out + group * each)
            source = sums + 4 * (tap * rows + i) * columns
            for o in range(each):
                write_float(to + 4 * o, read_float(source + 4 * o))


@njit(**options)
def _work_floats(work):
    size = get(work, _SIZE)
    each = get(work, _OUT) // (get(work, _C) // size)
    sides = get(work, _H), get(work, _T), get(work, _HIGH), get(work, _WIDE)
    return _floats(*sides, size, each, get(work, _BY_KERNEL) != 0)


@njit(**options)
def _item(work, item, place):
    if get(work, _BY_KERNEL) != 0:
        _by_kernel_item(work, item, place)
    else:
        _forward_item(work, item, place)


_thread_address = calls.taking_items(_work_floats, _item)


@njit(**options)
def _run(frame):
    """Arguments are x and the kernel, for the gradient by the kernel also that by the output; the
    result is the output or the gradient by the kernel."""
    if calls.asks_for_version(frame):
        return 0
    x, kernel, found = argument(frame, 0), argument(frame, 1), result(frame, 0)
    by_kernel = calls.arguments(frame) == 3
    work = allocate(8 * _WORDS)
    for i in range(4):
        put(work, _B + i, size(x, i))
        put(work, _HIGH + i, size(kernel, i))
    groups = size(x, 3) // size(kernel, 2)
    put(work, ITEMS, groups if by_kernel else groups * size(x, 0))
    put(work, _X, data(x))
    put(work, _GIVEN, data(argument(frame, 2)) if by_kernel else data(kernel))
    put(work, _FOUND, data(found))
    put(work, _BY_KERNEL, 1 if by_kernel else 0)
    return calls.share(frame, work, _thread_address())


@functools.cache
def register(target: str) -> None:
    """Makes the kernel known to XLA by this name; once in a process."""
    digest = calls.digest()

    @cfunc(types.intp(types.intp), cache=True, error_model="numpy")
    def handler(frame):
        return _run(frame) + 0 * digest

    calls.register(target, handler)
