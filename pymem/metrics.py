"""`runtime/metrics`, as far as it concerns memory, the collector, processor time and goroutines: Go's names and values.

    >>> from pymem import metrics
    >>> metrics.read(rt, ["/gc/heap/live:bytes", "/sched/pauses/total/gc:seconds"])

Names, kinds, what is cumulative and the bounds of buckets are those of Go 1.27.3. As in Go, reading flushes nothing:
objects in spans that a cache holds are not counted yet. What a runtime cannot tell (times where it has no clock) is
left out rather than 0.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from pymem._arguments import instance
from pymem.errors import ConfigError
from pymem.gc.histogram import TimeHistogram
from pymem.sched import STACK_MIN
from pymem.sizeclasses import size_classes

if TYPE_CHECKING:
    from pymem.gc.state import CPUStats, GCStats
    from pymem.sched import Goroutine
    from pymem.stats.memstats import MemStats

__all__ = ["Description", "Float64Histogram", "Kind", "MetricsSource", "Value", "all", "read"]


class Kind(StrEnum):
    """What a metric's value is. Go: metrics.ValueKind."""

    UINT64 = "uint64"
    FLOAT64 = "float64"
    FLOAT64_HISTOGRAM = "float64-histogram"


@dataclass(frozen=True, slots=True)
class Description:
    """What a metric is. Go: metrics.Description."""

    name: str
    """A path and a unit, parted by a colon."""
    description: str
    kind: Kind
    cumulative: bool
    """It never falls."""


@dataclass(frozen=True, slots=True)
class Float64Histogram:
    """A distribution. Go: metrics.Float64Histogram."""

    counts: tuple[int, ...]
    """counts[i]: values from buckets[i] up to, and without, buckets[i + 1]."""
    buckets: tuple[float, ...]
    """Bounds in the metric's unit, rising; the first may be -inf, the last is inf."""


Value = int | float | Float64Histogram


class MetricsSource(Protocol):
    """What is read of a runtime."""

    def read_mem_stats(self, *, flush: bool) -> MemStats:
        """Return the counters."""

    def gomaxprocs(self) -> int:
        """Return the number of Ps."""

    @property
    def goroutines(self) -> Sequence[Goroutine]:
        """Those that have not exited."""

    @property
    def goroutines_created(self) -> int:
        """Goroutines started so far."""

    @property
    def gc_stats(self) -> GCStats:
        """What the collector has counted."""

    @property
    def gc_percent(self) -> int:
        """GOGC, -1 for off."""

    @property
    def memory_limit(self) -> int:
        """GOMEMLIMIT in bytes."""


@dataclass(frozen=True, slots=True)
class _Sample:
    """Everything that metrics are computed from, read at one moment."""

    mem: MemStats
    gomaxprocs: int
    goroutines: int
    running: int
    gc: GCStats
    gc_percent: int
    memory_limit: int
    created: int


_Compute = Callable[[_Sample], Value]


def all() -> tuple[Description, ...]:
    """Return what every metric is, by name. Go: metrics.All."""
    return tuple(description for description, _ in _METRICS.values())


def read(rt: MetricsSource, names: Iterable[str] | None = None) -> dict[str, Value]:
    """Return the values of the metrics named, of all without names. ConfigError for a name that is none.

    Go: metrics.Read.
    """
    if names is not None:
        instance("names", names, Iterable, "a list of metrics' names")
    sample = _sample(rt)
    return {name: _one(sample, name) for name in (_METRICS if names is None else names)}


def _one(sample: _Sample, name: str) -> Value:
    if not isinstance(name, str) or name not in _METRICS:
        raise ConfigError(f"there is no metric {name!r}: pymem.metrics.all() lists those there are")
    return _METRICS[name][1](sample)


