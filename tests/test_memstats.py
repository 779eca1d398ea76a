"""MemStats: its fields, what they add up to, and its form as Go's JSON."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

import pymem
from pymem._native import lib
from pymem.gc.state import CycleRecord, GCStats
from pymem.record.overlay import find_toolchain
from pymem.stats.memstats import read_mem_stats

MB = 1 << 20
TIMES = {"LastGC", "PauseTotalNs", "PauseNs", "PauseEnd", "GCCPUFraction"}


@pytest.fixture
def busy() -> pymem.MemStats:
    """Return the statistics of a runtime in which everything has happened."""
    with pymem.Runtime(gomaxprocs=3) as rt:
        rng = np.random.default_rng(1)
        addrs = rt.malloc_batch(rng.integers(1, 2000, 20_000), noscan=rng.random(20_000) < 0.5)
        rt.malloc_batch(100_000, 30, p=1)
        rt.gc(dead=rng.permutation(addrs)[:10_000])
        rt.malloc_batch(5, 1000, noscan=True, p=2)
        rt.go("worker").grow_stack()
        return rt.read_mem_stats()


def test_go_names_in_go_order(busy: pymem.MemStats) -> None:
    source = Path(find_toolchain().goroot, "src/runtime/mstats.go").read_text(encoding="utf-8")
    struct = re.search(r"^type MemStats struct \{\n(.*?)^\}", source, re.M | re.S)
    assert struct
    names = re.findall(r"^\t([A-Z]\w*) ", struct[1], re.M)
    assert list(busy.to_go()) == names


def test_times_come_from_the_collector() -> None:
    """With a clock the whole struct is there, in Go's order; the rings are lists of 256, counted as the cycles are."""
    gc = GCStats(start_unix_ns=1000)
    gc.cpu.add_pause(30, 1)
    gc.cpu.total = 120
    gc.finish(CycleRecord(number=1, forced=True, end_ns=7, pause_ns=30))
    with pymem.Runtime() as rt:
        m = read_mem_stats(rt._heap, proc=lib.PYMEM_NO_PROC, flush=True, gc=gc)
    real = json.loads((Path(__file__).parent / "golden/reports_metrics.json").read_text(encoding="utf-8"))[
        "MemStats"
    ]
    go = m.to_go()
    assert [(name, type(value)) for name, value in go.items()] == [(n, type(v)) for n, v in real.items()]
    assert {n: len(v) for n, v in go.items() if isinstance(v, list)} == {
        "PauseNs": 256,
        "PauseEnd": 256,
        "BySize": 61,
    }
    assert (go["LastGC"], go["PauseTotalNs"], go["PauseNs"][:2], go["PauseEnd"][0]) == (
        1007,
        30,
        [30, 0],
        1007,
    )
    assert (go["NumGC"], go["NumForcedGC"], go["GCCPUFraction"]) == (1, 1, 0.25)
    assert (go["EnableGC"], go["DebugGC"]) == (real["EnableGC"], real["DebugGC"])
    assert json.loads(json.dumps(go)) == go


def test_times_before_the_first_cycle() -> None:
    with pymem.Runtime() as rt:
        m = read_mem_stats(rt._heap, proc=lib.PYMEM_NO_PROC, flush=True, gc=GCStats())
    assert (m.last_gc, m.pause_total_ns, m.gc_cpu_fraction) == (0, 0, 0.0)
    assert m.pause_ns == m.pause_end == (0,) * 256


def test_json(busy: pymem.MemStats) -> None:
    go = busy.to_go()
    assert json.loads(json.dumps(go)) == go


def test_by_size(busy: pymem.MemStats) -> None:
    """Go's array has 61 entries, its size classes are 68."""
    assert [b["Size"] for b in busy.to_go()["BySize"]] == pymem.size_classes()["size"][:61].tolist()
    assert (len(busy.by_size), len(busy.by_size_class)) == (61, 68)
    assert busy.by_size_class[:61] == busy.by_size


