"""An execution trace as a stream of rows: slot sizes, types, deaths to a GC cycle; memory does not grow with the trace.

The file is decoded three times, a tenth of a second for five million events each: once for what must be known first,
once for the rows, and once ahead of those, for what a cycle is about to free. Rows are made by `csrc/trace_rows.c`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pymem._arrays import pointer
from pymem._files import check_regular
from pymem._heap import ARENA_SIZE
from pymem._native import ffi, lib
from pymem.errors import TraceError
from pymem.sizeclasses import size_classes
from pymem.trace import EventBatch, EventKind, TraceInfo, TraceReader, TypeInfo
from pymem.workload.columns import DTYPES, Columns, Event
from pymem.workload.workload import WorkloadType

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from pymem.workload.calibration import Calibration

__all__ = ["KINDS", "MOST_PROCS", "TraceStream", "check_spans", "check_usable", "place_of_heap"]

_PAGE_SHIFT = 13
MOST_PROCS = 1 << 12
_STATS_REASON = "read mem stats"

KINDS = (
    EventKind.OBJECT_ALLOC, EventKind.OBJECT_FREE, EventKind.OBJECT, EventKind.SPAN_ALLOC, EventKind.SPAN_FREE,
    EventKind.SPAN, EventKind.GC_BEGIN, EventKind.GC_END, EventKind.STW_BEGIN, EventKind.STW_END, EventKind.SWEEP_BEGIN,
    EventKind.SWEEP_END, EventKind.PROCS_CHANGE,
)  # fmt: skip
"""Kinds of events that concern memory."""

_AHEAD = (EventKind.OBJECT_FREE, EventKind.SPAN_FREE, EventKind.GC_BEGIN, EventKind.GC_END)
_EVENTS = {
    "time": "int64_t", "a": "uint64_t", "b": "uint64_t", "g": "int64_t", "p": "int16_t", "c": "uint16_t",
    "kind": "uint8_t",
}  # fmt: skip
_ROWS = {
    "time": "int64_t", "kind": "uint8_t", "flags": "uint8_t", "proc": "int16_t", "goroutine": "uint32_t",
    "type": "uint32_t", "object": "uint64_t", "size": "uint64_t", "expect": "uint64_t",
}  # fmt: skip


def check_usable(path: str | os.PathLike[str], info: TraceInfo) -> None:
    """Raise `TraceError` for a trace, read to its end, that does not tell of its allocations."""
    if not info.has_allocations:
        raise TraceError(
            f"{path}: this trace has no allocation events: record it again with GODEBUG=traceallocfree=1 "
            "(`pymem record -- COMMAND` sets it; Go 1.23 or newer)"
        )
    if not info.counts[EventKind.SPAN] and not info.counts[EventKind.SPAN_ALLOC]:
        raise TraceError(f"{path}: this trace has no spans: its first generation is missing; record it again")


def check_spans(
    path: str | os.PathLike[str], batch: EventBatch, spans: npt.NDArray[np.bool_], first_row: int = 0
) -> None:
    """Raise `TraceError` for spans (a mask) without a class, its number of pages, or an address that Go uses."""
    table = size_classes()["pages"]
    a, b, c = batch.a[spans], batch.b[spans], batch.c[spans]
    size_class = c >> 2
    known = (c == 1) | ((c & 1 == 0) & (size_class < len(table)))
    want = table[np.minimum(size_class, len(table) - 1)]
    pages = np.where(size_class > 0, b == want, b > 0)
    placed = (a >= ARENA_SIZE) & (a < 1 << 47) & (a % (1 << _PAGE_SHIFT) == 0)
    bad = np.flatnonzero(~(known & pages & placed))
    if len(bad):
        i = int(bad[0])
        row = first_row + int(np.flatnonzero(spans)[i])
        raise TraceError(
            f"{path}: event {row:,}: a span of {b[i]:,} pages, kind and class {c[i]}, at {a[i]:#x} cannot be: "
            "the trace is damaged, record it again"
        )


def place_of_heap(lowest: int) -> tuple[int, int]:
    """Return (address of the first arena, pages below the lowest span ever): Go's heap base may be random."""
    arena = lowest & ~(ARENA_SIZE - 1)
    return arena, (lowest - arena) >> _PAGE_SHIFT


class _Survey(NamedTuple):
    """What must be known of a trace before its first row."""

    lowest: int
    """Address of the lowest span."""
    procs: int
    """The largest GOMAXPROCS."""
    types: tuple[TypeInfo, ...]
    stats_reason: int
    """Index of the reason of stops for ReadMemStats, 0: there is none."""
    amid: bool
    """It began amid a cycle."""
    info: TraceInfo


