"""Convolution of groups of channels by a kernel that is compiled for this processor."""

from __future__ import annotations

import jax
from jaxtyping import Array, Float

from jfreq.kernels.cpu import compiled, products


def grouped_conv(
    x: Float[Array, "b h t c"], kernel: Float[Array, "kh kt c_g out"]
) -> Float[Array, "b h t out"]:
    """:func:`jfreq.ops.conv.grouped_conv` by the compiled kernel, or as matrix products where that
    can't be (:func:`jfreq.kernels.cpu.compiled.fits`)."""
    if not compiled.fits(x, kernel):
        return products.grouped_conv(x, kernel)
    return _conv(x, kernel)


@jax.custom_vjp
def _conv(x, kernel):
    return _forward.bind(x, kernel)[0]


def _conv_forward(x, kernel):
    return _conv(x, kernel), (x, kernel)


def _conv_backward(saved, dL_dy):
    x, kernel = saved
    (dL_dkernel,) = _by_kernel.bind(x, kernel, dL_dy)
    return _forward.bind(dL_dy, _turned(kernel, x.shape[-1]))[0], dL_dkernel


_conv.defvjp(_conv_forward, _conv_backward)


def _turned(kernel, channels):
    """The kernel with which the gradient by the output is convolved: mirrored, and its channels of
    input and output changed for each other."""
    high, wide, size, out = kernel.shape
    groups = channels // size
    kernel = kernel[::-1, ::-1].reshape(high, wide, size, groups, out // groups)
    return kernel.transpose(0, 1, 4, 3, 2).reshape(high, wide, out // groups, channels)


def _plain_by_kernel(x, kernel, dL_dy):
    return jax.vjp(lambda kernel: products.grouped_conv(x, kernel), kernel)[1](dL_dy)


_forward = compiled.primitive(
    "jfreq_convolution",
    "convolution",
    lambda x, kernel: [(*x.shape[:3], kernel.shape[3])],
    lambda x, kernel: [products.grouped_conv(x, kernel)],
    all_rows=False,
)
_by_kernel = compiled.primitive(
    "jfreq_convolution_by_kernel",
    "convolution",
    lambda x, kernel, dL_dy: [kernel.shape],
    _plain_by_kernel,
    all_rows=False,
)
