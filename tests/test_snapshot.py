"""Snapshots: what goes on from one gives the results of the original. Files are in `test_snapshot_file.py`."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snapshot_programs import (
    NODE,
    amid_marking,
    contents,
    go_on,
    graph_runtime,
    mark_a_little,
    same,
    start,
)
from strategies import seeds

import pymem
from pymem.gc.controller import Controller
from pymem.gc.costs import Costs
from pymem.gc.events import GCEvent

# ---- forks ----


@settings(max_examples=25, deadline=None)
@given(
    seed=seeds,
    liveness=st.sampled_from(["record", "graph"]),
    before=st.integers(0, 15),
    after=st.integers(1, 12),
    marking=st.booleans(),
    cache=st.sampled_from(["p", "p", "goroutine"]),
    padding=st.sampled_from([0, 3, 600]),
)
def test_fork(
    *, seed: int, liveness: str, before: int, after: int, marking: bool, cache: str, padding: int
) -> None:
    """A fork at any safepoint, and a fork of the fork, go on as the original does."""
    one = start(seed, liveness, cache=cache, heap_padding_pages=padding, gomaxprocs=seed % 3 + 1)
    one.run(before)
    if marking:
        amid_marking(one)
    other = one.fork()
    same(one, other)
    one.run(after)
    other.run(after)
    same(one, other)
    third = other.fork()
    one.seen, one.trace_from = [], one.trace.tell()
    one.run(3)
    third.run(3)
    same(one, third)


@pytest.mark.parametrize("liveness", ["record", "graph"])
def test_fork_at_every_stage(liveness: str) -> None:
    """Amid marking, amid sweeping, between cycles: each was met, and each goes on alike."""
    one = start(5, liveness, gomaxprocs=2)
    met = set()
    for k in range(200):
        one.rt.malloc_batch(48, 3000, p=k % 2)
        addrs = one.rt.malloc_batch(48, 1500, p=k % 2)
        if liveness == "record":
            one.rt.declare_dead(addrs)
        elif k % 5 == 0:
            one._take(addrs)
        gc = one.rt._gc
        stage = "mark" if gc._mark else "idle" if gc.sweeper.done else "sweep"
        if stage in met and k % 10:
            continue
        met.add(stage)
        other = one.fork()
        for program in (one, other):
            program.seen.append(program.rt.malloc_batch(48, 40_000).tolist())
            program.seen.append(repr(program.rt.read_mem_stats()))
            program.seen.append(repr(program.rt.gc_stats))
        same(one, other)
    assert met == {"mark", "idle", "sweep"}


@pytest.mark.parametrize(
    ("field", "costs"),
    [
        ("_globals_done", Costs(worker_start_ns=0, mark_byte_ns=50.0)),
        ("_mark_ends", Costs(worker_start_ns=0, mark_end_ns=9_000_000)),
    ],
)
def test_fork_while_somebody_waits(field: str, costs: Costs) -> None:
    """A worker is at a block of globals; nothing is left to mark and the Ps are being asked."""
    one = start(5, "record", gomaxprocs=2, costs=costs)
    for _ in range(20_000):
        if getattr(one.rt._gc, field):
            break
        one.rt.malloc_batch(48, 400)
        one.rt.work(20_000)
    assert getattr(one.rt._gc, field)
    other = one.fork()
    for program in (one, other):
        for _ in range(10):
            program.rt.work(2_000_000)  # not all at once: an assist would end the mark
            program.seen.append(program.rt.malloc(16))
        program.seen.append(program.rt.malloc_batch(48, 40_000).tolist())
        program.seen.append(repr(program.rt.gc_stats))
    same(one, other)


def test_original_is_left_alone() -> None:
    one, two = start(9), start(9)
    for program in (one, two):
        program.run(8)
    one.rt.snapshot()
    one.rt.fork()
    same(one, two)


def test_many_times() -> None:
    """One warm prefix, any number of runs."""
    program = start(3)
    program.run(10)
    snapshot = program.rt.snapshot()
    results = []
    for gogc in (50, 200, 50):
        with pymem.Runtime.restore(snapshot) as rt:
            rt.set_gc_percent(gogc)
            addrs = rt.malloc_batch(64, 300_000)
            results.append((addrs.tolist(), rt.gc_stats.num_gc, rt.now, repr(rt.read_mem_stats())))
    assert results[0] == results[2]
    assert results[0] != results[1]


def test_goroutines_and_types() -> None:
    with pymem.Runtime(gomaxprocs=2) as rt:
        g = rt.go("worker", p=1)
        t = rt.register_type("T", 48)
        fork = rt.fork()
        [copy] = fork.goroutines
        assert (copy.id, copy.name, copy.p, copy.stack) == (g.id, "worker", 1, g.stack)
        assert fork.types == rt.types
        assert copy.malloc(48, type=t) == g.malloc(48, type=t)
        assert copy.grow_stack() == g.grow_stack()
        copy.exit()
        assert (rt.num_goroutine(), fork.num_goroutine()) == (1, 0)
        assert fork.go().id == 2
        fork.check()


def test_observers_stay_behind() -> None:
    """And cannot take a snapshot: the collector is in the middle of a step."""
    with pymem.Runtime() as rt:
        events: list[GCEvent] = []
        rt.on_gc(events.append)
        rt.fork().gc()
        assert not events
        rt.on_gc(lambda event: rt.fork().close())
        with pytest.raises(pymem.ConfigError, match="when the call is over"):
            rt.gc()


def test_closed() -> None:
    rt = pymem.Runtime()
    snapshot = rt.snapshot()
    rt.close()
    with pytest.raises(pymem.ClosedError):
        rt.snapshot()
    assert pymem.Runtime.restore(snapshot).malloc(8)


class TwiceLive(Controller):
    """A policy of one's own."""

    __slots__ = ("asked",)

    def __init__(self) -> None:
        self.asked = 0
        super().__init__()

    def trigger(self) -> tuple[int, int]:
        self.asked += 1
        goal = max(2 * self.heap_marked, 4 << 20)
        return goal * 3 // 4, goal


