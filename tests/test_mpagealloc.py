"""Address-ordered first fit, through manual spans taken without a processor, so that no page cache is in between."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from core import NO_PROC, PAGE, Core
from page_layout import CHUNK, Range, addr_of, free_pages, laid_out, page_of, scavenged_pages, take


def heap_with(chunks: int, free: Iterable[Range]) -> Core:
    """Return a heap of some chunks in which only the given pages are free, and were never used."""
    c = Core()
    at, gaps = 0, []
    for first, npages in sorted(free):
        if first > at:
            take(c, at, first - at)
        take(c, first, npages)
        gaps.append(first)
        at = first + npages
    if at < chunks * CHUNK:
        take(c, at, chunks * CHUNK - at)
    for first in gaps:
        c.manual_free(NO_PROC, addr_of(first))
    return c


# name: chunks, free ranges, then pages asked for and the page expected, in turn
ALLOC: dict[str, tuple[int, list[Range], list[Range]]] = {
    "AllFree1": (1, [(0, 512)], [(1, 0), (1, 1), (1, 2)]),
    "AllFree64": (1, [(0, 512)], [(64, 0), (64, 64), (64, 128)]),
    "AllFree512": (1, [(0, 512)], [(512, 0), (1, 512)]),
    "AllFree513": (2, [(0, 1024)], [(513, 0), (511, 513), (1, 1024)]),
    "NoneFree1": (1, [], [(1, 512)]),
    "NoneFree600": (2, [], [(600, 1024)]),
    "OneFreeInMiddle": (1, [(300, 1)], [(1, 300), (1, 512)]),
    "LastPage": (1, [(511, 1)], [(1, 511)]),
    "FirstNotBest": (1, [(5, 10), (20, 4)], [(4, 5), (4, 9), (4, 20)]),
    "ShortRunsSkipped": (1, [(0, 3), (5, 3), (9, 4)], [(4, 9), (3, 0), (3, 5)]),
    "AcrossWords": (1, [(60, 10)], [(10, 60)]),
    "WholeWords": (1, [(64, 128)], [(128, 64)]),
    "WordAndABit": (1, [(63, 65)], [(65, 63)]),
    "AcrossChunks": (2, [(500, 30)], [(30, 500)]),
    "AcrossThreeChunks": (3, [(511, 514)], [(514, 511)]),
    "InsideBeforeAcross": (2, [(100, 8), (508, 8)], [(8, 100), (8, 508)]),
    "AcrossBeforeInside": (2, [(508, 8), (900, 8)], [(8, 508), (8, 900)]),
    "EndJoinsGrowth": (1, [(510, 2)], [(3, 510), (1, 513)]),
    "EndTooShortStays": (1, [(500, 3)], [(4, 512), (3, 500)]),
    "AcrossGroupOfEight": (9, [(4090, 20)], [(20, 4090)]),
    "WholeGroupOfEight": (16, [(4096, 4096)], [(4096, 4096)]),
    "MoreThanAGroup": (20, [(4000, 5000)], [(5000, 4000)]),
    "OnlyInTheLastOf70": (70, [(69 * 512 + 5, 1)], [(1, 69 * 512 + 5), (1, 70 * 512)]),
    "AcrossGroupOf64": (66, [(64 * 512 - 3, 7)], [(7, 64 * 512 - 3)]),
    "LowFirstInTallTree": (
        130,
        [(7, 2), (64 * 512, 600), (128 * 512, 9)],
        [(9, 64 * 512), (2, 7), (600, 130 * 512)],
    ),
}


@pytest.mark.parametrize("name", ALLOC)
def test_alloc(name: str) -> None:
    chunks, free, asks = ALLOC[name]
    c = heap_with(chunks, free)
    assert [page_of(c.manual_alloc(NO_PROC, npages)) for npages, _ in asks] == [want for _, want in asks]
    c.check()


# name: ranges taken one after the other from page 0, indices freed in order, then asked and expected
FREE: dict[str, tuple[list[int], list[int], list[Range]]] = {
    "Free1": ([1, 1, 1], [1], [(1, 1)]),
    "NeighboursJoin": ([4, 4, 4], [0, 1], [(8, 0)]),
    "NeighboursJoinBackwards": ([4, 4, 4], [1, 0], [(8, 0)]),
    "GapCloses": ([4, 4, 4, 4], [0, 2, 1], [(12, 0)]),
    "LowestFirstWhateverTheOrder": ([2, 2, 2, 2, 2], [3, 1], [(2, 2), (2, 6)]),
    "JoinsWithTheRest": ([10, 10], [1], [(502, 10)]),
    "WholeChunks": ([512, 512, 512], [1, 0], [(1024, 0)]),
    "HalvesOfTwoChunks": ([256, 512, 256], [1], [(512, 256)]),
}


@pytest.mark.parametrize("name", FREE)
def test_free(name: str) -> None:
    taken, freed, asks = FREE[name]
    c = Core()
    addrs = [c.manual_alloc(NO_PROC, npages) for npages in taken]
    for i in freed:
        c.manual_free(NO_PROC, addrs[i])
        c.check()
    assert [page_of(c.manual_alloc(NO_PROC, npages)) for npages, _ in asks] == [want for _, want in asks]


# name: pages of padding, then asked and expected
PADDING: dict[str, tuple[int, list[Range]]] = {
    "None": (0, [(512, 0)]),
    "OnePage": (1, [(1, 1), (510, 2)]),
    "AllButOne": (511, [(1, 511), (1, 512)]),
    "WholeChunkSkipped": (512, [(1, 512)]),
    "ChunkAndAHalf": (768, [(1, 768), (255, 769)]),
    "FirstAskTooLargeForWhatIsLeft": (1, [(512, 1)]),
    "FirstAskOfSeveralChunks": (300, [(2000, 300)]),
}


@pytest.mark.parametrize("name", PADDING)
def test_padding(name: str) -> None:
    padding, asks = PADDING[name]
    c = Core(padding_pages=padding)
    assert [page_of(c.manual_alloc(NO_PROC, npages)) for npages, _ in asks] == [want for _, want in asks]
    assert c.pages()["padding"].sum() == padding
    c.check()


def test_grows_by_4_mb() -> None:
    c = Core()
    for npages, want in [(1, 512), (512, 1024), (1, 1024), (1025, 2560)]:
        c.manual_alloc(NO_PROC, npages)
        assert len(c.pages()) == want


def test_scavenged_until_used() -> None:
    """Fresh pages are the system's until they are used; freed ones are not given back."""
    c = Core()
    addr = c.manual_alloc(NO_PROC, 10)
    assert c.stats().heap_released == 502 * PAGE
    c.manual_free(NO_PROC, addr)
    assert c.stats().heap_released == 502 * PAGE
    pages = c.pages()
    assert pages["scavenged"].tolist() == [False] * 10 + [True] * 502
    assert not pages["allocated"].any()


