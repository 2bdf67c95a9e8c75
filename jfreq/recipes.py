"""Finds experiments by name: those of ``experiments/recipes/``, and of a file that is named.

Only the file that holds the experiment is run.
"""

from __future__ import annotations

import ast
from pathlib import Path
from types import ModuleType

from jfreq.classes import run_as, run_file
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


def load_file(path: Path) -> dict[str, Experiment]:
    """Experiments that a Python file of the user's defines, by name.

    Raises ``InputError`` if it does not run.
    """
    return _experiments(run_file(path))


def _experiments(module: ModuleType) -> dict[str, Experiment]:
    return {v.name: v for v in vars(module).values() if isinstance(v, Experiment)}


def known() -> dict[str, Path]:
    """The experiments that come with jfreq, by name, each with its file. Runs none of the files.

    An experiment there is a variable of its own name; other variables are written in capitals or
    begin with an underscore.
    """
    files = (path for folder in folders() for path in sorted((folder / "recipes").glob("*.py")))
    return {name: path for path in files for name in _variables(path)}


def _variables(path: Path) -> list[str]:
    """Public variables in small letters at the top of a file; none where it is not Python."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (SyntaxError, ValueError):
        return []
    targets = [target for node in body if isinstance(node, ast.Assign) for target in node.targets]
    names = [target.id for target in targets if isinstance(target, ast.Name)]
    return [name for name in names if name.islower() and not name.startswith("_")]


def load_all() -> dict[str, Experiment]:
    """All experiments that come with jfreq, by name."""
    files = sorted(set(known().values()))
    return {k: v for path in files for k, v in _experiments(_run_recipe(path)).items()}


def _run_recipe(path: Path) -> ModuleType:
    return run_as(f"jfreq_recipe_{path.stem}", path)


def load(name: str) -> Experiment:
    """The experiment called ``name``, or ``FILE.py:NAME``.

    Raises ``InputError`` with the closest name that exists, or where the file does not run.
    """
    local_path(name, "experiment")
    file, _, inner = name.rpartition(":")
    return _of_file(file, inner) if file else _packaged(name)


def _of_file(file: str, name: str) -> Experiment:
    path = local_path(file, "experiment")
    if not path.is_file():
        raise InputError(
            f"{file}: no such file; an experiment of your own is given as FILE.py:NAME"
        )
    named = load_file(path)
    if name not in named:
        has = f"{file} has: {', '.join(sorted(named)) or 'none'}"
        raise InputError(f"unknown experiment {shown(name)}{close_match(name, named)}; {has}")
    return named[name]


def _packaged(name: str) -> Experiment:
    if name.endswith(".py"):
        raise InputError(f"{name}: name one of the experiments in this file, as {name}:NAME")
    files = known()
    named = _experiments(_run_recipe(files[name])) if name in files else {}
    if name not in named:
        hint = close_match(name, files)
        raise InputError(f"unknown experiment {shown(name)}{hint}; jfreq train --help lists them")
    return named[name]
