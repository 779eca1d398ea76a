"""Compaction: what moves where, what follows it, what it costs, and that a program cannot tell but by addresses."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from core import BASE, NO_PROC, PAGE, Core
from hypothesis import given, settings
from hypothesis import strategies as st

import pymem
from pymem import types
from pymem._native import lib
from pymem.errors import AddressError, ConfigError
from pymem.gc.compaction import Compaction, Compactor, Moves
from pymem.gc.costs import Costs
from pymem.gc.events import GCEvent, GCPhase
from pymem.layout import Type

NODE = types.struct("Node", left=types.ptr("Node"), right=types.ptr("Node"), key=types.int64)


@pytest.fixture
def core() -> Iterator[Core]:
    core = Core()
    core.proc_new()
    core.type_add(1, 32, (0, 2))
    yield core
    core.check()


def sparse(
    core: Core, size: int, *, noscan: bool = False, type_: int = 1, n: int = 2000, keep: int = 10
) -> Any:
    """Allocate n objects, have all but each keep-th die, and return those that live."""
    addrs = core.malloc_same(0, size, noscan, type_, n)
    core.gc_collect(0, sorted({*addrs} - {*addrs[::keep]}))
    return addrs[::keep]


# ---- the rule ----


def expected_moves(
    core: Core, max_fill: float, pinned: set[int]
) -> tuple[list[tuple[int, int, int]], list[int]]:
    """Plan a compaction the plain way: return the moves and the spans to be emptied, by class and address."""
    classes = defaultdict(list)
    for span in core.spans():
        if span["state"] == 1 and span["span_class"] > 1:
            classes[int(span["span_class"])].append(span)
    moves, victims = [], []
    for _, spans in sorted(classes.items()):
        n, size = int(spans[0]["slots"]), int(spans[0]["slot_size"])
        count = sum(n - int(s["used"]) for s in spans) // n
        sparsest = sorted(spans, key=lambda s: (s["used"], -int(s["base"])))
        fit = [int(s["base"]) for s in sparsest if s["used"] <= max_fill * n]
        gone = sorted([base for base in fit if base not in pinned][:count])
        used = {
            int(s["base"]): {(a - int(s["base"])) // size for a, _ in core.objects(int(s["base"]))}
            for s in spans
        }
        room = (b + i * size for b in sorted(used) if b not in gone for i in range(n) if i not in used[b])
        for base in gone:
            moves += [(base + i * size, next(room), size) for i in sorted(used[base])]
        victims += gone
    return moves, victims


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_choice(seed: int) -> None:
    """The sparsest spans of each class go, as many as fit into the others, and objects fill those up by address."""
    rng = random.Random(seed)
    core = Core()
    core.proc_new()
    kept: list[int] = []
    for size in rng.sample([8, 16, 24, 48, 256, 512, 513, 1000, 3072, 9472, 32768, 40000], 4):
        n = rng.randrange(1, min(5 * 8192 // size + 30, 3000))
        kept += core.malloc_same(0, size, size >= 16 and rng.random() < 0.5, 0, n)
    rng.shuffle(kept)
    dead = kept[: len(kept) * rng.randrange(10) // 10]
    core.gc_collect(0, dead)
    kept = sorted({*kept} - {*dead})
    pins = rng.sample(kept, min(len(kept), rng.randrange(3)))
    fill = rng.choice([0.1, 0.5, 0.9, 1.0])
    pinned = {
        int(s["base"]) for s in core.spans() for p in pins if 0 <= p - int(s["base"]) < s["pages"] * PAGE
    }
    want, victims = expected_moves(core, fill, pinned)
    living = core.living()
    types_before = [living[a] for a in kept]
    out, moves = core.compact(0, fill, pins)
    assert moves == want
    assert (out.spans_freed, out.bytes_moved) == (len(victims), sum(size for _, _, size in want))
    bases = {int(s["base"]) for s in core.spans()}
    assert not bases & set(victims)
    core.check()
    living = core.living()
    assert [living[a] for a in translated(moves, kept)] == types_before
    core.malloc_same(0, 48, False, 0, 500)
    core.check()


def translated(moves: list[tuple[int, int, int]], addrs: list[int]) -> list[int]:
    """Return the addresses after the moves."""
    if not moves:
        return addrs
    old, new, size = (np.array(column, np.uint64) for column in zip(*sorted(moves), strict=True))
    return [int(a) for a in Moves(old, new, size).translate(addrs)]


def test_plan_moves_nothing(core: Core) -> None:
    kept = sparse(core, 32)
    plan, _ = core.compact(plan=True)
    assert set(core.living()) == set(kept)
    out, moves = core.compact()
    assert (plan.objects_moved, plan.spans_freed, plan.pages_won) == (
        out.objects_moved,
        out.spans_freed,
        out.pages_won,
    )
    assert len(moves) == plan.objects_moved > 0


def test_nothing_is_left_to_move(core: Core) -> None:
    sparse(core, 32)
    core.compact()
    out, moves = core.compact()
    assert (out.spans_freed, moves) == (0, [])


@pytest.mark.parametrize("fill", [0.0, -1.0, 1.5, float("nan")])
def test_refused_fill(core: Core, fill: float) -> None:
    with pytest.raises(ConfigError, match="above 0"):
        core.compact(0, fill)


def test_refused_in_a_cycle(core: Core) -> None:
    core.gc_begin(0)
    with pytest.raises(ConfigError, match="under way"):
        core.compact()
    core.gc_mark_and_flip()


# ---- what follows ----


def test_counters(core: Core) -> None:
    """Pages are won; what was allocated and freed is as before."""
    sparse(core, 32)
    before = core.stats(0, flush=True)
    out, _ = core.compact()
    after = core.stats(0, flush=True)
    assert before.heap_inuse - after.heap_inuse == out.pages_won * PAGE
    for name in ("heap_alloc", "total_alloc", "mallocs", "frees", "heap_live", "heap_sys"):
        assert getattr(before, name) == getattr(after, name)


@pytest.mark.parametrize("size", [8, 16, 32, 480, 512, 520, 4096, 20000])
def test_pointers_follow(core: Core, size: int) -> None:
    """Words of typed objects and roots, interior ones too; bytes that only look like an address stay."""
    core.type_add(2, size, (0,))
    kept = sparse(core, size, type_=2, n=max(40, 100_000 // size), keep=7)
    targets = [*kept[1:], kept[0]]
    core.store(kept, [0] * len(kept), [t + size // 2 for t in targets])
    if size > 8:
        for a, t in zip(kept, targets, strict=True):
            core.memory(a + 8, 8)[:] = t.to_bytes(8, "little")
    root = core.roots_new([kept[0] + 5])
    _, moves = core.compact()
    assert moves
    now = translated(moves, kept)
    assert core.roots_get(root, 0, 1) == [now[0] + 5]
    assert core.load(now, [0] * len(now)) == [a + size // 2 for a in [*now[1:], now[0]]]
    if size > 8:
        assert core.load(now, [8] * len(now)) == targets
    assert core.gc_graph().objects_marked == len(kept)


def test_large_arrays_follow(core: Core) -> None:
    """A large object does not move, but its pointers are set right."""
    kept = sparse(core, 32)
    large = core.malloc(0, 320_000, False, 1)
    core.store([large] * 3, [0, 16, 319_984], [kept[-1], kept[-2] + 8, kept[-3]])
    core.memory(large + 8, 8)[:] = kept[-1].to_bytes(8, "little")
    _, moves = core.compact()
    a, b, c = translated(moves, [kept[-1], kept[-2], kept[-3]])
    assert a != kept[-1]
    assert core.load([large] * 4, [0, 16, 319_984, 8]) == [a, b + 8, c, kept[-1]]


def test_words_of_unknown_types_pin(core: Core) -> None:
    """What they may point to stays, and they hold what they held; the object that holds them may move."""
    kept = sparse(core, 32)
    for size in (48, 704, 100_000):
        holder = core.malloc(0, size)
        core.store([holder], [size - 8], [kept[-1] + 3])
    free, _ = core.compact(plan=True, max_fill=0.5)
    assert free.spans_pinned == 1
    _, moves = core.compact(max_fill=0.5)
    assert translated(moves, [kept[-1], holder]) == [kept[-1], holder]
    assert core.load([holder], [size - 8]) == [kept[-1] + 3]
    loose = sparse(core, 48, type_=0)
    _, moves = core.compact()
    assert translated(moves, loose) != loose


def test_pins_where_nothing_lives(core: Core) -> None:
    sparse(core, 32)
    plain, _ = core.compact(plan=True)
    out, _ = core.compact(plan=True, pins=[0, 1, BASE + (1 << 30), 1 << 60, core.stack_alloc(0, 2048)])
    assert out.spans_pinned == plain.spans_pinned == 0


def test_tiny_blocks(core: Core) -> None:
    """A block moves as one; each of its objects can still die by itself."""
    addrs = core.malloc_same(0, 5, True, 0, 6000)
    core.gc_collect(0, [a for i, a in enumerate(addrs) if i // 3 % 9])
    core.gc_collect(0, [])  # the block that still took others when the first mark began
    kept = [a for i, a in enumerate(addrs) if not i // 3 % 9]
    _, moves = core.compact()
    assert moves
    now = translated(moves, kept)
    assert all(core.object_at(a).tiny for a in now)
    blocks = len({a // 16 for a in now})
    assert core.gc_collect(0, now[::3])[2] == 0
    assert core.gc_collect(0, now[1::3] + now[2::3])[2] == blocks


def test_dead_objects_move_dead(core: Core) -> None:
    kept = sparse(core, 32)
    core.mark_dead(kept[::2])
    _, moves = core.compact()
    for a, dead in zip(translated(moves, kept), [True, False] * len(kept), strict=False):
        if dead:
            with pytest.raises(AddressError, match="dead already"):
                core.object_at(a)
        else:
            core.object_at(a)
    assert core.gc_collect(0, [])[2] == len(kept[::2])


def test_caches_are_flushed(core: Core) -> None:
    """Also those of other procs, whose spans then take part."""
    core.proc_new()
    a, b = core.malloc(0, 32, False, 1), core.malloc(1, 32, False, 1)
    out, moves = core.compact()
    assert (out.spans_freed, moves) == (1, [(b, a + 32, 32)])
    assert core.malloc(1, 32, False, 1) == a + 64
    with pytest.raises(ConfigError, match="no processor 7"):
        core.compact(7)
    core.compact(NO_PROC)


# ---- in a runtime ----


def fragmented(rt: pymem.Runtime, n: int = 20_000, keep: int = 10) -> int:
    """Make a list in the global `head` of one node in so many, spread over all of the heap; return its length."""
    nodes = rt.new_batch(NODE, n)[::keep]
    rt.store_batch(nodes[:-1], NODE.pointer_at("left"), nodes[1:])
    rt.globals["head"] = int(nodes[0])
    return len(nodes)


def length(rt: pymem.Runtime) -> int:
    n, at = 0, rt.globals["head"]
    while at:
        n, at = n + 1, rt.load(at, "left")
    return n


def test_off_by_default() -> None:
    with pymem.Runtime() as rt:
        fragmented(rt)
        assert (rt.gc().compaction, rt.moves, rt.gc_stats.cycles[0].compaction) == (None, None, None)


def test_cycle_ends_with_it() -> None:
    events: list[GCEvent] = []
    with pymem.Runtime(compaction=True) as rt:
        rt.on_gc(events.append)
        n = fragmented(rt)
        inuse = rt.read_mem_stats().heap_inuse
        result = rt.gc()
        assert length(rt) == n
        done = result.compaction
        assert done is not None
        assert done == rt.gc_stats.cycles[0].compaction
        assert done.bytes_moved == done.objects_moved * 24
        assert done.pages_won == done.spans_freed == result.freed_pages > 40
        assert done.pointers_set >= done.objects_moved - 1
        assert inuse - rt.read_mem_stats().heap_inuse == done.pages_won * PAGE
        assert [e.phase for e in events] == [
            GCPhase.SWEEP_TERMINATION,
            GCPhase.MARK,
            GCPhase.MARK_TERMINATION,
            GCPhase.COMPACTION,
            GCPhase.SWEEP,
            GCPhase.SWEPT,
        ]
        assert events[3].moves is rt.moves is not None
        assert len(rt.moves) == done.objects_moved
        rt.check()


def test_time_is_charged() -> None:
    """Sweeping, moving and fixing, by all Ps, in a pause that all statistics know of."""
    costs = Costs(
        move_object_ns=3.0, move_byte_ns=2.0, fix_byte_ns=5.0, sweep_span_ns=100.0, stop_ns=0, term_ns=0
    )
    with pymem.Runtime(compaction=True, costs=costs, gomaxprocs=2) as rt:
        fragmented(rt)
        result = rt.gc()
        cycle = rt.gc_stats.cycles[0]
        done = cycle.compaction
        assert done is not None
        work = cycle.heap_scan_work + cycle.stack_scan_work + cycle.globals_scan_work
        ns = result.swept_spans * 100 + done.objects_moved * 3 + done.bytes_moved * 2 + work * 5
        assert done.time_ns == pytest.approx(ns / 2, abs=100)  # a cached span is swept by its flush
        assert done.time_ns == cycle.pause_ns == cycle.end_ns - cycle.term_ns
        assert rt.read_mem_stats().pause_total_ns == done.time_ns
        assert rt.gc_stats.cpu.gc_pause == 2 * done.time_ns


@pytest.mark.parametrize("share", [0, -0.5, 1.01, float("nan"), "half", None])
def test_refused_share(share: Any) -> None:
    with pytest.raises(ConfigError, match="share above 0"):
        pymem.Runtime(compaction=share)


def test_share() -> None:
    """Nothing is moved out of spans that are fuller."""
    for share, moved in ((0.05, False), (0.2, True), (1, True)):
        with pymem.Runtime(compaction=share) as rt:
            fragmented(rt)
            done = rt.gc().compaction
            assert done is not None
            assert (done.objects_moved > 0) is moved


class Failing(Compactor):
    """Has the n-th of its allocations fail."""

    n = 0

    def run(self, proc: int, held: list[Any]) -> Compaction:
        lib.pymem_fault_after(self._heap.handle, self.n)
        try:
            return super().run(proc, held)
        finally:
            lib.pymem_fault_after(self._heap.handle, -1)


def test_no_memory() -> None:
    """Without memory for its tables a cycle ends without compaction."""
    with pymem.Runtime() as rt:
        n = fragmented(rt)
        rt._gc.compactor = failing = Failing(rt._heap, True)
        while rt.gc().compaction is None:
            rt.check()
            assert length(rt) == n
            failing.n += 1
        assert failing.n > 4
        assert length(rt) == n
        assert rt.moves


def test_what_a_call_returns_is_right() -> None:
    """An object that was just made stays where it is until its caller knows it; so do earlier ones of its batch."""
    with pymem.Runtime(compaction=True, gogc=1) as rt:
        for _ in range(60):
            batch = rt.new_batch(NODE, 3000)
            assert all(rt.object_at(a).slot_size == 24 for a in batch[::50].tolist())
            assert len(np.unique(batch)) == 3000
            fragmented(rt, 1000)
            node = rt.new(NODE)
            rt.view(node)["key"] = 7
            assert rt.object_at(node).address == node
        assert sum(c.compaction.objects_moved > 0 for c in rt.gc_stats.cycles if c.compaction) > 3


def test_views_and_frames() -> None:
    with pymem.Runtime(compaction=True) as rt, rt.go() as g, g.frame(x=0) as frame:
        fragmented(rt)
        last = rt.globals["head"]
        while after := rt.load(last, "left"):
            last = after
        rt.view(last)["key"] = 42
        frame["x"] = last
        rt.gc()
        assert frame["x"] != last
        assert rt.moves is not None
        assert rt.moves.translate([last, last + 16, 0, 8]).tolist() == [frame["x"], frame["x"] + 16, 0, 8]
        assert rt.view(frame["x"])["key"] == 42


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_by_record(seed: int) -> None:
    """Without contents slots move all the same; an observer keeps a program's list of addresses right."""
    rng = random.Random(seed)
    held, sizes = np.zeros(0, np.uint64), np.zeros(0, np.int64)
    gogc = rng.choice(["off", "5"])
    with pymem.Runtime(compaction=rng.choice([True, 0.9]), liveness="record", gogc=gogc) as rt:
        rt.on_gc(lambda event: event.moves.apply(held) if event.moves else None)
        moved = 0
        for _ in range(8):
            size = np.array([rng.choice([3, 8, 12, 24, 64, 600, 5000]) for _ in range(700)])
            fresh = rt.malloc_batch(size, noscan=size < 16)
            held, sizes = np.concatenate([held, fresh]), np.concatenate([sizes, size])
            dies = np.array([rng.random() < 0.8 for _ in held])
            if rng.random() < 0.5:
                rt.declare_dead(held[dies])
                dead = None
            else:
                dead = held[dies]
            held, sizes = held[~dies], sizes[~dies]
            rt.gc(dead)
            moved += len(rt.moves or ())
            rt.check()
            assert all(
                rt.object_at(a).slot_size >= s for a, s in zip(held.tolist(), sizes.tolist(), strict=True)
            )
        assert moved


