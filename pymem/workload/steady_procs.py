"""A trace's rows with each goroutine on the P that it had, where only the recorded collector took it elsewhere.

A goroutine that waits for an assist, or stands still while the world does, goes on on whichever P wakes first. So in a
recording at GOGC=20 it changes its P once a cycle or so. In a rerun those cycles are not there, and each P that it has
been on would keep spans for it, of which all free slots count as heapLive: in a heap of a few MB every eighth byte. So
where a goroutine's last allocation before a recorded mark was on one P, and its first after the mark's beginning is on
another, the two are called by each other's numbers from there on. What else makes goroutines change their Ps stays.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pymem.workload.columns import Columns, Event

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]

__all__ = ["with_steady_procs"]

_WAKES = 1_000_000
"""ns after a mark in which whoever waited for it goes on."""
_MOST_KNOWN = 1 << 16
"""Goroutines whose last P is remembered; of more, those that allocated last. A trace may have millions."""


def with_steady_procs(chunks: Iterable[Columns], procs: int) -> Iterator[Columns]:
    """Yield the rows with the Ps of allocations renamed. procs: how many there are."""
    names = _Names(procs)
    for rows in chunks:
        yield names.renamed(rows)


class _Last(NamedTuple):
    """Where and when a goroutine allocated last."""

    proc: int
    """As recorded."""
    name: int
    """What that P was called then."""
    time: int


class _Move(NamedTuple):
    """A goroutine allocates on another P than before."""

    row: int
    """Among the rows that are allocations."""
    proc: int
    goroutine: int
    before: int
    """The row in which it allocated last; -1: in earlier rows."""


class _Names:
    """What each recorded P is called now, and where each goroutine allocated last."""

    def __init__(self, procs: int) -> None:
        self._name = np.arange(procs, dtype=np.int32)
        self._last: dict[int, _Last] = {}  # by goroutine
        self._begun = np.zeros(
            0, np.int64
        )  # times at which marks began: the last one's, and those of rows at hand
        self._ended = np.zeros(0, np.int64)

    def renamed(self, rows: Columns) -> Columns:
        """Take in rows, in order, and return them."""
        self._see_marks(rows)
        at = np.flatnonzero((rows.kind == Event.ALLOC) & (rows.proc >= 0) & (rows.proc < len(self._name)))
        if not len(at):
            return rows
        proc, goroutine, time = rows.proc[at], rows.goroutine[at].astype(np.int64), rows.time[at]
        order = np.argsort(goroutine, kind="stable")
        named = self._name[proc]
        for move in self._moves(proc, goroutine, order):
            last = self._before(move, proc, named, time)
            now = int(self._name[move.proc])
            if last.name != now and self._marked_between(last.time, int(time[move.row])):
                self._swap(last.name, now)
                named[move.row :] = self._name[proc[move.row :]]
        ends = np.append(np.flatnonzero(np.diff(goroutine[order])), len(order) - 1)
        for i in order[ends].tolist():
            self._last[int(goroutine[i])] = _Last(int(proc[i]), int(named[i]), int(time[i]))
        if len(self._last) > _MOST_KNOWN:
            latest = sorted(self._last.items(), key=lambda known: known[1].time)[-_MOST_KNOWN // 2 :]
            self._last = dict(latest)
        out = rows.proc.copy()
        out[at] = named
        return replace(rows, proc=out)

    def _see_marks(self, rows: Columns) -> None:
        begun, ended = (rows.time[rows.kind == kind] for kind in (Event.SWEEP_DONE, Event.FLIP))
        self._begun = np.concatenate([self._begun[-1:], begun])
        self._ended = np.concatenate([self._ended[-1:], ended])

    def _moves(self, proc: npt.NDArray[np.integer[Any]], goroutine: Ints, order: Ints) -> list[_Move]:
        """Return, in order, where goroutines have another P than when they allocated last."""
        first = np.append(True, np.diff(goroutine[order]) != 0)
        before = np.where(first, -1, np.append(-1, order[:-1]))
        was = proc[before]
        for i in np.flatnonzero(first).tolist():
            last = self._last.get(int(goroutine[order[i]]))
            was[i] = proc[order[i]] if last is None else last.proc
        moved = np.flatnonzero(was != proc[order])
        found = [
            _Move(int(order[i]), int(proc[order[i]]), int(goroutine[order[i]]), int(before[i])) for i in moved
        ]
        return sorted(found)

    def _before(
        self, move: _Move, proc: npt.NDArray[np.integer[Any]], named: npt.NDArray[np.integer[Any]], time: Ints
    ) -> _Last:
        i = move.before
        return self._last[move.goroutine] if i < 0 else _Last(int(proc[i]), int(named[i]), int(time[i]))

    def _marked_between(self, start: int, end: int) -> bool:
        """Whether a mark was under way at any time from start to end, or whoever waited for it just went on."""
        i = int(np.searchsorted(self._begun, end, side="right"))  # marks that had begun
        if i == 0:
            return False
        ends = self._ended[self._ended >= self._begun[i - 1]]
        return not len(ends) or int(ends[0]) + _WAKES >= start

    def _swap(self, one: int, other: int) -> None:
        a, b = np.flatnonzero(self._name == one), np.flatnonzero(self._name == other)
        self._name[a], self._name[b] = other, one
