"""Which pages go back to the operating system, and in what order.

Tables named as Go's tests have their cases; `tests/test_oracle_scavenge.py` has real Go's own choices.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from core import NO_PROC, PAGE, Core
from hypothesis import given
from hypothesis import strategies as st
from page_layout import CHUNK, Range, addr_of, laid_out, page_of, scavenged_pages
from reference_scavenger import ReferenceScavenger
from strategies import page_words, seeds

from pymem._arrays import pointer
from pymem._native import ffi, lib

HUGE = 256
MIB = 1 << 20
NEVER = (1 << 64) - 1


# ---- one chunk. Go: TestPallocDataFindScavengeCandidate, TestFillAligned ----


def bitmap(ranges: list[Range]) -> list[int]:
    bits = sum(((1 << n) - 1) << first for first, n in ranges)
    return [bits >> 64 * i & (1 << 64) - 1 for i in range(8)]


def candidate(alloc: list[int], scavenged: list[int], *, min: int, max: int, start: int = 511) -> Range:
    first, npages = ffi.new("uint32_t *"), ffi.new("uint32_t *")
    words = [np.array(w, np.uint64) for w in (alloc, scavenged)]
    columns = [pointer("uint64_t", w) for w in words]
    assert lib.pymem_scavenge_candidate(*columns, start, min, max, first, npages) == lib.PYMEM_OK
    return first[0], npages[0]


# name: taken, scavenged, min, max, the run chosen (0 pages: none)
Case = tuple[list[Range], list[Range], int, int, Range]
CANDIDATE: dict[str, Case] = {
    "MixedMin1": ([(0, 40), (42, 470)], [(0, 41), (42, 470)], 1, 512, (41, 1)),
    "MultiMin1": ([(0, 63), (65, 20), (87, 425)], [(86, 1)], 1, 512, (85, 1)),
    "PreserveHugePageBottom": ([(HUGE + 2, 512 - HUGE - 2)], [], 1, 3, (0, HUGE + 2)),
    "PreserveHugePageTop": ([(0, 512 - HUGE)], [], 1, 1, (512 - HUGE, HUGE)),
    "HugePageNotWhollyFree": ([(0, 1), (HUGE + 2, 512 - HUGE - 2)], [], 1, 3, (HUGE - 1, 3)),
    "HugePageNotCut": ([(HUGE + 5, 512 - HUGE - 5)], [], 1, 3, (HUGE + 2, 3)),
}
for m in (1, 2, 4, 8, 16, 32, 64):
    CANDIDATE |= {
        f"AllFreeMin{m}": ([], [], m, 512, (0, 512)),
        f"AllScavengedMin{m}": ([], [(0, 512)], m, 512, (0, 0)),
        f"NoneFreeMin{m}": ([(0, 512)], [(256, 256)], m, 512, (0, 0)),
        f"StartFreeMin{m}": ([(m, 512 - m)], [], m, 512, (0, m)),
        f"EndFreeMin{m}": ([(0, 512 - m)], [], m, 512, (512 - m, m)),
        f"Straddle64Min{m}": ([(0, 64 - m), (64 + m, 448 - m)], [], m, 2 * m, (64 - m, 2 * m)),
        f"BottomEdge64WithFullMin{m}": (
            [(64, 64), (128 + 3 * m, 384 - 3 * m)], [(1, 10)], m, 3 * m, (128, 3 * m),
        ),
        f"BottomEdge64WithPocketMin{m}": (
            [(64, 62), (127, 1), (128 + 3 * m, 384 - 3 * m)], [(1, 10)], m, 3 * m, (128, 3 * m),
        ),
        f"Max0Min{m}": ([], [(0, 512 - m)], m, 0, (512 - m, m)),
    }  # fmt: skip
    if m <= 8:
        CANDIDATE |= {
            f"OneFreeMin{m}": ([(0, 40), (40 + m, 472 - m)], [], m, 512, (40, m)),
            f"OneScavengedMin{m}": (
                [(0, 40), (40 + m, 472 - m)],
                [(40, 1)],
                m,
                512,
                (0, 0),
            ),
        }
    if m > 1:
        CANDIDATE |= {
            f"MaxUnalignedMin{m}": ([], [(0, 512 - (2 * m - 1))], m, m - 2, (512 - m, m)),
            f"SkipSmallMin{m}": ([(0, 64 - m), (64, 5), (70, 11), (82, 430)], [], m, m, (64 - m, m)),
            f"SkipMisalignedMin{m}": ([(0, 64 - m), (64, 63), (127 + m, 385 - m)], [], m, m, (64 - m, m)),
            f"MaxLessThanMin{m}": ([], [(0, 512 - m)], m, 1, (512 - m, m)),
        }


@pytest.mark.parametrize("name", CANDIDATE)
def test_candidate(name: str) -> None:
    taken, scavenged, least, most, want = CANDIDATE[name]
    assert candidate(bitmap(taken), bitmap(scavenged), min=least, max=most) == want


def test_candidate_looks_at_whole_word() -> None:
    """A search from page 70 also sees pages 71 to 127: Go's searches go by words."""
    assert candidate(bitmap([(0, 512)][:0]), bitmap([(0, 120), (130, 382)]), min=1, max=4, start=70) == (
        124,
        4,
    )


