"""The wavelet transform of sensor windows against PyWavelets.

    jfreq bench scalogram

64 windows of 8 s x 3 channels at 50 Hz (400 samples) through 64 complex Morlet wavelets from 0.5 to
20 Hz. Coefficients: all of them, complex. Scalogram: log(1 + |W|), averaged over 4 samples and laid
out as `[b t f c]`, which is what a network reads. PyWavelets convolves by FFT (`method="fft"`) or
directly (`"conv"`) on one thread, in float32 as jfreq. It samples the integral of the wavelet, so
the two agree in shape, not in value (tests/ops/test_wavelet.py): their moduli must correlate above
0.98 before anything is timed.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import jax
import numpy as np

from jfreq.ops import dft, wavelet
from jfreq.types import InputError

RATE, ROWS, POOL = 50.0, 64, 4
FREQUENCIES = wavelet.log_frequencies(0.5, 20.0, ROWS)
OURS: dict[str, dft.Evaluator] = {"jfreq": "auto", "jfreq, fft": "fft"}


def theirs(x: np.ndarray, method: str) -> np.ndarray:
    """``[f b c t]`` complex64 of ``[b c t]``."""
    import pywt

    return pywt.cwt(
        x, RATE / FREQUENCIES, "cmor1.5-1.0", sampling_period=1 / RATE, method=method, axis=-1
    )[0]


def their_scalogram(x: np.ndarray, method: str) -> np.ndarray:
    log_modulus = np.log1p(np.abs(theirs(x, method)))
    cells = log_modulus.reshape(*log_modulus.shape[:-1], x.shape[-1] // POOL, POOL).mean(-1)
    return np.ascontiguousarray(cells.transpose(1, 3, 0, 2))


def coefficients(x: np.ndarray, rounds: int, found: dict[str, float]) -> common.Table:
    """``x`` ``[b c t]`` float32."""
    ours = functools.partial(wavelet.cwt, frequencies=FREQUENCIES, rate=RATE, pad="constant")
    same = np.hypot(*jax.jit(ours)(x))
    other = np.abs(theirs(x, "fft")).transpose(1, 2, 0, 3)
    found["correlation"] = float(np.corrcoef(same.ravel(), other.ravel())[0, 1])
    if not found["correlation"] > 0.98:
        raise InputError(f"moduli correlate by {found['correlation']:.3f} only, nothing is timed")
    spread, compile_s = {}, {}
    contenders: dict[str, Callable[[], Any]] = {}
    for name, evaluator in OURS.items():
        fn = functools.partial(wavelet.cwt, frequencies=FREQUENCIES, rate=RATE, evaluator=evaluator)
        contenders[name], compile_s[name] = common.jitted(fn, x)
        spread[name] = np.hypot(*contenders[name]())
    found["jfreq, its evaluators"] = float(np.abs(np.subtract(*spread.values())).max())
    for method in ("fft", "conv"):
        contenders[f"pywt, {method}"] = functools.partial(theirs, x, method)
    times = common.paired(contenders, rounds=rounds)
    return common.Table(f"{_words(x)} to coefficients", times, compile_s)


def scalograms(x: np.ndarray, rounds: int) -> common.Table:
    """``x`` ``[b c t]`` float32."""
    contenders: dict[str, Callable[[], Any]] = {}
    compile_s = {}
    given = np.ascontiguousarray(x.transpose(0, 2, 1))
    for name, evaluator in OURS.items():
        fn = functools.partial(
            wavelet.scalogram, frequencies=FREQUENCIES, rate=RATE, pool=POOL, evaluator=evaluator
        )
        contenders[name], compile_s[name] = common.jitted(fn, given)
    for method in ("fft", "conv"):
        contenders[f"pywt, {method}"] = functools.partial(their_scalogram, x, method)
    times = common.paired(contenders, rounds=rounds)
    return common.Table(f"{_words(x)} to scalograms", times, compile_s)


def _words(x: np.ndarray) -> str:
    b, c, t = x.shape
    return f"{b} windows of {t} samples x {c} channels, {ROWS} rows,"


def main(
    rounds: int = 21,
    batch: int = 64,
    threads: int = 2,
    isa: common.Isa = "native",
    out: Path | None = None,
) -> None:
    """Times the transforms and writes bench_scalogram.md and .json.

    Args:
        rounds: timed rounds; every contender once in each.
        batch: windows.
        threads: cores that all contenders share.
        isa: native, or avx2 to keep all contenders from AVX-512.
        out: folder of the results, by default experiments/results.
    """
    common.need("pywt")
    facts = common.begin(threads, isa)
    x = np.random.default_rng(0).normal(size=(batch, 3, 400)).astype(np.float32)
    found: dict[str, float] = {}
    tables = []
    for table in (coefficients(x, rounds, found), scalograms(x, rounds)):
        tables.append(table)
        print(table.to_markdown(), flush=True)
    intro = (
        f"numpy in, numpy out, {rounds} rounds. Moduli of jfreq and PyWavelets correlate by "
        f"{found['correlation']:.4f}; jfreq's two evaluators differ by at most "
        f"{found['jfreq, its evaluators']:.1e}."
    )
    common.save("scalogram", "Scalograms", intro, tables, facts=facts,
                more={"compared": found}, out=out)  # fmt: skip


if __name__ == "__main__":
    common.run(main)
