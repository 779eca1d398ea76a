"""The emulator against the real runtime: programs recorded exactly, now, on this machine, with this toolchain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import make

import pymem
from pymem.checking import Check, check
from pymem.workload.columns import Event
from pymem.workload.exact_log import Op, open_log
from pymem.workload.sources import open_recording

PROGRAMS = pytest.mark.parametrize("program", make.PROGRAMS)
STEPS = 6000
_LEAST_TURNS, _MOST_TURNS = 4, 40
"""A run starts a thread more than another now and then (3 of 60, more on a busy machine), recorded or not, which is
memory for an M and its stack. So two runs may differ; what most of either kind say has to be found in the other kind.
"""


def recorded(
    oracle: Path, folder: Path, program: str, mode: str, *, procs: int = 1, steps: int = STEPS
) -> Check:
    done = make.run_recording(oracle, folder / "log", program, mode, procs=procs, steps=steps)
    assert (done.exit_status, done.truncated) == (0, False)
    return check(done.path)


def assert_exact(result: Check) -> None:
    assert result.misses == ()
    assert result.allocations > 0
    assert result.matched == result.allocations
    assert result.spans_matched == result.spans
    assert result.sweeps_matched == result.sweeps


@PROGRAMS
def test_off(oracle: Path, tmp_path: Path, program: str) -> None:
    """Every field of MemStats too, absolute, BySize entry by entry."""
    result = recorded(oracle, tmp_path, program, "off")
    assert_exact(result)
    assert (result.mode, result.cycles, result.sweeps) == ("open-loop", 0, 0)
    assert result.spans > 0
    assert result.memstats_differences == ()
    assert result.memstats_compared > 68  # BySize alone has as many


@PROGRAMS
def test_forced(oracle: Path, tmp_path: Path, program: str) -> None:
    """Nothing but the deaths is taken from the recording: which span is swept when is the emulator's own answer."""
    result = recorded(oracle, tmp_path, program, "forced")
    assert_exact(result)
    assert result.mode == "open-loop"
    if program != "empty":
        assert result.cycles > 0
        assert result.sweeps > 0
    assert {d.field for d in result.memstats_differences} <= {"HeapReleased"}


@PROGRAMS
def test_concurrent(oracle: Path, tmp_path: Path, program: str) -> None:
    """Sweeps happen where the recording has them; every address and every span's place is predicted."""
    assert_exact(recorded(oracle, tmp_path, program, "concurrent", steps=20_000))


@PROGRAMS
def test_two_procs(oracle: Path, tmp_path: Path, program: str) -> None:
    """In the order of the log, every address is the one on real hardware."""
    assert_exact(recorded(oracle, tmp_path, program, "off", procs=2))


def test_concurrent_collects(oracle: Path, tmp_path: Path) -> None:
    """The concurrent runs above are not all without a cycle."""
    result = recorded(oracle, tmp_path, "table", "concurrent", steps=200_000)
    assert_exact(result)
    assert result.cycles > 1


def test_budget_is_exhausted(oracle: Path, tmp_path: Path) -> None:
    """The recordings of `budget` have what it is for: a hundred sweeps in vain, then reclaiming, by one allocation."""
    done = make.run_recording(oracle, tmp_path / "log", "budget", "concurrent", steps=20_000)
    records = open_log(done.path).records
    order = np.flatnonzero(np.isin(records["op"], (Op.MALLOC_BEGIN, Op.SWEEP, Op.RECLAIM)))
    op, by_refill = records["op"][order], records["c"][order] == 1
    reclaims = np.flatnonzero(op == Op.RECLAIM)
    in_vain = [
        i > 100 and bool(np.all(by_refill[i - 101 : i] & (op[i - 101 : i] == Op.SWEEP))) for i in reclaims
    ]
    reclaimed = op[np.minimum(reclaims + 1, len(op) - 1)] == Op.SWEEP
    assert np.any(in_vain & reclaimed)


def test_wrong_emulation_is_found(oracle: Path, tmp_path: Path) -> None:
    """One object is made larger than it was: a check that still agreed would prove nothing."""
    done = make.run_recording(oracle, tmp_path / "log", "tiny", "off", steps=500)
    workload = open_recording(done.path)
    columns = workload.columns
    first = int(np.flatnonzero(columns.kind == Event.ALLOC)[0])
    columns.size[first] += 600
    result = check(workload)
    assert result.matched < result.allocations
    assert result.memstats_differences


@pytest.mark.parametrize("mode", ["off", "forced"])
@PROGRAMS
def test_plain_program(fixed: tuple[Path, Path], tmp_path: Path, program: str, mode: str) -> None:
    """What the program usually says of itself unwatched comes out of replaying recordings of it, and the reverse.

    The two are run by turns: how often there is a thread more depends on what else this machine does.
    """
    plain: list[dict[str, Any]] = []
    emulated: list[dict[str, Any]] = []
    for turn in range(_MOST_TURNS):
        plain.append(said(make.run_plain(fixed[0], tmp_path / "log", program, mode, steps=STEPS)))
        done = make.run_recording(fixed[1], tmp_path / "log", program, mode, steps=STEPS)
        emulated.append(said(emulate(done.path)))
        usual, replayed = max(plain, key=plain.count), max(emulated, key=emulated.count)
        if turn >= _LEAST_TURNS and usual in emulated and replayed in plain:
            return
    differences = {k: (usual[k], v) for k, v in replayed.items() if usual[k] != v}
    raise AssertionError(f"plain and emulated runs, {_MOST_TURNS} each, usually differ: {differences}")


def emulate(log: Path) -> dict[str, Any]:
    """Return MemStats as the emulator has them where the recorded program read its own."""
    from pymem.replay import Player

    workload = open_recording(log)
    stats: list[pymem.MemStats] = []
    with Player(workload, follow=False) as player:
        player.play(workload.columns, at_stats=lambda: stats.append(player.mem_stats()))
    (only,) = stats
    return only.to_go()


def said(stats: dict[str, Any]) -> dict[str, Any]:
    """Return what repeats; the scavenger works by the clock."""
    leave = {*make.TIMES, "HeapReleased", "EnableGC", "DebugGC", "BySize", "Lookups"}
    sizes = {f"BySize[{row['Size']}]": (row["Mallocs"], row["Frees"]) for row in stats["BySize"]}
    return {name: value for name, value in stats.items() if name not in leave} | sizes
