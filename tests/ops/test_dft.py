import functools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from jfreq.ops import dft
from jfreq.types import InputError

both = pytest.mark.parametrize("evaluator", ["fft", "matmul"])
SETTINGS = [
    {"n_fft": 64, "hop_length": 16},
    {"n_fft": 64, "hop_length": 20, "win_length": 41, "window": "hamming"},
    {"n_fft": 50, "hop_length": 13, "center": False},
    {"n_fft": 32, "hop_length": 8, "pad_mode": "constant"},
    {"n_fft": 48, "hop_length": 12, "pad_mode": "edge", "win_length": 48},
]


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def lowered(platform, devices):
    """StableHLO of an automatic transform and its inverse on a mesh of so many devices."""

    def there_and_back(x):
        return dft.irdft(*dft.rdft(x, n_fft=8), n_fft=8)

    mesh = jax.sharding.AbstractMesh((devices,), ("x",))
    with jax.sharding.use_abstract_mesh(mesh):
        traced = jax.jit(there_and_back).trace(jnp.ones((1, 3, 8)))
        return traced.lower(lowering_platforms=platform).as_text()


@pytest.mark.parametrize(
    ("platform", "devices", "fft", "matmul"),
    [
        (("cpu",), 1, True, False),
        (("cuda",), 1, True, False),
        (("tpu",), 1, False, True),
        (("cpu", "tpu"), 1, True, True),
        (("cpu",), 8, False, True),
        (("cuda",), 8, False, True),
    ],
)
def test_auto_goes_by_platform_of_the_program_and_devices_of_the_mesh(
    platform, devices, fft, matmul
):
    text = lowered(platform, devices)
    assert ("stablehlo.fft" in text) == fft
    assert ("stablehlo.dot_general" in text) == matmul


def test_auto_without_a_mesh_counts_the_machine(monkeypatch):
    x = jnp.ones((1, 3, 8))
    assert jax.device_count() > 1
    assert "stablehlo.fft" not in jax.jit(partial(dft.rdft, n_fft=8)).lower(x).as_text()
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert "stablehlo.fft" in jax.jit(partial(dft.rdft, n_fft=8)).lower(x).as_text()
    with pytest.raises((InputError, TypeCheckError), match="matmull"):
        dft.rdft(x, n_fft=8, evaluator="matmull")  # type: ignore[arg-type]


@both
@pytest.mark.parametrize(("length", "n_fft"), [(400, 512), (33, 33), (1, 1), (2048, 2048)])
def test_rdft_matches_float64(length, n_fft, evaluator):
    x = noise(3, length)
    out = dft.rdft(jnp.asarray(x[None]), n_fft=n_fft, evaluator=evaluator)
    expected = np.fft.rfft(x.astype(np.float64), n_fft)[None]
    assert out[0].dtype == out[1].dtype == jnp.float32
    size = np.abs(expected).max()
    np.testing.assert_allclose(out[0], expected.real, atol=1e-6 * size)
    np.testing.assert_allclose(out[1], expected.imag, atol=1e-6 * size)


