"""A recorded program under settings of one's own: what may change nothing, what must hold, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymem._native import ffi, lib
from pymem.errors import ConfigError, PymemError
from pymem.gc.costs import Costs
from pymem.gc.cycle import EMPTY_PROGRAM_GLOBALS
from pymem.program import read_program
from pymem.replay import Player
from pymem.rerun import CENTRE, Chance, Rerun, rerun, reruns
from pymem.trace import EventKind, read_trace
from pymem.workload.calibration import calibrate, roots_bytes
from pymem.workload.columns import Columns, Event
from pymem.workload.lifetimes import Lifetimes
from pymem.workload.program_time import ProgramTime, program_time
from pymem.workload.sources import open_stream
from pymem.workload.spread import spread_deaths
from pymem.workload.synthetic import steady
from pymem.workload.trace_stream import TraceStream
from pymem.workload.without_tracer import without_tracer
from pymem.workload.workload import Workload, WorkloadType

TRACE = Path(__file__).parent.parent / "examples" / "lru.trace"
TRACERS_OWN = 2 * (128 + 16) * 8192


def stream() -> TraceStream:
    source = open_stream(TRACE)
    assert isinstance(source, TraceStream)
    return source


def again(**options: Any) -> Rerun:
    return rerun(stream(), **options)


def outcome(run: Rerun) -> tuple[Any, ...]:
    """Return all that may not differ between two equal runs."""
    told = {f.name: getattr(run, f.name) for f in fields(run)}
    del told["seconds"]
    timeline = told.pop("timeline")
    return told, timeline.tobytes()


# ---- the same again ----


def test_deterministic() -> None:
    assert outcome(again(gogc=50)) == outcome(again(gogc=50))


def test_calibration_is_kept_by_the_stream_and_changes_nothing() -> None:
    source = stream()
    first, second = rerun(source, gogc=50), rerun(source, gogc=50)
    assert outcome(first) == outcome(second)
    assert len(source.calibrations) == 1


@pytest.mark.parametrize("size", [1 << 14, 50_000, 1 << 20])
def test_chunks_do_not_matter(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples come every so many rows of a chunk, so only they may differ."""
    before = again(gogc=50)
    monkeypatch.setattr("pymem.program._CHUNK", size)
    after = again(gogc=50)
    assert after.events == before.events
    assert [c.number for c in after.cycles] == [c.number for c in before.cycles]
    assert after.memstats.total_alloc == before.memstats.total_alloc
    assert after.memstats.mallocs == before.memstats.mallocs


@pytest.mark.parametrize("keep", [True, False])
def test_program_runs_as_its_recording_does(keep: bool) -> None:
    program = read_program(stream(), keep=keep)
    assert (program.kept is not None) == keep
    for gogc in (50, 200, 50):
        assert outcome(rerun(program, gogc=gogc)) == outcome(again(gogc=gogc))


def test_chance_moves_what_it_says() -> None:
    """Twice the cost of marking is about twice the time in it; twice the time leaves a smaller share to it."""
    program = read_program(stream())
    dear, cheap = (rerun(program, gogc=50, chance=Chance(mark=m)).stats.cpu for m in (2.0, 1.0))
    assert dear.gc_total > 1.5 * cheap.gc_total
    slow, fast = (rerun(program, gogc=50, chance=Chance(time=t)) for t in (2.0, 1.0))
    assert slow.virtual_ns > 1.5 * fast.virtual_ns


# ---- settings ----


def test_gogc_means_fewer_cycles_and_more_heap() -> None:
    runs = [again(gogc=gogc) for gogc in (25, 100, 400)]
    assert [len(r.cycles) for r in runs] == sorted((len(r.cycles) for r in runs), reverse=True)
    assert [r.peak_heap for r in runs] == sorted(r.peak_heap for r in runs)
    assert len({r.memstats.total_alloc for r in runs}) == 1


def test_off_never_collects() -> None:
    run = again(gogc="off")
    assert run.cycles == ()
    assert run.gogc == -1
    assert run.peak_heap >= run.memstats.heap_alloc


def test_memory_limit_binds() -> None:
    free = again(gogc="off")
    limit = (free.memstats.sys - free.memstats.heap_released) * 2 // 3
    bound = again(gogc="off", memory_limit=limit)
    assert len(bound.cycles) > 0
    assert int(bound.timeline["mapped_ready"].max()) < int(free.timeline["mapped_ready"].max())


