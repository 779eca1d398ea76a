"""A trace's rows without what the tracer itself keeps on the heap.

StartTrace makes two buffers for a CPU profile that may come, each 1 MB of words and 128 KB of labels: 2,359,296 bytes
that live as long as the trace does and that no rerun has. Go: traceStartReadCPU.
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
    dropped = set(start.object[buffers].tolist())
    for rows in chunks:
        yield _without_deaths(rows, dropped) if dropped else rows


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


def _without_deaths(rows: Columns, dropped: set[int]) -> Columns:
    keep = np.ones(len(rows), bool)
    for i in np.flatnonzero((rows.kind == Event.DEATH) & np.isin(rows.object, list(dropped))):
        if int(rows.object[i]) in dropped:  # the handle may be given again afterwards
            dropped.discard(int(rows.object[i]))
            keep[i] = False
    return rows if keep.all() else rows.where(keep)
