"""When a run is saved, and which of its checkpoints stay: decisions on the host."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from jfreq import distributed
from jfreq.config import Checkpoint


def is_due(step: int, cfg: Checkpoint) -> bool:
    """Whether the state is saved after update ``step``, whatever the time."""
    return any(every and step % every == 0 for every in (cfg.every, cfg.keep_every))


def reasons(
    steps: Collection[int], cfg: Checkpoint, best: int | None = None
) -> dict[int, list[str]]:
    """Why the checkpoints of these steps stay, ascending; those that go have no reasons.

    ``best`` is the step of the best one. The newest always stays, so some checkpoint does.
    """
    newest = sorted(steps)[-cfg.keep :]
    figure = "" if cfg.best is None else f" by {cfg.best}"

    def why(step: int) -> list[str]:
        found = ["newest"] if step in newest else []
        found += [f"best{figure}"] if step == best else []
        always = cfg.keep_every is not None and step % cfg.keep_every == 0
        return found + [f"every {cfg.keep_every}"] * always

    return {step: why(step) for step in sorted(steps)}


class SaveClock:
    """Says when ``minutes`` have passed since the last save, the same in all processes.

    Process 0 reads its clock, and says too after how many more updates all of them ask again: half
    of those that fit into the time that is left. So they wait for each other about ten times from
    one save to the next, and not at every update.

    Args:
        minutes: From one save to the next; None: no time is ever up.
        step: The updates before the first one of this start.
        now: The clock, in seconds.
    """

    def __init__(self, minutes: float | None, step: int, now: Callable[[], float] = time.monotonic):
        self._limit, self._now = None if minutes is None else 60 * minutes, now
        self.saved(step)

    def saved(self, step: int) -> None:
        """Notes that the state after update ``step`` has been saved."""
        self._since, self._at = self._now(), step
        self._ask = step + 1

    def asks(self, step: int) -> bool:
        """Whether :meth:`is_up` is to be called after update ``step``, by all processes."""
        return self._limit is not None and step >= self._ask

    def is_up(self, step: int) -> bool:
        """Whether to save now; with several processes it waits for process 0."""
        up, more = distributed.from_chief(lambda: self._decide(step))
        self._ask = step + more
        return up

    def _decide(self, step: int) -> tuple[bool, int]:
        assert self._limit is not None
        spent = self._now() - self._since
        if spent >= self._limit:
            return True, 1
        pace = (step - self._at) / max(spent, 1e-9)
        return False, max(1, min(int(pace * (self._limit - spent) / 2), step - self._at))