def _survey(path: str | os.PathLike[str]) -> _Survey:
    lowest, procs, row = 1 << 64, 1, 0
    first_turn: EventKind | None = None
    with TraceReader(path, kinds=KINDS) as reader:
        for batch in reader.batches():
            spans = (batch.kind == EventKind.SPAN) | (batch.kind == EventKind.SPAN_ALLOC)
            if spans.any():
                check_spans(path, batch, spans, row)
                lowest = min(lowest, int(batch.a[spans].min()))
            said = batch.a[batch.kind == EventKind.PROCS_CHANGE]
            procs = max(procs, int(said.max(initial=1)), int(batch.p.max()) + 1)
            turns = np.flatnonzero((batch.kind == EventKind.GC_BEGIN) | (batch.kind == EventKind.GC_END))
            if first_turn is None and len(turns):
                first_turn = EventKind(batch.kind[turns[0]])
            row += len(batch)
        check_usable(path, reader.info)
        strings = reader.strings
        reason = strings.index(_STATS_REASON) if _STATS_REASON in strings else 0
        survey = _Survey(lowest, procs, reader.types, reason, first_turn == EventKind.GC_END, reader.info)
    if procs > MOST_PROCS:
        raise TraceError(f"{path}: GOMAXPROCS of {procs:,} is more than the {MOST_PROCS:,} that are emulated")
    return survey


class TraceStream:
    """An execution trace whose rows are made as they are asked for; it replays like the `Workload` it would be.

    Its beginning, not its rows, is read when it is made. Memory: a chunk, a generation's tables of the trace, and some
    50 bytes for each object alive at once; the rows of the start heap are kept until all are there. Raises
    `TraceError` for a file that is no such trace, is damaged, or tells of no allocations.
    """

    tier = "trace"
    resolution = "cycle"
    recorded_stats: tuple[dict[str, Any], ...] = ()

    def __init__(self, path: str | os.PathLike[str]) -> None:
        check_regular(path, "a recording is read more than once: write it to a file, and give that")
        self.path = path
        self.calibrations: dict[Any, Calibration] = {}  # kept by `calibrate`
        self._survey = survey = _survey(path)
        self.procs = survey.procs
        self.types = tuple(WorkloadType(t.name, t.size, t.ptrdata) for t in survey.types)
        self.arena_base, self.padding_pages = place_of_heap(survey.lowest)
        self.origin = {"file": str(path), "go": survey.info.go}

    def __len__(self) -> int:
        """Return how many rows there are at most; hardly any trace has fewer by a tenth."""
        n = self._survey.info.counts
        once = (
            EventKind.OBJECT_ALLOC, EventKind.OBJECT_FREE, EventKind.OBJECT, EventKind.SPAN_ALLOC,
            EventKind.SPAN_FREE, EventKind.SPAN, EventKind.GC_BEGIN,
        )  # fmt: skip
        flushes = n[EventKind.GC_END] + (n[EventKind.STW_BEGIN] if self._survey.stats_reason else 0)
        return sum(n[kind] for kind in once) + 3 * n[EventKind.GC_END] + (flushes + 1) * self.procs + 1

    def chunks(self, size: int = 1 << 17) -> Iterator[Columns]:
        """Yield the rows, `size` at a time (a few where the start heap ends; never fewer than an event may need)."""
        early: tuple[list[Columns], ...] = ([], [], [])
        rows = self._rows(max(size, lib.TRACE_ROWS_AN_EVENT + 2 * self.procs))
        for chunk in rows:
            if chunk.kind[0] == Event.START_DONE:
                spans, objects, others = early  # sweepers may be at work while the snapshot is written
                for parts in (spans, objects, [chunk[:1]], others):
                    yield from parts
                    parts.clear()
                if len(chunk) > 1:
                    yield chunk[1:]
                break
            for parts, part in zip(early, _start_order(chunk), strict=True):
                parts.extend([part] if len(part) else [])
        yield from rows

    def _rows(self, size: int) -> Iterator[Columns]:
        """Yield the rows; those before START_DONE, which begins a chunk, in the order of their events."""
        with (
            TraceReader(self.path, kinds=KINDS) as reader,
            _Ahead(self.path) as ahead,
            _Converter(self.procs, self._survey.stats_reason, size) as converter,
        ):
            for batch in reader.batches():
                events = _Events(batch)
                while (stop := converter.run(events)) != lib.TRACE_ROWS_USED:
                    if stop == lib.TRACE_ROWS_CYCLE:
                        yield from _deaths(converter, ahead)
                    else:
                        yield from converter.take()
                    if stop == lib.TRACE_ROWS_START:
                        converter.start(self._survey.amid)
            if not converter.started:
                yield from converter.take()
                converter.start(self._survey.amid)
            yield from converter.take()


def _start_order(rows: Columns) -> tuple[Columns, Columns, Columns]:
    """Part what is told before the program runs: processors and spans, their objects, all else."""
    spans = (rows.kind == Event.PROC_NEW) | (rows.kind == Event.START_SPAN)
    objects = rows.kind == Event.START_OBJECT
    return rows.where(spans), rows.where(objects), rows.where(~(spans | objects))


