"""The pacer against real Go's, on heaps that the emulator has built itself: every goal, every trigger."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from oracle import make

from pymem.checking import check
from pymem.gc.recorded import RecordedPacer
from pymem.replay import Player
from pymem.rerun import rerun
from pymem.workload.columns import Event
from pymem.workload.commits import Commit
from pymem.workload.exact_log import Op, open_log
from pymem.workload.sources import open_recording
from pymem.workload.workload import Workload

PERCENTS = ("20", "50", "100", "200", "400")
LIMITS = ("off", "5MiB", "10MiB")
"""The runtime alone maps some 7 MB; the lowest leaves no room at all, the next a heap of a few."""

STEPS = 4000
_SPAN = 8192
_GROWN = 60_000
_ROWS = 2_000_000


def recorded(oracle: Path, folder: Path, program: str, mode: str, steps: int, **settings: str) -> Path:
    env = {name: value for name, value in settings.items() if value != "off"}
    done = make.run_recording(oracle, folder / "log", program, mode, steps=steps, env=env)
    assert (done.exit_status, done.truncated) == (0, False)
    return done.path


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("percent", PERCENTS)
@pytest.mark.parametrize("program", make.PROGRAMS)
def test_goals(oracle: Path, tmp_path: Path, program: str, percent: str, limit: str) -> None:
    """NextGC after forced collections, and all that leads to it, to the byte.

    Only a trigger may be off, once cons/mark is known: it rests on the last cycle's scan work, which a record cannot
    tell to the byte.
    """
    log = recorded(oracle, tmp_path, program, "paced", STEPS, GOGC=percent, GOMEMLIMIT=limit)
    result = check(log)
    assert result.commits > 1
    assert result.matched == result.allocations
    assert {d.field for d in result.memstats_differences} <= {"HeapReleased"}
    workload = open_recording(log)
    for difference in result.commit_differences:
        assert difference.field == "trigger"
        assert workload.commits[difference.commit].cons_mark > 0
        assert abs(difference.got - difference.want) < _SPAN
    if limit != "off" and percent == "400":
        assert any(c.heap_goal < c.gc_percent_heap_goal for c in workload.commits)


@pytest.mark.parametrize("program", make.PROGRAMS)
def test_scan_work(oracle: Path, tmp_path: Path, program: str) -> None:
    """What may hold pointers is exact before the first mark; what a mark has scanned is within 2 % of real Go's."""
    workload = open_recording(recorded(oracle, tmp_path, program, "forced", STEPS))
    for commit, mine in answers(workload):
        if not commit.heap_marked:
            assert mine["heap_scan"] == commit.heap_scan
        assert mine["last_heap_scan"] == pytest.approx(commit.last_heap_scan, rel=0.02)


def answers(workload: Workload) -> list[tuple[Commit, dict[str, int]]]:
    """Return each commit with the emulator's."""
    found: list[tuple[Commit, dict[str, int]]] = []

    def commit(pacer: RecordedPacer, told: Commit) -> None:
        found.append((told, pacer.answer()))

    with Player(workload) as player:
        player.play(workload.columns, at_commit=commit)
    return found


@pytest.mark.parametrize(
    ("percent", "limit"), [*((p, "off") for p in PERCENTS), ("400", "16MiB"), ("off", "16MiB")]
)
def test_first_trigger(oracle: Path, tmp_path: Path, percent: str, limit: str) -> None:
    """A heap that only grows has its first cycle start where real Go's does, to one span."""
    settings = {"GOGC": percent, "GOMEMLIMIT": limit}
    env = {name: value for name, value in settings.items() if name == "GOGC" or value != "off"}
    done = make.run_recording(oracle, tmp_path / "log", make.GROWING, "concurrent", steps=_GROWN, env=env)
    log, workload = open_log(done.path), open_recording(done.path)
    starts = log.records[log.records["op"] == Op.CYCLE_START]
    result = rerun(up_to_first_cycle(workload), gogc=percent, memory_limit=None if limit == "off" else limit)
    assert result.cycles
    assert abs(result.cycles[0].trigger - int(starts["a"][0])) <= _SPAN
    if percent == "100":
        assert workload.commits[0].trigger == 61 * 65536  # 3.8125 MB


def up_to_first_cycle(workload: Workload) -> Workload:
    """Return the rows up to the first cycle's start, and enough more for it to end."""
    first = int(np.flatnonzero(workload.columns.kind == Event.GC_PHASE)[0])
    return replace(workload, columns=workload.columns[: first + _ROWS])


def test_wrong_goal_is_found(oracle: Path, tmp_path: Path) -> None:
    """One more byte of globals: a check that still agreed would prove nothing."""
    workload = open_recording(
        recorded(oracle, tmp_path, "table", "paced", 20_000, GOGC="100", GOMEMLIMIT="off")
    )
    more = tuple(replace(c, globals_scan=c.globals_scan + 1) for c in workload.commits)
    differing = check(replace(workload, commits=more)).commit_differences
    assert {d.field for d in differing} >= {"gc_percent_heap_goal", "heap_goal"}


def test_old_log(oracle: Path, tmp_path: Path) -> None:
    """A log from before commits were recorded whole replays by the recorded goals."""
    path = recorded(oracle, tmp_path, "table", "forced", STEPS)
    with path.open("r+b") as file:
        log = open_log(path)
        new = np.flatnonzero(log.records["op"] >= Op.PACER_HEAP)
        for record in new.tolist():
            file.seek(4096 + 32 * record)
            file.write(b"\0")
    workload = open_recording(path)
    assert workload.commits == ()
    result = check(workload)
    assert result.matched == result.allocations
    assert result.commits == 0
    assert {d.field for d in result.memstats_differences} <= {"HeapReleased"}


def test_saved(oracle: Path, tmp_path: Path) -> None:
    """A saved workload keeps what the pacer went by."""
    workload = open_recording(recorded(oracle, tmp_path, "empty", "paced", 100))
    assert workload.commits
    assert Workload.load(workload.save(tmp_path / "saved")) == workload