@given(page_words, st.sampled_from([1, 2, 4, 8, 16, 32, 64]))
def test_fill_aligned(word: int, least: int) -> None:
    """Go: TestFillAligned. An aligned group with one barred page is barred; all others are found, highest first."""
    groups = [range(i, i + least) for i in range(0, 64, least)]
    want = sorted((i for g in groups if not any(word >> k & 1 for k in g) for i in g), reverse=True)
    barred, found = word, list[int]()
    while True:
        first, npages = candidate([barred, *[NEVER] * 7], [0] * 8, min=least, max=64, start=63)
        if not npages:
            break
        found += range(first + npages - 1, first - 1, -1)
        barred |= ((1 << npages) - 1) << first
    assert found == want


def test_candidate_refuses() -> None:
    """Go throws for a min that is no power of two up to 64."""
    words = [np.zeros(8, np.uint64) for _ in range(2)]
    columns, out = [pointer("uint64_t", w) for w in words], ffi.new("uint32_t[2]")
    for start, least in ((511, 0), (511, 3), (511, 128), (512, 1)):
        status = lib.pymem_scavenge_candidate(*columns, start, least, 1, out, out + 1)
        assert status == lib.PYMEM_EINVAL


# ---- a heap. Go: TestPageAllocScavenge ----
# name: chunks, free pages, scavenged pages, calls: bytes wanted and pages given back; scavenged pages afterwards
MORE = NEVER // PAGE
SCAVENGE: dict[str, tuple[int, list[Range], list[Range], list[Range], list[Range]]] = {
    "AllFreeUnscavExhaust": (3, [(0, 1536)], [], [(MORE, 1536)], [(0, 1536)]),
    "NoneFreeUnscavExhaust": (3, [], [(512, 512)], [(MORE, 0)], [(512, 512)]),
    "ScavHighestPageFirst": (1, [(0, 1), (511, 1)], [(1, 510)], [(1, 1)], [(1, 511)]),
    "ScavMultiple": (1, [(0, 1), (511, 1)], [(1, 510)], [(1, 1), (1, 1)], [(0, 512)]),
    "ScavMultiple2": (
        2,
        [(0, 1), (511, 1), (1022, 2)],
        [(1, 510), (512, 510)],
        [(2, 2), (1, 1), (1, 1)],
        [(0, 1024)],
    ),
    "ScavDiscontiguous": (
        15,
        [(0, 1), (511, 1), (14 * 512, 2)],
        [(1, 510), (14 * 512 + 2, 510)],
        [(2, 2), (MORE, 2), (MORE, 0)],
        [(0, 512), (14 * 512, 512)],
    ),
    "ScavAllVeryDiscontiguous": (
        0x1001,
        [(0, 512), (0x1000 * 512, 512)],
        [],
        [(MORE, 1024), (MORE, 0)],
        [(0, 512), (0x1000 * 512, 512)],
    ),
}


@pytest.mark.parametrize("name", SCAVENGE)
def test_scavenge(name: str) -> None:
    chunks, free, scavenged, calls, after = SCAVENGE[name]
    c = laid_out(chunks, free=free, scavenged=scavenged)
    idle = c.stats().heap_idle
    for npages, want in calls:
        assert c.scavenge(npages * PAGE, force=True) == want * PAGE
        c.check()
    assert scavenged_pages(c) == after
    assert c.stats().heap_released == sum(n for _, n in after) * PAGE
    assert c.stats().heap_idle == idle


