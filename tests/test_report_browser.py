"""A report in headless Chromium without a net: it loads, its slider moves, its colours change, all by keyboard."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from browser import CHROMIUM, Page
from command_line import LRU
from report_data import made_census, made_rows

from pymem.report import gather, render, save_report
from pymem.workload.sources import open_stream

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = gather(open_stream(LRU), rows=made_rows())
    data = replace(data, census=made_census(data))
    return save_report(tmp_path_factory.mktemp("report") / "report.html", render(data))


@pytest.fixture(scope="module")
def page(file: Path) -> Iterator[Page]:
    with Page() as page:
        page.open(file)
        yield page


DRAWN = """(() => { const found = {};
  const walk = (node, key) => { for (const one of node.querySelectorAll('*')) {
      if (one.tagName === 'CANVAS' && one.width > 0) found[key] = Math.max(found[key] ?? 0, one.width);
      if (one.shadowRoot) walk(one.shadowRoot, key); } };
  for (const plot of document.querySelectorAll('.plot')) walk(plot, plot.id.slice(5));
  return found; })()"""
"""Widths of the canvases, by picture."""

MAP_PIXELS = """(() => { let sum = 0;
  const walk = (node) => { for (const one of node.querySelectorAll('*')) {
      if (one.tagName === 'CANVAS' && one.width > 0) {
        const bits = one.getContext('2d').getImageData(0, 0, one.width, one.height).data;
        for (let i = 0; i < bits.length; i++) sum = (sum * 31 + bits[i]) % 1000000007; }
      if (one.shadowRoot) walk(one.shadowRoot); } };
  walk(document.getElementById('plot-map')); return sum; })()"""
"""A sum over what the map shows."""


def test_loads_without_an_error(page: Page) -> None:
    assert [line for line in page.said if re.match("error|warning|exception|assert", line)] == []
    assert [url.partition(":")[0] for url in page.fetched if not url.startswith("data:")] == ["file"]


def test_every_figure_is_drawn(page: Page) -> None:
    page.ask("window.scrollTo(0, document.body.scrollHeight)")
    keys = page.ask("[...document.querySelectorAll('section')].map((s) => s.id)")
    assert len(keys) == 9
    page.wait_for(f"Object.keys({DRAWN}).length === {len(keys)}")
    assert min(page.ask(DRAWN).values()) > 500


def test_slider_moves_by_keyboard(page: Page) -> None:
    page.ask("document.getElementById('moment').scrollIntoView()")
    page.ask("document.getElementById('moment').focus()")
    before, text = page.ask(MAP_PIXELS), page.ask("document.getElementById('moment-text').value")
    marker = "Bokeh.documents[0].get_model_by_name('moment').location"
    was = page.ask(marker)
    page.press("Home", code=36)
    page.wait_for(f"{MAP_PIXELS} !== {before}")
    assert page.ask("document.getElementById('moment').value") == "0"
    assert page.ask("document.getElementById('moment-text').value") != text
    assert page.ask(marker) < was
    page.press("End", code=35)
    page.wait_for(f"{MAP_PIXELS} === {before}")


def test_zoom_and_cursor_are_linked(page: Page) -> None:
    """Figures of the run's time share one range, and one line under the cursor."""
    figures = "Bokeh.documents[0].roots().filter((r) => ['sawtooth', 'memory', 'pauses'].includes(r.name))"
    assert page.ask(f"new Set({figures}.map((r) => r.x_range)).size") == 1
    cursors = f"{figures}.map((r) => r.toolbar.tools.find((t) => t.type === 'CrosshairTool').overlay)"
    assert page.ask(f"{cursors}.length") == 3
    assert page.ask(f"new Set({cursors}).size") == 1


def test_dark_and_light(page: Page, file: Path) -> None:
    ink = "[...Bokeh.documents[0].all_models].find((m) => m.type === 'LinearAxis').major_label_text_color"
    theme = "document.documentElement.dataset.theme"
    light = page.ask(ink)
    assert page.ask(theme) == "light"
    page.ask("document.getElementById('theme').focus()")
    page.press(" ", code=32)
    page.wait_for(f"{theme} === 'dark'")
    assert page.ask(ink) != light
    page.open(file, dark=True)
    assert page.ask(theme) == "dark"


def test_readable_without_figures(page: Page) -> None:
    """Each has a heading, a text, and a table that a summary opens."""
    lacking = """[...document.querySelectorAll('section')].filter((s) =>
        !(s.querySelector('h2').textContent && s.querySelector('.meaning').textContent
          && s.querySelector('details > summary') && s.querySelector('table caption')
          && s.querySelectorAll('tbody tr').length)).map((s) => s.id)"""
    assert page.ask(lacking) == []


def test_narrow(file: Path) -> None:
    """On a telephone nothing runs out of the page sideways."""
    with Page(width=400) as page:
        page.open(file)
        page.wait_for(f"Object.keys({DRAWN}).length > 0")
        assert page.ask("document.documentElement.scrollWidth") <= 400
