"""How a run is watched: labelled sets that measure it, what is logged and where to."""

from __future__ import annotations

import re
from typing import Literal

from jfreq.files import local_path
from jfreq.ranges import Count, Positive, check, checked, close_match, shown

EvalKind = Literal["knn", "ridge", "collapse"]
EVAL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@checked
class Eval:
    """A labelled set on whose clip vectors the encoder is measured while it trains."""

    name: str
    """Its figures are ``eval/NAME/knn``, ``eval/NAME/ridge``, ... in metrics.jsonl."""
    data: str = ""
    """Folder of labelled shards, which training does not read."""
    every: Count | None = None
    """Measure each time after this many updates, and after the last one; None: as often as costs
    about 1 % of the arithmetic of the run, at most 50 times."""
    rows: Count = 512
    """Measure on at most so many rows, spread evenly over folds and classes."""
    kinds: tuple[EvalKind, ...] = ("knn", "ridge", "collapse")
    """``knn`` and ``ridge``: accuracy (or mAP, where a row may have several labels) of these
    probes on held-out folds; ``collapse``: ``effective_rank`` of the clip vectors and their
    standard deviation ``std``."""

    def __post_init__(self):
        check(
            EVAL_NAME.fullmatch(self.name) is not None,
            "evals",
            f"{shown(self.name)} is not a name of letters, digits and _ . -; write "
            "NAME,data=FOLDER",
        )
        check(
            bool(self.data),
            "evals",
            f"{self.name} has no data; write {self.name},data=FOLDER with a folder of labelled "
            "shards",
        )
        local_path(self.data, f"evals {self.name}, data")
        check(bool(self.kinds), "evals", f"{self.name} has no kinds; leave kinds out for all")


WRITERS = ("tensorboard", "wandb")
PROFILED = re.compile(r"(\d{1,9}):(\d{1,9})")


@checked
class Log:
    """Metrics, progress and profiles."""

    every: Count = 20
    """Metrics are means over so many updates; then they are fetched, written and shown."""
    writers: tuple[str, ...] = ("tensorboard",)
    """What gets a copy of metrics.jsonl: ``tensorboard``, ``wandb``, or ``MODULE:NAME`` of your own
    code, which --trust must name."""
    profile_steps: str | None = None
    """Profile the updates ``FIRST:LAST``, both included, into ``profile/`` of the run folder; of
    several processes the first alone."""
    peak_tflops: Positive | None = None
    """Peak of one device for MFU; None looks the device up and leaves MFU out if unknown."""

    def __post_init__(self):
        for name in self.writers:
            check(
                name in WRITERS or ":" in name,
                "log.writers",
                f"no writer {shown(name)}{close_match(name, WRITERS)}; there are "
                f"{', '.join(WRITERS)}, and MODULE:NAME of your own code",
            )
            check(self.writers.count(name) == 1, "log.writers", f"{shown(name)} is given twice")
        if self.profile_steps is not None:
            match = PROFILED.fullmatch(self.profile_steps)
            check(
                match is not None and 1 <= int(match[1]) <= int(match[2]),
                "log.profile_steps",
                "must be FIRST:LAST, two updates counted from 1, the later one last, for instance "
                f"10:15; got {shown(self.profile_steps)}",
            )

    @property
    def profiled(self) -> range:
        """The updates to profile, counted from 1."""
        first, last = map(int, (self.profile_steps or "1:0").split(":"))
        return range(first, last + 1)
