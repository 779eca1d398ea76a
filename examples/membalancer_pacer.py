"""A pacer of one's own that learns: MemBalancer's square-root rule, which shares memory well among several heaps.

After Marisa Kirisame, Pranav Shenoy and Pavel Panchekha, "Optimal Heap Limits for Reducing Browser Memory Use", OOPSLA
2022. A heap with L bytes live, E bytes of room beyond it, allocating g bytes a second and marking s bytes a second
spends g / E * L / s of each second in collections. A byte more of room saves L * g / (s * E**2). Memory is well shared
when that saving is the same everywhere, say c:

    E = sqrt(L * g / (c * s))

GOGC makes E proportional to L instead, which gives large heaps more than their worth, and busy ones less.

Run it: ``python examples/membalancer_pacer.py``. To use it: ``Runtime(pacer=MemBalancerPacer(1e-9))``.
"""

from __future__ import annotations

import math

from pymem.gc.controller import DEFAULT_HEAP_MINIMUM, Controller

LEAST_ROOM = 1 << 20
"""Bytes of room, however little the rule gives."""
SMOOTHING = 0.5
"""Weight of the newest measurement. The paper smooths, too."""


class MemBalancerPacer(Controller):
    """Give the heap the room that its allocation is worth, and start in time to be done when it is used up.

    Args:
        c: share of time in collections that a byte of memory is worth, a byte. Smaller means more memory.

    """

    __slots__ = ("allocation", "c", "ended", "marking")

    def __init__(self, c: float) -> None:
        super().__init__()
        self.c = c
        self.allocation = self.marking = 0.0
        """g and s, in bytes a nanosecond; only their quotient matters."""
        self.ended = 0

    def end_cycle(self, now: int, procs: int) -> None:
        """Measure g since the last cycle ended, and s."""
        super().end_cycle(now, procs)
        g = (self.heap_live - self.heap_marked) / max(now - self.ended, 1)
        s = max(self.scan_work(), 1) / max(now - self.mark_start_time, 1)
        weight = SMOOTHING if self.ended else 1.0
        self.allocation += weight * (g - self.allocation)
        self.marking += weight * (s - self.marking)
        self.ended = now

    def trigger(self) -> tuple[int, int]:
        """Return trigger and goal, in bytes of heap_live."""
        if not self.ended:
            return DEFAULT_HEAP_MINIMUM - LEAST_ROOM // 2, DEFAULT_HEAP_MINIMUM
        while_marking = self.heap_marked * self.allocation / self.marking
        room = max(int(math.sqrt(while_marking / self.c)), LEAST_ROOM)
        return self.heap_marked + room - min(int(while_marking), room // 2), self.heap_marked + room


def main() -> None:
    """Show the room that a heap gets, by its size and by how fast it allocates."""
    print("live MB    room in MB at 1, 4, 16, 64 bytes allocated for 1,000 scanned")
    for live in (1, 4, 16, 64, 256):
        pacer = MemBalancerPacer(1e-9)
        pacer.reset_live(live << 20)
        pacer.ended, pacer.marking = 1, 1000.0
        print(f"{live:7}    ", end="")
        for allocated in (1, 4, 16, 64):
            pacer.allocation = float(allocated)
            print(f"{(pacer.trigger()[1] - pacer.heap_marked) / (1 << 20):8.1f}", end="")
        print()


if __name__ == "__main__":
    main()
