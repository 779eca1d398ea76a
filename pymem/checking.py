"""Hold the emulator against a recording: every allocation predicted, compared, and counted."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pymem._arrays import pointer
from pymem._heap import Heap
from pymem._native import check as check_status
from pymem._native import ffi, lib
from pymem.errors import RecordingError
from pymem.gc.recorded import COMPARED, RecordedPacer
from pymem.replay import ADDRESS_SPACE, Player, RawMiss, read_misses
from pymem.sizeclasses import size_classes
from pymem.stats.memstats import MemStats
from pymem.workload.columns import Event
from pymem.workload.sources import kind_of_file, open_recording
from pymem.workload.workload import Workload

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from pymem.trace import Trace
    from pymem.workload.commits import Commit

__all__ = ["Check", "CommitDifference", "Miss", "StatsDifference", "check"]

MODES = ("auto", "open-loop", "follow")
_NOT_REPEATABLE = {"Lookups", "LastGC", "PauseTotalNs", "GCCPUFraction"}
"""Times, which never repeat, and a field that Go keeps at 0."""

_CHUNK_ROWS = 1 << 18


@dataclass(frozen=True, slots=True)
class Miss:
    """A prediction that was wrong."""

    row: int
    """Which event of the recording, from 0."""
    time_ns: int
    p: int
    kind: str
    """What was predicted: the address of an `object` or `stack`, the base of a `span`, the span swept (`sweep`), or
    `pages` that the scavenger found free."""
    size_class: int
    """Bytes a slot of the recorded span has; 0: a large object or no object."""
    got: int
    want: int


@dataclass(frozen=True, slots=True)
class CommitDifference:
    """A number in which the emulated pacer and the recorded one differ where both computed the goal anew."""

    commit: int
    """Which of the recording's commits, from 0."""
    field: str
    """A name of `workload.commits.Commit`."""
    got: int
    want: int


@dataclass(frozen=True, slots=True)
class StatsDifference:
    """A field of MemStats in which the emulator and the recording differ."""

    dump: int
    """Which of the recording's MemStats, from 0."""
    field: str
    got: int
    want: int


@dataclass(frozen=True, slots=True)
class Check:
    """How well a recording was predicted."""

    allocations: int
    matched: int
    mode: str
    """`open-loop`: from the start on nothing but what the program does is taken from the recording. `follow`: sweeps
    happen as recorded, and after a wrong prediction the recorded span is taken over."""
    misses: tuple[Miss, ...]
    """The first 64."""
    tiny: int
    """Of a trace: parts of tiny blocks that were there already: nothing to predict, and not among `allocations`."""
    unknown: int
    """Of a trace: allocations in no recorded span; neither."""
    learned: int
    """Allocations that showed what a trace of several Ps does not tell of its start; not counted as predictions."""
    spans: int
    """Spans (of objects where the recording is exact, else those for stacks) compared."""
    spans_matched: int
    sweeps: int
    sweeps_matched: int
    memstats_compared: int
    """Fields of recorded MemStats compared, BySize counted by entry."""
    memstats_equal: int
    memstats_differences: tuple[StatsDifference, ...]
    commits: int
    """Times that the pacer computed its goal anew, where the recording tells what it went by."""
    commits_compared: int
    """Numbers compared there: what is live, marked, mapped and free, goal and trigger."""
    commit_differences: tuple[CommitDifference, ...]
    cycles: int
    seconds: float

    @property
    def rate(self) -> float:
        """Part of the allocations predicted, 0 to 1; 1 where there are none."""
        return self.matched / self.allocations if self.allocations else 1.0