def test_scavenge_one_byte() -> None:
    """A page is the least that is given back."""
    assert laid_out(1, free=[(0, 3), (7, 3)]).scavenge(1, force=True) == PAGE


def test_page_cache_is_not_scavenged() -> None:
    """What a P holds is hidden from the scavenger until it is flushed."""
    c = laid_out(1, free=[(0, 512)])
    p = c.proc_new()
    c.manual_alloc(p, 1)
    assert c.scavenge_all() == 448 * PAGE
    c.page_cache_flush(p)
    assert c.scavenge_all() == 63 * PAGE
    c.check()


# ---- the index. Go: TestScavengeIndex ----
# name: page ranges that fall free, in turn, with the chunks in which pages are then found, highest first
LAST = 64 * CHUNK
INDEX: dict[str, tuple[list[Range], list[int]]] = {
    "Uninitialized": ([], []),
    "OnePage": ([(3, 1)], [0]),
    "FirstPage": ([(0, 1)], [0]),
    "SeveralPages": ([(9, 5)], [0]),
    "WholeChunk": ([(0, 512)], [0]),
    "LastPage": ([(511, 1)], [0]),
    "SevenChunksOffset": ([(6 * 512 + 11, 7 * 512 + 4)], [*range(13, 5, -1)]),
    "ThirtyTwoChunks": ([(0, 32 * 512)], [*range(31, -1, -1)]),
    "ThirtyTwoChunksOffset": ([(3 * 512, 32 * 512)], [*range(34, 2, -1)]),
    "Mark": ([(i * 512, 512) for i in range(32)], [*range(31, -1, -1)]),
    "MarkIdempotentOneChunk": ([(0, 512), (0, 512)], [0]),
    "MarkIdempotentThirtyTwoChunks": ([(0, 32 * 512), (0, 32 * 512)], [*range(31, -1, -1)]),
    "MarkIdempotentThirtyTwoChunksOffset": (
        [(4 * 512, 27 * 512), (5 * 512, 31 * 512)],
        [*range(35, 3, -1)],
    ),
    "TwoChunks": ([(128, 512)], [1, 0]),
    "TwoChunksOffset": ([(7 * 512 + 128, 513)], [8, 7]),
}


