"""Updates against float64 arithmetic done by hand, rules by path, optimisers of optax by name."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend.core import Literal

from jfreq import param_paths
from jfreq.config import Optim, ParamGroup
from jfreq.method import encoder_params, window_spec
from jfreq.methods import AST, SSAST, BEATs, Classify, Data2Vec
from jfreq.nn.bias import ALiBi
from jfreq.nn.vit import ViT
from jfreq.train import optimizer
from jfreq.types import DataSpec, InputError, SignalSpec

SHAPES = {
    "backbone/trunk/patch_embed/kernel": (6, 4),
    "backbone/trunk/patch_embed/bias": (4,),
    "backbone/trunk/positions/grid": (2, 3, 4),
    "backbone/trunk/special_tokens": (2, 4),
    "backbone/trunk/encoder/blocks/norm1/scale": (3, 4),
    "backbone/trunk/encoder/blocks/qkv/kernel": (3, 4, 3, 2, 2),
    "backbone/trunk/encoder/norm/scale": (4,),
    "head/linear/kernel": (4, 5),
    "head/linear/bias": (5,),
}
EARLY = ("patch_embed", "positions", "special_tokens")
BLOCKS = "backbone/trunk/encoder/blocks/"


@pytest.fixture
def rng():
    return np.random.default_rng()


def tree(rng, scale=1.0):
    draw = {k: (scale * rng.normal(size=s)).astype(np.float32) for k, s in SHAPES.items()}
    return param_paths.unflatten(draw)


def steps_of(cfg, params, grads, *, steps=10):
    """Parameters after one update per gradient, as training applies them."""
    optimiser = optimizer.make(cfg, steps=steps, params=params)
    update = jax.jit(optimiser.update)
    state = optimiser.init(params)
    for grad in grads:
        updates, state = update(grad, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    return param_paths.flatten(jax.device_get(params))


# ------------------------------------------------------------------ updates


def adam_by_hand(cfg, params, grads, rates):
    """Kingma and Ba (algorithm 1) with decoupled or L2 decay on kernels, float64."""
    params = {k: v.astype(np.float64) for k, v in param_paths.flatten(params).items()}
    mean = {k: np.zeros_like(v) for k, v in params.items()}
    square = {k: np.zeros_like(v) for k, v in params.items()}
    for t, (grad, rate) in enumerate(zip(grads, rates), start=1):
        for k, g in param_paths.flatten(grad).items():
            decay = cfg.weight_decay * params[k] * k.endswith("/kernel")
            g = g.astype(np.float64) + (decay if cfg.kind == "adam_l2" else 0.0)
            mean[k] = cfg.b1 * mean[k] + (1 - cfg.b1) * g
            square[k] = cfg.b2 * square[k] + (1 - cfg.b2) * g**2
            step = mean[k] / (1 - cfg.b1**t) / (np.sqrt(square[k] / (1 - cfg.b2**t)) + cfg.eps)
            params[k] = params[k] - rate * (step + (decay if cfg.kind == "adamw" else 0.0))
    return params


@pytest.mark.parametrize("kind", ["adamw", "adam_l2"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_adam_by_hand(rng, kind, weight_decay):
    cfg = Optim(
        lr=0.02,
        schedule="constant",
        kind=kind,
        weight_decay=weight_decay,
        b1=0.8,
        b2=0.95,
        eps=1e-3,
    )
    params, grads = tree(rng), [tree(rng, 0.1) for _ in range(3)]
    found = steps_of(cfg, params, grads)
    expected = adam_by_hand(cfg, params, grads, [0.02] * 3)
    for path in SHAPES:
        np.testing.assert_allclose(found[path], expected[path], rtol=1e-5, atol=1e-6, err_msg=path)


@pytest.mark.parametrize("size", [0.5, 1e-3])
def test_clip_scales_all_gradients_together(rng, size):
    """With a huge epsilon Adam is linear, so the first step shows the clipped gradient."""
    cfg = Optim(lr=1.0, schedule="constant", clip=0.2, eps=1e6)
    params, grad = tree(rng), tree(rng)
    norm = np.sqrt(sum(np.square(g).sum() for g in jax.tree.leaves(grad)))
    grad = jax.tree.map(lambda g: g * np.float32(size / norm), grad)
    zero = jax.tree.map(np.zeros_like, params)
    found = steps_of(cfg, zero, [grad])
    factor = min(1.0, 0.2 / size)
    for path, g in param_paths.flatten(grad).items():
        np.testing.assert_allclose(-1e6 * found[path], g * factor, rtol=1e-4, atol=1e-6)


def test_first_moment_in_bfloat16(rng):
    params = tree(rng)
    state = jax.eval_shape(
        optimizer.make(Optim(mu_dtype="bfloat16"), steps=5, params=params).init, params
    )
    kinds = {
        path.split("/")[1]: leaf.dtype
        for path, leaf in param_paths.flatten(state).items()
        if "head/linear/kernel" in path
    }
    assert kinds == {"mu": jnp.bfloat16, "nu": jnp.float32}


# ------------------------------------------------------------------ rules by path


def test_only_kernels_decay_by_default(rng):
    mask = param_paths.flatten(optimizer.decay_mask(Optim(), tree(rng)))
    assert {path for path, decays in mask.items() if decays} == {
        "backbone/trunk/patch_embed/kernel",
        "backbone/trunk/encoder/blocks/qkv/kernel",
        "head/linear/kernel",
    }
    everything = optimizer.decay_mask(Optim(decay=(".*",)), tree(rng))
    assert all(jax.tree.leaves(everything))


def test_zero_rate_freezes_and_first_match_wins(rng):
    """A factor scales every move of a parameter; decay does not feed back into biases."""
    multiply = ((r"patch_embed/bias", 0.5), (r"backbone/.*", 0.0), (r".*bias", 3.0))
    cfg = Optim(lr=0.1, schedule="constant", weight_decay=0.1)
    params, grads = tree(rng), [tree(rng) for _ in range(2)]
    full = steps_of(cfg, params, grads)
    found = steps_of(dataclasses.replace(cfg, lr_mult=multiply), params, grads)
    factors = {
        "backbone/trunk/patch_embed/bias": 0.5,
        "head/linear/kernel": 1.0,
        "head/linear/bias": 3.0,
    }
    for path, start in param_paths.flatten(params).items():
        if path in factors:
            move = factors[path] * (full[path] - start)
            np.testing.assert_allclose(found[path] - start, move, rtol=1e-4, atol=1e-6)
        else:
            np.testing.assert_array_equal(found[path], start)


def test_layer_decay(rng):
    """BEiT's rule: embeddings fall most, block l of 3 by decay**(3 - l), head and norm not."""
    cfg = Optim(layer_decay=0.75, lr_mult=((r"head/linear/bias", 2.0),))
    factors = param_paths.flatten(optimizer.rate_multipliers(cfg, tree(rng)))
    for path, factor in factors.items():
        shape = SHAPES[path]
        if path.startswith(BLOCKS):
            assert factor.shape == (3,) + (1,) * (len(shape) - 1)
            np.testing.assert_allclose(factor.ravel(), [0.75**3, 0.75**2, 0.75], rtol=1e-6)
        elif path.split("/")[2:] and path.split("/")[2] in EARLY:
            assert factor == pytest.approx(0.75**4)
        else:
            assert factor == (2.0 if path == "head/linear/bias" else 1.0)


