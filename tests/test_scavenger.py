"""The scavenger's policy: goals, the background's pace, what is billed to whom."""

from __future__ import annotations

import math
import struct

import pytest
from core import NO_PROC, PAGE, Core
from hypothesis import given
from hypothesis import strategies as st
from page_layout import addr_of, laid_out, scavenged_pages
from strategies import seeds

from pymem.gc.costs import Costs
from pymem.gc.scavenger import (
    NEVER,
    BackgroundScavenger,
    PIController,
    Scavenger,
    ScavengeWork,
    free_os_memory,
)

KIB, MIB = 1 << 10, 1 << 20
NO_LIMIT = (1 << 63) - 1
OS_PAGE = 4096
HUGE_PAGE = 2 * MIB
MS = 1_000_000


# ---- the controller. Go: FuzzPIController ----


def runtime_controller() -> PIController:
    return PIController(kp=0.3375, ti=3.2e6, tt=1e9, low=0.001, high=1000.0)


positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False, allow_nan=False)
normal = st.floats(allow_infinity=False, allow_nan=False)


@given(st.tuples(positive, positive, positive), st.tuples(normal, normal), st.floats(), seeds)
def test_controller_stays_finite(
    gains: tuple[float, float, float], bounds: tuple[float, float], setpoint: float, seed: int
) -> None:
    """Whatever comes in, infinities and not-numbers too, the output is a number within its bounds."""
    (kp, ti, tt), (low, high) = gains, sorted(bounds)
    controller = PIController(kp=kp, ti=ti, tt=tt, low=low, high=high)
    state = seed or 1
    for _ in range(100):
        state = state * 6364136223846793005 + 1442695040888963407 & NEVER
        (value,) = struct.unpack("d", struct.pack("Q", state))
        output, good = controller.next(value, setpoint, 1.0)
        assert low <= output <= high
        assert good or output == low
        assert math.isfinite(controller.integral)


def test_controller_by_hand() -> None:
    """With kp 2, ti 4, tt 8, bounds 0 and 10, the setpoint 3: each term can be followed."""
    c = PIController(kp=2, ti=4, tt=8, low=0, high=10)
    assert c.next(1, 3, 1) == (4, True)  # 2 x 2 + 0
    assert c.integral == 1  # 2 x 1 / 4 x 2
    assert c.next(-3, 3, 2) == (10, True)  # 2 x 6 + 1 = 13, cut to 10
    assert c.integral == 1 + 6 - 3 * 2 / 8  # 2 x 2 / 4 x 6, and 3 too much over 2 of 8
    assert c.next(100, 3, 1) == (0, True)


def test_controller_says_what_overflowed() -> None:
    c = runtime_controller()
    assert c.next(math.inf, 0.01, 1e6) == (0.001, False)
    assert (c.input_overflow, c.error_overflow) == (True, False)
    assert c.next(-1e300, 0.01, 1e300) == (0.001, False)
    assert c.error_overflow


# ---- the background. Go: TestScavenger ----


