"""Collections by a given dead set: deaths declared, marks by record, the sweep, allocation into the holes.

How to run: see test_bench_malloc.py. `ns_per_unit` is ns an object, dead or alive when the collection began.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from bare_heap import Heap, draw, scale, time_rounds


def test_collect_half(benchmark: Any) -> None:
    """Half of the objects die, at random, and are freed; the holes are filled again for the next round."""
    n = scale(benchmark, 1_000_000, 20_000)
    out, dies = np.ones(n, np.uint64), draw(n, 2) == 0
    sizes = draw(n, 256) + np.uint64(16)
    heap = Heap()
    heap.malloc_each(sizes, out)
    ndead = int(dies.sum())

    def refill() -> None:
        fresh = np.empty(ndead, np.uint64)
        heap.malloc_each(sizes[dies], fresh)
        out[dies] = fresh

    def collect() -> None:
        heap.collect(out[dies])

    cycles = time_rounds(benchmark, collect, units=n, setup=refill, before_first=False)
    assert heap.stats().heap_objects == n - ndead
    assert heap.stats().frees == cycles * ndead
    heap.check()


def test_sweep(benchmark: Any) -> None:
    """Sweeping alone, after everything died: each span goes back to the heap."""
    n = scale(benchmark, 2_000_000, 20_000)
    out = np.ones(n, np.uint64)
    heap = Heap()
    swept: list[int] = []

    def prepare() -> None:
        heap.malloc_same(64, out)
        heap.mark_dead(out)
        heap.flip()

    time_rounds(benchmark, lambda: swept.append(heap.sweep()), units=n, setup=prepare)
    heap.check()
    assert heap.stats().heap_objects == 0
    assert heap.stats().heap_inuse == 0
    assert set(swept[1:]) <= {swept[0], swept[0] - 1}  # the cached span is swept when it is given back


def test_reuse(benchmark: Any) -> None:
    """Allocation into full spans of which every second object died: runs of one slot."""
    n = 126 * scale(benchmark, 8_000, 160)  # slots of a span; spans
    out, fresh = np.ones(n, np.uint64), np.ones(n // 2, np.uint64)
    heap = Heap()
    heap.malloc_same(64, out)

    def make_holes() -> None:
        heap.collect(out[::2].copy() if fresh[0] == 1 else fresh)

    time_rounds(benchmark, lambda: heap.malloc_same(64, fresh), units=n // 2, setup=make_holes)
    assert (np.sort(fresh) == out[::2]).all()
    heap.check()
