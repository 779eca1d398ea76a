"""Recording real Go programs, to be replayed: exactly, event by event, with the program's own toolchain."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pymem._files import check_regular
from pymem.errors import RecordingError
from pymem.record._process import run
from pymem.record.overlay import build_recorder
from pymem.workload.exact_log import MAGIC, close_log

__all__ = [
    "DEFAULT_MAX_BYTES",
    "MOST_PROCS",
    "Recorded",
    "build_recorder",
    "check_recordable",
    "record_binary",
    "record_exact",
]

MOST_PROCS = 254
"""Ps that a log can tell apart: a byte, less one for none and one in reserve."""

DEFAULT_MAX_BYTES = 64 << 30
"""Where a log stops growing: the file is sparse, and takes only what is written of it."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What running a recorded program left behind."""

    path: Path
    exit_status: int  # as a shell would say it: 128 + the signal's number for a program that a signal ended
    records: int
    truncated: bool  # the log filled up before the program ended


def record_exact(
    package: str | Sequence[str],
    args: Sequence[str] = (),
    *,
    output: str | os.PathLike[str],
    gomaxprocs: int | None = None,
    env: Mapping[str, str] | None = None,
    go: str = "go",
    max_bytes: int = DEFAULT_MAX_BYTES,
    build_flags: Sequence[str] = (),
    cwd: str | os.PathLike[str] | None = None,
) -> Path:
    """Build a Go program with the recording runtime, run it, and return the path of the log.

    Raises RecordingError when the program cannot be built or leaves no log. How the program ended is in the
    log's header (``open_log(path).header.exit_status``).
    """
    check_recordable(output, gomaxprocs=gomaxprocs, env=env)
    folder = tempfile.mkdtemp(prefix="pymem-record-")
    try:
        binary = build_recorder(
            package, Path(folder) / "program", go=go, build_flags=build_flags, cwd=cwd, env=env
        )
        return record_binary(
            binary, args, output=output, gomaxprocs=gomaxprocs, env=env, max_bytes=max_bytes, cwd=cwd
        ).path
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def record_binary(
    binary: str | os.PathLike[str],
    args: Sequence[str] = (),
    *,
    output: str | os.PathLike[str],
    gomaxprocs: int | None = None,
    env: Mapping[str, str] | None = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
    cwd: str | os.PathLike[str] | None = None,
    stdout: int | None = None,
) -> Recorded:
    """Run a program that :func:`build_recorder` built; an interrupt ends the program, its log stays."""
    log = check_recordable(output, gomaxprocs=gomaxprocs, env=env)
    log.unlink(missing_ok=True)
    command = [str(Path(binary).absolute()), *args]
    status = run(command, cwd=cwd, env=environment(log, gomaxprocs, env, max_bytes), stdout=stdout)
    if not log.exists():
        raise RecordingError(
            f"{command[0]} left no log at {log} (exit status {status}): was it built by build_recorder, and"
            " can the folder be written?"
        )
    header = close_log(log, status)
    return Recorded(log, status, header.records, header.truncated)


def check_recordable(
    output: str | os.PathLike[str], *, gomaxprocs: int | None = None, env: Mapping[str, str] | None = None
) -> Path:
    """Return the absolute path of the log; RecordingError where it would replace another file, or Ps are too many."""
    log = Path(output).absolute()
    check_regular(log, "choose another file to write")
    try:
        with log.open("rb") as file:
            head = file.read(len(MAGIC))
    except OSError:  # there is none; where it cannot be written either, the program leaves no log
        head = b""
    if head not in (b"", MAGIC):
        raise RecordingError(f"{log}: this file is no exact recording; remove it, or choose another with -o")
    procs = gomaxprocs or _default_procs({**os.environ, **(env or {})}.get("GOMAXPROCS", ""))
    if procs > MOST_PROCS:
        raise RecordingError(
            f"GOMAXPROCS would be {procs}, and an exact recording has room for {MOST_PROCS} Ps; give"
            f" --gomaxprocs {MOST_PROCS} or less"
        )
    return log


def _default_procs(said: str) -> int:
    """Return GOMAXPROCS as a program begins with it: what the environment says, or else a P for each CPU."""
    number = int(said) if said.isdecimal() else 0
    return number or len(os.sched_getaffinity(0))


def environment(
    log: Path, gomaxprocs: int | None, env: Mapping[str, str] | None, max_bytes: int
) -> dict[str, str]:
    """Return the environment of a program that is to leave a log there, no larger than the disk has room."""
    room = shutil.disk_usage(log.parent).free * 9 // 10  # a mapped file on a full disk would end the program
    limits = {"PYMEM_RECORD": str(log), "PYMEM_RECORD_MAX": str(min(max_bytes, room))}
    if gomaxprocs is not None:
        limits["GOMAXPROCS"] = str(gomaxprocs)
    return {**os.environ, **(env or {}), **limits}
