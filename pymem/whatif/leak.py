"""When a heap that grows for ever gets into trouble under a limit.

With L the limit, N the memory that is no heap of objects (stacks, spans' holes, the runtime's own), M the live heap and
r the rate at which it grows, the collector's goal is L - N - headroom, headroom being 3 % of that and at least 1 MiB.
Once M has come to the goal, each collection is followed by the next: the death spiral, in which the limiter lets the
collector have half of the processor time. M + N reaches the limit itself after

    t = (L - N - M) / r

and the spiral begins where L - N - headroom takes the place of L - N. Go: memoryLimitHeapGoal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pymem.units import NO_LIMIT

if TYPE_CHECKING:
    from pymem.whatif.row import Row

__all__ = ["Leak", "leak"]

_HEADROOM, _LEAST = 0.03, 1 << 20


class Leak(NamedTuple):
    """Hours from where the recording ends; 0: at once."""

    spiral: float
    """Until the collector works all the time."""
    passed: float
    """Until the limit is passed."""


def leak(row: Row, bytes_per_hour: float) -> Leak | None:
    """Return when a program that keeps so many bytes more each hour gets into trouble; None without a limit or a leak.

    What it keeps at the start is what its last collection marks.
    """
    if row.memory_limit >= NO_LIMIT or bytes_per_hour <= 0:
        return None
    live = row.live_heap.value
    other = max(row.peak_footprint.value - row.peak_heap.value, 0.0)
    room = row.memory_limit - other
    goal = room - max(_HEADROOM * room, _LEAST)
    return Leak(max(goal - live, 0.0) / bytes_per_hour, max(room - live, 0.0) / bytes_per_hour)
