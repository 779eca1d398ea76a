"""Reruns as results of Go benchmarks, for benchstat: a line a rerun, named by its settings.

Reruns of two recordings under the same settings have the same names, so that benchstat compares them; nothing in the
text names the recording, which would keep them apart.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from pymem.export.history import setting_texts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    from pymem.rerun import Rerun

__all__ = ["UNITS", "benchfmt", "benchmark_name", "mean_over_time"]

UNITS = {
    "ns/op": "how long the program took",
    "B/op": "allocated by the program",
    "allocs/op": "objects allocated",
    "GCs": "cycles",
    "peak-heap-bytes": "largest heap when marking ended",
    "mean-heap-bytes": "heapLive over the program's time",
    "peak-footprint-bytes": "most memory held: Sys - HeapReleased",
    "marked-bytes": "marked by all cycles",
    "GC-cpu-%": "of all processor time, the collector's",
    "assist-sec": "processor time of assists",
    "STW-sec": "time of the world stopped",
    "max-STW-sec": "the longest of a cycle's stops, both together",
}
"""What each result is. (Times but the first are in seconds: benchstat makes such of ns, but not of 0 ns.)"""


def benchfmt(runs: Iterable[Rerun]) -> str:
    """Return runs as text in the format of Go benchmarks.

    Runs of the same settings are samples of one benchmark. Where each has one, the units are marked as exact: then
    benchstat asks for no further samples, and takes every difference for real.
    """
    told = list(runs)
    names = [benchmark_name(run) for run in told]
    exact = " assume=exact" if len(set(names)) == len(names) else ""
    units = [f"Unit {unit} better=lower{exact}" for unit in UNITS]
    lines = [f"{name} 1 {_results(run)}" for name, run in zip(names, told, strict=True)]
    grouped = [line for _, group in groupby(lines, key=lambda line: line.split(" ", 1)[0]) for line in group]
    return "\n".join([*units, *grouped, ""])


def benchmark_name(run: Rerun) -> str:
    """Return what a benchmark of these settings is called; Go has GOMAXPROCS after the dash."""
    gogc, limit = setting_texts(run)
    return f"BenchmarkRerun/gogc={gogc}/limit={limit}-{run.gomaxprocs}"


def _results(run: Rerun) -> str:
    values = _values(run)
    return " ".join(
        f"{values[unit]:.10g} {unit}" if isinstance(values[unit], float) else f"{values[unit]} {unit}"
        for unit in UNITS
    )


def _values(run: Rerun) -> dict[str, float | int]:
    cycles: Sequence[Any] = run.cycles
    return {
        "ns/op": run.virtual_ns,
        "B/op": run.memstats.total_alloc,
        "allocs/op": run.memstats.mallocs,
        "GCs": len(cycles),
        "peak-heap-bytes": run.peak_heap,
        "mean-heap-bytes": round(mean_over_time(run.timeline, "heap_live")),
        "peak-footprint-bytes": int(run.timeline["mapped_ready"].max(initial=0)),
        "marked-bytes": sum(c.heap2 for c in cycles),
        "GC-cpu-%": 100.0 * run.stats.gc_cpu_fraction,
        "assist-sec": sum(c.assist_ns for c in cycles) / 1e9,
        "STW-sec": sum(c.pause_ns for c in cycles) / 1e9,
        "max-STW-sec": max((c.pause_ns for c in cycles), default=0) / 1e9,
    }


def mean_over_time(timeline: npt.NDArray[Any], name: str) -> float:
    """Return the mean of a column between the first sample and the last, each value lasting to the next; 0 of none."""
    if not len(timeline):
        return 0.0
    lasted = np.diff(timeline["time_ns"])
    values = timeline[name].astype(np.float64)
    return float(np.average(values[:-1], weights=lasted)) if lasted.sum() > 0 else float(values.mean())
