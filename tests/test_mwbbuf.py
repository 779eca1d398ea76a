"""Batches of stores: blocks that are checked before they are done, and what the write barrier shades meanwhile.

Two heaps alike, one told by a batch, the other store by store, must be alike to the byte afterwards.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from core import BASE, PAGE, Core
from hypothesis import given, settings
from strategies import seeds

import pymem
from pymem._native import ffi, lib

NODE, WORDS, HEAD, ENDS = 1, 2, 3, 4
"""Types: all of 32 bytes, all of 8, the first of 2 words, the first and the last of 3."""
POINTERS = {0: (8, {0}), NODE: (32, {0, 8, 16, 24}), WORDS: (8, {0}), HEAD: (16, {0}), ENDS: (24, {0, 16})}
"""By type: bytes of an element, and the offsets of its pointers."""
BLOCK = 16
"""Stores that the core checks at a time."""

Store = tuple[int, int, int]
"""object, offset, target"""


def new_core() -> Core:
    core = Core()
    core.proc_new()
    for type_, (size, offsets) in POINTERS.items():
        if type_:
            core.type_add(type_, size, [k // 8 for k in sorted(offsets)])
    return core


def snapshot(core: Core) -> bytes:
    need = ffi.new("uint64_t *")
    core.heap.call(lib.pymem_snapshot, ffi.NULL, 0, need)
    out = ffi.new("char[]", need[0])
    core.heap.call(lib.pymem_snapshot, out, need[0], need)
    return bytes(ffi.buffer(out, need[0]))


def store_batch(core: Core, stores: Sequence[Store]) -> int:
    """Return how many of the stores were done, whether or not one was wrong."""
    done = ffi.new("uint64_t *", 1 << 60)
    columns = [Core._column(c)[0] for c in zip(*stores, strict=True)]
    status = lib.pymem_store_batch(core.heap._handle, *columns, len(stores), done)
    assert (status == lib.PYMEM_OK) == (done[0] == len(stores))
    return int(done[0])


def store_one_by_one(core: Core, stores: Sequence[Store]) -> int:
    for i, store in enumerate(stores):
        if not store_batch(core, [store]):
            return i
    return len(stores)


# ---- a wrong store in a batch ----


def wrong_stores(core: Core, nodes: list[int]) -> dict[str, Store]:
    """Return stores that are wrong in each way there is; some nodes die for it."""
    node = nodes[0]
    dead, large, wide = nodes.pop(), core.malloc(0, 100_000, False, WORDS), core.malloc(0, 1024, False, WORDS)
    core.mark_dead([dead])
    free = core.malloc(0, 32, False, NODE) + 32
    core.malloc(0, 48, False, HEAD)  # two maps on its page
    heads = {size: core.malloc(0, size, False, HEAD) for size in (16, 1024, 100_000)}
    ends = {size: core.malloc(0, size, False, ENDS) for size in (24, 48, 1200, 120_000)}
    plain = {size: core.malloc(0, size, True) for size in (8, 32, 1024, 100_000)}
    return {
        "NoObject": (12345, 0, node),
        "FreeObject": (free, 0, node),
        "DeadObject": (dead, 0, node),
        "BeyondTheHeap": (BASE + (1 << 40), 0, node),
        "Misaligned": (node, 4, node),
        "MisalignedObject": (node + 4, 0, node),
        "MisalignedTwice": (node + 4, 4, node),
        "NextObject": (node, 32, node),
        "Across": (node + 24, 8, node),
        "FarOffset": (node, 1 << 50, node),
        "OffsetThatWraps": (node, (1 << 64) - 8, node),
        "OffsetBackwards": (node + 16, (1 << 64) - 16, node),
        "PastLarge": (large, 106_496, node),
        "InHeader": (wide - 8, 0, node),
        "FreeTarget": (node, 0, free),
        "DeadTarget": (node, 0, dead),
        "TargetInHeader": (node, 0, wide - 8),
        "TargetInTail": (node, 0, node - node % PAGE + PAGE - 8),
        "TargetOnFreePage": (node, 0, BASE + 300 * PAGE),
        **{f"NoPointerIn{size}": (a, size - 8, node) for size, a in heads.items()},
        **{f"NoPointerAmong{size}": (a + 24, size - 40, node) for size, a in ends.items() if size > 24},
        "NoPointerAmong24": (ends[24], 8, 0),
        **{f"Noscan{size}": (a, 0, node) for size, a in plain.items()},
    }


WRONG = tuple(wrong_stores(_core := new_core(), _core.malloc_same(0, 32, False, NODE, 40)))
SHAPES: dict[str, Callable[[list[int], random.Random], list[int]]] = {
    "Near": lambda nodes, _: nodes[1:] + nodes[:1],
    "Random": lambda nodes, rng: rng.sample(nodes, len(nodes)),
    "Nil": lambda nodes, _: [0] * len(nodes),
}


@pytest.mark.parametrize("marking", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", WRONG)
def test_stops_at_the_wrong_store(kind: str, shape: str, marking: bool) -> None:
    """Wherever in a block it stands, all before it are done and none after it."""
    core = new_core()
    nodes = core.malloc_same(0, 32, False, NODE, 1000)
    wrong = wrong_stores(core, nodes)[kind]
    if marking:
        core.mark_start_graph()
    rng = random.Random(1)
    for at in (0, 1, BLOCK - 1, BLOCK, BLOCK + 5, 3 * BLOCK - 1, 3 * BLOCK, 3 * BLOCK + 2):
        objects = rng.sample(nodes, 3 * BLOCK + 3) if shape == "Random" else nodes[5 : 3 * BLOCK + 8]
        targets = SHAPES[shape](objects, rng)
        for marker in (0, nodes[-1]):
            core.store(objects, [8] * len(objects), [marker] * len(objects))
        stores = [*zip(objects, [8] * len(objects), targets, strict=True)]
        stores[at] = wrong
        assert store_batch(core, stores) == at
        assert core.load(objects, [8] * len(objects)) == targets[:at] + [nodes[-1]] * (len(objects) - at)


@pytest.mark.parametrize("at", [0, 7, BLOCK - 1, BLOCK + 3])
def test_header_of_a_wide_object(at: int) -> None:
    """Objects above 512 bytes begin 8 bytes into their slots, here of 1152: nobody writes or points there."""
    core = new_core()
    wide = core.malloc_same(0, 1024, False, WORDS, 16)
    wide = [a for a in wide if a // PAGE == wide[0] // PAGE]
    right = [(wide[i % 3], 8 * i, wide[3 + i % 4]) for i in range(2 * BLOCK)]
    for wrong in ((wide[1] - 8, 8 * at, wide[2]), (wide[1], 8 * at, wide[2] - 8), (wide[1], 1144, wide[2])):
        stores = [*right[:at], wrong, *right[at + 1 :]]
        assert store_batch(core, stores) == at
    assert store_batch(core, right) == 2 * BLOCK
    assert store_batch(core, [(wide[1], 1136, wide[2])] * BLOCK) == BLOCK


def test_unknown_addresses_among_known_ones() -> None:
    """Addresses outside of the heap and objects behind a hole are looked up one by one; their block goes on."""
    core = new_core()
    nodes = core.malloc_same(0, 32, False, NODE, 300)
    roots = core.roots_new([a for a in nodes if a != nodes[3]])
    core.gc_graph()
    core.roots_free(roots)
    nodes.remove(nodes[3])
    targets = [0x500000 if i % 7 == 3 else a for i, a in enumerate(nodes)]
    core.store(nodes, [16] * len(nodes), targets)
    assert core.load(nodes, [16] * len(nodes)) == targets


def test_deaths_between_batches() -> None:
    """What a batch has found out about a page does not outlive it."""
    core = new_core()
    nodes = core.malloc_same(0, 32, False, NODE, 64)
    core.store(nodes, [0] * 64, nodes)
    core.mark_dead(nodes[20:21])
    assert (
        store_batch(core, [(a, 8, b) for a, b in zip(nodes[:20] + nodes[21:], nodes[1:], strict=True)]) == 19
    )
    assert store_batch(core, [(a, 8, nodes[0]) for a in nodes]) == 20


# ---- what is shaded ----


def marked_after(core: Core) -> int:
    core.mark_drain()
    return int(core.mark_totals().objects_marked)


@pytest.mark.parametrize("gap", [1, BLOCK - 1, BLOCK, 600])
def test_target_that_a_later_store_removes(gap: int) -> None:
    """It was reachable for a moment only, and is shaded all the same: it was added, and then removed."""
    core = new_core()
    nodes = core.malloc_same(0, 32, False, NODE, 700)
    word, lost, other = nodes[0], nodes[1], nodes[2]
    core.mark_start_graph()
    stores = [(word, 0, lost)] + [(a, 0, other) for a in nodes[3 : 2 + gap]] + [(word, 0, other)]
    core.store(*map(list, zip(*stores, strict=True)))
    assert marked_after(core) == 2


@pytest.mark.parametrize("hidden", [True, False])
def test_word_that_was_there_before_the_mark(hidden: bool) -> None:
    """The first store into it shades it, also in a block of many whose targets are all marked."""
    core = new_core()
    nodes = core.malloc_same(0, 32, False, NODE, 400)
    old, black = nodes[390:], nodes[389]
    core.store(nodes[64:74], [8] * 10, old)
    core.mark_start_graph()
    core.store([nodes[0]], [0], [black])
    objects = nodes[: 4 * BLOCK] + (nodes[64:74] if hidden else nodes[80:90]) + nodes[100 : 100 + 4 * BLOCK]
    core.store(objects, [8] * len(objects), [black] * len(objects))
    assert marked_after(core) == (11 if hidden else 1)


def test_removed_from_a_span_with_holes() -> None:
    """What a page's entry says nothing of is shaded for certain."""
    core = new_core()
    nodes = core.malloc_same(0, 32, False, NODE, 400)
    roots = core.roots_new(nodes[:2] + nodes[3:])
    core.store(nodes[:1] * 2, [0, 8], nodes[100:102])
    core.gc_graph()
    core.roots_free(roots)
    core.mark_start_graph()
    core.store(nodes[:1] * 2, [0, 8], [0, 0])
    assert marked_after(core) == 2


