"""Options of commands about an experiment: the fields of the experiment, and a few more."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import AvoidSubcommands, arg

from jfreq.config import Experiment
from jfreq.ranges import Count, Fraction, Repeats, checked

Flat = Annotated[Experiment, arg(name=""), AvoidSubcommands]
"""An experiment whose fields are options without a prefix, as ``--optim.lr``."""


@checked
class TrainOptions:
    """Options of ``jfreq train``."""

    experiment: Flat
    workdir: Path
    """Folder of the run; the run that is in it is continued."""
    data: tuple[str, ...] = ()
    """Shards; several folders of the same classes are one set."""


@checked
class FinetuneOptions:
    """Options of ``jfreq finetune``."""

    experiment: Flat
    workdir: Path
    """Folder of the fine-tuning runs, with a sub-folder for each held-out fold."""
    data: tuple[str, ...] = ()
    """Labelled shards; several folders of the same classes are one set."""
    recipe: str | None = None
    """Published settings by their name, for instance finetune_esc50, or FILE.py:NAME; the other
    options are changes to them."""
    folds: tuple[str, ...] = ()
    """Held-out folds to run, for instance 1 2, or "test" for the split of the set; by default
    all."""
    make_folds: Count | None = None
    """Divide the data into this many folds, in place of those of the set."""
    fold_by: Literal["subject", "recording", "row"] | None = None
    """What these folds keep whole; by default subjects where enough are known, else recordings."""
    train_split: str | None = None
    """Split to train on, in place of folds and of "train"."""
    test_split: str | None = None
    """Split to test on, in place of folds and of "test"."""
    fractions: tuple[Fraction, ...] = ()
    """Train on each of these fractions of the training rows' labels, for instance 0.01 0.1 1;
    writes fractions.json and the curve fractions.svg."""
    repeats: Repeats = 3
    """How often each fraction is sampled; every sample has a training with its own seed."""
