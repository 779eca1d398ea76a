"""What the collector counts, who marks, and what an allocation owes: the part of Go's gcController any policy needs.

A policy derives from `Controller` and says where trigger and goal lie (`trigger`); `pymem/gc/pacer.py` has Go's. The
rest follows from a goal, whoever chose it: how many workers mark, and how much marking each allocated byte must pay
for, so that marking is done when the heap reaches the goal.

Integers are as wide as in Go where it shows (`pymem/gc/gonumbers.py`). Times are nanoseconds of the virtual clock. Go
keeps these fields atomic, for many threads; here whoever owns the runtime is alone, so they are plain.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from pymem._arguments import whole
from pymem.errors import ConfigError, CorruptHeapError
from pymem.gc.gonumbers import MASK64, MAX_INT64, divide, int64, to_int64

if TYPE_CHECKING:
    from pymem.gc.protocol import Pacer

__all__ = [
    "ASSIST_TIME_SLACK",
    "BACKGROUND_UTILIZATION",
    "CREDIT_SLACK",
    "DEFAULT_HEAP_MINIMUM",
    "NO_TRIGGER",
    "OVER_ASSIST_WORK",
    "Controller",
    "Debtor",
    "MarkP",
    "MarkWorkers",
    "TriggerKind",
    "WorkerMode",
    "asked",
    "mark_workers",
]

BACKGROUND_UTILIZATION = 0.25
"""Share of all Ps' time that background workers take while marking. Go's gcGoalUtilization is the same number."""
CREDIT_SLACK = 2000
"""Bytes of scan work that a worker may keep to itself before the counts here hear of it. Go: gcCreditSlack."""
ASSIST_TIME_SLACK = 5000
"""Nanoseconds of assists that a P may keep to itself. Go: gcAssistTimeSlack."""
OVER_ASSIST_WORK = 64 << 10
"""Bytes of scan work that an assist does at least, so that the next allocations are paid too. Go: gcOverAssistWork."""
DEFAULT_HEAP_MINIMUM = 4 << 20
"""Bytes: the smallest goal at GOGC=100."""
MAX_STACK_SCAN_SLACK = 8 << 10
"""Bytes of stacks made or freed that a P may keep to itself. Go: maxStackScanSlack."""
NO_TRIGGER = MASK64
"""Value of `Controller.triggered` between cycles."""

_MAX_UTIL_ERROR = 0.3
_GC_PERCENT_OFF = 100_000
"""GOGC that a forced cycle reckons with when GOGC is off."""
_MIN_SCAN_WORK = 1000
"""Bytes of scan work that always count as left: counting is not exact, and 0 would end all assists."""
_OVERSHOOT = 1.1


class TriggerKind(IntEnum):
    """Why a cycle starts. Go: gcTriggerKind."""

    HEAP = 0
    """The heap reached the trigger."""
    TIME = 1
    """There was no cycle for two minutes."""
    CYCLE = 2
    """The program asked for it."""


class WorkerMode(IntEnum):
    """How a background worker came to run. Go: gcMarkWorkerMode."""

    NOT_WORKER = 0
    DEDICATED = 1
    """It has its P until marking ends."""
    FRACTIONAL = 2
    """It takes a share of a P's time."""
    IDLE = 3
    """Its P has nothing else to do."""


class MarkWorkers(NamedTuple):
    """How a number of Ps is split between the program and marking."""

    dedicated: int
    """Ps that do nothing but mark."""
    fractional: float
    """Share of time that each of the others marks."""


def mark_workers(procs: int) -> MarkWorkers:
    """Return the workers that come nearest to a quarter of the Ps.

    Whole Ps are best. With 1, 2, 3 or 6 Ps rounding to a whole number misses the quarter by more than 30 %; then the
    number is rounded down, and what is missing is spread over all Ps. Go: startCycle.
    """
    share = procs * BACKGROUND_UTILIZATION
    dedicated = int(share + 0.5)
    if abs(dedicated / share - 1) <= _MAX_UTIL_ERROR:
        return MarkWorkers(dedicated, 0.0)
    if dedicated > share:
        dedicated -= 1
    return MarkWorkers(dedicated, (share - dedicated) / procs)


