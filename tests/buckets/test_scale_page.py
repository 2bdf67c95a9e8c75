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

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.long]

BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LAST = "kill $SERVER"
LIMIT_S = 400


@pytest.fixture(scope="module")
def job(root, tmp_path_factory) -> Path:
    """The folder in which the block was run."""
    for package in ("s3fs", "moto", "flask_cors"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: make interop")
    page = (root / "docs" / "scale.md").read_text()
    _, _, section = page.partition("## A run from start to end")
    _, script = BLOCK.findall(section.partition("\n## ")[0])[:2]
    assert script.count("5001") == 2 and script.endswith(f"{LAST}\n")
    for run in ("base", "cooled"):  # the store forgets when it ends
        copy = f"fsspec.filesystem('s3').get('bucket/runs/{run}/metrics.jsonl', '{run}.jsonl')"
        script = script.replace(LAST, f'python -c "import fsspec; {copy}"\n{LAST}')
    folder = tmp_path_factory.mktemp("job")
    env = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "JFREQ_CACHE": str(folder / "cache"),
        "JAX_PLATFORMS": "cpu",
    }
    log = folder / "printed.txt"
    with log.open("w") as printed:
        shell = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script.replace("5001", str(free_port()))],
            cwd=folder, env=env, stdout=printed, stderr=printed, start_new_session=True,
        )  # fmt: skip
    try:
        shell.wait(timeout=LIMIT_S)
    finally:
        with contextlib.suppress(ProcessLookupError):  # nothing is left of it
            os.killpg(shell.pid, signal.SIGKILL)
    assert shell.returncode == 0, log.read_text()[-4000:]
    return folder


def figures(path: Path, name: str) -> dict[int, float]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["step"]: row[name] for row in rows if name in row}


def test_the_run_is_watched_killed_moved_and_cooled_down(job):
    name = "eval/machines/ridge"
    watched = (job / "watched.html").read_text()
    assert name in watched
    assert "200/200" not in (job / "base.log").read_text(), "it was killed before its end"
    base, cooled = (figures(job / f"{run}.jsonl", name) for run in ("base", "cooled"))
    assert list(base) == list(range(25, 201, 25)), "each update is measured once"
    assert max(base.values()) > base[25] + 0.05
    assert list(cooled) == [175, 200]
    rates = figures(job / "cooled.jsonl", "lr")
    assert rates[200] < 0.2 * figures(job / "base.jsonl", "lr")[200]


def test_what_is_saved_is_told_and_used(job):
    printed = (job / "printed.txt").read_text()
    assert "mesh data 2 x fsdp 1" in printed
    assert (job / "encoder" / "model.safetensors").is_file()
    assert (job / "embeddings.npz").is_file()
