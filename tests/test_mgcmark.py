"""Marking by graph against a plain marker over the same memory: marks, bytes, scan work, and what is freed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from core import BASE, PAGE, Core
from hypothesis import HealthCheck, given, settings
from reference_mark import Marker, Slot
from strategies import graph_steps, seeds

import pymem
from pymem import inspect
from pymem._native import ffi, lib

# type: bytes of an element, words that hold pointers
TYPES: dict[int, tuple[int, tuple[int, ...]]] = {
    1: (8, (0,)),
    2: (16, (0, 1)),
    3: (24, (0, 1)),
    4: (40, (2,)),
    5: (512, (0, 63)),
    6: (48, (1, 3)),
    7: (1024, (0, 1, 100)),
    8: (3000 * 8, tuple(range(0, 3000, 700))),
    9: (72, (0, 8)),
}
NOSCAN = 20


class Program:
    """A program with a graph, and what the test knows of it."""

    def __init__(self, *, scan_sparse: bool = False) -> None:
        self.core = Core(scan_sparse=scan_sparse)
        self.core.proc_new()
        for type_, (size, words) in TYPES.items():
            self.core.type_add(type_, size, words)
        self.objects: dict[int, tuple[int, int]] = {}
        """type and bytes asked for, by address"""

    def new(self, type_: int, count: int = 1) -> int:
        size = (TYPES[type_][0] if type_ in TYPES else 24) * count
        addr = self.core.malloc(0, size, type_ == NOSCAN, type_)
        self.objects[addr] = (type_, size)
        return addr

    def pointer_offsets(self, addr: int) -> list[int]:
        """Return the offsets of an object at which it may point somewhere, within what was asked for."""
        type_, size = self.objects[addr]
        if type_ not in TYPES:
            return []
        step, words = TYPES[type_]
        return [elem + 8 * w for elem in range(0, size, step) for w in words]

    def slots(self) -> Iterator[Slot]:
        for addr in self.objects:
            info = inspect.object_at(self.core.heap, addr)
            span = inspect.span_of(self.core.heap, addr)
            yield self.slot(addr, info, span)

    def slot(self, addr: int, info: Any, span: Any) -> Slot:
        type_, size = self.objects[addr]
        large = span.span_class < 2
        start = 8 if not large and type_ != NOSCAN and info.slot_size > 512 else 0
        offsets: list[int] = []
        if type_ in TYPES:
            step, words = TYPES[type_]
            end = size if info.slot_size <= 512 else info.slot_size - start
            offsets = [
                start + elem + 8 * w for elem in range(0, end, step) for w in words if elem + 8 * w < end
            ]
        return Slot(
            addr - start, info.slot_size, start, span.base, span.slots, type_ == NOSCAN, large, tuple(offsets)
        )

    def reachable(self, roots: list[int]) -> set[int]:
        found: set[int] = set()
        todo = [r for r in roots if r]
        while todo:
            addr = todo.pop()
            if addr in found:
                continue
            found.add(addr)
            offsets = self.pointer_offsets(addr)
            todo += [p for p in self.core.load([addr] * len(offsets), offsets) if p]
        return found


def graph(program: Program, n: int, seed: int) -> list[int]:
    """Build a random graph; return some of its objects as roots."""
    rng = random.Random(seed)
    kinds = [*TYPES, NOSCAN]
    addrs = []
    for _ in range(n):
        type_ = rng.choice(kinds)
        addrs.append(
            program.new(type_, rng.choice([1, 1, 2, 3, 9]) if type_ != 8 else rng.choice([1, 8, 40]))
        )
    for addr in addrs:
        offsets = program.pointer_offsets(addr)
        picked = rng.sample(offsets, min(len(offsets), rng.choice([0, 1, 1, 2, 6])))
        program.core.store([addr] * len(picked), picked, [rng.choice(addrs) for _ in picked])
    return rng.sample(addrs, 3)


@pytest.mark.parametrize("scan_sparse", [False, True])
@given(seed=seeds)
@settings(max_examples=25, deadline=None)
def test_marks_bytes_and_work(scan_sparse: bool, seed: int) -> None:
    """A mark with the world stopped equals the plain one in everything, in Go's order too."""
    program = Program(scan_sparse=scan_sparse)
    roots = graph(program, 1500, seed)
    program.core.roots_new(roots)
    marker = Marker(program.core, list(program.slots()), packed=not scan_sparse)
    marker.run(roots)
    totals = program.core.gc_graph()
    assert (totals.objects_marked, totals.bytes_marked) == (len(marker.marked), marker.bytes)
    assert totals.heap_scan == marker.work
    assert set(program.core.living()) == program.reachable(roots)
    program.core.check()


