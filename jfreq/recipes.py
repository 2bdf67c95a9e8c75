"""Finds experiments by name: every ``Experiment`` that a file under ``experiments/`` defines."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from jfreq.config import Experiment, close_match
from jfreq.types import InputError


def folders() -> list[Path]:
    """Where recipes lie: here, in the checkout, in the installed package."""
    package = Path(__file__).resolve().parent
    found = [Path.cwd() / "experiments", package.parent / "experiments", package / "_experiments"]
    return [f for f in dict.fromkeys(f.resolve() for f in found) if f.is_dir()]


def objects(path: Path) -> dict[str, Any]:
    """What one Python file defines, by variable; ``InputError`` if it does not run."""
    spec = importlib.util.spec_from_file_location(f"jfreq_recipe_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: {type(error).__name__}: {error}") from error
    return vars(module)


def load_file(path: Path) -> dict[str, Experiment]:
    """Experiments that one Python file defines, by name; ``InputError`` if it does not run."""
    return {v.name: v for v in objects(path).values() if isinstance(v, Experiment)}


def load_all() -> dict[str, Experiment]:
    """All experiments of all recipe folders; the first folder wins."""
    experiments: dict[str, Experiment] = {}
    for folder in folders():
        for path in sorted(folder.glob("*.py")):
            experiments = {**load_file(path), **experiments}
    return experiments


def load(name: str) -> Experiment:
    """The experiment called ``name``, or ``file.py:name``; ``InputError`` with the closest name."""
    file, _, inner = name.rpartition(":")
    if file:
        if not Path(file).is_file():
            raise InputError(f"{file}: no such recipe file")
        experiments, name = load_file(Path(file)), inner
    else:
        experiments = load_all()
    if name not in experiments:
        raise InputError(
            f"unknown experiment {name!r}{close_match(name, experiments)}; "
            f"known: {', '.join(sorted(experiments)) or 'none'}"
        )
    return experiments[name]