def test_small_objects_join_blocks_amid_a_mark() -> None:
    """A block may be dead when a mark begins, and be joined before it ends: every death later finds its object."""
    source = steady(600_000, procs=2)
    columns = replace(source.columns, time=np.arange(len(source.columns)) * 40)
    run = rerun(replace(source, columns=columns), gogc=25)
    assert len(run.cycles) > 10
    assert run.events == len(columns)


@pytest.mark.parametrize("procs", [1, 2, 4])
def test_gomaxprocs(procs: int) -> None:
    run = again(gogc=50, gomaxprocs=procs)
    assert run.gomaxprocs == procs
    assert all(c.gomaxprocs == procs for c in run.cycles)
    assert run.memstats.total_alloc == pytest.approx(again(gogc=50).memstats.total_alloc, rel=0.01)


def test_time_scale_makes_the_program_longer() -> None:
    short, long = (again(gogc=50, time_scale=scale) for scale in (1.0, 3.0))
    assert long.virtual_ns > 2 * short.virtual_ns


def test_the_tracers_own_memory_is_left_out() -> None:
    source = stream()
    whole = sum(_started(chunk) for chunk in source.chunks())
    rest = sum(_started(chunk) for chunk in without_tracer(source.chunks(), source.types))
    assert whole - rest == 4
    assert again(gogc="off").memstats.heap_alloc < TRACERS_OWN + again(gogc=50).memstats.total_alloc


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 5)), max_size=60))
def test_lookups_of_stacks_are_left_out(steps: list[tuple[int, int, int]]) -> None:
    """Against a plain model: a handle belongs to whoever allocated it last, until it dies."""
    types = (*(WorkloadType(n, 32, 8) for n in ("", "main.T", "runtime.traceFrame", "runtime.Frames")),)
    rows, keep, owner = [(Event.START_DONE, 0, 0, 0)], [True], dict[int, bool]()
    tracers = set[int]()
    for type_, goroutine, handle in steps:
        if handle in owner:
            rows.append((Event.DEATH, 0, 0, handle))
            keep.append(not owner.pop(handle))
            continue
        if type_ == 2 and goroutine:
            tracers.add(goroutine)
        owner[handle] = type_ == 2 or (type_ == 3 and goroutine in tracers)
        rows.append((Event.ALLOC, type_, goroutine, handle))
        keep.append(not owner[handle])
    kind, type_column, goroutine_column, object_column = (np.array(c) for c in zip(*rows, strict=True))
    n = len(rows)
    zeros = np.zeros(n, int)
    whole = Columns(
        np.arange(n), kind, zeros, zeros, goroutine_column, type_column, object_column, zeros + 32, zeros
    )
    one_by_one = (whole[i : i + 1] for i in range(n))
    got = [int(t) for chunk in without_tracer(one_by_one, types) for t in chunk.time]
    assert got == np.flatnonzero(keep).tolist()


def _started(chunk: Columns) -> int:
    return int((chunk.kind == Event.START_OBJECT).sum())


def columns_of(**columns: Any) -> Columns:
    """Return columns of whatever integers these are."""
    return Columns(**columns)


# ---- forced collections ----


def program(*, forced: bool, n: int = 50_000) -> Workload:
    """Return a workload of n objects that live on, with a collection after each half."""
    rows: list[tuple[int, int, int, int]] = [(Event.PROC_NEW, 0, 0, -1)]
    for half in range(2):
        rows += [(Event.ALLOC, half * n + i, 64, 0) for i in range(n)]
        rows += [(Event.SWEEP_DONE, 0, 0, 0), (Event.FLIP, 0, 0, 0), (Event.FLUSH, 0, 0, 0)]
        rows += [(Event.GC_END, 0, 0, 0), (Event.SWEEP_ALL, 0, 0, 0)]
    kind, handle, size, proc = (np.array(column) for column in zip(*rows, strict=True))
    zeros = np.zeros(len(rows), np.int64)
    flags = np.where((kind == Event.GC_END) & forced, 1, 0)
    times = np.arange(len(rows)) * 100
    columns = columns_of(
        time=times,
        kind=kind,
        flags=flags,
        proc=proc,
        goroutine=zeros,
        type=zeros,
        object=handle,
        size=size,
        expect=zeros,
    )
    return Workload(columns=columns, tier="trace", resolution="cycle")


@pytest.mark.parametrize("forced", [True, False])
def test_forced_collections_stay(forced: bool) -> None:
    run = rerun(program(forced=forced), gogc="off")
    assert [c.forced for c in run.cycles] == [True, True] * forced


# ---- what is refused ----


