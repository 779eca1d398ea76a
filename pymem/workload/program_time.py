"""The program's own time in an execution trace: what of the recorded time it would have needed by itself.

A recording slows a program down, and its collector takes processors from it. A rerun brings a collector of its own, so
first the recorded one's time comes off:

    the world stopped                                   nothing of it is the program's
    a goroutine of the runtime has a P the program wants  the share of the Ps that the program had
    a goroutine of the program assists or sweeps        the same
    each event that the program wrote                   `Costs.trace_event_ns`, on the P that wrote it
    each page of the heap that was touched first        `Costs.fault_page_ns`; a rerun touches others

What is left may not fall below what the allocations alone cost: the cost of an event is a mean, and where it is too
much for a stretch, later stretches pay (time never runs backwards).
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pymem.trace import EventBatch, EventKind, TraceReader

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import numpy.typing as npt

    from pymem.gc.costs import Costs

__all__ = ["ProgramTime", "program_time"]

_NEVER = 1e18
"""ns."""
_WINDOW = 100_000_000
"""ns over which is averaged how many Ps the program keeps at work."""
_ENOUGH = 0.05
"""Share of a window in which that must have shown."""
_EVERY = 512
"""Events between two points of the map, where nothing else asks for one."""
_MOST_POINTS = 1 << 18
"""Points of the map; a trace of some 30 million events has so many."""
_SYSTEM = (
    "system goroutine wait",
    "GC background sweeper wait",
    "GC scavenge wait",
    "GC worker (idle)",
    "GC worker (active)",
    "finalizer wait",
    "force gc (idle)",
)
"""Reasons for which only the runtime's own goroutines block."""
_NOT_ITS_WILL = ("preempted", "GC mark assist wait for work", "wait until GC ends")
"""Reasons for which a goroutine leaves its P that lie in the recorded collector, or in how long it has had it."""
_LEAVES = (
    EventKind.GO_BLOCK, EventKind.GO_STOP, EventKind.GO_DESTROY, EventKind.GO_DESTROY_SYSCALL, EventKind.PROC_STOP,
)  # fmt: skip
_CREATES = (EventKind.GO_CREATE, EventKind.GO_CREATE_BLOCKED)
_ENTERS = (EventKind.GO_START, EventKind.GO_SWITCH, EventKind.GO_SWITCH_DESTROY)
_STATE = np.full(256, -1, np.int8)
"""What a P does after an event, 0: nothing, -1: the same as before."""
_PROGRAM, _SYSTEMS, _MARKER, _ASSIST, _SWEEP, _WHOSE = 1, 2, 3, 4, 5, 6
"""It runs the program; the runtime's own; of that, who marks; the program, which has to mark or to sweep before it may
allocate; whichever of the first three the goroutine is."""
_GC_STOPS = "GC "
"""What the reasons of the collector's stops begin with. Go: stwReasonStrings."""
_PAGE = 8192
_MOSTLY = 4
"""A goroutine of the runtime that starts so many times more often while marking than otherwise is there to mark."""
_COUNTED = ((_PROGRAM,), (_SYSTEMS, _MARKER, _ASSIST, _SWEEP), (_MARKER, _ASSIST), (_ASSIST, _SWEEP))
"""States whose Ps are counted together: user, system, markers, held_up."""
_COUNTS = np.array([[state in counted for state in range(_WHOSE)] for counted in _COUNTED], np.int64)
"""By count and state, whether a P in it counts."""
_ENTERING = np.isin(np.arange(256), _ENTERS)
_STATE[list(_LEAVES)] = 0
_STATE[list(_ENTERS)] = _WHOSE
_STATE[[EventKind.ASSIST_BEGIN, EventKind.ASSIST_ACTIVE]] = _ASSIST
_STATE[EventKind.SWEEP_BEGIN] = _SWEEP
_STATE[[EventKind.ASSIST_END, EventKind.SWEEP_END]] = _WHOSE


