"""Objectives as pure functions, float32, one value per clip; methods average and count."""

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


def info_nce(
    pred: Float[Array, "b m p"], target: Float[Array, "b m p"], *, form: InfoNCEForm = "paper"
) -> Float[Array, " b"]:
    """Within-clip InfoNCE, no temperature and no normalisation (SSAST, equation 1).

    ``paper``: for each prediction c_i, a softmax over all targets x_j of the clip.
    ``official``: the released code's transpose, for each target a softmax over predictions.
    """
    scores = similarity(pred, target)
    axis = -1 if form == "paper" else -2
    log_prob = jax.nn.log_softmax(scores, axis=axis)
    return -jnp.mean(jnp.diagonal(log_prob, axis1=-2, axis2=-1), axis=-1)


def nt_xent(
    a: Float[Array, "b d"],
    b: Float[Array, "b d"],
    *,
    temperature: float | int = 0.1,
    valid: Bool[Array, " b"] | None = None,
) -> Float[Array, " b"]:
    """NT-Xent of two views of every clip over the whole batch (SimCLR, equation 1).

    Both directions of each pair are averaged; a view's negatives are both views of all other
    clips of the global batch, under accumulation of the micro-batch. Cosine similarity, float32.
    Clips that are not ``valid`` are nobody's negatives; their own values are finite and mean
    nothing.
    """
    rows = a.shape[0]
    z = unit(jnp.concatenate([a, b]).astype(jnp.float32))
    scores = jnp.matmul(z, z.T, precision=jax.lax.Precision.HIGHEST) / temperature
    hidden = jnp.eye(2 * rows, dtype=bool)
    if valid is not None:
        # A partner stays in sight, so that no row is left without anything to compare.
        hidden |= ~jnp.tile(valid, 2)[None] & ~jnp.tile(jnp.eye(rows, dtype=bool), (2, 2))
    log_prob = jax.nn.log_softmax(jnp.where(hidden, -jnp.inf, scores), axis=-1)
    own = jnp.diagonal(log_prob, rows), jnp.diagonal(log_prob, -rows)
    return -(own[0] + own[1]) / 2


def multi_view(
    e: Float[Array, "b m d"],
    *,
    temperature: float | int = 0.1,
    valid: Bool[Array, " b"] | None = None,
) -> Float[Array, " b"]:
    """NT-Xent of ``m`` views of every clip, averaged over all ordered pairs of views of the clip.

    Of each view, every other view in the batch is in the denominator, the other partners too
    (``L_out`` of Khosla et al. 2020, equation 2): perfect alignment is :func:`view_floor`, not 0.
    Our reading of AaSP's multi-mask term (Yamamoto and Okusa 2025, arXiv 2512.03637). Cosine
    similarity, float32; batch and ``valid`` as in :func:`nt_xent`, which this is for two views.
    Raises ``InputError`` for a single view.
    """
    b, views, _ = e.shape
    view_floor(views)
    z = unit(e.astype(jnp.float32))
    own = similarity(z, z) / temperature
    mean = (jnp.sum(own, axis=-1) - jnp.diagonal(own, axis1=-2, axis2=-1)) / (views - 1)
    flat = z.reshape(b * views, -1)
    scores = jnp.matmul(flat, flat.T, precision=jax.lax.Precision.HIGHEST) / temperature
    hidden = jnp.eye(b * views, dtype=bool)
    if valid is not None:
        # Partners stay in sight, so that no row is left without anything to compare.
        clip = jnp.repeat(jnp.arange(b), views)
        hidden |= ~jnp.repeat(valid, views)[None] & (clip[:, None] != clip[None])
    total = jax.nn.logsumexp(jnp.where(hidden, -jnp.inf, scores), axis=-1)
    return jnp.mean(total.reshape(b, views) - mean, axis=-1)


