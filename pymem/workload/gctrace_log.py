"""A log of GODEBUG=gctrace=1: read from among a program's other output, and made into a source for reruns.

Any Go program writes one, unchanged: `GODEBUG=gctrace=1 PROGRAM 2> LOG`. A line tells of a cycle when it began, what
it took of the processors, and heapLive at three moments: at its start (heap0), at the end of its mark (heap1), after it
(heap2). What follows from that:

    allocated while it marks     heap1 - heap0
    allocated until the next     heap0 of the next - heap2: heapLive goes on from what was marked
    alive when it began          heap2 - (heap1 - heap0): what is born during a mark is marked

Sizes are whole MB, rounded down, so half a MB is added to each. In differences that cancels on average, but a heap of
4 MB is known to 10 % only. Goals say the same once more: heap2 + (heap2 + stacks + globals) x GOGC / 100. GOGC is the
same all the time and comes out of it, and of heap2 what both readings allow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from pymem._files import check_regular
from pymem.errors import RecordingError
from pymem.gc.costs import Costs
from pymem.gc.cpu import TIME_SLICE
from pymem.gc.cycle import EMPTY_PROGRAM_GLOBALS
from pymem.stats.gctrace import GCTraceLine, parse_gctrace
from pymem.workload.curve import CurveSource, apart, bounded, piece_bytes
from pymem.workload.trace_stream import MOST_PROCS

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator

    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

__all__ = ["CYCLES", "NO_GCTRACE", "NO_GOAL", "GCTraceLog", "has_gctrace", "read_gctrace_log"]

NO_GCTRACE = "no gctrace line in it: run the program with GODEBUG=gctrace=1 2> LOG"

_NAMES = (
    *("number", "at_ns", "percent", "sweep_term_ns", "mark_ns", "mark_term_ns"),
    *("sweep_term_cpu_ns", "assist_cpu_ns", "background_cpu_ns", "idle_cpu_ns", "mark_term_cpu_ns"),
    *("heap0", "heap1", "heap2", "goal", "stacks", "globals", "gomaxprocs"),
)
CYCLES = np.dtype([*((name, np.int64) for name in _NAMES), ("forced", np.bool_), ("leak_check", np.bool_)])
"""A cycle: the fields of `GCTraceLine`. ns, and bytes though whole MB; stacks and globals are -1 before Go 1.18."""

_MB = 1 << 20
_MOST = 1 << 56
"""Bytes and ns beyond which a number is no measurement."""
NO_GOAL = 1 << 62
"""Bytes: the goal where GOGC is off and no limit set."""
_LINE = 1 << 16
"""Bytes of a line that are looked at as one."""
_LATEST = 64
"""Processes that lines are told apart among."""
_BLOCK = 4096
_HEAP_MINIMUM = 4.0
"""MB x GOGC / 100: the least goal."""
_LEAST_WAY = 1.0
"""MB that a goal is above what lives, at least. Go: sweepMinHeapDistance."""
_MOST_GOGC = 2000
_ENOUGH = 3
"""Goals that tell of GOGC."""
_TRIGGER = 45 / 64
"""Of the way from live heap to goal: no trigger is earlier. Go: minTriggerRatioDistance."""
_DEDICATED = 4
"""Ps from which on whole ones are set aside for marking."""
_LEAST_SLICE = 100_000.0
"""ns."""
_LOST = 4
"""A log that has less than one cycle in so many is not enough of one."""


# ---- lines ----

_BEGINS = re.compile(r"(?<!\w)gc \d+ @")
_ENDS = re.compile(r"\d+ P(?: \(forced\))?")
_TOLD = re.compile(r"# GOGC=(\d{1,4})")
"""The first line of a log by `pymem record --calibrate`."""


def _parse(text: str) -> GCTraceLine | None:
    """Return the numbers of a line, None where it has none, or none that can be."""
    if "gc " not in text or "MB" not in text:
        return None
    try:
        found = parse_gctrace(text.replace("\\u003e", ">"))
    except ValueError:  # digits by the thousand
        return None
    if found is None or not 1 <= found.gomaxprocs <= MOST_PROCS or found.number < 1:
        return None
    if max(getattr(found, name) for name in _NAMES if name != "goal") >= _MOST:
        return None
    return replace(found, goal=NO_GOAL) if found.goal > NO_GOAL else found


def _heal(head: str, tail: str) -> GCTraceLine | None:
    """Return a line that other output came into; None unless only one can have been.

    The runtime writes a line in pieces. So other output may begin anywhere in it, and the rest begins a line. Where it
    began nothing shows: if two places make two lines, as before other output that begins with a digit, it is lost.
    """
    begin = _BEGINS.search(head)
    if begin is None or _ENDS.search(tail) is None:
        return None
    cuts = range(begin.end(), len(head) + 1)
    read = {line for cut in cuts if (line := _parse(head[begin.start() : cut] + tail))}
    return read.pop() if len(read) == 1 else None


def _lines(file: BinaryIO) -> Iterator[str]:
    while raw := file.readline(_LINE):
        yield raw.decode("latin-1").rstrip("\r\n")


class _Reader:
    """Takes lines in and tells processes apart: a cycle goes to the one whose next it is."""

    def __init__(self) -> None:
        self.processes: list[_Process] = []
        self.lines = self.damaged = self.healed = 0
        self.told_gogc: int | None = None
        self._heads: list[tuple[int, str]] = []  # (line, text) of what began and did not end

    def add(self, text: str) -> None:
        """Take in a line."""
        self.lines += 1
        if self.lines == 1 and (told := _TOLD.fullmatch(text)):
            self.told_gogc = int(told[1])
        found = _parse(text)
        if found is None:
            found = self._heal(text)
        if found is not None:
            self._put(found)

    def _heal(self, text: str) -> GCTraceLine | None:
        self._heads = [head for head in self._heads if self.lines - head[0] <= _HEADS]
        for head in self._heads:
            found = _heal(head[1], text[:_HEAD])
            if found:
                self._heads.remove(head)
                self.damaged -= 1
                self.healed += 1
                return found
        if _BEGINS.search(text):
            self._heads = [*self._heads[1 - _HEADS :], (self.lines, text[:_HEAD])]
            self.damaged += 1
        return None

    def _put(self, line: GCTraceLine) -> None:
        fits = [
            p
            for p in self.processes[-_LATEST:]
            if line.number > p.number and line.at_ns >= p.at_ns - 1_000_000
        ]
        if line.number == 1 or not fits:
            self.processes.append(process := _Process())
        else:
            process = min(fits, key=lambda p: line.number - p.number)
        process.add(line)


_HEADS = 4
"""Lines after which other output has ended that came into one, and beginnings that are waited for."""
_HEAD = 512


class _Process:
    """The cycles of one process, in arrays."""

    def __init__(self) -> None:
        self.number = self.at_ns = self.count = 0
        self._full: list[npt.NDArray[Any]] = []
        self._rows: list[tuple[Any, ...]] = []

    def add(self, line: GCTraceLine) -> None:
        self.number, self.at_ns = line.number, line.at_ns
        self.count += 1
        self._rows.append(tuple(getattr(line, name) for name in CYCLES.names or ()))
        if len(self._rows) == _BLOCK:
            self._full.append(np.array(self._rows, CYCLES))
            self._rows = []

    def cycles(self) -> npt.NDArray[Any]:
        return np.concatenate([*self._full, np.array(self._rows, CYCLES)])


# ---- the log ----


@dataclass(frozen=True, slots=True, eq=False)
class GCTraceLog:
    """What a log says of one process: the one with most cycles, where there are several."""

    cycles: npt.NDArray[Any]
    """dtype CYCLES, as printed; numbers rise."""
    lines: int = 0
    """Of the file, whatever is in them."""
    damaged: int = 0
    """That begin as gctrace's do and cannot be read."""
    healed: int = 0
    """That other output came into, and could be put together again."""
    processes: tuple[int, ...] = ()
    """Cycles of each process in the log, in the order in which they first appear."""
    origin: dict[str, str] = field(default_factory=dict)
    told_gogc: int | None = None
    """Percent: what `pymem record --calibrate` wrote into it."""

    @classmethod
    def of_lines(cls, lines: Iterable[GCTraceLine]) -> GCTraceLog:
        """Return the log that a process would have written: figures are rounded as there, and at least one line."""
        process = _Process()
        for line in lines:
            process.add(_parse(str(line)) or line)
        return cls(cycles=process.cycles())

    @property
    def missing(self) -> int:
        """Cycles between the first and the last that the log does not have."""
        return int(self.cycles["number"][-1] - self.cycles["number"][0]) + 1 - len(self.cycles)

    @property
    def amid(self) -> bool:
        """Whether the log begins after the process did."""
        return bool(self.cycles["number"][0] > 1)

    @property
    def duration_ns(self) -> int:
        """From the process's birth, or the first cycle where the log begins amid, to the end of the last cycle."""
        last = self.cycles[-1]
        end = last["at_ns"] + last["sweep_term_ns"] + last["mark_ns"] + last["mark_term_ns"]
        return int(end - (self.cycles["at_ns"][0] if self.amid else 0))

    @property
    def procs(self) -> int:
        """GOMAXPROCS: what most cycles ran with."""
        values, counts = np.unique(self.cycles["gomaxprocs"], return_counts=True)
        return int(values[np.argmax(counts)])

    @property
    def gogc(self) -> int | None:
        """GOGC in percent, by the goals; None where they do not tell: a memory limit, a setting changed, few cycles.

        Where several percentages explain them, or none is told, it is what the log says that it was made with.
        """
        return _gogc(self.cycles, self.told_gogc)

    def differs(self, gogc: int) -> float:
        """Return the share of goals that this GOGC (percent) does not explain, as a memory limit makes them."""
        return _differs(self.cycles, gogc)

    def source(self, *, gogc: int | None = None, costs: Costs | None = None) -> CurveSource:
        """Return a source of tier `gctrace` that allocates, lives and marks as the log says.

        gogc: percent, where it is known; None: as the goals say. costs: all but what the log tells: marking, pauses.
        Raises `RecordingError` where most cycles are missing.
        """
        if self.missing > (_LOST - 1) * len(self.cycles):
            raise RecordingError(
                f"{self.origin.get('file', 'the log')}: {self.missing:,} of {self.missing + len(self.cycles):,} cycles"
                " are missing between the first and the last: give the log as the program wrote it"
            )
        figures = _Figures.of(_whole(self.cycles), gogc or self.gogc)
        return _source(self, figures, Costs() if costs is None else costs)


