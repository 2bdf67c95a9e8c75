"""Finds experiments, and recipes of fine-tuning, by name: in ``experiments/recipes/``, and in a
file that is named.

Only the file that holds it is run.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

from jfreq.classes import run_as, run_file
from jfreq.config import Experiment, close_match
from jfreq.files import local_path
from jfreq.ranges import InputError, shown

FineTuning: TypeAlias = Callable[[Experiment], Experiment]
"""From what ``jfreq finetune`` would train by default to what it trains with a recipe."""


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
    return _files_by_name(_variables)


def _files_by_name(names: Callable[[list[ast.stmt]], list[str]]) -> dict[str, Path]:
    """What ``names`` finds in the statements of each file of recipes, with the file; nothing in a
    file that is not Python."""
    files = (path for folder in folders() for path in sorted((folder / "recipes").glob("*.py")))
    return {name: path for path in files for name in names(_statements(path))}


def _statements(path: Path) -> list[ast.stmt]:
    try:
        return ast.parse(path.read_bytes()).body
    except (SyntaxError, ValueError):
        return []


def _variables(body: list[ast.stmt]) -> list[str]:
    """Public variables in small letters."""
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


def known_finetuning() -> dict[str, Path]:
    """The recipes of fine-tuning that come with jfreq, by name, each with its file: functions
    whose names begin with ``finetune_``. Runs none of the files."""
    return _files_by_name(_functions)


def _functions(body: list[ast.stmt]) -> list[str]:
    names = [node.name for node in body if isinstance(node, ast.FunctionDef)]
    return [name for name in names if name.startswith("finetune_")]


def load_finetuning(name: str) -> FineTuning:
    """The recipe of fine-tuning called ``name``, or ``FILE.py:NAME``.

    Raises ``InputError`` with the closest name that exists, or where the file does not run.
    """
    local_path(name, "recipe")
    file, _, inner = name.rpartition(":")
    if file:
        return _function(run_file(_existing(file, "a recipe")), inner, f"{file} has")
    files = known_finetuning()
    if name not in files:
        raise InputError(_unknown_recipe(name, list(files), "there are"))
    return _function(_run_recipe(files[name]), name, f"{files[name].name} has")


def _function(module: ModuleType, name: str, has: str) -> FineTuning:
    functions = {k: v for k, v in vars(module).items() if inspect.isfunction(v)}
    own = {k: v for k, v in functions.items() if v.__module__ == module.__name__ and k[0] != "_"}
    if name not in own:
        raise InputError(_unknown_recipe(name, sorted(own), has))
    return own[name]


def _unknown_recipe(name: str, known: list[str], has: str) -> str:
    hint = close_match(name, known)
    return f"recipe: no {shown(name)}{hint}; {has}: {', '.join(known) or 'none'}"


def _existing(file: str, what: str) -> Path:
    path = local_path(file, what.partition(" ")[2])
    if not path.is_file():
        raise InputError(f"{file}: no such file; {what} of your own is given as FILE.py:NAME")
    return path


def _of_file(file: str, name: str) -> Experiment:
    path = _existing(file, "an experiment")
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