def view_floor(views: int) -> float:
    """What :func:`multi_view` falls to when the views of each clip agree and clips are far apart.

    Raises ``InputError`` for fewer than two views.
    """
    if views < 2:
        raise InputError(f"views: contrast needs 2 views of a clip or more, got {views}")
    return float(np.log(views - 1))


def nt_xent_by_position(
    a: Float[Array, "b d"],
    b: Float[Array, "b d"],
    *,
    sequence: int,
    temperature: float | int = 0.07,
    valid: Bool[Array, " b"] | None = None,
) -> Float[Array, " b"]:
    """NT-Xent among the rows that stand at the same place of their sub-sequences (FOCAL).

    The ``sequence`` rows of a sub-sequence lie side by side and are never each other's
    negatives: they were recorded one after the other and look alike. ``valid`` as in
    :func:`nt_xent`. Raises ``InputError`` for rows that are no whole sub-sequences.
    """
    kept = jnp.ones(a.shape[0], bool) if valid is None else valid
    cut = [_runs(x, sequence) for x in (a, b, kept)]

    def contrast(a, b, valid):
        return nt_xent(a, b, temperature=temperature, valid=valid)

    return jax.vmap(contrast, in_axes=1, out_axes=1)(*cut).reshape(-1)


def orthogonality(
    a: Float[Array, "b d"], b: Float[Array, "b d"], *, form: Literal["hinge", "absolute"] = "hinge"
) -> Float[Array, " b"]:
    """How far the vectors of a row are from right angles: 1 for the same direction, 0 for a right
    angle.

    ``hinge``: ``max(0, cos)``, as released with FOCAL, which leaves every angle above 90 degrees
    alone; ``absolute``: ``|cos|``, which has its only minimum at 90 degrees.
    """
    cos = jnp.sum(unit(a.astype(jnp.float32)) * unit(b.astype(jnp.float32)), axis=-1)
    return jnp.maximum(cos, 0.0) if form == "hinge" else jnp.abs(cos)


def temporal_order(
    z: Float[Array, "b d"],
    *,
    sequence: int,
    margin: float | int = 1.0,
    valid: Bool[Array, " b"] | None = None,
) -> tuple[Float[Array, " b"], Bool[Array, " b"]]:
    """Rows of a sub-sequence are to lie closer to each other than to those of others (FOCAL).

    With the mean Euclidean distance ``D_ij`` between rows of sub-sequences ``i`` and ``j`` (no row
    against itself), every row of ``i`` gets the mean over ``j != i`` of
    ``max(0, D_ii - D_ij + margin)``. The ``sequence`` rows of a sub-sequence lie side by side.

    Second value: the rows that count. Those are all rows, unless some are not ``valid``: a
    sub-sequence needs two valid rows to be compared and one to be compared with. Rows that do not
    count get 0. Raises ``InputError`` for sub-sequences of one row, and for rows that are no whole
    sub-sequences.
    """
    if sequence < 2:
        raise InputError(f"sequence: order in time needs 2 rows or more, got {sequence}")
    kept = _runs(jnp.ones(z.shape[0], bool) if valid is None else valid, sequence)
    runs = kept.shape[0]
    flat = kept.reshape(-1)
    pair = (flat[:, None] & flat[None] & ~jnp.eye(flat.size, dtype=bool)).astype(jnp.float32)

    def of_runs(x):  # [b b] to the sums [s s]
        return x.reshape(runs, sequence, runs, sequence).sum(axis=(1, 3))

    count = of_runs(pair)
    mean = of_runs(distances(z) * pair) / jnp.maximum(count, 1.0)
    inner = jnp.diagonal(count) > 0
    use = (inner[:, None] & (count > 0) & ~jnp.eye(runs, dtype=bool)).astype(jnp.float32)
    hinge = jnp.maximum(jnp.diagonal(mean)[:, None] - mean + margin, 0.0)
    value = jnp.sum(hinge * use, axis=1) / jnp.maximum(jnp.sum(use, axis=1), 1.0)
    counts = jnp.repeat(jnp.sum(use, axis=1) > 0, sequence) & flat
    return jnp.where(counts, jnp.repeat(value, sequence), 0.0), counts