def _sample(rt: MetricsSource) -> _Sample:
    goroutines, procs = rt.goroutines, rt.gomaxprocs()
    # A P runs one goroutine at a time; those with a cache of their own (p is None) are on no P in particular.
    busy = len({id(g) if g.p is None else g.p for g in goroutines})
    return _Sample(
        mem=rt.read_mem_stats(flush=False),
        gomaxprocs=procs,
        goroutines=len(goroutines),
        running=min(busy, procs),
        gc=rt.gc_stats,
        gc_percent=rt.gc_percent,
        memory_limit=rt.memory_limit,
        created=rt.goroutines_created,
    )


# ---- how values are computed ----

_UINT64 = 1 << 64


def _cpu(ns: Callable[[CPUStats], int]) -> _Compute:
    """Return processor time in s."""
    return lambda s: ns(s.gc.cpu) / 1e9


def _gc(count: Callable[[GCStats], int]) -> _Compute:
    return lambda s: count(s.gc)


def _mem(count: Callable[[MemStats], int]) -> _Compute:
    return lambda s: count(s.mem)


def _slots(count: Callable[[MemStats], int]) -> _Compute:
    """Return a count of slots: MemStats', without the tiny objects that joined a block."""
    return lambda s: count(s.mem) - s.mem.tiny_allocs


def _pauses(histogram: Callable[[GCStats], TimeHistogram]) -> _Compute:
    return lambda s: Float64Histogram(tuple(histogram(s.gc).all_counts()), TimeHistogram.bounds())


def _size_bounds() -> tuple[float, ...]:
    """Return bounds of sizes in bytes: a class holds what is above the one below it, so its bound is its size + 1."""
    sizes: list[int] = size_classes()["size"].tolist()
    return (*(float(size + 1) for size in sizes), float("inf"))


def _by_size(field: str) -> _Compute:
    """Return slots by size, large objects last. field: "mallocs" or "frees"."""

    def compute(s: _Sample) -> Float64Histogram:
        small = [getattr(entry, field) for entry in s.mem.by_size_class[1:]]
        large = getattr(s.mem, field) - s.mem.tiny_allocs - sum(small)
        return Float64Histogram((*small, large), _size_bounds())

    return compute


def _gogc(s: _Sample) -> int:
    """Go shows -1, which is off, as an unsigned number."""
    return s.gc_percent % _UINT64


def _zero(_: _Sample) -> int:
    return 0


# ---- the table, by name ----

_METRICS: dict[str, tuple[Description, _Compute]] = {}


def _add(name: str, what: str, compute: _Compute, kind: Kind, *, cumulative: bool) -> None:
    _METRICS[name] = Description(name, what, kind, cumulative), compute


def _total(name: str, what: str, compute: _Compute, kind: Kind = Kind.UINT64) -> None:
    """Add a metric that only grows."""
    _add(name, what, compute, kind, cumulative=True)


def _level(name: str, what: str, compute: _Compute) -> None:
    """Add a metric that rises and falls."""
    _add(name, what, compute, Kind.UINT64, cumulative=False)


def _add_cpu() -> None:
    parts: builtins.list[tuple[str, str, Callable[[CPUStats], int]]] = [
        ("gc/mark/assist", "Goroutines that mark to pay for what they allocate.", lambda c: c.gc_assist),
        ("gc/mark/dedicated", "Marking by workers that Ps are set aside for.", lambda c: c.gc_dedicated),
        ("gc/mark/idle", "Marking on Ps that had nothing else to do.", lambda c: c.gc_idle),
        ("gc/pause", "All Ps while the collector has stopped the world.", lambda c: c.gc_pause),
        ("gc/total", "The collector: the sum of /cpu/classes/gc.", lambda c: c.gc_total),
        ("idle", "Ps without work.", lambda c: c.idle),
        ("scavenge/assist", "Giving memory back on the way of an allocation.", lambda c: c.scavenge_assist),
        ("scavenge/background", "Giving memory back in the background.", lambda c: c.scavenge_bg),
        ("scavenge/total", "The scavenger: the sum of /cpu/classes/scavenge.", lambda c: c.scavenge_total),
        ("total", "GOMAXPROCS times the time passed: the sum of /cpu/classes.", lambda c: c.total),
        ("user", "The program's own work: what is left of the total.", lambda c: c.user),
    ]
    for name, what, ns in parts:
        when = "Brought up to date at the end of a cycle."
        _total(f"/cpu/classes/{name}:cpu-seconds", f"{what} {when}", _cpu(ns), Kind.FLOAT64)


