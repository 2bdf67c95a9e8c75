"""Finds experiments by name: every ``Experiment`` of a file in ``experiments/recipes/``."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from jfreq.config import Experiment, close_match
from jfreq.files import local_path
from jfreq.ranges import InputError, shown


def folders() -> list[Path]:
    """Where ``recipes/`` and ``bench/`` lie: in the installed package, or in its checkout.

    Nowhere else: a name on a command line never runs a file of the current folder.
    """
    package = Path(__file__).resolve().parent
    installed, checkout = package / "_experiments", package.parent / "experiments"
    if installed.is_dir():
        return [installed]
    return [checkout] if (package.parent / "pyproject.toml").is_file() else []


def objects(path: Path) -> dict[str, Any]:
    """What one Python file defines, by variable; ``InputError`` if it does not run.

    The module stands in ``sys.modules``, where dataclasses look for the types of their fields.
    """
    path = path.resolve()
    name = f"jfreq_recipe_{path.stem}_{hashlib.sha256(bytes(path)).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, InputError | KeyboardInterrupt):
            raise
        raise InputError(f"{path}: {type(error).__name__}: {error}") from error
    return vars(module)


def load_file(path: Path) -> dict[str, Experiment]:
    """Experiments that one Python file defines, by name; ``InputError`` if it does not run."""
    return {v.name: v for v in objects(path).values() if isinstance(v, Experiment)}


def load_all() -> dict[str, Experiment]:
    """All experiments that come with jfreq, by name."""
    experiments: dict[str, Experiment] = {}
    for folder in folders():
        for path in sorted((folder / "recipes").glob("*.py")):
            experiments = {**load_file(path), **experiments}
    return experiments


def load(name: str) -> Experiment:
    """The experiment called ``name``, or ``file.py:name``; ``InputError`` with the closest name."""
    local_path(name, "experiment")
    file, _, inner = name.rpartition(":")
    if file:
        path = local_path(file, "experiment")
        if not path.is_file():
            raise InputError(f"{file}: no such recipe file")
        experiments, name = load_file(path), inner
    else:
        experiments = load_all()
    if name not in experiments:
        raise InputError(
            f"unknown experiment {shown(name)}{close_match(name, experiments)}; "
            + (
                f"{file} has: {', '.join(sorted(experiments)) or 'none'}"
                if file
                else "jfreq train --help lists them"
            )
        )
    return experiments[name]
