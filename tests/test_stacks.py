"""Goroutines' stacks, as the pacer counts them: what a cycle might have to scan of them."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pymem
from pymem.gc.pacer import GoPacer
from pymem.rerun import rerun
from pymem.workload.columns import Columns, Event
from pymem.workload.workload import Workload

STACK_MIN = 2048


def counted(rt: pymem.Runtime) -> int:
    return rt._gc.pacer.max_stack_scan


def test_each_growth_counts() -> None:
    """In go1.27.3 at one P gcController.maxStackScan grows by as much for 300 goroutines, and falls again."""
    with pymem.Runtime() as rt:
        gs = [rt.go() for _ in range(300)]
        for g in gs:
            for _ in range(6):
                g.grow_stack()
        assert counted(rt) == 39_321_600
        for g in gs:
            g.exit()
        assert counted(rt) == 0


def test_without_a_p_all_counts_at_once() -> None:
    """A goroutine with a cache of its own is on no P that could keep anything to itself."""
    with pymem.Runtime(cache="goroutine") as rt:
        g = rt.go()
        assert counted(rt) == STACK_MIN
        g.grow_stack()
        assert counted(rt) == 2 * STACK_MIN
        g.exit()
        assert counted(rt) == 0


def test_no_stack_that_could_not_be_had() -> None:
    with pymem.Runtime(cache="goroutine") as rt:
        rt.set_max_stack(4096)
        g = rt.go()
        g.grow_stack()
        with pytest.raises(pymem.SizeError):
            g.grow_stack()
        assert counted(rt) == 4096


class Model:
    """The count of Go's addScannableStack, P by P."""

    def __init__(self) -> None:
        self.told = 0
        self.kept: dict[int, int] = defaultdict(int)

    def add(self, amount: int, p: int) -> None:
        self.kept[p] += amount
        if abs(self.kept[p]) >= 8192:
            self.told += self.kept.pop(p)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["go", "grow", "exit", "fork", "procs"]), st.integers(0, 99))))
def test_as_the_model_counts(steps: list[tuple[str, int]]) -> None:
    rt, model = pymem.Runtime(gomaxprocs=3), Model()
    for step, n in steps:
        gs = rt.goroutines
        if step == "go":
            p = n % rt.gomaxprocs()
            rt.go(p=p)
            model.add(STACK_MIN, p)
        elif step == "fork":
            old, rt = rt, rt.fork()
            old.close()
        elif step == "procs":
            rt.gomaxprocs(n % 4 + 1)
        elif gs:
            g = gs[n % len(gs)]
            assert g.p is not None
            model.add(g.stack_size if step == "grow" else -g.stack_size, g.p)
            g.grow_stack() if step == "grow" else g.exit()
        assert counted(rt) == model.told % (1 << 64)
    rt.close()


def test_more_stack_eases_assists_of_a_heap_that_grows() -> None:
    """Marking found more than expected: now all that might have to be scanned counts, at the ratio that was planned."""
    extended = []
    for growths in (0, 8):
        with pymem.Runtime(gogc=100) as rt:
            for _ in range(64):
                g = rt.go()
                for _ in range(growths):
                    g.grow_stack()
            pacer = rt._gc.pacer
            assert isinstance(pacer, GoPacer)
            pacer.triggered, pacer.last_heap_scan, pacer.heap_scan = 3 << 20, 1 << 20, 2 << 20
            extended.append(pacer._beyond(3 << 20, 2 << 20, 4 << 20, 1 << 20))
    (goal, work), (more_goal, more_work) = extended
    assert more_work - work == 64 * STACK_MIN * (2**8 - 1)
    assert more_goal > goal


def program_with_stacks(n: int) -> Workload:
    """Return a workload that starts n stacks of 32 KB, gives half of them back, and allocates."""
    rows = [(Event.PROC_NEW, 0, 0, -1)]
    rows += [(Event.STACK_ALLOC, i, 32768, 0) for i in range(n)]
    rows += [(Event.STACK_FREE, i, 32768, 0) for i in range(n // 2)]
    rows += [(Event.ALLOC, n + i, 64, 0) for i in range(1000)]
    kind, handle, size, proc = (np.array(column) for column in zip(*rows, strict=True))
    zeros = np.zeros(len(rows), np.int64)
    columns = Columns(
        time=np.arange(len(rows)) * 100, kind=kind.astype(np.uint8), flags=zeros.astype(np.uint8),
        proc=proc.astype(np.int16), goroutine=zeros.astype(np.uint32), type=zeros.astype(np.uint32),
        object=handle.astype(np.uint64), size=size.astype(np.uint64), expect=zeros.astype(np.uint64),
    )  # fmt: skip
    return Workload(columns=columns, tier="trace", resolution="cycle")


def test_rerun_counts_the_records_stacks() -> None:
    pacer = GoPacer()
    rerun(program_with_stacks(100), gogc=100, pacer=pacer)
    assert pacer.max_stack_scan == 50 * 32768
