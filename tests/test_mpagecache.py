"""A processor's own 64 pages."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from core import BASE, NO_PROC, PAGE, Core


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
