"""`pymem report`: one offline HTML file that shows what a recording's heap and collector do."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from pymem.cli._output import File, Json, count, note, print_json, progress, suggest
from pymem.cli.replay import CostsFile, Gogc, Limit, Procs

__all__ = ["report"]

Output = Annotated[str, typer.Option("-o", "--output", help="Write the report to this file.", metavar="FILE")]
WhatIf = Annotated[
    str | None,
    typer.Option(
        "--whatif",
        help="Chart the rows in this file, written by `pymem whatif FILE --json`.",
        metavar="JSON",
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
    from pymem.gc.costs import Costs
    from pymem.report import draw_pngs, gather, load_rows, render, save_report
    from pymem.report.pictures import pictures
    from pymem.workload.sources import open_stream

    need("bokeh", "report")
    if png is not None:
        need("matplotlib", "report")
    check_regular(output, "choose another file to write")
    rows = load_rows(whatif) if whatif is not None else ()
    with progress("drawing", file, quiet=as_json) as tell:
        data = gather(
            open_stream(file),
            rows=rows,
            gogc="100" if gogc is None else gogc,
            memory_limit=memory_limit,
            gomaxprocs=gomaxprocs,
            costs=Costs.load(costs) if costs else None,
            name=file.rpartition("/")[2],
            progress=tell,
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
    if whatif is None:
        note("with --whatif it charts settings against each other: `pymem whatif FILE --json > rows.json`")
    suggest(["replay", file, "--gogc", "200"])
