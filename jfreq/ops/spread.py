"""How spread out a set of vectors is: what tells of a collapsed representation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

_NOISE = 1e-6
"""Eigenvalues below this share of the largest are rounding."""


def rankme(x: Float[Array, "n d"]) -> Float[Array, ""]:
    """Effective rank, 1 to min(n, d): the exponential of the entropy of the singular values over
    their sum (Garrido et al., ICML 2023, equation 1); 1 for zeros. Float32, no gradient."""
    x = jax.lax.stop_gradient(x.astype(jnp.float32))
    gram = jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST)
    power = jnp.linalg.eigvalsh(gram)
    power = jnp.where(power > _NOISE * jnp.max(power), power, 0.0)
    share = jnp.sqrt(power)
    share = share / jnp.maximum(jnp.sum(share), 1e-30)
    return jnp.exp(-jnp.sum(jnp.where(share > 0, share * jnp.log(jnp.maximum(share, 1e-30)), 0.0)))


def deviation(x: Float[Array, "n d"]) -> Float[Array, ""]:
    """Standard deviation over the rows, averaged over the columns: 0 when all rows are equal.
    Float32, no gradient."""
    return jnp.mean(jnp.std(jax.lax.stop_gradient(x.astype(jnp.float32)), axis=0))


def sample(
    x: Float[Array, "b n d"], count: int, length: Int[Array, " b"] | None = None
) -> Float[Array, "k d"]:
    """``count`` vectors or fewer, as many of every row as go, evenly along it, or along its first
    ``length``. Every row starts at another place, so that a lattice is not always met in the same
    line."""
    b, n, d = x.shape
    each = min(n, -(-count // b))
    if length is None:
        ids = jnp.asarray((np.arange(each)[None] * (n // each) + np.arange(b)[:, None]) % n)
    else:
        end = jnp.maximum(length, 1)[:, None]
        ids = (jnp.arange(each)[None] * end // each + jnp.arange(b)[:, None]) % end
    some = jnp.take_along_axis(x, ids[..., None], axis=1, mode="clip")
    return some.reshape(-1, d)[:count]
