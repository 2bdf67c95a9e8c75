"""EAT and AaSP: what the student sees, what the teacher says, how it follows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq import masks, param_paths
from jfreq.config import replace
from jfreq.method import Streams
from jfreq.methods.aasp import AaSP
from jfreq.methods.common.teacher import gather_per_clone
from jfreq.methods.eat import EAT, Net, encode_visible
from jfreq.methods.mae import MAE
from jfreq.methods.ssast import SSAST
from jfreq.nn.aape import AaPE
from jfreq.nn.convnext import ConvNeXt
from jfreq.nn.predictors import ConvDecoder, CrossPredictor
from jfreq.nn.vit import ViT
from jfreq.testing import CLIP, Compiled, compiled, fake_batch
from jfreq.types import DataSpec, InputError, Mask, SignalSpec

MASKS = Compiled(masks)
TEN_SECONDS = DataSpec((SignalSpec("audio", 16000, 160000),))
STEM = AaPE(kernels=2, taps=9, high_pass=17, width=8, depth=1, heads=2, out=8)
SMALL = EAT(
    encoder=ViT(width=16, depth=2, heads=2, norm="post"),
    clones=3,
    block=2,
    patch=(16, 32),
    decoder=ConvDecoder(width=16, depth=1, groups=4),
    utterance_weight=12.0,
)
FULL = AaSP(
    encoder=SMALL.encoder,
    clones=3,
    block=2,
    patch=(16, 32),
    aape=STEM,
    projection=(16, 8),
    decoder=CrossPredictor(width=16, depth=1, heads=2),
)
CONFIGS = {"eat": SMALL, "aasp": FULL}


@functools.cache
def built(name):
    """Config, method, parameters, a teacher of other parameters, and the loss compiled."""
    cfg = method = CONFIGS[name].bind(CLIP)
    init = compiled(method, "init")
    target = method.init_target(init(jax.random.key(7)))

    def loss(*args):
        return with_gradients(name)(*args)[0][1]

    return cfg, method, init(jax.random.key(0)), target, loss


@functools.cache
def with_gradients(name):
    """``(value, Loss)`` and the gradients of student and teacher, compiled."""
    method = CONFIGS[name].bind(CLIP)

    def loss(params, target, *rest):
        found = method.loss(params, target, *rest)
        return found.value, found

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))


@functools.cache
def applied(cfg):
    return jax.jit(lambda params, *args: Net(cfg).apply({"params": params}, *args))


@functools.cache
def clips():
    return fake_batch(CLIP, 4)


def means(metrics):
    return {k: float(s / c) for k, (s, c) in metrics.items()}


def test_published_geometry():
    """10 s: 64 x 8 patches, of which a clone sees exactly 102; time-major, no learned positions."""
    cfg = EAT().bind(TEN_SECONDS)
    assert (cfg.frames, cfg.grid.time, cfg.grid.freq, cfg.grid.order) == (1024, 64, 8, "time_major")
    assert (cfg.visible, cfg.grid.size - cfg.visible) == (102, 410)
    assert replace(cfg, mask_ratio=0.75).visible == 128
    params = jax.eval_shape(lambda k: cfg.init(k), jax.random.key(0))
    assert not any("positions" in path for path in param_paths.flatten(params))
    # ViT-B without its learned positions, 1 x 256 patches, one special token.
    assert param_paths.count(params["trunk"]) == 12 * 7_087_872 + 2 * 768 + 768 + 257 * 768


def released_mask(rng, time, freq, *, ratio=0.8, adjust=0.07, side=5):
    """One mask ``[time freq]`` by the rule of the released code, step by step: True is visible."""
    cells, keep = time * freq, 1 - ratio
    plane = np.zeros((time, freq), bool)
    centres = rng.integers(0, cells, size=int(cells * ((keep + adjust) / side**2)))
    for row, column in zip(*np.divmod(centres, freq)):
        for i, j in np.ndindex(side, side):
            at = (
                np.clip(row + i - side // 2, 0, time - 1),
                np.clip(column + j - side // 2, 0, freq - 1),
            )
            plane[at] = True
    flat, wanted = plane.reshape(-1), int(cells * keep)
    surplus = int(flat.sum()) - wanted
    pool = np.flatnonzero(flat == (surplus > 0))
    flat[rng.choice(pool, abs(surplus), replace=False)] = surplus < 0
    return plane, len(centres)


@pytest.mark.parametrize(("ratio", "adjust"), [(0.8, 0.07), (0.75, 0.1)])
def test_masks_of_any_length_have_the_released_counts(ratio, adjust):
    rng = np.random.default_rng(0)
    spec = DataSpec((SignalSpec("audio", 16000, 1_000_000),))
    for time in range(1, 381):
        method = EAT(mask_ratio=ratio, adjust=adjust, frames=16 * time).bind(spec)
        plane, blocks = released_mask(rng, time, 8, ratio=ratio, adjust=adjust)
        assert (method.visible, method.blocks) == (plane.sum(), blocks), time
    short = EAT(frames=16 * 11).bind(spec)
    assert (short.blocks, EAT(frames=16 * 12).bind(spec).blocks) == (0, 1)
    assert EAT(frames=16 * 25).bind(spec).visible == 39


@pytest.mark.parametrize("time", [7, 12, 25])
def test_masks_of_short_clips_are_distributed_as_released(time):
    """Marginals, and pairs of neighbours in time, in standard errors."""
    spec = DataSpec((SignalSpec("audio", 16000, 1_000_000),))
    method = EAT(frames=16 * time).bind(spec)
    mask = jax.jit(method.sample_mask, static_argnums=1)(jax.random.key(1), 4000)
    ours = ~np.asarray(mask.is_masked).reshape(4000, time, 8)
    rng = np.random.default_rng(2)
    theirs = np.stack([released_mask(rng, time, 8)[0] for _ in range(1500)])
    for a, b in ((ours, theirs), (ours[:, 1:] & ours[:, :-1], theirs[:, 1:] & theirs[:, :-1])):
        p = a.mean(0)
        z = (b.mean(0) - p) / np.sqrt(p * (1 - p) * (1 / len(a) + 1 / len(b)))
        assert np.abs(z).max() < 5
        assert np.square(z).mean() < 1.6  # patches of one block depend on each other


def test_the_loss_is_the_released_sum():
    """Errors over sqrt(d), summed, over the masked tokens; the special tokens' are multiplied by
    that number first: with 4 clips x 3 clones that is a weight of 12 on their mean."""
    cfg, method, params, target, loss = built("eat")
    batch, rngs = clips(), Streams(jax.random.key(3))
    value, metrics, *_ = loss(params, target, batch, rngs, 0)
    spec = compiled(method, "with_spectrogram")(batch)["spectrogram"]
    mask = jax.jit(cfg.sample_mask, static_argnums=1)(rngs("mask"), 12)
    truth = jax.jit(cfg.teacher_targets)(target["trunk"], spec)
    special, pred = applied(cfg)(params, spec, mask, rngs("fill"))
    error = np.square(np.asarray(pred) - np.asarray(gather_per_clone(truth, mask.masked))) / 4.0
    clip = np.repeat(np.asarray(truth).mean(1), 3, axis=0)
    wanted = np.square(np.asarray(special) - clip) / 4.0
    masked = pred.shape[0] * pred.shape[1]
    released = (error.sum() + masked * wanted.sum()) / masked
    assert float(value) == pytest.approx(released, rel=1e-4)
    found = means(metrics)
    assert found["loss"] == pytest.approx(found["frame"] + 12 * found["utterance"], rel=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_who_learns(name):
    """Every parameter of the student, none of the teacher, whose values matter all the same."""
    _, method, params, target, loss = built(name)
    rngs = Streams(jax.random.key(1))
    _, (student, teacher) = with_gradients(name)(params, target, clips(), rngs, 0)
    still = {p for p, g in param_paths.flatten(student).items() if not np.abs(g).max() > 0}
    # The heads of an untrained Lambda Encoder start at zero, and so does its part of the fusion.
    assert still == {p for p in still if p.startswith("trunk/alias/")}
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(student))
    assert all(not np.any(g) for g in jax.tree.leaves(teacher))
    same = method.init_target(params)
    value, other = (loss(params, t, clips(), rngs, 0).value for t in (target, same))
    assert abs(float(value) - float(other)) > 1e-3


def test_targets_have_mean_zero_and_variance_one():
    cfg, method, _, target, _ = built("eat")
    spec = compiled(method, "with_spectrogram")(clips())["spectrogram"]
    teacher = jax.jit(EAT.teacher_targets, static_argnums=0)
    truth = np.asarray(teacher(cfg, target["trunk"], spec))
    assert truth.shape == (4, cfg.grid.size, 16)
    np.testing.assert_allclose(truth.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(truth.var(-1), 1, atol=1e-2)
    last = teacher(replace(cfg, target_layers=1), target["trunk"], spec)
    assert np.abs(truth - last).max() > 0.1


def test_released_initial_values():
    """The special token N(0, 1), patches by Xavier's rule, blocks N(0, 0.02) without a cut."""
    encoder = ViT(width=96, depth=2, heads=2, norm="post")
    found = {}
    for initial in ("cut", "released"):
        method = EAT(initial=initial, encoder=encoder).bind(CLIP)
        params = param_paths.flatten(compiled(method, "init")(jax.random.key(0))["trunk"])
        found[initial] = {path: np.asarray(x) for path, x in params.items()}
    cut, released = found["cut"], found["released"]
    assert np.std(released["special_tokens"]) == pytest.approx(1, rel=0.25)
    xavier = np.sqrt(2 / (256 + 96))
    assert np.std(released["patch_embed/kernel"]) == pytest.approx(xavier, rel=0.05)
    for name in ("qkv", "proj", "fc1", "fc2"):
        path = f"encoder/blocks/{name}/kernel"
        assert np.std(released[path]) == pytest.approx(0.02, rel=0.03)
        assert np.abs(released[path]).max() > 0.06 > 0.0401 > np.abs(cut[path]).max()


