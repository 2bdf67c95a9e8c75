"""Files of tensors: nothing in them is executed, and without torch a line names the command."""

import importlib.util
import io
import os
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from jfreq.types import InputError
from jfreq.weights import torch_file
from jfreq.weights.read import read_weights_file

HAS_TORCH = importlib.util.find_spec("torch") is not None
with_torch = pytest.mark.skipif(not HAS_TORCH, reason="torch is not installed")


class Executed:
    """An object whose pickle runs a command as soon as it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


class Evaluated(Executed):
    def __reduce__(self):
        return eval, (f"open({str(self.marker)!r}, 'w')",)


class Opened(Executed):
    def __reduce__(self):
        return open, (str(self.marker), "w")


def zipped(path, content: bytes):
    """A file of torch whose pickle is ``content``."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", content)
        file.writestr("archive/version", "3\n")
        file.writestr("archive/byteorder", "little")
    return path


@pytest.mark.parametrize("kind", [Executed, Evaluated, Opened])
@pytest.mark.parametrize("form", ["zip", "pickle", "inside"])
def test_a_malicious_file_is_refused_and_not_executed(tmp_path, kind, form):
    marker = tmp_path / "marker"
    content = pickle.dumps({"model": {"a": kind(marker)}} if form == "inside" else kind(marker), 2)
    path = tmp_path / "weights.pth"
    path.write_bytes(content) if form == "pickle" else zipped(path, content)
    with pytest.raises(InputError) as raised:
        read_weights_file(path)
    assert "\n" not in str(raised.value)
    assert not marker.exists()
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError):
        read_weights_file(tmp_path)
    assert not marker.exists()


@pytest.mark.skipif(HAS_TORCH, reason="torch is installed")
def test_without_torch_the_line_names_the_command(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"PK")
    with pytest.raises(InputError, match="install torch, or convert") as raised:
        read_weights_file(tmp_path / "weights.pth")
    command = str(raised.value).rpartition(": ")[2].split()
    assert command[:2] == ["python", torch_file.__file__]
    assert command[3].endswith("weights.safetensors")


def test_wrappers_of_names_are_left_out(tmp_path):
    save_file(
        {"module.model.a": np.ones(2), "module.model.b": np.ones(3)}, tmp_path / "w.safetensors"
    )
    assert set(read_weights_file(tmp_path / "w.safetensors").tensors) == {"a", "b"}


def test_halves_become_float32(tmp_path):
    save_file({"a": np.ones(2, np.float16)}, tmp_path / "w.safetensors")
    assert read_weights_file(tmp_path / "w.safetensors").tensors["a"].dtype == np.float32


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.txt", "is not a checkpoint by its name"),
        ("folder", "holds neither"),
        ("no.pt", "on disk"),
    ],
)
def test_other_paths_are_refused(tmp_path, name, message):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=message):
        read_weights_file(tmp_path / name)


def test_a_folder_of_several_files_names_them(tmp_path):
    for name, key in [("a", "x"), ("b", "y")]:
        save_file({key: np.ones(2)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(InputError, match=r"a\.safetensors, b\.safetensors; give one of them"):
        read_weights_file(tmp_path)
    for i, name in enumerate("ab", 1):
        part = tmp_path / f"model-0000{i}-of-00002.safetensors"
        (tmp_path / f"{name}.safetensors").rename(part)
    assert set(read_weights_file(tmp_path).tensors) == {"x", "y"}


def test_a_run_needs_no_import(tmp_path):
    (tmp_path / "checkpoints" / "10").mkdir(parents=True)
    with pytest.raises(InputError, match="a run of jfreq's own, which needs no import"):
        read_weights_file(tmp_path)


def test_the_converter_says_in_one_line_what_is_wrong(tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\")")
    (tmp_path / "w.pth").write_bytes(b"PK")
    target = str(tmp_path / "w.safetensors")
    for arguments, message in [
        ([str(tmp_path / "w.pth"), target], "No module named 'torch'"),
        ([target], "usage: "),
    ]:
        done = subprocess.run(
            [sys.executable, torch_file.__file__, *arguments],
            env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 2 and done.stdout == ""
        assert message in done.stderr and done.stderr.count("\n") == 1


# ------------------------------------------------------------------ with torch


@pytest.mark.interop
@with_torch
def test_torch_files_are_read_beside_objects_of_other_programs(tmp_path):
    """As fairseq writes them: settings of classes that are not installed, and an optimiser."""
    import torch  # pyright: ignore[reportMissingImports]

    module = type(sys)("omegaconf")
    for name in ("DictConfig", "AnyNode"):
        made = type(name, (), {"__module__": "omegaconf"})
        setattr(module, name, made)
    sys.modules["omegaconf"] = module
    try:
        config = module.DictConfig()
        config.content = {"lr": module.AnyNode(), "names": [module.AnyNode()]}
        model = {"a": torch.ones(2, dtype=torch.float16), "_ema": {"a": torch.zeros(2)}}
        content = {"cfg": config, "model": model, "optimizer": {"exp_avg": torch.ones(9)}}
        torch.save(content, tmp_path / "eat.pt")
    finally:
        del sys.modules["omegaconf"]
    tensors = read_weights_file(tmp_path / "eat.pt").tensors
    assert set(tensors) == {"a", "_ema.a"}
    assert tensors["a"].dtype == np.float32
    assert "omegaconf" not in sys.modules
    target = tmp_path / "eat.safetensors"
    command = [sys.executable, torch_file.__file__, str(tmp_path / "eat.pt"), str(target)]
    subprocess.run(command, check=True)
    found = read_weights_file(target).tensors
    assert all(np.array_equal(found[name], x) for name, x in tensors.items())


@pytest.mark.interop
@with_torch
def test_odd_content_is_refused(tmp_path):
    import torch  # pyright: ignore[reportMissingImports]

    endless: dict = {"a": torch.ones(2)}
    endless["b"] = endless
    sparse = {"a": torch.ones(2, 2).to_sparse()}
    for content, message in [
        (endless, "recursion"),
        (sparse, "no tensors"),
        ([], "no tensors"),
        (torch.ones(2), "holds a single tensor without a name"),
        (torch.nn.Linear(2, 2), "holds a whole model .* not executed; .* save model.state_dict"),
    ]:
        torch.save(content, tmp_path / "w.pt")
        with pytest.raises(InputError, match=message):
            read_weights_file(tmp_path / "w.pt")


@pytest.mark.interop
@with_torch
@pytest.mark.parametrize("cut", [10, 200, 600])
def test_truncated_torch_files_are_refused(tmp_path, cut):
    import torch  # pyright: ignore[reportMissingImports]

    buffer = io.BytesIO()
    torch.save({"a": torch.ones(100)}, buffer)
    (tmp_path / "w.pth").write_bytes(buffer.getvalue()[:-cut])
    with pytest.raises(InputError) as raised:
        read_weights_file(tmp_path / "w.pth")
    assert "\n" not in str(raised.value)