def _add_gc() -> None:
    _total("/gc/cleanups/executed:cleanups", "Cleanups run. None here: not emulated.", _zero)
    _total("/gc/cleanups/queued:cleanups", "Cleanups due. None here: not emulated.", _zero)
    _total(
        "/gc/cycles/automatic:gc-cycles",
        "Cycles that the pacer started.",
        _mem(lambda m: m.num_gc - m.num_forced_gc),
    )
    _total(
        "/gc/cycles/forced:gc-cycles", "Cycles that the program asked for.", _mem(lambda m: m.num_forced_gc)
    )
    _total("/gc/cycles/total:gc-cycles", "Cycles completed.", _mem(lambda m: m.num_gc))
    _total("/gc/finalizers/executed:finalizers", "Finalizers run. None here: not emulated.", _zero)
    _total("/gc/finalizers/queued:finalizers", "Finalizers due. None here: not emulated.", _zero)
    _level("/gc/gogc:percent", "GOGC; 2^64 - 1 when it is off.", _gogc)
    _level("/gc/gomemlimit:bytes", "The memory limit; 2^63 - 1 when there is none.", lambda s: s.memory_limit)
    _add_gc_heap()
    _level(
        "/gc/limiter/last-enabled:gc-cycle",
        "The cycle in which the CPU limiter was last on; 0: never.",
        _gc(lambda g: g.limiter_last_enabled),
    )
    _total(
        "/gc/pauses:seconds",
        "The older name of /sched/pauses/total/gc:seconds.",
        _pauses(lambda g: g.stw_total_gc),
        Kind.FLOAT64_HISTOGRAM,
    )
    _level(
        "/gc/scan/globals:bytes",
        "Globals that may hold pointers, as scanned last.",
        _gc(lambda g: g.globals_scan),
    )
    _level("/gc/scan/heap:bytes", "Heap that may hold pointers.", _gc(lambda g: g.heap_scan))
    _level("/gc/scan/stack:bytes", "Stacks scanned by the last cycle.", _gc(lambda g: g.last_stack_scan))
    _level(
        "/gc/scan/total:bytes",
        "The sum of /gc/scan.",
        _gc(lambda g: g.heap_scan + g.last_stack_scan + g.globals_scan),
    )
    _level("/gc/stack/starting-size:bytes", "A new goroutine's stack.", lambda _: STACK_MIN)


def _add_gc_heap() -> None:
    blocks = "Of tiny objects, their blocks."
    for verb, what in (("alloc", "allocated"), ("free", "freed")):
        _total(
            f"/gc/heap/{verb}s-by-size:bytes",
            f"Objects {what}, by the size class they took; large ones last. {blocks}",
            _by_size("mallocs" if verb == "alloc" else "frees"),
            Kind.FLOAT64_HISTOGRAM,
        )
        _total(
            f"/gc/heap/{verb}s:bytes",
            f"Bytes of slots {what}.",
            _mem((lambda m: m.total_alloc) if verb == "alloc" else (lambda m: m.total_alloc - m.alloc)),
        )
        _total(
            f"/gc/heap/{verb}s:objects",
            f"Objects {what}. {blocks}",
            _slots((lambda m: m.mallocs) if verb == "alloc" else (lambda m: m.frees)),
        )
    _level("/gc/heap/goal:bytes", "The heap size at which the cycle shall end.", _mem(lambda m: m.next_gc))
    _level("/gc/heap/live:bytes", "What the last cycle marked.", _gc(lambda g: g.heap_marked))
    _level(
        "/gc/heap/objects:objects", "Objects that live or are not swept yet.", _mem(lambda m: m.heap_objects)
    )
    _total(
        "/gc/heap/tiny/allocs:objects",
        "Tiny objects that joined a block; the block is counted as any other object.",
        lambda s: s.mem.tiny_allocs,
    )


