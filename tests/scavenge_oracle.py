"""What real Go scavenged, call by call, held against what the emulator would on the same heap."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pymem._native import ffi, lib
from pymem.inspect import arena_map
from pymem.replay import Player
from pymem.workload.columns import Columns, Event
from pymem.workload.exact import _Converter
from pymem.workload.exact_log import Op, open_log
from pymem.workload.sources import open_recording

_CALL = 2  # flags of a row that says what the scavenger was asked for; no event of the core's
_PAGE = 8192


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


def compare(path: Path) -> Verdict:
    """Replay a recording; where real Go scavenges, ask the emulator for as much and compare the pages."""
    columns, source = _WithCalls(open_log(path)).columns(), open_recording(path)
    scavenges = np.flatnonzero(columns.kind == Event.SCAVENGE)
    calls = scavenges[columns.flags[scavenges] == _CALL]
    begins = scavenges[columns.flags[scavenges] == 0]
    ours = np.ones(len(columns), np.bool_)
    ours[scavenges] = False
    differing, forced, pages = [], 0, 0
    with Player(source, follow=True) as player:
        done = 0
        for i, call in enumerate(calls):
            player.play(columns[done:call].where(ours[done:call]))
            done = call
            end = calls[i + 1] if i + 1 < len(calls) else len(columns)
            want = _pages(columns, begins[(begins > call) & (begins < end)], source.arena_base)
            got = _scavenge(player, int(columns.object[call]), bool(columns.size[call]))
            forced += bool(columns.size[call])
            pages += len(want)
            if not np.array_equal(got, want):
                differing.append(f"call {i} of {columns.object[call]}: {_runs(got)} instead of {_runs(want)}")
                break
        player.play(columns[done:].where(ours[done:]))
        player.heap.call(lib.pymem_heap_check)
    return Verdict(len(calls), forced, pages, len(begins), tuple(differing))


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
