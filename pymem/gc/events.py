"""What the collector tells: the steps of a cycle as they begin, and what one collection has done."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from pymem._heap import Heap
    from pymem.gc.compaction import Compaction, Moves
    from pymem.gc.state import CycleRecord

__all__ = ["GCEvent", "GCPhase", "GCResult", "Tally"]


class GCPhase(StrEnum):
    """What has just begun."""

    SWEEP_TERMINATION = "sweep termination"
    MARK = "mark"
    MARK_TERMINATION = "mark termination"
    COMPACTION = "compaction"
    """Objects were moved, the world still stopped. Only where it is asked for: Go has no such phase."""
    SWEEP = "sweep"
    SWEPT = "swept"


@dataclass(frozen=True, slots=True)
class GCEvent:
    """A step of a cycle, for observers."""

    phase: GCPhase
    cycle: int
    """Its number, from 1."""
    now: int
    """Virtual time, ns since the process began."""
    heap_live: int
    """Bytes."""
    moves: Moves | None = None
    """COMPACTION: where everything went. Who holds addresses outside of roots and objects asks it for the new ones."""


@dataclass(frozen=True, slots=True)
class GCResult:
    """What one collection did."""

    cycle: int
    """Its number, from 1."""
    marked_bytes: int
    """Bytes of the slots that survived."""
    freed_objects: int
    """Slots freed; a tiny block is one, however many objects shared it."""
    freed_bytes: int
    swept_spans: int
    freed_pages: int
    """Pages of 8,192 bytes that went back to the page allocator."""
    compaction: Compaction | None = None
    """What moving objects did; its pages are among freed_pages."""

    @classmethod
    def of_cycle(cls, cycle: CycleRecord, before: Tally, after: Tally) -> Self:
        """Return what a cycle did between two tallies."""
        return cls(
            cycle=cycle.number,
            marked_bytes=cycle.heap2,
            freed_objects=after.frees - before.frees,
            freed_bytes=after.freed - before.freed,
            swept_spans=before.spans,
            freed_pages=before.pages - after.pages,
            compaction=cycle.compaction,
        )

    @classmethod
    def told(cls, told: Any, compaction: Compaction | None) -> Self:
        """Return what the core tells of a collection in one go, a `pymem_gc_result`."""
        return cls(
            cycle=told.cycle,
            marked_bytes=told.marked_bytes,
            freed_objects=told.freed_objects,
            freed_bytes=told.freed_bytes,
            swept_spans=told.swept_spans,
            freed_pages=told.freed_pages,
            compaction=compaction,
        )


class Tally(NamedTuple):
    """What a heap has come to: two of them tell what a collection between them did."""

    frees: int
    freed: int
    """Bytes."""
    pages: int
    """In use."""
    spans: int

    @classmethod
    def of(cls, heap: Heap) -> Self:
        """Ask a heap."""
        now = heap.pace()
        return cls(
            int(now.frees),
            int(now.total_alloc - now.heap_alloc),
            int(now.pages_in_use),
            int(now.object_spans),
        )
