import numpy as np
import pytest
import scipy.signal

from jfreq.data.sources import synthetic
from jfreq.types import InputError


def spectrum_peak(x, rate, low, high):
    """Frequency of the largest spectral line between ``low`` and ``high`` Hz."""
    x = (x - x.mean()) * np.hanning(len(x))
    freq = np.fft.rfftfreq(8 * len(x), 1 / rate)
    power = np.abs(np.fft.rfft(x, 8 * len(x)))
    inside = (freq >= low) & (freq <= high)
    return freq[inside][np.argmax(power[inside])]


@pytest.mark.parametrize("name", list(synthetic.FAMILIES))
def test_clips_are_pure_functions_of_index_and_seed(name):
    rows = synthetic.make(name, n=8, seconds=0.5, seed=3)
    alone = synthetic.clip(name, 5, seconds=0.5, seed=3)
    other = synthetic.clip(name, 5, seconds=0.5, seed=4)
    for key, (x, rate) in rows[5].signals.items():
        assert x.shape[0] == round(0.5 * rate)
        np.testing.assert_array_equal(x, alone.signals[key][0])
        assert (x != other.signals[key][0]).any()
        assert (x != rows[6].signals[key][0]).any()
        assert np.isfinite(x).all()
        if x.dtype == np.int16:
            assert np.abs(x.astype(int)).max() < 32767, "no clipping"


@pytest.mark.parametrize("name", list(synthetic.FAMILIES))
def test_labels_are_balanced_and_folds_hold_whole_subjects(name):
    kind = synthetic.family(name)
    n = len(kind.labels) * kind.subjects
    label, subject, fold = np.array([synthetic.place(name, i) for i in range(n)]).T
    assert (np.bincount(label) == kind.subjects).all()
    assert len(set(zip(label, subject))) == n, "every subject has every class"
    assert set(fold) == set(range(synthetic.FOLDS))
    for s in set(subject):
        assert len(set(fold[subject == s])) == 1


def test_the_stream_of_a_family_never_changes():
    """Results that were computed from these recordings name their seed only."""
    peaks = [synthetic.clip(name, 3, seconds=0.1) for name in STREAMS]
    found = [float(np.abs(next(iter(c.signals.values()))[0]).max()) for c in peaks]
    assert found == pytest.approx(GOLDEN)


def test_folds_of_machines_load_are_bands_of_load_and_nothing_else_changes():
    loaded, plain = (synthetic.make(f, n=80, seconds=0.1) for f in ("machines_load", "machines"))
    low, high = synthetic.LOADS
    for fold in range(synthetic.FOLDS):
        load = np.array([c.truth["load"] for c in loaded if c.fold == fold])
        a, b = synthetic.load_band(fold)
        assert (a, b) == pytest.approx((0.3 + 0.14 * fold, 0.44 + 0.14 * fold))
        assert ((a <= load) & (load < b)).all() and len(load) == 16
    assert synthetic.load_band(0)[0] == low
    assert synthetic.load_band(synthetic.FOLDS - 1)[1] == pytest.approx(high)
    for a, b in zip(loaded, plain):
        same = {k: v for k, v in a.truth.items() if k != "load"}
        assert same == {k: v for k, v in b.truth.items() if k != "load"}
        assert (a.label, a.subject, a.fold) == (b.label, b.subject, b.fold)
        share = (a.truth["load"] - synthetic.load_band(a.fold)[0]) / 0.14
        assert share == pytest.approx((b.truth["load"] - low) / (high - low))
        assert (a.signals["vibration"][0] != b.signals["vibration"][0]).any()


def envelope(x, rate):
    """Squared envelope of the upper half of the band, where the resonances are."""
    sos = scipy.signal.butter(4, 0.4, "high", output="sos")
    return np.abs(scipy.signal.hilbert(scipy.signal.sosfiltfilt(sos, x))) ** 2


@pytest.mark.parametrize("modality", ["vibration", "audio"])
def test_race_faults_strike_at_their_order(modality):
    found = 0
    clips = [c for c in synthetic.make("machines", n=32, seed=7) if c.truth["fault_order"]]
    for clip in clips:
        x, rate = clip.signals[modality]
        truth = clip.truth
        expected = truth["fault_order"] * truth["shaft_hz"] * (1 + truth["drift"] / 2)
        peak = spectrum_peak(envelope(x[:, 0].astype(float), rate), rate, 40, 230)
        found += abs(peak - expected) < 0.04 * expected
    # Light blows under a light load drown in the noise.
    assert found >= 0.8 * len(clips)


