"""The command line: what each verb answers. Errors are in `test_cli_errors.py`, recording in `test_cli_record.py`."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import (
    DATA,
    LRU,
    NO_ALLOCATIONS,
    TRACE,
    VERBS,
    Command,
    assert_one_line,
    predictable,
)

from pymem.workload.columns import Event
from pymem.workload.sources import open_recording
from pymem.workload.synthetic import LAB, steady

# ---- help and version ----


def test_version(pymem: Command) -> None:
    result = pymem("--version")
    assert result.status == 0
    assert re.fullmatch(r"pymem \d+\.\d+\.\d+, emulates Go 1\.27\n", result.out)


@pytest.mark.parametrize("arguments", [[], ["--help"], *[[v, "--help"] for v in ("record", "lab", *VERBS)]])
def test_help(pymem: Command, arguments: list[str]) -> None:
    result = pymem(*arguments)
    assert result.status == 0
    assert result.out.isascii()
    assert re.search(r"Examples?:\n +pymem ", result.out)


def examples(pymem: Command) -> set[str]:
    """Return the examples that the help gives for verbs which need no program to record."""
    text = "".join(pymem(*verb, "--help").out for verb in ([], ["lab"], *([v] for v in VERBS)))
    commands = (line.split(" | ")[0] for line in re.findall(r"^ +pymem (.+)$", text, re.M))
    return {c for c in commands if c.split()[0] in ("lab", *VERBS) and " -- " not in c}


def test_examples(pymem: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples of the help run as they stand, where their files are there."""
    monkeypatch.chdir(tmp_path)
    Path("json.trace").write_bytes(Path(TRACE).read_bytes())
    predictable(100).save("app.log")
    Path("classes.txt").write_text("64\n512\n8192\n")
    commands = examples(pymem)
    assert {command.split()[0] for command in commands} == {"lab", *VERBS}
    for command in commands:
        result = pymem(*command.split())
        assert result.status == 0, result.err


