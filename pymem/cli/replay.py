"""`pymem replay`: the recorded heap once more, and what it looked like at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pymem.cli._options import CostsFile, load_costs
from pymem.cli._output import (
    File,
    Json,
    class_cells,
    count,
    first_of,
    print_facts,
    print_json,
    print_table,
    progress,
    suggest,
)
from pymem.units import format_bytes, format_duration

if TYPE_CHECKING:
    from pymem.replay import Run
    from pymem.rerun import Rerun
    from pymem.stats.memstats import MemStats

__all__ = ["print_rerun", "print_run", "replay", "rerun_facts", "run_facts"]

_CYCLES = 20  # shown; --json has them all
_TOP = 15  # types shown
_COUNTS = {"Lookups", "Mallocs", "Frees", "HeapObjects", "NumGC", "NumForcedGC"}
"""Fields of MemStats that are no bytes."""


Gogc = Annotated[
    str | None, typer.Option("--gogc", help="Collect as GOGC=this would: percent, or off.", metavar="PERCENT")
]
Limit = Annotated[
    str | None,
    typer.Option("--memory-limit", help="Collect under this GOMEMLIMIT: 512MiB, or off.", metavar="BYTES"),
]
Procs = Annotated[int | None, typer.Option("--gomaxprocs", help="Run on so many Ps.", min=1, max=4096)]
TimeScale = Annotated[
    float,
    typer.Option(
        "--time-scale",
        help="The program's time, in units of the recorded time: recording slows it down.",
        min=0.001,
    ),
]
GCTrace = Annotated[bool, typer.Option("--gctrace", help="Print Go's gctrace line for each cycle.")]


def replay(
    file: File,
    *,
    gogc: Gogc = None,
    memory_limit: Limit = None,
    gomaxprocs: Procs = None,
    time_scale: TimeScale = 1.0,
    costs: CostsFile = None,
    gctrace: GCTrace = False,
    as_json: Json = False,
) -> None:
    """Replay a recording on an emulated heap.

    By itself: the recorded collections at their recorded places, the final MemStats, the heap by type and its
    fragmentation by size class.

    With any option but --json: the recorded program under the emulated pacer,
    which decides itself when to collect; one row a cycle. What is not given is 100, off, and as recorded.
    """
    if gctrace or time_scale != 1.0 or any(x is not None for x in (gogc, memory_limit, gomaxprocs, costs)):
        _rerun(
            file,
            gctrace=gctrace,
            as_json=as_json,
            gogc="100" if gogc is None else gogc,
            memory_limit=memory_limit,
            gomaxprocs=gomaxprocs,
            time_scale=time_scale,
            costs=costs,
        )
        return
    from pymem.replay import replay as run_workload
    from pymem.workload.sources import open_stream

    with progress("replaying", file, quiet=as_json) as tell:
        run = run_workload(open_stream(file), progress=tell)
    if as_json:
        print_json({"file": file, **run_facts(run)})
        return
    print_run(file, run)
    suggest(["replay", file, "--gogc", "200"])


# ---- under settings of one's own ----


def _rerun(file: str, *, gctrace: bool, as_json: bool, costs: str | None, **settings: Any) -> None:
    from pymem.rerun import rerun
    from pymem.workload.sources import open_stream

    paid = load_costs(costs)
    with progress("replaying", file, quiet=as_json) as tell:
        run = rerun(open_stream(file), costs=paid, progress=tell, **settings)
    if as_json:
        print_json({"file": file, **rerun_facts(run)})
        return
    if gctrace:
        from pymem.stats.gctrace import gctrace_line

        for cycle in run.cycles:
            print(gctrace_line(cycle))
        return
    print_rerun(file, run)
    suggest(["replay", file, "--gogc", str(max(2 * run.gogc, 50)), "--gctrace"])


def rerun_facts(run: Rerun) -> dict[str, Any]:
    """Return a run under settings of one's own as --json prints it."""
    samples = {str(name): run.timeline[name].tolist() for name in run.timeline.dtype.names or ()}
    return {
        "gogc": run.gogc,
        "memory_limit": run.memory_limit,
        "gomaxprocs": run.gomaxprocs,
        "events": run.events,
        "num_gc": len(run.cycles),
        "peak_heap": run.peak_heap,
        "gc_cpu": run.stats.gc_cpu_fraction,
        "virtual_ns": run.virtual_ns,
        "cycles": list(run.cycles),
        "timeline": samples,
        "memstats": run.memstats.to_go(),
        "seconds": run.seconds,
        "heap_by_type": list(run.heap_by_type),
        "fragmentation": list(run.fragmentation),
    }


