"""FOCAL: the whole loss against float64, its symmetries and closed forms, absent sensors."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq import param_paths, recipes, sharding
from jfreq.augment import Views
from jfreq.config import Data, Experiment, replace
from jfreq.method import Streams
from jfreq.methods.focal import FOCAL, terms
from jfreq.nn.deepsense_stft import DeepSenseSTFT
from jfreq.nn.swin import Swin
from jfreq.testing import compiled, fake_batch, loss_and_grad
from jfreq.train import plan
from jfreq.train.optimizer import rate_multipliers
from jfreq.types import DataSpec, InputError, SignalSpec

MEAN_STD = (0.0,), (0.1,)
SENSORS = DataSpec(
    (SignalSpec("seismic", 50.0, 64, 1, *MEAN_STD), SignalSpec("audio", 100.0, 128, 1, *MEAN_STD))
)
SMALL = DeepSenseSTFT(width=8, blocks=1, hidden=4, dropout=0.0)
FEW = Views(time=("flip", "scale"), frequency=("shift",))
SAME = Views(time=(), frequency=())
TINY = Swin(width=4, depths=(1, 1), heads=1, window=(2, 2), shift=(1, 1))
FIELDS = {"encoder": SMALL, "views": SAME, "embedding": 8, "projection": (8, 6), "sequence": 2}


def made(**fields):
    """Parameters of the shapes of ``init``, without compiling it."""
    method, rng = FOCAL(**{**FIELDS, **fields}).bind(SENSORS), np.random.default_rng(0)
    shapes = jax.eval_shape(method.init, jax.random.key(0))
    params = jax.tree.map(lambda s: rng.normal(0, 0.3, s.shape).astype(np.float32), shapes)
    return method, params


def ratio(metrics):
    return {k: float(a / b) for k, (a, b) in metrics.items()}


# ------------------------------------------------------------------ the loss by definition


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def contrast(a, b, rows, q, temperature):
    """Both directions of every pair, one anchor at a time; None for rows that do not count."""
    out: list[Any] = [None] * len(a)
    for i in np.flatnonzero(rows):
        peers = [j for j in np.flatnonzero(rows) if j % q == i % q]
        found = []
        for anchor, other in ((a, b), (b, a)):
            own = cosine(anchor[i], other[i]) / temperature
            rest = [cosine(anchor[i], other[j]) for j in peers]
            rest += [cosine(anchor[i], anchor[j]) for j in peers if j != i]
            found.append(np.log(np.exp(np.array(rest) / temperature).sum()) - own)
        out[i] = np.mean(found)
    return out


def order(z, rows, q, margin):
    def mean(i, j):
        pairs = itertools.product(range(i * q, i * q + q), range(j * q, j * q + q))
        found = [np.linalg.norm(z[a] - z[b]) for a, b in pairs if a != b and rows[a] and rows[b]]
        return np.mean(found) if found else None

    out: list[Any] = [None] * len(z)
    runs = range(len(z) // q)
    for i in runs:
        own = mean(i, i)
        others = [d for d in (mean(i, j) for j in runs if j != i) if d is not None]
        if own is not None and others:
            for row in range(i * q, i * q + q):
                if rows[row]:
                    out[row] = np.mean([max(0, own - d + margin) for d in others])
    return out


def reference(cfg, first, second, present):
    """Float64: the four sums of means over rows, and the loss."""
    half, names = cfg.projection[1] // 2, list(first)

    def mean(values):
        known = [v for v in values if v is not None]
        return np.mean(known) if known else 0.0

    out: dict[str, Any] = dict.fromkeys(("shared", "private", "orthogonality", "temporal"), 0.0)
    for z in (first, second):
        for i, m in enumerate(names):
            shared, private, rows = z[m][:, :half], z[m][:, half:], present[m]
            orthogonal = [max(0, cosine(a, b)) for a, b in zip(shared[rows], private[rows])]
            out["orthogonality"] += mean(orthogonal)
            out["temporal"] += mean(order(z[m], rows, cfg.sequence, cfg.margin))
            for n in names[i + 1 :]:
                both = rows & present[n]
                out["shared"] += mean(
                    contrast(shared, z[n][:, :half], both, cfg.sequence, cfg.temperature)
                )
                out["orthogonality"] += mean(
                    [max(0, cosine(a, b)) for a, b in zip(private[both], z[n][both, half:])]
                )
    for m in names:
        a, b = first[m][:, half:], second[m][:, half:]
        out["private"] += mean(contrast(a, b, present[m], cfg.sequence, cfg.temperature))
    total = sum(getattr(cfg, f"{name}_weight") * value for name, value in out.items())
    return {**out, "loss": total}


def embeddings(rows, names=("a", "b", "c"), width=6, seed=0):
    rng = np.random.default_rng(seed)
    return [{n: rng.normal(size=(rows, width)) for n in names} for _ in range(2)]


@functools.partial(jax.jit, static_argnums=0)
def sums(cfg, first, second, present):
    mask = jnp.ones(len(next(iter(first.values()))))
    return {
        name: term.over_batch(mask).mean(axis=1).sum()
        for name, term in terms(cfg, first, second, present).items()
    }


def summed(cfg, first, second, present):
    """The four sums and the loss from :func:`terms`."""
    as_float = [{n: x.astype(np.float32) for n, x in z.items()} for z in (first, second)]
    out = {name: float(x) for name, x in sums(cfg, *as_float, present).items()}
    total = sum(getattr(cfg, f"{name}_weight") * value for name, value in out.items())
    return {**out, "loss": total}


LOSS = FOCAL(projection=(8, 6), sequence=3, temperature=0.2, margin=0.7)


def everywhere(rows, names=("a", "b", "c")):
    return {n: np.ones(rows, bool) for n in names}


def with_gaps():
    present = everywhere(12)
    present["b"][[0, 3, 4]] = False
    present["c"][[0, 6, 7, 8, 11]] = False
    return present


@pytest.mark.parametrize("present", [everywhere(12), with_gaps()], ids=["whole", "gaps"])
def test_three_sensors_against_float64(present):
    """Weights 1, 1, 3, 5; missing rows take part in no term of their sensor."""
    first, second = embeddings(12)
    found, expected = summed(LOSS, first, second, present), reference(LOSS, first, second, present)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=2e-5), name


def test_what_an_absent_sensor_gives_does_not_matter():
    first, second = embeddings(12)
    base, present = summed(LOSS, first, second, with_gaps()), with_gaps()
    for z in (first, second):
        for n, x in z.items():
            x[~present[n]] *= -7
    assert summed(LOSS, first, second, present) == pytest.approx(base, rel=1e-5)
    nobody = {n: np.zeros(12, bool) for n in present}
    assert not any(summed(LOSS, first, second, nobody).values())


def test_views_swap_and_sub_sequences_change_places():
    """3.f; rows within a sub-sequence may not, unless all sub-sequences do so alike."""
    first, second = embeddings(12)
    base = summed(LOSS, first, second, everywhere(12))
    assert summed(LOSS, second, first, everywhere(12)) == pytest.approx(base, rel=1e-5)

    def moved(rows):
        one, other = ({n: x[rows] for n, x in z.items()} for z in (first, second))
        return summed(LOSS, one, other, everywhere(12))

    runs = np.arange(12).reshape(4, 3)
    assert moved(runs[[2, 0, 3, 1]].ravel()) == pytest.approx(base, rel=1e-5)
    assert moved(runs[:, [1, 2, 0]].ravel()) == pytest.approx(base, rel=1e-5)
    alone = runs.copy()
    alone[0] = alone[0, [1, 2, 0]]
    assert moved(alone.ravel())["private"] != pytest.approx(base["private"], rel=1e-3)


def test_identical_embeddings_of_64_sub_sequences():
    """3.f: two sensors, two views: ln 127 twice and twice, 1 for every right angle and order."""
    cfg = FOCAL(projection=(8, 6))
    same = {n: np.ones((256, 6)) for n in "ab"}
    found = summed(cfg, same, same, everywhere(256, "ab"))
    expected = {
        "shared": 2 * np.log(127),
        "private": 2 * np.log(127),
        "orthogonality": 6,
        "temporal": 4,
    }
    expected["loss"] = 4 * np.log(127) + 3 * 6 + 5 * 4
    assert found == pytest.approx(expected, rel=1e-5)


def test_no_order_in_sub_sequences_of_one():
    cfg = replace(LOSS, sequence=1)
    found = jax.eval_shape(functools.partial(terms, cfg), *embeddings(4, "ab"), everywhere(4, "ab"))
    assert set(found) == {"shared", "private", "orthogonality"}


# ------------------------------------------------------------------ the method


def test_loss_is_that_of_the_projections_of_two_views(key):
    """From the batch: the same views by hand; one row has no audio, one only fills up."""
    cfg, params = made(temperature=0.3, views=FEW)
    rngs = Streams(key)
    batch = fake_batch(SENSORS, 8)
    batch["audio"] = batch["audio"].at[2].set(0.0)
    batch["_mask"] = batch["_mask"].at[7].set(0.0)
    value, metrics, *_ = compiled(cfg, "loss")(params, {}, batch, rngs, 0)

    @jax.jit
    def encoded(batch):
        twice = {n: jnp.repeat(x, 2, axis=0) for n, x in batch.items()}
        found = cfg.spectra(twice, views=lambda series: cfg.views(rngs("views"), series))
        return {
            name: cfg.encoder.build().apply(
                {"params": params["encoder"][name]},
                found[name].inputs.reshape(16, *spec.grid.shape, spec.patch_size),
            )
            for name, spec in cfg.specs.items()
        }

    first, second = {}, {}
    for name, states in encoded(batch).items():
        head = jax.tree.map(np.asarray, params["projection"][name])
        hidden = np.asarray(states).mean(1) @ head["hidden"]["kernel"] + head["hidden"]["bias"]
        z = np.maximum(hidden, 0) @ head["out"]["kernel"] + head["out"]["bias"]
        first[name], second[name] = z[::2], z[1::2]
    present = {n: np.arange(8) != 7 for n in cfg.specs}
    present["audio"][2] = False
    expected = reference(cfg, first, second, present)
    assert float(value) == pytest.approx(expected["loss"], rel=1e-3)
    logged = ratio(metrics)
    comparisons = {"shared": 2, "private": 2, "orthogonality": 6, "temporal": 4, "loss": 1}
    for name, count in comparisons.items():
        assert logged[name] == pytest.approx(expected[name] / count, rel=1e-3), name
    assert 0 <= logged["accuracy"] <= 1 and 0 <= logged["collapse"] <= 1


@functools.cache
def small():
    """A method whose two views are alike, and its parameters."""
    return made()


def test_every_parameter_learns_and_equal_views_find_each_other(key):
    found, grads = loss_and_grad(*small(), fake_batch(SENSORS, 16), key)
    still = [
        jax.tree_util.keystr(path)
        for path, g in jax.tree_util.tree_leaves_with_path(grads)
        if not np.abs(g).max() > 0
    ]
    assert not still
    found = ratio(found.metrics)
    assert found["accuracy"] == 1 and found["shared_accuracy"] < 1
    assert 0 <= found["collapse"] < 1


def test_gradients_are_finite_on_equal_rows_and_missing_windows(key):
    """One window over and over, then single silent and broken windows, then nothing at all."""
    batch = fake_batch(SENSORS, 16)
    equal = {n: jnp.broadcast_to(x[:1], x.shape) for n, x in batch.items()}
    gaps = {
        **batch,
        "audio": batch["audio"].at[0].set(0.0).at[1, 3].set(jnp.nan),
        "seismic": batch["seismic"].at[1].set(0.0),
    }
    silent = {**batch, "audio": 0 * batch["audio"], "seismic": 0 * batch["seismic"]}
    for inputs in (equal, gaps, silent):
        found, grads = loss_and_grad(*small(), inputs, key)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves((found.value, grads)))
    assert float(found.value) == 0


@pytest.mark.parametrize("encoder", [SMALL, TINY], ids=["sense", "swin"])
def test_embedding_is_the_vectors_of_all_sensors_before_the_projection(encoder):
    method, params = made(encoder=encoder)
    batch = fake_batch(SENSORS, 3)
    batch["length"] = jnp.array([64, 64, 30])
    encode = compiled(method, "encode")
    found = encode(params, batch)
    assert found.clip.shape == (3, sum(method.branch_widths)) and method.branch_widths == (8, 8)
    assert found.tokens.shape[:2] == found.valid.shape == (3, method.grid.size)
    assert found.valid[0].all() and not found.valid[2].all()
    # A sensor that is missing leaves zeros, and the other one as it was.
    without = encode(params, {**batch, "audio": batch["audio"].at[1].set(jnp.nan)})
    seismic, audio = jnp.split(without.clip, 2, axis=1)
    np.testing.assert_array_equal(seismic, found.clip[:, :8])
    assert not np.asarray(audio[1]).any() and np.asarray(audio[0]).any()


def test_recipes_leave_the_patch_embedding_as_it_was_initialised():
    for name in ("focal_mod", "focal_hapt"):
        _, params = made(encoder=TINY)
        rates = rate_multipliers(recipes.load(name).optim, params)
        for path, rate in param_paths.flatten(rates).items():
            assert rate == (0 if "patch_embed" in path else 1), path


def test_settings_that_cannot_work_are_refused(key):
    method, params = made(sequence=4)
    with pytest.raises(InputError, match="6 rows are not whole sub-sequences of 4"):
        jax.eval_shape(method.loss, params, {}, fake_batch(SENSORS, 6), Streams(key), 0)
    with pytest.raises(InputError, match=r"method\.modalities: FOCAL compares sensors"):
        FOCAL(modalities=("audio",), **FIELDS).bind(SENSORS)
    with pytest.raises(InputError, match=r"method\.projection: the output must be even"):
        FOCAL(projection=(8, 7))
    with pytest.raises(InputError, match=r"FOCAL\.temporal_weight"):
        FOCAL(temporal_weight=-1.0)


def test_data_and_method_agree_on_the_length_of_sub_sequences():
    experiment = Experiment("x", FOCAL(sequence=4), data=Data(sequence=2), batch=8)
    with pytest.raises(InputError, match=r"data\.sequence: is 2, .* sub-sequences of 4 rows"):
        plan.check_batch(experiment, sharding.make_mesh((-1, 1, 1)))
