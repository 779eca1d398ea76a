"""Who runs where: processors (Go's Ps), and goroutines bound to them. Nothing is scheduled: the caller says who acts.

Go has one mcache a processor. The textbook design that it grew out of gives every thread a cache of its own;
`cache="goroutine"` does that, so that its price can be seen: each goroutine then is a processor to the core, with its
own spans, pages and stacks in stock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from pymem import graph
from pymem._arguments import instance, whole
from pymem._native import ffi, lib
from pymem.errors import ConfigError, SizeError
from pymem.malloc import malloc, malloc_batch
from pymem.roots import Frame, Roots, Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    import numpy.typing as npt

    from pymem._arrays import UInt64s
    from pymem._heap import Heap
    from pymem.gotypes import AnyType, TypeTable

__all__ = ["Cache", "Goroutine", "Scheduler"]

Cache = Literal["p", "goroutine"]

STACK_MIN = 2048
"""Bytes of a new goroutine's stack."""
STACK_MAX = 1_000_000_000
"""Bytes a goroutine's stack may not pass, unless it is set otherwise. Go: maxstacksize."""
_MAX_PROCS = 1 << 15


class Goroutine:
    """A goroutine: a name, a stack, and the processor on which it allocates.

    Its stack comes from the stack pools and takes pages from among the heap's, as in Go. The `g` that Go allocates for
    it and the closure it runs are the program's objects: allocate them where they matter. Go keeps some dead goroutines
    with their stacks for the next `go` statement; here the stack goes back at exit.
    """

    __slots__ = ("_frames", "_proc", "_sched", "id", "name", "p", "roots", "stack", "stack_size")

    def __init__(self, sched: Scheduler, *, id_: int, name: str, p: int | None, proc: int) -> None:
        self._sched = sched
        self._proc = proc
        self.id = id_
        self.name = name
        self.p = p
        """Number of its processor; None with cache="goroutine"."""
        self.stack_size = STACK_MIN
        self.stack: int | None = sched.stack_alloc(self.proc, STACK_MIN)
        """Address of its stack; None after exit."""
        self.roots = Roots(sched.heap, stack=True)
        """What it holds outside all frames, by name: `g.roots["head"] = addr`."""
        self._frames = Stack(sched.heap)

    @property
    def proc(self) -> int:
        """The core's number of the processor or cache it allocates from."""
        return self._proc if self.p is None else self._sched.proc(self.p)

    def malloc(self, size: int, *, noscan: bool | None = None, type: AnyType = 0) -> int:
        """Allocate as `Runtime.malloc` does, on this goroutine's processor."""
        self._alive()
        sched = self._sched
        return malloc(sched.heap, sched.types, self.proc, size, noscan=noscan, type_=type)

    def malloc_batch(
        self,
        size_or_sizes: Any,
        n: int | None = None,
        *,
        noscan: Any = None,
        types: npt.ArrayLike | Sequence[AnyType] | AnyType | None = None,
        out: UInt64s | None = None,
    ) -> UInt64s:
        """Allocate as `Runtime.malloc_batch` does, on this goroutine's processor."""
        self._alive()
        sched, proc = self._sched, self.proc
        return malloc_batch(
            sched.heap, sched.types, proc, size_or_sizes, n, noscan=noscan, types=types, out=out
        )

    def new(self, type: AnyType, n: int = 1) -> int:
        """Allocate as `Runtime.new` does, on this goroutine's processor."""
        self._alive()
        return graph.new(self._sched.heap, self._sched.types, self.proc, type, n)

    def new_batch(self, type: AnyType, n: int) -> UInt64s:
        """Allocate as `Runtime.new_batch` does, on this goroutine's processor."""
        self._alive()
        return graph.new_batch(self._sched.heap, self._sched.types, self.proc, type, n)

    def frame(self, variables: Mapping[str, int] | None = None, /, **more: int) -> Frame:
        """Return the frame of a call with these variables: `with g.frame(a=addr, b=0) as f: f["b"] = f["a"]`.

        What they point to lives until the frame is left; frames are left in the opposite order.
        """
        self._alive()
        if variables is not None:
            instance("variables", variables, Mapping, "a dict of names and addresses")
        return Frame(self._frames, {**(variables or {}), **more})

    @property
    def frames(self) -> tuple[Frame, ...]:
        """The frames that were entered and not left, the innermost last: how a fork finds its own."""
        return tuple(self._frames.frames)

    def grow_stack(self) -> int:
        """Move to a stack of twice the size and return its address. SizeError past 1,000,000,000 bytes."""
        old = self._alive()
        if 2 * self.stack_size > self._sched.max_stack:
            raise SizeError(f"goroutine stack exceeds {self._sched.max_stack}-byte limit")
        self.stack = self._sched.stack_alloc(self.proc, 2 * self.stack_size)
        self._sched.stack_free(self.proc, old, self.stack_size)
        self._sched.on_stack(self.stack_size, self.p)  # by how much it grew. Go: copystack
        self.stack_size *= 2
        return self.stack

    def name_root(self, roots: int, slot: int) -> str | None:
        """Return what a slot of a set of roots is called, if it is this goroutine's."""
        name = self.roots.name_of(roots, slot)
        name = self._frames.name_of(roots, slot) if name is None else name
        return None if name is None else f"{name} of {self.name}"

    def exit(self) -> None:
        """End the goroutine: its stack goes back. Its objects stay until a collection finds them dead."""
        self._sched.retire(self, self._alive())
        self.stack = None
        self._frames.release()
        self.roots.release()

    def _alive(self) -> int:
        if self.stack is None:
            raise ConfigError(f"goroutine {self.name!r} has ended: start another with Runtime.go()")
        return self.stack

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.stack is not None and not self._sched.heap.closed:
            self.exit()

    def __repr__(self) -> str:
        where = (
            "exited"
            if self.stack is None
            else f"on P {self.p}"
            if self.p is not None
            else "with its own cache"
        )
        return f"<Goroutine {self.id} {self.name!r} {where}>"


