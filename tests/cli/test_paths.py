"""Every path of every command: a URL of a kind that it does not take is refused in one line, before
anything is read or written."""

import inspect
from pathlib import Path

import pytest

from jfreq import cli, recipes

NOWHERE, STORE = "hdfs://bucket/a", "gs://bucket/a"
TAKEN = {("finetune", 0), ("train", "--workdir"), ("finetune", "--workdir"),
         ("ablate", "--workdir"), ("train", "--checkpoint.init-from"),
         ("train", "--checkpoint.resume-from"), ("checkpoints", 0), ("checkpoints", "--out"),
         ("probe", 0),
         ("export", 0), ("export", "--out"),
         ("import", "--out"), ("embed", 0), ("predict", 0), ("report", 0),
         ("report", "--out"), ("train", "--data"), ("train", "--data.path"), ("finetune", "--data"),
         ("plan", "--data"), ("config", "--data")}  # fmt: skip
"""Commands, and their first argument or option that takes a URL of object storage."""
OF_EXPERIMENTS = {
    "train": [("{}.py:e", "--workdir", "run"), ("ssast_nano", "--workdir", "{}"),
              ("ssast_nano", "--workdir", "run", "--data", "{}"),
              ("ssast_nano", "--workdir", "run", "--data", "a", "{}"),
              ("ssast_nano", "--workdir", "run", "--data.path", "{}"),
              ("ssast_nano", "--workdir", "run", "--checkpoint.init-from", "{}"),
              ("ssast_nano", "--workdir", "run", "--checkpoint.resume-from", "{},step=3")],
    "finetune": [("{}", "--workdir", "run"), ("ssast_nano", "--workdir", "{}"),
                 ("ssast_nano", "--workdir", "run", "--data", "{}")],
    "plan": [("ssast_nano", "--topology", "cpu:1", "--data", "{}"),
             ("ssast_nano", "--topology", "cpu:1", "--json", "{}"),
             ("{}", "--topology", "cpu:1")],
    "config": [("show", "ssast_nano", "--data", "{}"), ("params", "{}.py:e")],
}  # fmt: skip
OF_NAMES = {
    "data prepare": [("{}", "--out", "out"), ("set", "--source", "{}", "--out", "out"),
                     ("synthetic:tones", "--out", "out", "--labels", "{}/a.csv"),
                     ("synthetic:tones", "--out", "out", "--clips", "{}")],
    "ablate": [("{}/a.py", "--data", "data", "--workdir", "run")],
}  # fmt: skip
"""Paths that are annotated as text, because they may be something else."""


def command_lines():
    """One line for each path of each command."""
    for name, command in cli.COMMANDS.items():
        yield from ((name, line) for line in OF_EXPERIMENTS.get(name, []))
        yield from ((name, line) for line in OF_NAMES.get(name, []))
        if command in cli.EXPERIMENT_COMMANDS:
            assert name in OF_EXPERIMENTS, f"write down the paths of {name}"
            continue
        parameters = inspect.signature(command).parameters.values()
        for asked in (p for p in parameters if "Path" in p.annotation):
            words = []
            for p in parameters:
                if p.default is p.empty or p is asked:
                    value = "{}" if p is asked else "a"
                    place = "Positional" in p.annotation
                    words += [value] if place else [f"--{p.name.replace('_', '-')}", value]
            yield name, tuple(words)


LINES = list(command_lines())


@pytest.mark.parametrize(("name", "line"), LINES)
def test_a_url_is_no_path(name, line, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = next(i for i, word in enumerate(line) if "{}" in word)
    option = next((word for word in line[:place][::-1] if word.startswith("--")), 0)
    taken = (name, option) in TAKEN
    for url in (NOWHERE,) if taken else (NOWHERE, STORE):
        message = refused(*name.split(), *(word.format(url) for word in line))
        assert "is a URL, and a path on this machine is needed here" in message
        assert url[:5] in message
    assert not list(Path().iterdir()), "nothing is written"


def test_there_is_a_line_for_every_command():
    assert {name for name, _ in LINES} == set(cli.COMMANDS)


def test_names_never_run_files_of_the_current_folder(refused, tmp_path, monkeypatch):
    """A folder that somebody unpacked may hold anything, also a shadow of a known name."""
    monkeypatch.chdir(tmp_path)
    for folder in ("experiments/recipes", "experiments/bench"):
        (tmp_path / folder).mkdir(parents=True)
        for name in ("ssast.py", "mine.py"):
            (tmp_path / folder / name).write_text(
                "from pathlib import Path\nPath('ran').touch()\n"
                "from jfreq.config import Experiment\nfrom jfreq.methods.ssast import SSAST\n"
                "e = Experiment('mine', SSAST())\ndef main(): pass\n"
            )
    assert "unknown experiment 'mine'" in refused("train", "mine", "--workdir", "run")
    assert "no bench 'mine'" in refused("bench", "mine")
    assert "mine" not in recipes.known() and "ssast_nano" in recipes.known()
    assert not Path("ran").exists()
    assert recipes.load(f"{tmp_path / 'experiments' / 'recipes' / 'mine.py'}:mine").name == "mine"
    assert Path("ran").exists(), "a file that is named does run"
