"""Predictions: the same whoever works them out, marked where they are worth having, and honest about their spread."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymem.errors import ConfigError
from pymem.gc.costs import Costs
from pymem.program import Program, read_program
from pymem.rerun import CENTRE, rerun
from pymem.stats.gctrace import gctrace_line
from pymem.units import NO_LIMIT
from pymem.whatif import (
    Estimate,
    Figures,
    Row,
    Scenario,
    figures,
    grid,
    mark_pareto,
    predict,
    recommend,
    sweep,
)
from pymem.whatif.leak import leak
from pymem.whatif.predict import chances, thrashes
from pymem.workload.sources import open_stream
from pymem.workload.synthetic import steady
from pymem.workload.workload import Workload, WorkloadType

TRACE = Path(__file__).parent.parent / "examples" / "lru.trace"
SCENARIOS = grid(gogc=[50, 100, 200])
MIB = 1 << 20


@pytest.fixture(scope="module")
def program() -> Program:
    return read_program(open_stream(TRACE))


@pytest.fixture(scope="module")
def serial(program: Program) -> tuple[Row, ...]:
    return mark_pareto(predict(program, s, draws=3) for s in SCENARIOS)


def row(memory: float, cpu: float, **more: Any) -> Row:
    """Return a row with this peak footprint and GC CPU, all else 1."""
    same = {name: Estimate(1.0, 1.0, 1.0) for name in Figures._fields}
    same |= {"peak_footprint": Estimate(memory, memory, memory), "gc_cpu": Estimate(cpu, cpu, cpu)}
    return Row(gogc=100, memory_limit=NO_LIMIT, gomaxprocs=1, tier="trace", **(same | more))


# ---- scenarios ----


def test_grid_is_every_combination_once() -> None:
    got = grid(gogc=[50, "100", "off", 50], memory_limit=["off", "1GiB"], gomaxprocs=[2, 4])
    assert len(got) == len(set(got)) == 3 * 2 * 2
    assert got[0] == Scenario(50, NO_LIMIT, 2)
    assert str(got[-1]) == "GOGC=off GOMEMLIMIT=1GiB GOMAXPROCS=4"


@pytest.mark.parametrize(
    "bad",
    [{"gogc": ["x"]}, {"memory_limit": ["1GB"]}, {"gomaxprocs": [0]}, {"gomaxprocs": [1.5]}, {"gogc": []}],
)
def test_grids_that_cannot_be(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        grid(**bad)


# ---- figures ----


def test_figures_are_the_runs(program: Program) -> None:
    run = rerun(program, gogc=50)
    f = figures(run)
    assert f.num_gc == len(run.cycles) > 1
    assert f.peak_heap == max(c.heap1 for c in run.cycles)
    assert f.peak_footprint == run.timeline["mapped_ready"].max()
    assert f.marked_bytes == sum(c.heap2 for c in run.cycles)
    t = run.timeline
    held = [int(t["heap_live"][i]) * int(t["time_ns"][i + 1] - t["time_ns"][i]) for i in range(len(t) - 1)]
    assert f.mean_heap == pytest.approx(sum(held) / int(t["time_ns"][-1] - t["time_ns"][0]))
    assert 0 < f.gc_cpu < 1
    assert (f.limited, f.effective_gogc) == (0.0, 50.0)


def test_pauses_are_like_the_recorded_ones(program: Program) -> None:
    run = rerun(program, gogc=50)
    recorded = np.array([10, 20, 30, 40, 1000])
    f = figures(run, recorded)
    n = 2 * len(run.cycles)
    assert f.pause_ns == 30
    assert f.pause_max_ns == pytest.approx(np.quantile(recorded, n / (n + 1)))
    assert f.pause_ns <= f.pause_p99_ns <= f.pause_max_ns <= 1000


def test_longest_pause_follows_the_number_of_cycles() -> None:
    """And the 99th percentile up to 50 cycles, of which one in a hundred pauses is the longest."""
    recorded = np.arange(1, 1001)
    made = Workload.from_arrays(np.full(1500, 65536), noscan=True, lifetimes=10)
    few, more, many = (figures(rerun(made, gogc=g), recorded) for g in (400, 100, 25))
    assert few.num_gc < more.num_gc < 50 < many.num_gc
    assert few.pause_ns == more.pause_ns == many.pause_ns == np.median(recorded)
    assert few.pause_max_ns == few.pause_p99_ns < more.pause_max_ns == more.pause_p99_ns < many.pause_p99_ns
    assert many.pause_p99_ns == np.quantile(recorded, 0.99) < many.pause_max_ns <= 1000


def test_limit_shows_in_the_effective_gogc(program: Program) -> None:
    f = figures(rerun(program, gogc=400, memory_limit="10MiB"))
    assert 0 <= f.effective_gogc < 400
    assert figures(rerun(program, gogc="off")).effective_gogc == math.inf


# ---- draws ----


def test_draws_are_the_same_for_a_seed_and_begin_with_the_centre() -> None:
    assert chances(5, 7) == chances(5, 7)
    assert chances(5, 7)[:3] == chances(3, 7)
    assert chances(5, 7) != chances(5, 8)
    assert chances(1, 7) == (CENTRE,)


def test_more_draws_than_one_are_a_median_with_an_interval(program: Program) -> None:
    runs = [figures(rerun(program, gogc=50, chance=c)).peak_heap for c in chances(5, 0)]
    got = predict(program, Scenario(50), draws=5).peak_heap
    assert got.value == np.median(runs)
    assert got.low < got.value < got.high
    one = predict(program, Scenario(50), draws=1).peak_heap
    assert one.value == runs[0]
    assert one.high / one.low < got.high / got.low


def test_intervals_are_wider_where_less_is_known(program: Program, tmp_path: Path) -> None:
    """Under a limit that binds cycles are harder to tell; from a log, which tells no objects, more so."""
    log = tmp_path / "log"
    log.write_text("".join(f"{gctrace_line(c)}\n" for c in rerun(program, gogc=25).cycles))
    of_log = read_program(open_stream(log))

    def width(of: Program, scenario: Scenario) -> float:
        e = predict(of, scenario, draws=1).num_gc
        return (e.high - e.low) / e.value

    free, loose, tight = Scenario(25), Scenario(25, 1 << 30), Scenario(-1, 8 * MIB)
    assert width(program, loose) == width(program, free)
    assert width(program, free) < width(program, tight) < width(of_log, tight)
    assert width(program, free) < width(of_log, free) < width(of_log, tight)


def test_collecting_all_the_time_is_for_the_limit() -> None:
    """Without a limit, or far from it, a busy collector is GOGC's."""
    far = {"limited": 0.0, "gc_cpu": 0.45, "peak_footprint": 5.0 * MIB}
    assert thrashes(Scenario(-1, 8 * MIB), effective_gogc=3.0, **far)
    assert thrashes(Scenario(100, 8 * MIB), effective_gogc=50.0, **far)
    assert not thrashes(Scenario(5, 8 * MIB), effective_gogc=5.0, **far)
    assert thrashes(Scenario(5, 5 * MIB), effective_gogc=5.0, **far)
    assert not thrashes(Scenario(5), effective_gogc=5.0, **far)
    assert not thrashes(Scenario(-1, 8 * MIB), effective_gogc=3.0, **far | {"gc_cpu": 0.3})
    held = far | {"gc_cpu": 0.3, "limited": 0.1}
    assert thrashes(Scenario(100, 5 * MIB), effective_gogc=100.0, **held)
    assert not thrashes(Scenario(100, 1 << 40), effective_gogc=100.0, **held)


