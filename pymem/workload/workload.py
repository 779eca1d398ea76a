"""A workload: what a program does to memory, as columns of events, with all that is needed to run it again.

Every source makes one (an exact recording, an execution trace, numpy arrays, a generator) and every consumer takes one.
A saved workload is a zip file of numpy columns and a JSON header, so anything that reads ``.npz`` can open it.
"""

from __future__ import annotations

import json
import os
import struct
import zipfile
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from pymem._files import check_regular
from pymem._heap import ARENA_SIZE
from pymem.errors import RecordingError
from pymem.workload.columns import DTYPES, Columns, Event
from pymem.workload.commits import Commit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

__all__ = ["ARENA_BASE", "Workload", "WorkloadType"]

ARENA_BASE = 0xC000000000
"""Where Go puts the first arena unless its base is randomised."""

_FORMAT = 1
_HEADER = "workload.json"
_MAX_HEADER = 64 << 20
_BAD_FILE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError),
    *(LookupError, ValueError, TypeError, AttributeError, OverflowError, RuntimeError),
)
"""What zipfile, json and numpy raise when they read damaged files."""


class WorkloadType(NamedTuple):
    """A Go type of the program. Index 0 of a workload's types is "unknown", with an empty name."""

    name: str
    size: int
    """Bytes of a value, 0 where it is not known."""
    ptrdata: int
    """Bytes up to the end of the last pointer in a value; 0: no pointers."""


