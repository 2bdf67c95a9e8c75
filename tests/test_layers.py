"""Imports only point down, and heavy libraries load only when used."""

import ast
import re
import subprocess
import sys

import pytest

LEVEL = {
    "ranges": 0, "types": 0, "pages": 0,
    "param_paths": 1, "method": 1, "config": 1, "config_json": 1,
    "config_watching": 1, "config_checkpoint": 1, "buckets": 1, "lease": 1, "staging": 1,
    "files": 1, "parts": 1, "checksums": 1, "classes": 1, "metrics": 1,
    "sharding": 2, "kernels": 2, "ops": 2, "distributed": 2, "last_words": 1,
    "masks": 3, "augment": 3, "losses": 3, "frontends": 3, "nn": 4, "data": 4, "methods": 5,
    "monitoring.progress": 1, "recipes": 6, "monitoring.flops": 6,
    "train.state": 6, "train.optimizer": 6, "train.run_folder": 6, "train.transfer": 6,
    "train.average": 5, "train.watch": 5, "train.keeping": 5, "train.stored": 7,
    "train.checkpoint": 7,
    "train.checkpoint_files": 7, "train.fits": 7, "train.resume_from": 8, "train.inventory": 9,
    "train.accumulate": 7, "train.plan": 8, "train.initial_state": 8, "train.step": 8,
    "weights": 8, "export.bundle": 8, "export.bundle_checks": 8, "monitoring": 9, "plan": 9,
    "evaluate.folds": 5, "evaluate.knn": 2, "evaluate.probe": 2, "evaluate.features": 9,
    "evaluate.any_length": 9,
    "train.validation": 9, "train.evals": 9, "train.figures": 9, "train.pending": 9,
    "train.milestones": 9, "train.loop": 9,
    "encoder": 9, "export": 10, "evaluate": 10,
    "ablate": 11, "report": 11, "hub": 11, "testing": 11, "cli": 12,
    "__main__": 12,
}  # fmt: skip
"""A package may import packages of its level and below."""

FORBIDDEN = {
    "kernels": {"flax", "config", "method", "methods", "ops"},
    "ops": {"flax", "config", "method", "methods"},
    "masks": {"flax", "config", "method"},
    "losses": {"flax", "config", "method"},
    "augment": {"flax", "config", "method"},
    "frontends": {"flax", "config", "method", "methods", "nn"},
    "nn": {"config", "method", "methods", "data"},
    "data": {"ops", "nn", "method", "methods", "flax", "masks", "losses"},
    "types": {"flax"},
}
LAZY = {"tensorflow", "tensorflow_datasets", "librosa", "matplotlib", "sklearn", "soundfile",
        "soxr", "tyro", "grain", "apache_beam", "torch", "scipy", "mteb", "s3prl", "onnx",
        "onnxruntime", "ai_edge_litert", "fsspec"}  # fmt: skip
TWIN = ("export", "huggingface", "twin")
"""Code that is copied beside exported weights: torch is its point, and jfreq does not import it."""
OWN_ENTRY = {"cli", "hub"}
"""Imported only by a command, or by a framework that is loaded already."""


def level(parts) -> int:
    """Of a module or file below the package; -1 for a package whose modules have levels."""
    names = [part.removesuffix(".py") for part in parts]
    return LEVEL.get(".".join(names[:2]), LEVEL.get(names[0], -1) if names else -1)


def _modules(root):
    for path in sorted((root / "jfreq").rglob("*.py")):
        parts = path.relative_to(root / "jfreq").with_suffix("").parts
        if parts != ("__init__",) and parts[:3] != TWIN:
            yield path, parts[0]


def _imports(tree: ast.AST):
    """Imported modules: (name, whether at module level)."""
    top = set(map(id, getattr(tree, "body", [])))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in top
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module.split(".")[0] == "jfreq":
                for alias in node.names:
                    yield f"{node.module}.{alias.name}", id(node) in top
            else:
                yield node.module, id(node) in top


def test_imports_point_down(root):
    wrong = []
    for path, package in _modules(root):
        for name, _ in _imports(ast.parse(path.read_text())):
            parts = name.split(".")
            if parts[0] in ("experiments", "tests"):
                wrong.append(f"{path.name} imports {name}")
            target = parts[1] if parts[0] == "jfreq" and len(parts) > 1 else None
            own = level(path.relative_to(root / "jfreq").parts)
            if parts[0] == "jfreq" and level(parts[1:]) > own:
                wrong.append(f"{package}/{path.name} imports {name}")
            if (target or parts[0]) in FORBIDDEN.get(package, set()):
                wrong.append(f"{package}/{path.name} imports {name}")
    assert not wrong


def test_every_room_has_a_level(root):
    unknown = [
        str(path) for path, _ in _modules(root)
        if path.name != "__init__.py" and level(path.relative_to(root / "jfreq").parts) < 0
    ]  # fmt: skip
    assert not unknown


def test_heavy_libraries_load_inside_functions(root):
    wrong = [
        f"{path.relative_to(root)} imports {name}"
        for path, package in _modules(root)
        for name, top in _imports(ast.parse(path.read_text()))
        if top and name.split(".")[0] in LAZY and package not in OWN_ENTRY
    ]
    assert not wrong


FRAMEWORKS = r"(importorskip|find_spec)\(\"(torch|transformers|onnx|onnxruntime|mteb|s3prl|xares)\b"


def test_tests_of_other_frameworks_run_beside_them(root):
    """What skips without PyTorch and the like is found by `make interop`, which has them."""
    files = [path for path in (root / "tests").rglob("test_*.py") if path.parent.name != "interop"]
    texts = {str(path): path.read_text() for path in files}
    asking = {name for name, text in texts.items() if re.search(FRAMEWORKS, text)}
    marked = {name for name, text in texts.items() if "\n@pytest.mark.interop\n" in text}
    assert asking and asking == marked


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import jfreq", ("tensorflow", "librosa", "tyro", "flax", "orbax")),
        (
            "import jfreq.train.loop, jfreq.methods",
            ("tensorflow", "librosa", "tyro", "tensorboardX"),
        ),
        ("from jfreq import load_encoder", ("tensorflow", "librosa", "tyro", "optax", "soundfile")),
        ("import jfreq.cli", ("tensorflow", "librosa", "flax", "orbax", "jax", "numpy")),
    ],
)
def test_import_is_light(statement, absent):
    code = f"{statement}\nimport sys\nprint([m for m in {absent!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