def test_both_senses_of_a_machine_share_one_shaft():
    for clip in synthetic.make("machines", n=20, seed=1):
        if synthetic.MACHINES[clip.label] != "imbalance":
            continue
        shaft = clip.truth["shaft_hz"] * (1 + clip.truth["drift"] / 2)
        for x, rate in clip.signals.values():
            assert spectrum_peak(x[:, 0].astype(float), rate, 10, 45) == pytest.approx(
                shaft, rel=0.04
            )


def test_tones_are_modulated_as_the_truth_says():
    for clip in synthetic.make("tones", n=24, seed=2):
        kind, _ = synthetic.TONES[clip.label].split("_")
        x, rate = clip.signals["audio"]
        carrier = clip.truth["carrier_hz"]
        band = scipy.signal.butter(
            2, [carrier - 180, carrier + 180], "bandpass", fs=rate, output="sos"
        )
        analytic = np.asarray(scipy.signal.hilbert(scipy.signal.sosfiltfilt(band, x[:, 0] / 32768)))
        phase = np.diff(np.unwrap(np.angle(analytic)))
        track = np.abs(analytic) if kind == "am" else phase
        peak = spectrum_peak(track[800:-800], rate, 6, 60)
        assert peak == pytest.approx(clip.truth["modulation_hz"], abs=0.5)


def test_harmonics_share_the_modulation(monkeypatch):
    """Without the noise, every harmonic rises and falls, or moves, at the rate of the truth."""
    monkeypatch.setattr(synthetic, "coloured_noise", lambda white, pole: 0 * white)
    for clip in synthetic.make("harmonic_tones", n=24, seed=2):
        x, rate = clip.signals["audio"]
        kind, _ = synthetic.TONES[clip.label].split("_")
        pitch = clip.truth["pitch_hz"]
        assert -6 <= clip.truth["snr_db"] <= 6 and 120 <= pitch <= 360
        for k in (1, 3):
            edges = [(k - 0.5) * pitch, (k + 0.5) * pitch]
            band = scipy.signal.butter(2, edges, "bandpass", fs=rate, output="sos")
            analytic = np.asarray(
                scipy.signal.hilbert(scipy.signal.sosfiltfilt(band, x[:, 0] / 32768))
            )
            phase = np.diff(np.unwrap(np.angle(analytic)))
            track = np.abs(analytic) if kind == "am" else phase
            peak = spectrum_peak(track[1600:-1600], rate, 6, 60)
            assert peak == pytest.approx(clip.truth["modulation_hz"], abs=0.5), k


@pytest.mark.parametrize("name", ["tones", "harmonic_tones"])
def test_patch_statistics_do_not_tell_the_tones_apart_but_modulation_does(name):
    """What AaPE is about: energy per 160 ms patch is blind to the classes."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    patch, fine = [], []
    clips = synthetic.make(name, n=240, seed=5)
    for clip in clips:
        x = clip.signals["audio"][0][:, 0] / 32768
        power = np.abs(np.fft.rfft(x.reshape(-1, 160) * np.hanning(160), axis=1)) ** 2
        total = np.log(power.sum(1) + 1e-6)
        patch.append(total[: len(total) // 16 * 16].reshape(-1, 16).mean(1))
        fine.append(np.abs(np.fft.rfft(total - total.mean())))
    label = np.array([clip.label for clip in clips])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    coarse, sharp = (cross_val_score(model, np.array(f), label, cv=5).mean() for f in (patch, fine))
    assert coarse < 0.3, "chance is 0.167"
    assert sharp > coarse + 0.2


def test_motion_has_gravity_and_cadence():
    for clip in synthetic.make("motion", n=20, seed=3):
        acc, rate = clip.signals["acc"]
        name = synthetic.MOTIONS[clip.label]
        assert np.linalg.norm(acc.mean(0)) == pytest.approx(1.0, abs=0.1)
        if name == "standing":
            assert acc.std(0).max() < 0.05
            assert clip.signals["gyro"][0].std(0).max() < 0.1
        else:
            total = np.abs(np.fft.rfft(acc - acc.mean(0), axis=0)).sum(1)
            freq = np.fft.rfftfreq(len(acc), 1 / rate)
            lines = clip.truth["cadence_hz"] * np.arange(1, 4)
            assert np.abs(freq[total.argmax()] - lines).min() < 0.25


def test_wrong_requests_are_refused():
    with pytest.raises(InputError, match=r"no family 'tone' \(did you mean 'tones'\?\)"):
        synthetic.make("tone", n=1)
    with pytest.raises(InputError, match="n: must be 1 or more"):
        synthetic.make("tones", n=0)
    with pytest.raises(InputError, match="seconds: must be positive"):
        synthetic.clip("tones", 0, seconds=0.0)


STREAMS = ("machines", "tones", "motion", "harmonic_tones")
GOLDEN = [3064.0, 6580.0, 0.8893333077430725, 7607.0]
