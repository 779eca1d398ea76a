"""Running a program to its end with its stderr read so that it is hardly disturbed, and nothing of it left behind.

The runtime prints its trace lines while the world is stopped, so whoever reads must never keep it waiting. The pipe
holds a megabyte, hundreds of cycles, and is emptied every few hundredths of a second; what came when tells the lines of
one process from another's (`pymem.accuracy.measure`).
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import select
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from pymem.errors import RecordingError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

__all__ = ["Line", "Ran", "run_program", "run_reading"]

_NAP = 0.02
"""Seconds between two looks at the pipe."""
_PIPE = 1 << 20
_GRACE = 2.0
"""Seconds that a program has to end by itself when it is told to."""
_KEPT = 64 << 20
"""Bytes of stderr that are kept, about 300,000 cycles."""


class Line(NamedTuple):
    """A line of stderr."""

    seconds: float
    """Since the program was started, when the line was read: later than it was written, by no more than a nap."""
    text: str


@dataclass(frozen=True, slots=True)
class Ran:
    """A program that has ended."""

    status: int
    """As a shell would say it: 128 + the signal's number for a program that a signal ended."""
    seconds: float
    lines: tuple[Line, ...]


def run_program(words: Sequence[str], *, env: Mapping[str, str], cwd: Path | None = None) -> Ran:
    """Run a program with nothing to read and its stdout thrown away, and return what it said on stderr.

    Raises RecordingError where it cannot be started.
    """
    pieces: list[tuple[float, bytes]] = []
    kept = 0

    def keep(seconds: float, piece: bytes) -> None:
        nonlocal kept
        kept += len(piece)
        if kept <= _KEPT:
            pieces.append((seconds, piece))

    nothing = subprocess.DEVNULL
    status, seconds = run_reading(words, keep, env=env, cwd=cwd, stdin=nothing, stdout=nothing)
    return Ran(status, seconds, tuple(_lines([*pieces, (seconds, b"")])))


def run_reading(
    words: Sequence[str],
    take: Callable[[float, bytes], None],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    stdin: int | None = None,
    stdout: int | None = None,
) -> tuple[int, float]:
    """Run a program, and return its exit status (as a shell would say it) and the seconds that it took.

    What it writes to stderr goes to `take` as it comes, with the seconds since the start; that must not take long.
    The program has a session of its own: whatever it started ends with it, also when this is interrupted.
    Raises RecordingError where it cannot be started.
    """
    reading, writing = os.pipe()
    with io.FileIO(reading) as pipe:
        with contextlib.suppress(OSError):  # where users may have no more, less has to do
            fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, _PIPE)
        os.set_blocking(reading, False)
        started = time.monotonic()
        try:
            process = _start(words, env, cwd, (stdin, stdout, writing))
        finally:
            os.close(writing)
        try:
            seconds = _read(process, pipe, started, take)
        finally:
            _end(process)
    status = process.returncode
    return status if status >= 0 else 128 - status, seconds


def _start(
    words: Sequence[str],
    env: Mapping[str, str],
    cwd: Path | None,
    streams: tuple[int | None, int | None, int],
) -> subprocess.Popen[bytes]:
    stdin, stdout, stderr = streams
    try:
        return subprocess.Popen(
            words, env=env, cwd=cwd, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True
        )
    except OSError as error:
        raise RecordingError(
            f"{words[0]}: {error.strerror}; check that it is a program and may be run"
        ) from None


def _read(
    process: subprocess.Popen[bytes], pipe: io.FileIO, started: float, take: Callable[[float, bytes], None]
) -> float:
    """Give away what comes until the program has ended, and return when that was. It is not reaped."""
    with _Nap(process.pid) as nap:
        while True:
            nap()
            ended = _ended(process)  # before the look: what it wrote last is then there
            now = time.monotonic() - started
            if piece := _all(pipe):
                take(now, piece)
            if ended:
                return now


class _Nap:
    """Waits for a while, or until a process ends if the system can tell."""

    def __init__(self, pid: int) -> None:
        self._stack = contextlib.ExitStack()
        self._fd = -1
        with contextlib.suppress(OSError):
            self._fd = os.pidfd_open(pid)
            self._stack.callback(os.close, self._fd)

    def __enter__(self) -> _Nap:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __call__(self) -> None:
        select.select([self._fd] if self._fd >= 0 else [], [], [], _NAP)


def _ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has ended. It stays there as a zombie, so that nothing else can have its number."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _all(pipe: io.FileIO) -> bytes:
    pieces = []
    while piece := pipe.read(_PIPE):
        pieces.append(piece)
    return b"".join(pieces)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the program if it still runs, and all that it started."""
    if not _ended(process):
        _signal(process, signal.SIGTERM)
        until = time.monotonic() + _GRACE
        while not _ended(process) and time.monotonic() < until:
            time.sleep(_NAP)
    _signal(process, signal.SIGKILL)
    process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _lines(pieces: list[tuple[float, bytes]]) -> list[Line]:
    """Return whole lines, each with the time at which its end came."""
    lines, rest = [], b""
    for seconds, piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        lines += [Line(seconds, text.decode("utf-8", "replace")) for text in whole]
    if rest:
        lines.append(Line(pieces[-1][0], rest.decode("utf-8", "replace")))
    return lines
