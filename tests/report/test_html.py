"""What every page owes its readers: nothing from outside, words for pictures, contrast."""

import re
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from jfreq.report import figures, html, write_page

LINKS = ("src", "href", "xlink:href", "action", "poster", "srcset", "data", "formaction", "ping")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"


@pytest.fixture(params=["run", "grid"])
def page(request, parse, tmp_path):
    folder = request.getfixturevalue(request.param)
    return parse(Path(write_page(folder, rows=24, out=tmp_path / "page.html")).read_text())


def owes(page):
    """Everything wrong with a page, as words."""
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    wrong = [f"id {name} twice" for name in sorted(set(ids)) if ids.count(name) > 1]
    for tag, attrs in page.tags:
        for name in LINKS:
            link = attrs.get(name, "data:")
            inside = link.startswith("#") and link[1:] in ids
            if not (inside or link.startswith("data:")):
                wrong.append(f"{tag} {name} goes to {link}")
        for found in re.findall(r"url\(([^)]*)\)", " ".join(v or "" for v in attrs.values())):
            if found.lstrip("#") not in ids:
                wrong.append(f"{tag} takes {found}")
        wrong += [f"{tag} {name}" for name in attrs if name.startswith("on")]
        if tag in ("script", "iframe", "object", "embed", "base"):
            wrong.append(tag)
        if tag == "img" and not attrs.get("alt"):
            wrong.append("img without alt")
        if tag == "svg" and not (attrs.get("role") == "img" and attrs.get("aria-label")):
            wrong.append("svg without label")
        if tag == "audio" and not attrs.get("aria-label"):
            wrong.append("audio without label")
    style = page.raw[page.raw.index("<style>") : page.raw.index("</style>")]
    wrong += re.findall(r"url\([^)]*\)|@import.*", style)
    policies = [a["content"] for a in page.all("meta")
                if a.get("http-equiv") == "Content-Security-Policy"]  # fmt: skip
    return wrong + ([] if policies == [POLICY] else [f"policies {policies}"])


def test_pages_owe_nothing(page):
    assert owes(page) == []
    assert len(page.all("svg")) >= 3
    assert len(page.all("h1")) == len(page.all("main")) == len(page.all("title")) == 1
    assert len(page.all("table")) == len(page.all("caption")) > 0
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.raw) < 3_000_000
    assert "#10fe" not in page.raw  # every stand-in colour was replaced


@pytest.mark.parametrize(
    "body",
    [
        '<img src="http://example.org/a.png" alt="a">',
        '<img src="data:," alt="">',
        '<a href="#nowhere">a</a>',
        '<p style="background: url(https://example.org/a)">a</p>',
        "<script></script>",
        '<p onclick="x">a</p>',
        '<p id="s-a">a</p>',
    ],
)
def test_the_check_sees_what_is_wrong(body, parse):
    text = html.page("a", kind="", lead="", sections=[html.Section("A", body)])
    assert len(owes(parse(text))) == 1


def test_figures_of_one_page_share_no_ids():
    series = [figures.Series("a", [1, 2], [1, 2])]
    ids = [set(re.findall(r'\bid="([^"]+)"', figures.curves(name, "alt", series))) for name in "ab"]
    assert ids[0] and not ids[0] & ids[1]


def test_long_curves_become_means_of_neighbours():
    short_x, short_y = figures.downsample(range(1000), [x**2 for x in range(1000)])
    assert len(short_x) == 334
    np.testing.assert_allclose(short_x[:2], [1, 4])
    np.testing.assert_allclose(short_y[0], (0 + 1 + 4) / 3)
    np.testing.assert_allclose(short_x[-1], 999)
    np.testing.assert_array_equal(figures.downsample([1, 2], [3, 4])[1], [3, 4])


def test_text_and_data_are_escaped_in_every_part():
    bad = '<i>&"'
    parts = [
        html.paragraph(bad), html.facts([(bad, bad)]), html.figure("", bad, bad),
        html.image(b"", bad), html.audio(b"", bad), html.card(bad), html.folded(bad, ""),
        html.table([bad], [[bad, bad, html.Cell(bad, bad)]], caption=bad),
        html.page(bad, kind=bad, lead=bad, notices=[bad], footer=bad,
                  sections=[html.Section(bad, "")]),
        figures.curves("a", bad, [figures.Series(bad, [1], [1])], xlabel=bad, legend=True),
    ]  # fmt: skip
    for part in parts:
        assert "<i>" not in part
        assert '&"' not in part.replace('&quot;"', "")
        assert "&lt;i&gt;" in part


def themes():
    """Variables of the light and the dark theme."""
    style = (files("jfreq.report") / "style.css").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", style, flags=re.S)
    return {
        name: dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", text))
        for name, text in (("light", light), ("dark", dark))
    }


def contrast(a, b):
    """Ratio of relative luminances (WCAG 2.2)."""

    def luminance(colour):
        c = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_by_the_book():
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_themes_can_be_read(theme):
    """4.5 for text, 3 for lines and marks."""
    c = themes()[theme]
    assert set(figures.ROLES) <= set(c)
    for ground in ("paper", "card", "note"):
        assert contrast(c["ink"], c[ground]) >= 7, ground
    for ground in ("paper", "card"):
        assert contrast(c["muted"], c[ground]) >= 4.5, ground
    assert contrast(c["ink"], c["shade"]) >= 4.5
    assert contrast(c["c1"], c["paper"]) >= 4.5  # links
    for role in figures.COLOURS:
        assert contrast(c[role], c["paper"]) >= 3, role