class ProgramTime(NamedTuple):
    """A map from recorded to the program's own time, piecewise linear, and how many Ps the program kept at work."""

    recorded: npt.NDArray[np.int64]
    """Points, ns, rising."""
    own: npt.NDArray[np.float64]
    """The program's own time at each, ns, never falling."""
    busy: npt.NDArray[np.float64]
    """Ps at work for the program, on average over each 100 ms, while nothing of the runtime stood in its way."""
    gives_way_ns: float
    """Of its own time a goroutine of the program has so much before it waits for something or yields, on average."""
    mark_ns: int
    """P-time of marking, assists and all."""
    goals: tuple[int, ...] = ()
    """Bytes: the goals that the recorded pacer set, one after each mark."""
    pauses: npt.NDArray[np.int64] = np.zeros(0, np.int64)
    """Nanoseconds that the world stood still for the collector, each time."""

    def busy_at(self, time: int) -> float:
        """Return how many Ps the program kept at work around a recorded time."""
        if not len(self.recorded):
            return 1.0
        window = (time - int(self.recorded[0])) // _WINDOW
        return float(self.busy[min(max(window, 0), len(self.busy) - 1)])

    def at(self, time: int) -> float:
        """Return the program's own time at a recorded one."""
        recorded, own = self.recorded.data, self.own.data  # plain numbers: asked at each stop
        i = bisect_right(recorded, time)
        if i == 0:
            return float(time - recorded[0]) if recorded else float(time)
        if i == len(recorded):
            return float(own[-1])
        t0, t1 = recorded[i - 1], recorded[i]
        return float(own[i - 1] + (own[i] - own[i - 1]) * ((time - t0) / (t1 - t0)))


class _Stretch(NamedTuple):
    """Between points, arrays: times at the ends, and what was the case and happened between."""

    time: npt.NDArray[np.int64]
    span: npt.NDArray[np.int64]
    """ns since the point before."""
    events: npt.NDArray[np.int64]
    """Written by the program while it did its own work."""
    allocs: npt.NDArray[np.int64]
    fresh: npt.NDArray[np.int64]
    """Pages that spans were made of for the first time."""
    user: npt.NDArray[np.int64]
    """Ps that ran the program."""
    system: npt.NDArray[np.int64]
    """Ps that did the runtime's work, whoever had them."""
    markers: npt.NDArray[np.int64]
    """Of these, Ps that marked."""
    held_up: npt.NDArray[np.int64]
    """Of these, Ps that the program had: it assisted or swept."""
    stopped: npt.NDArray[np.int64]
    marking: npt.NDArray[np.int64]
    leaves: npt.NDArray[np.int64]
    """Times that a goroutine of the program left its P, neither made to nor for the collector."""


