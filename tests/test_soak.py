"""The soak in short: a real process, killed at a random moment, ends where an undisturbed one does.

Kills of a training are in test_train.py; `make soak` does many of every job.
"""

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_a_killed_job_ends_like_an_undisturbed_one(root, tmp_path):
    words = f"--kills 1 --only prepare --out {tmp_path / 'soak'}".split()
    command = [sys.executable, "-P", str(root / "experiments" / "studies" / "soak.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    (job,) = json.loads((tmp_path / "soak.json").read_text())["jobs"]
    assert (job["name"], job["kills"]) == ("prepare", 1)
    assert job["differs"] == [] and job["left"] == []
    assert "| prepare | 1 |" in (tmp_path / "soak.md").read_text()
