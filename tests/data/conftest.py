"""Small sources in the layouts that prepare reads."""

import csv
import zlib

import numpy as np
import pytest
import soundfile

from jfreq.data.prepare.run import prepare
from jfreq.data.shards.reader import open_shards


def pcm(rng, samples, channels=1):
    return rng.integers(-20000, 20000, (samples, channels)).astype(np.int16)


@pytest.fixture
def rng(request):
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))


@pytest.fixture
def write_index():
    """``write_index(folder, rows)``: index.csv from a list of dicts."""

    def write(folder, rows):
        with (folder / "index.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return folder

    return write


@pytest.fixture
def audio_set(tmp_path, rng, write_index):
    """Twelve 16 kHz clips of half a second, three classes, two folds; and their samples."""
    folder, waves, rows = tmp_path / "set", [], []
    folder.mkdir()
    for i in range(12):
        waves.append(pcm(rng, 8000))
        soundfile.write(folder / f"{i:02d}.wav", waves[-1], 16000, subtype="PCM_16")
        rows.append(
            {"path": f"{i:02d}.wav", "label": "abc"[i % 3], "label_id": i % 3, "fold": i % 2,
             "split": "test" if i >= 9 else "train", "subject": f"s{i % 4}", "sr": 16000}
        )  # fmt: skip
    write_index(folder, rows)
    return folder, waves, rows


@pytest.fixture(scope="session")
def machines(tmp_path_factory):
    """Twenty-one synthetic two-modality rows, in several shards' worth of parts."""
    out = tmp_path_factory.mktemp("machines")
    prepare("synthetic:machines", out / "m", n=21, seconds=0.25, progress=False)
    return out / "m"


@pytest.fixture(scope="session")
def machine_shards(machines):
    return open_shards(machines)
