import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from jfreq.ops import sblu
from jfreq.types import InputError

from . import sblu_oracles as oracle
from .sblu_oracles import exact

PHASES = pytest.mark.parametrize("phase", ["even", "hermitian"])
KERNEL = jax.jit(sblu.kernel, static_argnames=("taps", "phase", "unit_gain"))
APPLY = jax.jit(sblu.apply, static_argnames=("taps", "phase", "unit_gain"))


def lambdas(rng, *shape, low=0.125):
    alpha = rng.uniform(low, 1, shape).astype(np.float32)
    return jnp.asarray(alpha), jnp.asarray(rng.uniform(1 / 32, 0.5, shape).astype(np.float32))


def values(rng, *shape):
    return jnp.asarray(rng.normal(size=shape).astype(np.float32))


def compound(pair):
    return exact(pair[0]) + 1j * exact(pair[1])


def assert_near(got, expected, rel):
    """Largest difference against the largest value."""
    assert np.abs(np.asarray(got) - expected).max() <= rel * np.abs(expected).max()


def response(k, w):
    """``sum_m k[m] exp(-i w m)`` in float64."""
    m = np.arange(k.shape[-1]) - k.shape[-1] // 2
    return k @ np.exp(-1j * np.multiply.outer(m, w))


@PHASES
@pytest.mark.parametrize("unit_gain", [False, True])
def test_kernel_against_complex128(phase, unit_gain):
    alpha, beta = lambdas(np.random.default_rng(0), 3, 50)
    got = compound(KERNEL(alpha, beta, taps=49, phase=phase, unit_gain=unit_gain))
    expected = oracle.kernel(alpha, beta, taps=49, phase=phase, unit_gain=unit_gain)
    assert got.shape == (3, 50, 49)
    np.testing.assert_allclose(got, expected, atol=2e-6)
    one = compound(KERNEL(alpha[0, 0], beta[0, 0], taps=1, phase=phase, unit_gain=unit_gain))
    np.testing.assert_allclose(one, expected[0, 0, 24:25], atol=1e-6)


def test_an_even_kernel_has_zero_phase_in_both_parts():
    for part in KERNEL(*lambdas(np.random.default_rng(1), 64), taps=49):
        part = np.asarray(part)
        np.testing.assert_array_equal(part, part[:, ::-1])
        assert abs(response(part, np.linspace(0, np.pi, 97)).imag).max() < 1e-6


def test_a_hermitian_kernel_is_a_positive_pass_band_of_gain_1_at_beta():
    alpha, beta = lambdas(np.random.default_rng(2), 32)
    k = compound(KERNEL(alpha, beta, taps=257, phase="hermitian"))
    np.testing.assert_array_equal(k, k[:, ::-1].conj())
    spectrum = response(k, 2 * np.pi * np.arange(512) / 512)
    assert abs(spectrum.imag).max() < 1e-6 and spectrum.real.min() > 0
    assert abs(spectrum.real.argmax(-1) / 512 - np.asarray(beta)).max() <= 1 / 512
    at_beta = [response(row, 2 * np.pi * f) for row, f in zip(k, exact(beta))]
    np.testing.assert_allclose(at_beta, 1, atol=1e-4)


def test_spectra_of_long_kernels_have_closed_forms():
    alpha, beta = lambdas(np.random.default_rng(3), 32, low=0.25)
    a, omega = exact(alpha)[:, None], 2 * np.pi * exact(beta)[:, None]
    w, decay, r = np.linspace(-np.pi, np.pi, 101)[None], a + 1j * omega, np.exp(-a)
    q = np.exp(-decay)
    gain = 2 * np.sinh(decay / 2) / decay
    poisson = (1 - r) / (1 + r) * (1 - r**2) / (1 - 2 * r * np.cos(w - omega) + r**2)
    for phase, expected in (
        ("even", gain * (1 - q**2) / (1 - 2 * q * np.cos(w) + q**2)),
        ("hermitian", poisson),
    ):
        k = compound(KERNEL(alpha, beta, taps=301, phase=phase))
        assert_near(response(k, w[0]), expected, 1e-6)


