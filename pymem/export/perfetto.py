"""A history as a trace for Perfetto (https://ui.perfetto.dev): tracks of the heap, its goal, the cycles, who marked.

Perfetto's own names: a *track* is a line of the page, a *counter* a track with a curve, a *slice* a bar on a track.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

from pymem._extras import need
from pymem.export.history import NO_GOAL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from pymem.export.history import History
    from pymem.gc.state import CycleRecord

__all__ = ["COUNTERS", "write_perfetto"]

_PID = 1
_PROCESS = 1  # numbers of tracks; Perfetto wants them unlike each other, and not 0
_CYCLES = 2
_FIRST_COUNTER = 16
_SEQUENCE = 1

COUNTERS = {
    "heap live": "heap_live",
    "heap goal": "heap_goal",
    "heap in use": "heap_in_use",
    "heap released": "heap_released",
    "memory held (Sys - HeapReleased)": "mapped_ready",
}
"""Names of counters of bytes, with the column of the timeline that each shows."""

_MARKERS = {
    "assists": "assist_ns",
    "dedicated workers": "dedicated_ns",
    "fractional workers": "fractional_ns",
    "idle workers": "idle_ns",
}
"""Names of counters of Ps: while a cycle marks, how many were at it on average."""


def write_perfetto(history: History, out: IO[bytes]) -> None:
    """Write a history as a Perfetto trace; times are the history's. Raises `MissingExtraError` without `perfetto`.

    Samples leave as they are written: the memory this takes does not grow with the history.
    """
    protos = need("perfetto.protos.perfetto.trace.perfetto_trace_pb2", "export")
    builder = need("perfetto.trace_builder.proto_builder", "export").StreamingTraceProtoBuilder(out)
    for packet in _Packets(protos, history).all():
        builder.write_packet(packet)


class _Packets:
    """Makes the packets of a trace, one after the other."""

    def __init__(self, protos: ModuleType, history: History) -> None:
        self._protos: Any = protos
        self._history = history
        self._event = protos.TrackEvent
        self._counters = dict(COUNTERS)
        if not history.goals:
            del self._counters["heap goal"]
        self._markers = _MARKERS if history.emulated else {}
        names = [*self._counters, *self._markers]
        self._number = {name: _FIRST_COUNTER + i for i, name in enumerate(names)}

    def all(self) -> Iterator[Any]:
        yield self._process()
        yield self._track(_CYCLES, "GC cycles")
        for name in self._counters:
            yield self._counter_track(name, bytes_=True)
        for name in self._markers:
            yield self._counter_track(name, bytes_=False)
        yield from self._samples()
        for cycle in self._history.cycles:
            yield from self._cycle(cycle)

    # ---- tracks ----

    def _track(self, number: int, name: str) -> Any:
        packet = self._protos.TracePacket(trusted_packet_sequence_id=_SEQUENCE)
        packet.track_descriptor.uuid = number
        packet.track_descriptor.name = name
        if number != _PROCESS:
            packet.track_descriptor.parent_uuid = _PROCESS
        return packet

    def _process(self) -> Any:
        packet = self._track(_PROCESS, "")
        packet.sequence_flags = self._protos.TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
        packet.track_descriptor.ClearField("name")
        packet.track_descriptor.process.pid = _PID
        packet.track_descriptor.process.process_name = (
            f"{self._history.source} {self._history.settings}".strip()
        )
        return packet

    def _counter_track(self, name: str, *, bytes_: bool) -> Any:
        packet = self._track(self._number[name], name)
        counter = packet.track_descriptor.counter
        if bytes_:
            counter.unit = self._protos.CounterDescriptor.UNIT_SIZE_BYTES
        else:
            counter.unit_name = "Ps"
        return packet

    # ---- events ----

    def _at(self, time_ns: int, kind: int, track: int) -> Any:
        packet = self._protos.TracePacket(trusted_packet_sequence_id=_SEQUENCE, timestamp=time_ns)
        packet.track_event.type = kind
        packet.track_event.track_uuid = track
        return packet

    def _samples(self) -> Iterator[Any]:
        """Yield a counter where it changes."""
        last: dict[str, int] = {}
        for row in self._history.timeline:
            for name, column in self._counters.items():
                value = int(row[column])
                if value >= NO_GOAL or last.get(name) == value:
                    continue
                last[name] = value
                packet = self._at(int(row["time_ns"]), self._event.TYPE_COUNTER, self._number[name])
                packet.track_event.counter_value = value
                yield packet

    def _cycle(self, cycle: CycleRecord) -> Iterator[Any]:
        """Yield a cycle's slice with those of its phases in it, and how many Ps marked."""
        yield self._begin(cycle.start_ns, f"GC {cycle.number}", cycle)
        phases = (
            ("sweep termination (world stopped)", cycle.start_ns, cycle.mark_ns),
            ("marking", cycle.mark_ns, cycle.term_ns),
            ("mark termination (world stopped)", cycle.term_ns, cycle.end_ns),
        )
        for name, start, end in phases if self._history.emulated else ():
            yield self._begin(start, name)
            yield self._at(end, self._event.TYPE_SLICE_END, _CYCLES)
        yield self._at(cycle.end_ns, self._event.TYPE_SLICE_END, _CYCLES)
        yield from self._marked_by(cycle)

    def _begin(self, time_ns: int, name: str, cycle: CycleRecord | None = None) -> Any:
        packet = self._at(time_ns, self._event.TYPE_SLICE_BEGIN, _CYCLES)
        packet.track_event.name = name
        for key, value in _facts(cycle, emulated=self._history.emulated) if cycle else ():
            packet.track_event.debug_annotations.add(name=key, int_value=value)
        return packet

    def _marked_by(self, cycle: CycleRecord) -> Iterator[Any]:
        lasted = cycle.term_ns - cycle.mark_ns
        for name, field in self._markers.items():
            shares = (
                (cycle.mark_ns, getattr(cycle, field) / lasted if lasted else 0.0),
                (cycle.term_ns, 0.0),
            )
            for time_ns, share in shares:
                packet = self._at(time_ns, self._event.TYPE_COUNTER, self._number[name])
                packet.track_event.double_counter_value = share
                yield packet


def _facts(cycle: CycleRecord, *, emulated: bool) -> Iterator[tuple[str, int]]:
    """Yield what a click on a cycle shows. Bytes, or ns where the name says so."""
    names = ["heap0", "heap1", "heap2"]
    if emulated:
        names += [
            "trigger",
            "goal",
            "heap_scan_work",
            "stack_scan_work",
            "globals_scan_work",
            "pause_ns",
            *_MARKERS.values(),
        ]
    for name in names:
        value = int(getattr(cycle, name))
        if value < NO_GOAL:
            yield name, value
    yield "forced", int(cycle.forced)
