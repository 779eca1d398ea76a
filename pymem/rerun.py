"""A recorded program once more, under settings of one's own: the emulated pacer decides when to collect.

The program's rows (allocations, deaths, stacks) are the record's; its collections are passed over, but for those that
it asked for. Time is the record's too: between two rows the program works for as long as it did when it was recorded,
times `time_scale`, and the collector's work is charged by `Costs`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pymem._native import ffi, lib
from pymem.errors import ConfigError
from pymem.gc.costs import Costs
from pymem.gc.cycle import EMPTY_PROGRAM_GLOBALS, Collector
from pymem.gc.pacer import GoPacer
from pymem.gc.state import CycleRecord, GCStats
from pymem.gc.steps import many
from pymem.replay import (
    ADDRESS_SPACE,
    ClassUse,
    EventSource,
    Player,
    TypeUse,
    class_uses,
    commits_of,
    type_uses,
)
from pymem.stats.memstats import MemStats, read_mem_stats
from pymem.units import parse_gogc, parse_memory_limit
from pymem.workload.calibration import Calibration, calibrate
from pymem.workload.columns import Columns, Event
from pymem.workload.spread import spread_deaths
from pymem.workload.trace_stream import MOST_PROCS, TraceStream
from pymem.workload.without_tracer import without_tracer

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from pymem.gc.protocol import Pacer

__all__ = ["TIMELINE", "Rerun", "rerun"]

TIMELINE = np.dtype(
    [
        ("time_ns", np.int64),
        ("heap_live", np.uint64),
        ("heap_goal", np.uint64),
        ("heap_in_use", np.uint64),
        ("heap_released", np.uint64),
        ("mapped_ready", np.uint64),
    ]
)
"""A sample of the heap, in bytes. mapped_ready: all that Sys counts but for what was given back; what a limit sees."""

_SAMPLE_ROWS = 1 << 14
_CHUNK = 1 << 17


@dataclass(frozen=True, slots=True)
class Rerun:
    """What came out under other settings."""

    gogc: int
    """Percent, -1 for off."""
    memory_limit: int
    """Bytes, 2**63 - 1 for none."""
    gomaxprocs: int
    events: int
    cycles: tuple[CycleRecord, ...]
    memstats: MemStats
    seconds: float
    """Wall-clock time of the emulation, decoding excluded."""
    virtual_ns: int
    """How long the program took."""
    timeline: npt.NDArray[Any]
    """Samples, dtype TIMELINE: some every few thousand events, and one at each step of a cycle."""
    heap_by_type: tuple[TypeUse, ...]
    fragmentation: tuple[ClassUse, ...]
    stats: GCStats

    @property
    def peak_heap(self) -> int:
        """Bytes: the largest heap_live at the end of marking, the middle number of gctrace; without a cycle, at all."""
        if self.cycles:
            return max(c.heap1 for c in self.cycles)
        return int(self.timeline["heap_live"].max()) if len(self.timeline) else 0


class _Timeline:
    """Samples of a heap."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._rows: list[tuple[int, ...]] = []
        collector.observers.append(lambda event: self.sample())

    def sample(self) -> None:
        """Take one, of what the collector last saw."""
        pacer = self._collector.pacer
        self._rows.append(
            (
                self._collector.clock.now,
                pacer.heap_live,
                min(pacer.heap_goal(), (1 << 64) - 1),
                pacer.heap_in_use,
                pacer.heap_released,
                pacer.mapped_ready,
            )
        )

    def array(self) -> npt.NDArray[Any]:
        return np.array(self._rows, TIMELINE)


