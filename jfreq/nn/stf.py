"""STFNets: learning on spectra of several resolutions at once (Yao et al., WWW 2019)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jfreq.ops import stf
from jfreq.types import Grid, InputError, SignalSpec

SLOPE = 0.2
"""Of the leaky ReLU: TensorFlow's default, which the released networks use."""


@dataclasses.dataclass(frozen=True)
class STF:
    """Config of :class:`STFEncoder`; the defaults are the released HHAR network.

    One tower of ``depth`` layers for each sensor, then ``depth`` layers over all of them, the
    first of which pools. Channels are shared out evenly among the windows.
    """

    windows: tuple[int, ...] = (16, 32, 64, 128)
    """Block lengths in samples, each a divisor of the next; the longest divides the series."""
    pooled: tuple[int, ...] | None = (12, 24, 48, 96)
    """Block lengths after the pooling layer, which keeps the low bins; None: no pooling."""
    width: int = 64
    sensor_width: int = 32
    """Channels that each sensor hands on."""
    depth: int = 3
    operator: Literal["filter", "convolution"] = "filter"
    """``filter``: a weight for every bin; ``convolution``: a short kernel along frequency."""
    activation: Literal["time", "frequency"] = "time"
    """Where the leaky ReLU stands; the released WiFi network has it in frequency."""
    merge: Literal["xavier", "zero"] = "xavier"
    """How weights between resolutions start. ``zero`` is the released default: their gradient is
    then exactly zero for ever and every merged bin equals its own DFT."""
    taps: int = 32
    """Length of the base filter, shared by all resolutions."""
    filter_form: Literal["taps", "bins"] = "taps"
    """Learn real taps, or the complex response at their bins."""
    expansion: Literal["linear", "zero_pad"] = "linear"
    """How the base filter reaches longer windows: interpolated in frequency (released default;
    it also weighs the taps by a periodic sinc squared), or exactly."""
    kernel: int = 3
    """Taps of the convolution, spaced by the same frequency at every resolution."""
    dropout: float = 0.2
    """Of whole channels, after every layer."""
    scaling: Literal["backward", "ortho"] = "backward"
    """``ortho`` gives the channel groups of all windows the same level; released: ``backward``,
    their level falls with the root of the window."""
    dead_bias: bool = False
    """Keep the second bias of the released filters, which nothing reads, for its exact count."""
    eps: float = 1e-4

    def __post_init__(self):
        stf.check_windows(self.windows, self.pooled or self.windows)
        count = len(self.windows)
        for name in ("width", "sensor_width"):
            if getattr(self, name) % count:
                raise InputError(
                    f"encoder.{name}: {getattr(self, name)} channels do not divide over "
                    f"{count} windows"
                )
        if self.depth < 1:
            raise InputError(f"encoder.depth: must be 1 or more, got {self.depth}")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise InputError(f"encoder.kernel: must be odd and positive, got {self.kernel}")
        if self.operator == "convolution" and self.kernel // 2 >= self.sizes[0] // 2:
            raise InputError(
                f"encoder.kernel: {self.kernel} taps reach beyond the {self.sizes[0] // 2 + 1} "
                "bins of the shortest window"
            )
        if self.taps < 4 or self.taps % 2:
            raise InputError(f"encoder.taps: must be even and 4 or more, got {self.taps}")
        if not 0 <= self.dropout < 1:
            raise InputError(f"encoder.dropout: must lie in [0, 1), got {self.dropout}")

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

    def grid(self, samples: int) -> Grid:
        """One token for every longest block of the input."""
        block = self.windows[-1]
        return Grid(time=samples // block, first=(block - 1) / 2, hop=float(block))

    def _pooled_samples(self, samples: int) -> int:
        return samples // self.windows[0] * self.sizes[0]

    def build(self, name: str | None = None) -> STFEncoder:
        return STFEncoder(self, name=name)


class STFEncoder(nn.Module):
    """Towers, fusion, and the mean of the series over each longest block of the input."""

    cfg: STF

    @nn.compact
    def __call__(
        self, sensors: Sequence[Float[Array, "b t c"]], *, train: bool = False
    ) -> Float[Array, "b n d"]:
        """Dropout is on in ``train`` and needs the ``dropout`` key."""
        cfg = self.cfg
        towers, longest = [], cfg.windows[-1]
        for i, series in enumerate(sensors):
            x = stf.to_blocks(series, longest)
            for j in range(cfg.depth):
                width = cfg.sensor_width if j == cfg.depth - 1 else cfg.width
                x = STFLayer(cfg, width, name=f"sensor{i}_{j}")(x, train=train)
            towers.append(x)
        x = STFLayer(cfg, cfg.width, pool=True, name="fused0")(
            jnp.concatenate(towers, axis=-1), train=train
        )
        tokens = x.shape[2]
        x = stf.to_blocks(stf.to_series(x), longest)
        for j in range(1, cfg.depth):
            x = STFLayer(cfg, cfg.width, name=f"fused{j}")(x, train=train)
        x = stf.to_series(x)
        return x.reshape(x.shape[0], tokens, -1, x.shape[-1]).mean(2)


class STFLayer(nn.Module):
    """Hologram, interleaving, complex norm, one spectral operator for all resolutions, back.

    ``pool`` keeps the low bins of each window and returns a shorter series.
    """

    cfg: STF
    width: int
    pool: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "s b m c"], *, train: bool = False
    ) -> Float[Array, "s2 b m width"]:
        cfg = self.cfg
        sizes = cfg.sizes if self.pool else cfg.windows
        native = stf.hologram(x, cfg.windows, sizes)
        operator = _Filter if cfg.operator == "filter" else _Convolution
        share = operator(cfg, x.shape[-1], self.width // len(sizes), name="operator")
        series = []
        for j, size in enumerate(sizes):
            bins = stf.bin_order(cfg.windows, sizes, j)
            scale = cfg.windows[j] ** -0.5 if cfg.scaling == "ortho" else 1.0
            z = self._interleave(native, j) * scale
            real, imag = _Affine(name=f"norm{j}")(*stf.whiten(z, eps=cfg.eps))
            z = share(real, imag, bins, size, cfg.windows[j] // cfg.windows[0])
            if cfg.activation == "frequency":
                z = nn.leaky_relu(z, SLOPE)
            series.append(stf.synthesise(z / scale, size, bins))
        out = jnp.concatenate(series, axis=-1)
        if cfg.operator == "filter":
            out = out + self._bias("bias")
            if cfg.dead_bias:
                out = out + 0.0 * self._bias("bias_unread")  # only counted and saved, as released
        if cfg.activation == "time":
            out = nn.leaky_relu(out, SLOPE)
        return nn.Dropout(cfg.dropout, broadcast_dims=(0, 2))(out, deterministic=not train)

    def _bias(self, name: str) -> Float[Array, "1 1 1 width"]:
        return self.param(name, nn.initializers.zeros, (self.width,)).reshape(1, 1, 1, -1)

    def _interleave(self, native: list[Array], j: int) -> Array:
        """All bins of window ``j`` in owner order: merged from shorter windows, then its own."""
        windows = self.cfg.windows
        parts = []
        for i in range(j):
            ratio = windows[j] // windows[i]
            name = f"merge{windows[i]}_{windows[j]}"
            weight, bias = _Merge(ratio, self.cfg.merge, name=name)()
            if self.cfg.merge == "zero":  # only counted and saved, as released
                merged = stf.merge_blocks(native[i], ratio) + 0.0 * (weight.sum() + bias.sum())
            else:
                merged = stf.merge_blocks(native[i], ratio, weight, bias)
            parts.append(merged)
        return jnp.concatenate([*parts, native[j]], axis=1)


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


class _Affine(nn.Module):
    """The learned 2 x 2 map and shift of the complex norm, for each channel."""

    @nn.compact
    def __call__(self, real: Array, imag: Array) -> tuple[Array, Array]:
        c = real.shape[-1]
        gain = nn.initializers.constant(1 / math.sqrt(2))
        rr, ii = (self.param(f"scale_{n}", gain, (c,)) for n in ("rr", "ii"))
        ri = self.param("scale_ri", nn.initializers.zeros, (c,))
        shift = self.param("shift", nn.initializers.zeros, (2, c))
        rr, ri, ii, b_real, b_imag = (x.reshape(1, 1, 1, 1, c) for x in (rr, ri, ii, *shift))
        return rr * real + ri * imag + b_real, ri * real + ii * imag + b_imag


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

    def __call__(self, real: Array, imag: Array, bins, size: int, dilation: int) -> Array:
        """Twice ``[p k b m c]`` to ``[p k 2 b m o]``."""
        del dilation
        response = self._response(size)[bins]
        response = response.reshape(len(bins), 2, self.inputs, self.outputs)
        return _complex_product(real, imag, response)

    def _response(self, size: int) -> Array:
        cfg = self.cfg
        if cfg.filter_form == "taps":
            basis = stf.tap_response(cfg.taps, size, zero_pad=cfg.expansion == "zero_pad")
            return jnp.einsum("fzn,np->fzp", basis, self.base)
        resize = stf.align_corners(size // 2 + 1, cfg.taps // 2 + 1).astype("float32")
        return jnp.einsum("fg,gzp->fzp", resize, self.base)


class _Convolution(nn.Module):
    """STFNet-Convolution: one short complex kernel along frequency, at every resolution spaced
    by the same number of hertz, on spectra padded by their own mirror image. No bias."""

    cfg: STF
    inputs: int
    outputs: int

    def setup(self):
        fan = self.cfg.kernel * (self.inputs + self.outputs)
        limit = math.sqrt(6 / fan)

        def uniform(key, shape):
            return jax.random.uniform(key, shape, minval=-limit, maxval=limit)

        self.base = self.param("base", uniform, (2, self.cfg.kernel, self.inputs, self.outputs))

    def __call__(self, real: Array, imag: Array, bins, size: int, dilation: int) -> Array:
        """Twice ``[p k b m c]`` to ``[p k 2 b m o]``, in owner order like the input."""
        del size
        natural, taps = bins.argsort(), range(self.cfg.kernel)
        padded = stf.pad_bins(real[:, natural], imag[:, natural], self.cfg.kernel // 2 * dilation)
        at = [natural.argsort() + t * dilation for t in taps]
        real, imag = (jnp.concatenate([x[:, ids] for ids in at], axis=-1) for x in padded)
        table = self.base.reshape(2, -1, self.outputs)
        table = jnp.broadcast_to(table[None], (len(bins), *table.shape))
        return _complex_product(real, imag, table)


def _complex_product(real: Array, imag: Array, weight: Array) -> Array:
    """``[p k b m c]`` times complex ``[k 2 c o]``: two real products, ``[p k 2 b m o]``."""
    re, im = weight[:, 0], weight[:, 1]
    parts = real.shape[0]

    def product(x, *columns):
        table = jnp.concatenate(columns, -1)
        table = jnp.broadcast_to(table, (parts, *table.shape))
        return jnp.einsum("pkbmc,pkco->pkbmo", x, table)

    out = product(real, re, im) + product(imag, -im, re)
    return jnp.moveaxis(out.reshape(*out.shape[:-1], 2, -1), -2, 2)
