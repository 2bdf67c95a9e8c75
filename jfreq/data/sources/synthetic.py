"""Synthetic labelled recordings by simple physical models, a pure function of a seed.

Nothing is downloaded. Any figure computed from these recordings must be called synthetic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import numpy as np

from jfreq.config import close_match
from jfreq.ranges import InputError, Range, Seed, check_value, checked_call

AUDIO_RATE = 16000.0
VIBRATION_RATE = 6400.0
MOTION_RATE = 50.0
FOLDS = 5
LOADS = (0.3, 1.0)
"""Lowest and highest load of a machine, as fractions of its full load."""
MACHINES = ("healthy", "imbalance", "inner_race", "outer_race")
TONES = ("am_12", "am_20", "am_32", "fm_12", "fm_20", "fm_32")
MOTIONS = ("standing", "walking", "running", "climbing", "cycling")
BPFO, BPFI = 3.585, 5.415
"""Ball-pass orders of the outer and inner race of a 6205 bearing (9 balls), per revolution."""


class Clip(NamedTuple):
    """One recording: ``([t c], rate in Hz)`` by modality, its class, and parameters."""

    signals: dict[str, tuple[np.ndarray, float]]
    label: int
    subject: int
    fold: int
    truth: dict[str, float]


class Family(NamedTuple):
    """One kind of synthetic recordings."""

    labels: tuple[str, ...]
    subjects: int
    seconds: float
    make: Callable[..., tuple[dict[str, tuple[np.ndarray, float]], dict[str, float]]]
    stream: int
    """Number of the random stream; another one would change the recordings."""
    of_fold: Callable[[int], dict[str, Any]] = lambda fold: {}
    """Arguments of ``make`` for a fold."""


Rows = Annotated[int, Range(1, 100_000_000, wording="1 or more")]
Length = Annotated[float, Range(0, 3600, "low", "positive")]


@checked_call
def make(name: str, *, n: Rows, seconds: Length | None = None, seed: Seed = 0) -> list[Clip]:
    """``n`` recordings of a family (a name of ``FAMILIES``), classes in turn."""
    return [clip(name, i, seconds=seconds, seed=seed) for i in range(n)]


def clip(name: str, index: int, *, seconds: float | None = None, seed: int = 0) -> Clip:
    """Recording ``index`` of a family, a pure function of ``(name, index, seconds, seed)``.

    A subject (a machine, a recorder, a person) has the same constants in all of its recordings,
    and a fold holds whole subjects.

    Raises:
      InputError: for an unknown family, or a length out of range.
    """
    kind = family(name)
    seconds = kind.seconds if seconds is None else seconds
    check_value(Length, seconds, "", "seconds")
    label, subject, fold = place(name, index)
    person = np.random.Generator(np.random.PCG64([seed, kind.stream, 0, subject]))
    rng = np.random.Generator(np.random.PCG64([seed, kind.stream, 1, index]))
    signals, truth = kind.make(
        kind.labels[label], seconds, person=person, rng=rng, **kind.of_fold(fold)
    )
    return Clip(signals, label, subject, fold, truth)


def place(name: str, index: int) -> tuple[int, int, int]:
    """``(label, subject, fold)`` of recording ``index``, without making it."""
    kind = family(name)
    classes = len(kind.labels)
    subject = index // classes % kind.subjects
    return index % classes, subject, subject % FOLDS


def family(name: str) -> Family:
    """The family called ``name``; ``InputError`` where there is none."""
    if name not in FAMILIES:
        raise InputError(
            f"synthetic: no family {name!r}{close_match(name, FAMILIES)}; there are: "
            f"{', '.join(FAMILIES)}"
        )
    return FAMILIES[name]


def load_band(fold: int) -> tuple[float, float]:
    """Lowest and highest load in a fold of ``machines_load``; folds are in order of load."""
    low, high = LOADS
    width = (high - low) / FOLDS
    return low + fold * width, low + (fold + 1) * width


def _machine(
    label: str, seconds: float, *, person: Any, rng: Any, loads: tuple[float, float] = LOADS
):
    """A shaft on a bearing: sound (``audio``) and acceleration (``vibration``, two axes, in g).

    The speed drifts linearly and wobbles. The load, uniform over ``loads``, scales all amplitudes.
    A fault of a race strikes once per ball pass, and every impact excites the machine's resonances.
    The impacts of an inner race fade in and out of the load zone once per revolution (Randall and
    Antoni, MSSP 25, 2011, sections 2 and 3).
    """
    resonance = {"audio": person.uniform(2800, 5200), "vibration": person.uniform(1500, 2600)}
    damping, tilt = person.uniform(0.03, 0.08), person.uniform(0.5, 1.0)
    shaft, drift = rng.uniform(18, 34), rng.uniform(-0.06, 0.06)
    load, severity = rng.uniform(*loads), rng.uniform(0.6, 1.4)
    phase0, wobble = rng.uniform(0, 1), rng.uniform(0.0, 0.01)
    order = {"inner_race": BPFI, "outer_race": BPFO}.get(label, 0.0)
    impacts = _impacts(order, shaft, drift, seconds, rng) if order else np.zeros(0)

    def sense(rate: float, ring: float, gain: float, noise: float) -> np.ndarray:
        t = np.arange(round(seconds * rate)) / rate
        turns = phase0 + shaft * (t + 0.5 * drift * t**2 / seconds)
        turns = turns + wobble * np.sin(2 * np.pi * 1.7 * t)
        harmonics = np.array([1.0, 0.5, 0.3, 0.2, 0.1])
        harmonics[0] *= 4.0 * severity if label == "imbalance" else 1.0
        x = sum(a * np.cos(2 * np.pi * k * turns) for k, a in enumerate(harmonics, 1))
        x = 0.08 * load * x + noise * rng.standard_normal(len(t))
        if len(impacts):
            strength = severity * (0.5 + 0.5 * load) * (1 + 0.1 * rng.standard_normal(len(impacts)))
            if label == "inner_race":
                strength = strength * (1 + 0.9 * np.cos(2 * np.pi * np.interp(impacts, t, turns)))
            x = x + gain * _ring(impacts, strength, len(t), rate, ring, damping)
        return x

    audio = sense(AUDIO_RATE, resonance["audio"], 0.35, 0.08)
    radial = sense(VIBRATION_RATE, resonance["vibration"], 1.0, 0.25)
    axial = tilt * radial + 0.2 * rng.standard_normal(len(radial))
    signals = {
        "audio": (_pcm(0.25 * audio), AUDIO_RATE),
        "vibration": (np.stack([radial, axial], -1).astype(np.float32), VIBRATION_RATE),
    }
    return signals, {"shaft_hz": shaft, "fault_order": order, "load": load, "drift": drift}


def _impacts(order: float, shaft: float, drift: float, seconds: float, rng: Any) -> np.ndarray:
    """Seconds ``[n]`` of the ball passes, whose intervals vary by one per cent from slip."""
    count = int(order * shaft * (1 + abs(drift)) * seconds) + 1
    passes = rng.uniform(0, 1) + np.cumsum(1 + 0.01 * rng.standard_normal(count))
    grid = np.linspace(0, seconds, 4096)
    turns = shaft * (grid + 0.5 * drift * grid**2 / seconds)
    times = np.interp(passes / order, turns, grid, right=np.inf)
    return times[np.isfinite(times)]


def _ring(
    times: np.ndarray, strength: np.ndarray, size: int, rate: float, ring: float, damping: float
) -> np.ndarray:
    """Impacts at fractional sample times through a damped resonance at ``ring`` Hz."""
    train = np.zeros(size + 1)
    at = np.minimum(times * rate, size - 1)
    low = at.astype(int)
    np.add.at(train, low, strength * (1 - (at - low)))
    np.add.at(train, low + 1, strength * (at - low))
    t = np.arange(min(size, round(0.02 * rate))) / rate
    response = np.exp(-2 * np.pi * ring * damping * t) * np.sin(2 * np.pi * ring * t)
    n = size + len(t)
    return np.fft.irfft(np.fft.rfft(train, n) * np.fft.rfft(response, n), n)[:size]


def _tone(label: str, seconds: float, *, person: Any, rng: Any):
    """A tone in noise whose class is the kind and rate of a fast modulation, and nothing else.

    Rates of 12 to 32 Hz lie above the Nyquist frequency of patches of 160 ms (3.1 Hz) and below
    that of frames 10 ms apart, so averages over patches do not show the modulation. Carrier,
    amplitude, phase and depth do not depend on the class.
    """
    kind, speed = label.split("_")
    rate_hz = float(speed) * rng.uniform(0.97, 1.03)
    carrier, depth = np.exp(rng.uniform(np.log(500), np.log(4000))), rng.uniform(0.7, 1.0)
    t = np.arange(round(seconds * AUDIO_RATE)) / AUDIO_RATE
    wave = np.sin(2 * np.pi * (rate_hz * t + rng.uniform()))
    swing = depth * 2.0 * rate_hz if kind == "fm" else 0.0
    phase = carrier * t + swing / rate_hz / (2 * np.pi) * wave + rng.uniform()
    envelope = _envelope(kind, depth, wave)
    colour = person.uniform(0.0, 0.9)
    noise = coloured_noise(rng.standard_normal(len(t)), colour)
    x = rng.uniform(0.1, 0.3) * envelope * np.sin(2 * np.pi * phase) + 0.02 * noise
    truth = {"modulation_hz": rate_hz, "carrier_hz": float(carrier), "depth": depth}
    return {"audio": (_pcm(x), AUDIO_RATE)}, truth


def _envelope(kind: str, depth: float, wave: np.ndarray) -> np.ndarray | float:
    """Envelope of unit power that follows ``wave`` where ``kind`` is ``am``, else 1."""
    return (1 + depth * wave) / np.sqrt(1 + depth**2 / 2) if kind == "am" else 1.0


def _harmonic_tone(label: str, seconds: float, *, person: Any, rng: Any):
    """The modulations of :func:`_tone` on all harmonics of a tone in louder noise.

    The modulations show in every band of the spectrum. Fundamental, amplitude, depth,
    signal-to-noise ratio and the phases of the harmonics do not depend on the class. The frequency
    modulation is at most 5 % of the fundamental.
    """
    kind, speed = label.split("_")
    rate_hz = float(speed) * rng.uniform(0.97, 1.03)
    pitch, depth = np.exp(rng.uniform(np.log(120), np.log(360))), rng.uniform(0.7, 1.0)
    snr_db = rng.uniform(-6, 6)
    t = np.arange(round(seconds * AUDIO_RATE)) / AUDIO_RATE
    wave = np.sin(2 * np.pi * (rate_hz * t + rng.uniform()))
    swing = 0.05 * depth * pitch if kind == "fm" else 0.0
    turns = pitch * t + swing / rate_hz / (2 * np.pi) * wave
    envelope = _envelope(kind, depth, wave)
    k = np.arange(1, int(7000 / pitch) + 1)[:, None]
    tone = (np.sin(2 * np.pi * (k * turns + rng.uniform(size=k.shape))) / np.sqrt(k)).sum(0)
    tone = envelope * tone / np.sqrt((0.5 / k).sum())
    noise = coloured_noise(rng.standard_normal(len(t)), person.uniform(0.0, 0.9))
    x = rng.uniform(0.02, 0.06) * (tone + 10 ** (-snr_db / 20) * noise)
    truth = {"modulation_hz": rate_hz, "pitch_hz": float(pitch), "depth": depth, "snr_db": snr_db}
    return {"audio": (_pcm(x), AUDIO_RATE)}, truth


def coloured_noise(white: np.ndarray, pole: float) -> np.ndarray:
    """White noise through a one-pole low-pass of unit power."""
    z = np.exp(-2j * np.pi * np.fft.rfftfreq(len(white)))
    return np.fft.irfft(np.fft.rfft(white) * np.sqrt(1 - pole**2) / (1 - pole * z), len(white))


def _motion(label: str, seconds: float, *, person: Any, rng: Any):
    """A phone on a moving body: ``acc`` in g with gravity, ``gyro`` in rad/s, both xyz.

    Both are harmonics of the cadence with phases and amplitudes of the subject, rotated by how the
    phone is carried. The gyroscope measures the swing of a limb, at half the cadence.
    """
    pace, bounce = person.uniform(0.9, 1.1), person.uniform(0.8, 1.2)
    phases, weights = person.uniform(0, 1, (2, 3, 3)), person.uniform(0.3, 1.0, (2, 3, 3))
    cadence, vertical, swing, tilt = {
        "standing": (0.3, 0.004, 0.01, 0.05),
        "walking": (1.8, 0.22, 0.9, 0.15),
        "running": (2.7, 0.90, 2.2, 0.25),
        "climbing": (1.4, 0.20, 1.1, 0.45),
        "cycling": (1.3, 0.08, 1.4, 0.60),
    }[label]
    cadence = cadence * pace * rng.uniform(0.93, 1.07)
    t = np.arange(round(seconds * MOTION_RATE)) / MOTION_RATE
    cycles = cadence * t + rng.uniform() + 0.02 * np.sin(2 * np.pi * 0.2 * t)
    axes = np.array([0.35, 0.25, 1.0])

    def harmonics(which: int, base: float) -> np.ndarray:
        k = np.arange(1, 4)[:, None, None]
        wave = np.cos(2 * np.pi * (k * base * cycles[None, :, None] + phases[which][:, None, :]))
        return (wave * weights[which][:, None, :] / k).sum(0)

    rotation = _rotation(person.normal(0, 0.3, 3) + rng.normal(0, 0.1, 3) + [tilt, 0, 0])
    acc = bounce * vertical * axes * harmonics(0, 1.0) + [0.0, 0.0, 1.0]
    gyro = swing * axes[::-1] * harmonics(1, 0.5)
    acc = acc @ rotation.T + 0.02 * rng.standard_normal((len(t), 3))
    gyro = gyro @ rotation.T + 0.02 * rng.standard_normal((len(t), 3))
    signals = {
        "acc": (acc.astype(np.float32), MOTION_RATE),
        "gyro": (gyro.astype(np.float32), MOTION_RATE),
    }
    return signals, {"cadence_hz": cadence}


def _rotation(vector: np.ndarray) -> np.ndarray:
    """Rodrigues' rotation matrix about ``vector`` by its length in radians."""
    angle = np.linalg.norm(vector)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _pcm(x: np.ndarray) -> np.ndarray:
    """Samples ``[t]`` relative to full scale as int16 PCM ``[t 1]``."""
    return np.clip(np.rint(x * 32768), -32768, 32767).astype(np.int16)[:, None]


FAMILIES = {
    "machines": Family(MACHINES, 20, 2.0, _machine, 0),
    "tones": Family(TONES, 20, 2.0, _tone, 2),
    "harmonic_tones": Family(TONES, 20, 2.0, _harmonic_tone, 3),
    "motion": Family(MOTIONS, 20, 10.0, _motion, 1),
    "machines_load": Family(
        MACHINES, 20, 2.0, _machine, 0, lambda fold: {"loads": load_band(fold)}
    ),
}
"""``machines_load`` has the random stream of ``machines``, so that recordings of the same number
differ in their load alone, and the two show the cost of testing at loads outside of training."""
