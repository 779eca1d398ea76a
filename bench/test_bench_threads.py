"""Two runtimes in two threads against the same two one after the other: the core works without the interpreter's lock.

How to run: see test_bench_malloc.py. `speed_up` is how many times as fast two threads are; with two free processors it
nears 2. A run whose answers are compared only (--benchmark-disable) asserts no speed-up.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any

from bare_heap import scale

import pymem
from pymem import types

NODE = types.struct("Node", left=types.ptr("Node"), right=types.ptr("Node"), key=types.int64)


def work(n: int) -> tuple[int, int]:
    """Build a list of n nodes and collect it some times; return what was marked and what was freed in the end."""
    with pymem.Runtime() as rt:
        nodes = rt.new_batch(NODE, n)
        rt.store_batch(nodes[:-1], 0, nodes[1:])
        rt.globals["head"] = int(nodes[0])
        marked = [rt.gc().marked_bytes for _ in range(5)][-1]
        del rt.globals["head"]
        return marked, rt.gc().freed_objects


def timed(workers: int, n: int) -> float:
    """Return the seconds that two pieces of work take so many threads."""
    begin = perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        assert list(pool.map(work, [n, n])) == [(24 * n, n)] * 2
    return perf_counter() - begin


def test_two_runtimes(benchmark: Any) -> None:
    """By turns, the best of each."""
    n = scale(benchmark, 2_000_000, 10_000)
    alone: list[float] = []
    together: list[float] = []
    benchmark.pedantic(
        lambda: together.append(timed(2, n)), setup=lambda: alone.append(timed(1, n)), rounds=5
    )
    speed_up = min(alone) / min(together)
    benchmark.extra_info["speed_up"] = round(speed_up, 2)
    assert benchmark.disabled or speed_up > 1