class _Program:
    """Rows on a heap with a collector of its own."""

    def __init__(
        self,
        source: EventSource,
        *,
        pacer: Pacer,
        procs: int,
        costs: Costs,
        time_scale: float,
        globals_bytes: int,
        address_space: int,
        calibration: Calibration | None,
    ) -> None:
        self.player = Player(source, procs=procs, address_space=address_space)
        self.stats = GCStats()
        # The program's time comes with its rows, not by what it allocates.
        costs = replace(costs, malloc_ns=0.0, malloc_byte_ns=0.0)
        self.collector = Collector(
            self.player.heap,
            pacer=pacer,
            procs=list(range(procs)),
            costs=costs,
            liveness="record",
            stats=self.stats,
            globals_bytes=globals_bytes,
        )
        self.timeline = _Timeline(self.collector)
        self._procs, self._recorded_procs = procs, source.procs
        self._scale = time_scale
        self._time = calibration.time if calibration else None
        if self._time and procs == source.procs:
            self.collector.turns.gives_way_ns = self._time.gives_way_ns
        elif told := getattr(source, "gives_way_ns", None):  # of sources that know amounts only
            self.collector.turns.gives_way_ns = told
        self._last: float | None = None
        self._fault_byte_ns = costs.fault_page_ns / lib.PYMEM_PAGE_SIZE
        self._touched: int | None = None  # bytes of memory that the program had last
        self._begun = self._procs_begun = False

    def play(self, columns: Columns) -> None:
        """Run all rows, acting wherever a stop is due."""
        if not self._begun and (columns.kind == Event.ALLOC).any():
            self._begun = True
        self.collector.busy = self._busy(columns)
        with many(self.collector) as interrupts:
            for row, why in self.player.steps(columns, most=_SAMPLE_ROWS):
                interrupts()
                self._act(columns, row, why)

    def _act(self, columns: Columns, row: int, why: int) -> None:
        """Have time pass up to a row, and do what the heap stopped for before it."""
        now = int(columns.time[max(row - 1, 0)])
        if self._time and self._procs == self._recorded_procs:
            self.collector.busy = round(self._time.busy_at(now))
        self._pass(now)
        if not self._ready():
            return
        if why == lib.PYMEM_REPLAY_STOP:
            self.player.heap.stopped(self._proc(columns, row), None)
        elif why == lib.PYMEM_REPLAY_FORCED:
            self.collector.gc(self._proc(columns, row))
        else:
            self.collector.settle()
            self.collector.arm()
        self.timeline.sample()

    def _ready(self) -> bool:
        """Say whether there are processors: before, nothing can be collected."""
        if self._begun and not self._procs_begun:
            out = ffi.new("int64_t *")
            status = lib.pymem_assist_credit(self.player.heap.handle, 0, 0, out)
            self._procs_begun = bool(status == lib.PYMEM_OK)
        return self._procs_begun

    def _pass(self, recorded: int) -> None:
        now = self._time.at(recorded) if self._time else recorded
        if self._last is not None and now > self._last:
            self.collector.charge((now - self._last) * self._scale)
        self._last = now
        self._fault()

    def _fault(self) -> None:
        """Charge the page faults of memory that is new to the program, or was given back and is taken again."""
        if not self._begun:
            return
        touched = self.collector.pacer.mapped_ready
        if self._touched is not None and touched > self._touched:
            self.collector.charge((touched - self._touched) * self._fault_byte_ns)
        self._touched = touched

    def _busy(self, columns: Columns) -> int:
        """Return how many Ps the program keeps at work, where the record of so many does not tell: one a goroutine.

        A goroutine counts if it makes a fair share of a chunk's allocations. Those that take turns count as if they
        ran side by side.
        """
        allocs = columns.kind == Event.ALLOC
        who = columns.goroutine[allocs] if columns.goroutine.any() else columns.proc[allocs]
        if not len(who):
            return 1
        shares = np.unique(who, return_counts=True)[1]
        return min(max(1, int((shares * 10 >= len(who)).sum())), self._procs)

    def _proc(self, columns: Columns, row: int) -> int:
        proc = int(columns.proc[min(row, len(columns) - 1)])
        return proc % self._procs if proc >= 0 else 0


