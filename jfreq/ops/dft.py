"""Short-time Fourier transforms on real arrays, with two evaluators held to the same tests.

``fft`` is XLA's FFT. ``matmul`` multiplies by a real DFT basis built in float64: XLA shards it
over the batch (a batch-sharded FFT is computed in full on every device), and a TPU's matrix unit
runs it.
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
from jfreq.ops.frames import WindowName, frame, overlap_add
from jfreq.ops.frames import window as make_window
from jfreq.types import InputError

Evaluator = Literal["auto", "fft", "matmul"]
PadMode = Literal["reflect", "constant", "edge"]
_HIGHEST = jax.lax.Precision.HIGHEST
T = TypeVar("T")


def evaluate(
    evaluator: Evaluator,
    fft: Callable[..., T],
    matmul: Callable[..., T],
    *args: Array,
) -> T:
    """``auto`` means ``matmul`` on several devices (those of the mesh, where one is set) and on
    TPU, else ``fft``. The platform is the one that the program is lowered for."""
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
    """Squared magnitude of :func:`rdft`, ``[... n n_fft // 2 + 1]``, not normalised."""
    real, imag = rdft(frames, n_fft=n_fft, evaluator=evaluator)
    return jnp.square(real) + jnp.square(imag)


def stft(
    x: Float[Array, "... t"],
    *,
    n_fft: int,
    hop_length: int,
    win_length: int | None = None,
    window: WindowName = "hann",
    center: bool = True,
    pad_mode: PadMode = "reflect",
    evaluator: Evaluator = "auto",
) -> tuple[Float32[Array, "... n f"], Float32[Array, "... n f"]]:
    """``(real, imag)`` ``[... n f]`` of the windowed frames of ``[... t]``; librosa's convention.

    The periodic window of ``win_length`` (default ``n_fft``) sits in the middle of ``n_fft``
    samples; ``center`` pads ``n_fft // 2`` samples on both sides so that frame ``i`` is centred
    on sample ``i * hop_length``. Raises ``InputError`` for signals too short to pad or frame.
    """
    if center:
        half = n_fft // 2
        if pad_mode == "reflect" and x.shape[-1] <= half:
            raise InputError(f"{x.shape[-1]} samples are too few to reflect {half} at each end")
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(half, half)], mode=pad_mode)
    if x.shape[-1] < n_fft:
        raise InputError(f"{x.shape[-1]} samples are fewer than n_fft {n_fft}")
    taper = _centred_window(window, win_length or n_fft, n_fft).astype(np.float32)
    frames = frame(x, frame_length=n_fft, hop_length=hop_length)
    frames = frames * taper.reshape((1,) * x.ndim + (-1,))
    return rdft(frames, n_fft=n_fft, evaluator=evaluator)


def istft(
    real: Float[Array, "... n f"],
    imag: Float[Array, "... n f"],
    *,
    n_fft: int,
    hop_length: int,
    win_length: int | None = None,
    window: WindowName = "hann",
    center: bool = True,
    length: int | None = None,
    evaluator: Evaluator = "auto",
) -> Float32[Array, "... t"]:
    """The signal ``[... t]`` whose STFT is closest in the least-squares sense (Griffin and Lim).

    Windowed overlap-add divided by the sum of squared windows. ``length`` cuts or zero-pads the
    end; without it only whole hops come back, as in librosa.
    """
    n = real.shape[-2]
    taper = _centred_window(window, win_length or n_fft, n_fft)
    frames = irdft(real, imag, n_fft=n_fft, evaluator=evaluator)
    frames = frames * taper.astype(np.float32).reshape((1,) * (real.ndim - 1) + (-1,))
    x = overlap_add(frames, hop_length=hop_length)
    weight = _squared_window_sum(taper, n, hop_length)
    gain = 1 / np.where(weight > np.finfo(np.float32).tiny, weight, 1.0)
    x = x * gain.astype(np.float32).reshape((1,) * (x.ndim - 1) + (-1,))
    if center:
        x = x[..., n_fft // 2 : (x.shape[-1] if length else x.shape[-1] - n_fft // 2)]
    if length is not None:
        x = x[..., :length]
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, length - x.shape[-1])])
    return x


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


def _centred_window(name: WindowName, win_length: int, n_fft: int) -> np.ndarray:
    """``[n_fft]``: the periodic window with zeros on both sides (librosa ``pad_center``)."""
    if not 0 < win_length <= n_fft:
        raise InputError(f"win_length {win_length} must lie in 1..n_fft ({n_fft})")
    left = (n_fft - win_length) // 2
    taper = make_window(name, win_length, periodic=True)
    return np.pad(taper, (left, n_fft - win_length - left))


def _squared_window_sum(taper: np.ndarray, n: int, hop_length: int) -> np.ndarray:
    total = np.zeros((n - 1) * hop_length + taper.size)
    for i in range(n):
        total[i * hop_length : i * hop_length + taper.size] += taper**2
    return total