def test_removed_word_that_is_no_pointer() -> None:
    """It was written behind the barrier's back; the mark must say so, as Go does."""
    core = new_core()
    nodes = core.malloc_same(0, 32, False, NODE, 400)
    core.store(nodes[:1], [0], nodes[:1])
    core.memory(nodes[5], 8)[:] = (BASE + 100 * PAGE).to_bytes(8, "little")
    core.mark_start_graph()
    core.store(nodes[: 2 * BLOCK], [0] * 2 * BLOCK, [0] * 2 * BLOCK)
    with pytest.raises(pymem.CorruptHeapError, match="bad pointer"):
        core.mark_drain()


def test_more_white_targets_than_the_buffer_holds() -> None:
    core = new_core()
    nodes = core.malloc_same(0, 32, False, NODE, 5000)
    core.store(nodes, [0] * 5000, random.Random(2).sample(nodes, 5000))
    core.mark_start_graph()
    core.store(nodes[:2500], [0] * 2500, nodes[2500:])
    assert marked_after(core) == 5000  # those added, those removed, and what they lead to
    core.mark_end()
    core.check()


# ---- against stores one by one ----


@dataclass(slots=True)
class Twins:
    """Two heaps alike, and a plain model of what stands in their words."""

    batch: Core
    single: Core
    sizes: dict[int, int]
    """bytes from the object to its slot's end, by address of a living object"""
    places: dict[int, list[int]]
    """offsets of pointers, by address of a living object that has some"""
    dead: list[int]

    @staticmethod
    def make(seed: int) -> Twins:
        return Twins(a := new_core(), new_core(), {}, {}, [])._fill(seed, a)

    def _fill(self, seed: int, first: Core) -> Twins:
        for core in (self.batch, self.single):
            rng = random.Random(seed)
            addrs = [a for _ in range(12) for a in self._some(core, rng)]
            if rng.random() < 0.5:  # holes, and spans that are yet to be swept
                core.roots_new(kept := [a for a in addrs if rng.random() < 0.9])
                core.gc_graph()
                addrs = kept + core.malloc_same(0, 32, False, NODE, 100)
            self.dead = [a for a in addrs if rng.random() < 0.01]
            core.mark_dead(self.dead)
            self.sizes = {a: core.object_at(a).slot_size for a in addrs if a not in set(self.dead)}
        for a, slot in self.sizes.items():
            found = first.object_at(a)
            self.sizes[a] = slot - 8 if found.slot_size > 512 and a % 16 == 8 else slot
            size, offsets = POINTERS[found.type]
            if not found.noscan:
                self.places[a] = [k for k in range(0, self.sizes[a], 8) if k % size in offsets]
        return self

    @staticmethod
    def _some(core: Core, rng: random.Random) -> list[int]:
        size = rng.choice([8, 16, 24, 32, 32, 48, 96, 512, 520, 1024, 9000, 40_000, 48_000])
        type_ = rng.choice([0, 0, *(t for t, (of, _) in POINTERS.items() if size % of == 0)])
        noscan = rng.random() < 0.2
        n = rng.choice([1, 20, 300 if size < 1000 else 5])
        return core.malloc_same(0, size, noscan, 0 if noscan else type_, n)

    def stores(self, rng: random.Random, n: int, *, wild: float) -> list[Store]:
        addrs, owners, out = list(self.sizes), list(self.places), list[Store]()
        start, near = rng.randrange(len(addrs)), rng.random() < 0.5
        for i in range(n):
            a = owners[(start + i) % len(owners)] if near else rng.choice(owners)
            b = addrs[(start + i * 3) % len(addrs)] if rng.random() < 0.5 else rng.choice(addrs)
            offset = rng.choice(self.places[a]) if rng.random() < 0.3 else 0
            target = rng.choice([b, b, b, b + self.sizes[b] - 1, 0, 0x500000] if rng.random() < 0.1 else [b])
            out.append((a, offset, target))
        if rng.random() < wild:
            out[rng.randrange(n)] = self._wrong(rng, addrs)
        return out

    def _wrong(self, rng: random.Random, addrs: list[int]) -> Store:
        a = rng.choice(addrs)
        kinds = [(a, 8 * rng.randrange(20_000), a), (a, 4, a), (a + 1, 0, a), (0, 0, 0), (1 << 63, 0, a)]
        kinds.append((a, 8 * rng.randrange(self.sizes[a] // 8), a))
        if self.dead:
            kinds += [(self.dead[0], 0, a), (a, 0, self.dead[0]), (a, 0, self.dead[-1])]
        return rng.choice(kinds)


@given(seed=seeds)
@settings(max_examples=40, deadline=None)
def test_batch_equals_stores_one_by_one(seed: int) -> None:
    """In what is done, what is shaded and in which order, and what marking finds to do later."""
    twins, rng = Twins.make(seed), random.Random(seed)
    model: dict[int, int] = {}
    for step in range(12):
        stores = twins.stores(rng, rng.choice([1, 5, BLOCK, 40, 700]), wild=0.3)
        done = store_batch(twins.batch, stores)
        assert done == store_one_by_one(twins.single, stores)
        model |= {a + offset: target for a, offset, target in stores[:done]}
        if step == 4:
            twins.batch.mark_start_graph()
            twins.single.mark_start_graph()
        if step > 4:
            budget = rng.choice([0, 100, 10_000])
            assert twins.batch.mark_drain(budget).objects == twins.single.mark_drain(budget).objects
        assert snapshot(twins.batch) == snapshot(twins.single)
    owner = {a + k: (a, k) for a, size in twins.sizes.items() for k in range(0, size, 8)}
    places = [owner[w] for w in model]
    assert twins.batch.load([a for a, _ in places], [k for _, k in places]) == list(model.values())
    twins.batch.check()


@pytest.mark.parametrize("marking", [False, True])
def test_column_that_the_stores_change(marking: bool) -> None:
    """Views of objects as columns: each store sees what those before it have written, and so does its check."""
    with pymem.Runtime() as rt:
        words, node = rt.malloc(512), rt.malloc(32)
        if marking:
            rt._heap.call(lib.pymem_gc_begin, 0)
            rt._heap.call(lib.pymem_mark_start_graph, 0)
        column, offsets = rt.view(words, pymem.types.uintptr, 64), np.arange(8, 512, 8)
        column[0] = node
        rt.store_batch([words] * 63, offsets, column[:63])
        assert column.tolist() == [node] * 64
        column[:] = words
        targets = [words] * 40 + [0] + [words] * 22  # no object after that
        with pytest.raises(pymem.AddressError, match="0x0"):
            rt.store_batch(column[:63], offsets, targets)
        assert column[:43].tolist() == [words] * 41 + [0, words]


def test_wide_columns_of_any_integer() -> None:
    """Signed and strided columns are what they say; a negative number is none."""
    with pymem.Runtime() as rt:
        nodes = rt.malloc_batch(32, 100)
        rt.store_batch(nodes[::2], np.full(50, 8), nodes[1::2].astype(np.int64))
        assert rt.load_batch(nodes[::2], 8).tolist() == nodes[1::2].tolist()
        with pytest.raises(pymem.AddressError, match="element 3 is negative"):
            rt.store_batch(nodes[:5], np.array([0, 8, 8, -8, -8]), 0)
