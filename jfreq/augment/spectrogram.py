"""Augmentations of clips and their spectrograms, sampled independently for every row of a batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jfreq.ops.gather import take_tokens

Key = PRNGKeyArray | Array
"""A typed key, or the raw ``uint32`` pair of ``jax.random.PRNGKey``."""


def spec_augment(
    key: Key, spec: Float[Array, "b t f c"], *, time: int, freq: int, fill: float | int = 0.0
) -> Float[Array, "b t f c"]:
    """Sets one interval of time and one frequency band of every row to ``fill``.

    Args:
        key: Random key.
        spec: Spectrogram; AST augments it before standardisation.
        time: The interval is ``0 .. time - 1`` frames wide; widths and starts are uniform.
        freq: The same for the band, in bins.
        fill: Value of masked cells.

    Reference:
        Park et al. 2019 (SpecAugment), sampled as torchaudio does.
    """
    b, t, f, _ = spec.shape
    key_freq, key_time = jax.random.split(key)
    bins = _random_interval(key_freq, b, f, freq)[:, None, :, None]
    frames = _random_interval(key_time, b, t, time)[:, :, None, None]
    return jnp.where(bins | frames, jnp.asarray(fill, spec.dtype), spec)


def mixup(
    key: Key,
    x: Float[Array, "b t ..."],
    label: Float[Array, "b k"],
    *,
    prob: float | int,
    alpha: float | int = 10.0,
    shared: bool = False,
    centred: bool = True,
) -> tuple[Float[Array, "b t ..."], Float[Array, "b k"]]:
    """Clips and labels mixed with those of the next row (Zhang et al., ICLR 2018).

    With probability ``prob`` a row becomes ``l * x + (1 - l) * next``, ``l ~ Beta(alpha, alpha)``.
    Batches are shuffled, so that the next row is a random one, and devices exchange one row of a
    sharded batch instead of all.

    Args:
        key: Random key.
        x: Waveforms or spectrograms.
        label: Labels, mixed alike.
        prob: Probability of mixing.
        alpha: 10 for waveforms in AST (Gong et al. 2021), 0.8 for spectrograms in EAT.
        shared: One draw of whether and how much for the whole batch, as timm mixes by default and
            EAT does; else one for each row.
        centred: Remove the mean over ``t`` before mixing and after it, in every row, as AST does
            with waveforms.
    """
    b = x.shape[0]
    key_use, key_weight = jax.random.split(key)
    draws = 1 if shared else b
    weight = jax.random.beta(key_weight, float(alpha), float(alpha), (draws,), jnp.float32)
    weight = jnp.where(jax.random.uniform(key_use, (draws,)) < prob, weight, 1.0)
    weight = jnp.broadcast_to(weight, (b,))
    mixed = _blend(_remove_mean(x) if centred else x, weight)
    return _remove_mean(mixed) if centred else mixed, _blend(label, weight)


def change_gain(key: Key, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
    """Every waveform times a gain of its own, 0.5 + Beta(10, 10) (Audio-MAE, EAT)."""
    gain = 0.5 + jax.random.beta(key, 10.0, 10.0, (x.shape[0], 1, 1), jnp.float32)
    return x * gain.astype(x.dtype)


def roll_signal(
    key: Key, x: Float[Array, "b t c"], length: Int[Array, " b"] | None = None
) -> Float[Array, "b t c"]:
    """Every waveform rolled in time by any number of samples of its signal, uniformly (EAT).

    Args:
        key: Random key.
        x: Waveforms, zero beyond their ``length``.
        length: Valid samples of every row, what lies beyond stays where it is; None: all.
    """
    b, t, _ = x.shape
    length = jnp.full(b, t) if length is None else jnp.clip(length, 1, t)
    by = jnp.floor(jax.random.uniform(key, (b,)) * length).astype(jnp.int32)

    def rolled(row: Array, by: Array, length: Array) -> Array:
        zeros, at = jnp.zeros_like(row), jnp.arange(t)[:, None]
        later = jax.lax.dynamic_slice_in_dim(jnp.concatenate([zeros, row]), t - by, t)
        end = jax.lax.dynamic_slice_in_dim(jnp.concatenate([row, zeros]), length - by, t)
        return jnp.where(at >= length, row, jnp.where(at < by, end, later))

    return jax.vmap(rolled)(x, by, length)


def add_noise(
    key: Key, spec: Float[Array, "b t f c"], *, scale: float | int = 0.1
) -> Float[Array, "b t f c"]:
    """Adds noise that is uniform in [0, 1), times a factor for every row that is uniform in
    [0, scale), to standardised spectrograms (AST on Speech Commands, SSAST on ESC-50)."""
    key_value, key_factor = jax.random.split(key)
    factor = jax.random.uniform(key_factor, (spec.shape[0], 1, 1, 1), spec.dtype, maxval=scale)
    return spec + factor * jax.random.uniform(key_value, spec.shape, spec.dtype)


def roll_time(
    key: Key, spec: Float[Array, "b t f c"], *, shift: int = 10
) -> Float[Array, "b t f c"]:
    """Every row rolled in time by a uniform number of frames in ``-shift .. shift - 1`` (AST)."""
    b, t, f, c = spec.shape
    if shift == 0:
        return spec
    by = jax.random.randint(key, (b, 1), -shift, shift)
    ids = (jnp.arange(t)[None] - by) % t
    return take_tokens(spec.reshape(b, t, f * c), ids).reshape(spec.shape)


def _random_interval(key, rows: int, size: int, width: int):
    """``[rows size]`` bool: True in one random interval of every row, shorter than ``width``."""
    key_width, key_start = jax.random.split(key)
    length = jax.random.randint(key_width, (rows, 1), 0, max(1, min(width, size + 1)))
    start = jnp.floor(jax.random.uniform(key_start, (rows, 1)) * (size - length + 1)).astype(int)
    at = np.arange(size)[None]
    return (at >= start) & (at < start + length)


def _remove_mean(x):
    return x - jnp.mean(x, axis=1, keepdims=True)


def _blend(x, weight):
    """Every row with the next one: ``weight * x[i] + (1 - weight) * x[i + 1]``."""
    weight = weight.reshape((-1,) + (1,) * (x.ndim - 1)).astype(x.dtype)
    return weight * x + (1 - weight) * jnp.roll(x, -1, axis=0)