@both
@pytest.mark.parametrize("n_fft", [1, 2, 33, 64])
def test_irdft_matches_float64_and_ignores_what_has_no_mirror(n_fft, evaluator):
    real, imag = noise(2, 5, n_fft // 2 + 1), noise(2, 5, n_fft // 2 + 1, seed=1)
    out = dft.irdft(jnp.asarray(real), jnp.asarray(imag), n_fft=n_fft, evaluator=evaluator)
    np.testing.assert_allclose(out, np.fft.irfft(real + 1j * imag, n_fft), atol=1e-6)


@both
@pytest.mark.parametrize("kwargs", SETTINGS)
def test_stft_and_istft_match_librosa(kwargs, evaluator):
    x = noise(2, 777)
    lib = {k: v for k, v in kwargs.items() if k != "pad_mode"}
    expected: Any = librosa.stft(x, pad_mode=kwargs.get("pad_mode", "reflect"), **lib)
    real, imag = jax.jit(functools.partial(dft.stft, evaluator=evaluator, **kwargs))(x)
    np.testing.assert_allclose(real, expected.real.swapaxes(1, 2), atol=2e-5)
    np.testing.assert_allclose(imag, expected.imag.swapaxes(1, 2), atol=2e-5)
    for length in (None, 700, 900):
        run = functools.partial(dft.istft, length=length, evaluator=evaluator, **lib)
        back = jax.jit(run)(real, imag)
        oracle = librosa.istft(expected, length=length, **lib)
        inner = slice(kwargs["n_fft"], 777 - 2 * kwargs["n_fft"])  # weights vanish at the ends
        assert back.shape == oracle.shape
        np.testing.assert_allclose(back[:, inner], oracle[:, inner], atol=2e-5)


@both
@settings(deadline=None, max_examples=5)
@given(st.sampled_from([(16, 4), (30, 10), (64, 16)]), st.integers(70, 127), st.integers(0, 99))
def test_round_trip(evaluator, sizes, t, seed):
    n_fft, hop = sizes
    x = noise(t, seed=seed)

    @jax.jit
    def there_and_back(x):
        kwargs = {"n_fft": n_fft, "hop_length": hop, "evaluator": evaluator}
        return dft.istft(*dft.stft(x, **kwargs), length=t, **kwargs)

    back = there_and_back(x)
    covered = (t // hop) * hop
    np.testing.assert_allclose(back[:covered], x[:covered], atol=2e-5)


@both
@pytest.mark.parametrize("n_fft", [31, 64])
def test_parseval(n_fft, evaluator):
    x = noise(5, n_fft)
    power = dft.power_spectrum(jnp.asarray(x), n_fft=n_fft, evaluator=evaluator)
    weight = np.full(n_fft // 2 + 1, 2.0)
    weight[0] = 1
    if n_fft % 2 == 0:
        weight[-1] = 1
    energy = np.square(x.astype(np.float64)).sum(1)
    np.testing.assert_allclose(np.float64(power) @ weight / n_fft, energy, rtol=2e-6)


@both
def test_linear(evaluator):
    x, y = jnp.asarray(noise(200)), jnp.asarray(noise(200, seed=1))

    @jax.jit
    def run(x):
        return jnp.stack(dft.stft(x, n_fft=32, hop_length=8, evaluator=evaluator))

    np.testing.assert_allclose(run(3 * x - 2 * y), 3 * run(x) - 2 * run(y), atol=5e-5)


@both
def test_gradients_at_silence_and_jit(evaluator):
    def energy(x):
        real, imag = dft.stft(x, n_fft=32, hop_length=8, evaluator=evaluator)
        return jnp.sum(jnp.log(real**2 + imag**2 + 1e-6)), (real, imag)

    grad, _ = jax.jit(jax.grad(energy, has_aux=True))(jnp.zeros(100))
    assert np.isfinite(grad).all()
    x = jnp.asarray(noise(100))
    for eager, jitted in zip(energy(x)[1], jax.jit(energy)(x)[1]):
        np.testing.assert_allclose(eager, jitted, atol=1e-5)


@both
def test_gradient_is_the_adjoint(evaluator):
    """d/dx of 0.5 * sum of power is n_fft * x for white windows: Parseval's derivative."""
    x = jnp.asarray(noise(4, 16))

    def full_energy(x):
        power = dft.power_spectrum(x, n_fft=16, evaluator=evaluator)
        return 0.5 * (2 * power.sum() - power[:, 0].sum() - power[:, -1].sum())

    np.testing.assert_allclose(jax.jit(jax.grad(full_energy))(x), 16 * x, atol=1e-4)


def test_sharded_matmul_needs_no_collective():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.P("data"))
    x = jax.ShapeDtypeStruct((16, 1000), jnp.float32, sharding=rows)
    run = jax.jit(lambda x: dft.stft(x, n_fft=64, hop_length=16))
    text = run.lower(x).compile().as_text() or ""
    assert text
    for name in ("all-gather", "all-to-all", "collective-permute", "all-reduce"):
        assert name not in text


def test_bad_arguments():
    x = jnp.zeros(20)
    with pytest.raises(InputError, match="reflect"):
        dft.stft(x, n_fft=64, hop_length=16)
    with pytest.raises(InputError, match="fewer than n_fft"):
        dft.stft(x, n_fft=64, hop_length=16, center=False)
    with pytest.raises(InputError, match="win_length 20"):
        dft.stft(x, n_fft=16, hop_length=4, win_length=20)
    with pytest.raises(InputError, match="longer than n_fft"):
        dft.rdft(x[None], n_fft=16)
    with pytest.raises(InputError, match="do not belong"):
        dft.irdft(jnp.zeros((1, 8)), jnp.zeros((1, 8)), n_fft=16)
