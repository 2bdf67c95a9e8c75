"""Vector quantisation by direction: the nearest code, and updates of a codebook from its data.

Codes and vectors are compared by the angle between them, so the length of neither matters
(BEiT v2, Peng et al. 2022, section 2.2; BEATs, Chen et al. 2022, section 3.2).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jfreq.ops.gather import take_tokens
from jfreq.ops.scale import unit

_HIGHEST = jax.lax.Precision.HIGHEST


def random_codes(key: Key[Array, ""], count: int, width: int) -> Float[Array, "k d"]:
    """``count`` directions, uniform on the sphere of ``width`` dimensions; length 1, float32.

    >>> codes = random_codes(jax.random.key(0), 4, 3)
    >>> jnp.linalg.norm(codes, axis=1).round(3).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    return unit(jax.random.normal(key, (count, width)))


def random_projection(key: Key[Array, ""], inputs: int, width: int) -> Float[Array, "p d"]:
    """A linear map of ``inputs`` to ``width`` numbers, normal as Xavier's (Chiu et al. 2022,
    arXiv 2202.01855, section 3.1): with :func:`random_codes` a tokenizer that learns nothing.

    >>> random_projection(jax.random.key(0), 256, 16).shape
    (256, 16)
    """
    return jax.nn.initializers.glorot_normal()(key, (inputs, width), jnp.float32)


def nearest(x: Float[Array, "*b d"], codes: Float[Array, "k d"]) -> Int[Array, "*b"]:
    """Number of the code with the smallest angle to each vector, the first of several equal ones.

    The same as the smallest distance between vectors and codes of length 1 (BEATs, section 3.2.2).

    >>> nearest(jnp.array([[3.0, 1.0], [-1.0, 2.0]]), jnp.eye(2)).tolist()
    [0, 1]
    """
    scores = jnp.matmul(x.astype(jnp.float32), unit(codes).T, precision=_HIGHEST)
    return jnp.argmax(scores, axis=-1).astype(jnp.int32)


