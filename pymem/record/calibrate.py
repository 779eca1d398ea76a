"""A recorded program once more, untraced: its lines of gctrace are kept, whatever else it says passes by.

Tracing costs time, and GOGC of a recording is often not the program's. What a run without either came to is what
predictions are calibrated by.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pymem._files import written
from pymem.errors import RecordingError
from pymem.record.running import run_reading
from pymem.record.subject import untraced
from pymem.record.tracing import check_writable, shown
from pymem.stats.gctrace import GCTRACE
from pymem.workload.gctrace_log import has_gctrace, read_gctrace_log

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pymem.record.subject import Subject

__all__ = ["Sieve", "check_log", "log_beside", "run_calibration"]

_STDERR = 2
_NUMBERS = ("no line", "one line only")
"""Of gctrace: below two cycles nothing can be fitted."""
_BEGUN = re.compile(rb"(?<!\w)g(?:c(?: (?:\d+(?: (?:@[^\n]*)?)?)?)?)?\Z")
"""What may be the beginning of a line of gctrace, at the end of what has come. Go writes a line in pieces."""
_BEGINS, _ENDS = re.compile(r"(?<!\w)gc \d+ @"), re.compile(r"\d+ P(?: \(forced\))?\s*\Z")
_LONGEST = 4096
"""Bytes: a line of gctrace has less."""
_WAITED = 4
"""Lines in which the rest may come of one that other output came into."""


class Sieve:
    """Lines of gctrace go to one side, all else to the other as soon as it comes.

    A line that other output came into goes to both, with the lines after it that may have the rest: readers of the log
    can put it together (`read_gctrace_log`).
    """

    def __init__(self, log: IO[bytes], others: IO[bytes]) -> None:
        self._log, self._others = log, others
        self._rest = b""
        self._waited = 0

    def __call__(self, seconds: float, piece: bytes) -> None:
        """Take what has come; when is of no interest."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            self._line(line + b"\n")
        if not self._waited:  # somebody may be asked for something, with no end of a line
            begun = _BEGUN.search(self._rest, max(len(self._rest) - _LONGEST, 0))
            at = begun.start() if begun else len(self._rest)
            self._others.write(self._rest[:at])
            self._rest = self._rest[at:]
        self._others.flush()

    def close(self) -> None:
        """Give away what is left."""
        self._line(self._rest)
        self._others.flush()

    def _line(self, line: bytes) -> None:
        if b"gc " not in line and not self._waited:
            self._others.write(line)
            return
        text = line.decode("latin-1")
        if match := GCTRACE.search(text):
            self._log.write(match[0].encode("latin-1") + b"\n")
            self._others.write((text[: match.start()] + text[match.end() :].lstrip("\r\n")).encode("latin-1"))
            return
        if _BEGINS.search(text):
            self._waited = _WAITED
            self._log.write(line)
        elif self._waited:
            self._waited = 0 if _ENDS.search(text) else self._waited - 1
            self._log.write(line)
        self._others.write(line)


def log_beside(trace: Path) -> Path:
    """Return where the log of a trace's program belongs: app.gctrace for app.trace."""
    return trace.with_name(f"{trace.name.removesuffix('.trace')}.gctrace")


def check_log(path: Path) -> None:
    """Find out before a long run that its log could not be written, or would replace something else."""
    check_writable(path)
    if path.exists() and path.stat().st_size and not has_gctrace(path):
        raise RecordingError(
            f"{shown(path)}: this file is no log of gctrace; remove it, or choose another name with -o"
        )


def run_calibration(
    subject: Subject, path: Path, *, env: Mapping[str, str] | None = None, stdout: int | None = None
) -> int:
    """Run a program under GODEBUG=gctrace=1, keep its lines there, and return how many cycles they tell of.

    env: added to this process's environment, of which a memory limit is left out: goals would be the limit's. GOGC is
    written above the lines. A log that was there stays until this one is whole.
    Raises RecordingError where the program fails, or has too few cycles.
    """
    whole = {**untraced(["gctrace=1"]), **(env or {})}
    whole.pop("GOMEMLIMIT", None)
    with written(path) as log, open(_STDERR, "wb", closefd=False) as others:
        if (gogc := whole.get("GOGC", "100")).isdecimal():
            log.write(f"# GOGC={gogc}\n".encode())
        sieve = Sieve(log, others)
        status, _ = run_reading(subject.words, sieve, env=whole, cwd=subject.cwd, stdout=stdout)
        sieve.close()
        log.flush()
        command = shlex.join(subject.command)
        if status:
            raise RecordingError(
                f"{command}: ended with status {status} when it ran untraced; its own messages say why"
            )
        cycles = _cycles(Path(log.name))
        if cycles < len(_NUMBERS):
            raise RecordingError(
                f"{command}: {_NUMBERS[cycles]} of gctrace on stderr when it ran untraced, and nothing can be fitted to"
                " that: have it work for longer, or build the program and give its binary if it only starts another"
            )
    return cycles


def _cycles(log: Path) -> int:
    return len(read_gctrace_log(log).cycles) if has_gctrace(log) else 0
