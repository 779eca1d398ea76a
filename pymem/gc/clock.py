"""The virtual clock's bookkeeping: time passed, and which Ps' time it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pymem.gc.state import CPUStats

__all__ = ["Clock"]


class Clock:
    """Nanoseconds since the process began, and the processor time that was idle in them.

    Time is cut into whole nanoseconds; what a stretch leaves over counts in the next one, so that a thousand short
    stretches are as long as one that is a thousand times as long.
    """

    __slots__ = ("_idle", "_rest", "now", "procs", "total")

    def __init__(self, procs: int) -> None:
        self.now = 0
        self.procs = procs
        self.total = 0  # processor time in all: it outlives a change of procs
        self._rest = 0.0
        self._idle = 0.0

    def pass_time(self, ns: float, *, unused: float) -> int:
        """Let ns pass, in which `unused` Ps have nothing to do; return the whole nanoseconds that passed."""
        exact = ns + self._rest
        whole = int(exact)
        self._rest = exact - whole
        self.now += whole
        self.total += whole * self.procs
        self._idle += whole * unused
        return whole

    def report(self, cpu: CPUStats, *, scavenge_assist: int, scavenge_bg: int) -> None:
        """Hand over what has come up since the last report. Go: (*cpuStats).accumulate."""
        idle = int(self._idle)
        cpu.add_rest(scavenge_assist=scavenge_assist, scavenge_bg=scavenge_bg, idle=idle, total=self.total)
        self._idle -= idle
