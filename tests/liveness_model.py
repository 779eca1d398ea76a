"""A plain model of an object graph that says who lives, and what the programs that drive it against a heap share.

The model knows every pointer that the program has stored, and finds what can be reached by a walk of its own. Whenever
a mark ends, what the heap calls living is held against it:

    what can be reached now                         lives
    what could not be reached when the mark began   is gone, but for a tiny block that is still being handed out
    what was born since                             may live

Programs do what Go programs can: they get at objects by way of roots only.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

import pymem
from pymem import types
from pymem._arrays import pointer
from pymem._heap import Heap
from pymem._native import ffi, lib
from pymem.layout import Type

NODE = types.struct("Node", left=types.ptr("Node"), right=types.ptr("Node"), key=types.int64)
VIEW = types.struct(n=types.int64, part=types.slice(types.slice(NODE)), any=types.any)
FAR = types.struct(a=types.array(types.int64, 63), p=types.ptr(NODE))

Shape = tuple[Type | None, int, bool]
"""A type or None, how many values (bytes where there is no type), and whether such objects hold no pointers."""

SMALL: tuple[Shape, ...] = (
    (NODE, 1, False),
    (NODE, 1, False),
    (types.ptr(NODE), 1, False),
    (types.array(types.ptr(NODE), 2), 1, False),
    (VIEW, 1, False),
    (VIEW, 5, False),
    (FAR, 1, False),
    (types.ptr(NODE), 40, False),
    (None, 40, False),
    (types.int64, 8, True),
    (None, 8, True),
    (None, 12, True),
    (None, 1, True),
)
BIG: tuple[Shape, ...] = (
    (types.ptr(NODE), 100, False),
    (NODE, 200, False),
    (FAR, 20, False),
    (None, 3000, False),
    (types.any, 1500, False),
    (types.ptr(NODE), 5000, False),
    (None, 40_000, False),
    (types.int64, 6000, True),
    (NODE, 12_000, False),
)
"""The last three are large objects, two of them of more than one oblet."""
_PLACES = 48
"""Pointer words of an object that are used, at most: some at its start, its end, and between."""
_HOPS = 8
TINY = 16


def _places(shape: Shape) -> tuple[int, ...]:
    """Return offsets at which objects of a shape hold pointers."""
    type_, n, noscan = shape
    if noscan:
        return ()
    if type_ is None:
        every = np.arange(0, n // 8 * 8, 8)
    else:
        words = np.flatnonzero(type_.pointer_mask()) * 8
        every = (np.arange(n)[:, None] * type_.size + words).ravel()
    some = np.unique(np.linspace(0, len(every) - 1, min(_PLACES, len(every))).astype(int))
    return tuple(int(x) for x in every[some])


PLACES: dict[Shape, tuple[int, ...]] = {shape: _places(shape) for shape in (*SMALL, *BIG)}


def bytes_of(shape: Shape) -> int:
    type_, n, _ = shape
    return n if type_ is None else n * type_.size


class Obj:
    """An object as the model knows it. Tiny objects that share a block are one."""

    __slots__ = ("addr", "out", "places", "seen", "size", "tiny")

    def __init__(self, addr: int, size: int, places: tuple[int, ...], *, tiny: bool = False) -> None:
        self.addr, self.size, self.places, self.tiny = addr, size, places, tiny
        self.out: dict[int, tuple[Obj, int]] = {}
        """By offset: whom it points to, and the address stored."""
        self.seen = 0


Root = tuple[Obj, int] | None
"""What a variable holds: an object, and the address in it; None is nil."""
Roots = dict[Any, tuple[Obj, int]]
"""Variables that are not nil, by name or place."""


def address(value: Root) -> int:
    return value[1] if value else 0


def assign(roots: dict[Any, tuple[Obj, int]], key: Any, value: Root) -> None:
    if value:
        roots[key] = value
    else:
        roots.pop(key, None)


class Model:
    """The graph: all objects that the heap may still have, and the variables."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.objects: dict[int, Obj] = {}
        self.variables: list[Roots] = []
        """Globals, and the frames of stacks. Writer: the program."""
        self.marking = False
        self.cycles = 0
        self.freed = 0
        self._walk = 0
        self._open_blocks = 0
        self._known: set[int] = set()
        self._reached: set[int] = set()
        self.strangers: set[int] = set()
        """Living at the end of a mark, but not known yet: made by the call that is under way."""

    # ---- objects ----

    def born(self, addr: int, shape: Shape) -> Obj:
        size = bytes_of(shape)
        if shape[2] and size < TINY:
            return self._born_tiny(addr)
        obj = self.objects[addr] = Obj(addr, size, PLACES[shape])
        return obj

    def _born_tiny(self, addr: int) -> Obj:
        base = addr - addr % TINY
        known = self.objects.get(base)
        if known is None or not known.tiny:
            known = self.objects[base] = Obj(base, TINY, (), tiny=True)
        return known

    def inside(self, obj: Obj) -> Root:
        """Return a pointer to an object, half of the time somewhere into it."""
        if obj.size == 1 or self.rng.random() < 0.5:
            return obj, obj.addr
        return obj, obj.addr + self.rng.randrange(obj.size)

    # ---- walks ----

    def reach(self) -> set[int]:
        """Return the addresses of all that the variables lead to."""
        self._walk += 1
        walk, found = self._walk, set[int]()
        todo = [root[0] for variables in self.variables for root in variables.values()]
        while todo:
            obj = todo.pop()
            if obj.seen != walk:
                obj.seen = walk
                found.add(obj.addr)
                todo += [target for target, _ in obj.out.values()]
        return found

    def stroll(self) -> Obj | None:
        """Return some object that can be reached: a few steps from a variable."""
        rng = self.rng
        held = list(self.variables[rng.randrange(len(self.variables))].values())
        if not held:
            return None
        obj = held[rng.randrange(len(held))][0]
        for _ in range(rng.randrange(_HOPS)):
            if not obj.out:
                break
            out = list(obj.out.values())
            obj = out[rng.randrange(len(out))][0]
        return obj

    # ---- cycles ----

    def mark_begins(self, *, open_blocks: int) -> None:
        """open_blocks: tiny blocks that procs hand out, at most; each may be kept though nobody points to it."""
        self.marking, self._open_blocks = True, open_blocks
        self._known, self._reached = set(self.objects), self.reach()

    def mark_ends(self, living: set[int]) -> None:
        """Compare, and forget what was freed."""
        assert self.marking
        self.marking = False
        self.cycles += 1
        lost = self.reach() - living
        assert not lost, f"freed, but reachable: {self.describe(lost)}"
        kept = (living & self._known) - self._reached
        blocks = {a for a in kept if self.objects[a].tiny}
        assert kept == blocks, f"kept, but unreachable when the mark began: {self.describe(kept - blocks)}"
        assert len(blocks) <= self._open_blocks
        self.strangers |= living - set(self.objects)
        self.freed += len(self.objects) - len(living & set(self.objects))
        self.objects = {a: o for a, o in self.objects.items() if a in living}

    def describe(self, addrs: Iterable[int]) -> str:
        return ", ".join(f"{a:#x} of {self.objects[a].size} bytes" for a in sorted(addrs)[:5])


