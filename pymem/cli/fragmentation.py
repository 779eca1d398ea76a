"""`pymem fragmentation`: what holds no object, class by class, and which class to look at."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pymem.cli._output import (
    File,
    Json,
    class_cells,
    count,
    first_of,
    note,
    print_facts,
    print_json,
    print_table,
    progress,
    suggest,
)
from pymem.units import format_bytes, format_duration

if TYPE_CHECKING:
    from pymem.analysis.classtable import Packed, TableAnswer
    from pymem.analysis.fragmentation import AddressMap, ClassLoss, Fragmentation, Moment

__all__ = ["fragmentation"]

_TOP = 15  # size classes shown; --json has them all

Table = Annotated[
    str | None,
    typer.Option(
        "--size-classes",
        help="Pack the objects by this table too: bytes [pages], a class a line.",
        metavar="TABLE",
    ),
]
Samples = Annotated[int, typer.Option("--samples", help="Looks at the heap.", min=1, max=64)]


def fragmentation(
    file: File, *, size_classes: Table = None, samples: Samples = 64, as_json: Json = False
) -> None:
    """Show where the heap's memory goes that holds no object, by size class, and which class to look at.

    Lost is what lies inside slots larger than what was asked for, in free slots of spans that are not empty, and at
    the ends of spans. The table shows the heap when its spans hold most, of the looks taken; --json has the end and
    the map of addresses over time as well.

    With --size-classes: how the objects of the fullest moment would pack by a table of your own, beside Go's.
    """
    from pymem.workload.sources import open_stream

    if size_classes is not None:
        from pymem.analysis.classtable import read_table, try_table

        table = read_table(size_classes)
        with progress("reading", file, quiet=as_json) as tell:
            answer = try_table(open_stream(file), table, progress=tell)
        if as_json:
            print_json({"file": file, "table": size_classes, "answer": answer})
        else:
            _print_tables(file, size_classes, answer)
        return
    from pymem.analysis.fragmentation import survey_heap

    with progress("replaying", file, quiet=as_json) as tell:
        result = survey_heap(open_stream(file), samples=samples, progress=tell)
    if as_json:
        print_json({"file": file, **fragmentation_facts(result)})
        return
    _print_moment(file, result)
    suggest(["types", file])


def fragmentation_facts(result: Fragmentation) -> dict[str, Any]:
    """Return what `survey_heap` found as --json prints it; address maps as runs of (use, cells)."""
    from pymem.analysis.fragmentation import USES

    columns = ("time_ns", "bytes_in_spans", "lost", "stack_bytes")
    return {
        "sizes": result.sizes,
        "advice": result.peak.advice(),
        "peak": _moment_facts(result.peak),
        "end": _moment_facts(result.end),
        "timeline": {name: [row[i] for row in result.timeline] for i, name in enumerate(columns)},
        "address_map": {
            "arena_base": result.arena_base,
            "uses": list(USES),
            "maps": [_map_facts(m) for m in result.maps],
        },
    }


def _moment_facts(moment: Moment) -> dict[str, Any]:
    return {
        "time_ns": moment.time_ns,
        "bytes_in_spans": moment.bytes_in_spans,
        "lost": moment.lost,
        "stack_bytes": moment.stack_bytes,
        "classes": [_class_facts(moment, c) for c in moment.classes],
    }


def _class_facts(moment: Moment, c: ClassLoss) -> dict[str, Any]:
    return {
        "size": c.size,
        "noscan": c.noscan,
        "spans": c.spans,
        "slots": c.slots,
        "used": c.used,
        "bytes_in_spans": c.bytes_in_spans,
        "utilisation": c.utilisation,
        "slot_waste": c.slot_waste,
        "dead_bytes": c.dead_bytes,
        "partial_bytes": c.partial_bytes,
        "tail_bytes": c.tail_bytes,
        "lost": c.lost,
        "types": [{"name": n, "bytes": b} for n, b in moment.types.get((c.size, c.noscan), ())],
    }


def _map_facts(found: AddressMap) -> dict[str, Any]:
    runs = [[int(use), sum(1 for _ in cells)] for use, cells in groupby(found.pages.tolist())]
    return {"time_ns": found.time_ns, "pages_a_cell": found.pages_a_cell, "runs": runs}


def _print_moment(file: str, result: Fragmentation) -> None:
    peak = result.peak
    inside = peak.bytes_in_spans or 1
    print_facts(
        [
            ("Replayed", file),
            (
                "Fullest",
                f"at {format_duration(peak.time_ns)}: {format_bytes(peak.bytes_in_spans)} in spans of objects",
            ),
            ("Lost", f"{format_bytes(peak.lost)} ({100 * peak.lost / inside:.1f} %)"),
            ("At the end", f"{format_bytes(result.end.lost)} of {format_bytes(result.end.bytes_in_spans)}"),
            ("Stacks", format_bytes(peak.stack_bytes)),
        ]
    )
    print(f"\n{peak.advice()}")
    classes = sorted((c for c in peak.classes if c.spans), key=lambda c: -c.lost)
    print_table(
        first_of("Size classes by bytes lost", _TOP, len(classes)),
        [
            "class",
            "pointers",
            "spans",
            "used",
            "in spans",
            "in slots",
            "unswept",
            "free slots",
            "tails",
            "lost",
        ],
        [
            [
                *class_cells(c),
                count(c.spans),
                f"{100 * c.utilisation:.1f} %",
                format_bytes(c.bytes_in_spans),
                format_bytes(c.slot_waste or 0),
                format_bytes(c.dead_bytes),
                format_bytes(c.partial_bytes),
                format_bytes(c.tail_bytes),
                format_bytes(c.lost),
            ]
            for c in classes[:_TOP]
        ],
        left=0,
    )
    if result.sizes == "least":
        note(
            "a trace does not have the sizes asked for: what is lost in slots is the least that types tell;"
            " `pymem record --exact` knows them"
        )


def _print_tables(file: str, table: str, answer: TableAnswer) -> None:
    print_facts(
        [
            ("File", file),
            ("Fullest", f"at {format_duration(answer.time_ns)}: {count(answer.objects)} objects"),
            ("Bytes", f"{format_bytes(answer.asked_bytes)} {_ASKED[answer.sizes]}"),
        ]
    )
    print_table(
        "Packed by size classes",
        ["table", "classes", "in spans", "inside slots", "rest of spans"],
        [_packed("Go 1.27", answer.go), _packed(table, answer.own)],
    )
    less = answer.go.bytes_in_spans - answer.own.bytes_in_spans
    word = "less" if less >= 0 else "more"
    share = 100 * abs(less) / answer.go.bytes_in_spans
    print(f"\n{table} takes {format_bytes(abs(less))} ({share:.1f} %) {word} than Go's table.")
    print_table(
        "Sizes that lose most by it",
        ["bytes", "objects", "more"],
        [[count(size), count(n), format_bytes(more)] for size, n, more in answer.worst],
        left=0,
    )
    note("packed as tightly as can be: holes left by deaths, and caches of Ps, are in neither")
    if answer.sizes == "slots":
        note("a trace has slots of Go's classes, not the sizes asked for: `pymem record --exact` knows them")


_ASKED = {"exact": "asked for", "slots": "of slots"}


def _packed(name: str, packed: Packed) -> list[str]:
    return [
        name,
        count(packed.classes),
        format_bytes(packed.bytes_in_spans),
        format_bytes(packed.slot_waste),
        format_bytes(packed.span_waste),
    ]
