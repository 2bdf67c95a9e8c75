"""Checks of a bundle: the checksums of its JSON, and weights that fit its settings."""

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
from jfreq.method import encoder_params, stored_shapes
from jfreq.ranges import first_line, shortlist
from jfreq.types import InputError

SEAL = "seal"
MAX_JSON_BYTES = 64 << 20
"""Larger files of JSON are not read."""
MAX_SIZE, MAX_SAMPLES = 1 << 20, 1 << 24
"""The largest number that the settings of an encoder may hold: in general, and in its signals."""


def sealed(value: Mapping[str, Any]) -> str:
    """The JSON of ``value``, with a sha256 over everything in it."""
    return json.dumps({**value, SEAL: _digest(value)}, indent=2) + "\n"


def read_sealed(path: Path, what: str, newest: int) -> dict[str, Any]:
    """Reads and verifies a file of :func:`sealed`.

    Args:
      path: the file.
      what: names its content in messages.
      newest: the format that this version reads.

    Returns:
      The value, without the checksum.

    Raises:
      InputError: naming the file, where it is missing, unreadable, of another format than
        ``newest``, or changed after it was written.
    """
    advice = "export the bundle again"
    size = path.stat().st_size if path.is_file() else 0
    if size > MAX_JSON_BYTES:
        raise InputError(f"{path}: is too large for {what} ({size / 2**20:.0f} MiB); {advice}")
    value = parse_json(read_text(path, what, advice=advice), path, what, advice=advice)
    version = value.get("format")
    if not isinstance(version, int) or isinstance(version, bool):
        raise InputError(f"{path}: is not {what} (it states no format); {advice}")
    if version > newest:
        raise InputError(
            f"{path}: has format {version}, but this jfreq reads format {newest} at most; "
            "upgrade jfreq"
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
    """Checks that the weights of a bundle fit its settings; nothing is compiled.

    Args:
      experiment: the settings of the bundle.
      flat: the weights, by path of the parameter. Those of the pretext task may be among them.
      where: the file of the weights, for messages.

    Raises:
      InputError: for a missing or unknown parameter, another shape or dtype, and numbers that are
        not finite.
    """
    known, needed = _expected(experiment.method, where)
    if lacking := sorted(needed - flat.keys()):
        raise InputError(
            f"{where}: lacks {shortlist(lacking, 3)}, which the encoder of config.json needs; "
            "export the bundle again"
        )
    if unknown := sorted(flat.keys() - known.keys()):
        raise InputError(
            f"{where}: holds {shortlist(unknown, 3)}, which the encoder of config.json does not "
            "have; export the bundle again"
        )
    for name, leaf in flat.items():
        wanted = known[name]
        if (leaf.shape, leaf.dtype) != (wanted.shape, wanted.dtype):
            raise InputError(
                f"{where}: {name} is {_layout(leaf)}, but config.json asks for "
                f"{_layout(wanted)}; export the bundle again"
            )
    check_finite(flat, where)


def check_finite(flat: Mapping[str, Any], where: Path) -> None:
    """Raises ``InputError`` where a weight is NaN or infinite."""
    bad = sorted(name for name, x in flat.items() if not np.isfinite(np.asarray(x)).all())
    if bad:
        raise InputError(
            f"{where}: holds NaN or infinite numbers in {shortlist(bad, 3)}; the training "
            "diverged, take an earlier checkpoint or train again"
        )


def _expected(cfg: Method, where: Path) -> tuple[dict[str, Any], set[str]]:
    """Shapes of all parameters by path, and the paths that ``encode`` reads."""
    config = where.parent / "config.json"
    _check_settings(cfg, config)
    try:
        return _parameters(cfg)
    except InputError as error:
        raise InputError(f"{config}: {error}; export the bundle again") from None
    except Exception as error:
        raise InputError(
            f"{config}: no encoder can be built from its settings ({first_line(error)}); export "
            "the bundle again"
        ) from error


@functools.lru_cache(maxsize=8)
def _parameters(cfg: Method) -> tuple[dict[str, Any], set[str]]:
    shapes = jax.eval_shape(cfg.init, jax.random.key(0))
    needed = encoder_params(cfg, shapes)
    return param_paths.flatten(stored_shapes(cfg)), set(param_paths.flatten(needed))


def _check_settings(cfg: Method, config: Path) -> None:
    """Raises ``InputError`` for settings that no export writes, before they take all memory."""
    if not cfg.signals:
        raise InputError(f"{config}: names no signals; export the bundle again")
    if cfg.encoder_method.signals != cfg.signals:
        raise InputError(
            f"{config}: method.{cfg.inner} reads other signals than the method; export the bundle "
            "again"
        )
    for name, value in _numbers(to_dict(cfg), "method"):
        if abs(value) > (MAX_SAMPLES if ".signals[" in name else MAX_SIZE):
            raise InputError(
                f"{config}: {name} is {value:g}, which is too large for an encoder; export the "
                "bundle again"
            )


def _numbers(value: Any, path: str):
    """The whole numbers among JSON values, each with its path."""
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
