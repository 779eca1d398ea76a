"""Histories: what a recording did and what a rerun does, and their tables in CSV and Parquet."""

from __future__ import annotations

import csv
import importlib
import io

import numpy as np
import pytest
from command_line import LRU, TRACE
from hypothesis import given
from hypothesis import strategies as st

from pymem.errors import ConfigError
from pymem.export import History, recorded_history, rerun_history
from pymem.export.heap_profile import type_profile
from pymem.export.history import NO_GOAL
from pymem.export.tables import table, write_csv, write_parquet
from pymem.replay import replay
from pymem.rerun import rerun
from pymem.workload.sources import open_stream
from pymem.workload.synthetic import steady
from pymem.workload.workload import Workload


@pytest.fixture(scope="module")
def recorded() -> History:
    return recorded_history(open_stream(LRU), name="lru.trace")


@pytest.fixture(scope="module")
def emulated() -> History:
    return rerun_history(rerun(open_stream(LRU), gogc=50, memory_limit="64MiB"), source="lru.trace")


def test_recorded_cycles(recorded: History) -> None:
    """The heap's sizes are those that a replay finds, and times rise."""
    run = replay(open_stream(LRU))
    assert [c.number for c in recorded.cycles] == [c.number for c in run.cycles]
    assert [c.forced for c in recorded.cycles] == [c.forced for c in run.cycles]
    for cycle, replayed in zip(recorded.cycles, run.cycles, strict=True):
        assert cycle.start_ns <= cycle.term_ns <= cycle.end_ns
        assert cycle.heap0 <= cycle.heap1
        assert cycle.heap2 == replayed.marked
    assert (np.diff(recorded.timeline["time_ns"]) >= 0).all()
    assert recorded.timeline["heap_in_use"][-1] == run.memstats.heap_inuse
    assert (recorded.gomaxprocs, recorded.settings, recorded.goals) == (1, "recorded", False)


def test_recorded_forced() -> None:
    history = recorded_history(open_stream(TRACE))
    assert [c.forced for c in history.cycles].count(True) == 2


def test_recorded_steady() -> None:
    """Of arrays: one object lives for so long, and each cycle leaves what lives."""
    workload = steady(3000, gc_every=500)
    history = recorded_history(workload)
    assert len(history.cycles) == workload.cycles
    assert history.end_ns == workload.duration_ns


def test_recorded_nothing() -> None:
    history = recorded_history(Workload.from_arrays([64]))
    assert history.cycles == ()
    assert len(history.timeline) >= 1


def test_rerun(emulated: History) -> None:
    assert emulated.settings == "GOGC=50 GOMEMLIMIT=64MiB GOMAXPROCS=1"
    assert emulated.end_ns >= emulated.cycles[-1].end_ns


@given(
    sizes=st.lists(
        st.integers(16, 70_000) | st.sampled_from([512, 513, 32760, 32761, 32768, 32769]), min_size=1
    ),
    noscan=st.booleans(),
)
def test_profile_adds_up(sizes: list[int], noscan: bool) -> None:
    """All that types allocate is what MemStats counts, whatever the sizes."""
    workload = Workload.from_arrays(sizes, noscan=noscan, lifetimes=3, gc_every=4)
    profile, stats = type_profile(workload), replay(workload).memstats
    assert sum(s.alloc_objects for s in profile.samples) == stats.mallocs
    assert sum(s.alloc_bytes for s in profile.samples) == stats.total_alloc
    (sample,) = profile.samples
    assert sample.inuse_objects == min(3, len(sizes))


# ---- tables ----


def _csv(history: History, name: str) -> list[dict[str, str]]:
    out = io.BytesIO()
    write_csv(table(history, name), out)
    return list(csv.DictReader(io.StringIO(out.getvalue().decode())))


def test_csv_cycles(emulated: History) -> None:
    rows = _csv(emulated, "cycles")
    assert [int(row["heap1"]) for row in rows] == [c.heap1 for c in emulated.cycles]
    assert [float(row["utilization"]) for row in rows] == [c.utilization for c in emulated.cycles]
    assert {row["forced"] for row in rows} == {"0"}


def test_csv_recorded(recorded: History) -> None:
    """What a recording does not know is empty; the columns are the same."""
    rows = _csv(recorded, "cycles")
    assert {row["goal"] for row in rows} == {row["pause_ns"] for row in rows} == {""}
    assert [int(row["heap2"]) for row in rows] == [c.heap2 for c in recorded.cycles]
    assert {row["heap_goal"] for row in _csv(recorded, "timeline")} == {""}


def test_csv_off() -> None:
    history = rerun_history(rerun(open_stream(TRACE), gogc="off"))
    assert {row["heap_goal"] for row in _csv(history, "timeline")} == {""}


@pytest.mark.parametrize("name", ["cycles", "timeline"])
def test_parquet(recorded: History, emulated: History, name: str) -> None:
    """Parquet holds what the table does, under one schema, and the same bytes each time."""
    parquet = importlib.import_module("pyarrow.parquet")
    schemas = []
    for history in (recorded, emulated):
        files = []
        for _ in range(2):
            out = io.BytesIO()
            write_parquet(table(history, name), out, history=history)
            files.append(out.getvalue())
        assert files[0] == files[1]
        read = parquet.read_table(io.BytesIO(files[0]))
        assert read.to_pydict() == table(history, name)
        assert read.schema.metadata[b"pymem.settings"].decode() == history.settings
        schemas.append(read.schema.remove_metadata())
    assert schemas[0] == schemas[1]


def test_no_such_table(recorded: History) -> None:
    with pytest.raises(ConfigError, match="give one of cycles, timeline"):
        table(recorded, "types")


def test_goal_is_off() -> None:
    assert rerun(open_stream(TRACE), gogc="off").timeline["heap_goal"].max() >= NO_GOAL
