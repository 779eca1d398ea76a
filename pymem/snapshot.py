"""A runtime as a value: taken at any safepoint, kept in memory or in a file, gone on from as often as one likes.

What goes on from a snapshot gives the very results that the original gives: addresses, statistics, virtual time, trace
lines. Left behind are what is of this process: observers, and the stream that trace lines go to.

The heap is the core's (`csrc/snapshot.c`). The rest, the scheduler and the collector, is a tree of plain numbers and
text here, read back into fresh objects field by field: a file cannot name a class or run code. A new field of a class
with `__slots__` or of a dataclass is in it by itself; a class of its own has to be told below.

Types are shared: they do not change. A file has their layouts (`pymem/typefile.py`); a type of the program's own that
lies in memory as one of them is taken for it when it is used first.

A file is a line of magic, the format's number, a CRC-32 of all that follows, two lengths, the tree and the types as
JSON, and the heap. Its numbers are little-endian.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import zlib
from collections import deque
from copy import deepcopy
from dataclasses import asdict, dataclass, fields, is_dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TextIO

from pymem._arguments import instance
from pymem._files import check_regular
from pymem._heap import Heap
from pymem.env import Settings
from pymem.errors import ConfigError, PymemError, RecordingError
from pymem.gc.compaction import Compaction
from pymem.gc.controller import Debtor, MarkP
from pymem.gc.costs import Costs
from pymem.gc.cycle import Collector
from pymem.gc.limiter import LimiterEvent
from pymem.gc.marking import GraphMark, RecordMark
from pymem.gc.pacer import GoPacer
from pymem.gc.state import CycleRecord, GCStats
from pymem.gotypes import TypeTable
from pymem.roots import Frame, Roots, RootSet, Stack
from pymem.sched import Goroutine, Scheduler
from pymem.stats.gctrace import Tracer
from pymem.typefile import read_types, type_rows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pymem.gc.protocol import Pacer
    from pymem.layout import Type

__all__ = ["Parts", "Snapshot", "capture", "revive"]

_FORMAT = 3
_MAGIC = b"pymem snapshot\n\0"
_HEAD = struct.Struct("<16sII")
_LENGTHS = struct.Struct("<QQ")
_BAD = (LookupError, ValueError, TypeError, AttributeError, OverflowError, RecursionError, PymemError)
"""What objects raise that are made of numbers which were no runtime's."""


