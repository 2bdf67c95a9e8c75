"""The front end of a signal where none is configured."""

from __future__ import annotations

import math

from jfreq.frontends.fbank import Fbank
from jfreq.frontends.log_spectrogram import LogSpectrogram
from jfreq.types import SignalSpec


def default_frontend(signal: SignalSpec) -> Fbank | LogSpectrogram:
    """Kaldi filter banks at audio rates, else a log spectrogram whose frames are up to a quarter of
    the window long."""
    if signal.rate >= 4000 and signal.channels <= 2:
        return Fbank(rate=round(signal.rate))
    n_fft = 2 ** max(3, min(8, int(math.log2(max(8, signal.samples // 4)))))
    return LogSpectrogram(rate=float(signal.rate), n_fft=n_fft, hop_length=max(1, n_fft // 8))
