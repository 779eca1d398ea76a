"""Go's heap in plain Python, slow and short: one rule after the other.

Sets and lists stand where the core has bitmaps and trees. Of the core it uses the table of size classes, which has a
test of its own.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import pymem

PAGE = 8192
GROW = 512  # pages: the heap grows by 4 MB
ARENA = 8192  # pages: 64 MB of address space are reserved at a time
NO_PROC = -1
STACK_SPAN = 32 << 10  # bytes of a pool's span, and of what a processor keeps of one size
TINY_CLASS = 2 << 1 | 1
MSPAN, MCACHE = 160, 2296  # bytes of Go's structs
NEW, SWEPT, UNSWEPT, CACHED, STALE, FREED = "new", "swept", "unswept", "cached", "stale", "freed"

CLASS_SIZE = [int(size) for size in pymem.size_classes()["size"]]
CLASS_PAGES = [int(pages) for pages in pymem.size_classes()["pages"]]


def class_of(size: int) -> int:
    return next(c for c, room in enumerate(CLASS_SIZE) if c and room >= size)


def slots_of(size_class: int, noscan: bool) -> int:
    """A span's end holds the mark bits of slots from 16 to 512 bytes, and the pointer bits of those to 512."""
    size, room = CLASS_SIZE[size_class], CLASS_PAGES[size_class] * PAGE
    reserve = 128 if 16 <= size <= 512 else 0
    if not noscan and size <= 512:
        reserve += room // 64
    return (room - reserve) // size


@dataclass(eq=False)
class Span:
    base: int
    npages: int
    kind: str = "heap"
    span_class: int = 0
    size: int = 0
    slots: int = 0
    state: str = NEW
    taken: set[int] = field(default_factory=set)
    marked: set[int] = field(default_factory=set)
    dead: set[int] = field(default_factory=set)  # declared dead since the last mark
    tiny: dict[int, set[int]] = field(default_factory=dict)  # slot -> offsets of living tiny objects
    found_live: bool = False  # something in it was marked last time: the reclaimer passes it by
    uncounted: int = 0  # allocations that the statistics have not seen
    cursor: int = 0  # no slot below is free
    free_stacks: list[int] = field(default_factory=list)

    def next_free(self) -> int | None:
        while self.cursor in self.taken:
            self.cursor += 1
        return self.cursor if self.cursor < self.slots else None

    @property
    def full(self) -> bool:
        return len(self.taken) == self.slots


@dataclass(eq=False)
class Proc:
    has_p: bool = True
    cache: dict[int, Span] | None = field(default_factory=dict)
    fresh_at: int = 0  # cycle of the last flush
    tiny: tuple[Span, int] | None = None
    tiny_used: int = 0
    tiny_shared: int = 0
    pages: list[int] = field(default_factory=list)  # free pages of its block
    stacks: dict[int, list[int]] = field(default_factory=dict)
    mspans: int = 0


@dataclass(eq=False)
class Central:
    partial: deque[Span] = field(default_factory=deque)
    full: deque[Span] = field(default_factory=deque)

    def push(self, s: Span) -> None:
        (self.full if s.full else self.partial).append(s)


