"""What a report shows, as plain numbers: one run under the settings asked for, and what the recording itself tells."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pymem.analysis.census import census
from pymem.gc.costs import Costs
from pymem.program import Program, read_program
from pymem.report.heap_map import HeapMap, heap_map
from pymem.report.mmu import mmu_curve
from pymem.report.rows import RowLike
from pymem.report.sampling import extremes, largest
from pymem.rerun import rerun
from pymem.units import NO_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from pymem.gc.state import CycleRecord
    from pymem.replay import ClassUse, EventSource
    from pymem.rerun import Rerun

__all__ = ["BANDS", "NO_GOAL", "CensusLike", "Pauses", "ReportData", "TypeLifeLike", "gather", "pauses_of"]

NO_GOAL = 1 << 60
"""Bytes from which on a goal is that of GOGC=off: exabytes."""
BANDS = 500
"""Collections drawn one by one; of more, the share of time that they take up."""


class TypeLifeLike(Protocol):
    """A type in a census. Go's name; what was allocated; what lived at each time; how long objects lived."""

    @property
    def name(self) -> str:
        """Go's name of it."""

    @property
    def allocated_objects(self) -> int:
        """In all."""

    @property
    def allocated_bytes(self) -> int:
        """In all."""

    @property
    def live_bytes(self) -> npt.NDArray[np.int64]:
        """At each time of the census."""

    @property
    def lifetime_bytes(self) -> Sequence[float]:
        """Bytes the program allocated between birth and death: p50, p90, p99; infinity or NaN where nobody can tell."""

    @property
    def died_young(self) -> float:
        """Share of objects dead before their first GC."""


class CensusLike(Protocol):
    """Types over time."""

    @property
    def time_ns(self) -> npt.NDArray[np.int64]:
        """When the heap was looked at, as recorded."""

    @property
    def types(self) -> Sequence[TypeLifeLike]:
        """By bytes allocated, most first."""


@dataclass(frozen=True, slots=True, eq=False)
class Pauses:
    """Stops of the world."""

    time_ns: npt.NDArray[np.int64]
    """When they began, rising."""
    length_ns: npt.NDArray[np.int64]
    ends: npt.NDArray[np.bool_]
    """Whether it ended marking (mark termination); if not, it began a cycle (sweep termination)."""

    def quantile(self, q: float) -> int:
        """Return the length that a share q of all pauses does not exceed; 0 where there are none."""
        if not len(self.length_ns):
            return 0
        return int(np.quantile(self.length_ns, q, method="higher"))


