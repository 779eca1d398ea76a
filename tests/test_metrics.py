"""`pymem.metrics` against `runtime/metrics`: names, kinds, buckets, and values of the same moment's MemStats."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pymem
from pymem import metrics
from pymem.gc.histogram import TimeHistogram
from pymem.gc.state import CPUStats, GCStats
from pymem.metrics import Float64Histogram, Kind
from pymem.sched import Goroutine
from pymem.stats.memstats import _GO_NAMES, BySize, MemStats

REAL: dict[str, Any] = json.loads(
    (Path(__file__).parent / "golden/reports_metrics.json").read_text(encoding="utf-8")
)
FAMILIES = ("/gc/", "/memory/", "/cpu/classes/", "/sched/gomaxprocs", "/sched/goroutines", "/sched/pauses/")
GO_ALL = [d for d in REAL["All"] if d["Name"].startswith(FAMILIES)]


class Told:
    """A runtime that tells everything, as a paced one does."""

    def __init__(self, mem: MemStats, goroutines: Sequence[Goroutine] = ()) -> None:
        self.mem = mem
        self.goroutines = goroutines
        self.gc_stats = GCStats()
        self.gc_percent = 100
        self.memory_limit = 64 << 20
        self.goroutines_created = 9

    def read_mem_stats(self, *, flush: bool) -> MemStats:
        assert not flush, "reading metrics flushes nothing"
        return self.mem

    def gomaxprocs(self) -> int:
        return 4


def _mem_stats(go: dict[str, Any], values: dict[str, Any]) -> MemStats:
    """Return real Go's MemStats as ours. The classes that it does not show come from the metrics."""
    by_size = [BySize(b["Size"], b["Mallocs"], b["Frees"]) for b in go["BySize"]]
    mallocs, frees = (values[f"/gc/heap/{verb}s-by-size:bytes"] for verb in ("alloc", "free"))
    sizes = pymem.size_classes()["size"].tolist()
    by_size += [BySize(sizes[i], mallocs[i - 1], frees[i - 1]) for i in range(61, 68)]
    named = {ours: go[name] for name, ours in _GO_NAMES.items()}
    tiny = values["/gc/heap/tiny/allocs:objects"]
    return MemStats(**named, heap_live=0, by_size_class=tuple(by_size), tiny_allocs=tiny)


@pytest.fixture
def real() -> Told:
    return Told(_mem_stats(REAL["MemStats"], REAL["Values"]))


def test_names_kinds_cumulative() -> None:
    want = [(d["Name"], d["Kind"], d["Cumulative"]) for d in GO_ALL]
    assert [(d.name, d.kind, d.cumulative) for d in metrics.all()] == want


def test_descriptions() -> None:
    texts = [d.description for d in metrics.all()]
    assert all(text.endswith(".") for text in texts)


def test_buckets(real: Told) -> None:
    values = metrics.read(real)
    want = {d["Name"]: tuple(map(float, d["Buckets"])) for d in GO_ALL if d["Buckets"]}
    histograms = {name: value for name, value in values.items() if isinstance(value, Float64Histogram)}
    assert {name: histogram.buckets for name, histogram in histograms.items()} == want
    for histogram in histograms.values():
        assert len(histogram.counts) == len(histogram.buckets) - 1


def test_kinds_of_values(real: Told) -> None:
    types = {Kind.UINT64: int, Kind.FLOAT64: float, Kind.FLOAT64_HISTOGRAM: Float64Histogram}
    values = metrics.read(real)
    assert list(values) == [d.name for d in metrics.all()]
    assert [type(values[d.name]) for d in metrics.all()] == [types[d.kind] for d in metrics.all()]


FROM_MEM_STATS = [
    *(d["Name"] for d in GO_ALL if d["Name"].startswith(("/memory/", "/gc/heap/", "/gc/cycles/"))),
    "/gc/stack/starting-size:bytes",
]
FROM_MEM_STATS.remove("/gc/heap/live:bytes")


@pytest.mark.parametrize("name", FROM_MEM_STATS)
def test_values_from_real_mem_stats(name: str, real: Told) -> None:
    """From the MemStats that real Go showed follow the metrics that it showed beside them."""
    value = metrics.read(real, [name])[name]
    assert (list(value.counts) if isinstance(value, Float64Histogram) else value) == REAL["Values"][name]


def test_sums(real: Told) -> None:
    values = metrics.read(real)
    parts = [v for name, v in values.items() if name.startswith("/memory/") and "total" not in name]
    assert sum(v for v in parts if isinstance(v, int)) == values["/memory/classes/total:bytes"]


