"""`pymem info`: what is in a recording."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from pymem.cli._output import (
    File,
    Json,
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
    from pymem.trace import TraceInfo
    from pymem.workload.columns import Columns
    from pymem.workload.trace_stream import TraceStream
    from pymem.workload.workload import Workload

__all__ = ["info"]

_TOP = 15  # types shown; --json has them all

_PRECISION = {
    "cycle": "known to a GC cycle",
    "event": "known to the event",
}


def info(file: File, *, as_json: Json = False) -> None:
    """Say what is in a recording, a log of gctrace, or a table of samples.

    Its length, objects, types and collections, and how exactly it knows them.
    """
    from pymem.cli._amounts import amounts_facts, report_amounts
    from pymem.workload.curve import CurveSource
    from pymem.workload.sources import kind_of_file, open_stream

    if kind_of_file(file) in {"gctrace", "samples"}:
        told = amounts_facts(file)
        if as_json:
            print_json(told)
        else:
            report_amounts(told)
            suggest(["replay", file, "--gogc", "200"])
        return
    trace = _trace_info(file)
    if trace and not trace.has_allocations:
        facts = _trace_facts(file, trace)
    else:
        with progress("reading", file, quiet=as_json):
            source = open_stream(file)
            assert not isinstance(source, CurveSource)
            facts = _workload_facts(file, source, trace)
    if as_json:
        print_json(facts)
    else:
        _report(facts)
        _suggest(file, facts, trace)


def _trace_info(file: str) -> TraceInfo | None:
    """Decode a file that begins as an execution trace does, and return what it says about itself."""
    from pymem.trace import TraceReader
    from pymem.workload.sources import kind_of_file

    if kind_of_file(file) != "trace":
        return None
    with TraceReader(file, kinds=()) as reader:
        for _ in reader.batches():
            pass
        return reader.info


def _trace_facts(file: str, trace: TraceInfo) -> dict[str, Any]:
    """Describe a trace of which nothing but the trace itself is known."""
    from pymem.trace import EventKind

    return {
        "file": file,
        "bytes_on_disk": os.path.getsize(file),
        "tier": "trace",
        "go": trace.go,
        "has_allocations": trace.has_allocations,
        "incomplete": trace.incomplete,
        "incomplete_offset": trace.incomplete_offset,
        "duration_ns": trace.duration_ns,
        "events": trace.events,
        "cycles": trace.counts[EventKind.GC_BEGIN],
    }


class _Tally:
    """What a recording's rows come to, a chunk at a time."""

    def __init__(self, types: int) -> None:
        self.kinds = np.zeros(256, np.int64)
        self.objects, self.bytes = np.zeros(types, np.int64), np.zeros(types, np.int64)
        self.goroutines: set[int] = set()
        self.first = self.last = 0
        self.forced = 0

    def add(self, rows: Columns) -> None:
        from pymem.workload.columns import Event

        self.goroutines.update(np.unique(rows.goroutine).tolist())
        self.forced += int(np.count_nonzero(rows.flags[rows.kind == Event.GC_END] & 1))
        self.first = int(rows.time[0]) if not self.kinds.any() else self.first
        self.last = int(rows.time[-1])
        self.kinds += np.bincount(rows.kind, minlength=256)
        born = rows.kind == Event.ALLOC
        n = len(self.objects)
        self.objects += np.bincount(rows.type[born], minlength=n)
        self.bytes += np.bincount(rows.type[born], rows.size[born].astype(np.float64), n).astype(np.int64)


def _workload_facts(file: str, workload: Workload | TraceStream, trace: TraceInfo | None) -> dict[str, Any]:
    from pymem.workload.columns import Event

    tally = _Tally(max(len(workload.types), 1))
    for rows in workload.chunks():
        tally.add(rows)
    facts: dict[str, Any] = {
        "file": file,
        "bytes_on_disk": os.path.getsize(file),
        "tier": workload.tier,
        "go": workload.origin.get("go") or "unknown",
        "has_allocations": True,
        "incomplete": False,
        "incomplete_offset": 0,
    }
    if trace:
        facts |= _trace_facts(file, trace)
    n_rows = int(tally.kinds.sum())
    return facts | {
        "duration_ns": tally.last - tally.first,
        "events": trace.events if trace else n_rows,
        "rows": n_rows,
        "procs": workload.procs,
        "goroutines": len(tally.goroutines - {0}),
        "objects": int(tally.kinds[Event.ALLOC] + tally.kinds[Event.TINY]),
        "bytes_allocated": int(tally.bytes.sum()),
        "spans": _spans(workload, trace, tally),
        "cycles": int(tally.kinds[Event.FLIP]),
        "forced_cycles": tally.forced,
        "resolution": workload.resolution,
        "recorded_memstats": len(workload.recorded_stats),
        "origin": dict(workload.origin),
        "tiny_parts": int(tally.kinds[Event.TINY]),
        "types": _types(workload, tally),
    }


