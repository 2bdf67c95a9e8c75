"""The files that prepare a set on a cluster: every part is started once, then one command joins."""

import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from jfreq.data.options import Options
from jfreq.data.prepare import parts, run
from jfreq.parts import parse_part

SBATCH = r"""#!/bin/bash
# In place of sbatch: runs what it is given, every task of the array after the other.
while [ $# -gt 0 ]; do
  case "$1" in
    --array=1-*) last=${1#--array=1-} ;;
    --wrap) wrap=$2 ;;
  esac
  shift
done
for task in $(seq "${last:-1}"); do SLURM_ARRAY_TASK_ID=$task bash -c "$wrap"; done
echo 12345
"""
JFREQ = '#!/bin/bash\nprintf "%s\\n" "$*" >> "$LOG"\n'


@pytest.fixture
def commands(tmp_path):
    """``commands(words, **variables)``: what a script calls jfreq with, line by line."""
    for name, text in (("sbatch", SBATCH), ("jfreq", JFREQ), ("sleep", "#!/bin/bash\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def run(words, **variables):
        log = tmp_path / "log"
        env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": "/home/me", "LOG": str(log)}
        subprocess.run(words, env=env | variables, check=True, capture_output=True)
        return log.read_text().splitlines()

    return run


@pytest.fixture
def understood(monkeypatch):
    """``understood(line)``: how jfreq reads a command, without doing it."""
    from jfreq.cli import main

    calls = []
    for module, name in ((parts, "prepare_part"), (parts, "finish_parts"), (run, "prepare")):
        monkeypatch.setattr(module, name, lambda *a, _n=name, **k: calls.append((_n, a, k)))
    monkeypatch.setattr("jfreq.data.shards.reader.open_shards", lambda path: None)
    monkeypatch.setattr("jfreq.data.shards.describe.describe", lambda shards: "")

    def read(line):
        main(shlex.split(line))
        return calls.pop()

    return read


def check(lines, count, understood):
    """Every part once, and the joining last, all with the same words."""
    read = [understood(line) for line in lines]
    chosen = [parse_part(args[2]) for name, args, _ in read if name == "prepare_part"]
    assert chosen == [(i + 1, count) for i in range(count)]
    assert [name for name, *_ in read[count:]] == ["finish_parts"]
    assert len({(args[:2], repr(fields)) for _, args, fields in read}) == 1
    assert Options(**{k: v for k, v in read[0][2].items() if k != "name"}).encoding == "flac"


def test_slurm_prepares_every_part_and_joins(root, commands, understood):
    script: Path = root / "experiments" / "launch" / "prepare_slurm.sh"
    assert script.stat().st_mode & 0o100, "it can be started"
    check(commands([str(script)], PARTS="5"), 5, understood)


def test_kubernetes_prepares_every_part_and_joins(root, commands, understood):
    text = (root / "experiments" / "launch" / "prepare_kubernetes.yaml").read_text()
    prepare, join = (job["spec"] for job in yaml.safe_load_all(text))
    assert prepare["completionMode"] == "Indexed"
    words, last = (spec["template"]["spec"]["containers"][0]["command"] for spec in (prepare, join))
    count, lines = prepare["completions"], []
    for index in (0, count - 1):
        lines = commands(words, JOB_COMPLETION_INDEX=str(index))
    assert [line.split()[-1] for line in lines] == [f"1/{count}", f"{count}/{count}"]
    first, _, joined = (understood(line) for line in commands(last))
    assert joined[0] == "finish_parts" and joined[1:] == (first[1][:2], first[2])