def test_layer_decay_of_blocks_alone(rng):
    """EAT's rule: block l of 3 by decay**(3 - l), and nothing else."""
    cfg = Optim(layer_decay=0.65, layer_decay_of="blocks")
    for path, factor in param_paths.flatten(optimizer.rate_multipliers(cfg, tree(rng))).items():
        blocks = path.startswith(BLOCKS)
        wanted = [0.65**3, 0.65**2, 0.65] if blocks else [1.0]
        np.testing.assert_allclose(np.ravel(factor), wanted, rtol=1e-6)


NET = ViT(width=16, depth=2, heads=2)
POST = dataclasses.replace(NET, norm="post", bias=ALiBi())
CLASSES = DataSpec((SignalSpec("audio", 16000, 20720),), labels=("a", "b"))
STEMS = {
    "AST": AST(encoder=NET),
    "branch": SSAST(encoder=NET, embed="aape", registers=1),
    "BEATs": BEATs(encoder=POST, predictor=NET),
    "data2vec": Classify(backbone=Data2Vec(encoder=POST, target_layers=2)),
    "data2vec, pre": Data2Vec(encoder=dataclasses.replace(NET, bias=ALiBi()), target_layers=2),
}


def before_the_first_block(method, params):
    """Paths of the parameters that the input of the trunk's stack of blocks depends on, as the
    program of ``encode`` has it."""
    blocks = "trunk/encoder/blocks/", "context/encoder/blocks/"
    program = jax.make_jaxpr(method.encode)(params, window_spec(method.signals)).jaxpr
    reached = {var: {path} for var, path in zip(program.invars, param_paths.flatten(params))}
    found = set()
    for equation in program.eqns:
        given = [reached.get(v, set()) for v in equation.invars if not isinstance(v, Literal)]
        every = set().union(*given)
        stack = {p for p in every if any(f"/{block}" in f"/{p}" for block in blocks)}
        if equation.primitive.name == "scan" and stack:
            found = every - stack
            break
        reached.update(dict.fromkeys(equation.outvars, every))
    return found