def check(
    path: str | os.PathLike[str] | Workload,
    *,
    mode: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Check:
    """Predict every address of a recording and compare.

    mode: `open-loop`, `follow`, or `auto`: open loop where the recording allows an exact answer (one P, no concurrent
    collection), else follow. progress: called now and then with (events done, events in all). Raises `RecordingError`.
    """
    if mode not in MODES:
        raise ValueError(f"mode {mode!r}: give one of {', '.join(MODES)}")
    if isinstance(path, Workload):
        return _check_workload(path, mode, progress)
    if kind_of_file(path) == "trace":
        from pymem.workload.from_trace import read_object_trace

        return _check_trace(read_object_trace(path), mode, progress)
    return _check_workload(open_recording(path), mode, progress)


# ---- exact recordings ----


def _check_workload(workload: Workload, mode: str, progress: Callable[[int, int], None] | None) -> Check:
    _refuse_without_record(workload)
    if mode == "auto":
        concurrent = workload.cycles > workload.forced_cycles
        mode = "follow" if concurrent or workload.procs > 1 else "open-loop"
    started = time.perf_counter()
    with Player(workload, follow=mode == "follow") as player:
        stats = _play(workload, player, progress)
        counts = player.counts()
        misses = tuple(_exact_miss(workload, m) for m in player.misses())
    return _exact_result(mode, counts, misses, stats, time.perf_counter() - started)


def _refuse_without_record(workload: Workload) -> None:
    name = workload.origin.get("file", "this workload")
    if workload.tier == "trace":
        raise RecordingError(
            f"{name}: it was made from a trace and has lost what a check goes by; check the .trace itself"
        )
    if not np.any(workload.columns.expect[workload.columns.kind == Event.ALLOC]):
        raise RecordingError(f"{name}: it has no recorded addresses to compare with; `pymem replay` runs it")


class _Stats(NamedTuple):
    """How the MemStats and the pacer of a recording compared."""

    compared: int
    differences: tuple[StatsDifference, ...]
    commits: _Commits


def _play(workload: Workload, player: Player, progress: Callable[[int, int], None] | None) -> _Stats:
    """Run all rows and compare MemStats where the recorded program read its own."""
    dumps = iter(enumerate(workload.recorded_stats))
    differences: list[StatsDifference] = []
    commits = _Commits()
    compared = 0

    def at_stats() -> None:
        nonlocal compared
        number, want = next(dumps, (0, None))
        if want is not None:
            compared += _compare_stats(number, player.mem_stats(), want, differences)

    for columns in workload.chunks(_CHUNK_ROWS):
        player.play(columns, at_stats=at_stats, at_commit=commits.add)
        if progress:
            progress(player.rows, len(workload))
    return _Stats(compared, tuple(differences), commits)


def _exact_result(
    mode: str,
    counts: dict[str, Any],
    misses: tuple[Miss, ...],
    stats: _Stats,
    seconds: float,
) -> Check:
    def total(name: str, *kinds: Event) -> int:
        return sum(counts[name][kind] for kind in kinds)

    spans = (Event.SPAN, Event.MANUAL_ALLOC, Event.STACK_ALLOC)
    return Check(
        allocations=total("compared", Event.ALLOC),
        matched=total("matched", Event.ALLOC),
        mode=mode,
        misses=misses,
        tiny=0,
        unknown=0,
        learned=0,
        spans=total("compared", *spans),
        spans_matched=total("matched", *spans),
        sweeps=total("compared", Event.SWEEP),
        sweeps_matched=total("matched", Event.SWEEP),
        memstats_compared=stats.compared,
        memstats_equal=stats.compared - len(stats.differences),
        memstats_differences=stats.differences,
        commits=stats.commits.number,
        commits_compared=stats.commits.number * len(COMPARED),
        commit_differences=tuple(stats.commits.differences),
        cycles=counts["events"][Event.FLIP],
        seconds=seconds,
    )


class _Commits:
    """The pacer's answers, compared one by one."""

    def __init__(self) -> None:
        self.number = 0
        self.differences: list[CommitDifference] = []

    def add(self, pacer: RecordedPacer, told: Commit) -> None:
        self.differences += [CommitDifference(self.number, *one) for one in pacer.differences(told)]
        self.number += 1


def _exact_miss(workload: Workload, miss: RawMiss) -> Miss:
    names = {
        Event.ALLOC: "object", Event.STACK_ALLOC: "stack", Event.SWEEP: "sweep", Event.SCAVENGE: "pages"
    }  # fmt: skip
    row, kind = int(miss.row), Event(miss.kind)
    columns = workload.columns
    size = int(columns.size[row]) if kind == Event.ALLOC else 0
    return Miss(
        row=row, time_ns=int(columns.time[row]), p=int(columns.proc[row]), kind=names.get(kind, "span"),
        size_class=size, got=miss.got, want=miss.want,
    )  # fmt: skip


def _compare_stats(
    number: int, got: MemStats, want: dict[str, Any], differences: list[StatsDifference]
) -> int:
    """Compare one dump; returns how many numbers were compared."""
    mine = got.to_go()
    compared = 0
    for name, value in want.items():
        if name in _NOT_REPEATABLE or name not in mine or name == "BySize":
            continue
        compared += 1
        if mine[name] != value:
            differences.append(StatsDifference(number, name, mine[name], value))
    for i, entry in enumerate(want.get("BySize", ())):
        compared += 1
        one = got.by_size_class[i]
        if (one.mallocs, one.frees) != (entry["Mallocs"], entry["Frees"]):
            differences.append(
                StatsDifference(
                    number, f"BySize[{i}]", one.mallocs - one.frees, entry["Mallocs"] - entry["Frees"]
                )
            )
    return compared


# ---- execution traces ----


class _Follower:
    """The core's follower of a trace, with the arrays it reads."""

    _COLUMNS = (("kind", np.uint8, "uint8_t"), ("p", np.int16, "int16_t"), ("a", np.uint64, "uint64_t"),
                ("b", np.uint64, "uint64_t"), ("c", np.uint16, "uint16_t"))  # fmt: skip

    def __init__(self, heap: Heap, trace: Trace, *, repair: bool) -> None:
        self.heap = heap
        self._rows = ffi.new("pymem_trace_rows *")
        self._keep = []
        for name, dtype, ctype in self._COLUMNS:
            buffer = pointer(ctype, np.ascontiguousarray(getattr(trace, name), dtype))
            self._keep.append(buffer)
            setattr(self._rows, name, buffer)
        self._rows.n = len(trace)
        reason = trace.strings.index("read mem stats") if "read mem stats" in trace.strings else 0
        out = ffi.new("pymem_follow **")
        heap.call(lib.pymem_follow_new, self._rows, reason, int(repair), out)
        self._follow = out[0]

    def __enter__(self) -> _Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, rows: int) -> bool:
        done = ffi.new("int *")
        status = lib.pymem_follow_run(self._follow, rows, done)
        if status:
            row = lib.pymem_follow_row(self._follow)
            check_status(status, self.heap.handle, context=f"event {row:,}")
        return bool(done[0])

    def counts(self) -> Any:
        out = ffi.new("pymem_follow_counts *")
        lib.pymem_follow_result(self._follow, out)
        return out

    def misses(self) -> list[RawMiss]:
        return read_misses(lib.pymem_follow_misses, self._follow)

    def close(self) -> None:
        """Give the memory back, the follower's before the heap's. Doing it twice is fine."""
        follow, self._follow = self._follow, ffi.NULL
        lib.pymem_follow_free(follow)
        self.heap.close()


