"""A DeepSense-style encoder of raw sensor series: convolutions over short spectra, then GRUs.

All encoders of series have the interface of :class:`jfreq.nn.stf.STF`: a config with ``pool``,
``check(signals)``, ``grid(samples)`` and ``build()``; the module takes one ``[b t c]`` for each
sensor and returns tokens ``[b n d]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jfreq.nn.cnn1d import one_length
from jfreq.ops import dft
from jfreq.ranges import BelowOne, Count, Size, checked
from jfreq.types import InputError, SignalSpec, TokenGrid


@checked
class DeepSense:
    """Config of :class:`DeepSenseEncoder`, after DeepSense (Yao et al., WWW 2017): spectra of
    short chunks, convolutions in each sensor, then over sensors, then two GRUs over time.

    Layer norm over a whole chunk replaces the batch norm of the original, which would need state;
    over channels alone it would hide which bins are loud.
    """

    chunk: Count = 16
    """Samples of a chunk."""
    width: Size = 64
    hidden: Size = 120
    """Units of each GRU."""
    dropout: BelowOne = 0.2
    """Rate of dropout of convolution channels; that of the outputs of the GRUs is 0.5, as
    released."""
    pool: ClassVar[Literal["mean"]] = "mean"

    def __post_init__(self):
        if self.chunk < 8:
            raise InputError(f"encoder.chunk: must be 8 samples or more, got {self.chunk}")

    def check(self, signals: Sequence[SignalSpec]) -> None:
        """Raises ``InputError`` for sensors that do not divide into chunks."""
        samples = one_length(signals)
        if samples % self.chunk:
            raise InputError(
                f"encoder.chunk: {samples} samples are not a multiple of {self.chunk}; choose a "
                "divisor or prepare with another --seconds"
            )

    def grid(self, samples: int) -> TokenGrid:
        """One token for each chunk."""
        return TokenGrid(samples // self.chunk, first=(self.chunk - 1) / 2, hop=float(self.chunk))

    def build(self, name: str | None = None) -> DeepSenseEncoder:
        return DeepSenseEncoder(self, name=name)


class DeepSenseEncoder(nn.Module):
    """Convolutions over the real and imaginary parts of the spectra of chunks, then GRUs."""

    cfg: DeepSense

    @nn.compact
    def __call__(
        self, sensors: Sequence[Float[Array, "b t c"]], *, train: bool = False
    ) -> Float[Array, "b n d"]:
        """Dropout is on in ``train`` and needs the ``dropout`` key."""
        cfg = self.cfg
        features = [self._sensor(i, x, train) for i, x in enumerate(sensors)]
        x = jnp.stack(features, axis=2)  # [b n sensors f d]
        for i, size in enumerate((8, 6, 4)):
            # Kernels no longer than the axes: the rest would only see padding.
            kernel = (1, min(2, x.shape[2]), min(size, x.shape[3]))
            x = self._conv(x, kernel, "SAME", f"merge{i}", train)
        x = x.reshape(*x.shape[:2], -1)
        for i in range(2):
            x = nn.RNN(nn.GRUCell(cfg.hidden), name=f"gru{i}")(x)
            x = nn.Dropout(0.5, broadcast_dims=(1,))(x, deterministic=not train)
        return x

    def _sensor(self, i: int, x: Array, train: bool) -> Array:
        """The states ``[b n f d]`` of the chunks of one sensor ``[b t c]``."""
        b, t, c = x.shape
        chunks = x.reshape(b, t // self.cfg.chunk, self.cfg.chunk, c).swapaxes(2, 3)
        real, imag = dft.rdft(chunks.astype(jnp.float32), n_fft=self.cfg.chunk)
        x = jnp.concatenate([real, imag], axis=2).swapaxes(2, 3)
        for j in range(3):
            x = self._conv(x, (1, min(3, x.shape[2])), "VALID", f"sensor{i}_{j}", train)
        return x

    def _conv(self, x: Array, kernel, padding: str, name: str, train: bool) -> Array:
        x = nn.Conv(self.cfg.width, kernel, padding=padding, name=name)(x)
        over = tuple(range(1, x.ndim - 1))
        x = nn.relu(nn.LayerNorm(reduction_axes=(*over[1:], -1), name=f"{name}_norm")(x))
        return nn.Dropout(self.cfg.dropout, broadcast_dims=over)(x, deterministic=not train)