def _spans(workload: Workload | TraceStream, trace: TraceInfo | None, tally: _Tally) -> int | None:
    """Count the spans allocated; None where the recording does not tell: the rows of a saved trace leave them out."""
    from pymem.trace import EventKind
    from pymem.workload.columns import Event

    if trace:
        return trace.counts[EventKind.SPAN_ALLOC]
    return int(tally.kinds[Event.SPAN]) if workload.tier == "exact" else None


def _types(workload: Workload | TraceStream, tally: _Tally) -> list[dict[str, Any]]:
    """Objects and bytes of each type, most bytes first; those of no known type under an empty name."""
    order = np.argsort(-tally.bytes, kind="stable")
    return [
        {
            "name": workload.types[i].name,
            "size": workload.types[i].size,
            "objects": int(tally.objects[i]),
            "bytes": int(tally.bytes[i]),
        }
        for i in order.tolist()
        if tally.objects[i]
    ]


def _report(facts: dict[str, Any]) -> None:
    lines = [
        ("File", f"{facts['file']} ({format_bytes(facts['bytes_on_disk'])})"),
        ("Recorded as", f"{_TIERS.get(facts['tier'], facts['tier'])}, {facts['go']}"),
        ("Duration", format_duration(facts["duration_ns"])),
        ("Events", count(facts["events"])),
    ]
    if "objects" in facts:
        lines += [
            ("Ps", count(facts["procs"])),
            ("Goroutines", count(facts["goroutines"])),
            ("Objects", f"{count(facts['objects'])} of {count(len(facts['types']))} types"),
            ("Allocated", format_bytes(facts["bytes_allocated"])),
            *([("Spans", count(facts["spans"]))] if facts["spans"] is not None else []),
            ("Sizes", "of slots" if facts["tier"] == "trace" else "as asked for"),
            ("Deaths", _PRECISION.get(facts["resolution"], facts["resolution"])),
            ("MemStats", f"{count(facts['recorded_memstats'])} recorded"),
        ]
    forced = f", {count(facts['forced_cycles'])} of them forced" if facts.get("forced_cycles") else ""
    lines.append(("GC cycles", f"{count(facts['cycles'])}{forced}"))
    if facts["incomplete"]:
        where = f" from byte {count(facts['incomplete_offset'])} on" if facts["incomplete_offset"] else ""
        lines.append(("Incomplete", f"its end is missing{where}, as a killed program leaves it"))
    if not facts["has_allocations"]:
        lines.append(("Allocations", "none recorded"))
    print_facts(lines)
    types = facts.get("types", [])
    print_table(
        first_of("Types by bytes", _TOP, len(types)),
        ["type", "objects", "bytes"],
        [[t["name"] or "(unknown)", count(t["objects"]), format_bytes(t["bytes"])] for t in types[:_TOP]],
    )
    if facts.get("tiny_parts"):
        print(
            f"and {count(facts['tiny_parts'])} objects that share the 16-byte block of an object counted above"
        )


_TIERS = {
    "exact": "an exact recording",
    "trace": "an execution trace",
    "arrays": "arrays",
    "synthetic": "a synthetic workload",
}


def _suggest(file: str, facts: dict[str, Any], trace: TraceInfo | None) -> None:
    if facts["has_allocations"]:
        suggest(["replay", file])
        return
    from pymem.record.tracing import without_allocations

    assert trace is not None
    note(f"{file}: {without_allocations(trace)}")
    suggest(["record", "-o", file, "--", "go", "test", "-bench", "."])