UNKNOWN = WorkloadType("", 0, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """Events, types, the heap they start from (its spans and objects are the first rows), and how precise this is."""

    columns: Columns
    types: tuple[WorkloadType, ...] = (UNKNOWN,)
    tier: str = "arrays"
    """Where it comes from: `exact` (recording with requested sizes), `trace` (slot sizes), `arrays`, `synthetic`."""
    resolution: str = "event"
    """How exactly deaths are dated: `event`, or `cycle` (known to the GC cycle that freed the object)."""
    procs: int = 1
    """GOMAXPROCS."""
    arena_base: int = ARENA_BASE
    padding_pages: int = 0
    """Pages at the front of the first arena that hold nothing: Go's random heap base."""
    origin: dict[str, str] = field(default_factory=dict)
    """What is known of the recording: `file`, `go`, `command`."""
    recorded_stats: tuple[dict[str, Any], ...] = ()
    """What the program's own ReadMemStats said at each STATS row, under Go's names."""
    commits: tuple[Commit, ...] = ()
    """What the program's pacer went by at each GOAL row with flags; older recordings have none."""

    def __len__(self) -> int:
        return len(self.columns)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Workload):
            return NotImplemented
        same = all(np.array_equal(getattr(self.columns, n), getattr(other.columns, n)) for n in DTYPES)
        return same and self._header() == other._header()

    __hash__ = None  # type: ignore[assignment]

    # ---- what is in it ----

    def _count(self, kind: Event) -> int:
        return int(np.count_nonzero(self.columns.kind == kind))

    @property
    def duration_ns(self) -> int:
        """Time of the last event, nanoseconds since the first."""
        return int(self.columns.time[-1] - self.columns.time[0]) if len(self) else 0

    @property
    def objects(self) -> int:
        """Objects allocated, parts of tiny blocks counted one by one; those of the start heap are not among them."""
        return self._count(Event.ALLOC) + self._count(Event.TINY)

    @property
    def bytes_allocated(self) -> int:
        """Bytes asked for (tier `trace`: bytes of the slots)."""
        return int(self.columns.size[self.columns.kind == Event.ALLOC].sum())

    @property
    def cycles(self) -> int:
        """GC cycles."""
        return self._count(Event.FLIP)

    @property
    def forced_cycles(self) -> int:
        """GC cycles that the program asked for."""
        ends = self.columns.kind == Event.GC_END
        return int(np.count_nonzero(self.columns.flags[ends] & 1))

    def chunks(self, size: int = 1 << 20) -> Iterator[Columns]:
        """Yield the events `size` at a time, without copying."""
        for start in range(0, len(self), size):
            yield self.columns[start : start + size]

    # ---- from arrays ----

    @classmethod
    def from_arrays(
        cls,
        sizes: npt.ArrayLike,
        *,
        noscan: npt.ArrayLike = False,
        births_ns: npt.ArrayLike | None = None,
        lifetimes: npt.ArrayLike | None = None,
        types: npt.ArrayLike = 0,
        procs: npt.ArrayLike = 0,
        type_table: Sequence[WorkloadType] = (),
        gc_every: int = 0,
        tier: str = "arrays",
    ) -> Self:
        """Build a workload of `n` allocations.

        sizes: (n,) bytes, at least 1. noscan, types, procs: (n,) or one value for all. births_ns: (n,) nanoseconds,
        rising; default: one a nanosecond. lifetimes: (n,) how many allocations later each object dies, negative: never;
        default: none dies. gc_every: a full collection after every so many allocations, 0: none. Raises `ValueError`.
        """
        from pymem.workload.arrays import columns_from_arrays

        columns = columns_from_arrays(
            sizes,
            noscan=noscan,
            births_ns=births_ns,
            lifetimes=lifetimes,
            types=types,
            procs=procs,
            gc_every=gc_every,
        )
        highest = int(columns.proc.max(initial=0))
        return cls(columns=columns, types=(UNKNOWN, *type_table), tier=tier, procs=highest + 1)

    # ---- files ----

    def _header(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "events": len(self),
            "tier": self.tier,
            "resolution": self.resolution,
            "procs": self.procs,
            "arena_base": self.arena_base,
            "padding_pages": self.padding_pages,
            "origin": self.origin,
            "types": [list(t) for t in self.types],
            "recorded_stats": list(self.recorded_stats),
            "commits": [asdict(commit) for commit in self.commits],
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the workload to a file, whole or not at all; returns its path. Raises `OSError`."""
        check_regular(path, "choose another file to write")
        path = Path(path)
        beside = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                archive.writestr(zipfile.ZipInfo(_HEADER), json.dumps(self._header()))
                for name in DTYPES:
                    member = zipfile.ZipInfo(f"{name}.npy")  # a fixed date: same workload, same bytes
                    member.compress_type = zipfile.ZIP_DEFLATED
                    with archive.open(member, "w", force_zip64=True) as out:
                        np.lib.format.write_array(out, getattr(self.columns, name), allow_pickle=False)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a saved workload. Raises `RecordingError` for a file that is none, damaged, or of another version."""
        name = os.fspath(path)
        try:
            with zipfile.ZipFile(path) as archive:
                header = _read_header(archive)
                events = header["events"]
                columns = Columns(**{column: _read_column(archive, column, events) for column in DTYPES})
            return cls(
                columns=columns,
                types=tuple(WorkloadType(*entry) for entry in header["types"]),
                recorded_stats=tuple(header["recorded_stats"]),
                commits=tuple(Commit.read(commit) for commit in header.get("commits", ())),
                **{
                    key: header[key]
                    for key in ("tier", "resolution", "procs", "arena_base", "padding_pages", "origin")
                },
            )
        except FileNotFoundError:
            raise
        except _BAD_FILE as error:
            raise RecordingError(
                f"{name}: not a whole pymem workload: {error}: save or record it again"
            ) from error


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    info = archive.getinfo(name)
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is encrypted or compressed in an unknown way")
    if info.compress_size > os.fstat(archive.fp.fileno()).st_size:  # type: ignore[union-attr]
        raise ValueError(f"{name} has {info.compress_size:,} bytes, more than the file")
    return archive.open(info)


def _whole(value: object, what: str, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{what} is {value!r:.40}, not a whole number from {low:,} to {high:,}")
    return value


def _read_header(archive: zipfile.ZipFile) -> dict[str, Any]:
    """Read the header; every field of it is what `_header` writes."""
    with _member(archive, _HEADER) as member:
        raw = member.read(_MAX_HEADER + 1)
    if len(raw) > _MAX_HEADER:
        raise ValueError(f"its header is longer than {_MAX_HEADER:,} bytes")
    header = json.loads(raw)
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    if header["format"] != _FORMAT or type(header["format"]) is not int:
        raise ValueError(f"it is of format {header['format']!r:.20} and this pymem reads {_FORMAT}")
    _whole(header["events"], "events", 0, 1 << 40)
    _whole(header["procs"], "procs", 1, 1 << 15)
    _whole(header["padding_pages"], "padding_pages", 0, ARENA_SIZE // 8192 - 1)
    if _whole(header["arena_base"], "arena_base", ARENA_SIZE, (1 << 47) - ARENA_SIZE) % ARENA_SIZE:
        raise ValueError(f"arena_base is {header['arena_base']:#x}, not a multiple of 64 MB")
    origin = header["origin"]
    if not all(
        isinstance(text, str) for text in (header["tier"], header["resolution"], *origin, *origin.values())
    ):
        raise ValueError("tier, resolution and origin are not text")
    for name, size, ptrdata in header["types"]:
        if not isinstance(name, str):
            raise ValueError(f"a type is called {name!r:.40}")
        _whole(size, "the size of a type", 0, 1 << 63)
        _whole(ptrdata, "ptrdata of a type", 0, 1 << 63)
    for stats in header["recorded_stats"]:
        _check_stats(stats)
    return header


def _check_stats(stats: dict[str, Any]) -> None:
    """Check what Go's JSON of a MemStats must have for the emulator's to be compared with it."""
    by_size = stats.get("BySize", [])
    if len(by_size) > 68:
        raise ValueError(f"recorded_stats has {len(by_size)} size classes")
    for entry in by_size:
        _whole(entry["Mallocs"], "Mallocs of a size class", 0, (1 << 64) - 1)
        _whole(entry["Frees"], "Frees of a size class", 0, (1 << 64) - 1)


def _read_column(archive: zipfile.ZipFile, name: str, events: int) -> npt.NDArray[Any]:
    """Read one column; its shape is checked before memory is asked for."""
    with _member(archive, f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        shape, _, dtype = np.lib.format.read_array_header_1_0(member)
        if version != (1, 0) or shape != (events,) or dtype != DTYPES[name]:
            raise ValueError(
                f"column {name} has shape {shape} and type {dtype}, not ({events},) and {np.dtype(DTYPES[name])}"
            )
        raw = member.read(events * dtype.itemsize + 1)
    if len(raw) != events * dtype.itemsize:
        raise ValueError(f"column {name} has {len(raw):,} bytes, not {events * dtype.itemsize:,}")
    return np.frombuffer(raw, dtype)
