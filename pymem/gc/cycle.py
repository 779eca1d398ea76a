"""A cycle with the world stopped, the dead being given: `runtime.GC()` in a program whose liveness is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pymem._arrays import addresses, pointer
from pymem._native import ffi, lib

if TYPE_CHECKING:
    from pymem._heap import Heap

__all__ = ["GCResult", "collect"]


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


def collect(heap: Heap, dead: Any, *, proc: int, zero_base: int) -> GCResult:
    """Run a whole forced cycle in which the objects at `dead` (addresses, or None) die and all others live."""
    array = addresses(() if dead is None else dead)
    array = array[array != zero_base]
    out, done = ffi.new("pymem_gc_result *"), ffi.new("uint64_t *")
    heap.call(lib.pymem_gc_collect, proc, pointer("uint64_t", array), len(array), done, out)
    return GCResult(
        cycle=out.cycle,
        marked_bytes=out.marked_bytes,
        freed_objects=out.freed_objects,
        freed_bytes=out.freed_bytes,
        swept_spans=out.swept_spans,
        freed_pages=out.freed_pages,
    )
