"""`pymem whatif` and `pymem recommend`: what they print, and what they say of options that cannot be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from command_line import LRU, Command, assert_one_line

from pymem.cli.whatif import _amount, _number, _percent, _time
from pymem.rerun import Chance, rerun
from pymem.stats.gctrace import gctrace_line
from pymem.whatif import Estimate
from pymem.workload.sources import open_stream

GRID = ("--gogc", "25,800,off", "--memory-limit", "off,64MiB,15MiB", "--gomaxprocs", "1,16")


def test_whatif(pymem: Command) -> None:
    result = pymem("whatif", LRU, *GRID, "--draws", 2)
    assert result.status == 0
    assert "25    off    1" in result.out
    assert "off   64MiB  16" in result.out
    assert "pauses, quantiles of the recorded ones" in result.out
    assert result.err.splitlines()[-1].startswith("next: pymem recommend ")


def test_whatif_by_costs(pymem: Command, workload: Path) -> None:
    assert "pauses, by Costs" in pymem("whatif", workload, "--draws", 1).out


def test_widths(pymem: Command) -> None:
    """A hundred columns are enough for tables and text."""
    for arguments in (("whatif", LRU, *GRID), ("recommend", LRU, "--limit", "12MiB")):
        assert max(map(len, pymem(*arguments, "--draws", 3).out.splitlines())) <= 100


def test_widest_cells() -> None:
    """As wide as they become in the largest of programs."""
    wide = Estimate(1023.4 * 2**30, 800.4 * 2**30, 1200.4 * 2**30)
    assert _amount(wide) == "1023 GiB (800-1200)"
    assert _amount(Estimate(9.994 * 2**20, 0, 99.96 * 2**20)) == "9.99 MiB (0.00-100)"
    assert _amount(Estimate(0, 0, 0)) == "0 B (0-0)".replace("0", "0.00")
    assert _number(Estimate(9999, 9000, 9999)) == "9999 (9000-9999)"
    assert _percent(Estimate(0.37, 0.286, 0.479)) == "37.0% (28.6-47.9)"
    assert [_time(Estimate(x, x, x)) for x in (0, 999, 61_000, 1.234e6, 2.5e10)] == [
        "0 ns", "999 ns", "61.0 us", "1.23 ms", "25.0 s"
    ]  # fmt: skip


def test_recommend(pymem: Command) -> None:
    result = pymem("recommend", LRU, "--limit", "12MiB")
    assert result.status == 0
    assert result.err == f"next: pymem whatif {LRU} --memory-limit off,10MiB\n"
    answer = pymem("recommend", LRU, "--limit", "12MiB", "--json").json
    assert answer["line"] == f"GOGC={answer['choice']['gogc']} GOMEMLIMIT=10MiB"
    assert result.out.startswith(f"{answer['line']}\n\nThe peak footprint is")
    assert answer["faster"] is None
    assert f"\nin {answer['more'] >> 20}MiB" in result.out
    assert answer["with_more"]["gogc"] > answer["choice"]["gogc"] > 25
    assert " ".join(result.out.split("\n\n")[1].split()) == answer["why"]


def test_calibrate(pymem: Command, tmp_path: Path) -> None:
    """What a log changes is printed, and the next command goes by it too; a log that does not do is no recording."""
    log = tmp_path / "lru.gctrace"
    cycles = rerun(open_stream(LRU), gogc=25, chance=Chance(time=2.0)).cycles
    log.write_text("# GOGC=25\n" + "".join(f"{gctrace_line(cycle)}\n" for cycle in cycles))
    result = pymem("whatif", LRU, "--calibrate", log, "--gogc", "25,50", "--draws", 1)
    assert result.out.startswith(f"\nCalibrated by {log}: {len(cycles)} cycles at GOGC=25\n")
    assert "pauses, quantiles of the log's;" in result.out
    assert f"next: pymem recommend {LRU} --calibrate {log} --limit" in result.err
    told = pymem("whatif", LRU, "--calibrate", log, "--draws", 1, "--json").json["calibration"]
    assert told["time"] == pytest.approx(2.0, rel=0.15)
    found = pymem("recommend", LRU, "--calibrate", log, "--limit", "1GiB", "--draws", 1)
    assert found.out.startswith("\nCalibrated by")
    assert f"next: pymem whatif {LRU} --calibrate {log} --memory-limit" in found.err
    for bad, says in (
        (tmp_path / "none", "No such file"),
        (LRU, "no gctrace line"),
        (tmp_path, "Is a directory"),
    ):
        assert_one_line(pymem("whatif", LRU, "--calibrate", bad), f"pymem: --calibrate {bad}: {says}")


def test_recommend_nothing(pymem: Command) -> None:
    assert pymem("recommend", LRU, "--limit", "5MiB", "--draws", 1).err == f"next: pymem types {LRU}\n"
    answer = pymem("recommend", LRU, "--limit", "5MiB", "--draws", 1, "--json")
    assert answer.status == 1
    assert all(answer.json[name] is None for name in ("choice", "thriftier", "faster", "with_more", "more"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--gogc", "1,,2"), "--gogc '1,,2': give values with commas between"),
        (("--gogc", "much"), "gogc='much': give a percentage"),
        (("--memory-limit", "1GB"), "memory limit '1GB': write bytes"),
        (("--gomaxprocs", "0"), "gomaxprocs=0: give"),
        (("--leak", "5"), "--leak '5': give an amount a time"),
        (("--costs", "/nowhere/c"), "--costs /nowhere/c: No such file or directory; give a file that"),
        (("--costs", __file__), f"{__file__}: not a file of costs"),
        (("--results", "/nowhere/r"), "/nowhere/r: No such file or directory; give results a file"),
        (("--results", "/"), "/: Is a directory; give results a file"),
        (("--results", os.devnull), f"{os.devnull}: a device, not a file; give results a file"),
        (("--results", __file__), f"{__file__}: holds no results"),
    ],
)
def test_wrong_options(pymem: Command, options: tuple[str, ...], says: str) -> None:
    """They have nothing to do with the recording, and it is not named."""
    result = pymem("whatif", LRU, *options)
    assert_one_line(result, f"pymem: {says}")
    assert "pymem record" not in result.err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--limit", "off"), "limit 'off': give"),
        (("--limit", "1GiB", "--headroom", "100%"), "headroom 1.0: give"),
        (("--limit", "1GiB", "--max-gc-cpu", "0%"), "max_gc_cpu 0.0: give"),
        (("--limit", "1GiB", "--costs", "/nowhere/c"), "--costs /nowhere/c: "),
    ],
)
def test_wrong_limits(pymem: Command, options: tuple[str, ...], says: str) -> None:
    assert_one_line(pymem("recommend", LRU, *options), f"pymem: {says}")


def test_recording_is_named(pymem: Command, tmp_path: Path) -> None:
    path = tmp_path / "r"
    path.write_bytes(b"go 1.99 trace\0\0\0")
    assert_one_line(pymem("whatif", path), f"pymem: {path}: ")
    assert_one_line(pymem("whatif", tmp_path / "none"), "No such file", "pymem record")
