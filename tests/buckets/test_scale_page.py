"""The run from start to end in docs/scale.md does what the page says, by copy and paste."""

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jfreq.testing import free_port

pytestmark = [pytest.mark.interop, pytest.mark.slow]

BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LAST = "kill $SERVER"
LIMIT_S = 400


@pytest.fixture(scope="module")
def job(root, tmp_path_factory) -> tuple[Path, str]:
    """The folder in which the block was run, and what it printed."""
    for package in ("s3fs", "moto", "flask_cors"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: make interop")
    page = (root / "docs" / "scale.md").read_text()
    _, _, section = page.partition("## A run from start to end")
    _, script = BLOCK.findall(section.partition("\n## ")[0])[:2]
    assert script.count("5001") == 2 and script.endswith(f"{LAST}\n")
    for run in ("base", "cooled"):  # the store forgets when it ends
        name = f"$AWS_ENDPOINT_URL/bucket/runs/{run}/metrics.jsonl"
        script = script.replace(LAST, f"curl -sf -o {run}.jsonl {name}\n{LAST}")
    folder = tmp_path_factory.mktemp("job")
    env = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "JFREQ_CACHE": str(folder / "cache"),
        "JAX_PLATFORMS": "cpu",
    }
    shell = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", script.replace("5001", str(free_port()))],
        cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    try:
        printed, _ = shell.communicate(timeout=LIMIT_S)
    finally:
        with contextlib.suppress(ProcessLookupError):  # nothing is left of it
            os.killpg(shell.pid, signal.SIGKILL)
    assert shell.returncode == 0, printed[-4000:]
    return folder, printed


def figures(path: Path, name: str) -> dict[int, float]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["step"]: row[name] for row in rows if name in row}
