"""A recorded program once more, under settings of one's own: the emulated pacer decides when to collect.

The program's rows (allocations, deaths, stacks) are the record's; its collections are passed over, but for those that
it asked for. Time is the record's too: between two rows the program works for as long as it did when it was recorded,
times `time_scale`, and the collector's work is charged by `Costs`.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pymem._arguments import whole
from pymem._native import ffi, lib
from pymem.errors import ConfigError
from pymem.gc.cycle import Collector
from pymem.gc.pacer import GoPacer
from pymem.gc.state import CycleRecord, GCStats
from pymem.gc.steps import many
from pymem.program import Program, part_of, read_program
from pymem.replay import (
    ADDRESS_SPACE,
    ClassUse,
    EventSource,
    Player,
    TypeUse,
    class_uses,
    type_uses,
)
from pymem.stats.memstats import MemStats, read_mem_stats
from pymem.units import parse_gogc, parse_memory_limit
from pymem.workload.columns import Columns, Event
from pymem.workload.trace_stream import MOST_PROCS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

    from pymem.gc.costs import Costs
    from pymem.gc.protocol import Pacer
    from pymem.program import Part
    from pymem.workload.workload import WorkloadType

__all__ = ["CENTRE", "TIMELINE", "Chance", "Rerun", "rerun", "reruns"]

TIMELINE = np.dtype(
    [
        ("time_ns", np.int64),
        ("heap_live", np.uint64),
        ("heap_goal", np.uint64),
        ("heap_in_use", np.uint64),
        ("heap_released", np.uint64),
        ("mapped_ready", np.uint64),
        ("limited", np.uint8),
    ]
)
"""A sample of the heap, in bytes. mapped_ready: all that Sys counts but for what was given back; what a limit sees.
limited: whether the GC CPU limiter was on."""

_SAMPLE_ROWS = 1 << 14
_BLOCK = 1 << 12
"""Samples."""
_MOST_AT_ONCE = 8
"""Runs side by side; each has a heap of its own."""


@dataclass(frozen=True, slots=True)
class Chance:
    """What differs from one run of a program to the next, and a single emulation cannot know."""

    mark: float = 1.0
    """How many times the usual costs of marking."""
    time: float = 1.0
    """How many times its usual time the program takes."""
    phase_ns: int = 0
    """Where in the runtime's 10 ms rounds the program begins, 0 to 20 ms: goroutines are made to give way by these."""

    def costs(self, costs: Costs) -> Costs:
        """Return costs with marking so expensive."""
        if self.mark == 1.0:
            return costs
        return replace(
            costs,
            mark_byte_ns=costs.mark_byte_ns * self.mark,
            mark_object_ns=costs.mark_object_ns * self.mark,
        )


CENTRE = Chance()
"""The middle of all."""


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
        self._blocks: list[npt.NDArray[Any]] = []  # of earlier rows, a sixth as large
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
                self._collector.limiter.limiting(),
            )
        )
        if len(self._rows) == _BLOCK:
            self._blocks.append(np.array(self._rows, TIMELINE))
            self._rows = []

    def array(self) -> npt.NDArray[Any]:
        return np.concatenate([*self._blocks, np.array(self._rows, TIMELINE)])


class _Settings(NamedTuple):
    """What a user sets, checked."""

    gogc: int
    """Percent, -1 for off."""
    memory_limit: int
    procs: int

    @classmethod
    def of(
        cls,
        source: EventSource | Program,
        gogc: int | str | None,
        memory_limit: int | str | None,
        gomaxprocs: int | None,
    ) -> _Settings:
        percent = parse_gogc(gogc)
        procs = whole("gomaxprocs", source.procs if gomaxprocs is None else gomaxprocs, 1, MOST_PROCS)
        return cls(-1 if percent is None else percent, parse_memory_limit(memory_limit), procs)


