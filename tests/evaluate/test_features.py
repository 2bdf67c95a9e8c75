"""Features against numpy on a method whose tokens are the signal itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jfreq import methods, recipes
from jfreq.evaluate.features import (
    cached,
    extract,
    feature_key,
    params_hash,
    pooled,
    spectrogram_statistics,
)
from jfreq.method import Method
from jfreq.types import DataSpec, Features, InputError, SignalSpec, TokenGrid

FREQ, TIME, GAIN = 2, 4, 3.0
PARAMS = {"gain": np.float32(GAIN)}


@pytest.fixture(scope="module")
def data(make_shards):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(11, FREQ * TIME, 3)).astype(np.float32)
    length = rng.integers(2, FREQ * TIME + 1, 11).astype(np.int32)
    fold = np.arange(11) % 3 + 1
    label = rng.integers(0, 2, 11)
    return make_shards(x, label, labels=("a", "b"), length=length, fold=fold)


def valid_tokens(data, row):
    """``[time freq d]`` of the tokens whose centre lies inside the row's signal."""
    tokens = GAIN * data._x[row].reshape(TIME, FREQ, 3)
    count = int((data._length[row] - FREQ / 2) // FREQ) + 1
    return tokens[:count]


POOLS = {
    "clip": lambda t: t.reshape(-1, 3).mean(0),
    "mean": lambda t: t.reshape(-1, 3).mean(0),
    "freq": lambda t: t.mean(0).ravel(),
    "mean_std": lambda t: np.concatenate([t.reshape(-1, 3).mean(0), t.reshape(-1, 3).std(0)]),
}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("layer", [None, 1, -1])
def test_pools_by_hand(data, make_patches, pool, layer):
    rows = np.array([7, 0, 3, 10, 4])
    seen = []
    found = extract(
        make_patches(),
        PARAMS,
        data,
        rows,
        batch=2,
        pool=pool,
        layer=layer,
        progress=lambda *state: seen.append(state),
    )
    gain = {None: 1, 1: 2, -1: 3}[layer]
    wanted = np.stack([POOLS[pool](gain * valid_tokens(data, row)) for row in rows])
    np.testing.assert_allclose(found.x, wanted, atol=1e-5)
    np.testing.assert_array_equal(found.id, rows)
    np.testing.assert_array_equal(found.label, data.column("label")[rows])
    np.testing.assert_array_equal(found.fold, data.column("fold")[rows])
    assert seen == [(2, 5), (4, 5), (5, 5)]
    assert found.x.dtype == np.float32


def test_time_major_pools_alike():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, FREQ, TIME, 3)).astype(np.float32)
    valid = np.broadcast_to(np.arange(TIME) < 3, (2, FREQ, TIME))
    outs = []
    for order in ("freq_major", "time_major"):
        swap = (lambda a: a) if order == "freq_major" else (lambda a: a.swapaxes(1, 2))
        flat, mask = swap(x).reshape(2, -1, 3), swap(valid).reshape(2, -1)
        flat, mask = jnp.asarray(flat), jnp.asarray(mask)
        features = Features(flat, TokenGrid(TIME, FREQ, order), flat[:, 0], mask)
        outs.append([pooled(features, pool) for pool in ("freq", "mean_std")])
    np.testing.assert_allclose(outs[0][0], outs[1][0])
    np.testing.assert_allclose(outs[0][1], outs[1][1], atol=1e-6)


def test_compiled_once_and_batch_size_does_not_matter(data):
    traces = []

    class Mean(Method):
        def encode(self, params, batch):
            traces.append(1)
            x = batch["x"].mean(1)
            return Features(x[:, None], TokenGrid(1), x, jnp.ones((len(x), 1), bool))

    method = Mean()
    first = extract(method, {}, data, np.arange(11), batch=4)
    assert len(traces) == 1
    np.testing.assert_allclose(extract(method, {}, data, np.arange(11), batch=32).x, first.x)


def test_refusals(data, make_patches):
    method = make_patches()
    rows = np.arange(11)
    with pytest.raises(InputError, match="no rows"):
        extract(method, PARAMS, data, rows[:0])
    with pytest.raises(InputError, match="did you mean 'mean_std'"):
        extract(method, PARAMS, data, rows, pool="meanstd")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="0 to 2"):
        extract(method, PARAMS, data, rows, layer=3)
    with pytest.raises(InputError, match="batch"):
        extract(method, PARAMS, data, rows, batch=0)
    with pytest.raises(InputError, match="row 0 and 10 more are not finite"):
        extract(method, {"gain": np.float32(np.nan)}, data, rows)


