"""Files that hold a workload, told apart by their first bytes; texts by what they say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pymem._files import check_regular
from pymem._heap import ARENA_SIZE
from pymem.errors import RecordingError
from pymem.workload.workload import Workload, WorkloadType

if TYPE_CHECKING:
    import os

    from pymem.workload.curve import CurveSource
    from pymem.workload.from_trace import TraceStream

__all__ = ["kind_of_file", "open_recording", "open_stream"]

_MAGIC = {b"PYMEMLOG": "exact", b"go 1.": "trace", b"PK\x03\x04": "workload"}
_TEXTS = {"gctrace": "a log of gctrace", "samples": "a table of samples"}
_PAGE = 8192
_HEAD = 8192
"""Bytes without a zero in which a file shows itself to be text."""
_FIRST_LINE = 1 << 20


def kind_of_file(path: str | os.PathLike[str]) -> str:
    """Return `exact`, `trace`, `workload`, `gctrace` or `samples`.

    A log may have its first line of gctrace anywhere, so a text is read as far as that. Raises `RecordingError` for
    anything else, `OSError` if it is not read.
    """
    check_regular(path, "a recording is read more than once: write it to a file, and give that")
    with Path(path).open("rb") as file:
        try:
            head = file.read(_HEAD)
        except OSError as error:  # unlike those of open, it does not say of which file
            raise OSError(error.errno, error.strerror, str(path)) from None
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    text = _kind_of_text(path, head) if head and b"\0" not in head else None
    if text:
        return text
    what = "is empty" if not head else f"begins with {head[:8]!r}"
    raise RecordingError(
        f"{path}: at byte 0: the file {what}; give a Go execution trace, an exact recording or a saved workload "
        "(`pymem record` makes the first two); if it is a program's log, there is no gctrace line in it: run the"
        " program with GODEBUG=gctrace=1 2> LOG"
    )


def _kind_of_text(path: str | os.PathLike[str], head: bytes) -> str | None:
    """Return what a text is, None for one that says nothing of memory."""
    from pymem.workload.gctrace_log import has_gctrace
    from pymem.workload.samples import names_fields

    lines = head.decode("utf-8", "replace").strip().splitlines()
    if lines and lines[0].startswith("{"):  # a MemStats is longer than a head
        with Path(path).open("rb") as file:
            lines[0] = file.read(_FIRST_LINE).lstrip().partition(b"\n")[0].decode("utf-8", "replace")
    if lines and names_fields(lines[0]):
        return "samples"
    return "gctrace" if has_gctrace(path) else None


def open_recording(path: str | os.PathLike[str]) -> Workload:
    """Open an exact recording, a Go execution trace or a saved workload. Raises `RecordingError`, `OSError`.

    A log and samples know no objects: `open_stream` opens them.
    """
    kind = kind_of_file(path)
    if kind == "workload":
        return Workload.load(path)
    if kind == "trace":
        from pymem.workload.from_trace import workload_from_trace

        return workload_from_trace(path)
    if kind != "exact":
        raise RecordingError(
            f"{path}: {_TEXTS[kind]} tells amounts, not objects: record the program with `pymem record` for those"
        )
    return _from_exact(path)


def open_stream(path: str | os.PathLike[str]) -> Workload | TraceStream | CurveSource:
    """Open a file to be replayed or run again: an execution trace of any length streams through.

    A log of gctrace and samples of MemStats or runtime/metrics become sources of equal pieces of memory.
    """
    kind = kind_of_file(path)
    if kind == "trace":
        from pymem.workload.from_trace import TraceStream

        return TraceStream(path)
    if kind == "gctrace":
        from pymem.workload.gctrace_log import read_gctrace_log

        return read_gctrace_log(path).source()
    if kind == "samples":
        from pymem.workload.samples import read_samples

        return read_samples(path).source()
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
