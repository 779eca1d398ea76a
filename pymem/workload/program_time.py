"""The program's own time in an execution trace: what of the recorded time it would have needed by itself.

A recording slows a program down, and its collector takes processors from it. A rerun brings a collector of its own, so
first the recorded one's time comes off:

    the world stopped                                   nothing of it is the program's
    a goroutine of the runtime has a P the program wants  the share of the Ps that the program had
    a goroutine marks as an assist                      the same
    each event that the tracer wrote                    `Costs.trace_event_ns`, on the P that wrote it

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

_SLICE = 10e6
"""ns after which a goroutine is made to give way, if others wait."""
_EVERY = 512
"""Events between two points of the map, where nothing else asks for one."""
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
_LEAVES = (
    EventKind.GO_BLOCK, EventKind.GO_STOP, EventKind.GO_DESTROY, EventKind.GO_DESTROY_SYSCALL, EventKind.PROC_STOP,
)  # fmt: skip
_ENTERS = (EventKind.GO_START, EventKind.GO_SWITCH, EventKind.GO_SWITCH_DESTROY)
_STATE = np.full(256, -1, np.int8)
"""What a P does after an event: 0 nothing, 1 the program, 2 the runtime; 3 whichever the goroutine is; -1 as before."""
_STATE[list(_LEAVES)] = 0
_STATE[list(_ENTERS)] = 3
_STATE[[EventKind.ASSIST_BEGIN, EventKind.ASSIST_ACTIVE]] = 2
_STATE[EventKind.ASSIST_END] = 1


class ProgramTime(NamedTuple):
    """A map from recorded to the program's own time, piecewise linear, and how many Ps the program kept at work."""

    recorded: npt.NDArray[np.int64]
    """Points, ns, rising."""
    own: npt.NDArray[np.float64]
    """The program's own time at each, ns, never falling."""
    busy: float
    """Ps at work for the program while it was at work at all and nothing of the runtime stood in its way, on average."""
    slice_ns: float
    """For how long a goroutine of the program kept its P, on average."""
    mark_ns: int
    """P-time of marking, assists and all."""

    def at(self, time: int) -> float:
        """Return the program's own time at a recorded one."""
        i = bisect_right(self.recorded, time)
        if i == 0:
            return float(time - self.recorded[0]) if len(self.recorded) else float(time)
        if i == len(self.recorded):
            return float(self.own[-1])
        t0, t1 = int(self.recorded[i - 1]), int(self.recorded[i])
        return float(self.own[i - 1] + (self.own[i] - self.own[i - 1]) * ((time - t0) / (t1 - t0)))


class _Stretch(NamedTuple):
    """Between points, arrays: times at the ends, and what was the case and happened between."""

    time: npt.NDArray[np.int64]
    span: npt.NDArray[np.int64]
    """ns since the point before."""
    events: npt.NDArray[np.int64]
    allocs: npt.NDArray[np.int64]
    user: npt.NDArray[np.int64]
    """Ps that ran the program."""
    system: npt.NDArray[np.int64]
    """Ps that ran the runtime's own, or assists."""
    stopped: npt.NDArray[np.int64]
    marking: npt.NDArray[np.int64]
    leaves: npt.NDArray[np.int64]
    """Times that a goroutine of the program left its P."""