# ---- a program cannot tell ----

RAW = 48
BYTES = 5
SHAPES: tuple[tuple[Type | int, int], ...] = (
    (NODE, 1),
    (NODE, 30),
    (types.ptr(NODE), 1),
    (types.array(types.struct(a=types.array(types.int64, 9), p=types.ptr(NODE)), 3), 5),
    (types.any, 40),
    (types.string, 3000),
    (RAW, 1),  # of no type: each word may be a pointer
    (BYTES, 1),  # tiny
)


@dataclass
class Thing:
    """An object as the program knows it."""

    size: int
    places: list[int]
    """offsets of words that may hold pointers"""
    edges: dict[int, tuple[int, int]] = field(default_factory=dict)
    """by offset: the number of the object pointed to, and how far inside"""
    content: bytes = b""


class Graph:
    """A random program, and what its heap must look like: numbered objects instead of addresses."""

    def __init__(self, rt: pymem.Runtime, frame: Any, rng: random.Random) -> None:
        self.rt, self.frame, self.rng = rt, frame, rng
        self.things: dict[int, Thing] = {}
        self.roots: dict[str, tuple[int, int]] = {}
        self.addr: dict[int, int] = {}
        self.made = 0
        rt.on_gc(self.moved)

    def moved(self, event: GCEvent) -> None:
        if event.moves:
            old = np.fromiter(self.addr.values(), np.uint64, len(self.addr))
            now = event.moves.translate(old).tolist()
            self.addr = dict(zip(self.addr, now, strict=True))

    def new(self) -> None:
        """Make an object, fill all that is no pointer, and hold it by a root."""
        rng, (kind, n) = self.rng, self.rng.choice(SHAPES)
        if isinstance(kind, int):
            addr, size = self.rt.malloc(kind, noscan=kind == BYTES), kind
            places = [0, 24] if kind == RAW else []
        else:
            addr, size = self.rt.new(kind, n), kind.size * n
            words = np.flatnonzero(kind.pointer_mask()) * 8
            places = [int(i * kind.size + w) for i in range(n) for w in words]
        content = bytearray(rng.randbytes(size))
        for place in places:
            content[place : place + 8] = bytes(8)
        if kind == RAW and self.addr:  # numbers that look like an object's address
            content[8:16] = rng.choice([*self.addr.values()]).to_bytes(8, "little")
        self.rt.view(addr, types.byte, size)[:] = np.frombuffer(content, np.uint8)
        self.made += 1
        self.things[self.made], self.addr[self.made] = Thing(size, places, {}, bytes(content)), addr
        self.hold(self.made)
        if rng.random() < 0.5:
            self.litter(kind, size)

    def litter(self, kind: Type | int, size: int) -> None:
        """Fill up the span with garbage of its kind, so that what lives lies far apart."""
        n = 8192 // size + 1
        if isinstance(kind, int):
            self.rt.malloc_batch(size, n, noscan=kind == BYTES)
        else:
            self.rt.malloc_batch(size, n, types=kind)

    def hold(self, number: int) -> None:
        inside = self.rng.randrange(self.things[number].size)
        name = self.rng.choice([*self.frame, *(f"global{i}" for i in range(40))])
        self.roots[name] = number, inside
        where = self.frame if name in self.frame else self.rt.globals
        where[name] = self.addr[number] + inside

    def store(self) -> None:
        source = self.rng.choice([k for k, t in self.things.items() if t.places] or [0])
        if not source:
            return
        target = self.rng.choice([*self.things])
        place = self.rng.choice(self.things[source].places)
        inside = self.rng.randrange(self.things[target].size)
        self.things[source].edges[place] = target, inside
        self.rt.store(self.addr[source], place, self.addr[target] + inside)

    def prune(self) -> None:
        """Forget what cannot be reached."""
        found, todo = set[int](), [number for number, _ in self.roots.values()]
        while todo:
            number = todo.pop()
            if number not in found:
                found.add(number)
                todo += [target for target, _ in self.things[number].edges.values()]
        self.things = {k: t for k, t in self.things.items() if k in found}
        self.addr = {k: a for k, a in self.addr.items() if k in found}

    def check(self) -> None:
        """The heap holds this very graph: roots, pointers and contents."""
        self.rt.check()
        self.prune()
        assert len(set(self.addr.values())) == len(self.addr)
        for name, (number, inside) in self.roots.items():
            where = self.frame if name in self.frame else self.rt.globals
            assert where[name] == self.addr[number] + inside
        for number, thing in self.things.items():
            want = bytearray(thing.content)
            for place, (target, inside) in thing.edges.items():
                want[place : place + 8] = (self.addr[target] + inside).to_bytes(8, "little")
            assert self.rt.view(self.addr[number], types.byte, thing.size).tobytes() == want


