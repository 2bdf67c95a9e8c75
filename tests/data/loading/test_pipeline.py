import itertools
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import soundfile

from jfreq.config import Data
from jfreq.data.loading import in_memory
from jfreq.data.loading.pipeline import batch_spec, eval_batches, open_pipeline
from jfreq.data.prepare.run import prepare
from jfreq.data.shards.reader import open_shards
from jfreq.types import InputError

BACKENDS = ("memory", "tfdata")


def take(pipeline, start, count):
    return list(itertools.islice(pipeline.iterate(start), count))


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.tf
@pytest.mark.parametrize("crop", [None, 0.1])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_global_batches_are_the_same_for_both_backends_and_any_process_count(machines, count, crop):
    batch = 8

    def open_(backend, p, n):
        return open_pipeline(
            Data(path=(str(machines),), backend=backend, crop_seconds=crop), batch=batch, seed=5,
            process_index=p, process_count=n,
        )  # fmt: skip

    reference = take(open_("memory", 0, 1), 0, 4)
    for backend in BACKENDS:
        parts = [take(open_(backend, p, count), 0, 4) for p in range(count)]
        for step in range(4):
            joined = {
                name: np.concatenate([part[step][name] for part in parts])
                for name in reference[step]
            }
            assert_same(joined, reference[step])


@pytest.mark.tf
@pytest.mark.parametrize("backend", BACKENDS)
def test_resume_from_any_step_is_exact(machines, backend):
    def open_():
        return open_pipeline(Data(path=(str(machines),), backend=backend), batch=5, seed=1)

    straight = take(open_(), 0, 9)
    for start in (1, 4, 8):
        for a, b in zip(straight[start:], take(open_(), start, 9 - start)):
            assert_same(a, b)


@pytest.mark.tf
@pytest.mark.parametrize("backend", BACKENDS)
def test_batches_hold_what_the_records_hold(machines, machine_shards, backend):
    pipeline = open_pipeline(Data(path=(str(machines),), backend=backend), batch=6, seed=2)
    assert pipeline.spec == machine_shards.spec
    assert pipeline.manifest_hash == machine_shards.manifest_hash
    assert pipeline.size == 21
    for step, batch in enumerate(take(pipeline, 0, 3)):
        np.testing.assert_array_equal(batch["id"], pipeline.global_ids(step))
        np.testing.assert_array_equal(batch["_mask"], np.ones(6, np.float32))
        rows = machine_shards.read(batch["id"])
        assert_same({k: v for k, v in batch.items() if k != "_mask"}, rows)
        assert {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in batch.items()} == (
            pipeline.batch_spec
        )


