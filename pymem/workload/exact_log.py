"""Exact recordings: every event of a Go program's memory manager, as ``pymem record --exact`` leaves them.

A log is a header page of 4,096 bytes followed by records of 32 bytes, all little-endian. The first word of
a record is ``op | P << 8 | M << 16 | goroutine << 32`` (P is 255 for an M without one), then come ``a``,
``b`` and ``c``. A record that was claimed but never written has op 0: the program was killed between the
two. Records are in the order in which their writers claimed them, which is the program's order on one P,
and the lock's order for what happens under a lock. The two records of an allocation lie where its P is
pinned: what their M does between them belongs to the allocation, and the GC it may start comes after.

What a, b and c are, operation by operation (see :class:`Op`); what is not said is 0:

================= ======================= ========================== =====================================
op                a                       b                          c
================= ======================= ========================== =====================================
MALLOC_BEGIN      requested size, never 0 noscan, needzero << 1,     address of the type, 0 none
                                          nanoseconds << 8
MALLOC_END        address returned        slot size, 0 for a part    site, 0 unknown
                                          of an existing tiny block
SPAN_ALLOC        base                    pages                      kind (0 heap, 1 stack, 2 work
                                                                     buffer), span class << 8
SPAN_FREE         base                    pages                      kind
SWEEP             base                    span class, pages << 16    1 if the sweeper keeps the span
SLOT_FREE         slot address            span base
FLUSH             P that owns the mcache  1 if stale: a GC's flush
FLIP              new sweepgen
PHASE             number                  nanoseconds << 8
PCACHE_FILL       base                    free pages, a bit each     scavenged pages, a bit each
PCACHE_FLUSH      base                    free pages, a bit each     scavenged pages, a bit each
PAGE_ALLOC        base                    pages
PAGE_FREE         base                    pages
UNCACHE           span base
STACK_ALLOC       bytes                   0 global pool, 1 P's
                                          cache, 2 span of its own
STACK_ALLOC_END   address
STACK_FREE        address                 bytes                      as STACK_ALLOC's b; 0x100 more if kept
                                                                     until the GC ends
PERSISTENT        bytes                   alignment                  stat, own << 8, caller's pc << 16
SYS_ALLOC         bytes                                              stat, own << 8, caller's pc << 16
SYS_FREE          bytes                                              stat, own << 8, caller's pc << 16
MCACHE_ALLOC
MCACHE_FREE       P that owned it
MEM_STATS         field                   value                      index in BySize
READ_MEM_STATS
GC_START          1 if asked for          number of the GC           0 heap, 1 time, 2 asked for
GC_MARK_TERM
GC_SWEEP_DONE     sweepgen
SYS_MAP           bytes                                              stat, own << 8, caller's pc << 16
STACK_CACHE_CLEAR P that owns the mcache
FREE_STACK_SPANS
TYPE              address                 size                       bytes with pointers; NAMEs follow
NAME              24 bytes of a name      ...                        ...
PROC_RESIZE       old GOMAXPROCS          new GOMAXPROCS
HEAP_GROW         base                    bytes
PADDING           base                    pages
GO_CREATE         goroutine id
FUNC              pc                                                 NAMEs of the function follow
PROC_DESTROY      P
SYS_UNUSED        address                 bytes given to the system
SYS_USED          address                 bytes                      bytes of them that were released
GC_PHASE          0 off, 1 mark, 2 mark
                  termination
STACK_POOL_ALLOC  address                 order
STACK_POOL_FREE   address                 order
REFILL            span base               span class                 objects in it at that time
GO_EXIT           goroutine id
PACER             lastStackScan           globalsScan                heapMarked
PACER_GOAL        heapLive                lastHeapScan               goal from GOGC alone
GC_PERCENT        GOGC, -1 off (signed)
MEMORY_LIMIT      bytes (signed)
MARK_BIT_EPOCH
FINISH_SWEEP
SCAV_BEGIN        base                    pages
SCAV_END          base                    pages
SCAVENGE          bytes wanted            1 if forced
RECLAIM           pages wanted
PACER_HEAP        heapScan                totalAlloc                 totalFree
PACER_MEMORY      mappedReady             heapFree                   sweepDistMinTrigger, 0 if all is swept
PACER_TRIGGER     trigger                 goal                       consMark, a float64's bits
CYCLE_START       heapLive                heapScan                   trigger
FINALIZER         slot address            slot size                  1 set, 0 taken off, 2 gone as the sweep
                                                                     keeps the object for it; 0x100 noscan
SITE              site                    pc of a caller             its number, 0 the innermost
FRAME             pc                      line                       depth of inlining, 0 innermost; NAMEs of
                                                                     the function follow
FILE              pc                      line                       as FRAME; NAMEs of the file follow
================= ======================= ========================== =====================================

- The P field of PCACHE_FLUSH is the cache's owner. An empty cache is flushed, and filled, without a record.
- A stat is 1 heap, 2 stacks, 3 mspan, 4 mcache, 5 profile buckets, 6 GC, 7 other, 0 unknown. *Own* marks
  calls by the allocator itself, which an emulator of it repeats unasked; a chunk or block that
  persistentalloc takes is own too, as it follows from the PERSISTENT record before it.
- Between SCAV_BEGIN and SCAV_END, both under the heap lock, the scavenger holds the pages as if allocated.
- The five PACER records are made each time the pacer computes its goal anew, in the order above and together;
  PACER_TRIGGER completes them. Logs made before there were five have the first two, and none at the start.
- A site is a chain of callers, told at its first allocation: up to 32, from inside the allocator outwards; a pc is
  where the call returns to. Logs made before there were sites have 0.
- FINISH_SWEEP starts the sweep termination of a GC, in which unswept span sets are reset and the arenas of
  mark bits take turns (MARK_BIT_EPOCH).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pymem.errors import RecordingError

__all__ = ["HEADER_SIZE", "RECORD", "ExactLog", "GoType", "Header", "Op", "open_log"]

MAGIC = b"PYMEMLOG"
VERSION = 1
HEADER_SIZE = 4096
NO_P = 255

RECORD = np.dtype(
    [("op", "u1"), ("p", "u1"), ("m", "<u2"), ("g", "<u4"), ("a", "<u8"), ("b", "<u8"), ("c", "<u8")]
)

_HEADER = struct.Struct("<8s2I5Q2IQ64sqq4xi")  # up to byte 160; the command starts at byte 256
_COMMAND = 256
_TRUNCATED, _CLOSED, _NAMES = 1, 2, 4
_NUMBERS = [
    *("Alloc", "TotalAlloc", "Sys", "Lookups", "Mallocs", "Frees"),
    *("HeapAlloc", "HeapSys", "HeapIdle", "HeapInuse", "HeapReleased", "HeapObjects"),
    *("StackInuse", "StackSys", "MSpanInuse", "MSpanSys", "MCacheInuse", "MCacheSys"),
    *("BuckHashSys", "GCSys", "OtherSys", "NextGC", "LastGC", "PauseTotalNs"),
]

MEM_STATS_FIELDS: dict[int, str] = {
    **dict(enumerate(_NUMBERS)),
    26: "NumGC",
    27: "NumForcedGC",
    28: "GCCPUFraction",
    100: "Size",
    101: "Mallocs",
    102: "Frees",
}
"""Field numbers of MEM_STATS records: Go's order in the struct, without the pauses; BySize from 100."""


