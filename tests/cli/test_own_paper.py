"""A paper in a user's own file: found, saved, trusted or not, without a line in the library."""

import functools
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import jfreq
from jfreq import classes, cli, methods, recipes
from jfreq.cli import paper as new
from jfreq.config_json import to_dict
from jfreq.types import InputError

MORE = """

# ---- a class of one's own in a field, and a run of seconds

from pathlib import Path
from jfreq.config import replace
from jfreq.nn.vit import ViT

Path(__file__).with_suffix(".ran").touch()

@checked
class Encoder(ViT):
    hint: str = "mine"

mine = replace(
    mine, method__encoder=Encoder(width=16, depth=1, heads=2), steps=2, batch=8, optim__warmup=1,
    log__writers=(),
)
"""
PAPER = new.PAPER.format(name="mine", class_="Mine") + MORE


def as_new(path: list[str]) -> None:
    """As a new process, which has neither imported nor trusted anything."""
    for name, module in list(sys.modules.items()):
        if "pytest-of-" in (getattr(module, "__file__", None) or ""):
            del sys.modules[name]
    classes._digests.clear()
    classes._trusted.clear()
    sys.path[:] = [folder for folder in path if "pytest-of-" not in folder]


@pytest.fixture(autouse=True)
def forget():
    """``forget()``: what comes now is a process of its own; so is every test."""
    forget = functools.partial(as_new, list(sys.path))
    forget()
    yield forget
    forget()


@pytest.fixture
def paper(tmp_path):
    path = tmp_path / "papers" / "mine.py"
    path.parent.mkdir()
    path.write_text(PAPER)
    return path


def test_a_new_paper_passes_the_test_that_is_written_with_it(said, refused, tmp_path):
    assert "denoise_2.py:denoise_2 --data" in said("new-paper", "denoise_2", "--folder", tmp_path)
    tests = vars(classes.run_file(tmp_path / "test_denoise_2.py"))
    found = [name for name in tests if name.startswith("test_")]
    assert len(found) == 3
    for name in found:
        tests[name]()
    files = {path: path.read_bytes() for path in tmp_path.glob("*.py")}
    (tmp_path / "denoise_2.py").unlink()
    for name, says in (
        ("denoise_2", "test_denoise_2.py exists and would be lost"),
        ("1x", "is no name of a module"), ("class", "is no name of a module"),
        ("tomllib", "there is another module tomllib (/"),
    ):  # fmt: skip
        assert says in refused("new-paper", name, "--folder", tmp_path)
    assert "none: no such folder" in refused("new-paper", "x", "--folder", tmp_path / "none")
    assert {path.name for path in tmp_path.glob("*.py")} == {"test_denoise_2.py"}
    assert (tmp_path / "test_denoise_2.py").read_bytes() == files[tmp_path / "test_denoise_2.py"]


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory):
    """The paper's file and a run of it, trained by one command and continued by the same."""
    folder = tmp_path_factory.mktemp("own")
    paper, run = folder / "mine.py", folder / "run"
    paper.write_text(PAPER)
    path = list(sys.path)
    for _ in range(2):
        cli.main(["train", f"{paper}:mine", "--data", str(shards), "--workdir", str(run),
                  "--method.noise", "3"])  # fmt: skip
        as_new(path)
    return paper, run


@pytest.fixture
def read_with_trust(trained, said, refused, forget):
    """``read_with_trust(words)``: refused in one line without trust, done with it."""
    paper, _ = trained
    ran = paper.with_suffix(".ran")

    def call(*line) -> str:
        forget()
        ran.unlink(missing_ok=True)
        message = refused(*line)
        assert "Mine is code that does not come with jfreq" in message
        assert "add --trust mine.py (in Python: jfreq.trust('mine.py'))" in message
        assert not ran.exists(), "nothing was imported"
        out = said("--trust", paper, *line)
        assert ran.exists()
        return out

    return call


def test_a_run_names_the_classes_of_the_file(trained):
    _, run = trained
    saved = json.loads((run / "config.json").read_text())["method"]
    assert saved["type"] == "mine:Mine" and saved["encoder"]["type"] == "mine:Encoder"
    assert saved["noise"] == 3.0
    assert [path.name for path in (run / "checkpoints").iterdir() if path.is_dir()] == ["2"]


def test_a_run_of_ones_own_is_probed_and_exported(trained, shards, sound, read_with_trust,
                                                  tmp_path):  # fmt: skip
    _, run = trained
    bundle, out = tmp_path / "bundle", tmp_path / "out.npz"
    few = ["--kinds", "knn", "--no-baselines", "--folds", "0", "--out", tmp_path]
    read_with_trust("probe", run, "--data", shards, *few)
    read_with_trust("export", run, "--out", bundle)
    read_with_trust("embed", bundle, sound("clip.wav", np.full(800, 0.1)), "--out", out)
    with np.load(out) as found:
        assert found["clip"].shape == (1, 16)


