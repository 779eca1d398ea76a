"""What the collector keeps for those who report on it: plain numbers, written by the cycle, read by `stats` and others.

Times are ints of virtual ns since the process began. Processor time is in ns too: two Ps that wait for 1 ns cost 2 ns.
Names are those of Go's `memstats`, `work.cpuStats` and `gcController`, in snake case.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pymem.gc.histogram import TimeHistogram

if TYPE_CHECKING:
    from pymem.gc.compaction import Compaction
    from pymem.gc.protocol import Pacer

__all__ = ["PAUSES_KEPT", "CPUStats", "CycleRecord", "GCStats"]

PAUSES_KEPT = 256
"""Pauses that Go remembers: the length of MemStats.PauseNs and PauseEnd."""


@dataclass(slots=True, kw_only=True)
class CycleRecord:
    """One cycle, filled while it runs and left alone once it has ended. A field that is not reached yet is 0.

    Its trace lines are made from it: the pacer's first at mark start, its second and gctrace's at the end.
    """

    number: int = 0
    """From 1. Go: memstats.numgc when gctrace prints."""
    forced: bool = False
    gomaxprocs: int = 1
    stw_procs: int = 0
    """Ps billed for a pause in gctrace's line: gomaxprocs, at most the machine's processors. 0: as gomaxprocs."""

    # When. Each is the end of the phase before it.
    start_ns: int = 0
    """Sweep termination begins: the world stops. Go: work.tSweepTerm."""
    mark_ns: int = 0
    """Concurrent marking begins: the world runs again. Go: work.tMark."""
    term_ns: int = 0
    """Mark termination begins: the world stops. Go: work.tMarkTerm."""
    end_ns: int = 0
    """The world runs again. Go: work.tEnd."""
    pause_ns: int = 0
    """Both pauses together. Go: work.pauseNS."""

    # Bytes.
    heap0: int = 0
    """heapLive at start. Go: work.heap0, work.initialHeapLive."""
    heap1: int = 0
    """heapLive at mark termination. Go: work.heap1."""
    heap2: int = 0
    """Marked. Go: work.bytesMarked."""
    trigger: int = 0
    """heapLive at mark start. Go: gcController.triggered."""
    start_goal: int = 0
    """Goal at mark start."""
    goal: int = 0
    """Goal at mark termination. Go: gcController.lastHeapGoal."""
    heap_scan: int = 0
    """Heap that may hold pointers, at mark start. Go: gcController.heapScan."""
    heap_scan_work: int = 0
    """Scanned in this cycle, as the two that follow."""
    stack_scan_work: int = 0
    globals_scan_work: int = 0
    expected_scan_work: int = 0
    """By what the cycle before scanned: heap + stacks + globals. Go: lastHeapScan + lastStackScan + globalsScan."""
    stack_bytes: int = 0
    """Stacks scanned, as gctrace shows them. Go: gcController.lastStackScan."""
    globals_bytes: int = 0
    """Go: gcController.globalsScan."""

    # Processor time of marking, ns.
    assist_ns: int = 0
    dedicated_ns: int = 0
    fractional_ns: int = 0
    idle_ns: int = 0

    # The pacer.
    assist_ratio: float = 0.0
    """Bytes to scan for a byte allocated, at mark start. Go: assistWorkPerByte."""
    dedicated_workers: int = 0
    fractional_goal: float = 0.0
    """Share of each P that fractional workers aim at. Go: fractionalUtilizationGoal."""
    utilization: float = 0.0
    """Share of all Ps that marking took, idle time left out. Go: endCycle."""
    cons_mark: float = 0.0
    """Allocation to marking, bytes a CPU-ns each, as estimated *before* this cycle. Go: oldConsMark."""
    gc_cpu_fraction: float = 0.0
    """Since the process began, at the end of this cycle."""

    compaction: Compaction | None = None
    """What moving objects did, where the runtime was made with compaction. Go never does it."""

    def learn(self, pacer: Pacer, marked: int) -> None:
        """Take from the pacer what the mark came to. marked: bytes."""
        self.heap2, self.goal = marked, pacer.last_heap_goal
        self.heap_scan_work = pacer.heap_scan_work
        self.stack_scan_work = self.stack_bytes = pacer.stack_scan_work
        self.globals_scan_work = pacer.globals_scan_work
        self.globals_bytes = pacer.globals_scan
        self.assist_ns = pacer.assist_time
        self.dedicated_ns, self.fractional_ns = pacer.dedicated_mark_time, pacer.fractional_mark_time
        self.idle_ns = pacer.idle_mark_time
        self.utilization = getattr(pacer, "utilization", 0.0)  # of Go's, and of those that tell


@dataclass(slots=True)
class CPUStats:
    """Where processor time went since the process began, ns. Brought up to date at the end of a cycle, as in Go.

    The sums: gc_total = assist + dedicated + idle + pause; scavenge_total = assist + bg;
    total = gc_total + scavenge_total + idle + user. Go: cpuStats.
    """

    gc_assist: int = 0
    gc_dedicated: int = 0
    """Dedicated and fractional workers."""
    gc_idle: int = 0
    gc_pause: int = 0
    """World stopped, times Ps."""
    gc_total: int = 0
    scavenge_assist: int = 0
    scavenge_bg: int = 0
    scavenge_total: int = 0
    idle: int = 0
    """Ps without work."""
    user: int = 0
    """The rest."""
    total: int = 0
    """Time passed, times Ps."""

    def add_pause(self, ns: int, procs: int) -> None:
        """Bill a pause to all Ps. Go: (*cpuStats).accumulateGCPauseTime."""
        self.gc_pause += ns * procs
        self.gc_total += ns * procs

    def add_workers(self, cycle: CycleRecord) -> None:
        """Take in what a finished cycle's workers spent on marking. Go: (*cpuStats).accumulate."""
        dedicated = cycle.dedicated_ns + cycle.fractional_ns
        self.gc_dedicated += dedicated
        self.gc_idle += cycle.idle_ns
        self.gc_total += dedicated + cycle.idle_ns

    def add_rest(
        self, *, gc_assist: int, scavenge_assist: int, scavenge_bg: int, idle: int, total: int
    ) -> None:
        """Take in what assists, the scavenger and idle Ps took since the last time; total: since birth.

        The rest is the user's. Go: (*cpuStats).accumulate.
        """
        self.gc_assist += gc_assist
        self.gc_total += gc_assist
        self.scavenge_assist += scavenge_assist
        self.scavenge_bg += scavenge_bg
        self.scavenge_total += scavenge_assist + scavenge_bg
        self.idle += idle
        self.total = total
        self.user = total - (self.gc_total + self.scavenge_total + self.idle)

    @property
    def gc_fraction(self) -> float:
        """The collector's share of all processor time, idle marking left out. MemStats' GCCPUFraction."""
        return (self.gc_total - self.gc_idle) / self.total if self.total else 0.0