def read_gctrace_log(path: str | os.PathLike[str], *, process: int | None = None) -> GCTraceLog:
    """Read a log. Only numbers are kept, 160 B a cycle; lines end after 64 KB.

    process: which of those in the log, in the order in which they appear, from 0 on; None: the one with most cycles.
    Raises `RecordingError` where there is no line of gctrace, or no such process; `OSError`.
    """
    check_regular(path, "write the log to a file, and give that")
    reader = _Reader()
    with open(path, "rb") as file:
        for text in _lines(file):
            reader.add(text)
    counts = [p.count for p in reader.processes]
    if not counts:
        broken = f" (but {reader.damaged:,} broken ones)" if reader.damaged else ""
        raise RecordingError(f"{path}: {NO_GCTRACE}{broken}")
    if process is not None and not 0 <= process < len(counts):
        raise RecordingError(f"{path}: no process {process} in it: give one from 0 to {len(counts) - 1}")
    chosen = counts.index(max(counts)) if process is None else process
    return GCTraceLog(
        cycles=reader.processes[chosen].cycles(),
        lines=reader.lines,
        damaged=reader.damaged,
        healed=reader.healed,
        processes=tuple(counts),
        origin={"file": str(path)},
        told_gogc=reader.told_gogc,
    )


def has_gctrace(path: str | os.PathLike[str]) -> bool:
    """Say whether there is a line of gctrace in a file, whole or healed. Reads no further than the first."""
    reader = _Reader()
    with open(path, "rb") as file:
        for text in _lines(file):
            reader.add(text)
            if reader.processes:
                return True
    return False


