"""The soak in short: real processes, killed at random moments, end where undisturbed ones do."""

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_killed_jobs_end_like_undisturbed_ones(root, tmp_path):
    words = f"--kills 2 --steps 12 --only train prepare --out {tmp_path / 'soak'}".split()
    command = [sys.executable, "-P", str(root / "experiments" / "soak.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    train, prepare = json.loads((tmp_path / "soak.json").read_text())["jobs"]
    assert (train["name"], train["kills"]) == ("train", 2)
    assert (prepare["name"], prepare["kills"]) == ("prepare", 1)
    for job in (train, prepare):
        assert job["differs"] == [] and job["left"] == []
    assert "| train | 2 |" in (tmp_path / "soak.md").read_text()
