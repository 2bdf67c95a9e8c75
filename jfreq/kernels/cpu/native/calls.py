"""What XLA hands to a function of ours, and its threads, which share the work.

Offsets are those of ``xla/ffi/api/c_api.h`` (XLA FFI 0.3), in bytes: ``XLA_FFI_CallFrame``,
``XLA_FFI_Buffer``, ``XLA_FFI_Metadata_Extension``, ``XLA_FFI_Api`` and the arguments of its
functions.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from numba import njit

from jfreq.kernels.cpu.native import memory
from jfreq.kernels.cpu.native.memory import (
    allocate,
    options,
    read_int,
    read_long,
    release,
    write_int,
    write_long,
)

VERSION = (0, 3)
_METADATA = 1
_API, _CONTEXT, _ARGUMENTS, _RESULTS, _FUTURE = 16, 24, 72, 112, 168
_SCHEDULE, _THREADS, _CREATE, _SET_AVAILABLE = (48 + 8 * i for i in (11, 12, 13, 14))

NEXT, LEFT, FUTURE, AVAILABLE, ITEMS, FREE = range(6)
"""Words of a work: its next item, threads that are not done, the promise that XLA waits for and
what keeps it, how many items there are, the first word for other use."""


@njit(**options)
def get(work, word):
    return read_long(work + 8 * word)


@njit(**options)
def put(work, word, value):
    write_long(work + 8 * word, value)


@njit(**options)
def arguments(frame):
    """How many there are."""
    return read_long(frame + _ARGUMENTS - 16)


@njit(**options)
def argument(frame, i):
    """The buffer of an argument."""
    return read_long(read_long(frame + _ARGUMENTS) + 8 * i)


@njit(**options)
def result(frame, i):
    """The buffer of a result."""
    return read_long(read_long(frame + _RESULTS) + 8 * i)


@njit(**options)
def data(buffer):
    return read_long(buffer + 24)


@njit(**options)
def rank(buffer):
    return read_long(buffer + 32)


@njit(**options)
def size(buffer, axis):
    return read_long(read_long(buffer + 40) + 8 * axis)


@njit(**options)
def asks_for_version(frame):
    """Whether XLA only asks which version of its interface this is for; it is told."""
    extension = read_long(frame + 8)
    if extension == 0 or read_int(extension + 8) != _METADATA:
        return False
    version = read_long(extension + 24) + 24
    write_int(version, VERSION[0])
    write_int(version + 4, VERSION[1])
    return True


@njit(**options)
def share(frame, work, task):
    """Lets as many of XLA's threads as there are items run ``task(work)``, or this one where XLA
    has no others. XLA goes on with what does not depend on the results; the last thread frees
    ``work``."""
    api, context = read_long(frame + _API), read_long(frame + _CONTEXT)
    threads = _threads(api, context, get(work, ITEMS))
    put(work, NEXT, 0)
    put(work, LEFT, threads)
    put(work, FUTURE, 0)
    if threads < 2:
        memory.call(task, work)
        return 0
    args = allocate(40)
    _fill(args, 24, 0, 0, 0)
    error = memory.call(read_long(api + _CREATE), args)
    if error:
        release(args)
        release(work)
        return error
    future = read_long(args + 16)
    put(work, FUTURE, future)
    put(work, AVAILABLE, read_long(api + _SET_AVAILABLE))
    write_long(frame + _FUTURE, future)
    for _ in range(threads):
        _fill(args, 40, context, task, work)
        if memory.call(read_long(api + _SCHEDULE), args):
            memory.call(task, work)
    release(args)
    return 0


def taking_items(floats: Callable[[int], int], run: Callable[[int, int, int], None]) -> Any:
    """What a thread does: it takes items until there are no more. The function of Numba returns its
    own address as a C function.

    Args:
        floats: Of the work, how many an item needs beside its arguments.
        run: Of the work, an item and the aligned address of so many floats.
    """

    def take(work):
        place = allocate(4 * floats(work) + 64)
        aligned = memory.round_up(place, 64)
        while True:
            item = memory.fetch_add(work, 1)
            if item >= get(work, ITEMS):
                break
            run(work, item, aligned)
        release(place)
        _finish(work)
        return 0

    return memory.address_of(take)


@njit(**options)
def _finish(work):
    """Ends a thread's part of the work; the last one tells XLA and frees it."""
    if memory.fetch_add(work + 8 * LEFT, -1) == 1:
        future, available = get(work, FUTURE), get(work, AVAILABLE)
        release(work)
        if future:
            args = allocate(40)
            _fill(args, 24, future, 0, 0)
            memory.call(available, args)
            release(args)


@njit(**options)
def _threads(api, context, most):
    args = allocate(40)
    _fill(args, 32, context, args + 32, 1)
    error = memory.call(read_long(api + _THREADS), args)
    found = read_long(args + 32)
    release(args)
    return 1 if error else max(1, min(found, most))


@njit(**options)
def _fill(args, length, first, second, third):
    """Arguments of a function of XLA's: their length, no extension, three words."""
    write_long(args, length)
    write_long(args + 8, 0)
    write_long(args + 16, first)
    write_long(args + 24, second)
    write_long(args + 32, third)


@functools.cache
def digest() -> int:
    """Stands for the code of all kernels. Numba keeps compiled code on disk, and knows that it is
    old by the file of a function and what this closes over, not by the files of what it calls."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    code = hashlib.sha256(b"".join(file.read_bytes() for file in files)).digest()
    return int.from_bytes(code[:4], "little")


def register(target: str, handler: Any) -> None:
    """Makes a compiled function of Numba known to XLA by this name."""
    capsule = jax.ffi.pycapsule(ctypes.c_void_p(handler.address))
    jax.ffi.register_ffi_target(target, capsule, platform="cpu")
