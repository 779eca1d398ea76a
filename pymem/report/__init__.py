"""Reports: one offline HTML file, the same pictures as image files, and the plain data behind both.

`gather` runs a recording and returns plain data; `report` is that as HTML, `save_report` writes it, and `draw_pngs`
or the functions of `pymem.report.png` draw it by matplotlib. The pictures need the extra `report`; the data does not.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pymem._extras import need
from pymem._files import check_regular
from pymem.report.data import ReportData, gather
from pymem.report.rows import load_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pymem.replay import EventSource
    from pymem.report.rows import RowLike

__all__ = ["ReportData", "draw_pngs", "gather", "load_rows", "render", "report", "save_report"]


def report(source: EventSource, *, rows: Sequence[RowLike] = (), **settings: Any) -> str:
    """Return a recording's report as one HTML file, at most 5 MB; settings are `gather`'s.

    Raises `MissingExtraError` without the extra `report`, and what `gather` raises.
    """
    need("bokeh", "report")
    return render(gather(source, rows=rows, **settings))


def render(data: ReportData) -> str:
    """Return what was gathered as one HTML file. Same data, same bytes. Raises `MissingExtraError`."""
    need("bokeh", "report")
    from pymem.report.page import page

    return page(data)


def save_report(path: str | os.PathLike[str], html: str) -> Path:
    """Write a report to a file, whole or not at all; returns its path. Raises `OSError`."""
    check_regular(path, "choose another file to write")
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.write_text(html, encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def draw_pngs(data: ReportData, folder: str | os.PathLike[str]) -> list[Path]:
    """Draw every picture into a folder, which is made, as PNG files named after them; returns their paths.

    Raises `MissingExtraError`, `OSError`.
    """
    need("matplotlib", "report")
    from pymem.report.png import draw

    return draw(data, folder)
