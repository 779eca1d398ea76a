"""A recorded heap as pprof sees one: objects and bytes, allocated so far and in use, by type."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pymem._native import ffi, lib
from pymem.errors import ConfigError, RecordingError
from pymem.export.history import play_recorded
from pymem.replay import Player, type_uses
from pymem.sizeclasses import size_classes
from pymem.workload.columns import Columns, Event
from pymem.workload.exact_log import open_log
from pymem.workload.sites import SiteFrame, sites_from_log
from pymem.workload.sources import kind_of_file, open_recording

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy.typing as npt

    from pymem.replay import EventSource, TypeUse
    from pymem.rerun import Rerun
    from pymem.workload.sites import Sites
    from pymem.workload.workload import WorkloadType

__all__ = ["HeapProfile", "Sample", "site_profile", "slot_bytes", "type_profile"]

_PAGE = 8192
_HEADER_FROM = 512  # bytes: larger objects with pointers have 8 more for their type
_TINY = 16


@dataclass(frozen=True, slots=True)
class Sample:
    """What came from one place. Bytes are those of slots, as in Go's own profiles."""

    stack: tuple[SiteFrame, ...]
    """Innermost first; a profile by type has one frame, the type."""
    type: str
    alloc_objects: int
    alloc_bytes: int
    inuse_objects: int
    inuse_bytes: int


@dataclass(frozen=True, slots=True)
class HeapProfile:
    """A heap at one moment of a run."""

    samples: tuple[Sample, ...]
    """Most bytes in use first, then most allocated."""
    at_ns: int
    """The moment: ns since the recording began."""
    comment: str = ""


