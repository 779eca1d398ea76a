"""What a recording tells of its own speed: the program's time without the recorder, and what marking cost.

Marking takes memory's time more than the processor's: a byte or an object of a heap that is laid out at random costs
several times what it costs in a tree just built (measured: 1 to 5 times the defaults of `Costs`). A trace has both the
time in which its collector marked and, replayed, what it marked. Their quotient makes the costs those of this program,
on this machine, in this hour; and the pacer depends on little else than how allocating and marking compare.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pymem._native import ffi, lib
from pymem.replay import Player
from pymem.workload.columns import Event
from pymem.workload.program_time import ProgramTime, program_time
from pymem.workload.trace_stream import TraceStream

if TYPE_CHECKING:
    from pymem.gc.costs import Costs

__all__ = ["Calibration", "calibrate"]

_LEAST, _MOST = 0.2, 30.0
"""Factors beyond these say that something is wrong with the recording, not that marking costs so much."""
_ENOUGH_NS = 1e6
"""Marking shorter than this, in all, tells nothing."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """A recording's own time and costs."""

    time: ProgramTime
    mark_factor: float
    """How many times what `Costs` says marking cost."""

    def costs(self, costs: Costs) -> Costs:
        """Return costs with marking as expensive as it was."""
        return replace(
            costs,
            mark_byte_ns=costs.mark_byte_ns * self.mark_factor,
            mark_object_ns=costs.mark_object_ns * self.mark_factor,
        )


def calibrate(stream: TraceStream, *, costs: Costs, globals_bytes: int) -> Calibration:
    """Read a trace once for its time and replay it once for its marks; the stream remembers. Raises as `replay`."""
    key = (costs, globals_bytes)
    if key not in stream.calibrations:
        stream.calibrations[key] = _calibrate(stream, costs, globals_bytes)
    return stream.calibrations[key]


def _calibrate(stream: TraceStream, costs: Costs, globals_bytes: int) -> Calibration:
    time = program_time(stream.path, procs=stream.procs, costs=costs)
    if time.mark_ns < _ENOUGH_NS:
        return Calibration(time, 1.0)
    modelled = _modelled(stream, costs, globals_bytes)
    factor = time.mark_ns / modelled if modelled else 1.0
    return Calibration(time, min(max(factor, _LEAST), _MOST))


def _modelled(stream: TraceStream, costs: Costs, globals_bytes: int) -> float:
    """Return what all recorded marks would have cost by `costs`, ns."""
    totals, ns = ffi.new("pymem_mark_totals *"), 0.0
    with Player(stream) as player:
        for chunk in stream.chunks():
            start = 0
            for end in np.flatnonzero(chunk.kind == Event.FLIP):
                player.play(chunk[start : int(end) + 1])
                start = int(end) + 1
                player.heap.call(lib.pymem_mark_get, totals)
                work = int(totals.heap_scan) + globals_bytes
                ns += work * costs.mark_byte_ns + int(totals.objects_marked) * costs.mark_object_ns
            player.play(chunk[start:])
    return ns
