"""Hardware, versions and commit with which a figure was made."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax

VERSIONS = ("jfreq", "jax", "jaxlib", "flax", "numpy")


def facts(versions: Iterable[str] = VERSIONS) -> dict[str, Any]:
    """The facts as JSON values; packages that are not installed are left out."""
    installed = {name: version(name) for name in versions}
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "python": platform.python_version(),
        "versions": {name: text for name, text in installed.items() if text},
        "commit": commit(),
    }


def sentence(facts: dict[str, Any]) -> str:
    """The facts as one line."""
    versions = ", ".join(f"{name} {text}" for name, text in facts.get("versions", {}).items())
    forms = {"cpu": "{}", "device": "{}", "cores": "{} cores"}
    rest = ", ".join(
        forms.get(name, f"{name} {{}}").format(text)
        for name, text in facts.items()
        if name != "versions"
    )
    return ", ".join(part for part in (rest, versions) if part)


def version(package: str) -> str | None:
    """The version of an installed package, else None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str:
    """The short hash of the checkout that this code runs from; "unknown" outside of one.

    "with changes" follows where files other than results differ from the commit.
    """
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        try:
            return subprocess.run(
                ["git", *words], cwd=here, capture_output=True, text=True, timeout=60
            ).stdout.strip()
        except OSError:
            return ""

    if not git("ls-files", "--", Path(__file__).name):
        return "unknown"
    head = git("rev-parse", "--short", "HEAD")
    dirty = git("status", "--porcelain", "--", ":/", ":!/experiments/results")
    return f"{head} with changes" if dirty else head


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
