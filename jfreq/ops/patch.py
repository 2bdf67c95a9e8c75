"""Spectrograms to patches and back.

Pairs are (time, freq). The values of a patch, and with them the rows of a kernel, are ordered by
(frequency, time, channel), as in the released weights of AST and SSAST.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jfreq.types import InputError, Order

Shape2 = tuple[int, int]
"""(time, freq): patch sizes and strides in frames and bins, grids in tokens."""


def grid_shape(frames: int, bins: int, *, patch: Shape2, stride: Shape2) -> Shape2:
    """How many patches ``(time, freq)`` fit into a ``frames`` x ``bins`` spectrogram.

    Raises ``InputError`` where no patch fits.

    >>> grid_shape(1024, 128, patch=(16, 16), stride=(10, 10))
    (101, 12)
    """
    if frames < patch[0] or bins < patch[1]:
        raise InputError(
            f"no patch of {patch[0]} frames x {patch[1]} bins fits {frames} frames x {bins} bins: "
            "use longer clips or a smaller patch"
        )
    return (frames - patch[0]) // stride[0] + 1, (bins - patch[1]) // stride[1] + 1


def patchify(
    spec: Float[Array, "b t f c"], *, patch: Shape2, order: Order = "freq_major"
) -> Float[Array, "b n d"]:
    """Non-overlapping patches ``[b n pf*pt*c]`` of ``[b t f c]``, ``patch = (pt, pf)``.

    On a grid of ``T`` by ``F`` tokens, the patch at ``(t, f)`` is token ``f * T + t`` for
    ``freq_major`` (AST, SSAST) and ``t * F + f`` for ``time_major`` (Audio-MAE). Raises
    ``InputError`` unless the patch divides the spectrogram.

    >>> spec = jnp.arange(8.0).reshape(1, 4, 2, 1)  # 4 frames of 2 bins
    >>> patchify(spec, patch=(2, 2)).tolist()
    [[[0.0, 2.0, 1.0, 3.0], [4.0, 6.0, 5.0, 7.0]]]
    """
    b, t, f, c = spec.shape
    pt, pf = patch
    if t % pt or f % pf:
        raise InputError(
            f"patches of {pt} frames x {pf} bins do not tile {t} frames x {f} bins: "
            "pad or cut the frames first"
        )
    cells = spec.reshape(b, t // pt, pt, f // pf, pf, c)
    axes = (0, 3, 1, 4, 2, 5) if order == "freq_major" else (0, 1, 3, 4, 2, 5)
    return cells.transpose(axes).reshape(b, (t // pt) * (f // pf), pf * pt * c)


def unpatchify(
    tokens: Float[Array, "b n d"], *, grid: Shape2, patch: Shape2, order: Order = "freq_major"
) -> Float[Array, "b t f c"]:
    """The inverse of :func:`patchify`; ``grid`` is (time, freq) in tokens.

    Raises ``InputError`` when ``n`` or ``d`` do not fit ``grid`` and ``patch``.

    >>> spec = jnp.arange(8.0).reshape(1, 4, 2, 1)
    >>> tokens = patchify(spec, patch=(2, 2))
    >>> bool((unpatchify(tokens, grid=(2, 1), patch=(2, 2)) == spec).all())
    True
    """
    b, n, d = tokens.shape
    (t, f), (pt, pf) = grid, patch
    if n != t * f or d % (pt * pf):
        raise InputError(
            f"{n} tokens of width {d} do not fill a grid of {t} x {f} (time x frequency) "
            f"patches of {pt} frames x {pf} bins"
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

    Frames and bins past the last whole patch are left out. The kernel does not depend on the
    stride, so that a model pre-trained on patches side by side can be fine-tuned on overlapping
    ones (SSAST, section 2.4).

    >>> spec, mean = jnp.arange(8.0).reshape(1, 4, 2, 1), jnp.full((4, 1), 0.25)
    >>> embed_patches(spec, mean, patch=(2, 2), stride=(1, 2))[0, :, 0].tolist()
    [1.5, 3.5, 5.5]
    """
    b, t, f, c = spec.shape
    pt, pf = patch
    time, freq = grid_shape(t, f, patch=patch, stride=stride)
    if stride == patch:
        return patchify(spec[:, : time * pt, : freq * pf], patch=patch, order=order) @ kernel
    window = kernel.reshape(pf, pt, c, -1).transpose(1, 0, 2, 3)
    tokens = jax.lax.conv_general_dilated(
        spec, window, stride, "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    if order == "freq_major":
        tokens = jnp.swapaxes(tokens, 1, 2)
    return tokens.reshape(b, time * freq, -1)