def test_cache_is_hit_only_by_the_same_key(data, make_patches, tmp_path):
    rows = np.arange(11)

    def run(params, pool, rows=rows, config="c"):
        key = feature_key(config, params, data, rows, pool=pool)
        return cached(tmp_path, key, lambda: extract(make_patches(), params, data, rows, pool=pool))

    first = run(PARAMS, "clip")
    reads = data.reads
    again = run(PARAMS, "clip")
    assert data.reads == reads
    for a, b in zip(first, again):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    run({"gain": np.float32(2)}, "clip")
    run(PARAMS, "mean")
    run(PARAMS, "clip", rows[::-1])
    run(PARAMS, "clip", config="other")
    assert len(list(tmp_path.iterdir())) == 5
    assert data.reads > reads
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:100])
    np.testing.assert_array_equal(run(PARAMS, "clip").x, first.x)


def test_params_hash_sees_names_shapes_types_and_values():
    trees = [
        {"a": np.zeros(4, np.float32)},
        {"b": np.zeros(4, np.float32)},
        {"a": np.zeros((2, 2), np.float32)},
        {"a": np.zeros(4, np.int32)},
        {"a": np.array([0, 0, 0, 1e-30], np.float32)},
        {"a": {"a": np.zeros(4, np.float32)}},
    ]
    assert len({params_hash(tree) for tree in trees}) == len(trees)
    assert params_hash(trees[0]) == params_hash({"a": jnp.zeros(4)})


def test_spectrogram_statistics_of_the_real_front_end(make_shards):
    """Padding is left out: only frames that lie wholly inside a row's signal count."""
    spec = DataSpec((SignalSpec("x", 16000.0, 16000),))
    method = methods.bind(recipes.load("ssast_nano"), spec).method
    rng = np.random.default_rng(2)
    x = rng.integers(-20000, 20000, (3, 16000, 1)).astype(np.int16)
    length = np.array([16000, 8000, 4321], np.int32)
    for row, n in zip(x, length):
        row[n:] = 0
    x[0, 3000:6000] = 0  # digital silence is signal
    shards = make_shards(x, np.zeros(3, int), labels=("a",), rate=16000.0, length=length)
    found = spectrogram_statistics(method, shards, np.arange(3), batch=2)
    assert found.x.shape == (3, 2 * 128)
    out = method.with_spectrogram({"x": jnp.asarray(x), "length": jnp.asarray(length)})
    for row, spectrogram, n in zip(found.x, np.asarray(out["spectrogram"]), length):
        inside = spectrogram[: 1 + (n - 400) // 160, :, 0]
        np.testing.assert_allclose(row[:128], inside.mean(0), atol=1e-5)
        np.testing.assert_allclose(row[128:], inside.std(0), atol=1e-4)


def test_statistics_without_a_front_end_follow_the_tone(make_shards, make_patches):
    t = np.arange(256) / 100
    tones = [np.sin(2 * np.pi * f * t)[:, None] for f in (100 * 4 / 32, 100 * 10 / 32)]
    shards = make_shards(np.stack(tones).astype(np.float32), np.zeros(2, int), labels=("a",))
    found = spectrogram_statistics(make_patches(), shards, np.arange(2))
    assert found.x.shape == (2, 2 * 17)
    np.testing.assert_array_equal(found.x[:, :17].argmax(1), [4, 10])


def test_real_method_and_its_clip_vector(make_shards):
    """They are the same in windows whose patches all lie in the signal: 128 frames."""
    spec = DataSpec((SignalSpec("x", 16000.0, 20720),))
    method = methods.bind(recipes.load("ssast_nano"), spec).method
    shapes = jax.eval_shape(method.init, jax.random.key(0))
    rng = np.random.default_rng(3)
    params = jax.tree.map(lambda s: np.float32(0.05 * rng.normal(size=s.shape)), shapes)
    x = rng.normal(size=(3, 20720, 1)).astype(np.float32)
    shards = make_shards(x, np.zeros(3, int), labels=("a",), rate=16000.0)
    clip, mean = (
        extract(method, params, shards, np.arange(3), batch=2, pool=pool).x
        for pool in ("clip", "mean")
    )
    assert clip.shape == (3, 96)
    np.testing.assert_allclose(clip, mean, atol=1e-5)
