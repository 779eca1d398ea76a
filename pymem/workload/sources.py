"""Files that hold a workload, told apart by their first bytes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pymem._files import check_regular
from pymem._heap import ARENA_SIZE
from pymem.errors import RecordingError
from pymem.workload.workload import Workload, WorkloadType

if TYPE_CHECKING:
    import os

    from pymem.workload.from_trace import TraceStream

__all__ = ["kind_of_file", "open_recording", "open_stream"]

_MAGIC = {b"PYMEMLOG": "exact", b"go 1.": "trace", b"PK\x03\x04": "workload"}
_PAGE = 8192


def kind_of_file(path: str | os.PathLike[str]) -> str:
    """Return `exact`, `trace` or `workload`. Raises `RecordingError` for anything else, `OSError` if it is not read."""
    check_regular(path, "a recording is read more than once: write it to a file, and give that")
    with Path(path).open("rb") as file:
        try:
            head = file.read(8)
        except OSError as error:  # unlike those of open, it does not say of which file
            raise OSError(error.errno, error.strerror, str(path)) from None
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    what = "is empty" if not head else f"begins with {head!r}"
    raise RecordingError(
        f"{path}: at byte 0: the file {what}; give a Go execution trace, an exact recording or a saved workload "
        "(`pymem record` makes the first two)"
    )


def open_recording(path: str | os.PathLike[str]) -> Workload:
    """Open an exact recording, a Go execution trace or a saved workload. Raises `RecordingError`, `OSError`."""
    kind = kind_of_file(path)
    if kind == "workload":
        return Workload.load(path)
    if kind == "trace":
        from pymem.workload.from_trace import workload_from_trace

        return workload_from_trace(path)
    return _from_exact(path)


def open_stream(path: str | os.PathLike[str]) -> Workload | TraceStream:
    """Open a file to be replayed once: as `open_recording`, but an execution trace of any length streams through."""
    if kind_of_file(path) == "trace":
        from pymem.workload.from_trace import TraceStream

        return TraceStream(path)
    return open_recording(path)


def _from_exact(path: str | os.PathLike[str]) -> Workload:
    import numpy as np

    from pymem.workload.commits import commits_from_log
    from pymem.workload.exact import columns_from_log
    from pymem.workload.exact_log import Op, open_log

    log = open_log(path)
    grown = np.flatnonzero(log.records["op"] == Op.HEAP_GROW)
    if not len(grown):
        raise RecordingError(f"{path}: the recording ends before the heap is there: record the program again")
    first = int(log.records["a"][grown[0]])
    arena = first & ~(ARENA_SIZE - 1)
    resized = log.records["b"][log.records["op"] == Op.PROC_RESIZE]
    return Workload(
        columns=columns_from_log(log),
        types=(
            WorkloadType("", 0, 0),
            *(WorkloadType(t.name, t.size, t.ptrdata) for t in log.types.values()),
        ),
        tier="exact",
        resolution="cycle",
        procs=int(resized[-1]) if len(resized) else max(1, log.header.gomaxprocs),
        arena_base=arena,
        padding_pages=(first - arena) // _PAGE + log.header.padding_pages,
        origin={"file": str(path), "go": log.header.go_version, "command": " ".join(log.header.command)},
        recorded_stats=tuple(log.memstats()),
        commits=commits_from_log(log)[1],
    )
