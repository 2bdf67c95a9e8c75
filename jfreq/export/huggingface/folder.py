"""The folder ``huggingface`` beside a bundle."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save

from jfreq.export.huggingface import ast, cards, twin_settings
from jfreq.export.huggingface.check import Checked, check, run_ast, run_twin
from jfreq.export.huggingface.parts import FOLDER, Parts, as_folder, parts_of
from jfreq.export.portable import Adapter, Extra, noise, one_device

CONFIG, WEIGHTS, FEATURES = "config.json", "model.safetensors", "preprocessor_config.json"


def extra(adapter: Adapter) -> Extra:
    """The folder of an encoder: transformers' AST where it is one, else a twin in torch.

    Raises:
      InputError: for an encoder that is no transformer on log-mel, and for a folder that does not
        compute what the encoder does.
    """
    parts = parts_of(adapter)
    return twin(adapter) if ast.why_not(parts) else _ast(parts, adapter)


def twin(adapter: Adapter) -> Extra:
    """The folder of the twin, whatever the encoder is; as :func:`extra`."""
    parts = parts_of(adapter)
    twin_settings.check_covered(parts)
    files = {
        CONFIG: _json(twin_settings.config(parts, adapter.experiment.method)),
        FEATURES: _json(twin_settings.preprocessor(parts)),
        WEIGHTS: _tensors(twin_settings.tensors(parts, adapter.params)),
        **twin_settings.sources(),
    }
    checked = _checked(files, parts, as_folder(parts, adapter), run_twin)
    return _extra(parts, files, cards.twin_card(parts, checked), (checked.note,))


def _ast(parts: Parts, adapter: Adapter) -> Extra:
    """The folder of transformers' AST. It attends to padding, whatever the encoder does."""
    files = {
        CONFIG: _json(ast.config(parts)),
        FEATURES: _json(ast.preprocessor(parts)),
        WEIGHTS: _tensors(ast.tensors(parts, adapter.params)),
    }
    attended = as_folder(parts, adapter, padding="attended")
    checked = _checked(files, parts, attended, run_ast)
    padding = ""
    if parts.backbone.padding == "masked":
        padding = cards.padding_note(_cosine(as_folder(parts, adapter), attended))
    card = cards.ast_card(parts, checked, padding)
    return _extra(parts, files, card, (padding, checked.note))


def _cosine(one: Adapter, other: Adapter) -> float:
    """Cosine of the clip vectors of two encoders on a full window of noise."""
    window = noise(one.signals, 1)
    with one_device():
        a, b = (np.asarray(jax.jit(x.encode)(x.params, window)["clip"][0]) for x in (one, other))
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _checked(files: dict[str, bytes], parts: Parts, adapter: Adapter, run: Any) -> Checked:
    """Writes the files where they are then checked."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, blob in files.items():
            (folder / file).write_bytes(blob)
        return check(folder, parts, adapter, run)


def _extra(parts: Parts, files: dict[str, bytes], card: str, notes: tuple[str, ...]) -> Extra:
    """The files below ``FOLDER``, with a card of their own."""
    files |= {"README.md": f"# {parts.name}\n\n{card}".encode()}
    files = {f"{FOLDER}/{name}": blob for name, blob in files.items()}
    return Extra(files, card, tuple(note for note in notes if note))


def _json(settings: dict[str, Any]) -> bytes:
    return (json.dumps(settings, indent=2) + "\n").encode()


def _tensors(tensors: dict[str, Any]) -> bytes:
    """A file of tensors; transformers asks for the note on their format."""
    return save({name: np.array(x, order="C") for name, x in tensors.items()}, {"format": "pt"})
