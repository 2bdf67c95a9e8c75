"""Classifiers: published size, what they take from pre-training, how they bind to the data."""

import jax
import numpy as np
import pytest

from jfreq import param_paths
from jfreq.config import Experiment, Source, replace
from jfreq.method import Streams
from jfreq.methods.ast import AST
from jfreq.methods.ssast import SSAST
from jfreq.methods.supervised import Classify, Head
from jfreq.nn.vit import SIZES, ViT
from jfreq.ops.posemb import resize_positions
from jfreq.testing import CLIP, fake_batch, filled
from jfreq.train import initial_state, transfer
from jfreq.train.state import Trained
from jfreq.types import DataSpec, InputError, SignalSpec

SMALL = ViT(width=32, depth=1, heads=2)
TAGS = replace(CLIP, multi_label=True)

# ------------------------------------------------------------------ published facts


@pytest.mark.parametrize(
    ("frames", "grid", "tokens"),
    [(1024, (12, 101), 1212), (512, (12, 50), 600), (128, (12, 12), 144)],
)
def test_ast_geometry(frames, grid, tokens):
    cfg = AST(frames=frames).bind(CLIP)
    assert (cfg.grid.freq, cfg.grid.time) == grid
    assert cfg.grid.size == tokens
    assert (cfg.grid.first, cfg.grid.hop) == (200 + 7.5 * 160, 10 * 160)


def test_ast_base_has_the_published_size():
    """The checkpoint for AudioSet as published for inference: encoder, 1212 + 2 positions, two
    special tokens, norm and 527-way classifier. The training code also stores DeiT's two unused
    1000-way ImageNet heads, 1 538 000 more, which are not part of it."""
    spec = DataSpec((SignalSpec("audio", 16000, 160000),), tuple(map(str, range(527))), True)
    cfg = AST(encoder=SIZES["base"]).bind(spec)
    params = jax.eval_shape(lambda k: cfg.init(k), jax.random.key(0))
    assert cfg.head.loss == "bce"
    assert param_paths.count(params) == 86_594_063
    assert param_paths.count(params["head"]) == 2 * 768 + 768 * 527 + 527
    assert param_paths.count(params["backbone"]["trunk"]["positions"]) == 1214 * 768


# ------------------------------------------------------------------ from pre-training


def test_fine_tuning_takes_the_trunk_of_ssast():
    """Stride 16 to stride 10: same kernel, positions 8 x 8 resized to 12 x 12, a fresh head."""
    source = SSAST(encoder=SMALL).bind(CLIP)
    pre = filled(source, seed=1)
    method = Classify(backbone=replace(source, stride=(10, 10), mask=None)).bind(CLIP)
    fresh = filled(method, seed=2)
    fitted, report = transfer.fit_params(pre, fresh, Source("runs/a"))

    found, before = param_paths.flatten(fitted), param_paths.flatten(pre)
    grid = "backbone/trunk/positions/grid"
    assert report.resized == [grid]
    expected = resize_positions(before["trunk/positions/grid"], (12, 12))
    np.testing.assert_array_equal(found[grid], expected)
    assert set(report.fresh) == {p for p in found if p.startswith("head/")}
    for path in report.fresh:
        np.testing.assert_array_equal(found[path], param_paths.flatten(fresh)[path])
    assert set(report.taken) == {p for p in found if p.startswith("backbone/")} - {grid}
    for path in report.taken:
        np.testing.assert_array_equal(found[path], before[path.removeprefix("backbone/")])
    features = jax.eval_shape(method.encode, fitted, fake_batch(CLIP, 2))
    assert features.tokens.shape == (2, 144, 32)
    assert features.logits.shape == (2, 3)


def test_pre_training_refuses_overlapping_patches():
    method = SSAST(encoder=SMALL, stride=(10, 10)).bind(CLIP)
    params = jax.eval_shape(lambda k: method.init(k), jax.random.key(0))
    rngs = Streams(jax.random.key(0))
    with pytest.raises(InputError, match=r"method.stride: .*must not overlap.*\(10, 10\)"):
        jax.eval_shape(method.loss, params, {}, fake_batch(CLIP, 2), rngs, 0)


# ------------------------------------------------------------------ binding


@pytest.mark.parametrize(
    ("head", "spec", "match"),
    [
        (Head(), DataSpec(CLIP.signals), "needs two labels or more, the data have 0"),
        (Head(), DataSpec(CLIP.signals, ("one",)), "the data have 1"),
        (Head(classes=2), CLIP, "head.classes: must be 3 or more, the labels of the data, got 2"),
    ],
)
def test_labels_that_do_not_fit(head, spec, match):
    with pytest.raises(InputError, match=match):
        Classify(backbone=SSAST(encoder=SMALL), head=head).bind(spec)


@pytest.mark.parametrize(
    ("changes", "match"),
    [({"mixup": 1.5}, "between 0 and 1, got 1.5"), ({"spec_augment": (3, -1)}, "0 or more")],
)
def test_impossible_augmentation(changes, match):
    with pytest.raises(InputError, match=match):
        Head(**changes)


def test_binding_follows_the_data():
    one, many = Head().bind(CLIP), Head().bind(TAGS)
    assert (one.classes, one.multi_label, one.loss) == (3, False, "ce")
    assert (many.classes, many.multi_label, many.loss) == (3, True, "bce")
    wide = Head(loss="bce", classes=5).bind(CLIP)
    assert wide == Head(5, False, "bce", labels=("a", "b", "c"))
    assert wide.names == ("a", "b", "c", "class 3", "class 4")


def test_class_names_are_those_of_the_data():
    bound = Classify(backbone=SSAST(encoder=SMALL)).bind(CLIP)
    assert bound.labels == CLIP.labels and bound.bind(CLIP) == bound
    others = DataSpec(CLIP.signals, ("a", "x", "c"))
    with pytest.raises(InputError, match=r"head.labels: are a, b, c, the data have a, x, c"):
        bound.bind(others)
    assert bound.unbind().bind(others).labels == others.labels
    assert AST(encoder=SMALL).bind(TAGS).multi_label and not bound.multi_label
    assert AST(encoder=SMALL).bind(TAGS).scores == "sigmoid" and bound.scores == "softmax"
    assert SSAST(encoder=SMALL).bind(CLIP).labels == ()


def test_a_classifier_of_other_classes_is_no_start():
    """As many classes with other names: the encoder is taken, its classifier is not."""
    found = Experiment("old", Classify(backbone=SSAST(encoder=SMALL)).bind(CLIP))
    trained = Trained(found, {"backbone": {"a": np.ones(2)}, "head": {"b": np.ones(3)}})
    others = replace(CLIP, labels=("a", "b", "x"))
    tuned = replace(found, method=found.method.unbind().bind(others))
    plain, named = Source("run"), Source("run", read="head", write="head")
    assert initial_state._without_other_classes(plain, trained, found) == trained.params
    assert set(initial_state._without_other_classes(plain, trained, tuned)) == {"backbone"}
    assert initial_state._without_other_classes(named, trained, tuned) == trained.params
