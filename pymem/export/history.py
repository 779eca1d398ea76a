"""What a run of a program did to memory over time: its cycles, and samples of its heap between them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pymem._native import ffi, lib
from pymem.gc.state import CycleRecord
from pymem.replay import Player
from pymem.rerun import TIMELINE
from pymem.workload.columns import Columns, Event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from pymem.replay import EventSource
    from pymem.rerun import Rerun

__all__ = ["NO_GOAL", "History", "play_recorded", "recorded_history", "rerun_history", "setting_texts"]

NO_GOAL = 1 << 60
"""Bytes: a goal as high or higher stands for none, as with GOGC=off."""

_SAMPLE_ROWS = 1 << 14
_TURNS = (Event.START_DONE, Event.SWEEP_DONE, Event.GC_PHASE, Event.FLIP, Event.GC_END)


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """A run, recorded or emulated. Times are ns since the program began, or since the recording did."""

    source: str
    """What was run: the file's name, without its folder."""
    settings: str
    """`recorded`, or the settings of a rerun as one sets them: `GOGC=50 GOMEMLIMIT=off GOMAXPROCS=2`."""
    gomaxprocs: int
    emulated: bool
    """Of a rerun. A recording tells of a cycle only when it began and ended and how large the heap was: the fields of
    `CycleRecord` about pauses, work and the pacer are 0 then, and mean nothing."""
    goals: bool
    """The timeline's goals are known."""
    cycles: tuple[CycleRecord, ...]
    timeline: npt.NDArray[Any]
    """Samples, dtype `pymem.rerun.TIMELINE`."""
    end_ns: int
    """When it ended."""


def rerun_history(run: Rerun, *, source: str = "") -> History:
    """Return what a rerun did."""
    gogc, limit = setting_texts(run)
    return History(
        source=source,
        settings=f"GOGC={gogc} GOMEMLIMIT={limit} GOMAXPROCS={run.gomaxprocs}",
        gomaxprocs=run.gomaxprocs,
        emulated=True,
        goals=True,
        cycles=run.cycles,
        timeline=run.timeline,
        end_ns=run.virtual_ns,
    )


def setting_texts(run: Rerun) -> tuple[str, str]:
    """Return a rerun's GOGC and GOMEMLIMIT exactly, as Go reads them."""
    gogc = "off" if run.gogc < 0 else str(run.gogc)
    if run.memory_limit >= NO_GOAL:
        return gogc, "off"
    units = ((30, "GiB"), (20, "MiB"), (10, "KiB"))
    whole = [
        f"{run.memory_limit >> bits}{unit}" for bits, unit in units if run.memory_limit % (1 << bits) == 0
    ]
    return gogc, whole[0] if whole and run.memory_limit else f"{run.memory_limit}B"


def recorded_history(
    source: EventSource, *, name: str = "", progress: Callable[[int, int], None] | None = None
) -> History:
    """Replay a recording and return what it did, collecting where it did.

    A cycle's heap0, heap1 and heap2 are heapLive as replayed at its start, at its mark's end, and after. Times count
    from the first event. progress: called now and then with (events done, events in all). Raises what `replay` raises.
    """
    recorded = _Recorded(goals=source.tier == "exact")
    with Player(source, follow=source.tier == "exact") as player:
        for columns, turn in play_recorded(player, source, progress=progress):
            recorded.see(player, columns, turn)
    return recorded.history(name, source.procs)


def play_recorded(
    player: Player, source: EventSource, *, progress: Callable[[int, int], None] | None = None
) -> Iterator[tuple[Columns, Event | None]]:
    """Run a recording bit by bit: yield the rows of each bit, and the turn of a cycle (SWEEP_DONE, ...) that ends it.

    A bit is never empty, and no longer than some ten thousand rows.
    """
    for columns in source.chunks():
        turns = np.flatnonzero(np.isin(columns.kind, _TURNS))
        before = turns[columns.kind[turns] == Event.FLIP]  # heapLive is to be seen before it falls, too
        cuts = np.unique(
            np.concatenate([turns + 1, before, np.arange(_SAMPLE_ROWS, len(columns), _SAMPLE_ROWS)])
        )
        for start, stop in zip([0, *cuts.tolist()], [*cuts.tolist(), len(columns)], strict=True):
            if start == stop:
                continue
            bit = columns[start:stop]
            player.play(bit)
            last = int(bit.kind[-1])
            yield bit, Event(last) if last in _TURNS else None
        if progress:
            progress(player.rows, len(source))


@dataclass(slots=True)
class _Recorded:
    """Makes a history of what a player does."""

    goals: bool
    _rows: list[tuple[int, ...]] = field(default_factory=list)
    _cycles: list[CycleRecord] = field(default_factory=list)
    _pace: Any = field(default_factory=lambda: ffi.new("pymem_pace_info *"))
    _origin: int | None = None
    _now: int = 0
    _cycle: CycleRecord = field(default_factory=CycleRecord)
    _marking: bool = False

    def see(self, player: Player, columns: Columns, turn: Event | None) -> None:
        """Look at the heap after some rows."""
        if self._origin is None:
            self._origin = int(columns.time[0])
        self._now = max(int(columns.time[-1]) - self._origin, self._now)
        before = int(self._pace.heap_live)
        self._sample(player)
        if turn == Event.SWEEP_DONE or (turn == Event.GC_PHASE and columns.size[-1]):
            self._start(marking=turn == Event.GC_PHASE)
        elif turn == Event.FLIP:
            self._flip(before)
        elif turn == Event.GC_END and self._cycles:
            self._cycles[-1].forced = bool(columns.flags[-1] & 1)

    def _sample(self, player: Player) -> None:
        player.heap.call(lib.pymem_read_pace, self._pace)
        pace = self._pace
        goal = min(player.mem_stats().next_gc, NO_GOAL) if self.goals else 0
        # No recording tells of the CPU limiter: the last column is 0.
        row = (self._now, pace.heap_live, goal, pace.heap_in_use, pace.heap_released, pace.mapped_ready, 0)
        begun = bool(pace.heap_live or self._rows)  # before, the heap it starts from is not there yet
        if begun and (not self._rows or row != self._rows[-1]):
            self._rows.append(row)

    def _start(self, *, marking: bool) -> None:
        """Note that a cycle may begin, or (marking) does; a trace has only the first, at the moment of the second."""
        if not self._marking:
            self._cycle.start_ns, self._cycle.heap0 = self._now, int(self._pace.heap_live)
        self._marking |= marking

    def _flip(self, before: int) -> None:
        """Note that marking ended, heapLive being `before`."""
        cycle = self._cycle
        if not cycle.heap0:
            cycle.start_ns, cycle.heap0 = self._now, before
        cycle.number, cycle.heap1, cycle.heap2 = len(self._cycles) + 1, before, int(self._pace.heap_live)
        cycle.mark_ns, cycle.term_ns, cycle.end_ns = cycle.start_ns, self._now, self._now
        self._cycles.append(cycle)
        self._cycle, self._marking = CycleRecord(), False

    def history(self, name: str, procs: int) -> History:
        for cycle in self._cycles:
            cycle.gomaxprocs = procs
        return History(
            source=name,
            settings="recorded",
            gomaxprocs=procs,
            emulated=False,
            goals=self.goals,
            cycles=tuple(self._cycles),
            timeline=np.array(self._rows, TIMELINE),
            end_ns=self._now,
        )