def _deaths(converter: _Converter, ahead: _Ahead) -> Iterator[Columns]:
    """Yield the deaths that the cycle which ends here found, and let the converter go on."""
    frees = 0
    for events, sweeping in ahead.cycle():
        frees += sweeping
        while not converter.dead(events):
            yield from converter.take()
    converter.cycle(frees)


class _Events:
    """Events of the trace as the core takes them, and how far they are used."""

    def __init__(self, batch: EventBatch, start: int = 0, end: int | None = None) -> None:
        self.columns = ffi.new("trace_columns *")
        self._keep = [pointer(ctype, getattr(batch, name)) for name, ctype in _EVENTS.items()]
        for name, buffer in zip(_EVENTS, self._keep, strict=True):
            setattr(self.columns, name, buffer)
        self.n = len(batch) if end is None else end
        self.at = ffi.new("uint64_t *", start)


class _Converter:
    """The core's converter and the chunk that it fills."""

    def __init__(self, procs: int, stats_reason: int, size: int, faults: Any = ffi.NULL) -> None:
        self._size = size
        self._out = ffi.new("trace_rows_out *")
        self._stop = ffi.new("int *")
        self.started = False
        out = ffi.new("trace_rows **")
        _check(lib.trace_rows_new(procs, stats_reason, faults, out))
        self._rows = out[0]
        self._new_chunk()

    def __enter__(self) -> _Converter:
        return self

    def __exit__(self, *_: object) -> None:
        rows, self._rows = self._rows, ffi.NULL
        lib.trace_rows_free(rows)

    def _new_chunk(self) -> None:
        self._arrays = {name: np.empty(self._size, dtype) for name, dtype in DTYPES.items()}
        self._keep = [pointer(ctype, self._arrays[name]) for name, ctype in _ROWS.items()]
        for name, buffer in zip(_ROWS, self._keep, strict=True):
            setattr(self._out, name, buffer)
        self._out.n, self._out.capacity = 0, self._size

    def take(self) -> Iterator[Columns]:
        """Yield the rows so far, if there are any, and begin a new chunk."""
        if self._out.n:
            rows = Columns(**{name: array[: self._out.n] for name, array in self._arrays.items()})
            self._new_chunk()
            yield rows

    def run(self, events: _Events) -> int:
        """Convert on from where the events are used to; returns why it stopped, a TRACE_ROWS_*."""
        _check(lib.trace_rows_run(self._rows, events.columns, events.n, events.at, self._out, self._stop))
        return int(self._stop[0])

    def start(self, amid: bool) -> None:
        """Say that the start heap is complete, and whether that is amid a cycle. The chunk is a new one."""
        self.started = True
        lib.trace_rows_started(self._rows, amid, self._out)

    def dead(self, events: _Events) -> bool:
        """Tell the deaths among the events; returns False where the chunk was full before."""
        _check(lib.trace_rows_dead(self._rows, events.columns, events.n, events.at, self._out))
        return bool(events.at[0] == events.n)

    def cycle(self, frees: int) -> None:
        """Go on after a GC_END: its sweep is finished with so many frees."""
        lib.trace_rows_cycle(self._rows, frees)


def _check(status: int) -> None:
    if status:
        raise MemoryError("no memory left for the trace's living objects")


class _Ahead:
    """The trace's frees once more, a cycle ahead of its rows."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._reader = TraceReader(path, kinds=_AHEAD)
        self._batches = self._reader.batches()
        self._batch: EventBatch | None = None
        self._at = 0
        self._begun = False

    def __enter__(self) -> _Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def cycle(self) -> Iterator[tuple[_Events, int]]:
        """Yield the frees from the next GC_END to the one after it, each with how many come before a cycle begins."""
        if not self._begun:  # what comes before the first GC_END was freed by a cycle before the recording
            self._begun = True
            for _ in self._to_gc_end():
                pass
        swept = False
        for batch, start, end in self._to_gc_end():
            begins = np.flatnonzero(batch.kind[start:end] == EventKind.GC_BEGIN)
            frees = 0 if swept else int(begins[0]) if len(begins) else end - start
            swept = swept or len(begins) > 0
            yield _Events(batch, start, end), frees

    def _to_gc_end(self) -> Iterator[tuple[EventBatch, int, int]]:
        """Yield what comes up to the next GC_END, as stretches of batches, and go behind it."""
        while True:
            if self._batch is None or self._at == len(self._batch):
                self._batch, self._at = next(self._batches, None), 0
                if self._batch is None:
                    return
            start, batch = self._at, self._batch
            ends = np.flatnonzero(batch.kind[start:] == EventKind.GC_END)
            end = start + int(ends[0]) if len(ends) else len(batch)
            self._at = end + 1 if len(ends) else end
            yield batch, start, end
            if len(ends):
                return
