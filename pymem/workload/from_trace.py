"""An execution trace becomes a workload: slot sizes, types, deaths to a GC cycle.

The trace names objects by address; here each gets a handle. What a trace cannot say is decided once, here: an object
has the size of its slot; deaths are dated at the end of the mark that found them; a concurrent sweep is finished where
the trace shows its last effect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pymem.errors import TraceError
from pymem.sizeclasses import size_classes
from pymem.trace import EventKind, Trace, read_trace
from pymem.workload.columns import Event
from pymem.workload.rows import Rows, latest
from pymem.workload.workload import Workload, WorkloadType

if TYPE_CHECKING:
    import os

    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]
    Array = npt.NDArray[Any]

__all__ = ["heap_base", "read_object_trace", "workload_from_trace"]

_ARENA = 64 << 20
_PAGE_SHIFT = 13
_TINY_SPAN_CLASS = 5
_HEADER, _HEADER_MIN = 8, 512
_STACK = 1
_MAX_PROCS = 4096
_KINDS = (
    EventKind.OBJECT_ALLOC, EventKind.OBJECT_FREE, EventKind.OBJECT, EventKind.SPAN_ALLOC, EventKind.SPAN_FREE,
    EventKind.SPAN, EventKind.GC_BEGIN, EventKind.GC_END, EventKind.STW_BEGIN, EventKind.STW_END, EventKind.SWEEP_BEGIN,
    EventKind.SWEEP_END, EventKind.PROCS_CHANGE,
)  # fmt: skip


def read_object_trace(path: str | os.PathLike[str]) -> Trace:
    """Read what concerns memory from an execution trace. Raises `TraceError` for one without allocation events."""
    trace = read_trace(path, kinds=_KINDS)
    if not trace.info.has_allocations:
        raise TraceError(
            f"{path}: this trace has no allocation events: record it again with GODEBUG=traceallocfree=1 "
            "(`pymem record -- COMMAND` sets it; Go 1.23 or newer)"
        )
    spans = (trace.kind == EventKind.SPAN) | (trace.kind == EventKind.SPAN_ALLOC)
    if not np.any(spans):
        raise TraceError(f"{path}: this trace has no spans: its first generation is missing; record it again")
    bad = np.flatnonzero(spans & ~_possible(trace))
    if len(bad):
        row = int(bad[0])
        raise TraceError(
            f"{path}: event {row:,}: a span of {trace.b[row]:,} pages, kind and class {trace.c[row]}, at "
            f"{trace.a[row]:#x} cannot be: the trace is damaged, record it again"
        )
    return trace


def _possible(trace: Trace) -> npt.NDArray[np.bool_]:
    """Tell which rows, taken as spans, have a class, its number of pages, and an address that Go uses."""
    table = size_classes()["pages"]
    size_class = trace.c >> 2
    known = (trace.c == 1) | ((trace.c & 1 == 0) & (size_class < len(table)))
    want = table[np.minimum(size_class, len(table) - 1)]
    pages = np.where(size_class > 0, trace.b == want, trace.b > 0)
    placed = (trace.a >= _ARENA) & (trace.a < 1 << 47) & (trace.a % (1 << _PAGE_SHIFT) == 0)
    possible: npt.NDArray[np.bool_] = known & pages & placed
    return possible


def heap_base(trace: Trace) -> tuple[int, int]:
    """Return (address of the first arena, pages below the lowest span ever seen): Go's heap base may be random."""
    spans = (trace.kind == EventKind.SPAN) | (trace.kind == EventKind.SPAN_ALLOC)
    lowest = int(trace.a[spans].min())
    arena = lowest & ~(_ARENA - 1)
    return arena, (lowest - arena) >> _PAGE_SHIFT


def procs_of(trace: Trace) -> int:
    """Return the largest GOMAXPROCS of the trace. Raises `TraceError` for one that no machine has."""
    said = trace.a[trace.kind == EventKind.PROCS_CHANGE]
    procs = int(max(said.max(initial=1), trace.p.max(initial=0) + 1))
    if procs > _MAX_PROCS:
        raise TraceError(f"the trace speaks of {procs:,} processors: it is damaged, record it again")
    return procs


def workload_from_trace(path: str | os.PathLike[str]) -> Workload:
    """Return an execution trace as a workload of tier `trace`."""
    trace = read_object_trace(path)
    arena, padding = heap_base(trace)
    procs = procs_of(trace)
    return Workload(
        columns=_Converter(trace, procs).rows.columns(),
        types=tuple(WorkloadType(t.name, t.size, t.ptrdata) for t in trace.types),
        tier="trace",
        resolution="cycle",
        procs=procs,
        arena_base=arena,
        padding_pages=padding,
        origin={"file": str(path), "go": f"1.{trace.info.version} trace format"},
    )


class _Objects(NamedTuple):
    """Objects of the trace, column by column."""

    at: Ints
    slot: Ints
    size: Ints
    header: Ints
    noscan: Ints
    started: Array

    def where(self, mask: Array) -> _Objects:
        return _Objects(*(column[mask] for column in self))


