"""One update of every recipe, small: its loss and norms stand in ``golden/steps.json``.

A plain run checks one recipe of every method, traces the families that it leaves out, and binds the
other sizes; ``--golden all`` checks all of them. Whoever changes a number on purpose writes them
anew, ``pytest tests/test_golden.py --golden write``, and says in the commit which ones moved and
why.
"""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from jfreq.testing import assert_step_specs, data_of, fake_batch
from tests.first_update import EXPERIMENTS, ROWS, first_update, reduced

FILE = Path(__file__).parent / "golden" / "steps.json"
RELATIVE = {"loss": 1e-5, "grad_norm": 1e-5, "update_norm": 1e-4}
"""Allowed differences. Adam divides by the gradient, so that the smallest ones, which processors
round differently, count as much as all others."""
PLAIN = (
    "aape_nano", "ast_nano", "audiomae_nano", "beats_nano", "beats_tokenizer_nano", "data2vec_nano",
    "eat_nano", "ltfc_hapt", "mae_hapt", "phymask_hapt", "ssast_nano", "stf_csl_hapt",
    "stfnet_hapt",
)  # fmt: skip
"""One recipe of every method but FreqMAE and FOCAL, whose programs take long to compile;
``test_finite`` runs the same programs."""


TWINS = (
    "freqmae_mod", "freqmae_mod_released", "freqmae_hapt", "freqmae_released_nano",
    "freqmae_released_hapt", "focal_mod", "focal_acids", "focal_hapt", "focal_sense_hapt",
    "phymask_swin_nano", "phymask_swin_hapt", "stfnet_hhar", "stfnet_wifi", "stfnet_conv_hapt",
)  # fmt: skip
"""The parts of other recipes at other sizes or for other sensors, which take long to trace."""
SIZES = ("nano", "tiny", "small", "base", "large")


def family(name):
    """A recipe's name without its size."""
    stem, _, size = name.rpartition("_")
    return stem if size in SIZES else name


def smallest(name):
    """The recipe of the same family that a trace stands for."""
    kin = [other for other in EXPERIMENTS if family(other) == family(name)]
    return min(kin, key=lambda n: SIZES.index(n.rpartition("_")[2]) if len(kin) > 1 else 0)


FAMILIES = {smallest(name) for name in EXPERIMENTS}


def numbers(name):
    """Loss, gradient norm and update norm of the first update."""
    *given, spec = reduced(name)
    metrics, _ = first_update(*given, spec, ROWS)(jax.random.key(0), fake_batch(spec, ROWS))
    return {n: float(metrics[n][0] / metrics[n][1]) for n in ("loss", "grad_norm", "update_norm")}


def pytest_generate_tests(metafunc):
    if "golden" in metafunc.fixturenames:
        every = metafunc.config.getoption("--golden")
        metafunc.parametrize("golden", sorted(EXPERIMENTS) if every else PLAIN)


def test_golden_step(golden, request):
    found = numbers(golden)
    assert all(np.isfinite(list(found.values())))
    assert found["grad_norm"] > 0
    assert found["update_norm"] > 0
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    if request.config.getoption("--golden") == "write":
        FILE.write_text(json.dumps(known | {golden: found}, indent=1, sort_keys=True) + "\n")
    else:
        for name, value in known[golden].items():
            assert found[name] == pytest.approx(value, rel=RELATIVE[name]), name


@pytest.mark.parametrize("name", sorted(FAMILIES - {*PLAIN, *TWINS}))
def test_a_family_without_a_step_traces(name):
    assert_step_specs(EXPERIMENTS[name], data_of(EXPERIMENTS[name]))


@pytest.mark.parametrize("name", sorted(set(EXPERIMENTS) - (FAMILIES - {*TWINS})))
def test_other_sizes_bind(name):
    assert EXPERIMENTS[name].method.bind(data_of(EXPERIMENTS[name])).signals


def test_every_recipe_has_golden_numbers():
    assert set(json.loads(FILE.read_text())) == set(EXPERIMENTS)