class Living:
    """The addresses of all objects that a heap calls living, as fast as Python can ask."""

    def __init__(self, heap: Heap) -> None:
        self._heap = heap
        self._addrs, self._types = np.empty(1024, np.uint64), np.empty(1024, np.uint32)
        self._out = pointer("uint64_t", self._addrs), pointer("uint32_t", self._types)
        self._count = ffi.new("uint32_t *")

    def __call__(self) -> set[int]:
        found: list[int] = []
        for row in pymem.inspect.spans(self._heap)[["base", "state"]].tolist():
            if row[1] == 1:
                self._heap.call(lib.pymem_objects, row[0], *self._out, self._count)
                found += self._addrs[: self._count[0]].tolist()
        return set(found)


class Program:
    """What both drivers share: a model, the choice of the next step, and comparisons of contents."""

    STEPS: ClassVar[dict[str, int]] = {}
    """Kinds of steps with their weights; a method `do_<kind>` each."""

    def __init__(self, seed: int, heap: Heap) -> None:
        self.rng = random.Random(seed)
        self.heap = heap
        self.model = Model(self.rng)
        self.living = Living(heap)
        self.steps = 0
        self._does = {kind: getattr(self, f"do_{kind}") for kind in self.STEPS}
        self._calls = [self._does[kind] for kind, weight in self.STEPS.items() for _ in range(weight)]
        self._info = ffi.new("pymem_object_info *")

    def run(self, steps: int, *, check: int = 1, only: str | None = None) -> None:
        """Take so many steps, proving the heap's invariants after every check-th. only: steps of one kind."""
        calls = [self._does[only]] if only else self._calls
        for _ in range(steps):
            calls[self.rng.randrange(len(calls))]()
            self.steps += 1
            if self.steps % check == 0:
                self.heap.call(lib.pymem_heap_check)

    # ---- choices ----

    def shape(self) -> Shape:
        return self.rng.choice(BIG) if self.rng.random() < 0.03 else self.rng.choice(SMALL)

    def count(self, most: int) -> int:
        """Return a number from 1 on, small ones mostly."""
        return int(most ** self.rng.random())

    # ---- pointers ----

    def set_place(self, obj: Obj, place: int, value: Root) -> None:
        """Store in an object."""
        self.store([obj.addr], [place], [address(value)])
        assign(obj.out, place, value)

    def store(self, objects: list[int], offsets: list[int], targets: list[int]) -> None:
        columns = [np.array(column, np.uint64) for column in (objects, offsets, targets)]
        done = ffi.new("uint64_t *")
        args = [pointer("uint64_t", column) for column in columns]
        self.heap.call(lib.pymem_store_batch, *args, len(objects), done)

    def holder(self) -> Obj | None:
        """Return a reachable object with room for pointers."""
        for _ in range(4):
            obj = self.model.stroll()
            if obj and obj.places:
                return obj
        return None

    def place(self, obj: Obj) -> int:
        """Return where an object may point from: from a place that is free, mostly."""
        free = [place for place in obj.places if place not in obj.out]
        return self.rng.choice(free if free and self.rng.random() < 0.8 else obj.places)

    def chain(self, new: list[Obj]) -> None:
        """Have each of some new objects point to the next where it can, in one batch."""
        links = [(a, self.rng.choice(a.places), b) for a, b in pairwise(new) if a.places]
        for a, place, b in links:
            a.out[place] = (b, b.addr)
        self.store([a.addr for a, _, _ in links], [p for _, p, _ in links], [b.addr for _, _, b in links])

    def do_link(self) -> None:
        """From one object to another."""
        obj, target = self.holder(), self.model.stroll()
        if obj and target:
            self.set_place(obj, self.place(obj), self.model.inside(target))

    def do_drop(self) -> None:
        """Forget a pointer."""
        obj = self.model.stroll()
        if obj and obj.out:
            self.set_place(obj, self.rng.choice(list(obj.out)), None)

    def do_move(self) -> None:
        """Take a pointer out of one place and put it into another: never in both while the collector looks."""
        obj, other = self.holder(), self.holder()
        if obj and other and obj.out:
            place = self.rng.choice(list(obj.out))
            value = obj.out[place]
            self.set_place(obj, place, None)
            self.set_place(other, self.place(other), value)

    def do_take(self) -> None:
        """Take a pointer out of an object and hold it in a variable alone: what only a barrier tells the collector."""
        obj = self.holder()
        if obj and obj.out:
            place = self.rng.choice(list(obj.out))
            if self.hold(obj.out[place]):
                self.set_place(obj, place, None)

    def hold(self, value: Root) -> bool:
        """Put a value into some variable, if there is one."""
        raise NotImplementedError

    def do_contents(self) -> None:
        """All pointers of some objects are what the model says."""
        objs = [o for _ in range(8) if (o := self.model.stroll()) and o.out]
        rows = [(o.addr, place, value[1]) for o in objs for place, value in o.out.items()]
        if rows:
            columns = np.array(rows, np.uint64)
            found, done = np.zeros(len(rows), np.uint64), ffi.new("uint64_t *")
            at = [pointer("uint64_t", np.ascontiguousarray(columns[:, k])) for k in (0, 1)]
            self.heap.call(lib.pymem_load_batch, *at, len(rows), pointer("uint64_t", found), done)
            assert (found == columns[:, 2]).all()

    def lives(self, addr: int) -> bool:
        return bool(lib.pymem_object_at(self.heap.handle, addr, self._info) == lib.PYMEM_OK)
