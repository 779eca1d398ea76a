"""`pymem report`: one offline HTML file that shows what a recording's heap and collector do."""

from __future__ import annotations

import os
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pymem.cli._options import CostsFile, load_costs
from pymem.cli._output import File, Json, count, print_json, progress, suggest
from pymem.cli.replay import Gogc, Limit, Procs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pymem.report.rows import RowLike
    from pymem.whatif import Scenario

__all__ = ["report"]

_PERCENTS = re.compile(r"(off|\d+)(,(off|\d+))*")

Output = Annotated[str, typer.Option("-o", "--output", help="Write the report to this file.", metavar="FILE")]
WhatIf = Annotated[
    str | None,
    typer.Option(
        "--whatif",
        help="Chart settings against each other: percentages for GOGC, with commas between; or the file that"
        " `pymem whatif FILE --json` was written to.",
        metavar="LIST",
    ),
]
Png = Annotated[
    str | None,
    typer.Option("--png", help="Draw the pictures into this folder too, as PNG files.", metavar="DIR"),
]


def report(
    file: File,
    *,
    gogc: Gogc = None,
    memory_limit: Limit = None,
    gomaxprocs: Procs = None,
    costs: CostsFile = None,
    whatif: WhatIf = None,
    png: Png = None,
    output: Output = "report.html",
    as_json: Json = False,
) -> None:
    """Draw a recording as one HTML file.

    The heap and its goal, memory by use, heap by type, lifetimes, size classes, the address map over time, pauses and
    mutator utilisation, each with its meaning in words and its figures in a table. The file loads nothing from the net
    and has at most 5 MB, whatever the recording. What is not given of the settings is 100, off, and as recorded.
    """
    from pymem._extras import need
    from pymem._files import check_regular
    from pymem.program import read_program
    from pymem.report import draw_pngs, gather, load_rows, render, save_report
    from pymem.report.pictures import pictures
    from pymem.whatif import sweep
    from pymem.workload.sources import open_stream

    need("bokeh", "report")
    if png is not None:
        need("matplotlib", "report")
    check_regular(output, "choose another file to write")
    paid = load_costs(costs)
    settings: dict[str, Any] = {
        "gogc": "100" if gogc is None else gogc,
        "memory_limit": memory_limit,
        "gomaxprocs": gomaxprocs,
    }
    percents = whatif if whatif is not None and _PERCENTS.fullmatch(whatif) else None
    rows: Sequence[RowLike] = load_rows(whatif) if whatif is not None and percents is None else ()
    source, program = open_stream(file), None
    if percents is not None:
        with progress("predicting", file, quiet=as_json) as tell:
            program = read_program(source, costs=paid)
            rows = sweep(program, _scenarios(percents, memory_limit, gomaxprocs), progress=tell)
    with progress("drawing", file, quiet=as_json) as tell:
        data = gather(
            source,
            rows=rows,
            costs=paid,
            program=program,
            name=os.path.basename(file),
            progress=tell,
            **settings,
        )
    html = render(data)
    save_report(output, html)
    drawn = [str(path) for path in draw_pngs(data, png)] if png is not None else []
    if as_json:
        words = [asdict(picture) for picture in pictures(data)]
        print_json(
            {"file": file, "output": output, "bytes": len(html.encode()), "pngs": drawn, "pictures": words}
        )
        return
    print(f"{output}: {count(len(html.encode()))} bytes; open it in a browser")
    for path in drawn:
        print(path)
    again = ["report", file, "--whatif", "25,50,100,200,400", "-o", output]
    suggest(again if whatif is None else ["whatif", file])


def _scenarios(percents: str, memory_limit: str | None, gomaxprocs: int | None) -> tuple[Scenario, ...]:
    """Return a scenario for each GOGC, without a memory limit, and with the one that is given."""
    from pymem.whatif import grid

    limits = (None,) if memory_limit in (None, "off") else (None, memory_limit)
    return grid(gogc=percents.split(","), memory_limit=limits, gomaxprocs=(gomaxprocs,))
