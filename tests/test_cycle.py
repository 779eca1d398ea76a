"""The collector: when cycles start, who pays for marking, what time they take."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from command_line import LRU
from driven import Driven, programs
from hypothesis import given, settings

import pymem
from pymem.gc.costs import Costs
from pymem.gc.cpu import Share, Turns, share_out
from pymem.gc.cycle import EMPTY_PROGRAM_GLOBALS
from pymem.gc.events import GCEvent, GCPhase
from pymem.gc.marking import Progress, RecordMark
from pymem.program import read_program
from pymem.rerun import rerun
from pymem.stats.gctrace import parse_gctrace
from pymem.workload.sources import open_stream

MB = 1 << 20
SPAN = 8192


def runtime(**options: Any) -> pymem.Runtime:
    """Return a runtime whose objects live until they are declared dead."""
    settings: dict[str, Any] = {"gogc": 100, "liveness": "record"}
    return pymem.Runtime(**(settings | options))


def grow(rt: pymem.Runtime, size: int, *, slot: int = 64, p: int = 0) -> Any:
    """Allocate so many bytes of small scan objects."""
    return rt.malloc_batch(slot, size // slot, p=p)


# ---- when ----


@pytest.mark.parametrize("gogc", [20, 50, 100, 200, 400])
def test_first_trigger(gogc: int) -> None:
    """The first trigger is 61/64 of the smallest goal, 4 MB x GOGC/100; the cycle starts when a span passes it."""
    with runtime(gogc=gogc) as rt:
        grow(rt, 5 * MB * gogc // 100)
        rt.work(1e9)
        trigger = 4 * MB * gogc // 100 * 61 // 64
        first = rt.gc_stats.cycles[0]
        assert trigger <= first.trigger < trigger + SPAN
        assert first.heap0 == first.trigger


def test_nothing_by_itself_when_off() -> None:
    with runtime(gogc="off") as rt:
        grow(rt, 40 * MB)
        assert rt.gc_stats.num_gc == 0
        rt.gc()
        assert rt.gc_stats.num_gc == 1


def test_limit_collects_though_gogc_is_off() -> None:
    with runtime(gogc="off", memory_limit="24MiB") as rt:
        for _ in range(40):
            rt.declare_dead(grow(rt, MB))
        stats = rt.read_mem_stats()
        assert stats.num_gc >= 2
        assert stats.sys - stats.heap_released < 24 * MB


def test_two_minutes_force_a_cycle() -> None:
    with runtime() as rt:
        grow(rt, 5 * MB)
        rt.work(1e9)
        assert rt.gc_stats.num_gc == 1
        ended = rt.gc_stats.last_gc_ns
        rt.sleep(119e9)
        assert rt.gc_stats.num_gc == 1
        rt.sleep(2e9)
        assert rt.gc_stats.num_gc == 2
        second = rt.gc_stats.cycles[1]
        assert second.start_ns == ended + 120 * 10**9 + 1
        assert not second.forced


def test_no_clock_forces_the_first_cycle() -> None:
    with runtime() as rt:
        rt.sleep(1e12)
        assert rt.gc_stats.num_gc == 0


def test_settings_take_effect_at_once() -> None:
    with runtime(gogc="off") as rt:
        grow(rt, 10 * MB)
        assert rt.set_gc_percent(50) == -1
        rt.malloc(100_000)
        assert rt.gc_stats.cycles == [] or rt.gc_stats.cycles[0].trigger >= 10 * MB
        rt.work(1e9)
        assert rt.gc_stats.num_gc == 1
        assert rt.set_gc_percent(-1) == 50
        assert rt.set_memory_limit("1GiB") == (1 << 63) - 1
        assert rt.set_memory_limit(-1) == 1 << 30


# ---- what ----


def test_phases_are_told_in_order() -> None:
    seen: list[GCEvent] = []
    with runtime() as rt:
        rt.on_gc(seen.append)
        grow(rt, 30 * MB)
        rt.gc()
    order = [GCPhase.SWEEP_TERMINATION, GCPhase.MARK, GCPhase.MARK_TERMINATION, GCPhase.SWEEP, GCPhase.SWEPT]
    cycles = [e.cycle for e in seen]
    assert cycles == sorted(cycles)
    assert [e.now for e in seen] == sorted(e.now for e in seen)
    for number in range(1, cycles[-1] + 1):
        phases = [e.phase for e in seen if e.cycle == number]
        assert phases == [p for p in order if p in phases]
        assert phases[:4] == order[:4]


def test_what_is_born_while_marking_survives() -> None:
    """Objects made after marking began are black, whatever becomes of them."""
    with runtime(costs=Costs(mark_byte_ns=50.0)) as rt:
        grow(rt, 4 * MB)
        while not rt.marking:
            grow(rt, SPAN)
        young = grow(rt, 16 * SPAN, slot=512)
        assert rt.marking
        rt.declare_dead(young)
        rt.work(1e10)
        assert rt.gc_stats.num_gc == 1
        marked = rt.gc_stats.cycles[0].heap2
        assert marked >= 16 * SPAN
        assert rt.gc().freed_objects == len(young)


def test_dead_before_marking_are_freed() -> None:
    with runtime() as rt:
        dead = grow(rt, 2 * MB)
        keep = grow(rt, MB)
        rt.declare_dead(dead)
        grow(rt, 2 * MB)
        rt.work(1e9)
        assert rt.gc_stats.num_gc == 1
        assert rt.gc_stats.cycles[0].heap2 < 4 * MB
        assert rt.object_at(int(keep[0])).address == int(keep[0])
        with pytest.raises(pymem.AddressError):
            rt.object_at(int(dead[0]))


def test_forced_cycle_finishes_the_sweep() -> None:
    with runtime() as rt:
        rt.declare_dead(grow(rt, 3 * MB))
        result = rt.gc()
        assert (result.cycle, result.freed_objects) == (1, 3 * MB // 64)
        assert rt.read_mem_stats(flush=False).heap_objects == 0
        assert rt.gc_stats.cycles[0].forced
        assert rt.gc_stats.num_forced_gc == 1


# ---- who pays ----


def test_assists_keep_a_fast_program_near_its_goal() -> None:
    """A program that allocates faster than a quarter of its P can mark has to help, and so stays below 110 %."""
    with runtime(gogc=100, costs=Costs(malloc_ns=20.0, mark_byte_ns=1.0)) as rt:
        keep = grow(rt, 40 * MB)
        for _ in range(120):
            rt.declare_dead(grow(rt, 4 * MB))
        steady = rt.gc_stats.cycles[4:]  # the estimates of the first ones are of a heap that was growing
        assert steady
        assert all(c.assist_ns > 0 for c in steady)
        assert all(c.heap1 <= 1.1 * c.goal for c in steady)
        assert len(keep)


def test_slow_program_hardly_assists() -> None:
    """With time enough between allocations the background does nearly all of it."""
    with runtime() as rt:
        grow(rt, 30 * MB)
        for _ in range(1200):
            rt.declare_dead(grow(rt, MB // 8))
            rt.work(1e6)
        later = rt.gc_stats.cycles[-2:]
        assert sum(c.assist_ns for c in later) < 0.1 * sum(c.fractional_ns for c in later)


@pytest.mark.parametrize("procs", [1, 2, 4, 8])
def test_a_quarter_of_the_ps_marks(procs: int) -> None:
    """A P that is idle has a fractional worker first, if there are any, for as long as the globals take."""
    costs = Costs(mark_byte_ns=20.0, worker_start_ns=0, mark_end_ns=0)
    with runtime(gomaxprocs=procs, costs=costs) as rt:
        grow(rt, 60 * MB)
        for c in rt.gc_stats.cycles:
            marking = (c.term_ns - c.mark_ns) * procs
            idle_procs = max(0, procs - 1 - c.dedicated_workers)
            first = min(EMPTY_PROGRAM_GLOBALS * 20.0, c.term_ns - c.mark_ns) if c.fractional_goal else 0.0
            background = c.dedicated_ns + c.fractional_ns - first * idle_procs
            assert abs(background - marking / 4) <= marking * 0.26
            assert abs(c.idle_ns - idle_procs * (c.term_ns - c.mark_ns - first)) <= procs


def test_workers_have_to_wake_up() -> None:
    costs = Costs(mark_byte_ns=0.0, mark_object_ns=0.0, worker_start_ns=70_000)
    with runtime(gomaxprocs=2, costs=costs) as rt:
        rt.gc()
        cycle = rt.gc_stats.cycles[-1]
        assert cycle.term_ns - cycle.mark_ns == 70_000


def test_one_p_asks_itself() -> None:
    """Whoever ends the mark, a worker or an assist."""
    marks = []
    for ns in (0, 3_000_000):
        with runtime(gomaxprocs=1, costs=Costs(mark_end_ns=ns)) as rt:
            grow(rt, 30 * MB)
            marks.append([c.term_ns - c.mark_ns for c in rt.gc_stats.cycles])
            assert any(c.assist_ns for c in rt.gc_stats.cycles)
    assert marks[0] == marks[1]


def test_waiting_for_globals_takes_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where bytes cost nothing, and objects all."""
    steps = []
    drain = RecordMark.drain

    def counted(mark: RecordMark, ns: float) -> Progress:
        steps.append(ns)
        return drain(mark, ns)

    monkeypatch.setattr(RecordMark, "drain", counted)
    program = read_program(open_stream(LRU), costs=Costs(mark_byte_ns=0.0), calibrated=False)
    run = rerun(program, gogc="off", memory_limit="4MiB", gomaxprocs=2)
    assert 3 < len(run.cycles) < len(steps) < 100 * len(run.cycles)


