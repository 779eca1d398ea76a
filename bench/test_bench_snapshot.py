"""A runtime of a million objects to bytes and back.

How to run: see test_bench_malloc.py. `ns_per_unit` is ns an object; `bytes_per_object` is the snapshot's size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from bare_heap import scale, time_rounds

import pymem
from pymem._arrays import pointer
from pymem._native import ffi, lib


def linked(n: int) -> pymem.Runtime:
    """Return a runtime with a tree of n objects of 24 bytes: two pointers and a number in each."""
    rt = pymem.Runtime()
    mask = np.array([3], np.uint64)
    rt.register_type("node", 24)
    rt._heap.call(lib.pymem_type_add, 1, 24, 16, pointer("uint64_t", mask), 1)
    nodes = rt.malloc_batch(24, n, types=1)
    child = np.arange(1, n, dtype=np.uint64)
    columns = [nodes[(child - 1) // 2], (child - 1) % 2 * np.uint64(8), nodes[child]]
    done = ffi.new("uint64_t *")
    keep = [pointer("uint64_t", np.ascontiguousarray(c)) for c in columns]
    rt._heap.call(lib.pymem_store_batch, *keep, n - 1, done)
    return rt


def plain(n: int) -> pymem.Runtime:
    """Return a runtime with n objects of many sizes, and nothing in them."""
    rt = pymem.Runtime()
    rt.malloc_batch(np.random.default_rng(1).integers(1, 400, n), noscan=True)
    return rt


@pytest.mark.parametrize("make", [plain, linked])
def test_take(benchmark: Any, make: Any) -> None:
    """Everything to bytes, the collector's and scheduler's part too."""
    n = scale(benchmark, 1_000_000, 20_000)
    rt = make(n)
    sizes: list[int] = []
    time_rounds(benchmark, lambda: sizes.append(len(rt.snapshot().heap)), units=n)
    benchmark.extra_info["bytes_per_object"] = sizes[0] / n
    assert len(set(sizes)) == 1
    assert sizes[0] < 64 * n
    assert rt.fork().malloc(100) == rt.malloc(100)


@pytest.mark.parametrize("make", [plain, linked])
def test_go_on(benchmark: Any, make: Any) -> None:
    """And back, every promise of the heap proved."""
    n = scale(benchmark, 1_000_000, 20_000)
    rt = make(n)
    snapshot = rt.snapshot()
    forks: list[pymem.Runtime] = []

    def restore() -> None:
        forks[:] = [pymem.Runtime.restore(snapshot)]

    time_rounds(benchmark, restore, units=n)
    assert forks[0].snapshot().heap == snapshot.heap
    assert repr(forks[0].read_mem_stats()) == repr(rt.read_mem_stats())