class Scheduler:
    """The processors of a runtime, and its goroutines."""

    __slots__ = ("cache", "goroutines", "heap", "last_id", "max_stack", "on_stack", "procs", "types")

    def __init__(
        self,
        heap: Heap,
        types: TypeTable,
        *,
        cache: Cache,
        gomaxprocs: int = 0,
        procs: list[int] | None = None,
    ) -> None:
        """Make gomaxprocs processors, or take over those that the heap has: procs, the core's numbers."""
        if cache not in ("p", "goroutine"):
            raise ConfigError(f"cache={cache!r}: give 'p' (Go's) or 'goroutine' (the textbook's)")
        self.heap = heap
        self.types = types
        self.procs: list[int] = [] if procs is None else procs
        """The core's numbers, by P. Always the same list."""
        self.cache = cache
        self.goroutines: dict[int, Goroutine] = {}
        self.last_id = 0
        self.max_stack = STACK_MAX
        self.on_stack: Callable[[int, int | None], None] = lambda amount, p: None
        """Told of bytes of stacks by which goroutines have more (below 0: less), and on which P, None: on none."""
        if procs is None:
            self.resize(self.proc_count(gomaxprocs))

    # ---- processors ----

    @staticmethod
    def proc_count(n: Any) -> int:
        """Return a number of processors that can be had."""
        return whole("gomaxprocs", n, 1, _MAX_PROCS)

    @property
    def gomaxprocs(self) -> int:
        """How many Ps there are."""
        return len(self.procs)

    def proc(self, p: int) -> int:
        """Return the core's number of a P."""
        try:
            if p >= 0:
                return self.procs[p]
        except (IndexError, TypeError, ValueError):  # the last: an array's truth
            pass
        raise ConfigError(f"there is no P {p!r}: this runtime has P 0 to P {len(self.procs) - 1}")

    def _new_proc(self) -> int:
        out = ffi.new("int32_t *")
        self.heap.call(lib.pymem_proc_new, out)
        return int(out[0])

    def resize(self, n: int) -> None:
        """Have n Ps. New ones start empty; those that go give back their caches. Go: procresize."""
        before = len(self.procs)
        try:
            while len(self.procs) < n:
                self.procs.append(self._new_proc())
        except MemoryError:
            self._destroy_procs(before)
            raise
        for g in self.goroutines.values():
            if g.p is not None:
                g.p %= n
        self._destroy_procs(n)

    def _destroy_procs(self, keep: int) -> None:
        while len(self.procs) > keep:
            self.heap.call(lib.pymem_proc_destroy, self.procs[keep])
            del self.procs[keep]

    # ---- goroutines ----

    def go(self, name: str | None, p: int | None) -> Goroutine:
        """Start a goroutine on P p; without p, on each in turn."""
        id_ = self.last_id + 1
        own = self.cache == "goroutine"
        if own and p is not None:
            raise ConfigError("with cache='goroutine' a goroutine is on no P: leave p out")
        where = None if own else (id_ - 1) % self.gomaxprocs if p is None else p
        proc = self._new_proc() if where is None else self.proc(where)
        try:
            g = Goroutine(self, id_=id_, name=name or f"goroutine {id_}", p=where, proc=proc)
        except MemoryError:
            if own:
                self.heap.call(lib.pymem_proc_destroy, proc)
            raise
        self.last_id = id_
        self.goroutines[id_] = g
        self.on_stack(g.stack_size, g.p)
        return g

    def retire(self, g: Goroutine, stack: int) -> None:
        """Take a goroutine's stack, and its cache if it has its own: emptied first, which alone may take memory."""
        if g.p is None:
            self.heap.call(lib.pymem_flush, g.proc)
        self.stack_free(g.proc, stack, g.stack_size)
        self.on_stack(-g.stack_size, g.p)
        del self.goroutines[g.id]
        if g.p is None:
            self.heap.call(lib.pymem_proc_destroy, g.proc)

    def stack_alloc(self, proc: int, size: int) -> int:
        """Return the address of a fresh stack."""
        out = ffi.new("uint64_t *")
        self.heap.call(lib.pymem_stack_alloc, proc, size, True, out)
        return int(out[0])

    def stack_free(self, proc: int, addr: int, size: int) -> None:
        """Give a stack back."""
        self.heap.call(lib.pymem_stack_free, proc, addr, size, True)
