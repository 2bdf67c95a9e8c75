"""Augmentations of clips and spectrograms, and of sensor series and their spectra."""

from jfreq.augment.sensor_views import Views
from jfreq.augment.spectrogram import add_noise, mixup, roll_time, spec_augment

__all__ = ["Views", "add_noise", "mixup", "roll_time", "spec_augment"]