def print_rerun(name: str, run: Rerun) -> None:
    """Print a run under settings of one's own: the settings, its cycles, its MemStats."""
    limit = "off" if run.memory_limit >= 1 << 62 else format_bytes(run.memory_limit)
    print_facts(
        [
            ("Replayed", name),
            (
                "Under",
                f"GOGC={'off' if run.gogc < 0 else run.gogc} GOMEMLIMIT={limit} GOMAXPROCS={run.gomaxprocs}",
            ),
            ("Events", count(run.events)),
            ("Program's time", format_duration(run.virtual_ns)),
            ("Emulated in", f"{run.seconds:.3f} s"),
            ("GC cycles", count(len(run.cycles))),
            ("Peak heap", f"{format_bytes(run.peak_heap)} (largest when marking ended)"),
            ("GC CPU", f"{100 * run.stats.gc_cpu_fraction:.1f} %"),
        ]
    )
    _print_paced_cycles(run)
    _print_mem_stats(run.memstats)


def _print_paced_cycles(run: Rerun) -> None:
    print_table(
        _last_of("GC cycles", len(run.cycles)),
        ["GC", "at", "trigger", "heap", "peak", "marked", "goal", "mark", "pauses", "assists", "forced"],
        [
            [
                str(c.number),
                format_duration(c.start_ns),
                format_bytes(c.trigger),
                format_bytes(c.heap0),
                format_bytes(c.heap1),
                format_bytes(c.heap2),
                format_bytes(c.goal) if c.goal < 1 << 60 else "off",
                format_duration(c.term_ns - c.mark_ns),
                format_duration(c.pause_ns),
                format_duration(c.assist_ns),
                "forced" if c.forced else "",
            ]
            for c in run.cycles[-_CYCLES:]
        ],
        left=0,
    )


def _last_of(title: str, n: int) -> str:
    return f"{title} (the last {_CYCLES} of {count(n)})" if n > _CYCLES else title


# ---- the recorded collections ----


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
    _print_mem_stats(run.memstats)
    _print_types(run)
    _print_classes(run)


def _print_cycles(run: Run) -> None:
    print_table(
        _last_of("GC cycles", len(run.cycles)),
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


def _print_mem_stats(memstats: MemStats) -> None:
    fields = {k: v for k, v in memstats.to_go().items() if isinstance(v, int) and not isinstance(v, bool)}
    print_table(
        "MemStats at the end (memory outside the heap: as far as the recording tells)",
        ["field", "value", "exactly"],
        [[k, count(v) if k in _COUNTS else _size(v), str(v)] for k, v in fields.items()],
    )


def _size(n: int) -> str:
    """Write an amount of memory; with GOGC=off the goal is what no limit leaves, exabytes that no heap reaches."""
    return "off" if n >= 1 << 60 else format_bytes(n)


def _print_types(run: Run) -> None:
    print_table(
        first_of("Heap by type", _TOP, len(run.heap_by_type)),
        ["type", "objects", "bytes"],
        [[t.name or "(unknown)", count(t.objects), format_bytes(t.bytes)] for t in run.heap_by_type[:_TOP]],
    )


def _print_classes(run: Run) -> None:
    print_table(
        "Fragmentation by size class",
        ["class", "pointers", "spans", "slots", "used", "in spans", "in use", "share", "tails"],
        [
            [
                *class_cells(c),
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
