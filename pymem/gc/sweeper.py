"""Sweeping when nobody allocates: in the background, and the rest before the next cycle begins.

An allocation sweeps on its way, by the page for every so many bytes, in the core. What it leaves, a goroutine of the
runtime sweeps on a P that has nothing else to do, or, where all are busy, a few spans whenever its turn comes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pymem._native import ffi, lib
from pymem.gc.cpu import TIME_SLICE

if TYPE_CHECKING:
    from pymem._heap import Heap
    from pymem.gc.costs import Costs

__all__ = ["SweepTrace", "Sweeper"]

_BATCH = 10
"""Spans swept before giving way, when the Ps are busy. Go: sweepBatchSize."""
_ALL = (1 << 64) - 1


class SweepTrace(NamedTuple):
    """What the line at the end of a sweep shows."""

    heap_live: int
    """Bytes, when nothing was left to sweep."""
    heap_live_basis: int
    """Bytes, when the sweep was last paced."""
    pages_swept: int
    pages_per_byte: float


class Sweeper:
    """The background sweeper of a heap. Go: bgsweep."""

    __slots__ = ("_costs", "_heap", "_out", "_owed", "done")

    def __init__(self, heap: Heap, costs: Costs) -> None:
        self._heap, self._costs = heap, costs
        self.done = True
        """Nothing is left to sweep, and that has been told."""
        self._owed = 0.0  # spans that may be swept by now
        self._out = ffi.new("uint64_t[2]")

    def advance(self, proc: int, ns: float, *, idle: bool) -> bool:
        """Let time pass, with a P that is idle or without; return whether nothing is left."""
        each = max(self._costs.sweep_span_ns, 1.0) if idle else TIME_SLICE / _BATCH
        self._owed += ns / each
        most = int(self._owed)
        self._owed -= most
        return most > 0 and self._sweep(proc, most) < most

    def finish(self, proc: int) -> float:
        """Sweep all the rest; return the ns that it took."""
        return self._sweep(proc, _ALL) * self._costs.sweep_span_ns

    def trace(self) -> SweepTrace:
        """Return how the sweep went that is done."""
        now = self._heap.pace()
        return SweepTrace(
            heap_live=now.sweep_end_live,
            heap_live_basis=now.sweep_live_basis,
            pages_swept=now.pages_swept,
            pages_per_byte=now.sweep_pages_per_byte,
        )

    def rest(self) -> None:
        """Nothing is left."""
        self.done, self._owed = True, 0.0

    def _sweep(self, proc: int, most: int) -> int:
        self._heap.call(lib.pymem_sweep_some, proc, most, self._out)
        return int(self._out[0])
