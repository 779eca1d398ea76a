"""A program of which only the amounts are known: so much allocated by then, so much of it alive.

Logs and samples tell neither objects nor lifetimes. So memory is handed out in equal pieces, each an object of its own,
as many as the amount allocated, and as many are alive as the amount alive says. That is all that a pacer asks of a
program: where a mark begins, what it finds is the live curve there, whichever pieces these are.

The youngest piece dies first. Nothing tells which does; this way what lives long stays where it is, as it does in
programs most of whose objects die young, and a handle is the piece's place in a pile: both come out of running sums.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pymem._native import lib
from pymem.workload.columns import DTYPES, Columns, Event
from pymem.workload.workload import ARENA_BASE, UNKNOWN, WorkloadType

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from pymem.gc.costs import Costs

    Floats = npt.NDArray[np.float64]
    Ints = npt.NDArray[np.int64]

__all__ = ["LEAST_PIECE", "CurveSource", "apart", "bounded", "piece_bytes"]

LEAST_PIECE = 8192
"""Bytes: a page. A piece is a span, so no span is partly filled, and heapLive is what was allocated."""
_HEADER = 8
"""Bytes that Go puts in front of an object with pointers; a piece asks for so much less, to fill its slot."""
_LARGE = 32 << 10
"""Bytes above which a piece has no header."""
_PIECES_A_HEAP = 1024
_FEWEST_A_HEAP = 32
_MOST_PIECES = 1 << 21
"""Pieces in all, as long as the heap has some at a time."""
_HELD, _HELD_SHARE = 1.5 * (1 << 20), 0.2
"""Bytes, and share of the most that was alive: what a real heap holds besides its objects and these pieces do not.

It is what a memory limit counts too. Holes in spans when a mark ends came to 0.45 MB + 0.15 of what is alive in ten
real programs without a limit (bench/accuracy.py's that are looked at, GOGC 50 to 200), small spans' own structs, their
bitmaps and stacks to 1.1 MB + 0.06 of it more than those of pieces. From one program to the next the sum differs by a
fifth; where a limit is tight, holes are more."""
_PART = 1 << 16
"""Pieces made into rows at a time."""


def piece_bytes(*, peak: float, allocated: float) -> int:
    """Return bytes a piece, a power of two: some 1,000 pieces in the heap, 2 million in all, but 32 in the heap."""
    size = LEAST_PIECE
    while size * 2 * _PIECES_A_HEAP <= peak:
        size *= 2
    while allocated / size > _MOST_PIECES and size * 2 * _FEWEST_A_HEAP <= peak:
        size *= 2
    return size


class _Special(NamedTuple):
    """Rows that are no piece's, in order."""

    piece: Ints
    """They come before the piece of this number."""
    kind: npt.NDArray[np.uint8]
    flags: npt.NDArray[np.uint8]
    object: npt.NDArray[np.uint64]
    size: npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True, eq=False)