@pytest.mark.parametrize("name", STEMS)
def test_a_method_says_what_comes_before_its_first_block(name):
    """All of it falls as the embedding does, and of what ``encode`` reads nothing else."""
    method = STEMS[name].bind(CLASSES)
    params = jax.eval_shape(method.init, jax.random.key(0))
    expected = before_the_first_block(method, params)
    cfg = Optim(layer_decay=0.5)
    factors = param_paths.flatten(optimizer.rate_multipliers(cfg, params, method.stem))
    read = param_paths.flatten(encoder_params(method, params))
    assert {path for path in read if np.all(factors[path] == 0.5**3)} == expected != set()


def test_layer_decay_moves_parameters_by_its_factors(rng):
    params, grad = tree(rng), tree(rng)
    plain = steps_of(Optim(lr=0.1, schedule="constant"), params, [grad])
    slow = steps_of(Optim(lr=0.1, schedule="constant", layer_decay=0.5), params, [grad])
    path = BLOCKS + "qkv/kernel"
    start = param_paths.flatten(params)[path]
    for block, factor in enumerate((0.125, 0.25, 0.5)):
        np.testing.assert_allclose(
            slow[path][block] - start[block],
            factor * (plain[path][block] - start[block]),
            rtol=1e-4,
            atol=1e-6,
        )


@pytest.mark.parametrize(
    ("cfg", "field"),
    [
        (Optim(groups=(ParamGroup("hed/.*", lr=1.0),)), "optim.groups"),
        (Optim(lr_mult=(("hed/.*", 0.0),)), "optim.lr_mult"),
        (Optim(weight_decay=0.1, decay=(".*/kernel", "kernels")), "optim.decay"),
    ],
)
def test_a_pattern_that_matches_nothing_is_an_error(rng, cfg, field):
    with pytest.raises(InputError, match=rf"{field}: '.*' matches no parameter"):
        optimizer.make(cfg, steps=5, params=tree(rng))


# ------------------------------------------------------------------ optax by name


def moved(optimiser, params, grads):
    """Parameters after one update per gradient of an optimiser that is made here."""
    update, state = jax.jit(optimiser.update), optimiser.init(params)
    for grad in grads:
        updates, state = update(grad, state, params)
        params = optax.apply_updates(params, updates)
    return param_paths.flatten(jax.device_get(params))


def kernels(params):
    return param_paths.map_paths(lambda path, _: path.endswith("/kernel"), params)


def assert_same(found, expected, rtol=1e-5):
    for path, value in expected.items():
        np.testing.assert_allclose(found[path], value, rtol=rtol, atol=1e-6, err_msg=path)


def test_lion_gets_schedule_mask_clip_and_factors(rng):
    """It takes decay and mask itself; a factor scales the update that optax makes."""
    params, grads = tree(rng), [tree(rng) for _ in range(3)]
    cfg = Optim(kind="optax.lion", lr=0.02, warmup=2, weight_decay=0.3, b2=0.9, clip=0.5)
    lion = optax.lion(optimizer.schedule(cfg, 10), b2=0.9, weight_decay=0.3, mask=kernels)
    by_hand = moved(optax.chain(optax.clip_by_global_norm(0.5), lion), params, grads)
    assert_same(steps_of(cfg, params, grads), by_hand)
    slow = dataclasses.replace(cfg, layer_decay=0.5, lr_mult=((".*/bias", 0.0),), warmup=0)
    found = steps_of(slow, params, grads[:1])
    full = steps_of(dataclasses.replace(cfg, warmup=0), params, grads[:1])
    factors = param_paths.flatten(optimizer.rate_multipliers(slow, params))
    for path, start in param_paths.flatten(params).items():
        move = factors[path] * (full[path] - start)
        np.testing.assert_allclose(found[path] - start, move, rtol=1e-4, atol=1e-6, err_msg=path)


def test_decay_beside_an_optimiser_that_has_none(rng):
    """Nesterov's momentum, and kernels that shrink by the rate times the decay."""
    options = (("momentum", 0.9), ("nesterov", True))
    cfg = Optim(kind="optax.sgd", options=options, lr=0.1, weight_decay=0.2)
    params, grads = tree(rng), [tree(rng) for _ in range(3)]
    rate = optimizer.schedule(cfg, 10)
    now, trace = param_paths.flatten(params), dict.fromkeys(SHAPES, 0.0)
    for step, grad in enumerate(grads):
        for path, g in param_paths.flatten(grad).items():
            trace[path] = g + 0.9 * trace[path]
            decay = 0.2 * now[path] * path.endswith("/kernel")
            now[path] = now[path] - np.asarray(rate(step)) * (g + 0.9 * trace[path] + decay)
    assert_same(steps_of(cfg, params, grads), now)


