"""One sensor's spectral plane to one vector: patches, a window transformer, a linear map."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jfreq.nn.heads import torch_bias, torch_kernel
from jfreq.nn.swin import Swin


class NormedPatchEmbed(nn.Module):
    """Linear map of every patch and a layer norm. FreqMAE and FOCAL leave both as they were born
    while they pre-train (the trick of MoCo v3); see ``optim.lr_mult`` of their recipes."""

    width: int

    @nn.compact
    def __call__(self, patches: Float[Array, "b n p"]) -> Float[Array, "b n d"]:
        x = nn.Dense(
            self.width, kernel_init=torch_kernel, bias_init=torch_bias(patches.shape[-1]),
            name="linear",
        )(patches)  # fmt: skip
        return nn.LayerNorm(epsilon=1e-5, name="norm")(x)


class ModalityEncoder(nn.Module):
    """Patches ``[b n p]`` of a padded lattice ``tokens`` = (time, freq) to a vector ``[b out]`` and
    the last plane ``[b t f d]`` (FreqMAE, sheet section 1.b.5). ``valid``: static, False in
    padding; None attends to padding as well."""

    swin: Swin
    tokens: tuple[int, int]
    out: int
    valid: np.ndarray | None = None

    @nn.compact
    def __call__(
        self,
        patches: Float[Array, "b n p"],
        hidden: Bool[Array, "b t f"] | None = None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "b out"], Float[Array, "b t2 f2 d2"]]:
        """``hidden`` tokens are replaced by the mask token: the encoder sees every place."""
        x = NormedPatchEmbed(self.swin.width, name="patch_embed")(patches)
        x = x.reshape(x.shape[0], *self.tokens, x.shape[-1])
        if hidden is not None:
            token = self.param("mask_token", nn.initializers.zeros, (self.swin.width,))
            x = jnp.where(hidden[..., None], token[None, None, None], x)
        last = self.swin.build("swin")(x, valid=self.valid, train=train)
        flat = last.reshape(last.shape[0], -1)
        out = nn.Dense(
            self.out, kernel_init=torch_kernel, bias_init=torch_bias(flat.shape[-1]), name="out"
        )(flat)
        return out, last


class SensorPredictor(nn.Module):
    """What the other sensors say of this one: Linear, GELU, Linear on their vectors side by side
    (FreqMAE, sheet section 1.b.6)."""

    hidden: int
    out: int

    @nn.compact
    def __call__(self, others: Float[Array, "b d"]) -> Float[Array, "b out"]:
        x = others
        for name, size in (("hidden", self.hidden), ("out", self.out)):
            dense = nn.Dense(
                size, kernel_init=torch_kernel, bias_init=torch_bias(x.shape[-1]), name=name
            )
            x = nn.gelu(dense(x), approximate=False) if name == "hidden" else dense(x)
        return x


class ModalityDecoder(nn.Module):
    """A vector back to every patch: ``[b d]`` to ``[b n p]`` (FreqMAE, sheet section 1.b.7)."""

    swin: Swin
    tokens: tuple[int, int]
    size: int
    valid: np.ndarray | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b d"], *, train: bool = False) -> Float[Array, "b n p"]:
        time, freq, width = self.swin.last(self.tokens)
        x = nn.Dense(
            time * freq * width, kernel_init=torch_kernel, bias_init=torch_bias(x.shape[-1]),
            name="spread",
        )(x)  # fmt: skip
        plane = x.reshape(-1, time, freq, width)
        out = self.swin.decoder(self.size, "swin")(plane, valid=self.valid, train=train)
        return out.reshape(out.shape[0], -1, self.size)
