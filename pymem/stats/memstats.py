"""`runtime.MemStats`, field by field."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

from pymem._heap import Heap
from pymem._native import ffi, lib
from pymem.sizeclasses import size_classes

if TYPE_CHECKING:
    from pymem.gc.state import GCStats

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

    Fields that tell times (last_gc to gc_cpu_fraction) need a clock. Where there is none, as in the replay of a
    recording's own collections, they are None and `to_go` leaves them out: a 0 would say "no pause", which nobody
    knows. Where there is one they are what Go has, which before the first cycle is 0.
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
    last_gc: int | None = None
    """When the last collection ended, ns since 1970."""
    pause_total_ns: int | None = None
    pause_ns: tuple[int, ...] | None = None
    """The last 256 pauses, two a cycle taken together: cycle n's at (n - 1) % 256."""
    pause_end: tuple[int, ...] | None = None
    """When those ended, ns since 1970."""
    gc_cpu_fraction: float | None = None
    """The collector's share of all processor time since birth, 0 to 1. Idle marking is left out."""
    enable_gc: bool = True
    """True even with GOGC=off, as in Go."""
    debug_gc: bool = False
    """Unused, as in Go."""
    tiny_allocs: int = 0
    """Tiny objects that joined a block: they are in mallocs and in frees. Not in Go's MemStats."""

    @property
    def by_size(self) -> tuple[BySize, ...]:
        """The size classes that Go's MemStats shows: the first 61."""
        return self.by_size_class[:_GO_CLASSES]

    def to_go(self) -> dict[str, Any]:
        """Return the fields under Go's names, in Go's order, ready for json.dumps; without a clock, without times."""
        known = ((go, getattr(self, name)) for go, name in _GO_NAMES.items())
        told = {
            go: list(value) if isinstance(value, tuple) else value for go, value in known if value is not None
        }
        told["BySize"] = [{"Size": b.size, "Mallocs": b.mallocs, "Frees": b.frees} for b in self.by_size]
        return told


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
    "LastGC": "last_gc",
    "PauseTotalNs": "pause_total_ns",
    "PauseNs": "pause_ns",
    "PauseEnd": "pause_end",
    "NumGC": "num_gc",
    "NumForcedGC": "num_forced_gc",
    "GCCPUFraction": "gc_cpu_fraction",
    "EnableGC": "enable_gc",
    "DebugGC": "debug_gc",
}
_COUNTED = tuple(f.name for f in fields(MemStats) if f.default is MISSING and f.name in _GO_NAMES.values())
"""Fields that the core counts."""


def read_mem_stats(heap: Heap, *, proc: int, flush: bool, gc: GCStats | None = None) -> MemStats:
    """Read the counters; flush: after every cache was given back, as ReadMemStats does; gc: whose times to show.

    With gc the cycles are counted there, so that their number fits the rings.
    """
    c = ffi.new("pymem_mem_stats *")
    heap.call(lib.pymem_read_mem_stats, proc, flush, c)
    sizes = size_classes()["size"].tolist()
    by_size = map(
        BySize, sizes, ffi.unpack(c.by_size_mallocs, len(sizes)), ffi.unpack(c.by_size_frees, len(sizes))
    )
    named = {name: getattr(c, name) for name in _COUNTED} | _timed(gc)
    return MemStats(
        **named,
        heap_live=c.heap_live,
        by_size_class=tuple(by_size),
        tiny_allocs=c.tiny_allocs,
    )


def _timed(gc: GCStats | None) -> dict[str, Any]:
    if gc is None:
        return {}
    return {
        "num_gc": gc.num_gc,
        "num_forced_gc": gc.num_forced_gc,
        "last_gc": gc.last_gc_unix_ns,
        "pause_total_ns": gc.pause_total_ns,
        "pause_ns": tuple(gc.pause_ns),
        "pause_end": tuple(gc.pause_end),
        "gc_cpu_fraction": gc.gc_cpu_fraction,
    }