class Parts(NamedTuple):
    """What a runtime consists of."""

    heap: Heap
    types: TypeTable
    sched: Scheduler
    collector: Collector
    globals: Roots


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """The state of a runtime. It does not change, and holds nothing of the runtime that it was taken of."""

    heap: bytes
    """As the core wrote it."""
    state: dict[str, Any]
    """Scheduler and collector: numbers, text, lists and dicts of them."""
    pacer: Pacer | None = None
    """A policy of the user's own; None: Go's, whose state is with the rest. Only Go's goes into a file."""
    layouts: tuple[Type | None, ...] = ()
    """By type id, from 1; None: of a type that is known by name and size alone."""
    strange: frozenset[int] = frozenset()
    """Ids of types whose layout is a file's, so that a program's own may take its place."""

    def __repr__(self) -> str:
        return (
            f"<pymem.Snapshot of {len(self.heap):,} bytes at {self.state['collector']['clock']['now']:,} ns>"
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it to a file, whole or not at all; returns its path. Raises `OSError`, `ConfigError`.

        Functions in types (`types.ptr(lambda: Other)`) are asked now; what they raise comes out here.
        """
        if self.pacer is not None:
            raise ConfigError(
                f"a snapshot with a pacer of one's own ({type(self.pacer).__name__}) cannot go to a file: keep it in"
                " memory, or use Go's pacer"
            )
        check_regular(path, "give the name of a file to write")
        path, pieces = Path(path), self._pieces()
        beside = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with open(beside, "wb") as file:
                file.writelines(pieces)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        return path

    def _pieces(self) -> list[bytes]:
        rows, places = type_rows(self.layouts)
        tree = {"state": self.state, "types": rows, "layouts": places}
        state = json.dumps(tree, separators=(",", ":")).encode()
        lengths = _LENGTHS.pack(len(state), len(self.heap))
        crc = 0
        for piece in (lengths, state, self.heap):
            crc = zlib.crc32(piece, crc)
        return [_HEAD.pack(_MAGIC, _FORMAT, crc), lengths, state, self.heap]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a saved snapshot. Raises `RecordingError` for a file that is none, damaged, or of another version."""
        raw = Path(path).read_bytes()
        try:
            heap, tree = _split(raw)
            layouts = read_types(tree["types"], tree["layouts"])
            strange = frozenset(i for i, layout in enumerate(layouts, 1) if layout)
            return cls(heap, _exactly("state", tree["state"], dict), None, layouts, strange)
        except _BAD as error:
            raise _damaged(os.fspath(path), error) from None


def _damaged(name: str, error: Exception) -> RecordingError:
    why = f"it has no {error}" if isinstance(error, KeyError) else str(error)
    return RecordingError(f"{name}: not a whole snapshot of pymem: {why}: take it again with rt.snapshot()")


def _split(raw: bytes) -> tuple[bytes, dict[str, Any]]:
    """Return the heap and the tree in a file, once they are proved to be what was written."""
    if len(raw) < _HEAD.size + _LENGTHS.size or not raw.startswith(_MAGIC):
        raise ValueError("it does not begin as one")
    _, version, crc = _HEAD.unpack_from(raw)
    if version != _FORMAT:
        raise ValueError(f"it is of format {version} and this pymem reads {_FORMAT}")
    if zlib.crc32(memoryview(raw)[_HEAD.size :]) != crc:
        raise ValueError("its checksum differs, so it was cut short or altered")
    size, heap = _LENGTHS.unpack_from(raw, _HEAD.size)
    begin = _HEAD.size + _LENGTHS.size
    if begin + size + heap != len(raw):
        raise ValueError("its parts are longer or shorter than it says")
    tree = json.loads(raw[begin : begin + size])
    return raw[begin + size :], _exactly("the tree", tree, dict)


# ---- objects as plain values ----

_ELEMENTS: dict[str, type[Any]] = {"allp": MarkP, "assist_queue": Debtor, "events": LimiterEvent}
"""Of the fields that are lists of objects: what is in them."""
_PERHAPS: dict[str, type[Any]] = {
    "due_ns": int,
    "_slept_from": int,
    "_id": int,
    "compaction": Compaction,  # always None: with a compactor there is no snapshot
}
"""Of the fields that may be None: what else they are."""
_NOT_STATE = {"_costs", "_gomaxprocs", "_heap", "_info", "_out", "_scavenge", "_should_stop"}
"""Fields that lead to what is told elsewhere, or hold nothing between calls."""
_COLLECTOR = ("busy", "_busy_proc", "_globals_done", "_last_heap_in_use", "_mark_ends", "_pins", "_program_ns",
              "clock", "limiter", "scavenger", "sweeper", "turns")  # fmt: skip


def _names(cls: type[Any]) -> list[str]:
    if is_dataclass(cls):
        return [field.name for field in fields(cls)]
    slots = [name for base in cls.__mro__ for name in getattr(base, "__slots__", ())]
    return [name for name in slots if name not in _NOT_STATE]


def _dump(obj: Any, names: Iterable[str] | None = None) -> dict[str, Any]:
    return {name: _plain(getattr(obj, name)) for name in names or _names(type(obj))}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, list | tuple | deque):
        return [_plain(one) for one in value]
    return _dump(value)


def _load(obj: Any, data: dict[str, Any], names: Iterable[str] | None = None) -> None:
    """Set the fields of an object of the right class, which says what each of them is."""
    for name in names or _names(type(obj)):
        setattr(obj, name, _typed(name, data[name], getattr(obj, name)))


def _typed(name: str, value: Any, like: Any) -> Any:
    if name in _PERHAPS:
        return None if value is None else _made(_PERHAPS[name], name, value)
    if isinstance(like, list | deque):
        cls = _ELEMENTS.get(name)
        return type(like)(_made(cls, name, one) if cls else _number(name, one) for one in value)
    if isinstance(like, IntEnum):
        return type(like)(value)
    if isinstance(like, bool | str):
        return _exactly(name, value, type(like))
    if isinstance(like, int | float):
        return _number(name, value)
    _load(like, value)
    return like


def _made(cls: type[Any], name: str, value: Any) -> Any:
    if cls is int:
        return _exactly(name, value, int)
    new = cls()
    _load(new, value)
    return new


