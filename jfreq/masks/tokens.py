"""Masks over a grid of tokens: ``(key, batch, grid, count) -> Mask`` with static counts.

A mask is a score for every token and one argsort. So it has exactly ``count`` masked tokens, is
sampled independently for every row of the batch, and needs no collective where that is sharded.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from jfreq.types import InputError, Mask, TokenGrid

Kind = Literal["cluster", "random", "time", "frequency"]
ClusterMode = Literal["uniform", "official"]
Sizes = tuple[int, int]


def from_scores(scores: Float[Array, "b n"], count: int) -> Mask:
    """Masks the ``count`` lowest scores of every row; ids ``[b k]``, ``[b m]``, ``[b n]`` int32."""
    order = jnp.argsort(scores, axis=-1)
    masked, visible = order[:, :count], order[:, count:]
    restore = jnp.argsort(jnp.concatenate([visible, masked], axis=-1), axis=-1)
    return Mask(visible.astype(jnp.int32), masked.astype(jnp.int32), restore.astype(jnp.int32))


def check_count(
    kind: Kind, grid: TokenGrid, count: int, *, sizes: Sizes = (3, 5), mode: ClusterMode = "uniform"
) -> None:
    """Raises ``InputError`` when ``count`` tokens of ``grid`` cannot be masked this way."""
    n = grid.size
    # The released code never covers token 0, and needs to cover more than ``count`` tokens.
    most = n - 2 if (kind == "cluster" and mode == "official") else n - 1
    shape = f"{grid.time} x {grid.freq} (time x frequency) = {n} tokens"
    if not 1 <= count <= most:
        raise InputError(f"mask: {count} of {shape} cannot be masked; choose 1 to {most}")
    line = {"time": grid.freq, "frequency": grid.time}.get(kind, 1)
    if count % line:
        raise InputError(
            f"mask: kind {kind!r} masks whole lines of {line} tokens of {shape}; {count} is not a "
            f"multiple, take {count // line * line or line}"
        )
    if not 1 <= sizes[0] <= sizes[1]:
        raise InputError(f"cluster: sizes must be (low, high) with 1 <= low <= high, got {sizes}")


def sample(
    key: Key[Array, ""],
    batch: int,
    grid: TokenGrid,
    count: int,
    *,
    kind: Kind = "random",
    sizes: Sizes = (3, 5),
    mode: ClusterMode = "uniform",
) -> Mask:
    """A mask of any kind; the arguments are checked by :func:`check_count`."""
    check_count(kind, grid, count, sizes=sizes, mode=mode)
    if kind == "random":
        return random(key, batch, grid, count)
    if kind == "cluster":
        return cluster(key, batch, grid, count, sizes=sizes, mode=mode)
    return lines(key, batch, grid, count, axis=kind, sizes=sizes)


@jax.named_scope("mask")
def random(key: Key[Array, ""], batch: int, grid: TokenGrid, count: int) -> Mask:
    """``count`` tokens uniformly without replacement."""
    return from_scores(jax.random.uniform(key, (batch, grid.size)), count)


@jax.named_scope("mask")
def axes(key: Key[Array, ""], batch: int, grid: TokenGrid, visible: tuple[int, int]) -> Mask:
    """Whole columns and whole rows: a token is visible in one of ``visible`` (time, freq) random
    columns of time and one of so many rows of frequency (Audio-MAE, masking strategies, time and
    frequency). Visible tokens are in the order of the grid.

    Raises:
        InputError: Where nothing is visible or nothing masked.
    """
    size = (grid.time, grid.freq)
    count = visible[0] * visible[1]
    if not all(1 <= v <= n for v, n in zip(visible, size)) or count == grid.size:
        raise InputError(
            f"mask: {visible[0]} x {visible[1]} of {grid.time} x {grid.freq} (time x frequency) "
            "tokens cannot be visible; leave one line or more of each axis, and mask one"
        )
    # One score a line: visible are those with the highest, by one sort of each axis.
    kept = [
        jnp.argsort(jnp.argsort(jax.random.uniform(k, (batch, n)), axis=-1), axis=-1) >= n - v
        for k, n, v in zip(jax.random.split(key), size, visible)
    ]
    both = kept[0][:, :, None] & kept[1][:, None, :]
    both = both.swapaxes(1, 2) if grid.order == "freq_major" else both
    return from_scores(both.reshape(batch, grid.size).astype(jnp.float32), grid.size - count)


@jax.named_scope("mask")
def cluster(
    key: Key[Array, ""],
    batch: int,
    grid: TokenGrid,
    count: int,
    *,
    sizes: Sizes = (3, 5),
    mode: ClusterMode = "uniform",
) -> Mask:
    """Square clusters of side C, which is sampled once for a row (SSAST, section 2.3).

    Clusters arrive in random order; the score of a token is the arrival time of the first that
    covers it.

    Args:
        key: Random key.
        batch: Rows.
        grid: Grid of the ``n`` tokens.
        count: Masked tokens of every row, as :func:`check_count` allows.
        sizes: Least and largest side C.
        mode: ``uniform`` lets clusters hang over every border, so that all tokens are covered by
            equally many. ``official`` reproduces the released code: clusters only extend up and
            right of their first token in flat token numbers (wrapping into the next frequency
            row), token 0 is never masked, and the surplus of the last cluster is cut at the
            highest numbers.

    Raises:
        InputError: For ``official`` on a grid that is not frequency-major.
    """
    if mode == "official":
        return _official_cluster(key, batch, grid, count, sizes)
    order_key, size_key, tie_key = jax.random.split(key, 3)
    arrival = _arrival(order_key, size_key, batch, (grid.freq, grid.time), sizes)
    if grid.order == "time_major":
        arrival = arrival.transpose(0, 2, 1)
    scores = arrival.reshape(batch, grid.size)
    # Tokens of one cluster arrive together: random numbers far below the scores break the tie.
    return from_scores(scores + 1e-4 * jax.random.uniform(tie_key, scores.shape), count)


@jax.named_scope("mask")
def lines(
    key: Key[Array, ""],
    batch: int,
    grid: TokenGrid,
    count: int,
    *,
    axis: Literal["time", "frequency"],
    sizes: Sizes = (1, 1),
) -> Mask:
    """Whole time columns or whole frequency rows, in groups of ``sizes`` neighbouring lines.

    ``count`` is a multiple of the line length.
    """
    number = grid.time if axis == "time" else grid.freq
    order_key, size_key, tie_key = jax.random.split(key, 3)
    arrival = _arrival(order_key, size_key, batch, (1, number), sizes)[:, 0]
    arrival = arrival + 1e-4 * jax.random.uniform(tie_key, arrival.shape)
    # Lines across the slow axis of the grid are rows, those across its fast axis are columns.
    slow = (axis == "frequency") == (grid.order == "freq_major")
    scores = arrival[:, :, None] if slow else arrival[:, None, :]
    return from_scores(
        jnp.broadcast_to(scores, (batch, *grid.shape)).reshape(batch, grid.size), count
    )


@jax.named_scope("mask")
def block(
    key: Key[Array, ""],
    batch: int,
    grid: TokenGrid,
    count: int,
    *,
    block: int = 5,
    adjust: float | int = 0.05,
    valid: Bool[Array, "b n"] | None = None,
) -> Mask:
    """Masks ``count`` tokens that lie in square blocks (data2vec 2.0 for speech, as released).

    It is :func:`inverse_block` with visible and masked tokens exchanged; the arguments and errors
    are the same.
    """
    scores = _block_scores(key, batch, grid, count, block, adjust)
    return _within(-scores, grid.size - count, valid)


@jax.named_scope("mask")
def inverse_block(
    key: Key[Array, ""],
    batch: int,
    grid: TokenGrid,
    visible: int,
    *,
    block: int = 5,
    adjust: float | int = 0.07,
    number: int | None = None,
    valid: Bool[Array, "b n"] | None = None,
) -> Mask:
    """Makes ``visible`` tokens visible that lie in square blocks: the inverse block mask of EAT.

    ``number`` centres are sampled with replacement; blocks of side ``block`` around them are cut at
    the borders. ``visible`` random tokens of their union are visible, and where it is too small all
    of it and random other tokens: the same distribution as the trimming and filling of the released
    code, by one sort.

    Args:
        key: Random key.
        batch: Rows.
        grid: Grid of the ``n`` tokens; a line of tokens has ``freq`` 1.
        visible: Visible tokens of every row.
        block: Side of the blocks.
        adjust: Fraction of ``n`` by which the blocks, which overlap, exceed ``visible``.
        number: Blocks of every row, 0 or more; None: ``int((visible + adjust * n) / block ** 2)``,
            at least one, where an axis shorter than ``block`` counts with its length.
        valid: False in padding, True at least once in a row. The fraction of valid tokens that are
            visible is that of all tokens, rounded up.

    Raises:
        InputError: Where nothing is visible or nothing masked.

    Reference:
        Chen et al. 2024, arXiv 2401.03497, as released.
    """
    scores = _block_scores(key, batch, grid, visible, block, adjust, number)
    return _within(scores, visible, valid)


def _block_scores(
    key,
    batch: int,
    grid: TokenGrid,
    count: int,
    side: int,
    adjust: float | int,
    number: int | None = None,
) -> Array:
    """Scores ``[b n]``: 1 to 2 inside blocks for ``count`` tokens, 0 to 1 elsewhere."""
    n = grid.size
    if not 1 <= count <= n - 1:
        raise InputError(f"mask: {count} of {n} tokens cannot lie in blocks; choose 1 to {n - 1}")
    if side < 1 or adjust < 0:
        raise InputError(
            f"mask: block must be 1 or more and adjust 0 or more, got {side} and {adjust}"
        )
    if number is None:
        area = min(side, grid.freq) * min(side, grid.time)
        number = max(1, int((count + adjust * n) / area))
    centre_key, tie_key = jax.random.split(key)
    centres = jax.random.randint(centre_key, (batch, number), 0, n)
    slow, fast = (_covers(c, s, side) for c, s in zip(divmod(centres, grid.shape[1]), grid.shape))
    # How many blocks cover a token: small integers, exact in any precision.
    hits = jnp.einsum("bsi,bsj->bij", slow, fast).reshape(batch, n)
    return (hits > 0) + jax.random.uniform(tie_key, (batch, n))


def _within(scores: Array, visible: int, valid: Array | None) -> Mask:
    """The ``visible`` highest scores of every row are visible, and of its ``valid`` tokens the
    same fraction."""
    n = scores.shape[1]
    if valid is not None:
        # Visible signal first, then padding, then masked signal, so that all rows have the same
        # counts.
        order = jnp.argsort(jnp.where(valid, -scores, jnp.inf), axis=-1)
        count = -(-jnp.sum(valid, axis=-1, keepdims=True) * visible // n)
        first = jnp.argsort(order, axis=-1) < count
        scores = jnp.where(valid, jnp.where(first, 2.0, 0.0), 1.0)
    return from_scores(scores, n - visible)


def _covers(centres: Array, size: int, block: int) -> Array:
    """``[b s size]``: 1 where an axis of ``size`` is within the block of a centre ``[b s]``."""
    first = centres[..., None] - block // 2
    at = jnp.arange(size)[None, None]
    return ((at >= first) & (at < first + block)).astype(jnp.float32)


def _arrival(order_key, size_key, batch: int, shape: tuple[int, int], sizes: Sizes) -> Array:
    """``[b f t]``: first arrival among all clusters that cover a token, borders included."""
    low, high = sizes
    edge = tuple(min(high, s) - 1 for s in shape)  # clusters may begin before the border
    starts = jax.random.uniform(order_key, (batch, shape[0] + edge[0], shape[1] + edge[1]))
    sampled = jax.random.randint(size_key, (batch, 1, 1), low, high + 1)
    arrival = jnp.full((batch, *shape), jnp.inf)
    for side in range(low, high + 1):
        window = tuple(min(side, s) for s in shape)
        covered = jax.lax.reduce_window(
            starts, jnp.inf, jax.lax.min, (1, *window), (1, 1, 1), "VALID"
        )[:, : shape[0], : shape[1]]
        arrival = jnp.where(sampled == side, covered, arrival)
    return arrival


def _official_cluster(key, batch: int, grid: TokenGrid, count: int, sizes: Sizes) -> Mask:
    if grid.order != "freq_major":
        raise InputError("mask: the official clusters need frequency-major tokens")
    order_key, size_key = jax.random.split(key)
    low, high = sizes
    n = grid.size
    starts = jax.random.uniform(order_key, (batch, n))
    sampled = jax.random.randint(size_key, (batch, 1), low, high + 1)
    arrival = jnp.full((batch, n), jnp.inf)
    for side in range(low, high + 1):
        covered = _first_of_shifts(_first_of_shifts(starts, side, 1), side, grid.time)
        arrival = jnp.where(sampled == side, covered, arrival)
    number = jnp.broadcast_to(jnp.arange(n, dtype=jnp.float32), (batch, n))
    arrival = jnp.where(number == 0, jnp.inf, arrival)
    last = jnp.sort(arrival, axis=-1)[:, count : count + 1]
    return from_scores(jnp.where(arrival <= last, number, number + n), count)


def _first_of_shifts(x: Array, number: int, step: int) -> Array:
    """Minimum of ``x`` ``[b n]`` shifted right by 0, step, ... (number - 1) step tokens."""
    padding = ((0, 0), ((number - 1) * step, 0))
    return jax.lax.reduce_window(
        x, jnp.inf, jax.lax.min, (1, number), (1, 1), padding, window_dilation=(1, step)
    )