def _ring() -> list[int]:
    return [0] * PAUSES_KEPT


@dataclass(slots=True)
class GCStats:
    """All that the collector tells about itself. One a runtime; the cycle writes it."""

    start_unix_ns: int = 0
    """Time of the process's birth, ns since 1970: what turns virtual time into MemStats' dates."""

    num_gc: int = 0
    num_forced_gc: int = 0
    pause_total_ns: int = 0
    pause_ns: list[int] = field(default_factory=_ring)
    """Cycle n's pause stands at (n - 1) % 256. Go: memstats.pause_ns, as the next."""
    pause_end: list[int] = field(default_factory=_ring)
    """When that pause ended, ns since 1970."""
    last_gc_ns: int = 0
    """End of the last cycle in virtual time; 0 before the first. Go: memstats.last_gc_nanotime."""
    last_gc_unix_ns: int = 0
    """The same since 1970; 0 before the first. Go: memstats.last_gc_unix."""
    gc_cpu_fraction: float = 0.0
    cpu: CPUStats = field(default_factory=CPUStats)

    heap_marked: int = 0
    """Bytes marked by the last cycle. Go: gcController, as all down to limiter_last_enabled."""
    heap_scan: int = 0
    """Bytes of the heap that may hold pointers: scanned last, plus allocated since."""
    last_stack_scan: int = 0
    globals_scan: int = 0
    limiter_last_enabled: int = 0
    """Number of the cycle in which the CPU limiter was last on; 0: never. Go: gcCPULimiter.lastEnabledCycle."""

    stw_stopping_gc: TimeHistogram = field(default_factory=TimeHistogram)
    """From the wish to stop until all Ps stand still; two a cycle. The *other* are ReadMemStats, GOMAXPROCS ..."""
    stw_stopping_other: TimeHistogram = field(default_factory=TimeHistogram)
    stw_total_gc: TimeHistogram = field(default_factory=TimeHistogram)
    """From the wish to stop until the world runs again."""
    stw_total_other: TimeHistogram = field(default_factory=TimeHistogram)

    cycles: list[CycleRecord] = field(default_factory=list)
    """Finished ones, oldest first."""

    def unix_ns(self, ns: int) -> int:
        """Return a virtual time as ns since 1970."""
        return self.start_unix_ns + ns

    def finish(self, cycle: CycleRecord) -> None:
        """Enter a finished cycle (number, forced, end_ns, pause_ns, heap2, stacks and globals are read).

        Its processor time goes to `cpu` first, from which gc_cpu_fraction comes. Go: gcMarkTermination.
        """
        at = self.num_gc % PAUSES_KEPT
        self.pause_ns[at] = cycle.pause_ns
        self.pause_end[at] = self.last_gc_unix_ns = self.unix_ns(cycle.end_ns)
        self.pause_total_ns += cycle.pause_ns
        self.last_gc_ns = cycle.end_ns
        self.gc_cpu_fraction = cycle.gc_cpu_fraction = self.cpu.gc_fraction
        self.num_gc += 1
        self.num_forced_gc += cycle.forced
        self.heap_marked = cycle.heap2
        self.last_stack_scan = cycle.stack_bytes
        self.globals_scan = cycle.globals_bytes
        self.cycles.append(cycle)
