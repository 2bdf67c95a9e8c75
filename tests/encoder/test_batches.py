"""How many windows are computed at once."""

import jax
import pytest

from jfreq.encoder import batches


@pytest.mark.parametrize(
    ("cores", "tokens", "width", "rows"),
    [
        (2, 512, 192, 3),  # 1.5 MiB a window, 4 MiB of cache
        (2, 1214, 768, 1),  # one window is more than the cache
        (8, 512, 192, 11),
        (2, 50, 96, 16),  # no more than 16, however small
    ],
)
def test_a_batch_fits_the_caches_of_a_cpu(monkeypatch, cores, tokens, width, rows):
    monkeypatch.setattr(batches.os, "sched_getaffinity", lambda _: range(cores), raising=False)
    assert batches.fast_batch_size(tokens, width) == rows


def test_an_accelerator_takes_many(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert batches.fast_batch_size(1214, 768) == 32