def test_sums(busy: pymem.MemStats) -> None:
    assert busy.heap_sys == busy.heap_inuse + busy.heap_idle
    assert busy.heap_alloc == busy.alloc <= busy.heap_inuse
    assert busy.heap_objects == busy.mallocs - busy.frees
    assert busy.heap_released <= busy.heap_idle
    parts = ("heap_sys", "stack_sys", "mspan_sys", "mcache_sys", "buck_hash_sys", "gc_sys", "other_sys")
    assert busy.sys == sum(getattr(busy, part) for part in parts)
    assert (busy.heap_sys + busy.stack_inuse) % (4 * MB) == 0


def test_frozen(busy: pymem.MemStats) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        busy.alloc = 0  # type: ignore[misc]


def test_counts() -> None:
    with pymem.Runtime() as rt:
        addrs = rt.malloc_batch(100, 50)
        rt.malloc_batch(50_000, 3)
        before = rt.read_mem_stats()
        rt.gc(dead=addrs[:20])
        after = rt.read_mem_stats()
    entry = next(b for b in before.by_size if b.size == 112)
    assert (entry.mallocs, entry.frees) == (50, 0)
    assert (before.mallocs, before.frees, before.total_alloc) == (53, 0, 50 * 112 + 3 * 7 * 8192)
    assert (after.frees, after.alloc) == (20, before.alloc - 20 * 112)
    assert (after.num_gc, after.num_forced_gc) == (1, 1)


def test_tiny_counts_twice() -> None:
    """Objects that share a block count as allocated and as freed."""
    with pymem.Runtime() as rt:
        rt.malloc_batch(1, 32, noscan=True)
        m = rt.read_mem_stats()
    assert (m.mallocs, m.frees, m.heap_objects, m.alloc) == (32, 30, 2, 32)


def test_flush() -> None:
    """Reading flushes; looking does not, and misses what caches hold."""
    with pymem.Runtime() as rt:
        rt.malloc(64)
        assert rt.read_mem_stats(flush=False).mallocs == 0
        assert rt.spans()["cached"].tolist() == [1]
        assert rt.read_mem_stats().mallocs == 1
        assert rt.spans()["cached"].tolist() == [0]


def test_heap_live_counts_cached_spans_as_full() -> None:
    with pymem.Runtime() as rt:
        rt.malloc(64)
        assert rt.read_mem_stats(flush=False).heap_live == 8192
        assert rt.read_mem_stats().heap_live == 8192 - 123 * 64  # what no slot fits into stays counted


# gogc, bytes alive after a collection, next_gc
GOALS: dict[str, tuple[int | str, int, int]] = {
    "Default": (100, 10 * MB, 20 * MB),
    "Half": (50, 10 * MB, 15 * MB),
    "Text": ("200", 10 * MB, 30 * MB),
    "MinimumRules": (100, 1 * MB, 4 * MB),
    "MinimumScales": (25, 0, 1 * MB),
    "SweepDistance": (0, 2 * MB, 3 * MB),  # 1 MB of allocation for the sweeper to work in
}


@pytest.mark.parametrize("name", GOALS)
def test_next_gc(name: str) -> None:
    gogc, live, goal = GOALS[name]
    with pymem.Runtime(gogc=gogc, liveness="record", globals_bytes=0) as rt:
        if live:
            rt.malloc_batch(8192, live // 8192, noscan=True)
        rt.gc()
        assert rt.read_mem_stats().next_gc == goal


def test_next_gc_before_the_first() -> None:
    with pymem.Runtime(gogc=100) as rt:
        assert rt.read_mem_stats().next_gc == 4 * MB


def test_memory_limit_lowers_the_goal() -> None:
    with pymem.Runtime(gogc="off") as off, pymem.Runtime(gogc="off", memory_limit="64MiB") as limited:
        assert off.read_mem_stats().next_gc > 1 << 60
        assert 50 * MB < limited.read_mem_stats().next_gc < 64 * MB