class _Emulation:
    """A program on a heap with a collector of its own."""

    def __init__(
        self,
        program: Program,
        settings: _Settings,
        *,
        chance: Chance,
        pacer: Pacer | None = None,
        time_scale: float = 1.0,
        address_space: int = ADDRESS_SPACE,
    ) -> None:
        procs = settings.procs
        pacer = GoPacer() if pacer is None else pacer
        pacer.set_gc_percent(settings.gogc)
        pacer.set_memory_limit(settings.memory_limit)
        self.player = Player(program.source, procs=procs, address_space=address_space)
        self.seconds = 0.0
        """Wall-clock time of `play` so far."""
        self.stats = GCStats()
        # The program's time comes with its rows, not by what it allocates.
        costs = chance.costs(replace(program.costs, malloc_ns=0.0, malloc_byte_ns=0.0))
        self.collector = Collector(
            self.player.heap,
            pacer=pacer,
            procs=list(range(procs)),
            costs=costs,
            liveness="record",
            stats=self.stats,
            globals_bytes=program.globals_bytes,
        )
        self.timeline = _Timeline(self.collector)
        self._procs, self._recorded_procs = procs, program.procs
        self._scale = time_scale * chance.time * (program.fit.time if program.fit else 1.0)
        self._time = program.calibration.time if program.calibration else None
        self.collector.turns.phase_ns = chance.phase_ns
        if self._time and procs == program.procs:
            self.collector.turns.gives_way_ns = self._time.gives_way_ns * self._scale
        elif told := getattr(program.source, "gives_way_ns", None):  # of sources that know amounts only
            self.collector.turns.gives_way_ns = told
        self._last: float | None = None
        self._fault_byte_ns = costs.fault_page_ns / lib.PYMEM_PAGE_SIZE
        self._touched: int | None = None  # bytes of memory that the program had last
        self._begun = self._procs_begun = False
        pacer.commit(True)
        self.collector.arm()

    def play(self, part: Part) -> None:
        """Run all rows, acting wherever a stop is due."""
        started = time.perf_counter()
        self._play(part)
        self.seconds += time.perf_counter() - started

    def _play(self, part: Part) -> None:
        if not self._begun and (part.columns.kind == Event.ALLOC).any():
            part = self._begin(part)
        columns = part.columns
        self.collector.busy = min(part.busy, self._procs)
        stacks = 0
        with many(self.collector) as interrupts:
            for row, why in self.player.steps(columns, most=_SAMPLE_ROWS):
                interrupts()
                now = part.stacks_before(row)
                self.collector.pacer.add_scannable_stack(now - stacks)
                stacks = now
                self._act(columns, row, why)
            self.stats.heap_scan = self.collector.pacer.heap_scan

    def result(self, types: Sequence[WorkloadType], *, leftover: bool) -> Rerun:
        """Return what came out."""
        heap, pacer = self.player.heap, self.collector.pacer
        return Rerun(
            gogc=pacer.gc_percent,
            memory_limit=pacer.memory_limit,
            gomaxprocs=self._procs,
            events=self.player.rows,
            cycles=tuple(self.stats.cycles),
            memstats=read_mem_stats(heap, proc=lib.PYMEM_NO_PROC, flush=True),
            seconds=self.seconds,
            virtual_ns=self.collector.clock.now,
            timeline=self.timeline.array(),
            heap_by_type=type_uses(heap, types) if leftover else (),
            fragmentation=class_uses(heap) if leftover else (),
            stats=self.stats,
        )

    def _begin(self, part: Part) -> Part:
        """Run the rows up to the program's first allocation, and return the rest: from there its time counts."""
        first = int(np.argmax(part.columns.kind == Event.ALLOC))
        for _ in self.player.steps(part.columns[:first]):
            pass
        self.collector.pacer.add_scannable_stack(part.stacks_before(first))
        self.collector.report()
        self._begun, self._touched = True, self.collector.pacer.mapped_ready
        self._last = self._own(int(part.columns.time[first]))
        return part_of(part.columns[first:])

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
        now = self._own(recorded)
        if self._last is not None and now > self._last:
            self.collector.charge((now - self._last) * self._scale)
        self._last = now
        self._fault()

    def _own(self, recorded: int) -> float:
        """Return the program's own time at a recorded one."""
        return self._time.at(recorded) if self._time else recorded

    def _fault(self) -> None:
        """Charge the page faults of memory that is new to the program, or was given back and is taken again."""
        if self._touched is None:
            return
        touched = self.player.heap.pace().mapped_ready  # what was touched since the last stop is this stop's
        if touched > self._touched:
            self.collector.charge((touched - self._touched) * self._fault_byte_ns)
        self._touched = touched

    def _proc(self, columns: Columns, row: int) -> int:
        proc = int(columns.proc[min(row, len(columns) - 1)])
        return proc % self._procs if proc >= 0 else 0


