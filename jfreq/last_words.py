"""A line that is printed after this process has died without being able to say why.

Where a process of a distributed run is lost, the runtime aborts all others from a thread of its
own: no exception is raised and no handler runs. So a small process beside this one holds the line,
and prints it when the pipe between the two closes and nothing has taken the line back.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys

_COMPANION = """
import signal, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
line = ""
for line in sys.stdin:
    pass
if line.strip():
    print(line, end="", file=sys.stderr, flush=True)
"""


class LastWords:
    """What is printed on standard error if this process ends before :meth:`take_back`."""

    def __init__(self) -> None:
        self._companion = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _COMPANION],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def say(self, line: str) -> None:
        """From now on, ``line`` would be printed."""
        pipe = self._companion.stdin
        assert pipe is not None
        with contextlib.suppress(OSError, ValueError):  # it was killed, or the pipe is closed
            pipe.write(" ".join(line.split()) + "\n")
            pipe.flush()

    def take_back(self) -> None:
        """Nothing is printed any more."""
        self.say("")
