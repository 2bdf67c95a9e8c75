"""The examples in the docstrings of ``ops/``: every public function has one, and all are true."""

import ast
import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

from jfreq import ops

MODULES = [found.name for found in pkgutil.iter_modules(ops.__path__)]


def public(module):
    """Names of the functions that a module defines."""
    nodes = ast.parse(Path(module.__file__).read_text()).body
    names = [node.name for node in nodes if isinstance(node, ast.FunctionDef)]
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize("name", [*(f"ops.{name}" for name in MODULES), "nn.bias"])
def test_examples(name):
    module = importlib.import_module(f"jfreq.{name}")
    found = doctest.DocTestFinder().find(module)
    shown = {test.name.removeprefix(f"{module.__name__}.") for test in found if test.examples}
    if name.startswith("ops."):
        assert public(module) <= shown, f"no example: {sorted(public(module) - shown)}"
    runner = doctest.DocTestRunner()
    for test in found:
        runner.run(test)
    assert not runner.failures
