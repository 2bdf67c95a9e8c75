"""Encodes rows of any length with an encoder that reads one window."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp

from jfreq.encoder.encoder import by_time
from jfreq.encoder.windowing import Windowing, choose_windowing, grid_of_window
from jfreq.method import Method, Wrapper
from jfreq.ranges import Positive, checked
from jfreq.types import Array, Batch, DataSpec, Features, InputError, PyTree, SignalSpec, TokenGrid


def for_any_length(method: Method, data: DataSpec) -> Method:
    """``method`` for rows of ``data``, which may be of any length."""
    return with_rescaled_length(AnyLength(method.signals, method), data)


def with_rescaled_length(method: Method, data: DataSpec) -> Method:
    """``method`` for batches whose ``length`` counts samples of the first signal of ``data``.

    The first signal of ``method`` may be another one, at another rate.
    """
    ratio = method.signals[0].rate / data.signals[0].rate
    return method if ratio == 1 else RescaledLength(method.signals, method, ratio)


@checked
class RescaledLength(Wrapper):
    """The method ``whole``, for batches whose ``length`` counts samples at another rate."""

    inner: ClassVar[str] = "whole"

    whole: Method = Method()
    ratio: Positive = 1.0
    """The rate of the first signal of the method over that of ``length``."""

    def encode(self, params: PyTree, batch: Batch) -> Features:
        return self.whole.encode(params, self._rescaled(batch))

    def with_spectrogram(self, batch: Batch) -> Batch:
        return self.whole.with_spectrogram(self._rescaled(batch))

    def _rescaled(self, batch: Batch) -> Batch:
        if "length" not in batch:
            return batch
        return {**batch, "length": jnp.ceil(batch["length"] * self.ratio).astype(jnp.int32)}


@checked
class AnyLength(Wrapper):
    """The method ``whole`` with an ``encode`` for rows shorter or longer than its window.

    Shorter rows are padded. Longer rows are encoded window by window, each of which gives the
    tokens that lie wholly inside it, so that the token grid has no seams; the clip vector is the
    mean over windows, weighted by their valid tokens. Shapes are static, so it runs under ``jit``.
    """

    inner: ClassVar[str] = "whole"

    whole: Method = Method()

    def encode(self, params: PyTree, batch: Batch) -> Features:
        method, signals, first = self.whole, self.signals, self.signals[0]
        present = batch[first.name].shape[1]
        batch = {"length": jnp.full(batch[first.name].shape[0], present, jnp.int32), **batch}
        if all(batch[s.name].shape[1] == s.samples for s in signals):
            return method.encode(params, batch)
        if present <= first.samples:
            return method.encode(params, _padded(batch, signals))
        shapes = jax.eval_shape(method.encode, params, _padded(batch, signals))
        grid = grid_of_window(shapes.grid, first)
        windowing = choose_windowing(grid, signals)
        if windowing is None:
            raise InputError(
                f"rows of {present / first.rate:g} s cannot be cut into windows of "
                f"{first.seconds:g} s, because no whole number of token hops is a whole number of "
                f"samples of {', '.join(s.name for s in signals)}; prepare the set with --seconds "
                f"{first.seconds:g}"
            )
        total = math.floor((present - grid.first) / grid.hop) + 1
        count = -(-total // windowing.tokens)
        return _encode_windows(method, params, batch, signals, windowing, count, grid)


def _encode_windows(
    method: Method,
    params: PyTree,
    batch: Batch,
    signals: Sequence[SignalSpec],
    windowing: Windowing,
    count: int,
    grid: TokenGrid,
) -> Features:
    """Encodes ``count`` windows of every row as one batch ``[b*w ...]`` and joins their tokens."""
    steps, tokens = windowing.steps, windowing.tokens
    parts = [_slices(batch, signals, [j * step for step in steps]) for j in range(count)]
    for j, part in enumerate(parts):
        part["length"] = jnp.clip(batch["length"] - j * steps[0], 1, windowing.length)
    # Windows of a row lie side by side, so that a sharded batch stays where it is.
    flat = {k: _side_by_side([part[k] for part in parts]) for k in parts[0]}
    features = method.encode(params, flat)
    rows = batch["length"].shape[0]

    def join(x: Array) -> Array:
        """``[b*w n ...]`` to ``[b w*tokens freq ...]``, the tokens that each window gives."""
        x = by_time(x, grid)[:, :tokens]
        return x.reshape(rows, count * tokens, *x.shape[2:])

    whole = TokenGrid(count * tokens, grid.freq, grid.order, grid.first, grid.hop)

    def flatten(x: Array) -> Array:
        x = jnp.swapaxes(x, 1, 2) if grid.order == "freq_major" else x
        return x.reshape(rows, whole.size, *x.shape[3:])

    centre = grid.first + grid.hop * jnp.arange(whole.time, dtype=jnp.float32)
    inside = centre[None] <= batch["length"][:, None].astype(jnp.float32)
    inside = inside | (jnp.arange(whole.time) == 0)[None]
    valid = join(features.valid) & inside[..., None]
    weight = valid.reshape(rows, count, -1).sum(-1).astype(jnp.float32)
    weight = weight / jnp.maximum(weight.sum(1, keepdims=True), 1)
    clip = (features.clip.reshape(rows, count, -1) * weight[..., None]).sum(1)
    layers = features.layers
    if layers is not None:
        layers = jax.vmap(lambda x: flatten(join(x)))(layers)
    return Features(flatten(join(features.tokens)), whole, clip, flatten(valid), layers)


def _slices(batch: Batch, signals: Sequence[SignalSpec], starts: Sequence[int]) -> Batch:
    """One window of every modality; zeros beyond the row."""
    out: Batch = {"length": batch["length"]}
    for spec, start in zip(signals, starts):
        part = batch[spec.name][:, start : start + spec.samples]
        missing = spec.samples - part.shape[1]
        out[spec.name] = jnp.pad(part, ((0, 0), (0, missing), (0, 0)))
    return out


def _padded(batch: Batch, signals: Sequence[SignalSpec]) -> Batch:
    return _slices(batch, signals, [0] * len(signals))


def _side_by_side(parts: list[Array]) -> Array:
    return jnp.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:])