@dataclass(frozen=True, slots=True, eq=False)
class ReportData:
    """All that a report is drawn from."""

    name: str
    """Of the recording."""
    tier: str
    command: str
    """What was recorded, "" where that is not known."""
    run: Rerun
    """Under the settings asked for; the times of its timeline and cycles are virtual."""
    pauses: Pauses
    mmu: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
    """Windows in ns and the program's least share of the processors in them."""
    heap_map: HeapMap
    """As recorded."""
    census: CensusLike | None
    """As recorded; None where it was not taken."""
    rows: tuple[RowLike, ...]

    @property
    def settings(self) -> str:
        """The run's settings, as an environment."""
        from pymem.units import format_bytes

        gogc = "off" if self.run.gogc < 0 else self.run.gogc
        limit = "off" if self.limit is None else format_bytes(self.limit).replace(" ", "").replace(".00", "")
        return f"GOGC={gogc} GOMEMLIMIT={limit} GOMAXPROCS={self.run.gomaxprocs}"

    @property
    def limit(self) -> int | None:
        """Memory limit in bytes, None: off."""
        return None if self.run.memory_limit >= NO_LIMIT else self.run.memory_limit

    @property
    def end_ns(self) -> int:
        """When the run was over."""
        return max(self.run.virtual_ns, 1)

    def series(self, field: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Return times and bytes of a field of the timeline: the extremes of each of at most 1,000 stretches of time.

        A goal that nothing sets (GOGC=off) is NaN.
        """
        line = self.run.timeline
        value = line[field].astype(np.float64)
        value[value >= NO_GOAL] = np.nan
        kept = extremes(line["time_ns"], value) if len(line) else np.zeros(0, np.int64)
        return line["time_ns"][kept], value[kept]

    def footprint(self) -> dict[str, npt.NDArray[np.float64]]:
        """Return `time_ns` and the parts that the memory of the Go runtime falls into, bytes, bottom to top.

        Each row is a sample, so its parts add up: those with the most and the least memory of each stretch of time.
        """
        line = self.run.timeline
        ready = line["mapped_ready"].astype(np.float64)
        kept = extremes(line["time_ns"], ready, 500) if len(line) else np.zeros(0, np.int64)
        live, in_use, ready, gone = (
            line[name][kept].astype(np.float64)
            for name in ("heap_live", "heap_in_use", "mapped_ready", "heap_released")
        )
        live = np.minimum(live, in_use)
        return {
            "time_ns": line["time_ns"][kept].astype(np.float64),
            "live": live,
            "unused": in_use - live,
            "other": np.maximum(ready - in_use, 0.0),
            "released": gone,
        }

    def bands(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return begins and ends in ns of the collections, and how much of that time they take: 1 each.

        Of more than BANDS, so many equal stretches of time and the share of each that collections take.
        """
        start = np.array([c.start_ns for c in self.run.cycles], np.float64)
        end = np.array([c.end_ns for c in self.run.cycles], np.float64)
        if len(start) <= BANDS:
            return start, end, np.ones(len(start))
        edges = np.linspace(0.0, float(self.end_ns), BANDS + 1)
        spent = np.concatenate([[0.0], np.cumsum(end - start)])
        points = np.stack([start, end], 1).ravel()
        total = np.interp(edges, points, np.stack([spent[:-1], spent[1:]], 1).ravel())
        share = np.diff(total) / np.diff(edges)
        return edges[:-1], edges[1:], np.clip(share, 0.0, 1.0)

    def marks(self) -> list[CycleRecord]:
        """Return the cycles to be marked by points: all, or of each of 500 stretches that with the highest peak."""
        cycles = self.run.cycles
        ends = np.array([c.end_ns for c in cycles], np.int64)
        peaks = np.array([c.heap1 for c in cycles], np.float64)
        return [cycles[i] for i in (largest(ends, peaks, BANDS).tolist() if cycles else [])]

    def classes(self) -> tuple[ClassUse, ...]:
        """Return the size classes that have spans at the end, by slot size; the large objects last."""
        used = [c for c in self.run.fragmentation if c.spans]
        return tuple(sorted(used, key=lambda c: (c.size == 0, c.size, c.noscan)))


def gather(
    source: EventSource,
    *,
    rows: Sequence[RowLike] = (),
    gogc: int | str | None = 100,
    memory_limit: int | str | None = None,
    gomaxprocs: int | None = None,
    costs: Costs | None = None,
    program: Program | None = None,
    name: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ReportData:
    """Run a recording under settings, look at what it allocates and where, and return all that a report shows.

    rows: of a what-if, for the chart of its Pareto front. program: what `read_program` made of the source, if that is
    at hand; costs are in it then. name: of the recording; None: its file's. The other arguments are `rerun`'s. The
    source is read four times at most. Deterministic. Raises what `rerun` and `replay` raise.
    """
    passes = _passes(progress, 4)
    if program is None:
        program = read_program(source, costs=costs, keep=False, progress=passes[0])
    run = rerun(
        program,
        gogc=gogc,
        memory_limit=memory_limit,
        gomaxprocs=gomaxprocs,
        progress=passes[1],
    )
    origin: dict[str, str] = getattr(source, "origin", {})
    return ReportData(
        name=os.path.basename(origin.get("file", "")) or "a workload" if name is None else name,
        tier=source.tier,
        command=origin.get("command", ""),
        run=run,
        pauses=pauses_of(run.cycles),
        mmu=mmu_curve(run.cycles, run.virtual_ns),
        heap_map=heap_map(source, progress=passes[2]),
        census=census(source, progress=passes[3]),
        rows=tuple(rows),
    )


def _passes(progress: Callable[[int, int], None] | None, n: int) -> list[Callable[[int, int], None] | None]:
    """Return what tells of each of n passes as a part of the whole."""
    if progress is None:
        return [None] * n

    def part(i: int) -> Callable[[int, int], None]:
        return lambda done, total: progress(i * total + min(done, total), n * total)

    return [part(i) for i in range(n)]


def pauses_of(cycles: Sequence[CycleRecord]) -> Pauses:
    """Return the stops of the world of some cycles: two each."""
    times = np.array([(c.start_ns, c.term_ns) for c in cycles], np.int64).reshape(-1, 2)
    lengths = np.array([(c.mark_ns - c.start_ns, c.end_ns - c.term_ns) for c in cycles], np.int64)
    return Pauses(times.ravel(), lengths.ravel(), np.tile([False, True], len(cycles)))