class Marked:
    """64 chunks that were full when the generation began and are free, scavenged and done with now, but for some spans.

    These lie where the ranges are; freeing them is what Go's test calls marking.
    """

    def __init__(self, ranges: list[Range]) -> None:
        self.c = c = laid_out(64, spans=[(0, LAST)])
        c.next_gen()
        c.manual_free(NO_PROC, addr_of(0))
        cuts = sorted({0, LAST, *(edge for first, n in ranges for edge in (first, first + n))})
        self.spans = [(a, b - a) for a, b in pairwise(cuts)]
        for first, npages in self.spans:
            assert page_of(c.manual_alloc(NO_PROC, npages)) == first
        self.mark([(a, n) for a, n in self.spans if not any(f <= a < f + k for f, k in ranges)])
        c.scavenge_all()

    def mark(self, ranges: list[Range]) -> None:
        for first, npages in ranges:
            inside = [span for span in self.spans if first <= span[0] < first + npages]
            for span in inside:
                self.c.manual_free(NO_PROC, addr_of(span[0]))
                self.spans.remove(span)

    def found(self, *, force: bool) -> list[int]:
        """Scavenge bit by bit until nothing is left, and return the chunks it went through."""
        chunks: list[int] = []
        before = self.c.pages()["scavenged"]
        while self.c.scavenge(1, force=force):
            after = self.c.pages()["scavenged"]
            changed = {int(i) // CHUNK for i in np.flatnonzero(after != before)}
            chunks += changed - set(chunks[-1:])
            before = after
        self.c.check()
        return chunks


@pytest.mark.parametrize("name", INDEX)
def test_index_background(name: str) -> None:
    """Not before the next generation, as the chunks were dense in this one's beginning."""
    ranges, chunks = INDEX[name]
    heap = Marked(ranges)
    heap.mark(ranges)
    assert heap.found(force=False) == []
    heap.c.next_gen()
    assert heap.found(force=False) == chunks
    assert heap.c.scavenge_all() == 0


@pytest.mark.parametrize("name", INDEX)
def test_index_force(name: str) -> None:
    ranges, chunks = INDEX[name]
    heap = Marked(ranges)
    heap.mark(ranges)
    assert heap.found(force=True) == chunks


@pytest.mark.parametrize("force", [False, True], ids=["Bg", "Force"])
def test_index_mark_interleaved(force: bool) -> None:
    """What falls free above the place where the last search ended is found all the same."""
    ranges = [(i * CHUNK, CHUNK) for i in range(32)]
    heap = Marked(ranges)
    for i, chunk in enumerate(ranges):
        heap.mark([chunk])
        if not force:
            heap.c.next_gen()
        assert heap.found(force=force) == [i]
    assert heap.found(force=force) == []


def test_chunk_data() -> None:
    """Go: TestScavChunkDataPack, of what is packed there: a whole chunk's pages, and a generation, fit."""
    c = laid_out(1)
    assert c.scavenge_chunks() == [(512, 0, 0, False)]
    for _ in range(5):
        c.next_gen()
    c.manual_free(NO_PROC, addr_of(0))
    assert c.scavenge_chunks() == [(0, 512, 5, True)]
    assert Core().scavenge_chunks() == []


# ---- density ----


@pytest.mark.parametrize(("in_use", "spared"), [(495, False), (496, True), (511, True)])
def test_dense_now(in_use: int, spared: bool) -> None:
    """From 31/32 of its pages on a chunk is dense, and spared in the background."""
    c = laid_out(1, spans=[(in_use, 512 - in_use)])
    c.manual_free(NO_PROC, addr_of(in_use))
    c.next_gen()
    assert c.scavenge(NEVER) == (0 if spared else (512 - in_use) * PAGE)
    assert c.scavenge_all() == ((512 - in_use) * PAGE if spared else 0)


@pytest.mark.parametrize(("before", "spared"), [(495, False), (496, True)])
def test_dense_last_generation(before: int, spared: bool) -> None:
    """A chunk that was dense when the generation began is spared until the next."""
    c = laid_out(1, free=[(before, 512 - before)], spans=[(0, before)] if before < 512 else [])
    c.next_gen()
    c.manual_free(NO_PROC, addr_of(0))
    c.manual_free(NO_PROC, c.manual_alloc(NO_PROC, 1))
    c.next_gen()
    c.manual_alloc(NO_PROC, before)
    c.next_gen()
    c.manual_free(NO_PROC, addr_of(0))
    assert (c.scavenge(NEVER) == 0) == spared
    c.next_gen()
    assert c.scavenge(NEVER) == (512 * PAGE if spared else 0)


def test_background_waits_for_next_generation() -> None:
    """What falls free above the background's place is looked at a generation later; force sees it at once."""
    c = laid_out(2, free=[(200, 312), (700, 324)], spans=[(0, 100), (600, 100)])
    c.next_gen()
    assert c.scavenge(NEVER) == 636 * PAGE
    c.manual_free(NO_PROC, addr_of(600))
    assert c.scavenge(NEVER) == 0
    c.next_gen()
    assert c.scavenge(NEVER) == 100 * PAGE
    c.manual_free(NO_PROC, addr_of(0))
    assert c.scavenge(NEVER, force=True) == 100 * PAGE


# ---- against the slow twin ----


class Twins:
    """A core and its plain reference, driven alike and compared after every step."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.core, self.reference = Core(), ReferenceScavenger()
        self.spans: list[Range] = []

    def alloc(self) -> None:
        npages = self.random.choice([1, 2, 5, 17, 40, 64, 130, 256, 495, 496, 512, 700])
        first = page_of(self.core.manual_alloc(NO_PROC, npages))
        assert first == self.reference.alloc(npages)
        self.spans.append((first, npages))

    def free(self) -> None:
        for _ in range(min(self.random.randint(1, 4), len(self.spans))):
            first, npages = self.spans.pop(self.random.randrange(len(self.spans)))
            self.core.manual_free(NO_PROC, addr_of(first))
            self.reference.free(first, npages)

    def scavenge(self) -> None:
        size = self.random.choice([1, PAGE, 64 << 10, 64 << 10, 1 << 20, 5 << 20, NEVER])
        force = self.random.random() < 0.3
        assert self.core.scavenge(size, force=force) == self.reference.scavenge(size, force)

    def next_gen(self) -> None:
        self.core.next_gen()
        self.reference.next_gen()

    def compare(self) -> None:
        pages, twin = self.core.pages(), self.reference
        assert pages["allocated"].tolist() == twin.taken
        assert pages["scavenged"].tolist() == twin.scavenged
        index = self.core.scavenge_chunks()
        assert [x[0] for x in index] == [twin.in_use(i) for i in range(len(index))]
        assert [x[3] for x in index] == twin.has_free
        assert self.core.stats().heap_released == sum(twin.scavenged) * PAGE
        self.core.check()


@given(seeds)
def test_like_reference(seed: int) -> None:
    twins = Twins(seed)
    steps: list[Callable[[], None]] = [twins.alloc, twins.free, twins.scavenge, twins.next_gen]
    for _ in range(40):
        twins.random.choices(steps, [4, 4, 4, 1])[0]()
        twins.compare()


# ---- on an allocation's way. Go: allocSpan ----


def retained(c: Core) -> int:
    info = c.pace_info()
    return int(info.heap_in_use + info.heap_free)


def holes(npages: int = 100) -> Core:
    """Return 8 chunks with runs of free pages, a processor, and room for nothing larger."""
    c = laid_out(8, free=[(i * 512, npages) for i in range(8)])
    c.proc_new()
    c.next_gen()
    return c


def test_growth_scavenges_what_it_adds_at_most() -> None:
    """The heap passes its goal by a lot: as much as it grew is given back, from the fragments."""
    c = holes()
    c.scavenge_goals(0, NEVER)
    c.manual_alloc(0, 512)
    assert c.pace_info().released_eager == 512 * PAGE
    assert scavenged_pages(c) == [(2 * 512 + 88, 12), *[(i * 512, 100) for i in range(3, 8)]]
    c.check()


def test_growth_scavenges_what_is_over() -> None:
    """The goal is passed by 30 pages only."""
    c = holes()
    c.scavenge_goals(retained(c) + 482 * PAGE, NEVER)
    c.manual_alloc(0, 512)
    assert c.pace_info().released_eager == 30 * PAGE
    assert scavenged_pages(c) == [(7 * 512 + 70, 30)]


def test_no_growth_no_scavenging() -> None:
    c = holes()
    c.scavenge_goals(0, NEVER)
    c.manual_alloc(0, 20)
    assert c.pace_info().released_eager == 0


def test_limit_is_kept() -> None:
    """Fresh pages are paid for with free ones, dense chunks or not."""
    c = laid_out(2, free=[(0, 512), (1000, 5)])
    c.proc_new()
    c.next_gen()
    limit = int(c.pace_info().mapped_ready)
    c.scavenge_goals(NEVER, limit)
    c.manual_alloc(0, 600)
    info = c.pace_info()
    # 600 fresh pages against 517 free ones; metadata grew with the heap, too
    assert info.released_eager == 517 * PAGE
    c.check()


def test_limit_exactly() -> None:
    c = laid_out(1, free=[(0, 400)])
    c.proc_new()
    c.scavenge_goals(NEVER, int(c.pace_info().mapped_ready))
    c.manual_alloc(0, 40)  # nothing fresh: nothing to pay
    assert c.pace_info().released_eager == 0
    c.scavenge_goals(NEVER, int(c.pace_info().mapped_ready) - 7 * PAGE + 1)
    c.manual_alloc(0, 40)
    assert c.pace_info().released_eager == 7 * PAGE
    assert scavenged_pages(c) == [(393, 7)]


def test_without_processor() -> None:
    """Nobody scavenges without a P, as in Go: somebody else will notice."""
    c = holes()
    c.scavenge_goals(0, 0)
    c.manual_alloc(NO_PROC, 512)
    assert c.pace_info().released_eager == 0


def test_mapped_ready_is_sys_less_released() -> None:
    c = laid_out(3, free=[(0, 700)])
    c.scavenge(MIB, force=True)
    stats = c.stats()
    assert c.pace_info().mapped_ready == stats.sys - stats.heap_released
