"""Exports as the tools take them that they are for: pprof, Perfetto, benchstat, a reader of gctrace lines."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from command_line import LRU
from perfetto_engine import query

from pymem.errors import ConfigError
from pymem.export import History, recorded_history, rerun_history
from pymem.export.benchfmt import UNITS, benchfmt
from pymem.export.gctrace import gctrace
from pymem.export.heap_profile import HeapProfile, type_profile
from pymem.export.perfetto import COUNTERS, write_perfetto
from pymem.export.pprof import VALUES, pprof
from pymem.record.overlay import Toolchain
from pymem.rerun import Rerun, rerun
from pymem.stats.gctrace import gctrace_line, read_gctrace
from pymem.workload.sources import open_stream

BENCHSTAT = "golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da"


@pytest.fixture(scope="module")
def runs() -> list[Rerun]:
    return [rerun(open_stream(LRU), gogc=gogc) for gogc in (50, 100, "off")]


@pytest.fixture(scope="module")
def history(runs: list[Rerun]) -> History:
    return rerun_history(runs[0], source="lru.trace")


# ---- pprof ----


def _pprof(toolchain: Toolchain, path: Path, *options: str) -> str:
    command = [str(toolchain.go), "tool", "pprof", *options, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def _top(toolchain: Toolchain, path: Path, sample: str) -> dict[str, int]:
    """Return what `go tool pprof -top` says of each place, in bytes or objects."""
    unit = "-unit=B" if sample.endswith("space") else "-unit=count"
    text = _pprof(
        toolchain, path, "-top", f"-sample_index={sample}", unit, "-nodefraction=0", "-nodecount=10000"
    )
    assert f"Type: {sample}" in text
    rows = re.findall(r"^ *(\d+)B? +\S+% +\S+% +\d+B? +\S+%  (.+)$", text, re.M)
    return {name: int(flat) for flat, name in rows}


@pytest.mark.parametrize("at", ["end", "peak"])
def test_pprof(toolchain: Toolchain, tmp_path: Path, at: str) -> None:
    """Go's pprof reads each of the four values of each type, and none else."""
    profile = type_profile(open_stream(LRU), at=at)
    path = tmp_path / "heap.pb.gz"
    path.write_bytes(pprof(profile))
    for name, _ in VALUES:
        field = name.replace("space", "bytes")
        wanted = {s.type: getattr(s, field) for s in profile.samples if getattr(s, field)}
        found = {name: n for name, n in _top(toolchain, path, name).items() if n}
        assert found == wanted


def test_pprof_default(toolchain: Toolchain, tmp_path: Path) -> None:
    """What is in use is shown unasked, and types are tags, too."""
    path = tmp_path / "heap.pb.gz"
    path.write_bytes(pprof(type_profile(open_stream(LRU))))
    assert "Type: inuse_space" in _pprof(toolchain, path, "-top")
    assert "main.document" in _pprof(toolchain, path, "-tags")


def test_pprof_same_bytes() -> None:
    assert pprof(type_profile(open_stream(LRU))) == pprof(type_profile(open_stream(LRU)))


def test_pprof_empty(toolchain: Toolchain, tmp_path: Path) -> None:
    path = tmp_path / "empty.pb.gz"
    path.write_bytes(pprof(HeapProfile(samples=(), at_ns=0)))
    assert "Type: inuse_space" in _pprof(toolchain, path, "-top")


# ---- Perfetto ----


def _perfetto(history: History) -> bytes:
    out = io.BytesIO()
    write_perfetto(history, out)
    return out.getvalue()


def test_perfetto(history: History) -> None:
    """Perfetto's trace processor finds the counters, the cycles with their phases, and who marked."""
    counters, cycles, phases, assists, process = query(
        _perfetto(history),
        "select t.name, count(*) as n, cast(max(c.value) as int) as most from counter c"
        " join process_counter_track t on c.track_id = t.id group by t.name",
        "select ts, dur, name, extract_arg(arg_set_id, 'debug.heap1') as heap1 from slice where depth = 0 order by ts",
        "select ts, dur, name from slice where depth = 1 order by ts, id",
        "select c.ts, c.value from counter c join process_counter_track t on c.track_id = t.id"
        " where t.name = 'assists' order by c.ts",
        "select name from process where pid = 1",
    )
    most = {row["name"]: row["most"] for row in counters}
    for name, column in COUNTERS.items():
        assert most[name] == history.timeline[column].max()
    assert cycles == [
        {"ts": c.start_ns, "dur": c.end_ns - c.start_ns, "name": f"GC {c.number}", "heap1": c.heap1}
        for c in history.cycles
    ]
    marking = [p for p in phases if p["name"] == "marking"]
    assert [(p["ts"], p["dur"]) for p in marking] == [
        (c.mark_ns, c.term_ns - c.mark_ns) for c in history.cycles
    ]
    assert len(phases) == 3 * len(cycles)
    for cycle, at in zip(history.cycles, assists[::2], strict=True):
        assert at["value"] * (cycle.term_ns - cycle.mark_ns) == pytest.approx(cycle.assist_ns)
    assert process == [{"name": f"lru.trace {history.settings}"}]


