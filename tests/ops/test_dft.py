from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from jfreq.ops import dft
from jfreq.ops.frames import frame
from jfreq.types import InputError

both = pytest.mark.parametrize("evaluator", ["fft", "matmul"])


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def spectra(x, evaluator: dft.Evaluator = "auto"):
    return dft.rdft(frame(x, frame_length=32, hop_length=8), n_fft=32, evaluator=evaluator)


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
    monkeypatch.setattr(jax, "device_count", lambda: 8)
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
        return jnp.stack(spectra(x, evaluator))

    np.testing.assert_allclose(run(3 * x - 2 * y), 3 * run(x) - 2 * run(y), atol=5e-5)


@both
def test_gradients_at_silence_and_jit(evaluator):
    def energy(x):
        real, imag = spectra(x, evaluator)
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


def test_bad_arguments():
    x = jnp.zeros(20)
    with pytest.raises(InputError, match="longer than n_fft"):
        dft.rdft(x[None], n_fft=16)
    with pytest.raises(InputError, match="do not belong"):
        dft.irdft(jnp.zeros((1, 8)), jnp.zeros((1, 8)), n_fft=16)
