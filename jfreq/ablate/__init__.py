"""Ablations: one experiment, changed one part at a time, and paired comparisons of the scores."""

from jfreq.ablate.grid import Ablation, change

__all__ = ["Ablation", "change"]
