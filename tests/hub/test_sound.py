"""What the contracts share, without their frameworks: frames in closed form, states by name."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jfreq import methods, recipes
from jfreq.config import replace
from jfreq.encoder.encoder import by_time
from jfreq.export.bundle import save_bundle
from jfreq.hub import sound
from jfreq.hub.sound import BlockStates, frames_from_start, load_sound, sound_encoder
from jfreq.method import Method
from jfreq.nn.vit import ViT
from jfreq.train.state import Trained
from jfreq.types import DataSpec, InputError, SignalSpec, TokenGrid
from tests.encoder.span_means import AUDIO, GRID, HOP, RATE, SPAN, SpanMeans, fake, noise

SOUND = SignalSpec("audio", 16000.0, 16000)
ENCODERS = {n: fake(frame_ms=160 / n) for n in (1, 4, 8)}


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 50_000), st.sampled_from(sorted(ENCODERS)))
def test_frame_k_is_centred_on_step_k(length, shifts):
    """The mean of the span around (k + 1/2) hops, silence before the beginning."""
    x, hop = noise(np.random.default_rng(length), length), HOP // shifts
    out = frames_from_start(ENCODERS[shifts], [x], RATE)
    count = max(1, (2 * length + hop) // (2 * hop))
    assert out.valid.tolist() == [count]
    np.testing.assert_allclose(out.times_ms, (np.arange(count) + 0.5) * hop / 16, atol=1e-9)
    around = np.pad(x.astype(np.float64), SPAN // 2)
    centres = (np.arange(count) * hop + hop // 2)[:, None]
    whole = centres[:, 0] + SPAN // 2 <= length
    spans = around[(centres[whole] + np.arange(SPAN)[None])]
    wanted = 1.5 * np.stack([spans.mean(1), (spans**2).mean(1)], 1)
    np.testing.assert_allclose(out.frames[0][whole], wanted, atol=1e-5)


def test_recordings_of_one_call_have_their_own_lengths():
    waves = [noise(np.random.default_rng(n), n) for n in (30_000, 1, 4_000)]
    together = frames_from_start(ENCODERS[4], waves, RATE)
    assert together.valid.tolist() == [47, 1, 6]
    for wave, row, count in zip(waves, together.frames, together.valid):
        alone = frames_from_start(ENCODERS[4], [wave], RATE)
        np.testing.assert_allclose(row[:count], alone.frames[0], atol=1e-6)


def test_another_rate_is_resampled_before_the_silence():
    x = noise(np.random.default_rng(), 22_050)
    out = frames_from_start(ENCODERS[4], [x], 22_050)
    resampled = ENCODERS[4].clip(x, 22_050)["audio"][:, 0]
    wanted = frames_from_start(ENCODERS[4], [resampled], RATE)
    np.testing.assert_array_equal(out.frames, wanted.frames)


def test_tokens_shorter_than_the_hop_stay_where_they_are():
    encoder = fake(TokenGrid(time=46, first=100.0, hop=320.0), span=200)
    out = frames_from_start(encoder, [noise(np.random.default_rng(0), 3200)], RATE)
    np.testing.assert_allclose(out.times_ms, 6.25 + 20.0 * np.arange(10), atol=1e-9)


def of(method: Method, params) -> Trained:
    return Trained(replace(recipes.load("ssast_nano"), method=method), params)


@pytest.mark.parametrize(
    ("step", "hop_ms"), [(None, 160), (400, 160), (160, 160), (159, 80), (40, 40), (20, 20)]
)
def test_steps_are_as_fine_as_asked_for_or_finer(step, hop_ms):
    trained = of(SpanMeans((AUDIO,), GRID, SPAN), {"gain": np.float32(1)})
    assert sound_encoder(trained, step).hop_ms == hop_ms


def test_a_step_that_is_no_number():
    trained = of(SpanMeans((AUDIO,), GRID, SPAN), {"gain": np.float32(1)})
    bad: dict[Any, str] = {"40": "number, got '40'", -1: "positive number of milliseconds, got -1"}
    for step, message in bad.items():
        with pytest.raises(InputError, match=f"^frame_ms: must be a {message}"):
            sound_encoder(trained, step)


def test_a_method_without_states_has_its_tokens():
    params = {"gain": np.float32(1)}
    plain = SpanMeans((AUDIO,), GRID, SPAN)
    batch = {
        "audio": jnp.asarray(np.random.default_rng().normal(size=(2, 15000, 1)), jnp.float32),
        "length": jnp.full(2, 15000),
    }
    found = BlockStates(plain.signals, plain).encode(params, batch)
    np.testing.assert_array_equal(found.tokens, plain.encode(params, batch).tokens)


def test_states_lie_side_by_side():
    """Two blocks, then the tokens; the rest of the features is that of the method."""
    experiment = replace(
        recipes.load("ssast_nano"), method__encoder=ViT(width=16, depth=2, heads=2)
    )
    method = methods.bind(experiment, DataSpec((SOUND,))).method
    params = jax.jit(method.init)(jax.random.key(0))
    wave = np.random.default_rng().normal(0, 0.1, (1, 16000, 1))
    batch = {"audio": jnp.asarray(wave, jnp.float32), "length": jnp.array([9000])}
    both = jax.jit(lambda p, b: (method.encode(p, b), BlockStates((SOUND,), method).encode(p, b)))
    plain, wide = both(params, batch)
    assert plain.layers is not None and len(plain.layers) == 2
    parts = np.split(np.asarray(wide.tokens), 3, axis=-1)
    for part, state in zip(parts, [*plain.layers, plain.tokens]):
        np.testing.assert_allclose(part, state, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(wide.valid, plain.valid)
    np.testing.assert_allclose(wide.clip, plain.clip, rtol=1e-5, atol=1e-5)
    encoder = sound_encoder(of(method, params), states=True)
    frames = np.asarray(by_time(plain.tokens, plain.grid))[0].mean(1)
    out = encoder(wave[:, :9000])
    np.testing.assert_allclose(out.frames[0, :, 32:], frames[: out.valid[0]], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("signals", "reads"),
    [
        ([SignalSpec("acc", 50.0, 512, channels=3)], r"acc \(3 x 50 Hz\)"),
        ([SignalSpec("audio", 16000.0, 16000, channels=2)], r"audio \(2 x 16000 Hz\)"),
        ([SignalSpec("vibration", 12000.0, 12000)], r"vibration \(1 x 12000 Hz\)"),
    ],
)
def test_what_is_no_sound_of_one_channel_is_refused(tmp_path, signals, reads):
    experiment = replace(
        recipes.load("ssast_nano"), method__encoder=ViT(width=16, depth=1, heads=2)
    )
    experiment = methods.bind(experiment, DataSpec(tuple(signals)))
    shapes = jax.eval_shape(experiment.method.init, jax.random.key(0))
    params = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
    folder = save_bundle(tmp_path / "enc", experiment=experiment, params=params)
    with pytest.raises(InputError, match=rf"enc: reads {reads}, but HEAR hands over") as raised:
        load_sound(folder, "HEAR")
    assert "\n" not in str(raised.value)


def test_encoders_share_their_weights(tmp_path):
    method = SpanMeans((AUDIO,), GRID, SPAN)
    trained = of(method, {"gain": np.float32(1)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sound, "load_trained", lambda path: trained)
        loaded = load_sound(tmp_path, "HEAR")
    encoders = [sound_encoder(loaded), sound_encoder(loaded, 40)]
    places = {encoder._params["gain"].unsafe_buffer_pointer() for encoder in encoders}
    assert len(places) == 1


def test_no_path_is_refused():
    with pytest.raises(InputError, match="HEAR: no encoder is named; give the folder"):
        load_sound("", "HEAR")
