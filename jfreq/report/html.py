"""Parts of one self-contained HTML page, which has no script and loads nothing.

Arguments called ``body`` or ``parts`` are markup; all other text is escaped here.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import NamedTuple

import jfreq


class Section(NamedTuple):
    """A titled part of the page; ``body`` is markup."""

    title: str
    body: str

    @property
    def anchor(self) -> str:
        return "s-" + re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


def page(
    title: str,
    *,
    kind: str,
    lead: str,
    notices: Iterable[str] = (),
    sections: Sequence[Section],
    footer: str = "",
) -> str:
    """The whole document.

    Args:
      title: the heading.
      kind: what the page is about, above the heading.
      lead: a sentence below the heading.
      notices: sentences at the top about what is unfinished or left out.
      sections: the parts of the page.
      footer: a line at the end.
    """
    here = files("jfreq.report")
    blocks = [
        f'<section id="{s.anchor}"><h2>{escape(s.title)}</h2>\n{s.body}\n</section>'
        for s in sections
    ]
    return Template((here / "page.html").read_text()).substitute(
        title=escape(title),
        style=(here / "style.css").read_text(),
        kind=escape(kind),
        lead=escape(lead),
        notices="\n".join(f'<p class="notice" role="status">{escape(n)}</p>' for n in notices),
        links="".join(f'<a href="#{s.anchor}">{escape(s.title)}</a>' for s in sections),
        sections="\n".join(blocks),
        footer=f"jfreq {escape(jfreq.__version__)}{' · ' if footer else ''}{escape(footer)}",
    )


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def grid(parts: Iterable[str]) -> str:
    """Parts side by side where there is room."""
    return f'<div class="grid">{"".join(parts)}</div>'


def card(title: str, *parts: str) -> str:
    return f'<article class="card"><h3>{escape(title)}</h3>{"".join(parts)}</article>'


def figure(body: str, title: str, caption: str = "", *, wide: bool = False) -> str:
    """A picture with a name and a sentence below."""
    kind = ' class="wide"' if wide else ""
    text = f"<b>{escape(title)}</b>{' · ' if caption else ''}{escape(caption)}"
    return f"<figure{kind}>{body}<figcaption>{text}</figcaption></figure>"


def image(png: bytes, alt: str) -> str:
    return f'<img src="{_data("image/png", png)}" alt="{escape(alt)}">'


def audio(wav: bytes, label: str) -> str:
    """A player, which decodes nothing before it is started."""
    source = _data("audio/wav", wav)
    return f'<audio controls preload="none" src="{source}" aria-label="{escape(label)}"></audio>'


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and values, side by side where there is room."""
    inner = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in pairs)
    return f"<dl>{inner}</dl>"


class Cell(NamedTuple):
    """A table cell with a smaller addition, for instance a mean and its interval."""

    text: str
    small: str = ""


def table(head: Sequence[str], rows: Iterable[Sequence[str | Cell]], *, caption: str) -> str:
    """A table that scrolls inside its own box; the first column names the rows."""
    top = "".join(f'<th scope="col">{escape(h)}</th>' for h in head)
    lines = []
    for first, *rest in rows:
        name = first.text if isinstance(first, Cell) else first
        cells = "".join(map(_cell, rest))
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(value: str | Cell) -> str:
    if isinstance(value, Cell):
        small = f" <small>{escape(value.small)}</small>" if value.small else ""
        return f'<td class="number">{escape(value.text)}{small}</td>'
    return f"<td>{escape(value)}</td>"


def folded(summary: str, body: str) -> str:
    """Markup behind a summary that opens it."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
