"""Recipes of a user's own file: dataclasses work there, two files of one name stay apart."""

import dataclasses
import sys

import pytest

from jfreq import recipes
from jfreq.config import to_dict
from jfreq.types import InputError

OWN = """
from __future__ import annotations
import dataclasses
from typing import ClassVar
from jfreq.config import Experiment
from jfreq.methods.ssast import SSAST

@dataclasses.dataclass(frozen=True)
class Mine(SSAST):
    kind: ClassVar[str] = "own"
    extra: float = {extra}

mine = Experiment("mine", Mine())
"""


def test_a_recipe_may_define_its_own_config(tmp_path):
    found = []
    for i in range(2):
        path = tmp_path / str(i) / "recipe.py"
        path.parent.mkdir()
        path.write_text(OWN.format(extra=i))
        found.append(recipes.load(f"{path}:mine"))
    assert [to_dict(e)["method"]["extra"] for e in found] == [0, 1]
    kinds = [type(e.method) for e in found]
    assert kinds[0] is not kinds[1]
    assert dataclasses.fields(kinds[0])
    for kind in kinds:
        assert getattr(sys.modules[kind.__module__], "Mine") is kind  # noqa: B009


@pytest.mark.parametrize("body", ["1 / 0", "import sys; sys.exit(0)", "x = (", "raise SystemExit"])
def test_a_file_that_does_not_run(tmp_path, body):
    path = tmp_path / "broken.py"
    path.write_text(body)
    before = set(sys.modules)
    with pytest.raises(InputError, match=r"broken.py: (ZeroDivision|SystemExit|Syntax)"):
        recipes.load(f"{path}:x")
    assert not {name for name in set(sys.modules) - before if "broken" in name}
