"""The wavelet transform against float64 convolution, PyWavelets and closed forms."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import pywt
from jaxtyping import TypeCheckError
from scipy.signal import convolve

from jfreq.ops import morlet, wavelet
from jfreq.types import InputError

RATE = 50.0
ROWS = wavelet.log_frequencies(0.5, 20.0, 64)
FEW = ROWS[::9]
both = pytest.mark.parametrize("evaluator", ["fft", "matmul"])


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def direct(x, frequencies, *, mode: Any = "symmetric", norm="l2", bandwidth=1.5, centre=1.0):
    """The sum over samples as it is written, in float64: ``[... f t]``."""
    rows = []
    for f in frequencies:
        a = centre * RATE / f
        reach = int(8 * a * np.sqrt(bandwidth))
        m = np.arange(-reach, reach + 1) / a
        psi = np.exp(2j * np.pi * centre * m - m**2 / bandwidth) / np.sqrt(np.pi * bandwidth)
        psi = psi / (np.sqrt(a) if norm == "l2" else a)
        wide = np.pad(x.astype(np.float64), [(0, 0)] * (x.ndim - 1) + [(reach, reach)], mode=mode)
        kernel = psi.conj()[::-1].reshape((1,) * (x.ndim - 1) + (-1,))
        rows.append(convolve(wide, kernel, mode="valid", method="direct"))
    return np.stack(rows, -2)


def transform(x, frequencies=FEW, **kwargs):
    run = functools.partial(wavelet.cwt, frequencies=frequencies, rate=RATE, **kwargs)
    real, imag = jax.jit(run)(jnp.asarray(x))
    assert real.dtype == imag.dtype == jnp.float32
    return np.asarray(real) + 1j * np.asarray(imag)


def tone(hz, t=400, phase=0.0):
    return np.cos(2 * np.pi * hz * np.arange(t) / RATE + phase).astype(np.float32)


@both
@pytest.mark.parametrize(
    ("t", "kwargs"),
    [
        (400, {}),
        (127, {"norm": "l1"}),
        (128, {"pad": "constant"}),
        (90, {"pad": "edge", "bandwidth": 0.8, "centre": 2.0}),
        (1, {"pad": "constant"}),
    ],
    ids=str,
)
def test_equals_the_sum_over_samples(evaluator, t, kwargs):
    """W6. 400 samples use both forms of the matrix product; 90 and 1 are shorter than the
    longest wavelet reaches, so the mirror images repeat."""
    x = noise(2, 3, t)
    found = transform(x, evaluator=evaluator, **kwargs)
    shape = {k: v for k, v in kwargs.items() if k != "pad"}
    expected = direct(x, FEW, mode=kwargs.get("pad", "symmetric"), **shape)
    assert found.shape == (2, 3, len(FEW), t)
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())


def test_both_forms_of_the_matrix_product_are_used():
    kinds = {
        t: [g.form for g in morlet.groups(
            morlet.wavelets(ROWS, RATE, 1.5, 1.0, "l2"), morlet.Pooling(t, 0, t, 1)
        )]
        for t in (32, 400)
    }  # fmt: skip
    assert set(kinds[400]) == {"bins", "taps"} and set(kinds[32]) == {"bins"}


@pytest.mark.parametrize(
    ("t", "pool", "pad"),
    [(2, 1, "symmetric"), (5, 5, "edge"), (101, 9, "constant"), (260, 7, "symmetric")],
)
def test_evaluators_agree_on_any_window(t, pool, pad):
    x = jnp.asarray(noise(1, t, 2))
    a, b = (
        jax.jit(functools.partial(
            wavelet.scalogram, frequencies=ROWS[::16], rate=RATE, pool=pool, pad=pad,
            evaluator=evaluator,
        ))(x)
        for evaluator in ("fft", "matmul")
    )  # fmt: skip
    assert a.shape == b.shape == (1, t // pool, 4, 2)
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("method", ["fft", "conv"])
def test_pywavelets(method):
    """W6. It convolves with the wavelet's integral, sampled to the nearest of 2^precision points,
    and differentiates: shapes are compared, not values, and loosely near the Nyquist rate."""
    x = noise(400)
    found = np.abs(transform(x, ROWS, pad="constant"))
    theirs, frequencies = pywt.cwt(
        x, RATE / ROWS, "cmor1.5-1.0", sampling_period=1 / RATE, method=method, precision=16
    )
    np.testing.assert_allclose(frequencies, ROWS, rtol=1e-6)
    for row, (ours, other) in enumerate(zip(found, np.abs(theirs))):
        assert np.corrcoef(ours, other)[0, 1] > (0.99 if ROWS[row] < 10 else 0.95), ROWS[row]
        if ROWS[row] < 5:
            assert np.linalg.norm(ours) == pytest.approx(np.linalg.norm(other), rel=0.05)
    chirp = np.sin(2 * np.pi * np.cumsum(np.geomspace(1.5, 9, 400)) / RATE).astype(np.float32)
    theirs, _ = pywt.cwt(chirp, RATE / ROWS, "cmor1.5-1.0", method=method, precision=16)
    ridge = np.abs(transform(chirp, ROWS, pad="constant")).argmax(0)
    assert np.abs(ridge - np.abs(theirs).argmax(0)).max() <= 1


@both
@pytest.mark.parametrize("hz", [1.0, 2.0, 5.0, 12.0])
def test_a_tone_has_its_ridge_at_its_frequency(evaluator, hz):
    """W1. With ``l1`` every row answers with half of the amplitude at its own frequency; the
    nearest row is up to 3 % off."""
    power = np.abs(transform(3 * tone(hz), ROWS, norm="l1", evaluator=evaluator))
    inside = power[:, 150:250].mean(-1)
    nearest = np.abs(np.log(ROWS / hz)).argmin()
    assert abs(int(inside.argmax()) - int(nearest)) <= 1
    assert inside.max() == pytest.approx(1.5, rel=2e-2)


def test_norm_tilts_by_the_square_root_of_the_scale():
    x = noise(400)
    ratio = transform(x) / transform(x, norm="l1")
    np.testing.assert_allclose(ratio.real, np.sqrt(RATE / FEW)[:, None] * np.ones(400), rtol=1e-3)


@both
def test_linear(evaluator):
    """W2."""
    x, y = noise(300), noise(300, seed=1)
    run = functools.partial(transform, evaluator=evaluator)
    np.testing.assert_allclose(run(3 * x - 2 * y), 3 * run(x) - 2 * run(y), atol=1e-5)


@both
@pytest.mark.parametrize("shift", [1, 7, 50])
def test_a_shift_in_time_shifts_the_rows(evaluator, shift):
    """W3, away from the ends, in rows whose wavelets are short."""
    x = noise(500)
    rows = ROWS[ROWS > 4]
    run = functools.partial(transform, frequencies=rows, evaluator=evaluator)
    later, now = run(x[: 500 - shift]), run(x[shift:])
    np.testing.assert_allclose(later[:, 100 + shift : 300], now[:, 100 : 300 - shift], atol=1e-5)


@both
def test_constants_vanish(evaluator):
    """W4: gravity leaves nothing, up to the ends; a psi of mean 4e-7 does not see it."""
    assert np.abs(transform(np.full(400, 9.81, np.float32), ROWS, evaluator=evaluator)).max() < 1e-3


@both
def test_modulus_ignores_sign_and_phase(evaluator):
    """W5. The phase by the quadrature of a tone, where the wavelet is analytic."""
    x = noise(400)
    run = functools.partial(transform, evaluator=evaluator)
    np.testing.assert_array_equal(np.abs(run(x)), np.abs(run(-x)))
    a, b = (np.abs(run(tone(4.0, phase=p)))[4, 150:250] for p in (0.0, 1.1))
    np.testing.assert_allclose(a, b, rtol=1e-3)


@both
@pytest.mark.parametrize(("t", "pool"), [(400, 4), (131, 5)])
def test_scalogram_averages_the_logarithm(evaluator, t, pool):
    x = jnp.asarray(noise(2, t, 3))
    run = functools.partial(
        wavelet.scalogram, frequencies=FEW, rate=RATE, pool=pool, evaluator=evaluator
    )
    level = np.log1p(np.abs(direct(np.asarray(x).swapaxes(1, 2), FEW)))[..., : t // pool * pool]
    expected = level.reshape(2, 3, len(FEW), t // pool, pool).mean(-1).transpose(0, 3, 2, 1)
    np.testing.assert_allclose(jax.jit(run)(x), expected, atol=3e-6)


def test_jit_changes_nothing():
    x = jnp.asarray(noise(1, 200, 1))
    run = functools.partial(wavelet.scalogram, frequencies=ROWS[::21], rate=RATE)
    np.testing.assert_allclose(run(x), jax.jit(run)(x), atol=1e-6)


@both
def test_gradient_is_finite_at_silence_and_right_elsewhere(evaluator):
    run = functools.partial(
        wavelet.scalogram, frequencies=FEW, rate=RATE, pool=4, evaluator=evaluator
    )
    grad = jax.jit(jax.grad(lambda x: run(x).sum()))
    assert np.isfinite(grad(jnp.zeros((1, 40, 1)))).all()
    x, along = noise(1, 40, 1), noise(1, 40, 1, seed=1)
    step = np.float32(1e-2)
    ahead, back = (float(run(jnp.asarray(x + s * along)).sum()) for s in (step, -step))
    slope = float((grad(jnp.asarray(x)) * along).sum())
    assert slope == pytest.approx((ahead - back) / (2 * step), rel=2e-2)


def test_long_windows_on_one_device_use_the_fft():
    run = jax.jit(functools.partial(wavelet.cwt, frequencies=[10.0, 20.0], rate=RATE))
    for t, fft in ((2048, False), (2049, True)):
        text = run.lower(jax.ShapeDtypeStruct((t,), jnp.float32)).as_text()
        assert ("stablehlo.fft" in text) == fft


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"frequencies": [1.0, 30.0]}, "up to half of 50 Hz"),
        ({"frequencies": [0.0, 3.0]}, "above 0"),
        ({"frequencies": [3.0, 2.0]}, "rising"),
        ({"frequencies": []}, "rising"),
        ({"bandwidth": 0}, "must be positive"),
        ({"norm": "l3"}, "norm|Literal"),
        ({"pad": "reflect"}, "pad|Literal"),
        ({"evaluator": "conv"}, "evaluator|Literal"),
        ({"pool": 41}, "pool 41 must lie in 1..40"),
    ],
)
def test_bad_arguments(changes, match):
    kwargs = {"frequencies": FEW, "rate": RATE, "pool": 4} | changes
    with pytest.raises((InputError, TypeCheckError), match=match):
        wavelet.scalogram(jnp.zeros((1, 40, 1)), **kwargs)
    with pytest.raises(InputError, match="no 64 frequencies"):
        wavelet.log_frequencies(3.0, 2.0, 64)
