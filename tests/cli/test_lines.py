"""250 command lines that nobody should type: each ends in one line, and leaves all as it was."""

import contextlib
import functools
import hashlib
import inspect
import io
import json
import os
import signal
import time
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jfreq import cli

LIMIT = 20
"""Seconds after which a command counts as hanging."""
SPY = "import pathlib\npathlib.Path('{place}').write_text('executed')\n"

NUMBERS = ("nan", "inf", "-inf", "-1", "0", "1e400", "1" + "0" * 30, "9" * 5000, "", "two", "½",
           "1,5", "0x10", "None None")  # fmt: skip
PATHS = ("missing", "a/b/c", "file.txt", "folder", "gs://bucket/x", "s3://b", "https://x.org/y",
         "", "näme mit Platz", "\udcff", "x" * 300, "*", "-", "~nobody/x")  # fmt: skip
NUMERIC = {
    "data prepare": ("rate", "seconds", "hop-seconds", "fill-seconds", "guard-seconds", "n",
                     "seed", "workers"),
    "data peek": ("n",),
    "train": ("steps", "batch", "accumulate", "seed", "optim.lr", "optim.warmup", "optim.b1",
              "optim.clip", "optim.layer-decay", "data.threads", "data.label-fraction",
              "data.crop-seconds", "data.memory-mb", "mesh.data", "checkpoint.every",
              "checkpoint.keep", "log.every", "method.encoder.width", "method.encoder.heads",
              "method.mask", "method.special-tokens"),
    "probe": ("draws", "fractions", "seeds"),
    "finetune": ("draws", "fractions", "steps", "optim.lr"),
    "import": ("heads", "frames", "stride"),
    "embed": ("rate",),
    "predict": ("top", "threshold", "rate"),
    "report": ("rows",),
    "ablate": ("trainings",),
    "bench": ("rounds",),
    "plan": ("seconds", "rate", "labels", "batch"),
    "config show": ("seconds", "rate", "labels", "method.encoder.mlp-ratio"),
}  # fmt: skip
"""Options that are numbers, by command."""
SKIPPED = {("config show", "labels", "0"), ("report", "rows", "0"), ("train", "optim.warmup", "0")}
"""Wrong nowhere."""


@pytest.fixture(scope="module")
def place(tmp_path_factory, shards):
    """A folder with a bit of everything; the commands run inside it."""
    folder = tmp_path_factory.mktemp("lines")
    (folder / "file.txt").write_text("not a run\n")
    (folder / "folder").mkdir()
    (folder / "shards").symlink_to(shards, target_is_directory=True)
    (folder / "experiments" / "recipes").mkdir(parents=True)
    spy = SPY.format(place=folder / "executed")
    (folder / "x.py").write_text(spy)
    (folder / "experiments" / "recipes" / "ssast_nano.py").write_text(spy)
    (folder / "bad").mkdir()
    (folder / "bad" / "config.json").write_text('{"format": 1e400, "sha256": []')
    (folder / "deep").mkdir()
    (folder / "deep" / "config.json").write_text("[" * 100_000)
    run = folder / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"type": ["Experiment"]}))
    return folder


def words(command: str) -> list[str]:
    """A command line that is right as far as it goes; what it works on is ``folder``."""
    return {
        "data prepare": ["data", "prepare", "folder", "--out", "new"],
        "data info": ["data", "info", "folder"],
        "data peek": ["data", "peek", "folder"],
        "train": ["train", "ssast_nano", "--data", "folder", "--workdir", "new"],
        "probe": ["probe", "folder", "--data", "shards"],
        "finetune": ["finetune", "ssast_nano", "--data", "folder", "--workdir", "new"],
        "import": ["import", "file.txt", "--out", "new"],
        "export": ["export", "folder", "--out", "new"],
        "embed": ["embed", "folder", "file.txt", "--out", "new.npz"],
        "predict": ["predict", "folder", "file.txt", "--out", "new.csv"],
        "ablate": ["ablate", "missing.py", "--data", "folder", "--workdir", "new"],
        "report": ["report", "folder"],
        "plan": ["plan", "ssast_nano", "--topology", "v9x:4x4"],
        "bench": ["bench", "nothing"],
        "new-paper": ["new-paper", "file.txt"],
        "config show": ["config", "show", "ssast_nano"],
    }[command]