class _Converter:
    def __init__(self, trace: Trace, procs: int) -> None:
        self.trace, self.procs = trace, procs
        self.n = len(trace)
        self.rows = Rows(trace.time, np.clip(trace.p, -1, procs - 1), np.maximum(trace.g, 0))
        if procs == 1:
            self.rows = Rows(trace.time, np.zeros(self.n, np.int64), np.maximum(trace.g, 0))
        self.stops = self.at(EventKind.STW_BEGIN)
        self._start()
        self._objects()
        self._manual_spans()
        self._cycles()

    def at(self, *kinds: EventKind) -> Ints:
        return np.flatnonzero(np.isin(self.trace.kind, kinds))

    # ---- the start heap ----

    def _start(self) -> None:
        spans = self.at(EventKind.SPAN)
        spans = spans[spans < self._start_end()]
        manual = (self.trace.c[spans] & 1).astype(np.int64)
        self.start_spans, self.handles = spans, len(spans)
        zero = np.zeros(self.procs, np.int64)
        self.rows.add(Event.PROC_NEW, zero, rank=-4, proc=zero - 1)
        self.rows.add(
            Event.START_SPAN, np.zeros_like(spans), rank=-3, source=spans, proc=np.full_like(spans, -1),
            object=np.arange(len(spans)), size=self.trace.b[spans], type=manual, expect=self.trace.a[spans],
            flags=np.where(manual, 0, self.trace.c[spans] >> 1),
        )  # fmt: skip
        first = np.zeros(
            1, np.int64
        )  # sweepers may give back what the snapshot has no more before it is complete
        self.rows.add(Event.START_DONE, first, rank=-1, proc=first - 1)

    def _start_end(self) -> int:
        """Return where the snapshot ends: it is taken with the world stopped, so where the world goes on."""
        ends = self.at(EventKind.STW_END, EventKind.OBJECT_ALLOC)
        return int(ends[0]) if len(ends) else self.n

    # ---- objects ----

    def _span_of(self, at: Ints) -> tuple[Array, Array]:
        """Span class and pages of the span that each object lies in, by the record, -1 for none."""
        spans = self.at(EventKind.SPAN, EventKind.SPAN_ALLOC)
        small = self.trace.c[spans] > 2  # what is in a larger span begins in its first page
        pages = np.where(small, self.trace.b[spans], 1).astype(np.int64)
        owner = np.repeat(np.arange(len(spans)), pages)
        offset = np.arange(len(owner)) - np.repeat(np.cumsum(pages) - pages, pages)
        page = (self.trace.a[spans] >> np.uint64(_PAGE_SHIFT)).astype(np.int64)[owner] + offset
        found = latest(page, spans[owner], (self.trace.a[at] >> np.uint64(_PAGE_SHIFT)).astype(np.int64), at)
        span = owner[np.maximum(found, 0)] if len(owner) else np.zeros(len(at), np.int64)
        code = self.trace.c[spans].astype(np.int64)[span] if len(spans) else np.zeros(len(at), np.int64)
        good = (found >= 0) & ((code & 1) == 0)
        return np.where(good, code >> 1, -1), pages[span] if len(spans) else np.zeros(len(at), np.int64)

    def _objects(self) -> None:
        born = self.at(EventKind.OBJECT, EventKind.OBJECT_ALLOC)
        span_class, pages = self._span_of(born)
        born, pages, span_class = born[span_class >= 0], pages[span_class >= 0], span_class[span_class >= 0]
        slot_size = size_classes()["size"].astype(np.int64)[span_class >> 1]
        size = np.where(span_class < 2, pages << _PAGE_SHIFT, slot_size)
        header = (span_class > 1) & ((span_class & 1) == 0) & (size > _HEADER_MIN)
        started = (self.trace.kind[born] == EventKind.OBJECT) & (born < self._start_end())
        address = self.trace.a[born].astype(np.int64)
        slot = np.where(
            header & (self.trace.kind[born] == EventKind.OBJECT_ALLOC), address - _HEADER, address
        )
        slot = np.where(span_class == _TINY_SPAN_CLASS, slot & ~15, slot)
        joins = self._joins(born, slot, span_class == _TINY_SPAN_CLASS)
        first = ~joins & (started | (self.trace.kind[born] == EventKind.OBJECT_ALLOC))
        objects = _Objects(
            born, slot, size - header * _HEADER, header * _HEADER, span_class & 1, started
        ).where(first)
        handle = self.handles + np.arange(len(objects.at))
        self.handles += len(handle)
        self._births(objects, handle)
        self.rows.add(Event.TINY, born[joins])
        self._deaths(objects.slot, objects.at, handle)

    def _births(self, objects: _Objects, handle: Ints) -> None:
        old, new = objects.where(objects.started), objects.where(~objects.started)
        start = np.zeros_like(old.at)
        self.rows.add(
            Event.START_OBJECT, start, rank=-2, source=old.at, proc=start - 1, object=handle[objects.started],
            type=self.trace.b[old.at], expect=old.slot,
        )  # fmt: skip
        self.rows.add(
            Event.ALLOC, new.at, object=handle[~objects.started], type=self.trace.b[new.at], flags=new.noscan,
            size=new.size, expect=new.slot + new.header,
        )  # fmt: skip

    def _joins(self, born: Ints, block: Ints, tiny: Array) -> Array:
        """Tell the objects that join a tiny block: the block was handed out since the caches were last flushed."""
        flushes = np.sort(np.concatenate([self.at(EventKind.GC_END), self._stats_stops()]))
        epoch = np.searchsorted(flushes, born)
        index = np.flatnonzero(tiny)
        order = np.lexsort((born[index], epoch[index], block[index]))
        index = index[order]
        again = np.zeros(len(born), bool)
        same = (block[index[1:]] == block[index[:-1]]) & (epoch[index[1:]] == epoch[index[:-1]])
        again[index[1:][same]] = True
        return again

    def _deaths(self, slot: Ints, born: Ints, handle: Ints) -> None:
        freed, marks = self.at(EventKind.OBJECT_FREE), self.at(EventKind.GC_END)
        cycle = np.searchsorted(marks, freed) - 1
        at = np.where(cycle >= 0, marks[np.maximum(cycle, 0)] if len(marks) else 0, freed)
        who = latest(slot, born, self.trace.a[freed].astype(np.int64), at)
        known = _first_of_each(who)
        self.rows.add(Event.DEATH, at[known], rank=0, flags=1, object=handle[who[known]])

    # ---- stacks, collector ----

    def _manual_spans(self) -> None:
        born = self.at(EventKind.SPAN_ALLOC)
        born = born[(self.trace.c[born] & 1) == 1]
        handle = self.handles + np.arange(len(born))
        self.handles += len(born)
        self.rows.add(
            Event.MANUAL_ALLOC,
            born,
            object=handle,
            size=self.trace.b[born],
            flags=_STACK,
            expect=self.trace.a[born],
        )
        start = self.start_spans[(self.trace.c[self.start_spans] & 1) == 1]
        start_handle = np.flatnonzero((self.trace.c[self.start_spans] & 1) == 1)
        base = np.concatenate([self.trace.a[start], self.trace.a[born]]).astype(np.int64)
        freed = self.at(EventKind.SPAN_FREE)
        spans = np.concatenate([start, born])
        # a span of objects at the same place since then means that the manual one went unseen: only the latest counts
        every = self.at(EventKind.SPAN, EventKind.SPAN_ALLOC)
        newest = latest(
            self.trace.a[every].astype(np.int64), every, self.trace.a[freed].astype(np.int64), freed
        )
        who = latest(base, spans, self.trace.a[freed].astype(np.int64), freed)
        good = (who >= 0) & (newest >= 0)
        if len(every) and len(spans):
            good &= every[np.maximum(newest, 0)] == spans[np.maximum(who, 0)]
        good[good] = _first_of_each(who[good])
        handles = np.concatenate([start_handle, handle])
        self.rows.add(Event.MANUAL_FREE, freed[good], object=handles[who[good]])

    def _stats_stops(self) -> Ints:
        reasons = np.array([r == "read mem stats" for r in self.trace.strings], bool)
        stops: Ints = self.stops[reasons[self.trace.b[self.stops].astype(np.int64)]]
        return stops

    def _flush_all(self, at: Ints, rank: int) -> None:
        for p in range(self.procs):
            self.rows.add(Event.FLUSH, at, rank=rank, object=p)

    def _cycles(self) -> None:
        begin, end = self.at(EventKind.GC_BEGIN), self.at(EventKind.GC_END)
        if len(end) and (not len(begin) or end[0] < begin[0]):  # the trace began amid a cycle
            begin = np.insert(begin, 0, self._start_end())
        self.rows.add(Event.SWEEP_DONE, begin)
        self.rows.add(Event.FLIP, end, rank=1)
        self._flush_all(end, 2)
        start = np.searchsorted(begin, end) - 1
        forced = self.trace.c[begin[np.maximum(start, 0)]] & 1 if len(begin) else 0
        self.rows.add(Event.GC_END, end, rank=3, flags=forced)
        self._flush_all(self._stats_stops(), 1)
        # the last thing that a sweep is seen to do before the next cycle begins
        seen = self.at(EventKind.OBJECT_FREE, EventKind.SPAN_FREE, EventKind.GC_END)
        stop = np.append(begin, self.n)[np.searchsorted(begin, end)]
        last = seen[np.maximum(np.searchsorted(seen, stop) - 1, 0)] if len(seen) else end
        asked = np.broadcast_to(forced, end.shape) == 1
        self.rows.add(Event.SWEEP_ALL, np.where(asked, end, np.maximum(last, end)), rank=4)


def _first_of_each(who: Ints) -> Array:
    """Tell the first mention of each; -1 is nobody. A second one means that a birth in between went unseen."""
    first = np.zeros(len(who), bool)
    first[np.unique(who, return_index=True)[1]] = True
    return first & (who >= 0)
