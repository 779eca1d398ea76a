"""The address map over time: what lies where in the heap, at a few dozen moments of a recording.

The recording is replayed with its own collections. A moment keeps sums over cells of 2^n pages, never pages, so that a
heap of any size takes little room: when the heap outgrows the cells, neighbours are joined.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pymem.inspect import arena_map, spans
from pymem.replay import Player

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from pymem._heap import Heap
    from pymem.replay import EventSource

__all__ = ["CELLS", "STATES", "HeapMap", "heap_map"]

CELLS = 2048
"""Cells at most; at least half as many where the heap has so many pages."""
_MOMENTS = 64
_FIRST_STEP = 1 << 12
_CHUNK = 1 << 18
_PAGE = 8192

STATES = (
    "no heap",
    "given back to the system",
    "free",
    "stacks and the runtime's own",
    "objects, up to 25 % of the slots used",
    "objects, up to 50 % used",
    "objects, up to 75 % used",
    "objects, up to 95 % used",
    "objects, full",
)
"""What a cell may show: what most of its pages are; of pages with objects, how full."""
_FULL = (0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, slots=True, eq=False)
class HeapMap:
    """The heap at some moments of a recording."""

    time_ns: npt.NDArray[np.int64]
    """Of each moment, as recorded."""
    states: npt.NDArray[np.uint8]
    """(moments, cells): an index into STATES."""
    pages_a_cell: int
    base: int
    """Address of the first cell."""
    mapped: npt.NDArray[np.int64]
    """Bytes at each moment: of the heap's address space that is in use or free, not given back."""
    in_spans: npt.NDArray[np.int64]
    """Bytes: in spans with objects."""
    used: npt.NDArray[np.int64]
    """Bytes: in slots with an object, dead and unswept ones included."""


class _Moments:
    """Sums over cells, of pages by what they are: given back, free, manual, with objects; and bytes in use of those."""

    def __init__(self) -> None:
        self.base = 0
        self.pages = 1
        self.times: list[int] = []
        self.sums: list[npt.NDArray[np.float64]] = []

    def take(self, heap: Heap, time_ns: int) -> None:
        """Look at the heap."""
        pages = arena_map(heap)
        if not len(pages):
            return
        self.base = int(pages["address"][0])
        per_page = _per_page(pages, spans(heap))
        while len(pages) > self.pages * CELLS:
            self.pages *= 2
            self.sums = [_joined(sums, 2) for sums in self.sums]
        self.times.append(time_ns)
        self.sums.append(_joined(per_page, self.pages))

    def thin(self) -> None:
        """Forget every other moment, but not the last: those kept are evenly apart."""
        self.times, self.sums = self.times[1::2], self.sums[1::2]


def _per_page(pages: npt.NDArray[Any], table: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    n = len(pages)
    lengths = table["pages"].astype(np.int64)
    first = (table["base"] - pages["address"][0]).astype(np.int64) // _PAGE
    inside = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    where = np.repeat(first, lengths) + inside
    kind = np.zeros(n, np.uint8)
    kind[where] = np.repeat(table["state"], lengths)
    share = np.where(
        table["slots"] > 1,
        table["used"] * table["slot_size"] / np.maximum(lengths * _PAGE, 1),
        (table["used"] > 0).astype(float),
    )
    used = np.zeros(n)
    used[where] = np.repeat(share * _PAGE, lengths)
    out = np.zeros((n, 5))
    heap = ~pages["padding"]
    objects, manual = kind == 1, kind == 2
    rest = heap & ~objects & ~manual
    out[:, 0] = rest & pages["scavenged"]
    out[:, 1] = rest & ~pages["scavenged"]
    out[:, 2], out[:, 3] = manual, objects
    out[:, 4] = np.where(objects, used, 0.0)
    return out


def _joined(sums: npt.NDArray[np.float64], by: int) -> npt.NDArray[np.float64]:
    starts = np.arange(0, len(sums), by)
    out: npt.NDArray[np.float64] = np.add.reduceat(sums, starts, axis=0)
    return out


def _states(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    kinds = sums[:, :4]
    most = np.argmax(kinds, axis=1)
    share = sums[:, 4] / np.maximum(sums[:, 3] * _PAGE, 1)
    state = np.where(most == 3, 4 + np.searchsorted(_FULL, share), most + 1)
    return np.where(kinds.any(axis=1), state, 0).astype(np.uint8)


def heap_map(source: EventSource, *, progress: Callable[[int, int], None] | None = None) -> HeapMap:
    """Replay a recording, its collections at their recorded places, and look at the heap at 32 to 64 moments.

    They are evenly apart in events; a recording of fewer than 100,000 has fewer. Raises what `replay` raises.
    """
    moments, step, done, last = _Moments(), _FIRST_STEP, 0, 0
    due = step
    with Player(source, follow=source.tier == "exact") as player:
        for columns in source.chunks(_CHUNK):
            at = 0
            while at < len(columns):
                upto = min(len(columns), at + due - done)
                player.play(columns[at:upto])
                done, last = done + upto - at, int(columns.time[upto - 1])
                at = upto
                if done < due:
                    continue
                moments.take(player.heap, last)
                if len(moments.times) >= _MOMENTS:
                    moments.thin()
                    step *= 2
                due = done + step
            if progress:
                progress(done, len(source))
        moments.take(player.heap, last)
    return _drawn(moments)


def _drawn(moments: _Moments) -> HeapMap:
    cells = max((len(sums) for sums in moments.sums), default=0)
    states = np.zeros((len(moments.sums), cells), np.uint8)
    for row, sums in zip(states, moments.sums, strict=True):
        row[: len(sums)] = _states(sums)
    totals = np.array([sums.sum(axis=0) for sums in moments.sums]).reshape(-1, 5)
    return HeapMap(
        time_ns=np.array(moments.times, np.int64),
        states=states,
        pages_a_cell=moments.pages,
        base=moments.base,
        mapped=(totals[:, 1:4].sum(axis=1) * _PAGE).astype(np.int64),
        in_spans=(totals[:, 3] * _PAGE).astype(np.int64),
        used=totals[:, 4].astype(np.int64),
    )