def distances(z: Float[Array, "b d"]) -> Float[Array, "b b"]:
    """Euclidean distances of all pairs of rows, float32, by one matrix product.

    Distances below a thousandth of the rows' spread are rounding of that product: they are 0 and
    pass no gradient, so that rows that are equal neither give NaN nor push each other.
    """
    z = z.astype(jnp.float32)
    z = z - jax.lax.stop_gradient(jnp.mean(z, axis=0, keepdims=True))
    square = jnp.sum(jnp.square(z), axis=-1)
    size = square[:, None] + square[None]
    apart = size - 2 * jnp.matmul(z, z.T, precision=jax.lax.Precision.HIGHEST)
    real = apart > 1e-6 * size
    return jnp.where(real, jnp.sqrt(jnp.where(real, apart, 1.0)), 0.0)


def _runs(x: Array, sequence: int) -> Array:
    """``[b ...]`` to ``[s q ...]``."""
    if sequence < 1 or x.shape[0] % sequence:
        raise InputError(
            f"batch: {x.shape[0]} rows are not whole sub-sequences of {sequence}; take a multiple "
            "of method.sequence for the batch (of every micro-batch), as data.sequence does"
        )
    return x.reshape(-1, sequence, *x.shape[1:])


def match_accuracy(
    pred: Float[Array, "b m p"], target: Float[Array, "b m p"]
) -> Float[Array, " b"]:
    """Share of predictions whose most similar target of the clip is their own."""
    return jnp.mean(matched(pred, target), axis=-1)


def matched(pred: Float[Array, "b m p"], target: Float[Array, "b m p"]) -> Float[Array, "b m"]:
    """1 for every prediction whose most similar target of the clip is its own, else 0."""
    best = jnp.argmax(similarity(pred, target), axis=-1)
    own = jnp.arange(pred.shape[1], dtype=best.dtype)[None]
    return (best == own).astype(jnp.float32)


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
    eps: float = 1e-5,
) -> Float[Array, "b n d"]:
    """Targets of data2vec 2.0 (Baevski et al. 2022) and EAT, float32.

    Every layer with zero mean and unit variance over the tokens of a clip, channel by channel;
    their mean over layers; with ``norm_tokens``, as for images and EAT but not for speech, that
    with zero mean and unit variance over the channels of a token. ``eps`` is added to the
    variances. Tokens that are not ``valid`` do not count and become 0.
    """
    inside = None if valid is None else valid[..., None]
    mean = jnp.mean(_standardise(layers.astype(jnp.float32), -2, eps, inside), axis=0)
    return _standardise(mean, -1, eps) if norm_tokens else mean


def _standardise(x: Array, axis: int, eps: float, valid: Array | None = None) -> Array:
    """Centred twice: the second time removes what rounding left of a large mean."""
    if valid is not None:
        valid = jnp.broadcast_to(valid, x.shape)
    mean = jnp.mean(x, axis=axis, keepdims=True, where=valid)
    return standardise_clip(x - mean, axis, valid=valid, eps=eps)


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