def _number(name: str, value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is {value!r:.40}, not a number")
    return value


def _exactly(name: str, value: Any, cls: type[Any]) -> Any:
    if type(value) is not cls:
        raise ValueError(f"{name} is {value!r:.40}, not of type {cls.__name__}")
    return value


# ---- taking ----


def capture(parts: Parts) -> Snapshot:
    """Take a snapshot of a runtime, which is left as it is. ConfigError in the middle of a collector's step."""
    collector = parts.collector
    if collector.compactor is not None:
        raise ConfigError(
            "a runtime with compaction=... has no snapshots: its moves cannot be told again; turn it off"
        )
    if collector.owner.telling:
        raise ConfigError(
            "an observer cannot take a snapshot, the collector is at work: take it when the call is over"
        )
    go = type(collector.pacer) is GoPacer
    state = {
        "types": [[t.name, t.size, t.noscan] for t in parts.types.types[1:]],
        "globals": _roots_state(parts.globals),
        "sched": _sched_state(parts.sched),
        "collector": _collector_state(collector),
        "stats": _stats_state(collector.stats),
        "pacer": _dump(collector.pacer) if go else None,
        "armed": parts.heap.armed,
    }
    layouts = tuple(t.layout for t in parts.types.types[1:])
    pacer = None if go else deepcopy(collector.pacer)
    return Snapshot(parts.heap.snapshot(), state, pacer, layouts, parts.types.strange)


def _roots_state(roots: Roots) -> list[Any]:
    """Their names in order, by slot: of the slots' contents the heap knows."""
    return [
        roots._set._id,
        roots._set.size,
        [[name, slot] for name, slot in roots._slots.items()],
        list(roots._free),
    ]


def _frames_state(stack: Stack) -> list[Any]:
    frames = [[list(frame), list(frame._begin), frame._first] for frame in stack.frames]
    return [stack.roots._id, stack.roots.size, frames]


def _sched_state(sched: Scheduler) -> dict[str, Any]:
    return {
        "cache": sched.cache,
        "procs": list(sched.procs),
        "last_id": sched.last_id,
        "max_stack": sched.max_stack,
        "goroutines": [
            [
                [g.id, g.name, g.p, g._proc, g.stack, g.stack_size],
                _roots_state(g.roots),
                _frames_state(g._frames),
            ]
            for g in sched.goroutines.values()
        ],
    }


def _collector_state(collector: Collector) -> dict[str, Any]:
    mark, tracer = collector._mark, collector._tracer
    return _dump(collector, _COLLECTOR) | {
        "liveness": collector.liveness,
        "costs": asdict(collector.costs),
        "globals": collector._globals,
        "check_mark": collector._check_mark,
        "work": list(collector._work),
        "record": None if collector.record is None else _dump(collector.record),
        "mark": None if mark is None else [isinstance(mark, GraphMark), _dump(mark)],
        "trace": None if tracer is None else _dump(tracer, _TRACER),
    }


_TRACER = ("_summary", "_pacer", "_scavenger")


def _stats_state(stats: GCStats) -> dict[str, Any]:
    """Cycles are many and alike: a list for each field."""
    cycles = {name: [getattr(c, name) for c in stats.cycles] for name in _names(CycleRecord)}
    return _dump(stats, [name for name in _names(GCStats) if name != "cycles"]) | {"cycles": cycles}


# ---- going on ----


def revive(source: Snapshot | str | os.PathLike[str], trace: TextIO | None) -> Parts:
    """Make a runtime of a snapshot or of a file with one. trace: where trace lines go; None: stderr."""
    if not isinstance(source, Snapshot):
        instance("snapshot", source, (str, os.PathLike), "a Snapshot, or the name of a file with one")
    snapshot = source if isinstance(source, Snapshot) else Snapshot.load(source)
    name = "this snapshot" if isinstance(source, Snapshot) else os.fspath(source)
    try:
        return _parts(snapshot, trace or sys.stderr)
    except _BAD as error:
        raise _damaged(name, error) from None


def _parts(snapshot: Snapshot, trace: TextIO) -> Parts:
    state = snapshot.state
    heap = Heap.restore(snapshot.heap)
    types = _types(heap, snapshot)
    sched = _sched(heap, types, state["sched"])
    pacer = GoPacer() if snapshot.pacer is None else deepcopy(snapshot.pacer)
    collector = _collector(heap, sched, state, trace)
    if snapshot.pacer is None:
        _load(pacer, state["pacer"])
    collector.pacer = pacer
    sched.on_stack = pacer.add_scannable_stack
    heap.armed = _exactly("armed", state["armed"], bool)
    return Parts(heap, types, sched, collector, _roots(Roots(heap, stack=False), state["globals"]))


def _types(heap: Heap, snapshot: Snapshot) -> TypeTable:
    table = TypeTable(heap)
    rows = zip(snapshot.state["types"], snapshot.layouts, strict=True)
    for id_, ((name, size, noscan), layout) in enumerate(rows, 1):
        table.restore(
            _exactly("a type's name", name, str),
            _exactly("a type's size", size, int),
            noscan=_exactly("noscan", noscan, bool),
            layout=layout,
            strange=id_ in snapshot.strange,
        )
    return table


def _set(into: RootSet, id_: Any, size: Any) -> None:
    """Take over a set of roots that the heap has."""
    into._id = None if id_ is None else _slot("a set of roots", id_, 1 << 32)
    into.size = _slot("slots", size, 1 << 62)
    if into.size:
        into.get(into.size - 1)


def _slot(what: str, value: Any, below: int) -> int:
    if not 0 <= _exactly(what, value, int) < below:
        raise ValueError(f"{what}: {value!r:.40} is not below {below}")
    return int(value)


def _roots(into: Roots, data: list[Any]) -> Roots:
    id_, size, slots, free = data
    _set(into._set, id_, size)
    into._slots = {_exactly("a root", name, str): _slot(name, slot, size) for name, slot in slots}
    into._free = [_slot("a free root", slot, size) for slot in free]
    return into


def _frames(into: Stack, data: list[Any]) -> Stack:
    id_, size, frames = data
    _set(into.roots, id_, size)
    for names, begin, first in frames:
        values = zip((_exactly("a variable", name, str) for name in names), begin, strict=True)
        frame = Frame(into, dict(values))
        frame._first = _slot("a frame", first, size + 1 - len(frame))
        into.frames.append(frame)
    return into


def _sched(heap: Heap, types: TypeTable, data: dict[str, Any]) -> Scheduler:
    procs = [_exactly("a processor", proc, int) for proc in data["procs"]]
    sched = Scheduler(heap, types, procs=procs, cache=data["cache"])
    sched.last_id, sched.max_stack = _exactly("last_id", data["last_id"], int), int(data["max_stack"])
    for (id_, name, p, proc, stack, size), roots, frames in data["goroutines"]:
        g = Goroutine.__new__(Goroutine)  # its stack is there
        g._sched, g.id, g.name = sched, _exactly("id", id_, int), _exactly("name", name, str)
        g.p = None if p is None else _exactly("p", p, int)
        g._proc, g.stack, g.stack_size = int(proc), int(stack), int(size)
        g.roots, g._frames = _roots(Roots(heap, stack=True), roots), _frames(Stack(heap), frames)
        sched.goroutines[g.id] = g
    return sched


def _collector(heap: Heap, sched: Scheduler, state: dict[str, Any], trace: TextIO) -> Collector:
    """Return a collector that goes on. Its pacer stands in for the one that follows."""
    data = state["collector"]
    if data["liveness"] not in ("graph", "record"):
        raise ValueError(f"liveness is {data['liveness']!r:.40}")
    stats = GCStats()
    _load_stats(stats, state["stats"])
    tracer = None if data["trace"] is None else Tracer(Settings(), trace)
    if tracer:
        _load(tracer, data["trace"], _TRACER)
    collector = Collector(
        heap,
        pacer=GoPacer(),
        procs=sched.procs,
        costs=Costs(**data["costs"]),
        liveness=data["liveness"],
        stats=stats,
        globals_bytes=_exactly("globals", data["globals"], int),
        tracer=tracer,
        check_mark=_exactly("check_mark", data["check_mark"], bool),
    )
    _load(collector, data, _COLLECTOR)
    if collector.clock.procs != len(sched.procs):
        raise ValueError(f"its clock has {collector.clock.procs!r:.20} processors of {len(sched.procs)}")
    objects, size = data["work"]
    collector._work = int(objects), int(size)
    collector.record = None if data["record"] is None else _made(CycleRecord, "record", data["record"])
    collector._mark = None if data["mark"] is None else _mark(collector, *data["mark"])
    if (collector._mark is None) != (collector.record is None):
        raise ValueError("its collector marks in no cycle")
    return collector


def _mark(collector: Collector, graph: bool, data: dict[str, Any]) -> GraphMark | RecordMark:
    cls = GraphMark if graph else RecordMark
    mark = cls(collector.heap, collector.costs, collector._globals)
    _load(mark, data)
    return mark


def _load_stats(stats: GCStats, data: dict[str, Any]) -> None:
    _load(stats, data, [name for name in _names(GCStats) if name != "cycles"])
    columns = data["cycles"]
    names = _names(CycleRecord)
    for row in zip(*(columns[name] for name in names), strict=True):
        stats.cycles.append(_made(CycleRecord, "cycle", dict(zip(names, row, strict=True))))
