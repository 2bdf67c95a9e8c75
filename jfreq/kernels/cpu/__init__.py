"""Forms that XLA:CPU runs faster than the plain ones.

The plain formulas are in ``ops/`` and ``nn/``, and every other platform runs them. A form of this
package is chosen in one place, by ``jax.lax.platform_dependent``, when a program is lowered. It
gives the same values and gradients but for rounding; random bits of :func:`dropout` differ.
"""

from jfreq.kernels.cpu.byte_dropout import dropout
from jfreq.kernels.cpu.dense import affine, gelu_of_norm, layer_norm, mlp
from jfreq.kernels.cpu.fused_attention import attention, self_attention
from jfreq.kernels.cpu.fused_convolution import grouped_conv
from jfreq.kernels.cpu.groups import in_groups
from jfreq.kernels.cpu.options import compiler_options
from jfreq.kernels.cpu.products import conv_as_products, sequence_conv

__all__ = [
    "affine",
    "attention",
    "compiler_options",
    "conv_as_products",
    "dropout",
    "gelu_of_norm",
    "grouped_conv",
    "in_groups",
    "layer_norm",
    "mlp",
    "self_attention",
    "sequence_conv",
]
