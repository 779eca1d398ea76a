"""The command line under bad input, failing systems and odd terminals: every error is one line with exit status 2."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import (
    CLOSED_STREAMS,
    NO_ALLOCATIONS,
    TRACE,
    VERBS,
    Command,
    Result,
    assert_one_line,
    run_shell,
    spawn,
)

from pymem.cli import main
from pymem.errors import CorruptHeapError, RecordingError
from pymem.workload.workload import Workload, WorkloadType

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
