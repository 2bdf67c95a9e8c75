"""Checkpoint files of other projects as numpy arrays by name. Nothing is ever unpickled."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jfreq.data.sources.folders import why_no_file
from jfreq.files import local_path, read_json
from jfreq.ranges import first_line, shortlist
from jfreq.types import InputError
from jfreq.weights import torch_file

TORCH = (".pth", ".pt", ".bin", ".ckpt")
SAFE = (".safetensors",)
CONFIGS = ("config.json", "preprocessor_config.json")
"""The JSON files of a Hugging Face folder that say what the tensors do not."""
PART = re.compile(r"-\d+-of-\d+\.")
"""In the names of the files that hold one checkpoint together."""
RUN = "checkpoints"
"""A folder of a run of jfreq's own."""
BUNDLE = {"jfreq", "experiment", "sha256"}
"""Names in the ``config.json`` of a bundle."""
DIRECTLY = "give the folder itself to `jfreq embed` or `jfreq export`"


class WeightFile(NamedTuple):
    """What was found at a path: tensors, and the settings beside them."""

    path: Path
    tensors: Mapping[str, np.ndarray]
    config: Mapping[str, Any]
    """``config.json`` beside the tensors; empty where there is none."""
    preprocessor: Mapping[str, Any]
    """``preprocessor_config.json``, likewise."""
    settings: Mapping[str, Any] = {}
    """``cfg`` and ``label_dict`` of a torch file, where they are plain."""


def read_weights_file(path: str | Path) -> WeightFile:
    """The tensors of a file, or of a folder as Hugging Face writes them.

    Numbers of less than 32 bits become float32. The wrappers that training puts around names
    (``module.``, ``model.``) are left out where all names have them.

    Raises:
      InputError: for anything that is not a readable file of tensors, in one line.
    """
    path = local_path(path, "FILE")
    if path.is_dir():
        folder, files = path, _tensor_files(path)
    elif why := why_no_file(path):
        raise InputError(f"{path}: {why}; give the file of a checkpoint or a folder that holds it")
    else:
        folder, files = path.parent, [path]
    tensors: dict[str, np.ndarray] = {}
    settings: dict[str, Any] = {}
    for file in files:
        more, beside = _read(file)
        tensors |= more
        settings |= beside
    beside = folder == path or path.name.startswith(("model.", "pytorch_model."))
    config, preprocessor = (
        read_json(folder / name, "a config") if beside and (folder / name).is_file() else {}
        for name in CONFIGS
    )
    if config.keys() >= BUNDLE:
        raise InputError(f"{path}: is a bundle of jfreq's own, which needs no import; {DIRECTLY}")
    return WeightFile(path, _unwrapped(tensors), config, preprocessor, settings)


def _tensor_files(folder: Path) -> list[Path]:
    """The safetensors of a folder, one file or the parts of one, else its only torch file."""
    safe = sorted(folder.glob("*.safetensors"))
    torch = sorted(file for file in folder.iterdir() if file.suffix in TORCH)
    found = safe or torch
    if len(found) == 1 or (safe and all(PART.search(file.name) for file in safe)):
        return found
    if found:
        names = shortlist([file.name for file in found], 5)
        raise InputError(f"{folder}: holds several files of weights, {names}; give one of them")
    if (folder / RUN).is_dir():
        raise InputError(f"{folder}: is a run of jfreq's own, which needs no import; {DIRECTLY}")
    raise InputError(
        f"{folder}: holds neither .safetensors nor a torch file; give the file of a checkpoint"
    )


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The tensors of a file, and its settings."""
    if path.suffix in SAFE:
        found, settings = _read_safetensors(path)
        return {name: _plain(x) for name, x in found.items()}, settings
    if path.suffix not in TORCH:
        raise InputError(
            f"{path}: is not a checkpoint by its name; the files that are read end in "
            f"{', '.join((*SAFE, *TORCH))}"
        )
    if importlib.util.find_spec("torch") is None:
        script = shlex.quote(torch_file.__file__)
        source, target = shlex.quote(str(path)), shlex.quote(str(path.with_suffix(SAFE[0])))
        raise InputError(
            f"{path}: is read with torch, which is not installed; install torch, or convert the "
            f"file where torch is: python {script} {source} {target}"
        )
    try:
        found = torch_file.read_torch(str(path))
    except torch_file.NotTensors as error:
        raise InputError(f"{path}: {error}") from None
    floats = ((k, x.float() if x.is_floating_point() else x) for k, x in found.tensors.items())
    return {name: x.numpy() for name, x in floats}, found.settings


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    from safetensors import safe_open

    try:
        with safe_open(path, "numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            settings = json.loads((file.metadata() or {}).get("settings", "{}"))
            return tensors, settings if isinstance(settings, dict) else {}
    except Exception as error:  # safetensors' own, and what numpy makes of odd dtypes
        raise InputError(
            f"{path}: cannot be read as safetensors ({first_line(error)}); copy it again"
        ) from None


def _plain(x: Any) -> np.ndarray:
    """A numpy array; float32 where it holds numbers of less than 32 bits."""
    x = np.asarray(x)
    return x.astype(np.float32) if x.dtype.kind not in "iub" and x.dtype.itemsize < 4 else x


def _unwrapped(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors without a first part of the name that all of them share as a wrapper."""
    names = list(tensors)
    for wrapper in ("module.", "model."):
        if names and all(name.startswith(wrapper) for name in names):
            names = [name.removeprefix(wrapper) for name in names]
    return dict(zip(names, tensors.values()))
