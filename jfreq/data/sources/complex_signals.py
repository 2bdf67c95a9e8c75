"""Complex signals as real channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np

from jfreq.config import check, close_match
from jfreq.data.options import Channels, ComplexAs
from jfreq.data.sources.base import Signal, split_channels
from jfreq.types import InputError

WAYS = get_args(ComplexAs)


def real_modalities(
    signal: Signal, ways: Sequence[str], modalities: Channels | None = None
) -> dict[str, Signal]:
    """A complex signal ``[t a k]``, ``a`` antennas of ``k`` subcarriers, as real modalities.

    Each of ``ways`` is a modality of its own name, channels antenna by antenna:

    - ``amplitude`` ``[t a*k]``: the modulus;
    - ``phase_difference`` ``[t (a-1)*k]``: the phase of an antenna against the one before it, in
      radians. What the antennas share, the oscillators' offset above all, drops out. Unwrapped
      along time, as the signal is read along time: a jump of 2 pi would be a click in its spectrum;
    - ``real_imag`` ``[t 2*a*k]``: all real parts, then all imaginary parts, as stored.

    ``modalities`` renames and picks channels of all of them side by side.

    A sample that is NaN on any antenna is NaN on all of them.

    Raises:
      InputError: for an unknown way, or a phase difference with a single antenna.
    """
    check_ways(ways)
    known = np.asarray(np.isfinite(signal.x).all(axis=(1, 2)))
    parts = {way: _spread(_real(signal.x[known], way), known) for way in ways}
    joined = np.concatenate([x.reshape(len(x), -1) for x in parts.values()], 1)
    edges = np.cumsum([0, *(x.shape[1] * x.shape[2] for x in parts.values())]).tolist()
    groups = {way: range(a, b) for way, a, b in zip(parts, edges, edges[1:])}
    return split_channels(groups, signal._replace(x=joined), modalities)


def _spread(x: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Rows ``x`` where ``known``, NaN elsewhere."""
    if known.all():
        return x
    out = np.full((len(known), *x.shape[1:]), np.nan, np.float32)
    out[known] = x
    return out


def check_ways(ways: Sequence[str]) -> None:
    """``InputError`` for none, or an unknown one."""
    check(bool(ways), "complex_as", f"name one or more of {', '.join(WAYS)}")
    for way in ways:
        if way not in WAYS:
            raise InputError(
                f"complex_as: no way {way!r}{close_match(way, WAYS)}; there are: {', '.join(WAYS)}"
            )


def _real(x: np.ndarray, way: str) -> np.ndarray:
    if way == "amplitude":
        return np.abs(x).astype(np.float32)
    if way == "real_imag":
        return np.concatenate([np.real(x), np.imag(x)], 1).astype(np.float32)
    if x.shape[1] < 2:
        raise InputError("a phase difference needs two antennas or channels, it has one")
    difference = np.angle(x[:, 1:] * np.conj(x[:, :-1]))
    return np.unwrap(difference, axis=0).astype(np.float32)