def by_hand() -> list[list[str]]:
    """Lines for kinds that no rule makes."""
    lines = [
        [], ["--help"], ["-h"], ["--version"], ["help"], ["data"], ["data", "--help"],
        ["data", "x"],
        ["train"], ["train", "--help"], ["train", ""], ["train", "sast_nano"], ["trian", "x"],
        ["train", "--workdir", "new"], ["train", "x.py"], ["train", "file.txt:x"], ["train", ":"],
        ["train", "folder:x"], ["train", "missing.py:x"], ["config"], ["config", "shwo"],
        ["config", "show"], ["config", "show", "--help"], ["config", "show", "ssast_nanoo"],
        ["finetune"], ["finetune", "--help"], ["plan"], ["ablate"], ["export"], ["embed"],
        ["import"], ["import", "folder", "--out", "new"], ["import", "missing.pth", "--out", "new"],
        ["report"], ["bench", "nothing", "at", "all"], ["data", "prepare"], ["data", "info"],
        ["probe", "bad", "--data", "shards"], ["probe", "deep", "--data", "shards"],
        ["probe", "run", "--data", "shards"], ["export", "bad", "--out", "new"],
        ["export", "deep", "--out", "new"], ["export", "run", "--out", "new"],
        ["embed", "run", "file.txt", "--out", "new"], ["report", "run"], ["report", "deep"],
        ["finetune", "deep", "--data", "shards", "--workdir", "new"],
        ["data", "prepare", "synthetic:tonez", "--out", "new"],
        ["data", "prepare", "synthetic:", "--out", "new"],
        ["data", "prepare", "file.txt", "--out", "new"],
        ["data", "prepare", "synthetic:tones", "--out", "file.txt"],
        ["data", "prepare", "synthetic:tones", "--out", "new", "--seconds", "1e8"],
        ["data", "prepare", "synthetic:tones", "--out", "new", "--n", "1000000000"],
        ["data", "prepare", "synthetic:tones", "--out", "new", "--rates", "audio"],
        ["data", "prepare", "synthetic:tones", "--out", "new", "--rates", "audio:nan"],
        ["data", "prepare", "synthetic:tones", "--out", "new", "--thin", "am_12=2"],
        ["data", "prepare", "synthetic:tones", "--out", "new", "--thin", "nobody=0.5"],
        ["data", "prepare", "folder", "--out", "new", "--kind", "fodlers"],
        ["data", "prepare", "folder", "--out", "new", "--modalities", "acc:5-2"],
        ["train", "ssast_nano", "--workdir", "file.txt", "--data", "shards"],
        ["train", "ssast_nano", "--workdir", "new", "--data", "shards", "--batch", "4096"],
        ["train", "ssast_nano", "--workdir", "new", "--data", "shards", "--data.split", "tests"],
        ["train", "ssast_nano", "--workdir", "new", "--data", "shards", "--mesh.data", "3"],
        ["train", "ssast_nano", "--workdir", "new", "--data", "shards", "--data.exclude-folds",
         "99"],
        ["train", "ssast_nano", "--workdir", "new", "--data", "shards", "--data.crop-seconds",
         "60"],
        ["train", "ssast_nano", "--workdir", "new", "--data", "shards", "--batch", "16",
         "--accumulate", "3"],
        ["train", "ssast_nano", "--workdir", "new", "--data", "shards", "--optim.decay", "("],
        ["train", "ssast_nano", "--workdir", "new", "--data", "shards", "--optim.lr-mult", "[",
         "1"],
        ["train", "ssast_nano", "--workdir", "new", "--data", "shards", "--lr", "1e-3"],
        ["train", "ssast_nano", "--workdir", "new", "--data", "shards", "--method.modality", "x"],
        ["train", "ssast_nano", "--workdir", "new", "--data", "shards", "--mesh.data", "-1",
         "--mesh.fsdp", "-1"],
        ["train", "ssast_nano", "--workdir", "new", "--data", "shards",
         "--checkpoint.init-from", "gs://b/run"],
        ["train", "ssast_nano", "--workdir", "new", "--data", "shards",
         "--checkpoint.init-from", "folder"],
        ["finetune", "ssast_nano", "--workdir", "new", "--data", "shards", "--folds", "99"],
        ["plan", "ssast_nano", "--topology", "v5e:4x"], ["plan", "ssast_nano", "--topology", ""],
        ["ablate", "file.txt", "--data", "missing", "--workdir", "new"],
    ]  # fmt: skip
    for command in NUMERIC:
        right = words(command)
        lines += [
            [*right, "--help"], [*right, "--wrokdir", "x"], [*right, "stray"],
            [*right, f"--{NUMERIC[command][0]}"],
            [*right, *2 * [f"--{NUMERIC[command][0]}", "2"]],
        ]  # fmt: skip
    return lines