class Op(IntEnum):
    """What a record says; the module's table has the meaning of its numbers."""

    MALLOC_BEGIN = 1
    MALLOC_END = 2
    SPAN_ALLOC = 3
    SPAN_FREE = 4
    SWEEP = 5
    SLOT_FREE = 6
    FLUSH = 7
    FLIP = 8
    PHASE = 9
    PCACHE_FILL = 10
    PCACHE_FLUSH = 11
    PAGE_ALLOC = 12
    PAGE_FREE = 13
    UNCACHE = 14
    STACK_ALLOC = 15
    STACK_ALLOC_END = 16
    STACK_FREE = 17
    PERSISTENT = 18
    SYS_ALLOC = 19
    SYS_FREE = 20
    MCACHE_ALLOC = 21
    MCACHE_FREE = 22
    MEM_STATS = 23
    READ_MEM_STATS = 24
    GC_START = 25
    GC_MARK_TERM = 26
    GC_SWEEP_DONE = 27
    SYS_MAP = 28
    STACK_CACHE_CLEAR = 29
    FREE_STACK_SPANS = 30
    TYPE = 32
    NAME = 33
    PROC_RESIZE = 34
    HEAP_GROW = 35
    PADDING = 36
    GO_CREATE = 37
    FUNC = 38
    PROC_DESTROY = 39
    SYS_UNUSED = 40
    SYS_USED = 41
    GC_PHASE = 42
    STACK_POOL_ALLOC = 43
    STACK_POOL_FREE = 44
    REFILL = 45
    GO_EXIT = 46
    PACER = 47
    PACER_GOAL = 48
    GC_PERCENT = 49
    MEMORY_LIMIT = 50
    MARK_BIT_EPOCH = 51
    FINISH_SWEEP = 52
    SCAV_BEGIN = 53
    SCAV_END = 54
    SCAVENGE = 55
    PACER_HEAP = 56
    PACER_MEMORY = 57
    PACER_TRIGGER = 58
    CYCLE_START = 59
    FINALIZER = 60
    RECLAIM = 61
    SITE = 62
    FRAME = 63
    FILE = 64


