"""How varied a set of vectors is: measures of collapsed representations."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

_NOISE = 1e-6
"""Eigenvalues below this fraction of the largest are rounding errors."""


def rankme(x: Float[Array, "n d"]) -> Float[Array, ""]:
    """Effective rank, 1 to min(n, d): the exponential of the entropy of the singular values over
    their sum (Garrido et al., ICML 2023, equation 1); 1 for zeros. Float32, no gradient.

    >>> [round(float(rankme(x)), 2) for x in (jnp.eye(4), jnp.ones((4, 4)))]
    [4.0, 1.0]
    """
    x = jax.lax.stop_gradient(x.astype(jnp.float32))
    gram = jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST)
    power = jnp.linalg.eigvalsh(gram)
    singular = jnp.sqrt(jnp.where(power > _NOISE * jnp.max(power), power, 0.0))
    p = singular / jnp.maximum(jnp.sum(singular), 1e-30)
    return jnp.exp(-jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.maximum(p, 1e-30)), 0.0)))


def mean_std(x: Float[Array, "n d"]) -> Float[Array, ""]:
    """Standard deviation over the rows, averaged over the columns: 0 when all rows are equal.
    Float32, no gradient.

    >>> float(mean_std(jnp.array([[0.0, 5.0], [2.0, 5.0]])))
    0.5
    """
    return jnp.mean(jnp.std(jax.lax.stop_gradient(x.astype(jnp.float32)), axis=0))


def sample_evenly(
    x: Float[Array, "b n d"], count: int, length: Int[Array, " b"] | None = None
) -> Float[Array, "k d"]:
    """``count`` vectors of a batch or fewer, the same number of every row.

    They are evenly spaced in a row, or in its first ``length`` vectors, and start one vector later
    in every row, so that they do not all come from the same line of a grid.

    >>> sample_evenly(jnp.arange(8.0).reshape(2, 4, 1), 4).ravel().tolist()
    [0.0, 2.0, 5.0, 7.0]
    """
    b, n, d = x.shape
    per_row = min(n, -(-count // b))
    if length is None:
        ids = jnp.asarray((np.arange(per_row)[None] * (n // per_row) + np.arange(b)[:, None]) % n)
    else:
        end = jnp.maximum(length, 1)[:, None]
        ids = (jnp.arange(per_row)[None] * end // per_row + jnp.arange(b)[:, None]) % end
    sample = jnp.take_along_axis(x, ids[..., None], axis=1, mode="clip")
    return sample.reshape(-1, d)[:count]
