"""Who has the processors while marking: background workers, the program, and what is left over.

Virtual time is one line. The program keeps `busy` of the Ps at work; a dedicated worker takes a P from it, a fractional
one a share of each P it has, and Ps that it leaves idle mark too. So in dt of time the collector gets
`workers * dt` of processor time and the program `speed * dt` of its own time: while it competes with workers for Ps it
goes slower, and everything it does takes longer by 1 / speed.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Share", "share_out"]


class Share(NamedTuple):
    """How the Ps are used in a stretch of marking, in Ps."""

    dedicated: int
    fractional: float
    idle: int
    """Ps on which idle workers mark."""
    unused: int
    """Ps with nothing to do at all."""
    speed: float
    """Nanoseconds of the program's own time in a nanosecond, 0 to 1; 0 if it does nothing."""

    @property
    def workers(self) -> float:
        """Ps' worth of marking."""
        return self.dedicated + self.fractional + self.idle


def share_out(procs: int, busy: int, *, dedicated: int, fractional: float, max_idle: int) -> Share:
    """Share `procs` Ps between the program (which could use `busy`) and the workers of a pacer.

    fractional: share of each P that has no dedicated worker and is the program's. Go: findRunnableGCWorker, startCycle.
    """
    dedicated = min(dedicated, procs)
    mutators = min(busy, procs - dedicated)
    left = procs - dedicated - mutators
    idle = max(0, min(left, max_idle))
    speed = mutators * (1 - fractional) / busy if busy else 0.0
    return Share(dedicated, fractional * mutators, idle, left - idle, speed)
