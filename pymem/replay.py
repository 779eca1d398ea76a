"""Run a workload on an emulated heap: the program's allocations, its recorded deaths and collections, nothing else.

One call of the core runs a million rows, so there is no Python per object; the rest is the account of what came out.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from pymem._arrays import pointer
from pymem._heap import Heap
from pymem._native import check as check_status
from pymem._native import ffi, lib
from pymem.errors import ClosedError, RecordingError
from pymem.gc.gonumbers import MAX_INT64
from pymem.gc.recorded import RecordedPacer
from pymem.inspect import spans
from pymem.sizeclasses import size_classes
from pymem.stats.memstats import MemStats, read_mem_stats
from pymem.workload.columns import Columns, Event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

    from pymem.workload.commits import Commit
    from pymem.workload.workload import WorkloadType

__all__ = ["ADDRESS_SPACE", "ClassUse", "Cycle", "EventSource", "Player", "Run", "TypeUse", "replay"]

ADDRESS_SPACE = 1 << 40
"""Bytes that a replayed heap may map: 1 TB. No more, as a damaged recording may use all of it, at 8 B a page."""

_ALL_BITS = np.uint64((1 << 64) - 1)

_CTYPES = {
    "kind": "uint8_t", "flags": "uint8_t", "proc": "int16_t", "type": "uint32_t",
    "object": "uint64_t", "size": "uint64_t", "expect": "uint64_t",
}  # fmt: skip


class EventSource(Protocol):
    """What can be replayed: a `Workload`, or a stream that makes its events as they are asked for."""

    @property
    def types(self) -> Sequence[WorkloadType]:
        """Type table; index 0 is "unknown"."""

    @property
    def arena_base(self) -> int:
        """Address of the first arena."""

    @property
    def padding_pages(self) -> int:
        """Pages at its front that hold nothing."""

    @property
    def procs(self) -> int:
        """Ps of the recorded program."""

    @property
    def tier(self) -> str:
        """Where it comes from; `exact` has its sweeps replayed as recorded."""

    def chunks(self, size: int = 1 << 20) -> Iterator[Columns]:
        """Yield the events, about `size` at a time."""

    def __len__(self) -> int:
        """Return how many events there are, about."""


@dataclass(frozen=True, slots=True)
class Cycle:
    """One GC cycle. Objects are slots: a tiny block counts once."""

    number: int
    time_ns: int
    """When its mark ended."""
    forced: bool
    heap_before: int
    """Bytes in allocated slots when the mark ended, dead ones included."""
    marked: int
    """Bytes in slots found alive."""
    freed_objects: int
    freed_bytes: int


@dataclass(frozen=True, slots=True)
class TypeUse:
    """Living objects of one type at the end."""

    name: str
    objects: int
    bytes: int
    """Of their slots."""


@dataclass(frozen=True, slots=True)
class ClassUse:
    """One size class at the end: how much of its spans is used."""

    size: int
    """Bytes a slot; 0: large objects, a span each."""
    noscan: bool
    spans: int
    slots: int
    used: int
    """Slots with a living or not yet swept object."""
    bytes_in_spans: int
    bytes_used: int
    tail_bytes: int
    """Of the spans, in no slot: bitmaps and what is left over at the end."""


@dataclass(frozen=True, slots=True)
class Run:
    """What came out of a replay."""

    events: int
    cycles: tuple[Cycle, ...]
    memstats: MemStats
    seconds: float
    """Wall-clock time of the emulation, decoding excluded. The emulation itself reads no clock."""
    heap_by_type: tuple[TypeUse, ...]
    """Largest first."""
    fragmentation: tuple[ClassUse, ...]
    """By slot size."""
    compared: int
    """Allocations whose recorded address is known."""
    matched: int
    """Of these, how many the emulator placed there."""


class RawMiss(NamedTuple):
    """A row whose address differs, as the core tells it."""

    row: int
    kind: int
    got: int
    want: int


def read_misses(function: Callable[[Any, Any, int], int], handle: Any) -> list[RawMiss]:
    """Call one of the core's functions that copy the first misses out."""
    out = ffi.new("pymem_miss[64]")  # its elements live no longer than itself
    return [RawMiss(m.row, m.kind, m.got, m.want) for m in out[0 : function(handle, out, 64)]]


def _free(replay: Any, *, heap: Any) -> None:
    """Free a replay; its heap, which it takes its memory from, is an argument so that it lives until then."""
    lib.pymem_replay_free(replay)


