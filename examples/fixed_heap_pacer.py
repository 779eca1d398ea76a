"""A pacer of one's own, the shortest: the heap has a fixed size, as a JVM's with -Xms equal to -Xmx.

GOGC lets the heap follow what is live, so that a service needs twice its live heap at its worst moment only. A fixed
heap costs its full size always; in return a small live heap is hardly ever collected.

Run it: ``python examples/fixed_heap_pacer.py``. To use it: ``Runtime(pacer=FixedHeapPacer(64 << 20))``.
"""

from __future__ import annotations

from pymem.gc.controller import Controller
from pymem.gc.pacer import GoPacer

LEAST_ROOM = 1 << 20
"""Bytes to allocate between two cycles where the live heap fills the heap, or exceeds it."""


class FixedHeapPacer(Controller):
    """Start when a share of the free room is used up, end when the heap is full.

    Args:
        size: bytes of the heap.
        start: share of the room beyond the live heap, 0 to 1, at which a cycle starts.

    """

    __slots__ = ("size", "start")

    def __init__(self, size: int, start: float = 0.9) -> None:
        super().__init__()
        self.size = size
        self.start = start

    def trigger(self) -> tuple[int, int]:
        """Return trigger and goal, in bytes of heap_live."""
        room = max(self.size - self.heap_marked, LEAST_ROOM)
        return self.heap_marked + int(room * self.start), self.heap_marked + room


def main() -> None:
    """Show where cycles start and end by live heap, beside Go's."""
    print("live MB    fixed: trigger, goal    GOGC=100: trigger, goal")
    for live in (1, 4, 16, 32, 60, 80):
        rows = []
        for pacer in (FixedHeapPacer(64 << 20), GoPacer()):
            pacer.reset_live(live << 20)
            pacer.commit(True)
            rows.append("{:6.1f} {:6.1f}".format(*(size / (1 << 20) for size in pacer.trigger())))
        print(f"{live:7}    {rows[0]:>20}    {rows[1]:>23}")


if __name__ == "__main__":
    main()
