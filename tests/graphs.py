"""Collections by graph, for tests: a whole one with the world stopped."""

from __future__ import annotations

from typing import Any

import pymem
from pymem._native import ffi, lib

_ALL = 2**63 - 1


def collect(rt: pymem.Runtime, *, budget: int = _ALL) -> Any:
    """Mark from the roots, budget bytes of work a call, sweep everything, and return the mark's totals."""
    heap, proc = rt._heap, rt._sched.proc(0)
    heap.call(lib.pymem_gc_begin, proc)
    heap.call(lib.pymem_mark_start_graph, 0)
    progress, totals = ffi.new("pymem_mark_progress *"), ffi.new("pymem_mark_totals *")
    while not progress.idle:
        heap.call(lib.pymem_mark_drain, budget, progress)
    heap.call(lib.pymem_mark_get, totals)
    heap.call(lib.pymem_mark_stop)
    heap.call(lib.pymem_gc_flip)
    heap.call(lib.pymem_gc_end, proc, True)
    heap.call(lib.pymem_sweep_all, proc, ffi.new("uint64_t *"))
    return totals
