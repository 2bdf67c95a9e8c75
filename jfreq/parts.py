"""Parts of a work that several processes share, ``3/64`` on the command line."""

from __future__ import annotations

import re
from typing import NamedTuple

from jfreq.ranges import InputError

MOST_PARTS = 100_000


class Part(NamedTuple):
    """Part ``number`` of ``count``, counted from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, total: int) -> range:
        """The numbers of its items, of ``total``: a stretch of them."""
        first, end = (total * n // self.count for n in (self.number - 1, self.number))
        return range(first, end)


def parse_part(text: str) -> Part:
    """``3/64`` as a part.

    Raises:
      InputError: for other text, and for a number outside of 1 to the number of parts.
    """
    match = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", text)
    if match is None:
        raise InputError(f"part: {text!r} is not NUMBER/PARTS, for instance 3/64")
    part = Part(int(match[1]), int(match[2]))
    if part.count > MOST_PARTS:
        raise InputError(f"part: {part.count} parts are too many; {MOST_PARTS} are the most")
    if not 1 <= part.number <= part.count:
        raise InputError(
            f"part: {part} does not exist; parts are numbered from 1/{part.count} to "
            f"{part.count}/{part.count}"
        )
    return part
