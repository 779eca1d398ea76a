"""When to collect, and how hard: Go's pacer, and what any other must offer to take its place.

The heap may grow to a *goal*. Marking takes time, in which the program allocates on, so a cycle starts earlier, at the
*trigger*; the distance is the *runway*. The pacer learns how long the runway must be from how fast the program
allocated, and the collector marked, in cycles past. Where it errs, assists make up (`Controller.revise`).

With GOGC=off, or a goal beyond it, the memory limit sets the goal. Counts, workers and assists are in
`pymem/gc/controller.py`.
"""

from __future__ import annotations

from pymem.errors import CorruptHeapError
from pymem.gc.controller import (
    BACKGROUND_UTILIZATION,
    DEFAULT_HEAP_MINIMUM,
    NO_TRIGGER,
    Controller,
)
from pymem.gc.gonumbers import MASK64, MAX_INT64, divide, to_uint64
from pymem.gc.protocol import Pacer

__all__ = ["GOAL_OFF", "GoPacer", "Pacer"]

GOAL_OFF = MASK64
"""gc_percent_heap_goal with GOGC=off."""

_GOAL_UTILIZATION = BACKGROUND_UTILIZATION
_SWEEP_MIN_HEAP_DISTANCE = 1 << 20
"""Bytes that may be allocated before the next cycle, at least, while there is sweeping to do: it happens meanwhile."""
_MIN_RUNWAY = 64 << 10
"""Bytes between trigger and goal, at least, once a cycle is on."""
_HEADROOM_PERCENT = 3
_MIN_HEADROOM = 1 << 20
_RATIO_DEN, _MIN_TRIGGER_NUM, _MAX_TRIGGER_NUM = 64, 45, 61
"""The trigger of a small heap lies between 45/64 and 61/64 of the way from live heap to goal."""