def code_cross_entropy(
    logits: Float[Array, "b m k"],
    codes: Int[Array, "b m"],
    *,
    valid: Bool[Array, "b m"] | None = None,
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """Cross-entropy of tokens whose classes are codes (BEATs, section 3.3): ``(sum, count)``.

    Sum over the ``valid`` tokens of a clip and how many these are, float32.
    """
    log_prob = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    value = -jnp.take_along_axis(log_prob, codes[..., None], axis=-1)[..., 0]
    return _over_tokens(value, valid)


def code_accuracy(
    logits: Float[Array, "b m k"],
    codes: Int[Array, "b m"],
    *,
    valid: Bool[Array, "b m"] | None = None,
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """How many of the ``valid`` tokens have their own code as the likeliest: ``(sum, count)``."""
    return _over_tokens((jnp.argmax(logits, axis=-1) == codes).astype(jnp.float32), valid)


def cosine_distance(
    pred: Float[Array, "b n d"],
    target: Float[Array, "b n d"],
    *,
    valid: Bool[Array, "b n"] | None = None,
) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
    """``1 - cos`` of the angle between prediction and target of every token: ``(sum, count)``.

    What BEATs' tokenizer is distilled with (section 3.2.2). Float32, over the ``valid`` tokens.
    """
    cos = jnp.sum(unit(pred.astype(jnp.float32)) * unit(target.astype(jnp.float32)), axis=-1)
    return _over_tokens(1.0 - cos, valid)


def _over_tokens(value: Array, valid: Array | None) -> tuple[Array, Array]:
    """Sum ``[b]`` of ``[b n]`` over the tokens that are valid, and their number."""
    weight = jnp.ones_like(value) if valid is None else valid.astype(jnp.float32)
    return jnp.sum(value * weight, axis=-1), jnp.sum(weight, axis=-1)


# ------------------------------------------------------------------ errors with weights


def weighted_mse(
    pred: Float[Array, "b m p"], target: Float[Array, "b m p"], weight: Float[Array, "b m p"]
) -> Float[Array, " b"]:
    """Squared error averaged with ``weight``; 0 for a clip whose weights are all 0."""
    error = jnp.square(pred.astype(jnp.float32) - target.astype(jnp.float32))
    total = jnp.sum(weight, axis=(-2, -1))
    return jnp.sum(weight * error, axis=(-2, -1)) / jnp.where(total > 0, total, 1.0)


def unit_patches(target: Float[Array, "b m p"], *, eps: float = 1e-6) -> Float[Array, "b m p"]:
    """Every patch with zero mean and unit variance (He et al. 2022, section 4)."""
    centred = target - jnp.mean(target, axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + eps)


def mean_present(
    values: dict[str, Float[Array, " b"]], present: dict[str, Bool[Array, " b"]]
) -> Float[Array, " b"]:
    """Mean of the values of the sensors that are present in a clip; 0 where none is."""
    count = sum(p.astype(jnp.float32) for p in present.values())
    total = sum(jnp.where(p, values[name], 0.0) for name, p in present.items())
    return total / jnp.maximum(count, 1.0)


DECIBEL = 10 / np.log(10)


def snr_weighted(
    error: Float[Array, " b"],
    signal: Float[Array, " b"],
    energy: Float[Array, " b"],
    *,
    exponent: float | int,
    floor: float = 1e-6,
) -> Float[Array, " b"]:
    """Minus the ratio of signal to error in dB, weighted by ``energy ** exponent`` over its mean in
    the global batch: what FreqMAE's weights are meant to do (its equations' released form gives
    them no gradient). ``error`` and ``signal`` are sums over the same masked cells; ``floor``,
    relative to the signal, keeps the ratio finite."""  # fmt: skip
    weight = jnp.where(energy > 0, energy, 0.0) ** exponent
    weight = jax.lax.stop_gradient(weight / jnp.maximum(jnp.mean(weight), 1e-30))
    least = floor * signal + 1e-12
    return -weight * DECIBEL * (jnp.log(signal + least) - jnp.log(error + least))


def wpsnr_as_released(
    error: Float[Array, " b"],
    energy: Float[Array, " b"],
    *,
    exponent: float | int,
    count: Int[Array, " b"],
) -> Float[Array, " b"]:
    """FreqMAE's weighted loss as released: the energy only adds a constant, so ``exponent`` has no
    gradient. ``count``: masked tokens of a clip."""  # fmt: skip
    level = jnp.log(jnp.maximum(energy, 1e-30))
    return -DECIBEL / count * (exponent * level - jnp.log(jnp.maximum(error, 1e-30)))
