"""What a grid asks: cells from functions, early refusals, keys of results."""

import pytest

from jfreq.ablate import Ablation, change, grid
from jfreq.config import Experiment, Source, replace
from jfreq.methods.ssast import SSAST
from jfreq.types import InputError

BASE = Experiment("base", SSAST(), steps=3)
FACTORS = {
    "objective": {"joint": change(), "generative": change(method__objective="generative")},
    "rate": {
        "slow": change(optim__lr=1e-5),
        "fast": lambda e: replace(e, optim__lr=e.optim.lr * 9),
    },
}


def ablation(**fields):
    return Ablation(**{"name": "a", "question": "?", "base": BASE, "factors": FACTORS, **fields})


def test_cells_are_all_combinations_in_order():
    found = grid.cells(ablation())
    assert [c.name for c in found] == [
        "joint, slow",
        "joint, fast",
        "generative, slow",
        "generative, fast",
    ]
    assert found[0].changes == {"optim.lr": 1e-5}
    assert found[3].changes == {
        "method.objective": "generative",
        "optim.lr": pytest.approx(9 * BASE.optim.lr),
    }
    assert found[2].experiment == replace(BASE, method__objective="generative", optim__lr=1e-5)


def test_keep_leaves_out():
    found = grid.cells(
        ablation(keep=lambda levels: levels != {"objective": "generative", "rate": "fast"})
    )
    assert "generative, fast" not in [c.name for c in found]
    assert len(found) == 3
    with pytest.raises(InputError, match="keep leaves no combination"):
        grid.cells(ablation(keep=lambda levels: False))


@pytest.mark.parametrize(
    ("level", "match"),
    [
        (change(method__maks=1), r"a, mask=bad: SSAST.maks: no such field \(did you mean 'mask'"),
        (change(steps=0), "a, mask=bad: Experiment.steps: must be 1 or more"),
    ],
)
def test_a_bad_level_is_named_before_anything_runs(level, match):
    with pytest.raises(InputError, match=match):
        grid.cells(ablation(factors={"mask": {"good": change(), "bad": level}}))


def test_two_names_for_one_experiment_are_refused():
    same = {"form": {"a": change(), "b": change(seed=0)}}
    with pytest.raises(InputError, match="'b' and 'a' are the same experiment"):
        grid.cells(ablation(factors=same))


def test_replicates_go_round_the_folds():
    assert grid.replicates((1, 2, 3)) == [(0, 1), (1, 2), (2, 3)]
    assert grid.replicates((1, 2), 3) == [(0, 1), (1, 2), (2, 1)]


def test_keys_follow_what_is_measured():
    def key(ablation, cell=0, replicate=(0, 1), manifest="m"):
        return grid.key(ablation, grid.cells(ablation)[cell], grid.Replicate(*replicate), manifest)

    same = ablation(base=replace(BASE, name="other", log__every=7, checkpoint__every=3))
    assert key(ablation()) == key(same)
    others = [
        key(ablation(), 1),
        key(ablation(), replicate=(1, 1)),
        key(ablation(), manifest="n"),
        key(ablation(probe="ridge")),
        key(ablation(base=replace(BASE, steps=4))),
        key(ablation(base=replace(BASE, checkpoint__init_from=(Source("runs/a"),)))),
    ]
    assert len({key(ablation()), *others}) == 7


def test_load_finds_the_ablation_of_a_file(tmp_path, root):
    file = root / "experiments" / "ablations" / "ssast_objective.py"
    assert grid.load(f"{file}:ssast_parts").name == "ssast_parts"
    with pytest.raises(InputError, match="defines ssast_objective, ssast_parts; name one"):
        grid.load(file)
    with pytest.raises(InputError, match="did you mean 'ssast_parts'"):
        grid.load(f"{file}:ssast_part")
    with pytest.raises(InputError, match="no such file"):
        grid.load(tmp_path / "none.py")


def test_shipped_grids_bind(root):
    from jfreq import methods
    from jfreq.testing import CLIP

    file = root / "experiments" / "ablations" / "ssast_objective.py"
    for name, count in (("ssast_parts", 10), ("ssast_objective", 35)):
        found = grid.cells(grid.load(f"{file}:{name}"))
        assert len(found) == count
        for cell in found:
            methods.bind(cell.experiment, CLIP)


def test_the_example_of_the_docs(root):
    from jfreq import methods
    from jfreq.testing import CLIP

    text = (root / "docs" / "ablate.md").read_text()
    names = {}
    exec(text.split("```python\n")[1].split("```")[0], names)
    found = grid.cells(names["mine"])
    assert [c.name for c in found] == [
        "cluster, three quarters",
        "cluster, half",
        "random, three quarters",
        "random, half",
    ]
    bound = [methods.bind(c.experiment, CLIP).method for c in found]
    assert [cfg.mask for cfg in bound if isinstance(cfg, SSAST)] == [48, 32, 48, 32]
