"""Memory that a process keeps between updates."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import platform

SWITCH = "JFREQ_KEEP_PAGES"
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
"""Parameters of ``mallopt`` (malloc.h of glibc)."""


def keep_pages() -> bool:
    """Lets glibc keep the memory that is freed, so that the next update finds it mapped; whether it
    does.

    XLA:CPU asks for all temporary memory of a program at each call and frees it afterwards. By
    itself glibc returns blocks of that size to the system, which maps and clears every page of them
    again: a fifth of the time of a training step of a small transformer. One arena holds all blocks
    then, because only the first one grows without limit.

    Nothing is changed where an accelerator's plugin is installed, where the C library is another
    one, where the environment sets it (``MALLOC_ARENA_MAX`` and others of glibc), or where
    ``JFREQ_KEEP_PAGES`` is 0. To be called before JAX starts its threads.
    """
    asked = os.environ.get(SWITCH, "")
    set_by_user = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if asked == "0" or set_by_user or platform.libc_ver()[0] != "glibc" or _may_have_accelerator():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(_ARENA_MAX, 1), mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, -1)])


def _may_have_accelerator() -> bool:
    """Whether JAX may find other devices than CPUs."""
    chosen = os.environ.get("JAX_PLATFORMS", "")
    if chosen:
        return chosen != "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return bool(plugins) or importlib.util.find_spec("libtpu") is not None
