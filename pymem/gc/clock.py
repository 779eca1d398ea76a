"""The virtual clock's bookkeeping: time passed, and which Ps' time it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pymem.gc.state import CPUStats, CycleRecord

__all__ = ["Clock"]


class Clock:
    """Nanoseconds since the process began, and the processor time that was idle in them.

    Time is cut into whole nanoseconds; what a stretch leaves over counts in the next one, so that a thousand short
    stretches are as long as one that is a thousand times as long.

    What assists and scavenging take is known before that time has passed: a cycle that ends meanwhile bills what has,
    and the next one the rest.
    """

    __slots__ = ("_background", "_eager", "_idle", "_marking", "_rest", "now", "procs", "total")

    def __init__(self, procs: int) -> None:
        self.now = 0
        self.procs = procs
        self.total = 0  # processor time in all: it outlives a change of procs
        self._rest = 0.0
        self._idle = 0.0
        # Processor time not yet billed: of the background's scavenging, of allocations' scavenging and marking.
        self._background = self._eager = self._marking = 0

    def pass_time(self, ns: float, *, unused: float) -> int:
        """Let ns pass, in which `unused` Ps have nothing to do; return the whole nanoseconds that passed."""
        exact = ns + self._rest
        whole = int(exact)
        self._rest = exact - whole
        self.now += whole
        self.total += whole * self.procs
        self._idle += whole * unused
        return whole

    def report(self, cpu: CPUStats, cycle: CycleRecord, *, scavenge_assist: int, scavenge_bg: int) -> None:
        """Hand over what has come up since the last report, by a cycle that ends. Go: (*cpuStats).accumulate.

        The background scavenges on a P that is idle, if there is one; all else is in the program's stead.
        """
        cpu.add_workers(cycle)
        idle = int(self._idle)
        self._idle -= idle
        self._background += scavenge_bg
        self._eager += scavenge_assist
        self._marking += cycle.assist_ns
        program = self.total - (cpu.gc_total + cpu.scavenge_total + cpu.idle + cpu.user) - idle
        background = min(self._background, idle + program)
        on_idle = min(background, idle)
        program -= background - on_idle
        marking = min(self._marking, program)
        eager = min(self._eager, program - marking)
        self._background -= background
        self._marking -= marking
        self._eager -= eager
        cpu.add_rest(
            gc_assist=marking,
            scavenge_assist=eager,
            scavenge_bg=background,
            idle=idle - on_idle,
            total=self.total,
        )
