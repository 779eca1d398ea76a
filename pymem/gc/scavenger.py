"""What goes back to the operating system, when, and at whose cost; which pages, the core knows (`csrc/mgcscavenge.c`).

Three callers give free pages back. The **background** scavenger works after each sweep until the heap retains no more
than its goals, at 1 % of the processors. An **allocation** gives back on its way where the heap grows past the goal, or
where memory in use would pass the limit: the core does that with two numbers set here. **free_os_memory** gives all.

Two goals, both anew at the end of each cycle:

- by GOGC: the heap will grow from the last goal to the next as its pages did, so it is expected to need
  heap_in_use x heap_goal / last_heap_goal, and is left 10 % more, rounded up to 4 KB;
- by the memory limit: 95 % of it, compared with all memory in use.

Where a goal is kept already it is off until the next cycle, however the heap grows meanwhile.

Time is virtual, in ns. Go measures what scavenging takes; here `Costs` says it. Go: mgcscavenge.go.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pymem._native import ffi, lib

if TYPE_CHECKING:
    from collections.abc import Callable

    from pymem._heap import Heap
    from pymem.gc.costs import Costs

__all__ = [
    "NEVER",
    "BackgroundScavenger",
    "PIController",
    "ScavengeTrace",
    "ScavengeWork",
    "Scavenger",
    "free_os_memory",
]

NEVER = (1 << 64) - 1
"""A goal that is kept whatever happens."""

_PAGE = 8192
_OS_PAGE = 4096
_NO_LIMIT = (1 << 63) - 1
_CPU_FRACTION = 0.01
"""Of all processors, for the background scavenger. Go: scavengePercent."""
_RETAIN_DIVISOR = 10
"""A tenth more than expected is retained. Go: retainExtraPercent."""
_LIMIT_SHARE = 0.95
"""Of the memory limit is aimed at. Go: reduceExtraPercent."""
_QUANTUM = 64 << 10
"""Bytes asked for at a time in the background. Go: scavengeQuantum."""
_MIN_WORK_NS = 1e6
"""Work between two sleeps, at least. Go: minScavWorkTime."""
_START_RATIO = 0.001
"""Work to sleep before anything is known, and while the controller cools down. Go: startingScavSleepRatio."""
_COOLDOWN_NS = 5_000_000_000
_UNTIMED_OS_PAGE_NS = 10_000
"""For work whose measured time is 0. Go: approxWorkedNSPerPhysicalPage."""


@dataclass(frozen=True, slots=True)
class ScavengeWork:
    """What was given back, and the processor time it took."""

    released: int = 0
    """Bytes."""
    ns: int = 0


_NOTHING = ScavengeWork()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScavengeTrace:
    """What a line of GODEBUG=scavtrace=1 shows, in bytes. Go: printScavTrace."""

    background: int
    """Released in the background since the last line of a sweep."""
    eager: int
    """Released by allocations since then; in a forced line by `free_os_memory`, just now."""
    released: int
    """HeapReleased."""
    in_use: int
    """HeapInuse."""
    free: int
    """Free pages that were not given back."""
    forced: bool
    controller_reset: bool
    """The controller failed since the last line."""

    @property
    def utilization(self) -> int:
        """Percentage of the retained heap that is in use, rounded down."""
        return self.in_use * 100 // (self.in_use + self.free)


class PIController:
    """A controller with a proportional and an integral part, and output bounds. Go: piController.

        raw = kp x error + integral;    output = raw, held between low and high
        integral += kp x error x period / ti  +  (output - raw) x period / tt

    The last term is 0 within the bounds, and beyond them it draws the integral back over tt.
    """

    __slots__ = ("error_overflow", "high", "input_overflow", "integral", "kp", "low", "ti", "tt")

    def __init__(self, *, kp: float, ti: float, tt: float, low: float, high: float) -> None:
        self.kp, self.ti, self.tt = kp, ti, tt
        self.low, self.high = low, high
        self.integral = 0.0
        self.error_overflow = False
        """The integral once grew beyond all numbers."""
        self.input_overflow = False
        """An input once was too large to work with."""

    def next(self, value: float, setpoint: float, period: float) -> tuple[float, bool]:
        """Take a sample after `period` and return the output, and whether it can be trusted.

        If not, it is `low`, and the controller has forgotten everything but that it failed.
        """
        raw = self.kp * (setpoint - value) + self.integral
        if not math.isfinite(raw):
            self.integral, self.input_overflow = 0.0, True
            return self.low, False
        output = min(max(raw, self.low), self.high)
        if self.ti != 0 and self.tt != 0:
            grown = (self.kp * period / self.ti) * (setpoint - value) + (period / self.tt) * (output - raw)
            self.integral += grown
            if not math.isfinite(self.integral):
                self.integral, self.error_overflow = 0.0, True
                return self.low, False
        return output, True


class BackgroundScavenger:
    """Works at least 1 ms, sleeps as long as keeps it at 1 % of the processors, until nothing is to do; then parks.

    scavenge: gives so many bytes back and returns how many it were, and the ns it took. should_stop: whether the goals
    are kept. gomaxprocs: the Ps there are. Go: scavengerState, bgscavenge.
    """

    __slots__ = (
        "_controller", "_cooldown", "_gomaxprocs", "_ratio", "_run_released", "_run_worked", "_scavenge",
        "_should_stop", "_slept_from", "controller_reset", "due_ns", "released",
    )  # fmt: skip

    def __init__(
        self,
        *,
        scavenge: Callable[[int], tuple[int, float]],
        should_stop: Callable[[], bool],
        gomaxprocs: Callable[[], int],
    ) -> None:
        self._scavenge, self._should_stop, self._gomaxprocs = scavenge, should_stop, gomaxprocs
        # From the share of processor time to work per sleep, for the output to rise with the input.
        self._controller = PIController(kp=0.3375, ti=3.2e6, tt=1e9, low=0.001, high=1000.0)
        self._ratio = _START_RATIO
        self._cooldown = 0
        self._run_released, self._run_worked = 0, 0.0  # of a run that its budget cut short
        self._slept_from: int | None = None
        self.due_ns: int | None = None
        """When it will work; None: parked, until it is woken."""
        self.released = 0
        """Bytes given back in finished runs, since birth."""
        self.controller_reset = False
        """Set when the controller fails; whoever tells of it clears it."""

    @property
    def sleep_ratio(self) -> float:
        """Time worked to time slept, as the controller has it."""
        return self._ratio

    def wake(self, now_ns: int) -> None:
        """Let it work from now on, asleep or parked."""
        if self.due_ns is None or self.due_ns > now_ns:
            self.due_ns = now_ns

    def step(self, now_ns: int, budget_ns: float) -> ScavengeWork:
        """Work if it is time to, until the run is over or the budget used up; the last quantum may overdraw it."""
        if self.due_ns is None or now_ns < self.due_ns or budget_ns <= 0:
            return ScavengeWork()
        if self._slept_from is not None:
            self._adjust(now_ns - self._slept_from)
        spent, released, over = 0.0, 0, False
        while spent < budget_ns and not over:
            got, ns, over = self._quantum()
            released += got
            spent += ns
        if over:
            self._finish(now_ns + int(spent))
        return ScavengeWork(released, int(spent))

    def _quantum(self) -> tuple[int, float, bool]:
        """Return the bytes given back, the ns it took, and whether the run is over. Go: (*scavengerState).run."""
        if self._run_worked >= _MIN_WORK_NS or self._should_stop():
            return 0, 0.0, True
        released, ns = self._scavenge(_QUANTUM)
        ns = ns or float(_UNTIMED_OS_PAGE_NS * (released // _OS_PAGE))
        self._run_released += released
        self._run_worked += ns
        return released, ns, released < _QUANTUM or self._run_worked >= _MIN_WORK_NS

    def _finish(self, now_ns: int) -> None:
        """Sleep, or park after a run that found nothing."""
        if self._run_released:
            self.released += self._run_released
            self._slept_from = now_ns
            self.due_ns = now_ns + int(max(self._run_worked, _MIN_WORK_NS) / self._ratio)
        else:
            self._slept_from = self.due_ns = None
            self._run_worked = 0.0
        self._run_released = 0

    def _adjust(self, slept: int) -> None:
        """Learn from the sleep that is over. Go: the second half of (*scavengerState).sleep."""
        worked, self._run_worked, self._slept_from = max(self._run_worked, _MIN_WORK_NS), 0.0, None
        if self._cooldown > 0:
            self._cooldown = max(self._cooldown - (slept + int(worked)), 0)
            return
        period = slept + worked
        fraction = worked / (period * self._gomaxprocs())
        self._ratio, good = self._controller.next(fraction, _CPU_FRACTION, period)
        if not good:
            self._ratio, self._cooldown, self.controller_reset = _START_RATIO, _COOLDOWN_NS, True


class Scavenger:
    """The policy over one heap. The cycle calls `pace` when pacing changes, `wake` after a sweep, `step` in between.

    gomaxprocs: returns the number of Ps. Its times are sums of virtual ns.
    """

    __slots__ = (
        "_assist_ns", "_background_ns", "_costs", "_eager_seen", "_heap", "_limit", "_traced_bg",
        "_traced_eager", "background", "gc_percent_goal", "limiting", "memory_limit_goal",
    )  # fmt: skip

    def __init__(self, heap: Heap, *, gomaxprocs: Callable[[], int], costs: Costs) -> None:
        self._heap, self._costs = heap, costs
        self._limit = NEVER
        self._eager_seen = self._traced_bg = self._traced_eager = 0
        self._assist_ns = self._background_ns = 0
        self.gc_percent_goal = NEVER
        """Bytes of heap to retain, or NEVER."""
        self.memory_limit_goal = NEVER
        """Bytes of memory in use to come down to, or NEVER."""
        self.limiting = False
        """Whether the GC CPU limiter is on: then no allocation scavenges for the limit's sake. See `set_limiting`."""
        self.background = BackgroundScavenger(
            scavenge=self._in_background, should_stop=self.goals_kept, gomaxprocs=gomaxprocs
        )

    # ---- goals ----

    def pace(self, *, memory_limit: int, heap_goal: int, last_heap_goal: int, last_heap_in_use: int) -> None:
        """Set both goals, at the end of a cycle and when GOGC or the limit changes. Bytes. Go: gcPaceScavenger.

        memory_limit: 2**63 - 1 is none. heap_goal: the next cycle's; last_heap_goal: that of the cycle which has just
        ended, 0 before the first. last_heap_in_use: HeapInuse when it ended, before its sweep.
        """
        info = self._heap.pace()
        self._limit = memory_limit if memory_limit < _NO_LIMIT else NEVER
        limit_goal = int(float(memory_limit) * _LIMIT_SHARE)
        self.memory_limit_goal = limit_goal if info.mapped_ready > limit_goal else NEVER
        self.gc_percent_goal = NEVER
        if last_heap_goal:
            goal = int(float(last_heap_in_use) * (float(heap_goal) / float(last_heap_goal)))
            goal += goal // _RETAIN_DIVISOR
            goal = (goal + _OS_PAGE - 1) // _OS_PAGE * _OS_PAGE
            if info.heap_in_use + info.heap_free - goal >= _OS_PAGE:
                self.gc_percent_goal = goal
        self._tell_core()

    def set_limiting(self, limiting: bool) -> None:
        """Tell whether the GC CPU limiter is on. Go asks in allocSpan; a call into the core sees no change."""
        if limiting != self.limiting:
            self.limiting = limiting
            self._tell_core()

    def _tell_core(self) -> None:
        limit = NEVER if self.limiting else self._limit
        self._heap.call(lib.pymem_set_scavenge_goals, min(self.gc_percent_goal, NEVER), limit)

    def goals_kept(self) -> bool:
        """Tell whether heap and memory are within their goals, so that the background has nothing to do."""
        info = self._heap.pace()
        retained = info.heap_in_use + info.heap_free
        return bool(retained <= self.gc_percent_goal and info.mapped_ready <= self.memory_limit_goal)

    # ---- in the background ----

    @property
    def due_ns(self) -> int | None:
        """When it wants to work: a deadline of the virtual clock. None: parked."""
        return self.background.due_ns

    def wake(self, now_ns: int) -> None:
        """Let it look for work: when the last span is swept, and when the next cycle begins.

        In Go the former goes through sysmon, and so up to 10 ms later. Go: scavengerState.ready, wake.
        """
        self.background.wake(now_ns)

    def step(self, now_ns: int, budget_ns: float) -> ScavengeWork:
        """Work in the background if it is time to, for about `budget_ns` of one processor's time."""
        return self.background.step(now_ns, budget_ns)

    def _in_background(self, size: int) -> tuple[int, float]:
        released = self._scavenge(size, force=False)
        ns = self._costs.scavenge_ns(released)
        self._background_ns += ns
        return released, float(ns)

    # ---- on an allocation's way ----

    def take_eager(self, released: int | None = None) -> ScavengeWork:
        """Return what allocations gave back since the last call, to be billed to them. Go: scavenge.assistTime.

        released: bytes given back by allocations since birth, by who has just asked the core.
        """
        now = int(self._heap.pace().released_eager) if released is None else released
        seen, self._eager_seen = self._eager_seen, now
        if now == seen:
            return _NOTHING
        work = ScavengeWork(now - seen, self._costs.scavenge_ns(now - seen))
        self._assist_ns += work.ns
        return work

    # ---- by hand ----

    def scavenge_all(self) -> ScavengeWork:
        """Give every free page back, at once. Go: (*mheap).scavengeAll."""
        released = self._scavenge(NEVER, force=True)
        return ScavengeWork(released, self._costs.scavenge_ns(released))

    # ---- accounts ----

    def take_times(self) -> tuple[int, int]:
        """Return ns of assists and of background work since the last call: at mark termination, for the CPU classes."""
        times = self._assist_ns, self._background_ns
        self._assist_ns = self._background_ns = 0
        return times

    def trace(self) -> ScavengeTrace:
        """Return what the line at the end of a sweep shows, and begin the next line's account."""
        eager = int(self._heap.pace().released_eager)
        background, reset = self.background.released, self.background.controller_reset
        line = self._trace(background - self._traced_bg, eager - self._traced_eager, False, reset)
        self._traced_bg, self._traced_eager = background, eager
        self.background.controller_reset = False
        return line

    def forced_trace(self, work: ScavengeWork) -> ScavengeTrace:
        """Return what the line of a `scavenge_all` shows."""
        return self._trace(0, work.released, True, False)

    def _trace(self, background: int, eager: int, forced: bool, reset: bool) -> ScavengeTrace:
        info = self._heap.pace()
        return ScavengeTrace(
            background=background,
            eager=eager,
            released=int(info.heap_released),
            in_use=int(info.heap_in_use),
            free=int(info.heap_free),
            forced=forced,
            controller_reset=reset,
        )

    # ---- the core ----

    def _scavenge(self, size: int, *, force: bool) -> int:
        out = ffi.new("uint64_t *")
        self._heap.call(lib.pymem_scavenge, size, force, out)
        return int(out[0])


def free_os_memory(collect: Callable[[], object], scavenger: Scavenger) -> ScavengeWork:
    """Collect, then give every free page back. Go: debug.FreeOSMemory."""
    collect()
    return scavenger.scavenge_all()
