"""What-if: one scenario, a grid on one thread and on two, and a thousand scenarios.

How to run: see test_bench_malloc.py. The recording is examples/lru.trace unless PYMEM_BENCH_TRACE names another.
`speed_up` is how many times as fast two threads are, by turns in one run; with two free processors it nears 2.
`held` is the share of a scenario's processor time that is spent in Python, which holds the interpreter's lock. With a
share of h two threads are about 2 / (1 + h^2) times as fast: that is mean value analysis of two customers at one
counter. A run whose answers are compared only (--benchmark-disable) asserts no speed-up.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any

import pytest
from bare_heap import ROUNDS, scale

from pymem._native import lib
from pymem.program import Program, read_program
from pymem.whatif import Row, Scenario, grid, predict, sweep
from pymem.workload.sources import open_stream

LRU = Path(__file__).parents[1] / "examples" / "lru.trace"
TRACE = os.environ.get("PYMEM_BENCH_TRACE", str(LRU))


@pytest.fixture(scope="module")
def program() -> Program:
    """Read the recording once."""
    return read_program(open_stream(TRACE))


class _Timed:
    """The core as the player sees it, its longest function timed."""

    def __init__(self, lib: Any) -> None:
        self._lib = lib
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lib, name)

    def pymem_replay_run(self, *arguments: Any) -> Any:
        begun = thread_time()
        try:
            return self._lib.pymem_replay_run(*arguments)
        finally:
            self.seconds += thread_time() - begun


def held(program: Program, monkeypatch: pytest.MonkeyPatch) -> float:
    """Return the share of a scenario's processor time outside the core's longest function."""
    with monkeypatch.context() as patch:
        timed = _Timed(lib)
        patch.setattr("pymem.replay.lib", timed)
        begun = thread_time()
        predict(program, Scenario(), draws=4)
        return 1 - timed.seconds / (thread_time() - begun)


def test_scenario(benchmark: Any, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run after loading; `ns_per_unit` is a row of the recording."""
    want = predict(program, Scenario(), draws=1)
    got = benchmark.pedantic(lambda: predict(program, Scenario(), draws=1), rounds=ROUNDS, warmup_rounds=1)
    assert got == want
    assert got.num_gc.value > 0
    benchmark.extra_info["held"] = round(held(program, monkeypatch), 2)
    if not benchmark.disabled:
        rows = sum(len(part.columns) for part in program.parts())
        benchmark.extra_info["rows"] = rows
        benchmark.extra_info["ns_per_unit"] = round(benchmark.stats.stats.median / rows * 1e9, 3)


def timed(program: Program, scenarios: tuple[Scenario, ...], workers: int) -> tuple[float, tuple[Row, ...]]:
    """Return the seconds that a grid takes so many threads, and its rows."""
    begun = perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        rows = sweep(program, scenarios, draws=1, executor=pool)
    return perf_counter() - begun, rows


def test_grid_on_two_threads(benchmark: Any, program: Program) -> None:
    """A hundred scenarios, by turns on one thread and on two; the best of each."""
    n = scale(benchmark, 10, 2)
    scenarios = grid(
        gogc=range(20, 20 + 20 * n, 20), memory_limit=["off", *(f"{m}MiB" for m in range(16, 16 + n - 1))]
    )
    assert len(scenarios) == n * n
    alone: list[tuple[float, tuple[Row, ...]]] = []
    together: list[tuple[float, tuple[Row, ...]]] = []
    benchmark.pedantic(
        lambda: together.append(timed(program, scenarios, 2)),
        setup=lambda: alone.append(timed(program, scenarios, 1)),
        rounds=scale(benchmark, 3, 1),
    )
    assert all(rows == alone[0][1] for _, rows in alone + together)
    speed_up = min(alone)[0] / min(together)[0]
    benchmark.extra_info["speed_up"] = round(speed_up, 2)
    assert benchmark.disabled or speed_up > 1


def test_thousand_scenarios(benchmark: Any, program: Program) -> None:
    """On all processors, by threads, from the loaded program on; progress is told after each."""
    n = scale(benchmark, 1000, 10)
    scenarios = tuple(Scenario(20 + i) for i in range(n))
    told: list[tuple[int, int]] = []
    rows = benchmark.pedantic(
        lambda: sweep(program, scenarios, draws=1, progress=lambda *done: told.append(done)), rounds=1
    )
    assert [row.gogc for row in rows] == [s.gogc for s in scenarios]
    assert told == [(i, n) for i in range(n + 1)]
    assert rows[-1].num_gc.value <= rows[0].num_gc.value
    assert replace(rows[n // 2], pareto=False) == predict(program, scenarios[n // 2], draws=1)