def rerun(
    source: EventSource | Program,
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
    chance: Chance = CENTRE,
    leftover: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Rerun:
    """Run a recorded program under its own pacer and return what came out.

    Args:
        source: the recording; or a `Program`, which `read_program` made of one, if it is to run more than once.
        gogc: percent, or "off".
        memory_limit: bytes, "64MiB", or None or "off".
        gomaxprocs: Ps; None: as recorded. The record's P n runs on P n modulo this.
        costs: as in `read_program`, like globals_bytes, spread and calibrated: not with a Program, which has them.
        pacer: a policy of one's own, made for this run; None: Go's.
        time_scale: the program's time in units of the recorded one; below 1 where recording slowed it down.
        globals_bytes: globals that hold pointers.
        spread: have objects die before the marks that found them dead.
        address_space: bytes that the heap may map.
        calibrated: go by the recording's own costs.
        chance: what differs from one real run to the next.
        leftover: tell of the heap at the end by type and size class. It holds the interpreter's lock, in a short run
            for a tenth of the time: who has many threads and does not ask for it leaves it.
        progress: called now and then with (events done, events in all).

    Deterministic but for `seconds`. Raises what `replay` raises.

    """
    settings = _Settings.of(source, gogc, memory_limit, gomaxprocs)
    if not 0 < time_scale < float("inf"):
        raise ConfigError(
            f"time_scale={time_scale}: give how many times the recorded time the program takes, such as 0.9"
        )
    if not isinstance(source, Program):
        source = read_program(
            source, costs=costs, globals_bytes=globals_bytes, spread=spread, calibrated=calibrated, keep=False
        )
    emulation = _Emulation(
        source, settings, chance=chance, pacer=pacer, time_scale=time_scale, address_space=address_space
    )
    return _together(source, [emulation], leftover=leftover, progress=progress)[0]


def reruns(
    program: Program,
    chances: Sequence[Chance],
    *,
    gogc: int | str | None = 100,
    memory_limit: int | str | None = None,
    gomaxprocs: int | None = None,
) -> Iterator[Rerun]:
    """Yield what `rerun` returns for each of several chances, without leftovers.

    Rows that are not kept are made once for eight runs: reading and preparing them takes longer than running them.
    """
    settings = _Settings.of(program, gogc, memory_limit, gomaxprocs)
    at_once = 1 if program.kept is not None else _MOST_AT_ONCE
    for first in range(0, len(chances), at_once):
        emulations = [_Emulation(program, settings, chance=c) for c in chances[first : first + at_once]]
        yield from _together(program, emulations, leftover=False)


def _together(
    program: Program,
    emulations: Sequence[_Emulation],
    *,
    leftover: bool,
    progress: Callable[[int, int], None] | None = None,
) -> list[Rerun]:
    """Play a program's rows to all emulations, a part at a time, close them, and return what came out of each."""
    with ExitStack() as stack:
        for emulation in emulations:
            stack.enter_context(emulation.player)
        for part in program.parts():
            for emulation in emulations:
                emulation.play(part)
            if progress:
                progress(emulations[0].player.rows, len(program.source))
        return [emulation.result(program.types, leftover=leftover) for emulation in emulations]
