"""What a real run came to, from the lines that the runtime printed: gctrace=1 for cycles, gcpacertrace=1 for bytes.

gctrace knows sizes to a MB only, which is a quarter of a small heap. gcpacertrace adds, to the byte, heapLive at the
start and the end of a mark, its distance from the goal, and the work done on stacks and globals. So the peak is exact,
and so is most often what the mark before has marked: a goal is

    goal = marked + (marked + stacks + globals) x GOGC / 100

where nothing else (the least heap, a limit, a runway) decides it. What follows from that is taken if it rounds to
gctrace's figure. Otherwise half a MB is added to that.

Processes that the program starts print to the same stderr. A line goes to the process whose next cycle it tells of. The
program's own is the process that began first: a line tells how long its process had run, and is read soon after it
was written. Where other output came into a line it is lost; the cycle counts all the same, by the number of the next.
"""

from __future__ import annotations

import re
import statistics
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from pymem.stats.gctrace import GCTraceLine, parse_gctrace

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pymem.record.running import Line, Ran

__all__ = ["DEBUG", "Measured", "Measurement", "measure", "measurement"]

DEBUG = ("gctrace=1", "gcpacertrace=1")
"""GODEBUG of a run that is measured."""

_MB = 1 << 20
_LEAST_HEAP = 4 << 20
"""Bytes, times GOGC / 100: the least goal, which tells nothing of what was marked. Go: defaultHeapMinimum."""
_LEAST_WAY = 1 << 20
"""Bytes that a goal is above what lives, at least: again it tells nothing then. Go: sweepMinHeapDistance."""
_SAME = 0.25
"""Seconds by which the beginnings of one process may seem to differ from line to line: naps, and a busy machine."""
_PACER = re.compile(
    r"pacer: -?\d+% CPU .* for \d+\+(\d+)\+(\d+) B work .* in \d+ B -> (\d+) B \(∆goal (-?\d+),"
)


class Measurement(NamedTuple):
    """One real run. Bytes, ns, fractions of all processor time, as in `Figures`."""

    num_gc: float
    peak_heap: float
    """The largest heapLive at the end of marking; 0 without a cycle."""
    marked_bytes: float
    gc_cpu: float
    assist_ns: float
    seconds: float
    marked_rounding: float = 0.0
    """Bytes by which marked_bytes may be off, as gctrace rounds."""


class Measured(NamedTuple):
    """One figure over several runs."""

    least: float
    median: float
    most: float
    noise: float
    """Mean distance of a run from the median, as a share of it."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Measured:
        """Sum up values of one figure, one a run."""
        middle = statistics.median(values)
        noise = statistics.fmean(abs(v - middle) for v in values) / middle if middle else 0.0
        return cls(min(values), middle, max(values), noise)


class _Pacer(NamedTuple):
    """A cycle's end in gcpacertrace."""

    roots: int
    """Bytes of stacks and globals."""
    heap1: int
    goal: int


class _Cycle(NamedTuple):
    line: GCTraceLine
    pacer: _Pacer | None


@dataclass(slots=True)
class _Process:
    """The cycles of one process."""

    began: float
    """Seconds after the program was started, at the latest."""
    cycles: list[_Cycle] = field(default_factory=list)

    def awaits(self, line: GCTraceLine, began: float) -> bool:
        """Whether a line can be of this process: its next cycle, or a later one if lines were lost."""
        last = self.cycles[-1].line
        if line.number <= last.number or line.at_ns < last.at_ns:
            return False
        return line.number == last.number + 1 or abs(self.began - began) < _SAME


def measurement(ran: Ran, *, gogc: int) -> Measurement:
    """Return what a run under this GOGC (percent, -1 for off) came to."""
    cycles = _own(ran.lines)
    marked, rounding = _marked(cycles, gogc)
    num_gc = cycles[-1].line.number if cycles else 0
    procs = cycles[0].line.gomaxprocs if cycles else 1
    took = sum(
        c.line.sweep_term_cpu_ns + c.line.assist_cpu_ns + c.line.background_cpu_ns + c.line.mark_term_cpu_ns
        for c in cycles
    )
    return Measurement(
        num_gc=num_gc,
        peak_heap=max((_heap1(c) for c in cycles), default=0.0),
        marked_bytes=statistics.fmean(marked) * num_gc if marked else 0.0,
        gc_cpu=min(took / (ran.seconds * 1e9 * procs), 1.0) if ran.seconds else 0.0,
        assist_ns=sum(c.line.assist_cpu_ns for c in cycles),
        seconds=ran.seconds,
        marked_rounding=rounding * num_gc / len(cycles) if cycles else 0.0,
    )


def measure(runs: Sequence[Measurement]) -> dict[str, Measured]:
    """Sum up the runs under one setting, figure by figure."""
    return {name: Measured.of([getattr(run, name) for run in runs]) for name in Measurement._fields}


# ---- lines ----


def _own(lines: Iterable[Line]) -> list[_Cycle]:
    """Return the cycles of the program itself."""
    processes: list[_Process] = []
    pacer = None
    for seconds, text in lines:
        found = parse_gctrace(text)
        if found is None:
            pacer = _pacer(text) or pacer
            continue
        pacer, cycle = None, _Cycle(found, _fitting(found, pacer))
        began = seconds - (found.at_ns + found.sweep_term_ns + found.mark_ns + found.mark_term_ns) / 1e9
        mine = [p for p in processes if p.awaits(found, began)]
        if mine:
            process = min(mine, key=lambda p: abs(p.began - began))
            process.began = min(process.began, began)
            process.cycles.append(cycle)
        elif found.number == 1:
            processes.append(_Process(began, [cycle]))
    return min(processes, key=lambda p: p.began).cycles if processes else []


def _pacer(text: str) -> _Pacer | None:
    match = _PACER.search(text)
    if match is None:
        return None
    stacks, globals_, heap1, over = map(int, match.groups())
    return _Pacer(stacks + globals_, heap1, heap1 - over)


def _fitting(line: GCTraceLine, pacer: _Pacer | None) -> _Pacer | None:
    """Return the pacer's line before gctrace's if both are of the same cycle."""
    return pacer if pacer and pacer.heap1 // _MB == line.heap1 // _MB else None


def _heap1(cycle: _Cycle) -> float:
    return cycle.pacer.heap1 if cycle.pacer else cycle.line.heap1 + _MB / 2


def _marked(cycles: Sequence[_Cycle], gogc: int) -> tuple[list[float], float]:
    """Return the bytes that each cycle marked, and by how many the sum may be off."""
    out, rounded = [c.line.heap2 + _MB / 2 for c in cycles], len(cycles)
    if gogc < 0:
        return out, rounded * _MB / 2
    share = gogc / 100
    for i, (cycle, after) in enumerate(pairwise(cycles)):
        if cycle.pacer and after.pacer:
            goal = after.pacer.goal
            marked = (goal - cycle.pacer.roots * share) / (1 + share)
            told = goal > max(_LEAST_HEAP * share, marked + _LEAST_WAY)
            if told and marked // _MB == cycle.line.heap2 // _MB:
                out[i] = marked
                rounded -= 1
    return out, rounded * _MB / 2
