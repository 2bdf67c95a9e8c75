"""Values of several parts, as options spell them."""

import json
import re

import pytest

from jfreq.cli import compound
from jfreq.config import TRANSFORMER_RULES, Eval, ParamGroup, Source


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
    each = Eval("esc10", "shards/a,b", every=500, kinds=("knn", "ridge"))
    assert compound.write_config(each) == "esc10,data=shards/a,b,every=500,kinds=knn+ridge"
    assert compound.read_config(Eval, "evals", compound.write_config(each)) == each


def test_a_run_alone_is_a_source(said):
    def sources(*words):
        found = json.loads(said("config", "show", "ssast_nano", "--checkpoint.init-from", *words))
        return [(s["path"], s["write"]) for s in found["checkpoint"]["init_from"]]

    assert sources("runs/a") == [("runs/a", "")]
    assert sources("runs/a", "b,write=x/y,into=target") == [("runs/a", ""), ("b", "x/y")]
    assert sources("None") == []


def test_a_run_to_go_on_from(said):
    def origin(*words):
        found = json.loads(said("config", "show", "ssast_nano", "--checkpoint.resume-from", *words))
        return found["checkpoint"]["resume_from"]

    assert origin("runs/a,step=30") == {"type": "ResumeFrom", "path": "runs/a", "step": 30}
    assert origin("None") is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--optim.groups", "trunk/.*,lr=-1"], "optim.groups.lr: must be positive, got -1"),
        (["--optim.groups", "a", "b,rate=1"], "optim.groups: no field 'rate'"),
        (["--optim.groups", "a,schedule=cosin"], "optim.groups.schedule: must be one of"),
        (["--checkpoint.init-from", "a,what=ema"], "checkpoint.init_from.what: must be one of"),
        (["--evals", "a,data=b,evry=5"], r"evals: no field 'evry' \(did you mean 'every'\?\)"),
        (["--evals", "a,data=b,kinds=knn+svm"], "evals.kinds.*must be one of"),
        (["--evals", "a"], "evals: a has no data; write a,data=FOLDER"),
        (["--log.writers", "wandbb"], "log.writers: no writer 'wandbb'"),
        (["--log.profile-steps", "15:10"], "log.profile_steps: must be FIRST:LAST"),
        (["--checkpoint.resume-from", "a,step=x"], "resume_from.step: expected int, got 'x'"),
        (["--mesh.rules", "blocks/fc1/kernel"], "mesh.rules: .* is not PATTERN=AXIS,AXIS"),
        (["--mesh.rules", "a=fsdp,tenser"], "mesh.rules: 'a': no axis 'tenser'"),
    ],
)
def test_a_value_that_is_none(refused, words, message):
    assert re.search(message, refused("config", "show", "ssast_nano", *words))
