"""FreqMAE's encoder and decoder of one sensor, and the predictor of one sensor from the others.

Kara et al., WWW 2024, after the code of the authors; ``docs/freqmae.md`` says where we depart from
it. The window transformer (:mod:`jfreq.nn.swin`) reads a grid of ``t`` by ``f`` patches, padded to
:meth:`Swin.padded`, with ``p`` values in each. FOCAL uses the encoder too.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jfreq.nn.heads import torch_linear
from jfreq.nn.swin import Children, Swin


class NormedPatchEmbed(nn.Module):
    """A linear map of every patch, then a layer norm.

    FreqMAE and FOCAL keep both at their initial values in pre-training, as MoCo v3 does; see
    ``optim.lr_mult`` of their recipes.
    """

    width: int
    """Size ``d`` of a token."""

    @nn.compact
    def __call__(self, patches: Float[Array, "b n p"]) -> Float[Array, "b n d"]:
        """Patches of ``p`` values to tokens of ``d``."""
        x = torch_linear(self.width, patches, "linear")
        return nn.LayerNorm(epsilon=1e-5, name="norm")(x)


class ModalityEncoder(nn.Module):
    """Encodes the patches of one sensor to one vector: a window transformer and a linear map."""

    swin: Swin
    tokens: tuple[int, int]
    """Tokens of the padded grid along time and along frequency, ``(t, f)``."""
    out: int
    """Size of the vector."""
    valid: np.ndarray | None = None
    """``[t f]`` bool, static: False in padding, which is not attended to. None attends to it."""

    @nn.compact
    def __call__(
        self,
        patches: Float[Array, "b n p"],
        masked: Bool[Array, "b t f"] | None = None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "b out"], Float[Array, "b t2 f2 d2"]]:
        """The vector, and the states of the cells after the last stage.

        Args:
            patches: Patches of all ``t * f`` tokens, time-major.
            masked: True where the mask token replaces the patch. The encoder reads these tokens
                too, because its windows need the whole grid.
            train: Turns dropout on, which needs the ``dropout`` key.

        Raises:
            InputError: If ``tokens`` are not padded for ``swin``, or ``valid`` has another shape.
        """
        x = NormedPatchEmbed(self.swin.width, name="patch_embed")(patches)
        x = x.reshape(x.shape[0], *self.tokens, x.shape[-1])
        if masked is not None:
            mask_token = self.param("mask_token", nn.initializers.zeros, (self.swin.width,))
            x = jnp.where(masked[..., None], mask_token[None, None, None], x)
        cells = self.swin.build("swin")(x, valid=self.valid, train=train)
        return torch_linear(self.out, cells.reshape(cells.shape[0], -1), "out"), cells


class SensorPredictor(nn.Module):
    """Predicts a sensor's vector from those of the others: a linear map, GELU, a linear map."""

    hidden: int
    """Size between the two linear maps."""
    out: int
    """Size of the vector that is predicted."""

    @nn.compact
    def __call__(self, others: Float[Array, "b d"]) -> Float[Array, "b out"]:
        """One vector from those of all other sensors, which are concatenated on axis ``d``."""
        x = nn.gelu(torch_linear(self.hidden, others, "hidden"), approximate=False)
        return torch_linear(self.out, x, "out")


class ModalityDecoder(nn.Module):
    """Decodes the vector of a sensor to all of its patches.

    A linear map gives the cells of the last stage, which the transformer expands to the grid.
    """

    swin: Swin
    tokens: tuple[int, int]
    """Tokens of the padded grid along time and along frequency, ``(t, f)``."""
    size: int
    """Values ``p`` of a patch."""
    valid: np.ndarray | None = None
    """``[t f]`` bool, static: False in padding, which is not attended to. None attends to it."""
    children: Children = "in_place"
    """Where the four children of a cell go."""

    @nn.compact
    def __call__(self, x: Float[Array, "b d"], *, train: bool = False) -> Float[Array, "b n p"]:
        """Patches of all ``n = t * f`` tokens, time-major.

        ``train`` turns dropout on, which needs the ``dropout`` key. Raises ``InputError`` as
        :class:`ModalityEncoder` does.
        """
        time, freq, width = self.swin.last(self.tokens)
        x = torch_linear(time * freq * width, x, "spread").reshape(-1, time, freq, width)
        decoder = self.swin.decoder(self.size, self.children, name="swin")
        out = decoder(x, valid=self.valid, train=train)
        return out.reshape(out.shape[0], -1, self.size)
