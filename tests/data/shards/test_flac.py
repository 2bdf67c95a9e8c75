"""Sound as FLAC inside records: half of the bytes, the same batches."""

import dataclasses
import io
import itertools
from typing import Any

import numpy as np
import pytest
import soundfile

from jfreq.config import Data
from jfreq.data.loading.pipeline import open_pipeline
from jfreq.data.prepare.parts import finish_parts, prepare_part
from jfreq.data.prepare.run import prepare
from jfreq.data.shards.reader import open_shards
from jfreq.types import InputError

MACHINES: dict[str, Any] = {"n": 21, "seconds": 0.25, "progress": False}


@pytest.fixture(scope="module")
def flac(tmp_path_factory):
    """Sound and vibration; the sound is FLAC."""
    out = tmp_path_factory.mktemp("flac") / "m"
    prepare("synthetic:machines", out, encoding="flac", **MACHINES)
    return out


def test_only_the_bytes_of_the_sound_differ(flac, machines):
    raw, packed = open_shards(machines), open_shards(flac)
    assert [s.encoding for s in packed.info.signals] == ["flac", "raw"]
    same = [dataclasses.replace(s, encoding="raw") for s in packed.info.signals]
    assert tuple(same) == raw.info.signals
    assert packed.info.columns == raw.info.columns
    assert packed.manifest_hash != raw.manifest_hash
    a, b = (shards.read(np.arange(21)) for shards in (raw, packed))
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
        assert a[name].dtype == b[name].dtype


@pytest.mark.tf
@pytest.mark.parametrize("options", [{}, {"crop_seconds": 0.1}])
def test_batches_are_the_same_from_both_backends(flac, machines, options):
    pipelines = [
        open_pipeline(Data(path=(str(path),), backend=backend, **options), batch=8, seed=3)
        for path in (machines, flac)
        for backend in ("tfdata", "memory")
    ]
    for batches in itertools.islice(zip(*(p.iterate(1) for p in pipelines)), 4):
        for other in batches[1:]:
            for name, values in batches[0].items():
                np.testing.assert_array_equal(other[name], values, err_msg=name)
    for pipeline in pipelines:
        pipeline.close()


def test_records_hold_files_that_others_read(flac, machines):
    """As TFDS opens the folder, without TensorFlow; soundfile decodes what it finds."""
    import tensorflow_datasets as tfds

    builder: Any = tfds.builder_from_directory(str(flac))
    assert builder.info.features["audio"].sample_rate == 16000
    source, raw = builder.as_data_source("rows"), open_shards(machines)
    for i in (0, 20):
        x, rate = soundfile.read(io.BytesIO(source[i]["audio"]), dtype="int16", always_2d=True)
        np.testing.assert_array_equal(x, raw[i]["audio"])
        np.testing.assert_array_equal(source[i]["vibration"], raw[i]["vibration"])
        assert rate == 16000


def test_parts_give_the_same_bytes(flac, tmp_path):
    for i in (2, 1):
        prepare_part("synthetic:machines", tmp_path / "o", f"{i}/2", encoding="flac", **MACHINES)
    finish_parts("synthetic:machines", tmp_path / "o", encoding="flac", **MACHINES)
    for path in flac.iterdir():
        assert (tmp_path / "o" / path.name).read_bytes() == path.read_bytes(), path.name


def test_recordings_take_about_half(tmp_path, rng):
    """A tone in noise at -60 dB takes 8 of 16 bits a sample."""
    (tmp_path / "in" / "c").mkdir(parents=True)
    t = np.arange(160_000) / 16000
    x = 8000 * np.sin(2 * np.pi * 440 * t)[:, None] + rng.normal(0, 33, (160000, 2))
    soundfile.write(tmp_path / "in/c/a.wav", x.astype(np.int16), 16000)
    sizes = {}
    for encoding in ("raw", "flac"):
        out = tmp_path / encoding
        prepare(str(tmp_path / "in"), out, encoding=encoding, mix="keep", progress=False)
        sizes[encoding] = sum(p.stat().st_size for p in out.glob("*array_record*"))
        np.testing.assert_array_equal(open_shards(out)[0]["audio"], x.astype(np.int16))
    assert 0.4 < sizes["flac"] / sizes["raw"] < 0.6


def write(folder, *, channels=1, rate=16000, subtype="PCM_16"):
    (folder / "c").mkdir(parents=True)
    soundfile.write(folder / "c/a.wav", np.full((rate // 4, channels), 0.1), rate, subtype=subtype)
    return str(folder)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ({"subtype": "FLOAT"}, {}, "16 bits, but audio is stored as float32; .* add --dtype int16"),
        ({}, {"rate": 1025.641}, "cannot hold audio of 1 channels at 1025.64 Hz"),
        ({"channels": 9}, {"mix": "keep"}, "cannot hold audio of 9 channels at 16000 Hz"),
        ({}, {"rate": 700000.0}, "cannot hold audio of 1 channels at 700000 Hz"),
    ],
)
def test_what_flac_cannot_hold_is_refused(tmp_path, source, options, message):
    folder = write(tmp_path / "in", **source)
    with pytest.raises(InputError, match=f"encoding: FLAC .*{message}"):
        prepare(folder, tmp_path / "out", encoding="flac", progress=False, **options)
    assert not (tmp_path / "out").exists()


def test_sensors_and_mixed_sets_are_refused(flac, machines, tmp_path):
    with pytest.raises(InputError, match="flac is for sound, and this is none; there are: acc"):
        prepare("synthetic:motion", tmp_path / "o", n=5, encoding="flac", progress=False)
    with pytest.raises(InputError, match=r"audio.encoding: is raw in .* and flac in "):
        open_shards([machines, flac])