@pytest.mark.parametrize("words", [2, 6, 32])
@pytest.mark.parametrize("reach", [1, 20, 100_000])
@given(seed=seeds)
@settings(max_examples=3, deadline=None)
def test_objects_full_of_pointers(words: int, reach: int, seed: int) -> None:
    """Then order does not matter: pages are gone through at once, which near pointers, up or down, make worthwhile."""
    program, rng, n = Program(), random.Random(seed), 1200
    core = program.core
    core.type_add(30, 8 * words, tuple(range(words)))
    addrs = core.malloc_same(0, 8 * words, False, 30, n)
    places = [(k, word) for k in range(n) for word in range(words) if rng.random() < 1.3 / words]
    near = [min(max(k + rng.randint(-reach // 3, reach), 0), n - 1) for k, _ in places]
    core.store([addrs[k] for k, _ in places], [8 * w for _, w in places], [addrs[k] + 8 for k in near])
    roots = rng.sample(addrs, 5)
    core.roots_new(roots)
    core.gc_graph()  # now slots are free between those in use
    if again := core.malloc_same(0, 8 * words, False, 30, n // 4):
        core.store([roots[0]] * len(again), [0] * len(again), again)
    edges = {a: core.load([a] * words, [8 * w for w in range(words)]) for a in core.living()}
    found, todo = set(roots), list(roots)
    while todo:
        targets = {core_object(p, words) for p in edges[todo.pop()] if p} - found
        found |= targets
        todo += targets
    totals = core.gc_graph()
    assert (totals.objects_marked, totals.heap_scan) == (len(found), len(found) * 8 * words)
    assert set(core.living()) == found
    core.check()


def core_object(addr: int, words: int) -> int:
    """Return where the object begins that the address leads into."""
    page = addr - addr % PAGE
    return page + (addr - page) // (8 * words) * 8 * words


@pytest.mark.parametrize("shape", ["list", "ring", "comb"])
def test_order_of_a_long_chain(shape: str) -> None:
    """Many pages wait: the ring spills, segments fill, and the count of work still follows Go's order."""
    program = Program()
    core, n = program.core, 40_000
    program.objects = {a: (3, 24) for a in core.malloc_same(0, 24, False, 3, n)}
    addrs = list(program.objects)
    rng = random.Random(1)
    rng.shuffle(addrs)
    if shape == "comb":
        table = program.new(1, 4000)
        core.store([table] * 4000, [8 * i for i in range(4000)], addrs[:4000])
        core.store(addrs[:-4000], [0] * (n - 4000), addrs[4000:])
        roots = [table]
    else:
        core.store(addrs[:-1], [0] * (n - 1), addrs[1:])
        core.store(addrs[-1:], [8], addrs[:1] if shape == "ring" else [0])
        roots = [addrs[0]]
    core.roots_new(roots)
    marker = Marker(core, list(program.slots()), packed=True)
    marker.run(roots)
    totals = core.gc_graph()
    assert (totals.objects_marked, totals.heap_scan) == (len(marker.marked), marker.work)


@given(steps=graph_steps)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_concurrent_mark_frees_only_the_unreachable(steps: list[tuple[str, int]]) -> None:
    """Marking in steps of any size while the graph changes: what is reachable stays, what was garbage goes."""
    Mutator().run(steps)


class Mutator(Program):
    """Changes a graph through what it can reach, as a program must."""

    def __init__(self) -> None:
        super().__init__()
        self.globals = self.core.roots_new([0] * 4)
        self.stack = self.core.roots_new([0] * 4, stack=True)
        self.marking = False
        self.at_start: set[int] = set()
        self.born: set[int] = set()

    def roots(self) -> list[int]:
        return self.core.roots_get(self.globals, 0, 4) + self.core.roots_get(self.stack, 0, 4)

    def live(self) -> list[int]:
        return sorted(self.reachable(self.roots()))

    def run(self, steps: list[tuple[str, int]]) -> None:
        for kind, seed in steps:
            getattr(self, f"do_{kind}")(random.Random(seed))
        self.do_c(random.Random(0))
        self.core.check()

    def do_a(self, rng: random.Random) -> None:
        addr = self.new(rng.choice([*TYPES, NOSCAN]), rng.choice([1, 1, 3]))
        self.born.add(addr)
        self._keep(rng, addr)

    def _keep(self, rng: random.Random, addr: int) -> None:
        holders = [a for a in self.live() if self.pointer_offsets(a)]
        if holders and rng.random() < 0.6:
            holder = rng.choice(holders)
            self.core.store([holder], [rng.choice(self.pointer_offsets(holder))], [addr])
        else:
            self.core.roots_set(rng.choice([self.globals, self.stack]), rng.randrange(4), [addr])

    def do_s(self, rng: random.Random) -> None:
        """Point to another object that can be reached."""
        if live := self.live():
            self._keep(rng, rng.choice(live))

    def do_d(self, rng: random.Random) -> None:
        """Drop a pointer."""
        holders = [a for a in self.live() if self.pointer_offsets(a)]
        if holders:
            holder = rng.choice(holders)
            self.core.store([holder], [rng.choice(self.pointer_offsets(holder))], [0])

    def do_r(self, rng: random.Random) -> None:
        self.core.roots_set(rng.choice([self.globals, self.stack]), rng.randrange(4), [0])

    def do_g(self, rng: random.Random) -> None:
        """Garbage."""
        self.born.add(self.new(rng.choice([*TYPES, NOSCAN])))

    def do_m(self, rng: random.Random) -> None:
        if not self.marking:
            self.core.mark_start_graph()
            self.marking, self.at_start, self.born = True, self.reachable(self.roots()), set()
        self.core.mark_drain(rng.choice([0, 1, 100, 5000]))

    def do_c(self, rng: random.Random) -> None:
        self.do_m(rng)
        self.core.mark_drain()
        self.core.mark_check()
        self.core.mark_end()
        self.marking = False
        living, now = set(self.core.living()), self.reachable(self.roots())
        assert now <= living
        assert living <= self.at_start | self.born
        self.objects = {a: v for a, v in self.objects.items() if a in living}

    def do_f(self, rng: random.Random) -> None:
        """Give the stack back and take another."""
        self.core.roots_free(self.stack)
        self.stack = self.core.roots_new([0] * 4, stack=True)


# ---- one thing at a time ----


@pytest.fixture
def program() -> Iterator[Program]:
    made = Program()
    yield made
    made.core.close()


def test_interior_pointers(program: Program) -> None:
    """A pointer anywhere into an object keeps it, in every kind of span."""
    core = program.core
    inside = [
        (program.new(2), 15),
        (program.new(7), 900),
        (program.new(8, 30), 500_000),
        (program.new(NOSCAN), 23),
    ]
    core.roots_new([addr + offset for addr, offset in inside])
    core.gc_graph()
    assert set(core.living()) == {addr for addr, _ in inside}


def test_tiny_block_in_use_stays(program: Program) -> None:
    """A mark keeps the block that a proc still hands out. Go: gcMarkTinyAllocs."""
    core = program.core
    addr = core.malloc(0, 3, True)
    core.gc_begin(0)
    core.heap.call(lib.pymem_mark_start_graph, 0)
    assert core.mark_totals().objects_marked == 1
    core.mark_drain()
    core.mark_end()
    assert addr in core.living()


def test_reused_slot_is_zero_and_has_its_own_map(program: Program) -> None:
    core = program.core
    for size in (16, 512, 2000, 100_000):
        addrs = [core.malloc(0, size, False, 1) for _ in range(20)]
        for addr in addrs:
            core.memory(addr, size)[:] = bytes(range(1, 9)) * (size // 8)  # no address
        core.roots_new(addrs[7:8])
        core.gc_graph()
        again = [core.malloc(0, size, False, 2) for _ in range(40)]
        assert set(again) & set(addrs)
        for addr in again:
            assert not any(core.memory(addr, size)[:])


def test_unknown_type_may_point_from_every_word(program: Program) -> None:
    core = program.core
    for size in (24, 800, 200_000):
        holder, target = core.malloc(0, size), core.malloc(0, 64, True)
        core.store([holder], [size - 8], [target])
        roots = core.roots_new([holder])
        core.gc_graph()
        assert {holder, target} <= set(core.living())
        core.roots_free(roots)


def test_memory_turned_on_late() -> None:
    """Objects from before the first root have memory and pointer maps as well."""
    core = Core()
    core.proc_new()
    addrs = [core.malloc(0, size, False, 5) for size in (16, 300, 600, 50_000)]
    core.store(addrs[:-1], [8] * 3, addrs[1:])
    core.roots_new(addrs[:1])
    core.gc_graph()
    assert set(core.living()) == set(addrs)


def test_refused_targets(program: Program) -> None:
    core = program.core
    holder, gone = program.new(2), program.new(2)
    core.roots_new([holder])
    core.gc_graph()
    for target in (gone, BASE + 100 * PAGE, holder - holder % PAGE + PAGE - 8):
        with pytest.raises(pymem.AddressError, match="nothing may point there"):
            core.store([holder], [0], [target])
        with pytest.raises(pymem.AddressError, match="no root"):
            core.roots_new([target])
    for target in (0, 1, BASE - 8, 1 << 60, core.stack_alloc(0, 2048)):
        core.store([holder], [0], [target])
    assert core.gc_graph().objects_marked == 1


def test_refused_places(program: Program) -> None:
    core = program.core
    holder, gone = program.new(2), program.new(2)
    core.roots_new([holder])
    core.gc_graph()
    for object_, offset in ((gone, 0), (holder, 16), (holder, 4), (holder, 1 << 50), (12345, 0)):
        with pytest.raises(pymem.AddressError):
            core.store([object_], [offset], [0])
        with pytest.raises(pymem.AddressError):
            core.load([object_], [offset])


def test_bad_pointer_is_a_throw(program: Program) -> None:
    """A word that was written behind the barrier's back and leads to a free page. Go: badPointer."""
    core = program.core
    holder = program.new(2)
    core.roots_new([holder])
    core.memory(holder, 8)[:] = (BASE + 300 * PAGE).to_bytes(8, "little")
    core.mark_start_graph()
    with pytest.raises(pymem.CorruptHeapError, match="found bad pointer in Go heap"):
        core.mark_drain()


def test_bad_pointers_to_free_slots_by_the_thousand(program: Program) -> None:
    """More than could be white when the mark began: they lead to slots of spans that came after, and are told."""
    core = program.core
    tables = [core.malloc(0, 250_000) for _ in range(4)]
    core.roots_new(tables)
    for size in (24, 1024):
        core.mark_start_graph()
        fresh = [core.malloc(0, size) for _ in range(200_000 // size)]
        spans = sorted({a - a % PAGE for a in fresh if not core.object_at(a).noscan})
        slots = np.array([base + k for base in spans for k in range(0, PAGE - 512, size)], np.uint64)
        for table in tables:
            view = np.frombuffer(core.memory(table, 250_000), np.uint64)
            view[:] = np.resize(slots, len(view))
        with pytest.raises(pymem.CorruptHeapError, match="found bad pointer in Go heap"):
            core.mark_drain()
            core.mark_end()
        core.heap.close()
        core = program.core = Core()
        core.proc_new()
        tables = [core.malloc(0, 250_000) for _ in range(4)]
        core.roots_new(tables)


def test_globals_that_go_half_scanned(program: Program) -> None:
    """The next set of globals is scanned from its first place on."""
    core = program.core
    wide = core.roots_new([0] * 40_000)
    kept = program.new(2)
    core.roots_new([kept] + [0] * 40_000)
    core.mark_start_graph()
    core.mark_drain(1)
    core.roots_free(wide)
    core.mark_drain()
    core.mark_check()
    core.mark_end()
    assert set(core.living()) == {kept}


def test_checkmark_tells_the_way(program: Program) -> None:
    """A pointer hidden from the barrier is found by the second mark, with the path to it."""
    core = program.core
    root, middle, lost = program.new(2), program.new(4), program.new(2)
    core.roots_new([0, root])
    core.store([root, middle], [8, 16], [middle, 0])
    core.mark_start_graph()
    core.mark_drain()
    core.memory(middle, 24)[16:24] = lost.to_bytes(8, "little")
    with pytest.raises(pymem.CorruptHeapError) as error:
        core.mark_check()
    assert f"unmarked object {lost:#x} <- {middle:#x}+16 <- {root:#x}+8 <- root 0[1]" in str(error.value)


def test_budget(program: Program) -> None:
    """Each call does at least its budget and at most one step more, and the sum is that of one call."""
    core = program.core
    graph(program, 800, 5)
    table = program.new(1, 800)
    core.store([table] * 800, [8 * i for i in range(800)], list(program.objects)[:800])
    core.roots_new([table, 0, 0])
    core.roots_new([table, 0, 0], stack=True)
    whole = core.gc_graph()
    core.mark_start_graph()
    work, calls = 0, 0
    while not (step := core.mark_drain(1000)).idle:
        work += step.heap_scan + step.stack_scan + step.globals_scan
        calls += 1
        assert step.heap_scan + step.stack_scan + step.globals_scan >= 1000
    totals = core.mark_totals()
    assert calls > 10
    assert (totals.objects_marked, totals.bytes_marked) == (whole.objects_marked, whole.bytes_marked)
    assert (totals.stack_scan, totals.globals_scan) == (24, 24)
    core.mark_end()


def test_type_is_known_once(program: Program) -> None:
    program.core.type_add(1, *TYPES[1])
    with pytest.raises(pymem.ConfigError, match="another pointer map"):
        program.core.type_add(1, 16, (0, 1))
    with pytest.raises(pymem.SizeError):
        program.core.type_add(77, 8, (0, 1))


def test_in_span_bits_lie_where_go_keeps_them(program: Program) -> None:
    """At the end of the page, before the 128 bytes of mark bits."""
    core = program.core
    addr = core.malloc(0, 96, False, 9)
    base = addr - addr % PAGE
    bits = np.frombuffer(page_of(core, base), np.uint8)[PAGE - 256 : PAGE - 128]
    words = np.flatnonzero(np.unpackbits(bits, bitorder="little")[: (addr - base) // 8 + 12])
    assert words.tolist()[-3:] == [(addr - base) // 8 + w for w in (0, 8, 9)]


def page_of(core: Core, base: int) -> Any:
    """Return the memory of a whole page, by way of its first object."""
    first = core.memory(base, 8)
    return ffi.buffer(ffi.cast("char *", ffi.from_buffer(first)), PAGE)


@pytest.mark.parametrize("alone", [False, True])
def test_pointers_into_a_pages_tail(alone: bool) -> None:
    """Words written behind the barrier's back lead beyond the last slot: nothing there is scanned. Go throws too."""
    core = Core()
    core.proc_new()
    before = core.malloc(0, 40 * PAGE, True)  # what it held stays in the pages, and is no pointer
    core.memory(before, 40 * PAGE)[:] = b"\1" * (40 * PAGE)
    core.gc_graph()
    small = core.malloc(0, 48)
    base, slots = small - small % PAGE, inspect.span_of(core.heap, small).slots
    assert before <= base < before + 40 * PAGE
    while core.malloc(0, 48) < base + PAGE:
        pass
    wanted = [base + PAGE // 48 * 48] if alone else list(range(base, base + PAGE, 48))
    table = core.malloc(0, len(wanted) * 8, False)
    core.memory(table, len(wanted) * 8)[:] = np.array(wanted, np.uint64).tobytes()
    for i in range(slots):
        core.memory(base + 48 * i, 48)[:] = b"\1" * 48
    core.roots_new([table])
    core.mark_start_graph()
    core.mark_drain()
    assert core.mark_totals().objects_marked == 1 + (0 if alone else slots)
    with pytest.raises(pymem.CorruptHeapError, match="a free slot"):
        core.heap.call(lib.pymem_mark_stop)
