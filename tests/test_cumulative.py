"""What only ever grows: counters, processor time, histograms, whatever a program does."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from driven import Driven, programs
from hypothesis import given, settings
from hypothesis import strategies as st

import pymem
from pymem import metrics, types
from pymem.gc.clock import Clock
from pymem.gc.events import GCEvent, GCPhase
from pymem.gc.state import CPUStats, CycleRecord

MB = 1 << 20
CUMULATIVE = [d.name for d in metrics.all() if d.cumulative]


def counts(value: Any) -> tuple[float, ...]:
    return value.counts if isinstance(value, metrics.Float64Histogram) else (value,)


def read(rt: pymem.Runtime) -> dict[str, tuple[float, ...]]:
    return {name: counts(value) for name, value in metrics.read(rt, CUMULATIVE).items()}


def fallen(before: dict[str, tuple[float, ...]], now: dict[str, tuple[float, ...]]) -> list[str]:
    return [name for name in now if any(a > b for a, b in zip(before[name], now[name], strict=True))]


@settings(max_examples=60, deadline=None)
@given(
    programs(),
    st.sampled_from([None, 3 * MB, 6 * MB, 24 * MB]),
    st.integers(1, 4),
    st.sampled_from([20, 50, 100]),
    st.sampled_from(["record", "graph"]),
)
def test_no_metric_falls(
    program: list[tuple[str, int]], limit: int | None, procs: int, gogc: int, liveness: str
) -> None:
    if liveness == "graph":
        program = [step for step in program if step[0] not in ("drop", "dead")]
    driven = Driven(memory_limit=limit, gomaxprocs=procs, gogc=gogc, liveness=liveness)
    with driven.rt as rt:
        for _ in range(4):  # that much lives on, and no limit can be kept
            driven.step("grow", 3 * MB)
        before = read(rt)
        for step in program:
            driven.step(*step)
            now = read(rt)
            assert not fallen(before, now)
            before = now


@pytest.mark.parametrize("procs", [1, 2, 4])
@pytest.mark.parametrize("chunk", [1000, 10_000])
def test_processor_time_under_a_tight_limit(procs: int, chunk: int) -> None:
    """A heap above its limit marks and gives back all the time, and each allocation pays for it."""
    node = types.struct("node", next=types.ptr("node"), n=types.int64)
    seen: list[tuple[int, ...]] = []
    with pymem.Runtime(gogc=50, gomaxprocs=procs, memory_limit="3MiB") as rt:

        def observe(event: GCEvent) -> None:
            if event.phase is GCPhase.SWEEP:
                c = rt._gc.stats.cpu
                assert c.total == c.gc_total + c.scavenge_total + c.idle + c.user
                seen.append(
                    (c.user, c.idle, c.gc_assist, c.scavenge_assist, c.scavenge_bg, c.gc_total, c.total)
                )

        nodes = rt.new_batch(node, 100_000)
        rt.store_batch(nodes[:-1], 0, nodes[1:])
        rt.globals["head"] = int(nodes[0])
        rt.on_gc(observe)
        for _ in range(300_000 // chunk):
            rt.malloc_batch(64, chunk)
        assert len(seen) > 20
        assert all(a <= b for one, two in pairwise(seen) for a, b in zip(one, two, strict=True))
        rt.work(1e9)
        rt.gc()  # by now the time of all that was billed before has passed
        stats = rt.gc_stats
        assert stats.cpu.gc_assist == sum(c.assist_ns for c in stats.cycles)


def test_what_has_not_passed_is_billed_later() -> None:
    clock, cpu = Clock(1), CPUStats()
    clock.pass_time(10, unused=0)
    clock.report(cpu, CycleRecord(assist_ns=25, fractional_ns=4), scavenge_assist=3, scavenge_bg=2)
    assert (cpu.gc_dedicated, cpu.gc_assist, cpu.scavenge_bg, cpu.user) == (4, 4, 2, 0)
    clock.pass_time(30, unused=0)
    clock.report(cpu, CycleRecord(), scavenge_assist=0, scavenge_bg=0)
    assert (cpu.gc_assist, cpu.scavenge_assist, cpu.user, cpu.total) == (25, 3, 6, 40)


def test_a_p_that_scavenges_is_not_idle() -> None:
    clock, cpu = Clock(2), CPUStats()
    clock.pass_time(10, unused=1)
    clock.report(cpu, CycleRecord(), scavenge_assist=0, scavenge_bg=4)
    assert (cpu.scavenge_bg, cpu.idle, cpu.user) == (4, 6, 10)
