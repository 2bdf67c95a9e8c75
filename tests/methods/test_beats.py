"""BEATs: who sees what, what the codes are, how the codebook follows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq import param_paths, sharding
from jfreq.config import Experiment, Mesh, Optim, Source, replace
from jfreq.method import Rows, Streams
from jfreq.methods.beats import (
    BEATs,
    BEATsTokenizer,
    RandomProjection,
    TrainedTokenizer,
    _Model,
)
from jfreq.nn.apply import apply
from jfreq.nn.position_conv import PositionConv
from jfreq.nn.vit import ViT
from jfreq.ops import codebook
from jfreq.ops.patch import patchify, unpatchify
from jfreq.testing import CLIP, batch_spec, compiled, fake_batch
from jfreq.train import initial_state, plan, step
from jfreq.train.initial_state import check_sources, check_trained
from jfreq.train.state import init_state
from jfreq.types import DataSpec, InputError, SignalSpec

TEN_SECONDS = DataSpec((SignalSpec("audio", 16000, 160000),))
NET = ViT(width=16, depth=1, heads=2, norm="post", position_conv=PositionConv(64, 4))
SMALL = BEATs(
    encoder=NET,
    predictor=NET,
    tokenizer=RandomProjection(codes=24, code_width=8),
    patch=(16, 32),
    patch_width=12,
).bind(CLIP)
LEARNED = BEATsTokenizer(
    encoder=NET,
    teacher=replace(NET, width=24),
    estimator=NET,
    codes=12,
    code_width=8,
    patch=(16, 32),
    patch_width=12,
).bind(CLIP)
METHODS = {"model": SMALL, "tokenizer": LEARNED}


@functools.cache
def built(name):
    """Method, parameters and target, and the loss with its gradients for both, compiled."""
    method = METHODS[name]

    def loss(params, target, *args):
        found = method.loss(params, target, *args)
        return found.value, found

    params = compiled(method, "init")(jax.random.key(0))
    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    return method, params, jax.jit(method.init_target)(params), run


@functools.cache
def clips():
    """The second clip ends early, the last row only fills up the batch."""
    batch = fake_batch(CLIP, 4)
    return {
        **batch,
        "length": batch["length"].at[1].set(9000),
        "_mask": jnp.asarray([1.0, 1, 1, 0]),
    }


@functools.cache
def spectrogram():
    """Spectrograms ``[b t f c]`` of the clips, and which patches hold signal."""
    batch = compiled(SMALL, "with_spectrogram")(clips())
    return batch["spectrogram"], SMALL.read_tokens(batch)


@functools.cache
def model():
    """``(params, spec, mask, valid) -> logits``, compiled."""
    return jax.jit(lambda params, *args: apply(_Model(SMALL), params, *args))


def random_codes():
    state = built("model")[2]["tokenizer"]
    return jax.jit(lambda *args: SMALL.tokenizer.tokenize(SMALL, *args))(state, *spectrogram())


def graded(name, batch=None):
    """The loss of a batch, and its gradients for parameters and target."""
    _, params, target, run = built(name)
    (_, found), grads = run(params, target, batch or clips(), Streams(jax.random.key(3)), 0)
    return found, grads


def loss(name, batch=None):
    return graded(name, batch)[0]


def test_published_geometry():
    """10 s: 62 x 8 patches in the order of time, none beyond the clip, three quarters masked."""
    method = BEATs().bind(TEN_SECONDS)
    assert (method.grid.time, method.grid.freq, method.grid.order) == (62, 8, "time_major")
    assert (method.masked, method.tokenizer.codes, method.tokenizer.code_width) == (372, 1024, 256)
    params = jax.eval_shape(method.init, jax.random.key(0))
    # ViT-B with a norm before it and 16 x 16 patches; 320 distances, two gates in each block, and a
    # convolution of 128 places in 16 groups.
    block, norm, bias = 7_087_872 + 2 * 65 + 12, 2 * 768, 320 * 12
    stem = norm + bias + 128 * 48 * 768 + 128 + 768
    patches = 256 * 512 + 2 * 512 + 513 * 768
    assert param_paths.count(params["trunk"]) == 12 * block + stem + patches
    assert param_paths.count(params["predictor"]) == 3 * block + stem + 769 * 1024
    target = jax.eval_shape(method.init_target, params)
    rngs, batch = Streams(jax.random.key(0)), batch_spec(TEN_SECONDS, 2)
    found = jax.eval_shape(method.loss, params, target, batch, rngs, 0)
    assert found.value.shape == () and found.aux == {}
    with pytest.raises(InputError, match="must not overlap"):
        BEATs(stride=(10, 10)).bind(TEN_SECONDS)
    with pytest.raises(InputError, match="one must be visible"):
        BEATs(patch=(128, 128)).bind(CLIP)


def test_random_codes_are_the_nearest_of_scikit_learn():
    from sklearn.metrics import pairwise_distances_argmin

    spec, state = spectrogram()[0], built("model")[2]["tokenizer"]
    patches = patchify(spec, patch=(16, 32), order="time_major").reshape(-1, 512)
    projected = np.asarray(patches, np.float64) @ np.asarray(state["projection"], np.float64)
    expected = pairwise_distances_argmin(projected, np.asarray(state["codes"]), metric="cosine")
    np.testing.assert_array_equal(random_codes().reshape(-1), expected)
    assert len(np.unique(expected)) > 3


def test_masked_patches_are_not_seen_and_each_is_told_apart():
    method, params, _, _ = built("model")
    net, spec = functools.partial(model(), params), spectrogram()[0]
    mask = method.sample_mask(jax.random.key(1), 4)
    valid = jnp.ones((4, method.grid.size), bool)
    cells = jnp.repeat(mask.is_masked[..., None], 512, axis=-1)
    tokens = patchify(spec, patch=(16, 32), order="time_major")
    logits = net(spec, mask, valid)
    assert logits.shape == (4, 24, 24)
    for where, same in ((cells, True), (~cells, False)):
        other = unpatchify(
            jnp.where(where, 9.0, tokens), grid=(8, 4), patch=(16, 32), order="time_major"
        )
        assert np.array_equal(net(other, mask, valid), logits) == same
    assert np.abs(np.diff(np.asarray(logits), axis=1)).max(-1).min() > 1e-4


def test_loss_is_cross_entropy_over_masked_patches_inside_the_signal():
    method, params, _, _ = built("model")
    found, (spec, valid) = loss("model"), spectrogram()
    mask = jax.jit(method.sample_mask, static_argnums=1)(Streams(jax.random.key(3))("mask"), 4)
    counted = np.asarray(valid & mask.is_masked)[:3].sum()
    assert 3 * 24 > counted == found.metrics["loss"][1] == found.metrics["accuracy"][1]
    codes, logits = random_codes(), model()(params, spec, mask, valid)
    log_prob = np.asarray(jax.nn.log_softmax(logits), np.float64)
    total = 0.0
    for row in range(3):
        for i, patch in enumerate(np.asarray(mask.masked)[row]):
            total -= log_prob[row, i, codes[row, patch]] * bool(valid[row, patch])
    assert float(found.value) == pytest.approx(total / counted, rel=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_who_learns(name):
    """Every parameter of the encoder that is trained, nothing of the target."""
    trained, frozen = graded(name)[1]
    still = {p for p, g in param_paths.flatten(trained).items() if not np.abs(g).max() > 0}
    assert not still
    assert not any(np.any(g) for g in jax.tree.leaves(frozen))


def test_padding_and_filling_rows_do_not_reach_the_codebook():
    found = loss("tokenizer")
    inside = int(np.asarray(spectrogram()[1])[:3].sum())
    assert found.aux["counts"].sum() == found.metrics["loss"][1] == inside < 3 * 32
    other = {**clips(), "audio": clips()["audio"].at[3].set(0.0).at[1, 10000:].set(0.0)}
    same = loss("tokenizer", other)
    np.testing.assert_allclose(same.aux["sums"], found.aux["sums"], atol=1e-5)
    assert float(same.value) == pytest.approx(float(found.value), rel=1e-5)


def test_the_codebook_starts_from_the_first_batch_and_then_follows():
    method, params, target, _ = built("tokenizer")
    update = jax.jit(method.update_target)
    first = update(target, params, loss("tokenizer").aux, 0)["codebook"]
    vectors = np.asarray(loss("tokenizer").aux["vectors"].array).reshape(-1, 8)[:12]
    np.testing.assert_allclose(first["codes"], vectors, atol=1e-5)
    np.testing.assert_array_equal(first["usage"], np.ones(12))

    aux = {
        "sums": 2.0 * first["codes"][::-1],
        "counts": jnp.arange(12.0),
        "vectors": Rows(jnp.ones((4, 3, 8))),
    }
    worn = {**first, "usage": first["usage"].at[0].set(1e-3)}
    state = {**target, "codebook": worn}
    next_ = update(state, params, aux, 1)
    codes, usage = codebook.follow(
        worn["codes"], worn["usage"], aux["sums"], aux["counts"], decay=0.99
    )
    np.testing.assert_allclose(next_["codebook"]["codes"][1:], codes[1:], atol=1e-6)
    np.testing.assert_allclose(next_["codebook"]["codes"][0], np.full(8, 8**-0.5), rtol=1e-5)
    np.testing.assert_allclose(next_["codebook"]["usage"][1:], usage[1:], rtol=1e-6)
    for kept in (next_, built("model")[0].update_target(target, params, {}, 1)):
        for a, b in zip(jax.tree.leaves(kept["teacher"]), jax.tree.leaves(target["teacher"])):
            assert np.array_equal(a, b)


def trained(method, devices):
    """State after two updates on eight clips, and the metrics of the second one. Every clip has
    another length, and the last one only fills up the batch."""
    mesh = sharding.make_mesh((devices, 1, 1), jax.devices()[:devices])
    experiment = Experiment(
        "x", method, optim=Optim(kind="optax.sgd", lr=0.1), mesh=Mesh(devices), steps=9, batch=8
    )
    batch = {
        **fake_batch(CLIP, 8),
        "length": jnp.arange(1, 9) * (CLIP.signals[0].samples // 8),
        "_mask": (jnp.arange(8) < 7).astype(jnp.float32),
    }
    spec = plan.plan_step(experiment, jax.eval_shape(lambda: batch), mesh)
    key, metrics = jax.random.key(0), {}
    with jax.set_mesh(mesh):
        places = jax.tree.map(lambda leaf: leaf.sharding, spec.abstract)
        rows = {name: leaf.sharding for name, leaf in spec.batch_spec.items()}
        batch = jax.device_put(batch, rows)
        update = step.lower_step(spec).compile()
        start = functools.partial(init_state, method, spec.optimiser)
        state = jax.jit(start, out_shardings=places)(key)
        for _ in range(2):
            state, metrics = update(state, batch, initial_state.run_key(spec))
    return jax.device_get((state, metrics))


def test_a_trained_tokenizer_gives_the_model_its_codes():
    """The tree of the tokenizer's run fits the target of the next model, and codes are equal."""
    _, params, target, _ = built("tokenizer")
    reader = TrainedTokenizer(codes=12, code_width=8, encoder=NET)
    next_ = replace(SMALL, tokenizer=reader)
    state = {
        **{name: params[name] for name in ("trunk", "to_code")},
        "codebook": target["codebook"],
    }
    shapes = jax.eval_shape(lambda: next_.init_target(None)["tokenizer"])
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, shapes)
    paths = param_paths.flatten({"tokenizer": state})
    check_trained(next_, {"tokenizer": state}, paths)
    check_trained(SMALL, {"tokenizer": state}, ())
    with pytest.raises(InputError, match=r"2 of 28 arrays of the tokenizer .*: tokenizer/codebook"):
        check_trained(next_, {"tokenizer": state}, [p for p in paths if "codebook" not in p])
    codes = jax.jit(lambda *args: reader.tokenize(next_, *args))(state, *spectrogram())
    own = codebook.counts(codes[:3], 12, valid=spectrogram()[1][:3])
    np.testing.assert_array_equal(own, loss("tokenizer").aux["counts"])


def test_reconstruction_shows_the_mask():
    method, params, _, _ = built("model")
    found = compiled(method, "reconstruct")(params, clips(), Streams(jax.random.key(0)))
    assert found.masked.shape == (4, 128, 128) and found.reconstruction is None
    assert float(found.masked.mean()) == pytest.approx(0.75)


def test_a_frozen_part_needs_a_source():
    source = Source("runs/a", write="tokenizer", into="target")
    experiment = Experiment("second", replace(SMALL, tokenizer=TrainedTokenizer()))
    with pytest.raises(InputError, match="second needs the tokenizer of a run that trained it"):
        check_sources(experiment)
    check_sources(replace(experiment, checkpoint__init_from=(source,)))
    check_sources(replace(experiment, method=SMALL))
