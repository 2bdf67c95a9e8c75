"""Values of several parts, as options spell them."""

import json
import re

import pytest

from jfreq.cli import compound
from jfreq.config import TRANSFORMER_RULES, ParamGroup, Source


def test_there_and_back():
    for rule in TRANSFORMER_RULES:
        assert compound.read_rule(compound.write_rule(rule)) == rule
    for group in (
        ParamGroup("a/.{1,2}", lr=1e-4, schedule="constant", warmup=5),
        ParamGroup("a=b,c"),
    ):
        text = compound.write_config(group)
        assert compound.read_config(ParamGroup, "optim.groups", text) == group
    source = Source("runs/a=b", read="trunk", into="target")
    assert compound.write_config(source) == "runs/a=b,read=trunk,into=target"
    assert compound.read_config(Source, "", compound.write_config(source)) == source


def test_a_run_alone_is_a_source(said):
    def sources(*words):
        found = json.loads(said("config", "show", "ssast_nano", "--checkpoint.init-from", *words))
        return [(s["path"], s["write"]) for s in found["checkpoint"]["init_from"]]

    assert sources("runs/a") == [("runs/a", "")]
    assert sources("runs/a", "b,write=x/y,into=target") == [("runs/a", ""), ("b", "x/y")]
    assert sources("None") == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--optim.groups", "trunk/.*,lr=-1"], "optim.groups.lr: must be positive, got -1"),
        (["--optim.groups", "a", "b,rate=1"], "optim.groups: no field 'rate'"),
        (["--optim.groups", "a,schedule=cosin"], "optim.groups.schedule: must be one of"),
        (["--checkpoint.init-from", "a,what=ema"], "checkpoint.init_from.what: must be one of"),
        (["--mesh.rules", "blocks/fc1/kernel"], "mesh.rules: .* is not PATTERN=AXIS,AXIS"),
        (["--mesh.rules", "a=fsdp,tenser"], "mesh.rules: 'a': no axis 'tenser'"),
    ],
)
def test_a_value_that_is_none(refused, words, message):
    assert re.search(message, refused("config", "show", "ssast_nano", *words))
