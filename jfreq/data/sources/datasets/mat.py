"""Reads MATLAB files: versions 5 to 7 by scipy, 7.3 by h5py where it is installed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from jfreq.ranges import first_line
from jfreq.types import InputError

_RATES = ("fs", "Fs", "sr", "rate")


def load_mat(path: Path, wanted: Callable[[str], bool]) -> dict[str, np.ndarray]:
    """The numeric variables whose names are ``wanted``, in MATLAB's shape and order of axes.

    Raises:
      InputError: for a file that is not a MATLAB file, or of version 7.3 without h5py.
    """
    import scipy.io

    names = [name for name, *_ in variables(path) if wanted(name)]
    if _is_hdf5(path):
        return _load_hdf5(path, names)
    with _readable():
        arrays = scipy.io.loadmat(path, variable_names=names)
    return {name: np.asarray(arrays[name]) for name in names}


def variables(path: Path) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the variables of a file, without reading them; errors as above."""
    import scipy.io

    if _is_hdf5(path):
        with _hdf5(path) as file:
            return [(name, tuple(v.shape[::-1])) for name, v in file.items() if hasattr(v, "shape")]
    with _readable():
        return [(name, tuple(shape)) for name, shape, _ in scipy.io.whosmat(path)]


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """Turns the many errors of scipy about damaged files into ``InputError``."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:
        raise InputError(f"is not a MATLAB file ({first_line(error)})") from error


def stated_rate(path: Path) -> float | None:
    """The sampling rate in Hz that a scalar variable states; None without such a variable."""
    small = [name for name, shape in variables(path) if name in _RATES and np.prod(shape) == 1]
    return float(load_mat(path, small[:1].__contains__)[small[0]].item()) if small else None


def _is_hdf5(path: Path) -> bool:
    """Whether a file is of version 7.3, which is HDF5 after a header of 512 bytes."""
    with path.open("rb") as file:
        head = file.read(520)
    return b"\x89HDF\r\n\x1a\n" in (head[:8], head[512:520])


def _hdf5(path: Path):
    try:
        import h5py
    except ImportError:
        raise InputError(
            "is a MATLAB 7.3 file; save it again with `save -v7`, or install h5py"
        ) from None
    return h5py.File(path, "r")


def _load_hdf5(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    """Variables of version 7.3, which stores arrays transposed and complex numbers as pairs."""
    out = {}
    with _hdf5(path) as file:
        for name in names:
            x = np.asarray(file[name])
            if x.dtype.names == ("real", "imag"):
                x = x["real"] + 1j * x["imag"]
            out[name] = x.T
    return out
