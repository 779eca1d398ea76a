"""One HTML file of a report: the words of each picture, its figures as a table, and Bokeh's script to draw it.

Nothing in it is fetched: the page forbids itself to (Content-Security-Policy). Names in a recording are anybody's, so
all text is escaped. The same report has the same bytes: the ids that Bokeh counts up are counted anew.
"""

from __future__ import annotations

import json
import re
from html import escape
from importlib import resources
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from bokeh.document import Document
from bokeh.resources import Resources

from pymem.report.bokeh_figures import Figures
from pymem.report.colours import STATE_COLOURS
from pymem.report.heap_map import STATES
from pymem.report.pictures import pictures, plain_bytes, plain_time
from pymem.report.plotted import stream_colours, streams
from pymem.units import format_bytes, format_duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pymem.report.data import ReportData
    from pymem.report.pictures import Picture

__all__ = ["page"]

_ID = re.compile(r"p\d+")
_KINDS = {
    "sawtooth": "Heap and goal",
    "whatif": "What if",
    "memory": "Memory",
    "types": "Heap by type",
    "lifetimes": "Lifetimes",
    "classes": "Size classes",
    "map": "Address map",
    "pauses": "Pauses",
    "mmu": "Mutator utilisation",
}
_TIERS = {
    "exact": "an exact recording (every size and address known)",
    "trace": "an execution trace (sizes of slots, deaths to a GC cycle)",
    "gctrace": "a gctrace log (no objects: heap sizes of each cycle)",
    "samples": "samples of memory statistics (no objects)",
    "synthetic": "a synthetic workload",
}


def page(data: ReportData) -> str:
    """Return the report as one HTML file that needs nothing else."""
    shown = pictures(data)
    body = "".join(
        (
            _header(data, shown),
            '<main id="main">',
            *(_section(data, picture) for picture in shown),
            "</main>",
            _footer(data),
        )
    )
    return "".join(
        (
            '<!doctype html>\n<html lang="en" data-theme="light">\n<head>\n<meta charset="utf-8">\n',
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\';'
            " script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:\">\n",
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            f"<title>{escape(data.name)} - pymem report</title>\n<style>\n{_asset('page.css')}</style>\n",
            f"</head>\n<body>\n{body}\n",
            _json("figures", _figures(data, shown)),
            _json("moments", _moments(data)),
            *(f"<script>\n{script}\n</script>\n" for script in _scripts()),
            "</body>\n</html>\n",
        )
    )


# ---- parts ----


def _header(data: ReportData, shown: Sequence[Picture]) -> str:
    links = "".join(f'<li><a href="#{p.key}">{_KINDS[p.key]}</a></li>' for p in shown)
    tiles = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in _tiles(data))
    command = f" of <code>{escape(data.command[:500])}</code>" if data.command else ""
    tier = escape(_TIERS.get(data.tier, data.tier))
    return (
        '<a class="skip" href="#main">To the figures</a><header>'
        f'<button id="theme" type="button">Dark</button><h1>{escape(data.name)}</h1>'
        f"<p>{tier}{command}, run by the emulated collector of Go 1.27 under <code>{escape(data.settings)}</code></p>"
        f'<dl class="tiles">{tiles}</dl><nav aria-label="Figures"><ul>{links}</ul></nav>'
        "<noscript><p>The figures need JavaScript; titles, texts and tables do not.</p></noscript></header>"
    )


def _tiles(data: ReportData) -> list[tuple[str, str]]:
    run = data.run
    peak = int(run.timeline["mapped_ready"].max()) if len(run.timeline) else 0
    return [
        ("program's time", plain_time(run.virtual_ns)),
        ("collections", f"{len(run.cycles):,}"),
        ("peak heap (when marking ended)", plain_bytes(run.peak_heap)),
        ("peak memory", plain_bytes(peak)),
        ("GC CPU", f"{100 * run.stats.gc_cpu_fraction:.2f} %"),
        ("99 % of pauses below", plain_time(data.pauses.quantile(0.99))),
    ]


