"""Sweeping: in turn, in proportion to allocation, for a refill, and by the reclaimer that looks for pages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from core import PAGE, Core

MB = 1 << 20
NOSCAN = True
LARGE = 4 * PAGE + 1  # five pages


@pytest.fixture
def core() -> Iterator[Core]:
    core = Core()
    core.proc_new()
    yield core
    core.check()
    core.close()


def unswept(core: Core) -> int:
    """Count spans that the one cycle of a test has left unswept: sweepgen is 2 since its flip."""
    spans = core.spans()
    return int(((spans["state"] == 1) & (spans["sweepgen"] == 0)).sum())


def turn(core: Core, dead: list[int]) -> None:
    """A cycle up to the flip: everything is unswept, and the proc's spans are swept on their way out."""
    core.gc_begin(0)
    core.mark_dead(dead)
    core.gc_mark_and_flip()
    core.gc_end(0)
    core.flush(0)


def test_in_turn(core: Core) -> None:
    """Span classes ascending, in each the full spans first, and within a set the one that was put there first."""
    small = core.malloc_same(0, 16, NOSCAN, 0, 1200)
    large = [core.malloc(0, LARGE, NOSCAN) for _ in range(2)]
    scan = core.malloc_same(0, 48, False, 0, 2)
    core.flush(0)
    turn(core, [])
    swept = [core.sweep_one(0) for _ in range(unswept(core))]
    assert core.sweep_one(0) == 0
    small_spans = sorted({a & ~(PAGE - 1) for a in small})
    assert swept == [*large, *small_spans, scan[0]]


def test_refill_sweeps_partial_span(core: Core) -> None:
    addrs = core.malloc_same(0, 1024, NOSCAN, 0, 80)  # ten spans of 8
    core.flush(0)
    turn(core, [addrs[13]])
    assert core.malloc(0, 1024, NOSCAN) == addrs[13]
    assert unswept(core) == 8  # the first, full one and the second were swept


def test_refill_gives_up_after_100(core: Core) -> None:
    """A refill that sweeps a hundred full spans in vain takes a fresh one."""
    core.malloc_same(0, 1024, NOSCAN, 0, 8 * 150)
    core.flush(0)
    turn(core, [])
    before = int(core.stats().heap_inuse)
    core.malloc(0, 1024, NOSCAN)
    assert unswept(core) == 150 - 101
    assert int(core.stats().heap_inuse) == before + PAGE


@pytest.mark.parametrize("freed", [1, 5, 9])
def test_reclaim_before_growth(core: Core, freed: int) -> None:
    """A large allocation first sweeps pages free: spans without a mark, in address order, until it has as many."""
    spans = [core.malloc(0, LARGE, NOSCAN) for _ in range(120)]
    turn(core, spans[10 : 10 + freed])
    mapped = int(core.stats().heap_sys)
    assert core.malloc(0, LARGE, NOSCAN) == spans[10]
    assert (
        unswept(core) == 120 - freed
    )  # one chunk of 512 pages was looked through, and all its dead spans swept
    assert int(core.stats().heap_sys) == mapped


def test_reclaim_stops_at_its_chunk(core: Core) -> None:
    """Dead spans beyond the 512 pages it had to look at stay for later."""
    spans = [core.malloc(0, LARGE, NOSCAN) for _ in range(300)]
    turn(core, [spans[3], spans[250]])
    core.malloc(0, LARGE, NOSCAN)
    assert unswept(core) == 299


def test_reclaim_uses_credit(core: Core) -> None:
    """Pages that sweeping in turn gave back count: no further span is swept for them."""
    spans = [core.malloc(0, LARGE, NOSCAN) for _ in range(40)]
    turn(core, [spans[0], spans[20]])
    assert core.sweep_one(0) == spans[0]
    core.malloc(0, LARGE, NOSCAN)
    assert unswept(core) == 39


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_credit(core: Core, share: float) -> None:
    """By the time heapLive has come a part of the way to 1 MB below the trigger, that part of the pages is swept."""
    core.malloc_same(0, 8192, NOSCAN, 0, 1000)
    core.flush(0)
    turn(core, [])
    live = int(core.stats().heap_live)
    assert live == 1000 * PAGE
    core.pace_sweeper(live + 5 * MB)  # 4 MB for 1,000 pages
    for _ in range(2 * int(share * 4 * MB / PAGE)):
        core.malloc(0, 4096, NOSCAN)  # another span class: its refills find nothing to sweep of their own
    assert unswept(core) == pytest.approx(1000 * (1 - share), abs=2)


def test_no_credit_without_pace(core: Core) -> None:
    core.malloc_same(0, 8192, NOSCAN, 0, 100)
    core.flush(0)
    turn(core, [])
    core.malloc(0, 4096, NOSCAN)
    assert unswept(core) == 100