class _Survey:
    """Goes through a trace and finds who had which P when."""

    def __init__(self, procs: int) -> None:
        self._states = np.zeros(procs + 1, np.int8)  # of each P; the last is for those unknown
        self._system: set[int] = set()
        self._starts: dict[int, list[int]] = {}  # of the system's goroutines: outside of marking, and inside
        self._stopped = self._marking = 0
        self._were = np.zeros(len(_COUNTED), np.int64)  # Ps that each of them counts
        self._last = -1
        self._highest_page = 0

    def stretches(self, batch: EventBatch, strings: Sequence[str]) -> _Stretch:
        """Return what a batch tells; batches come in order."""
        marks = (batch.kind == EventKind.GC_BEGIN).astype(np.int64) - (batch.kind == EventKind.GC_END)
        stops = (batch.kind == EventKind.STW_BEGIN).astype(np.int64) - (batch.kind == EventKind.STW_END)
        self._learn(batch, strings, self._marking + np.cumsum(marks) > 0)
        changes = np.zeros((len(_COUNTED), len(batch)), np.int64)
        by_program = np.zeros(len(batch), bool)
        self._follow(batch, changes, by_program)
        points = changes.any(axis=0) | (stops != 0) | (marks != 0)
        points[_EVERY - 1 :: _EVERY] = True
        points[-1] = True
        at = np.flatnonzero(points)
        time = batch.time[at]
        user, system, markers, held_up = (
            _before(np.cumsum(change)[at], int(was)) for change, was in zip(changes, self._were, strict=True)
        )
        first = int(batch.time[0]) if self._last < 0 else self._last
        out = _Stretch(
            time=time,
            span=np.diff(time, prepend=first),
            events=_count(by_program, at),
            allocs=_count(batch.kind == EventKind.OBJECT_ALLOC, at),
            fresh=_count(self._fresh(batch), at),
            user=user,
            system=system,
            markers=markers,
            held_up=held_up,
            stopped=_before(np.cumsum(stops)[at], self._stopped),
            marking=_before(np.cumsum(marks)[at], self._marking),
            leaves=_count(self._leaves(batch, strings), at),
        )
        self._were += changes.sum(axis=1)
        self._stopped = max(0, self._stopped + int(stops.sum()))
        self._marking = max(0, self._marking + int(marks.sum()))
        self._last = int(time[-1])
        return out

    def _fresh(self, batch: EventBatch) -> npt.NDArray[np.int64]:
        """Return how many pages the spans made reach beyond all before: the heap's memory is taken in order."""
        made = np.flatnonzero((batch.kind == EventKind.SPAN_ALLOC) | (batch.kind == EventKind.SPAN))
        pages = batch.b[made].astype(np.int64)
        ends = batch.a[made].astype(np.int64) // _PAGE + pages
        highest = np.maximum.accumulate(np.concatenate([[self._highest_page], ends]))
        new = batch.kind[made] == EventKind.SPAN_ALLOC  # what was there before the recording is not fresh
        out = np.zeros(len(batch), np.int64)
        out[made] = np.where(new, np.minimum(np.diff(highest), pages), 0)
        self._highest_page = int(highest[-1])
        return out

    def _leaves(self, batch: EventBatch, strings: Sequence[str]) -> npt.NDArray[np.bool_]:
        forced = [i for i, text in enumerate(strings) if text in _NOT_ITS_WILL]
        left: npt.NDArray[np.bool_] = (batch.kind == EventKind.GO_BLOCK) | (batch.kind == EventKind.GO_STOP)
        left[left] = ~np.isin(batch.g[left], list(self._system)) & ~np.isin(batch.b[left], forced)
        return left

    def _learn(self, batch: EventBatch, strings: Sequence[str], marking: npt.NDArray[np.bool_]) -> None:
        """Find out which goroutines are the runtime's own, and which of these mark."""
        reasons = [i for i, text in enumerate(strings) if text in _SYSTEM]
        own = (batch.kind == EventKind.GO_BLOCK) & np.isin(batch.b, reasons)
        self._system |= set(np.unique(batch.g[own]).tolist())
        self._system |= set(batch.a[np.isin(batch.kind, _CREATES) & (batch.c == 1)].tolist())
        starts = batch.kind == EventKind.GO_START
        for inside in (False, True):
            who, times = np.unique(batch.a[starts & (marking == inside)], return_counts=True)
            for g, n in zip(who.tolist(), times.tolist(), strict=True):
                if g in self._system:
                    self._starts.setdefault(g, [0, 0])[inside] += n

    def _follow(
        self, batch: EventBatch, changes: npt.NDArray[np.int64], by_program: npt.NDArray[np.bool_]
    ) -> None:
        """Write down by how much the counts of Ps change at each event, and which events the program wrote."""
        state = _STATE[batch.kind]
        whose = np.flatnonzero(state == _WHOSE)
        state[whose] = self._owners(batch, whose)
        procs = np.where((batch.p >= 0) & (batch.p < len(self._states) - 1), batch.p, len(self._states) - 1)
        for p in np.flatnonzero(np.bincount(procs)):
            mine = np.flatnonzero(procs == p)
            told = np.flatnonzero(state[mine] >= 0)
            now = np.concatenate([self._states[p : p + 1], state[mine[told]]])
            ends = np.concatenate(
                [[-1], told, [len(mine) - 1]]
            )  # an event is written before the state changes
            by_program[mine] = np.repeat(now == _PROGRAM, np.diff(ends))
            changes[:, mine[told]] += np.diff(_COUNTS[:, now], axis=1)
            self._states[p] = now[-1]

    def _owners(self, batch: EventBatch, which: npt.NDArray[np.int64]) -> npt.NDArray[np.int8]:
        """Return what a P does that works on the goroutine which an event is of, or that it starts."""
        who = np.where(_ENTERING[batch.kind[which]], batch.a[which].astype(np.int64), batch.g[which])
        of_marker = np.isin(who, [g for g, (out, in_) in self._starts.items() if in_ > _MOSTLY * out])
        of_system = np.isin(who, list(self._system))
        return np.where(of_marker, _MARKER, np.where(of_system, _SYSTEMS, _PROGRAM)).astype(np.int8)


