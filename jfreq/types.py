"""The types and the letters for axes that everything else uses.

Letters, one set for the whole library: ``b`` batch, ``t`` time (samples, frames or time
tokens), ``n`` tokens, ``f`` frequency bins, ``c`` channels, ``d`` width, ``h`` heads,
``k`` visible tokens, ``m`` masked tokens, ``l`` layers.

A pair of numbers for the two axes (patch, stride, grid, SpecAugment) is (time, freq), as in
``[b t f c]``.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple, TypeAlias

import jax

from jfreq.ranges import Count, Finite, Hertz, InputError, Mix, NonNegative, checked

Array: TypeAlias = jax.Array
PyTree: TypeAlias = Any
Batch: TypeAlias = dict[str, jax.Array]
"""A dict of arrays with static shapes.

Signals by modality name, ``[b t c]``, int16 PCM or float32; and, where known,
``label`` (``[b]`` int32 class or ``[b classes]`` float32 multi-hot, -1 or all zero for none),
``id`` ``[b]`` int32 row number, ``length`` ``[b]`` int32 valid samples of the first modality,
``_mask`` ``[b]`` float32, 0 for a row that only fills up the batch. A front end may add
``spectrogram`` ``[b t f c]`` and ``valid_frames`` ``[b t]`` bool; ``encode`` and ``loss`` then use
the spectrogram instead of the raw signal.
"""
BatchSpec: TypeAlias = dict[str, jax.ShapeDtypeStruct]
"""Shapes and dtypes of a batch."""

Order = Literal["freq_major", "time_major"]


@checked
class SignalSpec:
    """One modality, statically: ``samples`` per window at ``rate`` Hz, ``channels`` wide.

    ``mean`` and ``std`` per channel, in physical units, are those of the training rows; empty
    where they were not measured.
    """

    name: str
    rate: Hertz
    samples: Count
    channels: Count = 1
    mean: tuple[Finite, ...] = ()
    std: tuple[NonNegative, ...] = ()
    names: tuple[str, ...] = ()
    """Names of the channels, from the columns of a sensor table; empty where there are none."""
    mix: Mix = "first"
    """How the channels of a sound recording became those of the signal."""

    @property
    def seconds(self) -> float:
        return self.samples / self.rate


@dataclasses.dataclass(frozen=True)
class DataSpec:
    """The modalities of a set of shards and its labels, which are empty when it has none."""

    signals: tuple[SignalSpec, ...]
    labels: tuple[str, ...] = ()
    multi_label: bool = False

    def signal(self, name: str | None = None) -> SignalSpec:
        """The named modality, or the first one; ``InputError`` where there is none."""
        for spec in self.signals:
            if name is None or spec.name == name:
                return spec
        known = ", ".join(spec.name for spec in self.signals) or "none"
        raise InputError(f"no signal {name!r} in the data; it has: {known}")


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class TokenGrid:
    """A grid of ``time`` x ``freq`` tokens, flattened in ``order``.

    ``freq_major`` numbers tokens ``f * time + t`` (AST, SSAST), ``time_major``
    ``t * freq + f`` (Audio-MAE, EAT). In samples of the signal, ``first`` is the centre of the
    tokens at time 0 and ``hop`` the distance to those at time 1.
    """

    time: int
    freq: int = 1
    order: Order = "freq_major"
    first: float = 0.0
    hop: float = 1.0

    @property
    def size(self) -> int:
        return self.time * self.freq

    @property
    def shape(self) -> tuple[int, int]:
        """The two axes a flat token axis unfolds into, slowest first."""
        return (self.freq, self.time) if self.order == "freq_major" else (self.time, self.freq)


class Mask(NamedTuple):
    """Which tokens are visible and which are masked, by id; k + m = n, all static counts.

    ``visible`` ``[b k]``, ``masked`` ``[b m]``, ``restore`` ``[b n]``: position of token ``i`` in
    the concatenation ``[visible, masked]``, so that token ``i`` is masked where
    ``restore[b, i] >= k``.
    """

    visible: Array
    masked: Array
    restore: Array

    @property
    def is_masked(self) -> Array:
        """``[b n]`` bool."""
        return self.restore >= self.visible.shape[-1]


class Features(NamedTuple):
    """What an encoder returns.

    ``tokens`` ``[b n d]`` float32 in the order of ``grid``; ``clip`` ``[b d]`` the method's own
    clip vector; ``valid`` ``[b n]`` bool, False for tokens that are centred in padding;
    ``layers`` ``[l b n d]`` the state after each block and ``logits`` ``[b classes]`` of a
    supervised method, or None.
    """

    tokens: Array
    grid: TokenGrid
    clip: Array
    valid: Array
    layers: Array | None = None
    logits: Array | None = None


class Reconstruction(NamedTuple):
    """One masked batch and its reconstruction.

    ``spectrogram`` ``[b t f c]`` float32 without the mask; ``masked`` ``[b t f]`` bool;
    ``reconstruction`` ``[b t f c]`` float32 in the units of ``spectrogram``, equal to it where
    nothing is masked, or None for a method that does not reconstruct.
    """

    spectrogram: Array
    masked: Array
    reconstruction: Array | None


class Embedding(NamedTuple):
    """What :class:`jfreq.Encoder` returns.

    ``clip`` ``[b d]`` and ``frames`` ``[b t d]`` float32; ``valid`` ``[b]`` int, the count of valid
    frames; ``times_ms`` ``[t]`` float64, the centre of each frame in milliseconds; ``logits``
    ``[b classes]`` of an encoder that was trained with labels, or None.
    """

    clip: Any
    frames: Any
    valid: Any
    times_ms: Any
    logits: Any = None
