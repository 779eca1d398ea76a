"""Address-ordered first fit, through manual spans taken without a processor, so that no page cache is in between."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from core import BASE, NO_PROC, PAGE, Core

CHUNK = 512

Range = tuple[int, int]  # first page, pages


def heap_with(chunks: int, free: Iterable[Range]) -> Core:
    """Return a heap of some chunks in which only the given pages are free."""
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
        c.manual_free(NO_PROC, BASE + first * PAGE)
    return c


def take(c: Core, want: int, npages: int) -> None:
    assert page_of(c.manual_alloc(NO_PROC, npages)) == want


def page_of(addr: int) -> int:
    return (addr - BASE) // PAGE


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