# ---- Go's TestPageAllocAlloc, case by case ----
# name: chunks, free pages, scavenged pages, then asks: pages, the page expected, how many of them were scavenged.
# Where Go's table expects no page the heap grows here. Go's gaps in address space are taken chunks here.
Hit = tuple[int, int, int]
GO_ALLOC: dict[str, tuple[int, list[Range], list[Range], list[Hit]]] = {
    "AllFree1": (
        1,
        [(1, 1), (4, 508)],
        [(0, 1), (2, 2)],
        [(1, 0, 1), (1, 1, 0), (1, 2, 1), (1, 3, 1), (1, 4, 0)],
    ),
    "ManyArena1": (3, [], [(3 * 512 - 1, 1)], [(1, 3 * 512 - 1, 1)]),
    "NotContiguous1": (0x100, [], [(0xFF * 512, 512)], [(1, 0xFF * 512, 1)]),
    "AllFree2": (
        1,
        [(3, 4), (8, 504)],
        [(0, 3), (7, 1)],
        [(2, 0, 2), (2, 2, 1), (2, 4, 0), (2, 6, 1), (2, 8, 0)],
    ),
    "Straddle2": (2, [(512, 1)], [(511, 1)], [(2, 511, 1)]),
    "AllFree5": (
        1,
        [(8, 1), (10, 7), (22, 490)],
        [(0, 8), (9, 1), (17, 5)],
        [(5, 0, 5), (5, 5, 4), (5, 10, 0), (5, 15, 3), (5, 20, 2)],
    ),
    "ExhaustPallocChunkPages-3": (
        1,
        [(0, 10), (11, 501)],
        [(10, 1)],
        [(509, 0, 1), (1, 509, 0), (2, 510, 0), (1, 512, 1), (509, 513, 509)],
    ),
    "AllFreePallocChunkPages": (
        1,
        [(1, 510)],
        [(0, 1), (511, 1)],
        [(512, 0, 2), (512, 512, 512), (1, 1024, 1)],
    ),
    "StraddlePallocChunkPages+1": (2, [], [(256, 768)], [(513, 256, 513), (1, 769, 1)]),
    "AllFreePallocChunkPages*2": (2, [(0, 1024)], [], [(1024, 0, 0), (1024, 1024, 1024), (1, 2048, 1)]),
    "NotContiguousPallocChunkPages*2": (
        0x42,
        [(0x40 * 512, 1024)],
        [(0, 512)],
        [(1024, 0x40 * 512, 0), (21, 0, 21), (1, 21, 1)],
    ),
    "StraddlePallocChunkPages*5/4": (
        4,
        [(512 + 385, 127), (1024 + 384, 128 + 341), (1536 + 342, 170)],
        [(512 + 384, 1), (1536 + 341, 1)],
        [(640, 1408, 1), (1, 896, 1), (640, 2048, 640)],
    ),
    "AllFree64": (
        1,
        [(0, 21), (22, 41), (128, 384)],
        [(21, 1), (63, 65)],
        [(64, 0, 2), (64, 64, 64), (64, 128, 0)],
    ),
    "AllFree65": (1, [(0, 129), (130, 382)], [(129, 1)], [(65, 0, 0), (65, 65, 1), (65, 130, 0)]),
    "StraddlePallocChunkPages": (
        2,
        [(256, 259), (615, 153)],
        [(515, 100)],
        [(512, 256, 100), (512, 1024, 512), (1, 1536, 1)],
    ),
    "AllFreePallocChunkPages*7+5": (
        8,
        [(0, 50), (51, 4045)],
        [(50, 1)],
        [(3589, 0, 1), (1, 3589, 0)],
    ),
    "StraddlePallocChunkPages*2": (
        3,
        [(256, 259), (520, 113), (643, 637)],
        [(515, 5), (633, 10)],
        [(1024, 256, 15), (1024, 1536, 1024)],
    ),
    # The next two had Go look at summaries that are not mapped; here they are a jump over most of the tree.
    "DiscontiguousMappedSumBoundary": (
        1024,
        [(511 * 512, 512), (1023 * 512, 512)],
        [],
        [(511, 511 * 512, 0), (1, 511 * 512 + 511, 0), (1, 1023 * 512, 0), (511, 1023 * 512 + 1, 0)],
    ),
    "DiscontiguousBadSearchAddr": (
        1100,
        [(511, 1), (600 * 512 + 502, 9), (1099 * 512, 512)],
        [],
        [(1, 511, 0), (100, 1099 * 512, 0), (9, 600 * 512 + 502, 0)],
    ),
}


