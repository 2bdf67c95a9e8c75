"""Objectives as pure functions in float32 with one value per clip; methods average over clips."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jfreq.ops.scale import standardise_clip, unit
from jfreq.types import InputError

InfoNCEForm = Literal["paper", "official"]


def similarity(a: Float[Array, "b m p"], b: Float[Array, "b m p"]) -> Float[Array, "b m m"]:
    """Inner products ``a_i . b_j`` within each clip, in float32 on every backend."""
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    return jnp.einsum("bip,bjp->bij", a, b, precision=jax.lax.Precision.HIGHEST)


@jax.named_scope("objective")
def info_nce(
    pred: Float[Array, "b m p"], target: Float[Array, "b m p"], *, form: InfoNCEForm = "paper"
) -> Float[Array, " b"]:
    """Within-clip InfoNCE without temperature and normalisation (SSAST, equation 1).

    ``paper``: for each prediction c_i, a softmax over all targets x_j of the clip.
    ``official``: as released, for each target x_j a softmax over all predictions.
    """
    scores = similarity(pred, target)
    axis = -1 if form == "paper" else -2
    log_prob = jax.nn.log_softmax(scores, axis=axis)
    return -jnp.mean(jnp.diagonal(log_prob, axis1=-2, axis2=-1), axis=-1)


@jax.named_scope("objective")
def nt_xent(
    a: Float[Array, "b d"],
    b: Float[Array, "b d"],
    *,
    temperature: float | int = 0.1,
    valid: Bool[Array, " b"] | None = None,
) -> Float[Array, " b"]:
    """NT-Xent of two views of every clip over the whole batch (SimCLR, equation 1).

    Both directions of each pair are averaged. The negatives of a view are both views of all other
    clips of the global batch, or of the micro-batch where batches are accumulated.

    Args:
        a: First views; compared by their cosine, in float32.
        b: Second views.
        temperature: Temperature of the softmax.
        valid: Clips that are not valid are no negatives; their values are finite and meaningless.
    """
    rows = a.shape[0]
    z = unit(jnp.concatenate([a, b]).astype(jnp.float32))
    scores = jnp.matmul(z, z.T, precision=jax.lax.Precision.HIGHEST) / temperature
    excluded = jnp.eye(2 * rows, dtype=bool)
    if valid is not None:
        # Never the other view of the clip, so that every row has something to compare with.
        excluded |= ~jnp.tile(valid, 2)[None] & ~jnp.tile(jnp.eye(rows, dtype=bool), (2, 2))
    log_prob = jax.nn.log_softmax(jnp.where(excluded, -jnp.inf, scores), axis=-1)
    return -(jnp.diagonal(log_prob, rows) + jnp.diagonal(log_prob, -rows)) / 2


@jax.named_scope("objective")
def multi_view(
    e: Float[Array, "b m d"],
    *,
    temperature: float | int = 0.1,
    valid: Bool[Array, " b"] | None = None,
) -> Float[Array, " b"]:
    """NT-Xent of ``m`` views of every clip, averaged over all ordered pairs of views of the clip.

    The denominator of a view holds every other view in the batch, of the same clip too, so
    that perfect alignment gives :func:`multi_view_minimum`, not 0. For two views this is
    :func:`nt_xent`, whose remarks on similarity, batch and ``valid`` hold here as well.

    Raises:
        InputError: For a single view.

    Reference:
        ``L_out`` of Khosla et al. 2020, equation 2; our reading of AaSP's multi-mask term
        (Yamamoto and Okusa 2025, arXiv 2512.03637).
    """
    b, views, _ = e.shape
    multi_view_minimum(views)
    z = unit(e.astype(jnp.float32))
    within = similarity(z, z) / temperature
    mean = (jnp.sum(within, axis=-1) - jnp.diagonal(within, axis1=-2, axis2=-1)) / (views - 1)
    flat = z.reshape(b * views, -1)
    scores = jnp.matmul(flat, flat.T, precision=jax.lax.Precision.HIGHEST) / temperature
    excluded = jnp.eye(b * views, dtype=bool)
    if valid is not None:
        # Never the other views of the clip, so that every row has something to compare with.
        clip = jnp.repeat(jnp.arange(b), views)
        excluded |= ~jnp.repeat(valid, views)[None] & (clip[:, None] != clip[None])
    total = jax.nn.logsumexp(jnp.where(excluded, -jnp.inf, scores), axis=-1)
    return jnp.mean(total.reshape(b, views) - mean, axis=-1)


def multi_view_minimum(views: int) -> float:
    """The least value of :func:`multi_view`, where the views of a clip are equal and clips are far
    apart. Raises ``InputError`` for fewer than two views."""
    if views < 2:
        raise InputError(f"views: contrast needs 2 views of a clip or more, got {views}")
    return float(np.log(views - 1))


@jax.named_scope("objective")
def nt_xent_by_position(
    a: Float[Array, "b d"],
    b: Float[Array, "b d"],
    *,
    sequence: int,
    temperature: float | int = 0.07,
    valid: Bool[Array, " b"] | None = None,
) -> Float[Array, " b"]:
    """NT-Xent among the rows at the same position of their sub-sequences (FOCAL).

    The ``sequence`` rows of a sub-sequence lie side by side and are never each other's
    negatives: they were recorded one after the other and look alike. ``valid`` as in
    :func:`nt_xent`. Raises ``InputError`` for rows that are no whole sub-sequences.
    """
    valid = jnp.ones(a.shape[0], bool) if valid is None else valid
    by_sequence = [_by_sequence(x, sequence) for x in (a, b, valid)]

    def contrast(a, b, valid):
        return nt_xent(a, b, temperature=temperature, valid=valid)

    return jax.vmap(contrast, in_axes=1, out_axes=1)(*by_sequence).reshape(-1)


@jax.named_scope("objective")
def orthogonality(
    a: Float[Array, "b d"], b: Float[Array, "b d"], *, form: Literal["hinge", "absolute"] = "hinge"
) -> Float[Array, " b"]:
    """How far two vectors are from orthogonal: 1 for the same direction, 0 for a right angle.

    ``hinge``: ``max(0, cos)``, as released with FOCAL, which leaves every angle above 90 degrees
    alone; ``absolute``: ``|cos|``, which has its only minimum at 90 degrees.
    """
    cos = jnp.sum(unit(a.astype(jnp.float32)) * unit(b.astype(jnp.float32)), axis=-1)
    return jnp.maximum(cos, 0.0) if form == "hinge" else jnp.abs(cos)


@jax.named_scope("objective")
def temporal_order(
    z: Float[Array, "b d"],
    *,
    sequence: int,
    margin: float | int = 1.0,
    valid: Bool[Array, " b"] | None = None,
) -> tuple[Float[Array, " b"], Bool[Array, " b"]]:
    """Hinge loss that makes rows of a sub-sequence closer to each other than to others (FOCAL).

    With the mean Euclidean distance ``D_ij`` between rows of sub-sequences ``i`` and ``j``, a row
    and itself left out, the value of every row of ``i`` is the mean over ``j != i`` of
    ``max(0, D_ii - D_ij + margin)``.

    Args:
        z: Embeddings; the ``sequence`` rows of a sub-sequence lie side by side.
        sequence: Rows of a sub-sequence, two or more.
        margin: How much closer rows of one sub-sequence have to be.
        valid: Rows that are compared. A sub-sequence needs two of them to be compared and one to be
            compared with.

    Returns:
        The value of every row, and which rows count: valid ones of sub-sequences that could be
        compared. The value of the others is 0.

    Raises:
        InputError: For sub-sequences of one row, and for rows that are no whole sub-sequences.
    """
    if sequence < 2:
        raise InputError(f"method.sequence: order in time needs 2 rows or more, got {sequence}")
    valid = jnp.ones(z.shape[0], bool) if valid is None else valid
    number = _by_sequence(valid, sequence).shape[0]

    def sums(rows: Array) -> Array:
        """Sums over pairs of rows ``[b b]`` by pairs of sub-sequences ``[s s]``."""
        return rows.reshape(number, sequence, number, sequence).sum(axis=(1, 3))

    pair = valid[:, None] & valid[None] & ~jnp.eye(valid.size, dtype=bool)
    pairs = sums(pair.astype(jnp.float32))
    distance = sums(distances(z) * pair) / jnp.maximum(pairs, 1.0)
    hinge = jnp.maximum(jnp.diagonal(distance)[:, None] - distance + margin, 0.0)
    compared = (jnp.diagonal(pairs)[:, None] > 0) & (pairs > 0) & ~jnp.eye(number, dtype=bool)
    others = jnp.sum(compared, axis=1)
    value = jnp.sum(hinge * compared, axis=1) / jnp.maximum(others, 1)
    counts = jnp.repeat(others > 0, sequence) & valid
    return jnp.where(counts, jnp.repeat(value, sequence), 0.0), counts


def distances(z: Float[Array, "b d"]) -> Float[Array, "b b"]:
    """Euclidean distances of all pairs of rows, float32, by one matrix product.

    Distances below a thousandth of the norms of the centred rows are rounding errors of that
    product. They become 0 without a gradient, so that equal rows neither give NaN nor move apart.
    """
    z = z.astype(jnp.float32)
    z = z - jax.lax.stop_gradient(jnp.mean(z, axis=0, keepdims=True))
    norm = jnp.sum(jnp.square(z), axis=-1)
    norms = norm[:, None] + norm[None]
    squared = norms - 2 * jnp.matmul(z, z.T, precision=jax.lax.Precision.HIGHEST)
    differs = squared > 1e-6 * norms
    return jnp.where(differs, jnp.sqrt(jnp.where(differs, squared, 1.0)), 0.0)


def _by_sequence(x: Array, sequence: int) -> Array:
    """``[b ...]`` to ``[s sequence ...]``."""
    if sequence < 1 or x.shape[0] % sequence:
        raise InputError(
            f"batch: {x.shape[0]} rows are not whole sub-sequences of {sequence}; take a multiple "
            "of method.sequence for the batch (of every micro-batch), as data.sequence does"
        )
    return x.reshape(-1, sequence, *x.shape[1:])


def match_accuracy(
    pred: Float[Array, "b m p"], target: Float[Array, "b m p"]
) -> Float[Array, " b"]:
    """Fraction of predictions whose most similar target of the clip is the right one."""
    return jnp.mean(matched(pred, target), axis=-1)


def matched(pred: Float[Array, "b m p"], target: Float[Array, "b m p"]) -> Float[Array, "b m"]:
    """1 for every prediction whose most similar target of the clip is the right one, else 0."""
    best = jnp.argmax(similarity(pred, target), axis=-1)
    return (best == jnp.arange(pred.shape[1], dtype=best.dtype)[None]).astype(jnp.float32)


@jax.named_scope("objective")
def mse(pred: Float[Array, "b m p"], target: Float[Array, "b m p"]) -> Float[Array, " b"]:
    """Mean squared error over tokens and components (SSAST, equation 2, as released)."""
    error = pred.astype(jnp.float32) - target.astype(jnp.float32)
    return jnp.mean(jnp.square(error), axis=(-2, -1))


# ------------------------------------------------------------------ layers of a teacher


def instance_norm_targets(
    layers: Float[Array, "l b n d"],
    *,
    valid: Bool[Array, "b n"] | None = None,
    norm_tokens: bool = True,
) -> Float[Array, "b n d"]:
    """Targets of data2vec 2.0 (Baevski et al. 2022) and EAT, float32.

    Every layer is standardised over the tokens of a clip, channel by channel, and the layers are
    averaged.

    Args:
        layers: States of a teacher after its blocks.
        valid: Tokens that are not valid do not count and become 0.
        norm_tokens: Standardises the average over the channels of every token, as for images and
            in EAT, but not for speech.
    """
    valid = None if valid is None else valid[..., None]
    mean = jnp.mean(_standardise(layers.astype(jnp.float32), -2, valid), axis=0)
    return _standardise(mean, -1) if norm_tokens else mean


def _standardise(x: Array, axis: int, valid: Array | None = None) -> Array:
    """Centred twice: the second time removes what rounding left of a large mean."""
    if valid is not None:
        valid = jnp.broadcast_to(valid, x.shape)
    mean = jnp.mean(x, axis=axis, keepdims=True, where=valid)
    return standardise_clip(x - mean, axis, valid=valid)


@jax.named_scope("objective")
def squared_error(
    pred: Float[Array, "b m d"],
    target: Float[Array, "b m d"],
    *,
    valid: Bool[Array, "b m"] | None = None,
) -> Float[Array, " b"]:
    """Squared distance over ``sqrt(d)``, averaged over the valid tokens (data2vec 2.0, EAT); 0 for
    a clip without any."""
    error = pred.astype(jnp.float32) - target.astype(jnp.float32)
    distance = jnp.sum(jnp.square(error), axis=-1)
    if valid is None:
        mean = jnp.mean(distance, axis=-1)
    else:
        count = jnp.maximum(jnp.sum(valid, axis=-1), 1)
        mean = jnp.sum(distance * valid, axis=-1) / count
    return mean / np.sqrt(error.shape[-1])


# ------------------------------------------------------------------ codes of a tokenizer


@jax.named_scope("objective")
def code_cross_entropy(
    logits: Float[Array, "b m k"],
    codes: Int[Array, "b m"],
    *,
    valid: Bool[Array, "b m"] | None = None,
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """Cross-entropy of predicted codes (BEATs, section 3.3), float32: its sum over the ``valid``
    tokens of a clip, and how many these are."""
    log_prob = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    value = -jnp.take_along_axis(log_prob, codes[..., None], axis=-1)[..., 0]
    return _over_tokens(value, valid)


def code_accuracy(
    logits: Float[Array, "b m k"],
    codes: Int[Array, "b m"],
    *,
    valid: Bool[Array, "b m"] | None = None,
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """How many ``valid`` tokens have their code as the most likely one, and how many these are."""
    return _over_tokens((jnp.argmax(logits, axis=-1) == codes).astype(jnp.float32), valid)


@jax.named_scope("objective")
def cosine_distance(
    pred: Float[Array, "b n d"],
    target: Float[Array, "b n d"],
    *,
    valid: Bool[Array, "b n"] | None = None,
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """``1 - cos`` of the angle between prediction and target (BEATs, section 3.2.2), float32: its
    sum over the ``valid`` tokens of a clip, and how many these are."""
    cos = jnp.sum(unit(pred.astype(jnp.float32)) * unit(target.astype(jnp.float32)), axis=-1)
    return _over_tokens(1.0 - cos, valid)


def _over_tokens(value: Array, valid: Array | None) -> tuple[Array, Array]:
    """Sum ``[b]`` of ``[b n]`` over the tokens that are valid, and their number."""
    weight = jnp.ones_like(value) if valid is None else valid.astype(jnp.float32)
    return jnp.sum(value * weight, axis=-1), jnp.sum(weight, axis=-1)


# ------------------------------------------------------------------ errors with weights


@jax.named_scope("objective")
def weighted_mse(
    pred: Float[Array, "b m p"], target: Float[Array, "b m p"], weight: Float[Array, "b m p"]
) -> Float[Array, " b"]:
    """Squared error averaged with ``weight``; 0 for a clip whose weights are all 0."""
    error = jnp.square(pred.astype(jnp.float32) - target.astype(jnp.float32))
    total = jnp.sum(weight, axis=(-2, -1))
    return jnp.sum(weight * error, axis=(-2, -1)) / jnp.where(total > 0, total, 1.0)


def standardise_patches(target: Float[Array, "b m p"]) -> Float[Array, "b m p"]:
    """Every patch with zero mean and unit variance (He et al. 2022, section 4), which is divided by
    ``p - 1`` as in the released code of MAE and Audio-MAE."""
    mean, variance = _patch_moments(target)
    return (target - mean) * jax.lax.rsqrt(variance)


def like_patches(x: Float[Array, "b m p"], target: Float[Array, "b m p"]) -> Float[Array, "b m p"]:
    """The inverse of :func:`standardise_patches`: ``x`` with the mean and variance of ``target``.

    >>> target = jnp.array([[[1.0, 5.0]]])
    >>> like_patches(standardise_patches(target), target).round(4).tolist()
    [[[1.0, 5.0]]]
    """
    mean, variance = _patch_moments(target)
    return x * jnp.sqrt(variance) + mean


def _patch_moments(target: Array) -> tuple[Array, Array]:
    """Mean, and variance with a little added, of every patch ``[b m 1]``."""
    mean = jnp.mean(target, axis=-1, keepdims=True)
    total = jnp.sum(jnp.square(target - mean), axis=-1, keepdims=True)
    return mean, total / max(1, target.shape[-1] - 1) + 1e-6


def mean_present(
    values: dict[str, Float[Array, " b"]], present: dict[str, Bool[Array, " b"]]
) -> Float[Array, " b"]:
    """Mean of the values of the sensors that are present in a clip; 0 where none is."""
    count = sum(p.astype(jnp.float32) for p in present.values())
    total = sum(jnp.where(p, values[name], 0.0) for name, p in present.items())
    return total / jnp.maximum(count, 1.0)


DECIBEL = 10 / np.log(10)


@jax.named_scope("objective")
def snr_weighted(
    error: Float[Array, " b"],
    signal: Float[Array, " b"],
    energy: Float[Array, " b"],
    *,
    exponent: float | int,
) -> Float[Array, " b"]:
    """Negative signal-to-error ratio in dB, with more weight on clips of more energy::

        loss_i = -w_i 10 log10((S_i + eps_i) / (E_i + eps_i)),    eps_i = 1e-6 S_i + 1e-12
        w_i = e_i^exponent / mean_j(e_j^exponent)                 (no gradient)

    Our reading of FreqMAE's weighted loss. In its released form, :func:`wpsnr_as_released`, the
    energy only adds a constant to the loss and thus has no effect on the gradient.

    Args:
        error: ``E``, squared error summed over the masked cells of a clip.
        signal: ``S``, squared target summed over the same cells.
        energy: ``e``, energy of a clip; the mean of the weights is taken over the global batch.
        exponent: With 0 all clips weigh the same.
    """
    weight = jnp.where(energy > 0, energy, 0.0) ** exponent
    weight = jax.lax.stop_gradient(weight / jnp.maximum(jnp.mean(weight), 1e-30))
    eps = 1e-6 * signal + 1e-12
    return -weight * DECIBEL * (jnp.log(signal + eps) - jnp.log(error + eps))


@jax.named_scope("objective")
def wpsnr_as_released(
    error: Float[Array, " b"],
    energy: Float[Array, " b"],
    *,
    exponent: float | int,
    count: Int[Array, " b"],
) -> Float[Array, " b"]:
    """FreqMAE's weighted loss as released, ``-10 log10(energy^exponent / error) / count``: the
    energy only adds a constant. ``count``: masked tokens of a clip."""
    log_energy = jnp.log(jnp.maximum(energy, 1e-30))
    return -DECIBEL / count * (exponent * log_energy - jnp.log(jnp.maximum(error, 1e-30)))