def test_limit_that_binds_in_some_draws_only(program: Program) -> None:
    """A run without a cycle has no effective GOGC: the interval is from the least to the most, and no NaN."""
    limits = [14 * MIB + i * MIB // 4 for i in range(16)]
    got = [predict(program, Scenario(-1, limit), draws=3).effective_gogc for limit in limits]
    assert all(e.low <= e.value <= e.high for e in got)
    assert math.isfinite(got[0].high)
    assert math.isinf(got[-1].low)


def test_a_draw_without_a_collection_does_not_burst_the_interval(program: Program) -> None:
    """Near where the recording ends before a collection some draws have none."""
    for gogc in (280, 340, 400):
        got = predict(program, Scenario(gogc), draws=6)
        assert got.num_gc.high <= 4
        assert got.gc_cpu.high < 0.5


def test_limit_that_does_not_bind_changes_nothing(program: Program) -> None:
    """It only has the heap looked at more often: the program's time and its page faults are the same."""
    free, roomy = (figures(rerun(program, gogc=50, memory_limit=m)) for m in ("off", "64GiB"))
    assert abs(free.num_gc - roomy.num_gc) <= 1
    assert roomy.duration_ns == pytest.approx(free.duration_ns, rel=0.05)
    assert predict(program, Scenario(5, 1 << 36), draws=1).warning == ""


# ---- the front ----


def test_front_by_hand() -> None:
    got = mark_pareto([row(1, 9), row(2, 5), row(3, 5), row(4, 1), row(4, 2), row(1, 9), row(5, 1)])
    assert [r.pareto for r in got] == [True, True, False, True, False, True, False]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=20))
