"""`pymem.debug` against `runtime/debug`, and the state of the collector that it reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pymem
from pymem import debug
from pymem.gc.state import PAUSES_KEPT, CPUStats, CycleRecord, GCStats
from pymem.units import NO_LIMIT

READINGS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "golden/reports_pauses.json").read_text(encoding="utf-8")
)["readings"]


class Target:
    """A runtime that notes what it is told."""

    def __init__(self, gc: GCStats | None = None) -> None:
        self.gc_stats = GCStats() if gc is None else gc
        self.gc_percent = 100
        self.memory_limit = NO_LIMIT
        self.max_stack = 1_000_000_000
        self.freed = 0

    def set_gc_percent(self, percent: int) -> int:
        old, self.gc_percent = self.gc_percent, percent
        return old

    def set_memory_limit(self, limit: int) -> int:
        old, self.memory_limit = self.memory_limit, limit
        return old

    def set_max_stack(self, size: int) -> int:
        old, self.max_stack = self.max_stack, size
        return old

    def free_os_memory(self) -> None:
        self.freed += 1


def test_set_gc_percent() -> None:
    rt = Target()
    assert [debug.set_gc_percent(rt, percent) for percent in (50, -7, 0, 100)] == [100, 50, -1, 0]


def test_set_memory_limit() -> None:
    rt = Target()
    assert [debug.set_memory_limit(rt, limit) for limit in (1 << 30, -1, "64MiB", -5)] == [
        *(NO_LIMIT, 1 << 30, 1 << 30),
        64 << 20,
    ]
    debug.set_memory_limit(rt, "off")
    assert rt.memory_limit == NO_LIMIT


def test_a_real_runtime() -> None:
    with pymem.Runtime(gogc=100, liveness="record") as rt:
        assert [debug.set_gc_percent(rt, percent) for percent in (50, -1, 200)] == [100, 50, -1]
        assert debug.set_memory_limit(rt, "64MiB") == NO_LIMIT
        assert debug.set_max_stack(rt, 4096) == 1_000_000_000
        with rt.go() as g, pytest.raises(pymem.SizeError, match="exceeds 4096-byte limit"):
            g.grow_stack()
            g.grow_stack()
        rt.malloc_batch(8192, 1000, noscan=True)
        rt.declare_dead(rt.malloc_batch(8192, 1000, noscan=True))
        before = rt.read_mem_stats().heap_released
        debug.free_os_memory(rt)
        assert rt.read_mem_stats().heap_released >= before + 8_000_000
        assert debug.read_gc_stats(rt).num_gc == rt.gc_stats.num_gc >= 1


def test_the_others() -> None:
    rt = Target()
    assert [debug.set_max_stack(rt, 1 << 20), debug.set_max_stack(rt, 0)] == [1_000_000_000, 1 << 20]
    debug.free_os_memory(rt)
    assert rt.freed == 1


WRONG: dict[str, Callable[[Any], object]] = {
    "PercentTooLarge": lambda rt: debug.set_gc_percent(rt, 1 << 31),
    "PercentNoNumber": lambda rt: debug.set_gc_percent(rt, 1.5),  # type: ignore[arg-type]
    "LimitNoNumber": lambda rt: debug.set_memory_limit(rt, None),  # type: ignore[arg-type]
    "LimitNoText": lambda rt: debug.set_memory_limit(rt, "64MB"),
    "LimitTooLarge": lambda rt: debug.set_memory_limit(rt, 1 << 63),
    "StackNegative": lambda rt: debug.set_max_stack(rt, -1),
    "QuantilesNegative": lambda rt: debug.read_gc_stats(Target(GCStats()), quantiles=-1),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong(name: str) -> None:
    rt = Target()
    with pytest.raises(pymem.ConfigError):
        WRONG[name](rt)
    assert (rt.gc_percent, rt.memory_limit, rt.max_stack) == (100, NO_LIMIT, 1_000_000_000)


def _state(go: dict[str, Any]) -> GCStats:
    return GCStats(
        num_gc=go["NumGC"],
        num_forced_gc=go["NumForcedGC"],
        pause_total_ns=go["PauseTotalNs"],
        pause_ns=go["PauseNs"],
        pause_end=go["PauseEnd"],
        last_gc_unix_ns=go["LastGC"],
    )


@pytest.mark.parametrize("cycles", [0, 7, 300])
def test_read_gc_stats_as_go(cycles: int) -> None:
    """Before the first cycle, after a few, and after more than are kept."""
    reading = next(r for r in READINGS if r["NumGC"] == cycles)
    rt = Target(_state(reading["MemStats"]))
    for count, quantiles in reading["Quantiles"].items():
        ours = debug.read_gc_stats(rt, quantiles=int(count))
        assert ours.pause_quantiles == tuple(quantiles)
        assert (ours.last_gc, ours.num_gc, ours.pause_total_ns) == (
            reading["LastGC"],
            cycles,
            reading["Total"],
        )
        assert ours.pause_ns == tuple(reading["Pause"] or ())
        assert ours.pause_end == tuple(reading["PauseEnd"] or ())
    assert debug.read_gc_stats(rt, quantiles=0).pause_quantiles == ()


def _run(gc: GCStats, cycles: int) -> None:
    for n in range(1, cycles + 1):
        gc.cpu.total = 1000 * n
        gc.cpu.add_pause(n, 2)
        gc.finish(
            CycleRecord(number=n, forced=n % 3 == 0, end_ns=10 * n, pause_ns=n, heap2=100 * n, stack_bytes=n)
        )


def test_rings_turn() -> None:
    gc = GCStats(start_unix_ns=5)
    _run(gc, 600)
    assert (gc.num_gc, gc.num_forced_gc, gc.pause_total_ns) == (600, 200, sum(range(601)))
    assert gc.pause_ns[(600 - 1) % PAUSES_KEPT] == 600
    assert sorted(gc.pause_ns) == list(range(345, 601))
    assert (gc.last_gc_ns, gc.last_gc_unix_ns, gc.pause_end[599 % 256]) == (6000, 6005, 6005)
    assert (gc.heap_marked, gc.last_stack_scan) == (60_000, 600)
    stats = debug.read_gc_stats(Target(gc), quantiles=2)
    assert (stats.pause_ns[:2], stats.pause_quantiles) == ((600, 599), (345, 600))
    assert [c.number for c in gc.cycles] == list(range(1, 601))


def test_processor_time_adds_up() -> None:
    cpu = CPUStats()
    cpu.add_pause(10, 4)
    cpu.add_workers(CycleRecord(dedicated_ns=20, fractional_ns=30, idle_ns=4))
    cpu.add_rest(gc_assist=1, scavenge_assist=5, scavenge_bg=6, idle=7, total=1000)
    assert (cpu.gc_pause, cpu.gc_dedicated, cpu.gc_total) == (40, 50, 40 + 1 + 50 + 4)
    assert cpu.total == cpu.gc_total + cpu.scavenge_total + cpu.idle + cpu.user
    assert cpu.gc_fraction == (95 - 4) / 1000
    assert CPUStats().gc_fraction == 0.0
