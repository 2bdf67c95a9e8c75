"""The study of kills in short: two killed processes end with the bits of undisturbed ones."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("moto")
pytest.importorskip("s3fs")
pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.long]


def test_a_killed_run_in_a_store_ends_like_an_undisturbed_one(root, tmp_path):
    script = root / "experiments" / "studies" / "bucket_faults.py"
    words = ["--kills", "1", "--steps", "4", "--out", str(tmp_path / "faults")]
    done = subprocess.run(
        [sys.executable, "-P", str(script), *words], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "faults.json").read_text())
    assert (found["kills"], found["differs"], found["left"]) == (1, [], [])
    assert found["arrays"] > 100
    assert "| S3 (moto) | 1 |" in (tmp_path / "faults.md").read_text()
