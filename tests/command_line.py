"""For tests of the command line: what a command answers, and commands in processes of their own.

The fixtures `pymem`, which runs the command line in this process, and `workload`, a small recording, are in conftest.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import pymem
from pymem.workload.columns import Event
from pymem.workload.workload import Workload

DATA = Path(__file__).parent / "data"
TRACE = str(DATA / "go127.trace")
LRU = DATA.parents[1] / "examples" / "lru.trace"
NO_ALLOCATIONS = str(DATA / "go122.trace")
VERBS = ("info", "replay", "check", "types", "fragmentation", "doctor")
CLOSED_STREAMS = pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])


class Result(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Result]


def spawn(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-c", "import sys; from pymem.cli import main; sys.exit(main())"]
    return subprocess.Popen([*command, *map(str, arguments)], text=True, **options)


def assert_one_line(result: Result, *parts: str, status: int = 2) -> None:
    assert (result.status, result.out) == (status, ""), result
    assert re.fullmatch(r"pymem: [^\n]+\n", result.err), result
    assert "bug in pymem" not in result.err, result
    for part in parts:
        assert part in result.err, result


def run_shell(redirection: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, its streams closed by a shell."""
    code = "import sys; from pymem.cli import main; sys.exit(main())"
    command = ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def predictable(n: int) -> Workload:
    """Make a workload whose addresses are recorded, and right."""
    with pymem.Runtime() as runtime:
        addresses = runtime.malloc_batch(64, n, noscan=True)
    made = Workload.from_arrays(np.full(n, 64), noscan=True)
    expect = np.zeros(len(made), np.uint64)
    expect[made.columns.kind == Event.ALLOC] = addresses
    return replace(made, columns=replace(made.columns, expect=expect))