@dataclass(frozen=True, slots=True)
class Header:
    """What the header page says of the program and its log."""

    records: int  # claimed and within the capacity
    capacity: int  # records
    arena_base: int  # address of the first heap arena
    padding_pages: int  # skipped at random at the start of the heap
    page_size: int  # bytes
    gomaxprocs: int  # at the end of the runtime's initialisation
    truncated: bool  # the log was full before the program ended
    closed: bool  # pymem saw the program end
    names_missing: bool  # there were too many types or callers to name them all
    pid: int
    go_version: str
    start: int  # the monotonic clock at the start, ns; times in records count from here
    unix_start: int  # the wall clock at the start, ns
    exit_status: int  # of the program, as a shell would say it; 0 unless closed
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GoType:
    """A Go type of which an object was allocated."""

    address: int
    name: str
    size: int  # bytes
    ptrdata: int  # bytes at the front that hold all pointers


@dataclass(frozen=True)
class ExactLog:
    """An exact recording, opened: its records stay in the file until they are looked at."""

    path: Path
    header: Header
    records: npt.NDArray[Any]  # of dtype RECORD

    @cached_property
    def types(self) -> dict[int, GoType]:
        """Types by address, in order of their first allocation."""
        return {
            int(row["a"]): GoType(int(row["a"]), name, int(row["b"]), int(row["c"]))
            for row, name in self.named(Op.TYPE)
        }

    @cached_property
    def functions(self) -> dict[int, str]:
        """Callers of PERSISTENT, SYS_ALLOC, SYS_FREE and SYS_MAP by their pc."""
        return {int(row["a"]): name for row, name in self.named(Op.FUNC)}

    def count(self) -> dict[Op, int]:
        """Return how many records there are of each operation that occurs."""
        counts = np.bincount(self.records["op"], minlength=256)
        return {op: int(counts[op]) for op in Op if counts[op]}

    def holes(self) -> int:
        """Return how many records were claimed and never written."""
        return int(np.count_nonzero(self.records["op"] == 0))

    def memstats(self) -> list[dict[str, Any]]:
        """Return the MemStats that the program read, in order, under Go's names, without the pauses."""
        rows = self.records[self.records["op"] == Op.MEM_STATS]
        starts = [*np.flatnonzero((rows["a"] == 0) & (rows["c"] == 0)), len(rows)]
        return [_dump(rows[i:j]) for i, j in pairwise(starts)]

    def named(self, op: Op) -> list[tuple[Any, str]]:
        """Return the records of one op that are followed by the pieces of a name, with it."""
        ops = self.records["op"]
        found = []
        for at in np.flatnonzero(ops == op):
            end = at + 1
            while end < len(ops) and ops[end] == Op.NAME:
                end += 1
            words = self.records[at + 1 : end][["a", "b", "c"]].tolist()
            name = b"".join(struct.pack("<3Q", *word) for word in words)
            found.append((self.records[at], name.split(b"\0", 1)[0].decode(errors="replace")))
        return found


