"""Ps that only the recorded collector made goroutines change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymem.workload import steady_procs
from pymem.workload.columns import DTYPES, Columns, Event
from pymem.workload.steady_procs import with_steady_procs

MS = 1_000_000


def rows(*told: tuple[Any, ...]) -> Columns:
    """Make rows of (kind, time in ms, goroutine, P)."""
    columns = {name: np.zeros(len(told), dtype) for name, dtype in DTYPES.items()}
    for i, (kind, time, *who) in enumerate(told):
        columns["kind"][i], columns["time"][i] = kind, time * MS
        columns["goroutine"][i], columns["proc"][i] = who if who else (0, -1)
    return Columns(**columns)


def alloc(time: float, goroutine: int, proc: int) -> tuple[Any, ...]:
    return Event.ALLOC, time, goroutine, proc


def mark(begin: float, end: float) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    return (Event.SWEEP_DONE, begin), (Event.FLIP, end)


def procs_of(*chunks: Columns, procs: int = 4) -> list[int]:
    out = [c.proc[c.kind == Event.ALLOC] for c in with_steady_procs(chunks, procs)]
    return [int(p) for p in np.concatenate(out)]


def test_a_mark_moves_nobody() -> None:
    told = [alloc(1, 7, 0), *mark(2, 4), alloc(4.1, 7, 1), alloc(5, 7, 1), *mark(6, 7), alloc(7.2, 7, 3)]
    assert procs_of(rows(*told)) == [0, 0, 0, 0]
    assert procs_of(*(rows(row) for row in told)) == [0, 0, 0, 0]


def test_two_that_change_places() -> None:
    told = [alloc(1, 7, 0), alloc(1, 8, 1), *mark(2, 4), alloc(4.1, 7, 1), alloc(4.2, 8, 0), alloc(5, 8, 0)]
    assert procs_of(rows(*told)) == [0, 1, 0, 1, 1]


def test_what_else_moves_goroutines_stays() -> None:
    told = [*mark(1, 2), alloc(10, 7, 0), alloc(11, 7, 1), alloc(12, 7, 0), *mark(20, 21), alloc(50, 8, 2)]
    assert procs_of(rows(*told)) == [0, 1, 0, 2]


def test_only_one_of_those_that_met_can_stay() -> None:
    """Both were on P 0 in turns; after the mark they are on two."""
    told = [alloc(1, 7, 0), alloc(1.5, 8, 0), *mark(2, 3), alloc(3.1, 8, 1), alloc(3.2, 7, 0)]
    assert procs_of(rows(*told)) == [0, 0, 0, 1]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(0, 3)), max_size=60),
    st.integers(1, 20),
)
def test_names_are_the_same_however_rows_come(steps: list[tuple[int, int, int]], size: int) -> None:
    """And a goroutine that stays on its P from one row to the next is not called elsewhere but after a mark."""
    told: list[tuple[Any, ...]] = []
    for i, (kind, goroutine, proc) in enumerate(steps):
        told += mark(3 * i, 3 * i + 0.5) if kind == 0 else [alloc(3 * i + 2, goroutine, proc)]
    if not told:
        return
    whole = rows(*told)
    found = procs_of(whole)
    assert found == procs_of(*(whole[i : i + size] for i in range(0, len(whole), size)))
    assert all(0 <= p < 4 for p in found)
    if not (whole.kind == Event.FLIP).any():
        assert found == whole.proc.tolist()


def test_of_many_goroutines_the_last_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steady_procs, "_MOST_KNOWN", 4)
    told = rows(*(alloc(n, n, 0) for n in range(1, 9)))
    after = rows(*mark(10, 11), alloc(11.1, 8, 1))
    assert procs_of(told, after) == [0] * 9
    assert procs_of(told, rows(*mark(10, 11), alloc(11.1, 1, 1))) == [0] * 8 + [1]


@pytest.mark.parametrize("proc", [-1, 9])
def test_ps_that_are_none_stay(proc: int) -> None:
    assert procs_of(rows(alloc(1, 7, proc), *mark(2, 3), alloc(3.1, 7, 1))) == [proc, 1]