def generated() -> list[list[str]]:
    """Every number of every command with a value in turn, every path of every command."""
    lines = []
    for command, options in NUMERIC.items():
        for i, option in enumerate(options):
            for value in (NUMBERS[i % len(NUMBERS)], NUMBERS[(5 * i + 3) % len(NUMBERS)]):
                if (command, option, value) not in SKIPPED:
                    lines.append([*words(command), f"--{option}", *value.split(" ")])
    for i, command in enumerate((*NUMERIC, "data info", "export")):
        right = words(command)
        for at, word in enumerate(right):
            if word in ("folder", "new", "shards"):
                for wrong in (PATHS[(3 * i + at) % len(PATHS)], PATHS[(5 * i + at) % len(PATHS)]):
                    lines.append([wrong if j == at else w for j, w in enumerate(right)])
    return lines


def inventory(folder) -> dict[str, str]:
    """Every path below ``folder`` with a digest of what it holds."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }  # fmt: skip


class Hangs(BaseException):
    """A command took longer than ``LIMIT`` seconds."""


def outcome(line: list[str], folder) -> str:
    """``help``, ``refused``, or in words what went wrong."""

    def ring(number, frame):
        raise Hangs

    stdout, stderr = io.StringIO(), io.StringIO()
    before, code = signal.signal(signal.SIGALRM, ring), 0
    signal.alarm(LIMIT)
    try:
        with (
            contextlib.chdir(folder),
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
        ):
            cli.main(line)
    except SystemExit as stop:
        code = stop.code
    except Hangs:
        return "hangs"
    except Exception as error:
        return f"raises {type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    last = stderr.getvalue().splitlines()[-1:] or [""]
    if code == 0:
        return "help" if stdout.getvalue() else "is silent"
    if code == 2 and last[0].startswith("jfreq: error: ") and not stdout.getvalue():
        return "refused"
    return f"ends with {code} and {stderr.getvalue()[-200:]!r}"


def test_250_command_lines(place, capsys, monkeypatch):
    # The docstrings of the same fields are looked up for every line.
    monkeypatch.setattr(inspect, "getsource", functools.cache(inspect.getsource))
    lines = by_hand() + generated()
    before = inventory(place)
    found: dict[str, str] = {}
    began = time.process_time()
    for line in lines:
        text = " ".join(word if len(word) < 50 else f"{word[:20]}..." for word in line)
        found[text] = outcome(line, place)
        assert not (place / "executed").exists(), text
    counts = Counter(found.values())
    assert len(lines) >= 250
    wrong = {text: what for text, what in found.items() if what not in ("help", "refused")}
    assert not wrong, "\n".join(f"jfreq {text}: {what}" for text, what in wrong.items())
    assert inventory(place) == before
    asked = {text for text, what in found.items() if what == "help" and "-h" not in text}
    assert asked <= {"", "--version", "data", "config show ssast_nano --labels 0"}
    with capsys.disabled():
        spent = time.process_time() - began
        ends = f"{counts['refused']} refused in one line, {counts['help']} answered"
        print(f"\n{len(lines)} command lines: {ends}, 0 tracebacks, 0 hangs, 0 files changed")
        print(f"{spent:.0f} s of processor time")


@settings(max_examples=40, deadline=None, derandomize=True, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(st.data())
def test_random_command_lines(place, data):
    """Words of any kind in any order, around the name of a command."""
    command = data.draw(st.sampled_from(sorted(NUMERIC)))
    right = words(command)
    option = st.sampled_from([f"--{o}" for o in NUMERIC[command]] + ["--out", "--data", "--x"])
    value = st.sampled_from(NUMBERS + PATHS) | st.text(
        st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8
    )
    more = data.draw(st.lists(st.tuples(option, value), min_size=1, max_size=3))
    bad = data.draw(st.sampled_from(["--steps=nan", "--nope", "--out=gs://x/y"]))
    line = [*right, *(word for pair in more for word in pair), bad]
    assert outcome(line, place) in ("help", "refused"), line


def test_output_that_nobody_reads(place):
    """``jfreq config show NAME | head -1`` ends quietly."""
    read, write = os.pipe()
    os.close(read)
    with contextlib.redirect_stdout(os.fdopen(write, "w")), pytest.raises(SystemExit) as stop:
        cli.main(["config", "show", "ssast_nano"])
    assert stop.value.code == 128 + signal.SIGPIPE