def test_a_run_of_ones_own_is_fine_tuned(trained, shards, read_with_trust, tmp_path):
    _, run = trained
    small = ["--steps", "1", "--batch", "8", "--log.writers", "--folds", "0"]
    tuned = tmp_path / "tuned"
    read_with_trust("finetune", run, "--data", shards, "--workdir", tuned, *small)
    saved = json.loads(next(tuned.rglob("config.json")).read_text())["method"]
    assert saved["type"] == "Classify" and saved["backbone"]["type"] == "mine:Mine"


BAD = {
    "no loss": (
        "from jfreq.methods.common.patches import PatchMethod as Base\n"
        "@checked\nclass Mine(Base): pass",
        "Mine: has no method loss; define it in the class",
    ),
    "a function in a field": (
        "@checked\nclass Mine(SSAST):\n    kernel: object = len",
        "method.kernel: a run cannot save <built-in function len>",
    ),
    "an array in a field": (
        "import numpy\n@checked\nclass Mine(SSAST):\n    taps: tuple = (numpy.float32(1),)",
        "method.taps[0]: a run cannot save",
    ),
    "a type that is not read": (
        "@checked\nclass Mine(SSAST):\n    taps: list[int] | None = (1, 2)",
        "Experiment.method.taps: a field of type list[int] cannot be read back",
    ),
    "another type": (
        "@checked\nclass Mine(SSAST):\n    note: str = 3",
        "Experiment.method.note: expected str, got 3",
    ),
    "no decorator": (
        "class Mine(SSAST):\n    gain: float = 2.0",
        "Mine.gain: is not a field as it stands; give it a type and write @checked",
    ),
    "no annotation": (
        "@checked\nclass Mine(SSAST):\n    passes = 1",
        "Mine.passes: is not a field as it stands",
    ),
    "a new value without a type": (
        "@checked\nclass Mine(SSAST):\n    noise = 0.5",
        "Mine.noise: is not a field as it stands",
    ),
    "a loss of other arguments": (
        "@checked\nclass Mine(SSAST):\n    def loss(self, params, batch): pass",
        "Mine.loss: must take (self, params, target, batch, rngs, step)",
    ),
    "a loss that is a number": (
        "@checked\nclass Mine(SSAST):\n    def loss(self, *args): return 3.0",
        "Mine.loss: returns no Loss; return summarise(",
    ),
    "a loss for each clip": (
        "from jfreq.method import Loss\n@checked\nclass Mine(SSAST):\n"
        "    def loss(self, params, target, batch, rngs, step):\n"
        "        return Loss(batch['_mask'], {'loss': (batch['_mask'].sum(), 1.0)})",
        "Mine.loss: the value of its Loss has the shape (32,)",
    ),
    "a loss without metrics": (
        "from jfreq.method import Loss\n@checked\nclass Mine(SSAST):\n"
        "    def loss(self, params, target, batch, rngs, step):\n"
        "        return Loss(batch['_mask'].sum(), {})",
        "Mine.loss: the metrics of its Loss lack 'loss'",
    ),
    "defined in a function": (
        "def make():\n    @checked\n    class Mine(SSAST): pass\n    return Mine\nMine = make()",
        "Mine: a run cannot name this class; define it at the top of a file",
    ),
    "defined twice": (
        "@checked\nclass Mine(SSAST): pass\nmine = Mine()\n@checked\nclass Mine(SSAST): pass\n"
        "made = mine",
        "mine:Mine is two classes: it was defined anew",
    ),
    "does not run": ("import a_module_that_is_missing", "mine.py: ModuleNotFoundError: No module"),
}


@pytest.mark.filterwarnings("ignore:.*does not match any type")
@pytest.mark.parametrize("name", BAD)
def test_a_mistake_in_a_paper_is_one_line(name, paper, shards, refused, tmp_path):
    body, says = BAD[name]
    paper.write_text(
        "from jfreq.config import Experiment\nfrom jfreq.methods.ssast import SSAST\n"
        f"from jfreq.ranges import checked\n{body}\n"
        f"mine = Experiment('mine', {'made' if 'made' in body else 'Mine()'})\n"
    )
    run = tmp_path / "run"
    assert says in refused("train", f"{paper}:mine", "--data", shards, "--workdir", run)
    assert not run.exists()


def reread(path):
    """What a saved config of the file's experiment is read as."""
    saved = json.loads(json.dumps(to_dict(recipes.load(f"{path}:mine"))))
    return saved, methods.experiment_from_dict(saved)


