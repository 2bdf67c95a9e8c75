import pathlib

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache

from jfreq.cli.study import temporary_compilation_cache

DIR = "jax_compilation_cache_dir"
LEAST = "jax_persistent_cache_min_compile_time_secs"


def test_trainings_of_a_grid_share_programs():
    """Inside a folder holds what was compiled, outside nothing is left of it."""
    before, least = (getattr(jax.config, k) for k in (DIR, LEAST))
    try:
        jax.config.update(DIR, None)
        jax.config.update(LEAST, 0)
        with temporary_compilation_cache():
            folder = getattr(jax.config, DIR)
            jax.jit(lambda x: jnp.sin(x) + 0.123456)(jnp.ones(3)).block_until_ready()
            assert any(path.name.endswith("-cache") for path in pathlib.Path(folder).iterdir())
        assert getattr(jax.config, DIR) is None
        assert not pathlib.Path(folder).exists()
    finally:
        jax.config.update(DIR, before)
        jax.config.update(LEAST, least)
        compilation_cache.reset_cache()


def test_a_cache_that_is_asked_for_stays(tmp_path):
    before = getattr(jax.config, DIR)
    try:
        jax.config.update(DIR, str(tmp_path))
        with temporary_compilation_cache():
            assert getattr(jax.config, DIR) == str(tmp_path)
        assert tmp_path.exists()
    finally:
        jax.config.update(DIR, before)
