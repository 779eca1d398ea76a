"""One emulated Go process, as far as memory goes: what a program meets."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, TextIO

from pymem import graph, inspect
from pymem._arguments import duration, function, instance, whole
from pymem._arrays import addresses, byte_count, pointer
from pymem._heap import Heap
from pymem._native import ffi, lib
from pymem.env import Settings, read_settings
from pymem.errors import ConfigError
from pymem.gc.compaction import Compactor, Moves
from pymem.gc.costs import Costs
from pymem.gc.cycle import EMPTY_PROGRAM_GLOBALS, Collector, Liveness
from pymem.gc.events import GCEvent, GCResult
from pymem.gc.gonumbers import MAX_INT64
from pymem.gc.pacer import GoPacer
from pymem.gc.state import GCStats
from pymem.gotypes import AnyType, GoType, TypeTable
from pymem.layout import Type
from pymem.malloc import ZERO_BASE, malloc, malloc_batch
from pymem.roots import Roots
from pymem.sched import Cache, Goroutine, Scheduler
from pymem.sizeclasses import size_classes
from pymem.snapshot import Parts, Snapshot, capture, revive
from pymem.stats.gctrace import Tracer
from pymem.stats.memstats import MemStats, read_mem_stats
from pymem.units import parse_gogc, parse_memory_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    import numpy.typing as npt

    from pymem._arrays import UInt64s
    from pymem.gc.protocol import Pacer

__all__ = ["ZERO_BASE", "Runtime"]


class Runtime:
    """Go 1.27's heap with its processors and its collector: allocate, collect, read `MemStats`, look inside.

    Addresses and statistics are those of a real Go process in which nothing but the calls made here allocated anything.
    A runtime has one owner at a time: a second thread that comes in meanwhile gets `ThreadError`. A call that runs out
    of memory (`MemoryError`) leaves the heap whole.

    Args:
        gomaxprocs: processors (Ps), each with an mcache and a page cache.
        gogc: percentage, or "off" (the default here; Go's is 100): when the heap has grown by so much over what lived
            after the last cycle, the next one shall be over.
        memory_limit: bytes, "64MiB" as GOMEMLIMIT has it, or None or "off". With a limit cycles start earlier where
            they must, also with gogc="off".
        liveness: "graph": what can be reached from the roots lives. "record": all lives that `declare_dead` was not
            told of. It says who is collected by cycles that start by themselves and by `gc()`.
        costs: what things cost in virtual time.
        pacer: when cycles start and how hard they work; None: Go's. See `pymem.gc.protocol.Pacer`.
        globals_bytes: globals that hold pointers and are no roots here, in bytes. They are scanned by every cycle and
            count in the goal. The default is what an empty Go program has.
        start_unix_ns: date of the process's birth for `MemStats`, ns since 1970. Virtual time itself begins at 0.
        trace: where the lines of GODEBUG's gctrace, gcpacertrace and scavtrace go, as `settings` asks for them.
        settings: what GODEBUG says (`from_env` reads it); its GOGC, GOMEMLIMIT and GOMAXPROCS are not looked at.
        compaction: whether each cycle ends with objects being moved out of sparse spans, so that one can see what it
            would buy; Go never moves an object. True: out of spans that are at most half full; a number above 0 and at
            most 1: filled to such a share. Roots, frames and what is stored in objects follow; an address in a Python
            variable, or a view, does not: see `moves`.
        check_mark: prove each mark by graph with a second one while the world stands, as GODEBUG's gccheckmark does:
            CorruptHeapError names an object that is reachable but was not marked, and the way to it. It takes no
            virtual time.
        cache: "p" is Go's; "goroutine" gives each goroutine a cache of its own, to compare.
        arena_base: address of the first arena, a multiple of 64 MB. Go's default when the base is not randomised.
        address_space: bytes that the heap may map before it is out of memory.
        heap_padding_pages: pages of 8,192 bytes that stay empty at the front, as Go's randomised base leaves.
        scan_sparse: count scan work as Go does on a processor without AVX-512, which scans each object up to its last
            pointer. Else the objects of a page on which many are scanned at once count with their whole slots.

    """

    __slots__ = ("_gc", "_gc_stats", "_heap", "_sched", "_types", "globals")

    def __init__(
        self,
        *,
        gomaxprocs: int = 1,
        gogc: int | str | None = "off",
        memory_limit: int | str | None = None,
        liveness: Liveness = "graph",
        costs: Costs | None = None,
        pacer: Pacer | None = None,
        globals_bytes: int = EMPTY_PROGRAM_GLOBALS,
        start_unix_ns: int = 0,
        settings: Settings | None = None,
        trace: TextIO | None = None,
        compaction: bool | float = False,
        check_mark: bool = False,
        cache: Cache = "p",
        arena_base: int = 0xC000000000,
        address_space: int = 1 << 40,
        heap_padding_pages: int = 0,
        scan_sparse: bool = False,
    ) -> None:
        percent, limit = parse_gogc(gogc), parse_memory_limit(memory_limit)
        if liveness not in ("graph", "record"):
            raise ConfigError(f"liveness={liveness!r}: give 'graph' or 'record'")
        pacer = GoPacer() if pacer is None else pacer
        for answer in ("trigger", "heap_goal", "set_gc_percent"):
            function(
                "pacer", getattr(pacer, answer, None), "a pymem.gc.pacer.GoPacer, or a Controller of your own"
            )
        if costs is not None:
            instance("costs", costs, Costs, "a pymem.gc.costs.Costs")
        if settings is not None:
            instance("settings", settings, Settings, "what pymem.env.read_settings returns")
        if trace is not None:
            function("trace", getattr(trace, "write", None), "a text file open for writing")
        start_unix_ns = whole("start_unix_ns", start_unix_ns)
        self._heap = Heap(
            arena_base=arena_base,
            address_space=address_space,
            padding_pages=heap_padding_pages,
            scan_sparse=scan_sparse,
        )
        self._types = TypeTable(self._heap)
        self.globals = Roots(self._heap, stack=False)
        """Global variables by name, each an address or 0: `rt.globals["root"] = addr`."""
        self._sched = Scheduler(self._heap, self._types, gomaxprocs=gomaxprocs, cache=cache)
        pacer.set_gc_percent(-1 if percent is None else percent)
        pacer.set_memory_limit(limit)
        self._gc_stats = GCStats(start_unix_ns=start_unix_ns)
        self._gc = Collector(
            self._heap,
            pacer=pacer,
            procs=self._sched.procs,
            costs=Costs() if costs is None else costs,
            liveness=liveness,
            stats=self._gc_stats,
            globals_bytes=byte_count(globals_bytes, "globals_bytes"),
            tracer=Tracer(settings, trace or sys.stderr) if settings else None,
            compactor=Compactor(self._heap, compaction) if compaction is not False else None,
            check_mark=check_mark or (settings is not None and settings.gccheckmark > 0),
        )
        self._gc.name_root = self._name_root
        self._sched.on_stack = pacer.add_scannable_stack
        self._gc.commit()

    def _name_root(self, roots: int, slot: int) -> str | None:
        name = self.globals.name_of(roots, slot)
        if name is not None:
            return f"global {name}"
        return next((n for g in self.goroutines if (n := g.name_root(roots, slot)) is not None), None)

    @classmethod
    def from_env(
        cls, environ: Mapping[str, str] = os.environ, *, trace: TextIO | None = None, **options: Any
    ) -> Self:
        """Make a runtime as a Go process started in this environment would have it.

        GOGC (100 if unset), GOMEMLIMIT, GOMAXPROCS (1 if unset: it is no property of an emulation that this machine has
        so and so many processors), and of GODEBUG gctrace, gcpacertrace and scavtrace, whose lines go to `trace`
        (stderr), and gccheckmark (see `check_mark`). options: what else `Runtime` takes; they win. Raises ConfigError
        for a malformed GOMEMLIMIT, as Go throws; what else is malformed does not count, as in Go.
        """
        settings = read_settings(environ)
        found: dict[str, Any] = {
            "gogc": settings.gogc,
            "memory_limit": settings.memory_limit,
            "gomaxprocs": settings.gomaxprocs or 1,
        }
        return cls(settings=settings, trace=trace, **(found | options))

    # ---- its state as a value ----

    def snapshot(self) -> Snapshot:
        """Return the state of this runtime, which goes on undisturbed. Not for observers, in the middle of a step.

        What goes on from it gives the very results that this runtime gives. `Snapshot.save` writes it to a file.
        ConfigError with compaction: its moves cannot be told again.
        """
        return capture(Parts(self._heap, self._types, self._sched, self._gc, self.globals))

    @classmethod
    def restore(cls, snapshot: Snapshot | str | os.PathLike[str], *, trace: TextIO | None = None) -> Self:
        """Make a runtime that goes on from a snapshot or from a file with one, as often as wanted.

        trace: where its trace lines go (stderr). Observers are not in a snapshot: add them with `on_gc`. Goroutines
        are found by `goroutines`, their frames by `g.frames`, types by `types`. A program's own type that lies in
        memory as one of a file's is taken for it at first use (`register_type`, `new`). RecordingError for what is no
        whole snapshot of this version.
        """
        rt = cls.__new__(cls)
        rt._heap, rt._types, rt._sched, rt._gc, rt.globals = revive(snapshot, trace)
        rt._gc_stats = rt._gc.stats
        return rt

    def fork(self, *, trace: TextIO | None = None) -> Self:
        """Return a second runtime in the same state: restore(snapshot()). Each goes on by itself from here."""
        return self.restore(self.snapshot(), trace=trace)

    # ---- its life ----

    def close(self) -> None:
        """Give the memory back. Every later call raises ClosedError; closing twice is no error."""
        self._heap.close()

    @property
    def closed(self) -> bool:
        """Whether the runtime was closed."""
        return self._heap.closed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = (
            "closed" if self.closed else f"gomaxprocs={self._sched.gomaxprocs} cache={self._sched.cache!r}"
        )
        return f"<pymem.Runtime {state}>"

    # ---- processors and goroutines ----

    def gomaxprocs(self, n: int | None = None) -> int:
        """Return the number of Ps, and have n of them from now on. Goroutines of a P that goes move to another."""
        _ = self._heap.handle
        before = self._sched.gomaxprocs
        if n is not None:
            count = self._sched.proc_count(n)
            if count == before:
                return before
            self._gc.wait_on_mark()
            try:
                self._sched.resize(count)
            finally:  # without memory some of those that should go may be left
                self._gc.resize(self._sched.gomaxprocs)
        return before

    def go(self, name: str | None = None, *, p: int | None = None) -> Goroutine:
        """Start a goroutine with a stack of 2 KB on P p, or on each P in turn. Leave it by `exit()` or `with`."""
        _ = self._heap.handle
        return self._sched.go(name, p)

    @property
    def goroutines(self) -> list[Goroutine]:
        """The goroutines that have not exited, oldest first."""
        return list(self._sched.goroutines.values())

    # ---- types ----

    def register_type(self, type: Type | str, size: int | None = None, *, noscan: bool = False) -> GoType:
        """Give a type an id: one of `pymem.types`, or a name with a size in bytes.

        Types of `pymem.types` are registered at their first use too. noscan: values of the named one hold no pointers;
        else each of their words may be one.
        """
        _ = self._heap.handle
        if not isinstance(type, str):
            return self._types.register_layout(instance("type", type, Type, "one of pymem.types, or a name"))
        if size is None:
            raise ConfigError(f"type {type!r} without a size: give its bytes, or a type of pymem.types")
        return self._types.register(type, size, noscan)

    @property
    def types(self) -> list[GoType]:
        """Registered types by id; the first is "no type"."""
        return list(self._types.types)

    # ---- allocation ----

    def malloc(self, size: int, *, noscan: bool | None = None, type: AnyType = 0, p: int = 0) -> int:
        """Allocate an object of `size` bytes on P p and return its address.

        noscan: it holds no pointers; left out, the type says so, and an object without a type may hold some. For a type
        that has pointers noscan=True is a ConfigError.
        An object of 0 bytes takes no slot: its address is `pymem.ZERO_BASE`. SizeError for what is no size, MemoryError
        when the address space is used up. Go: mallocgc.
        """
        return malloc(self._heap, self._types, self._sched.proc(p), size, noscan=noscan, type_=type)

    def malloc_batch(
        self,
        size_or_sizes: int | npt.ArrayLike,
        n: int | None = None,
        *,
        noscan: bool | npt.ArrayLike | None = None,
        types: npt.ArrayLike | Sequence[AnyType] | AnyType | None = None,
        p: int = 0,
        out: UInt64s | None = None,
    ) -> UInt64s:
        """Allocate many objects on P p, in order, and return their addresses (uint64).

        `malloc_batch(64, n)` makes n objects of 64 bytes, `malloc_batch(sizes)` one for each element of an array of
        integers. noscan: a bool, or a mask with one for each object. types: a type, or an array or list of them. out:
        array to fill and return. The addresses are those that as many calls of `malloc` would give. If the address
        space or this machine's memory runs out on the way, MemoryError says how many objects were made: they stay,
        their addresses in `out`.
        """
        proc = self._sched.proc(p)
        return malloc_batch(
            self._heap, self._types, proc, size_or_sizes, n, noscan=noscan, types=types, out=out
        )

    # ---- objects with contents ----

    def new(self, type: AnyType, n: int = 1, *, p: int = 0) -> int:
        """Allocate one object of n values of a type, all zero, and return its address. Go: mallocgc."""
        return graph.new(self._heap, self._types, self._sched.proc(p), type, n)

    def new_batch(self, type: AnyType, n: int, *, p: int = 0) -> UInt64s:
        """Allocate n objects of one value each and return their addresses."""
        return graph.new_batch(self._heap, self._types, self._sched.proc(p), type, n)

    def store(self, obj: int, where: graph.Where, target: int) -> None:
        """Store a pointer in an object, through the write barrier while marking. 0 is nil.

        where: an offset in bytes, or a field's path in the object's type, such as `children[2].next`; in an object of
        several values `[5].next` is the sixth's. Of a slice, string or interface it is the word that points.
        AddressError for a word that holds no pointer by the object's type, or in an object without any (noscan): no
        mark would find what it points to.
        """
        graph.store(self._heap, self._types, obj, where, target)

    def load(self, obj: int, where: graph.Where) -> int:
        """Return the pointer in an object at a place given as for `store`."""
        return graph.load(self._heap, self._types, obj, where)

    def store_batch(self, src: npt.ArrayLike, offsets: npt.ArrayLike, targets: npt.ArrayLike) -> None:
        """Store many pointers in order, in one call: targets[i] into src[i] at offsets[i].

        An offset or a target may be one number for all; `T.pointer_at("left")` is a field's. AddressError names the
        first that is none of a living object or no pointer's place; those before it are stored.
        """
        graph.store_batch(self._heap, src, offsets, targets)

    def load_batch(self, src: npt.ArrayLike, offsets: npt.ArrayLike) -> UInt64s:
        """Return many pointers, src[i]'s at offsets[i]."""
        return graph.load_batch(self._heap, src, offsets)

    def view(self, obj: int, type: AnyType | None = None, n: int | None = None) -> npt.NDArray[Any]:
        """Return an object's memory as an array: what is written there is in the object, past any write barrier.

        Its dtype is that of the object's type, or of the type given; bytes where there is none. n: values to see, by
        default as many as the slot has room for, and where that is one the array has no dimension:
        `rt.view(node)["key"] = 5`. The array keeps the heap's memory, not the object: freed, its slot may be another's.
        Store pointers by `store`, else a running mark may miss them.
        """
        return graph.view(self._heap, self._types, obj, type, n)

    # ---- collection ----

    def gc(self, dead: npt.ArrayLike | None = None, *, p: int = 0) -> GCResult:
        """Collect now, and return when all is swept. P p is the one that called. Go: runtime.GC.

        Without `dead`, what lives is found as `liveness` has it. With it the world is stopped throughout, the objects
        at the addresses `dead` die and all others live. One address that is no living object's (foreign, freed, or
        named twice) raises AddressError, and then nothing has died; with liveness="graph" so does one that a variable
        or an object that lives on points to. A 16-byte block of tiny objects is freed with the last of them. What a
        real collector allocates for itself (work buffers, workers) is not emulated here.
        """
        proc = self._sched.proc(p)
        if dead is not None:
            return self._gc.gc_dead(proc, dead, zero_base=ZERO_BASE)
        return self._gc.gc(proc)

    def declare_dead(self, dead: npt.ArrayLike) -> None:
        """Say that the objects at these addresses are unreachable from now on: liveness="record" collects them.

        AddressError for an address that is no living object's; then none of them has died. ConfigError where the
        graph says who lives.
        """
        if self._gc.liveness != "record":
            raise ConfigError(
                "this runtime finds the dead by its graph: drop the pointers to them, "
                "or make it with Runtime(liveness='record')"
            )
        array = addresses(dead)
        array = array[array != ZERO_BASE]
        done = ffi.new("uint64_t *")
        self._heap.call(lib.pymem_mark_dead, pointer("uint64_t", array), len(array), done)

    def set_gc_percent(self, gogc: int | str | None) -> int:
        """Change GOGC (percent, "off" or any negative number) and return what it was, -1 for off.

        Go: debug.SetGCPercent.
        """
        percent = parse_gogc(gogc)
        self._gc.settle()
        before = self._gc.pacer.set_gc_percent(-1 if percent is None else percent)
        self._gc.commit()
        if percent is None:
            self._gc.wait_on_mark()
        return before

    def set_memory_limit(self, limit: int | str | None) -> int:
        """Change the memory limit (bytes, "64MiB", "off") and return what it was; a negative number only asks.

        Go: debug.SetMemoryLimit.
        """
        if isinstance(limit, int) and limit < 0:
            return self._gc.pacer.memory_limit
        parsed = parse_memory_limit(limit)
        self._gc.settle()
        before = self._gc.pacer.set_memory_limit(parsed)
        self._gc.commit()
        return before

    def free_os_memory(self, *, p: int = 0) -> None:
        """Collect, and give all free pages back to the operating system. Go: debug.FreeOSMemory."""
        self._gc.free_os_memory(self._sched.proc(p))

    @property
    def gc_percent(self) -> int:
        """GOGC in percent, -1 for off."""
        return self._gc.pacer.gc_percent

    @property
    def memory_limit(self) -> int:
        """GOMEMLIMIT in bytes, 2**63 - 1 for none."""
        return min(self._gc.pacer.memory_limit, MAX_INT64)

    def on_gc(self, observer: Callable[[GCEvent], None]) -> None:
        """Call the observer at every step of every cycle from now on. It may look at the runtime, not change it."""
        self._gc.observers.append(function("observer", observer, "a function of one pymem GCEvent"))

    @property
    def moves(self) -> Moves | None:
        """Where the last compaction put things; None if nothing was ever compacted.

        Whatever lets time pass (allocating, `gc`, `work`, `sleep`, asking for `now` or statistics) may end a cycle and
        so move objects. Afterwards an address in a Python variable is stale, as is a `view`: load it anew from a root,
        a frame or an object, or have it translated. With liveness="record" the program's own list of addresses is all
        there is; an observer sees each compaction, so that no move is missed:
        `rt.on_gc(lambda e: e.moves and e.moves.apply(addrs))`.
        What an allocating call returns is always right: its objects are not moved before it returns.
        """
        return self._gc.compactor.moves if self._gc.compactor else None

    @property
    def gc_stats(self) -> GCStats:
        """What the collector did so far, cycle by cycle."""
        self._gc.settle()
        self._gc.report()
        return self._gc_stats

    @property
    def marking(self) -> bool:
        """Whether a cycle is marking: then objects are born black."""
        self._gc.settle()
        return self._gc.record is not None

    @property
    def goroutines_created(self) -> int:
        """Goroutines started so far."""
        return self._sched.last_id

    def num_goroutine(self) -> int:
        """Return how many goroutines there are. Go: runtime.NumGoroutine."""
        return len(self._sched.goroutines)

    def set_max_stack(self, size: int) -> int:
        """Change how many bytes a goroutine's stack may have, and return what it was. Go: debug.SetMaxStack."""
        before, self._sched.max_stack = self._sched.max_stack, byte_count(size)
        return before

    # ---- virtual time ----

    @property
    def now(self) -> int:
        """Virtual time: nanoseconds since the process began."""
        self._gc.settle()
        return self._gc.clock.now

    def work(self, ns: float) -> None:
        """Let the program compute for so many nanoseconds of its own time; the background goes on beside it."""
        self._gc.charge(duration(ns))
        self._gc.settle()

    def sleep(self, ns: float) -> None:
        """Let so many nanoseconds pass in which the program does nothing."""
        self._gc.sleep(duration(ns))

    # ---- statistics ----

    def read_mem_stats(self, *, p: int = 0, flush: bool = True) -> MemStats:
        """Read the statistics. As in Go this gives back every cache first, and so has a say in where later objects go.

        flush=False looks without touching: objects in spans that a cache holds are then not counted yet.
        """
        proc = self._sched.proc(p)
        self._gc.settle()
        return read_mem_stats(self._heap, proc=proc, flush=flush, gc=self._gc_stats)

    @property
    def metadata_bytes(self) -> int:
        """Bytes of this machine that the heap's bookkeeping takes.

        Not what objects hold and their pointer maps: once a type, a root or a store was used, each has as many bytes
        as it was given, and takes memory of this machine for those that were written to, 4 KB or more at a time.
        """
        return int(lib.pymem_metadata_bytes(self._heap.handle))

    def check(self) -> None:
        """Walk the whole heap and prove its invariants; CorruptHeapError names a broken one: a bug in pymem."""
        self._heap.call(lib.pymem_heap_check)

    # ---- looking inside ----

    def size_classes(self) -> npt.NDArray[Any]:
        """Return the size classes this heap uses; see `pymem.size_classes`."""
        return size_classes()

    def spans(self) -> npt.NDArray[Any]:
        """Return all spans in address order, one row of dtype `pymem.inspect.SPAN` each."""
        return inspect.spans(self._heap)

    def span_of(self, addr: int) -> inspect.Span:
        """Return the span that an address lies in; AddressError if it is in none."""
        return inspect.span_of(self._heap, addr)

    def object_at(self, addr: int) -> inspect.GoObject:
        """Return the living object at exactly this address; AddressError if none begins there."""
        return inspect.object_at(self._heap, addr)

    def objects(self, span: inspect.Span | int) -> npt.NDArray[Any]:
        """Return the living objects of a span (or of the span with this base), dtype `pymem.inspect.OBJECT`."""
        return inspect.objects(self._heap, span)

    def arena_map(self) -> npt.NDArray[Any]:
        """Return the state of every page of the heap in address order, dtype `pymem.inspect.PAGE`."""
        return inspect.arena_map(self._heap)
