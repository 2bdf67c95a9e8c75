"""Augmentations of clips and spectrograms, and of sensor series and their spectra."""

from jfreq.augment.sensor_views import Views
from jfreq.augment.spectrogram import (
    add_noise,
    change_gain,
    mixup,
    roll_signal,
    roll_time,
    spec_augment,
)

__all__ = [
    "Views",
    "add_noise",
    "change_gain",
    "mixup",
    "roll_signal",
    "roll_time",
    "spec_augment",
]