def rerun(
    source: EventSource,
    *,
    gogc: int | str | None = 100,
    memory_limit: int | str | None = None,
    gomaxprocs: int | None = None,
    costs: Costs | None = None,
    pacer: Pacer | None = None,
    time_scale: float = 1.0,
    globals_bytes: int | None = None,
    spread: bool = True,
    address_space: int = ADDRESS_SPACE,
    calibrated: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Rerun:
    """Run a recorded program under its own pacer and return what came out.

    Args:
        source: the recording.
        gogc: percent, or "off".
        memory_limit: bytes, "64MiB", or None or "off".
        gomaxprocs: Ps; None: as recorded. The record's P n runs on P n modulo this.
        costs: what marking and sweeping cost; None: what the source says, if it does, or the defaults.
        pacer: a policy of one's own, made for this run; None: Go's.
        time_scale: the program's time in units of the recorded one; below 1 where recording slowed it down.
        globals_bytes: globals that hold pointers; None: the record's, or an empty program's where it does not tell.
        spread: move deaths from the mark that found them to somewhere since the one before (`spread_deaths`).
        address_space: bytes that the heap may map.
        calibrated: take off what recording cost, and have marking cost what it did then (`calibrate`). Of execution
            traces only; others leave it.
        progress: called now and then with (events done, events in all).

    Deterministic but for `seconds`. Raises what `replay` raises.

    """
    percent, limit = parse_gogc(gogc), parse_memory_limit(memory_limit)
    procs = source.procs if gomaxprocs is None else gomaxprocs
    if not 1 <= procs <= MOST_PROCS:
        raise ConfigError(f"gomaxprocs={procs}: give 1 to {MOST_PROCS:,}")
    if not 0 < time_scale < float("inf"):
        raise ConfigError(
            f"time_scale={time_scale}: give how many times the recorded time the program takes, such as 0.9"
        )
    pacer = GoPacer() if pacer is None else pacer
    if globals_bytes is None:  # some sources say how large they were
        globals_bytes = getattr(source, "globals_bytes", None)
    if globals_bytes is None and not isinstance(source, TraceStream):
        commits = commits_of(source)
        globals_bytes = commits[-1].globals_scan if commits else EMPTY_PROGRAM_GLOBALS
    pacer.set_gc_percent(-1 if percent is None else percent)
    pacer.set_memory_limit(limit)
    if costs is None:  # some sources say what collecting cost
        costs = (getattr(source, "costs", None) if calibrated else None) or Costs()
    calibration = None
    if calibrated and isinstance(source, TraceStream):
        calibration = calibrate(source, costs=costs, globals_bytes=globals_bytes)
        costs = calibration.costs(costs)
        globals_bytes = calibration.globals_bytes
    if globals_bytes is None:
        globals_bytes = EMPTY_PROGRAM_GLOBALS
    program = _Program(
        source,
        pacer=pacer,
        procs=procs,
        costs=costs,
        time_scale=time_scale,
        globals_bytes=globals_bytes,
        address_space=address_space,
        calibration=calibration,
    )
    with program.player as player:
        pacer.commit(True)
        program.collector.arm()
        seconds = 0.0
        chunks = source.chunks(_CHUNK)
        if source.tier == "trace":
            chunks = without_tracer(chunks, source.types)
        undated = getattr(source, "resolution", "cycle") == "cycle"
        for columns in spread_deaths(chunks) if spread and undated else chunks:
            started = time.perf_counter()
            program.play(columns)
            seconds += time.perf_counter() - started
            if progress:
                progress(player.rows, len(source))
        return Rerun(
            gogc=pacer.gc_percent,
            memory_limit=pacer.memory_limit,
            gomaxprocs=procs,
            events=player.rows,
            cycles=tuple(program.stats.cycles),
            memstats=read_mem_stats(player.heap, proc=lib.PYMEM_NO_PROC, flush=True),
            seconds=seconds,
            virtual_ns=program.collector.clock.now,
            timeline=program.timeline.array(),
            heap_by_type=type_uses(player.heap, source.types),
            fragmentation=class_uses(player.heap),
            stats=program.stats,
        )
