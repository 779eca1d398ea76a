"""Build the oracle programs and record them: what the real runtime does, for the tests to compare with.

``python tests/oracle/make.py FOLDER`` writes ``PROGRAM-MODE-PROCS.log`` for every program, mode and one or
two Ps (about 50 MB). The programs are in the Go files beside this one; each says at its head what it is
for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

from pymem.record import DEFAULT_MAX_BYTES, Recorded, build_recorder, environment, record_binary
from pymem.record.overlay import find_toolchain

HERE = Path(__file__).parent
MODES = ("off", "forced", "concurrent")
PROGRAMS = (
    *("empty", "tiny", "header", "large", "maps", "slices", "types"),
    *("stacks", "gophers", "table", "final", "budget"),
)
GROWING = "grow"
"""A program for the pacer: it allocates what its steps say, and frees nothing."""
TIMES = ("LastGC", "PauseTotalNs", "PauseNs", "PauseEnd", "GCCPUFraction")
"""Fields of MemStats that no two runs share."""

FIXED_BASE = {"GOEXPERIMENT": "norandomizedheapbase64"}
"""Environment of a build whose heap starts at the same address in every run."""


def build_plain(binary: Path, *, go: str = "go", env: dict[str, str] | None = None) -> Path:
    """Build the oracle with the unchanged runtime."""
    command = [str(find_toolchain(go).go), "build", "-o", str(binary), "."]
    subprocess.run(command, cwd=HERE, env={**os.environ, **(env or {})}, check=True)
    return binary


def build_recording(binary: Path, *, go: str = "go", env: dict[str, str] | None = None) -> Path:
    """Build the oracle with the recording runtime."""
    return build_recorder(str(HERE), binary, go=go, env=env)


def _command(program: str, mode: str, steps: int | None) -> list[str]:
    """Return the arguments. Even the number of them is part of the heap."""
    return [program, "-mode", mode, *([] if steps is None else ["-n", str(steps), "-every", str(steps // 4)])]


def run_plain(
    binary: Path,
    log: Path,
    program: str,
    mode: str,
    *,
    procs: int = 1,
    steps: int | None = None,
    env: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Run the unchanged oracle and return its MemStats.

    The environment is a recording's to the letter, as the runtime copies it to the heap; no log is made.
    """
    command = [str(binary), *_command(program, mode, steps)]
    settings = environment(log, procs, env, DEFAULT_MAX_BYTES)
    done = subprocess.run(command, env=settings, check=True, capture_output=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def run_recording(
    binary: Path,
    log: Path,
    program: str,
    mode: str,
    *,
    procs: int = 1,
    steps: int | None = None,
    env: dict[str, str] | None = None,
) -> Recorded:
    """Record one run of the oracle; what it prints is thrown away, as the log has it too."""
    command = _command(program, mode, steps)
    return record_binary(binary, command, output=log, gomaxprocs=procs, env=env, stdout=subprocess.DEVNULL)


def main(folder: Path) -> None:
    """Record every program in every mode, on one and two Ps."""
    folder.mkdir(parents=True, exist_ok=True)
    binary = build_recording(folder / "oracle")
    for program, mode, procs in product(PROGRAMS, MODES, (1, 2)):
        done = run_recording(binary, folder / f"{program}-{mode}-{procs}.log", program, mode, procs=procs)
        print(f"{done.path.name}: {done.records:,} records")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/oracle/make.py FOLDER")
    main(Path(sys.argv[1]))