def test_muon_takes_every_matrix_of_a_stack(rng):
    """Queries, keys and values of each block by themselves, Adam for what is no matrix."""
    params, grads = tree(rng), [tree(rng) for _ in range(2)]
    path, cfg = BLOCKS + "qkv/kernel", Optim(kind="optax.contrib.muon", lr=0.1, eps=1e-6)
    found = steps_of(cfg, params, grads)
    muon = optax.contrib.muon(optimizer.schedule(cfg, 10), eps=1e-6)

    def parted(leaf):
        return {f"{b}{i}": leaf[b, :, i].reshape(4, 4) for b in range(3) for i in range(3)}

    by_hand = moved(
        muon,
        *jax.tree.map(
            parted,
            [param_paths.flatten(params)[path], [param_paths.flatten(g)[path] for g in grads]],
        ),
    )
    assert_same(parted(found[path]), by_hand, rtol=1e-3)
    adam = optax.adam(optimizer.schedule(cfg, 10), eps=1e-6, nesterov=True)
    patches = "backbone/trunk/patch_embed/kernel"
    start, *steps = ({patches: param_paths.flatten(t)[patches]} for t in (params, *grads))
    assert_same(found, moved(adam, start, steps))


@pytest.mark.parametrize("kind", ["adamw", "optax.adamw"])
def test_groups_have_optimisers_of_their_own(rng, kind):
    """The first group that matches takes a parameter; the others follow the common schedule."""
    groups = (
        ParamGroup(r"head/linear/bias", lr=0.5, schedule="constant"),
        ParamGroup(r"head/.*", lr=0.2, warmup=3, weight_decay=0.0),
    )
    cfg = Optim(kind=kind, lr=0.1, weight_decay=0.3, groups=groups, lr_mult=((".*/scale", 2.0),))
    params, grads = tree(rng), [tree(rng) for _ in range(4)]
    found = steps_of(cfg, params, grads)
    chains = {
        "common": optax.adamw(optax.cosine_decay_schedule(0.1, 10), weight_decay=0.3, mask=kernels),
        "bias": optax.adamw(0.5, weight_decay=0.0),
        "head": optax.adamw(
            optax.join_schedules(
                [optax.linear_schedule(0.0, 0.2, 3), optax.cosine_decay_schedule(0.2, 7)], [3]
            ),
            weight_decay=0.0,
        ),
    }
    members = {"bias": ["head/linear/bias"], "head": ["head/linear/kernel"]}
    members["common"] = [path for path in SHAPES if not path.startswith("head/")]
    for name, paths in members.items():
        alone = [{path: param_paths.flatten(t)[path] for path in paths} for t in (params, *grads)]
        for path, end in moved(chains[name], alone[0], alone[1:]).items():
            move = (2.0 if path.endswith("scale") else 1.0) * (end - alone[0][path])
            now = found[path] - alone[0][path]
            np.testing.assert_allclose(now, move, rtol=1e-4, atol=1e-6, err_msg=path)
    cosine = 0.1 * 0.5 * (1 + np.cos(np.pi / 10))
    expected = {"lr": cosine, "lr/head/linear/bias": 0.5, "lr/head/.*": 0.2 / 3}
    rates = {name: float(rate(1, {})) for name, rate in optimizer.rates(cfg, 10).items()}
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "adamv"}, r"optim.kind: must be adamw, adam_l2 or .*did you mean 'adamw'"),
        ({"kind": "optax.lino"}, r"optim.kind: no optimiser .*did you mean 'optax.lion'"),
        ({"kind": "optax.lbfgs"}, r"optim.kind: optax.lbfgs cannot be used"),
        ({"kind": "optax.sgd", "b1": 0.5}, r"optim.b1: optax.sgd has no b1"),
        ({"kind": "optax.sgd", "options": (("momentun", 0.9),)}, r"options: .*mean 'momentum'"),
        ({"kind": "optax.sgd", "options": (("nesterov", 1),)}, r"nesterov must be True or False"),
        ({"kind": "optax.adafactor", "options": (("decay_rate", "x"),)}, "must be a number"),
        ({"options": (("learning_rate", 0.1),)}, r"learning_rate is set by optim.lr"),
        ({"options": (("eps_root", 0.1), ("eps_root", 0.2))}, "options: 'eps_root': given twice"),
    ],
)
def test_an_optimiser_that_cannot_be_made(rng, fields, message):
    with pytest.raises(InputError, match=message) as error:
        optimizer.make(Optim(**fields), steps=5, params=tree(rng))
    assert "\n" not in str(error.value)


def test_shapes_are_enough(rng):
    """The chain can be planned on abstract parameters."""
    cfg = Optim(weight_decay=0.1, clip=1.0, layer_decay=0.9)
    params = tree(rng)
    shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
    optimiser = optimizer.make(cfg, steps=5, params=shapes)
    updates, _ = jax.eval_shape(optimiser.update, shapes, optimiser.init(params), shapes)
    same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), updates, shapes)
    assert all(jax.tree.leaves(same))
