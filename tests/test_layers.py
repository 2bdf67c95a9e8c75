"""The house keeps its shape: imports only point down, heavy libraries load only when used."""

import ast
import subprocess
import sys

import pytest

LEVEL = {
    "ranges": 0, "types": 0, "trees": 1, "method": 1, "config": 1, "files": 1, "checksums": 1,
    "classes": 1,
    "sharding": 2, "ops": 2, "distributed": 2,
    "masks": 3, "augment": 3, "losses": 3, "nn": 4, "data": 4, "methods": 5,
    "optim": 6, "state": 6, "flops": 6, "recipes": 6,
    "checkpoint": 7, "step": 8, "report": 9, "plan": 9, "export": 9, "evaluate": 10, "train": 10,
    "views": 11, "ablate": 11, "page": 11, "testing": 11, "cli": 12,
}  # fmt: skip
"""A room may import rooms of its own level (its neighbours in the plan) and below."""

FORBIDDEN = {
    "ops": {"flax", "config", "method", "methods"},
    "masks": {"flax", "config", "method"},
    "losses": {"flax", "config", "method"},
    "augment": {"flax", "config", "method"},
    "nn": {"config", "method", "methods", "data"},
    "data": {"ops", "nn", "method", "methods", "flax", "masks", "losses"},
    "types": {"flax"},
}
LAZY = {"tensorflow", "tensorflow_datasets", "librosa", "matplotlib", "sklearn", "soundfile",
        "soxr", "tyro", "grain", "torch", "scipy"}  # fmt: skip


def _modules(root):
    for path in sorted((root / "jfreq").rglob("*.py")):
        parts = path.relative_to(root / "jfreq").with_suffix("").parts
        if parts != ("__init__",):
            yield path, parts[0]


def _imports(tree: ast.AST):
    """Imported modules: (name, whether at module level)."""
    top = set(map(id, getattr(tree, "body", [])))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in top
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "jfreq":
                for alias in node.names:
                    yield f"jfreq.{alias.name}", id(node) in top
            else:
                yield node.module, id(node) in top


def test_imports_point_down(root):
    wrong = []
    for path, room in _modules(root):
        for name, _ in _imports(ast.parse(path.read_text())):
            parts = name.split(".")
            if parts[0] in ("experiments", "tests"):
                wrong.append(f"{path.name} imports {name}")
            target = parts[1] if parts[0] == "jfreq" and len(parts) > 1 else None
            if target in LEVEL and LEVEL[target] > LEVEL[room]:
                wrong.append(f"{room}/{path.name} imports {name}")
            if (target or parts[0]) in FORBIDDEN.get(room, set()):
                wrong.append(f"{room}/{path.name} imports {name}")
    assert not wrong


def test_every_room_has_a_level(root):
    assert {room for _, room in _modules(root)} <= set(LEVEL)


def test_heavy_libraries_load_inside_functions(root):
    wrong = [
        f"{path.relative_to(root)} imports {name}"
        for path, room in _modules(root)
        for name, top in _imports(ast.parse(path.read_text()))
        if top and name.split(".")[0] in LAZY and room not in ("cli", "views")
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import jfreq", ("tensorflow", "librosa", "tyro", "flax", "orbax")),
        (
            "import jfreq.train.loop, jfreq.methods",
            ("tensorflow", "librosa", "tyro", "tensorboardX"),
        ),
        ("from jfreq import load_encoder", ("tensorflow", "librosa", "tyro")),
        ("import jfreq.cli", ("tensorflow", "librosa", "flax", "orbax")),
    ],
)
def test_import_is_light(statement, absent):
    code = f"{statement}\nimport sys\nprint([m for m in {absent!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