@pytest.mark.parametrize(
    "options",
    [
        {"gogc": "abc"},
        {"gogc": "1e2"},
        {"memory_limit": "12 MB"},
        {"memory_limit": "-1"},
        {"gomaxprocs": 0},
        {"gomaxprocs": 5000},
    ],
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises((PymemError, ValueError)):
        again(**options)


@pytest.mark.parametrize("keep", [True, False])
def test_reruns_are_each_a_rerun(keep: bool) -> None:
    program = read_program(stream(), keep=keep)
    chances = [CENTRE, *(Chance(mark=m, time=1 / m) for m in np.linspace(0.5, 1.5, 9).tolist())]
    together = list(reruns(program, chances, gogc=30))
    assert len(together) == len(chances)
    for run, chance in zip(together, chances, strict=True):
        alone = rerun(program, gogc=30, chance=chance, leftover=False)
        assert outcome(run) == outcome(alone)


def test_timeline_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = again().timeline
    monkeypatch.setattr("pymem.rerun._BLOCK", 7)
    assert len(whole) > 7
    assert np.array_equal(again().timeline, whole)


# ---- the program's own time ----


def test_program_time_of_a_long_trace_is_coarser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Joined points are fewer, and between them the map is off by no more than what they are apart."""
    fine = program_time(TRACE, procs=stream().procs, costs=Costs())
    most = len(fine.recorded) // 4
    monkeypatch.setattr("pymem.workload.program_time._MOST_POINTS", most)
    coarse = program_time(TRACE, procs=stream().procs, costs=Costs())
    assert 1 < len(coarse.recorded) <= most
    assert (np.diff(coarse.own) >= 0).all()
    assert coarse.own[-1] == pytest.approx(fine.own[-1], rel=0.01)
    apart = float(np.diff(coarse.recorded).max())
    assert max(abs(coarse.at(t) - fine.at(t)) for t in fine.recorded.tolist()) <= 2 * apart


def test_program_time_never_runs_back_nor_ahead() -> None:
    time = program_time(TRACE, procs=stream().procs, costs=Costs())
    assert (np.diff(time.recorded) > 0).all()
    assert (np.diff(time.own) >= 0).all()
    assert 0 < time.own[-1] < time.recorded[-1] - time.recorded[0]


def test_program_time_less_by_dearer_events() -> None:
    own = [
        program_time(TRACE, procs=1, costs=replace(Costs(), trace_event_ns=ns)).own[-1]
        for ns in (0.0, 40.0, 400.0)
    ]
    assert own == sorted(own, reverse=True)


def test_program_time_between_points() -> None:
    time = ProgramTime(np.array([10, 20, 40]), np.array([0.0, 5.0, 5.0]), np.ones(1), 1e7, 0)
    assert [time.at(t) for t in (10, 14, 20, 30, 40, 99)] == [0.0, 2.0, 5.0, 5.0, 5.0, 5.0]


def test_calibration_scales_marking_only() -> None:
    found = calibrate(stream(), costs=Costs(), globals_bytes=0)
    costs = found.costs(Costs())
    assert costs.mark_byte_ns == pytest.approx(Costs().mark_byte_ns * found.mark_factor)
    assert replace(costs, mark_byte_ns=0, mark_object_ns=0) == replace(
        Costs(), mark_byte_ns=0, mark_object_ns=0
    )


def test_pauses_are_the_recorded_ones_unless_costs_are_given() -> None:
    program = read_program(stream())
    assert program.calibration is not None
    pause = round(float(np.median(program.calibration.time.pauses)))
    assert pause > 0
    assert (program.costs.stop_ns, program.costs.term_ns) == (pause, pause)
    assert read_program(stream(), costs=Costs(stop_ns=7)).costs.stop_ns == 7


def test_program_time_less_by_dearer_faults() -> None:
    own = [
        program_time(TRACE, procs=1, costs=replace(Costs(), fault_page_ns=ns)).own[-1]
        for ns in (0.0, 5e3, 5e4)
    ]
    assert own == sorted(own, reverse=True)
    assert own[0] > own[-1]


def test_sweeping_is_not_the_programs_time() -> None:
    """Without a cost of anything else what is left is what the trace shows as neither the runtime's nor a sweep."""
    costs = Costs(malloc_ns=0, trace_event_ns=0, fault_page_ns=0)
    time = program_time(TRACE, procs=1, costs=costs)
    trace = read_trace(TRACE, kinds=[EventKind.SWEEP_BEGIN, EventKind.SWEEP_END])
    begins, ends = (trace.time[trace.kind == kind] for kind in (EventKind.SWEEP_BEGIN, EventKind.SWEEP_END))
    assert len(begins) == len(ends) > 0
    for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
        assert time.at(end) == pytest.approx(time.at(begin), abs=1)


def test_busy_is_as_recorded_around_a_time() -> None:
    time = ProgramTime(np.array([0, 300_000_000]), np.zeros(2), np.array([1.0, 2.0, 1.5]), 1e7, 0)
    assert [time.busy_at(t) for t in (-1, 0, 150_000_000, 250_000_000, 10**12)] == [1.0, 1.0, 2.0, 1.5, 1.5]


def test_fresh_memory_costs_page_faults() -> None:
    """Each page that the heap grew by is paid for once: no more than there are, and no less than grew in sight."""
    free, once, twice = (
        again(gogc="off", calibrated=False, costs=replace(Costs(), fault_page_ns=ns))
        for ns in (0.0, 8192, 16384)
    )
    grown = int(free.timeline["mapped_ready"][-1]) - int(free.timeline["mapped_ready"][0])
    assert 0 < grown <= once.virtual_ns - free.virtual_ns <= free.memstats.sys
    assert twice.virtual_ns - free.virtual_ns == pytest.approx(
        2 * (once.virtual_ns - free.virtual_ns), rel=0.01
    )


def test_a_mark_scans_all_that_was_there_when_it_began() -> None:
    """Without a row for the phase, as in execution traces: it begins where the sweep is done."""
    totals, scanned = ffi.new("pymem_mark_totals *"), []
    columns = program(forced=False).columns
    with Player(program(forced=False)) as player:
        start = 0
        for end in np.flatnonzero(columns.kind == Event.FLIP):
            player.play(columns[start : int(end) + 1])
            start = int(end) + 1
            player.heap.call(lib.pymem_mark_get, totals)
            scanned.append((int(totals.heap_scan), int(totals.bytes_marked)))
    assert scanned == [(50_000 * 64, 50_000 * 64), (100_000 * 64, 100_000 * 64)]


@given(
    st.lists(st.integers(8 << 20, 1 << 30), min_size=20, max_size=60, unique=True),
    st.integers(10, 800),
    st.integers(100_000, 10_000_000),
)
def test_recorded_goals_tell_the_roots(marked: list[int], gogc: int, roots: int) -> None:
    """Of 20 goals one may be another; the first of all came before any mark."""
    marked = [8192 * (i + m // 8192) for i, m in enumerate(marked)]
    goals = [4 << 20, *(m + (m + roots) * gogc // 100 for m in marked)]
    goals[3] += 1 << 20
    told = roots_bytes(marked, goals)
    clear = sum(abs(a - b) >= 4096 for a, b in pairwise(marked))
    assert clear < 5 or told == pytest.approx(roots, abs=100 / gogc + 2)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_few_goals_tell_nothing(n: int) -> None:
    assert roots_bytes([10 << 20] * n, [12 << 20] * n) is None
    assert roots_bytes([10 << 20] * 9, [12 << 20] * n) is None


def test_roots_of_a_recording() -> None:
    """The cache is a small program: /gc/scan/globals:bytes of an empty one, and some stack."""
    found = calibrate(stream(), costs=Costs(), globals_bytes=None).globals_bytes
    assert found is not None
    assert 0 <= found - EMPTY_PROGRAM_GLOBALS < 32 << 10


# ---- lifetimes ----


def test_lifetimes_find_where_objects_die() -> None:
    """All die at an age of 1,000 bytes: so do those drawn, but for the width of two bins."""
    lifetimes = Lifetimes()
    ages = np.arange(1.0, 100_000.0)
    lifetimes.learn(ages, ages >= 1000)
    drawn = lifetimes.draw(np.full(100, 50_000.0), np.linspace(0.01, 0.99, 100))
    assert (drawn > 1000 / 2**0.5).all()
    assert (drawn < 1000 * 2**0.5).all()


@given(
    st.lists(st.tuples(st.floats(1, 1e12), st.booleans()), max_size=60),
    st.lists(st.tuples(st.floats(0, 1e12), st.floats(0, 1)), min_size=1, max_size=20),
)
def test_lifetimes_stay_within_bounds(
    seen: list[tuple[float, bool]], wanted: list[tuple[float, float]]
) -> None:
    lifetimes = Lifetimes()
    lifetimes.learn(np.array([a for a, _ in seen]), np.array([d for _, d in seen], bool))
    most = np.array([m for m, _ in wanted])
    drawn = lifetimes.draw(most, np.array([c for _, c in wanted]))
    assert (drawn >= 0).all()
    assert (drawn <= most).all()


# ---- spreading deaths ----


@st.composite
def recordings(draw: st.DrawFn) -> Columns:
    """Return rows of some cycles: births, and before each flip deaths of objects that its mark began without."""
    kinds: list[int] = [Event.PROC_NEW]
    handles: list[int] = [0]
    living: list[int] = []
    free: list[int] = list(range(200, 0, -1))
    for _ in range(draw(st.integers(1, 4))):
        for _ in range(draw(st.integers(0, 12))):
            living.append(free.pop())
            kinds.append(Event.ALLOC)
            handles.append(living[-1])
        dead = draw(st.lists(st.sampled_from(living), unique=True)) if living else []
        kinds.append(Event.SWEEP_DONE)
        handles.append(0)
        for _ in range(draw(st.integers(0, 3))):
            living.append(free.pop())
            kinds.append(Event.ALLOC)
            handles.append(living[-1])
        for handle in dead:
            living.remove(handle)
            kinds.append(Event.DEATH)
            handles.append(handle)
        free += dead  # handles are given again, the last one first
        kinds.append(Event.FLIP)
        handles.append(0)
    n = len(kinds)
    zeros, kind = np.zeros(n, np.int64), np.array(kinds)
    size = np.where(kind == Event.ALLOC, draw(st.sampled_from([16, 64, 4096])), 0)
    return columns_of(
        time=np.arange(n) * 10, kind=kind, flags=zeros, proc=zeros, goroutine=zeros, type=zeros,
        object=np.array(handles), size=size, expect=np.arange(n),
    )  # fmt: skip


def pieces(rows: Columns, size: int) -> Iterator[Columns]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def lives(rows: list[tuple[int, int, int]]) -> dict[int, tuple[int, int, int]]:
    """Return, by the row number of its birth, places of birth, death and the mark that found it: the model."""
    found: dict[int, tuple[int, int, int]] = {}
    born: dict[int, tuple[int, int]] = {}
    waiting: list[tuple[int, int, int]] = []
    for place, (kind, handle, row) in enumerate(rows):
        if kind == Event.ALLOC:
            assert handle not in born, "a handle was given while it named something"
            born[handle] = row, place
        elif kind == Event.DEATH:
            name, birth = born.pop(handle)  # fails if it dies twice or before its birth
            waiting.append((name, birth, place))
        elif kind == Event.FLIP:
            found |= {name: (birth, death, place) for name, birth, death in waiting}
            waiting = []
    return found


def table(parts: list[Columns]) -> list[tuple[int, int, int]]:
    return [
        (int(k), int(h), int(e))
        for part in parts
        for k, h, e in zip(part.kind, part.object, part.expect, strict=True)
    ]


@given(recordings(), st.integers(1, 40))
def test_spread_deaths_stay_between_birth_and_mark(rows: Columns, size: int) -> None:
    spread = list(spread_deaths(pieces(rows, size)))
    before, after = table([rows]), table(spread)
    assert sorted(after) == sorted(before), "a row was lost or made up"
    assert [r for r in after if r[0] != Event.DEATH] == [r for r in before if r[0] != Event.DEATH]
    old, new = lives(before), lives(after)
    assert new.keys() == old.keys()
    flips = [[r for r in t if r[0] == Event.FLIP].index for t in (before, after)]
    for name, (birth, death, flip) in new.items():
        assert birth < death < flip
        assert flips[1](after[flip]) == flips[0](before[old[name][2]])
    times = np.concatenate([part.time for part in spread])
    assert (np.diff(times) >= 0).all()


@given(recordings(), st.integers(1, 40))
def test_spread_does_not_depend_on_chunks(rows: Columns, size: int) -> None:
    assert table(list(spread_deaths(pieces(rows, size)))) == table(list(spread_deaths([rows])))


# ---- costs ----


def test_costs_survive_a_file(tmp_path: Path) -> None:
    costs = Costs(mark_byte_ns=1.5, stop_ns=7)
    costs.save(tmp_path / "costs.json")
    assert Costs.load(tmp_path / "costs.json") == costs


@pytest.mark.parametrize("text", ["", "[]", "{", '{"mark": 1}', '{"mark_byte_ns": -1}', '{"stop_ns": "x"}'])
def test_bad_files_of_costs(text: str, tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text(text)
    with pytest.raises(ConfigError):
        Costs.load(path)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_time_scale_is_checked(scale: float) -> None:
    source = Workload.from_arrays([16] * 4)
    with pytest.raises(ConfigError, match="time_scale"):
        rerun(source, time_scale=scale)
