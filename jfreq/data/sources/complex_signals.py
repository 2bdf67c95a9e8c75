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
    """Real modalities of a complex signal ``[t a k]`` of ``a`` antennas and ``k`` subcarriers.

    A sample that is NaN on any antenna is NaN on all of them.

    Args:
      signal: complex64 ``[t a k]``.
      ways: modalities to make, each called by its way; their channels are in order of antennas:

        - ``amplitude`` ``[t a*k]``: the modulus.
        - ``phase_difference`` ``[t (a-1)*k]``: the phase of every antenna relative to the one
          before it, in radians. What is common to the antennas, above all the offset of the
          oscillators, cancels. It is unwrapped along time, because a jump of 2 pi would be a
          click in its spectrum.
        - ``real_imag`` ``[t 2*a*k]``: all real parts, then all imaginary parts.
      modalities: channels of all of these side by side, under other names.

    Returns:
      Signals ``[t c]`` float32 by modality.

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
    """``x`` at the samples that are ``known``, NaN at the others."""
    if known.all():
        return x
    out = np.full((len(known), *x.shape[1:]), np.nan, np.float32)
    out[known] = x
    return out


def check_ways(ways: Sequence[str]) -> None:
    """``InputError`` where ``ways`` are empty or one of them is unknown."""
    check(bool(ways), "complex_as", f"is empty; name one or more of {', '.join(WAYS)}")
    for way in ways:
        if way not in WAYS:
            raise InputError(
                f"complex_as: there is no {way!r}{close_match(way, WAYS)}; name one or more of "
                f"{', '.join(WAYS)}"
            )


def _real(x: np.ndarray, way: str) -> np.ndarray:
    if way == "amplitude":
        return np.abs(x).astype(np.float32)
    if way == "real_imag":
        return np.concatenate([np.real(x), np.imag(x)], 1).astype(np.float32)
    if x.shape[1] < 2:
        raise InputError("phase_difference needs two antennas or channels, the recording has one")
    difference = np.angle(x[:, 1:] * np.conj(x[:, :-1]))
    return np.unwrap(difference, axis=0).astype(np.float32)