def open_log(path: str | PathLike[str]) -> ExactLog:
    """Open an exact recording, also one whose program was killed.

    Raises RecordingError for a file that is missing, is no exact recording, or contradicts itself.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            page = file.read(HEADER_SIZE)
        size = path.stat().st_size
    except OSError as error:
        raise RecordingError(f"{path}: {error.strerror}; make a log with `pymem record --exact`") from None
    header = _header(path, page)
    if HEADER_SIZE + header.records * RECORD.itemsize > size:
        raise RecordingError(
            f"{path}: the header (byte 16) counts {header.records:,} records but the file ends at byte"
            f" {size:,}: it was cut short in copying; copy it again, or record again"
        )
    if header.records == 0:
        return ExactLog(path, header, np.zeros(0, RECORD))
    records = np.memmap(path, RECORD, "r", HEADER_SIZE, (header.records,))
    return ExactLog(path, header, records)


def _header(path: Path, page: bytes | bytearray) -> Header:
    if page[:8] != MAGIC:
        what = "is empty" if not page else "does not start (byte 0) with PYMEMLOG"
        raise RecordingError(f"{path}: {what}: no exact recording; make one with `pymem record --exact`")
    if len(page) < HEADER_SIZE:
        raise RecordingError(f"{path}: the header ends at byte {len(page)} of {HEADER_SIZE}; record again")
    fields = _HEADER.unpack_from(page)
    _, version, header_size, used, capacity, arena, padding, page_size, procs, flags, pid, go = fields[:12]
    start, unix, status = fields[12:]
    if version != VERSION or header_size != HEADER_SIZE:
        raise RecordingError(
            f"{path}: version {version} of the format (byte 8), but this pymem reads {VERSION}; record again,"
            " or update pymem"
        )
    return Header(
        records=min(used, capacity),
        capacity=capacity,
        arena_base=arena,
        padding_pages=padding,
        page_size=page_size,
        gomaxprocs=procs,
        truncated=bool(flags & _TRUNCATED),
        closed=bool(flags & _CLOSED),
        names_missing=bool(flags & _NAMES),
        pid=pid,
        go_version=go.split(b"\0", 1)[0].decode(errors="replace"),
        start=start,
        unix_start=unix,
        exit_status=status,
        command=tuple(bytes(page[_COMMAND:]).rstrip(b"\0").decode(errors="replace").split("\0")),
    )


def close_log(path: str | PathLike[str], exit_status: int) -> Header:
    """Note that the program ended, and cut the file's unused tail off; return the header."""
    path = Path(path)
    with path.open("r+b") as file:
        page = bytearray(file.read(HEADER_SIZE))
        header = _header(path, page)
        flags = _CLOSED | _TRUNCATED * header.truncated | _NAMES * header.names_missing
        struct.pack_into("<Q", page, 16, header.records)
        struct.pack_into("<I", page, 60, flags)
        struct.pack_into("<i", page, 156, exit_status)
        file.seek(0)
        file.write(page)
        file.truncate(HEADER_SIZE + header.records * RECORD.itemsize)
    return _header(path, page)


def _dump(rows: npt.NDArray[Any]) -> dict[str, Any]:
    """Turn the MEM_STATS records of one reading into a dictionary shaped like Go's JSON of a MemStats."""
    stats: dict[str, Any] = {}
    by_size: dict[int, dict[str, int]] = {}
    for field, value, index in zip(rows["a"].tolist(), rows["b"].tolist(), rows["c"].tolist(), strict=True):
        name = MEM_STATS_FIELDS.get(field, f"field{field}")
        if field >= 100:
            by_size.setdefault(index, {})[name] = value
        elif name == "GCCPUFraction":
            stats[name] = struct.unpack("<d", struct.pack("<Q", value))[0]
        else:
            stats[name] = value
    stats["BySize"] = [by_size[index] for index in sorted(by_size)]
    return stats