def _allows_open_loop(trace: Trace, procs: int) -> bool:
    from pymem.trace import EventKind

    begins = trace.kind == EventKind.GC_BEGIN
    concurrent = bool(np.any(trace.c[begins] != 1))
    before = np.flatnonzero(begins)[:1]
    frees = np.flatnonzero(trace.kind == EventKind.OBJECT_FREE)[:1]
    amid_sweep = bool(len(frees) and (not len(before) or frees[0] < before[0]))
    active = trace.info.counts[EventKind.GC_ACTIVE] > 0
    return procs == 1 and not concurrent and not amid_sweep and not active


def _check_trace(trace: Trace, mode: str, progress: Callable[[int, int], None] | None) -> Check:
    from pymem.workload.from_trace import heap_base, procs_of

    procs = procs_of(trace)
    if mode == "auto":
        mode = "open-loop" if _allows_open_loop(trace, procs) else "follow"
    arena, padding = heap_base(trace)
    heap = Heap(arena_base=arena, address_space=ADDRESS_SPACE, padding_pages=padding)
    number = ffi.new("int32_t *")
    for _ in range(procs):
        heap.call(lib.pymem_proc_new, number)
    with _Follower(heap, trace, repair=mode == "follow") as follower:
        started = time.perf_counter()
        done, rows = False, 0
        while not done:
            done = follower.run(_CHUNK_ROWS)
            rows = min(rows + _CHUNK_ROWS, len(trace))
            if progress:
                progress(rows, len(trace))
        seconds = time.perf_counter() - started
        counts = follower.counts()
        return Check(
            allocations=counts.allocations,
            matched=counts.matched,
            mode=mode,
            misses=tuple(_trace_miss(heap, trace, m) for m in follower.misses()),
            tiny=counts.tiny,
            unknown=counts.unknown,
            learned=counts.learned,
            spans=counts.manual,
            spans_matched=counts.manual_matched,
            sweeps=0,
            sweeps_matched=0,
            memstats_compared=0,
            memstats_equal=0,
            memstats_differences=(),
            commits=0,
            commits_compared=0,
            commit_differences=(),
            cycles=counts.cycles,
            seconds=seconds,
        )


def _trace_miss(heap: Heap, trace: Trace, miss: RawMiss) -> Miss:
    """Return a miss with its context; the size class is that of the span at the recorded address by the end."""
    span = ffi.new("pymem_span_info *")
    found = lib.pymem_span_of(heap.handle, miss.want, span) == lib.PYMEM_OK
    row = int(miss.row)
    return Miss(
        row=row,
        time_ns=int(trace.time[row]),
        p=int(trace.p[row]),
        kind="object" if miss.kind == lib.TRACE_OBJECT_ALLOC else "span",
        size_class=int(size_classes()["size"][span.span_class >> 1]) if found else 0,
        got=miss.got,
        want=miss.want,
    )