class Pool:
    """So many bytes that can be given back, at 10 us a page of 4 KB; the scavenger over it; a virtual clock."""

    def __init__(self, procs: int = 1) -> None:
        self.available = self.stop_at = 0
        self.worked = self.slept = self.now = 0
        self.background = BackgroundScavenger(
            scavenge=self._scavenge,
            should_stop=lambda: self.available <= self.stop_at,
            gomaxprocs=lambda: procs,
        )

    def _scavenge(self, size: int) -> tuple[int, float]:
        released = min(size, self.available)
        self.available -= released
        return released, -(-released // OS_PAGE) * 10_000

    def run(self, budget: float = math.inf) -> None:
        """Wake it and let it work until it parks."""
        self.background.wake(self.now)
        while (due := self.background.due_ns) is not None:
            self.slept += max(due - self.now, 0)
            self.now = max(due, self.now)
            work = self.background.step(self.now, budget)
            self.worked += work.ns
            self.now += work.ns

    def fraction(self) -> float:
        return self.worked / (self.worked + self.slept)


def test_background_does_all_at_one_percent() -> None:
    """All of the work, again after nothing was to do, and as far as the goal goes; within half a percent of 1 %."""
    pool, total = Pool(), 64 * MIB - 3 * OS_PAGE
    pool.available = total
    pool.run()
    assert pool.background.released == total
    assert pool.fraction() == pytest.approx(0.01, abs=0.005)
    pool.run()
    assert pool.background.released == total
    pool.available = total
    pool.run()
    assert pool.background.released == 2 * total
    assert pool.fraction() == pytest.approx(0.01, abs=0.005)
    pool.available, pool.stop_at = total, MIB - 3 * OS_PAGE
    pool.run()
    assert pool.background.released == 3 * total - pool.stop_at
    assert pool.fraction() == pytest.approx(0.01, abs=0.005)


@pytest.mark.parametrize("procs", [2, 8])
def test_background_share_is_of_all_procs(procs: int) -> None:
    """1 % of n processors is n % of the one it runs on, but no more than the controller lets it."""
    pool = Pool(procs)
    pool.available = 256 * MIB
    pool.run()
    assert pool.fraction() == pytest.approx(0.01 * procs, rel=0.5)


def test_background_runs_are_a_millisecond() -> None:
    """A quantum takes 160 us, so seven of them make a run; the first sleep is a thousand times as long."""
    pool = Pool()
    pool.available = 10 * MIB
    pool.background.wake(5)
    assert pool.background.step(4, math.inf) == ScavengeWork()
    assert pool.background.step(5, math.inf) == ScavengeWork(7 * 64 * KIB, 1_120_000)
    assert pool.background.due_ns == 5 + 1_120_000 + int(1_120_000 / 0.001)


def test_background_short_run_sleeps_as_after_a_millisecond() -> None:
    pool = Pool()
    pool.available = 10 * KIB
    pool.background.wake(0)
    assert pool.background.step(0, math.inf) == ScavengeWork(10 * KIB, 30_000)
    assert pool.background.due_ns == 30_000 + 1_000_000_000


def test_background_budget_cuts_a_run() -> None:
    """The rest of the run follows, in order; a quantum is never cut."""
    pool = Pool()
    pool.available = 10 * MIB
    pool.background.wake(0)
    assert pool.background.step(0, 200_000) == ScavengeWork(128 * KIB, 320_000)
    assert pool.background.due_ns == 0
    assert pool.background.step(400_000, 0) == ScavengeWork()
    assert pool.background.step(400_000, math.inf) == ScavengeWork(5 * 64 * KIB, 800_000)
    assert pool.background.due_ns == 1_200_000 + 1_120_000_000


@pytest.mark.parametrize("budget", [1, 100_000, 500_000])
def test_background_budget_changes_no_total(budget: int) -> None:
    pool = Pool()
    pool.available = 30 * MIB
    pool.run(budget)
    assert pool.background.released == 30 * MIB
    assert pool.fraction() == pytest.approx(0.01, abs=0.005)


def test_background_woken_early() -> None:
    """A shorter sleep is what the controller learns from: it sees too large a share."""
    slow, woken = Pool(), Pool()
    for pool in (slow, woken):
        pool.available = 10 * MIB
        pool.background.wake(0)
        pool.background.step(0, math.inf)
    due = slow.background.due_ns
    assert due is not None
    slow.background.step(due, math.inf)
    woken.background.wake(2 * MS)
    assert woken.background.due_ns == 2 * MS
    woken.background.step(2 * MS, math.inf)
    assert woken.background.sleep_ratio <= slow.background.sleep_ratio


def test_background_untimed_work() -> None:
    """Work that takes no time by the clock is taken for 10 us a page of the OS."""
    background = BackgroundScavenger(
        scavenge=lambda size: (size, 0.0), should_stop=lambda: False, gomaxprocs=lambda: 1
    )
    background.wake(0)
    assert background.step(0, math.inf) == ScavengeWork(7 * 64 * KIB, 7 * 160_000)


def test_background_controller_fails() -> None:
    """Then it sleeps as at first for five seconds, and says so once."""
    background = BackgroundScavenger(
        scavenge=lambda size: (size, math.inf if size < 0 else 1e6),
        should_stop=lambda: False,
        gomaxprocs=lambda: 1,
    )
    background._controller.integral = math.inf
    background.wake(0)
    background.step(0, math.inf)
    assert background.due_ns is not None
    background.step(background.due_ns, math.inf)
    assert background.controller_reset
    assert background.sleep_ratio == 0.001
    background.controller_reset = False
    background.step(background.due_ns, math.inf)
    assert not background.controller_reset


# ---- goals. Go: gcPaceScavenger ----


def over(c: Core, procs: int = 1) -> Scavenger:
    return Scavenger(c.heap, gomaxprocs=lambda: procs, costs=Costs())


def in_use_and_free(c: Core) -> tuple[int, int]:
    info = c.pace_info()
    return int(info.heap_in_use), int(info.heap_free)


def test_goal_by_gogc() -> None:
    """HeapInuse times the goals' ratio, a tenth more, up to 4 KB."""
    c = laid_out(8, free=[(0, 3000)])
    scavenger = over(c)
    scavenger.pace(
        memory_limit=NO_LIMIT, heap_goal=3 * MIB, last_heap_goal=4 * MIB, last_heap_in_use=8_000_001
    )
    assert scavenger.gc_percent_goal == 6_602_752  # 6,000,000 + 600,000, rounded up
    assert scavenger.memory_limit_goal == NEVER


def test_goal_before_the_first_cycle() -> None:
    c = laid_out(8, free=[(0, 3000)])
    scavenger = over(c)
    scavenger.pace(memory_limit=NO_LIMIT, heap_goal=4 * MIB, last_heap_goal=0, last_heap_in_use=0)
    assert (scavenger.gc_percent_goal, scavenger.memory_limit_goal) == (NEVER, NEVER)


@pytest.mark.parametrize(("short_of", "on"), [(0, False), (OS_PAGE - 1, False), (OS_PAGE, True), (-1, False)])
def test_goal_kept_is_off(short_of: int, on: bool) -> None:
    """A heap within a page of the OS of its goal has reached it."""
    c = laid_out(8, free=[(0, 3000)])
    free = in_use_and_free(c)[1]
    goal = free - short_of
    scavenger = over(c)
    in_use = next(n for n in range(goal * 10 // 11 - 8192, goal) if -(-(n + n // 10) // 4096) * 4096 >= goal)
    scavenger.pace(memory_limit=NO_LIMIT, heap_goal=1, last_heap_goal=1, last_heap_in_use=in_use)
    rounded = -(-goal // 4096) * 4096
    assert scavenger.gc_percent_goal == (rounded if free - rounded >= OS_PAGE else NEVER)
    assert (scavenger.gc_percent_goal != NEVER) == on


def test_goal_by_limit() -> None:
    """95 % of it; off where that is kept."""
    c = laid_out(8, free=[(0, 3000)])
    ready = int(c.pace_info().mapped_ready)
    scavenger = over(c)
    scavenger.pace(memory_limit=ready, heap_goal=1, last_heap_goal=0, last_heap_in_use=0)
    assert scavenger.memory_limit_goal == int(ready * 0.95)
    scavenger.pace(memory_limit=ready * 2, heap_goal=1, last_heap_goal=0, last_heap_in_use=0)
    assert scavenger.memory_limit_goal == NEVER


def test_background_reaches_the_goal() -> None:
    """It stops with the quantum that reaches it, which may be a huge page, and parks."""
    c = laid_out(8, free=[(0, 3000)])
    c.next_gen()
    scavenger = over(c)
    scavenger.pace(memory_limit=NO_LIMIT, heap_goal=1, last_heap_goal=1, last_heap_in_use=10 * MIB)
    assert scavenger.gc_percent_goal == 11 * MIB
    run_until_parked(scavenger)
    free = in_use_and_free(c)[1]
    assert 11 * MIB - HUGE_PAGE < free <= 11 * MIB
    assert scavenger.trace().background == 3000 * PAGE - free
    assert scavenger.trace().background == 0


def test_background_reaches_the_limit_goal() -> None:
    c = laid_out(8, free=[(0, 3000)])
    c.next_gen()
    ready = int(c.pace_info().mapped_ready)
    scavenger = over(c)
    scavenger.pace(memory_limit=ready, heap_goal=1, last_heap_goal=0, last_heap_in_use=0)
    run_until_parked(scavenger)
    left = int(c.pace_info().mapped_ready)
    assert int(ready * 0.95) - HUGE_PAGE < left <= int(ready * 0.95)


def run_until_parked(scavenger: Scavenger) -> int:
    """Return the virtual time at which it parked."""
    scavenger.wake(0)
    now = 0
    while (due := scavenger.due_ns) is not None:
        now = max(now, due)
        now += scavenger.step(now, math.inf).ns
    return now


def test_background_parks_at_once_without_a_goal() -> None:
    c = laid_out(1, free=[(0, 400)])
    scavenger = over(c)
    assert run_until_parked(scavenger) == 0
    assert scavenged_pages(c) == []


# ---- allocations ----


def growing() -> tuple[Core, Scavenger]:
    """Return a heap of fragments that is over its goal, with a processor."""
    c = laid_out(8, free=[(i * 512, 100) for i in range(8)])
    c.proc_new()
    c.next_gen()
    scavenger = over(c)
    scavenger.pace(memory_limit=NO_LIMIT, heap_goal=1, last_heap_goal=1, last_heap_in_use=PAGE)
    return c, scavenger


def test_allocation_scavenges_and_is_billed() -> None:
    c, scavenger = growing()
    c.manual_alloc(0, 512)
    costs = Costs()
    assert scavenger.take_eager() == ScavengeWork(512 * PAGE, costs.scavenge_ns(512 * PAGE))
    assert scavenger.take_eager() == ScavengeWork()
    assert scavenger.take_times() == (costs.scavenge_ns(512 * PAGE), 0)
    assert scavenger.take_times() == (0, 0)
    line = scavenger.trace()
    assert (line.background, line.eager, line.released) == (0, 512 * PAGE, c.stats().heap_released)


def test_limiter_stops_scavenging_for_the_limit() -> None:
    """While the CPU limiter is on, an allocation does not scavenge for the limit's sake."""
    c = laid_out(2, free=[(0, 300)])
    c.proc_new()
    scavenger = over(c)
    ready = int(c.pace_info().mapped_ready)
    scavenger.pace(memory_limit=ready - MIB, heap_goal=1, last_heap_goal=0, last_heap_in_use=0)
    scavenger.set_limiting(True)
    c.manual_alloc(0, 20)
    assert scavenger.take_eager().released == 0
    scavenger.set_limiting(False)
    c.manual_alloc(0, 20)
    assert scavenger.take_eager().released == MIB


# ---- by hand ----


def test_free_os_memory() -> None:
    """Collect first; then every free page goes, dense chunks' too."""
    c = laid_out(2, free=[(3, 1), (600, 10)], spans=[(20, 5)])
    scavenger = over(c)
    work = free_os_memory(lambda: c.manual_free(NO_PROC, addr_of(20)), scavenger)
    assert work.released == 16 * PAGE
    assert c.stats().heap_released == c.stats().heap_idle == 16 * PAGE
    line = scavenger.forced_trace(work)
    assert (line.forced, line.background, line.eager, line.free) == (True, 0, 16 * PAGE, 0)
    assert scavenger.trace().eager == 0  # no allocation's doing
    assert scavenger.scavenge_all() == ScavengeWork()


def test_trace_utilization() -> None:
    c = Core()
    p = c.proc_new()
    c.malloc(p, 30 * PAGE)
    c.manual_free(NO_PROC, c.manual_alloc(NO_PROC, 10))
    line = over(c).trace()
    assert (line.in_use, line.free) == (30 * PAGE, 10 * PAGE)
    assert line.utilization == 75


def test_costs() -> None:
    costs = Costs(scavenge_call_ns=100, scavenge_page_ns=10)
    assert [costs.scavenge_ns(n * PAGE) for n in (0, 1, 5)] == [0, 110, 150]


def test_deterministic() -> None:
    def run() -> list[object]:
        c = laid_out(16, free=[(i * 512 + 7, 300) for i in range(16)])
        c.next_gen()
        scavenger = over(c, 4)
        scavenger.pace(memory_limit=NO_LIMIT, heap_goal=1, last_heap_goal=1, last_heap_in_use=MIB)
        return [run_until_parked(scavenger), scavenged_pages(c), scavenger.background.sleep_ratio]

    assert run() == run()