def test_collector(real: Told) -> None:
    real.gc_stats = GCStats(
        cpu=CPUStats(gc_assist=1_500_000_000, user=1, total=4_000_000_000),
        heap_marked=10,
        heap_scan=20,
        last_stack_scan=3,
        globals_scan=4,
        limiter_last_enabled=5,
    )
    real.gc_stats.stw_total_gc.record(300)
    values = metrics.read(real)
    cpu = {name.split("/", 3)[3]: value for name, value in values.items() if name.startswith("/cpu/")}
    assert cpu["gc/mark/assist:cpu-seconds"] == 1.5
    assert (cpu["user:cpu-seconds"], cpu["total:cpu-seconds"]) == (1e-9, 4.0)
    assert values["/gc/heap/live:bytes"] == 10
    assert [values[f"/gc/scan/{part}:bytes"] for part in ("heap", "stack", "globals", "total")] == [
        20,
        3,
        4,
        27,
    ]
    assert values["/gc/limiter/last-enabled:gc-cycle"] == 5
    assert values["/gc/pauses:seconds"] == values["/sched/pauses/total/gc:seconds"]
    assert values["/gc/pauses:seconds"] != values["/sched/pauses/total/other:seconds"]


def test_settings(real: Told) -> None:
    assert metrics.read(real, ["/gc/gogc:percent"]) == {"/gc/gogc:percent": 100}
    real.gc_percent = -1
    assert metrics.read(real, ["/gc/gogc:percent"])["/gc/gogc:percent"] == REAL["Values"]["/gc/gogc:percent"]
    assert metrics.read(real, ["/gc/gomemlimit:bytes"]) == {"/gc/gomemlimit:bytes": 64 << 20}


def test_runtime_of_today() -> None:
    """All that a runtime counts is there, and looking changes nothing."""
    with pymem.Runtime(gomaxprocs=2) as rt:
        rt.malloc_batch(np.arange(1, 5000))
        for _ in range(3):
            rt.go(p=0)
        before = rt.spans()
        values = metrics.read(rt)
        m = rt.read_mem_stats(flush=False)
        assert (rt.spans() == before).all()
    assert values["/memory/classes/total:bytes"] == m.sys
    assert values["/gc/heap/objects:objects"] == m.heap_objects > 0
    assert values["/sched/gomaxprocs:threads"] == 2
    kinds = ("", "/running", "/runnable", "/waiting")
    assert [values[f"/sched/goroutines{kind}:goroutines"] for kind in kinds] == [3, 1, 2, 0]
    assert isinstance(values["/cpu/classes/user:cpu-seconds"], float)


def test_objects_by_size() -> None:
    """Tiny objects that joined a block are counted apart; large ones come last."""
    with pymem.Runtime() as rt:
        dead = rt.malloc_batch(64, 10)
        rt.malloc_batch(40_000, 3)
        rt.malloc_batch(1, 32, noscan=True)
        rt.gc(dead=dead[:4])
        values = metrics.read(rt)
    allocs, frees = (values[f"/gc/heap/{verb}s-by-size:bytes"] for verb in ("alloc", "free"))
    assert isinstance(allocs, Float64Histogram)
    assert isinstance(frees, Float64Histogram)
    found = [
        {bound: n for n, bound in zip(h.counts, h.buckets[1:], strict=True) if n} for h in (allocs, frees)
    ]
    assert found == [{17.0: 2, 65.0: 10, float("inf"): 3}, {65.0: 4}]
    assert values["/gc/heap/tiny/allocs:objects"] == 30
    assert (values["/gc/heap/allocs:objects"], values["/gc/heap/frees:objects"]) == (15, 4)


def test_no_such_metric(real: Told) -> None:
    with pytest.raises(pymem.ConfigError, match=r"no metric '/gc/nothing:bytes': pymem\.metrics\.all\(\)"):
        metrics.read(real, ["/gc/nothing:bytes"])


# ---- TimeHistogram ----


@given(st.one_of(st.integers(-5, 5000), st.integers(0, 1 << 50)))
def test_time_lands_between_its_bounds(ns: int) -> None:
    histogram = TimeHistogram()
    histogram.record(ns)
    counts, bounds = histogram.all_counts(), TimeHistogram.bounds()
    at = counts.index(1)
    assert sum(counts) == 1
    assert bounds[at] <= ns / 1e9 < bounds[at + 1]
