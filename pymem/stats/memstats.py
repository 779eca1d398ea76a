"""`runtime.MemStats`, field by field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from pymem._heap import Heap
from pymem._native import ffi, lib
from pymem.sizeclasses import size_classes

__all__ = ["BySize", "MemStats", "read_mem_stats"]

_GO_CLASSES = 61
"""Entries of Go's own MemStats.BySize: the array has not grown with the size classes."""


class BySize(NamedTuple):
    """What was allocated and freed in one size class."""

    size: int
    """Bytes a slot; 0 in the class of large objects, which are counted elsewhere."""
    mallocs: int
    frees: int


@dataclass(frozen=True, slots=True)
class MemStats:
    """The memory statistics of a runtime, in bytes unless said otherwise; fields mean what those of Go's MemStats mean.

    Fields that tell times (LastGC, Pause*, GCCPUFraction) need a clock, which comes with the paced collector: they are
    absent rather than 0.
    """

    alloc: int
    total_alloc: int
    sys: int
    lookups: int
    mallocs: int
    """Objects allocated so far. A tiny object that shares a block counts here and in frees."""
    frees: int
    """Objects freed so far."""
    heap_alloc: int
    heap_sys: int
    heap_idle: int
    heap_inuse: int
    heap_released: int
    heap_objects: int
    stack_inuse: int
    stack_sys: int
    mspan_inuse: int
    mspan_sys: int
    mcache_inuse: int
    mcache_sys: int
    buck_hash_sys: int
    gc_sys: int
    other_sys: int
    next_gc: int
    num_gc: int
    """Collections completed."""
    num_forced_gc: int
    heap_live: int
    """What the pacer sees: spans in a processor's cache count as full. Not in Go's MemStats."""
    by_size_class: tuple[BySize, ...]
    """All 68 size classes."""

    @property
    def by_size(self) -> tuple[BySize, ...]:
        """The size classes that Go's MemStats shows: the first 61."""
        return self.by_size_class[:_GO_CLASSES]

    def to_go(self) -> dict[str, Any]:
        """Return the fields under Go's names, in Go's order, ready for json.dumps; times are left out."""
        fields: dict[str, Any] = {go: getattr(self, name) for go, name in _GO_NAMES.items()}
        fields["EnableGC"] = True
        fields["DebugGC"] = False
        fields["BySize"] = [{"Size": b.size, "Mallocs": b.mallocs, "Frees": b.frees} for b in self.by_size]
        return fields


_GO_NAMES = {
    "Alloc": "alloc",
    "TotalAlloc": "total_alloc",
    "Sys": "sys",
    "Lookups": "lookups",
    "Mallocs": "mallocs",
    "Frees": "frees",
    "HeapAlloc": "heap_alloc",
    "HeapSys": "heap_sys",
    "HeapIdle": "heap_idle",
    "HeapInuse": "heap_inuse",
    "HeapReleased": "heap_released",
    "HeapObjects": "heap_objects",
    "StackInuse": "stack_inuse",
    "StackSys": "stack_sys",
    "MSpanInuse": "mspan_inuse",
    "MSpanSys": "mspan_sys",
    "MCacheInuse": "mcache_inuse",
    "MCacheSys": "mcache_sys",
    "BuckHashSys": "buck_hash_sys",
    "GCSys": "gc_sys",
    "OtherSys": "other_sys",
    "NextGC": "next_gc",
    "NumGC": "num_gc",
    "NumForcedGC": "num_forced_gc",
}


def read_mem_stats(heap: Heap, *, proc: int, flush: bool) -> MemStats:
    """Read the counters; flush: after every cache was given back, as ReadMemStats does."""
    c = ffi.new("pymem_mem_stats *")
    heap.call(lib.pymem_read_mem_stats, proc, flush, c)
    sizes = size_classes()["size"].tolist()
    by_size = map(
        BySize, sizes, ffi.unpack(c.by_size_mallocs, len(sizes)), ffi.unpack(c.by_size_frees, len(sizes))
    )
    named = {name: getattr(c, name) for name in _GO_NAMES.values()}
    return MemStats(**named, heap_live=c.heap_live, by_size_class=tuple(by_size))
