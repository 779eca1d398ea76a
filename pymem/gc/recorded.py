"""The pacer of a replay whose collections are the record's: Go's formulas over the emulated heap.

The record tells the settings, how much of stacks and globals there was to scan, how fast the program allocated, and
whether all was swept. All else, and so goal, trigger and MemStats' NextGC, comes from the heap that the replay has
built: what was marked, what is mapped, what is free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pymem._native import ffi, lib
from pymem.gc.pacer import GoPacer
from pymem.gc.stops import see_heap

if TYPE_CHECKING:
    from pymem._heap import Heap
    from pymem.workload.commits import Commit

__all__ = ["COMPARED", "RecordedPacer"]

COMPARED = (
    *("heap_live", "heap_marked", "total_alloc", "total_free", "mapped_ready", "heap_free"),
    *("gc_percent_heap_goal", "sweep_dist_min_trigger", "heap_goal", "trigger"),
)
"""What the emulator answers to the byte at each commit of one P, by the names of `Commit`."""


class RecordedPacer:
    """Go's pacer on a replay's heap; MemStats' goal follows it."""

    def __init__(self, heap: Heap) -> None:
        self.pacer = GoPacer()
        self._heap = heap
        self._marks = ffi.new("pymem_mark_totals *")

    def commit(self, told: Commit) -> None:
        """Compute goal and trigger where the recorded program did. Go: (*gcControllerState).commit."""
        pacer = self.pacer
        pacer.set_gc_percent(told.gc_percent)
        pacer.set_memory_limit(told.memory_limit)
        pacer.last_stack_scan, pacer.globals_scan = told.last_stack_scan, told.globals_scan
        pacer.cons_mark = told.cons_mark
        self._read_heap()
        if not told.deaths_known:
            pacer.heap_live, pacer.heap_marked = told.heap_live, told.heap_marked
        pacer.commit(told.sweep_done)
        self._heap.call(lib.pymem_set_goal, pacer.gc_percent_heap_goal, pacer.memory_limit, pacer.heap_marked)
        self._heap.call(lib.pymem_set_goal_floor, pacer.sweep_dist_min_trigger)

    def differences(self, told: Commit) -> list[tuple[str, int, int]]:
        """Return (name, here, recorded) for each of COMPARED in which the last commit differs."""
        mine = self.answer()
        return [
            (name, mine[name], getattr(told, name)) for name in COMPARED if mine[name] != getattr(told, name)
        ]

    def answer(self) -> dict[str, int]:
        """Return what the last commit went by and came to, bytes, by the names of `Commit`."""
        trigger, goal = self.pacer.trigger()
        names = (*COMPARED[:-2], "heap_scan", "last_heap_scan")
        return {name: getattr(self.pacer, name) for name in names} | {"heap_goal": goal, "trigger": trigger}

    def _read_heap(self) -> None:
        heap, pacer = self._heap, self.pacer
        now = heap.pace()
        see_heap(pacer, now, marking=False)
        pacer.heap_marked = now.heap_marked
        heap.call(lib.pymem_mark_get, self._marks)
        pacer.last_heap_scan = self._marks.heap_scan
