"""Training-time changes: of clips and spectrograms, of sensor series and of their spectra."""

from jfreq.augment.clips import add_noise, mixup, roll_time, spec_augment
from jfreq.augment.views import Views

__all__ = ["Views", "add_noise", "mixup", "roll_time", "spec_augment"]