@pytest.mark.parametrize("name", GO_ALLOC)
def test_alloc_as_go(name: str) -> None:
    """The lowest run that is long enough, and how much of it the system had."""
    chunks, free, scavenged, hits = GO_ALLOC[name]
    c = laid_out(chunks, free=free, scavenged=scavenged)
    for npages, page, fresh in hits:
        mapped = len(c.pages())
        before = c.stats().heap_released + 0
        assert page_of(c.manual_alloc(NO_PROC, npages)) == page
        grown = (len(c.pages()) - mapped) * PAGE
        assert before + grown - c.stats().heap_released == fresh * PAGE
    c.check()


@pytest.mark.parametrize("npages", [1, 2, 3, 4, 5, 8, 16, 64, 1024, 1025, 2048, 2049])
def test_exhaust(npages: int) -> None:
    """Go: TestPageAllocExhaust. Runs follow one another until none fits, whatever chunks they straddle."""
    c = laid_out(4, free=[(0, 2048)])
    n = 2048 // npages
    assert [page_of(c.manual_alloc(NO_PROC, npages)) for _ in range(n)] == [i * npages for i in range(n)]
    left = 2048 - n * npages
    assert free_pages(c) == ([(n * npages, left)] if left else [])
    assert page_of(c.manual_alloc(NO_PROC, npages)) == n * npages  # what is left joins what the heap grows by
    assert len(c.pages()) > 2048
    c.check()


