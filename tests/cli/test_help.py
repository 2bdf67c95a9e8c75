"""Help, names and options of the command line."""

import subprocess
import sys
import time
from typing import get_args

import pytest

from jfreq import cli
from jfreq.cli.use import Format
from jfreq.export.export_run import EXTRAS

# ------------------------------------------------------------------ help

COMMANDS = sorted(cli.COMMANDS)


@pytest.mark.parametrize("command", ["", "data", *COMMANDS])
def test_help_of_every_command(said, command):
    text = said(*command.split(), "--help")
    assert text.startswith(f"usage: jfreq {command}".rstrip())
    if not command:
        assert all(name in text for name in COMMANDS)


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["train", "ssast_nano"], ["--workdir", "--optim.lr", "--method.encoder.depth"]),
        (["config", "show", "ast_nano"], ["--data", "--mesh.fsdp", "--method.head.mixup"]),
        (["data", "prepare"], ["--source", "--strict", "--drop-labels", "--hop-seconds"]),
        (["probe"], ["--kinds", "--folds", "--pool", "--fractions", "--at-least-one"]),
        (["finetune", "ssast_nano"], ["--fractions", "--data.label-seed", "--method.head.noise"]),
    ],
)
def test_help_names_its_options(said, words, options):
    text = said(*words, "--help")
    assert all(option in text for option in options)


def test_help_is_light():
    """The usage appears without the libraries of training, and soon."""
    code = (
        "import sys; from jfreq import cli\ntry: cli.main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "heavy = {'tensorflow', 'librosa', 'sklearn', 'matplotlib', 'soundfile', 'orbax'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    for words in ([], ["data", "prepare", "--help"], ["train", "ssast_nano", "--help"]):
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True,
                              timeout=60)  # fmt: skip
        assert done.stderr.strip() == "[]", words
        assert "usage: jfreq" in done.stdout
        assert time.perf_counter() - began < 20


def test_version(said):
    import jfreq

    assert said("--version").strip() == jfreq.__version__


# ------------------------------------------------------------------ names and options


def test_unknown_words_get_a_hint(refused, tmp_path):
    assert "did you mean 'train'" in refused("trian", "ssast_nano")
    assert "did you mean 'data prepare'" in refused("data", "prepar", "x")
    assert "did you mean 'params'" in refused("config", "param", "ssast_nano")
    line = refused("train", "sast_tiny", "--workdir", tmp_path)
    assert "unknown experiment 'sast_tiny' (did you mean 'ssast_tiny'?)" in line
    assert "no such file; an experiment" in refused("train", f"{tmp_path}/mine.py:x")
    assert "jfreq train --help lists the experiments" in refused("train")
    assert "RUN is a run folder or bundle" in refused("finetune")


@pytest.mark.parametrize(
    "options",
    [
        ["--steps", "many"],
        ["--method.cluster-mode", "sideways"],
        ["--optim.speed", "3"],
        ["--workdir"],
    ],
)
def test_options_that_cannot_be_read(training, options, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in [*training, *options]])
    assert stop.value.code == 2
    assert options[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "0"], "steps: must be 1 or more, got 0"),
        (["--optim.lr", "-1"], "optim.lr: must be positive"),
        (["--batch", "16", "--accumulate", "3"], "accumulate: must divide batch 16, got 3"),
        (["--method.encoder.attention", "cudnn"], "cudnn wants encoder.dtype bfloat16"),
        (["--mesh.data", "-1", "--mesh.fsdp", "-1"], "mesh: only one size may be -1"),
    ],
)
def test_values_that_make_no_experiment(training, refused, options, message):
    assert message in refused(*training, *options)


def test_formats_of_the_option_are_those_that_export_knows():
    assert get_args(Format) == ("bundle", *EXTRAS)
