"""Kills a training of two processes whose folder is in object storage, again and again.

    python -P experiments/studies/bucket_faults.py --out experiments/results/faults
    python -P experiments/studies/bucket_faults.py --kills 3 --store gs

An emulator of the store runs on loopback (moto for S3, gcp-storage-emulator for Google's). The run is
done once undisturbed and timed. Then the same run in another folder is started over and over. At a
moment sampled uniformly over that time, which shrinks where runs end before, both processes get SIGKILL, or only one of them, and the
other a little later. Before each start what lies in the store is examined: a checkpoint whose digests
exist must be whole. What the run ends with must be what the undisturbed one ended with, bit for bit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
import soak

from jfreq import checksums
from jfreq.buckets import Bucket
from jfreq.testing import finish_processes, object_store, start_processes
from jfreq.train.stored import LATE_FILES

LIMIT_S = 400


class Training:
    """The command, and where its two processes write."""

    def __init__(self, home: Path, steps: int, log: Path):
        recipe = home / "recipe.py"
        text = soak.RECIPE.format(steps=steps).replace("Mesh(1, 1, 1)", "Mesh(2, 2, 1)")
        recipe.write_text(text)
        self._words = ["-P", "-m", "jfreq", "train", f"{recipe}:tiny", "--data", str(home / "shards"),
                       "--workdir"]  # fmt: skip
        self._log = log

    def whole(self, url: str) -> float:
        """Runs to the end; the seconds that it took."""
        began = time.monotonic()
        done = finish_processes(start_processes([*self._words, url]), limit_s=LIMIT_S)
        self._log.write_text("\n".join(d.err for d in done))
        if any(d.code for d in done):
            raise SystemExit(f"the run ended with {[d.code for d in done]}:\n{done[0].err}")
        return time.monotonic() - began

    def killed(self, url: str, after: float, apart: float) -> bool:
        """Starts, and after seconds kills both processes, the first ``apart`` seconds earlier (or
        the second, for a negative number); whether they still ran."""
        runs = start_processes([*self._words, url])
        end = time.monotonic() + after
        while time.monotonic() < end and any(run.poll() is None for run in runs):
            time.sleep(0.02)
        alive = all(run.poll() is None for run in runs)
        for run in runs if apart >= 0 else runs[::-1]:
            run.send_signal(signal.SIGKILL)
            time.sleep(abs(apart))
            apart = 0
        ended = finish_processes(runs, limit_s=LIMIT_S)
        if not alive and any(d.code not in (0, -signal.SIGKILL) for d in ended):
            raise SystemExit(f"the run ended with {[d.code for d in ended]}:\n{ended[0].err}")
        return alive


def examine(url: str, home: Path) -> tuple[int, int]:
    """How many checkpoints exist, and how many were being written; all that exist must be whole."""
    bucket = Bucket(url, "run")
    names = bucket.sizes("checkpoints")
    steps = {name.split("/")[1] for name in names}
    marked = {step for step in steps if f"checkpoints/{step}/{checksums.FILE}" in names}
    with tempfile.TemporaryDirectory(dir=home) as folder:
        for step in marked:
            files = [n for n in names if n.startswith(f"checkpoints/{step}/")]
            bucket.download({name: Path(folder) / name for name in files})
            checksums.verify(Path(folder) / "checkpoints" / step, step=int(step))
    for line in (bucket.read("metrics.jsonl") or b"").splitlines():
        json.loads(line)
    return len(marked), len(steps - marked)


def state(url: str) -> dict[str, str]:
    """A digest of each array of the newest checkpoint: parameters and optimiser."""
    bucket = Bucket(url, "run")
    names = bucket.sizes("checkpoints")
    newest = max(int(name.split("/")[1]) for name in names)
    found = {"step": str(newest)}
    for name in sorted(n for n in names if n.startswith(f"checkpoints/{newest}/state/")):
        last = Path(name).name  # what holds a time is no array
        if "array_metadatas" not in name and last[0] != "_" and last not in LATE_FILES:
            found[name] = hashlib.sha256(bucket.read(name) or b"").hexdigest()
    return found


def unequal(wanted: dict[str, str], found: dict[str, str]) -> set[str]:
    return {name for name in {*wanted, *found} if wanted.get(name) != found.get(name)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=1e9, help="kill no more after this long")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--store", choices=["s3", "gs"], default="s3")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write OUT.json and OUT.md")
    args = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
    )
    with tempfile.TemporaryDirectory(prefix="jfreq-faults-") as folder:
        home = Path(folder)
        os.environ["JFREQ_CACHE"] = str(home / "cache")
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(home / "compiled"))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
        with object_store(args.store) as env:
            os.environ.update(env)
            found = study(home, args)
    print(line_of(found), flush=True)
    if args.out:
        write(args.out, found)
    if found["differs"] or found["left"]:
        raise SystemExit(1)


def study(home: Path, args: Any) -> dict[str, Any]:
    from jfreq.data.prepare.run import prepare

    prepare("synthetic:tones", home / "shards", n=48, seconds=1.0, progress=False)
    training = Training(home, args.steps, home / "log.txt")
    root = f"{args.store}://bucket"
    training.whole(f"{root}/first")  # fills the caches of programs
    whole_s = training.whole(f"{root}/whole")
    wanted, rng = state(f"{root}/whole"), np.random.default_rng(args.seed)
    kills = ended = cut = existed = rounds = 0
    differs: set[str] = set()
    url, span = f"{root}/broken0", whole_s
    end = time.monotonic() + 60 * args.minutes
    while kills < args.kills and time.monotonic() < end:
        after, apart = rng.uniform(0, span), float(rng.choice([0, 0, 1.0, -1.0]))
        if training.killed(url, after, apart):
            kills += 1
            whole, half = examine(url, home)
            cut, existed = cut + bool(half), existed + whole
            print(f"{kills} kills, after {cut} a checkpoint was half uploaded", flush=True)
            continue
        ended += 1
        span = 0.9 * span  # it was quicker, or it went on from near its end
        training.whole(url)
        differs |= unequal(wanted, state(url))
        rounds += 1
        url = f"{root}/broken{rounds}"
    training.whole(url)
    differs |= unequal(wanted, state(url))
    names = Bucket(url, "run").sizes("checkpoints")
    left = [n for n in names if "/parts/" in n or "damaged" in n]
    left += [f"{examine(url, home)[1]} unfinished"] * bool(examine(url, home)[1])
    return {
        "store": args.store, "kills": kills, "cut": cut, "existed": existed, "ended": ended + 1,
        "steps": args.steps, "whole_s": round(whole_s, 1), "arrays": len(wanted) - 1,
        "differs": sorted(differs), "left": left,
    }  # fmt: skip


def line_of(found: dict[str, Any]) -> str:
    """The outcome in one line."""
    equal = (
        "equal to the undisturbed run" if not found["differs"] else f"DIFFERS {found['differs']}"
    )
    left = f", LEFT BEHIND: {found['left'][:5]}" if found["left"] else ""
    return (
        f"{found['store']}: {found['kills']} kills, after {found['cut']} a checkpoint was half "
        f"uploaded, "
        f"{found['whole_s']} s undisturbed: {equal}{left}"
    )


def write(out: Path, found: dict[str, Any]) -> None:
    """The outcome as JSON and as a table in Markdown."""
    from jfreq.files import write_json, write_text
    from jfreq.monitoring import provenance

    write_json(out.with_suffix(".json"), {**provenance.facts(), **found})
    name = {"s3": "S3 (moto)", "gs": "Google Cloud Storage (gcp-storage-emulator)"}[found["store"]]
    equal = "no" if found["differs"] else "yes"
    text = f"""# Kills of a training in object storage

`python -P experiments/studies/bucket_faults.py --out experiments/results/faults`: two processes of two
devices train in a folder of an emulated store and get SIGKILL at random moments, both at once or one
a second before the other, until they have been killed often enough; then they end by themselves.
After each kill every checkpoint whose digests existed was read back and verified, and every line of
the metrics was parsed.

| store | kills of both processes | SIGKILLs | after which a half uploaded checkpoint lay there | finished checkpoints read back and verified | half-written ones among these | times to the end | same bits ({found["arrays"]} files of arrays) | left behind |
|---|---|---|---|---|---|---|---|---|
| {name} | {found["kills"]} | {2 * found["kills"]} | {found["cut"]} | {found["existed"]} | 0 | {found["ended"]} | {equal} | {len(found["left"]) or "nothing"} |

The undisturbed run of {found["steps"]} steps takes {found["whole_s"]} s and saves every second step.
"""
    write_text(out.with_suffix(".md"), text)


if __name__ == "__main__":
    main()
