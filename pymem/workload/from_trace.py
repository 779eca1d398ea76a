"""An execution trace as a whole: its events for `check`, or its rows as a workload."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pymem.errors import TraceError
from pymem.trace import EventKind, Trace, read_trace
from pymem.workload.columns import DTYPES, Columns
from pymem.workload.trace_stream import (
    KINDS,
    MOST_PROCS,
    TraceStream,
    check_spans,
    check_usable,
    place_of_heap,
)
from pymem.workload.workload import Workload

if TYPE_CHECKING:
    import os

    import numpy.typing as npt

__all__ = ["TraceStream", "heap_base", "procs_of", "read_object_trace", "workload_from_trace"]


def read_object_trace(path: str | os.PathLike[str]) -> Trace:
    """Read what concerns memory from an execution trace. Raises `TraceError` for one without allocation events."""
    trace = read_trace(path, kinds=(*KINDS, EventKind.HEAP_ALLOC))
    check_usable(path, trace.info)
    check_spans(path, trace, (trace.kind == EventKind.SPAN) | (trace.kind == EventKind.SPAN_ALLOC))
    return trace


def heap_base(trace: Trace) -> tuple[int, int]:
    """Return (address of the first arena, pages below the lowest span ever seen)."""
    spans = (trace.kind == EventKind.SPAN) | (trace.kind == EventKind.SPAN_ALLOC)
    return place_of_heap(int(trace.a[spans].min()))


def procs_of(trace: Trace) -> int:
    """Return the largest GOMAXPROCS of the trace. Raises `TraceError` for one that no machine has."""
    said = trace.a[trace.kind == EventKind.PROCS_CHANGE]
    procs = int(max(said.max(initial=1), trace.p.max(initial=0) + 1))
    if procs > MOST_PROCS:
        raise TraceError(f"the trace speaks of {procs:,} processors: it is damaged, record it again")
    return procs


def workload_from_trace(path: str | os.PathLike[str]) -> Workload:
    """Return an execution trace as a workload of tier `trace`: all rows of its stream, 44 bytes each."""
    stream = TraceStream(path)
    return Workload(
        columns=_collect(stream),
        types=stream.types,
        tier=stream.tier,
        resolution=stream.resolution,
        procs=stream.procs,
        arena_base=stream.arena_base,
        padding_pages=stream.padding_pages,
        origin=stream.origin,
    )


def _collect(source: TraceStream) -> Columns:
    """Put all rows of a stream whose length is known, or less than said, into columns made once."""
    columns: dict[str, npt.NDArray[Any]] = {
        name: np.empty(len(source), dtype) for name, dtype in DTYPES.items()
    }
    filled = 0
    for chunk in source.chunks():
        for name, column in columns.items():
            column[filled : filled + len(chunk)] = getattr(chunk, name)
        filled += len(chunk)
    return Columns(**{name: column[:filled] for name, column in columns.items()})
