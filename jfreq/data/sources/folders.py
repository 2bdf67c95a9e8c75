"""The files of a folder, listed alike for every kind of source, and what names of folders mean.

Hidden files and folders, and folders that operating systems add (``__MACOSX``), are left out.
Links are followed; every folder is entered once, so that loops of links end.
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

_SYSTEM_FOLDERS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information")
"""Folders that operating systems and file servers add."""
METADATA, COLUMNS, PARTS = "metadata.json", "rows.npz", ".parts"
"""Files of a finished set of shards, and the folder of one that is being written."""
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
"""Names of folders that hold the recordings of one person."""
_NOT_FILES = (
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
    files: Sequence[Path]
    folders: tuple[Path, ...]
    unreadable: tuple[tuple[Path, str], ...]
    """What cannot be read or entered, with the reason: pipes, links to nothing, loops."""

    def matching(self, pattern: str) -> list[Path]:
        """Files and folders at any depth that match a pattern such as ``proband*/data``."""
        *above, last = pattern.split("/")
        matches = re.compile(fnmatch.translate(last)).match
        paths = (p for p in (*self.files, *self.folders) if matches(p.name))
        return sorted(p for p in paths if not above or p.match(pattern))


def listing(root: Path) -> Listing:
    """Everything below ``root``; ``InputError`` where it is no folder or cannot be opened."""
    check(root.is_dir(), "source", f"{root} is not a folder; name the unpacked archive")
    try:
        os.scandir(root).close()
    except OSError as error:
        raise InputError(f"source: {root} cannot be opened ({error.strerror})") from error
    walk = _Walk(root)
    walk.files.sort(key=by_parts)
    return Listing(
        root, _Paths(walk.files), tuple(sorted(walk.folders)), tuple(sorted(walk.unreadable))
    )


def by_parts(path: str) -> str:
    """Key that sorts the text of paths as their parts sort: ``a/b`` before ``a b``."""
    return path.replace("/", "\0")


class _Paths(Sequence[Path]):
    """Text as paths, which take four times the memory and are made when they are asked for."""

    def __init__(self, text: list[str]):
        self._text = text

    def __len__(self) -> int:
        return len(self._text)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return _Paths(self._text[index])
        return Path(self._text[index])


class _Walk:
    """Lists the folders in ``root`` first, then those that links lead to, each folder once."""

    def __init__(self, root: Path):
        self.files: list[str] = []
        self.folders: list[Path] = []
        self.unreadable: list[tuple[Path, str]] = []
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
            self.unreadable.append((link, "is a link to a folder above it"))
        elif (seen := self._seen.get(_identity(link))) is not None:
            self.unreadable.append((link, f"is a link to {shown(seen)}, which is read already"))
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
                self.unreadable.append((folder, f"cannot be opened ({error.strerror})"))
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
                self.files.append(str(path))
                return
        self.unreadable.append((path, why_no_file(path) or "cannot be read"))


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def holds_shards(folder: Path) -> bool:
    """Whether `jfreq data prepare` has written here, finished or not, so no recordings are here."""
    finished = (folder / METADATA).is_file() and (folder / COLUMNS).is_file()
    return finished or (folder / PARTS).is_dir()


def hidden(name: str) -> bool:
    """Whether files and folders of this name are left out."""
    return name.startswith(".") or name in _SYSTEM_FOLDERS


def why_no_file(path: Path) -> str:
    """Why ``path`` is not a file that can be opened; empty where it is one.

    Nothing is opened, because opening a pipe waits for its other end.
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
    return next((why for test, why in _NOT_FILES if test(mode)), "is not a regular file")


