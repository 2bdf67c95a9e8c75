"""STFNets: learning on spectra of several resolutions at once (Yao et al., WWW 2019)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jfreq.nn import groups
from jfreq.ops import stf
from jfreq.ranges import Count, Fraction, Positive, Size, checked
from jfreq.types import InputError, SignalSpec, TokenGrid

Pair = tuple[Array, Array]
"""Real and imaginary part."""
SLOPE = 0.2
"""Of the leaky ReLU: TensorFlow's default, which the released networks use."""


@checked
class STF:
    """Config of :class:`STFEncoder`; the defaults are the released HHAR network.

    One tower of ``depth`` layers for each sensor, then ``depth`` layers over all of them, the
    first of which pools. Channels are shared out evenly among the windows.
    """

    windows: tuple[Count, ...] = (16, 32, 64, 128)
    """Block lengths in samples, each a divisor of the next; the longest divides the series."""
    pooled: tuple[Count, ...] | None = (12, 24, 48, 96)
    """Block lengths after the pooling layer, which keeps the low bins; None: no pooling."""
    width: Size = 64
    sensor_width: Size = 32
    """Channels that each sensor hands on."""
    depth: Size = 3
    operator: Literal["filter", "convolution"] = "filter"
    """``filter``: a weight for every bin; ``convolution``: a short kernel along frequency."""
    activation: Literal["time", "frequency"] = "time"
    """Where the leaky ReLU stands; the released WiFi network has it in frequency."""
    merge: Literal["xavier", "zero"] = "xavier"
    """How weights between resolutions start. ``zero`` is the released default: their gradient is
    then exactly zero for ever and every merged bin equals its own DFT."""
    taps: Size = 32
    """Length of the base filter, shared by all resolutions."""
    filter_form: Literal["taps", "bins"] = "taps"
    """Learn real taps, or the complex response at their bins."""
    expansion: Literal["linear", "zero_pad"] = "linear"
    """How the base filter reaches longer windows: interpolated in frequency (released default;
    it also weighs the taps by a periodic sinc squared), or exactly."""
    kernel: Size = 3
    """Taps of the convolution, spaced by the same frequency at every resolution."""
    dropout: Fraction = 0.2
    """Of whole channels, after every layer."""
    scaling: Literal["backward", "ortho"] = "backward"
    """``ortho`` gives the channel groups of all windows the same level; released: ``backward``,
    their level falls with the root of the window."""
    dead_bias: bool = False
    """Keep the second bias of the released filters, which nothing reads, for its exact count."""
    eps: Positive = 1e-4

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
        lengths = {s.name: s.samples for s in signals}
        if len(set(lengths.values())) > 1:
            raise InputError(
                f"encoder: STFNets read sensors of one length, got {lengths}; prepare them at one "
                "rate, or choose method.modalities"
            )
        samples = signals[0].samples
        stf.check_windows(self.windows, self.sizes, samples)
        rest = self._pooled_samples(samples) % self.windows[-1]
        if self.pooled and rest:
            raise InputError(
                f"encoder.pooled: {samples} samples pool to {self._pooled_samples(samples)}, not "
                f"a multiple of the longest window {self.windows[-1]}; choose other lengths"
            )

    def grid(self, samples: int) -> TokenGrid:
        """One token for every longest block of the input."""
        block = self.windows[-1]
        return TokenGrid(time=samples // block, first=(block - 1) / 2, hop=float(block))

    def _pooled_samples(self, samples: int) -> int:
        return samples // self.windows[0] * self.sizes[0]

    def build(self, name: str | None = None) -> STFEncoder:
        return STFEncoder(self, name=name)


class STFEncoder(nn.Module):
    """Towers, fusion, and the mean of the series over each longest block of the input."""

    cfg: STF

    @nn.compact
    def __call__(
        self, sensors: Sequence[Float[Array, "b t _c"]], *, train: bool = False
    ) -> Float[Array, "b n d"]:
        """Sensors may differ in channels. Dropout is on in ``train``: needs the ``dropout`` key."""
        cfg, sensors = self.cfg, list(sensors)
        if self.is_initializing():
            return _encode(cfg, sensors, {}, lambda n, *a, x: STFLayer(cfg, *a, name=n)(x))
        params = self.variables["params"]
        keep = self._keep(sensors) if train and cfg.dropout else {}

        def encode(batch):
            series, factors = batch
            return _encode(cfg, series, factors, lambda n, *a, x: _layer(cfg, *a, params[n], x))

        share = _GROUP_BYTES[cfg.merge] // (4 * sensors[0].shape[1] * cfg.width)
        return groups.in_groups(encode, (sensors, keep), max(1, share))

    def _keep(self, sensors: list[Array]) -> dict[str, Float[Array, "b _c"]]:
        """Dropout of whole channels, drawn for the batch: the same however it is computed."""
        kept, rows = 1 - self.cfg.dropout, sensors[0].shape[0]
        return {
            name: jax.random.bernoulli(self.make_rng("dropout"), kept, (rows, width)) / kept
            for name, width in _widths(self.cfg, len(sensors)).items()
        }


def _widths(cfg: STF, sensors: int) -> dict[str, int]:
    """Output channels of every layer by its name."""
    widths = [cfg.width] * (cfg.depth - 1) + [cfg.sensor_width]
    towers = {f"sensor{i}_{j}": w for i in range(sensors) for j, w in enumerate(widths)}
    return towers | {f"fused{j}": cfg.width for j in range(cfg.depth)}


def _encode(
    cfg: STF,
    sensors: list[Float[Array, "b t _c"]],
    keep: Mapping[str, Float[Array, "b _c"]],
    run: Callable[..., Array],
) -> Float[Array, "b n d"]:
    """The network from its layers ``run(name, width, pool, x=x)``; ``keep``: dropout factors."""
    widths, longest = _widths(cfg, len(sensors)), cfg.windows[-1]

    def layer(name: str, x: Array, pool: bool = False) -> Array:
        x = run(name, widths[name], pool, x=x)
        return x * keep[name][None, :, None] if name in keep else x

    towers = []
    for i, series in enumerate(sensors):
        x = stf.to_blocks(series, longest)
        for j in range(cfg.depth):
            x = layer(f"sensor{i}_{j}", x)
        towers.append(x)
    x = layer("fused0", jnp.concatenate(towers, axis=-1), pool=True)
    tokens = x.shape[2]
    x = stf.to_blocks(stf.to_series(x), longest)
    for j in range(1, cfg.depth):
        x = layer(f"fused{j}", x)
    x = stf.to_series(x)
    return x.reshape(x.shape[0], tokens, -1, x.shape[-1]).mean(2)


_GROUP_BYTES = {"xavier": 2**20, "zero": 2**21}
"""Of one series of a group of rows; its spectra take ten times as much, twice that if merged."""


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _layer(cfg: STF, width: int, pool: bool, params: Mapping, x: Array) -> Array:
    """A layer as a function: those of one shape are traced once."""
    out = STFLayer(cfg, width, pool, parent=None).apply({"params": params}, x)
    return cast(Array, out)


class STFLayer(nn.Module):
    """Hologram, interleaving, complex norm, one spectral operator for all resolutions, back.

    ``pool`` keeps the low bins of each window and returns a shorter series.
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
        share = operator(cfg, x.shape[-1], self.width // len(sizes), name="operator")
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
            affine = _Affine(x.shape[-1], name=f"norm{j}")()
            z, bins = share(
                stf.whiten(z, cfg.eps), affine, bins, size, cfg.windows[j] // cfg.windows[0]
            )
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
        """All bins of window ``j`` in owner order: merged from shorter windows, then its own."""
        parts = [stf.merge_blocks(z, *merge) for z, merge in zip(native, merges)]
        return jnp.concatenate([*parts, native[j]], axis=2)


class _Merge(nn.Module):
    """Complex weights of one pair of resolutions, from real parameters."""

    ratio: int
    init: Literal["xavier", "zero"]

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "2 r r"], Float[Array, "2 r"]]:
        r, zeros = self.ratio, nn.initializers.zeros
        kernel = self.param(
            "kernel", zeros if self.init == "zero" else nn.initializers.xavier_uniform(),
            (r, 2 * (r + 1)),
        )  # fmt: skip
        bias = self.param("bias", zeros, (2, r))
        return jnp.einsum("pzn,qn->zpq", stf.merge_basis(r), kernel), bias


class Affine(NamedTuple):
    """The learned map ``rr ri ii`` and shift ``real imag`` of the complex norm, each ``[c]``."""

    rr: Array
    ri: Array
    ii: Array
    real: Array
    imag: Array


class _Affine(nn.Module):
    channels: int

    @nn.compact
    def __call__(self) -> Affine:
        c = self.channels
        gain = nn.initializers.constant(1 / math.sqrt(2))
        rr, ii = (self.param(f"scale_{n}", gain, (c,)) for n in ("rr", "ii"))
        ri = self.param("scale_ri", nn.initializers.zeros, (c,))
        shift = self.param("shift", nn.initializers.zeros, (2, c))
        return Affine(rr, ri, ii, shift[0], shift[1])


class _Filter(nn.Module):
    """STFNet-Filtering: a complex weight for every bin and pair of channels.

    One base filter of ``taps`` serves all resolutions; the bins of each are made from it.
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

    def __call__(self, z: Pair, affine: Affine, bins: np.ndarray, size: int, dilation: int):
        """Twice ``[p k b m c]`` to ``[p 2 k b m o]`` and its bins."""
        del dilation
        shape = (len(bins), self.inputs, self.outputs)
        re, im = (part.reshape(shape) for part in self._response(size, bins))
        return complex_product(z, re, im, affine), bins

    def _response(self, size: int, bins: np.ndarray) -> list[Array]:
        """Real and imaginary part at ``bins`` of a block of ``size``, ``[k p]``."""
        cfg = self.cfg
        if cfg.filter_form == "taps":
            basis = stf.tap_response(cfg.taps, size, zero_pad=cfg.expansion == "zero_pad")[bins]
            return [_matmul(basis[:, z], self.base) for z in range(2)]
        resize = stf.align_corners(size // 2 + 1, cfg.taps // 2 + 1).astype(np.float32)[bins]
        return [_matmul(resize, self.base[:, z]) for z in range(2)]


def _matmul(a, b: Array) -> Array:
    return jnp.matmul(a, b, precision="highest")


class _Convolution(nn.Module):
    """STFNet-Convolution: one short complex kernel along frequency, at every resolution spaced
    by the same number of hertz, on spectra padded by their own mirror image. No bias."""

    cfg: STF
    inputs: int
    outputs: int

    def setup(self):
        limit = math.sqrt(6 / (self.cfg.kernel * (self.inputs + self.outputs)))

        def uniform(key, shape):
            return jax.random.uniform(key, shape, minval=-limit, maxval=limit)

        self.base = self.param("base", uniform, (2, self.cfg.kernel, self.inputs, self.outputs))

    def __call__(self, z: Pair, affine: Affine, bins: np.ndarray, size: int, dilation: int):
        """Twice ``[p k b m c]`` to ``[p 2 k b m o]`` and its bins."""
        del size
        rr, ri, ii, *shift = (x.reshape(1, 1, 1, 1, -1) for x in affine)
        real, imag = rr * z[0] + ri * z[1] + shift[0], ri * z[0] + ii * z[1] + shift[1]
        natural, count = bins.argsort(), len(bins)
        padded = stf.pad_bins(real[:, natural], imag[:, natural], self.cfg.kernel // 2 * dilation)
        starts = [t * dilation for t in range(self.cfg.kernel)]
        real, imag = (jnp.concatenate([x[:, s : s + count] for s in starts], -1) for x in padded)
        table = self.base.reshape(2, 1, -1, self.outputs)
        table = jnp.broadcast_to(table, (2, count, *table.shape[2:]))
        return complex_product((real, imag), table[0], table[1]), bins[natural]


def complex_product(z: Pair, re: Array, im: Array, affine: Affine | None = None) -> Array:
    """``[p k b m c]`` times complex ``[k c o]``, ``[p 2 k b m o]``.

    The affine map before it joins the weights: no pass over the spectrum of its own.
    """
    shift = None
    tables = ((re, -im), (im, re))
    if affine is not None:
        rr, ri, ii = (x[None, :, None] for x in affine[:3])
        shift = [
            jnp.einsum("kco,c->ko", first, affine.real, precision="highest")
            + jnp.einsum("kco,c->ko", second, affine.imag, precision="highest")
            for first, second in tables
        ]
        tables = [(rr * a + ri * b, ri * a + ii * b) for a, b in tables]
    rows = [x.reshape(*x.shape[:2], -1, x.shape[-1]) for x in z]

    def product(x, *columns):
        table = jnp.concatenate(columns, axis=-1)
        table = jnp.broadcast_to(table, (x.shape[0], *table.shape))
        return jnp.einsum("pkxc,pkco->pkxo", x, table)

    (re_re, re_im), (im_re, im_im) = tables
    out = product(rows[0], re_re, im_re) + product(rows[1], re_im, im_im)
    if shift is not None:
        out = out + jnp.concatenate(shift, axis=-1)[None, :, None]
    out = jnp.moveaxis(out.reshape(*out.shape[:3], 2, -1), 3, 1)
    return out.reshape(*out.shape[:3], *z[0].shape[2:4], -1)
