"""Tensors of a torch file, and plain settings beside them, without running anything that it names.

It needs torch and safetensors alone, so that it also converts a file where jfreq is not installed::

    python torch_file.py FILE.pth FILE.safetensors
"""

from __future__ import annotations

import json
import pickle
import sys
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

PASSIVE = (
    "omegaconf.",
    "fairseq.",
    "fairseq_user_dir",
    "argparse.Namespace",
    "typing.",
    "enum.",
    "builtins.dict",
    "builtins.list",
    "builtins.set",
    "builtins.tuple",
    "builtins.int",
    "builtins.float",
    "builtins.str",
    "builtins.bool",
    "collections.defaultdict",
    "numpy.",
    "pathlib.",
    "EAT.",
    "models.",
)
"""Beginnings of the names of classes that training programs leave in their files beside the tensors
(settings, meters). Each is read as an empty object; the classes themselves are never imported."""

MODULES = "torch.nn.modules."
"""Beginning of the names of layers: a file that asks for them holds a model, not its weights."""
PARTS = ("model", "state_dict")
"""Names of the part of a checkpoint that holds the weights, beside the state of an optimiser."""
SETTINGS = ("cfg", "label_dict")
"""Names of parts that hold settings: numbers and words in plain containers are read of them."""


class NotTensors(ValueError):
    """The file is no file of tensors, or names what it should not."""


class _Passive:
    """Stands for an object that is not a tensor: takes any arguments and any state, and does
    nothing with them."""

    def __new__(cls, *args: Any, **named: Any):
        del args, named
        return super().__new__(cls)

    def __init__(self, *args: Any, **named: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _PassiveDict(_Passive):
    """Stands for a kind of dict: what is made is an empty one."""

    def __new__(cls, *args: Any, **named: Any):
        del cls, args, named
        return {}


DICTS = ("collections.defaultdict",)


class TorchFile(NamedTuple):
    """What a file of torch holds."""

    tensors: dict[str, Any]
    """By name; nested names are joined by ``.``."""
    settings: dict[str, Any]
    """Those of :data:`SETTINGS` that are there, as JSON would have them."""


def read_torch(path: str) -> TorchFile:
    """The tensors and settings of a file that torch wrote.

    torch's restricted reader knows tensors and plain containers alone. Every other class that the
    file names must be one of :data:`PASSIVE`, and :class:`_Passive` stands for it while the file is
    read.

    Raises:
      NotTensors: one line, for a damaged file, one of another kind, and one that names a function
        or class which has no place in a checkpoint.
    """
    import torch  # pyright: ignore[reportMissingImports]

    if not zipfile.is_zipfile(path):
        raise NotTensors(_no_zip(path))
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        refused = [name for name in names if not name.startswith(PASSIVE)]
        if any(name.startswith(MODULES) for name in refused):
            raise NotTensors(
                "holds a whole model as a program, not its tensors alone, and was not executed; "
                "where its code is installed and trusted, save model.state_dict() instead"
            )
        if refused:
            raise NotTensors(
                f"asks for {', '.join(sorted(refused)[:3])}, which has no place among weights; it "
                "was not executed: take the file from its owners again"
            )
        bases = (_PassiveDict if name in DICTS else _Passive for name in names)
        classes = [(type("Passive", (base,), {}), name) for base, name in zip(bases, names)]
        with torch.serialization.safe_globals(classes):
            content = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(content, torch.Tensor):
            raise NotTensors(
                "holds a single tensor without a name; save the state_dict of the model instead"
            )
        tensors, settings = dict(_tensors("", _weights(content))), _settings(content)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, OSError, ValueError) as error:
        if isinstance(error, NotTensors):
            raise
        # torch says first how one could execute the file after all.
        _, found, reason = str(error).partition("WeightsUnpickler error: ")
        line = (str(reason if found else error).strip().splitlines() or [type(error).__name__])[0]
        raise NotTensors(
            f"cannot be read as a file of torch ({line[:200]}); copy it again"
        ) from None
    except (AttributeError, TypeError, IndexError) as error:
        raise NotTensors(f"is damaged ({type(error).__name__}); copy it again") from None
    if not tensors:
        raise NotTensors("holds no tensors")
    return TorchFile(tensors, settings)


def _no_zip(path: str) -> str:
    with open(path, "rb") as file:
        head = file.read(8)
    if head[:1] == b"\x80" or head[:2] == b"PK":
        return (
            "is truncated, or a pickle, or written by a torch before 1.6, none of which is read; "
            "copy it again, or save its state_dict anew with a newer torch"
        )
    return "is not a file of torch"


def _weights(content: Any) -> Any:
    """The part of a checkpoint that holds the weights; all of it where there is no such part."""
    if isinstance(content, Mapping):
        for name in PARTS:
            if isinstance(content.get(name), Mapping):
                return content[name]
    return content


def _settings(content: Any) -> dict[str, Any]:
    """The plain settings beside weights that lie in a part of their own."""
    if _weights(content) is content:
        return {}
    found = {name: content[name] for name in SETTINGS if isinstance(content.get(name), Mapping)}
    return {name: _plain(value) for name, value in found.items()}


def _plain(value: Any) -> Any:
    """Numbers and words in dicts and lists; None in place of everything else."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value if isinstance(value, str | int | float | bool) else None


def _tensors(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    import torch  # pyright: ignore[reportMissingImports]

    if isinstance(value, torch.Tensor):
        if value.layout == torch.strided and not value.is_quantized:
            yield prefix, value.detach()
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _tensors(f"{prefix}.{name}" if prefix else str(name), inner)


def convert(source: str, target: str) -> None:
    """Writes the tensors of a torch file as safetensors, under the same names, and its settings as
    JSON in their header."""
    from safetensors.torch import save_file

    found = read_torch(source)
    tensors = {name: x.clone().contiguous() for name, x in found.tensors.items()}
    save_file(tensors, target, {"settings": json.dumps(found.settings)})


def main(arguments: list[str]) -> str:
    """Converts a file; returns what was wrong, in one line, which is empty where nothing was."""
    if len(arguments) != 2:
        return "usage: python torch_file.py FILE.pth FILE.safetensors"
    try:
        convert(*arguments)
    except NotTensors as error:
        return f"{arguments[0]}: {error}"
    except ImportError as error:
        return f"torch and safetensors are needed ({error}); run this where both are installed"
    except OSError as error:
        return f"{error.filename or arguments[0]}: {error.strerror or error}"
    return ""


if __name__ == "__main__":
    if problem := main(sys.argv[1:]):
        print(problem, file=sys.stderr)
        sys.exit(2)
