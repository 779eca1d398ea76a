"""The mark in plain Python: what is reached, what that comes to, and in which order Go would scan it on one P."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field

from core import PAGE, Core

OBLET = 128 << 10
_RING, _WORK_BUF, _SPILL_PERIOD, _SPILL_MAX = 256, 253, 64, 16
_CHAIN_FIRST, _CHAIN_LAST = 1024, 1 << 17


@dataclass(frozen=True)
class Slot:
    """An object's slot."""

    addr: int
    size: int
    start: int
    """bytes in front of the object"""
    span_base: int
    slots: int
    noscan: bool
    large: bool
    pointers: tuple[int, ...]
    """offsets in the slot, ascending"""

    @property
    def by_page(self) -> bool:
        """Whether it waits with others of its page."""
        return not self.large and 16 <= self.size <= 512

    @property
    def length(self) -> int:
        """Bytes up to the end of the last pointer."""
        return self.pointers[-1] + 8 if self.pointers else 0


@dataclass
class Queue:
    """Pages in the order in which they are scanned: a ring for the newest, a chain of segments for the rest."""

    ring: deque[int] = field(default_factory=deque)
    segments: list[tuple[int, deque[int]]] = field(default_factory=list)
    puts: int = 0

    def put(self, page: int) -> None:
        full = len(self.ring) == _RING
        if full:
            self._spill(_RING // 2)
        self.ring.append(page)
        if full:
            return
        self.puts += 1
        if self.puts >= _SPILL_PERIOD:
            self.puts = 0
            n = min(len(self.ring) // 2, _SPILL_MAX)
            if n > 4 and not any(pages for _, pages in self.segments):
                self._spill(n)

    def _spill(self, n: int) -> None:
        self.puts = 0
        if not self.segments:
            self.segments.append((_CHAIN_FIRST, deque()))
        cap, pages = self.segments[-1]
        if len(pages) + n > cap:
            self.segments.append((min(2 * cap, _CHAIN_LAST), deque()))
            pages = self.segments[-1][1]
        pages.extend(self.ring.popleft() for _ in range(n))

    def refill(self) -> bool:
        while self.segments:
            pages = self.segments[0][1]
            n = min(len(pages) - len(pages) // 2, _RING // 2)
            if n:
                self.ring.extend(pages.popleft() for _ in range(n))
                return True
            if len(self.segments) == 1:
                return False
            del self.segments[0]
        return False


class Marker:
    """Follows everything from the given addresses; nothing runs meanwhile."""

    def __init__(self, core: Core, slots: list[Slot], *, packed: bool) -> None:
        self._core, self._packed = core, packed
        self._at: dict[int, Slot] = {}
        self._pages: dict[int, Slot] = {}
        for slot in slots:
            self._at[slot.addr] = slot
            span_bytes = slot.size if slot.large else PAGE
            for page in range(slot.span_base // PAGE, (slot.span_base + span_bytes) // PAGE):
                self._pages[page] = slot
        self._starts = sorted(self._at)
        self.marked: set[int] = set()
        self.work = 0
        self._grey: dict[int, list[Slot]] = {}
        self._queue = Queue()
        self._bufs: list[list[int]] = [[], []]
        self._full: list[list[int]] = []

    def run(self, roots: list[int]) -> None:
        for addr in roots:
            self._shade(addr)
        while True:
            self._balance()
            if self._bufs[0]:
                self._scan_object(self._bufs[0].pop())
            elif self._queue.ring:
                self._scan_page(self._queue.ring.popleft())
            elif (other := self._get()) is not None:
                self._scan_object(other)
            elif not self._queue.refill():
                return
            else:
                self._scan_page(self._queue.ring.popleft())

    @property
    def bytes(self) -> int:
        return sum(self._at[addr].size for addr in self.marked)

    def _find(self, addr: int) -> Slot | None:
        k = bisect_right(self._starts, addr) - 1
        if k < 0:
            return None
        slot = self._at[self._starts[k]]
        return slot if addr < slot.addr + slot.size else None

    def _shade(self, addr: int) -> None:
        slot = self._find(addr)
        if not addr or slot is None or slot.addr in self.marked:
            return
        self.marked.add(slot.addr)
        if slot.noscan:
            return
        if not slot.by_page:
            self._put(slot.addr)
            return
        waiting = self._grey.setdefault(slot.span_base, [])
        waiting.append(slot)
        if len(waiting) == 1:
            self._queue.put(slot.span_base)

    def _words(self, slot: Slot, offsets: list[int]) -> list[int]:
        view = self._core.memory(slot.addr + slot.start, slot.size - slot.start)
        return [int.from_bytes(view[o - slot.start : o - slot.start + 8], "little") for o in offsets]

    def _scan_page(self, base: int) -> None:
        slots = sorted(self._grey.pop(base), key=lambda s: s.addr)
        if self._packed and len(slots) > 1 and len(slots) >= slots[0].slots // 8:
            self.work += len(slots) * slots[0].size
        else:
            self.work += sum(slot.length for slot in slots)
        for pointer in [p for slot in slots for p in self._words(slot, list(slot.pointers))]:
            self._shade(pointer)

    def _scan_object(self, addr: int) -> None:
        slot = self._find(addr)
        assert slot is not None
        first, end = addr - slot.addr, slot.size
        if slot.large:
            end = min(end, first + OBLET)
            if first == 0:
                for oblet in range(OBLET, slot.size, OBLET):
                    self._put(slot.addr + oblet)
        offsets = [o for o in slot.pointers if first <= o < end]
        self.work += offsets[-1] + 8 - first if offsets else 0
        for pointer in self._words(slot, offsets):
            self._shade(pointer)

    def _put(self, addr: int) -> None:
        if len(self._bufs[0]) == _WORK_BUF:
            self._bufs.reverse()
        if len(self._bufs[0]) == _WORK_BUF:
            self._full.append(self._bufs[0])
            self._bufs[0] = []
        self._bufs[0].append(addr)

    def _get(self) -> int | None:
        if not self._bufs[0]:
            self._bufs.reverse()
        if not self._bufs[0]:
            if not self._full:
                return None
            self._bufs[0] = self._full.pop()
        return self._bufs[0].pop()

    def _balance(self) -> None:
        if self._full:
            return
        if self._bufs[1]:
            self._full.append(self._bufs[1])
            self._bufs[1] = []
        elif len(self._bufs[0]) > 4:
            half = len(self._bufs[0]) - len(self._bufs[0]) // 2
            self._full.append(self._bufs[0][:half])
            self._bufs[0] = self._bufs[0][half:]
