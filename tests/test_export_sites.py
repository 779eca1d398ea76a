"""Places in the program that allocate: recorded exactly, and shown by pprof."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from command_line import LRU, Command, assert_one_line
from oracle import make

from pymem.errors import RecordingError
from pymem.export import recorded_history
from pymem.export.heap_profile import Sample, site_profile, type_profile
from pymem.export.pprof import pprof
from pymem.record.overlay import Toolchain
from pymem.workload.exact_log import Op, open_log
from pymem.workload.sites import sites_from_log
from pymem.workload.sources import open_recording

PROGRAM = "table"


@pytest.fixture(scope="module", params=["off", "concurrent"])
def log(oracle: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    path = tmp_path_factory.mktemp("sites") / "log"
    make.run_recording(oracle, path, PROGRAM, request.param, procs=2)
    return path


def _sums(samples: tuple[Sample, ...]) -> dict[str, list[int]]:
    sums: dict[str, list[int]] = {}
    for s in samples:
        mine = sums.setdefault(s.type, [0, 0, 0, 0])
        for i, value in enumerate((s.alloc_objects, s.alloc_bytes, s.inuse_objects, s.inuse_bytes)):
            mine[i] += value
    return sums


@pytest.mark.parametrize("at", ["end", "peak"])
def test_sums(log: Path, at: str) -> None:
    """The places of a type allocate what the type does, to the byte."""
    by_site, by_type = site_profile(log, at=at), type_profile(open_recording(log), at=at)
    assert by_site.at_ns == by_type.at_ns
    mine, whole = _sums(by_site.samples), _sums(by_type.samples)
    assert {name: sums[:2] for name, sums in mine.items()} == {name: sums[:2] for name, sums in whole.items()}
    assert {n: s for n, s in mine.items() if s[2]} == {n: s for n, s in whole.items() if s[2]}


def test_all_known(log: Path) -> None:
    """Each object has a place, and the program's own are named with file and line."""
    sites = sites_from_log(open_log(log))
    assert np.count_nonzero(sites.of == 0) == 0
    calls = {frame for stack in sites.stacks for frame in stack if frame.function.startswith("main.")}
    assert calls
    source = Path(make.__file__).parent
    for call in calls:
        text = (source / Path(call.file).name).read_text().splitlines()
        assert 0 < call.line <= len(text)
    outer = {stack[-1].function for stack in sites.stacks if any(f.function == "main.main" for f in stack)}
    assert outer == {"runtime.main"}


def test_pprof(log: Path, toolchain: Toolchain, tmp_path: Path) -> None:
    """Go's pprof adds what callers allocated up to main.main."""
    profile = site_profile(log)
    path = tmp_path / "heap.pb.gz"
    path.write_bytes(pprof(profile))
    command = [
        str(toolchain.go),
        "tool",
        "pprof",
        "-top",
        "-cum",
        "-sample_index=alloc_space",
        "-unit=B",
        str(path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    row = re.search(r" (\d+)B +\S+%  main\.main$", done.stdout, re.M)
    assert row, done.stdout
    assert int(row[1]) == sum(
        s.alloc_bytes for s in profile.samples if any(f.function == "main.main" for f in s.stack)
    )


def test_history(log: Path) -> None:
    """Of an exact recording the goals are known, and its cycles begin where the program's did."""
    history = recorded_history(open_recording(log))
    starts = open_log(log).records
    starts = starts[starts["op"] == Op.CYCLE_START]
    assert history.goals
    assert (history.timeline["heap_goal"] > 0).all()
    assert len(history.cycles) in (len(starts), len(starts) - 1)  # the last may be under way
    for cycle, start in zip(history.cycles, starts, strict=False):
        assert cycle.heap0 == pytest.approx(int(start["a"]), rel=0.15)


_PROFILED = """package main

import (
	"os"
	"runtime"
	"runtime/pprof"
)

type node struct {
	next *node
	text [40]byte
}

var sink any

//go:noinline
func words(n int) {
	for i := range n {
		sink = make([]byte, 16+i%900) // Go counts no parts of tiny blocks
	}
}

func inlined() *node { return &node{} }

//go:noinline
func nodes(n int) {
	for range n {
		sink = inlined()
	}
	words(n)
}

//go:noinline
func large(n int) {
	for range n {
		sink = make([]*node, 9000)
	}
}

func main() {
	nodes(1000)
	words(3000)
	large(20)
	runtime.GC() // Go publishes what it counted two cycles ago
	runtime.GC()
	out, err := os.Create(os.Args[1])
	if err != nil {
		panic(err)
	}
	pprof.Lookup("allocs").WriteTo(out, 0)
}

func init() { runtime.MemProfileRate = 1 }
"""


def _cumulated(toolchain: Toolchain, profile: Path, sample: str) -> dict[str, int]:
    """Return what pprof says that each function of main, and what it calls, allocated."""
    unit = "-unit=B" if sample.endswith("space") else "-unit=count"
    options = ["-top", "-cum", f"-sample_index={sample}", unit, "-show=^main", "-nodefraction=0"]
    command = [str(toolchain.go), "tool", "pprof", *options, str(profile)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    rows = re.findall(r" (\d+)B? +\S+%  (main\.\w+)(?: \(inline\))?$", done.stdout, re.M)
    return {name: int(cum) for cum, name in rows}


def test_as_go(toolchain: Toolchain, pymem: Command, tmp_path: Path) -> None:
    """Go's own profile of each allocation, taken in the recorded run, says the same of each function."""
    program = tmp_path / "profiled"
    program.mkdir()
    (program / "go.mod").write_text("module profiled\n\ngo 1.27\n")
    (program / "main.go").write_text(_PROFILED)
    theirs, log, mine = (tmp_path / name for name in ("go.pb.gz", "log", "mine.pb.gz"))
    assert pymem("record", "--exact", program, "-o", log, "--", theirs).status == 0
    assert pymem("export", "--to", "pprof", "--by", "site", log, "-o", mine).status == 0
    for sample in ("alloc_objects", "alloc_space"):
        wanted, found = (_cumulated(toolchain, path, sample) for path in (theirs, mine))
        assert {"main.inlined", "main.nodes", "main.words", "main.large"} <= set(wanted)
        for name in ("main.inlined", "main.nodes", "main.words", "main.large"):
            assert found[name] == wanted[name], (sample, name)


def test_command(log: Path, pymem: Command, tmp_path: Path) -> None:
    out = tmp_path / "heap.pb.gz"
    assert pymem("export", "--to", "pprof", "--by", "site", log, "-o", out).status == 0
    assert out.read_bytes() == pprof(site_profile(log))


def test_no_sites(log: Path, tmp_path: Path) -> None:
    """A log as it was before there were sites."""
    old = tmp_path / "old"
    old.write_bytes(log.read_bytes())
    records = np.memmap(old, open_log(old).records.dtype, "r+", 4096, (open_log(old).header.records,))
    records["op"][records["op"] == Op.SITE] = 0
    records.flush()
    with pytest.raises(RecordingError, match="does not tell where"):
        site_profile(old)


def test_trace(pymem: Command, tmp_path: Path) -> None:
    result = pymem("export", "--to", "pprof", "--by", "site", LRU, "-o", tmp_path / "out")
    assert_one_line(result, "only exact recordings", "pymem record --exact")
