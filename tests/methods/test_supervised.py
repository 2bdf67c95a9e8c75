"""Supervised heads: losses by hand, augmentation, dropped tokens, training."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq import param_paths
from jfreq.config import Experiment, Source, replace
from jfreq.config_json import to_dict
from jfreq.method import Method, Streams, encoder_params
from jfreq.methods import experiment_from_dict
from jfreq.methods.ast import AST
from jfreq.methods.common.augmentation import augmented
from jfreq.methods.ssast import SSAST
from jfreq.methods.supervised import Classify, Head
from jfreq.nn.heads import NormLinear
from jfreq.nn.vit import ViT
from jfreq.ranges import checked
from jfreq.testing import CLIP, compiled, fake_batch, filled, fitted, loss_and_grad
from jfreq.train import transfer
from jfreq.types import DataSpec, Features, InputError, SignalSpec, TokenGrid

SMALL = ViT(width=32, depth=1, heads=2)
MODELS = {
    "AST": AST(encoder=SMALL, stride=(16, 16)),
    "SSAST": Classify(backbone=SSAST(encoder=SMALL)),
}
PLAIN = Head()


@functools.cache
def model(name):
    """Bound config, method and parameters."""
    cfg = method = MODELS[name].bind(CLIP)
    init = compiled(method, "init")
    return cfg, method, init(jax.random.key(0))


# ------------------------------------------------------------------ loss


def by_hand(logits, labels, kind):
    """Loss of each row in float64."""
    z = np.asarray(logits, np.float64)
    if kind == "bce":
        p = 1 / (1 + np.exp(-z))
        return -(labels * np.log(p) + (1 - labels) * np.log(1 - p)).mean(axis=-1)
    log_p = z - z.max(axis=-1, keepdims=True)
    log_p = log_p - np.log(np.exp(log_p).sum(axis=-1, keepdims=True))
    return -(labels * log_p).sum(axis=-1)


@checked
class FirstFrame(Method):
    """Hands the first frame of a signal cut in frames through as clip vector."""

    width: int = 4

    def init(self, key):
        del key
        return {"gain": jnp.ones(self.width), "pretext": jnp.ones(9)}

    def with_spectrogram(self, batch):
        if "spectrogram" in batch:
            return batch
        return {**batch, "spectrogram": batch["x"].reshape(len(batch["x"]), -1, self.width, 1)}

    def encode(self, params, batch):
        spec = self.with_spectrogram(batch)["spectrogram"]
        tokens = spec[..., 0] * params["gain"][None, None]
        valid = jnp.ones(tokens.shape[:2], bool)
        return Features(tokens, TokenGrid(time=spec.shape[1]), tokens[:, 0], valid)


def table(head=PLAIN, *, classes=3):
    """A classifier over :class:`FirstFrame`, its data and random parameters."""
    backbone = FirstFrame()
    spec = DataSpec((SignalSpec("x", 10.0, 6 * backbone.width),), tuple("abcdefgh"[:classes]))
    method = Classify(backbone=backbone, head=head).bind(spec)
    return method, spec, filled(method)


@pytest.mark.parametrize(
    ("kind", "multi"), [("auto", False), ("bce", False), ("auto", True)], ids=str
)
def test_loss_and_metrics_by_hand(kind, multi):
    """Rows that only fill up the batch do not count, nor do rows without a label."""
    rng = np.random.default_rng()
    method, spec, params = table(Head(loss=kind, multi_label=multi))
    batch = fake_batch(replace(spec, multi_label=multi), 6, seed=int(rng.integers(1 << 30)))
    batch["_mask"] = jnp.array([1.0, 1, 1, 0, 1, 1])
    labels = np.eye(3)[np.arange(6) % 3]
    if multi:
        labels = (rng.uniform(size=(6, 3)) < 0.5).astype(np.float64)
        batch["label"] = jnp.asarray(labels, jnp.float32)
    else:
        batch["label"] = batch["label"].at[4].set(-1)
    counted = [0, 1, 2, 4, 5] if multi else [0, 1, 2, 5]

    loss, metrics, *_ = compiled(method, "loss")(params, {}, batch, Streams(jax.random.key(1)), 0)
    logits = np.asarray(compiled(method, "encode")(params, batch).logits)
    expected = by_hand(logits, labels, "bce" if multi or kind == "bce" else "ce")[counted]
    assert metrics["loss"][1] == len(counted)
    np.testing.assert_allclose(metrics["loss"][0], expected.sum(), rtol=1e-5)
    np.testing.assert_allclose(loss, expected.mean(), rtol=1e-5)
    if multi:
        assert set(metrics) == {"loss"}
    else:
        hits = (logits.argmax(axis=-1) == labels.argmax(axis=-1))[counted]
        np.testing.assert_allclose(metrics["accuracy"], (hits.sum(), len(counted)))


def test_multi_hot_and_integer_labels_of_one_class_agree():
    method, spec, params = table()
    batch = fake_batch(spec, 6)
    hot = {**batch, "label": jnp.asarray(np.eye(3, dtype=np.float32)[np.arange(6) % 3])}
    loss = jax.jit(
        lambda batch: method.loss(params, {}, batch, Streams(jax.random.key(1)), 0).value
    )
    one, two = loss(batch), loss(hot)
    np.testing.assert_allclose(one, two, rtol=1e-6)


# ------------------------------------------------------------------ augmentation


@pytest.mark.parametrize(
    ("head", "random"),
    [
        (Head(), False),
        (Head(mixup=1.0), True),
        (Head(spec_augment=(5, 3)), True),
        (Head(noise=True), True),
        (Head(roll=True), True),
        (Head(gain=True), True),
        (Head(mixup=1.0, mixup_of="spectrogram", mixup_alpha=0.8, mixup_shared=True), True),
        (Head(spec_augment=(5, 3), spec_augment_at="input"), True),
        (Head(label_smoothing=0.1), False),
    ],
    ids=[
        "none",
        "mixup",
        "spec_augment",
        "noise",
        "roll",
        "gain",
        "spectrograms",
        "input",
        "smoothing",
    ],
)
def test_augmentation_acts_in_training_only(head, random):
    method, spec, params = table(head)
    batch = fake_batch(spec, 8)
    loss = jax.jit(lambda key: method.loss(params, {}, batch, Streams(key), 0).value)
    found = {float(loss(jax.random.key(seed))) for seed in range(4)}
    assert len(found) > 1 if random else len(found) == 1
    assert loss(jax.random.key(0)) == loss(jax.random.key(0))
    # Encoding has no randomness: it gets no key and makes none.
    assert "random" not in str(jax.make_jaxpr(method.encode)(params, batch))
    found, plain = (compiled(m, "encode")(params, batch).logits for m in (method, table()[0]))
    np.testing.assert_array_equal(found, plain)


@pytest.mark.parametrize(("pair", "axes"), [((9, 0), (2, 3)), ((0, 9), (1, 3))])
def test_spec_augment_names_time_before_frequency(pair, axes):
    """Of (9, 0) only whole frames are masked, of (0, 9) only whole bins."""
    cfg, _, _ = model("AST")
    batch = {"spectrogram": jnp.ones((16, 32, 24, 1)), "label": jnp.zeros(16, int)}
    head = replace(cfg.head, spec_augment=pair)
    changed, _ = augmented(cfg, head, batch, Streams(jax.random.key(2)))
    masked = np.asarray(changed["spectrogram"]) != 1
    assert masked.any() and not masked.all(axis=(1, 2, 3)).any()
    np.testing.assert_array_equal(masked.all(axis=axes), masked.any(axis=axes))


def test_mixup_mixes_sounds_and_labels_alike():
    """Identical rows stay themselves; a spectrogram made before mixing is not used."""
    method, spec, params = table(Head(mixup=1.0))
    batch = fake_batch(spec, 8)
    mixing, plain = (
        jax.jit(lambda batch, m=m: m.loss(params, {}, batch, Streams(jax.random.key(1)), 0).value)
        for m in (method, table()[0])
    )
    centred = batch["x"] - batch["x"].mean(axis=1, keepdims=True)
    same = {**batch, "x": jnp.broadcast_to(centred[:1], centred.shape)}
    same["label"] = jnp.zeros(8, jnp.int32)
    np.testing.assert_allclose(mixing(same), plain(same), rtol=1e-5)
    stale = {**batch, "spectrogram": jnp.full((8, 6, 4, 1), 99.0)}
    np.testing.assert_allclose(mixing(stale), mixing(batch), rtol=1e-6)


def test_mixup_wants_one_signal():
    method, spec, params = table(Head(mixup=0.5))
    batch = fake_batch(spec, 2)
    with pytest.raises(InputError, match=r"head.mixup: mixes one signal.*'x', 'y'"):
        method.loss(params, {}, {**batch, "y": batch["x"]}, Streams(jax.random.key(0)), 0)


def test_mixed_spectrograms_want_an_encoder_that_reads_them():
    method, spec, _ = table(Head(mixup=0.5, mixup_of="spectrogram"))
    raw = replace(method, backbone=Method())
    with pytest.raises(InputError, match=r"head.mixup_of: this encoder reads no spectrogram"):
        augmented(raw.backbone, raw.head, fake_batch(spec, 2), Streams(jax.random.key(0)))


def test_bands_are_masked_before_noise_or_last():
    """With log-mel 0 under the noise, or with 0 on top of it and of the mixing."""
    cfg, _, _ = model("AST")
    batch = {"spectrogram": jnp.ones((16, 32, 24, 1)), "label": jnp.zeros(16, int)}
    head, rngs = replace(cfg.head, spec_augment=(0, 9), noise=True), Streams(jax.random.key(2))
    heads = [replace(head, spec_augment_at=at) for at in ("log_mel", "input")]
    first, last = (np.asarray(augmented(cfg, h, batch, rngs)[0]["spectrogram"]) for h in heads)
    masked = last == 0
    assert masked.any() and (last[~masked] >= 1).all()
    np.testing.assert_array_equal(masked.all(axis=1), masked.any(axis=1))
    fill = cfg.spectrogram_fill
    assert 0 < fill < 1
    np.testing.assert_array_equal(first < 1, masked)
    assert ((first[masked] >= fill) & (first[masked] <= fill + 0.1)).all()
    assert len(np.unique(first[masked])) > 100


@pytest.mark.parametrize("smoothing", [0.1, 0.3])
def test_label_smoothing_is_that_of_torch(smoothing):
    """(1 - s) y + s / classes, in training alone."""
    method, spec, params = table(Head(label_smoothing=smoothing))
    batch = fake_batch(spec, 6)
    loss = compiled(method, "loss")(params, {}, batch, Streams(jax.random.key(0)), 0)
    labels = (1 - smoothing) * np.eye(3)[np.arange(6) % 3] + smoothing / 3
    logits = compiled(method, "encode")(params, batch).logits
    np.testing.assert_allclose(loss.value, by_hand(logits, labels, "ce").mean(), rtol=1e-5)
    with pytest.raises(InputError, match=r"head.label_smoothing: is for cross-entropy"):
        table(Head(label_smoothing=smoothing, loss="bce"))


def test_initial_values_of_the_classifier():
    """Normal of the asked deviation without a bias; else torch's uniform."""
    for initial, deviation in ((0.02, 0.02), (2e-5, 2e-5), (None, 1 / np.sqrt(3 * 400))):
        net = NormLinear(300, initial=initial)
        params: Any = net.init(jax.random.key(1), jnp.zeros((1, 400)))["params"]
        linear = params["linear"]
        np.testing.assert_allclose(np.std(linear["kernel"]), deviation, rtol=0.02)
        assert bool(np.any(linear["bias"])) == (initial is None)


