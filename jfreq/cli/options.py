"""Options of commands about an experiment: each of its fields, and what the command asks beside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import AvoidSubcommands, arg

from jfreq.config import Experiment
from jfreq.ranges import Count, Fraction, Repeats, checked

Flat = Annotated[Experiment, arg(name=""), AvoidSubcommands]


@checked
class TrainOptions:
    """Of ``jfreq train``."""

    experiment: Flat
    workdir: Path
    """Folder of the run; a run that lies there is continued."""
    data: tuple[str, ...] = ()
    """Shard folders."""


@checked
class FinetuneOptions:
    """Of ``jfreq finetune``."""

    experiment: Flat
    workdir: Path
    """Folder of the fine-tuning runs, a sub-folder for each held-out fold."""
    data: tuple[str, ...] = ()
    """Labelled shards; several folders of the same classes are one set."""
    folds: tuple[str, ...] = ()
    """Held-out folds to run, for instance 1 2, or "test" for the set's own split; all by
    default."""
    make_folds: Count | None = None
    """Divide the data into this many folds, in place of their own."""
    fold_by: Literal["subject", "recording", "row"] | None = None
    """What such a fold keeps whole; by default subjects where enough are known, else recordings."""
    train_split: str | None = None
    """Split to train on, in place of folds and of "train"."""
    test_split: str | None = None
    """Split to test on, in place of folds and of "test"."""
    fractions: tuple[Fraction, ...] = ()
    """Train on each of these fractions of the training rows' labels, for instance 0.01 0.1 1;
    writes fractions.json and the curve fractions.svg."""
    repeats: Repeats = 3
    """How often each fraction is sampled; every sample has a training with its own seed."""
