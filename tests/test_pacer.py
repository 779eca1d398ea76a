"""The pacer against Go's own: its test's cycles line by line, random operations field by field, and what must hold."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pacer_driver import Driver
from pacer_scenarios import SCENARIOS, Scenario, Simulation, constant, golden, real

from pymem.errors import CorruptHeapError
from pymem.gc.controller import (
    DEFAULT_HEAP_MINIMUM,
    NO_TRIGGER,
    OVER_ASSIST_WORK,
    Controller,
    Debtor,
    TriggerKind,
    WorkerMode,
    mark_workers,
)
from pymem.gc.gonumbers import divide, int64, to_int64, to_uint64
from pymem.gc.pacer import GOAL_OFF, GoPacer, Pacer
from pymem.stats.gctrace import go_float
from pymem.units import NO_LIMIT

MB = 1 << 20


def cycles_by_scenario() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    name = ""
    for line in golden("gc_pacer.txt"):
        if line.startswith(" "):
            found[name].append(line.strip())
        else:
            name = line
            found[name] = []
    return found


def grown(*, marked: int, scan: int = 0, stacks: int = 0, pacer: GoPacer | None = None) -> GoPacer:
    """Return a pacer after a cycle that marked so many bytes."""
    pacer = pacer or GoPacer()
    pacer.start_cycle(0, 4)
    pacer.heap_scan_work, pacer.stack_scan_work = scan, stacks
    pacer.end_cycle(1000, 4)
    pacer.reset_live(marked)
    pacer.commit(True)
    return pacer


# ---- against Go ----


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_cycles(scenario: Scenario) -> None:
    """Utilization, live heap, trigger, peak and goal of every cycle of TestGcPacer."""
    pacer = GoPacer(scenario.gc_percent, scenario.memory_limit)
    actual = [str(cycle) for cycle in Simulation(scenario, pacer).run()]
    assert actual == cycles_by_scenario()[scenario.name]


def test_scenarios_are_all() -> None:
    of = cycles_by_scenario()
    assert list(of) == [scenario.name for scenario in SCENARIOS]
    assert (len(of), sum(map(len, of.values()))) == (19, 1100)


def lives() -> Iterator[list[str]]:
    """Yield the operations on one controller after the other."""
    life: list[str] = []
    for line in golden("gc_controller.txt"):
        if line.startswith("new ") and life:
            yield life
            life = []
        life.append(line)
    yield life


def test_operations() -> None:
    """Every field after every operation, the numbers being such as no heap has; floats to the bit."""
    driver = Driver()
    for life in lives():
        assert [driver.answer(line.partition(" =>")[0]) for line in life] == life


def test_conversions() -> None:
    for line in golden("gc_streams.txt"):
        if line.startswith("convert"):
            _, x, signed, unsigned = line.split()
            assert (to_int64(real(x)), to_uint64(real(x))) == (int(signed), int(unsigned))


def test_print() -> None:
    for line in golden("gc_streams.txt"):
        if line.startswith("format"):
            _, x, text = line.split()
            assert go_float(real(x)) == text


@given(st.integers(-(1 << 70), 1 << 70))
def test_int64_wraps(n: int) -> None:
    assert -(1 << 63) <= int64(n) < 1 << 63
    assert (int64(n) - n) % (1 << 64) == 0


def test_divide_by_zero() -> None:
    assert [divide(1.0, 0.0), divide(1.0, -0.0), divide(-2.0, 0.0)] == [math.inf, -math.inf, -math.inf]
    assert math.isnan(divide(0.0, 0.0))


# ---- settings and goals ----


def test_first_trigger() -> None:
    """Of any Go process: 61/64 of 4 MB."""
    assert GoPacer().trigger() == (3_997_696, 4 * MB)


@pytest.mark.parametrize("gogc", [0, 20, 50, 100, 200, 400])
def test_heap_minimum(gogc: int) -> None:
    assert GoPacer(gogc).heap_goal() == DEFAULT_HEAP_MINIMUM * gogc // 100


@pytest.mark.parametrize("gogc", [50, 100, 400])
def test_goal_counts_stacks_and_globals(gogc: int) -> None:
    pacer = GoPacer(gogc)
    pacer.add_globals(3000)
    grown(marked=50 * MB, stacks=5000, pacer=pacer)
    assert pacer.heap_goal() == 50 * MB + (50 * MB + 8000) * gogc // 100


def test_gogc_off() -> None:
    pacer = GoPacer(-7)
    assert (pacer.gc_percent, pacer.gc_percent_heap_goal) == (-1, GOAL_OFF)
    assert pacer.heap_goal() > 1 << 62
    assert pacer.set_gc_percent(50) == -1
    pacer.commit(True)
    assert pacer.heap_goal() == 2 * MB


def test_memory_limit() -> None:
    pacer = GoPacer(100)
    assert pacer.set_memory_limit(5 * MB) == NO_LIMIT
    assert pacer.set_memory_limit(-1) == 5 * MB
    assert pacer.heap_goal() == 4 * MB


@pytest.mark.parametrize(
    ("limit", "goal"),
    [
        (1000 * MB, 1000 * MB - 1000 * MB // 100 * 3),
        (20 * MB, 19 * MB),
        (2 * MB, 1 * MB),
        (MB // 2, MB),
        (0, 0),
    ],
)
def test_headroom(limit: int, goal: int) -> None:
    """Three percent, at least 1 MB; the goal is no less than the headroom."""
    assert GoPacer(-1, limit).heap_goal() == goal


@given(
    st.sampled_from([0, 20, 100, 1000]),
    st.integers(0, 1 << 26),
    st.integers(0, 1 << 26),
    st.integers(0, 1 << 28),
)
def test_lower_goal_counts(gogc: int, marked: int, ready: int, limit: int) -> None:
    """The limit's where it is below GOGC's."""
    pacer = GoPacer(gogc, limit)
    pacer.heap_marked, pacer.mapped_ready = marked, ready
    pacer.commit(True)
    assert pacer.heap_goal() == min(pacer.gc_percent_heap_goal, pacer.memory_limit_heap_goal())


def limited(*, marked: int, free: int, objects: int, ready: int, limit: int = 100 * MB) -> int:
    pacer = GoPacer(-1, limit)
    pacer.heap_marked, pacer.heap_free = marked, free
    pacer.total_alloc, pacer.total_free, pacer.mapped_ready = objects + 7, 7, ready
    return pacer.memory_limit_heap_goal()


def test_limit_without_what_is_not_heap() -> None:
    goal = (100 - 5) * MB
    assert limited(marked=0, free=10 * MB, objects=30 * MB, ready=45 * MB) == goal - goal // 100 * 3


def test_limit_overage_counts_twice() -> None:
    """What is not heap may take it past the limit, and what is past the limit has to go as well."""
    goal = (100 - 40 - 20) * MB
    assert limited(marked=0, free=10 * MB, objects=70 * MB, ready=120 * MB) == goal - goal // 100 * 3


@pytest.mark.parametrize("ready", [45 * MB, 151 * MB, 500 * MB])
def test_limit_goal_is_not_below_live(ready: int) -> None:
    assert limited(marked=99 * MB, free=0, objects=30 * MB, ready=ready) == 99 * MB


def test_limit_with_impossible_counts() -> None:
    with pytest.raises(CorruptHeapError, match="exceed mapped memory by 1 bytes"):
        limited(marked=0, free=1, objects=1, ready=1)


def test_sweep_distance() -> None:
    """While there is sweeping to do, trigger and goal are 1 MB off; once it is done, or under a limit, they are not."""
    pacer = grown(marked=10 * MB, pacer=GoPacer(1))
    pacer.commit(False)
    assert pacer.trigger() == (11 * MB, 11 * MB)
    pacer.commit(True)
    assert pacer.heap_goal() == 10 * MB + 10 * MB // 100
    pacer.commit(False)
    pacer.set_memory_limit(10 * MB + MB // 2)
    assert pacer.trigger() == (10 * MB, 10 * MB)


def test_late_trigger_gets_room() -> None:
    pacer = grown(marked=10 * MB)
    pacer.heap_live = 30 * MB
    pacer.start_cycle(0, 4)
    assert pacer.heap_goal() == 30 * MB + (64 << 10)


def test_trigger_bounds() -> None:
    """70 % and 95 % of the way to the goal; a large heap has at most 4 MB to go."""
    small, large = grown(marked=10 * MB), grown(marked=1000 * MB)
    for pacer, highest in ((small, 10 * MB + 10 * MB // 64 * 61), (large, 1996 * MB)):
        pacer.runway = 0
        assert pacer.trigger()[0] == highest
        pacer.runway = 1 << 60
        assert pacer.trigger()[0] == pacer.heap_marked + pacer.heap_marked // 64 * 45
    small.runway = 2 * MB
    assert small.trigger() == (18 * MB, 20 * MB)


# ---- cons/mark ----


def measured(cons_mark: float, pacer: GoPacer) -> None:
    """Let a cycle come out with that cons/mark."""
    pacer.heap_live = 30 * MB
    pacer.start_cycle(0, 4)
    pacer.heap_scan_work = 3 * MB
    pacer.heap_live += int(9 * MB * cons_mark)
    pacer.end_cycle(1000, 4)
    pacer.reset_live(3 * MB)
    pacer.commit(True)


def test_cons_mark_is_the_largest_of_five() -> None:
    pacer, seen = GoPacer(), []
    for value in (1.0, 4.0, 2.0, 0.125, 1.0, 0.5, 1.0, 0.25):
        measured(value, pacer)
        seen.append(pacer.cons_mark)
    assert seen == [1.0, 4.0, 4.0, 4.0, 4.0, 4.0, 2.0, 1.0]
    assert pacer.last_cons_mark == [1.0, 0.5, 1.0, 0.25]
    assert pacer.runway == 9 * MB


def test_cycle_without_allocation_teaches_nothing() -> None:
    pacer = GoPacer()
    measured(2.0, pacer)
    pacer.start_cycle(0, 4)
    pacer.end_cycle(1000, 4)
    assert (pacer.cons_mark, pacer.last_cons_mark, pacer.utilization) == (2.0, [0.0, 0.0, 0.0, 2.0], 0.0)


def test_idle_marking_counts() -> None:
    """Two of four Ps that mark for being idle make marking three times as slow as it looked."""
    pacer = GoPacer()
    pacer.start_cycle(0, 4)
    pacer.heap_scan_work, pacer.heap_live, pacer.idle_mark_time = 3 * MB, 9 * MB, 2000
    pacer.end_cycle(1000, 4)
    assert pacer.cons_mark == 3.0


def test_utilization() -> None:
    """A quarter for the background, and what assists took."""
    pacer = GoPacer()
    pacer.globals_scan, pacer.heap_scan, pacer.heap_live = 1 << 20, 3 * MB, 3_997_696
    pacer.start_cycle(1000, 2)
    assert (pacer.assist_work_per_byte, pacer.fractional_utilization_goal) == (16 / 3, 0.25)
    pacer.heap_live += 1 << 20
    pacer.assist_time = 100
    pacer.end_cycle(2000, 2)
    assert (pacer.utilization, pacer.last_heap_goal) == (0.3, 4 * MB)


# ---- assists ----


def marking(
    *, live: int = 4 * MB, goal: int = 8 * MB, expected: int = 2 * MB, worst: int = 6 * MB
) -> GoPacer:
    """Return a pacer in a cycle that has just begun."""
    pacer = GoPacer()
    pacer.gc_percent_heap_goal = goal
    pacer.last_heap_scan, pacer.heap_scan, pacer.heap_live = expected, worst, live
    pacer.blacken_enabled = True
    pacer.start_cycle(0, 4)
    return pacer


def test_assist_ratio() -> None:
    pacer = marking()
    assert (pacer.assist_work_per_byte, pacer.assist_bytes_per_work) == (0.5, 2.0)
    pacer.heap_scan_work = MB
    pacer.update(2 * MB, 100)
    assert (pacer.assist_work_per_byte, pacer.heap_scan) == (0.5, 6 * MB)


def test_assist_ratio_of_a_growing_heap_stays() -> None:
    pacer = marking()
    pacer.heap_scan_work = 2 * MB + 1
    pacer.update(4 * MB, 0)
    assert pacer.assist_work_per_byte == pytest.approx(0.5, rel=1e-6)


def test_hard_goal() -> None:
    """(1 + GOGC/100) times the goal, however much there may be to scan."""
    pacer = marking(worst=600 * MB)
    pacer.heap_scan_work = 2 * MB + 1
    pacer.update(4 * MB, 0)
    assert pacer.assist_work_per_byte == (598 * MB - 1) / (8 * MB)


def test_hard_goal_without_gogc() -> None:
    """As if GOGC were 100,000."""
    pacer = marking(worst=2**40)
    pacer.gc_percent = -1
    pacer.heap_scan_work = 2 * MB + 1
    pacer.revise()
    assert pacer.assist_work_per_byte == (2**40 - 2 * MB - 1) / ((1001 * 8 - 4) * MB)


def test_beyond_the_goal() -> None:
    pacer = marking()
    pacer.update(4 * MB + 1, 0)
    assert pacer.assist_work_per_byte == 6 * MB / (int(8 * MB * 1.1) - 8 * MB - 1)
    pacer.update(400 * MB, 0)
    assert pacer.assist_work_per_byte == 6 * MB


def test_outside_marking_update_counts() -> None:
    pacer = GoPacer()
    pacer.update(500, 300)
    assert (pacer.heap_live, pacer.heap_scan, pacer.assist_work_per_byte) == (500, 300, 0.0)


def test_assist_is_never_small() -> None:
    pacer, debtor = marking(), Debtor(-10)
    assert pacer.assist_work(debtor) == OVER_ASSIST_WORK
    pacer.pay_assist(debtor, OVER_ASSIST_WORK)
    assert debtor.gc_assist_bytes == -10 + 1 + 2 * OVER_ASSIST_WORK


def test_assist_steals_credit() -> None:
    pacer, debtor = marking(), Debtor(-MB)
    pacer.bg_scan_credit = 100_000
    assert pacer.assist_work(debtor) == MB // 2 - 100_000
    assert (pacer.bg_scan_credit, debtor.gc_assist_bytes) == (0, -MB + 1 + 200_000)
    pacer.bg_scan_credit = MB
    assert pacer.assist_work(Debtor(-MB)) == 0
    assert pacer.bg_scan_credit == MB // 2
    pacer.bg_scan_credit = -5
    assert pacer.assist_work(Debtor(-MB)) == MB // 2


def test_background_credit_pays_who_waits() -> None:
    pacer = marking()
    small, large = Debtor(-100), Debtor(-10_000)
    assert pacer.park_assist(large) and pacer.park_assist(small)
    assert pacer.flush_bg_credit(2000) == []
    assert (large.gc_assist_bytes, list(pacer.assist_queue)) == (-6000, [small, large])
    assert pacer.flush_bg_credit(4000) == [small, large]
    assert (pacer.bg_scan_credit, small.gc_assist_bytes, large.gc_assist_bytes) == (950, 0, 0)
    assert not pacer.park_assist(small)
    assert pacer.flush_bg_credit(50) == []
    assert pacer.bg_scan_credit == 1000


def test_all_wake_at_the_end() -> None:
    pacer, waiting = marking(), [Debtor(-1), Debtor(-2)]
    assert [pacer.park_assist(debtor) for debtor in waiting] == [True, True]
    assert pacer.wake_all_assists() == waiting
    assert pacer.wake_all_assists() == []


def test_exit_leaves_credit() -> None:
    pacer, debtor = marking(), Debtor(1000)
    pacer.release_credit(debtor)
    assert (pacer.bg_scan_credit, debtor.gc_assist_bytes) == (500, 0)
    pacer.blacken_enabled = False
    pacer.release_credit(Debtor(1000))
    assert pacer.bg_scan_credit == 500


def test_assist_time_comes_in_portions() -> None:
    pacer = marking()
    assert not pacer.add_assist_time(1, 5000)
    assert pacer.add_assist_time(1, 1)
    assert pacer.assist_time == 5001
    pacer.add_assist_time(1, 4000)
    pacer.start_cycle(0, 4)
    assert not pacer.add_assist_time(1, 1001)


def test_scannable_stack_comes_in_portions() -> None:
    pacer = GoPacer()
    pacer.add_scannable_stack(100)
    pacer.add_scannable_stack(8191, 3)
    assert pacer.max_stack_scan == 100
    pacer.add_scannable_stack(1, 3)
    assert pacer.max_stack_scan == 8292
    pacer.add_scannable_stack(-8192, 2)
    assert pacer.max_stack_scan == 100


# ---- workers ----


@pytest.mark.parametrize("procs", range(1, 65))
def test_mark_workers(procs: int) -> None:
    """A quarter of the Ps: exactly so with fractional workers, which 1, 2, 3 and 6 Ps need, else to 30 %."""
    dedicated, fractional = mark_workers(procs)
    assert (fractional > 0) == (procs in {1, 2, 3, 6})
    if fractional:
        assert (dedicated + fractional * procs) / procs == pytest.approx(0.25)
    else:
        assert dedicated == (procs + 2) // 4
        assert abs(dedicated / procs / 0.25 - 1) <= 0.3


@pytest.mark.parametrize(
    ("kind", "procs", "idle"),
    [
        (TriggerKind.HEAP, 1, 1),
        (TriggerKind.CYCLE, 8, 6),
        (TriggerKind.TIME, 1, 1),
        (TriggerKind.TIME, 6, 0),
        (TriggerKind.TIME, 8, 0),
    ],
)
def test_idle_workers_of_a_cycle(kind: TriggerKind, procs: int, idle: int) -> None:
    pacer = GoPacer()
    pacer.start_cycle(0, procs, kind)
    assert pacer.max_idle_mark_workers == idle


def test_stop_the_world_takes_all() -> None:
    pacer = GoPacer()
    pacer.start_cycle(0, 6, stop_the_world=True)
    assert (pacer.dedicated_mark_workers_needed, pacer.fractional_utilization_goal) == (6, 0.0)
    assert pacer.max_idle_mark_workers == 0


def test_assign_worker() -> None:
    pacer = GoPacer()
    pacer.start_cycle(1000, 6)
    assert pacer.assign_worker(1000, 0) is WorkerMode.DEDICATED
    assert pacer.assign_worker(1000, 1) is WorkerMode.FRACTIONAL
    pacer.mark_worker_stop(WorkerMode.FRACTIONAL, 100, 1)
    assert pacer.assign_worker(2000, 1) is WorkerMode.NOT_WORKER
    assert pacer.assign_worker(3000, 1) is WorkerMode.FRACTIONAL
    pacer.mark_worker_stop(WorkerMode.DEDICATED, 700)
    assert pacer.assign_worker(2000, 1) is WorkerMode.DEDICATED
    assert (pacer.dedicated_mark_time, pacer.fractional_mark_time) == (700, 100)
    pacer.start_cycle(5000, 4)
    assert [pacer.assign_worker(5000, p) for p in (0, 1)] == [WorkerMode.DEDICATED, WorkerMode.NOT_WORKER]


def test_fractional_worker_leaves_after_its_share() -> None:
    pacer = GoPacer()
    pacer.start_cycle(1000, 1)
    assert pacer.poll_fractional_worker_exit(1000, 0, 1000)
    assert not pacer.poll_fractional_worker_exit(2000, 0, 1700)
    assert pacer.poll_fractional_worker_exit(2000, 0, 1699)


def test_idle_worker_stops() -> None:
    pacer = GoPacer()
    pacer.start_cycle(0, 4)
    assert pacer.add_idle_mark_worker()
    pacer.mark_worker_stop(WorkerMode.IDLE, 30)
    assert (pacer.idle_mark_workers, pacer.idle_mark_time) == (0, 30)
    with pytest.raises(CorruptHeapError, match="negative idle mark workers"):
        pacer.remove_idle_mark_worker()
    with pytest.raises(CorruptHeapError, match="unknown mark worker mode"):
        pacer.mark_worker_stop(WorkerMode.NOT_WORKER, 30)


@given(st.lists(st.sampled_from(["add", "remove", 0, 1, 3, 10]), max_size=60))
def test_idle_mark_worker_count(steps: list[str | int]) -> None:
    """One may start while there are fewer than the maximum, which may sink below the number of those at work."""
    pacer, working, most = GoPacer(), 0, 0
    for step in steps:
        if step == "add":
            assert pacer.need_idle_mark_worker() == (working < most)
            assert pacer.add_idle_mark_worker() == (working < most)
            working += working < most
        elif step != "remove":
            pacer.set_max_idle_mark_workers(most := int(step))
        elif working:
            pacer.remove_idle_mark_worker()
            working -= 1
        assert pacer.idle_mark_workers == working


# ---- what must hold ----

sizes = st.integers(0, 1 << 40)


@given(
    st.builds(GoPacer, st.sampled_from([-1, 0, 1, 50, 100, 1000]), sizes | st.just(NO_LIMIT)),
    st.tuples(sizes, sizes, sizes, sizes, sizes),
    st.floats(0.0, 1e6),
    st.booleans(),
)
def test_trigger_and_goal(pacer: GoPacer, counts: tuple[int, ...], cons_mark: float, swept: bool) -> None:
    pacer.heap_marked, pacer.last_heap_scan, pacer.globals_scan, pacer.mapped_ready, above = counts
    pacer.heap_live, pacer.cons_mark = pacer.heap_marked + above, cons_mark
    pacer.commit(swept)
    trigger, goal = pacer.trigger()
    assert goal == pacer.heap_goal()
    assert trigger <= goal
    assert pacer.heap_marked <= trigger or goal <= pacer.heap_marked
    assert pacer.heap_marked <= goal or pacer.gc_percent_heap_goal < pacer.heap_marked


@given(
    st.builds(GoPacer, st.sampled_from([-1, 0, 100, 1000]), sizes | st.just(NO_LIMIT)),
    st.lists(st.tuples(sizes, sizes), max_size=8),
)
def test_ratios_are_each_others_inverse(pacer: GoPacer, steps: list[tuple[int, int]]) -> None:
    pacer.blacken_enabled = True
    pacer.start_cycle(0, 4)
    for live, work in steps:
        pacer.heap_scan_work += work
        pacer.update(live, 0)
        assert 0 < pacer.assist_work_per_byte < math.inf
        assert pacer.assist_work_per_byte * pacer.assist_bytes_per_work == pytest.approx(1.0)


@given(st.lists(st.tuples(st.integers(1, 1 << 20), st.integers(0, 1 << 20)), max_size=20))
def test_credit_is_neither_made_nor_lost(steps: list[tuple[int, int]]) -> None:
    """What background workers scanned is credit or has paid for two bytes each; a division may drop a byte."""
    pacer, scanned = marking(), 0
    debtors = [Debtor(-debt) for debt, _ in steps]
    for debtor, (_, work) in zip(debtors, steps, strict=True):
        pacer.park_assist(debtor)
        pacer.flush_bg_credit(work)
        scanned += work
    paid = sum(debt + debtor.gc_assist_bytes for debtor, (debt, _) in zip(debtors, steps, strict=True))
    assert 0 <= scanned - pacer.bg_scan_credit - paid / 2 <= len(steps)


# ---- another policy ----


class Half(Controller):
    """The least that a policy says."""

    def trigger(self) -> tuple[int, int]:
        return 6 * MB, 12 * MB


def test_policy_of_ones_own() -> None:
    pacer: Pacer = Half()
    scenario = Scenario(name="", alloc_rate=constant(33.0), growth_rate=constant(1.0), length=5)
    cycles = Simulation(scenario, pacer).run()
    assert {(cycle.trigger, cycle.goal) for cycle in cycles} == {(6 * MB, 12 * MB)}
    assert (pacer.last_heap_goal, pacer.triggered) == (12 * MB, NO_TRIGGER)


def test_policy_without_trigger() -> None:
    with pytest.raises(NotImplementedError, match="Controller has to say where trigger and goal lie"):
        Controller().trigger()
