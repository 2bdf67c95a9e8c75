"""The tests of damaged input and of killed jobs, in one table.

    python -P experiments/studies/robustness.py                 # the suites; the soak as it was last run
    python -P experiments/studies/robustness.py --kills 30      # and the soak anew, about an hour

Runs the suites of damaged and hostile input, which are tests, and collects the counts that they
print; runs the soak where ``--kills`` asks for it. Writes ``experiments/results/robustness.md`` and
``.json``. Ends with 1 where anything broke.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "experiments" / "results" / "robustness"


class Suite(NamedTuple):
    """A file of tests, what it tries, and patterns of the counts that it must print."""

    tests: str
    tries: str
    counts: tuple[str, ...]


SUITES = (
    Suite(
        "tests/data/test_hostile.py",
        "tables and archives that are odd, damaged, lying or malicious, through `data prepare`",
        (r"\d+ tables and archives read, .*", r"\d+ refused by name, .*"),
    ),
    Suite(
        "tests/export/test_bundle_checks.py",
        "bundles of which a file is cut, flipped, missing, lying or of another model",
        (r"\d+ damaged bundles: .*",),
    ),
    Suite(
        "tests/test_damage.py",
        "run folders with damaged checkpoints, settings and metrics, resumed and looked at",
        (r"\d+ damaged run folders: .*", r"\d+ flipped bits: .*"),
    ),
    Suite(
        "tests/cli/test_lines.py",
        "command lines with a wrong value, file, name or place",
        (r"\d+ command lines: .*",),
    ),
)


def run(suite: Suite) -> dict[str, Any]:
    """Runs one suite; its counts, and whether every test passed."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", suite.tests],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    counts = [m[0] for c in suite.counts for m in re.finditer(f"^{c}$", done.stdout, re.M)]
    good = done.returncode == 0 and len(counts) == len(suite.counts)
    if not good:
        print(done.stdout[-3000:] + done.stderr[-2000:], file=sys.stderr)
    seconds = time.perf_counter() - began
    print(f"{suite.tests}: {'; '.join(counts) or 'FAILED'} ({seconds:.0f} s)", flush=True)
    return {"tests": suite.tests, "tries": suite.tries, "counts": counts, "good": good}


def soaked(kills: int | None) -> list[dict[str, Any]]:
    """The jobs of the soak, run anew or as they were last written."""
    if kills is None:
        last = RESULTS.with_suffix(".json")
        return json.loads(last.read_text())["jobs"] if last.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "soak"
        words = [ROOT / "experiments" / "studies" / "soak.py", "--kills", str(kills), "--out", out]
        subprocess.run([sys.executable, "-P", *map(str, words)], check=False)
        jobs = json.loads(out.with_suffix(".json").read_text())["jobs"]
    return [job | {"good": not job["differs"] and not job["left"]} for job in jobs]


def page(suites: list[dict[str, Any]], jobs: list[dict[str, Any]], made: str) -> str:
    """The results as Markdown."""
    lines = [
        "# Robustness against damaged input and kills",
        "",
        f"Made by `python -P experiments/studies/robustness.py`. {made}",
        "",
        "## Damaged and hostile input",
        "",
        "Every case must end with the right values, with the file named and skipped, or with one "
        "line and exit code 2; never with a traceback, a hang of more than 20 seconds, code that "
        "was executed, or wrong values without a message.",
        "",
        "| input | outcome | all as required |",
        "|---|---|---|",
    ]
    lines += [
        f"| {s['tries']} (`{s['tests']}`) | {'; '.join(s['counts'])} | "
        f"{'yes' if s['good'] else 'NO'} |"
        for s in suites
    ]
    lines += [
        "",
        "## Killed at random moments",
        "",
        "Each job runs once undisturbed. The same job is then killed with SIGKILL at moments sampled "
        "uniformly over that time, and the same command is started again until it ends. "
        "Parameters must then be equal bit for bit, shards and bundles byte for byte, and tables "
        "number for number; no draft may be left behind.",
        "",
        "| job | kills | of them with a half-written checkpoint there | the same result | left behind |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {j['name']} | {j['kills']} | {j['saving'] or '-'} | "
        f"{'NO: ' + ', '.join(j['differs'][:3]) if j['differs'] else 'yes'} | "
        f"{', '.join(j['left'][:3]) or 'nothing'} |"
        for j in jobs
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    from jfreq.files import write_json, write_text
    from jfreq.monitoring import provenance

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, help="of the training; of the other jobs a third")
    args = parser.parse_args()
    suites, jobs = [run(suite) for suite in SUITES], soaked(args.kills)
    facts = provenance.facts()
    write_json(RESULTS.with_suffix(".json"), {**facts, "suites": suites, "jobs": jobs})
    write_text(RESULTS.with_suffix(".md"), page(suites, jobs, provenance.sentence(facts)))
    if not all(part["good"] for part in [*suites, *jobs]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
