"""A mark beside the program: who has the Ps meanwhile, who pays by assisting, who waits, and when nothing is left.

Go's mgcmark.go and mgcpacer.go have workers and assists run as they come. Here a stretch of the program's time is gone
through at its end: workers mark for as long as it took, what they have scanned is credit, and who allocated more than
its credit marks too. Who would mark and finds that a worker has all there is waits for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from pymem._native import ffi, lib
from pymem.gc.clock import Clock
from pymem.gc.controller import Debtor
from pymem.gc.cpu import Share, Turns, share_out
from pymem.gc.limiter import GCCPULimiter
from pymem.gc.marking import Progress

if TYPE_CHECKING:
    from pymem._heap import Heap
    from pymem.gc.costs import Costs
    from pymem.gc.marking import Mark
    from pymem.gc.protocol import Pacer

__all__ = ["ROOT_BLOCK", "Marking"]

_FOREVER = 1e18
"""Nanoseconds."""
_NO_PROGRESS = Progress(0, 0, 0, 0.0, finished=False)
_ROUNDING = 1e-3
"""Nanoseconds of the program's time that are nothing: what adding floats leaves over."""
_MOST_CREDIT = 1 << 62
"""Bytes: where next to no work is left, a byte of it pays for more than there are numbers for."""
_ROUND_UP = 1000.0
"""Nanoseconds, at least, for which somebody waits: so that waiting takes few steps."""
ROOT_BLOCK = 256 << 10
"""Bytes of globals that are scanned in one go. Go: rootBlockBytes."""