def type_profile(
    source: EventSource,
    *,
    at: str = "end",
    rerun: Rerun | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> HeapProfile:
    """Replay a recording and return its heap by type.

    An object is in use until the recording says that it died, found by a collection or not. Parts of a tiny block count
    as objects allocated, without bytes of their own; the block counts once among those in use.

    Args:
        source: the recording.
        at: the moment: "end", or "peak", when heapLive was largest (the recording is replayed twice then).
        rerun: of the same recording: what it left in use counts, instead of the record. Only at the end.
        progress: called now and then with (events done, events in all).

    Raises what `replay` raises.

    """
    _check_moment(at)
    if at == "peak" and rerun is not None:
        raise ConfigError(
            "of a rerun only the heap at its end is known: leave out --at peak, or the settings"
        )
    stop = _rows_to_peak(source) if at == "peak" else None
    allocated = _Allocated(source)
    now = origin = None
    with Player(source, follow=source.tier == "exact") as player:
        for columns, _ in play_recorded(player, source, progress=progress):
            origin = int(columns.time[0]) if origin is None else origin
            now = int(columns.time[-1])
            allocated.add(columns)
            if columns.kind[-1] == Event.START_DONE:
                allocated.start(type_uses(player.heap, source.types))
            if player.rows == stop:
                break
        uses = type_uses(player.heap, source.types) if rerun is None else rerun.heap_by_type
    return HeapProfile(samples=_samples(allocated.totals(), uses), at_ns=(now or 0) - (origin or 0))


def _check_moment(at: str) -> None:
    if at not in ("end", "peak"):
        raise ConfigError(f"moment {at!r}: give end or peak")


def _rows_to_peak(source: EventSource) -> int:
    """Return how many rows of a recording lead to the moment when heapLive is largest."""
    pace, most, rows = ffi.new("pymem_pace_info *"), -1, 0
    with Player(source, follow=source.tier == "exact") as player:
        for _ in play_recorded(player, source):
            player.heap.call(lib.pymem_read_pace, pace)
            if pace.heap_live > most:
                most, rows = int(pace.heap_live), player.rows
    return rows


class _Allocated:
    """Counts what is allocated, by type."""

    def __init__(self, source: EventSource) -> None:
        self._names = [t.name or "(unknown)" for t in source.types]
        self._objects, self._bytes = (np.zeros(len(self._names), np.int64) for _ in range(2))
        self._start: tuple[TypeUse, ...] = ()

    def add(self, columns: Columns) -> None:
        made = (columns.kind == Event.ALLOC) | (columns.kind == Event.TINY)
        n = len(self._names)
        self._objects += np.bincount(columns.type[made], minlength=n)[:n]
        noscan = columns.flags & 1 != 0
        # What lies amid a tiny block has joined it. Where no address is recorded, each counts as a block of its own.
        joins = noscan & (columns.size < _TINY) & (columns.expect % np.uint64(_TINY) != 0)
        new = (columns.kind == Event.ALLOC) & ~joins
        sizes = slot_bytes(columns.size[new], noscan=noscan[new])
        np.add.at(self._bytes, columns.type[new], sizes.astype(np.int64))

    def start(self, uses: tuple[TypeUse, ...]) -> None:
        """Count what was there when the recording began: it was allocated before."""
        self._start = uses

    def totals(self) -> dict[str, tuple[int, int]]:
        """Return objects and bytes by name."""
        totals: defaultdict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
        rows = zip(self._names, self._objects.tolist(), self._bytes.tolist(), strict=True)
        for name, objects, size in [*rows, *((u.name, u.objects, u.bytes) for u in self._start)]:
            before = totals[name]
            totals[name] = (before[0] + objects, before[1] + size)
        return totals


def slot_bytes(sizes: npt.NDArray[np.uint64], *, noscan: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
    """Return the bytes of the slots that objects of such sizes get: of their class, or whole pages."""
    classes = size_classes()["size"].astype(np.uint64)
    wanted = np.where(noscan & (sizes < _TINY), np.uint64(_TINY), sizes)
    wanted = np.where(~noscan & (sizes > _HEADER_FROM), wanted + np.uint64(8), wanted)
    small = wanted <= classes[-1]
    pages = (sizes + np.uint64(_PAGE - 1)) // np.uint64(_PAGE) * np.uint64(_PAGE)
    at = np.searchsorted(classes, np.where(small, wanted, 0))
    return np.where(small, classes[at], pages)


def _samples(totals: dict[str, tuple[int, int]], uses: Iterable[TypeUse]) -> tuple[Sample, ...]:
    in_use: defaultdict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for use in uses:
        before = in_use[use.name]
        in_use[use.name] = (before[0] + use.objects, before[1] + use.bytes)
    samples = [
        Sample((SiteFrame(name, "", 0),), name, *totals.get(name, (0, 0)), *in_use[name])
        for name in {*totals, *in_use}
    ]
    return ordered(samples)


def ordered(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    """Return samples that tell something, largest first."""
    some = [s for s in samples if s.alloc_objects or s.inuse_objects]
    return tuple(sorted(some, key=lambda s: (-s.inuse_bytes, -s.alloc_bytes, s.stack, s.type)))


def site_profile(path: str | os.PathLike[str], *, at: str = "end") -> HeapProfile:
    """Return the heap of an exact recording by the places that allocated, and by type at each.

    Bytes and moments are as in `type_profile`. Raises `RecordingError` for a recording of another kind, or without
    places.
    """
    _check_moment(at)
    if kind_of_file(path) != "exact":
        raise RecordingError(
            f"{os.fspath(path)}: only exact recordings tell where objects were allocated: make one with"
            " `pymem record --exact`, or leave out --by site"
        )
    sites = sites_from_log(open_log(path))
    source = open_recording(path)
    rows = _rows_to_peak(source) if at == "peak" else len(source)
    columns = source.columns[:rows]
    born = columns.kind == Event.ALLOC
    handles, types = columns.object[born].astype(np.int64), columns.type[born].astype(np.int64)
    living = np.ones(len(sites.of), bool)
    living[columns.object[columns.kind == Event.DEATH].astype(np.int64)] = False
    return HeapProfile(
        samples=ordered(_by_site(sites, source.types, handles, types, living)),
        at_ns=int(columns.time[-1] - columns.time[0]) if len(columns) else 0,
    )


def _by_site(
    sites: Sites,
    names: Sequence[WorkloadType],
    handles: npt.NDArray[np.int64],
    types: npt.NDArray[np.int64],
    living: npt.NDArray[np.bool_],
) -> Iterator[Sample]:
    """Count the objects of these handles, of these types, by place and type; living: of each handle."""
    keys, group = np.unique(sites.of[handles] * len(names) + types, return_inverse=True)
    slots = sites.slots[handles]
    in_use = living[handles] & (slots > 0)  # of a tiny block, the object that began it
    counts = [np.zeros(len(keys), np.int64) for _ in range(4)]
    values = (np.ones_like(slots), slots, in_use.astype(np.int64), slots * in_use)
    for count, value in zip(counts, values, strict=True):
        np.add.at(count, group, value)
    for key, *sums in zip(keys.tolist(), *(c.tolist() for c in counts), strict=True):
        place, type_ = divmod(key, len(names))
        yield Sample(
            sites.stacks[place] or (SiteFrame("(unknown)", "", 0),), names[type_].name or "(unknown)", *sums
        )