# ------------------------------------------------------------------ dropped tokens


def test_dropped_tokens_are_whole_columns_and_rows():
    """The encoder reads the others where they stand, and the clip vector is their mean."""
    backbone = SSAST(encoder=SMALL, padding="attended").bind(CLIP)
    method = Classify(backbone=backbone, head=Head(token_drop=(0.3, 0.2))).bind(CLIP)
    params = jax.tree.map(jnp.asarray, filled(method))
    batch, rngs = fake_batch(CLIP, 3), Streams(jax.random.key(3))
    changed, _ = jax.jit(functools.partial(augmented, method.backbone, method.head))(batch, rngs)
    kept, grid = np.asarray(changed["kept_tokens"]), backbone.grid
    assert grid.shape == (8, 8) and kept.shape == (3, 5 * 6)
    for row in kept:
        rows, columns = np.divmod(row, grid.time)  # frequency-major
        assert (len(set(row)), len(set(rows)), len(set(columns))) == (30, 6, 5)
    assert len({tuple(sorted(row)) for row in kept}) == 3

    spec = compiled(method, "with_spectrogram")(batch)["spectrogram"]
    trunk, weights = backbone.trunk, params["backbone"]
    clip = compiled(method.backbone, "forward")(weights, changed, rngs).clip

    @jax.jit
    def read(params, ids):
        return trunk.apply({"params": params}, ids, method=reading)

    def reading(net, ids):
        tokens = net.embed(spec)
        some = jnp.take_along_axis(tokens, ids[..., None], axis=1)
        return net.encode(some, ids=ids)[1].mean(axis=1)

    order = jnp.sort(changed["kept_tokens"], axis=1)
    np.testing.assert_allclose(clip, read(weights["trunk"], order), atol=1e-4)
    encode, plain = compiled(method.backbone, "encode"), dict(changed)
    del plain["kept_tokens"]  # they are dropped in training alone
    whole, plain = (encode(weights, batch).clip for batch in (changed, plain))
    np.testing.assert_array_equal(whole, plain)