class CurveSource:
    """An `EventSource` made of points of a curve; its rows are made as they are asked for.

    Between two points all is linear. `time_ns` is the program's own time, what its collector took left out.
    """

    allocated: Floats
    """Bytes since the beginning, at each point; rising, from 0 on."""
    time_ns: Floats
    """Never falling."""
    live: Floats
    """Bytes that a mark would find that begins here; it grows by no more than is allocated."""
    mark_begin: Floats
    """Bytes allocated when each recorded mark began; rising. Only replays go by them, and reruns where forced."""
    mark_end: Floats
    forced: npt.NDArray[np.bool_]
    tier: str
    """`gctrace` or `samples`."""
    piece: int
    """Bytes of a piece."""
    procs: int = 1
    busy: int = 1
    """Ps that the program keeps at work; its allocations go round them."""
    costs: Costs | None = None
    """What collecting cost in the recording; None: it does not tell."""
    globals_bytes: int | None = None
    """Globals and stacks that goals take into account; None: the recording does not tell."""
    gives_way_ns: float | None = None
    """After so much of its own time a goroutine gives its P away by itself, on average; None: nothing tells."""
    origin: dict[str, str] = field(default_factory=dict)
    types: tuple[WorkloadType, ...] = ()
    arena_base: int = ARENA_BASE
    padding_pages: int = 0
    resolution: str = "event"
    """Deaths are where they are to be, and nothing moves them."""
    recorded_stats: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if not self.types:
            size = self.piece
            object.__setattr__(self, "types", (UNKNOWN, WorkloadType("memory", size, size)))

    def __len__(self) -> int:
        """Return how many rows there are: exactly but for deaths, of which a few may be more."""
        births = int(self.allocated[-1] / self.piece) if len(self.allocated) else 0
        left = round(float(self.live[-1]) / self.piece) if len(self.live) else 0
        start = 2 * self._start + 1 if self._start else 0
        cycles = len(self.forced) * (4 + self.procs)
        return self.procs + start + births + births + self._start - left + cycles + len(self._held()[0])

    @property
    def _start(self) -> int:
        """Pieces of the heap that it all starts from."""
        return round(float(self.live[0]) / self.piece) if len(self.live) else 0

    @property
    def cycles(self) -> int:
        """Recorded cycles."""
        return len(self.forced)

    def chunks(self, size: int = 1 << 20) -> Iterator[Columns]:
        """Yield the rows, at most `size` at a time; which they are does not depend on it."""
        for part in self._parts():
            for start in range(0, len(part), size):
                yield part[start : start + size]

    # ---- rows ----

    def _parts(self) -> Iterator[Columns]:
        special = self._special()
        births = int(self.allocated[-1] / self.piece) if len(self.allocated) else 0
        pile = self._start
        yield self._beginning()
        for first in range(0, births + 1, _PART):
            last = min(first + _PART, births)
            rows, pile = self._rows(first, last, pile, special)
            if len(rows):
                yield rows
            if last == births:
                return

    def _beginning(self) -> Columns:
        """Start the Ps, and lay out what is alive: a span each, one behind the other."""
        n = self._start
        kind = [Event.PROC_NEW] * self.procs + [Event.START_SPAN] * n + [Event.START_OBJECT] * n
        rows = _empty(len(kind) + bool(n))
        rows["kind"][: len(kind)] = kind
        rows["proc"][:] = -1
        rows["time"][:] = round(float(self.time_ns[0])) if len(self.time_ns) else 0
        if n:
            rows["kind"][-1] = Event.START_DONE
            base = self.arena_base + np.arange(n, dtype=np.uint64) * np.uint64(self.piece)
            spans, objects = slice(self.procs, self.procs + n), slice(self.procs + n, self.procs + 2 * n)
            rows["expect"][spans] = rows["expect"][objects] = base
            rows["size"][spans] = self.piece // LEAST_PIECE
            rows["object"][objects] = np.arange(n)
            rows["type"][objects] = 1
        return Columns(**rows)

    def _held(self) -> tuple[Ints, Ints]:
        """Return before which piece the heap holds how many bytes more besides what is in pieces."""
        most = np.maximum.accumulate(np.concatenate([[0.0], self.live]))
        held = np.where(most > 0, _HELD + _HELD_SHARE * most, 0.0) // LEAST_PIECE * LEAST_PIECE
        more = np.diff(held).astype(np.int64)
        grows = np.flatnonzero(more)
        return np.rint(self.allocated[grows] / self.piece).astype(np.int64), more[grows]

    def _special(self) -> _Special:
        """Return the rows of the recorded marks and of what is held besides, and before which piece they come."""
        kinds = [Event.SWEEP_DONE, Event.FLIP, *[Event.FLUSH] * self.procs, Event.GC_END, Event.SWEEP_ALL]
        n, width = len(self.forced), len(kinds)
        begin = np.rint(self.mark_begin / self.piece).astype(np.int64)
        end = np.maximum(np.rint(self.mark_end / self.piece).astype(np.int64), begin)
        piece = np.repeat(end[:, None], width, axis=1)
        piece[:, 0] = begin
        objects = np.zeros((n, width), np.uint64)
        objects[:, 2 : 2 + self.procs] = np.arange(self.procs)
        flags = np.zeros((n, width), np.uint8)
        flags[:, -2] = self.forced
        at, more = self._held()
        before = np.concatenate([np.maximum.accumulate(piece.ravel()), at])
        of_marks, of_held = (n * width,), (len(at),)
        kind = np.concatenate([np.tile(np.array(kinds, np.uint8), n), np.full(of_held, Event.SYS, np.uint8)])
        flags = np.concatenate([flags.ravel(), np.full(of_held, lib.PYMEM_STAT_OTHER_SYS, np.uint8)])
        order = np.argsort(before, kind="stable")
        return _Special(
            before[order],
            kind[order],
            flags[order],
            np.concatenate([objects.ravel(), np.zeros(of_held, np.uint64)])[order],
            np.concatenate([np.zeros(of_marks, np.uint64), more.astype(np.uint64)])[order],
        )

    def _rows(self, first: int, last: int, pile: int, special: _Special) -> tuple[Columns, int]:
        """Make the rows of pieces from first to before last, and of marks before them; return the pile's height too.

        After each birth come the deaths that make the pile as high as the curve says, if it can be: a pile grows by one
        a birth. So the height after birth j is the least of heights wanted at i <= j, plus j - i.
        """
        births = np.arange(first, last)
        at = (births + 1.0) * self.piece
        wanted = np.rint(np.interp(at, self.allocated, self.live) / self.piece).astype(np.int64)
        steps = np.arange(1, len(births) + 1)
        height = np.minimum.accumulate(np.concatenate([[pile], wanted - steps]))[1:] + steps
        before = np.concatenate([[pile], height])[:-1]
        deaths = before + 1 - height
        lo, hi = np.searchsorted(special.piece, [first, last if last > first else first + 1])
        if last == int(self.allocated[-1] / self.piece):
            hi = len(special.piece)
        where = np.minimum(
            special.piece[lo:hi] - first, len(births)
        )  # births that come before each special row
        rows_before = np.concatenate([[0], np.cumsum(1 + deaths)])
        at_special = rows_before[where] + np.arange(hi - lo)
        rows = _empty(int(rows_before[-1]) + hi - lo)
        plain = np.ones(len(rows["kind"]), bool)
        plain[at_special] = False
        self._fill_pieces(rows, np.flatnonzero(plain), births, before, deaths)
        for name in ("kind", "flags", "object", "size"):
            rows[name][at_special] = getattr(special, name)[lo:hi]
        times = np.interp(special.piece[lo:hi] * float(self.piece), self.allocated, self.time_ns)
        rows["time"][at_special] = np.rint(times)
        rows["time"] = np.maximum.accumulate(rows["time"])
        return Columns(**rows), int(height[-1]) if len(height) else pile

    def _fill_pieces(
        self, rows: dict[str, npt.NDArray[Any]], plain: Ints, births: Ints, before: Ints, deaths: Ints
    ) -> None:
        """Fill the rows of births, and of the deaths after each, which take from the top of the pile."""
        of = np.repeat(np.arange(len(births)), 1 + deaths)
        nth = np.arange(len(of)) - np.repeat(np.cumsum(1 + deaths) - (1 + deaths), 1 + deaths)
        born = nth == 0
        rows["kind"][plain] = np.where(born, int(Event.ALLOC), int(Event.DEATH))
        rows["object"][plain] = np.where(born, before[of], before[of] + 1 - nth)
        times = np.interp((births + 1.0) * self.piece, self.allocated, self.time_ns)
        rows["time"][plain] = np.rint(times)[of]
        rows["proc"][plain] = np.where(born, births[of] % self.busy, -1)
        alloc = plain[born]
        rows["size"][alloc] = self.piece - (_HEADER if self.piece <= _LARGE else 0)
        rows["type"][alloc] = 1
        rows["goroutine"][alloc] = births % self.busy + 1


def _empty(n: int) -> dict[str, npt.NDArray[Any]]:
    return {name: np.zeros(n, dtype) for name, dtype in DTYPES.items()}


def bounded(live: Floats, allocated: Floats) -> Floats:
    """Return a live curve that from its first point on grows by no more than is allocated, and is never below 0."""
    over = np.minimum.accumulate(np.maximum(live, 0.0) - allocated)
    return np.maximum(np.minimum(np.maximum(live, 0.0), over + allocated), 0.0)


def apart(allocated: Floats, piece: int) -> Floats:
    """Return amounts that rise by a piece at least from one to the next, so that each has a place on the curve."""
    steps = np.arange(len(allocated)) * float(piece)
    rising: Floats = np.maximum.accumulate(allocated - steps) + steps
    return rising
