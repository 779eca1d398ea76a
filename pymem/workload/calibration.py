"""What a recording tells of its own speed: the program's time without the recorder, and what marking cost.

Marking takes memory's time more than the processor's: a byte or an object of a heap that is laid out at random costs
several times what it costs in a tree just built (measured: 1 to 5 times the defaults of `Costs`). A trace has both the
time in which its collector marked and, replayed, what it marked. Their quotient makes the costs those of this program,
on this machine, in this hour; and the pacer depends on little else than how allocating and marking compare.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pymem._native import ffi, lib
from pymem.gc.cycle import EMPTY_PROGRAM_GLOBALS
from pymem.replay import Player
from pymem.workload.columns import Event
from pymem.workload.program_time import ProgramTime, program_time
from pymem.workload.trace_stream import TraceStream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pymem.gc.costs import Costs

__all__ = ["Calibration", "calibrate", "roots_bytes"]

_LEAST, _MOST = 0.2, 30.0
"""Factors beyond these say that something is wrong with the recording, not that marking costs so much."""
_CLEAR = 4096
"""Bytes by which a mark must differ from the one before to tell GOGC."""
_ENOUGH_CHANGES = 5
_AGREE = 0.2
"""Cycles that tell of so much more or less than the median do not agree."""
_ENOUGH_NS = 1e6
"""Marking shorter than this, in all, tells nothing."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """A recording's own time and costs."""

    time: ProgramTime
    mark_factor: float
    """How many times what `Costs` says marking cost."""
    globals_bytes: int | None = None
    """Globals that hold pointers, and stacks, by the recorded goals; None where these do not tell."""

    def costs(self, costs: Costs) -> Costs:
        """Return costs with marking as expensive as it was."""
        return replace(
            costs,
            mark_byte_ns=costs.mark_byte_ns * self.mark_factor,
            mark_object_ns=costs.mark_object_ns * self.mark_factor,
        )

    def pauses(self, costs: Costs) -> Costs:
        """Return costs with pauses of the recording's median length, if it has any."""
        if not len(self.time.pauses):
            return costs
        pause = round(float(np.median(self.time.pauses)))
        return replace(costs, stop_ns=pause, term_ns=pause)


def calibrate(stream: TraceStream, *, costs: Costs, globals_bytes: int | None) -> Calibration:
    """Read a trace once for its time and replay it once for its marks; the stream remembers. Raises as `replay`.

    globals_bytes: globals that hold pointers; None: what the recorded goals tell of them.
    """
    key = (costs, globals_bytes)
    if key not in stream.calibrations:
        stream.calibrations[key] = _calibrate(stream, costs, globals_bytes)
    return stream.calibrations[key]


def _calibrate(stream: TraceStream, costs: Costs, globals_bytes: int | None) -> Calibration:
    time = program_time(stream.path, procs=stream.procs, costs=costs)
    marks = _marks(stream)
    if globals_bytes is None:
        globals_bytes = roots_bytes([mark.marked for mark in marks], time.goals)
    if time.mark_ns < _ENOUGH_NS:
        return Calibration(time, 1.0, globals_bytes)
    roots = EMPTY_PROGRAM_GLOBALS if globals_bytes is None else globals_bytes
    modelled = sum((m.scanned + roots) * costs.mark_byte_ns + m.objects * costs.mark_object_ns for m in marks)
    factor = time.mark_ns / modelled if modelled else 1.0
    return Calibration(time, min(max(factor, _LEAST), _MOST), globals_bytes)


class _Marked(NamedTuple):
    """What a recorded mark came to."""

    marked: int
    """Bytes, as the pacer counts them."""
    scanned: int
    objects: int


def _marks(stream: TraceStream) -> list[_Marked]:
    """Replay a trace and return its marks."""
    totals, marks = ffi.new("pymem_mark_totals *"), []
    with Player(stream) as player:
        for chunk in stream.chunks():
            start = 0
            for end in np.flatnonzero(chunk.kind == Event.FLIP):
                player.play(chunk[start : int(end) + 1])
                start = int(end) + 1
                player.heap.call(lib.pymem_mark_get, totals)
                marks.append(_Marked(totals.bytes_marked, totals.heap_scan, totals.objects_marked))
            player.play(chunk[start:])
    return marks


def roots_bytes(marked: Sequence[int], goals: Sequence[int]) -> int | None:
    """Return how many bytes of globals and stacks goals took into account; None where they do not tell.

    A goal is marked + (marked + roots) x GOGC / 100. From one cycle to the next it changes by 1 + GOGC / 100 times what
    marked does, and GOGC is a whole number: so both follow, though a goal may be another for the 4 MB that a heap has
    at least, or for a sweep not done. Hence medians. Go: (*gcControllerState).commit
    """
    if not len(marked) or len(goals) < len(marked):
        return None
    m, goal = np.array(marked, float), np.array(goals[-len(marked) :], float)
    changes = np.diff(m)
    clear = np.abs(changes) >= _CLEAR
    if clear.sum() < _ENOUGH_CHANGES:
        return None
    gogc = round((float(np.median(np.diff(goal)[clear] / changes[clear])) - 1) * 100)
    if gogc <= 0:
        return None
    roots = (goal - m) * 100 / gogc - m
    middle = float(np.median(roots))
    agree = np.abs(roots - middle) <= _AGREE * np.maximum(middle, 1.0)
    return round(middle) if middle > 0 and agree.mean() > 1 / 2 else None