def test_dropped_tokens_leave_a_finite_clip_vector():
    """Even where all that is kept of a short clip is padding."""
    backbone = SSAST(encoder=SMALL).bind(CLIP)
    method = Classify(backbone=backbone, head=Head(token_drop=(0.8, 0.0))).bind(CLIP)
    batch = fake_batch(CLIP, 16) | {"length": jnp.full(16, 800)}
    params, rngs = filled(method), Streams(jax.random.key(0))
    assert np.isfinite(compiled(method, "loss")(params, {}, batch, rngs, 0).value)
    with pytest.raises(InputError, match=r"head.token_drop: this encoder reads all"):
        table(Head(token_drop=(0.2, 0.2)))


def test_a_fine_tuned_classifier_leaves_its_head_behind():
    """A new classifier is put on the encoder of AST alone."""
    old = MODELS["AST"].bind(CLIP)
    new = Classify(backbone=old.unbind().without_head).bind(CLIP)
    shapes = jax.eval_shape(new.init, jax.random.key(0))
    assert set(shapes["backbone"]) == {"trunk"}
    _, report = transfer.fit_params(
        filled(old, 1), filled(new, 2), Source("runs/a", read="backbone", write="backbone")
    )
    assert not report.resized and len(report.taken) == len(param_paths.flatten(shapes["backbone"]))
    saved = Experiment("new", new)
    assert experiment_from_dict(to_dict(saved)) == saved


