"""`pymem replay`: the recorded heap once more, and what it looked like at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pymem.cli._output import File, Json, count, print_facts, print_json, print_table, progress, suggest
from pymem.units import format_bytes, format_duration

if TYPE_CHECKING:
    from pymem.replay import Run

__all__ = ["print_run", "replay", "run_facts"]

_CYCLES = 20  # shown; --json has them all
_TOP = 15  # types shown
_COUNTS = {"Lookups", "Mallocs", "Frees", "HeapObjects", "NumGC", "NumForcedGC"}
"""Fields of MemStats that are no bytes."""


def replay(file: File, *, as_json: Json = False) -> None:
    """Replay a recording on an emulated heap.

    The recorded collections happen at their recorded places. Prints them, the final MemStats, the heap by type
    and its fragmentation by size class.
    """
    from pymem.replay import replay as run_workload
    from pymem.workload.sources import open_stream

    with progress("replaying", file, quiet=as_json) as tell:
        run = run_workload(open_stream(file), progress=tell)
    if as_json:
        print_json({"file": file, **run_facts(run)})
        return
    print_run(file, run)
    suggest(["check", file])


def run_facts(run: Run) -> dict[str, Any]:
    """Return a run as --json prints it."""
    return {
        "events": run.events,
        "cycles": list(run.cycles),
        "memstats": run.memstats.to_go(),
        "seconds": run.seconds,
        "heap_by_type": list(run.heap_by_type),
        "fragmentation": list(run.fragmentation),
    }


def print_run(name: str, run: Run) -> None:
    """Print a run: what happened, its collections, and the heap that it left."""
    speed = f" ({run.events / run.seconds / 1e6:.1f} M events/s)" if run.seconds > 0 else ""
    print_facts(
        [
            ("Replayed", name),
            ("Events", count(run.events)),
            ("Time", f"{run.seconds:.3f} s{speed}"),
            ("GC cycles", count(len(run.cycles))),
        ]
    )
    _print_cycles(run)
    _print_mem_stats(run)
    _print_types(run)
    _print_classes(run)


def _print_cycles(run: Run) -> None:
    title = "GC cycles"
    if len(run.cycles) > _CYCLES:
        title += f" (the last {_CYCLES} of {count(len(run.cycles))})"
    print_table(
        title,
        ["GC", "at", "heap before", "marked", "freed objects", "freed", "forced"],
        [
            [
                str(c.number),
                format_duration(c.time_ns),
                format_bytes(c.heap_before),
                format_bytes(c.marked),
                count(c.freed_objects),
                format_bytes(c.freed_bytes),
                "forced" if c.forced else "",
            ]
            for c in run.cycles[-_CYCLES:]
        ],
        left=0,
    )


def _print_mem_stats(run: Run) -> None:
    fields = {k: v for k, v in run.memstats.to_go().items() if isinstance(v, int) and not isinstance(v, bool)}
    print_table(
        "MemStats at the end (memory outside the heap: as far as the recording tells)",
        ["field", "value", "exactly"],
        [[k, count(v) if k in _COUNTS else _size(v), str(v)] for k, v in fields.items()],
    )


def _size(n: int) -> str:
    """Write an amount of memory; with GOGC=off the goal is what no limit leaves, exabytes that no heap reaches."""
    return "off" if n >= 1 << 60 else format_bytes(n)


def _print_types(run: Run) -> None:
    more = f" (the first {_TOP} of {count(len(run.heap_by_type))})" if len(run.heap_by_type) > _TOP else ""
    print_table(
        f"Heap by type{more}",
        ["type", "objects", "bytes"],
        [[t.name or "(unknown)", count(t.objects), format_bytes(t.bytes)] for t in run.heap_by_type[:_TOP]],
    )


def _print_classes(run: Run) -> None:
    print_table(
        "Fragmentation by size class",
        ["class", "pointers", "spans", "slots", "used", "in spans", "in use", "share", "tails"],
        [
            [
                f"{count(c.size)} B" if c.size else "large",
                "no" if c.noscan else "yes",
                count(c.spans),
                count(c.slots),
                count(c.used),
                format_bytes(c.bytes_in_spans),
                format_bytes(c.bytes_used),
                f"{100 * c.bytes_used / c.bytes_in_spans:.1f} %" if c.bytes_in_spans else "",
                format_bytes(c.tail_bytes),
            ]
            for c in run.fragmentation
            if c.spans
        ],
        left=0,
    )
