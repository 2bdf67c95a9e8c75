"""What lies in a folder: one walk for every kind of source, and what folder names mean.

Hidden files and folders and those that other systems leave behind (``__MACOSX``) are never looked
at. Links are followed; every folder is entered once, so that loops of links end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fnmatch
import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath, PurePosixPath

from jfreq.config import check
from jfreq.types import InputError

LEFT_BEHIND = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information")
"""Folders that operating systems make beside a person's own."""
METADATA, COLUMNS, PARTS = "metadata.json", "rows.npz", ".parts"
"""What a set of shards holds: the first two when it is finished, the last until then."""
SPLITS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLIT_OF = {word: split for split, words in SPLITS.items() for word in words}
PERSON = re.compile(
    r"(p|s|u|v|id|sub|subj|subject|user|person|participant|proband|patient|volunteer)[ _-]?\d+",
    re.I,
)
"""How folders of people are called."""
_KINDS = (
    (stat.S_ISFIFO, "is a pipe, not a file"),
    (stat.S_ISSOCK, "is a socket, not a file"),
    (stat.S_ISCHR, "is a device, not a file"),
    (stat.S_ISBLK, "is a device, not a file"),
    (stat.S_ISDIR, "is a folder, not a file"),
)


@dataclasses.dataclass(frozen=True)
class Listing:
    """Everything below ``root``, sorted: ``files`` are regular ones, links to them included."""

    root: Path
    files: tuple[Path, ...]
    folders: tuple[Path, ...]
    odd: tuple[tuple[Path, str], ...]
    """What cannot be read or entered, with the reason: pipes, links to nothing, loops."""

    def matching(self, pattern: str) -> list[Path]:
        """Files and folders whose last names match, as ``rglob`` does: ``proband*/data``."""
        *above, last = pattern.split("/")
        fits = re.compile(fnmatch.translate(last)).match
        found = (p for p in (*self.files, *self.folders) if fits(p.name))
        return sorted(p for p in found if not above or p.match(pattern))


def listing(root: Path) -> Listing:
    """Walks ``root``; ``InputError`` where it is no folder or cannot be opened."""
    check(root.is_dir(), "source", f"{root} is not a folder; name the unpacked archive")
    try:
        os.scandir(root).close()
    except OSError as error:
        raise InputError(f"source: {root} cannot be opened ({error.strerror})") from error
    walk = _Walk(root)
    return Listing(
        root, tuple(sorted(walk.files)), tuple(sorted(walk.folders)), tuple(sorted(walk.odd))
    )


class _Walk:
    """One walk: folders as they lie first, then where links lead, unless it was seen."""

    def __init__(self, root: Path):
        self.files: list[Path] = []
        self.folders: list[Path] = []
        self.odd: list[tuple[Path, str]] = []
        self._real = os.path.realpath(root)
        self._seen: dict[tuple[int, int], Path] = {}
        self._links: list[Path] = []
        self._enter(root)
        while self._links:
            links, self._links = sorted(self._links), []
            for link in links:
                self._follow(link)

    def _follow(self, link: Path) -> None:
        real = os.path.realpath(link)
        if os.path.commonpath([real, self._real]) == real:
            self.odd.append((link, "is a link to a folder above it"))
        elif (there := self._seen.get(_identity(link))) is not None:
            self.odd.append((link, f"is a link to {shown(there)}, which is read already"))
        else:
            self.folders.append(link)
            self._enter(link)

    def _enter(self, top: Path) -> None:
        waiting = [top]
        while waiting:
            folder = waiting.pop()
            try:
                self._seen[_identity(folder)] = folder
                entries = list(os.scandir(folder))
            except OSError as error:
                self.odd.append((folder, f"cannot be opened ({error.strerror})"))
                continue
            for entry in entries:
                if not hidden(entry.name):
                    self._take(folder / entry.name, entry, waiting)

    def _take(self, path: Path, entry: os.DirEntry, waiting: list[Path]) -> None:
        with contextlib.suppress(OSError):
            if entry.is_dir(follow_symlinks=False):
                if not holds_shards(path):
                    self.folders.append(path)
                    waiting.append(path)
                return
            if entry.is_dir():
                self._links.append(path)
                return
            if entry.is_file():
                self.files.append(path)
                return
        self.odd.append((path, why_no_file(path) or "cannot be read"))


def _identity(folder: Path) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def holds_shards(folder: Path) -> bool:
    """Whether `jfreq data prepare` writes here, finished or not: no recordings lie in it."""
    finished = (folder / METADATA).is_file() and (folder / COLUMNS).is_file()
    return finished or (folder / PARTS).is_dir()


def hidden(name: str) -> bool:
    """Whether a file or folder of this name is never looked at."""
    return name.startswith(".") or name in LEFT_BEHIND


