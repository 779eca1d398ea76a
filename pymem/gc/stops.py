"""What pacer and core tell each other between two calls: what the heap has come to, and when it is to stop next.

A program runs on in the core until policy wants to look. The more there is to decide, the shorter the stretches: while
marking, credit is paid and debts are settled at each; while something is unswept, the background sweeps; near a memory
limit the goal moves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pymem.gc.controller import asked

if TYPE_CHECKING:
    from pymem.gc.protocol import Pacer
    from pymem.gc.state import CycleRecord

__all__ = ["NEVER", "NO_QUANTUM", "Stops", "next_stops", "see_heap"]

NEVER = (1 << 64) - 1
"""A heap_live that is not reached."""
NO_QUANTUM = (1 << 63) - 1
"""A stretch without end; a memory limit of so much is none."""

_STRETCHES = 32
"""Stretches into which the way from the trigger to the goal is cut."""
_MIN_STRETCH, _MAX_STRETCH = 32 << 10, 4 << 20
"""Bytes of allocation in a stretch."""
_SWEEP_STRETCH = 1 << 20
_IDLE_STRETCH = 256 << 20


class Stops(NamedTuple):
    """Where an allocation is to come back, in bytes."""

    live: int
    """heap_live."""
    quantum: int
    """Allocated from now on."""
    debt: int
    """Owed by one P, while marking."""


def next_stops(pacer: Pacer, record: CycleRecord | None, *, off: bool, sweeping: bool) -> Stops:
    """Say when the core is to come back next.

    record: the cycle that is marking. off: no cycle starts by itself. sweeping: something is left to sweep.
    """
    if record:
        room = record.start_goal - record.trigger
        stretch = min(max(room // _STRETCHES, _MIN_STRETCH), _MAX_STRETCH)
        return Stops(NEVER, stretch, stretch)
    quantum = _SWEEP_STRETCH if sweeping else NO_QUANTUM if off else _IDLE_STRETCH
    if off:
        return Stops(NEVER, quantum, 0)
    live = min(asked(pacer)[0], NEVER)
    if pacer.memory_limit < NO_QUANTUM:  # the goal moves with what is mapped
        quantum = min(quantum, max((live - pacer.heap_live) // _STRETCHES, _MIN_STRETCH))
    return Stops(live, quantum, 0)


def see_heap(pacer: Pacer, pace: Any, *, marking: bool) -> None:
    """Have the pacer know what the heap has come to, a `pymem_pace_info`; heap_scan stands still while marking."""
    pacer.heap_live = pace.heap_live
    if not marking:
        pacer.heap_scan = pace.heap_scan
    pacer.heap_in_use, pacer.heap_free = pace.heap_in_use, pace.heap_free
    pacer.heap_released, pacer.mapped_ready = pace.heap_released, pace.mapped_ready
    pacer.total_alloc = total = pace.total_alloc
    pacer.total_free = total - pace.heap_alloc
