"""Heaps whose pages are as a test wants them: taken, free, or free and scavenged."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from core import BASE, NO_PROC, PAGE, Core

CHUNK = 512
Range = tuple[int, int]  # first page, pages


def page_of(addr: int) -> int:
    return (addr - BASE) // PAGE


def addr_of(page: int) -> int:
    return BASE + page * PAGE


def take(c: Core, want: int, npages: int) -> None:
    assert page_of(c.manual_alloc(NO_PROC, npages)) == want


def laid_out(
    chunks: int, *, free: Iterable[Range] = (), scavenged: Iterable[Range] = (), spans: Iterable[Range] = ()
) -> Core:
    """Return a heap of some chunks. What is neither free nor scavenged is taken; `spans` names spans of it.

    No processor is made, so there is no page cache.
    """
    c = Core()
    c.manual_free(NO_PROC, c.manual_alloc(NO_PROC, chunks * CHUNK))
    at = 0
    for first, npages in sorted([*free, *scavenged, *spans]):
        if first > at:
            take(c, at, first - at)
        take(c, first, npages)
        at = first + npages
    if at < chunks * CHUNK:
        take(c, at, chunks * CHUNK - at)
    for first, _ in scavenged:
        c.manual_free(NO_PROC, addr_of(first))
    c.scavenge_all()
    for first, _ in free:
        c.manual_free(NO_PROC, addr_of(first))
    return c


def ranges(mask: Iterable[bool]) -> list[Range]:
    """Return the runs of true pages."""
    pages = np.flatnonzero(np.asarray(list(mask)))
    parts = np.split(pages, np.flatnonzero(np.diff(pages) > 1) + 1)
    return [(int(p[0]), len(p)) for p in parts if len(p)]


def scavenged_pages(c: Core) -> list[Range]:
    return ranges(c.pages()["scavenged"])


def free_pages(c: Core) -> list[Range]:
    """Return the free pages that no page cache holds, scavenged or not."""
    return ranges(~c.pages()["allocated"])
