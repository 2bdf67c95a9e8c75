"""HEAR's validator, and its embeddings against the encoder by itself."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jfreq

torch: Any = pytest.importorskip("torch")
from jfreq.hub import hear  # noqa: E402
from tests.interop.documents import section  # noqa: E402


def noise(*shape: int) -> Any:
    return torch.tensor(np.random.default_rng().uniform(-0.5, 0.5, shape), dtype=torch.float32)


@pytest.fixture(scope="module")
def model(bundle):
    return hear.load_model(str(bundle))


@pytest.mark.slow
def test_the_validator_is_content(bundle):
    (command,) = [c for c in section("HEAR 2021", "sh") if c.startswith("hear-validator")]
    folder = Path(sys.executable).parent
    done = subprocess.run(
        [str(folder / "hear-validator"), *shlex.split(command)[1:]], cwd=bundle.parent,
        env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Looks good!" in done.stdout
    warned = done.stderr.count("UserWarning") - done.stderr.count("A common bug we have seen")
    assert warned == 0, done.stderr


def test_the_example(bundle, monkeypatch):
    monkeypatch.chdir(bundle.parent)
    (example,) = section("HEAR 2021", "python")
    names: dict[str, Any] = {}
    exec(example, names)
    assert names["scenes"].shape == (4, names["model"].scene_embedding_size)
    assert names["frames"].shape[:2] == names["times"].shape == (4, 50)


def test_scenes_are_clip_vectors(model, encoder):
    audio = noise(3, 30_000)
    found = hear.get_scene_embeddings(audio, model)
    assert found.dtype == torch.float32 and not found.requires_grad
    expected = encoder(list(audio.numpy())).clip
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_frames_are_those_of_shifted_recordings(model, encoder):
    """Frame 4 j + k is token j of the recording behind 67.5 ms of silence, without its first
    k * 40 ms."""
    audio = noise(1, 40_000)
    frames, times = hear.get_timestamp_embeddings(audio, model)
    np.testing.assert_array_equal(times[0], 20.0 + 40.0 * np.arange(len(times[0])))
    assert times.dtype == torch.float64
    assert 2500 - 40 < times[0, -1] <= 2500
    behind = np.pad(audio[0].numpy(), (1080, 0))
    for k in range(4):
        expected = encoder(behind[k * 640 :])
        np.testing.assert_allclose(
            frames[0, k::4], expected.frames[0][: expected.valid[0]], rtol=1e-4, atol=1e-4
        )


def test_the_step_may_be_given(bundle):
    fine = hear.load_model(str(bundle), frame_ms=20)
    assert hear.get_timestamp_embeddings(noise(1, 8000), fine)[1][0].diff().unique().tolist() == [
        20
    ]
    own = hear.load_model(str(bundle), frame_ms=500)
    assert own.timestamps.hop_ms == 160


def test_audio_of_another_rate_is_resampled(slow_bundle):
    model = hear.load_model(str(slow_bundle))
    assert model.sample_rate == 16000
    audio = noise(2, 20_000)
    expected = jfreq.load_encoder(slow_bundle)(list(audio.numpy()), 16000).clip
    found = hear.get_scene_embeddings(audio, model)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("samples", [1, 639, 16_000])
def test_silence_and_single_samples(model, samples):
    silent = torch.zeros(2, samples)
    scenes = hear.get_scene_embeddings(silent, model)
    frames, times = hear.get_timestamp_embeddings(silent, model)
    assert scenes.isfinite().all() and frames.isfinite().all()
    assert frames.shape[:2] == times.shape == (2, max(1, round(samples / 640)))


def test_moving_and_modes_change_nothing(model):
    audio = noise(2, 16_000)
    before = hear.get_scene_embeddings(audio, model)
    moved = model.to("cpu").to(torch.float64).train()
    assert torch.equal(hear.get_scene_embeddings(audio, moved), before)
    assert torch.equal(hear.get_scene_embeddings(audio.requires_grad_(), model.eval()), before)


@pytest.mark.parametrize("shape", [(16_000,), (2, 1, 16_000)])
def test_audio_of_another_shape_is_refused(model, shape):
    with pytest.raises(jfreq.InputError, match="must be recordings x samples of one channel"):
        hear.get_scene_embeddings(torch.zeros(shape), model)


def test_what_is_no_encoder_of_sound_is_refused(sensor_bundle):
    with pytest.raises(jfreq.InputError, match=r"acc \(3 x 50 Hz\), but HEAR hands over one") as e:
        hear.load_model(str(sensor_bundle))
    assert "\n" not in str(e.value)
    with pytest.raises(jfreq.InputError, match="HEAR: no encoder is named"):
        hear.load_model()