def test_front_is_what_nobody_beats(points: list[tuple[int, int]]) -> None:
    marked = mark_pareto([row(float(m), float(c)) for m, c in points])
    for (m, c), r in zip(points, marked, strict=True):
        beaten = any((a <= m and b <= c) and (a, b) != (m, c) for a, b in points)
        assert r.pareto == (not beaten)


# ---- sweeps ----


def test_threads_give_the_serial_rows(program: Program, serial: tuple[Row, ...]) -> None:
    assert sweep(program, SCENARIOS, draws=3) == serial
    with ThreadPoolExecutor(1) as one:
        assert sweep(program, reversed(SCENARIOS), draws=3, executor=one) == serial[::-1]


def test_processes_give_the_serial_rows(serial: tuple[Row, ...]) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        assert sweep(TRACE, SCENARIOS, draws=3, executor=processes) == serial


class _Counting(Executor):
    """Works at once, counts, and fails from the n-th on."""

    def __init__(self, most: int) -> None:
        self.done, self.most = 0, most

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if self.done >= self.most:
            future.set_exception(KeyboardInterrupt())
        else:
            self.done += 1
            future.set_result(fn(*args, **kwargs))
        return future


def test_interrupted_sweep_goes_on(program: Program, serial: tuple[Row, ...], tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    with pytest.raises(KeyboardInterrupt):
        sweep(program, SCENARIOS, draws=3, executor=_Counting(2), results=file)
    done = len(file.read_text().splitlines()) - 1
    with open(file, "a") as cut:
        cut.write('{"scenario": [200, 92233720')
    with open(file, "r+b") as whole_but_for_its_end:
        whole_but_for_its_end.truncate(file.stat().st_size - 1)
    rest = _Counting(9)
    assert sweep(program, SCENARIOS, draws=3, executor=rest, results=file) == serial
    assert rest.done == len(SCENARIOS) - done
    again = _Counting(0)
    assert sweep(program, SCENARIOS, draws=3, executor=again, results=file) == serial


def test_results_are_of_the_program_however_it_is_given(
    program: Program, serial: tuple[Row, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its path in any spelling, as a source or read already; to threads or to others that read it themselves."""
    file = tmp_path / "rows.jsonl"
    sweep(TRACE, SCENARIOS, draws=3, results=file)
    monkeypatch.chdir(TRACE.parent)
    for source in (program, TRACE.name, str(TRACE), open_stream(TRACE)):
        assert sweep(source, SCENARIOS, draws=3, executor=_Counting(0), results=file) == serial
        assert sweep(source, SCENARIOS, draws=3, results=file) == serial
    assert len(file.read_text().splitlines()) == 1 + len(SCENARIOS)


def test_results_of_a_saved_workload(tmp_path: Path) -> None:
    """Its types count too, though no row of its columns differs."""
    made, file = steady(2000), tmp_path / "rows.jsonl"
    sweep(made, SCENARIOS, draws=1, results=file)
    sweep(made.save(tmp_path / "w.pymem"), SCENARIOS, draws=1, executor=_Counting(0), results=file)
    other = replace(made, types=(*made.types, WorkloadType("main.T", 8, 8)))
    with pytest.raises(ConfigError, match="another recording"):
        sweep(other, SCENARIOS, draws=1, results=file)


def test_results_of_other_costs_are_refused(program: Program, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    sweep(program, SCENARIOS[:1], draws=1, results=file)
    for how in (
        {"costs": Costs(sweep_span_ns=1)},
        {"globals_bytes": 5},
        {"spread": False},
        {"calibrated": False},
    ):
        other = read_program(open_stream(TRACE), keep=False, **how)
        with pytest.raises(ConfigError, match="another recording"):
            sweep(other, SCENARIOS[:1], draws=1, results=file)


@pytest.mark.parametrize("text", ["", "junk\n", "{}\n", '{"pymem": "whatif 1"}\n'])
def test_file_of_other_results_is_refused_and_left_alone(program: Program, text: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(text)
    with pytest.raises(ConfigError, match="new file"):
        sweep(program, SCENARIOS, draws=3, results=file)
    assert file.read_text() == text


def test_results_of_another_seed_are_refused(program: Program, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    sweep(program, SCENARIOS[:1], draws=1, results=file)
    with pytest.raises(ConfigError, match="seed"):
        sweep(program, SCENARIOS[:1], draws=1, seed=1, results=file)


def test_progress_comes_to_the_end(program: Program) -> None:
    told: list[tuple[int, int]] = []
    sweep(program, SCENARIOS, draws=1, progress=lambda done, total: told.append((done, total)))
    assert told[0] == (0, 3)
    assert told[-1] == (3, 3)


def test_rows_survive_json(serial: tuple[Row, ...]) -> None:
    for r in serial:
        assert Row.from_facts(json.loads(json.dumps(r.facts()))) == r


def test_rows_without_a_gogc_survive_json(program: Program) -> None:
    off = predict(program, Scenario(-1), draws=2)
    assert off.effective_gogc.value == math.inf
    assert Row.from_facts(json.loads(json.dumps(off.facts(), allow_nan=False))) == off


# ---- limits ----


def test_limit_below_the_live_heap_is_said(program: Program) -> None:
    assert "headroom" in predict(program, Scenario(100, 7 * MIB), draws=1).warning
    assert predict(program, Scenario(100, 200 * MIB), draws=1).warning == ""


def test_leak_by_hand() -> None:
    """100 MiB, 20 of them no heap, 30 live: 80 - 2.4 - 30 to the spiral, 50 to the limit."""
    at = row(
        60.0 * MIB,
        0.1,
        peak_heap=Estimate(40.0 * MIB, 0, 0),
        live_heap=Estimate(30.0 * MIB, 0, 0),
    )
    limited = replace(at, memory_limit=100 * MIB)
    got = leak(limited, 10 * MIB)
    assert got is not None
    assert (got.spiral, got.passed) == pytest.approx((4.76, 5.0))
    assert leak(at, 10 * MIB) is None
    assert leak(limited, 0) is None
    soon = leak(replace(limited, memory_limit=20 * MIB), 1)
    assert soon == (0, 0)


# ---- recommendations ----


@pytest.fixture(scope="module")
def roomy(program: Program) -> Iterator[Any]:
    yield recommend(program, limit="16MiB", draws=3)


def test_recommended_settings_fit_and_none_is_quicker(roomy: Any) -> None:
    choice = roomy.choice
    assert choice.peak_footprint.value <= choice.memory_limit <= 16 * MIB * 0.9
    assert roomy.line == f"GOGC={choice.gogc} GOMEMLIMIT=14MiB"
    fitting = [r for r in roomy.rows if not r.warning and r.peak_footprint.value <= choice.memory_limit]
    assert (
        choice.gc_cpu.value
        <= min(r.gc_cpu.value for r in fitting if r.peak_footprint.high <= 16 * MIB) + 0.002
    )
    assert roomy.thriftier.peak_footprint.value < choice.peak_footprint.value
    assert roomy.why.count(". ") == 2


def test_share_of_cpu_saves_memory(program: Program, roomy: Any) -> None:
    saving = recommend(program, limit="16MiB", max_gc_cpu=0.5, draws=3)
    assert saving.choice is not None
    assert saving.choice.gc_cpu.value <= 0.5
    assert saving.choice.peak_footprint.value <= roomy.choice.peak_footprint.value
    assert "least memory" in saving.why


def test_more_memory_is_faster(program: Program) -> None:
    """None that fits is: the next GOGC, and the memory that it needs."""
    tight = recommend(program, limit="12MiB")
    assert tight.faster is None
    assert tight.choice is not None and tight.with_more is not None and tight.more is not None
    assert tight.with_more.gc_cpu.value < tight.choice.gc_cpu.value
    assert tight.with_more.gogc > tight.choice.gogc
    assert tight.with_more.peak_footprint.value <= 0.9 * tight.more
    assert tight.with_more.peak_footprint.high <= tight.more
    assert 12 * MIB < tight.more == tight.more >> 20 << 20
    assert f"given {tight.more >> 20}MiB, GOGC={tight.with_more.gogc} would take" in tight.why
    assert tight.why.count(". ") == 2
    enough = recommend(program, limit=tight.more)
    assert enough.choice is not None and enough.choice.gogc >= tight.with_more.gogc


def test_more_memory_that_brings_nothing_is_said(roomy: Any) -> None:
    assert roomy.with_more is roomy.more is None
    assert "too short to tell what more memory would bring" in roomy.why
    asked_for = Workload.from_arrays(np.full(4000, 1024), lifetimes=2000, gc_every=100)
    forced = recommend(asked_for, limit="1GiB", draws=1)
    assert forced.with_more is None
    assert "more memory would not change that" in forced.why
    idle = recommend(steady(200), limit="1GiB", draws=1)
    assert "next to nothing left to save" in idle.why


def test_faster_that_fits_comes_first(program: Program) -> None:
    saving = recommend(program, limit="16MiB", max_gc_cpu=0.5, draws=3)
    assert saving.faster is not None
    assert saving.with_more is None
    assert "memory, " not in saving.why


@pytest.mark.parametrize("limit", ["12MiB", "16MiB", "1GiB"])
def test_progress_of_a_search_goes_on(program: Program, limit: str) -> None:
    """The last step is what more memory would bring, needed or not."""
    told: list[tuple[int, int]] = []
    recommend(program, limit=limit, candidates=[50, 100], draws=1, progress=lambda *n: told.append(n))
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_what_does_not_fit(program: Program) -> None:
    none = recommend(program, limit="5MiB", draws=1)
    assert none.choice is None
    assert none.line == ""
    assert "Nothing fits" in none.why


@pytest.mark.parametrize(
    "bad",
    [{"limit": "off"}, {"limit": 0}, {"limit": "1GiB", "headroom": 1.0}, {"limit": "1GiB", "max_gc_cpu": 0}],
)
def test_recommendations_that_cannot_be_asked_for(program: Program, bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        recommend(program, **bad)