def test_own_pacer(tmp_path: Path) -> None:
    """It is copied for each fork, but does not go to a file."""
    pacer = TwiceLive()
    with pymem.Runtime(pacer=pacer, gogc=100) as rt:
        rt.malloc_batch(64, 100_000)
        fork = rt.fork()
        copy = fork._gc.pacer
        assert isinstance(copy, TwiceLive)
        assert copy is not pacer
        assert (copy.asked, copy.globals_scan) == (pacer.asked, pacer.globals_scan)
        assert fork.malloc_batch(64, 100_000).tolist() == rt.malloc_batch(64, 100_000).tolist()
        assert fork.now == rt.now
        assert copy.asked == pacer.asked
        with pytest.raises(pymem.ConfigError, match=r"TwiceLive.* cannot go to a file"):
            rt.snapshot().save(tmp_path / "x")
        assert not list(tmp_path.iterdir())


# ---- programs with types, roots and frames ----


@settings(max_examples=20, deadline=None)
@given(seed=seeds, marking=st.booleans(), budget=st.integers(1, 120_000))
def test_fork_of_a_graph(*, seed: int, marking: bool, budget: int) -> None:
    """A fork has types, roots, frames and contents, amid a mark too; both go on equal."""
    with graph_runtime(seed) as rt:
        rt.gc()  # so that the next mark begins with what this one left of its queue
        if marking:
            mark_a_little(rt, budget)
        with rt.fork() as fork:
            assert fork.types == rt.types
            assert contents(fork) == contents(rt)
            assert go_on(fork, 4) == go_on(rt, 4)
            assert fork.snapshot().heap == rt.snapshot().heap
            assert fork.snapshot().state == rt.snapshot().state
            rt.check()
            fork.check()


def test_fork_shares_nothing() -> None:
    """What one does to names, frames and contents the other does not see."""
    with graph_runtime(3) as rt, rt.fork() as fork:
        before = dict(fork.globals), [dict(f) for g in fork.goroutines for f in g.frames], contents(fork)
        for g in rt.goroutines:
            g.frames[-1]["c"] = 0
            g.frames[-1].leave()
            g.roots["mine"] = 0
        rt.globals["g0"], rt.globals["new"] = 0, 0
        rt.store(rt.new(NODE), "next", 0)
        rt.gc()
        assert before == (
            dict(fork.globals),
            [dict(f) for g in fork.goroutines for f in g.frames],
            contents(fork),
        )
