"""Corners of a cycle that random calls reach too seldom."""

from __future__ import annotations

from core import BASE, PAGE, Core

from pymem._native import lib


def test_tiny_block_lives_again() -> None:
    """A block whose last object died takes another before the mark: it lives on."""
    c = Core()
    c.proc_new()
    first = c.malloc(0, 4, True)
    c.mark_dead([first])
    second = c.malloc(0, 4, True)
    assert second == first + 4
    assert c.object_at(second).tiny
    assert c.gc_collect(0, [])[2] == 0
    assert c.gc_collect(0, [second])[2] == 1


def test_tiny_block_lives_again_amid_a_mark() -> None:
    """A block whose objects are all dead when a mark begins takes another before that ends: what joined is kept."""
    c = Core()
    c.proc_new()
    first = c.malloc(0, 4, True)
    c.mark_dead([first])
    c.gc_begin(0)
    c.heap.call(lib.pymem_mark_start, False)
    second = c.malloc(0, 4, True)
    assert second == first + 4
    c.heap.call(lib.pymem_mark_stop)
    c.heap.call(lib.pymem_gc_flip)
    c.gc_end(0)
    assert c.gc_collect(0, [])[2] == 0
    assert [a for a, _ in c.objects(BASE)] == [first]
    assert c.gc_collect(0, [second])[2] == 1


def test_dead_before_the_sweep() -> None:
    """What the mark found dead is gone, though nothing has swept it."""
    c = Core()
    c.proc_new()
    addrs = c.malloc_same(0, 64, True, 0, 300)
    c.mark_dead(addrs[:5])
    c.gc_begin(0)
    c.gc_mark_and_flip()
    assert [a for a, _ in c.objects(BASE)] == addrs[5 : PAGE // 64 - 2]
