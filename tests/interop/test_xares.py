"""X-ARES' own check, on the file that its command line reads."""

from typing import Any

import numpy as np
import pytest

import jfreq

torch: Any = pytest.importorskip("torch")
checker: Any = pytest.importorskip("xares.audio_encoder_checker")
utils: Any = pytest.importorskip("xares.utils")
from jfreq.hub import xares  # noqa: E402
from tests.interop.documents import section  # noqa: E402


def test_the_files_of_the_page(bundle, monkeypatch):
    """The checker's answer, and the one encoder that the command line finds in the file."""
    file, check = section("X-ARES", "python")
    (bundle.parent / "my_encoder.py").write_text(file)
    monkeypatch.chdir(bundle.parent)
    monkeypatch.syspath_prepend(bundle.parent)
    exec(check, {})
    found = utils.attr_from_py_path("my_encoder.py", endswith="Encoder")
    encoder = found()
    assert found.__name__ == type(encoder).__name__ == "MyEncoder"
    assert checker.check_audio_encoder(encoder)


def test_frames_lie_on_steps(bundle):
    """As many as steps, and those of HEAR, which has them with their times."""
    from jfreq.hub import hear

    encoder = xares.JfreqEncoder(bundle).eval()
    assert (encoder.sampling_rate, encoder.hop_size_in_ms) == (16000, 40)
    audio = torch.randn(2, 50_000) / 9
    frames = encoder(audio)
    assert frames.shape == (2, round(50_000 / 640), encoder.output_dim)
    assert not frames.requires_grad
    expected, times = hear.get_timestamp_embeddings(audio, hear.load_model(str(bundle)))
    np.testing.assert_allclose(frames, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(times[0], (np.arange(frames.shape[1]) + 0.5) * 40)


def test_silence_and_single_samples(bundle):
    encoder = xares.JfreqEncoder(bundle, frame_ms=160).to("cpu")
    for samples in (1, 16_000):
        frames = encoder(torch.zeros(1, samples))
        assert frames.shape == (1, max(1, round(samples / 2560)), encoder.output_dim)
        assert frames.isfinite().all()


def test_what_is_no_encoder_of_sound_is_refused(sensor_bundle):
    with pytest.raises(jfreq.InputError, match="but X-ARES hands over one channel of sound"):
        xares.JfreqEncoder(sensor_bundle)