def _section(data: ReportData, picture: Picture) -> str:
    key = picture.key
    extra = {"map": _map_controls, "types": _stream_key}.get(key, lambda _: "")(data)
    return (
        f'<section id="{key}" aria-labelledby="title-{key}">'
        f'<h2 id="title-{key}"><small>{_KINDS[key]}</small>{escape(picture.title)}</h2>'
        f'<p class="meaning" id="text-{key}">{escape(picture.meaning)}</p>'
        f'<figure aria-labelledby="title-{key}" aria-describedby="text-{key}">'
        f'<div class="plot" id="plot-{key}"></div>{extra}</figure>{_table(picture)}</section>'
    )


def _table(picture: Picture) -> str:
    head = "".join(f'<th scope="col">{escape(c)}</th>' for c in picture.columns)
    rows = "".join(f"<tr>{_cells(row)}</tr>" for row in picture.rows)
    return (
        f"<details><summary>The figures as a table ({len(picture.rows)} rows)</summary>"
        f'<div class="table" tabindex="0" role="region" aria-label="{escape(picture.caption)}"><table>'
        f"<caption>{escape(picture.caption)}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody>"
        "</table></div></details>"
    )


def _cells(row: Sequence[str]) -> str:
    return f'<th scope="row">{escape(row[0])}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])


def _map_controls(data: ReportData) -> str:
    last = len(data.heap_map.time_ns) - 1
    key = _colour_key(STATES[1:], STATE_COLOURS[1:])
    return (
        f'<div class="slider"><label for="moment">Moment</label><input id="moment" type="range" min="0" max="{last}"'
        f' step="1" value="{last}"><output id="moment-text" for="moment"></output></div>{key}'
    )


def _stream_key(data: ReportData) -> str:
    assert data.census is not None
    names, _ = streams(data.census)
    return _colour_key(names, stream_colours(names))


def _colour_key(names: Sequence[str], colours: Sequence[str]) -> str:
    """Return what the colours of a figure stand for, as a list that wraps with the page."""
    entries = (
        f'<li><i style="background:{colour}"></i>{escape(name)}</li>'
        for name, colour in zip(names, colours, strict=True)
    )
    return f'<ul class="key">{"".join(entries)}</ul>'


def _moments(data: ReportData) -> list[str]:
    heap = data.heap_map
    return [
        f"{format_duration(int(t))} of the recording: heap {format_bytes(int(m))}, used {format_bytes(int(u))}"
        for t, m, u in zip(heap.time_ns, heap.mapped, heap.used, strict=True)
    ]


def _footer(data: ReportData) -> str:
    return (
        "<footer><p>Two clocks: the sawtooth, memory and pauses show the program's own time under the settings above,"
        " without what recording cost; heap by type and the address map show the recording's. Zoom in one of a kind"
        " and the others follow. Long series show the lowest and highest sample of each stretch of time, so no peak is"
        f" lost.</p><p>pymem {escape(version('pymem-go'))}. This file is complete: it loads nothing.</p></footer>"
    )


# ---- scripts and data ----


def _asset(name: str) -> str:
    return resources.files("pymem.report").joinpath(name).read_text(encoding="utf-8")


def _scripts() -> Iterable[str]:
    """Yield Bokeh's script without its widgets, tables and formulas, and the page's own."""
    for script in (*Resources(mode="inline", minified=True, components=["bokeh"]).js_raw, _asset("page.js")):
        yield re.sub(r"</(script)", r"<\\/\1", script, flags=re.IGNORECASE)


def _json(name: str, value: Any) -> str:
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True)
    return f'<script type="application/json" id="{name}">{text.replace("<", chr(92) + "u003c")}</script>\n'


def _figures(data: ReportData, shown: Sequence[Picture]) -> Any:
    figures, document = Figures(data), Document()
    for picture in shown:
        document.add_root(figures.draw(picture.key))
    return _renumbered(document.to_json(deferred=False), {})


def _renumbered(value: Any, ids: dict[str, str]) -> Any:
    """Count Bokeh's ids from 1 in the order they are met; it counts on through the life of a process."""
    if isinstance(value, list):
        return [_renumbered(one, ids) for one in value]
    if not isinstance(value, dict):
        return value
    out = {}
    for name, one in value.items():
        if name == "id" and isinstance(one, str) and _ID.fullmatch(one):
            out[name] = ids.setdefault(one, f"m{len(ids) + 1}")
        else:
            out[name] = _renumbered(one, ids)
    return out
