"""Are the bytes of a set the same, whoever prepares it, and whoever is killed meanwhile?

    python -P experiments/studies/parts.py                       # makes .venv-beam by uv
    python -P experiments/studies/parts.py --beam PYTHON         # an interpreter with jfreq and Beam

A set of 100,000 stand-in clips is prepared by one process; in 64 parts by 8 worker processes of which
20 are killed (SIGKILL) at random moments; and by Apache Beam, in memory and in several processes. So is
ESC-10, in 16 parts by 4 workers with 4 kills. Every file of a set is compared with what the one process
wrote, byte for byte. Writes ``experiments/results/parts.md`` and ``.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "experiments" / "results" / "parts"


class Set(NamedTuple):
    """A set to prepare, and how it is divided and disturbed."""

    title: str
    words: tuple[str, ...]
    """Of the command line."""
    parts: int
    workers: int
    kills: int


class Way(NamedTuple):
    """One way of preparing a set, and what came out."""

    name: str
    processes: int
    kills: int
    inside: int
    """Kills in the middle of a shard."""
    seconds: float
    manifest: str
    differs: tuple[str, ...]
    """Files that are not as the one process wrote them."""


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def prepare(python: str, words: tuple[str, ...], out: Path, *more: str) -> None:
    """`jfreq data prepare` in a process of its own; ends the study where it fails."""
    command = [python, "-P", "-m", "jfreq", "data", "prepare", *words, "--out", str(out), *more]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")


# ------------------------------------------------------------------ workers that are killed


class Workers:
    """Processes that prepare the parts of a set, and are killed now and then."""

    def __init__(self, task: Set, out: Path, seed: int):
        self.task, self.out = task, out
        self.kills = self.inside = self.started = 0
        self._rng = random.Random(seed)
        self._waiting = [f"{i + 1}/{task.parts}" for i in range(task.parts)]
        self._rng.shuffle(self._waiting)
        self._left = task.kills
        self._took: list[float] = []
        self._lock = threading.Lock()

    def run(self) -> None:
        threads = [threading.Thread(target=self._serve) for _ in range(self.task.workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _serve(self) -> None:
        """One worker after the other, until no part is waiting."""
        process = None
        while (part := self._next()) is not None:
            process = process or self._start()
            began, timer = time.monotonic(), self._executioner(process)
            assert process.stdin and process.stdout
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(part + "\n")
                process.stdin.flush()
            said = process.stdout.readline()
            if timer is not None:
                timer.cancel()
            with self._lock:
                if said.strip() == part:
                    self._took.append(time.monotonic() - began)
                    continue
                self._waiting.append(part)  # it was killed: somebody else continues
            if process.wait() != -signal.SIGKILL:
                raise SystemExit(f"a worker ended with {process.returncode} in part {part}")
            process = None
        if process is not None and process.stdin:
            process.stdin.close()
            process.wait()

    def _next(self) -> str | None:
        with self._lock:
            return self._waiting.pop(0) if self._waiting else None

    def _start(self) -> subprocess.Popen:
        self.started += 1
        command = [sys.executable, "-P", __file__, "--worker", str(self.out), *self.task.words]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert process.stdout and process.stdout.readline().strip() == "ready"
        return process

    def _executioner(self, process: subprocess.Popen) -> threading.Timer | None:
        """Kills a worker at a moment of the part that it begins, with the chance that is left."""
        with self._lock:
            chance = self._left / max(1, len(self._waiting))
            if self._rng.random() > chance or self._left == 0:
                return None
            typical = sum(self._took) / len(self._took) if self._took else 2.0
            timer = threading.Timer(self._rng.uniform(0, 0.8 * typical), self._kill, [process])
        timer.start()
        return timer

    def _kill(self, process: subprocess.Popen) -> None:
        with self._lock:
            if process.poll() is None and self._left:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                self._left -= 1
                self.kills += 1
                self.inside += any(
                    (self.out / ".parts").glob(f".*array_record*-{process.pid}.draft")
                )


def work(out: str, words: list[str]) -> None:
    """A worker: prepares the parts that it is told, one after the other."""
    from jfreq.cli import main as command

    print("ready", flush=True)
    for part in sys.stdin:
        command(["data", "prepare", *words, "--out", out, "--part", part.strip()])
        print(part.strip(), flush=True)


# ------------------------------------------------------------------ comparing


def compare(task: Set, home: Path, beam: str) -> list[Way]:
    """All ways of preparing one set."""
    plain, found = home / "plain", []

    def add(name: str, out: Path, began: float, processes: int, kills: int = 0, inside: int = 0):
        seconds, right, have = time.monotonic() - began, digests(plain), digests(out)
        differs = tuple(
            sorted(k for k in right.keys() | have.keys() if right.get(k) != have.get(k))
        )
        manifest = json.loads((out / "metadata.json").read_text())["manifest"]
        found.append(Way(name, processes, kills, inside, seconds, manifest, differs))
        print(task.title, found[-1], flush=True)
        if out != plain:
            shutil.rmtree(out)

    began = time.monotonic()
    prepare(sys.executable, task.words, plain)
    add("one process", plain, began, 1)
    began, workers = time.monotonic(), Workers(task, home / "parts", seed=0)
    workers.run()
    prepare(sys.executable, task.words, home / "parts", "--finish")
    name = f"{task.parts} parts, {task.workers} workers at once"
    add(name, home / "parts", began, workers.started, workers.kills, workers.inside)
    for name, processes, options in (
        ("Beam, DirectRunner in memory", 1, ()),
        (
            "Beam, DirectRunner, multi_processing", 2,
            ("--runner-options", "direct_num_workers=2", "direct_running_mode=multi_processing"),
        ),
    ):  # fmt: skip
        began = time.monotonic()
        prepare(beam, task.words, home / "beam", "--runner", "DirectRunner", *options)
        add(name, home / "beam", began, processes)
    return found


def with_beam() -> str:
    """An interpreter with jfreq and Apache Beam, in an environment of its own that uv makes."""
    folder = ROOT / ".venv-beam"
    python = str(folder / "bin" / "python")
    if not Path(python).exists():
        uv = [sys.executable, "-m", "uv"]
        subprocess.run([*uv, "venv", "-q", "--python", sys.executable, str(folder)], check=True)
        subprocess.run(
            [*uv, "pip", "install", "-q", "--python", python, "-e", f"{ROOT}[beam]"], check=True
        )
    return python


def page(sets: dict[str, list[Way]], sentence: str, versions: str) -> str:
    """The results as Markdown."""
    lines = [
        "# Sets prepared by many",
        "",
        "`python -P experiments/studies/parts.py`: one set prepared in several ways. Every file, "
        "`metadata.json` among them, is compared byte for byte with what one process wrote. Kills are "
        "SIGKILLs at random moments; another worker goes on with the part.",
        "",
        f"{sentence} {versions}",
        "",
        "| set | prepared by | processes | kills | in the middle of a shard | s | manifest | bytes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for title, ways in sets.items():
        for way in ways:
            same = f"{len(way.differs)} files differ" if way.differs else "the same"
            lines.append(
                f"| {title} | {way.name} | {way.processes} | {way.kills or ''} | {way.inside or ''} "
                f"| {way.seconds:.0f} | {way.manifest[:12]} | {same} |"
            )
    return "\n".join(lines) + "\n"


def tasks(clips: int, data: Path) -> list[Set]:
    """The sets: stand-in clips, and ESC-10 where it is on disk."""
    stand_in = ("synthetic:tones", "--n", str(clips), "--seconds", "0.1")
    found = []
    if (data / "esc10").is_dir():
        found.append(Set("ESC-10", ("esc10", "--source", str(data / "esc10")), 16, 4, 4))
    return [*found, Set(f"{clips:,} stand-in clips", stand_in, 64, 8, 20)]


def main() -> None:
    from jfreq.files import write_json, write_text
    from jfreq.monitoring import provenance

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--beam", help="an interpreter with jfreq and Apache Beam")
    parser.add_argument("--clips", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    data = Path(os.environ.get("JFREQ_DATA", ROOT.parent / "shared" / "data"))
    beam = args.beam or with_beam()
    facts = provenance.facts()
    sets: dict[str, list[Way]] = {}
    with tempfile.TemporaryDirectory() as tmp:
        for task in tasks(args.clips, data):
            sets[task.title] = compare(task, Path(tmp) / task.title.split()[-1], beam)
    report: dict[str, Any] = {k: [way._asdict() for way in ways] for k, ways in sets.items()}
    code = "from importlib.metadata import version as v; print(v('apache-beam'), v('protobuf'))"
    said = subprocess.run([beam, "-c", code], capture_output=True, text=True, check=True).stdout
    name, protobuf = said.split()
    versions = f"Apache Beam {name} in an environment of its own, with protobuf {protobuf}."
    write_json(args.out.with_suffix(".json"), {**facts, "beam": said.split(), "sets": report})
    text = page(sets, provenance.sentence(facts) + ".", versions)
    write_text(args.out.with_suffix(".md"), text)
    print(text)
    if any(way.differs for ways in sets.values() for way in ways):
        raise SystemExit(1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2], sys.argv[3:])
    else:
        main()
