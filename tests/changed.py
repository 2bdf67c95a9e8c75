"""Prints what `make test-quick` runs: the tests of the files that differ from main.

A file of the package is tested by the file of its name, or else by its whole package; always by the
layers and by a golden step of two recipes.
"""

import subprocess
from pathlib import Path

TESTS = Path("tests")
ALWAYS = (
    "tests/test_layers.py",
    "tests/test_golden.py::test_golden_step[ssast_nano]",
    "tests/test_golden.py::test_golden_step[mae_hapt]",
)


def git(*words: str) -> list[str]:
    return subprocess.run(["git", *words], capture_output=True, text=True).stdout.splitlines()


def tests_of(path: Path) -> Path | None:
    """The tests of one changed file, if there are any."""
    if path.parts[0] == "tests":
        return path if path.name.startswith("test_") and path.is_file() else None
    if path.parts[0] != "jfreq" or path.suffix != ".py":
        return None
    room = TESTS.joinpath(*path.parts[1:-1])
    own = room / f"test_{path.stem}.py"
    if own.is_file():
        return own
    return room if room != TESTS and room.is_dir() else None


if __name__ == "__main__":
    (base,) = git("merge-base", "HEAD", "main") or git("merge-base", "HEAD", "origin/main") or [
        "HEAD"
    ]  # fmt: skip
    names = git("diff", "--name-only", base) + git("ls-files", "--others", "--exclude-standard")
    found = {str(tests) for name in names if (tests := tests_of(Path(name)))}
    print(*sorted(found), *ALWAYS)
