"""What the documents tell a reader to type works as it stands."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import jfreq
from jfreq import cli, recipes

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(path: Path, language: str) -> list[str]:
    """Fenced code blocks of one language, in order."""
    return [body for found, body in FENCE.findall(path.read_text()) if found == language]


def run(command: list[str], *, cwd: Path, timeout: float = 300) -> str:
    """Standard output of a command that has to succeed, with this Python's programs first."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, "PATH": path}, capture_output=True, text=True,
        timeout=timeout,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def command_lines(text: str) -> list[list[str]]:
    """Words of each line, without comments; lines that end in a backslash go on."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


# ------------------------------------------------------------------ README


def test_make_targets_exist(root):
    makefile = (root / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for name in ("README.md", "CONTRIBUTING.md"):
        named = set(re.findall(r"\bmake ([a-z-]+)\b", "\n".join(
            body for _, body in FENCE.findall((root / name).read_text())
        )))  # fmt: skip
        assert named and named <= targets, name


def test_ci_runs_what_the_readme_says(root):
    start = [line for line in command_lines(blocks(root / "README.md", "sh")[0])
             if line[0] == "make"]  # fmt: skip
    script = [line for line in command_lines((root / ".ci" / "run").read_text())
              if line[0] == "make"]  # fmt: skip
    assert script == start == [["make", "demo"], ["make", "test"]]


@pytest.fixture(scope="module")
def job(root, tmp_path_factory) -> Path:
    """A folder in which the README's whole job was done, line by line.

    The first line runs as a shell runs it; the other commands in this process, where the libraries
    are loaded already.
    """
    folder = tmp_path_factory.mktemp("job")
    (script,) = blocks(root / "README.md", "bash")
    first, *lines = command_lines(script)
    run(first, cwd=folder)
    assert len(lines) >= 8
    for words in lines:
        if words[0] != "jfreq":
            run(words, cwd=folder)
        else:
            with contextlib.chdir(folder):
                cli.main(words[1:])
    return folder


@pytest.mark.slow
def test_the_job_leaves_what_the_readme_names(job):
    for path in ("shards/machines/metadata.json", "runs/a/config.json", "runs/a/metrics.jsonl",
                 "runs/a/results.json", "runs/b/results.json", "encoder/model.safetensors",
                 "embeddings.npz"):  # fmt: skip
        assert (job / path).is_file(), path


@pytest.mark.slow
def test_python_examples(root, job):
    for example in blocks(root / "README.md", "python"):
        run([sys.executable, "-c", example], cwd=job)


def test_documents_name_files_that_exist(root):
    """Relative links and paths in the tables lead somewhere."""
    documents = [*root.glob("*.md"), *(root / "docs").glob("*.md")]
    assert len(documents) >= 5
    for path in documents:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_every_page_is_in_the_index(root):
    index = (root / "docs" / "README.md").read_text()
    for path in (root / "docs").glob("*.md"):
        assert path.name == "README.md" or f"({path.name})" in index, path.name


def test_front_page_files_agree(root):
    """One version and one licence everywhere; what the licence files name is there."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    cited = dict(
        re.findall(r"^([a-z-]+): (\S+)$", (root / "CITATION.cff").read_text(), re.MULTILINE)
    )
    released = re.search(r"^## \[(\d[^]]*)\]", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released
    assert jfreq.__version__ == project["version"] == cited["version"] == released[1]
    assert project["license"] == cited["license"] == "Apache-2.0"
    assert not [line for line in project["classifiers"] if line.startswith("License")]  # PEP 639
    assert "Apache License" in (root / "LICENSE").read_text()[:100]
    for name in project["license-files"]:
        assert (root / name).is_file(), name
    assert cited["repository-code"] == project["urls"]["Repository"]


def test_documented_commands_parse(root, capsys):
    """Every `jfreq ...` line of the method pages names a real command and experiment."""
    known = recipes.known()
    lines = [
        line
        for path in (root / "docs").glob("*.md")
        for block in blocks(path, "bash")
        for line in command_lines(block)
    ]
    assert lines
    texts: dict[tuple[str, ...], str] = {}
    for words in lines:
        assert words[0] == "jfreq", words
        name = " ".join(words[1:3] if words[1] == "data" else words[1:2])
        assert name in cli.COMMANDS, words
        if name == "train":
            assert words[2] in known, words
        about = (name, *_subject(name, words))
        if about not in texts:
            texts[about] = _help(name, words, capsys)
        for option in (w for w in words if w.startswith("--")):
            assert re.search(f"{option}[ ,]", texts[about]), f"{option} of {words}"


@pytest.mark.parametrize(
    ("page", "recipe"),
    [("freqmae", "freqmae_nano"), ("mae", "mae_nano"), ("phymask", "phymask_nano")],
)
def test_switches_of_a_method_page_exist(page, recipe, root, capsys, monkeypatch):
    """Options, all the words that they take, and recipes by name."""
    monkeypatch.setenv("COLUMNS", "100")  # the help in one column, lines unbroken
    text = (root / "docs" / f"{page}.md").read_text()
    shown = _help("train", ["jfreq", "train", recipe], capsys)
    known = dict(re.findall(r"(--[\w.-]+),? ?([^\n]*)", shown))
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| `--")]
    assert len(rows) >= 5
    for options, values, _ in rows:
        for option in re.findall(r"`(--[^ `]+)", options):
            assert option in known, option
            if choices := re.search(r"\{(.*?)\}", known[option]):
                named = set(re.findall(r"`([a-z_]+)`", values))
                assert not named or named == set(choices[1].split(",")), option
    for option in re.findall(r"`(--method\.[^ `]+)", text):
        assert option in known, option
    for name in re.findall(r"`((?:freqmae|mae|phymask)_[a-z_]+)`", text):
        assert name in recipes.known(), name


def _subject(name: str, words: list[str]) -> list[str]:
    """What decides the options; fine-tuning takes the name of an experiment in place of a run."""
    return {"train": words[2:3], "config": words[2:4], "finetune": ["ssast_nano"]}.get(name, [])


def _help(name: str, words: list[str], capsys) -> str:
    """The command's help."""
    with pytest.raises(SystemExit, match="0"):
        cli.main([*name.split(), *_subject(name, words), "--help"])
    return capsys.readouterr().out