def test_the_teacher_follows_on_a_line():
    """The share kept goes from .9998 to .99999 over 100,000 updates; .999895 halfway."""
    method = EAT()
    new, old = (
        {"trunk": {"w": jnp.ones(3)}, "decoder": {"w": jnp.ones(2)}},
        {"trunk": {"w": jnp.zeros(3)}},
    )
    assert set(method.init_target(new)) == {"trunk"}
    for step, kept in ((0, 0.9998), (50_000, 0.999895), (100_000, 0.99999), (400_000, 0.99999)):
        moved = method.update_target(old, new, None, step)["trunk"]["w"]
        np.testing.assert_allclose(moved, 1 - kept, rtol=1e-3)


def test_clones_share_the_clip_and_nothing_else():
    """Three masks at once are three times one mask; values under a mask reach nobody."""
    cfg, method, params, _, _ = built("eat")
    spec = compiled(method, "with_spectrogram")(clips())["spectrogram"][:2]
    mask = MASKS.inverse_block(jax.random.key(5), 6, cfg.grid, cfg.visible, block=2)
    net, key = applied(cfg), jax.random.key(6)
    special, _ = net(params, spec, mask, key)
    for clone in range(3):
        one = Mask(*(x.reshape(2, 3, -1)[:, clone] for x in mask))
        alone, _ = net(params, spec, one, key)
        np.testing.assert_allclose(special.reshape(2, 3, -1)[:, clone], alone, atol=1e-5)
    masked = np.asarray(one.is_masked).reshape(2, cfg.grid.time, cfg.grid.freq)
    cells = np.repeat(np.repeat(masked, 16, axis=1), 32, axis=2)[..., None]
    poisoned = jnp.where(cells, 1e3, spec)
    np.testing.assert_array_equal(net(params, poisoned, one, key)[0], alone)


