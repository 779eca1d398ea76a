"""The collector: when a cycle starts, what happens in it, and who waits for whom, in virtual time.

The core calls nobody. It comes back from an allocation when a stop is due, and `Collector.stopped` does what Go's
runtime would do there: start a cycle, have the allocating goroutine assist, let background workers mark for as long as
the program has run meanwhile, end the marking, sweep, give memory back. Then the allocation goes on. So a program is
cut into stretches; in each the program first does its part, and then all others do theirs for the time that it took.

A cycle, as Go's mgc.go has it:

    sweep termination   the world stops; what is still unswept is swept
    mark                the program runs, objects are born black, 25 % of the Ps mark, allocation pays by assisting
    mark termination    the world stops; the pacer learns; swept and unswept change places
    sweep               the program runs; spans are swept before they are used, and in the background
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Literal

from pymem._arrays import addresses, pointer
from pymem._native import ffi, lib
from pymem.gc.concurrent import ROOT_BLOCK, Marking
from pymem.gc.controller import TriggerKind, asked
from pymem.gc.cpu import TIME_SLICE
from pymem.gc.events import GCEvent, GCPhase, GCResult, Tally
from pymem.gc.marking import GraphMark, RecordMark
from pymem.gc.pacer import GoPacer
from pymem.gc.pins import Pins
from pymem.gc.scavenger import Scavenger
from pymem.gc.state import CycleRecord, GCStats
from pymem.gc.steps import Owner, whole
from pymem.gc.stops import NEVER, NO_QUANTUM, next_stops, see_heap
from pymem.gc.sweeper import Sweeper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pymem._arrays import UInt64s
    from pymem._heap import Heap
    from pymem.gc.compaction import Compactor, Moves
    from pymem.gc.costs import Costs
    from pymem.gc.marking import Mark, RootNamer
    from pymem.gc.protocol import Pacer
    from pymem.stats.gctrace import Tracer

__all__ = ["EMPTY_PROGRAM_GLOBALS", "Collector", "Liveness"]

Liveness = Literal["graph", "record"]

EMPTY_PROGRAM_GLOBALS = 158_122
"""Bytes of globals with pointers in an empty program, by /gc/scan/globals:bytes of Go 1.27.3 on amd64."""
_FOREVER = 1e18
"""Nanoseconds."""
_FORCE_PERIOD = 120 * 10**9
"""Nanoseconds without a cycle after which one is forced. Go: forcegcperiod."""


class Collector(Marking):
    """The collector of one heap: cycle, clock, and what goes on in the background.

    Args:
        heap: the heap; its stops are this collector's from now on.
        pacer: where trigger and goal lie.
        procs: the core's numbers of the Ps, always up to date.
        costs: what things cost in virtual time.
        liveness: who tells what lives in the cycles that start by themselves.
        stats: where the collector reports to.
        globals_bytes: globals that hold pointers and are no roots here: those of Go's own packages.
        tracer: who prints the lines that GODEBUG asks for.
        compactor: who moves objects at the end of a cycle; None, as in Go: nobody.
        check_mark: prove each mark by graph with a second one, for which the world stands and no time passes.

    """

    def __init__(
        self,
        heap: Heap,
        *,
        pacer: Pacer,
        procs: list[int],
        costs: Costs,
        liveness: Liveness,
        stats: GCStats,
        globals_bytes: int = EMPTY_PROGRAM_GLOBALS,
        tracer: Tracer | None = None,
        compactor: Compactor | None = None,
        check_mark: bool = False,
    ) -> None:
        super().__init__(heap, pacer=pacer, procs=procs, costs=costs)
        self.liveness: Liveness = liveness
        self.stats = stats
        self._tracer = tracer
        self.compactor = compactor
        self._check_mark = check_mark
        self.name_root: RootNamer = lambda roots, place: None
        self._globals = globals_bytes
        pacer.add_globals(globals_bytes)
        self.observers: list[Callable[[GCEvent], None]] = []
        self.owner = Owner()
        self.record: CycleRecord | None = None
        """The cycle that is marking."""
        self.sweeper = Sweeper(heap, costs)
        self._work = (0, 0)  # objects and bytes charged so far
        self._all_swept = 0  # sweep_done of the heap's pace when it was last looked at
        self._busy_proc = procs[0] if procs else -1
        self._fresh: UInt64s | None = None
        self._held: UInt64s | None = None  # what a call under way still needs: compaction leaves it alone
        self._pins = Pins(heap)
        self.scavenger = Scavenger(heap, gomaxprocs=lambda: self.clock.procs, costs=costs)
        self._last_heap_in_use = 0  # bytes, when the last cycle ended
        heap.on_stop = self.stopped

    # ---- settings ----

    @whole
    def wait_on_mark(self) -> None:
        """Bring the clock up to date, and let a mark under way run to its end. Go: gcWaitOnMark."""
        try:
            self._settle()
            self.finish_mark()
        finally:
            self.arm()

    @property
    def off(self) -> bool:
        """Whether no cycle ever starts by itself. A policy of one's own may start some whatever GOGC is."""
        return (
            type(self.pacer) is GoPacer
            and self.pacer.gc_percent < 0
            and self.pacer.memory_limit >= NO_QUANTUM
        )

    @whole
    def commit(self) -> None:
        """Take over the pacer's settings. Go: gcControllerCommit."""
        self._sync()
        self.pacer.commit(bool(self._all_swept))
        if self._mark:
            self.pacer.revise()
        else:
            self._pace_sweeper()
        self._pace_scavenger()
        self._tell_goal()
        self.arm()

    def resize(self, procs: int) -> None:
        """Have another number of Ps from now on; the caller has changed them. The world was stopped for that."""
        self.clock.procs = procs
        self.limiter.reset_capacity(self.clock.now, procs)

    # ---- what the program does ----

    def charge(self, ns: float) -> None:
        """Let the program have worked for ns of its own time; `settle` has it pass."""
        self._program_ns += ns

    def settle(self) -> None:
        """Bring the clock to where the program's work so far has taken it, and let all others do their part.

        For an observer time stands still.
        """
        if not self.owner.telling:
            self._settle_by_itself()

    def _settle(self) -> None:
        pace, costs = self._sync(), self.costs
        objects, size = pace.work_objects, pace.work_bytes
        self._program_ns += (objects - self._work[0]) * costs.malloc_ns + (
            size - self._work[1]
        ) * costs.malloc_byte_ns
        self._work = objects, size
        eager = self.scavenger.take_eager(pace.released_eager).ns
        if eager:
            self.limiter.add_assist_time(eager)
        ns = self._program_ns + eager
        self._program_ns = 0.0
        self._run(ns)
        self.scavenger.set_limiting(self.limiter.limiting())

    _settle_by_itself = whole(_settle)

    @whole
    def sleep(self, ns: float) -> None:
        """Let time pass in which the program does nothing."""
        self._settle()
        try:
            with self._waiting():
                self._run(ns)
        finally:
            self.arm()

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """For as long as the program does nothing."""
        busy, self.busy = self.busy, 0
        try:
            yield
        finally:
            self.busy = busy

    @whole
    def stopped(self, proc: int, due: int, fresh: UInt64s | None = None) -> None:
        """Do what an allocation on proc came back for; it goes on when this returns.

        fresh: objects that the call has made and the program does not hold yet. They are on its stack, so to say.
        """
        self._busy_proc = proc
        self._fresh = fresh
        try:
            self._settle()
            if self._mark:
                self._pay_debts()
            if (
                not self._mark and due != lib.PYMEM_STOP_ASSIST
            ):  # its object comes first, else none ever might
                self._test_trigger()
        finally:
            self._fresh = None
            self.arm()

    @property
    def _proc(self) -> int:
        """The P that the collector's own calls are made on: the one that allocated last, if it is still there."""
        return self._busy_proc if self._busy_proc in self._procs else self._procs[0]

    def arm(self) -> None:
        """Say when the core is to come back next."""
        sweeping = not self.sweeper.done
        live, quantum, debt = next_stops(self.pacer, self.record, off=self.off, sweeping=sweeping)
        self.heap.armed = quantum < NO_QUANTUM
        stops = self.heap.stops
        stops.live, stops.quantum, stops.debt = live, quantum, debt

    # ---- time ----

    def _run(self, ns: float) -> None:
        """Let the program run for ns of its own time (without it, for ns), and the background beside it."""
        while ns > 0:
            if self._mark:
                ns = self._run_marking(ns)
                continue
            passed = self._until_deadline(ns)
            self._idle(passed)
            ns -= passed
            self._scavenge(passed)
            if self._deadline_reached():
                self.start(TriggerKind.TIME)

    def _idle(self, ns: float) -> None:
        """Let time pass between cycles: whatever sweeps and scavenges in the background does so."""
        unused = max(0, self.clock.procs - self.busy)
        self._pass(ns, unused=unused)
        if not self.sweeper.done and self.sweeper.advance(self._proc, ns, idle=unused > 0):
            self._swept_all()

    def _pass(self, ns: float, *, unused: float) -> int:
        whole = self.clock.pass_time(ns, unused=unused)
        self.limiter.add_idle_time(int(whole * unused))
        if self.limiter.need_update(self.clock.now):
            self.limiter.update(self.clock.now)
        return whole

    def _until_deadline(self, ns: float) -> float:
        """Return how much of ns passes before something is due, at least 1."""
        last, due = self.stats.last_gc_ns, self.scavenger.due_ns
        if self.pacer.gc_percent >= 0 and last:
            ns = min(ns, max(last + _FORCE_PERIOD + 1 - self.clock.now, 1))
        return ns if due is None else min(ns, max(due - self.clock.now, 1))

    def _scavenge(self, passed: float) -> None:
        """Let the background scavenger do what it is due to; it has a processor of its own, or nearly none."""
        due = self.scavenger.due_ns
        if due is not None and due <= self.clock.now:
            self.scavenger.step(self.clock.now, max(passed, TIME_SLICE))

    def _deadline_reached(self) -> bool:
        last = self.stats.last_gc_ns
        return self.pacer.gc_percent >= 0 and last != 0 and self.clock.now - last > _FORCE_PERIOD

    # ---- starting ----

    def _test_trigger(self) -> None:
        if self._all_swept and not self.sweeper.done:
            self._swept_all()  # by allocations on their way
        if self._triggered() and not self.off:
            self._finish_sweep()  # so that the cycle is not late for it
            if self._triggered():
                self.start(TriggerKind.HEAP)

    def _triggered(self) -> bool:
        return self.pacer.heap_live >= asked(self.pacer)[0]

    def start(self, kind: TriggerKind, *, by_record: bool | None = None, forced: bool = False) -> None:
        """Begin a cycle: stop the world, prepare to mark, start it again. Go: gcStart.

        Without memory for it no cycle has begun.
        """
        pacer = self.pacer
        self._finish_sweep()
        self._sync()
        cycle = CycleRecord(number=self.stats.num_gc + 1, forced=forced, gomaxprocs=self.clock.procs)
        cycle.start_ns, cycle.heap0 = self.clock.now, pacer.heap_live
        self._tell(GCPhase.SWEEP_TERMINATION, cycle)
        self.scavenger.wake(self.clock.now)
        by_record = self.liveness == "record" if by_record is None else by_record
        mark = self._start_mark(by_record, assists=kind != TriggerKind.CYCLE)
        self._sync()
        self._stop_world(self.costs.stop_ns, cycle)
        self._start_pacer(kind, cycle)
        self._mark = mark
        pacer.blacken_enabled = True
        self.limiter.finish_gc_transition(self.clock.now)
        cycle.mark_ns = self.clock.now
        self.turns.begin(cycle.mark_ns)
        self.turns.first_ns = min(self._globals, ROOT_BLOCK) * self.costs.mark_byte_ns
        self.record = cycle
        if self._tracer:
            self._tracer.mark_started(cycle)
        self._tell(GCPhase.MARK, cycle)

    def _start_mark(self, by_record: bool, *, assists: bool) -> Mark:
        """Have the core finish its sweep and begin to mark. All that may fail of a cycle's start is here."""
        heap = self.heap
        if by_record:
            heap.call(lib.pymem_gc_begin, self._proc)
            heap.call(lib.pymem_mark_start, assists)
            return RecordMark(heap, self.costs, self._globals)
        try:
            self._pins.hold(self._fresh)
            heap.call(lib.pymem_gc_begin, self._proc)
            heap.call(lib.pymem_mark_start_graph, assists)
        except BaseException:
            self._pins.release()
            raise
        return GraphMark(heap, self.costs, self._globals)

    def _start_pacer(self, kind: TriggerKind, cycle: CycleRecord) -> None:
        pacer, now = self.pacer, self.clock.now
        cycle.expected_scan_work = pacer.last_heap_scan + pacer.last_stack_scan + pacer.globals_scan
        pacer.start_cycle(now, self.clock.procs, kind)
        self.limiter.start_gc_transition(True, now)
        cycle.trigger, cycle.start_goal = pacer.triggered, pacer.heap_goal()
        cycle.heap_scan, cycle.assist_ratio = pacer.heap_scan, pacer.assist_work_per_byte
        cycle.dedicated_workers = pacer.dedicated_mark_workers_needed
        cycle.fractional_goal = pacer.fractional_utilization_goal

    def _stop_world(self, ns: int, cycle: CycleRecord) -> None:
        self.clock.pass_time(ns, unused=0)
        cycle.pause_ns += ns
        self.stats.cpu.add_pause(ns, self.clock.procs)
        self.stats.stw_total_gc.record(ns)
        self.stats.stw_stopping_gc.record(0)

    # ---- marking ----

    def finish_mark(self) -> None:
        """Let marking run to its end while the program waits for it."""
        with self._waiting():
            while self._mark:
                self._run_marking(_FOREVER)

    def _terminate(self) -> None:
        """End marking: stop the world, learn, turn, start it again. Go: gcMarkDone, gcMarkTermination."""
        cycle, pacer, heap = self.record, self.pacer, self.heap
        assert cycle is not None
        if self._check_mark and self._mark:
            self._mark.prove(self.name_root)
        self._sync()
        cycle.term_ns, cycle.heap1 = self.clock.now, pacer.heap_live
        self._tell(GCPhase.MARK_TERMINATION, cycle)
        self.limiter.start_gc_transition(False, self.clock.now)
        self._stop_world(self.costs.term_ns, cycle)
        pacer.blacken_enabled = False
        self._mark_ends = self._globals_done = 0
        pacer.wake_all_assists()
        cycle.cons_mark = getattr(pacer, "cons_mark", 0.0)
        pacer.end_cycle(cycle.term_ns, self.clock.procs)
        self._mark, self.record = None, None
        heap.call(lib.pymem_mark_stop)
        self._pins.release()
        heap.call(lib.pymem_gc_flip)
        self.sweeper.done = False
        self._compact(cycle)
        self._enter(cycle)
        heap.call(lib.pymem_gc_end, self._proc, cycle.forced)
        self._flush()
        self._tell(GCPhase.SWEEP, cycle)
        if self._all_swept:
            self._swept_all()

    def _compact(self, cycle: CycleRecord) -> None:
        """Sweep all and move objects together, the world still stopped and all Ps at it. Without memory: not now."""
        if self.compactor is None:
            return
        with suppress(MemoryError):
            self._flush()
            swept_ns = self.sweeper.finish(self._proc)
            held = [array for array in (self._fresh, self._held) if array is not None]
            moved = self.compactor.run(self._proc, held)
            work = self.pacer.heap_scan_work + self.pacer.stack_scan_work + self.pacer.globals_scan_work
            ns = int((swept_ns + moved.ns(self.costs, work)) / self.clock.procs)
            self._stop_world(ns, cycle)
            cycle.compaction = replace(moved, time_ns=ns)
            self._tell(GCPhase.COMPACTION, cycle, self.compactor.moves)

    def _enter(self, cycle: CycleRecord) -> None:
        """Take down what the cycle was, and let the pacer go on from there."""
        pacer = self.pacer
        totals = ffi.new("pymem_mark_totals *")
        self.heap.call(lib.pymem_mark_get, totals)
        cycle.learn(pacer, int(totals.bytes_marked))
        if self._tracer:
            self._tracer.mark_ended(cycle)
        pacer.reset_live(cycle.heap2)
        pacer.commit(False)
        self._sync()
        self._last_heap_in_use = pacer.heap_in_use
        self._pace_sweeper()
        self._pace_scavenger()
        self._tell_goal()
        cycle.end_ns = self.clock.now
        assist, background = self.scavenger.take_times()
        self.clock.report(self.stats.cpu, cycle, scavenge_assist=assist, scavenge_bg=background)
        self.limiter.finish_gc_transition(self.clock.now)
        self.stats.finish(cycle)
        if self._tracer:
            self._tracer.cycle_ended(cycle)
        self.limiter.num_gc = self.stats.num_gc
        self.stats.limiter_last_enabled = self.limiter.last_enabled_cycle
        self.report()

    def _flush(self) -> None:
        """Every P gives back its caches; idle ones their pages too. Go: gcMarkTermination, prepareForSweep."""
        for proc in self._procs:
            with suppress(MemoryError):  # then it does so before it allocates next
                self.heap.call(lib.pymem_flush, proc)
            if proc != self._proc and len(self._procs) > self.busy:
                self.heap.call(lib.pymem_page_cache_flush, proc)

    # ---- sweeping ----

    def _pace_sweeper(self) -> None:
        self.heap.call(lib.pymem_pace_sweeper, min(asked(self.pacer)[0], NEVER))

    def _finish_sweep(self) -> None:
        """Sweep the rest, the program waiting for it."""
        if self.sweeper.done:
            return
        self._pass(self.sweeper.finish(self._proc), unused=max(0, self.clock.procs - 1))
        self._swept_all()

    def _swept_all(self) -> None:
        self.sweeper.rest()
        self.scavenger.wake(self.clock.now)
        if self._tracer:
            self._tracer.swept(**self.sweeper.trace()._asdict())
            self._tracer.scavenged(**asdict(self.scavenger.trace()))
        self._tell(GCPhase.SWEPT, None)

    # ---- giving back ----

    def _pace_scavenger(self) -> None:
        self.scavenger.pace(
            memory_limit=self.pacer.memory_limit,
            heap_goal=self.pacer.heap_goal(),
            last_heap_goal=self.pacer.last_heap_goal,
            last_heap_in_use=self._last_heap_in_use,
        )

    @whole
    def free_os_memory(self, proc: int) -> None:
        """Collect, then give every free page back. Go: debug.FreeOSMemory."""
        self.gc(proc)
        work = self.scavenger.scavenge_all()
        if self._tracer:
            self._tracer.scavenged(**asdict(self.scavenger.forced_trace(work)))
        self.charge(work.ns)
        self._settle()

    # ---- collections by hand ----

    @whole
    def gc(self, proc: int, *, by_record: bool | None = None) -> GCResult:
        """Collect now, and return when all is swept. Go: runtime.GC."""
        self._busy_proc = proc
        try:
            self._settle()
            self.finish_mark()
            self._finish_sweep()
            before = Tally.of(self.heap)
            self.start(TriggerKind.CYCLE, by_record=by_record, forced=True)
            self.finish_mark()
            self._finish_sweep()
        finally:
            self.arm()
        return GCResult.of_cycle(self.stats.cycles[-1], before, Tally.of(self.heap))

    @whole
    def gc_dead(self, proc: int, dead: Any, *, zero_base: int) -> GCResult:
        """Collect with the world stopped: the objects at `dead` die, all others live. All or nothing."""
        self._busy_proc = proc
        array = addresses(dead)
        array = self._held = array[array != zero_base]
        try:
            self._settle()
            self.finish_mark()
            self._finish_sweep()
        finally:
            self._held = None
            self.arm()
        if self.liveness == "graph":
            self.heap.call(lib.pymem_check_dead, pointer("uint64_t", array), len(array))
        out, done = ffi.new("pymem_gc_result *"), ffi.new("uint64_t *")
        self._sync()
        heap0 = self.pacer.heap_live
        self.heap.call(lib.pymem_gc_collect, proc, pointer("uint64_t", array), len(array), done, out)
        self._stopped_cycle(heap0)
        return GCResult.told(out, self.stats.cycles[-1].compaction)

    def _stopped_cycle(self, heap0: int) -> None:
        """Account for a cycle that the core has run in one go: all Ps marked, the world stood."""
        pacer, procs = self.pacer, self.clock.procs
        cycle = CycleRecord(
            number=self.stats.num_gc + 1, forced=True, gomaxprocs=procs, start_ns=self.clock.now, heap0=heap0
        )
        pacer.heap_live = heap0
        self._start_pacer(TriggerKind.CYCLE, cycle)
        self._tell(GCPhase.SWEEP_TERMINATION, cycle)
        cycle.mark_ns = cycle.start_ns
        if self._tracer:
            self._tracer.mark_started(cycle)
        progress = RecordMark(self.heap, self.costs, self._globals).drain(1e18)
        self._count(progress)
        self._stop_world(self.costs.stop_ns + self.costs.term_ns + int(progress.ns / procs), cycle)
        self.limiter.finish_gc_transition(self.clock.now)
        self.limiter.start_gc_transition(False, self.clock.now)
        cycle.term_ns, cycle.heap1 = self.clock.now, heap0
        pacer.end_cycle(self.clock.now, procs)
        self._compact(cycle)
        self._enter(cycle)
        self._swept_all()
        self.arm()

    # ---- what is known of the heap ----

    def report(self) -> None:
        """Bring up to date what changes between cycles."""
        self._sync()
        self.stats.heap_scan = self.pacer.heap_scan

    def _sync(self) -> Any:
        """Have the pacer know what the heap has come to; return all that there is to know of it now."""
        see_heap(self.pacer, pace := self.heap.pace(), marking=self._mark is not None)
        self._all_swept, self._in_debt = pace.sweep_done, pace.in_debt
        return pace

    def _tell_goal(self) -> None:
        """MemStats shows the goal."""
        goal = min(self.pacer.heap_goal(), NEVER)
        self.heap.call(lib.pymem_set_goal, goal, NO_QUANTUM, self.pacer.heap_marked)

    def _tell(self, phase: GCPhase, cycle: CycleRecord | None, moves: Moves | None = None) -> None:
        if self.observers:
            number = cycle.number if cycle else self.stats.num_gc
            event = GCEvent(phase, number, self.clock.now, self.pacer.heap_live, moves)
            self.owner.telling = True
            try:
                for observer in self.observers:
                    self._show(observer, event)
            finally:
                self.owner.telling = False

    def _show(self, observer: Callable[[GCEvent], None], event: GCEvent) -> None:
        try:
            observer(event)
        except Exception as error:  # it comes when the step is over; who insists with Ctrl-C does not wait
            self.owner.raised = self.owner.raised or error
