"""The page allocator when the heap is huge: finding pages costs the same at 100 GB as at 1 GB, or nearly.

How to run: see test_bench_malloc.py. `ns_per_unit` is ns a span taken, with one call from Python for each.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
from bare_heap import PAGE, Heap, draw, scale, time_rounds

SPAN_PAGES = 32  # too many for a processor's page cache, so the page allocator is asked each time
GB = 1 << 30


def full_heap(nbytes: int) -> tuple[Heap, list[int]]:
    """Return a heap all of whose pages are taken, and its spans."""
    heap = Heap()
    return heap, [heap.span_alloc(SPAN_PAGES) for _ in range(nbytes // (SPAN_PAGES * PAGE))]


def scattered(spans: list[int], n: int) -> list[int]:
    """Return n different ones from all over the heap."""
    picked = np.unique(draw(4 * n, len(spans)))
    return [spans[k] for k in picked[:: len(picked) // n][:n]]


def take(heap: Heap, n: int) -> list[int]:
    """Take n spans."""
    return [heap.span_alloc(SPAN_PAGES) for _ in range(n)]


def free(heap: Heap, spans: list[int]) -> None:
    """Give spans back, the highest first, so that the search begins anew each time."""
    for base in reversed(spans):
        heap.span_free(base)


def test_span_in_100_gb(benchmark: Any) -> None:
    """Take 1,000 scattered holes in a full heap of 100 GB, lowest first as first fit has it."""
    heap, spans = full_heap(scale(benchmark, 100, 2) * GB)
    holes = scattered(spans, 1_000)
    taken: list[list[int]] = []
    time_rounds(
        benchmark,
        lambda: taken.append(take(heap, len(holes))),
        units=len(holes),
        setup=lambda: free(heap, holes),
    )
    assert all(t == holes for t in taken)
    heap.close()


def test_flat() -> None:
    """A span costs at 100 GB less than three times what it costs at 1 GB, medians of rounds by turns."""
    heaps = [full_heap(nbytes) for nbytes in (GB, 100 * GB)]
    seconds: list[list[float]] = [[], []]
    for k in range(14):
        heap, spans = heaps[k % 2]
        holes = scattered(spans, 500)
        free(heap, holes)
        start = time.perf_counter()
        taken = take(heap, len(holes))
        seconds[k % 2].append(time.perf_counter() - start)
        assert taken == holes
    small, huge = (statistics.median(s) for s in seconds)
    assert huge < 3 * small, f"{small / 500 * 1e9:.0f} ns at 1 GB, {huge / 500 * 1e9:.0f} ns at 100 GB"
    for heap, _ in heaps:
        heap.close()
