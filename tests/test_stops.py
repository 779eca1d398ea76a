"""What policy and core tell each other between two calls: when to stop, and what the heap has come to."""

from __future__ import annotations

from typing import Any

import pytest

from pymem._heap import Heap
from pymem._native import ffi, lib
from pymem.errors import ClosedError
from pymem.gc.pacer import GoPacer
from pymem.gc.state import CycleRecord
from pymem.gc.stops import NEVER, NO_QUANTUM, Stops, next_stops, see_heap

MB = 1 << 20


class FixedPacer(GoPacer):
    """Triggers at 4 MB."""

    def trigger(self) -> tuple[int, int]:
        return 4 * MB, 5 * MB


def marking(room: int) -> CycleRecord:
    return CycleRecord(trigger=10 * MB, start_goal=10 * MB + room)


@pytest.mark.parametrize(
    ("record", "off", "sweeping", "expected"),
    [
        pytest.param(marking(32 * MB), False, False, Stops(NEVER, MB, MB), id="Marking"),
        pytest.param(marking(0), False, False, Stops(NEVER, 32 << 10, 32 << 10), id="MarkingNoRoom"),
        pytest.param(marking(1 << 30), True, True, Stops(NEVER, 4 * MB, 4 * MB), id="MarkingMuchRoom"),
        pytest.param(None, False, True, Stops(4 * MB, MB, 0), id="Sweeping"),
        pytest.param(None, False, False, Stops(4 * MB, 256 * MB, 0), id="Idle"),
        pytest.param(None, True, True, Stops(NEVER, MB, 0), id="OffSweeping"),
        pytest.param(None, True, False, Stops(NEVER, NO_QUANTUM, 0), id="Off"),
    ],
)
def test_next_stops(record: CycleRecord | None, off: bool, sweeping: bool, expected: Stops) -> None:
    """The more there is to decide, the sooner."""
    assert next_stops(FixedPacer(), record, off=off, sweeping=sweeping) == expected


def test_next_stops_under_a_limit() -> None:
    """The goal moves with what is mapped, so the way there is cut up too."""
    pacer = FixedPacer(memory_limit=64 * MB)
    assert next_stops(pacer, None, off=False, sweeping=False) == Stops(4 * MB, 4 * MB // 32, 0)
    pacer.heap_live = 4 * MB
    assert next_stops(pacer, None, off=False, sweeping=True) == Stops(4 * MB, 32 << 10, 0)


@pytest.fixture
def heap() -> Heap:
    """Make a heap with one processor."""
    heap = Heap(arena_base=0xC000000000, address_space=1 << 30)
    heap.call(lib.pymem_proc_new, ffi.new("int32_t *"))
    return heap


def malloc(heap: Heap, size: int) -> None:
    heap.call(lib.pymem_malloc, 0, size, 1, 0, ffi.new("uint64_t *"))


def asked(heap: Heap) -> Any:
    """Ask the core, as one who trusts nothing that lies open."""
    out = ffi.new("pymem_pace_info *")
    heap.call(lib.pymem_read_pace, out)
    return out


def test_pace_after_each_call(heap: Heap) -> None:
    """Whatever is called, who looks next sees what has become of it; who looks twice asks once."""
    for size in (100, 5000, MB):
        malloc(heap, size)
        assert heap.pace().work_objects == asked(heap).work_objects
        assert heap.pace().fresh
        assert heap.pace() is heap.pace()
        malloc(heap, size)
        assert heap.pace().heap_live == asked(heap).heap_live


def test_stops_written(heap: Heap) -> None:
    """What policy writes holds from the next call on, and the core counts the stretch down."""
    heap.stops.quantum = 3 * 8192
    for size, due in ((8192, 0), (8192, 0), (8192, lib.PYMEM_STOP_QUANTUM)):
        malloc(heap, size)
        assert heap.stops.due == due
    heap.stops.quantum, heap.stops.live = NO_QUANTUM, 1
    malloc(heap, MB)
    assert heap.stops.due == lib.PYMEM_STOP_TRIGGER


def test_closed(heap: Heap) -> None:
    """Nobody gets hold of a closed heap; who has still looks at memory that is there."""
    pace, stops = heap.pace(), heap.stops
    live = pace.heap_live
    heap.close()
    with pytest.raises(ClosedError):
        heap.pace()
    with pytest.raises(ClosedError):
        _ = heap.stops
    assert (pace.heap_live, stops.live) == (live, NEVER)


def test_see_heap_while_marking(heap: Heap) -> None:
    """heap_scan stands still then; all else goes on."""
    malloc(heap, MB)
    pacer = GoPacer()
    pacer.heap_scan = 123
    see_heap(pacer, heap.pace(), marking=True)
    assert (pacer.heap_scan, pacer.heap_live) == (123, MB)
    assert pacer.total_alloc - pacer.total_free == heap.pace().heap_alloc