def is_utf8(text: str) -> bool:
    """Whether a name is valid UTF-8; names on disk may be other bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(path: PurePath | str) -> str:
    """A path as printable text, with ``\\xe9`` for every byte that is not UTF-8."""
    raw = os.fsencode(path) if not is_utf8(str(path)) else str(path).encode()
    return raw.decode(errors="backslashreplace")


def composed(name: str) -> str:
    """A name in Unicode form NFC; macOS stores letters and their accents apart (NFD)."""
    return unicodedata.normalize("NFC", name)


# ------------------------------------------------------------------ what folder names mean


def split_name(text: str) -> str:
    """``train``, ``validation`` or ``test`` for their usual names, other text as it is."""
    return _SPLIT_OF.get(text.strip().lower(), text.strip())


def splits_and_labels(paths: Sequence[str]) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """Split and class of every file by its folders; an empty string for none.

    The class is the first folder: ``dog/1.wav``. Folders of splits may lie above the classes
    (``train/dog/1.wav``) or below them (``dog/train/1.wav``). A folder that holds all others is
    ignored.

    Args:
      paths: of files, relative to the source, with ``/``.

    Returns:
      ``(split, label)`` for every path, and notes that say what was guessed.
    """
    folders = [PurePosixPath(path).parts[:-1] for path in paths]
    common, notes = _common_parents(folders)
    folders = [parts[len(common) :] for parts in folders]
    tops = {parts[0] for parts in folders if parts}
    splits = {name for name in tops if _is_split(name)}
    below = {parts[1] for parts in folders if len(parts) > 1}
    if splits and (splits == tops or (len(splits) > 1 and _all_hold_folders(folders, splits))):
        named = [_split_first(parts, splits) for parts in folders]
        notes += _splits_note(splits, [label for _, label in named])
        notes += [
            f"the folder {name!r} beside them is read as a class without a split"
            for name in sorted(tops - splits)
        ]
    elif len(below) > 1 and all(len(p) > 1 and _is_split(p[1]) for p in folders):
        named = [(split_name(parts[1]), parts[0]) for parts in folders]
        notes += _splits_note(below, [label for _, label in named])
    else:
        named = [("", parts[0] if parts else "") for parts in folders]
    return [(split, composed(label)) for split, label in named], tuple(notes)


def are_people(folders: Iterable[str], paths: Sequence[str]) -> bool:
    """Whether the folders of ``paths`` are people who did the same things.

    Folders of people are called ``p1``, ``user_2`` and the like, and names of files repeat in
    them: ``p1/walk.wav``, ``p2/walk.wav``. Names of files that are numbers name no activity.
    """
    people = set(folders)
    stems = [PurePosixPath(path).stem for path in paths]
    return (
        len(people) > 1
        and all(PERSON.fullmatch(folder) for folder in people)
        and len(set(stems)) < len(stems)
        and not any(re.fullmatch(r"[\d\s._-]+", stem) for stem in stems)
    )


def _common_parents(folders: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], list[str]]:
    """The folders that hold all others, and a note where there are any."""
    common: tuple[str, ...] = ()
    rest = list(folders)
    while rest and all(len(parts) > 1 for parts in rest) and len({p[0] for p in rest}) == 1:
        below = {parts[1] for parts in rest}
        if _is_split(rest[0][0]) or (len(below) == 1 and all(len(p) == 2 for p in rest)):
            break
        if all(map(_is_split, below)) and all(len(p) == 2 for p in rest):
            break
        common += rest[0][:1]
        rest = [parts[1:] for parts in rest]
    name = "/".join(common)
    return common, [f"classes are the folders in {name!r}, which holds them all"] if common else []


def _is_split(name: str) -> bool:
    return name.strip().lower() in _SPLIT_OF


def _all_hold_folders(folders: Iterable[tuple[str, ...]], names: set[str]) -> bool:
    return all(len(parts) > 1 for parts in folders if parts and parts[0] in names)


def _split_first(parts: tuple[str, ...], splits: set[str]) -> tuple[str, str]:
    if not parts or parts[0] not in splits:
        return "", parts[0] if parts else ""
    return split_name(parts[0]), parts[1] if len(parts) > 1 else ""


def _splits_note(names: Iterable[str], labels: Iterable[str]) -> list[str]:
    splits = ", ".join(
        name if name == split_name(name) else f"{name} as {split_name(name)}"
        for name in sorted(names)
    )
    where = "classes are the folders in them" if any(labels) else "they hold no folders of classes"
    return [f"splits from folders: {splits}; {where}"]


def natural(name: str) -> tuple:
    """Key of natural order: numbers first, then ``class2`` before ``class10``."""
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