def _add_memory() -> None:
    parts: builtins.list[tuple[str, str, Callable[[MemStats], int]]] = [
        ("heap/free", "Free pages that were not given back.", lambda m: m.heap_idle - m.heap_released),
        ("heap/objects", "Objects that live or are not swept yet.", lambda m: m.heap_alloc),
        ("heap/released", "Free pages given back to the system.", lambda m: m.heap_released),
        ("heap/stacks", "Spans of goroutines' stacks, whether in use or in stock.", lambda m: m.stack_inuse),
        ("heap/unused", "Free slots, and what no slot fits into.", lambda m: m.heap_inuse - m.heap_alloc),
        ("metadata/mcache/free", "Had for mcaches, not in use.", lambda m: m.mcache_sys - m.mcache_inuse),
        ("metadata/mcache/inuse", "Mcaches.", lambda m: m.mcache_inuse),
        ("metadata/mspan/free", "Had for mspan structs, not in use.", lambda m: m.mspan_sys - m.mspan_inuse),
        ("metadata/mspan/inuse", "Mspan structs.", lambda m: m.mspan_inuse),
        ("metadata/other", "Bitmaps, summaries, work buffers and other bookkeeping.", lambda m: m.gc_sys),
        ("os-stacks", "Stacks that the system gave for threads.", lambda m: m.stack_sys - m.stack_inuse),
        ("other", "All else that the runtime keeps for itself.", lambda m: m.other_sys),
        ("profiling/buckets", "The memory profile's table.", lambda m: m.buck_hash_sys),
        ("total", "All memory mapped: the sum of /memory/classes.", lambda m: m.sys),
    ]
    for name, what, count in parts:
        _level(f"/memory/classes/{name}:bytes", what, _mem(count))


def _add_sched() -> None:
    _level("/sched/gomaxprocs:threads", "GOMAXPROCS.", lambda s: s.gomaxprocs)
    _total(
        "/sched/goroutines-created:goroutines",
        "Goroutines started since the process began.",
        lambda s: s.created,
    )
    states: builtins.list[tuple[str, str, _Compute]] = [
        ("/not-in-go", "Goroutines in a call of the system or of C. None here.", _zero),
        ("/runnable", "Goroutines that wait for a P.", lambda s: s.goroutines - s.running),
        ("/running", "Goroutines on a P: here every P that has one runs one.", lambda s: s.running),
        ("/waiting", "Goroutines that wait for something else. None here.", _zero),
        ("", "Goroutines that have not exited.", lambda s: s.goroutines),
    ]
    for name, what, compute in states:
        _level(f"/sched/goroutines{name}:goroutines", what, compute)
    pauses: builtins.list[tuple[str, str, Callable[[GCStats], TimeHistogram]]] = [
        (
            "stopping/gc",
            "From the collector's wish to stop the world until it stands.",
            lambda g: g.stw_stopping_gc,
        ),
        ("stopping/other", "The same for all other reasons to stop it.", lambda g: g.stw_stopping_other),
        ("total/gc", "From the collector's wish to stop the world until it runs.", lambda g: g.stw_total_gc),
        ("total/other", "The same for all other reasons to stop it.", lambda g: g.stw_total_other),
    ]
    for name, what, histogram in pauses:
        _total(f"/sched/pauses/{name}:seconds", what, _pauses(histogram), Kind.FLOAT64_HISTOGRAM)


_add_cpu()
_add_gc()
_add_memory()
_add_sched()
