"""An ablation: factors, their levels as functions of an experiment, and the cells they make."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jfreq.classes import run_file
from jfreq.config import Checkpoint, Experiment, Log, Mesh, check, close_match, replace
from jfreq.config_json import changes, fingerprint, to_dict
from jfreq.evaluate.features import Pool
from jfreq.files import local_path
from jfreq.types import InputError

Change = Callable[[Experiment], Experiment]


def change(**fields: Any) -> Change:
    """A level that sets fields, as ``change(method__mask=100)``; ``change()`` changes nothing."""
    return lambda experiment: replace(experiment, **fields)


def _everything(levels: Mapping[str, str]) -> bool:
    return True


@dataclasses.dataclass(frozen=True)
class Ablation:
    """A grid of functions ``Experiment -> Experiment`` around one experiment.

    Every cell is trained once for each held-out fold, without labels and with its own seed; the
    frozen encoder is probed on that fold. Differences between cells are paired by fold.
    """

    name: str
    question: str
    base: Experiment
    factors: Mapping[str, Mapping[str, Change]]
    """The change that makes a level, by factor and level; factors are applied in this order."""
    decides: str = ""
    """What the grid can and cannot decide at its scale, in a sentence or two."""
    keep: Callable[[Mapping[str, str]], bool] = _everything
    """Whether a combination ``{factor: level}`` is to be trained."""
    probe: Literal["logistic", "ridge", "knn"] = "logistic"
    pool: Pool = "clip"
    metric: str = "accuracy"


class Cell(NamedTuple):
    """One combination of levels; ``changes`` are the fields in which it differs from the base."""

    name: str
    levels: dict[str, str]
    changes: dict[str, Any]
    experiment: Experiment


def cells(ablation: Ablation) -> list[Cell]:
    """All combinations that ``keep`` allows, those of the first levels first.

    Raises:
      InputError: for an unknown field or an impossible setting, naming the level, and for two
        combinations that are the same experiment.
    """
    check(bool(ablation.factors), f"{ablation.name}.factors", "give at least one factor")
    base, out, name_of = to_dict(ablation.base), [], {}
    for names in itertools.product(*ablation.factors.values()):
        levels = dict(zip(ablation.factors, names))
        if not ablation.keep(levels):
            continue
        name, experiment = ", ".join(names), ablation.base
        for factor, level in levels.items():
            try:
                experiment = ablation.factors[factor][level](experiment)
            except InputError as error:
                raise InputError(f"{ablation.name}, {factor}={level}: {error}") from None
        twin = name_of.setdefault(json.dumps(to_dict(experiment), sort_keys=True), name)
        check(
            twin == name,
            ablation.name,
            f"{name!r} and {twin!r} are the same experiment; leave one out with keep",
        )
        changed = {field: new for field, (_, new) in changes(base, to_dict(experiment)).items()}
        out.append(Cell(name, levels, changed, experiment))
    check(bool(out), ablation.name, "keep leaves no combination; let it allow at least one")
    return out


class Replicate(NamedTuple):
    """One training of a cell: its seed, and the fold it never sees and is probed on."""

    seed: int
    fold: int


def replicates(folds: Sequence[int], count: int | None = None) -> list[Replicate]:
    """The trainings of a cell: ``count``, by default one for each fold; folds repeat in a cycle."""
    count = len(folds) if count is None else count
    check(count >= 1, "replicates", f"must be 1 or more, got {count}")
    return [Replicate(i, folds[i % len(folds)]) for i in range(count)]


def key(ablation: Ablation, cell: Cell, replicate: Replicate, manifest: str) -> str:
    """A fingerprint of everything that a score depends on: equal keys have equal results.

    The data are identified by ``manifest``, the hash over their contents. Names, paths, and how a
    run is logged, saved and divided over devices make no difference.
    """
    measured = replace(
        cell.experiment,
        name="",
        data__path=(),
        mesh=Mesh(),
        log=Log(),
        checkpoint=Checkpoint(init_from=cell.experiment.checkpoint.init_from),
    )
    return fingerprint([measured, replicate, manifest, ablation.probe, ablation.pool])


def load(path: str | Path) -> Ablation:
    """Loads an ablation from a file.

    Args:
      path: ``FILE.py`` that defines a single ``Ablation``, or ``FILE.py:NAME``.

    Raises:
      InputError: where the file or the name is not there, and for several without a name.
    """
    file, _, name = str(path).partition(".py:")
    file = file if file.endswith(".py") else f"{file}.py"
    source = local_path(file, "file")
    check(source.is_file(), file, "no such file; an ablation is a Python file that defines one")
    known = {v.name: v for v in vars(run_file(source)).values() if isinstance(v, Ablation)}
    if not name and len(known) == 1:
        return next(iter(known.values()))
    check(
        name in known,
        file,
        f"defines {', '.join(known) or 'no Ablation'}; name one of them as "
        f"FILE.py:NAME{close_match(name, known)}",
    )
    return known[name]
