"""A DeepSense-style encoder of spectrograms: convolutions within a frame, GRUs over time."""

from __future__ import annotations

from typing import cast

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jfreq.ranges import BelowOne, Size, Whole, checked
from jfreq.types import InputError


@checked
class DeepSenseSTFT:
    """Config of :class:`DeepSenseSTFTEncoder`: DeepSense (Yao et al., WWW 2017) as FOCAL builds it,
    over the patches of each frame of one sensor's spectrogram; its first convolution is the
    patch.

    Layer norm over a whole frame replaces the batch norm of the original, which would need state;
    over channels alone it would hide which bins are loud.
    """

    width: Size = 64
    """Width of a frame; convolutions have half as many channels."""
    blocks: Whole = 4
    """Residual convolutions along frequency."""
    kernel: Size = 3
    """Length of a convolution, in patches."""
    hidden: Size = 64
    """Units of each GRU; two layers, both directions."""
    dropout: BelowOne = 0.2
    """Rate of dropout of convolution channels, and between the GRUs."""

    def __post_init__(self):
        if self.width < 2:
            raise InputError(f"encoder.width: must be 2 or more, got {self.width}")

    def build(self, name: str | None = None) -> DeepSenseSTFTEncoder:
        return DeepSenseSTFTEncoder(self, name=name)


class DeepSenseSTFTEncoder(nn.Module):
    """Maps patches ``[b t f p]`` to states of frames ``[b t d]``, where ``d`` is twice ``hidden``.
    Frames are independent of each other before the GRUs."""

    cfg: DeepSenseSTFT

    @nn.compact
    def __call__(
        self,
        patches: Float[Array, "b t f p"],
        valid: Bool[Array, "b t"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "b t d"]:
        """Dropout is on in ``train`` and needs the ``dropout`` key. Frames that are not ``valid``
        reach the GRUs as zeros."""
        cfg = self.cfg
        x = self._active(nn.Dense(cfg.width // 2, name="embed")(patches), "embed", train)
        for i in range(cfg.blocks):
            kernel = (1, min(cfg.kernel, x.shape[2]))
            conv = nn.Conv(x.shape[-1], kernel, name=f"conv{i}")
            x = x + self._active(conv(x), f"conv{i}", train)
        x = nn.Dense(cfg.width, name="frame")(x.reshape(*x.shape[:2], -1))
        if valid is not None:
            x = jnp.where(valid[..., None], x, 0.0)
        for i in range(2):
            on, back = (nn.RNN(nn.GRUCell(cfg.hidden, name=f"gru{i}_{w}")) for w in ("on", "back"))
            x = cast("Array", nn.Bidirectional(on, back)(x))
            if i == 0:
                x = nn.Dropout(cfg.dropout)(x, deterministic=not train)
        return x

    def _active(self, x: Array, name: str, train: bool) -> Array:
        x = nn.gelu(
            nn.LayerNorm(reduction_axes=(-2, -1), name=f"{name}_norm")(x), approximate=False
        )
        return nn.Dropout(self.cfg.dropout, broadcast_dims=(1, 2))(x, deterministic=not train)
