"""Marking by the nanosecond: how far a mark gets in so much processor time, whoever says what lives.

A graph is marked object by object, and what it takes is known afterwards. A record marks all at once, so its work is
known from the start and is only paid off. Either begins with the globals that are no part of the emulation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from pymem._native import ffi, lib
from pymem.errors import CorruptHeapError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pymem._heap import Heap
    from pymem.gc.costs import Costs

__all__ = ["GraphMark", "Mark", "Progress", "RecordMark", "RootNamer"]

RootNamer: TypeAlias = "Callable[[int, int], str | None]"
"""Says what the program calls a place in a set of roots; None: nothing."""

_MOST = 1 << 62
"""Bytes: more than there is to scan, and still a number to the core."""


class Progress(NamedTuple):
    """What some marking came to."""

    heap: int
    """Bytes of scan work in the heap."""
    stacks: int
    globals: int
    ns: float
    """Processor time it took."""
    finished: bool
    """Nothing is left to mark."""

    @property
    def work(self) -> int:
        """Bytes of scan work."""
        return self.heap + self.stacks + self.globals


class Mark(Protocol):
    """A mark under way."""

    globals_left: int
    """Bytes of the globals that are no part of the emulation: they come first, and whoever has them has them alone."""

    @property
    def globals_ns(self) -> float:
        """Processor time that the globals left will take, as far as is known."""

    def drain(self, ns: float) -> Progress:
        """Mark for so much processor time, or until nothing is left."""

    def drain_work(self, work: int) -> Progress:
        """Mark so many bytes of scan work, or until nothing is left."""

    def prove(self, name: RootNamer) -> None:
        """When nothing is left to mark: raise CorruptHeapError if something that lives has no mark."""


class RecordMark:
    """The marks are there; what finding them would have cost is paid off evenly."""

    __slots__ = ("_done", "_ns", "_ns_done", "_work", "globals_left")

    def __init__(self, heap: Heap, costs: Costs, globals_bytes: int) -> None:
        totals = ffi.new("pymem_mark_totals *")
        heap.call(lib.pymem_mark_get, totals)
        self.globals_left = globals_bytes
        self._work = int(totals.heap_scan) + globals_bytes
        self._ns = self._work * costs.mark_byte_ns + int(totals.objects_marked) * costs.mark_object_ns
        self._done = 0
        self._ns_done = 0.0

    @property
    def globals_ns(self) -> float:
        """Processor time that the globals left will take: objects' costs are spread over all bytes."""
        return self.globals_left * self._ns / self._work if self._work else 0.0

    def drain(self, ns: float) -> Progress:
        """Mark for so much processor time, or until nothing is left."""
        left = self._ns - self._ns_done
        if ns >= left:
            return self._step(self._work - self._done, left)
        return self._step(int(self._work * ((self._ns_done + ns) / self._ns)) - self._done, ns)

    def drain_work(self, work: int) -> Progress:
        """Mark so many bytes of scan work, or until nothing is left."""
        left = self._work - self._done
        if work >= left:
            return self._step(left, self._ns - self._ns_done)
        return self._step(work, min(work * (self._ns / self._work), self._ns - self._ns_done))

    def prove(self, name: RootNamer) -> None:
        """Do nothing: what is told needs no proof."""

    def _step(self, work: int, ns: float) -> Progress:
        self._done += work
        self._ns_done += ns
        finished = self._done >= self._work and self._ns_done >= self._ns
        of_globals = min(work, self.globals_left)
        self.globals_left -= of_globals
        return Progress(work - of_globals, 0, of_globals, ns, finished)


class GraphMark:
    """The core marks. A budget of time becomes one of bytes by what a byte has cost so far in this cycle."""

    __slots__ = ("_costs", "_debt", "_heap", "_ns", "_out", "_work", "globals_left")

    def __init__(self, heap: Heap, costs: Costs, globals_bytes: int) -> None:
        self.globals_left = globals_bytes
        self._heap = heap
        self._costs = costs
        self._out = ffi.new("pymem_mark_progress *")
        self._debt = 0.0  # ns that past budgets were overdrawn by
        self._ns = 0.0
        self._work = 0

    @property
    def globals_ns(self) -> float:
        """Processor time that the globals left will take."""
        return self.globals_left * self._costs.mark_byte_ns

    def drain(self, ns: float) -> Progress:
        """Mark for so much processor time, or until nothing is left."""
        if ns <= self._debt:
            self._debt -= ns
            return Progress(0, 0, 0, ns, finished=False)
        free, self._debt = ns - self._debt, 0.0
        byte_ns = self._ns / self._work if self._work else self._costs.mark_byte_ns
        done = self._drain(int(min(max(1.0, free / byte_ns), _MOST)) if byte_ns else _MOST)
        if done.finished:
            return done._replace(ns=min(done.ns + ns - free, ns))
        self._debt = max(0.0, done.ns - free)
        return done._replace(ns=ns)

    def drain_work(self, work: int) -> Progress:
        """Mark so many bytes of scan work, or until nothing is left."""
        return self._drain(min(max(work, 1), _MOST))

    def prove(self, name: RootNamer) -> None:
        """Follow everything once more. Go: startCheckmarks, GODEBUG=gccheckmark=1."""
        path, n = ffi.new("uint64_t[2]"), ffi.new("uint64_t *")
        try:
            self._heap.call(lib.pymem_mark_check, path, 2, n)
        except CorruptHeapError as error:
            root = name(int(path[0]), int(path[1]))
            way = str(error).removesuffix(f"root {path[0]}[{path[1]}]") + root if root else str(error)
            raise CorruptHeapError(way) from None

    def _drain(self, work: int) -> Progress:
        out, elsewhere = self._out, min(work, self.globals_left)
        self.globals_left -= elsewhere
        self._heap.call(lib.pymem_mark_drain, work - elsewhere, out)
        heap, stacks, roots = int(out.heap_scan), int(out.stack_scan), int(out.globals_scan) + elsewhere
        scanned = heap + stacks + roots
        ns = scanned * self._costs.mark_byte_ns + int(out.objects) * self._costs.mark_object_ns
        self._ns += ns
        self._work += scanned
        return Progress(heap, stacks, roots, ns, bool(out.idle) and not self.globals_left)
