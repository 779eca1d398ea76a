"""The heap as a whole: statistics, a thousand heaps in one process, and what the emulator itself holds.

How to run: see test_bench_malloc.py. The memory figures stand in the extra info; they are bytes an object.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bare_heap import Heap, draw, scale, time_rounds

BUDGET = 24  # bytes of the emulator's own a living object of 16 bytes


def test_read_mem_stats(benchmark: Any) -> None:
    """MemStats of a heap of many classes, the caches flushed each time and in use again."""
    n = scale(benchmark, 1_000_000, 20_000)
    out, few = np.ones(n, np.uint64), np.ones(68, np.uint64)
    sizes = draw(n, 2048) + np.uint64(1)
    heap = Heap()
    heap.malloc_each(sizes, out)
    reads = time_rounds(benchmark, heap.stats, units=1, setup=lambda: heap.malloc_each(sizes[:68], few))
    stats = heap.stats()
    assert stats.mallocs == n + 68 * reads
    assert sum(stats.by_size_mallocs) + stats.frees == stats.mallocs
    assert stats.heap_objects == stats.mallocs - stats.frees


def test_many_heaps(benchmark: Any) -> None:
    """A thousand heaps side by side, 1,000 objects in each: made, filled, freed. `ns_per_unit`: a heap."""
    nheaps = scale(benchmark, 1_000, 1_000)
    sizes, out = draw(1_000, 512) + np.uint64(1), np.ones((nheaps, 1_000), np.uint64)

    def live_and_die() -> None:
        heaps = [Heap() for _ in range(nheaps)]
        for heap, row in zip(heaps, out, strict=True):
            heap.malloc_each(sizes, row)
        benchmark.extra_info["bytes_a_heap"] = sum(h.metadata_bytes for h in heaps) // nheaps
        for heap in heaps:
            heap.close()

    time_rounds(benchmark, live_and_die, units=nheaps)
    assert (out == out[0]).all()


def resident_bytes() -> int:
    """Return this process's memory as the system sees it."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def bytes_an_object(n: int, noscan: bool) -> tuple[float, float]:
    """Return what n objects of 16 bytes cost by the emulator's count, and by the system's."""
    out = np.ones(n, np.uint64)
    before = resident_bytes()
    heap = Heap()
    heap.malloc_same(16, out, noscan=noscan, type_id=0 if noscan else 3)
    resident = resident_bytes() - before
    assert heap.stats().heap_objects == n
    return heap.metadata_bytes / n, resident / n


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("noscan", [True, False], ids=["noscan", "typed"])
def test_memory(benchmark: Any, noscan: bool) -> None:
    """The emulator holds at most 24 bytes a living object of 16, by its own count and by the system's.

    Counted in a process of its own, because memory that other tests freed would hide what is taken anew;
    the time shown is that of starting it.
    """
    n = scale(benchmark, 5_000_000, 1_000_000)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        counted, resident = benchmark.pedantic(pool.submit(bytes_an_object, n, noscan).result, rounds=1)
    benchmark.extra_info |= {"bytes_counted": counted, "bytes_resident": resident}
    assert 0 < counted <= BUDGET
    assert 0 < resident <= BUDGET
