"""Boolean masks ``[b t f]`` of tokens in whole windows, for encoders that read every token
(FreqMAE, docs/freqmae.md).

A mask is a score for every window and one argsort. So its count is exact, it is sampled
independently for every row of the batch, and needs no collective where that is sharded.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Key

from jfreq.types import InputError

Unit = Literal["random", "time", "tube"]
Kind = Literal["random", "time", "tube", "mixed"]
Window = tuple[int, int]
"""(time, frequency), in tokens."""
Valid = Bool[np.ndarray, "t f"]
"""Static: which tokens hold signal, False in padding."""

MIXED: dict[Unit, float] = {"random": 0.5, "tube": 0.25, "time": 0.25}
"""How often ``mixed`` takes each kind; the released code, by mistake, samples one for a run."""


def count(
    valid: Valid, window: Window, ratio: float, *, kind: Unit = "random", mirror: bool = False
) -> int:
    """How many units :func:`sample` masks: ``int(ratio * units)``.

    Units are windows that hold a valid token; rows of such windows for ``time``, columns for
    ``tube``. With ``mirror`` only those of the lower half of the valid columns count.

    Raises:
        InputError: For a ratio that masks nothing or lies outside (0, 1), and for windows that do
            not tile the tokens.
    """
    if not 0 < ratio < 1:
        raise InputError(f"mask: ratio must lie between 0 and 1, got {ratio:g}")
    _check_window(valid.shape, window)
    units = _units(_half(valid) if mirror else valid, window, kind)
    # Floats: 0.29 * 100 is just below 29.
    masked = int(round(ratio * int(units.sum()), 6))
    if masked < 1:
        raise InputError(
            f"mask: ratio {ratio:g} masks none of {int(units.sum())} "
            f"{ {'random': 'windows', 'time': 'rows', 'tube': 'columns'}[kind] } of windows "
            f"{window[0]} x {window[1]} that hold signal; take a larger ratio or smaller windows"
        )
    return masked


def check(
    valid: Valid, window: Window, ratio: float, *, kind: Kind = "random", mirror: bool = False
) -> None:
    """Raises ``InputError`` when :func:`sample` cannot mask ``valid`` this way."""
    for unit in MIXED if kind == "mixed" else (kind,):
        count(valid, window, ratio, kind=unit, mirror=mirror)


@jax.named_scope("mask")
def sample(
    key: Key[Array, ""],
    rows: int,
    valid: Valid,
    *,
    window: Window,
    ratio: float,
    kind: Kind = "random",
    mirror: bool = False,
) -> Bool[Array, "b t f"]:
    """True where a token is masked, for ``rows`` samples.

    Args:
        key: Random key.
        rows: Samples.
        valid: False in padding. Windows of padding alone are never sampled by ``random``; in a
            window that lies partly in padding all tokens are masked.
        window: Tokens of a window.
        ratio: Fraction of the units that is masked; :func:`count` says how many these are.
        kind: ``random`` masks windows, ``time`` whole rows of windows, ``tube`` whole columns over
            all frames; ``mixed`` takes one of them for each sample (:data:`MIXED`).
        mirror: Samples on the lower half of the valid columns and mirrors the mask about their
            middle, so that the mirror image of a masked patch of a two-sided spectrum is masked too
            (but for one bin: bin 0 has no image, so that images are shifted by one bin).

    Raises:
        InputError: As :func:`count`.
    """
    if kind != "mixed":
        return _sample(key, rows, valid, window, ratio, kind, mirror)
    choice_key, *keys = jax.random.split(key, 1 + len(MIXED))
    chance = jax.random.uniform(choice_key, (rows, 1, 1))
    out, edge = jnp.zeros((rows, *valid.shape), bool), 0.0
    for k, (unit, probability) in zip(keys, MIXED.items()):
        takes = (chance >= edge) & (chance < edge + probability)
        out |= takes & _sample(k, rows, valid, window, ratio, unit, mirror)
        edge += probability
    return out


def _sample(key, rows: int, valid: Valid, window: Window, ratio: float, kind: Unit, mirror: bool):
    masked = count(valid, window, ratio, kind=kind, mirror=mirror)
    tokens = _half(valid) if mirror else valid
    units = _units(tokens, window, kind)
    scores = jax.random.uniform(key, (rows, units.size))
    scores = jnp.where(units.reshape(1, -1), scores, jnp.inf)
    rank = jnp.argsort(jnp.argsort(scores, axis=-1), axis=-1)
    mask = (rank < masked).reshape(rows, *units.shape)
    shape = [-(-size // side) for size, side in zip(tokens.shape, window)]
    mask = jnp.broadcast_to(mask, (rows, *shape))
    mask = jnp.repeat(jnp.repeat(mask, window[0], axis=1), window[1], axis=2)
    mask = mask[:, : tokens.shape[0], : tokens.shape[1]]
    if not mirror:
        return mask
    columns = _columns(valid)
    upper = mask[:, :, : columns // 2][:, :, ::-1]
    both = jnp.concatenate([mask, upper], axis=2)
    return jnp.pad(both, ((0, 0), (0, 0), (0, valid.shape[1] - columns)))


def _check_window(shape: tuple[int, ...], window: Window) -> None:
    if min(window) < 1 or any(size % side for size, side in zip(shape, window)):
        raise InputError(
            f"mask: windows of {window[0]} x {window[1]} do not tile {shape[0]} x {shape[1]} "
            "tokens (time x frequency): pad them or take smaller windows"
        )


def _units(valid: Valid, window: Window, kind: Unit) -> np.ndarray:
    """Which windows ``[t f]``, rows ``[t 1]`` or columns ``[1 f]`` of them hold a valid token."""
    pad = [(0, -size % side) for size, side in zip(valid.shape, window)]
    padded = np.pad(valid, pad)
    t, f = (size // side for size, side in zip(padded.shape, window))
    windows = np.max(padded.reshape(t, window[0], f, window[1]), axis=(1, 3), initial=False)
    if kind == "random":
        return windows
    return np.max(windows, axis=1 if kind == "time" else 0, keepdims=True, initial=False)


def _columns(valid: Valid) -> int:
    """The number of columns up to the last that holds a valid token."""
    columns = np.flatnonzero(valid.any(axis=0))
    return int(columns[-1]) + 1 if columns.size else 0


def _half(valid: Valid) -> np.ndarray:
    return valid[:, : -(-_columns(valid) // 2)]