def test_two_files_of_one_name(paper, tmp_path):
    """The same code in two places is one class; other code under the name is refused."""
    copy = tmp_path / "elsewhere" / "mine.py"
    copy.parent.mkdir()
    shutil.copy(paper, copy)
    assert recipes.load(f"{copy}:mine") == recipes.load(f"{paper}:mine")
    other = tmp_path / "third" / "mine.py"
    other.parent.mkdir()
    other.write_text(PAPER.replace("= 0.5", "= 4.0"))
    changed = recipes.load(f"{other}:mine")  # it may still be looked at
    assert changed.method.noise == 4.0  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"another module mine .*rename one of the files"):
        to_dict(changed)
    paper.write_text(PAPER.replace("= 0.5", "= 5.0"))
    copy.write_text(PAPER.replace("= 0.5", "= 5.0"))
    with pytest.raises(InputError, match=r"mine.py has changed since it was read"):
        to_dict(recipes.load(f"{copy}:mine"))


def test_a_name_of_another_library(tmp_path):
    """A file of recipes may be called like an installed module; its own classes may not."""
    path = tmp_path / "tomllib.py"
    path.write_text(PAPER)
    found = recipes.load(f"{path}:mine")
    with pytest.raises(InputError, match=r"another module tomllib \(/.*rename one of the files"):
        to_dict(found)
    import tomllib

    assert tomllib.__file__ != str(path)


def test_a_file_of_a_package(paper, forget, monkeypatch, tmp_path):
    """It is named from the top of the package, may import its siblings, and is read again once
    the package is trusted, by its folder or by its name."""
    package = tmp_path / "my_package"
    (package / "audio").mkdir(parents=True)
    for folder in (package, package / "audio"):
        (folder / "__init__.py").touch()
    shutil.move(paper, package / "encoders.py")
    own = (
        "from ..encoders import Mine as Theirs, mine as theirs\nfrom jfreq.config import replace\n"
    )
    own += "from jfreq.ranges import checked\n@checked\nclass Mine(Theirs): pass\n"
    own += "mine = replace(theirs, method=Mine(encoder=theirs.method.encoder))"
    (package / "audio" / "paper.py").write_text(own)
    saved, read = reread(package / "audio" / "paper.py")
    assert saved["method"]["type"] == "my_package.audio.paper:Mine"
    assert saved["method"]["encoder"]["type"] == "my_package.encoders:Encoder"
    assert to_dict(read) == saved
    forget()
    with pytest.raises(InputError, match=r"add --trust my_package \("):
        methods.experiment_from_dict(saved)
    jfreq.trust(package)
    assert to_dict(methods.experiment_from_dict(saved)) == saved
    forget()
    monkeypatch.syspath_prepend(str(tmp_path))
    jfreq.trust("my_package")
    assert to_dict(methods.experiment_from_dict(saved)) == saved


def test_what_a_config_may_name(paper, forget):
    saved, _ = reread(paper)

    def read(**changes):
        return methods.experiment_from_dict({**saved, "method": {**saved["method"], **changes}})

    for name, says in (
        ("mine:Mne", r"mine has no class 'Mne' \(did you mean 'Mine'\?\)"),
        ("mine:Encoder", "mine:Encoder does not derive from"),
        ("mine:Path", "has no class 'Path'"),
        ("jfreq.methods.ssast:SSAST", "another name of SSAST"),
        ("os:system", "os has no class 'system'"),
        ("../mine:Mine", "unknown type '../mine:Mine'"),
        ("mine@1:Mine", "unknown type 'mine@1:Mine'"),
        ("antigravity:Mine", "antigravity; if you know and trust"),
    ):
        with pytest.raises(InputError, match=says):
            read(type=name)
    assert "antigravity" not in sys.modules
    with pytest.raises(
        InputError, match=r"encoder: mine:Mine does not derive from ViT or ConvNeXt"
    ):
        read(encoder={**saved["method"], "type": "mine:Mine"})
    paper.write_text("1 / 0")
    forget()
    jfreq.trust(paper)
    with pytest.raises(InputError, match=r"mine.py: ZeroDivisionError: division by zero"):
        read()


def test_what_can_be_trusted(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").touch()
    info = ["data", "info", "nothing"]
    assert refused(*info, "--trust").startswith("--trust: needs a value")
    assert "(did you mean mine.py?)" in refused("--trust", "mine", *info)
    assert "neither a Python file, nor" in refused("--trust=other.py", *info)
    assert "nothing: no such folder" in refused("data", "--trust", "mine.py", *info[1:])


def test_a_script_that_trains(paper, monkeypatch):
    """What a script itself defines is named as the module that it is to others."""
    main = classes.run_as("__main__", paper)
    monkeypatch.setattr(main, "__spec__", None)
    monkeypatch.setitem(sys.modules, "__main__", main)
    saved = to_dict(main.mine)
    assert saved["method"]["type"] == "mine:Mine"
    assert methods.experiment_from_dict(saved) == main.mine
