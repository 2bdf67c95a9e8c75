"""S3PRL's own upstream and featurizers on the encoder, and its states against the method's."""

import importlib
import sys
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jfreq
from jfreq.encoder.encoder import by_time
from jfreq.export.bundle import load_trained

torch: Any = pytest.importorskip("torch")
interfaces: Any = pytest.importorskip("s3prl.upstream.interfaces")
from jfreq.hub.s3prl import UpstreamExpert, register  # noqa: E402
from tests.interop.documents import section  # noqa: E402


@pytest.fixture(scope="module")
def upstream(bundle):
    return UpstreamExpert(bundle).eval()


@pytest.fixture
def hub(monkeypatch):
    """``s3prl.nn`` with a hub that knows no upstream: those of S3PRL need torchaudio."""
    import s3prl  # pyright: ignore[reportMissingImports]

    hub = types.ModuleType("s3prl.hub")
    monkeypatch.setitem(sys.modules, "torchaudio", types.ModuleType("torchaudio"))
    monkeypatch.setitem(sys.modules, "s3prl.hub", hub)
    monkeypatch.setattr(s3prl, "hub", hub, raising=False)
    return hub


def test_the_example(bundle, hub, monkeypatch):
    monkeypatch.chdir(bundle.parent)
    (example,) = section("S3PRL and SUPERB", "python")
    names: dict[str, Any] = {}
    exec(example, names)
    assert len(names["layers"]) == names["upstream"].num_layers == 3
    assert names["count"].tolist() == [100, 63]
    assert names["frames"].shape == (2, 100, 16)
    mean = torch.stack(names["layers"]).mean(0)  # its weights are equal at first
    torch.testing.assert_close(names["frames"], mean, rtol=1e-4, atol=1e-4)


def test_as_many_frames_as_it_counts(bundle, hub):
    register()
    nn = importlib.import_module("s3prl.nn.upstream")
    found = nn.S3PRLUpstream("jfreq", str(bundle), extra_conf={"frame_ms": 20}).eval()
    assert found.downsample_rates == [320] * 3
    for samples in (1, 319, 320, 321, 800, 16_000):
        lengths = torch.tensor([samples, (samples + 1) // 2])
        states, counts = found(torch.randn(2, samples), lengths)
        for state, count in zip(states, counts):
            assert count.tolist() == [-(-n // 320) for n in lengths.tolist()]
            assert state.shape == (2, int(count.max()), 16)
            assert state.isfinite().all()


def test_the_featurizer_of_superb(upstream):
    """The interface of its command line, which learns a weight for each state."""
    featurizer = interfaces.Featurizer(upstream, upstream_device="cpu")
    assert (featurizer.layer_num, featurizer.downsample_rate) == (3, 320)
    waves = [torch.randn(16_000), torch.randn(9_999)]
    features = featurizer(waves, upstream(waves))
    assert [len(x) for x in features] == [50, 31]


def test_states_are_those_of_the_blocks(bundle):
    """At the step of tokens, one window behind silence: the method's own states, by frequency."""
    upstream = UpstreamExpert(bundle, frame_ms=160)
    experiment, params, *_ = load_trained(bundle)
    wave = np.random.default_rng().uniform(-0.5, 0.5, 15_500).astype(np.float32)
    window = np.pad(wave, (120, 380))[None, :, None]  # the first token is centred at 87.5 ms
    batch = {"audio": jnp.asarray(window), "length": jnp.array([15_620])}
    features = jax.jit(experiment.method.encode)(params, batch)
    assert features.layers is not None
    found = upstream([torch.tensor(wave)])
    states = found["hidden_states"]
    assert found["last_hidden_state"] is states[-1]
    for state, tokens in zip(states, [*features.layers, features.tokens], strict=True):
        expected = np.asarray(by_time(tokens, features.grid)).mean(2)[0]
        count = upstream.encoder(np.pad(wave, (120, 0))).valid[0]
        np.testing.assert_allclose(state[0, :count], expected[:count], rtol=1e-4, atol=1e-4)


def test_company_changes_nothing(upstream):
    waves = [torch.randn(n) for n in (16_000, 4_000, 1)]
    together = upstream(waves)["last_hidden_state"]
    for wave, row in zip(waves, together):
        alone = upstream([wave])["last_hidden_state"][0]
        torch.testing.assert_close(row[: len(alone)], alone, rtol=1e-4, atol=1e-4)
        assert (row[len(alone) :] == row[len(alone) - 1]).all()


def test_moving_changes_nothing(upstream):
    silent = [torch.zeros(5_000)]
    before = upstream(silent)["last_hidden_state"]
    assert before.isfinite().all() and not before.requires_grad
    assert torch.equal(upstream.to("cpu").train()(silent)["last_hidden_state"], before)


def test_what_cannot_be_used_is_refused(bundle, sensor_bundle):
    with pytest.raises(jfreq.InputError, match="but S3PRL hands over one channel of sound"):
        UpstreamExpert(sensor_bundle)
    with pytest.raises(jfreq.InputError, match="frame_ms: must be a positive number"):
        UpstreamExpert(bundle, frame_ms=-1)
    upstream = UpstreamExpert(bundle)
    for wave, message in [
        (torch.tensor([0.0, float("nan")]), "holds NaN"),
        (torch.zeros(0), "expected samples"),
        (torch.zeros(900, 2), "has 2 channels, but the model reads 1"),
    ]:
        with pytest.raises(jfreq.InputError, match=f"recording 0, audio: {message}"):
            upstream([wave])