def test_the_program_goes_on_until_all_ps_have_been_asked() -> None:
    """But for whoever found that nothing is left: it asks."""
    with runtime(gomaxprocs=2, costs=Costs(mark_end_ns=3_000_000)) as rt:
        grow(rt, 60 * MB)
        marks = [c.term_ns - c.mark_ns for c in rt.gc_stats.cycles]
        assert min(marks) > 3_000_000
        assert any(c.heap1 - c.heap0 > MB // 4 for c in rt.gc_stats.cycles)


def test_pauses_are_billed_to_all() -> None:
    costs = Costs(stop_ns=1000, term_ns=500)
    with runtime(gomaxprocs=4, costs=costs) as rt:
        grow(rt, 30 * MB)
        rt.gc()  # and none is left under way
        stats = rt.gc_stats
        assert stats.num_gc >= 2
        assert stats.cpu.gc_pause == stats.num_gc * 1500 * 4
        assert set(stats.pause_ns[: stats.num_gc]) == {1500}
        assert stats.pause_total_ns == 1500 * stats.num_gc


def test_processor_time_adds_up() -> None:
    with runtime(gomaxprocs=3) as rt:
        grow(rt, 40 * MB)
        rt.sleep(1e7)
        rt.gc()
        cpu = rt.gc_stats.cpu
        assert cpu.total == rt.gc_stats.last_gc_ns * 3
        assert cpu.gc_total == cpu.gc_assist + cpu.gc_dedicated + cpu.gc_idle + cpu.gc_pause
        assert cpu.user + cpu.idle + cpu.gc_total + cpu.scavenge_total == cpu.total
        assert cpu.user > 0


@pytest.mark.parametrize("start", [10_000_000, 25_000_000, 39_999_999, 1_000_000_001])
def test_slices_take_10_to_20_ms(start: int) -> None:
    """The worker's turn comes when the second look after the goroutine's start finds it there still."""
    share, turns, passed = Share(0, 0.25, 0, 0, 0.75), Turns(), 100_000_000
    turns.begin(start)
    waits, first = turns.turn(share, start, goal=0.25, passed=1, waited=0, worked=0)
    assert waits.fractional == 0
    assert 0 < first <= 20_000_000
    marks, turn = turns.turn(share, start + int(first), goal=0.25, passed=passed, waited=0, worked=0)
    assert (marks.fractional, marks.speed) == (1.0, 0.0)
    done = start + int(first + turn)
    waits, then = turns.turn(share, done, goal=0.25, passed=passed, waited=0, worked=passed)
    assert waits.fractional == 0
    assert 10_000_000 <= then <= 20_000_000
    assert (done + int(then)) % 10_000_000 == pytest.approx(0, abs=1)


def test_slices_end_where_the_program_gives_way() -> None:
    share, turns = Share(0, 0.25, 0, 0, 0.75), Turns()
    turns.gives_way_ns = 2e6
    turns.begin(5_500_000)
    assert turns.turn(share, 5_500_000, goal=0.25, passed=1, waited=0, worked=0)[1] == 500_000


def test_idle_ps_have_a_fractional_worker_first() -> None:
    """Until it has done what it does at least, and is 20 % ahead of its share of the time since marking began."""
    share, turns = Share(0, 0.25, 1, 0, 0.75), Turns()
    turns.begin(0)
    turns.first_ns = 50_000.0
    first, left = turns.turn(share, 150_000, goal=0.25, passed=150_000, waited=150_000, worked=0)
    assert (first.fractional, first.idle) == (1.0, 0)
    assert left == pytest.approx(150_000 * 0.3 / 0.7)
    after = 150_000 + int(left) + 1
    later, _ = turns.turn(share, after, goal=0.25, passed=after, waited=150_000, worked=int(left))
    assert (later.fractional, later.idle) == (0.0, 1)
    turns.first_ns = 90_000.0
    assert turns.turn(share, 150_000, goal=0.25, passed=150_000, waited=150_000, worked=0)[1] == 90_000


def test_share_out() -> None:
    assert share_out(1, 1, dedicated=0, fractional=0.25, max_idle=1) == Share(0, 0.25, 0, 0, 0.75)
    assert share_out(4, 1, dedicated=1, fractional=0.0, max_idle=3) == Share(1, 0.0, 2, 0, 1.0)
    assert share_out(4, 4, dedicated=1, fractional=0.0, max_idle=3) == Share(1, 0.0, 0, 0, 0.75)
    assert share_out(2, 0, dedicated=0, fractional=0.25, max_idle=1) == Share(0, 0.0, 1, 1, 0.0)


# ---- time ----


def test_time_is_what_costs_say() -> None:
    costs = Costs(malloc_ns=7.0, malloc_byte_ns=0.5)
    with runtime(gogc="off", costs=costs) as rt:
        rt.malloc(100, noscan=True)  # a slot of 112 bytes
        rt.malloc_batch(64, 1000)
        assert rt.now == int(7.0 * 1001 + 0.5 * (112 + 64_000))
        rt.work(123)
        rt.sleep(77)
        assert rt.now == int(7.0 * 1001 + 0.5 * (112 + 64_000) + 200)


@pytest.mark.parametrize("bad", [-1, float("nan"), float("inf"), 1e30])
def test_bad_times(bad: float) -> None:
    with runtime() as rt, pytest.raises(pymem.ConfigError, match="time"):
        rt.work(bad)


@pytest.mark.parametrize("bad", [{"malloc_ns": -1.0}, {"mark_byte_ns": float("nan")}, {"stop_ns": "3"}])
def test_bad_costs(bad: dict[str, Any]) -> None:
    with pytest.raises(pymem.ConfigError, match="nanoseconds"):
        replace(Costs(), **bad)


def test_costs_survive_files(tmp_path: Any) -> None:
    path = tmp_path / "costs.json"
    costs = Costs(malloc_ns=3.5, stop_ns=9)
    costs.save(path)
    assert Costs.load(path) == costs
    path.write_text("[1]", encoding="utf-8")
    with pytest.raises(pymem.ConfigError, match="not a file of costs"):
        Costs.load(path)


# ---- lines ----


def test_from_env_prints_gctrace() -> None:
    out = io.StringIO()
    env = {"GOGC": "50", "GODEBUG": "gctrace=1,gcpacertrace=1,scavtrace=1", "GOMAXPROCS": "2"}
    with pymem.Runtime.from_env(env, trace=out, liveness="record") as rt:
        grow(rt, 20 * MB)
        rt.gc()
        number = rt.gc_stats.num_gc
        assert rt.gomaxprocs() == 2
    lines = out.getvalue().splitlines()
    parsed = [p for line in lines if (p := parse_gctrace(line))]
    assert [p.number for p in parsed] == list(range(1, number + 1))
    assert parsed[-1].forced
    assert sum(line.startswith("pacer: assist ratio=") for line in lines) == number
    assert any(line.startswith("scav ") for line in lines)


def test_from_env_refuses_a_malformed_limit() -> None:
    with pytest.raises(pymem.ConfigError, match="GOMEMLIMIT"):
        pymem.Runtime.from_env({"GOMEMLIMIT": "1.5GiB"})


# ---- whatever the program does ----


@settings(max_examples=30, deadline=None)
@given(programs())
def test_any_program(program: list[tuple[str, int]]) -> None:
    """The heap stays whole, nothing living is freed, time never goes back, and twice the same gives the same."""
    once, twice = Driven(), Driven()
    now = 0
    for what, n in program:
        once.step(what, n)
        twice.step(what, n)
        once.rt.check()
        assert once.alive == twice.alive
        assert once.rt.now == twice.rt.now >= now
        now = once.rt.now
    for addr in once.alive[:: max(1, len(once.alive) // 200)]:
        once.rt.object_at(addr)
    assert once.rt.gc_stats == twice.rt.gc_stats
    assert once.rt.read_mem_stats() == twice.rt.read_mem_stats()
    once.rt.close()
    twice.rt.close()


def test_batches_stop_as_single_calls_do() -> None:
    """Cycles come where the objects' number brings them, whether they are made one by one or together."""
    with runtime() as one, runtime() as many:
        singles = [one.malloc(48, noscan=True) for _ in range(100_000)]
        assert (many.malloc_batch(48, 100_000, noscan=True) == np.array(singles, np.uint64)).all()
        assert [c.trigger for c in one.gc_stats.cycles] == [c.trigger for c in many.gc_stats.cycles]
