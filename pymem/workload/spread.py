"""When objects died, as far as a recording can tell: some time before the mark that found them dead.

A recording dates deaths at the end of a mark. Were they left there, the heap would look as if all garbage of a cycle
lived until its end, and a collector that marks at another time would find none. So each death is moved to somewhere
between the object's birth (or the mark before, for those that it left alive) and the mark that found it dead. Where is
not known; spreading deaths evenly is right on average.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np

from pymem.workload.columns import Columns, Event

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy.typing as npt

__all__ = ["spread_deaths"]

_GOLDEN = (5**0.5 - 1) / 2
"""Multiples of it, modulo 1, fill (0, 1) more evenly than chance does, and always the same way."""
_MOST_ROWS = 1 << 22
"""Rows held back for a cycle to end; in a longer one deaths are spread over the last so many."""


def spread_deaths(chunks: Iterable[Columns]) -> Iterator[Columns]:
    """Yield the rows with deaths moved between birth and mark, a cycle (or some millions of rows) at a time."""
    held: list[Columns] = []
    rows = 0
    for chunk in chunks:
        start = 0
        for end in np.flatnonzero(chunk.kind == Event.FLIP):
            held.append(chunk[start : end + 1])
            yield _spread(_join(held))
            held, rows, start = [], 0, int(end) + 1
        held.append(chunk[start:])
        rows += len(chunk) - start
        if rows > _MOST_ROWS:
            yield _join(held)
            held, rows = [], 0
    if held:
        yield _join(held)


def _join(parts: list[Columns]) -> Columns:
    if len(parts) == 1:
        return parts[0]
    return Columns(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Columns)})


def _spread(rows: Columns) -> Columns:
    """Move the deaths of one cycle. Its rows end with the flip that its mark led to."""
    deaths = np.flatnonzero(rows.kind == Event.DEATH)
    if not len(deaths):
        return rows
    first = _births(rows, deaths)
    share = ((np.arange(len(deaths)) + 1) * _GOLDEN) % 1.0
    places = first + (deaths - first) * share
    keys = np.arange(len(rows), dtype=np.float64)
    keys[deaths] = places + 0.5  # after the row it follows
    order = np.argsort(keys, kind="stable")
    times = rows.time.copy()
    times[deaths] = rows.time[places.astype(np.int64)]
    procs = rows.proc.copy()
    procs[deaths] = -1  # it is nobody's doing, and there may be no P yet
    moved = {f.name: getattr(rows, f.name)[order] for f in fields(Columns) if f.name not in {"time", "proc"}}
    return Columns(time=np.maximum.accumulate(times[order]), proc=procs[order], **moved)


def _births(rows: Columns, deaths: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return for each death the row of the object's birth; the first row for those that are older."""
    born = np.flatnonzero((rows.kind == Event.ALLOC) | (rows.kind == Event.START_OBJECT))
    names = rows.object[born]
    order = np.argsort(names, kind="stable")
    sorted_names = names[order]
    wanted = rows.object[deaths]
    at = np.searchsorted(sorted_names, wanted, side="right") - 1
    found = (
        (at >= 0) & (sorted_names[np.maximum(at, 0)] == wanted) if len(born) else np.zeros(len(deaths), bool)
    )
    birth = np.zeros(len(deaths))
    if len(born):
        birth[found] = born[order[at[found]]]
    return np.minimum(np.maximum(birth, _first_of_program(rows)), deaths)


def _first_of_program(rows: Columns) -> int:
    """Return the first row after the start heap, whose rows come in one piece."""
    start = np.flatnonzero(rows.kind == Event.START_DONE)
    return int(start[-1]) + 1 if len(start) else 0
