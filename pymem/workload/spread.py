"""When objects died, as far as a recording can tell: some time before the mark that found them dead.

A recording dates deaths at the end of a mark. Were they left there, the heap would look as if all garbage of a cycle
lived until its end, and a collector that marks at another time would find none. But a mark finds dead what was dead
when it began (what becomes unreachable while it runs survives it), and how many of the objects of each age it finds
dead tells how long objects live. So each death is moved back:

    born since the mark before     to an age drawn from the lifetimes seen so far, below the age at which it was dead
    born while that mark ran       the same; but if that is before its end, to its end, since it survived it
    older                          anywhere between the two marks
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np

from pymem.workload.columns import Columns, Event
from pymem.workload.lifetimes import Lifetimes

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
    spreader = _Spreader()
    held: list[Columns] = []
    rows = 0
    for chunk in chunks:
        start = 0
        for end in np.flatnonzero(chunk.kind == Event.FLIP):
            held.append(chunk[start : end + 1])
            yield spreader.cycle(_join(held))
            held, rows, start = [], 0, int(end) + 1
        if start == len(chunk):
            continue
        held.append(chunk[start:])
        rows += len(chunk) - start
        if rows > _MOST_ROWS:
            whole = _join(held)
            spreader.pass_by(whole)
            yield whole
            held, rows = [], 0
    if held:
        yield spreader.cycle(_join(held))


def _join(parts: list[Columns]) -> Columns:
    if len(parts) == 1:
        return parts[0]
    return Columns(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Columns)})


class _Births:
    """Objects by handle: when they were born, in bytes allocated since the recording began."""

    def __init__(self, handles: npt.NDArray[np.uint64], born: npt.NDArray[np.float64]) -> None:
        order = np.argsort(handles, kind="stable")
        self._handles, self._born = handles[order], born[order]

    def of(self, handles: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
        """Return when they were born, the last one of a handle; NaN where it is not known here."""
        if not len(self._handles):
            return np.full(len(handles), np.nan)
        at = np.searchsorted(self._handles, handles, side="right") - 1
        found = (at >= 0) & (self._handles[np.maximum(at, 0)] == handles)
        return np.where(found, self._born[np.maximum(at, 0)], np.nan)


class _Spreader:
    """Moves deaths, a cycle at a time. Places are bytes allocated since the recording began."""

    def __init__(self) -> None:
        self._lifetimes = Lifetimes()
        self._allocated = 0.0
        self._during_mark = _Births(np.zeros(0, np.uint64), np.zeros(0))

    def pass_by(self, rows: Columns) -> None:
        """Leave rows as they are; what was born there counts as old."""
        self._allocated += float(_sizes(rows).sum())
        self._during_mark = _Births(np.zeros(0, np.uint64), np.zeros(0))

    def cycle(self, rows: Columns) -> Columns:
        """Move the deaths of one cycle. Its rows end with the flip that its mark led to."""
        places = self._allocated + np.cumsum(_sizes(rows))
        marks = np.flatnonzero(rows.kind == Event.SWEEP_DONE)
        begin = int(marks[-1]) if len(marks) else len(rows) - 1
        deaths = np.flatnonzero(rows.kind == Event.DEATH)
        born = np.flatnonzero(rows.kind == Event.ALLOC)
        early = born[born < begin]
        self._learn(rows, early, deaths, places[begin] - places[early])
        out = self._move(rows, deaths, places, begin) if len(deaths) else rows
        late = born[born >= begin]
        self._during_mark = _Births(rows.object[late], places[late])
        self._allocated = float(places[-1]) if len(rows) else self._allocated
        return out

    def _learn(
        self,
        rows: Columns,
        early: npt.NDArray[np.int64],
        deaths: npt.NDArray[np.int64],
        ages: npt.NDArray[np.float64],
    ) -> None:
        if len(deaths):
            self._lifetimes.learn(ages, np.isin(rows.object[early], rows.object[deaths]))

    def _move(
        self, rows: Columns, deaths: npt.NDArray[np.int64], places: npt.NDArray[np.float64], begin: int
    ) -> Columns:
        first = _first_of_program(rows)
        least = np.maximum(_last_row_of(rows, deaths), first)
        chance = ((np.arange(len(deaths)) + 1) * _GOLDEN) % 1.0
        at = places[first] + (places[begin] - places[first]) * chance
        died = _Births(rows.object[(b := rows.kind == Event.ALLOC)], places[b]).of(rows.object[deaths])
        died = np.where(np.isnan(died), self._during_mark.of(rows.object[deaths]), died)
        young = ~np.isnan(died) & (died <= places[begin])
        at[young] = died[young] + self._lifetimes.draw(places[begin] - died[young], chance[young])
        # The rows that allocate the same place have no order among them: spread, or all go to the last one.
        target = np.searchsorted(places, at, side="left").astype(np.float64)
        target = np.clip(target, least, np.maximum(deaths, least))
        return _moved(rows, deaths, target)


def _sizes(rows: Columns) -> npt.NDArray[np.float64]:
    return np.where(rows.kind == Event.ALLOC, rows.size, 0).astype(np.float64)


def _last_row_of(rows: Columns, deaths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return for each death the row of the object's birth; 0 for those that are older."""
    born = np.flatnonzero((rows.kind == Event.ALLOC) | (rows.kind == Event.START_OBJECT))
    return np.nan_to_num(_Births(rows.object[born], born.astype(np.float64)).of(rows.object[deaths])).astype(
        np.int64
    )


def _moved(rows: Columns, deaths: npt.NDArray[np.int64], target: npt.NDArray[np.float64]) -> Columns:
    """Return the rows with each death behind the row it is to follow."""
    keys = np.arange(len(rows), dtype=np.float64)
    keys[deaths] = np.minimum(target + 0.5, deaths)
    order = np.argsort(keys, kind="stable")
    times = rows.time.copy()
    times[deaths] = rows.time[np.minimum(target.astype(np.int64), deaths)]
    procs = rows.proc.copy()
    procs[deaths] = -1  # it is nobody's doing, and there may be no P yet
    moved = {f.name: getattr(rows, f.name)[order] for f in fields(Columns) if f.name not in {"time", "proc"}}
    return Columns(time=np.maximum.accumulate(times[order]), proc=procs[order], **moved)


def _first_of_program(rows: Columns) -> int:
    """Return the first row after the start heap, whose rows come in one piece."""
    start = np.flatnonzero(rows.kind == Event.START_DONE)
    return min(int(start[-1]) + 1, len(rows) - 1) if len(start) else 0
