"""A processor's own 64 pages."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from core import BASE, NO_PROC, PAGE, Core
from hypothesis import given
from page_layout import Range, laid_out, page_of, ranges
from strategies import page_words


class Take(NamedTuple):
    npages: int
    page: int
    left: int  # pages in the cache afterwards


# name: free pages of the first 128 (the others are taken), then what processor 0 takes
TAKE: dict[str, tuple[list[int], list[Take]]] = {
    "AllFree1": ([*range(128)], [Take(1, 0, 63), Take(1, 1, 62), Take(2, 2, 60)]),
    "AllFree15": ([*range(128)], [Take(15, 0, 49), Take(15, 15, 34), Take(15, 30, 19), Take(15, 45, 4)]),
    "SixteenPassBy": ([*range(128)], [Take(16, 0, 0), Take(1, 16, 47), Take(16, 64, 47)]),
    "OnlyWhatIsFree": ([3, 10, 11, 12], [Take(1, 3, 3), Take(3, 10, 0)]),
    "LowestRunThatFits": ([0, 2, 3, 5, 6, 7], [Take(3, 5, 3), Take(2, 2, 1), Take(1, 0, 0)]),
    "RunOfAllButOne": ([*range(1, 64)], [Take(15, 1, 48)]),
    "DoesNotFitStays": ([0, 1, 64, 65, 66], [Take(3, 64, 2), Take(2, 0, 0), Take(1, 512, 0)]),
    "FilledOnlyWhenEmpty": ([0, 1, 64], [Take(1, 0, 1), Take(1, 1, 0), Take(1, 64, 0)]),
    "BlockIsAligned": ([*range(60, 70)], [Take(4, 60, 0), Take(4, 64, 2)]),
    "RunAcrossBlocksIsNotSeen": ([*range(60, 70)], [Take(1, 60, 3), Take(6, 64, 3)]),
}


@pytest.mark.parametrize("name", TAKE)
def test_take(name: str) -> None:
    free, takes = TAKE[name]
    c = heap_with(free)
    for want in takes:
        page = (c.manual_alloc(0, want.npages) - BASE) // PAGE
        assert Take(want.npages, page, int(c.pages()["cached"].sum())) == want
        c.check()


def heap_with(free: list[int]) -> Core:
    c = Core()
    c.proc_new()
    for _ in range(128):
        c.manual_alloc(NO_PROC, 1)
    if max(free) < 127:
        c.manual_alloc(NO_PROC, 384)
    for page in free:
        c.manual_free(NO_PROC, BASE + page * PAGE)
    return c


def test_first_span_grows_past_it() -> None:
    """With no page anywhere there is nothing to fill the cache with: the first span comes from the page allocator."""
    c = Core()
    c.proc_new()
    assert c.manual_alloc(0, 1) == BASE
    assert c.pages()["cached"].sum() == 0
    assert c.manual_alloc(0, 1) == BASE + PAGE
    assert c.pages()["cached"].sum() == 62


def test_each_proc_has_its_own() -> None:
    c = heap_with([*range(128)])
    c.proc_new()
    assert [c.manual_alloc(p, 1) for p in (0, 1, 0, 1)] == [BASE + PAGE * i for i in (0, 64, 1, 65)]


def test_flush() -> None:
    """Pages go back to the page allocator, which hands out the lowest."""
    c = heap_with([*range(128)])
    c.manual_alloc(0, 3)
    c.page_cache_flush(0)
    assert c.pages()["cached"].sum() == 0
    assert c.manual_alloc(NO_PROC, 1) == BASE + 3 * PAGE
    c.check()


def test_proc_destroy_flushes() -> None:
    c = heap_with([*range(128)])
    c.manual_alloc(0, 3)
    c.proc_destroy(0)
    assert c.pages()["cached"].sum() == 0
    c.check()


def test_cached_pages_stay_scavenged() -> None:
    """A page in the cache is not in use: HeapReleased falls when it is taken from there."""
    c = Core()
    c.proc_new()
    c.manual_alloc(0, 1)
    for used in (2, 3, 4):
        c.manual_alloc(0, 1)
        assert c.stats().heap_released == (512 - used) * PAGE
    c.page_cache_flush(0)
    assert c.stats().heap_released == 508 * PAGE
    assert c.pages()["scavenged"].sum() == 508


# ---- Go's TestPageCacheAlloc ----
# name: free pages of the first block that are not scavenged, those that are, takes: pages, page, scavenged of them.
# Go's sizes from 16 pages up are left out: allocSpan never asks a page cache for them, nor does the emulator.
# Where Go's table expects nothing, the take comes from beyond the block.
Hit = tuple[int, int, int]
GO_TAKE: dict[str, tuple[int, int, list[Hit]]] = {
    "Lo1": (0, 0x1, [(1, 0, 1)]),
    "Hi1": (1 << 63, 0, [(1, 63, 0)]),
    "Swiss1": (
        0x20005555 & ~0x5505,
        0x5505,
        [
            (1, 0, 1),
            (1, 2, 1),
            (1, 4, 0),
            (1, 6, 0),
            (1, 8, 1),
            (1, 10, 1),
            (1, 12, 1),
            (1, 14, 1),
            (1, 29, 0),
        ],
    ),
    "Lo2": (0x3, 0, [(2, 0, 0)]),
    "Hi2": (0, 0x3 << 62, [(2, 62, 2)]),
    "Swiss2": (0x0303 << 31, 0x3030 << 31, [(2, 31, 0), (2, 35, 2), (2, 39, 0), (2, 43, 2)]),
    "FullMixed": (
        0,
        (1 << 64) - 1,
        [
            *[(5, 0, 5), (7, 5, 7), (1, 12, 1), (15, 13, 15), (8, 28, 8), (3, 36, 3), (3, 39, 3), (3, 42, 3)],
            *[(12, 45, 12), (4, 57, 4), (2, 61, 2), (1, 63, 1)],
        ],
    ),
}
REST = (512, 512)
"""A second chunk, free: there the first span of a block that has nothing to offer goes."""


def block_of(unscavenged: int, scavenged: int) -> Core:
    """Return a heap whose first block of 64 pages has these free pages, and whose second chunk is free."""
    bits = [[word >> i & 1 == 1 for i in range(64)] for word in (unscavenged, scavenged)]
    c = laid_out(2, free=[*ranges(bits[0]), REST], scavenged=ranges(bits[1]))
    c.proc_new()
    return c


@pytest.mark.parametrize("name", GO_TAKE)
def test_take_as_go(name: str) -> None:
    unscavenged, scavenged, hits = GO_TAKE[name]
    c = block_of(unscavenged, scavenged)
    for npages, page, fresh in hits:
        before = c.stats().heap_released + 0
        assert page_of(c.manual_alloc(0, npages)) == page
        assert before - c.stats().heap_released == fresh * PAGE
    assert c.pages()["cached"].sum() == 0
    assert page_of(c.manual_alloc(0, 1)) == 512
    c.check()


def test_take_empty() -> None:
    """Go: Empty. A block with nothing in it gives nothing, whatever is asked for."""
    c = block_of(1, 0)
    c.manual_alloc(0, 1)
    at = 512
    for npages in (16, 27, 32, 43, 57, 64, 121):
        assert page_of(c.manual_alloc(0, npages)) == at
        at += npages
    assert c.pages()["cached"].sum() == 0


# ---- Go's TestPageCacheFlush ----


@given(page_words, page_words)
def test_flush_any(free: int, scavenged: int) -> None:
    """What was free is free again, and scavenged if it was. The lowest page is taken, as that fills the cache."""
    free |= scavenged
    c = block_of(free & ~scavenged, scavenged)
    lowest = page_of(c.manual_alloc(0, 1))
    assert lowest == ((free & -free).bit_length() - 1 if free else 512)
    c.page_cache_flush(0)
    left = [i for i in range(64) if free >> i & 1 and i != lowest]
    pages = c.pages()[:64]
    assert np.flatnonzero(~pages["allocated"]).tolist() == left
    assert np.flatnonzero(pages["scavenged"]).tolist() == [i for i in left if scavenged >> i & 1]
    assert not pages["cached"].any()
    c.check()


# ---- Go's TestPageAllocAllocToCache ----
# name: chunks, free pages, scavenged pages, then blocks: first page, its free pages, those of them that are scavenged
Block = tuple[int, list[Range], list[Range]]
GO_FILL: dict[str, tuple[int, list[Range], list[Range], list[Block]]] = {
    "AllFree": (
        1,
        [(0, 1), (2, 62), (128, 384)],
        [(1, 1), (64, 64)],
        [
            (0, [(0, 64)], [(1, 1)]),
            (64, [(64, 64)], [(64, 64)]),
            (128, [(128, 64)], []),
            (192, [(192, 64)], []),
        ],
    ),
    "ManyArena": (3, [(1472, 64)], [], [(1472, [(1472, 64)], [])]),
    "NotContiguous": (
        0x100,
        [(0xFF * 512, 31), (0xFF * 512 + 98, 414)],
        [(0xFF * 512 + 31, 67)],
        [(0xFF * 512, [(0xFF * 512, 64)], [(0xFF * 512 + 31, 33)])],
    ),
    "First": (
        1,
        [(64, 2), (68, 28), (128, 384)],
        [(32, 1), (66, 2)],
        [(0, [(32, 1)], [(32, 1)]), (64, [(64, 32)], [(66, 2)])],
    ),
    "RetainScavBits": (
        1,
        [(4, 6), (12, 500)],
        [(1, 3)],
        [(0, [(1, 9), (12, 52)], [(1, 3)])],
    ),
    "DiscontiguousMappedSumBoundary": (
        1024,
        [(511 * 512 + 511, 1), (1023 * 512, 1)],
        [],
        [(511 * 512 + 448, [(511 * 512 + 511, 1)], []), (1023 * 512, [(1023 * 512, 1)], [])],
    ),
}


def numbers(mask: Any, first: int) -> list[int]:
    return [int(i) + first for i in np.flatnonzero(mask)]


def listed(runs: list[Range]) -> list[int]:
    return [page for first, n in runs for page in range(first, first + n)]


@pytest.mark.parametrize("name", GO_FILL)
def test_fill_as_go(name: str) -> None:
    """Each new P fills its cache with the next block; what it takes first is the block's lowest page."""
    chunks, free, scavenged, blocks = GO_FILL[name]
    c = laid_out(chunks, free=free, scavenged=scavenged)
    for block, inside, fresh in blocks:
        p = c.proc_new()
        lowest = inside[0][0]
        was_fresh = any(first <= lowest < first + n for first, n in fresh)
        before = c.stats().heap_released + 0
        assert page_of(c.manual_alloc(p, 1)) == lowest
        assert before - c.stats().heap_released == was_fresh * PAGE
        pages = c.pages()[block : block + 64]
        assert [lowest, *numbers(pages["cached"], block)] == listed(inside)
        c.check()
    kept = [page for page in listed(scavenged) if page not in {inside[0][0] for _, inside, _ in blocks}]
    assert c.stats().heap_released == len(kept) * PAGE
    for p in range(len(blocks)):
        c.page_cache_flush(p)
    assert numbers(c.pages()["scavenged"], 0) == kept


def test_fill_fails() -> None:
    """Go: Fail. Without a free page anywhere the cache stays empty, and the span comes from growth."""
    c = laid_out(1)
    for _ in range(3):
        p = c.proc_new()
        mapped = len(c.pages())
        assert page_of(c.manual_alloc(p, 1)) == mapped
        assert c.pages()["cached"].sum() == 0
        c.manual_alloc(NO_PROC, 511)