@PHASES
def test_derivatives_of_the_kernel_have_closed_forms(phase):
    alpha, beta = lambdas(np.random.default_rng(4), 20)
    at = functools.partial(sblu.kernel, taps=49, phase=phase)
    one = jnp.ones_like(alpha)
    slope = jax.jit(lambda *along: jax.jvp(at, (alpha, beta), along)[1])
    by_alpha, by_omega = compound(slope(one, 0 * one)), compound(slope(0 * one, one)) / (2 * np.pi)
    k, m = oracle.kernel(alpha, beta, taps=49, phase=phase), np.arange(-24, 25)
    a = exact(alpha)[:, None]
    if phase == "even":
        decay = a + 2j * np.pi * exact(beta)[:, None]
        log = -abs(m) + 0.5 / np.tanh(decay / 2) - 1 / decay
        assert_near(by_alpha, k * log, 1e-5)
        assert_near(by_omega, 1j * k * log, 1e-5)
    else:
        assert_near(by_alpha, k * (1 / np.sinh(a) - abs(m)), 1e-5)
        assert_near(by_omega, 1j * k * m, 1e-5)


FACTOR = jax.jit(lambda at, along: jax.jvp(functools.partial(sblu.kernel, taps=1), at, along))


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-12, 1e-4, 0.03, 1.0, 1.999, 2.001, 3.3])
def test_the_factor_is_entire(size):
    """``2 sinh(L / 2) / L`` and its slopes, towards 0 and where the evaluation changes."""
    turn = np.linspace(0, np.pi / 2, 7)
    alpha, omega = size * np.cos(turn), size * np.sin(turn)
    args = tuple(jnp.asarray(v, jnp.float32) for v in (alpha, omega / (2 * np.pi)))
    both = FACTOR(args, (jnp.ones(7), jnp.zeros(7))), FACTOR(args, (jnp.zeros(7), jnp.ones(7)))
    (value, slope), (_, turned) = both
    decay = alpha + 1j * omega
    if size < 0.01:
        g, d_g = 1 + decay**2 / 24, decay / 12
    else:
        g = 2 * np.sinh(decay / 2) / decay
        d_g = (np.cosh(decay / 2) - g) / decay
    np.testing.assert_allclose(compound(value)[:, 0], g, atol=5e-7)
    np.testing.assert_allclose(compound(slope)[:, 0], d_g, atol=5e-7)
    np.testing.assert_allclose(compound(turned)[:, 0], 2j * np.pi * d_g, atol=4e-6)


@PHASES
def test_evaluators_agree(phase):
    rng = np.random.default_rng(5)
    alpha, beta = lambdas(rng, 2, 3, 5)
    u = values(rng, 2, 3, 16 + 48, 5)
    got = compound(APPLY(u, alpha, beta, taps=49, phase=phase))
    k, wide = oracle.kernel(alpha, beta, taps=49, phase=phase), exact(u)
    naive = oracle.gathered(wide, k)
    assert_near(got, naive, 1e-6)
    assert_near(got[:, :, ::4], oracle.gathered(wide, k, every=4), 1e-6)
    pair = [np.asarray(part) for part in KERNEL(alpha, beta, taps=49, phase=phase)]
    for other in [oracle.gathered, oracle.tap_by_tap] + [oracle.folded] * (phase == "even"):
        assert_near(other(wide, k), naive, 1e-12)
        assert_near(got, compound([other(np.asarray(u), part) for part in pair]), 1e-5)


@PHASES
@pytest.mark.parametrize(("taps", "patch"), [(1, 4), (9, 4), (7, 1), (49, 16)])
def test_gradients_are_those_of_the_naive_sum(phase, taps, patch):
    rng = np.random.default_rng(6)
    alpha, beta = lambdas(rng, 2, 2, 3)
    u, onto = values(rng, 2, 2, patch + taps - 1, 3), values(rng, 2, 2, 2, patch, 3)

    def naive(u, alpha, beta):
        pair = sblu.kernel(alpha, beta, taps=taps, phase=phase, unit_gain=True)
        return [oracle.gathered(u, part, xp=jnp) for part in pair]

    def recursive(*args):
        return sblu.apply(*args, taps=taps, phase=phase, unit_gain=True)

    def gradients(fn):
        weighted = lambda *args: sum(jnp.vdot(*z) for z in zip(fn(*args), onto))  # noqa: E731
        return jax.jit(jax.grad(weighted, argnums=(0, 1, 2)))(u, alpha, beta)

    for got, expected in zip(gradients(recursive), gradients(naive)):
        assert_near(got, np.asarray(expected), 1e-5)


