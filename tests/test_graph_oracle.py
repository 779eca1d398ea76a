"""What a forced collection marks, scans and frees of a graph: the emulator against real Go at GOMAXPROCS=1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from graph_programs import PROGRAMS
from graphs import collect
from oracle import graphs

import pymem
from pymem.record.overlay import Toolchain

PROGRAMS_OF_GO = json.loads(graphs.GOLDEN.read_text())["programs"]
GOLDEN = {(g["program"], g["mode"]): g["rows"] for g in PROGRAMS_OF_GO}
SCAN_RANGES = {g["program"]: g["scan_range"] for g in PROGRAMS_OF_GO if g["mode"] == "packed"}
SCAN_SLACK, SCAN_SLACK_BYTES = 0.005, 256
"""Beyond what real Go's own scan work ranges over: not all company that a program may have was tried."""


def emulated(program: str, mode: str) -> list[dict[str, Any]]:
    """Return the emulator's rows, in the form of the Go program's."""
    with pymem.Runtime(scan_sparse=mode == "sparse") as rt:
        return [row(rt, step) for step in PROGRAMS[program](rt)]


def row(rt: pymem.Runtime, step: str) -> dict[str, Any]:
    totals = collect(rt)
    stats = rt.read_mem_stats()
    return {
        "step": step,
        "objects": stats.heap_objects,
        "bytes": stats.heap_alloc,
        "marked": totals.bytes_marked,
        "scan": totals.heap_scan,
        "mallocs": stats.mallocs,
        "frees": stats.frees,
    }


@pytest.fixture(scope="session")
def binary(toolchain: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return graphs.build(tmp_path_factory.mktemp("graphs"))


@pytest.mark.parametrize("program", graphs.PROGRAMS)
def test_golden_is_what_go_says(binary: Path, program: str) -> None:
    """In one run of some: now and then the runtime allocates 16 bytes for itself."""
    golden = GOLDEN[program, "sparse"]
    assert any(graphs.run(binary, program, "sparse") == golden for _ in range(graphs.RUNS))


@pytest.mark.parametrize("program", graphs.PROGRAMS)
def test_without_vector_scans(program: str) -> None:
    """Every number is real Go's."""
    assert emulated(program, "sparse") == GOLDEN[program, "sparse"]


@pytest.mark.parametrize("program", graphs.PROGRAMS)
def test_with_vector_scans(program: str) -> None:
    """Scan work is in the range of real Go's, which depends on the runtime's own objects; all else is the same."""
    got, want = emulated(program, "packed"), GOLDEN[program, "packed"]
    assert [{**g, "scan": 0} for g in got] == [{**w, "scan": 0} for w in want]
    for step, (least, most) in zip(got, SCAN_RANGES[program], strict=True):
        slack = max(SCAN_SLACK * most, SCAN_SLACK_BYTES)
        assert least - slack <= step["scan"] <= most + slack
