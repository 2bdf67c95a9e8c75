"""Kills jobs at random moments, starts the same command again, and compares what comes out.

    make soak                                   # everything: 30 kills of a training, 10 of each other
    python -P experiments/studies/soak.py --only train prepare --kills 3 --out soak

Each job first runs undisturbed, which is timed; then the same job runs in another folder and is
killed (SIGKILL, the process and its children) at moments sampled uniformly over that time, each time
started again with the same words, until it has been killed often enough and ends by itself. What it
leaves must be what the undisturbed job left: the parameters of the last checkpoint bit for bit,
shards and bundles byte for byte, tables with the same numbers. Files that only the disturbed job
has are counted as left behind.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

RECIPE = '''
"""The smallest run that does everything: a few steps of a tiny SSAST."""
from jfreq.ablate import Ablation, change
from jfreq.config import Checkpoint, Experiment, Log, Mesh, Optim, replace
from jfreq.methods.ssast import SSAST
from jfreq.nn.vit import ViT

tiny = Experiment(
    name="tiny",
    method=SSAST(encoder=ViT(width=32, depth=1, heads=2), passes=1, mask=16),
    optim=Optim(lr=1e-3, warmup=2), mesh=Mesh(1, 1, 1),
    checkpoint=Checkpoint(every=2, keep=2), log=Log(every=1, writers=()),
    steps={steps}, batch=8,
)
'''
GRID = """
two = Ablation(
    name="two", question="few or many?", base=replace(tiny, steps=2), probe="ridge",
    factors={"mask": {"few": change(method__mask=8), "many": change(method__mask=16)}},
)
"""
LIMIT_S = 600


class Job(NamedTuple):
    """A command line, where ``{out}`` is the folder that it writes; and what must be equal."""

    words: tuple[str, ...]
    result: Callable[[Path], Mapping[str, Any]]
    kills: int
    start: Callable[[Path], None] = lambda out: None
    """Puts into ``out`` what the job finds there."""
    compiles: bool = True
    """Whether its first run takes longer than the next ones, since it fills the caches."""


class Outcome(NamedTuple):
    """``whole_s``: seconds of the undisturbed job; ``saving`` kills fell into a checkpoint's
    write; ``differs`` names what is not equal, ``left`` the files that only kills explain."""

    name: str
    kills: int
    ended: int
    saving: int
    whole_s: float
    differs: tuple[str, ...]
    left: tuple[str, ...]

    @property
    def good(self) -> bool:
        return not self.differs and not self.left


# ------------------------------------------------------------------ what a job leaves


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*")) if path.is_file()
    }  # fmt: skip


def parameters(run: Path) -> dict[str, str]:
    """A digest of every parameter of the last checkpoint, and the metrics that do not say when."""
    from jfreq import param_paths
    from jfreq.monitoring.metrics_writer import read_metrics
    from jfreq.train import checkpoint

    leaves = param_paths.flatten(checkpoint.load_run(run).params)
    found = {
        name: hashlib.sha256(np.asarray(x).tobytes()).hexdigest() for name, x in leaves.items()
    }
    last = read_metrics(run)[-1]
    return {**found, "last": json.dumps({k: last[k] for k in ("step", "loss", "grad_norm")})}


def trained(out: Path) -> dict[str, str]:
    """Parameters of every run below a folder."""
    runs = [path.parent for path in sorted(out.rglob("checkpoints")) if path.is_dir()]
    return {
        f"{run.relative_to(out)}:{name}": value
        for run in runs for name, value in parameters(run).items()
    }  # fmt: skip


def numbers(path: Path) -> dict[str, Any]:
    """The numbers of a table, without those that say when and where."""
    return {path.name: _timeless(json.loads(path.read_text()))}


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        ignored = ("seconds", "minutes", "train_s", "probe_s", "machine", "commit", "took", "rate",
                  "run_s", "date", "examples_per_s", "step_time")  # fmt: skip
        return {k: _timeless(v) for k, v in value.items() if k not in ignored}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def drafts(out: Path, whole: Path) -> tuple[str, ...]:
    """Files of unfinished writing that a finished job should not leave."""
    marks = (".draft", ".tmp", "orbax-checkpoint-tmp", "damaged-", ".parts")
    names = {str(path.relative_to(out)) for path in out.rglob("*")}
    other = {str(path.relative_to(whole)) for path in whole.rglob("*")}
    return tuple(sorted(n for n in names - other if any(m in n for m in marks)))


# ------------------------------------------------------------------ running and killing


def start(words: tuple[str, ...], env: Mapping[str, str], log: Path) -> subprocess.Popen:
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "jfreq", *words], env=dict(env), stdout=file,
            stderr=file, start_new_session=True,
        )  # fmt: skip


def finish(run: subprocess.Popen, log: Path) -> None:
    """Waits for a process that must end well."""
    if run.wait(LIMIT_S):
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise SystemExit(f"{log}: the job ended with {run.returncode}\n{tail}")


def kill(run: subprocess.Popen) -> bool:
    """Whether the process was still there to be killed."""
    alive = run.poll() is None
    if alive:
        os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    return alive


def soak(name: str, job: Job, home: Path, env: Mapping[str, str], seed: int) -> Outcome:
    """Runs a job undisturbed, then with kills; compares."""
    whole, broken = home / name / "whole", home / name / "broken"
    for out in (whole, broken):
        out.mkdir(parents=True)
        job.start(out)
    log = home / name / "log.txt"

    def line(out: Path) -> tuple[str, ...]:
        return tuple(word.format(out=out) for word in job.words)

    began = time.monotonic()
    finish(start(line(whole), env, log), log)
    if job.compiles:  # what a start takes from now on
        timed = home / name / "timed"
        timed.mkdir()
        job.start(timed)
        began = time.monotonic()
        finish(start(line(timed), env, log), log)
    whole_s = time.monotonic() - began
    rng, kills, ended, saving = np.random.default_rng(seed), 0, 0, 0
    while kills < job.kills:
        run = start(line(broken), env, log)
        time.sleep(rng.uniform(0, whole_s))
        if kill(run):
            kills += 1
            saving += any(broken.rglob("*.orbax-checkpoint-tmp*"))
        elif run.returncode:
            finish(run, log)
        else:  # it was quicker: begin again from nothing
            ended += 1
            check(job, whole, broken)
            shutil.rmtree(broken)
            broken.mkdir()
            job.start(broken)
    finish(start(line(broken), env, log), log)
    return Outcome(
        name, kills, ended + 1, saving, whole_s, check(job, whole, broken), drafts(broken, whole)
    )


def check(job: Job, whole: Path, broken: Path) -> tuple[str, ...]:
    """Names of what the disturbed job left otherwise."""
    wanted, found = job.result(whole), job.result(broken)
    return tuple(k for k in dict.fromkeys([*wanted, *found]) if wanted.get(k) != found.get(k))


# ------------------------------------------------------------------ the jobs


def jobs(home: Path, kills: int, steps: int) -> dict[str, Job]:
    """The six jobs; those after ``train`` need ``home/run`` and ``home/shards``."""
    recipe, shards, run = home / "recipe.py", str(home / "shards"), str(home / "run")
    recipe.write_text(RECIPE.format(steps=steps) + GRID)
    others = max(1, round(kills / 3))
    tiny = f"{recipe}:tiny"

    def copy_run(out: Path) -> None:
        shutil.copytree(home / "run", out / "run")

    return {
        "train": Job(("train", tiny, "--data", shards, "--workdir", "{out}/run"),
                     lambda out: parameters(out / "run"), kills),
        "prepare": Job(("data", "prepare", "synthetic:tones", "--n", "2000", "--seconds", "1",
                        "--out", "{out}/shards"), lambda out: digests(out / "shards"), others,
                       compiles=False),
        "finetune": Job(("finetune", run, "--data", shards, "--workdir", "{out}/tuned", "--steps",
                         "6", "--batch", "8", "--checkpoint.every", "2", "--folds", "1", "2",
                         "--log.every", "1"),
                        lambda out: {**trained(out), **numbers(out / "tuned" / "results.json")},
                        others),
        "probe": Job(("probe", "{out}/run", "--data", shards, "--kinds", "ridge", "knn"),
                     lambda out: numbers(out / "run" / "results.json"), others, copy_run),
        "ablate": Job(("ablate", f"{recipe}:two", "--data", shards, "--workdir", "{out}/grid",
                       "--trainings", "1"),
                      lambda out: {**trained(out), **_table(out / "grid" / "grid.json")}, others),
        "export": Job(("export", run, "--out", "{out}/encoder"),
                      lambda out: digests(out / "encoder"), others),
    }  # fmt: skip


def _table(path: Path) -> dict[str, Any]:
    return {"grid": _timeless(json.loads(path.read_text())["cells"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=30, help="of the training; others a third")
    parser.add_argument("--steps", type=int, default=60, help="of the training")
    parser.add_argument("--only", nargs="*", default=(), help="names of jobs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write OUT.json and OUT.md")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="jfreq-soak-") as folder:
        found = run_all(Path(folder), args.kills, args.steps, args.only, args.seed)
    if args.out:
        write(args.out, found)
    if not all(outcome.good for outcome in found):
        raise SystemExit(1)


def run_all(home: Path, kills: int, steps: int, only: Any = (), seed: int = 0) -> list[Outcome]:
    """Every job of ``only``, or all; a line is printed for each."""
    env = dict(os.environ) | {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}
    env.setdefault("JAX_COMPILATION_CACHE_DIR", str(home / "compiled"))
    env.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    env.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    todo = jobs(home, kills, steps)
    unknown = [name for name in only if name not in todo]
    if unknown:
        raise SystemExit(f"no job {unknown[0]!r}; there are: {', '.join(todo)}")
    todo = {name: job for name, job in todo.items() if not only or name in only}
    log = home / "log.txt"
    if set(todo) - {"prepare"}:
        words = ("data", "prepare", "synthetic:tones", "--n", "48", "--seconds", "1",
                 "--out", str(home / "shards"))  # fmt: skip
        finish(start(words, env, log), log)
    if set(todo) - {"prepare", "train", "ablate"}:
        words = ("train", f"{home / 'recipe.py'}:tiny", "--steps", "4", "--data",
                 str(home / "shards"), "--workdir", str(home / "run"))  # fmt: skip
        finish(start(words, env, log), log)
    found = []
    for i, (name, job) in enumerate(todo.items()):
        found.append(soak(name, job, home, env, seed + i))
        print(line_of(found[-1]), flush=True)
    return found


def line_of(outcome: Outcome) -> str:
    """One job in one line."""
    result = "equal to the undisturbed job" if not outcome.differs else (
        f"DIFFERS in {', '.join(outcome.differs[:5])}"
    )  # fmt: skip
    left = f", LEFT BEHIND: {', '.join(outcome.left[:5])}" if outcome.left else ""
    inside = f" ({outcome.saving} while a checkpoint was written)" if outcome.saving else ""
    return (
        f"{outcome.name:9} {outcome.kills} kills{inside}, {outcome.ended} times to the end, "
        f"{outcome.whole_s:.1f} s undisturbed: {result}{left}"
    )


def write(out: Path, found: list[Outcome]) -> None:
    """The outcomes as JSON and as a table in Markdown."""
    from jfreq.files import write_json, write_text
    from jfreq.monitoring import provenance

    rows = [outcome._asdict() for outcome in found]
    write_json(out.with_suffix(".json"), {**provenance.facts(), "jobs": rows})
    lines = ["| job | kills | inside a checkpoint's write | equal | left behind |",
             "|---|---|---|---|---|"]  # fmt: skip
    for o in found:
        equal = "no: " + ", ".join(o.differs[:3]) if o.differs else "yes"
        lines.append(
            f"| {o.name} | {o.kills} | {o.saving} | {equal} | {len(o.left) or 'nothing'} |"
        )
    write_text(out.with_suffix(".md"), "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
