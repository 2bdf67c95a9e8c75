"""Whether a bundle is what it was: seals on its JSON, and weights that fit its settings."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jfreq import param_paths
from jfreq.config import Experiment, Method
from jfreq.config_json import to_dict
from jfreq.files import parse_json, read_text
from jfreq.method import encoder_params
from jfreq.ranges import shortlist
from jfreq.types import InputError

SEAL = "seal"
LARGEST = 64 << 20
"""Bytes of JSON that are read at most."""
MOST, MOST_SAMPLES = 1 << 20, 1 << 24
"""No size in the settings of an encoder lies above these: in general, and in its signals."""


def sealed(value: Mapping[str, Any]) -> str:
    """JSON of ``value`` with a sha256 over everything in it."""
    return json.dumps({**value, SEAL: _digest(value)}, indent=2) + "\n"


def read_sealed(path: Path, what: str, newest: int) -> dict[str, Any]:
    """What :func:`sealed` wrote: ``what``, for the message.

    Raises ``InputError`` naming the file where it is missing, unreadable, of a format above
    ``newest``, or not as it was written.
    """
    advice = "export the bundle again"
    size = path.stat().st_size if path.is_file() else 0
    if size > LARGEST:
        raise InputError(f"{path}: is not {what}, it has {size / 2**20:.0f} MB; {advice}")
    value = parse_json(read_text(path, what, advice=advice), path, what, advice=advice)
    version = value.get("format")
    if not isinstance(version, int) or isinstance(version, bool):
        raise InputError(f"{path}: is not {what} (it states no format); {advice}")
    if version > newest:
        raise InputError(
            f"{path}: format {version} is newer than this jfreq reads ({newest}); upgrade jfreq"
        )
    if version != newest or value.pop(SEAL, None) != _digest(value):
        raise InputError(
            f"{path}: was changed after it was written (its checksum differs); {advice}"
        )
    return value


def _digest(value: Mapping[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def check_weights(experiment: Experiment, flat: Mapping[str, Any], where: Path) -> None:
    """``InputError`` naming ``where`` unless ``flat`` holds every parameter by path that the
    encoder reads, in its shape and dtype, nothing unknown, and only finite numbers.

    Nothing is compiled and no array is made. Parameters of the pretext task may be there too.
    """
    every, needed = _expected(experiment.method, where)
    if lacking := sorted(needed - flat.keys()):
        raise InputError(
            f"{where}: lacks {shortlist(lacking, 3)}, which the encoder of config.json reads"
        )
    if unknown := sorted(flat.keys() - every.keys()):
        raise InputError(
            f"{where}: holds {shortlist(unknown, 3)}, which its config.json knows nothing of"
        )
    for name, found in flat.items():
        wanted = every[name]
        if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
            raise InputError(
                f"{where}: {name} is {_layout(found)} where its config.json wants "
                f"{_layout(wanted)}; export the bundle again"
            )
    check_finite(flat, where)


def check_finite(flat: Mapping[str, Any], where: Path) -> None:
    """``InputError`` where a weight is NaN or infinite."""
    bad = sorted(name for name, x in flat.items() if not np.isfinite(np.asarray(x)).all())
    if bad:
        raise InputError(
            f"{where}: holds NaN or infinite numbers in {shortlist(bad, 3)}; the training went "
            "wrong there, take an earlier checkpoint or train again"
        )


def _expected(cfg: Method, where: Path) -> tuple[dict[str, Any], set[str]]:
    """Shapes of all parameters by path, and those that ``encode`` reads."""
    config = where.parent / "config.json"
    _check_settings(cfg, config)
    try:
        return _parameters(cfg)
    except InputError as error:
        raise InputError(f"{config}: {error}; export the bundle again") from None
    except Exception as error:
        raise InputError(
            f"{config}: its settings make no encoder ({_first_line(error)}); export the bundle "
            "again"
        ) from error


@functools.lru_cache(maxsize=8)
def _parameters(cfg: Method) -> tuple[dict[str, Any], set[str]]:
    shapes = jax.eval_shape(cfg.init, jax.random.key(0))
    needed = encoder_params(cfg, shapes)
    return param_paths.flatten(shapes), set(param_paths.flatten(needed))


def _check_settings(cfg: Method, config: Path) -> None:
    """``InputError`` for settings that no export writes: they would take all memory, or fail."""
    if not cfg.signals:
        raise InputError(f"{config}: names no signals; export the bundle again")
    if cfg.encoder_method.signals != cfg.signals:
        raise InputError(
            f"{config}: method.{cfg.inner} reads other signals than the method; export the bundle "
            "again"
        )
    for name, value in _numbers(to_dict(cfg), "method"):
        if abs(value) > (MOST_SAMPLES if ".signals[" in name else MOST):
            raise InputError(
                f"{config}: {name} is {value:g}, no encoder is that large; export the bundle again"
            )


def _numbers(value: Any, path: str):
    """Whole numbers of JSON values with their paths."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _numbers(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _numbers(inner, f"{path}[{i}]")
    elif isinstance(value, int) and not isinstance(value, bool):
        yield path, value


def _layout(leaf: Any) -> str:
    return f"{np.dtype(leaf.dtype).name} {list(leaf.shape)}"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
