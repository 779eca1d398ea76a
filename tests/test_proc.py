"""Processors as the core sees them; what the façade makes of them is in test_runtime.py."""

from __future__ import annotations

import pytest
from core import NO_PROC, Core

import pymem


def test_destroyed_proc_keeps_no_mspan() -> None:
    """A stack span that falls free with the processor's stock gives its mspan to the one that takes it down."""
    c = Core()
    c.proc_new()
    c.proc_new()
    c.stack_free(1, c.stack_alloc(1, 2048), 2048)
    before = c.stats().mspan_inuse
    c.proc_destroy(1)
    after = c.stats().mspan_inuse
    assert before - after == 63 * 160
    c.manual_alloc(0, 1)  # takes the 64th
    assert c.stats().mspan_inuse == after
    c.check()


def test_first_takes_over_the_boot_cache() -> None:
    """The mcache that the process starts with becomes the first processor's: the next object lies beside the last."""
    c = Core()
    first = c.malloc(NO_PROC, 64)
    assert c.proc_new() == 0
    assert c.stats().mcache_inuse == 2296
    assert c.malloc(0, 64) == first + 64
    with pytest.raises(pymem.PymemError, match="this thread has none"):
        c.malloc(NO_PROC, 64)


def test_lowest_free_number() -> None:
    c = Core()
    assert [c.proc_new() for _ in range(3)] == [0, 1, 2]
    c.proc_destroy(1)
    assert [c.proc_new() for _ in range(2)] == [1, 3]
    with pytest.raises(pymem.PymemError, match="no processor 4"):
        c.proc_destroy(4)
