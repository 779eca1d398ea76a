"""Which trace lines come when: the forms of single lines are in `test_gctrace.py`."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from driven import Driven, programs
from hypothesis import given, settings

import pymem
from pymem.env import Settings
from pymem.gc.costs import Costs
from pymem.gc.events import GCEvent, GCPhase
from pymem.stats.gctrace import go_float

MB = 1 << 20
ALL = Settings(gctrace=1, gcpacertrace=1, scavtrace=1)
STARTS = {"pacer: assist": "a", "pacer: sweep": "s", "pacer: ": "p", "gc ": "g", "scav ": "v"}
PHASES = [phase for phase in GCPhase if phase is not GCPhase.COMPACTION]
CYCLE = re.compile("ap?gsv")
"""Of a cycle, as go1.27.3 prints it: one line of each kind, the pacer's second only if the heap grew meanwhile."""


def letters(lines: list[str]) -> str:
    """Return a letter a line; lines of memory given back by force are left out."""
    kept = [line for line in lines if not line.endswith("(forced)") or line.startswith("gc ")]
    return "".join(next(c for start, c in STARTS.items() if line.startswith(start)) for line in kept)


@settings(max_examples=40, deadline=None)
@given(programs())
def test_any_program_has_a_line_of_each_kind_a_cycle(program: list[tuple[str, int]]) -> None:
    out = io.StringIO()
    driven, phases = Driven(settings=ALL, trace=out), list[GCPhase]()
    with driven.rt as rt:
        rt.on_gc(lambda event: phases.append(event.phase))
        for step in program:
            driven.step(*step)
        rt.gc()
        assert CYCLE.sub("", letters(out.getvalue().splitlines())) == ""
        assert len(CYCLE.findall(letters(out.getvalue().splitlines()))) == rt.gc_stats.num_gc
        assert phases.count(GCPhase.SWEPT) == rt.gc_stats.num_gc
    if not any(step[0] == "dead" for step in program):  # of which the core does all at once
        assert phases == PHASES * (len(phases) // len(PHASES))


def runtime(**options: Any) -> pymem.Runtime:
    return pymem.Runtime(gogc=100, liveness="record", **options)


def paced_sweep(rt: pymem.Runtime) -> list[str]:
    """Grow the heap past its goal once and return what the sweep after that ought to tell: pages, and pages a byte."""
    told: list[str] = []

    def observe(event: GCEvent) -> None:
        if event.phase is GCPhase.SWEEP:
            pages = int(rt.spans()["pages"].sum())
            room = rt._gc.pacer.trigger()[0] - event.heap_live - MB
            told.append(f"swept {pages} pages at {go_float(pages / room)} pages/byte")

    rt.on_gc(observe)
    while not told:
        rt.malloc_batch(64, 1000, noscan=True)
    return told


@pytest.mark.parametrize("by", ["allocation", "background", "gc", "dead"])
def test_sweep_is_told_whoever_ends_it(by: str) -> None:
    """A line a sweep, of all pages that were in use, at the pace at which it shall end 1 MB before the trigger."""
    out = io.StringIO()
    costs = Costs(malloc_ns=0, malloc_byte_ns=0) if by == "allocation" else Costs()
    with runtime(settings=Settings(gcpacertrace=1), trace=out, costs=costs) as rt:
        (told,) = paced_sweep(rt)
        assert "sweep done" not in out.getvalue()
        if by == "allocation":
            rt.malloc_batch(64, 7 * MB // 2 // 64, noscan=True)
        elif by == "background":
            rt.sleep(1e6)
        else:
            rt.gc() if by == "gc" else rt.gc([])
        rt.sleep(1)
        line = next(line for line in out.getvalue().splitlines() if "sweep done" in line)
        assert line.endswith(told)


def test_sweep_that_an_allocation_ends_has_its_heap_size() -> None:
    """Not that of later, when somebody looks."""
    with runtime(costs=Costs(malloc_ns=0, malloc_byte_ns=0)) as rt:
        paced_sweep(rt)
        rt.malloc_batch(64, 7 * MB // 2 // 64, noscan=True)
        first = rt._gc.sweeper.trace()
        assert first.heap_live > first.heap_live_basis
        rt.malloc_batch(64, MB // 4 // 64, noscan=True)
        assert rt.gc_stats.num_gc == 1
        assert rt._gc.sweeper.trace() == first
        with rt.fork() as copy:
            assert copy._gc.sweeper.trace() == first
