"""What one run came to, in the figures that people decide by."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pymem.units import NO_LIMIT

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from pymem.gc.state import CycleRecord
    from pymem.rerun import Rerun

__all__ = ["Figures", "figures"]


class Figures(NamedTuple):
    """One run. Bytes, nanoseconds, fractions of all processor time."""

    num_gc: float
    peak_heap: float
    """The largest heapLive at the end of marking: the middle figure of gctrace. Without a cycle, at any time."""
    mean_heap: float
    """heapLive, averaged over time."""
    peak_footprint: float
    """The largest Sys - HeapReleased: what a memory limit and the OOM killer see."""
    gc_cpu: float
    """Marking (but for idle Ps), pauses and scavenging, of all processor time."""
    assist_ns: float
    """Processor time that allocating goroutines spent marking."""
    pause_ns: float
    """The median pause. A cycle has two."""
    pause_p99_ns: float
    pause_max_ns: float
    marked_bytes: float
    live_heap: float
    """What the last collection marked; without one, mean_heap."""
    limited: float
    """Share of the time in which the GC CPU limiter held the collector back."""
    effective_gogc: float
    """Percent: the median of goal / live heap - 1 over cycles. Below GOGC where a limit sets the goal."""
    duration_ns: float


def figures(run: Rerun, pauses: npt.NDArray[np.int64] | None = None) -> Figures:
    """Return a run's figures. pauses: ns, recorded ones that its pauses are like; None: as `Costs` has them."""
    cpu, t = run.stats.cpu, run.timeline
    all_time = max(run.virtual_ns * run.gomaxprocs, 1)
    cycles = run.cycles
    p50, p99, most = _pauses(cycles, pauses)
    return Figures(
        num_gc=len(cycles),
        peak_heap=run.peak_heap,
        mean_heap=_over_time(t, t["heap_live"]),
        peak_footprint=float(t["mapped_ready"].max()) if len(t) else 0.0,
        gc_cpu=min((cpu.gc_total - cpu.gc_idle + cpu.scavenge_total) / all_time, 1.0),
        assist_ns=sum(c.assist_ns for c in cycles),
        pause_ns=p50,
        pause_p99_ns=p99,
        pause_max_ns=most,
        marked_bytes=sum(c.heap2 for c in cycles),
        live_heap=cycles[-1].heap2 if cycles else _over_time(t, t["heap_live"]),
        limited=_over_time(t, t["limited"]),
        effective_gogc=_effective(cycles, run.gogc, limited=run.memory_limit < NO_LIMIT),
        duration_ns=run.virtual_ns,
    )


def _over_time(timeline: npt.NDArray[np.void], values: npt.NDArray[np.generic]) -> float:
    """Return the mean over time of values that hold until the next sample."""
    if not len(timeline):
        return 0.0
    spans = np.diff(timeline["time_ns"]).astype(float)
    if not spans.sum():
        return float(values[-1])
    return float((values[:-1].astype(float) * spans).sum() / spans.sum())


def _pauses(
    cycles: Sequence[CycleRecord], pauses: npt.NDArray[np.int64] | None
) -> tuple[float, float, float]:
    """Return the median, the 99th percentile and the longest of the pauses, 0 without a cycle.

    Of recorded pauses the longest among n more is expected where n / (n + 1) of them are shorter.
    """
    if not cycles:
        return 0.0, 0.0, 0.0
    if pauses is None or not len(pauses):
        each = np.array([c.pause_ns / 2 for c in cycles])
        return float(np.median(each)), float(np.quantile(each, 0.99)), float(each.max())
    n = 2 * len(cycles)
    p50, p99, most = np.quantile(pauses, [0.5, min(0.99, n / (n + 1)), n / (n + 1)])
    return float(p50), float(p99), float(most)


def _effective(cycles: Sequence[CycleRecord], gogc: int, *, limited: bool) -> float:
    if not limited:
        return float(gogc) if gogc >= 0 else math.inf
    live = np.array([c.heap2 for c in cycles[:-1]], float)
    goals = np.array([c.start_goal for c in cycles[1:]], float)
    if not len(live):
        return float(gogc) if gogc >= 0 else math.inf
    effective = float(np.median((goals - live) / np.maximum(live, 1.0))) * 100
    return min(effective, float(gogc)) if gogc >= 0 else effective
