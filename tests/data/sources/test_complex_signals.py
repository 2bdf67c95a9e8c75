import numpy as np
import pytest

from jfreq.data.prepare.run import prepare
from jfreq.data.shards.reader import open_shards
from jfreq.data.sources.base import Signal
from jfreq.data.sources.complex_signals import real_modalities
from jfreq.types import InputError


def csi(rng, packets=400, subcarriers=4):
    """Two antennas with a slow phase between them, and a random phase that they share."""
    between = np.linspace(0, 20, packets)[:, None] + np.arange(subcarriers) * 0.3
    common = np.exp(1j * rng.uniform(-np.pi, np.pi, (packets, 1)))
    level = rng.uniform(0.5, 2.0, (packets, 2, subcarriers))
    x = level * np.stack([common * np.ones(subcarriers), common * np.exp(1j * between)], 1)
    return x, level, between


def test_the_phase_between_antennas_loses_the_common_one_and_is_continuous(rng):
    x, level, between = csi(rng)
    found = real_modalities(Signal(x, 20.0), ("amplitude", "phase_difference"))
    np.testing.assert_allclose(found["amplitude"].x, level.reshape(400, -1), rtol=1e-5)
    phase = found["phase_difference"].x
    assert phase.shape == (400, 4) and phase.dtype == np.float32
    turns = (phase[0] - between[0]) / (2 * np.pi)
    np.testing.assert_allclose(turns, np.round(turns), atol=1e-5)
    np.testing.assert_allclose(phase - phase[0], between - between[0], atol=1e-4)


def test_real_and_imaginary_parts_give_the_signal_back(rng):
    x = csi(rng)[0]
    out = real_modalities(Signal(x, 20.0), ("real_imag",))["real_imag"].x
    back = (out[:, :8] + 1j * out[:, 8:]).reshape(x.shape)
    np.testing.assert_allclose(back, x, rtol=1e-6)


def test_missing_packets_stay_missing_and_do_not_spread(rng):
    x, _, between = csi(rng)
    x[100:103, 0, 0] = np.nan
    phase = real_modalities(Signal(x, 20.0), ("phase_difference",))["phase_difference"].x
    np.testing.assert_array_equal(np.isnan(phase).any(1), np.isin(np.arange(400), range(100, 103)))
    known = ~np.isnan(phase[:, 0])
    np.testing.assert_allclose((phase - phase[0])[known], (between - between[0])[known], atol=1e-4)


def test_one_antenna_and_unknown_ways(rng):
    x = csi(rng)[0]
    with pytest.raises(InputError, match="needs two antennas"):
        real_modalities(Signal(x[:, :1], 20.0), ("phase_difference",))
    with pytest.raises(InputError, match=r"there is no 'amplitud' \(did you mean 'amplitude'\?\)"):
        real_modalities(Signal(x, 20.0), ("amplitud",))
    with pytest.raises(InputError, match="name one or more"):
        real_modalities(Signal(x, 20.0), ())


def test_complex_arrays_of_npz_files(tmp_path, rng):
    """Radar, sonar: channels take the place of antennas."""
    (tmp_path / "in").mkdir()
    x = rng.normal(size=(200, 3)) + 1j * rng.normal(size=(200, 3))
    np.savez(tmp_path / "in" / "a.npz", x=x, sr=100)
    prepare(str(tmp_path / "in"), tmp_path / "out", complex_as=("amplitude", "real_imag"),
            progress=False)  # fmt: skip
    shards = open_shards(tmp_path / "out")
    assert [(s.name, s.channels) for s in shards.spec.signals] == [
        ("amplitude", 3),
        ("real_imag", 6),
    ]
    np.testing.assert_allclose(shards[0]["amplitude"], np.abs(x), rtol=1e-5)
    np.testing.assert_allclose(shards[0]["real_imag"][:, 3:], x.imag, rtol=1e-5)
    prepare(str(tmp_path / "in"), tmp_path / "named", modalities=("radar:1-2",), progress=False)
    np.testing.assert_allclose(
        open_shards(tmp_path / "named")[0]["radar"], np.abs(x[:, 1:]), rtol=1e-5
    )
