"""Front ends against librosa and against PyTorch, on 10 s clips and on sensor windows.

    jfreq bench frontend

Audio: float32 clips at 16 kHz to 128 log-mel bins, batch 8, frames of 25 ms every 10 ms. jfreq and
PyTorch compute Kaldi's filter bank (9,999 of 10,000 values must agree to 1e-3 before timing); PyTorch's is
torchaudio's formula, batched, with its tables made once. librosa computes its own log-mel
spectrogram with the same frame, hop and bins, clip by clip or as one batch, whichever is faster.
Sensors: `LogSpectrogram`, 64 windows of 4 s x 6 channels at 100 Hz, against librosa's and PyTorch's
STFT of the same frames.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import jax.numpy as jnp
import numpy as np

from jfreq.frontends.log_spectrogram import LogSpectrogram
from jfreq.ops import fbank
from jfreq.types import InputError

RATE, MELS, WINDOW, HOP = 16000, 128, 400, 160
SENSOR = LogSpectrogram(rate=100.0, n_fft=64, hop_length=8)


def close(name: str, a: np.ndarray, b: np.ndarray, limit: float) -> float:
    # The largest differences lie at the floor of the logarithm, float32 rounding in all of them.
    error = float(np.quantile(np.abs(a - b), 0.9999))
    if not error <= limit:
        raise InputError(f"{name}: the contenders differ by {error:.3g}, nothing is timed")
    return error


def audio(x: np.ndarray, rounds: int, found: dict[str, float]) -> common.Table:
    """``x`` ``[b t]`` float32."""
    mine, compile_s = common.jitted(lambda x: fbank.kaldi_fbank(x, rate=RATE, n_mels=MELS), x)
    contenders: dict[str, Callable[[], Any]] = {"jfreq": mine}
    if common.available("torch"):
        import torch
        from torch_refs.fbank import Fbank

        device = common.torch_device()
        front = Fbank().to(device)

        def theirs():
            with torch.inference_mode():
                return front.raw(torch.from_numpy(x).to(device)).cpu().numpy()

        found["fbank, jfreq to torch"] = close("fbank", mine(), theirs(), 1e-3)
        contenders["torch formula"] = theirs
    if common.available("librosa"):
        import librosa

        warnings.filterwarnings("ignore", "Empty filters")  # 128 bins of 512 points: so be it

        def mel(y):
            power = librosa.feature.melspectrogram(
                y=y, sr=RATE, n_fft=512, win_length=WINDOW, hop_length=HOP, n_mels=MELS, fmin=20,
                center=False, htk=True, norm=None,
            )  # fmt: skip
            return np.log(power + 1e-7)

        contenders["librosa, batch"] = lambda: mel(x)
        contenders["librosa, clip by clip"] = lambda: [mel(clip) for clip in x]
    times = common.paired(contenders, rounds=rounds)
    title = f"{len(x)} clips of {x.shape[1] / RATE:g} s to {MELS} log-mel bins"
    return common.Table(title, times, {"jfreq": compile_s})


def sensors(x: np.ndarray, rounds: int, found: dict[str, float]) -> common.Table:
    """``x`` ``[b t c]`` float32."""
    count = 1 + (x.shape[1] - SENSOR.n_fft) // SENSOR.hop_length
    mine, compile_s = common.jitted(lambda x: SENSOR(jnp.asarray(x), frames=count)[0], x)
    by_channel = np.ascontiguousarray(x.transpose(0, 2, 1))
    contenders: dict[str, Callable[[], Any]] = {"jfreq": mine}

    if common.available("torch"):
        import torch

        device = common.torch_device()
        hann = torch.hann_window(SENSOR.n_fft, device=device)

        def theirs():
            with torch.inference_mode():
                given = torch.from_numpy(by_channel).to(device)
                spec = torch.stft(
                    given.flatten(0, 1), SENSOR.n_fft, SENSOR.hop_length, window=hann,
                    center=False, return_complex=True,
                )  # fmt: skip
                power = spec.unflatten(0, given.shape[:2])[..., : SENSOR.bins, :].abs().square()
                log = (power + SENSOR.eps).log()
                std, mean = torch.std_mean(log, (2, 3), correction=0, keepdim=True)
                return ((log - mean) / std).permute(0, 3, 2, 1).cpu().numpy()

        found["LogSpectrogram, jfreq to torch"] = close("LogSpectrogram", mine(), theirs(), 1e-3)
        contenders["torch.stft"] = theirs
    if common.available("librosa"):
        import librosa

        def stft():
            spec = librosa.stft(
                by_channel, n_fft=SENSOR.n_fft, hop_length=SENSOR.hop_length, center=False
            )
            log = np.log(np.abs(spec[..., : SENSOR.bins, :]) ** 2 + SENSOR.eps)
            mean, std = (f(log, axis=(2, 3), keepdims=True) for f in (np.mean, np.std))
            return ((log - mean) / std).transpose(0, 3, 2, 1)

        found["LogSpectrogram, jfreq to librosa"] = close("LogSpectrogram", mine(), stft(), 1e-3)
        contenders["librosa.stft"] = stft
    times = common.paired(contenders, rounds=rounds)
    title = f"{len(x)} windows of {x.shape[1] / SENSOR.rate:g} s x {x.shape[2]} channels"
    return common.Table(title, times, {"jfreq": compile_s})


def main(
    rounds: int = 41,
    batch: int = 8,
    threads: int = 2,
    isa: common.Isa = "native",
    out: Path | None = None,
) -> None:
    """Times the front ends and writes bench_frontend.md and .json.

    Args:
        rounds: timed rounds; every contender once in each.
        batch: clips.
        threads: cores that all contenders share.
        isa: native, or avx2 to keep all contenders from AVX-512.
        out: folder of the results, by default experiments/results.
    """
    facts = common.begin(threads, isa)
    rng = np.random.default_rng(0)
    found: dict[str, float] = {}
    tables = []
    for table in (audio, sensors):
        shape = (batch, 160_000) if table is audio else (64, 400, 6)
        tables.append(table(rng.normal(0, 0.1, shape).astype(np.float32), rounds, found))
        print(tables[-1].to_markdown(), flush=True)
    words = "; ".join(f"{name}: {error:.1e}" for name, error in found.items()) or "none compared"
    intro = (
        f"numpy in, numpy out, {rounds} rounds. jfreq's FFT or matrix product is chosen by the "
        f"device. Differences, 0.9999 quantile: {words}."
    )
    common.save("frontend", "Front ends", intro, tables, facts=facts,
                more={"differences": found}, out=out)  # fmt: skip


if __name__ == "__main__":
    common.run(main)
