import dataclasses
import hashlib
import json
import re
import sys
from collections.abc import Mapping

import pytest

from jfreq.config import Data, Experiment, Mesh, Optim, replace
from jfreq.config_json import fingerprint, from_dict, to_dict
from jfreq.frontends.fbank import Fbank
from jfreq.methods import METHODS, experiment_from_dict
from jfreq.methods.ssast import SSAST
from jfreq.methods.supervised import Classify, Head
from jfreq.nn.convnext import ConvNeXt
from jfreq.ranges import Count, checked
from jfreq.types import DataSpec, InputError, SignalSpec

SPEC = DataSpec((SignalSpec("audio", 16000, 80000),), ("a", "b"))


@pytest.fixture
def experiment():
    return Experiment("x", SSAST(frontend=Fbank(), encoder=ConvNeXt(), special_tokens=0))


def test_json_round_trip(experiment):
    bound = replace(experiment, method=experiment.method.bind(SPEC), data__path=("a", "b"))
    nested = Experiment(
        "y", Classify(backbone=bound.method, head=Head(2)), optim=Optim(lr_mult=((".*", 0.5),))
    )
    for each in (experiment, bound, nested):
        assert experiment_from_dict(json.loads(json.dumps(to_dict(each)))) == each


def test_every_method_round_trips():
    for cls in METHODS.values():
        each = Experiment("x", cls())
        assert experiment_from_dict(json.loads(json.dumps(to_dict(each)))) == each


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        (("stps",), 3, r"Experiment.stps: no such field.*did you mean 'steps'"),
        (("steps",), "3", "Experiment.steps: expected int, got '3'"),
        (("steps",), True, "Experiment.steps: expected int"),
        (("steps",), 0, "steps: must be 1 or more"),
        (("method", "type"), "SAST", "Experiment.method: unknown type 'SAST'.*'SSAST'"),
        (("method", "encoder", "type"), "Vit", "Experiment.method.encoder: unknown type 'Vit'"),
        (("method", "objective"), "both", "Experiment.method.objective: must be one of 'joint'"),
        (("method", "patch"), [16], r"Experiment.method.patch: expected 2 values, got 1"),
        (("data", "path"), "a", "Experiment.data.path: expected a list"),
        (("optim",), 3, "Experiment.optim: expected an object"),
    ],
)
def test_from_dict_is_strict(experiment, path, value, match):
    tree = to_dict(experiment)
    node = tree
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = value
    with pytest.raises(InputError, match=match):
        experiment_from_dict(tree)


def test_missing_field_is_named(experiment):
    tree = to_dict(experiment)
    del tree["method"]
    with pytest.raises(InputError, match=r"Experiment.method: is missing"):
        experiment_from_dict(tree)


def test_integers_become_floats_and_nothing_else_changes():
    assert from_dict(Optim, {"type": "Optim", "lr": 1}).lr == 1.0
    assert isinstance(from_dict(Optim, {"type": "Optim", "lr": 1}).lr, float)


def test_replace_reaches_down(experiment):
    changed = replace(experiment, optim__lr=0.5, method__encoder__depth=2, steps=7)
    assert (changed.optim.lr, changed.method.encoder.depth, changed.steps) == (0.5, 2, 7)
    assert experiment.optim.lr != 0.5
    with pytest.raises(InputError, match="did you mean 'optim'"):
        replace(experiment, optm__lr=1.0)
    with pytest.raises(InputError, match=r"Optim.lrr: no such field.*'lr'"):
        replace(experiment, optim__lrr=1.0)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Optim(lr=0), lambda: Optim(clip=-1.0), lambda: Optim(layer_decay=2.0),
        lambda: Mesh(-1, -1, 1), lambda: Mesh(0, 1, 1), lambda: Data(threads=0),
        lambda: Experiment("x", SSAST(), batch=10, accumulate=3),
        lambda: SSAST(encoder=ConvNeXt()), lambda: SSAST(patch=(16, 0)),
        lambda: SSAST(pool="special", special_tokens=0), lambda: Head(mixup=1.5),
    ],
)  # fmt: skip
def test_nonsense_is_refused_when_made(build):
    with pytest.raises(InputError):
        build()


def test_configs_are_frozen_and_hashable(experiment):
    hash(experiment)
    with pytest.raises(dataclasses.FrozenInstanceError):
        experiment.steps = 3


@checked
class _Part:
    width: Count = 4
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)


@checked
class _Whole:
    name: str
    part: _Part = _Part(8)
    parts: tuple[_Part, ...] = ()


def test_a_fingerprint_names_what_differs_from_the_defaults():
    """Against the text that stands for a config, written by hand."""

    def by_hand(text):
        text = re.sub("(_Part|_Whole)", rf"{__name__}:\1", text)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    assert fingerprint(_Whole("a")) == by_hand('{"name": "a", "type": "_Whole"}')
    assert fingerprint(_Whole("a", _Part(8))) == fingerprint(_Whole("a"))
    assert fingerprint([_Whole("a", _Part()), 1]) == by_hand(
        '[{"name": "a", "part": {"type": "_Part"}, "type": "_Whole"}, 1]'
    )
    ab, ba = (dict.fromkeys(order, 1.0) for order in ("ab", "ba"))
    assert fingerprint(_Part(rates=ab)) == fingerprint(_Part(rates=ba))
    wholes = (_Whole("a"), _Whole("b"), _Whole("a", parts=(_Part(),)), _Whole("a", _Part(3)))
    assert len(set(map(fingerprint, wholes))) == 4


def test_a_class_may_gain_a_field_and_keeps_its_fingerprints(monkeypatch):
    before = fingerprint(_Part(3))
    more = dataclasses.make_dataclass("_Part", [("depth", int, 1)], bases=(_Part,), frozen=True)
    more.__module__ = __name__
    monkeypatch.setattr(sys.modules[__name__], "_Part", more)
    assert fingerprint(more(3)) == before
    assert fingerprint(more(3, depth=2)) != before