def test_light() -> None:
    """The library does not pull the command line in, and the command line draws nothing before it has to."""
    code = "import pymem, sys; assert not {'typer', 'rich', 'pymem.cli'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    code = "import pymem.cli, sys; assert not {'rich', 'pymem.replay'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- info, replay, check ----


def test_info(pymem: Command) -> None:
    result = pymem("info", TRACE)
    assert result.status == 0
    assert "an execution trace, Go 1.26 or 1.27" in result.out
    assert "Objects      182 of" in result.out
    assert "3, 2 of them forced" in result.out
    assert "main.tree" in result.out
    assert result.err == f"next: pymem replay {TRACE}\n"


def test_info_json(pymem: Command) -> None:
    answer = pymem("info", TRACE, "--json").json
    assert (answer["tier"], answer["resolution"], answer["procs"]) == ("trace", "cycle", 1)
    assert (answer["objects"], answer["cycles"], answer["forced_cycles"]) == (182, 3, 2)
    assert answer["has_allocations"] and not answer["incomplete"]
    assert sum(t["objects"] for t in answer["types"]) + answer["tiny_parts"] == answer["objects"]
    assert sum(t["bytes"] for t in answer["types"]) == answer["bytes_allocated"]


def test_info_streams(pymem: Command) -> None:
    """A trace is told a chunk at a time, and comes to what its rows come to together."""
    answer, whole = pymem("info", LRU, "--json").json, open_recording(LRU)
    assert answer["rows"] == len(whole)
    for name in ("objects", "bytes_allocated", "cycles", "forced_cycles", "duration_ns", "procs"):
        assert answer[name] == getattr(whole, name)
    assert answer["goroutines"] == np.count_nonzero(np.unique(whole.columns.goroutine))
    assert sum(t["bytes"] for t in answer["types"]) == whole.bytes_allocated


def test_info_saved(pymem: Command, tmp_path: Path) -> None:
    """A saved trace tells what the trace does, or says nothing of it."""
    path = open_recording(TRACE).save(tmp_path / "t.pymem")
    saved, trace = pymem("info", path, "--json").json, pymem("info", TRACE, "--json").json
    assert saved["go"] == trace["go"] == "Go 1.26 or 1.27"
    assert (saved["spans"], trace["spans"]) == (None, 19)
    assert "Spans" not in pymem("info", path).out
    assert "Spans        19\n" in pymem("info", TRACE).out


def test_info_without_allocations(pymem: Command) -> None:
    result = pymem("info", NO_ALLOCATIONS)
    assert result.status == 0
    assert "Go 1.22" in result.out
    assert "record with Go 1.27" in result.err
    answer = pymem("info", NO_ALLOCATIONS, "--json").json
    assert not answer["has_allocations"]
    assert "objects" not in answer


def test_info_killed(pymem: Command) -> None:
    answer = pymem("info", DATA / "go127_killed.trace", "--json").json
    assert answer["incomplete"]
    assert answer["incomplete_offset"] > 0
    assert "its end is missing from byte" in pymem("info", DATA / "go127_killed.trace").out


def test_replay_json(pymem: Command, workload: Path) -> None:
    answer = pymem("replay", workload, "--json").json
    assert answer["events"] > 3000
    assert [c["number"] for c in answer["cycles"]] == [1, 2, 3, 4, 5, 6]
    assert answer["memstats"]["NumGC"] == 6
    assert answer["memstats"]["Mallocs"] == 3000
    assert answer["seconds"] > 0
    assert {"heap_by_type", "fragmentation"} <= answer.keys()


def test_replay(pymem: Command, workload: Path) -> None:
    result = pymem("replay", workload)
    assert result.status == 0
    assert result.out.isascii()
    for title in ("GC cycles", "MemStats at the end", "Heap by type", "Fragmentation by size class"):
        assert f"\n\n{title}" in result.out
    assert result.err == f"next: pymem replay {workload} --gogc 200\n"


def test_rerun_json(pymem: Command) -> None:
    answer = pymem("replay", LRU, "--gogc", "50", "--gomaxprocs", "2", "--json").json
    assert (answer["gogc"], answer["gomaxprocs"]) == (50, 2)
    assert answer["num_gc"] == len(answer["cycles"]) > 2
    assert answer["peak_heap"] == max(c["heap1"] for c in answer["cycles"])
    assert 0 < answer["gc_cpu"] < 1
    assert len({len(column) for column in answer["timeline"].values()}) == 1
    assert answer["memstats"]["NumGC"] == answer["num_gc"]


def test_rerun(pymem: Command) -> None:
    result = pymem("replay", LRU, "--memory-limit", "64MiB")
    assert result.status == 0
    assert "GOGC=100 GOMEMLIMIT=64.0 MiB" in result.out or "GOMEMLIMIT=64" in result.out
    assert "GC cycles" in result.out


def test_rerun_gctrace(pymem: Command) -> None:
    lines = pymem("replay", LRU, "--gctrace").out.splitlines()
    assert len(lines) > 1
    assert all(re.match(rf"gc {i + 1} @[\d.]+s \d+%: ", line) for i, line in enumerate(lines))


def test_rerun_costs(pymem: Command, tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text('{"stop_ns": 1000000, "term_ns": 1000000}')
    answer = pymem("replay", LRU, "--gogc", "100", "--costs", path, "--json").json
    assert all(c["pause_ns"] == 2_000_000 for c in answer["cycles"])
    for text in ("", "[1]", '{"mark": 1}', '{"stop_ns": -1}'):
        path.write_text(text)
        assert_one_line(pymem("replay", LRU, "--gogc", "100", "--costs", path), "costs")
    assert_one_line(pymem("replay", LRU, "--gogc", "100", "--costs", tmp_path / "none"), "none")


@pytest.mark.parametrize(
    "options", [("--gogc", "much"), ("--memory-limit", "12 MB"), ("--gomaxprocs", "0"), ("--time-scale", "0")]
)
def test_rerun_bad_options(pymem: Command, options: tuple[str, ...]) -> None:
    assert pymem("replay", LRU, *options).status == 2


def test_check(pymem: Command) -> None:
    result = pymem("check", TRACE)
    assert result.status == 0
    assert re.search(r"Matched +18\d \(", result.out)
    assert "next: pymem " in result.err


def test_check_json(pymem: Command) -> None:
    answer = pymem("check", TRACE, "--json").json
    assert answer["allocations"] > 150
    assert answer["rate"] == answer["matched"] / answer["allocations"]
    assert answer["mode"] in {"open-loop", "follow"}
    assert len(answer["misses"]) == answer["allocations"] - answer["matched"]


@pytest.mark.parametrize("mode", ["open-loop", "follow"])
def test_check_mode(pymem: Command, mode: str) -> None:
    assert pymem("check", TRACE, "--mode", mode, "--json").json["mode"] == mode


def test_check_misses(pymem: Command, tmp_path: Path) -> None:
    """A recording whose addresses are made up: nothing matches, the first misses are shown with their context."""
    made = steady(100, rng=1)
    columns = replace(made.columns, expect=np.where(made.columns.kind == Event.ALLOC, 0x1230, 0))
    path = replace(made, columns=columns).save(tmp_path / "wrong.pymem")
    result = pymem("check", path, "--fail-under", "0.5")
    assert result.status == 1
    assert "Matched      0 (0.0000 %)" in result.out
    assert "Misses (the first 10)" in result.out
    assert "0x1230" in result.out
    assert pymem("check", path).status == 0
    answer = pymem("check", path, "--json").json
    assert (answer["allocations"], answer["matched"], answer["rate"]) == (100, 0, 0)
    assert len(answer["misses"]) == 64
    assert answer["misses"][0]["want"] == 0x1230


def test_check_of_nothing(pymem: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording in which nothing was predicted is no proof."""
    from pymem import checking

    nothing = replace(checking.check(TRACE), allocations=0, matched=0, misses=())
    monkeypatch.setattr(checking, "check", lambda *_, **__: nothing)
    result = pymem("check", TRACE)
    assert (result.status, "Matched      nothing to predict" in result.out) == (0, True)
    assert pymem("check", TRACE, "--fail-under", "1").status == 1
    assert pymem("check", TRACE, "--fail-under", "0").status == 1


def test_check_of_saved_trace(pymem: Command, tmp_path: Path) -> None:
    """The workload of a trace has not what following it takes; it used to be run open loop under that name."""
    path = open_recording(TRACE).save(tmp_path / "saved.pymem")
    result = pymem("check", path)
    assert result.status == 2
    assert result.err.endswith(
        "it was made from a trace and has lost what a check goes by; check the .trace itself\n"
    )


def test_check_without_addresses(pymem: Command, workload: Path) -> None:
    assert_one_line(
        pymem("check", workload, "--json"), str(workload), "no recorded addresses", "pymem replay"
    )


# ---- lab ----


def test_lab_list(pymem: Command) -> None:
    result = pymem("lab")
    assert result.status == 0
    assert all(name in result.out for name in LAB)
    assert set(pymem("lab", "--json").json) == set(LAB)


def test_lab(pymem: Command, tmp_path: Path) -> None:
    saved = tmp_path / "large.pymem"
    result = pymem("lab", "large", "--save", saved)
    assert result.status == 0
    assert "Fragmentation by size class" in result.out
    lab, replayed = pymem("lab", "large", "--json").json, pymem("replay", saved, "--json").json
    assert lab["memstats"] == replayed["memstats"]


def test_lab_errors(pymem: Command) -> None:
    assert_one_line(pymem("lab", "nothing"), "no program 'nothing'", "churn")
    assert_one_line(pymem("lab", "large", "--save", "/nowhere/x"), "/nowhere/x", "choose another file")
    assert_one_line(pymem("lab", "--save", "x.pymem"), "--save", "NAME")
