"""Who has the processors while marking: background workers, the program, and what is left over.

Virtual time is one line. The program keeps `busy` of the Ps at work; a dedicated worker takes a P from it, a fractional
one a share of each P it has, and Ps that it leaves idle mark too. So in dt of time the collector gets
`workers * dt` of processor time and the program `speed * dt` of its own time: while it competes with workers for Ps it
goes slower, and everything it does takes longer by 1 / speed.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

__all__ = ["TIME_SLICE", "Share", "Turns", "share_out"]

TIME_SLICE = 10_000_000
"""Nanoseconds that a goroutine keeps its P at least, if others want it, and between two looks of the runtime at who
has which P. Go: forcePreemptNS, sysmon."""
_FRACTIONAL_SLACK = 1.2
"""How far a fractional worker goes beyond its share of the time, so that it is not behind again at once."""
_FOREVER = 1e18


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


@cache  # asked at each stop; a program has few different answers
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


class Turns:
    """Who has the program's Ps while there is a fractional worker: they cannot both.

    The worker waits until the goroutine on its P gives way, and then keeps the P until it is 20 % ahead of its share of
    all time since marking began. Go: findRunnableGCWorker, pollFractionalWorkerExit.

    Goroutines are made to give way by a thread that looks at the Ps every 10 ms: at its first look it takes down who
    has a P, and at the next, if that one still has it, has it stopped. So a slice takes 10 to 20 ms, and 20 where a
    goroutine follows itself. Only in a young process does the thread look so often that slices take 10. Go: sysmon,
    retake.
    """

    __slots__ = ("_slice_end", "_worker_runs", "first_ns", "gives_way_ns", "phase_ns")

    def __init__(self) -> None:
        self.gives_way_ns = _FOREVER
        """Nanoseconds after which a goroutine of the program gives its P away by itself, on average."""
        self.phase_ns = 0
        """Nanoseconds from the process's birth back to a look of the runtime at its Ps, less than 20 ms."""
        self.first_ns = 0.0
        """What a fractional worker does at least once it has a P, ns: the first block of globals."""
        self._worker_runs = False
        self._slice_end = 0.0  # when the goroutine that has the Ps gives way

    def begin(self, now: int) -> None:
        """Begin to mark."""
        period = min(self.gives_way_ns, 2 * TIME_SLICE if now >= TIME_SLICE else TIME_SLICE)
        at = now + self.phase_ns
        self._worker_runs, self._slice_end = False, (at // period + 1) * period - self.phase_ns

    def _gives_way(self, started: int) -> float:
        """Return when a goroutine that has had its P since `started` gives it away."""
        at = started + self.phase_ns
        return min(started + self.gives_way_ns, (at // TIME_SLICE + 2) * TIME_SLICE - self.phase_ns)

    def turn(
        self, share: Share, now: int, *, goal: float, passed: int, waited: int, worked: int
    ) -> tuple[Share, float]:
        """Return how the Ps are used now, and for how long at most, ns.

        share: how they would be on average; goal: the worker's share of a P; passed: ns since marking began; waited:
        those of them before the first worker began; worked: those that fractional workers had, of all Ps.

        A P with nothing to do has a fractional worker first, and an idle one when that is ahead of its share.
        """
        if not share.fractional:
            return share, _FOREVER
        first = self._first(goal, waited)
        if share.idle and passed - waited < first:
            also, left = self.turn(
                share._replace(idle=0), now, goal=goal, passed=passed, waited=waited, worked=worked
            )
            return also._replace(fractional=also.fractional + share.idle), min(left, first - passed + waited)
        return self._by_turns(share, now, goal=goal, passed=passed, worked=worked - int(first * share.idle))

    def _first(self, goal: float, waited: int) -> float:
        """Return how long a fractional worker keeps an idle P, ns: what it does at least, and until it is ahead."""
        ahead = _FRACTIONAL_SLACK * goal
        return max(self.first_ns, waited * ahead / (1 - ahead))

    def _by_turns(
        self, share: Share, now: int, *, goal: float, passed: int, worked: int
    ) -> tuple[Share, float]:
        """Return who has the program's Ps now: the program, or fractional workers."""
        mutators = share.fractional / goal
        if not self._worker_runs and now >= self._slice_end:
            self._worker_runs = True
        if self._worker_runs:
            # It stops where worked / mutators + turn = ahead x (passed + turn).
            ahead = _FRACTIONAL_SLACK * goal
            turn = (ahead * passed - worked / mutators) / (1 - ahead)
            if turn >= 1:
                return Share(share.dedicated, mutators, share.idle, share.unused, 0.0), turn
            self._worker_runs, self._slice_end = False, self._gives_way(now)
        speed = share.speed / (1 - goal)
        return Share(share.dedicated, 0.0, share.idle, share.unused, speed), max(self._slice_end - now, 1)