class _Survey:
    """Goes through a trace and finds who had which P when."""

    def __init__(self, procs: int) -> None:
        self._states = np.zeros(procs + 1, np.int8)  # of each P; the last is for those unknown
        self._system: set[int] = set()
        self._reasons: set[int] = set()
        self._stopped = self._marking = 0
        self._user = self._at_system = 0
        self._last = -1

    def stretches(self, batch: EventBatch, strings: Sequence[str]) -> _Stretch:
        self._learn(batch, strings)
        n = len(batch)
        user, system = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self._follow(batch, user, system)
        stops = (batch.kind == EventKind.STW_BEGIN).astype(np.int64) - (batch.kind == EventKind.STW_END)
        marks = (batch.kind == EventKind.GC_BEGIN).astype(np.int64) - (batch.kind == EventKind.GC_END)
        points = (user != 0) | (system != 0) | (stops != 0) | (marks != 0)
        points[_EVERY - 1 :: _EVERY] = True
        points[-1] = True
        at = np.flatnonzero(points)
        time = batch.time[at]
        first = int(batch.time[0]) if self._last < 0 else self._last
        allocs = np.cumsum(batch.kind == EventKind.OBJECT_ALLOC)[at]
        out = _Stretch(
            time,
            np.diff(time, prepend=first),
            np.diff(at + 1, prepend=0),
            np.diff(allocs, prepend=0),
            *(_before(np.cumsum(delta)[at] + was, was) for delta, was in
              ((user, self._user), (system, self._at_system), (stops, self._stopped), (marks, self._marking))),
            np.diff(np.cumsum(self._leaves(batch))[at], prepend=0),
        )  # fmt: skip
        self._user += int(user.sum())
        self._at_system += int(system.sum())
        self._stopped = max(0, self._stopped + int(stops.sum()))
        self._marking = max(0, self._marking + int(marks.sum()))
        self._last = int(time[-1])
        return out

    def _leaves(self, batch: EventBatch) -> npt.NDArray[np.bool_]:
        left = (batch.kind == EventKind.GO_BLOCK) | (batch.kind == EventKind.GO_STOP)
        left[left] = ~np.isin(batch.g[left], list(self._system))
        return left

    def _learn(self, batch: EventBatch, strings: Sequence[str]) -> None:
        """Find out which goroutines are the runtime's own."""
        self._reasons = {i for i, text in enumerate(strings) if text in _SYSTEM}
        blocks = batch.kind == EventKind.GO_BLOCK
        own = blocks & np.isin(batch.b, list(self._reasons))
        self._system |= set(np.unique(batch.g[own]).tolist())

    def _follow(self, batch: EventBatch, user: npt.NDArray[np.int64], system: npt.NDArray[np.int64]) -> None:
        """Write down by how much the numbers of Ps at work change at each event."""
        state = _STATE[batch.kind]
        rows = np.flatnonzero(state >= 0)
        state = state[rows]
        enters = state == 3
        of = np.isin(batch.a[rows], np.array(sorted(self._system), np.uint64))
        state[enters] = np.where(of[enters], 2, 1)
        procs = np.minimum(batch.p[rows], len(self._states) - 2)
        for p in np.unique(procs):
            mine = np.flatnonzero(procs == p)
            now = state[mine]
            before = np.concatenate([self._states[p : p + 1] if p >= 0 else self._states[-1:], now[:-1]])
            at = rows[mine]
            user[at] += (now == 1).astype(np.int64) - (before == 1)
            system[at] += (now == 2).astype(np.int64) - (before == 2)
            self._states[p] = now[-1]


def _before(after: npt.NDArray[np.int64], was: int) -> npt.NDArray[np.int64]:
    """Return what was the case in each stretch, from what is the case after it."""
    return np.concatenate([[was], after[:-1]])


def program_time(path: str | os.PathLike[str], *, procs: int, costs: Costs) -> ProgramTime:
    """Read a trace and return the program's own time in it. procs: its GOMAXPROCS."""
    survey, parts = _Survey(procs), []
    with TraceReader(path) as reader:
        for batch in reader.batches():
            parts.append(survey.stretches(batch, reader.strings))
    if not parts:
        return ProgramTime(np.zeros(0, np.int64), np.zeros(0), 1.0, _SLICE, 0)
    whole = _Stretch(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    busy = _busy(whole)
    own = _own(whole, procs, busy, costs)
    last = np.append(whole.time[1:] != whole.time[:-1], True)
    return ProgramTime(whole.time[last], own[last], busy, _slice(whole), _mark_ns(whole))


def _busy(s: _Stretch) -> float:
    free = (s.system == 0) & (s.stopped <= 0) & (s.user > 0)
    time = int(s.span[free].sum())
    return max(1.0, float((s.span * s.user)[free].sum()) / time) if time else 1.0


def _slice(s: _Stretch) -> float:
    return min(_SLICE, float((s.span * s.user).sum()) / max(int(s.leaves.sum()), 1))


def _mark_ns(s: _Stretch) -> int:
    return int((s.span * s.system)[(s.marking > 0) & (s.stopped <= 0)].sum())


def _own(s: _Stretch, procs: int, busy: float, costs: Costs) -> npt.NDArray[np.float64]:
    """Return the program's own time at the end of each stretch."""
    displaced = (s.system > 0) & (s.user + s.system >= procs)
    share = np.where(displaced, np.minimum(s.user / min(busy, procs), 1.0), 1.0)
    share[s.stopped > 0] = 0.0
    side_by_side = np.maximum(s.user, 1)
    least = np.cumsum(s.allocs * costs.malloc_ns / side_by_side)
    above = np.cumsum(s.span * share - s.events * costs.trace_event_ns / side_by_side) - least
    return least + np.maximum.accumulate(np.maximum(above, 0.0))
