"""Ctrl-C in long work: it comes through soon, and leaves a heap that is whole."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

import pymem
from pymem._native import lib
from pymem.replay import Player
from pymem.rerun import rerun
from pymem.whatif import grid, sweep
from pymem.workload.workload import Workload

_LONG = 60.0
"""Seconds that nobody waits for an interrupt."""


def interrupted(work: Callable[[], object], after: float) -> float:
    """Send SIGINT into the work, and return the seconds that it went on."""
    sent: list[float] = []

    def send() -> None:
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(after, send)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        work()
    timer.join()
    return time.monotonic() - sent[0]


@pytest.fixture(scope="module")
def long() -> Workload:
    rng = np.random.default_rng(1)
    n = 400_000
    return Workload.from_arrays(
        rng.integers(1, 2000, n),
        lifetimes=rng.integers(1, 50_000, n),
        gc_every=50_000,
        births_ns=np.arange(n) * 100,
    )


def forever(work: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        end = time.monotonic() + _LONG
        while time.monotonic() < end:
            work()

    return run


def test_replay(long: Workload) -> None:
    player = Player(long)
    columns = next(long.chunks(1 << 30))

    def play() -> None:
        with Player(long) as other:
            other.play(columns)

    assert interrupted(forever(play), 0.3) < _LONG / 2
    steps = player.steps(columns, most=1000)
    for _ in range(200):
        next(steps)
    player.heap.call(lib.pymem_heap_check)


@pytest.mark.parametrize("after", [0.05, 0.3, 0.7])
def test_heap_amid_replay(long: Workload, after: float) -> None:
    """The very heap that was interrupted."""
    with Player(long, procs=1) as player:
        columns = next(long.chunks(1 << 30))

        def play() -> None:
            for _ in player.steps(columns, most=1 << 10):
                time.sleep(0.002)

        interrupted(play, after)
        player.heap.call(lib.pymem_heap_check)
        assert player.heap.restore(player.heap.snapshot()).snapshot() == player.heap.snapshot()


def test_rerun(long: Workload) -> None:
    assert interrupted(forever(lambda: rerun(long, gogc=50)), 0.5) < _LONG / 2


def test_sweep(long: Workload) -> None:
    """Rows that are at work end amid a run: nobody waits for them."""
    rows = grid(gogc=[50, 100, 200])
    assert interrupted(lambda: sweep(long, rows, draws=1000), 1.0) < 2


def test_sweep_that_is_given_up(long: Workload) -> None:
    """Whatever ends it, nobody goes on with what nobody will look at."""
    before = threading.active_count()

    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(long, grid(gogc=range(50, 150)), draws=1, progress=stop)
    assert threading.active_count() == before


@pytest.mark.parametrize("after", [0.05, 0.2, 0.5, 0.8])
def test_runtime(after: float) -> None:
    """A program's runtime: whole, and one that goes on."""
    with pymem.Runtime(gogc=50, liveness="record") as rt:

        def work() -> None:
            while True:
                rt.declare_dead(rt.malloc_batch(64, 20_000))

        interrupted(work, after)
        rt.check()
        cycles = rt.gc_stats.num_gc
        work_on(rt)
        assert rt.gc_stats.num_gc > cycles
        assert rt.fork().gc() == rt.gc()
        rt.check()


def work_on(rt: pymem.Runtime) -> None:
    for _ in range(20):
        rt.declare_dead(rt.malloc_batch(64, 20_000))


def test_insistent() -> None:
    """An observer that never ends ends at the second Ctrl-C."""
    with pymem.Runtime() as rt:
        rt.on_gc(lambda event: time.sleep(_LONG))
        timer = threading.Timer(0.6, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        assert interrupted(rt.gc, 0.1) < _LONG / 2
        timer.join()
        rt.check()