class _Stops:
    """Finds the times for which the collector stopped the world. It is stopped by one at a time."""

    def __init__(self) -> None:
        self._begun: int | None = None
        self._lengths: list[int] = []

    def learn(self, batch: EventBatch, strings: Sequence[str]) -> None:
        """Take in a batch; batches come in order."""
        for i in np.flatnonzero((batch.kind == EventKind.STW_BEGIN) | (batch.kind == EventKind.STW_END)):
            if batch.kind[i] == EventKind.STW_BEGIN:
                gc = strings[int(batch.b[i])].startswith(_GC_STOPS)
                self._begun = int(batch.time[i]) if gc else None
            elif self._begun is not None:
                self._lengths.append(int(batch.time[i]) - self._begun)
                self._begun = None

    def pauses(self) -> npt.NDArray[np.int64]:
        """Return how long each took, ns."""
        return np.array(self._lengths, np.int64)


def _count(
    what: npt.NDArray[np.bool_] | npt.NDArray[np.int64], at: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return how many there are from one point to the next."""
    return np.diff(np.cumsum(what)[at], prepend=0)


def _before(change: npt.NDArray[np.int64], was: int) -> npt.NDArray[np.int64]:
    """Return what was the case in each stretch, from how much had changed at its end."""
    return np.concatenate([[was], was + change[:-1]])


def program_time(path: str | os.PathLike[str], *, procs: int, costs: Costs) -> ProgramTime:
    """Read a trace and return the program's own time in it. procs: its GOMAXPROCS.

    Memory: `_MOST_POINTS` points of the map at most, 56 bytes each; of a longer trace neighbours are joined.
    """
    survey, points, goals, stops = _Survey(procs), _Points(procs, costs), [], _Stops()
    left = marked = 0
    with TraceReader(path) as reader:
        for batch in reader.batches():
            strings = reader.strings
            stretches = survey.stretches(batch, strings)
            points.add(stretches)
            left += int(stretches.leaves.sum())
            marked += _mark_ns(stretches)
            goals += batch.a[batch.kind == EventKind.HEAP_GOAL].tolist()
            stops.learn(batch, strings)
    if points.first is None:
        return ProgramTime(np.zeros(0, np.int64), np.zeros(0), np.ones(1), _NEVER, 0)
    time, own, busy = points.map()
    used = float((np.diff(own, prepend=0.0) * busy[(time - time[0]) // _WINDOW]).sum())
    gives_way = max(used / left, 1.0) if left else _NEVER
    last = np.append(time[1:] != time[:-1], True)
    return ProgramTime(time[last], own[last], busy, gives_way, marked, tuple(goals), stops.pauses())


def _mark_ns(s: _Stretch) -> int:
    return int((s.span * s.markers)[(s.marking > 0) & (s.stopped <= 0)].sum())


class _Points:
    """What the stretches come to, up to the points of a map whose windows are not known before the trace's end."""

    def __init__(self, procs: int, costs: Costs) -> None:
        self.first: int | None = None
        """Time of the first point."""
        self._procs, self._costs = procs, costs
        self._columns: list[npt.NDArray[np.float64]] = []  # of batches; rows as `map` names them
        self._times: list[npt.NDArray[np.int64]] = []
        self._n, self._width = 0, 1  # points, and ns below which they are joined
        self._free = np.zeros((2, 1))  # by window, where the program had all it wanted: ns, and P-ns

    def add(self, s: _Stretch) -> None:
        """Take in a batch's stretches; batches come in order."""
        self.first = int(s.time[0]) if self.first is None else self.first
        self._count_free(s)
        running = s.stopped <= 0
        displaced = running & (s.system > 0) & ((s.user + s.system >= self._procs) | (s.held_up > 0))
        side_by_side = np.maximum(s.user, 1)
        not_its = s.events * self._costs.trace_event_ns + s.fresh * self._costs.fault_page_ns
        self._times.append(s.time)
        self._columns.append(
            np.stack(
                [
                    s.span * (running & ~displaced),
                    s.span * displaced,
                    s.span * s.user * displaced,
                    s.allocs * self._costs.malloc_ns / side_by_side,
                    not_its / side_by_side,
                ]
            )
        )
        self._n += len(s.time)
        while self._n > _MOST_POINTS:
            self._join()

    def _count_free(self, s: _Stretch) -> None:
        window = self._windows(s.time)
        more = int(window[-1]) + 1 - self._free.shape[1]
        if more > 0:
            self._free = np.pad(self._free, ((0, 0), (0, max(more, self._free.shape[1]))))
        free = (s.system == 0) & (s.stopped <= 0) & (s.user > 0)
        base = int(window[0])
        for total, weights in zip(self._free, (s.span * free, s.span * s.user * free), strict=True):
            sums = np.bincount(window - base, weights=weights)
            total[base : base + len(sums)] += sums

    def _windows(self, time: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return (time - (self.first or 0)) // _WINDOW

    def _whole(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Return times and columns of all points, and keep them so."""
        self._times = [np.concatenate(self._times)]
        self._columns = [np.concatenate(self._columns, axis=1)]
        return self._times[0], self._columns[0]

    def _join(self) -> None:
        """Have one point stand for all of twice as long a time as before; the first stays by itself."""
        time, columns = self._whole()
        self._width *= 2
        group = (time - time[0]) // self._width
        group[0] = -1
        starts = np.flatnonzero(np.diff(group, prepend=-2))
        self._times = [time[np.append(starts[1:], len(time)) - 1]]
        self._columns = [np.add.reduceat(columns, starts, axis=1)]
        self._n = len(starts)

    def map(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return times, the program's own time at each, and of all windows how many Ps were busy."""
        time, (free, displaced, users, allocations, not_its) = self._whole()
        window = self._windows(time)
        busy = self._busy(int(window[-1]) + 1)
        user = users / np.maximum(displaced, 1.0)  # Ps, while others had those it wanted
        had = free + displaced * np.minimum(user / np.minimum(busy[window], self._procs), 1.0)
        least = np.cumsum(allocations)
        above = np.cumsum(had - not_its) - least
        return time, least + np.maximum.accumulate(np.maximum(above, 0.0)), busy

    def _busy(self, windows: int) -> npt.NDArray[np.float64]:
        """Return how many Ps were busy in each window: as in all, where too little of it shows that."""
        spans, used = self._free[:, :windows]
        mean = used.sum() / spans.sum() if spans.sum() else 1.0
        known = spans >= _ENOUGH * _WINDOW
        return np.maximum(np.where(known, used / np.maximum(spans, 1.0), mean), 1.0)
