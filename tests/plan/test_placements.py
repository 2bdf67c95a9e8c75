"""Where the parameters of eight networks lie on pods: golden tables, without a compiler."""

import json
import math
import runpy
import shlex

import pytest

from jfreq import param_paths, recipes, sharding
from jfreq.cli import config_views
from jfreq.cli.parsing import parse

GOLDEN = "tests/golden/placements.json"
UPDATE = f"""the placement of the parameters of a network changed. Check memory and collectives with
`jfreq plan`; if the change is meant, write `found` to {GOLDEN} with json.dumps(found, indent=1) and
say why in the commit."""
MESHES = {"v5e:4x4": (1, 16, 1), "v5p:4x4x4": (4, 8, 2), "v6e:16x16": (8, 16, 2)}
NETWORKS = ["ssast_base", "mae_base", "eat_base", "aape_base",
            "ssast_large", "mae_large", "eat_large", "aape_large"]  # fmt: skip
THREE_HEADS = "not sharded as asked: tensor 2 does not divide 3 (trunk/alias/encoder/"
"""The alias branch of AaPE, 1 % of it, has three heads."""


@pytest.fixture(scope="module")
def study(root):
    return runpy.run_path(str(root / "experiments" / "studies" / "plans.py"))


@pytest.fixture(scope="module", params=NETWORKS)
def network(request, study):
    """A network and the shapes of its parameters, as the study plans it."""
    words = shlex.split(study["options"](request.param, "v5e:4x4"))
    recipe = study["NETWORKS"][request.param].recipe
    default = config_views.PlanView(recipes.load(recipe))
    view = parse(
        config_views.PlanView, args=words, prog="jfreq plan", default=default, description=""
    )
    bound = config_views.bound(view)
    leaves = param_paths.flatten(config_views.abstract_params(bound))
    return request.param, leaves, bound.mesh.rules


def placed(leaf, path, mesh, rules):
    sizes = dict(zip(sharding.AXES, mesh))
    return sharding.spec_for(path, leaf.shape, leaf.dtype.itemsize, sizes, rules)


def test_these_are_the_networks_of_the_study(study):
    assert list(study["NETWORKS"]) == NETWORKS and list(study["TOPOLOGIES"]) == list(MESHES)
    for name, mesh in MESHES.items():
        assert math.prod(mesh) == study["CHIPS"][name] == _devices(name)


def _devices(name):
    from jfreq.plan import topology

    return topology.parse(name).devices


def test_golden_table(network, root):
    """Shape, then the axes of each mesh; ``-`` for a dimension that is whole."""
    name, leaves, rules = network
    found = {}
    for path, leaf in leaves.items():
        specs = [placed(leaf, path, mesh, rules) for mesh in MESHES.values()]
        words = [",".join(axis or "-" for axis in spec) or "whole" for spec in specs]
        shape = "x".join(map(str, leaf.shape))
        found[path] = (
            f"{shape}: {words[0]}" if len(set(words)) == 1 else f"{shape}: {' | '.join(words)}"
        )
    assert found == json.loads((root / GOLDEN).read_text())[name], UPDATE


@pytest.mark.parametrize("mesh", MESHES.values(), ids=MESHES)
def test_nearly_everything_is_split(network, mesh):
    """Under 2 % of the scalars are whole on every device, and every rule gets what it asks for."""
    name, leaves, rules = network
    whole = sum(
        leaf.size for path, leaf in leaves.items() if not any(placed(leaf, path, mesh, rules))
    )
    assert 0 < whole < 0.02 * param_paths.count(leaves)
    said = sharding.dropped(leaves, dict(zip(sharding.AXES, mesh)), rules)
    if name.startswith("aape") and mesh[2] > 1:
        assert said.startswith(THREE_HEADS) and said.count(";") == 0
    else:
        assert said == ""
