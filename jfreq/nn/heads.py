"""Small heads and the initialisers that the papers' recipes rely on."""

from __future__ import annotations

import flax.linen as nn
import jax
from jaxtyping import Array, Float

trunc_normal = nn.initializers.truncated_normal(0.02)
"""Normal of standard deviation 0.02, cut at twice that, which leaves one of 0.0176."""

normal = nn.initializers.normal(0.02)
"""Normal of standard deviation 0.02: what timm and BERT give linear maps and tokens."""

torch_kernel = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""What torch gives a Linear or Conv: uniform within 1 / sqrt(fan_in)."""


def torch_bias(fan_in: int):
    """Initialiser of a torch bias: uniform within ``1 / sqrt(fan_in)``."""

    def init(key, shape, dtype):
        return jax.random.uniform(key, shape, dtype, -(fan_in**-0.5), fan_in**-0.5)

    return init


def torch_linear(width: int, x: Array, name: str) -> Array:
    """A linear map with torch's initial weights; call inside a compact method."""
    bias = torch_bias(x.shape[-1])
    return nn.Dense(width, kernel_init=torch_kernel, bias_init=bias, name=name)(x)


class MLPHead(nn.Module):
    """Linear, ReLU, Linear: the prediction head of SSAST (section 2.4). Float32."""

    width: int
    out: int

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b out"]:
        return torch_linear(self.out, nn.relu(torch_linear(self.width, x, "hidden")), "out")


class NormLinear(nn.Module):
    """LayerNorm (unless ``norm`` is off) and a linear classifier: the head of AST and of
    fine-tuned SSAST. Float32.

    ``initial`` is the standard deviation of its initial kernel, whose bias is then 0 (EAT 0.02,
    Audio-MAE 0.00002); None: torch's initial values.
    """

    classes: int
    norm: bool = True
    eps: float = 1e-5
    initial: float | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b d"]) -> Float[Array, "b classes"]:
        x = nn.LayerNorm(epsilon=self.eps, name="norm")(x) if self.norm else x
        if self.initial is None:
            return torch_linear(self.classes, x, "linear")
        # timm cuts this normal at 2, which is 100 standard deviations or more: not at all.
        kernel = nn.initializers.normal(self.initial)
        return nn.Dense(self.classes, kernel_init=kernel, name="linear")(x)