class Player:
    """A heap and a replay on it, fed with columns; what `replay` and `check` are made of. Close it, or use `with`."""

    def __init__(
        self,
        source: EventSource,
        *,
        follow: bool = False,
        procs: int | None = None,
        address_space: int = ADDRESS_SPACE,
    ) -> None:
        """Begin. procs: collections are the caller's, on so many Ps; None: the record's."""
        self.heap = Heap(
            arena_base=source.arena_base, address_space=address_space, padding_pages=source.padding_pages
        )
        out = ffi.new("pymem_replay **")
        mode = lib.PYMEM_REPLAY_FOLLOW if follow else lib.PYMEM_REPLAY_TURNS
        if procs is not None:
            mode = lib.PYMEM_REPLAY_OWN
        self.heap.call(lib.pymem_replay_new, mode, procs or 1, out)
        self._owned: Any = ffi.gc(out[0], partial(_free, heap=self.heap.handle))
        register_types(self.heap, source.types)
        self._pacer = RecordedPacer(self.heap)
        self._commits = iter(commits_of(source))
        self.rows = 0
        self._row_times: list[tuple[int, npt.NDArray[np.int64], npt.NDArray[np.uint8]]] = []

    def __enter__(self) -> Player:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the memory back. Doing it twice is fine."""
        self._owned = None
        self.heap.close()

    @property
    def _replay(self) -> Any:
        if self._owned is None:
            raise ClosedError("this player is closed: make a new one")
        return self._owned

    def play(
        self,
        columns: Columns,
        *,
        at_stats: Callable[[], None] | None = None,
        at_commit: Callable[[RecordedPacer, Commit], None] | None = None,
    ) -> None:
        """Run all rows. Raises `RecordingError`.

        at_stats: called where the recorded program read its MemStats. at_commit: called with the emulated pacer and the
        recorded one's numbers, where both have computed the goal anew.
        """
        for row, why in self.steps(columns):
            if why == lib.PYMEM_REPLAY_STATS and at_stats:
                at_stats()
            elif why == lib.PYMEM_REPLAY_GOAL:
                self._commit(columns, row - 1, at_commit)
        self._remember_flips(columns)

    def _commit(
        self, columns: Columns, row: int, at_commit: Callable[[RecordedPacer, Commit], None] | None
    ) -> None:
        """Have the emulated pacer compute the goal; where the workload lacks what that takes, it is the row's."""
        told = next(self._commits, None)
        if told is None:
            goal, marked = int(columns.object[row]), int(columns.size[row])
            self.heap.call(lib.pymem_set_goal, goal, MAX_INT64, marked)
            return
        self._pacer.commit(told)
        if at_commit:
            at_commit(self._pacer, told)

    def steps(self, columns: Columns, *, most: int | None = None) -> Iterator[tuple[int, int]]:
        """Run rows, and yield (the next row, enum pymem_replay_stopped) wherever they stop, also after `most` rows.

        Raises `RecordingError` for rows that contradict each other.
        """
        c = ffi.new("pymem_columns *")
        keep = [pointer(ctype, getattr(columns, name)) for name, ctype in _CTYPES.items()]
        for name, buffer in zip(_CTYPES, keep, strict=True):
            setattr(c, name, buffer)
        row, why = ffi.new("uint64_t *", 0), ffi.new("int *")
        at, n = 0, len(columns)
        while at < n:
            c.n = n if most is None else min(at + most, n)
            status = lib.pymem_replay_run(self._replay, c, row, why)
            at = row[0]
            if status:
                self._raise(status, columns, at)
            yield at, why[0]
        self.rows += n

    def _raise(self, status: int, columns: Columns, row: int) -> None:
        kind = int(columns.kind[row]) if row < len(columns) else 0
        name = Event(kind).name if kind in set(Event) else str(kind)
        check_status(status, self.heap.handle, context=f"event {self.rows + row:,} ({name})")

    def _remember_flips(self, columns: Columns) -> None:
        """Keep when cycles turned and which were forced; the rest of a chunk may go."""
        turning = np.flatnonzero((columns.kind == Event.FLIP) | (columns.kind == Event.GC_END))
        if len(turning):
            flags = np.where(columns.kind[turning] == Event.GC_END, 2 + (columns.flags[turning] & 1), 0)
            self._row_times.append((self.rows - len(columns), columns.time[turning], flags.astype(np.uint8)))

    def counts(self) -> dict[str, dict[Event, int]]:
        """Return rows run (`events`), compared and matched, by kind."""
        arrays = {
            name: np.zeros(lib.PYMEM_NUM_EVENTS, np.uint64) for name in ("events", "compared", "matched")
        }
        lib.pymem_replay_counts(self._replay, *(pointer("uint64_t", a) for a in arrays.values()))
        return {name: {e: int(array[e]) for e in Event} for name, array in arrays.items()}

    def misses(self) -> list[RawMiss]:
        """Return the first rows whose address differs."""
        return read_misses(lib.pymem_replay_misses, self._replay)

    def cycles(self) -> tuple[Cycle, ...]:
        """Return the cycles so far."""
        n = lib.pymem_replay_cycles(self._replay, 0, ffi.NULL, 0)
        out = ffi.new("pymem_cycle[]", max(n, 1))
        lib.pymem_replay_cycles(self._replay, 0, out, n)
        flags = (
            np.concatenate([f for _, _, f in self._row_times]) if self._row_times else np.empty(0, np.uint8)
        )
        times = (
            np.concatenate([t for _, t, _ in self._row_times]) if self._row_times else np.empty(0, np.int64)
        )
        flips = np.flatnonzero(flags == 0)
        ends = np.flatnonzero(flags >= 2)
        forced = [bool(len(ends) > i and flags[ends[i]] & 1) for i in range(n)]
        return tuple(
            Cycle(
                number=i + 1,
                time_ns=int(times[flips[i]]),
                forced=forced[i],
                heap_before=out[i].bytes_before,
                marked=out[i].bytes_marked,
                freed_objects=out[i].objects_before - out[i].objects_marked,
                freed_bytes=out[i].bytes_before - out[i].bytes_marked,
            )
            for i in range(n)
        )

    def mem_stats(self) -> MemStats:
        """Return MemStats as they stand, without the flush that ReadMemStats makes."""
        return read_mem_stats(self.heap, proc=lib.PYMEM_NO_PROC, flush=False)


