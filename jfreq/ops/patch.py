"""Spectrograms to patches and back. Inside a patch values run (frequency, time, channel)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jfreq.types import InputError, Order

Shape2 = tuple[int, int]
"""(frequency, time): patch sizes and strides in bins and frames, grids in tokens."""


def grid_shape(frames: int, bins: int, *, patch: Shape2, stride: Shape2) -> Shape2:
    """Tokens ``(freq, time)`` of a ``frames`` x ``bins`` spectrogram, without padding.

    Raises ``InputError`` when not even one patch fits.
    """
    if bins < patch[0] or frames < patch[1]:
        raise InputError(
            f"no patch of {patch[0]} bins x {patch[1]} frames fits {bins} bins x {frames} frames: "
            "use longer clips or a smaller patch"
        )
    return (bins - patch[0]) // stride[0] + 1, (frames - patch[1]) // stride[1] + 1


def patchify(
    spec: Float[Array, "b t f c"], *, patch: Shape2, order: Order = "freq_major"
) -> Float[Array, "b n d"]:
    """Non-overlapping patches ``[b n pf*pt*c]`` of ``[b t f c]``, ``patch = (pf, pt)``.

    Token ``f * T + t`` for ``freq_major`` (AST, SSAST), ``t * F + f`` for ``time_major``
    (Audio-MAE). Raises ``InputError`` unless the patch divides the spectrogram.
    """
    b, t, f, c = spec.shape
    pf, pt = patch
    if t % pt or f % pf:
        raise InputError(
            f"patches of {pf} bins x {pt} frames do not tile {f} bins x {t} frames: "
            "pad or cut the frames first"
        )
    cells = spec.reshape(b, t // pt, pt, f // pf, pf, c)
    axes = (0, 3, 1, 4, 2, 5) if order == "freq_major" else (0, 1, 3, 4, 2, 5)
    return cells.transpose(axes).reshape(b, (t // pt) * (f // pf), pf * pt * c)


def unpatchify(
    tokens: Float[Array, "b n d"], *, grid: Shape2, patch: Shape2, order: Order = "freq_major"
) -> Float[Array, "b t f c"]:
    """The inverse of :func:`patchify`; ``grid`` is (freq, time) in tokens.

    Raises ``InputError`` when ``n`` or ``d`` do not fit ``grid`` and ``patch``.
    """
    b, n, d = tokens.shape
    (f, t), (pf, pt) = grid, patch
    if n != f * t or d % (pf * pt):
        raise InputError(
            f"{n} tokens of width {d} do not fill a grid of {f} x {t} patches of {pf} x {pt}"
        )
    lead = (f, t) if order == "freq_major" else (t, f)
    cells = tokens.reshape(b, *lead, pf, pt, d // (pf * pt))
    axes = (0, 2, 4, 1, 3, 5) if order == "freq_major" else (0, 1, 4, 2, 3, 5)
    return cells.transpose(axes).reshape(b, t * pt, f * pf, d // (pf * pt))


def embed_patches(
    spec: Float[Array, "b t f c"],
    kernel: Float[Array, "p d"],
    *,
    patch: Shape2,
    stride: Shape2,
    order: Order = "freq_major",
) -> Float[Array, "b n d"]:
    """Linear map of every patch: ``[b t f c]``, ``[pf*pt*c d]`` to ``[b n d]``.

    Bins and frames past the last whole patch are left out. One kernel serves every stride, so a
    model pretrained on touching patches can be fine-tuned on overlapping ones (SSAST, 2.4).
    """
    b, t, f, c = spec.shape
    pf, pt = patch
    freq, time = grid_shape(t, f, patch=patch, stride=stride)
    if stride == patch:
        return patchify(spec[:, : time * pt, : freq * pf], patch=patch, order=order) @ kernel
    window = kernel.reshape(pf, pt, c, -1).transpose(1, 0, 2, 3)
    tokens = jax.lax.conv_general_dilated(
        spec, window, stride[::-1], "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    if order == "freq_major":
        tokens = jnp.swapaxes(tokens, 1, 2)
    return tokens.reshape(b, freq * time, -1)
