"""Signals of 16 bits as FLAC inside records: lossless, about half of the bytes."""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np

from jfreq.types import InputError


def encode(x: np.ndarray, rate: float) -> bytes:
    """A FLAC file of the samples ``[t c]`` int16."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, x, int(rate), format="FLAC", subtype="PCM_16")
    return file.getvalue()


def decode(data: bytes) -> np.ndarray:
    """The samples ``[t c]`` int16 of a FLAC file."""
    import soundfile

    with soundfile.SoundFile(io.BytesIO(data)) as file:
        return file.read(dtype="int16", always_2d=True)


def decode_all(data: Iterable[bytes], samples: int, channels: int) -> np.ndarray:
    """The samples ``[b t c]`` int16 of FLAC files, cut or zero-padded to ``samples``."""
    files = list(data)
    out = np.zeros((len(files), samples, channels), np.int16)
    for row, file in zip(out, files):
        x = decode(file)[:samples]
        row[: len(x)] = x
    return out


def check_flac(name: str, dtype: str, rate: float, channels: int) -> None:
    """``InputError`` for a signal that FLAC cannot hold: ``name``, for the message."""
    advice = "leave --encoding flac out"
    if dtype != "int16":
        raise InputError(
            f"encoding: FLAC holds signals of 16 bits, but {name} is stored as {dtype}; {advice}"
            + (" or add --dtype int16" if name == "audio" else "")
        )
    try:
        whole = rate == int(rate)
        if whole:
            encode(np.zeros((16, channels), np.int16), rate)
    except RuntimeError:  # of libsndfile
        whole = False
    if not whole:
        raise InputError(
            f"encoding: FLAC cannot hold {name} of {channels} channels at {rate:g} Hz (it takes up "
            "to 8 channels, and whole rates up to 65535 Hz, above in steps of 10 up to 655350); "
            f"{advice}, or choose another --rate"
        )