def straight_through(x: Float[Array, "*b d"], code: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """``code``, with the gradient of ``x``.

    >>> x, code = jnp.array([0.25, 0.75]), jnp.array([0.0, 1.0])
    >>> straight_through(x, code).tolist()
    [0.0, 1.0]
    >>> jax.grad(lambda x: straight_through(x, code).sum())(x).tolist()
    [1.0, 1.0]
    """
    return x + jax.lax.stop_gradient(code - x)


def statistics(
    x: Float[Array, "*b d"],
    ids: Int[Array, "*b"],
    count: int,
    *,
    valid: Bool[Array, "*b"] | None = None,
) -> tuple[Float[Array, "k d"], Float[Array, " k"]]:
    """Sums of the ``valid`` vectors of each of ``count`` codes, and how many these are.

    Both are sums over a batch, so that those of several batches can be added.

    >>> x = jnp.array([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]])
    >>> sums, counts = statistics(x, jnp.array([0, 0, 1]), 2)
    >>> sums.tolist(), counts.tolist()
    ([[4.0, 0.0], [0.0, 2.0]], [2.0, 1.0])
    """
    member = _members(ids, count, valid)
    flat = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
    return jnp.matmul(member.T, flat, precision=_HIGHEST), jnp.sum(member, axis=0)


def counts(
    ids: Int[Array, "*b"], count: int, *, valid: Bool[Array, "*b"] | None = None
) -> Float[Array, " k"]:
    """How many ``valid`` vectors belong to each of ``count`` codes.

    >>> counts(jnp.array([0, 2, 2, 1]), 4).tolist()
    [1.0, 1.0, 2.0, 0.0]
    """
    return jnp.sum(_members(ids, count, valid), axis=0)


def _members(ids: Array, count: int, valid: Array | None) -> Array:
    """``[n k]``: 1 where a vector belongs to a code. Sums of it need no scatter, which would gather
    a batch that is sharded over devices."""
    member = jax.nn.one_hot(ids.reshape(-1), count, dtype=jnp.float32)
    return member if valid is None else member * valid.reshape(-1, 1).astype(jnp.float32)


def follow(
    codes: Float[Array, "k d"],
    usage: Float[Array, " k"],
    sums: Float[Array, "k d"],
    counts: Float[Array, " k"],
    *,
    decay: float,
) -> tuple[Float[Array, "k d"], Float[Array, " k"]]:
    """Codes and their usage after a batch, with its :func:`statistics`.

    A code moves to ``unit(decay * code + (1 - decay) * unit(sum))``; a code without vectors stays
    (as released with BEiT v2 and BEATs). ``usage`` is the moving average of the fraction of vectors
    that belong to a code, times the number of codes: 1 where all codes are used equally. With
    ``decay`` 0 this is one step of spherical k-means.

    >>> sums, counts = jnp.array([[0.0, 4.0], [0.0, 0.0]]), jnp.array([3.0, 0.0])
    >>> codes, usage = follow(jnp.eye(2), jnp.ones(2), sums, counts, decay=0.0)
    >>> codes.round(3).tolist(), usage.tolist()
    ([[0.0, 1.0], [0.0, 1.0]], [2.0, 0.0])
    """
    moved = unit(decay * codes + (1 - decay) * unit(sums))
    fraction = counts / jnp.maximum(jnp.sum(counts), 1.0) * counts.size
    codes = jnp.where((counts > 0)[:, None], moved, codes)
    return codes, decay * usage + (1 - decay) * fraction


def restart(
    codes: Float[Array, "k d"],
    usage: Float[Array, " k"],
    candidates: Float[Array, "m d"],
    unused: Bool[Array, " k"],
) -> tuple[Float[Array, "k d"], Float[Array, " k"]]:
    """Every ``unused`` code gets the direction of the candidate of the same number, and usage 1.

    With :func:`sample_vectors` as candidates this is the random restart of Jukebox (Dhariwal et
    al. 2020, section 3.1); with all codes unused a codebook is initialised from its data.

    >>> unused, candidates = jnp.array([True, False]), jnp.array([[0.0, 4.0], [9.0, 0.0]])
    >>> codes, usage = restart(jnp.eye(2), jnp.array([0.0, 3.0]), candidates, unused)
    >>> codes.round(3).tolist(), usage.tolist()
    ([[0.0, 1.0], [0.0, 1.0]], [1.0, 3.0])
    """
    codes = jnp.where(unused[:, None], unit(candidates[: codes.shape[0]]), codes)
    return codes, jnp.where(unused, 1.0, usage)


def sample_vectors(
    key: Key[Array, ""],
    x: Float[Array, "b n d"],
    count: int,
    *,
    valid: Bool[Array, "b n"] | None = None,
) -> Float[Array, "b k d"]:
    """``count`` random vectors of a batch or a few more, the same number ``k`` from every clip.

    Where a clip has ``valid`` vectors only these are taken, repeatedly if they are too few.

    >>> sample_vectors(jax.random.key(0), jnp.ones((2, 5, 3)), 4).shape
    (2, 2, 3)
    """
    b, n, _ = x.shape
    per_clip = -(-count // b)
    valid = jnp.ones((b, n), bool) if valid is None else valid
    order = jnp.argsort(jax.random.uniform(key, (b, n)) + ~valid, axis=1)
    available = jnp.maximum(jnp.sum(valid, axis=1, keepdims=True), 1)
    ids = jnp.take_along_axis(order, jnp.arange(per_clip)[None] % available, axis=1, mode="clip")
    return take_tokens(x, ids).astype(jnp.float32)


def perplexity(counts: Float[Array, " k"]) -> Float[Array, ""]:
    """How many codes a batch uses: the exponential of the entropy of their frequencies, 1 to k.

    >>> perplexity(jnp.array([5.0, 5.0, 0.0])).round(3).tolist()
    2.0
    """
    p = counts / jnp.maximum(jnp.sum(counts), 1.0)
    return jnp.exp(-jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.maximum(p, 1e-30)), 0.0)))
