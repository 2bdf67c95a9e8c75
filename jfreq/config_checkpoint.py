"""What is saved of a run, which of it stays, and what a run starts from."""

from __future__ import annotations

from typing import Literal

from jfreq.buckets import folder_or_url
from jfreq.ranges import Count, Positive, check, checked

Part = Literal["params", "target"]
Saved = Literal["params", "last", "target"]
"""What can be read of a run: the parameters that it ends in (the best by ``checkpoint.best``, or
the mean of the snapshots of ``average``), those after its last update, or its target."""


@checked
class Source:
    """A run or bundle that gives a fresh run some of its first values (partial load)."""

    path: str
    """Run folder or bundle; a bundle has parameters only."""
    read: str = ""
    """Take what lies below this path there, for instance ``trunk``; by default all."""
    write: str = ""
    """Put it below this path here, for instance ``teacher/trunk``; by default anywhere it fits."""
    what: Saved = "params"
    """``target`` takes the state that no gradient reaches: an averaged teacher, a codebook;
    ``last`` the parameters after the last update of a run that ends in the best or an average."""
    into: Part = "params"
    """Part of the new run that it is for."""
    step: Count | None = None
    """Of a run, take the checkpoint of this step; by default what the run ends in."""

    def __post_init__(self):
        folder_or_url(self.path, "checkpoint.init_from")


@checked
class ResumeFrom:
    """A checkpoint of another run, of which a fresh run takes the whole state and goes on."""

    path: str
    """Run folder."""
    step: Count | None = None
    """By default its newest checkpoint that is whole."""

    def __post_init__(self):
        folder_or_url(self.path, "checkpoint.resume_from")


@checked
class Checkpoint:
    """When states are saved, which of them stay, and what a fresh run starts from."""

    every: Count | None = 500
    """Save each time after this many updates; None: not by their number. A run is also saved at its
    end, and when SIGTERM or SIGINT tells it to stop."""
    minutes: Positive | None = None
    """Save too when this many minutes have passed since the last time."""
    keep: Count = 2
    """Keep this many of the newest."""
    keep_every: Count | None = None
    """Save after every so many updates, and keep these checkpoints for ever."""
    best: str | None = None
    """Keep the checkpoint with the best value of this figure of metrics.jsonl beside the newest:
    ``val/loss``, ``val/accuracy``, ``eval/NAME/knn``, ... The run ends in it."""
    init_from: tuple[Source, ...] = ()
    """What a fresh run starts from, one after the other. A run or bundle alone gives its encoder;
    ``RUN,read=trunk,write=teacher,into=target`` says which part goes where."""
    resume_from: ResumeFrom | None = None
    """``RUN`` or ``RUN,step=N``: a fresh run goes on from this state of another one, parameters,
    optimiser, target, average and position in the data, for a cooldown or a longer schedule."""

    def __post_init__(self):
        check(
            self.resume_from is None or not self.init_from,
            "checkpoint.resume_from",
            "gives the whole state, so nothing is left for checkpoint.init_from; leave one out",
        )
