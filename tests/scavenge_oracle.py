"""What real Go scavenged, call by call, held against what the emulator would on the same heap."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pymem._native import ffi, lib
from pymem.gc.costs import Costs
from pymem.gc.scavenger import NEVER, Scavenger
from pymem.inspect import arena_map
from pymem.replay import Player
from pymem.workload.columns import Columns, Event
from pymem.workload.exact import _Converter
from pymem.workload.exact_log import Op, open_log
from pymem.workload.sources import open_recording

_CALL = 2  # flags of a row that says what the scavenger was asked for; no event of the core's
_PAGE = 8192
_NO_LIMIT = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """How many calls of the real scavenger were compared, what they released, and the first that differ."""

    calls: int
    forced: int
    pages: int
    runs: int
    differing: tuple[str, ...]


class _WithCalls(_Converter):
    """The columns of a recording and a row for each call of the scavenger."""

    def _collector(self) -> None:
        super()._collector()
        calls = self.at(Op.SCAVENGE)
        self.rows.add(Event.SCAVENGE, calls, flags=_CALL, object=self.a[calls], size=self.b[calls])


def compare(path: Path, *, ask_more: int = 0) -> Verdict:
    """Replay a recording; where real Go scavenges, ask the emulator for as much and compare the pages.

    ask_more: bytes that it is asked for on top, which must be found out.
    """
    columns, source = _WithCalls(open_log(path)).columns(), open_recording(path)
    scavenges = np.flatnonzero(columns.kind == Event.SCAVENGE)
    calls = scavenges[columns.flags[scavenges] == _CALL]
    begins = scavenges[columns.flags[scavenges] == 0]
    ours = np.ones(len(columns), np.bool_)
    ours[scavenges] = False
    differing: list[str] = []
    forced = pages = 0
    with Player(source, follow=True) as player:
        done = 0
        for i, call in enumerate(calls.tolist()):
            player.play(columns[done:call].where(ours[done:call]))
            done = call
            end = calls[i + 1] if i + 1 < len(calls) else len(columns)
            want = _pages(columns, begins[(begins > call) & (begins < end)], source.arena_base)
            got = _scavenge(
                player, min(int(columns.object[call]) + ask_more, NEVER), bool(columns.size[call])
            )
            forced += bool(columns.size[call])
            pages += len(want)
            if not np.array_equal(got, want):
                differing.append(f"call {i} of {columns.object[call]}: {_runs(got)} instead of {_runs(want)}")
                break
        player.play(columns[done:].where(ours[done:]))
        player.heap.call(lib.pymem_heap_check)
    return Verdict(len(calls), forced, pages, len(begins), tuple(differing))


@dataclass(frozen=True, slots=True)
class GoalVerdict:
    """Calls that allocations made of the real scavenger, pages given back, and where the emulator's came to differ."""

    calls: int
    pages: int
    differing: tuple[str, ...]


def compare_goals(path: Path) -> GoalVerdict:
    """Replay a recording with the goals that the policy sets; allocations scavenge by themselves.

    The background's calls are made as recorded. Between the real calls of allocations, and at the end, the emulator's
    must have given back as much; that it is the same pages shows in where the background finds its own.
    """
    return _Goals(path).run()


class _Goals:
    def __init__(self, path: Path) -> None:
        log = open_log(path)
        self.columns, self.source = _WithCalls(log).columns(), open_recording(path)
        kind, flags = self.columns.kind, self.columns.flags
        self.calls = (kind == Event.SCAVENGE) & (flags == _CALL)
        self.eager = self.calls & (self.columns.goroutine == 1) & (self.columns.object != np.uint64(NEVER))
        calls, begins = np.flatnonzero(self.calls), np.flatnonzero((kind == Event.SCAVENGE) & (flags == 0))
        self.eager_begins = begins[self.eager[calls[np.searchsorted(calls, begins) - 1]]]
        limits = log.records[log.records["op"] == Op.MEMORY_LIMIT]["a"]
        self.limit = int(limits[-1]) if len(limits) else _NO_LIMIT
        self.goal = self.last_goal = self.triggered = 0
        self.released = 0
        self.differing: list[str] = []

    def run(self) -> GoalVerdict:
        stops = np.flatnonzero(
            self.calls | np.isin(self.columns.kind, [Event.GOAL, Event.GC_PHASE, Event.FLIP])
        )
        rows = self.columns.kind != Event.SCAVENGE
        with Player(self.source, follow=True) as player:
            self.player, self.scavenger = player, Scavenger(player.heap, gomaxprocs=lambda: 1, costs=Costs())
            done = 0
            for stop in stops.tolist():
                player.play(self.columns[done : stop + 1].where(rows[done : stop + 1]))
                done = stop + 1
                self.at(stop)
            player.play(self.columns[done:].where(rows[done:]))
            self.compare(len(self.columns))
        return GoalVerdict(int(self.eager.sum()), self.released // _PAGE, tuple(self.differing))

    def at(self, row: int) -> None:
        kind = self.columns.kind[row]
        if self.eager[row]:
            return
        self.compare(row)
        if kind == Event.GC_PHASE and self.columns.size[row] == 1:
            self.triggered = self.player.mem_stats().heap_live
        elif kind == Event.FLIP:  # the cycle's own goal, before the next one is set
            runway = self.triggered + (64 << 10)
            self.last_goal = max(self.goal, runway)
        elif kind == Event.GOAL:
            self.pace(row)
        elif kind == Event.SCAVENGE:
            size, force = int(self.columns.object[row]), bool(self.columns.size[row])
            # Before the first pacing Go's goals are 0: the background may run then, and finds nothing.
            if self.goal and self.columns.goroutine[row] != 1 and self.scavenger.goals_kept():
                self.differing.append(f"in row {row}: real Go goes on scavenging in the background")
            _scavenge(self.player, size, force)

    def pace(self, row: int) -> None:
        self.goal = int(self.columns.object[row])
        in_use = self.player.mem_stats().heap_inuse
        self.scavenger.pace(
            memory_limit=self.limit,
            heap_goal=self.goal,
            last_heap_goal=self.last_goal,
            last_heap_in_use=in_use,
        )

    def compare(self, row: int) -> None:
        """Hold what allocations gave back up to this row, here and in the record, against each other.

        Not at the calls themselves: where a page cache has the pages, the record has the call before the allocation.
        """
        self.released += self.scavenger.take_eager().released
        pages = int(self.columns.size[self.eager_begins[self.eager_begins < row]].sum())
        if self.released != pages * _PAGE:
            self.differing.append(f"before row {row}: {self.released // _PAGE} pages instead of {pages}")


def _pages(columns: Columns, begins: Any, base: int) -> Any:
    runs = [
        np.arange(first, first + n)
        for first, n in zip(
            (columns.object[begins] - np.uint64(base)) // np.uint64(_PAGE), columns.size[begins], strict=True
        )
    ]
    return np.sort(np.concatenate(runs)).astype(np.int64) if runs else np.empty(0, np.int64)


def _scavenge(player: Player, size: int, force: bool) -> Any:
    before = arena_map(player.heap)["scavenged"]
    released = ffi.new("uint64_t *")
    player.heap.call(lib.pymem_scavenge, size, force, released)
    changed = np.flatnonzero(arena_map(player.heap)["scavenged"] != before)
    assert len(changed) * _PAGE == released[0]
    return changed


def _runs(pages: Any) -> list[tuple[int, int]]:
    parts = np.split(pages, np.flatnonzero(np.diff(pages) > 1) + 1)
    return [(int(p[0]), len(p)) for p in parts if len(p)]