@pytest.mark.parametrize(("context", "leaks"), [("full", True), ("masked", False)])
def test_masked_context_keeps_the_student_from_peeping(context, leaks):
    cfg = replace(CONFIGS["aasp"], aape__context=context).bind(CLIP)
    _, _, params, _, _ = built("aasp")
    spec = jnp.asarray(np.random.default_rng(0).normal(size=(1, 128, 128, 1)), jnp.float32)
    mask = MASKS.inverse_block(jax.random.key(0), 2, cfg.grid, cfg.visible, block=2)
    params = param_paths.map_paths(
        lambda path, x: jnp.full_like(x, 0.3) if path.endswith("fuse/linear/kernel") else x,
        params["trunk"],
    )
    pull = jnp.asarray(np.random.default_rng(1).normal(size=16), jnp.float32)
    net = cfg.trunk

    @jax.jit
    @jax.grad
    def pulled(spec):
        forward = functools.partial(encode_visible, spec=spec, mask=mask)
        return net.apply({"params": params}, method=forward)[0][0, 0] @ pull

    grad = pulled(spec)
    masked = np.asarray(mask.is_masked)[0].reshape(cfg.grid.time, cfg.grid.freq)
    cells = np.repeat(np.repeat(masked, 16, axis=0), 32, axis=1)
    energy = np.square(np.asarray(grad))[0, ..., 0]
    assert energy[~cells].sum() > 0
    assert (energy[cells].sum() > 0) == leaks


def test_contrast_counts_from_its_floor():
    """Three equal views of every clip are worth log(12 - 1) - log(2)."""
    _, _, params, target, loss = built("aasp")
    params = {**params, "project": jax.tree.map(jnp.zeros_like, params["project"])}
    params["project"]["out"]["bias"] = jnp.ones(8)
    found = means(loss(params, target, clips(), Streams(jax.random.key(1)), 0).metrics)
    assert found["contrast"] == pytest.approx(np.log(11) - np.log(2), rel=1e-4)
    whole = found["frame"] + 10 * found["utterance"] + 0.1 * found["contrast"]
    assert found["loss"] == pytest.approx(whole, rel=1e-5)