def why_no_file(path: Path) -> str:
    """What keeps ``path`` from being opened as a file, empty where nothing does.

    Only looks: opening a pipe would wait for its other end for ever.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "is a link to nothing" if path.is_symlink() else "is not on disk"
    except OSError as error:
        loop = "is a link that leads back to itself"
        return loop if error.errno == errno.ELOOP else f"cannot be opened ({error.strerror})"
    except ValueError:
        return "has a name that no file can have"
    if stat.S_ISREG(mode):
        return ""
    return next((why for test, why in _KINDS if test(mode)), "is no regular file")


def is_utf8(text: str) -> bool:
    """Whether a name can be written down; the disk may hold others."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(path: PurePath | str) -> str:
    """A name for people, with ``\\xe9`` for every byte that is not UTF-8."""
    raw = os.fsencode(path) if not is_utf8(str(path)) else str(path).encode()
    return raw.decode(errors="backslashreplace")


def composed(name: str) -> str:
    """The one spelling (NFC) of a name: Macs write letters and their accents apart."""
    return unicodedata.normalize("NFC", name)


# ------------------------------------------------------------------ what folder names mean


def split_name(text: str) -> str:
    """``train``, ``validation`` or ``test`` for any of their usual names, else the text itself."""
    return _SPLIT_OF.get(text.strip().lower(), text.strip())


def splits_and_labels(paths: Sequence[str]) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """Split and class of every file, from its folders; an empty string for none.

    The class is the first folder: ``dog/1.wav``. Folders of splits may lie above the classes
    (``train/dog/1.wav``) or below them (``dog/train/1.wav``). A folder that holds all others is
    stepped over.

    Args:
      paths: of files, relative to the source, with ``/``.

    Returns:
      ``(split, label)`` for every path, and sentences that say what was guessed.
    """
    folders = [PurePosixPath(path).parts[:-1] for path in paths]
    inside, notes = _stepped_into(folders)
    folders = [parts[len(inside) :] for parts in folders]
    tops = {parts[0] for parts in folders if parts}
    splits = {name for name in tops if _is_split(name)}
    below = {parts[1] for parts in folders if len(parts) > 1}
    if splits and (splits == tops or (len(splits) > 1 and _all_hold_folders(folders, splits))):
        named = [_split_first(parts, splits) for parts in folders]
        notes += _said_splits(splits, [label for _, label in named])
        notes += [
            f"the folder {name!r} beside them is read as a class without a split"
            for name in sorted(tops - splits)
        ]
    elif len(below) > 1 and all(len(p) > 1 and _is_split(p[1]) for p in folders):
        named = [(split_name(parts[1]), parts[0]) for parts in folders]
        notes += _said_splits(below, [label for _, label in named])
    else:
        named = [("", parts[0] if parts else "") for parts in folders]
    return [(split, composed(label)) for split, label in named], tuple(notes)


def are_people(folders: Iterable[str], paths: Sequence[str]) -> bool:
    """Whether the folders of ``paths`` are people who did the same things.

    They are called ``p1``, ``user_2`` ..., and names of files come again: ``p1/walk.wav``,
    ``p2/walk.wav``. Names that are numbers say nothing of the kind.
    """
    named = set(folders)
    stems = [PurePosixPath(path).stem for path in paths]
    return (
        len(named) > 1
        and all(PERSON.fullmatch(folder) for folder in named)
        and len(set(stems)) < len(stems)
        and not any(re.fullmatch(r"[\d\s._-]+", stem) for stem in stems)
    )


def _stepped_into(folders: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], list[str]]:
    """The folders that hold all others, and a note where there are any."""
    inside: tuple[str, ...] = ()
    rest = list(folders)
    while rest and all(len(parts) > 1 for parts in rest) and len({p[0] for p in rest}) == 1:
        below = {parts[1] for parts in rest}
        if _is_split(rest[0][0]) or (len(below) == 1 and all(len(p) == 2 for p in rest)):
            break
        if all(map(_is_split, below)) and all(len(p) == 2 for p in rest):
            break
        inside += rest[0][:1]
        rest = [parts[1:] for parts in rest]
    name = "/".join(inside)
    return inside, [f"classes are the folders in {name!r}, which holds them all"] if inside else []


def _is_split(name: str) -> bool:
    return name.strip().lower() in _SPLIT_OF


def _all_hold_folders(folders: Iterable[tuple[str, ...]], names: set[str]) -> bool:
    return all(len(parts) > 1 for parts in folders if parts and parts[0] in names)


def _split_first(parts: tuple[str, ...], splits: set[str]) -> tuple[str, str]:
    if not parts or parts[0] not in splits:
        return "", parts[0] if parts else ""
    return split_name(parts[0]), parts[1] if len(parts) > 1 else ""


def _said_splits(names: Iterable[str], labels: Iterable[str]) -> list[str]:
    found = ", ".join(
        name if name == split_name(name) else f"{name} as {split_name(name)}"
        for name in sorted(names)
    )
    where = "classes are the folders in them" if any(labels) else "they hold no folders of classes"
    return [f"splits from folders: {found}; {where}"]


def natural(name: str) -> tuple:
    """Sorts names as people count: numbers first, then ``class2`` before ``class10``."""
    try:
        value = float(name)
    except ValueError:
        value = float("nan")
    if value == value and abs(value) != float("inf"):
        return (0, value, (), name)
    return (1, 0.0, tuple(_chunks(name)), name)


def _chunks(name: str) -> Iterator[tuple[int, int, str]]:
    for i, part in enumerate(re.split(r"(\d+)", name)):
        if part:
            yield (0, int(part), "") if i % 2 else (1, 0, part)
