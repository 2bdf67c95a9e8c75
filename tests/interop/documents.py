"""Code and commands of a page, by section."""

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "hub.md"


def section(title: str, language: str) -> list[str]:
    """Fenced blocks of ``language`` in a section of docs/hub.md, in order."""
    (text,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.M | re.S)
    found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)
    assert found, title
    return found
