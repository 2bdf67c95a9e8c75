"""The unit written down directly: kernels from complex numbers, sums tap by tap."""

import numpy as np


def exact(x):
    return np.asarray(x, np.float64)


def kernel(alpha, beta, *, taps, phase="even", unit_gain=False):
    """``k`` complex128 ``[*a taps]``, as the paper's line and as window times sinusoid."""
    alpha, omega = exact(alpha)[..., None], 2 * np.pi * exact(beta)[..., None]
    m = np.arange(taps) - taps // 2
    if phase == "hermitian":
        r = np.exp(-alpha)
        return (1 - r) / (1 + r) * np.exp(-alpha * abs(m) + 1j * omega * m)
    decay = alpha + 1j * omega
    gain = 2 / decay * np.sinh(decay / 2) * (alpha if unit_gain else 1)
    return gain * np.exp(-decay * abs(m))


def gathered(u, k, *, every=1, xp=np):
    """A, and D with ``every > 1``: every output's neighbourhood laid out, ``[b p n k c]``."""
    taps = k.shape[-1]
    starts = np.arange(0, u.shape[2] - taps + 1, every)
    near = u[:, :, starts[:, None] + np.arange(taps)]
    return xp.einsum("bpnkc,bpck->bpnc", near, k)


def tap_by_tap(u, k):
    """B: one shifted copy of the patch after the other."""
    taps = k.shape[-1]
    patch = u.shape[2] - taps + 1
    return sum(k[:, :, None, :, i] * u[:, :, i : i + patch] for i in range(taps))


def folded(u, k):
    """E: equal taps on either side meet once; even kernels only."""
    reach = k.shape[-1] // 2
    patch = u.shape[2] - 2 * reach
    y = k[:, :, None, :, reach] * u[:, :, reach : reach + patch]
    for m in range(1, reach + 1):
        both = u[:, :, reach + m :][:, :, :patch] + u[:, :, reach - m :][:, :, :patch]
        y = y + k[:, :, None, :, reach + m] * both
    return y


def from_clip(x, k, *, patch, stride, local=False):
    """``[b p patch c]`` from the clip itself, one output at a time, in complex128."""
    b, t, c = x.shape
    reach = k.shape[-1] // 2
    y = np.zeros((b, (t - patch) // stride + 1, patch, c), complex)
    for p, n, m in np.ndindex(y.shape[1], patch, k.shape[-1]):
        first, at = p * stride, p * stride + n + m - reach
        low, high = (first, first + patch) if local else (0, t)
        if low <= at < high:
            y[:, p, n] += k[:, p, :, m] * x[:, at]
    return y
