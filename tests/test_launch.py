"""The files that start a training on a cluster: they parse, and their commands are jfreq's."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from jfreq import recipes
from jfreq.cli.options import TrainOptions
from jfreq.cli.parsing import parse
from jfreq.config_json import to_dict

NAMES = ("train_gke.yaml", "train_gpus.sh", "train_slurm.sh", "train_tpu.sh")


def training(path):
    """The words of the command `jfreq train` in a file."""
    if path.suffix == ".yaml":
        job = yaml.safe_load(path.read_text())
        spec = job["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
        return spec["containers"][0]["command"]
    text = path.read_text().replace("\\\n", " ")
    found = re.search(r"^[^#\n]*?(jfreq train .*?)( >>.*| \|\| .*)?$", text, re.M)
    assert found is not None
    return [word for word in shlex.split(found[1]) if word != "$@"]


@pytest.mark.parametrize("name", NAMES)
def test_its_command_is_understood(root, name):
    words = training(root / "experiments" / "launch" / name)
    assert words[:2] == ["jfreq", "train"]
    default = TrainOptions(recipes.load(words[2]), Path("workdir"))
    options = parse(TrainOptions, args=words[3:], prog="jfreq train",
                    default=default, description="")  # fmt: skip
    assert options.experiment.mesh.data == -1
    assert to_dict(options.experiment)["method"]["encoder"]["dtype"] == "bfloat16"


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(".sh")])
def test_a_shell_reads_it(root, name):
    path = root / "experiments" / "launch" / name
    assert path.stat().st_mode & 0o100, "it can be started"
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_one_machine_starts_again_after_a_death_and_not_after_bad_input(root, tmp_path):
    """With a command in place of jfreq that is killed twice, then refuses its input."""
    fake = tmp_path / "jfreq"
    fake.write_text(
        "#!/bin/bash\necho start >> count\n"
        '[ "$(wc -l < count)" -lt 3 ] && kill -9 $$\nexit 2\n'
    )  # fmt: skip
    (tmp_path / "sleep").write_text("#!/bin/bash\n")
    for path in (fake, tmp_path / "sleep"):
        path.chmod(0o755)
    script = root / "experiments" / "launch" / "train_gpus.sh"
    done = subprocess.run(
        [str(script)], cwd=tmp_path, capture_output=True, text=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 2 and (tmp_path / "count").read_text().count("start") == 3
    assert "ended with 137, start 2" in done.stderr
