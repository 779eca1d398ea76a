"""Allocation in batches on a fresh heap: what an object costs, by kind.

The answers are the very addresses where they can be told by hand, else that nothing overlaps.

pytest bench                          all benchmarks, timed (a minute or two)
pytest bench --benchmark-disable -q   the same code with little to do: seconds, for CI
pytest bench --benchmark-json=new.json; pytest-benchmark compare ...   two versions

The figure to read is `ns_per_unit` in the extra info (`--benchmark-verbose`, JSON): ns an object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from bare_heap import PAGE, Heap, checksum, draw, scale, time_rounds

if TYPE_CHECKING:
    from collections.abc import Callable

    from bare_heap import Words

BASE = 0xC000000000
INLINE_MARKS = 128  # bytes of mark bits at a span's end, for slots of 16 to 512 bytes
HEAP_BITS = PAGE // 64  # bytes of pointer bits at the end of a one-page scan span


def time_fresh(benchmark: Any, n: int, malloc: Callable[[Heap, Words], None]) -> tuple[Heap, Words]:
    """Time a batch of n objects on a new heap, again and again; return the last heap and the addresses."""
    heaps, out = [Heap()], np.ones(n, np.uint64)

    def renew() -> None:
        heaps.pop().close()
        heaps.append(Heap())

    time_rounds(benchmark, lambda: malloc(heaps[0], out), units=n, setup=renew)
    return heaps[0], out


def slots_in_order(n: int, size: int, slots: int) -> Words:
    """Return the first n addresses of a class of one-page spans on a fresh heap."""
    k = np.arange(n, dtype=np.uint64)
    addresses: Words = BASE + k // np.uint64(slots) * np.uint64(PAGE) + k % np.uint64(slots) * np.uint64(size)
    return addresses


def assert_apart(heap: Heap, out: Words, sizes: Words) -> None:
    """No two objects overlap, as many as were asked for are counted, and the heap is whole."""
    order = np.argsort(out)
    placed, size = out[order], sizes[order]
    assert (placed[:-1] + size[:-1] <= placed[1:]).all()
    heap.check()
    assert heap.stats().mallocs == len(out)


def test_uniform(benchmark: Any) -> None:
    """Objects of 64 bytes without pointers: a span's free slots at once."""
    n = scale(benchmark, 10_000_000, 20_000)
    heap, out = time_fresh(benchmark, n, lambda heap, out: heap.malloc_same(64, out))
    slots = (PAGE - INLINE_MARKS) // 64
    assert (out == slots_in_order(n, 64, slots)).all()
    assert heap.stats().mallocs == n
    assert heap.stats().alloc == 64 * n


def test_uniform_typed(benchmark: Any) -> None:
    """Objects of 48 bytes with pointers, all of one type: a type id a slot is kept beside."""
    n = scale(benchmark, 5_000_000, 20_000)
    heap, out = time_fresh(benchmark, n, lambda heap, out: heap.malloc_same(48, out, noscan=False, type_id=7))
    slots = (PAGE - INLINE_MARKS - HEAP_BITS) // 48
    assert (out == slots_in_order(n, 48, slots)).all()
    assert heap.object_type(int(out[n // 2])) == 7
    heap.check()


def test_mixed(benchmark: Any) -> None:
    """Sizes of 1 byte to 2 KB, small ones more often, a third of them with pointers."""
    n = scale(benchmark, 1_000_000, 20_000)
    sizes = (np.uint64(2048) >> draw(n, 8)) - draw(n, 5)
    mask = draw(n, 3) > 0
    heap, out = time_fresh(benchmark, n, lambda heap, out: heap.malloc_each(sizes, out, mask=mask))
    assert_apart(heap, out, sizes)


def test_typed(benchmark: Any) -> None:
    """Five struct sizes with pointers in random order, one with a malloc header, each with its type."""
    n = scale(benchmark, 1_000_000, 20_000)
    kinds = draw(n, 5)
    sizes, types = np.array([16, 32, 96, 224, 640], np.uint64)[kinds], kinds.astype(np.uint32) + np.uint32(1)
    heap, out = time_fresh(
        benchmark,
        n,
        lambda heap, out: heap.malloc_each(sizes, out, noscan=False, types=types),
    )
    assert_apart(heap, out, sizes)
    assert all(heap.object_type(int(out[k])) == types[k] for k in range(0, n, n // 100))


def test_tiny(benchmark: Any) -> None:
    """Sizes of 1 to 15 bytes without pointers, which share blocks of 16."""
    n = scale(benchmark, 1_000_000, 20_000)
    sizes = draw(n, 15) + np.uint64(1)
    heap, out = time_fresh(benchmark, n, lambda heap, out: heap.malloc_each(sizes, out))
    assert_apart(heap, out, sizes)
    assert heap.stats().heap_objects == len(np.unique(out >> np.uint64(4)))


def test_large(benchmark: Any) -> None:
    """Sizes of 32 KB to 1 MB: a span each."""
    n = scale(benchmark, 20_000, 500)
    sizes = (draw(n, 125) + np.uint64(4)) * np.uint64(PAGE) + np.uint64(1)
    heap, out = time_fresh(benchmark, n, lambda heap, out: heap.malloc_each(sizes, out))
    assert (out % PAGE == 0).all()
    assert_apart(heap, out, sizes)
    assert heap.stats().heap_inuse == int((-(-sizes // np.uint64(PAGE)) * np.uint64(PAGE)).sum())


def test_refill(benchmark: Any) -> None:
    """Objects of one page, a slot a span: every allocation exchanges the cached span for a fresh one."""
    n = scale(benchmark, 200_000, 2_000)
    heap, out = time_fresh(benchmark, n, lambda heap, out: heap.malloc_same(PAGE, out))
    assert (out == slots_in_order(n, PAGE, 1)).all()
    heap.check()


def test_one_by_one(benchmark: Any) -> None:
    """A call an object, the slow way in: what the boundary costs. The same addresses as the batch gives."""
    n = scale(benchmark, 50_000, 2_000)
    sizes = (draw(n, 256) + np.uint64(1)).tolist()

    def malloc(heap: Heap, out: Words) -> None:
        out[:] = [heap.malloc(size) for size in sizes]

    _, out = time_fresh(benchmark, n, malloc)
    with Heap() as heap:
        batch = np.empty(n, np.uint64)
        heap.malloc_each(np.array(sizes, np.uint64), batch)
        assert checksum(out) == checksum(batch)
