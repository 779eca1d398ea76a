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

    Ints = npt.NDArray[np.int64]

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
            rows, start = 0, int(end) + 1
            yield spreader.cycle(_joined(held))
        if start == len(chunk):
            continue
        held.append(chunk[start:])
        rows += len(chunk) - start
        if rows > _MOST_ROWS:
            rows = 0
            yield spreader.pass_by(_joined(held))
    if held:
        yield spreader.cycle(_joined(held))


def _joined(parts: list[Columns]) -> Columns:
    """Return the rows held as one, and hold them no longer."""
    whole = parts[0]
    if len(parts) > 1:
        whole = Columns(
            **{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Columns)}
        )
    parts.clear()
    return whole


class _Births:
    """When and where each object was born, by its handle; of a handle given again, the last time."""

    def __init__(self) -> None:
        self._place = np.zeros(0)  # bytes allocated since the recording began; NaN: before it
        self._row = np.zeros(0, np.int64)  # counted since it began, -1: never
        self._dead = np.zeros(0, bool)  # all False between calls

    def learn(self, handles: npt.NDArray[np.uint64], places: npt.NDArray[np.float64], rows: Ints) -> None:
        """Take in births, in order."""
        self._grow(int(handles.max(initial=0)) + 1)
        self._place[handles], self._row[handles] = places, rows

    def of(self, handles: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.float64], Ints]:
        """Return places and rows."""
        self._grow(int(handles.max(initial=0)) + 1)
        return self._place[handles], self._row[handles]

    def among(self, handles: npt.NDArray[np.uint64], dead: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Say which handles are among those of the dead."""
        self._grow(max(int(handles.max(initial=0)), int(dead.max(initial=0))) + 1)
        self._dead[dead] = True
        out = self._dead[handles]
        self._dead[dead] = False
        return out

    def _grow(self, n: int) -> None:
        more = max(n, 2 * len(self._row)) - len(self._row)
        if n > len(self._row):
            self._place = np.concatenate([self._place, np.full(more, np.nan)])
            self._row = np.concatenate([self._row, np.full(more, -1)])
            self._dead = np.concatenate([self._dead, np.zeros(more, bool)])


class _Spreader:
    """Moves deaths, a cycle at a time. Places are bytes allocated since the recording began."""

    def __init__(self) -> None:
        self._lifetimes = Lifetimes()
        self._births = _Births()
        self._allocated = 0.0
        self._rows = 0  # so far
        self._young_from = (
            0  # the row from which on objects count as born since the mark before, or during it
        )

    def pass_by(self, rows: Columns) -> Columns:
        """Leave rows as they are; what was born there counts as old."""
        self._allocated += float(_sizes(rows).sum())
        self._rows += len(rows)
        self._young_from = self._rows
        return rows

    def cycle(self, rows: Columns) -> Columns:
        """Move the deaths of one cycle. Its rows end with the flip that its mark led to."""
        places = self._allocated + np.cumsum(_sizes(rows))
        marks = np.flatnonzero(rows.kind == Event.SWEEP_DONE)
        begin = int(marks[-1]) if len(marks) else len(rows) - 1
        deaths = np.flatnonzero(rows.kind == Event.DEATH)
        born = np.flatnonzero(rows.kind == Event.ALLOC)
        self._learn(rows, born[: np.searchsorted(born, begin)], deaths, places, begin)
        self._remember(rows, born, places)
        out = self._move(rows, deaths, places, begin) if len(deaths) else rows
        self._young_from = self._rows + begin
        self._rows += len(rows)
        self._allocated = float(places[-1]) if len(rows) else self._allocated
        return out

    def _learn(
        self, rows: Columns, early: Ints, deaths: Ints, places: npt.NDArray[np.float64], begin: int
    ) -> None:
        if len(deaths):
            dead = self._births.among(rows.object[early], rows.object[deaths])
            self._lifetimes.learn(places[begin] - places[early], dead)

    def _remember(self, rows: Columns, born: Ints, places: npt.NDArray[np.float64]) -> None:
        start = np.flatnonzero(rows.kind == Event.START_OBJECT)
        self._births.learn(rows.object[start], np.full(len(start), np.nan), self._rows + start)
        self._births.learn(rows.object[born], places[born], self._rows + born)

    def _move(self, rows: Columns, deaths: Ints, places: npt.NDArray[np.float64], begin: int) -> Columns:
        first = _first_of_program(rows)
        born, row = self._births.of(rows.object[deaths])
        least = np.maximum(row - self._rows, first)
        chance = ((np.arange(len(deaths)) + 1) * _GOLDEN) % 1.0
        at = places[first] + (places[begin] - places[first]) * chance
        young = (row >= self._young_from) & (born <= places[begin])  # NaN is not
        at[young] = born[young] + self._lifetimes.draw(places[begin] - born[young], chance[young])
        # The rows that allocate the same place have no order among them: spread, or all go to the last one.
        target = np.clip(np.searchsorted(places, at, side="left"), least, np.maximum(deaths, least))
        return _moved(rows, deaths, target)


def _sizes(rows: Columns) -> npt.NDArray[np.float64]:
    return np.where(rows.kind == Event.ALLOC, rows.size, 0).astype(np.float64)


def _moved(rows: Columns, deaths: Ints, target: Ints) -> Columns:
    """Return the rows with each death behind the row it is to follow, or where it is, if that is earlier."""
    times = rows.time.copy()
    times[deaths] = rows.time[np.minimum(target, deaths)]
    procs = rows.proc.copy()
    procs[deaths] = -1  # it is nobody's doing, and there may be no P yet
    order = _order(len(rows), deaths, target)
    moved = {f.name: getattr(rows, f.name)[order] for f in fields(Columns) if f.name not in {"time", "proc"}}
    return Columns(time=np.maximum.accumulate(times[order]), proc=procs[order], **moved)


def _order(n: int, deaths: Ints, target: Ints) -> Ints:
    """Return which row comes where: sorting is of deaths alone, the others keep their order.

    A death's key is twice its target and 1, or twice its own row: behind the one, or in place of the other. Deaths of
    one key keep their order too, for their numbers are in what is sorted.
    """
    key = np.minimum(2 * target + 1, 2 * deaths)
    key, number = np.divmod(np.sort(key * len(deaths) + np.arange(len(deaths))), len(deaths))
    others = np.ones(n, bool)
    others[deaths] = False
    before = np.concatenate([[0], np.cumsum(others)])  # how many others there are before each row
    place = np.arange(len(deaths)) + before[(key + 1) // 2]
    order = np.empty(n, np.int64)
    rest = np.ones(n, bool)
    rest[place] = False
    order[place], order[rest] = deaths[number], np.flatnonzero(others)
    return order


def _first_of_program(rows: Columns) -> int:
    """Return the first row after the start heap, whose rows come in one piece."""
    start = np.flatnonzero(rows.kind == Event.START_DONE)
    return min(int(start[-1]) + 1, len(rows) - 1) if len(start) else 0
