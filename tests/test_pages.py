"""Memory that a process keeps: a program finds its pages mapped when it runs again."""

import os
import platform
import subprocess
import sys

import pytest

from jfreq import pages

PROGRAM = """
import resource
from jfreq.pages import keep_pages
print(keep_pages())
import jax, jax.numpy as jnp

def work(x):
    return jnp.tanh(jnp.outer(x, x)) @ x  # a temporary array of 64 MB

run, x = jax.jit(work), jnp.ones(4000)
for _ in range(30):
    run(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(30):
    run(x).block_until_ready()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 30)
"""


def faults(**settings):
    ours = "MALLOC_", "GLIBC_", pages.SWITCH
    env = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM],
        env={**env, "JAX_PLATFORMS": "cpu", **settings},
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    kept, count = done.stdout.split()
    return kept == "True", int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="pages are kept by glibc only")
def test_pages_stay_mapped_between_calls():
    kept, count = faults()
    refused, others = faults(JFREQ_KEEP_PAGES="0")
    assert kept and not refused
    assert count < others / 2


@pytest.mark.parametrize(
    "setting", [("MALLOC_ARENA_MAX", "2"), ("JAX_PLATFORMS", "cuda"), (pages.SWITCH, "0")]
)
def test_what_somebody_chose_stays(monkeypatch, setting):
    monkeypatch.setattr(pages.ctypes, "CDLL", None)
    monkeypatch.delenv(pages.SWITCH, raising=False)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv(*setting)
    assert not pages.keep_pages()
