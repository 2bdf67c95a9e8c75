"""STFNets: learning on spectra of several resolutions at once (Yao et al., WWW 2019).

Axes as in :mod:`jfreq.ops.stf`: ``s`` sample in its block, ``b`` row of the batch, ``m`` block,
``c`` channel, ``p`` part of a block, ``k`` bin, ``z`` real and imaginary part.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jfreq import sharding
from jfreq.kernels import cpu
from jfreq.nn.cnn1d import one_length
from jfreq.ops import stf
from jfreq.ranges import BelowOne, Count, Positive, Size, checked
from jfreq.types import InputError, SignalSpec, TokenGrid

Pair = tuple[Array, Array]
"""Real and imaginary part."""
_GROUP_BYTES = 2**20
"""On a CPU, rows are encoded in groups whose series take at most this many bytes; their spectra
need about ten times as many."""
Shape = tuple[int, int]
"""Channels in and out of a layer."""
SLOPE = 0.2
"""Slope of the leaky ReLU below zero: TensorFlow's default, which the released networks use."""


@checked
class STF:
    """Config of :class:`STFEncoder`; the defaults are the released HHAR network,
    whose merges learn.

    One tower of ``depth`` layers for each sensor, then ``depth`` layers over all of them, the
    first of which pools. Channels are divided evenly among the windows.
    """

    windows: tuple[Count, ...] = (16, 32, 64, 128)
    """Block lengths in samples, each a divisor of the next; the longest divides the series."""
    pooled: tuple[Count, ...] | None = (12, 24, 48, 96)
    """Block lengths after the pooling layer, which keeps the low bins; None: no pooling."""
    width: Size = 64
    sensor_width: Size = 32
    """Output channels of the tower of each sensor."""
    depth: Size = 3
    operator: Literal["filter", "convolution"] = "filter"
    """``filter``: a weight for every bin; ``convolution``: a short kernel along frequency."""
    activation: Literal["time", "frequency"] = "time"
    """The domain of the leaky ReLU; the released WiFi network has it in frequency."""
    merge: Literal["xavier", "zero"] = "xavier"
    """Initial values of the weights that merge resolutions. The released code uses ``zero``, with
    which these weights never receive a gradient and a merged bin is the plain DFT bin; ``xavier``
    lets them learn."""
    taps: Size = 32
    """Length of the base filter, shared by all resolutions."""
    filter_form: Literal["taps", "bins"] = "taps"
    """Learn real taps, or the complex response at their bins."""
    expansion: Literal["linear", "zero_pad"] = "linear"
    """How the response of the base filter is evaluated for a longer window. ``linear``:
    interpolated between bins, as released, which weakens the outer taps (by a periodic sinc
    squared); ``zero_pad``: the exact DFT of the zero-padded taps."""
    kernel: Size = 3
    """Taps of the convolution, which are the same frequency apart at every resolution."""
    dropout: BelowOne = 0.2
    """Rate of dropout of whole channels, after every layer."""
    scaling: Literal["backward", "ortho"] = "backward"
    """Scaling of the spectra. ``ortho`` gives the channels of all windows the same magnitude; with
    ``backward``, as released, it falls with the square root of the window."""
    dead_bias: bool = False
    """Keep the second, unused bias of the released filters, so that the number of parameters is
    theirs."""
    eps: Positive = 1e-4
    """Added to the variances of the complex norm."""
    eps_in_covariance: bool = False
    """Add ``eps`` to the covariance of real and imaginary part too, as released."""

    def __post_init__(self):
        stf.check_windows(self.windows, self.pooled or self.windows)
        count = len(self.windows)
        for name in ("width", "sensor_width"):
            if getattr(self, name) % count:
                raise InputError(
                    f"encoder.{name}: {getattr(self, name)} channels do not divide over "
                    f"{count} windows"
                )
        if self.kernel % 2 == 0:
            raise InputError(f"encoder.kernel: must be odd, got {self.kernel}")
        if self.operator == "convolution" and self.kernel // 2 >= self.sizes[0] // 2:
            raise InputError(
                f"encoder.kernel: {self.kernel} taps reach beyond the {self.sizes[0] // 2 + 1} "
                "bins of the shortest window"
            )
        if self.taps < 4 or self.taps % 2:
            raise InputError(f"encoder.taps: must be even and 4 or more, got {self.taps}")

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.pooled or self.windows

    pool: ClassVar[Literal["mean"]] = "mean"
    """A clip is the mean of its tokens."""

    def check(self, signals: Sequence[SignalSpec]) -> None:
        """Raises ``InputError`` for sensors that differ in length or do not divide into blocks."""
        samples = one_length(signals)
        stf.check_windows(self.windows, self.sizes, samples)
        rest = self._pooled_samples(samples) % self.windows[-1]
        if self.pooled and rest:
            raise InputError(
                f"encoder.pooled: {samples} samples pool to {self._pooled_samples(samples)}, not "
                f"a multiple of the longest window {self.windows[-1]}; choose other lengths"
            )

    def grid(self, samples: int) -> TokenGrid:
        """One token for every block of the longest window of the input."""
        block = self.windows[-1]
        return TokenGrid(time=samples // block, first=(block - 1) / 2, hop=float(block))

    def _pooled_samples(self, samples: int) -> int:
        return samples // self.windows[0] * self.sizes[0]

    def build(self, name: str | None = None) -> STFEncoder:
        return STFEncoder(self, name=name)


class STFEncoder(nn.Module):
    """A tower of layers for each sensor, layers over all of them, and the means of the series over
    blocks of the longest window of the input."""

    cfg: STF

    @nn.compact
    def __call__(
        self, sensors: Sequence[Float[Array, "b t _c"]], *, train: bool = False
    ) -> Float[Array, "b n d"]:
        """Encodes series of one length; sensors may differ in channels.

        Layers of one shape run in a loop, so that each shape is compiled once. Dropout is on in
        ``train`` and needs the ``dropout`` key.
        """
        cfg, depth, longest = self.cfg, self.cfg.depth, self.cfg.windows[-1]
        shapes = _shapes(cfg, [x.shape[-1] for x in sensors])
        if self.is_initializing():
            for name, (inputs, width) in shapes.items():
                STFLayer(cfg, width, name=name)(jnp.zeros((longest, 1, 1, inputs)))
        params, rows = self.variables["params"], sensors[0].shape[0]
        keep = self._keep(shapes, rows) if train and cfg.dropout else {}

        def encode(batch):
            sensors, keep = batch
            layers = [_Layer(shape, params[n], keep.get(n)) for n, shape in shapes.items()]
            series = [stf.to_blocks(x, longest) for x in sensors]
            towers = [layers[i * depth : (i + 1) * depth] for i in range(len(series))]
            x = jnp.concatenate(_towers(cfg, towers, series), axis=-1)
            fused = layers[-depth:]
            if cfg.pooled:
                x = fused.pop(0)(cfg, x, pool=True)
                x = stf.to_blocks(stf.to_series(x), longest)
            x = stf.to_series(_chain(cfg, fused, x))
            return x.reshape(x.shape[0], sensors[0].shape[1] // longest, -1, x.shape[-1]).mean(2)

        batch = list(sensors), keep
        max_rows = max(1, _GROUP_BYTES // (4 * sensors[0].shape[1] * cfg.width))
        # The number of rows is symbolic where a program for any batch is exported.
        if not isinstance(rows, int) or rows <= max_rows or sharding.devices() > 1:
            return encode(batch)
        grouped = functools.partial(cpu.in_groups, encode, max_rows)
        return jax.lax.platform_dependent(batch, cpu=grouped, default=encode)

    def _keep(self, shapes: Mapping[str, Shape], rows: int) -> dict[str, Float[Array, "b _c"]]:
        """Factors of dropout by layer: whole channels are zeroed, the others scaled."""
        kept = 1 - self.cfg.dropout
        return {
            name: jax.random.bernoulli(self.make_rng("dropout"), kept, (rows, width)) / kept
            for name, (_, width) in shapes.items()
        }


def _shapes(cfg: STF, channels: Sequence[int]) -> dict[str, Shape]:
    """Channels in and out of every layer by its name: the towers', then the fused layers'."""
    widths = [cfg.width] * (cfg.depth - 1) + [cfg.sensor_width]
    shapes = {
        f"sensor{i}_{j}": shape
        for i, c in enumerate(channels)
        for j, shape in enumerate(zip([c, *widths], widths))
    }
    inputs = [cfg.sensor_width * len(channels)] + [cfg.width] * (cfg.depth - 1)
    return shapes | {f"fused{j}": (c, cfg.width) for j, c in enumerate(inputs)}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Layer:
    """An :class:`STFLayer` with its parameters and its factors of dropout ``[b width]``.

    Its spectra are computed anew in the backward pass (``jax.checkpoint``), because they take ten
    times the memory of the series.
    """

    shape: Shape = dataclasses.field(metadata={"static": True})
    params: Mapping
    keep: Array | None

    def __call__(self, cfg: STF, x: Array, *, pool: bool = False) -> Array:
        def apply(params: Mapping, x: Array) -> Array:
            module = STFLayer(cfg, self.shape[1], pool, parent=None)
            return cast(Array, module.apply({"params": params}, x))

        x = jax.checkpoint(apply, prevent_cse=False)(self.params, x)
        return x if self.keep is None else x * self.keep[None, :, None]


def _chain(cfg: STF, layers: Sequence[_Layer], x: Array) -> Array:
    """Layers one after the other; neighbours of one shape run in a loop."""
    for _, same_shape in itertools.groupby(layers, key=lambda layer: layer.shape):
        first, *others = same_shape
        if others:
            x, _ = jax.lax.scan(lambda x, layer: (layer(cfg, x), None), x, _stack(first, *others))
        else:
            x = first(cfg, x)
    return x


def _towers(
    cfg: STF, towers: Sequence[list[_Layer]], series: Sequence[Float[Array, "s b m _c"]]
) -> list[Float[Array, "s b m c"]]:
    """Every series through its own tower; in a loop where the series have one shape."""
    if len(series) == 1 or len({x.shape for x in series}) > 1:
        return [_chain(cfg, tower, x) for tower, x in zip(towers, series)]
    stacked = _stack(*zip(towers, series))
    return list(jax.lax.map(lambda tower: _chain(cfg, *tower), stacked))


def _stack(*trees):
    return jax.tree.map(lambda *arrays: jnp.stack(arrays), *trees)


class STFLayer(nn.Module):
    """One layer (STFNets, section 3): a hologram, interleaving, complex normalisation, one
    spectral operator for all resolutions, and synthesis of a series.

    The hologram holds for each window only the bins that no shorter window has (its native bins);
    interleaving adds the others, merged from shorter windows. ``pool`` keeps the low bins of each
    window and returns a shorter series.
    """

    cfg: STF
    width: int
    pool: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "s b m c"]) -> Float[Array, "s2 b m width"]:
        cfg = self.cfg
        sizes = cfg.sizes if self.pool else cfg.windows
        native = [] if cfg.merge == "zero" else stf.hologram(x, cfg.windows, sizes)
        operator = _Filter if cfg.operator == "filter" else _Convolution
        filters = operator(cfg, x.shape[-1], self.width // len(sizes), name="operator")
        series = []
        for j, size in enumerate(sizes):
            bins = stf.bin_order(cfg.windows, sizes, j)
            scale = cfg.windows[j] ** -0.5 if cfg.scaling == "ortho" else 1.0
            merges = self._merges(j)
            if cfg.merge == "zero":  # every merged bin is the bin of the long block itself
                z = stf.block_spectrum(x, cfg.windows[j], bins)
            else:
                z = self._interleave(native, j, merges)
            z = z * scale
            z = stf.whiten(z, cfg.eps, eps_in_covariance=cfg.eps_in_covariance)
            z = _Affine(name=f"norm{j}")(z)
            z, bins = filters(z, bins, size=size, dilation=cfg.windows[j] // cfg.windows[0])
            if cfg.activation == "frequency":
                z = nn.leaky_relu(z, SLOPE)
            series.append(stf.synthesise(z / scale, size, bins))
        out = jnp.concatenate(series, axis=-1)
        if cfg.operator == "filter":
            out += self.param("bias", nn.initializers.zeros, (self.width,)).reshape(1, 1, 1, -1)
            if cfg.dead_bias:
                self.param("bias_unread", nn.initializers.zeros, (self.width,))
        return nn.leaky_relu(out, SLOPE) if cfg.activation == "time" else out

    def _merges(self, j: int) -> list[tuple[int, Array, Array]]:
        """Ratio, weights and bias of each shorter window."""
        windows, out = self.cfg.windows, []
        for shorter in windows[:j]:
            ratio = windows[j] // shorter
            merge = _Merge(ratio, self.cfg.merge, name=f"merge{shorter}_{windows[j]}")
            out.append((ratio, *merge()))
        return out

    def _interleave(self, native: list[Array], j: int, merges) -> Array:
        """All bins of window ``j``, ordered by the shortest window that has them: those merged from
        shorter windows, then its native ones."""
        parts = [stf.merge_blocks(z, *merge) for z, merge in zip(native, merges)]
        return jnp.concatenate([*parts, native[j]], axis=2)


class _Merge(nn.Module):
    """Complex weights of one pair of resolutions, from real parameters."""

    ratio: int
    init: Literal["xavier", "zero"]

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "2 r r"], Float[Array, "2 r"]]:
        r, zeros = self.ratio, nn.initializers.zeros
        start = zeros if self.init == "zero" else nn.initializers.xavier_uniform()
        kernel = self.param("kernel", start, (r, 2 * (r + 1)))
        bias = self.param("bias", zeros, (2, r))
        return jnp.einsum("pzn,qn->zpq", stf.merge_basis(r), kernel), bias


class _Affine(nn.Module):
    """The learned map of the complex norm: a symmetric 2 x 2 matrix and a shift per channel."""

    @nn.compact
    def __call__(self, z: Pair) -> Pair:
        c = z[0].shape[-1]
        gain = nn.initializers.constant(1 / math.sqrt(2))
        rr, ii = (self.param(f"scale_{n}", gain, (c,)) for n in ("rr", "ii"))
        ri = self.param("scale_ri", nn.initializers.zeros, (c,))
        real, imag = self.param("shift", nn.initializers.zeros, (2, c))
        rr, ri, ii, real, imag = (x.reshape(1, 1, 1, 1, -1) for x in (rr, ri, ii, real, imag))
        return rr * z[0] + ri * z[1] + real, ri * z[0] + ii * z[1] + imag


class _Filter(nn.Module):
    """STFNet-Filtering: a complex weight for every bin and pair of channels.

    The weights of all resolutions are computed from one base filter of ``taps``.
    """

    cfg: STF
    inputs: int
    outputs: int

    def setup(self):
        cfg, pairs = self.cfg, self.inputs * self.outputs
        limit = math.sqrt(6 / (pairs + cfg.taps))

        def uniform(key, shape):
            return jax.random.uniform(key, shape, minval=-limit, maxval=limit)

        bins = cfg.taps // 2 + 1
        shape = (cfg.taps, pairs) if cfg.filter_form == "taps" else (bins, 2, pairs)
        self.base = self.param("base", uniform, shape)

    def __call__(self, z: Pair, bins: np.ndarray, *, size: int, dilation: int):
        """Maps ``[p k b m c]``, real and imaginary, to ``[p 2 k b m o]``; also returns its bins."""
        del dilation
        response = self._response(size, bins)
        return complex_product(z, response[:, 0], response[:, 1]), bins

    def _response(self, size: int, bins: np.ndarray) -> Float[Array, "k 2 i o"]:
        """Real and imaginary part at ``bins`` of blocks of ``size``."""
        cfg = self.cfg
        if cfg.filter_form == "taps":
            basis = stf.tap_response(cfg.taps, size, zero_pad=cfg.expansion == "zero_pad")
            out = jnp.einsum("kzn,np->kzp", basis[bins], self.base, precision="highest")
        else:
            resize = stf.align_corners(size // 2 + 1, cfg.taps // 2 + 1).astype(np.float32)
            out = jnp.einsum("kf,fzp->kzp", resize[bins], self.base, precision="highest")
        return out.reshape(len(bins), 2, self.inputs, self.outputs)


class _Convolution(nn.Module):
    """STFNet-Convolution: one short complex kernel along frequency. Its taps are equally spaced in
    Hz at every resolution, and spectra are padded by reflection. It has no bias."""

    cfg: STF
    inputs: int
    outputs: int

    def setup(self):
        limit = math.sqrt(6 / (self.cfg.kernel * (self.inputs + self.outputs)))

        def uniform(key, shape):
            return jax.random.uniform(key, shape, minval=-limit, maxval=limit)

        self.base = self.param("base", uniform, (2, self.cfg.kernel, self.inputs, self.outputs))

    def __call__(self, z: Pair, bins: np.ndarray, *, size: int, dilation: int):
        """Maps ``[p k b m c]``, real and imaginary, to ``[p 2 k b m o]``; also returns its bins."""
        del size
        natural, count = bins.argsort(), len(bins)
        real, imag = (x[:, natural] for x in z)
        padded = stf.pad_bins(real, imag, self.cfg.kernel // 2 * dilation)
        starts = [t * dilation for t in range(self.cfg.kernel)]
        real, imag = (jnp.concatenate([x[:, s : s + count] for s in starts], -1) for x in padded)
        table = self.base.reshape(2, 1, -1, self.outputs)
        table = jnp.broadcast_to(table, (2, count, *table.shape[2:]))
        return complex_product((real, imag), table[0], table[1]), bins[natural]


def complex_product(z: Pair, re: Array, im: Array) -> Float[Array, "p 2 k b m o"]:
    """``[p k b m c]`` times the complex matrices ``re + j im``, ``[k c o]``, of every bin."""

    def product(x, *columns):
        # One table for each part: without this batch axis XLA:CPU transposes copies of operands.
        table = jnp.concatenate(columns, axis=-1)
        table = jnp.broadcast_to(table, (x.shape[0], *table.shape))
        return jnp.einsum("pkxc,pkco->pkxo", x.reshape(*x.shape[:2], -1, x.shape[-1]), table)

    p, k, b, m, _ = z[0].shape
    out = product(z[0], re, im) + product(z[1], -im, re)
    return jnp.moveaxis(out.reshape(p, k, b, m, 2, -1), 4, 1)
