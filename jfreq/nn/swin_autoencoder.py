"""FreqMAE's encoder and decoder of one sensor: patches, a window transformer, a linear map."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jfreq.nn.heads import torch_linear
from jfreq.nn.swin import Swin


class NormedPatchEmbed(nn.Module):
    """Linear map of every patch and a layer norm. FreqMAE and FOCAL keep both at their initial
    values in pre-training, as MoCo v3 does; see ``optim.lr_mult`` of their recipes."""

    width: int

    @nn.compact
    def __call__(self, patches: Float[Array, "b n p"]) -> Float[Array, "b n d"]:
        x = torch_linear(self.width, patches, "linear")
        return nn.LayerNorm(epsilon=1e-5, name="norm")(x)


class ModalityEncoder(nn.Module):
    """Patches of a padded grid ``tokens`` = (time, freq) to a vector, and the states after the last
    stage (FreqMAE, sheet section 1.b.5). ``valid``: static, False in padding; None attends to
    padding as well."""

    swin: Swin
    tokens: tuple[int, int]
    out: int
    valid: np.ndarray | None = None

    @nn.compact
    def __call__(
        self,
        patches: Float[Array, "b n p"],
        masked: Bool[Array, "b t f"] | None = None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "b out"], Float[Array, "b t2 f2 d2"]]:
        """``masked`` tokens are replaced by the mask token: the encoder reads the whole grid."""
        x = NormedPatchEmbed(self.swin.width, name="patch_embed")(patches)
        x = x.reshape(x.shape[0], *self.tokens, x.shape[-1])
        if masked is not None:
            token = self.param("mask_token", nn.initializers.zeros, (self.swin.width,))
            x = jnp.where(masked[..., None], token[None, None, None], x)
        last = self.swin.build("swin")(x, valid=self.valid, train=train)
        return torch_linear(self.out, last.reshape(last.shape[0], -1), "out"), last


class SensorPredictor(nn.Module):
    """A sensor's vector from the concatenated vectors of the others: Linear, GELU, Linear (FreqMAE,
    sheet section 1.b.6)."""

    hidden: int
    out: int

    @nn.compact
    def __call__(self, others: Float[Array, "b d"]) -> Float[Array, "b out"]:
        x = nn.gelu(torch_linear(self.hidden, others, "hidden"), approximate=False)
        return torch_linear(self.out, x, "out")


class ModalityDecoder(nn.Module):
    """A vector back to every patch: ``[b d]`` to ``[b n p]`` (FreqMAE, sheet section 1.b.7)."""

    swin: Swin
    tokens: tuple[int, int]
    size: int
    valid: np.ndarray | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b d"], *, train: bool = False) -> Float[Array, "b n p"]:
        time, freq, width = self.swin.last(self.tokens)
        x = torch_linear(time * freq * width, x, "spread").reshape(-1, time, freq, width)
        out = self.swin.decoder(self.size, "swin")(x, valid=self.valid, train=train)
        return out.reshape(out.shape[0], -1, self.size)