def run_graph(seed: int, *, compaction: bool | float, steps: int = 250) -> tuple[dict[int, Thing], int]:
    """Return the graph that a random program ends with, and how many objects were moved."""
    rng = random.Random(seed)
    with (
        pymem.Runtime(compaction=compaction, gogc=rng.choice([1, 2, 5])) as rt,
        rt.go() as g,
        g.frame(a=0, b=0, c=0, d=0) as frame,
    ):
        graph = Graph(rt, frame, rng)
        for _ in range(steps):
            step = rng.random()
            if step < 0.5:
                graph.new()
            elif step < 0.9 and graph.things:
                graph.store()
            elif step < 0.93:
                rt.gc()
            graph.prune()
            if step > 0.9:
                graph.check()
        rt.gc()
        graph.check()
        moved = sum(c.compaction.objects_moved for c in rt.gc_stats.cycles if c.compaction)
        return graph.things, moved


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_graphs_are_isomorphic(seed: int) -> None:
    """The same program with and without compaction ends with the same objects, contents and edges."""
    plain, none = run_graph(seed, compaction=False)
    moved, _ = run_graph(seed, compaction=1)
    assert none == 0
    assert {k: (t.size, t.edges) for k, t in plain.items()} == {
        k: (t.size, t.edges) for k, t in moved.items()
    }


def test_graphs_are_moved() -> None:
    """The test above does move things."""
    assert min(run_graph(seed, compaction=1)[1] for seed in range(5)) > 20