@settings(max_examples=6, deadline=None)
@given(st.data())
def test_clips_of_any_shape_against_single_outputs(data):
    patch, local = data.draw(st.integers(1, 6)), data.draw(st.booleans())
    t = patch + data.draw(st.integers(0, 9))
    stride = data.draw(st.integers(1, patch + 1))
    longest = min(t, patch + 1) if local else t
    taps = 1 + 2 * data.draw(st.integers(0, (longest - 1) // 2))
    phase = data.draw(st.sampled_from(["even", "hermitian"]))
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    x, (alpha, beta) = values(rng, 2, t, 2), lambdas(rng, 2, (t - patch) // stride + 1, 2)

    @jax.jit
    def run(x, alpha, beta):
        u = sblu.windows(x, patch=patch, stride=stride, taps=taps, local=local)
        return sblu.apply(u, alpha, beta, taps=taps, phase=phase)

    k = oracle.kernel(alpha, beta, taps=taps, phase=phase)
    expected = oracle.from_clip(x, k, patch=patch, stride=stride, local=local)
    np.testing.assert_allclose(compound(run(x, alpha, beta)), expected, atol=1e-5)


@pytest.mark.parametrize(("stride", "local"), [(4, False), (2, False), (4, True), (2, True)])
def test_which_frames_a_patch_sees(stride, local):
    """Gradients by the clip are 0 beyond a patch's neighbours, and beyond itself if local."""
    rng = np.random.default_rng(7)
    x, patch, taps = values(rng, 1, 12, 1), 4, 5
    count = (12 - patch) // stride + 1
    alpha, beta = lambdas(rng, 1, count, 1)

    def power(x, chosen):
        u = sblu.windows(x, patch=patch, stride=stride, taps=taps, local=local)
        re, im = sblu.apply(u, alpha, beta, taps=taps)
        return jnp.sum((re**2 + im**2)[0, :, :, 0] * chosen[:, None])

    slope = jax.jit(jax.grad(power))
    for p in range(count):
        seen = np.flatnonzero(slope(x, jax.nn.one_hot(p, count))[0, :, 0])
        reach = 0 if local else taps // 2
        first, last = max(0, p * stride - reach), min(12, p * stride + patch + reach)
        np.testing.assert_array_equal(seen, np.arange(first, last))


def test_the_gradient_takes_a_quarter_of_the_naive_memory_at_most():
    """Four clips of 1024 frames under 128 kernels of 49 taps for patches of 16; measured 0.11."""
    b, p, patch, c, taps = 4, 64, 16, 128, 49
    shapes = [(b, p, patch + taps - 1, c), (b, p, c), (b, p, c)]

    def naive(u, alpha, beta):
        return [oracle.gathered(u, part, xp=jnp) for part in sblu.kernel(alpha, beta, taps=taps)]

    def bytes_of(fn):
        loss = lambda *args: sum(jnp.sum(part**2) for part in fn(*args))  # noqa: E731
        step = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
        lowered = step.lower(*[jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes])
        memory = lowered.compile().memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    assert bytes_of(functools.partial(sblu.apply, taps=taps)) <= 0.25 * bytes_of(naive)


def test_bad_input_is_refused():
    x = jnp.ones((1, 8, 1))
    one = jnp.full((1, 2, 1), 0.3)
    for taps in (0, -1, 4):
        for call in (
            lambda n: sblu.windows(x, patch=4, stride=4, taps=n),
            lambda n: sblu.kernel(one, one, taps=n),
            lambda n: sblu.apply(jnp.ones((1, 2, 8, 1)), one, one, taps=n),
        ):
            with pytest.raises(InputError, match="must be odd and 1 or more"):
                call(taps)
    with pytest.raises(InputError, match="longer than the clip of 8 frames: use 7 taps"):
        sblu.windows(x, patch=4, stride=4, taps=9)
    with pytest.raises(InputError, match="sees one patch of 4 frames: use 5 taps"):
        sblu.windows(x, patch=4, stride=4, taps=7, local=True)
    for patch, stride in ((9, 4), (0, 4), (4, 0)):
        with pytest.raises(InputError, match=f"no patch of {patch} frames"):
            sblu.windows(x, patch=patch, stride=stride, taps=3)
    u = sblu.windows(x, patch=4, stride=4, taps=5)
    with pytest.raises(InputError, match="8 frames are too short for 9 taps"):
        sblu.apply(u, one, one, taps=9)
    with pytest.raises((InputError, TypeCheckError), match="odd"):
        sblu.kernel(one, one, taps=5, phase="odd")  # pyright: ignore[reportArgumentType]
    half = jnp.bfloat16
    for name, args in (
        ("windows", (u.astype(half), one, one)),
        ("alpha", (u, one.astype(half), one)),
        ("beta", (u, one, one.astype(half))),
    ):
        with pytest.raises(InputError, match=f"computed in float32, {name} has bfloat16"):
            sblu.apply(*args, taps=5)
    with pytest.raises(InputError, match="computed in float32, alpha has bfloat16"):
        sblu.kernel(one.astype(half), one, taps=5)