def test_perfetto_recorded() -> None:
    recorded = recorded_history(open_stream(LRU), name="lru.trace")
    cycles, names = query(
        _perfetto(recorded),
        "select count(*) as n, max(depth) as depth from slice",
        "select distinct t.name from counter c join process_counter_track t on c.track_id = t.id",
    )
    assert cycles == [{"n": len(recorded.cycles), "depth": 0}]
    assert {row["name"] for row in names} == set(COUNTERS) - {"heap goal"}


def test_perfetto_same_bytes(history: History) -> None:
    assert _perfetto(history) == _perfetto(history)


# ---- benchstat ----


@pytest.fixture(scope="session")
def benchstat(toolchain: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Find benchstat, or have the module proxy bring it."""
    found = shutil.which("benchstat")
    if found:
        return Path(found)
    folder = tmp_path_factory.mktemp("benchstat")
    command = [str(toolchain.go), "install", BENCHSTAT]
    environment = {**os.environ, "GOBIN": str(folder), "GOFLAGS": "-buildvcs=false"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        pytest.skip(f"benchstat cannot be had: {done.stderr.strip().splitlines()[-1]}")
    return folder / "benchstat"


def test_benchstat(benchstat: Path, runs: list[Rerun], tmp_path: Path) -> None:
    """It compares two sweeps, setting by setting; with one run each, differences are taken as they are."""
    slower = [rerun(open_stream(LRU), gogc=gogc, time_scale=2.0) for gogc in (50, 100, "off")]
    for name, sweep in (("old.txt", runs), ("new.txt", slower)):
        (tmp_path / name).write_text(benchfmt(sweep))
    command = [str(benchstat), "-format", "csv", "old.txt", "new.txt"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    for setting, old, new in zip(("50", "100", "off"), runs, slower, strict=True):
        row = re.search(
            rf"^Rerun/gogc={setting}/limit=off-1,([\d.e+-]+),0%,([\d.e+-]+),0%,", done.stdout, re.M
        )
        assert row, done.stdout
        assert float(row[1]) == pytest.approx(old.virtual_ns / 1e9)
        assert float(row[2]) == pytest.approx(new.virtual_ns / 1e9)
    for unit in UNITS:
        shown = "sec/op" if unit == "ns/op" else unit
        assert f"{shown},CI" in done.stdout
    assert "need" not in done.stdout + done.stderr  # no cry for more samples


def test_benchstat_samples(benchstat: Path, runs: list[Rerun], tmp_path: Path) -> None:
    """Runs of the same settings are samples of one benchmark."""
    text = benchfmt([runs[0]] * 6)
    assert "assume=exact" not in text
    (tmp_path / "six.txt").write_text(text)
    command = [str(benchstat), "six.txt"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
    assert re.search(r"Rerun/gogc=50/limit=off-1 +\S+ ± 0%", done.stdout)


# ---- gctrace ----


def test_gctrace(history: History) -> None:
    assert gctrace(history).splitlines() == [str(gctrace_line(c)) for c in history.cycles]
    assert len(list(read_gctrace(gctrace(history).splitlines()))) == len(history.cycles)


def test_gctrace_elsewhere(history: History) -> None:
    """`gogctrace` of github.com/tebeka/gctrace reads the lines; the module proxy has it not, so only where it is."""
    reader = shutil.which("gogctrace")
    if reader is None:
        pytest.skip("gogctrace is not installed, and the module proxy does not have it")
    done = subprocess.run(
        [reader], input=gctrace(history), capture_output=True, text=True, check=True, timeout=60
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [
        (t["num"], t["heap"]["before"], t["heap"]["after"], t["heap"]["live"], t["heap"]["goal"])
        for t in told
    ] == [(c.number, c.heap0 >> 20, c.heap1 >> 20, c.heap2 >> 20, c.goal >> 20) for c in history.cycles]


def test_gctrace_recorded() -> None:
    with pytest.raises(ConfigError, match="--gogc 100"):
        gctrace(recorded_history(open_stream(LRU)))