# ---- what the figures come to ----


def _whole(cycles: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return cycles with those that are missing put in, on the way from the one before to the one after."""
    number = cycles["number"]
    if number[-1] - number[0] + 1 == len(cycles):
        return cycles
    every = np.arange(number[0], number[-1] + 1)
    out = np.zeros(len(every), CYCLES)
    for name in _NAMES:
        out[name] = np.interp(every, number, cycles[name])
    for name in ("forced", "leak_check"):
        out[name][number - number[0]] = cycles[name]
    return out


class _Goals(NamedTuple):
    """What tells of GOGC, MB: a cycle's marked bytes and roots, and the goal of the next."""

    heap2: Floats
    roots: Floats
    """Stacks and globals, at least; 2 MB more at most."""
    goal: Floats
    late: npt.NDArray[np.bool_]
    """The next cycle began so late that its goal was put off, or it had none: it tells nothing."""

    def bounds(self, i: Any, gogc: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Return the least and the most that goals may be under this GOGC, percent. What is printed is whole MB."""
        heap2, roots, share = self.heap2[i], self.roots[i], gogc / 100
        floor = np.maximum(_HEAP_MINIMUM * share, heap2 + _LEAST_WAY)
        return (
            np.maximum(heap2 + (heap2 + roots) * share, _HEAP_MINIMUM * share),
            np.maximum(heap2 + 1 + (heap2 + roots + 3) * share, floor + 1),
        )


def _goals(cycles: npt.NDArray[Any]) -> _Goals:
    before, after = cycles[:-1], cycles[1:]
    roots = (np.maximum(before["stacks"], 0) + np.maximum(before["globals"], 0)) / _MB
    goal = after["goal"] / _MB
    late = (after["heap0"] / _MB + 1 >= goal) | (after["number"] != before["number"] + 1)
    late |= after["goal"] == NO_GOAL
    return _Goals(before["heap2"] / _MB, roots, goal, late)


def _gogc(cycles: npt.NDArray[Any], told: int | None) -> int | None:
    """Return the whole number of percent that explains most goals; of several, that told, 100 or the middle one.

    Where the heap stays so small that goals tell nothing, the first one does, which nothing was marked before.
    """
    goals = _goals(cycles)
    clear = np.flatnonzero(~goals.late)[:_BLOCK]
    if len(clear) < _ENOUGH or (cycles["goal"] == cycles["goal"][0]).all():
        return told or _by_first_goal(cycles[0])
    percents = np.arange(1, _MOST_GOGC + 1)
    score = np.zeros(len(percents), np.int64)
    for i in clear:
        least, most = goals.bounds(i, percents)
        score += (least < goals.goal[i] + 1) & (most >= goals.goal[i])
    best = percents[score == score.max()].tolist()
    if score.max() * 2 < len(clear):
        return None
    usual = [told, 100, int(best[len(best) // 2])]
    return next((g for g in usual if g in best), None)


def _differs(cycles: npt.NDArray[Any], gogc: int) -> float:
    """Return the share of goals that differ: those too low, and of those that were not put off those too high."""
    goals = _goals(cycles)
    if not len(goals.goal):
        return 0.0
    least, most = goals.bounds(slice(None), np.array(gogc))
    return float(((least >= goals.goal + 1) | (~goals.late & (most < goals.goal))).mean())


def _by_first_goal(cycle: npt.NDArray[Any]) -> int | None:
    """Return GOGC by the least goal there is, whole MB: usual percentages make it a whole number."""
    goal = int(cycle["goal"]) / _MB
    told = cycle["number"] == 1 and 1 <= goal <= _MOST_GOGC / 25
    return round(goal / _HEAP_MINIMUM * 100) if told else None


@dataclass(frozen=True, slots=True)
class _Figures:
    """The cycles in bytes and ns, as good as they can be known."""

    cycles: npt.NDArray[Any]
    gogc: int | None
    roots: float
    """Stacks and globals, bytes."""
    heap0: Floats
    heap1: Floats
    heap2: Floats

    @classmethod
    def of(cls, cycles: npt.NDArray[Any], gogc: int | None) -> _Figures:
        """Sharpen what is rounded down to MB by what goals and triggers say besides."""
        roots = _roots(cycles, gogc)
        heap2 = _heap2(cycles, gogc, roots)
        heap0 = cycles["heap0"] / _MB + 0.5
        if gogc:
            g = gogc / 100
            goal = np.maximum(heap2[:-1] + (heap2[:-1] + roots) * g, _HEAP_MINIMUM * g)
            goal = np.concatenate([[_HEAP_MINIMUM * g if cycles["number"][0] == 1 else 0.0], goal])
            live = np.concatenate([[0.0], heap2[:-1]])
            low = live + (goal - live) * _TRIGGER
            by_heap = ~cycles["forced"] & (low < heap0 + 0.5) & (low > heap0 - 0.5)
            heap0 = np.where(by_heap, (low + heap0 + 0.5) / 2, heap0)
        heap1 = np.maximum(cycles["heap1"] / _MB + 0.5, heap0)
        return cls(cycles, gogc, roots * _MB, heap0 * _MB, heap1 * _MB, heap2 * _MB)

    @property
    def during(self) -> Floats:
        """Bytes allocated while each cycle marked."""
        return self.heap1 - self.heap0

    @property
    def live(self) -> Floats:
        """Bytes alive when each cycle began."""
        return np.maximum(self.heap2 - self.during, 0.0)


def _roots(cycles: npt.NDArray[Any], gogc: int | None) -> float:
    """Return MB of stacks and globals: by the goals if there are enough, within what the lines allow."""
    shown = np.maximum(cycles["stacks"], 0) / _MB, np.maximum(cycles["globals"], 0) / _MB
    least = float(np.mean(shown[0]) + np.mean(shown[1]))
    usual = EMPTY_PROGRAM_GLOBALS / _MB + least + (0.5 if least else 0.0)
    if not gogc:
        return usual
    goals, g = _goals(cycles), gogc / 100
    clear = ~goals.late & (goals.goal > int(_HEAP_MINIMUM * g))
    if clear.sum() < 4 * _ENOUGH:
        return usual
    heap2 = goals.heap2[clear] + 0.5
    by_goals = float(np.median((goals.goal[clear] + 0.5 - heap2) / g - heap2))
    most = least + 2 if cycles["stacks"][0] >= 0 else float(cycles["heap1"].max() / _MB)
    return min(max(by_goals, least, EMPTY_PROGRAM_GLOBALS / _MB), most)


def _heap2(cycles: npt.NDArray[Any], gogc: int | None, roots: float) -> Floats:
    """Return MB marked: the middle of what the line and the next one's goal allow."""
    heap2 = cycles["heap2"] / _MB
    low, high = heap2.copy(), heap2 + 1
    if gogc:
        goals, g = _goals(cycles), gogc / 100
        clear = ~goals.late & (goals.goal > int(_HEAP_MINIMUM * g))
        least = np.where(clear, (goals.goal - roots * g) / (1 + g), 0.0)
        most = np.where(clear, (goals.goal + 1 - roots * g) / (1 + g), np.inf)
        both = (least < high[:-1]) & (most > low[:-1])
        low[:-1] = np.where(both, np.maximum(low[:-1], least), low[:-1])
        high[:-1] = np.where(both, np.minimum(high[:-1], most), high[:-1])
    middle: Floats = (low + high) / 2
    return middle


# ---- the source ----


def _source(log: GCTraceLog, figures: _Figures, costs: Costs) -> CurveSource:
    """Put the points of the curve where marks begin, one at the start, and one at the end."""
    cycles, procs = figures.cycles, log.procs
    busy = _busy(cycles, procs)
    first = 0.0 if log.amid else float(figures.heap0[0])
    between = figures.during[:-1] + np.maximum(figures.heap0[1:] - figures.heap2[:-1], 0.0)
    begin = first + np.concatenate([[0.0], np.cumsum(between)])
    piece = piece_bytes(peak=float(figures.heap1.max()), allocated=float(begin[-1]))
    begin = apart(begin, piece)
    time = _own_time(cycles, procs, busy)
    last = float(figures.during[-1]) + _rest(figures) / 2
    speed = last / max(begin[-1] - begin[-2], 1.0) if len(begin) > 1 else 0.0
    rest_ns = min(speed, 1.0) * float(time[-1] - time[-2]) if len(begin) > 1 else 0.0
    start = [] if log.amid else [0.0]
    allocated = np.concatenate([start, begin, [begin[-1] + last]])
    live = np.concatenate([start, figures.live, figures.live[-1:]])
    mark_end = begin + np.minimum(figures.during, np.append(np.diff(begin), last))
    return CurveSource(
        allocated=allocated,
        time_ns=np.concatenate([start, time, [time[-1] + rest_ns]]) - (time[0] if log.amid else 0.0),
        live=bounded(live, allocated),
        mark_begin=begin,
        mark_end=mark_end,
        forced=np.ascontiguousarray(cycles["forced"]),
        tier="gctrace",
        piece=piece,
        procs=procs,
        busy=busy,
        costs=_costs(figures, costs, piece),
        globals_bytes=round(figures.roots),
        gives_way_ns=_gives_way(cycles),
        origin=log.origin | ({"gogc": str(figures.gogc)} if figures.gogc else {}),
    )


def _rest(figures: _Figures) -> float:
    """Return what may be allocated after the last cycle with no other: a program ends somewhere on that way."""
    if figures.gogc:
        g, marked = figures.gogc / 100, float(figures.heap2[-1])
        return max((marked + figures.roots) * g, _HEAP_MINIMUM * _MB * g - marked, 0.0)
    waits = figures.heap0[1:] - figures.heap2[:-1]
    return max(float(np.median(waits)), 0.0) if len(waits) else 0.0


def _busy(cycles: npt.NDArray[Any], procs: int) -> int:
    """Return how many Ps the program kept at work while marking.

    Those are not its own on which workers marked for want of anything better to do, and dedicated workers had; below 4
    Ps there are no dedicated ones, and a fractional one has only a share of each P. Go: startCycle.
    """
    marking = float(cycles["mark_ns"].sum())
    if not marking:
        return 1
    others = cycles["idle_cpu_ns"].sum() + (cycles["background_cpu_ns"].sum() if procs >= _DEDICATED else 0)
    return int(min(max(round(procs - float(others) / marking), 1), procs))


def _own_time(cycles: npt.NDArray[Any], procs: int, busy: int) -> Floats:
    """Return the program's own time, ns, when each cycle began.

    Off come pauses, and what of a mark's time workers had its Ps, or it assisted: of procs x mark time, background and
    idle workers had theirs, and the rest was left to `busy` Ps. Times are rounded, so the sum is kept from falling, not
    each part.
    """
    mark = cycles["mark_ns"].astype(np.float64)
    left = procs * mark - cycles["background_cpu_ns"] - cycles["idle_cpu_ns"]
    own = np.clip(left / busy, 0.0, mark) - cycles["assist_cpu_ns"] / busy
    lost = cycles["sweep_term_ns"] + cycles["mark_term_ns"] + mark - np.maximum(own, 0.0)
    time: Floats = cycles["at_ns"] - np.concatenate([[0.0], np.cumsum(lost)[:-1]])
    return np.maximum.accumulate(np.maximum(time, 0.0))


def _gives_way(cycles: npt.NDArray[Any]) -> float | None:
    """Return after how long, ns, a goroutine gives its P to a fractional worker; None where too few marks tell.

    A mark that is over before anybody is made to give way has waited for a goroutine to do so by itself, and then
    marked: half of what goes by between two such moments, on average, and the workers' time. Where assists did most of
    it, it was over before that, and says only how long it waited at least: the mean is all time waited, a worker come.
    """
    mark = cycles["mark_ns"].astype(np.float64)
    short = (mark < 2 * TIME_SLICE) & ~cycles["forced"]
    if short.sum() < _ENOUGH:
        return None
    workers = cycles["background_cpu_ns"] + cycles["idle_cpu_ns"]
    waited = float(np.maximum(mark - workers, 0.0)[short].sum())
    came = int((workers > cycles["assist_cpu_ns"])[short].sum())
    return max(2 * waited / came, _LEAST_SLICE) if came else None


def _costs(figures: _Figures, costs: Costs, piece: int) -> Costs:
    """Return what collecting cost: marking by the byte alone, as the log knows no objects; pauses in the middle.

    Page faults are in the program's time already. A piece's span stands for as many of a page as it has.
    """
    cycles = figures.cycles
    cpu = sum(float(cycles[name].sum()) for name in ("assist_cpu_ns", "background_cpu_ns", "idle_cpu_ns"))
    work = float(figures.live.sum()) + figures.roots * len(cycles)
    return replace(
        costs,
        mark_byte_ns=min(cpu / work, 1e6) if cpu and work else costs.mark_byte_ns,
        mark_object_ns=0.0,
        sweep_span_ns=costs.sweep_span_ns * min(piece >> 13, 1024),
        stop_ns=round(min(float(np.median(cycles["sweep_term_ns"])), 1e8)),
        term_ns=round(min(float(np.median(cycles["mark_term_ns"])), 1e8)),
        fault_page_ns=0.0,
    )
