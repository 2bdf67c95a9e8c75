"""Fourier transforms of real arrays, with two evaluators that pass the same tests.

``fft`` is XLA's FFT. ``matmul`` multiplies by a real DFT basis that is built in float64: XLA shards
it over the batch (a batch-sharded FFT is computed in full on every device), and it runs on the
matrix unit of a TPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from jfreq import sharding
from jfreq.types import InputError

Evaluator = Literal["auto", "fft", "matmul"]
_HIGHEST = jax.lax.Precision.HIGHEST
T = TypeVar("T")


def evaluate(
    evaluator: Evaluator,
    fft: Callable[..., T],
    matmul: Callable[..., T],
    *args: Array,
) -> T:
    """The result of ``fft`` or of ``matmul``. ``auto`` takes ``matmul`` on several devices (those
    of the mesh, where one is set) and on TPU, else ``fft``; the platform is the one that the
    program is lowered for.

    >>> evaluate("matmul", lambda x: "FFT", lambda x: "product", jnp.zeros(2))
    'product'
    """
    if evaluator == "auto":
        if sharding.devices() == 1:
            return jax.lax.platform_dependent(*args, tpu=matmul, default=fft)
        evaluator = "matmul"
    if evaluator not in ("fft", "matmul"):
        raise InputError(f"unknown evaluator {evaluator!r}: use auto, fft or matmul")
    return (fft if evaluator == "fft" else matmul)(*args)


def rdft(
    frames: Float[Array, "... n l"], *, n_fft: int, evaluator: Evaluator = "auto"
) -> tuple[Float32[Array, "... n f"], Float32[Array, "... n f"]]:
    """``(real, imag)`` of the DFT of real frames zero-padded at their end to ``n_fft``.

    ``[... n l]`` with ``l <= n_fft`` to twice ``[... n n_fft // 2 + 1]``.
    Raises ``InputError`` for frames longer than ``n_fft``.

    >>> tone = jnp.cos(2 * jnp.pi * 3 * jnp.arange(16) / 16)
    >>> real, imag = rdft(tone[None], n_fft=16)
    >>> int(real.argmax()), round(float(real.max()), 3), bool(jnp.allclose(imag, 0, atol=1e-5))
    (3, 8.0, True)
    """
    length = frames.shape[-1]
    if length > n_fft:
        raise InputError(f"frames of {length} samples are longer than n_fft {n_fft}")

    def fft(frames):
        spectrum = jnp.fft.rfft(frames, n_fft)
        return jnp.real(spectrum), jnp.imag(spectrum)

    def matmul(frames):
        both = jnp.matmul(frames, _dft_basis(length, n_fft), precision=_HIGHEST)
        return both[..., : n_fft // 2 + 1], both[..., n_fft // 2 + 1 :]

    return evaluate(evaluator, fft, matmul, frames)


def irdft(
    real: Float[Array, "... n f"],
    imag: Float[Array, "... n f"],
    *,
    n_fft: int,
    evaluator: Evaluator = "auto",
) -> Float32[Array, "... n n_fft"]:
    """Real frames ``[... n n_fft]`` from their half spectrum; the inverse of :func:`rdft`.

    The imaginary part of bin 0 and, for even ``n_fft``, of the last bin is ignored.

    >>> x = jnp.array([[1.0, 2.0, 4.0, 3.0]])
    >>> bool(jnp.allclose(irdft(*rdft(x, n_fft=4), n_fft=4), x))
    True
    """
    if real.shape[-1] != n_fft // 2 + 1:
        raise InputError(f"{real.shape[-1]} bins do not belong to n_fft {n_fft}")

    def fft(real, imag):
        return jnp.fft.irfft(jax.lax.complex(real, imag), n_fft)

    def matmul(real, imag):
        both = jnp.concatenate([real, imag], axis=-1)
        return jnp.matmul(both, _inverse_basis(n_fft), precision=_HIGHEST)

    return evaluate(evaluator, fft, matmul, real, imag)


def power_spectrum(
    frames: Float[Array, "... n l"], *, n_fft: int, evaluator: Evaluator = "auto"
) -> Float32[Array, "... n f"]:
    """Squared magnitude of :func:`rdft`, ``[... n n_fft // 2 + 1]``, not normalised.

    >>> tone = jnp.sin(2 * jnp.pi * 3 * jnp.arange(16) / 16)
    >>> power = power_spectrum(tone[None], n_fft=16)
    >>> int(power.argmax()), round(float(power.max()), 2)
    (3, 64.0)
    """
    real, imag = rdft(frames, n_fft=n_fft, evaluator=evaluator)
    return jnp.square(real) + jnp.square(imag)


@functools.lru_cache(maxsize=16)
def _dft_basis(length: int, n_fft: int) -> np.ndarray:
    """``[length 2f]`` float32: cosines, then minus sines."""
    angle = _angles(length, n_fft)
    return np.concatenate([np.cos(angle), -np.sin(angle)], axis=1).astype(np.float32)


@functools.lru_cache(maxsize=16)
def _inverse_basis(n_fft: int) -> np.ndarray:
    """``[2f n_fft]`` float32; inner bins count twice, for their mirror images."""
    angle = _angles(n_fft, n_fft).T
    bins = np.arange(n_fft // 2 + 1)
    weight = np.where((bins == 0) | (2 * bins == n_fft), 1.0, 2.0)[:, None] / n_fft
    basis = np.concatenate([weight * np.cos(angle), -weight * np.sin(angle)])
    return basis.astype(np.float32)


def _angles(length: int, n_fft: int) -> np.ndarray:
    """``[length f]`` radians; the product is reduced as an integer to keep full precision."""
    product = np.arange(length)[:, None] * np.arange(n_fft // 2 + 1) % n_fft
    return 2 * np.pi * product / n_fft