class ReferenceHeap:
    def __init__(self, *, base: int, padding_pages: int = 0) -> None:
        self.base, self.padding = base, padding_pages
        self.used = bytearray()  # by page: 1 taken
        self.scavenged = bytearray()
        self.reserved = 0  # pages, whole arenas
        self.spans: dict[int, Span] = {}  # by base
        self.span_at: dict[int, Span] = {}  # by page
        self.swept = [Central() for _ in range(136)]
        self.unswept = [Central() for _ in range(136)]
        self.no_p = Proc(has_p=False)
        self.procs: dict[int, Proc] = {}
        self.mcaches = 1
        self.cycle = 0
        self.marking = False
        self.sweep_done = True
        self.sweep_class = 0
        self.pages_in_use = self.pages_swept = 0
        self.pages_per_byte, self.swept_basis, self.live_basis = 0.0, 0, 0
        self.reclaim_page = self.reclaim_end = self.reclaim_credit = 0
        self.stack_pool: dict[int, list[Span]] = {
            2048 << k: [] for k in range(4)
        }  # the first has the next stack
        self.large_stacks: dict[int, list[Span]] = {}
        self.objects: dict[int, tuple[Span, int, int]] = {}  # living: address -> span, slot, type
        self.inuse = dict.fromkeys(("heap", "stack", "workbuf", "other"), 0)  # bytes
        self.released = self.idle_mapped = 0
        self.mallocs, self.frees = [0] * 68, [0] * 68
        self.large_bytes = self.large_freed_bytes = 0
        self.tiny_allocs = 0
        self.heap_live = self.heap_marked = 0
        self.mspans, self.mspans_peak = 0, 0
        self.num_gc = self.num_forced = 0

    # ---- pages: lowest free run of n; 64 in stock with each processor for requests below 16 ----

    def _grow(self, npages: int) -> None:
        ask = -(-npages // GROW) * GROW
        first = not self.used
        skipped = self.padding // GROW * GROW if first else 0
        end = len(self.used) + skipped + ask
        if end > self.reserved:
            self.reserved = max(end, self.reserved + -(-ask // ARENA) * ARENA)
            self.reserved = -(-self.reserved // ARENA) * ARENA
        self.used += bytes([1]) * skipped + bytes(ask)
        self.scavenged += bytes(skipped) + bytes([1]) * ask
        if first:
            self.used[: self.padding] = bytes([1]) * self.padding
        self.released += ask * PAGE

    def _find(self, npages: int) -> int:
        while (page := self.used.find(bytes(npages))) < 0:
            self._grow(npages)
        return page

    def _stock(self, p: Proc) -> None:
        page = self.used.find(0)
        if page >= 0:
            block = range(page & ~63, (page & ~63) + 64)
            p.pages = [i for i in block if not self.used[i]]
            for i in p.pages:
                self.used[i] = 1

    @staticmethod
    def _from_stock(p: Proc, npages: int) -> int | None:
        for page in p.pages:
            run = range(page, page + npages)
            if all(i in p.pages for i in run):
                p.pages = [i for i in p.pages if i not in run]
                return page
        return None

    def _take_pages(self, p: Proc, npages: int) -> int:
        page = None
        if p.has_p and npages < 16:
            if not p.pages:
                self._stock(p)
            page = self._from_stock(p, npages)
        if page is None:
            page = self._find(npages)
            self.used[page : page + npages] = bytes([1]) * npages
        return page

    def _new_span(self, p: Proc, npages: int, kind: str) -> Span:
        page = self._take_pages(p, npages)
        s = Span(self.base + page * PAGE, npages, kind)
        fresh = sum(self.scavenged[page : page + npages])
        self.scavenged[page : page + npages] = bytes(npages)
        self.released -= fresh * PAGE
        self.idle_mapped -= (npages - fresh) * PAGE
        self.inuse[kind] += npages * PAGE
        self.spans[s.base] = s
        self.span_at.update(dict.fromkeys(range(page, page + npages), s))
        self._take_mspan(p)
        return s

    def _free_span(self, p: Proc, s: Span) -> None:
        page = (s.base - self.base) // PAGE
        self.used[page : page + s.npages] = bytes(s.npages)
        self.idle_mapped += s.npages * PAGE
        self.inuse[s.kind] -= s.npages * PAGE
        if s.kind == "heap":
            self.pages_in_use -= s.npages
        s.state = FREED
        del self.spans[s.base]
        for i in range(page, page + s.npages):
            del self.span_at[i]
        self._give_mspan(p)

    def _take_mspan(self, p: Proc) -> None:
        if not p.has_p:
            self.mspans += 1
        elif p.mspans:
            p.mspans -= 1
        else:
            self.mspans += 64
            p.mspans = 63
        self.mspans_peak = max(self.mspans_peak, self.mspans)

    def _give_mspan(self, p: Proc) -> None:
        if p.has_p and p.mspans < 128:
            p.mspans += 1
        else:
            self.mspans -= 1

    def scavenge_all(self) -> int:
        """All free pages that no processor has in stock go to the system. See `reference_scavenger` for fewer."""
        pages = [
            i for i, (used, scav) in enumerate(zip(self.used, self.scavenged, strict=True)) if not used | scav
        ]
        for page in pages:
            self.scavenged[page] = 1
        self.released += len(pages) * PAGE
        self.idle_mapped -= len(pages) * PAGE
        return len(pages) * PAGE

    # ---- processors ----

    def _proc(self, proc: int) -> Proc:
        return self.no_p if proc == NO_PROC else self.procs[proc]

    def _all_procs(self) -> list[Proc]:
        return [self.procs[number] for number in sorted(self.procs)]

    def _fresh(self, proc: int) -> Proc:
        """Whoever allocates on a processor after the cycle turned flushes it first."""
        p = self._proc(proc)
        if p.fresh_at != self.cycle:
            self._flush(p, p)
        return p

    def proc_new(self) -> int:
        new = Proc(fresh_at=self.cycle)
        if self.no_p.cache is not None:  # the first one takes over what the start of the process used
            boot = self.no_p
            new.cache, new.fresh_at = boot.cache, boot.fresh_at
            new.tiny, new.tiny_used, new.tiny_shared = boot.tiny, boot.tiny_used, boot.tiny_shared
            self.no_p = Proc(has_p=False, cache=None)
        else:
            self.mcaches += 1
        number = next(i for i in range(len(self.procs) + 1) if i not in self.procs)
        self.procs[number] = new
        return number

    def proc_destroy(self, proc: int) -> None:
        gone = self.procs.pop(proc)
        runner = self.procs[min(self.procs)] if self.procs else self.no_p
        self._release(runner, gone)
        self.mspans -= gone.mspans
        self._return_stock(gone)
        self._return_stacks(runner, gone)
        self.mcaches -= 1

    def _return_stock(self, p: Proc) -> None:
        for page in p.pages:
            self.used[page] = 0
        p.pages = []

    def page_cache_flush(self, proc: int) -> None:
        self._return_stock(self._proc(proc))

    def flush(self, proc: int) -> None:
        p = self._proc(proc)
        if p.cache is not None:
            self._flush(p, p)

    def _flush(self, p: Proc, owner: Proc) -> None:
        self._release(p, owner)
        self._return_stacks(p, owner)
        owner.fresh_at = self.cycle

    def _release(self, p: Proc, owner: Proc) -> None:
        assert owner.cache is not None
        for span_class in sorted(owner.cache):
            s = owner.cache.pop(span_class)
            if s.state != STALE:
                self.heap_live -= (s.slots - len(s.taken)) * s.size
            self._uncache(p, s)
        owner.tiny, owner.tiny_used = None, 0
        self._count_tiny(owner)

    def _uncache(self, p: Proc, s: Span) -> None:
        self.mallocs[s.span_class >> 1] += s.uncounted
        s.uncounted = 0
        if s.state == STALE:
            self._sweep(p, s)
        else:
            s.state = SWEPT
            self.swept[s.span_class].push(s)

    def _count_tiny(self, owner: Proc) -> None:
        self.tiny_allocs += owner.tiny_shared
        owner.tiny_shared = 0

    # ---- objects ----

    def malloc(self, proc: int, size: int, noscan: bool = False, type_: int = 0) -> int:
        p = self._fresh(proc)
        if size > 32760:
            s = self._large(p, size, noscan)
            return self._born(s, 0, s.base, type_)
        if noscan and size < 16:
            return self._tiny(p, size, type_)
        header = 8 if not noscan and size > 512 else 0
        s, slot = self._slot(p, class_of(size + header) << 1 | noscan)
        return self._born(s, slot, s.base + slot * s.size + header, type_)

    def malloc_same(self, proc: int, size: int, noscan: bool, type_: int, n: int) -> list[int]:
        return [self.malloc(proc, size, noscan, type_) for _ in range(n)]

    def malloc_each(self, proc: int, sizes: list[int], noscan: list[bool], types: list[int]) -> list[int]:
        return [self.malloc(proc, *row) for row in zip(sizes, noscan, types, strict=True)]

    def _born(self, s: Span, slot: int, addr: int, type_: int) -> int:
        self.objects[addr] = s, slot, type_
        return addr

    def _tiny(self, p: Proc, size: int, type_: int) -> int:
        align = 8 if size % 8 == 0 else 4 if size % 4 == 0 else 2 if size % 2 == 0 else 1
        offset = -(-p.tiny_used // align) * align
        if p.tiny and offset + size <= 16:
            s, slot = p.tiny
            s.dead.discard(slot)  # it may have died with its last object
            p.tiny_used = offset + size
            p.tiny_shared += 1
        else:
            s, slot = self._slot(p, TINY_CLASS)
            offset = 0
            if size < p.tiny_used or not p.tiny:
                p.tiny, p.tiny_used = (s, slot), size
        s.tiny.setdefault(slot, set()).add(offset)
        return self._born(s, slot, s.base + slot * 16 + offset, type_)

    def _slot(self, p: Proc, span_class: int) -> tuple[Span, int]:
        assert p.cache is not None
        s = p.cache.get(span_class)
        slot = s.next_free() if s else None
        if s is None or slot is None:
            s = self._refill(p, span_class)
            slot = s.next_free()
        assert slot is not None
        s.taken.add(slot)
        s.uncounted += 1
        return s, slot

    def _refill(self, p: Proc, span_class: int) -> Span:
        assert p.cache is not None
        old = p.cache.pop(span_class, None)
        if old is not None:
            self._uncache(p, old)
            if span_class == TINY_CLASS:
                self._count_tiny(p)
        s = self._span_with_room(p, span_class)
        s.state = CACHED
        self.heap_live += s.npages * PAGE - len(s.taken) * s.size
        p.cache[span_class] = s
        return s

    def _span_with_room(self, p: Proc, span_class: int) -> Span:
        npages = CLASS_PAGES[span_class >> 1]
        self._sweep_for_credit(p, npages * PAGE, 0)
        if self.swept[span_class].partial:
            return self.swept[span_class].partial.popleft()
        return self._sweep_for_room(p, span_class) or self._heap_span(p, npages, span_class)

    def _sweep_for_room(self, p: Proc, span_class: int) -> Span | None:
        """Up to 100 spans are swept in the hope of a free slot, those known to have had one first."""
        budget = 101
        for waiting in (self.unswept[span_class].partial, self.unswept[span_class].full):
            while budget and waiting and not self.sweep_done:
                s = waiting.popleft()
                budget -= 1
                if s.state != UNSWEPT:
                    continue
                was_partial = waiting is self.unswept[span_class].partial
                self._sweep(p, s, keep=True)
                if was_partial or s.next_free() is not None:
                    return s
                self.swept[span_class].push(s)
        return None

    def _heap_span(self, p: Proc, npages: int, span_class: int) -> Span:
        self._reclaim(p, npages)
        s = self._new_span(p, npages, "heap")
        size_class = span_class >> 1
        s.span_class, s.state = span_class, SWEPT
        s.size = CLASS_SIZE[size_class] or npages * PAGE
        s.slots = slots_of(size_class, bool(span_class & 1)) if size_class else 1
        self.pages_in_use += npages
        return s

    def _large(self, p: Proc, size: int, noscan: bool) -> Span:
        npages = -(-size // PAGE)
        self._sweep_for_credit(p, npages * PAGE, npages)
        s = self._heap_span(p, npages, int(noscan))
        s.taken.add(0)
        self.mallocs[0] += 1
        self.large_bytes += s.size
        self.heap_live += s.size
        self.swept[s.span_class].push(s)
        return s

    # ---- deaths and collections ----

    def mark_dead(self, addrs: list[int]) -> None:
        for addr in addrs:
            s, slot, _ = self.objects.pop(addr)
            others = s.tiny.get(slot, set())
            others.discard(addr % 16)
            if not others:
                s.dead.add(slot)

    def gc_begin(self, proc: int) -> None:
        self._settle(self._proc(proc))
        self.marking = True

    def _settle(self, p: Proc) -> None:
        for owner in [*self._all_procs(), self.no_p]:
            if owner.cache is not None and owner.fresh_at != self.cycle:
                self._flush(p, owner)
        while self._sweep_next(p):
            pass

    def gc_mark_and_flip(self) -> None:
        """Blocks that tiny objects still join stay, though they may be dead for now."""
        heap_spans = [s for s in self.spans.values() if s.kind == "heap"]
        owners = [*self._all_procs(), self.no_p]
        for s in heap_spans:
            open_and_dead = s.dead & {o.tiny[1] for o in owners if o.tiny and o.tiny[0] is s}
            s.marked = s.taken - s.dead | open_and_dead
            s.dead = open_and_dead
            s.found_live = bool(s.marked)
            s.state = {SWEPT: UNSWEPT, CACHED: STALE}[s.state]
        self.heap_marked = self.heap_live = sum(len(s.marked) * s.size for s in heap_spans)
        self.marking = self.sweep_done = False
        self.cycle += 1
        self.sweep_class = 0
        self.pages_swept = 0
        self.reclaim_page, self.reclaim_end, self.reclaim_credit = 0, self.reserved, 0
        self.swept, self.unswept = [Central() for _ in range(136)], self.swept

    def gc_end(self, proc: int, forced: bool = True) -> None:
        """Stack spans that were held back while marking go to the heap."""
        p = self._proc(proc)
        for pool in self.stack_pool.values():
            for s in [s for s in pool if not s.taken]:
                pool.remove(s)
                self._free_span(p, s)
        for npages in sorted(self.large_stacks):
            for s in self.large_stacks.pop(npages):
                self._free_span(p, s)
        self.num_gc += 1
        self.num_forced += forced

    def gc_collect(self, proc: int, dead: list[int]) -> tuple[int, ...]:
        p = self._proc(proc)
        self.mark_dead(dead)
        self.gc_begin(proc)
        frees, freed_bytes, pages = sum(self.frees), self.freed_bytes, self.pages_in_use
        self.gc_mark_and_flip()
        nspans = sum(s.kind == "heap" for s in self.spans.values())
        self.gc_end(proc)
        for owner in [o for o in self._all_procs() if o is not p] + [p]:
            if owner.cache is not None:
                self._flush(p, owner)
        self._settle(p)
        freed = sum(self.frees) - frees, self.freed_bytes - freed_bytes
        return self.num_gc, self.heap_marked, *freed, nspans, pages - self.pages_in_use

    # ---- sweeping ----

    def _sweep(self, p: Proc, s: Span, *, keep: bool = False) -> bool:
        """What is not marked is free. Return whether the whole span went back."""
        freed = s.taken - s.marked
        self.pages_swept += s.npages
        self.frees[s.span_class >> 1] += len(freed)
        if not s.span_class >> 1 and not keep:
            self.large_freed_bytes += len(freed) * s.size
        s.taken, s.marked, s.cursor = s.marked, set(), 0
        s.tiny = {slot: live for slot, live in s.tiny.items() if slot not in freed}
        s.state = SWEPT
        if keep:
            return False
        if not s.taken:
            self._free_span(p, s)
            return True
        self.swept[s.span_class].push(s)
        return False

    def _sweep_next(self, p: Proc) -> int:
        """Classes ascending, in each the full spans, then the others, in the order in which they came."""
        if self.sweep_done:
            return 0
        for span_class in range(self.sweep_class, 136):
            self.sweep_class = span_class
            waiting = self.unswept[span_class]
            for queue in (waiting.full, waiting.partial):
                while queue:
                    s = queue.popleft()
                    if s.state == UNSWEPT:
                        if self._sweep(p, s):
                            self.reclaim_credit += s.npages
                        return s.base
        self.sweep_done = True
        return 0

    def sweep_one(self, proc: int) -> int:
        return self._sweep_next(self._proc(proc))

    def sweep_span(self, proc: int, base: int) -> None:
        self._sweep(self._proc(proc), self.spans[base])

    def sweep_all(self, proc: int) -> int:
        n = 0
        while self._sweep_next(self._proc(proc)):
            n += 1
        return n

    def pace_sweeper(self, trigger: int) -> None:
        """All shall be swept when the heap is 1 MB short of the trigger."""
        self.pages_per_byte = 0.0
        pages = self.pages_in_use - self.pages_swept
        if self.sweep_done or pages <= 0:
            return
        self.pages_per_byte = pages / max(trigger - self.heap_live - (1 << 20), PAGE)
        self.live_basis, self.swept_basis = self.heap_live, self.pages_swept

    def _sweep_for_credit(self, p: Proc, nbytes: int, npages: int) -> None:
        if not self.pages_per_byte:
            return
        nbytes += max(self.heap_live - self.live_basis, 0)
        target = int(self.pages_per_byte * nbytes) - npages
        while target > self.pages_swept - self.swept_basis:
            if not self._sweep_next(p):
                self.pages_per_byte = 0.0
                break

    def _reclaim(self, p: Proc, npages: int) -> None:
        """Before the heap gives n pages it tries to win as many: it sweeps spans without a mark, 4 MB at a time."""
        if self.sweep_done:
            return
        while npages > 0:
            if self.reclaim_credit:
                used = min(self.reclaim_credit, npages)
                self.reclaim_credit -= used
                npages -= used
                continue
            if self.reclaim_page >= self.reclaim_end:
                break
            found, first = 0, self.reclaim_page
            self.reclaim_page += 512
            for page in range(first, first + 512):
                s = self.span_at.get(page)
                starts = s is not None and s.base == self.base + page * PAGE
                if s and starts and s.state == UNSWEPT and not s.found_live and self._sweep(p, s):
                    found += s.npages
            self.reclaim_credit += max(found - npages, 0)
            npages -= min(found, npages)

    # ---- stacks: pools of 32 KB spans, a stock with each processor; from 32 KB on spans of their own ----

    def stack_alloc(self, proc: int, size: int, cached: bool = True) -> int:
        p = self._proc(proc)
        if size >= STACK_SPAN:
            return self._large_stack(p, size)
        if not cached or not p.has_p:
            return self._pool_stack(p, size)
        stock = p.stacks.setdefault(size, [])
        if not stock:
            stock += [self._pool_stack(p, size) for _ in range(STACK_SPAN // 2 // size)]
        return stock.pop()

    def _large_stack(self, p: Proc, size: int) -> int:
        held = self.large_stacks.get(size // PAGE)
        s = held.pop(0) if held else self._new_span(p, size // PAGE, "stack")
        s.taken = {0}
        return s.base

    def _pool_stack(self, p: Proc, size: int) -> int:
        pool = self.stack_pool[size]
        if not pool:
            s = self._new_span(p, STACK_SPAN // PAGE, "stack")
            s.size, s.free_stacks = size, list(range(STACK_SPAN // size))
            pool.insert(0, s)
        s = pool[0]
        slot = s.free_stacks.pop()
        s.taken.add(slot)
        if not s.free_stacks:
            pool.remove(s)
        return s.base + slot * size

    def stack_free(self, proc: int, addr: int, size: int, cached: bool = True) -> None:
        p = self._proc(proc)
        if size >= STACK_SPAN:
            self._free_large_stack(p, self.spans[addr])
        elif not cached or not p.has_p:
            self._free_pool_stack(p, addr, size)
        else:
            stock = p.stacks.setdefault(size, [])
            if len(stock) * size >= STACK_SPAN:
                while len(stock) * size > STACK_SPAN // 2:
                    self._free_pool_stack(p, stock.pop(), size)
            stock.append(addr)

    def _free_large_stack(self, p: Proc, s: Span) -> None:
        s.taken = set()
        if self.marking:
            self.large_stacks.setdefault(s.npages, []).insert(0, s)
        else:
            self._free_span(p, s)

    def _free_pool_stack(self, p: Proc, addr: int, size: int) -> None:
        s = self.span_at[(addr - self.base) // PAGE]
        slot = (addr - s.base) // size
        if not s.free_stacks:
            self.stack_pool[size].insert(0, s)
        s.free_stacks.append(slot)
        s.taken.discard(slot)
        if not s.taken and not self.marking:
            self.stack_pool[size].remove(s)
            self._free_span(p, s)

    def _return_stacks(self, p: Proc, owner: Proc) -> None:
        for size in sorted(owner.stacks):
            while owner.stacks[size]:
                self._free_pool_stack(p, owner.stacks[size].pop(), size)

    # ---- manual spans ----

    def manual_alloc(self, proc: int, npages: int, kind: int = 2) -> int:
        return self._new_span(self._proc(proc), npages, {2: "workbuf", 3: "other"}[kind]).base

    def manual_free(self, proc: int, addr: int) -> None:
        self._free_span(self._proc(proc), self.spans[addr])

    # ---- what can be seen ----

    @property
    def freed_bytes(self) -> int:
        return self.large_freed_bytes + sum(n * size for n, size in zip(self.frees, CLASS_SIZE, strict=True))

    def read_mem_stats(self, proc: int) -> None:
        for owner in self._all_procs():
            self._flush(self._proc(proc), owner)

    def stats(self) -> dict[str, int]:
        allocated = self.large_bytes + sum(n * s for n, s in zip(self.mallocs, CLASS_SIZE, strict=True))
        idle = self.idle_mapped + self.released
        return {
            "alloc": allocated - self.freed_bytes,
            "total_alloc": allocated,
            "mallocs": sum(self.mallocs) + self.tiny_allocs,
            "frees": sum(self.frees) + self.tiny_allocs,
            "heap_objects": sum(self.mallocs) - sum(self.frees),
            "heap_inuse": self.inuse["heap"],
            "heap_idle": idle,
            "heap_sys": self.inuse["heap"] + idle,
            "heap_released": self.released,
            "stack_inuse": self.inuse["stack"],
            "mspan_inuse": self.mspans * MSPAN,
            "mspan_sys": -(-self.mspans_peak // 102) * 102 * MSPAN,
            "mcache_inuse": self.mcaches * MCACHE,
            "num_gc": self.num_gc,
            "num_forced_gc": self.num_forced,
            "heap_live": self.heap_live,
        }

    def span_rows(self) -> list[tuple[int, int, int, int, int, bool]]:
        """Base, pages, span class, slots taken, kind, cached; in address order."""
        kinds = {"heap": 0, "stack": 1, "workbuf": 2, "other": 3}
        return [
            (s.base, s.npages, s.span_class, len(s.taken), kinds[s.kind], s.state in (CACHED, STALE))
            for _, s in sorted(self.spans.items())
        ]
