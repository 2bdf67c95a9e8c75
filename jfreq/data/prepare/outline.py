"""The outline of a set: what has to be known of it to join its shards, without its recordings.

Whoever begins a set writes the outline beside the shards; everybody else compares theirs with it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jfreq.config import check
from jfreq.config_json import fingerprint
from jfreq.data.prepare.windowing import Cutter
from jfreq.data.shards.metadata import ShardsInfo
from jfreq.data.sources.folders import METADATA, PARTS
from jfreq.files import parse_json, read_text, write_text
from jfreq.types import InputError

SKIPPED = "skipped.txt"
OUTLINE = "outline.json"


@dataclasses.dataclass(frozen=True)
class Outline:
    """A set of shards before it is finished."""

    out: Path
    info: ShardsInfo
    """What the set will hold; rows, shards and statistics are still missing."""
    shards: int
    """Into how many the rows of the source are divided."""
    missing: tuple[str, ...]
    """What the source lists and the disk does not have: ``name: reason``."""
    cutter: Cutter
    """How the rows become windows, which took a look at all recordings to decide."""
    command: Mapping[str, Any]
    """The command in plain values: ``recipe`` and ``versions`` decide the bytes of the set; the
    rest is for messages."""

    @property
    def folder(self) -> Path:
        """Where shards lie until all of them are finished."""
        return self.out / PARTS

    @property
    def fingerprint(self) -> str:
        return fingerprint([self.command["recipe"], self.command["versions"]])

    def write(self) -> None:
        """Writes the outline beside the shards, unless there is one."""
        path = self.folder / OUTLINE
        if not path.exists():
            fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
            del fields["out"]
            fields["info"] = json.loads(self.info.to_json())
            fields["cutter"] = dataclasses.asdict(dataclasses.replace(self.cutter, signals=()))
            write_text(path, json.dumps(fields, indent=1) + "\n")

    @classmethod
    def read(cls, out: Path) -> Outline | None:
        """The outline of what was begun in ``out``; None where nothing was.

        Raises:
          InputError: for a file that is not what was written.
        """
        path = out / PARTS / OUTLINE
        if not path.exists():
            return None
        advice = f"delete {path.parent} and prepare the set again"
        value = parse_json(read_text(path, "an outline"), path, "an outline", advice=advice)
        try:
            info = ShardsInfo.from_json(json.dumps(value.pop("info")), where=str(path))
            missing = tuple(value.pop("missing"))
            cutter = Cutter(**value.pop("cutter") | {"signals": info.signals})
            return cls(out=out, info=info, missing=missing, cutter=cutter, **value)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: is not what was written ({error}); {advice}") from error

    def differs(self, command: Mapping[str, Any]) -> str:
        """What another command differs in, ``seconds 1.0, not 2.0``; empty for the same one."""
        if all(self.command[key] == command[key] for key in ("recipe", "versions")):
            return ""
        for key in ("options", "versions"):
            for name, value in command[key].items():
                if (old := self.command[key].get(name)) != value:
                    return f"{name} {old}, not {value}"
        for key in ("name", "rows"):
            if (old := self.command[key]) != command[key]:
                return f"{key} {old}, not {command[key]}"
        return "other recordings, labels, folds or splits in the source"

    def decided(self, asked: Mapping[str, str]) -> Cutter | None:
        """The cutter, where a command has the same options, whatever it calls the source."""
        options = {k: word for k, word in asked.items() if k not in ("source", "name")}
        return None if self.asked_otherwise(options) else self.cutter

    def asked_otherwise(self, asked: Mapping[str, Any]) -> str:
        """What the words of a command that only joins parts differ in; empty where they agree."""
        for name, value in asked.items():
            if (old := self.command["asked"].get(name)) != value:
                return f"{name} {old}, not {value}"
        return ""


def finished_set(outline: Outline, *, strict: bool) -> ShardsInfo | None:
    """The set where the same command has finished it; ``InputError`` for any other finished set."""
    out = outline.out
    if not (out / METADATA).exists():
        return None
    info = ShardsInfo.read(out)
    check(
        info.recipe == outline.info.recipe,
        "out",
        f"{out} holds a finished set of other data or options; choose another folder or delete it",
    )
    if strict and info.skipped:
        raise InputError(
            f"out: {out} was made without {info.skipped} rows that could not be used ({SKIPPED} "
            "names them); mend them, delete the folder and prepare it again"
        )
    return info
