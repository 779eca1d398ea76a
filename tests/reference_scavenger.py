"""The page allocator and the scavenger, one page after the other: what `csrc/mgcscavenge.c` must agree with."""

from __future__ import annotations

from dataclasses import dataclass, field

CHUNK, WORD, HUGE = 512, 64, 256
PAGE = 8192
DENSE = 496  # of 512 pages: 31/32


@dataclass(slots=True)
class Cursor:
    """Search begins below `limit`; 0: nowhere. raised: since it was last lowered by a search."""

    limit: int = 0
    raised: bool = False


@dataclass(slots=True)
class ReferenceScavenger:
    """Pages as lists of bools. `at_start` has each chunk's pages in use when the generation began."""

    taken: list[bool] = field(default_factory=list)
    scavenged: list[bool] = field(default_factory=list)
    has_free: list[bool] = field(default_factory=list)
    at_start: list[int] = field(default_factory=list)
    background: Cursor = field(default_factory=Cursor)
    force: Cursor = field(default_factory=Cursor)
    freed_limit: int = 0

    def in_use(self, chunk: int) -> int:
        return sum(self.taken[chunk * CHUNK : (chunk + 1) * CHUNK])

    # ---- pages ----

    def alloc(self, npages: int) -> int:
        first = self._find(npages)
        while first is None:
            chunks = -(-npages // CHUNK)
            self.taken += [False] * (chunks * CHUNK)
            self.scavenged += [True] * (chunks * CHUNK)
            self.has_free += [False] * chunks
            self.at_start += [0] * chunks
            first = self._find(npages)
        for page in range(first, first + npages):
            self.taken[page], self.scavenged[page] = True, False
        for chunk in range(first // CHUNK, (first + npages - 1) // CHUNK + 1):
            if self.in_use(chunk) == CHUNK:
                self.has_free[chunk] = False
        return first

    def _find(self, npages: int) -> int | None:
        run = 0
        for page, taken in enumerate(self.taken):
            run = 0 if taken else run + 1
            if run == npages:
                return page + 1 - npages
        return None

    def free(self, first: int, npages: int) -> None:
        end = first + npages
        for page in range(first, end):
            self.taken[page] = False
            self.has_free[page // CHUNK] = True
        self.freed_limit = max(self.freed_limit, end)
        if self.force.limit < end:
            self.force = Cursor(end, True)

    def next_gen(self) -> None:
        self.at_start = [self.in_use(chunk) for chunk in range(len(self.has_free))]
        if self.background.limit < self.freed_limit:
            self.background = Cursor(self.freed_limit, True)
        self.freed_limit = 0

    # ---- scavenging ----

    def scavenge(self, size: int, force: bool) -> int:
        released = 0
        cursor = self.force if force else self.background
        while released < size and cursor.limit:
            chunk = self._highest(cursor, force)
            if chunk is None:
                if not cursor.raised:
                    cursor.limit = 0
                break
            if chunk != (cursor.limit - 1) // CHUNK:
                cursor.limit, cursor.raised = (chunk + 1) * CHUNK, False
            run = self._run(cursor.limit - 1, -(-(size - released) // PAGE))
            for page in run:
                self.scavenged[page] = True
            if not run:
                self.has_free[chunk] = False
            released += len(run) * PAGE
        return released

    def _highest(self, cursor: Cursor, force: bool) -> int | None:
        for chunk in range((cursor.limit - 1) // CHUNK, -1, -1):
            dense = max(self.in_use(chunk), self.at_start[chunk]) >= DENSE
            if self.has_free[chunk] and (force or not dense):
                return chunk
        return None

    def _run(self, top: int, wanted: int) -> range:
        """Return the highest run in top's chunk, from the end of top's word down."""
        bottom, page = top // CHUNK * CHUNK, top // WORD * WORD + WORD - 1
        while page >= bottom and not self._open(page):
            page -= 1
        if page < bottom:
            return range(0)
        lowest = page
        while lowest > bottom and self._open(lowest - 1):
            lowest -= 1
        start = max(lowest, page + 1 - wanted)
        huge = start // HUGE * HUGE
        cut = huge < start and huge + HUGE <= page + 1
        return range(huge if cut and huge >= lowest else start, page + 1)

    def _open(self, page: int) -> bool:
        return not self.taken[page] and not self.scavenged[page]