@dataclass(slots=True, eq=False)
class MarkP:
    """What a P keeps to itself before it tells the controller. Go: fields of p."""

    gc_assist_time: int = 0
    """Nanoseconds of assists, at most ASSIST_TIME_SLACK. Forgotten when a cycle starts."""
    gc_fractional_mark_time: int = 0
    """Nanoseconds of fractional marking in this cycle."""
    max_stack_scan_delta: int = 0
    """Bytes of stacks made less those freed, below MAX_STACK_SCAN_SLACK either way."""


@dataclass(slots=True, eq=False)
class Debtor:
    """What a goroutine may still allocate before it must assist. Go: g.gcAssistBytes."""

    gc_assist_bytes: int = 0
    """Bytes; below 0 it is in debt. Allocations of the mark phase take from it. 0 at the start of a cycle."""


def asked(pacer: Pacer) -> tuple[int, int]:
    """Return a policy's trigger and goal; ConfigError where they are no two whole numbers of bytes."""
    answer: Any = pacer.trigger()
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise ConfigError(
            f"the pacer's trigger() returned {answer!r}: return (trigger, goal), two numbers of bytes"
        )
    trigger, goal = answer
    return whole("the pacer's trigger", trigger, 0), whole("the pacer's goal", goal, 0)


class Controller:
    """Counts of the heap and of a cycle, workers, assists. All counts may be read at any time.

    A policy overrides `trigger`; if it wants to measure, `end_cycle`; if it computes ahead, `commit`. See
    `examples/fixed_heap_pacer.py`.

    Args:
        gc_percent: GOGC in percent, -1 for off.
        memory_limit: bytes; MAX_INT64 for none.

    """

    __slots__ = (
        "allp",
        "assist_bytes_per_work",
        "assist_queue",
        "assist_time",
        "assist_work_per_byte",
        "bg_scan_credit",
        "blacken_enabled",
        "dedicated_mark_time",
        "dedicated_mark_workers_needed",
        "fractional_mark_time",
        "fractional_utilization_goal",
        "gc_percent",
        "globals_scan",
        "globals_scan_work",
        "heap_free",
        "heap_in_use",
        "heap_live",
        "heap_marked",
        "heap_released",
        "heap_scan",
        "heap_scan_work",
        "idle_mark_time",
        "idle_mark_workers",
        "last_heap_goal",
        "last_heap_scan",
        "last_stack_scan",
        "mapped_ready",
        "mark_start_time",
        "max_idle_mark_workers",
        "max_stack_scan",
        "memory_limit",
        "stack_scan_work",
        "total_alloc",
        "total_free",
        "triggered",
    )

    def __init__(self, gc_percent: int = 100, memory_limit: int = MAX_INT64) -> None:
        self.gc_percent = -1
        """GOGC in percent, -1 for off. Writer: set_gc_percent."""
        self.memory_limit = MAX_INT64
        """Bytes, 0 to MAX_INT64 (none). Writer: set_memory_limit."""
        self._init_heap()
        self._init_memory()
        self._init_cycle()
        self.set_gc_percent(gc_percent)
        self.set_memory_limit(memory_limit)

    def _init_heap(self) -> None:
        self.heap_live = 0
        """Bytes marked by the last cycle, plus allocated since; a cached span counts as full. Writer: the heap."""
        self.heap_scan = 0
        """Bytes of heap_live that may hold pointers. Stands still while marking. Writer: the heap."""
        self.heap_marked = 0
        """Bytes that the last cycle marked; heap_live at its end. Writer: reset_live."""
        self.last_heap_scan = 0
        """Bytes of heap that the last cycle scanned. Writer: reset_live."""
        self.last_stack_scan = 0
        """Bytes of stacks, as far as used, that the last cycle scanned. Writer: reset_live."""
        self.max_stack_scan = 0
        """Bytes of all goroutines' stacks: what a cycle might have to scan. Writer: add_scannable_stack."""
        self.globals_scan = 0
        """Bytes of globals that may hold pointers. Writer: add_globals."""
        self.triggered = NO_TRIGGER
        """heap_live when the cycle started, NO_TRIGGER between cycles. Writers: start_cycle, reset_live."""
        self.last_heap_goal = 0
        """Bytes: the goal when the last cycle ended; the scavenger's yardstick. Writer: end_cycle."""

    def _init_memory(self) -> None:
        """Bytes of memory as `MemStats` counts it, for the memory limit. Writer: the heap."""
        self.heap_in_use = 0
        """In spans."""
        self.heap_released = 0
        """Free, and given back to the operating system."""
        self.heap_free = 0
        """Free, and not given back."""
        self.total_alloc = 0
        """Allocated since the start; whole spans count while a P holds them."""
        self.total_free = 0
        """Freed since the start. total_alloc - total_free is what objects take."""
        self.mapped_ready = 0
        """All that Go has of the operating system and has not given back, heap or not. At least heap_free + objects."""

    def _init_cycle(self) -> None:
        self.blacken_enabled = False
        """Whether a mark phase is on: assists are due, and `update` revises. Writer: the cycle."""
        self.mark_start_time = 0
        self.allp: list[MarkP] = []
        self.assist_queue: deque[Debtor] = deque()
        """Goroutines that wait for background credit, first in first out. Writers: park_assist, flush_bg_credit."""
        self.idle_mark_workers = 0
        """Idle workers at work. May pass the maximum for a moment, when that has just shrunk."""
        self.max_idle_mark_workers = 0
        self.dedicated_mark_workers_needed = 0
        """Dedicated workers that have yet to start. Writers: start_cycle, assign_worker, mark_worker_stop."""
        self.fractional_utilization_goal = 0.0
        """Share of time, 0 to 0.25, that each P without a dedicated worker marks. Writer: start_cycle."""
        self.assist_work_per_byte = 0.0
        """Bytes to scan for a byte allocated. Writer: revise."""
        self.assist_bytes_per_work = 0.0
        """Bytes that may be allocated for a byte scanned. Writer: revise."""
        self._zero_cycle()

    def _zero_cycle(self) -> None:
        self.heap_scan_work = 0
        """Bytes of heap scanned in this cycle. Writers: workers and assists, each time CREDIT_SLACK have come up."""
        self.stack_scan_work = 0
        """Bytes of stacks scanned in this cycle. Writer: as above."""
        self.globals_scan_work = 0
        """Bytes of globals scanned in this cycle. Writer: as above."""
        self.bg_scan_credit = 0
        """Bytes that background workers scanned and no assist has claimed. Writers: steal_credit, flush_bg_credit."""
        self.assist_time = 0
        """Nanoseconds of assists in this cycle. Writer: add_assist_time."""
        self.dedicated_mark_time = 0
        """Nanoseconds, as the next two. Writer: mark_worker_stop."""
        self.fractional_mark_time = 0
        self.idle_mark_time = 0

    # ---- the policy's answers ----

    def trigger(self) -> tuple[int, int]:
        """Return the heap_live at which a cycle starts and the one at which it shall end, in bytes, in this order."""
        raise NotImplementedError(f"{type(self).__name__} has to say where trigger and goal lie")

    def heap_goal(self) -> int:
        """Return the heap_live, in bytes, at which this cycle (or, between cycles, the next) shall end."""
        return asked(self)[1]

    def commit(self, is_sweep_done: bool) -> None:
        """Take over new settings and counts, before the trigger is next asked for. By itself a policy keeps nothing."""

    def set_gc_percent(self, percent: int) -> int:
        """Change GOGC (any negative number is off) and return what it was; commit is due."""
        before, self.gc_percent = self.gc_percent, max(percent, -1)
        return before

    def set_memory_limit(self, limit: int) -> int:
        """Change the limit (a negative one only asks) and return what it was; commit is due."""
        before = self.memory_limit
        if limit >= 0:
            self.memory_limit = limit
        return before

    # ---- the cycle ----

    def start_cycle(
        self,
        now: int,
        procs: int,
        kind: TriggerKind = TriggerKind.HEAP,
        *,
        stop_the_world: bool = False,
    ) -> None:
        """Begin to mark: counts at 0, workers, a first assist ratio. The world is stopped. Go: startCycle.

        In a cycle for the clock's sake the program is idle anyway: no idle workers then, but for one where no dedicated
        worker would see to it that marking ends. stop_the_world is GODEBUG=gcstoptheworld: every P marks.
        """
        self._zero_cycle()
        self.mark_start_time = now
        self.triggered = self.heap_live
        workers = MarkWorkers(procs, 0.0) if stop_the_world else mark_workers(procs)
        self.dedicated_mark_workers_needed, self.fractional_utilization_goal = workers
        self._reset_ps(procs)
        if kind == TriggerKind.TIME:
            self.set_max_idle_mark_workers(0 if workers.dedicated else 1)
        else:
            self.set_max_idle_mark_workers(procs - workers.dedicated)
        self.revise()

    def _reset_ps(self, procs: int) -> None:
        while len(self.allp) < procs:
            self.allp.append(MarkP())
        for p in self.allp[:procs]:
            p.gc_assist_time = p.gc_fractional_mark_time = 0

    def scan_work(self) -> int:
        """Return the bytes scanned in this cycle."""
        return self.heap_scan_work + self.stack_scan_work + self.globals_scan_work

    def scan_work_expected(self) -> int:
        """Return the bytes to scan if this cycle finds what the last one found, a uint64."""
        return (self.last_heap_scan + self.last_stack_scan + self.globals_scan) & MASK64

    def revise(self) -> None:
        """Compute the assist ratio anew, from how much there is left to scan and to allocate. Go: revise.

        Called at the start of a cycle and whenever heap_live, heap_scan or the goal changed while marking:

            assist_work_per_byte = (work expected - work done) / (goal - heap_live)

        so that paying by this rate brings both to 0 at once. First a steady heap is supposed: the last cycle's work,
        the policy's goal. More work done than that shows that the heap grows (`_extended_goal`). A heap beyond its goal
        gets 10 % more room, and the worst case to do in it.
        """
        live, work = self.heap_live, self.heap_scan_work + self.stack_scan_work + self.globals_scan_work
        goal, expected = self.heap_goal(), self.last_heap_scan + self.last_stack_scan + self.globals_scan
        if work > expected or live > goal:
            goal, expected = self._beyond(live, work, goal, expected)
        left = expected - work
        if left < _MIN_SCAN_WORK:  # noqa: PLR1730 (max() costs 50 ns, and this runs thousands of times a cycle)
            left = _MIN_SCAN_WORK
        room = goal - live
        if not 0 < room <= MAX_INT64:
            room = max(int64(room), 1)
        self.assist_work_per_byte = float(left) / float(room)
        self.assist_bytes_per_work = float(room) / float(left)

    def _beyond(self, live: int, work: int, goal: int, expected: int) -> tuple[int, int]:
        """Return the goal and the work to reckon with where the supposition of a steady heap failed."""
        worst = int64(self.heap_scan + self.max_stack_scan + self.globals_scan)
        if work > expected:
            goal, expected = self._extended_goal(goal, expected, worst), worst
        if live > goal:
            goal, expected = to_int64(float(goal) * _OVERSHOOT), worst
        return goal, expected

    def _extended_goal(self, goal: int, expected: int, worst: int) -> int:
        """Return the goal that leaves the assist ratio as it was if all that may be scanned has to be.

        The plan was to scan `expected` bytes while the heap grows by goal - triggered. At the same ratio the worst case
        takes (goal - triggered) / expected * worst. The next cycle's goal will be about (1 + GOGC/100) of the heap that
        this one leaves, at most of this goal: the extension stops there, and never costs more than waiting would.
        """
        percent = self.gc_percent if self.gc_percent >= 0 else _GC_PERCENT_OFF
        per_byte = divide(float(int64(goal - self.triggered)), float(expected))
        extended = int64(to_int64(per_byte * float(worst)) + self.triggered)
        return min(extended, to_int64((1.0 + percent / 100.0) * float(goal)))

    def end_cycle(self, now: int, procs: int) -> None:
        """Take note that marking is over. The world is stopped; reset_live and commit follow. Go: endCycle.

        By itself a controller notes the goal. A policy learns here: all counts are of the cycle that ends, and the
        assists' and workers' times are in.
        """
        self.last_heap_goal = self.heap_goal()

    def reset_live(self, bytes_marked: int) -> None:
        """Make the bytes marked the live heap. The world is stopped, commit follows. Go: resetLive."""
        self.heap_marked = self.heap_live = bytes_marked
        self.heap_scan = self.last_heap_scan = self.heap_scan_work & MASK64
        self.last_stack_scan = self.stack_scan_work & MASK64
        self.triggered = NO_TRIGGER

    # ---- what the heap reports ----

    def update(self, heap_live: int, heap_scan: int) -> None:
        """Add to heap_live, and to heap_scan unless marking is on; a mark phase revises its ratio. Go: update."""
        self.heap_live = (self.heap_live + heap_live) & MASK64
        if self.blacken_enabled:
            self.revise()
        else:
            self.heap_scan = (self.heap_scan + heap_scan) & MASK64

    def add_scannable_stack(self, amount: int, p: int | None = None) -> None:
        """Report stack space made or freed (bytes, below 0), on P p, which passes it on 8 KB at a time."""
        if p is None:
            self.max_stack_scan = (self.max_stack_scan + amount) & MASK64
            return
        keeper = self.p(p)
        keeper.max_stack_scan_delta += amount
        if abs(keeper.max_stack_scan_delta) >= MAX_STACK_SCAN_SLACK:
            self.max_stack_scan = (self.max_stack_scan + keeper.max_stack_scan_delta) & MASK64
            keeper.max_stack_scan_delta = 0

    def add_globals(self, amount: int) -> None:
        """Report globals to scan, in bytes."""
        self.globals_scan = (self.globals_scan + amount) & MASK64

    def p(self, p: int) -> MarkP:
        """Return what P number p keeps to itself."""
        while len(self.allp) <= p:
            self.allp.append(MarkP())
        return self.allp[p]

    # ---- workers ----

    def assign_worker(self, now: int, p: int) -> WorkerMode:
        """Say what background worker P p shall run now, and count it as started. Go: assignWaitingGCWorker.

        A dedicated one while some are missing; else a fractional one, if the P has marked for less than its share of
        the time since marking started. Idle workers come through `add_idle_mark_worker`.
        """
        if self.dedicated_mark_workers_needed > 0:
            self.dedicated_mark_workers_needed -= 1
            return WorkerMode.DEDICATED
        if self.fractional_utilization_goal == 0:
            return WorkerMode.NOT_WORKER
        elapsed = now - self.mark_start_time
        if elapsed > 0 and self.p(p).gc_fractional_mark_time / elapsed > self.fractional_utilization_goal:
            return WorkerMode.NOT_WORKER
        return WorkerMode.FRACTIONAL

    def poll_fractional_worker_exit(self, now: int, p: int, started: int) -> bool:
        """Say whether P p's fractional worker, at work since `started`, has done its share, and a fifth more.

        Without the fifth it would be due again at once. Go: pollFractionalWorkerExit.
        """
        elapsed = now - self.mark_start_time
        if elapsed <= 0:
            return True
        mine = self.p(p).gc_fractional_mark_time + (now - started)
        return mine / elapsed > 1.2 * self.fractional_utilization_goal

    def mark_worker_stop(self, mode: WorkerMode, duration: int, p: int | None = None) -> None:
        """Count the nanoseconds of a worker that stops. P p is a fractional one's. Go: markWorkerStop."""
        match mode:
            case WorkerMode.DEDICATED:
                self.dedicated_mark_time += duration
                self.dedicated_mark_workers_needed += 1
            case WorkerMode.FRACTIONAL:
                self.fractional_mark_time += duration
                if p is not None:
                    self.p(p).gc_fractional_mark_time += duration
            case WorkerMode.IDLE:
                self.idle_mark_time += duration
                self.remove_idle_mark_worker()
            case _:
                raise CorruptHeapError("markWorkerStop: unknown mark worker mode")

    def need_idle_mark_worker(self) -> bool:
        """Say whether one more idle worker may start."""
        return self.idle_mark_workers < self.max_idle_mark_workers

    def add_idle_mark_worker(self) -> bool:
        """Start an idle worker, if one more may."""
        if not self.need_idle_mark_worker():
            return False
        self.idle_mark_workers += 1
        return True

    def remove_idle_mark_worker(self) -> None:
        """Stop an idle worker."""
        if self.idle_mark_workers <= 0:
            raise CorruptHeapError(
                f"negative idle mark workers: n={self.idle_mark_workers} max={self.max_idle_mark_workers}"
            )
        self.idle_mark_workers -= 1

    def set_max_idle_mark_workers(self, limit: int) -> None:
        """Let at most that many idle workers start; those at work go on."""
        self.max_idle_mark_workers = limit

    # ---- assists ----

    def assist_work(self, debtor: Debtor) -> int:
        """Settle a debt with background credit as far as it goes; return the bytes that the debtor itself has to scan.

        An assist is never small: below OVER_ASSIST_WORK the debtor takes that much, and has paid for allocations to
        come. Not to be called while the limiter limits: then nobody assists. Go: gcAssistAlloc.
        """
        debt = -debtor.gc_assist_bytes
        work = to_int64(self.assist_work_per_byte * float(debt))
        if work < OVER_ASSIST_WORK:
            work = OVER_ASSIST_WORK
            debt = to_int64(self.assist_bytes_per_work * float(work))
        return work - self._steal_credit(debtor, work, debt)

    def _steal_credit(self, debtor: Debtor, work: int, debt: int) -> int:
        """Take up to `work` bytes, which are worth `debt` bytes of allocation, from the background's credit."""
        if self.bg_scan_credit <= 0:
            return 0
        if self.bg_scan_credit >= work:
            self.bg_scan_credit -= work
            debtor.gc_assist_bytes += debt
            return work
        stolen, self.bg_scan_credit = self.bg_scan_credit, 0
        self.pay_assist(debtor, stolen)
        return stolen

    def pay_assist(self, debtor: Debtor, work: int) -> None:
        """Credit a debtor with bytes scanned. The 1 rounds up: any work pays for something. Go: gcAssistAlloc1."""
        debtor.gc_assist_bytes += 1 + to_int64(self.assist_bytes_per_work * float(work))

    def add_assist_time(self, p: int, duration: int) -> bool:
        """Count nanoseconds of an assist on P p. Say whether the P passed its sum on: the limiter's update is due then.

        What a P has not passed on when the next cycle starts is lost, as in Go.
        """
        keeper = self.p(p)
        keeper.gc_assist_time += duration
        if keeper.gc_assist_time <= ASSIST_TIME_SLACK:
            return False
        self.assist_time += keeper.gc_assist_time
        keeper.gc_assist_time = 0
        return True

    def park_assist(self, debtor: Debtor) -> bool:
        """Let a debtor that found nothing to scan wait for credit; no if there is credit to try again for.

        Go: gcParkAssist.
        """
        if self.bg_scan_credit > 0:
            return False
        self.assist_queue.append(debtor)
        return True

    def flush_bg_credit(self, work: int) -> list[Debtor]:
        """Add bytes that background workers scanned: waiting debtors first, the rest is credit. Go: gcFlushBgCredit.

        Return the debtors that may run again. One that got only a part of its debt goes to the end of the queue, so
        that a large debt does not hold up small ones.
        """
        if not self.assist_queue:
            self.bg_scan_credit += work
            return []
        room, ready = to_int64(float(work) * self.assist_bytes_per_work), list[Debtor]()
        while self.assist_queue and room > 0:
            debtor = self.assist_queue.popleft()
            debt = -debtor.gc_assist_bytes
            paid = min(debt, room)
            debtor.gc_assist_bytes += paid
            room -= paid
            if paid == debt:
                ready.append(debtor)
            else:
                self.assist_queue.append(debtor)
        if room > 0:
            self.bg_scan_credit += to_int64(float(room) * self.assist_work_per_byte)
        return ready

    def wake_all_assists(self) -> list[Debtor]:
        """Return all waiting debtors, at the end of marking. Go: gcWakeAllAssists."""
        ready = list(self.assist_queue)
        self.assist_queue.clear()
        return ready

    def release_credit(self, debtor: Debtor) -> None:
        """Leave what an exiting goroutine has paid in advance to the others, while marking. Go: gdestroy."""
        if self.blacken_enabled and debtor.gc_assist_bytes > 0:
            work = self.assist_work_per_byte * float(debtor.gc_assist_bytes)
            self.bg_scan_credit += to_int64(work)
            debtor.gc_assist_bytes = 0
