"""A trace's rows without what the tracer itself puts on the heap.

StartTrace makes two buffers for a CPU profile that may come, each 1 MB of words and 128 KB of labels: 2,359,296 bytes
that live as long as the trace does and that no rerun has. Go: traceStartReadCPU.

At the end of each generation a goroutine of the tracer's looks every stack up, and allocates for each: in a compiler's
trace every ninth byte. Go: traceStackTable.dump, makeTraceFrames. These are told by their types: nobody else has
runtime.traceFrame, and runtime.Frames count where the same goroutine makes the others.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np

from pymem.workload.columns import Columns, Event

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy.typing as npt

    from pymem.workload.workload import WorkloadType

__all__ = ["without_tracer"]

_WORDS_PAGES, _LABELS_PAGES = 128, 16
_EACH = 2


def without_tracer(chunks: Iterable[Columns], types: Sequence[WorkloadType]) -> Iterator[Columns]:
    """Yield the rows, but for the profile buffers of the start heap and their deaths."""
    chunks = iter(chunks)
    start = _start_heap(chunks)
    if start is None:
        return
    keep = np.ones(len(start), bool)
    buffers = _buffers(start, types)
    keep[buffers] = False
    keep[np.isin(start.expect, start.expect[buffers]) & (start.kind == Event.START_SPAN)] = False
    yield start.where(keep)
    lookups = _Lookups(types, set(start.object[buffers].tolist()))
    for rows in chunks:
        yield lookups.without(rows)


def _start_heap(chunks: Iterator[Columns]) -> Columns | None:
    """Return the chunks up to the one that ends the start heap, as one."""
    held: list[Columns] = []
    for rows in chunks:
        held.append(rows)
        if (rows.kind == Event.START_DONE).any():
            break
    if not held:
        return None
    return Columns(
        **{f.name: np.concatenate([getattr(part, f.name) for part in held]) for f in fields(Columns)}
    )


def _buffers(start: Columns, types: Sequence[WorkloadType]) -> npt.NDArray[np.int64]:
    """Return the rows of the buffers: objects of the right type, in spans of the right size, two of each."""
    labels = [i for i, t in enumerate(types) if t.name == "unsafe.Pointer"]
    found = []
    for pages, noscan, of in ((_WORDS_PAGES, 1, [0]), (_LABELS_PAGES, 0, labels)):
        span = (start.kind == Event.START_SPAN) & (start.size == pages) & (start.flags == noscan)
        object_ = (start.kind == Event.START_OBJECT) & np.isin(start.type, of)
        rows = np.flatnonzero(object_ & np.isin(start.expect, start.expect[span]))
        found += [rows] if len(rows) == _EACH else []
    return np.concatenate([np.zeros(0, np.int64), *found])


class _Lookups:
    """Takes out objects that stacks are looked up with, and the deaths of all that is taken out."""

    def __init__(self, types: Sequence[WorkloadType], dropped: set[int]) -> None:
        self._dropped = dropped  # handles; they may be given again after their deaths
        self._own = [i for i, t in enumerate(types) if t.name == "runtime.traceFrame"]
        self._shared = [i for i, t in enumerate(types) if t.name == "runtime.Frames"]
        self._tracers: set[int] = set()

    def without(self, rows: Columns) -> Columns:
        """Return the rows that are the program's; chunks come in order."""
        gone = np.zeros(len(rows), bool)
        if self._own:
            gone = self._allocations(rows)
        if not self._dropped and not gone.any():
            return rows
        self._deaths(rows, gone)
        return rows.where(~gone) if gone.any() else rows

    def _allocations(self, rows: Columns) -> npt.NDArray[np.bool_]:
        allocs = rows.kind == Event.ALLOC
        own: npt.NDArray[np.bool_] = allocs & np.isin(rows.type, self._own)
        self._tracers.update(np.unique(rows.goroutine[own]).tolist())
        self._tracers.discard(0)  # unknown: may be anybody
        if not self._shared or not self._tracers:
            return own
        by_tracer = np.isin(rows.goroutine, list(self._tracers))
        shared: npt.NDArray[np.bool_] = allocs & np.isin(rows.type, self._shared) & by_tracer
        return own | shared

    def _deaths(self, rows: Columns, gone: npt.NDArray[np.bool_]) -> None:
        """Mark the deaths of what has been taken out, in the order of the rows."""
        handles = np.union1d(rows.object[gone], np.fromiter(self._dropped, np.uint64, len(self._dropped)))
        deaths = (rows.kind == Event.DEATH) & np.isin(rows.object, handles)
        for i in np.flatnonzero(deaths | gone).tolist():
            handle = int(rows.object[i])
            if not deaths[i]:
                self._dropped.add(handle)
            elif handle in self._dropped:
                self._dropped.discard(handle)
                gone[i] = True
