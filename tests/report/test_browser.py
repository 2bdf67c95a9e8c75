"""The pages as headless Chromium sees them: what it says, asks for, plays, and how wide it gets."""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest

from jfreq.report import write_page

CHROMIUM = next(
    (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium to look at pages with")

OBSERVER = """<!doctype html><body><iframe id="f" src="page.html" width="%d" height="900"></iframe>
<pre id="found"></pre><script>
const frame = document.getElementById("f");
const duration = sound => new Promise(done => {
  sound.onloadedmetadata = () => done(sound.duration);
  sound.onerror = () => done(-1);
  sound.preload = "metadata";
  sound.load();
});
frame.onload = async () => {
  const page = frame.contentDocument, root = page.documentElement;
  const style = frame.contentWindow.getComputedStyle(page.body);
  const text = page.querySelector("svg text");
  document.getElementById("found").textContent = JSON.stringify({
    over: root.scrollWidth - root.clientWidth,
    wide: [...page.querySelectorAll("body *")].filter(e => !e.closest(".scroll, svg")
      && e.getBoundingClientRect().right > root.clientWidth + 1).map(e => e.tagName),
    images: [...page.images].map(i => i.naturalWidth),
    sounds: await Promise.all([...page.querySelectorAll("audio")].map(duration)),
    paper: style.backgroundColor, ink: style.color,
    axis: text && frame.contentWindow.getComputedStyle(text).fill,
    letters: text && text.getBoundingClientRect().height,
  });
};
</script>"""


class Seen(NamedTuple):
    """What a page did: measures of the observer, lines on the console, addresses asked for."""

    found: dict
    console: list[str]
    asked: list[str]


def look(folder, *, width=1280, dark=False) -> Seen:
    """Opens ``folder/page.html`` in a frame of ``width`` pixels.

    Chromium's clock does not wait for media on a busy machine: an observer that had no time to
    write its measures is given more.
    """
    (folder / "observer.html").write_text(OBSERVER % width)
    for seconds in (8, 40, 200):
        seen = _look(folder, dark=dark, seconds=seconds)
        if seen is not None:
            return seen
    raise AssertionError("the page never loaded")


def _look(folder, *, dark: bool, seconds: int) -> Seen | None:
    """One visit with a new profile; None where the observer wrote nothing in its time."""
    profile = Path(tempfile.mkdtemp(dir=folder))
    log = profile / "net.json"
    assert CHROMIUM
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--disable-dev-shm-usage", f"--user-data-dir={profile / 'profile'}",
         "--allow-file-access-from-files", "--enable-logging=stderr", "--log-level=0",
         f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--hide-scrollbars",
         f"--log-net-log={log}", f"--virtual-time-budget={1000 * seconds}",
         "--window-size=1400,1000", "--dump-dom", (folder / "observer.html").as_uri()],
        capture_output=True, text=True, timeout=240, env={**os.environ, "HOME": str(profile)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = done.stdout.split('<pre id="found">')[1].split("</pre>")[0]
    if not found:
        return None
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    params = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    # Chromium's own look-ups have no origin; what a page asks for has.
    asked = [p["url"] for p in params if p.get("initiator", "not an origin") != "not an origin"]
    return Seen(json.loads(found), console, [u for u in asked if not u.startswith("file:")])


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    write_page(run, rows=24, out=folder / "page.html")
    return folder


def test_a_run_loads_whole_and_asks_for_nothing(folder):
    seen = look(folder)
    assert seen.console == [] and seen.asked == []
    assert seen.found["images"] == [128] * 12
    assert seen.found["sounds"] == pytest.approx([1.295] * 4, abs=1e-3)
    assert (seen.found["over"], seen.found["wide"]) == (0, [])


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_it_without_scrolling_sideways(folder, dark):
    found = look(folder, width=390, dark=dark).found
    assert (found["over"], found["wide"]) == (0, [])
    assert found["letters"] >= 9
    paper, ink, axis = (
        sum(map(int, found[name].removeprefix("rgb(").removesuffix(")").split(",")))
        for name in ("paper", "ink", "axis")
    )
    if dark:
        assert paper < 150 < 450 < axis < ink
    else:
        assert ink < axis < 350 < 700 < paper


def test_a_grid_is_as_quiet(grid, tmp_path):
    folder = tmp_path / "browser"
    folder.mkdir()
    write_page(grid, out=folder / "page.html")
    seen = look(folder, width=390)
    assert (seen.console, seen.asked) == ([], [])
    assert (seen.found["over"], seen.found["wide"]) == (0, [])


def test_the_observer_sees_what_is_wrong(tmp_path):
    """A page that is too wide, speaks on the console and asks for a picture elsewhere."""
    (tmp_path / "page.html").write_text(
        '<!doctype html><body><p style="width: 500px">a</p><script>console.error("b")</script>'
        '<img src="http://127.0.0.1:9/c.png"><audio src="data:audio/wav;base64,AAAA"></audio>'
    )
    seen = look(tmp_path, width=390)
    assert seen.found["over"] > 0 and seen.found["wide"] == ["P"]
    assert seen.found["sounds"] == [-1] and seen.found["images"] == [0]
    assert any('"b"' in line for line in seen.console)
    assert "http://127.0.0.1:9/c.png" in seen.asked


def test_the_policy_keeps_the_page_to_itself(tmp_path):
    """What a page with our policy asks for does not leave it, and the console says so."""
    from jfreq.report import html

    body = '<img src="http://127.0.0.1:9/c.png" alt="c">'
    text = html.page("a", kind="", lead="", sections=[html.Section("A", body)])
    (tmp_path / "page.html").write_text(text)
    seen = look(tmp_path)
    assert seen.asked == []
    assert any("Content Security Policy" in line for line in seen.console)