class Marking(ABC):
    """What of a collector goes on while a cycle marks. When it begins, and what comes of it, is the collector's."""

    def __init__(self, heap: Heap, *, pacer: Pacer, procs: list[int], costs: Costs) -> None:
        self.heap = heap
        self.pacer = pacer
        self.costs = costs
        self.clock = Clock(len(procs))
        self.limiter = GCCPULimiter(0, len(procs))
        self.turns = Turns()
        self.busy = 1
        """Ps that the program keeps at work."""
        self._procs = procs
        self._mark: Mark | None = None
        self._globals_done = 0  # bytes of globals that workers have scanned and not been credited for
        self._mark_ends = 0  # when the world is to be stopped, ns; 0: there is something left to mark
        self._program_ns = 0.0  # of the program's time: charged, not yet passed
        self._in_debt = 0  # of the heap's pace when it was last looked at
        self._credit = ffi.new("int64_t *")

    @abstractmethod
    def _pass(self, ns: float, *, unused: float) -> int:
        """Let time pass, in which so many Ps do nothing; return whole ns."""

    @abstractmethod
    def _terminate(self) -> None:
        """End marking."""

    # ---- time ----

    def _run_marking(self, ns: float) -> float:
        """Let the program run until ns are over, marking is, or somebody else's turn comes; return what is left."""
        share, turn = self._turn()
        speed = share.speed if self.busy else 1.0
        time = min(ns / speed, turn) if speed else turn
        progress = self._background(share, time)
        spent = progress.ns / (share.workers or 1.0) if progress.finished else time
        self._pass_marking(share, spent)
        if progress.finished or (self._mark_ends and self.clock.now >= self._mark_ends):
            self._nothing_left()
        left = ns - spent * speed
        return left if left > _ROUNDING else 0.0

    def _turn(self) -> tuple[Share, float]:
        """Return who has the Ps now, and for how long at most, ns."""
        pacer, now = self.pacer, self.clock.now
        passed = now - pacer.mark_start_time
        waited = self.costs.worker_start_ns if self.clock.procs > 1 else 0  # one P is awake
        if passed < waited or self._mark_ends:
            until = self._mark_ends - now if self._mark_ends else waited - passed
            return share_out(self.clock.procs, self.busy, dedicated=0, fractional=0.0, max_idle=0), until
        return self.turns.turn(
            self._share(),
            now,
            goal=pacer.fractional_utilization_goal,
            passed=passed,
            waited=waited,
            worked=pacer.fractional_mark_time,
        )

    def _share(self) -> Share:
        pacer = self.pacer
        return share_out(
            self.clock.procs,
            self.busy,
            dedicated=pacer.dedicated_mark_workers_needed,
            fractional=pacer.fractional_utilization_goal,
            max_idle=pacer.max_idle_mark_workers,
        )

    def _background(self, share: Share, time: float) -> Progress:
        """Let the background's workers mark for a time, and give what they did as credit."""
        assert self._mark is not None
        progress = self._mark.drain(share.workers * time) if share.workers else _NO_PROGRESS
        self._count(progress)
        self._globals_done += progress.globals
        if self._mark.globals_left == 0 or self._globals_done >= ROOT_BLOCK:
            progress_of_globals, self._globals_done = self._globals_done, 0
        else:  # a block counts when it is done
            progress_of_globals = 0
        self.pacer.flush_bg_credit(progress.work - progress.globals + progress_of_globals)
        self.pacer.revise()
        return progress

    def _count(self, progress: Progress) -> None:
        self.pacer.heap_scan_work += progress.heap
        self.pacer.stack_scan_work += progress.stacks
        self.pacer.globals_scan_work += progress.globals

    def _pass_marking(self, share: Share, time: float) -> None:
        whole = self._pass(time, unused=share.unused)
        self.limiter.add_idle_time(int(whole * share.idle))  # marking for being idle is idle to it
        pacer = self.pacer
        pacer.dedicated_mark_time += whole * share.dedicated
        pacer.fractional_mark_time += int(whole * share.fractional)
        pacer.idle_mark_time += whole * share.idle

    # ---- assists ----

    def _pay_debts(self) -> None:
        """Have whoever allocated more than its credit mark, P by P.

        In Go each assists as soon as it is in debt, for 64 KB of work or more. Here all that a stretch owes is worked
        off at its end; only an object that owes more than a stretch by itself has to wait for that (`arm`).
        """
        if self._in_debt:
            for proc in self._procs:
                if self._mark:
                    self._assist(proc)

    def _assist(self, proc: int) -> None:
        """Have whoever allocates on proc mark until it is out of debt. Go: gcAssistAlloc, gcAssistAlloc1.

        Credit is kept by P: goroutines that take turns on one share it.
        """
        credit = self._credit
        self.heap.call(lib.pymem_assist_credit, proc, 0, credit)
        before = int(credit[0])
        if before >= 0 or self.limiter.limiting():
            return
        debtor = Debtor(before)
        work = self.pacer.assist_work(debtor)
        if work > 0 and self._mark_ends:
            self._wait_for_end()
            return
        if work > 0 and self._only_globals_left():
            self._wait_for_globals()
            work = self.pacer.assist_work(debtor) if self._mark else 0
        if work > 0:
            self._assist_work(proc, debtor, work)
        after = min(max(debtor.gc_assist_bytes, -_MOST_CREDIT), _MOST_CREDIT)
        self.heap.call(lib.pymem_assist_credit, proc, after - before, credit)

    def _assist_work(self, proc: int, debtor: Debtor, work: int) -> None:
        assert self._mark is not None
        progress = self._mark.drain_work(work)
        self._count(progress)
        self.pacer.pay_assist(debtor, progress.work)
        ns = int(progress.ns)
        self.limiter.add_assist_time(ns)
        if self.pacer.add_assist_time(self._procs.index(proc) if proc in self._procs else 0, ns):
            self.limiter.update(self.clock.now)
        if progress.finished:
            self._pass_marking(self._share()._replace(fractional=0.0), ns)  # its P is not a worker's
            self._mark_ends = self.clock.now + self._asking_ns
            self._wait_for_end()  # it is the one that asks all Ps
            return
        self._program_ns += ns  # others go on meanwhile, as beside any other work of the program

    # ---- waiting, and the end ----

    def _nothing_left(self) -> None:
        """Have marking end when all Ps have been asked; until then the program goes on. Go: gcMarkDone."""
        if self._mark_ends == 0 and self.busy and self._asking_ns:
            self._mark_ends = self.clock.now + self._asking_ns
        else:
            self._terminate()

    @property
    def _asking_ns(self) -> int:
        """How long it takes to ask all Ps. One P asks itself."""
        return self.costs.mark_end_ns if self.clock.procs > 1 else 0

    def _only_globals_left(self) -> bool:
        """Whether all that can be marked now is globals that a worker is at: nothing else is known yet."""
        mark = self._mark
        return bool(mark and self._globals_done and 0 < mark.globals_left <= ROOT_BLOCK)

    def _wait_for_globals(self) -> None:
        """Have whoever is in debt wait until a worker is through with them. Go: gcParkAssist."""
        while self._mark and not self._mark_ends and self._only_globals_left():
            share, turn = self._turn()
            if not share.workers:  # then the one that waits makes room for it
                share, turn = share._replace(fractional=1.0), _FOREVER
            least = max(self._mark.globals_ns, _ROUND_UP) / share.workers
            progress = self._background(share, min(least, turn))
            self._pass_marking(share, min(least, turn))
            if progress.finished:
                self._nothing_left()

    def _wait_for_end(self) -> None:
        """Have whoever is in debt wait, as there is nothing that it could mark. Go: gcParkAssist."""
        unused = self.clock.procs
        self._pass(max(self._mark_ends - self.clock.now, 0), unused=unused)
        self._terminate()