# ------------------------------------------------------------------ training


def tones():
    """Eight clips, three classes of pitch, each clip a little off."""
    batch = fake_batch(CLIP, 8)
    pitch = np.array([300, 900, 2700])[np.arange(8) % 3] * np.linspace(1, 1.3, 8)
    wave = np.sin(2 * np.pi * pitch[:, None] * np.arange(CLIP.signal().samples) / 16000)
    noise = 0.05 * np.random.default_rng().normal(size=wave.shape)
    return {**batch, "audio": jnp.asarray(0.2 * (wave + noise)[..., None], jnp.float32)}


@pytest.mark.parametrize("name", MODELS)
def test_learns_eight_clips(name):
    """Every parameter has a gradient, and the loss falls to nearly nothing."""
    _, method, params = model(name)
    batch, key = compiled(method, "with_spectrogram")(tones()), jax.random.key(0)
    for path, leaf in param_paths.flatten(loss_and_grad(method, params, batch, key)[1]).items():
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path
    params, history = fitted(method, params, batch, steps=50)
    found, _ = loss_and_grad(method, params, batch, key)
    assert history[0] > 0.8
    assert found.value < 0.2
    assert found.metrics["accuracy"][0] == 8


@pytest.mark.parametrize("name", MODELS)
def test_only_the_trunk_stays_of_the_backbone(name):
    """The pretext heads and the mask token fall away; classifier and encoder are both exported."""
    _, method, params = model(name)
    assert set(params) == {"backbone", "head"}
    assert set(params["backbone"]) == {"trunk"}
    kept = encoder_params(method, params)
    assert set(param_paths.flatten(kept)) == set(param_paths.flatten(params))
