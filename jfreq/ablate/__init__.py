"""Ablations: one experiment changed one part at a time, scored alike, compared in pairs."""

from jfreq.ablate.grid import Ablation, change

__all__ = ["Ablation", "change"]