# ---- Go's TestPageAllocFree ----
# name: chunks, free pages, pages a free, pages at which they begin, free pages afterwards
GO_FREE: dict[str, tuple[int, list[Range], int, list[int], list[Range]]] = {
    "Free1": (1, [], 1, [0, 1, 2, 3, 4], [(0, 5)]),
    "ManyArena1": (3, [], 1, [256, 512, 1535], [(256, 1), (512, 1), (1535, 1)]),
    "Free2": (1, [], 2, [0, 2, 4, 6, 8], [(0, 10)]),
    "Straddle2": (2, [(0, 511), (513, 511)], 2, [511], [(0, 1024)]),
    "Free5": (1, [], 5, [0, 5, 10, 15, 20], [(0, 25)]),
    "Free64": (1, [], 64, [0, 64, 128], [(0, 192)]),
    "Free65": (1, [], 65, [0, 65, 130], [(0, 195)]),
    "FreePallocChunkPages": (1, [], 512, [0], [(0, 512)]),
    "StraddlePallocChunkPages": (2, [(0, 256), (768, 256)], 512, [256], [(0, 1024)]),
    "StraddlePallocChunkPages+1": (2, [], 513, [256], [(256, 513)]),
    "FreePallocChunkPages*2": (2, [], 1024, [0], [(0, 1024)]),
    "StraddlePallocChunkPages*2": (3, [], 1024, [256], [(256, 1024)]),
    "AllFreePallocChunkPages*7+5": (8, [], 3589, [0], [(0, 3589)]),
}


@pytest.mark.parametrize("name", GO_FREE)
def test_free_as_go(name: str) -> None:
    chunks, free, npages, frees, after = GO_FREE[name]
    c = laid_out(chunks, free=free, spans=[(page, npages) for page in frees])
    for page in frees:
        c.manual_free(NO_PROC, addr_of(page))
        c.check()
    assert free_pages(c) == after
    assert scavenged_pages(c) == []


def test_alloc_and_free_chunks_8() -> None:
    """Go: TestPageAllocAllocAndFree. The summaries forget nothing between taking all and giving all back."""
    c = laid_out(8, free=[(0, 8 * 512)])
    for npages in (4096, 4096, 4096, 1, 4096):
        addr = c.manual_alloc(NO_PROC, npages)
        assert page_of(addr) == 0
        c.manual_free(NO_PROC, addr)
        c.check()


@pytest.mark.parametrize("chunks", [1, 2, 5], ids=["One", "Contiguous2", "Contiguous5"])
def test_grow(chunks: int) -> None:
    """Go: TestPageAllocGrow, as far as a heap without gaps goes: all that it grew by is one run."""
    c = Core()
    for _ in range(chunks):
        c.manual_alloc(NO_PROC, CHUNK)
    for i in range(chunks):
        c.manual_free(NO_PROC, addr_of(i * CHUNK))
    assert free_pages(c) == [(0, chunks * CHUNK)]
    assert page_of(c.manual_alloc(NO_PROC, chunks * CHUNK)) == 0
    c.check()