@pytest.mark.tf
def test_several_folders_of_different_windows_through_both_backends(tmp_path, rng):
    for name, samples in (("long", 800), ("short", 500)):
        for i in range(4):
            folder = tmp_path / name / "cd"[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            wave = rng.integers(-99, 99, samples).astype(np.int16)
            soundfile.write(folder / f"{i}.wav", wave, 16000)
        prepare(str(tmp_path / name), tmp_path / f"{name}.s", progress=False,
                labels=("c", "d") if name == "long" else ("d", "c"))  # fmt: skip
    for order in (("long.s", "short.s"), ("short.s", "long.s")):
        paths = tuple(str(tmp_path / name) for name in order)
        shards = open_shards(paths)
        names = np.array([path[0] for path in shards.column("path")])
        a, b = (
            take(open_pipeline(Data(path=paths, backend=name), batch=8, seed=0), 0, 2)
            for name in BACKENDS
        )
        for x, y in zip(a, b):
            assert_same(x, y)
            found = np.array(shards.info.labels)[x["label"]]
            np.testing.assert_array_equal(found, names[x["id"]])


@pytest.mark.tf
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_share_of_the_labels_smaller_than_the_batch_repeats(machines, backend):
    cfg = Data(path=(str(machines),), backend=backend, label_fraction=0.2)
    pipeline = open_pipeline(cfg, batch=16, seed=0, labelled=True)
    assert pipeline.size < 16
    ids = take(pipeline, 0, 1)[0]["id"]
    assert set(ids.tolist()) == set(pipeline.rows.tolist())


def test_a_batch_larger_than_the_set_is_refused(machines):
    with pytest.raises(InputError, match=r"batch: is 22, but there are 21 rows .* --batch 16 or"):
        open_pipeline(Data(path=(str(machines),)), batch=22, seed=0)
    assert open_pipeline(Data(path=(str(machines),)), batch=21, seed=0).size == 21


def test_excluded_folds_never_appear_and_order_can_be_kept(machines, machine_shards):
    cfg = Data(path=(str(machines),), exclude_folds=(0,), shuffle=False)
    pipeline = open_pipeline(cfg, batch=4, seed=0)
    ids = np.concatenate([b["id"] for b in take(pipeline, 0, 10)])
    assert (machine_shards.column("fold")[ids] != 0).all()
    np.testing.assert_array_equal(ids, np.resize(machine_shards.rows(exclude_folds=[0]), 40))


def test_auto_chooses_the_backend_by_size(machines):
    def backend(mb):
        return open_pipeline(Data(path=(str(machines),), memory_mb=mb), batch=2, seed=0).backend

    assert backend(1024) == "memory"
    assert backend(0) == "tfdata"


def test_wrong_settings_are_refused(machines):
    cfg = Data(path=(str(machines),))
    with pytest.raises(InputError, match="6 rows cannot be divided evenly among 4"):
        open_pipeline(cfg, batch=6, seed=0, process_count=4)
    with pytest.raises(InputError, match="no rows of split 'train'"):
        open_pipeline(Data(path=cfg.path, split="train"), batch=6, seed=0)
    with pytest.raises(InputError, match="exclude_folds leave no rows"):
        open_pipeline(Data(path=cfg.path, exclude_folds=(0, 1, 2, 3, 4)), batch=6, seed=0)
    with pytest.raises(InputError, match="crop_seconds: must be"):
        open_pipeline(Data(path=cfg.path, crop_seconds=0.3), batch=6, seed=0)
    with pytest.raises(InputError, match="start_step"):
        open_pipeline(cfg, batch=6, seed=0).iterate(-1)


def test_eval_batches_cover_rows_once_in_order(machine_shards):
    rows = np.array([3, 1, 20, 5, 8, 0, 2])
    batches = list(eval_batches(machine_shards, rows, batch=4))
    assert [len(b["id"]) for b in batches] == [4, 4]
    ids = np.concatenate([b["id"] for b in batches])
    mask = np.concatenate([b["_mask"] for b in batches])
    np.testing.assert_array_equal(ids[mask == 1], rows)
    np.testing.assert_array_equal(mask, [1] * 7 + [0])
    assert set(ids[mask == 0]) <= set(rows)
    expected = batch_spec(machine_shards.info, 4)
    assert {k: (v.shape, v.dtype) for k, v in batches[1].items()} == {
        k: (v.shape, v.dtype) for k, v in expected.items()
    }
    assert list(eval_batches(machine_shards, rows[:0], batch=4)) == []


def test_crops_lie_in_the_valid_part_and_stay_aligned(rng):
    # Values are sample numbers, so the crop shows where it came from.
    batch = {
        "a": np.tile(np.arange(1000, dtype=np.float32)[None, :, None], (64, 1, 1)),
        "b": np.tile(np.arange(100, dtype=np.float32)[None, :, None], (64, 1, 2)),
        "length": np.full(64, 500, np.int32),
    }
    out = in_memory.crop(batch, rng.random(64), samples={"a": 200, "b": 20})
    first = out["a"][:, 0, 0]
    assert first.min() >= 0
    assert first.max() <= 300
    assert first.std() > 50
    np.testing.assert_array_equal(
        out["a"][:, :, 0] - first[:, None], np.tile(np.arange(200), (64, 1))
    )
    np.testing.assert_allclose(out["b"][:, 0, 0] * 10, first, atol=10)
    np.testing.assert_array_equal(out["length"], np.full(64, 200))
    short = in_memory.crop(batch | {"length": np.full(64, 50, np.int32)}, rng.random(64),
                        samples={"a": 200, "b": 20})  # fmt: skip
    assert not short["a"][:, 0].any()
    np.testing.assert_array_equal(short["length"], np.full(64, 50))


@pytest.mark.tf
def test_ops_give_the_same_eagerly_in_map_and_in_numpy(machine_shards, rng):
    import tensorflow as tf

    from jfreq.data.loading import tf_ops

    info, ids = machine_shards.info, np.arange(6)
    raw = tf.constant(np.array(machine_shards.read_bytes(ids), object))
    start, samples = rng.random(6), {"audio": 1000, "vibration": 400}

    def both(records, where):
        return tf_ops.crop(tf_ops.parse(records, info=info), where, samples=samples)

    eager = {k: v.numpy() for k, v in both(raw, tf.constant(start)).items()}
    dataset = tf.data.Dataset.from_tensors((raw, start)).map(both)
    mapped: dict = next(iter(dataset.as_numpy_iterator()))  # type: ignore[assignment]
    expected = in_memory.crop(machine_shards.read(ids), start, samples=samples)
    expected.pop("id")
    assert_same(eager, mapped)
    assert_same({k: np.asarray(v) for k, v in mapped.items()}, expected)


def test_the_memory_backend_never_imports_tensorflow(machines):
    code = f"""
import sys
from jfreq.config import Data
from jfreq.data.loading.pipeline import eval_batches, open_pipeline
from jfreq.data.shards.reader import open_shards
import jfreq.data.prepare.run, jfreq.data.loading.tf_ops, jfreq.data.fold_assignment
import jfreq.data.sources.tfds
cfg = Data(path=({str(machines)!r},), backend='memory')
next(open_pipeline(cfg, batch=4, seed=0).iterate(0))
shards = open_shards({str(machines)!r})
next(eval_batches(shards, shards.rows(), batch=2))
heavy = ['tensorflow', 'librosa', 'matplotlib', 'sklearn', 'soundfile', 'tyro', 'rich']
print(sorted(set(heavy) & set(sys.modules)))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.tf
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_damaged_shard_is_an_input_error_at_both_backends(machines, tmp_path, backend):
    folder = shutil.copytree(machines, tmp_path / "copy")
    path = next(folder.glob("*.array_record-00000-of-*"))
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(InputError, match="damaged or cut short"):
        open_pipeline(Data(path=(str(folder),), backend=backend), batch=21, seed=0)


@pytest.mark.tf
@pytest.mark.parametrize("backend", ["memory", "tfdata"])
def test_a_shard_damaged_while_open_is_an_input_error_too(machines, tmp_path, backend):
    folder = shutil.copytree(machines, tmp_path / "copy")
    path = next(folder.glob("*.array_record-00000-of-*"))
    pipeline = open_pipeline(Data(path=(str(folder),), backend=backend), batch=21, seed=0)
    pipeline.shards.close()
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(InputError, match="damaged or cut short"):
        take(pipeline, 0, 1)


@pytest.mark.tf
@pytest.mark.parametrize("closing", ["pipeline.close()", "pass"])
def test_a_process_that_stops_in_mid_stream_ends_cleanly(machines, closing):
    code = f"""
from jfreq.config import Data
from jfreq.data.loading.pipeline import open_pipeline
pipeline = open_pipeline(Data(path=({str(machines)!r},), backend="tfdata"), batch=4, seed=0)
batches = pipeline.iterate(0)
[next(batches) for _ in range(3)]
{closing}
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert out.returncode == 0, out.stderr


def test_closing_keeps_the_set_usable_by_a_new_pipeline(machines):
    cfg = Data(path=(str(machines),))
    first = open_pipeline(cfg, batch=3, seed=0)
    before = take(first, 0, 1)[0]
    first.close()
    assert_same(before, take(open_pipeline(cfg, batch=3, seed=0), 0, 1)[0])
    assert len(open_shards(machines)) == 21