class GoPacer(Controller):
    """Go 1.27's pacer. Go: gcControllerState.

    Args:
        gc_percent: GOGC in percent, -1 for off.
        memory_limit: GOMEMLIMIT in bytes, MAX_INT64 for none.

    """

    __slots__ = (
        "cons_mark",
        "gc_percent_heap_goal",
        "heap_minimum",
        "last_cons_mark",
        "runway",
        "sweep_dist_min_trigger",
        "utilization",
    )

    def __init__(self, gc_percent: int = 100, memory_limit: int = MAX_INT64) -> None:
        self.heap_minimum = DEFAULT_HEAP_MINIMUM
        """Bytes, 4 MB x GOGC / 100: the least goal that GOGC may set. Writer: set_gc_percent."""
        self.gc_percent_heap_goal = GOAL_OFF
        """Bytes: the goal by GOGC alone. Writer: commit."""
        self.sweep_dist_min_trigger = 0
        """Bytes: where trigger and goal lie at least, for the sweeper's sake; 0 once all is swept. Writer: commit."""
        self.runway = 0
        """Bytes that the program will allocate while the next cycle marks, by estimate. Writer: commit."""
        self.cons_mark = 0.0
        """Bytes allocated a CPU nanosecond of the program, for each byte scanned a CPU nanosecond of the collector.

        The largest of the last cycle's and the four measured before it. Writer: end_cycle.
        """
        self.last_cons_mark = [0.0, 0.0, 0.0, 0.0]
        """As measured in the last four cycles, oldest first. Writer: end_cycle."""
        self.utilization = 0.0
        """Share of all Ps' time that the last cycle took, idle marking apart; 0 if nothing was allocated meanwhile.

        The background's quarter is supposed, not measured. Writer: end_cycle.
        """
        super().__init__(gc_percent, memory_limit)
        self.commit(True)

    # ---- settings ----

    def set_gc_percent(self, percent: int) -> int:
        """Change GOGC (any negative number is off) and return what it was; commit is due. Go: setGCPercent.

        With GOGC=off the minimum comes out of uint64(-1), and is beyond any heap; the goal is off anyway.
        """
        before = super().set_gc_percent(percent)
        self.heap_minimum = ((DEFAULT_HEAP_MINIMUM * (self.gc_percent & MASK64)) & MASK64) // 100
        return before

    def commit(self, is_sweep_done: bool) -> None:
        """Compute goal and runway from the settings and the last cycle's counts. Go: commit.

        Goal: the live heap, plus GOGC percent of all there is to scan besides, heap_marked + stacks + globals.

        Runway: what is allocated while the expected work is done. cons_mark compares bytes a CPU nanosecond; the
        program has (1 - u) of the Ps and marking u, so bytes allocated for each byte scanned are cons_mark * (1-u) / u.
        """
        self.sweep_dist_min_trigger = (
            0 if is_sweep_done else (self.heap_live + _SWEEP_MIN_HEAP_DISTANCE) & MASK64
        )
        goal = GOAL_OFF
        if self.gc_percent >= 0:
            base = self.heap_marked + self.last_stack_scan + self.globals_scan
            goal = (self.heap_marked + ((base * self.gc_percent) & MASK64) // 100) & MASK64
        self.gc_percent_heap_goal = max(goal, self.heap_minimum)
        allocated_per_scanned = self.cons_mark * (1 - _GOAL_UTILIZATION) / _GOAL_UTILIZATION
        self.runway = to_uint64(allocated_per_scanned * float(self.scan_work_expected()))

    # ---- goal and trigger ----

    def heap_goal(self) -> int:
        """Return the heap_live, in bytes, at which this cycle (or, between cycles, the next) shall end."""
        return self.heap_goal_internal()[0]

    def heap_goal_internal(self) -> tuple[int, int]:
        """Return the goal and, never above it, a lower bound for the trigger.

        The memory limit's goal counts if it is below GOGC's, and then nothing pushes it up. GOGC's own gives way: to
        the sweeper, and to a trigger that came late, since assists need some room. Go: heapGoalInternal.
        """
        goal = self.gc_percent_heap_goal
        if (
            self.mapped_ready + goal + goal + _MIN_HEADROOM > self.memory_limit
        ):  # else the limit's goal is beyond it
            limit_goal = self.memory_limit_heap_goal()
            if limit_goal < goal:
                return limit_goal, 0
        least = self.sweep_dist_min_trigger
        if least > goal:  # noqa: PLR1730 (asked thousands of times a cycle, and max() is slow)
            goal = least
        if self.triggered != NO_TRIGGER and goal < self.triggered + _MIN_RUNWAY:
            goal = self.triggered + _MIN_RUNWAY
        return goal, least

    def memory_limit_heap_goal(self) -> int:
        """Return the goal that the memory limit allows, in bytes, never below heap_marked. Go: memoryLimitHeapGoal.

            non-heap = mapped_ready - heap_free - objects
            goal     = memory_limit - non-heap - what is already over the limit - headroom

        heap_free is not taken off: it will be filled or given back. The holes in spans are, as part of non-heap, as
        heaps will go on having them. Headroom is 3 % and at least 1 MB, because pacing errs, and because the allocator
        should not have to give memory back at each step.
        """
        ready = self.mapped_ready
        non_heap = ready - self.heap_free - (self.total_alloc - self.total_free)
        if non_heap < 0:
            raise CorruptHeapError(f"free memory and objects exceed mapped memory by {-non_heap} bytes")
        taken = non_heap if ready <= self.memory_limit else non_heap + ready - self.memory_limit
        goal = self.memory_limit - taken
        if goal <= 0:
            return self.heap_marked
        headroom = max(goal // 100 * _HEADROOM_PERCENT, _MIN_HEADROOM)
        return max(goal - headroom, headroom, self.heap_marked)

    def trigger(self) -> tuple[int, int]:
        """Return the heap_live at which a cycle starts, and the goal, in bytes. Go: trigger.

        It is goal - runway, within bounds. Below 70 % of the way to the goal the collector would run nearly always, and
        a heap that allocates black all the time grows. Above 95 % there would be no room for surprise; on a large heap
        with little to scan, 4 MB of room is as good.
        """
        goal, least = self.heap_goal_internal()
        marked = self.heap_marked
        if marked >= goal:
            return goal, goal
        step = (goal - marked) // _RATIO_DEN
        low = max(least, marked + step * _MIN_TRIGGER_NUM)
        high = max(low, marked + step * _MAX_TRIGGER_NUM, goal - DEFAULT_HEAP_MINIMUM)
        trigger = min(max(goal - self.runway, low), high)
        if trigger > goal:
            raise CorruptHeapError(f"produced a trigger greater than the heap goal: {trigger} > {goal}")
        return trigger, goal

    # ---- the cycle ----

    def end_cycle(self, now: int, procs: int) -> None:
        """Learn cons/mark. The world is stopped; reset_live and commit follow. Go: endCycle.

        With u the share of the Ps' time in background workers and assists, and i that of idle workers, over a time t:

            cons = (heap_live - triggered) / (t * procs * (1 - u))
            mark = scan work / (t * procs * (u + i))

        In the quotient t * procs cancels. Idle time counts on both sides: marking had it, and the program might have
        taken it back at any moment. The quarter of background marking is supposed.

        One measurement is noise, and starting too late costs assists while starting early costs only a cycle more now
        and then: so the estimate is the largest of this measurement and the four before.
        """
        super().end_cycle(now, procs)
        self.utilization = 0.0
        all_time = float((now - self.mark_start_time) * procs) if now > self.mark_start_time else 0.0
        utilization = BACKGROUND_UTILIZATION + (float(self.assist_time) / all_time if all_time else 0.0)
        idle = float(self.idle_mark_time) / all_time if all_time else 0.0
        if self.heap_live <= self.triggered:
            return
        self.utilization = utilization
        allocated = float(self.heap_live - self.triggered)
        self._learn(
            divide(allocated * (utilization + idle), float(self.scan_work()) * (1 - utilization)),
        )

    def _learn(self, measured: float) -> None:
        self.cons_mark = max(measured, *self.last_cons_mark)
        self.last_cons_mark = [*self.last_cons_mark[1:], measured]
