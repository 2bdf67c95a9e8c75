"""A task of MTEB from beginning to end, and its vectors against the encoder by itself."""

import csv
import importlib
import types
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import soundfile as sf

import jfreq

torch: Any = pytest.importorskip("torch")
if find_spec("mteb") is None:
    pytest.skip("mteb is not installed", allow_module_level=True)
from tests.interop.documents import section  # noqa: E402

TASK: Any = types.SimpleNamespace(name="Mine")
WHERE: dict[str, Any] = {"task_metadata": TASK, "hf_split": "test", "hf_subset": "default"}


@pytest.fixture(scope="module")
def mteb() -> Any:
    """Takes seconds to import, so only where its tests run."""
    return importlib.import_module("mteb")


@pytest.fixture(scope="module")
def load_model(mteb) -> Any:
    return importlib.import_module("jfreq.hub.mteb").load_model


@pytest.fixture(scope="module")
def model(bundle, load_model):
    return load_model(bundle)


def loader(*items: dict[str, Any], column: str = "audio"):
    from datasets import Dataset  # pyright: ignore[reportMissingImports]

    return torch.utils.data.DataLoader(
        Dataset.from_list([{column: item} for item in items]), batch_size=2,
        collate_fn=lambda rows: {column: [row[column] for row in rows]},
    )  # fmt: skip


def item(x, rate: int | None = 16_000) -> dict[str, Any]:
    return {"array": x, "sampling_rate": rate}


@pytest.fixture
def recordings(bundle, monkeypatch):
    """Tones and noise, at two rates, with one channel and with two; the folder is the current."""
    rng, folder = np.random.default_rng(), bundle.parent / "recordings"
    folder.mkdir(exist_ok=True)
    rows = []
    for i in range(32):
        rate = (16_000, 22_050)[i % 2]
        tone = np.sin(2 * np.pi * rng.uniform(300, 900) * np.arange(rate) / rate)
        x = 0.2 * (tone if i % 4 < 2 else rng.normal(size=rate))
        sf.write(folder / f"{i}.wav", np.stack([x] * (1 + i // 4 % 2), 1), rate)
        label, split = ("tone" if i % 4 < 2 else "noise"), ("train" if i < 20 else "test")
        rows.append({"path": f"{i}.wav", "label": label, "split": split})
    with (folder / "index.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    monkeypatch.chdir(bundle.parent)


def test_a_task_of_ones_own(recordings, capsys):
    """The second example as it stands, without a network."""
    example = section("MTEB", "python")[1]
    names: dict[str, Any] = {"__name__": "my_task"}
    exec(example, names)
    (result,) = names["results"]
    assert result.task_name == "Recordings"
    assert float(capsys.readouterr().out.split()[-1]) > 0.9


def test_tasks_of_mteb(mteb, bundle, monkeypatch):
    """The first example up to the download: names of tasks that there are, and its model."""
    calls: list[tuple] = []
    monkeypatch.chdir(bundle.parent)
    monkeypatch.setattr(mteb, "evaluate", lambda *args, **options: calls.append((args, options)))
    exec(section("MTEB", "python")[0], {})
    ((model, tasks), options) = calls[0]
    assert [task.metadata.name for task in tasks] == ["BeijingOpera", "ESC50"]
    assert all(task.metadata.modalities == ["audio"] for task in tasks)
    assert options == {"encode_kwargs": {"batch_size": 32}}
    assert isinstance(model, mteb.EncoderProtocol)
    assert mteb.get_benchmark("MAEB").tasks


def test_vectors_are_clip_vectors_at_any_rate(model, encoder):
    rng = np.random.default_rng()
    waves = [rng.uniform(-0.5, 0.5, n) for n in (1, 7_000, 40_000)]
    stereo = rng.uniform(-0.5, 0.5, (2, 9_000))
    expected = [*encoder(waves).clip, *encoder(stereo.mean(0), 8_000).clip]
    for size in (1, 32):
        found = model.encode(loader(*map(item, waves)), **WHERE, batch_size=size)
        other = model.encode(loader(item(stereo, 8_000)), **WHERE, batch_size=size)
        assert found.dtype == np.float32
        np.testing.assert_allclose([*found, *other], expected, rtol=1e-4, atol=1e-4)


def test_normalised_vectors(model, load_model, bundle):
    waves = [item(np.random.default_rng().normal(size=5_000) / 9), item(np.zeros(100))]
    plain = model.encode(loader(*waves), **WHERE)
    unit = load_model(bundle, normalize=True).encode(loader(*waves), **WHERE)
    assert np.isfinite(plain).all()
    np.testing.assert_allclose(unit, plain / np.linalg.norm(plain, axis=1)[:, None], rtol=1e-5)
    np.testing.assert_allclose(model.similarity(unit, unit).diagonal(), 1, rtol=1e-5)


def test_results_of_two_encoders_are_kept_apart(
    model, mteb, load_model, bundle, slow_bundle, monkeypatch
):
    meta, again, other = (
        m.mteb_model_meta for m in (model, load_model(bundle), load_model(slow_bundle, name="a/b"))
    )
    assert (meta.name, meta.embed_dim, other.name) == ("jfreq/ssast_nano", 16, "a/b")
    assert meta.revision == again.revision != other.revision
    assert meta.n_parameters * 4 == meta.memory_usage_mb * 2**20
    unit = load_model(bundle, normalize=True).mteb_model_meta
    assert meta == again and meta != unit
    # It wants torchaudio for all that hears, which does not go with PyTorch for the CPU.
    monkeypatch.setattr(mteb.models.ModelMeta, "_check_requirements", lambda self: None)
    loaded = unit.load_model()
    assert loaded.normalize and loaded.mteb_model_meta.revision == meta.revision


@pytest.mark.parametrize(
    ("items", "column", "message"),
    [
        ([item(np.zeros(9), None)], "audio", "recording 0: must be floats .* at None Hz"),
        ([item([1, 2, 3])], "audio", "recording 0: must be floats .* got int64"),
        ([item(np.array([0.0, np.inf]))], "audio", "recording 0, audio: holds NaN or infinite"),
        (["words"], "text", "Mine: hands over text; the encoder reads audio and nothing else"),
    ],
)
def test_what_cannot_be_encoded_is_refused(model, items, column, message):
    with pytest.raises(jfreq.InputError, match=message):
        model.encode(loader(*items, column=column), **WHERE)


def test_what_is_no_encoder_of_sound_is_refused(load_model, bundle, sensor_bundle):
    with pytest.raises(jfreq.InputError, match="but MTEB hands over one channel of sound"):
        load_model(sensor_bundle)
    with pytest.raises(jfreq.InputError, match="name: must be organization/model, got mine"):
        load_model(bundle, name="mine")
