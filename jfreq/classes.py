"""The class that a name in a config means: ours ``SSAST``, others ``my_package.my_file:Mine``.

Code that does not come with jfreq runs only when the user names it: as the file of an experiment or
an ablation, or with :func:`trust`. The class names in a run folder or a bundle never run anything.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from jfreq.files import local_path
from jfreq.ranges import InputError, close_match, shown

_OWN = __name__.partition(".")[0]
_PRIVATE = "@"
"""Stands in the name of a module that cannot be imported under its own."""
_trusted: dict[str, Path | None] = {}
"""Module or package -> its file, where one was named. What lies in a package is trusted with it."""
_digests: dict[str, str] = {}
"""Module -> sha256 of the code that :func:`run_file` ran for it."""


def module_name(path: Path) -> str:
    """The dotted name by which others import a Python file, from the top of its package."""
    return _location(path.resolve())[1]


def imported_from(name: str) -> str | None:
    """Where Python finds a module of this name; None where there is none."""
    spec = _spec(name)
    return None if spec is None else spec.origin or name


def trust(code: str | Path) -> None:
    """Lets runs, bundles and configs name classes of this code; it is imported when they do.

    Args:
      code: a Python file, the folder of a package, or the name of an installed module.

    Raises:
      InputError: where there is no such file or module.
    """
    path = local_path(code, "trust")
    file = path / "__init__.py" if path.is_dir() else path
    if file.is_file():
        _trusted[module_name(file)] = file.resolve()
        return
    name = str(code)
    if not _is_dotted(name) or _spec(name.partition(".")[0]) is None:
        beside = Path(f"{name}.py")
        hint = f" (did you mean {beside}?)" if beside.is_file() else ""
        raise InputError(
            f"trust: {shown(name)} is neither a Python file, nor the folder of a package, nor an "
            f"installed module{hint}"
        )
    _trusted[name] = None


def class_name(cls: type) -> str:
    """What a config calls a class; :func:`find_class` gives the same class for it.

    Raises ``InputError`` where no other process could find the class by a name.
    """
    if cls.__module__.partition(".")[0] == _OWN:
        return cls.__name__
    name = cls.__qualname__
    module, private, _ = _module_name(cls).partition(_PRIVATE)
    if not _is_dotted(module) or not _is_dotted(name):
        raise InputError(
            f"{cls.__name__}: a run cannot name this class; define it at the top of a file whose "
            "name is that of a module, as mine.py"
        )
    loaded = _loaded(module)
    if private:
        where = getattr(loaded, "__file__", None) or imported_from(module)
        if where == sys.modules[cls.__module__].__file__:
            raise InputError(
                f"{module}:{name} is two classes: {where} has changed since it was read; start "
                "Python anew"
            )
        raise InputError(
            f"{module}:{name} is two classes: there is another module {module} ({where}); rename "
            "one of the files"
        )
    if loaded is None or _attribute(loaded, name) is not cls:
        raise InputError(
            f"{module}:{name} is two classes: it was defined anew; make the experiment anew too"
        )
    return f"{module}:{name}"


def find_class(name: str, where: str) -> type:
    """The dataclass called ``module:Class``.

    Args:
      name: as :func:`class_name` gives it, of a class that does not come with jfreq.
      where: the field that names it, for messages.

    Raises:
      InputError: where the module is neither imported nor trusted, fails to import, or has no
        such class.
    """
    module_name, _, qualname = name.partition(":")
    if not _is_dotted(module_name) or not _is_dotted(qualname):
        raise InputError(f"{where}: unknown type {shown(name)}")
    module = _loaded(module_name) or _import_trusted(module_name, qualname, where)
    found = _attribute(module, qualname)
    if not isinstance(found, type) or not dataclasses.is_dataclass(found):
        known = [k for k, v in vars(module).items() if dataclasses.is_dataclass(v)]
        hint = close_match(qualname, known)
        raise InputError(f"{where}: {module_name} has no class {shown(qualname)}{hint}")
    return found


def run_file(path: Path) -> ModuleType:
    """The module of a Python file, run once, under the name by which others import it.

    Where another module has that name, or the file has changed since it was read, it runs under a
    private name, and :func:`class_name` refuses its classes.

    Raises ``InputError`` with the error of a file that does not run.
    """
    path = path.resolve()
    root, name = _location(path)
    digest = _digest(path)
    loaded = sys.modules.get(name)
    if loaded is not None and _digest_of(loaded) == digest:
        return loaded
    if str(root) not in sys.path:
        sys.path.append(str(root))  # after all else: files beside it replace no other module
    importlib.invalidate_caches()
    package = name.rpartition(".")[0]
    if package:
        _import(package, path)
    spec = _spec(name)
    if loaded is None and spec is not None and Path(spec.origin or "").resolve() == path:
        module = _import(name, path)
    else:
        private = hashlib.sha256(f"{path}{digest}".encode()).hexdigest()[:12]
        module = run_as(f"{name}{_PRIVATE}{private}", path)
    _digests[module.__name__] = digest
    return module


def run_as(name: str, path: Path) -> ModuleType:
    """The module of a Python file, run anew as ``name``.

    It stands in ``sys.modules``, where dataclasses look for the types of their fields.
    """
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise InputError(f"{path}: is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _as_input_error(path):
            exec(compile(path.read_bytes(), path, "exec"), vars(module))
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import_trusted(name: str, qualname: str, where: str) -> ModuleType:
    allowed = [t for t in _trusted if name == t or name.startswith(f"{t}.")]
    if not allowed:
        top, dot, _ = name.partition(".")
        code = top if dot else f"{top}.py"
        raise InputError(
            f"{where}: its class {qualname} is code that does not come with jfreq, in the module "
            f"{name}; if you know and trust that code, add --trust {code} (in Python: "
            f"jfreq.trust({code!r}))"
        )
    for trusted in allowed:
        file = _trusted[trusted]
        if file is not None and run_file(file).__name__ != trusted:
            raise InputError(f"trust: {file}: there is another module {trusted}; rename one")
    return _import(name, name)


def _import(name: str, source: str | Path) -> ModuleType:
    with _as_input_error(source):
        return importlib.import_module(name)


@contextlib.contextmanager
def _as_input_error(source: str | Path) -> Iterator[None]:
    """Whatever goes wrong with code that somebody else wrote, as one line about its source."""
    try:
        yield
    except (InputError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise InputError(f"{source}: {type(error).__name__}: {error}") from error


def _location(path: Path) -> tuple[Path, str]:
    """The folder that has to be on ``sys.path``, and the dotted name of the file from there."""
    parts, folder = [path.stem] if path.stem != "__init__" else [], path.parent
    while (folder / "__init__.py").is_file():
        parts, folder = [folder.name, *parts], folder.parent
    return folder, ".".join(parts)


def _module_name(cls: type) -> str:
    return _main_name() if cls.__module__ == "__main__" else cls.__module__


def _main_name() -> str:
    """How another process imports the script that runs; empty where it is no file."""
    main = sys.modules.get("__main__")
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:
        return spec.name
    return module_name(Path(file)) if file else ""


def _loaded(name: str) -> ModuleType | None:
    main = sys.modules.get("__main__") if name == _main_name() else None
    return sys.modules.get(name) or main


def _attribute(module: ModuleType, qualname: str) -> Any:
    """What the module holds; looks into namespaces and asks no module to load more of itself."""
    found: Any = module
    for part in qualname.split("."):
        found = vars(found).get(part) if isinstance(found, ModuleType | type) else None
    return found


def _is_dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def _spec(name: str) -> ModuleSpec | None:
    """Where a module is imported from; None where there is none."""
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _digest_of(module: ModuleType) -> str | None:
    """Of the code that was run for a module; of its file where somebody else imported it."""
    file = getattr(module, "__file__", None)
    if module.__name__ in _digests or file is None or not Path(file).is_file():
        return _digests.get(module.__name__)
    return _digest(Path(file))
