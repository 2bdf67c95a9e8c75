"""Names of classes in configs, and the classes that they stand for.

A class that comes with jfreq has its bare name, ``SSAST``; any other has that of its module as
well, ``my_package.my_file:Mine``.

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

_PACKAGE = __name__.partition(".")[0]
_PRIVATE = "@"
"""Precedes a digest in the name of a module that cannot be imported under its own name."""
_trusted: dict[str, Path | None] = {}
"""The file of every trusted module or package by its name; None where only a name was given.

Modules in a trusted package are trusted with it.
"""
_digests: dict[str, str] = {}
"""The sha256 of the code that :func:`run_file` ran, by the name of the module."""


def module_name(path: Path) -> str:
    """The dotted name by which other code imports a Python file, from its topmost package down."""
    return _location(path.resolve())[1]


def imported_from(name: str) -> str | None:
    """The file from which Python imports a module, its name where it has no file, or None.

    None means that no module of this name is found. Parents of a dotted name are imported.
    """
    spec = _find_spec(name)
    return None if spec is None else spec.origin or name


def trust(code: str | Path) -> None:
    """Lets runs, bundles and configs name classes of this code.

    The code is not run now, but when one of its classes is asked for.

    Args:
      code: a Python file, the folder of a package, or the name of an installed module.

    Raises:
      InputError: if there is no such file, folder or module.
    """
    path = local_path(code, "trust")
    file = path / "__init__.py" if path.is_dir() else path
    if file.is_file():
        _trusted[module_name(file)] = file.resolve()
        return
    name = str(code)
    if not _is_dotted(name) or _find_spec(name.partition(".")[0]) is None:
        beside = Path(f"{name}.py")
        hint = f" (did you mean {beside}?)" if beside.is_file() else ""
        raise InputError(
            f"trust: {shown(name)} is neither a Python file, nor the folder of a package, nor an "
            f"installed module{hint}"
        )
    _trusted[name] = None


def class_name(cls: type) -> str:
    """What a config calls a class: ``Class`` for one of jfreq, else ``module:Class``.

    Another process finds the same class by that name, with :func:`find_class` if it is not one of
    jfreq. Raises ``InputError`` where it could not: for a class inside a function, one of a file
    whose name is not that of a module, and one that shares its name with another class.
    """
    if cls.__module__.partition(".")[0] == _PACKAGE:
        return cls.__name__
    name = cls.__qualname__
    module, is_private, _ = _module_of(cls).partition(_PRIVATE)
    if not _is_dotted(module) or not _is_dotted(name):
        raise InputError(
            f"{cls.__name__}: a run cannot name this class; define it at the top of a file whose "
            "name is that of a module, as mine.py"
        )
    loaded = _loaded_module(module)
    if is_private:
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
    """The dataclass called ``module:Class``, of a module that is imported if it is trusted.

    Args:
      name: what :func:`class_name` calls a class that does not come with jfreq.
      where: the field of the config that holds the name, for messages.

    Raises:
      InputError: if the name has another form, or if the module is neither imported nor trusted,
        fails to import, or has no such dataclass.
    """
    module, module_part, qualname = _module(name, where)
    cls = _attribute(module, qualname)
    if not isinstance(cls, type) or not dataclasses.is_dataclass(cls):
        known = [k for k, v in vars(module).items() if dataclasses.is_dataclass(v)]
        hint = close_match(qualname, known)
        raise InputError(f"{where}: {module_part} has no class {shown(qualname)}{hint}")
    return cls


def find_code(name: str, where: str) -> Any:
    """The class or function called ``module:Name``, of a module that is imported if it is trusted.

    Arguments and errors are those of :func:`find_class`.
    """
    module, module_part, qualname = _module(name, where)
    found = _attribute(module, qualname)
    if not callable(found):
        known = [k for k, v in vars(module).items() if callable(v)]
        hint = close_match(qualname, known)
        raise InputError(f"{where}: {module_part} has no {shown(qualname)}{hint}")
    return found


def _module(name: str, where: str) -> tuple[ModuleType, str, str]:
    """The trusted module of ``module:Name``, imported, and both parts of the name."""
    module_part, _, qualname = name.partition(":")
    if not _is_dotted(module_part) or not _is_dotted(qualname):
        raise InputError(f"{where}: unknown type {shown(name)}")
    module = _loaded_module(module_part) or _import_trusted(module_part, qualname, where)
    return module, module_part, qualname


def run_file(path: Path) -> ModuleType:
    """The module of a Python file, which runs unless a module of its name has run the same code.

    The module has the name by which other code imports the file. Where another module has that
    name, or the file has changed since it was read, it runs under a private name instead, and
    :func:`class_name` refuses its classes. The folder of the topmost package joins ``sys.path``.

    Raises ``InputError`` for a file that cannot be read, and with the error of one that fails.
    """
    path = path.resolve()
    root, name = _location(path)
    digest = _digest(path)
    loaded = sys.modules.get(name)
    if loaded is not None and _digest_of(loaded) == digest:
        return loaded
    if str(root) not in sys.path:
        sys.path.append(str(root))  # after all else: files beside it replace no other module
    importlib.invalidate_caches()  # the file may be newer than what Python knows of its folder
    package = name.rpartition(".")[0]
    if package:
        # To look for the module would import its package too, but not say why that fails.
        _import(package, path)
    spec = _find_spec(name)
    if loaded is None and spec is not None and Path(spec.origin or "").resolve() == path:
        module = _import(name, path)
    else:
        private = hashlib.sha256(f"{path}{digest}".encode()).hexdigest()[:12]
        module = run_as(f"{name}{_PRIVATE}{private}", path)
    _digests[module.__name__] = digest
    return module


def run_as(name: str, path: Path) -> ModuleType:
    """Runs a Python file as a module called ``name``, even if it has run before.

    The module replaces any other of that name in ``sys.modules``, where dataclasses look for the
    types of their fields. If the file fails, no module of that name stays there.

    Raises ``InputError`` for a file that is not Python, and with the error of one that fails.
    """
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None:
        raise InputError(f"{path}: is not a Python file; its name must end with .py")
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
    """The module of a class, imported; ``InputError`` unless it or its package is trusted."""
    covering = [t for t in _trusted if name == t or name.startswith(f"{t}.")]
    if not covering:
        top, dot, _ = name.partition(".")
        code = top if dot else f"{top}.py"
        raise InputError(
            f"{where}: its class {qualname} is code that does not come with jfreq, in the module "
            f"{name}; if you know and trust that code, add --trust {code} (in Python: "
            f"jfreq.trust({code!r}))"
        )
    for trusted in covering:
        file = _trusted[trusted]
        # The name alone could lead to another module, which nobody has trusted.
        if file is not None and run_file(file).__name__ != trusted:
            raise InputError(f"trust: {file}: there is another module {trusted}; rename one")
    return _import(name, name)


def _import(name: str, source: str | Path) -> ModuleType:
    """The module ``name``, imported; ``InputError`` about ``source`` if its code fails."""
    with _as_input_error(source):
        return importlib.import_module(name)


@contextlib.contextmanager
def _as_input_error(source: str | Path) -> Iterator[None]:
    """Turns what foreign code raises, even ``SystemExit``, into an ``InputError`` about its source.

    An ``InputError`` passes as it is, and so does ``KeyboardInterrupt``.
    """
    try:
        yield
    except (InputError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise InputError(f"{source}: {type(error).__name__}: {error}") from error


def _location(path: Path) -> tuple[Path, str]:
    """The folder that has to be on ``sys.path``, and the dotted name of the file from there."""
    parts = [path.stem] if path.stem != "__init__" else []
    folder = path.parent
    while (folder / "__init__.py").is_file():
        parts, folder = [folder.name, *parts], folder.parent
    return folder, ".".join(parts)


def _module_of(cls: type) -> str:
    """The name by which another process imports the module of a class."""
    return _main_name() if cls.__module__ == "__main__" else cls.__module__


def _main_name() -> str:
    """The name by which another process imports the running script; empty if it is not a file."""
    main = sys.modules.get("__main__")
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:
        return spec.name
    return module_name(Path(file)) if file else ""


def _loaded_module(name: str) -> ModuleType | None:
    """The module ``name`` if it is imported; the running script has its own name beside
    ``__main__``."""
    main = sys.modules.get("__main__") if name == _main_name() else None
    return sys.modules.get(name) or main


def _attribute(module: ModuleType, qualname: str) -> Any:
    """What a module holds under ``Outer.Inner``; None where there is nothing.

    Looks only into namespaces: ``getattr`` could run a module's ``__getattr__``, which may import
    more.
    """
    value: Any = module
    for part in qualname.split("."):
        value = vars(value).get(part) if isinstance(value, ModuleType | type) else None
    return value


def _is_dotted(name: str) -> bool:
    """Whether a name consists of Python identifiers with dots between them."""
    return all(part.isidentifier() for part in name.split("."))


def _find_spec(name: str) -> ModuleSpec | None:
    """How Python would import a module; None where it finds none, or its parents do not import."""
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None


def _digest(path: Path) -> str:
    """The sha256 of a file; ``InputError`` for one that cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _digest_of(module: ModuleType) -> str | None:
    """The sha256 of the code of a module; None where it has no file.

    That is the code that :func:`run_file` ran, or what the file holds now if it did not.
    """
    file = getattr(module, "__file__", None)
    if module.__name__ in _digests or file is None or not Path(file).is_file():
        return _digests.get(module.__name__)
    return _digest(Path(file))