def test_rows_that_fill_up_do_not_count():
    _, _, params, target, loss = built("aasp")
    batch = {**clips(), "_mask": jnp.array([1.0, 1, 1, 0])}
    poisoned = {**batch, "audio": batch["audio"].at[3].set(0.9)}
    one, two = (loss(params, target, b, Streams(jax.random.key(1)), 0) for b in (batch, poisoned))
    assert one.metrics["loss"][1] == 3
    np.testing.assert_allclose(one.value, two.value, rtol=1e-5)


def test_collapse_shows_in_the_log():
    """A teacher that says the same of everything falls below the thresholds; a fresh one does
    not."""
    _, method, params, target, loss = built("eat")
    fresh = means(loss(params, target, clips(), Streams(jax.random.key(1)), 0).all_metrics)
    least = method.collapse_thresholds
    assert set(least) == {"target_std", "pred_std", "rankme"}
    assert all(fresh[name] > value for name, value in least.items())
    dead = jax.tree.map(jnp.zeros_like, target)
    found = means(loss(params, dead, clips(), Streams(jax.random.key(1)), 0).all_metrics)
    assert found["target_std"] < least["target_std"] and found["rankme"] < least["rankme"]


@pytest.mark.parametrize("name", CONFIGS)
def test_features_and_mask_for_the_report(name):
    cfg, method, params, _, _ = built(name)
    found = compiled(method, "encode")(params, clips())
    assert found.tokens.shape == (4, cfg.grid.size, 16)
    assert found.layers is not None and found.layers.shape[0] == 2
    np.testing.assert_allclose(found.layers[-1], found.tokens, atol=1e-5)
    shown = compiled(method, "reconstruct")(params, clips(), Streams(jax.random.key(0)))
    assert shown.reconstruction is None
    share = np.asarray(shown.masked).mean(axis=(1, 2))
    np.testing.assert_allclose(share, 1 - cfg.visible / cfg.grid.size, atol=1e-6)


def learnt(cfg, spec=CLIP):
    """Loss of a method without a teacher, its gradient by path, and the clip vectors."""
    method = cfg.bind(spec)
    batch = fake_batch(spec, 2)

    @jax.jit
    def run(key):
        def loss(params):
            return method.loss(params, {}, batch, Streams(key), 0).value

        params = method.init(key)
        return *jax.value_and_grad(loss)(params), method.encode(params, batch).clip

    value, grads, clip = run(jax.random.key(0))
    return value, param_paths.flatten(grads), clip


def test_the_branch_goes_into_ssast():
    cfg = SSAST(encoder=ViT(width=16, depth=1, heads=2), patch=(16, 32), embed="aape", aape=STEM)
    value, grads, clip = learnt(cfg)
    assert np.isfinite(value) and np.isfinite(clip).all()
    assert np.abs(grads["trunk/alias/fuse/linear/kernel"][16:]).max() > 0


def test_the_branch_goes_into_an_autoencoder_of_sensors():
    spec = DataSpec((SignalSpec("acc", 50, 512, 3, (0.1,) * 3, (1.0,) * 3),))
    cfg = MAE(
        encoder=ViT(width=16, depth=1, heads=2),
        decoder=ViT(width=8, depth=1, heads=2),
        patch_frames=4,
        patch_bins=(4,),
        embed="aape",
        aape=replace(STEM, taps=5, high_pass=5),
    )
    value, grads, clip = learnt(cfg, spec)
    assert np.isfinite(value) and np.isfinite(clip).all()
    assert np.abs(grads["trunk/patch_embed/alias_acc/fuse/linear/kernel"][16:]).max() > 0
    with pytest.raises(InputError, match="patches of one frame alias nothing"):
        replace(cfg, patch_frames=1).bind(spec)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask_ratio": 1.0}, "EAT.mask_ratio"),
        ({"mask_ratio": 0.99}, "leaves 0 visible"),
        ({"clones": 0}, "EAT.clones"),
        ({"encoder": ConvNeXt(width=16), "special_tokens": 0}, "method.encoder: must be a ViT"),
        ({"special_tokens": 0}, "method.special_tokens"),
        ({"target_layers": 3}, "method.target_layers: must be 2 or less"),
        ({"stride": (8, 16)}, "must not overlap"),
        ({"ema": (1.0, 0.9)}, "EAT.ema"),
        ({"encoder": ViT(width=18, depth=2, heads=2)}, "multiple of 4"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(InputError, match=message):
        replace(SMALL, **change).bind(CLIP)


def test_contrast_needs_two_views():
    assert replace(FULL, clones=1, contrast_weight=0.0).clones == 1
    with pytest.raises(InputError, match=r"method.clones: contrast compares"):
        replace(FULL, clones=1)