def commits_of(source: EventSource) -> Sequence[Commit]:
    """Return what a source's pacer went by at its GOAL rows with flags; most sources know nothing of it."""
    commits: Sequence[Commit] = getattr(source, "commits", ())
    return commits


def register_types(heap: Heap, types: Sequence[WorkloadType]) -> None:
    """Tell a heap how far pointers reach in each type; which words hold them does not matter to a record."""
    for number, type_ in enumerate(types[1:], 1):
        if type_.size and not type_.size % 8 and type_.ptrdata % 8 == 0 and type_.ptrdata <= type_.size:
            words = np.full((type_.ptrdata // 8 + 63) // 64, _ALL_BITS, np.uint64)
            heap.call(
                lib.pymem_type_add, number, type_.size, type_.ptrdata, pointer("uint64_t", words), len(words)
            )


def type_uses(heap: Heap, types: Sequence[WorkloadType]) -> tuple[TypeUse, ...]:
    objects, held = (np.zeros(max(len(types), 1), np.uint64) for _ in range(2))
    heap.call(lib.pymem_type_use, pointer("uint64_t", objects), pointer("uint64_t", held), len(objects))
    order = np.argsort(held, kind="stable")[::-1]
    return tuple(
        TypeUse(types[i].name or "(unknown)", int(objects[i]), int(held[i])) for i in order if objects[i]
    )


def class_uses(heap: Heap) -> tuple[ClassUse, ...]:
    table = spans(heap)
    objects = table[table["state"] == 1]
    uses = []
    sizes = size_classes()["size"]
    for span_class in np.unique(objects["span_class"]):
        of = objects[objects["span_class"] == span_class]
        inside = int(of["pages"].sum()) * 8192
        slots, used = int(of["slots"].sum()), int(of["used"].sum())
        size = int(sizes[span_class >> 1])
        in_slots = inside if size == 0 else slots * size
        uses.append(
            ClassUse(
                size=size,
                noscan=bool(span_class & 1),
                spans=len(of),
                slots=slots,
                used=used,
                bytes_in_spans=inside,
                bytes_used=inside if size == 0 else used * size,
                tail_bytes=inside - in_slots,
            )
        )
    return tuple(uses)


def replay(source: EventSource, *, progress: Callable[[int, int], None] | None = None) -> Run:
    """Replay a workload, its collections at their recorded places, and return what came out.

    progress: called now and then with (events done, events in all). Deterministic but for `seconds`. Raises
    `RecordingError` for events that contradict each other, `MemoryError` where this machine or the emulated space
    (1 TB) is used up. Memory: the emulator's own, a handle table of 8 B an object, and one chunk of events.
    """
    with Player(source, follow=source.tier == "exact") as player:
        seconds = 0.0
        for columns in source.chunks():
            started = time.perf_counter()
            player.play(columns)
            seconds += time.perf_counter() - started
            if progress:
                progress(player.rows, len(source))
        counts = player.counts()
        if player.rows and not counts["events"][Event.PROC_NEW]:
            raise RecordingError(
                "the workload never starts a processor (PROC_NEW): Workload.from_arrays builds one that does"
            )
        return Run(
            events=player.rows,
            cycles=player.cycles(),
            memstats=read_mem_stats(player.heap, proc=lib.PYMEM_NO_PROC, flush=True),
            seconds=seconds,
            heap_by_type=type_uses(player.heap, source.types),
            fragmentation=class_uses(player.heap),
            compared=counts["compared"][Event.ALLOC],
            matched=counts["matched"][Event.ALLOC],
        )
