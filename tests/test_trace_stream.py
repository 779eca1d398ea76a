"""An execution trace as a stream of rows, held against a slow twin: dicts, the whole trace in memory, one sort."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from pymem.errors import TraceError
from pymem.replay import Run, replay
from pymem.sizeclasses import size_classes
from pymem.trace import EventBatch, EventKind, TraceReader
from pymem.workload import Columns, Event, Workload, WorkloadType, open_recording, open_stream
from pymem.workload.columns import DTYPES
from pymem.workload.from_trace import TraceStream, heap_base, procs_of, read_object_trace

DATA = Path(__file__).parent / "data"
TRACES = [p for p in sorted(DATA.glob("*.trace")) if p.stem != "go122"]
LRU = Path(__file__).parents[1] / "examples" / "lru.trace"
TINY_SPAN_CLASS = 5


class Row(NamedTuple):
    place: tuple[int, int]
    kind: Event
    at: int  # the event that time, P and goroutine come from
    proc: bool = True
    flags: int = 0
    type: int = 0
    object: int = 0
    size: int = 0
    expect: int = 0


class Slow:
    """The conversion without bounded memory: handles are never used again, deaths look back for their GC_END."""

    def __init__(self, path: Path) -> None:
        self.trace = t = read_object_trace(path)
        self.procs = procs_of(t)
        self.kinds = [EventKind(k) for k in t.kind.tolist()]
        self.ends = [i for i, k in enumerate(self.kinds) if k == EventKind.GC_END]
        going = (i for i, k in enumerate(self.kinds) if k in (EventKind.STW_END, EventKind.OBJECT_ALLOC))
        self.start_end = next(going, len(self.kinds))
        self.rows = [Row((0, -3), Event.PROC_NEW, 0, proc=False) for _ in range(self.procs)]
        self.rows.append(Row((0, 0), Event.START_DONE, 0))
        self.pages: dict[int, tuple[int, int]] = {}
        self.slots: dict[int, list[tuple[int, int]]] = {}  # slot: births and their handles
        self.blocks: set[int] = set()
        self.dead: set[int] = set()
        self.manual: dict[int, int] = {}
        self.handles = 0
        for i in range(len(self.kinds)):
            self.event(i)
        self.rows.sort(key=lambda row: row.place)

    def handle(self) -> int:
        self.handles += 1
        return self.handles - 1

    def add(self, at: int, kind: Event, rank: int = 1, **rest: Any) -> None:
        self.rows.append(Row((at, rank), kind, at, **rest))

    def flush(self, at: int, rank: int) -> None:
        self.blocks.clear()
        for p in range(self.procs):
            self.add(at, Event.FLUSH, rank, object=p)

    def event(self, i: int) -> None:
        kind, a = self.kinds[i], int(self.trace.a[i])
        if kind in (EventKind.SPAN, EventKind.SPAN_ALLOC):
            self.span(i, a, int(self.trace.b[i]), int(self.trace.c[i]))
        elif kind in (EventKind.OBJECT, EventKind.OBJECT_ALLOC):
            self.born(i, a)
        elif kind == EventKind.OBJECT_FREE:
            self.died(i, a)
        elif kind == EventKind.SPAN_FREE and a in self.manual:
            self.add(i, Event.MANUAL_FREE, object=self.manual.pop(a))
        elif kind == EventKind.GC_BEGIN:
            self.add(i, Event.SWEEP_DONE)
        elif kind == EventKind.GC_END:
            self.cycle(i)
        elif kind == EventKind.STW_BEGIN and self.trace.strings[int(self.trace.b[i])] == "read mem stats":
            self.flush(i, 1)

    def span(self, i: int, base: int, pages: int, code: int) -> None:
        for page in range(pages):
            self.pages[(base >> 13) + page] = (code, pages)
        self.manual.pop(base, None)
        manual = code & 1
        name = self.handle() if manual else 0
        if manual:
            self.manual[base] = name
        if self.kinds[i] == EventKind.SPAN:
            assert i < self.start_end
            flags = 0 if manual else code >> 1
            self.rows.append(
                Row((0, -2), Event.START_SPAN, i, False, flags, manual, name, pages, base)
            )  # fmt: skip
        elif manual:
            self.add(i, Event.MANUAL_ALLOC, flags=1, object=name, size=pages, expect=base)

    def born(self, i: int, address: int) -> None:
        code, pages = self.pages.get(address >> 13, (1, 0))
        if code & 1:
            return
        span_class = code >> 1
        size = pages << 13 if span_class < 2 else int(size_classes()["size"][span_class >> 1])
        header = 8 if span_class > 1 and not span_class & 1 and size > 512 else 0
        existed = self.kinds[i] == EventKind.OBJECT
        slot = address if existed else address - header
        if span_class == TINY_SPAN_CLASS:
            slot &= ~15
            if slot in self.blocks:
                self.add(i, Event.TINY)
                return
            self.blocks.add(slot)
        name = self.handle()
        self.slots.setdefault(slot, []).append((i, name))
        type_id = int(self.trace.b[i])
        if existed:
            assert i < self.start_end
            self.rows.append(
                Row((0, -1), Event.START_OBJECT, i, False, type=type_id, object=name, expect=slot)
            )
        else:
            self.add(i, Event.ALLOC, flags=span_class & 1, type=type_id, object=name, size=size - header,
                     expect=slot + header)  # fmt: skip

    def died(self, i: int, slot: int) -> None:
        at = max((end for end in self.ends if end < i), default=i)
        births = [name for born, name in self.slots.get(slot, []) if born < at]
        if (
            births and births[-1] not in self.dead
        ):  # where batches of a generation are lost, a slot may be freed twice
            self.dead.add(births[-1])
            self.add(at, Event.DEATH, 0, flags=1, object=births[-1])
        if at == i:
            self.blocks.discard(slot)

    def cycle(self, end: int) -> None:
        begins = [i for i, k in enumerate(self.kinds) if k == EventKind.GC_BEGIN]
        forced = int(self.trace.c[max((i for i in begins if i < end), default=0)]) & 1
        self.add(end, Event.FLIP)
        self.flush(end, 2)
        self.add(end, Event.GC_END, 3, flags=forced)
        stop = min((i for i in begins if i > end), default=len(self.kinds))
        effects = (EventKind.OBJECT_FREE, EventKind.SPAN_FREE)
        last = max((i for i in range(end, stop) if self.kinds[i] in effects), default=end)
        self.add(end if forced else last, Event.SWEEP_ALL, 4)

    def workload(self) -> Workload:
        at = np.array([row.at for row in self.rows])
        p = np.clip(self.trace.p, -1, self.procs - 1) if self.procs > 1 else np.zeros(len(self.trace))
        columns: dict[str, Any] = {
            name: [getattr(row, name) for row in self.rows]
            for name in ("kind", "flags", "type", "object", "size", "expect")
        }
        columns["proc"] = np.where([row.proc for row in self.rows], p[at], -1)
        columns["time"], columns["goroutine"] = self.trace.time[at], np.maximum(self.trace.g, 0)[at]
        arena, padding = heap_base(self.trace)
        return Workload(
            columns=Columns(**{name: np.array(columns[name]).astype(d) for name, d in DTYPES.items()}),
            types=tuple(WorkloadType(t.name, t.size, t.ptrdata) for t in self.trace.types),
            tier="trace", arena_base=arena, padding_pages=padding, procs=self.procs,
        )  # fmt: skip


def outcome(run: Run) -> dict[str, Any]:
    return {f.name: getattr(run, f.name) for f in dataclasses.fields(run) if f.name != "seconds"}


def joined(chunks: list[Columns]) -> dict[str, Any]:
    return {name: np.concatenate([getattr(c, name) for c in chunks]) for name in DTYPES}


BIRTHS = (Event.ALLOC, Event.START_OBJECT, Event.MANUAL_ALLOC)
DEATHS = (Event.DEATH, Event.MANUAL_FREE)


def assert_same_rows(want: Columns, got: Columns) -> None:
    for name in DTYPES:
        if name != "object":
            np.testing.assert_array_equal(getattr(want, name), getattr(got, name), err_msg=name)
    now: dict[int, int] = {}  # the twin's name of what lives -> the stream's
    taken: set[int] = set()
    for kind, theirs, ours, is_manual in zip(
        want.kind.tolist(), want.object.tolist(), got.object.tolist(), want.type.tolist(), strict=True
    ):
        if kind in BIRTHS or (kind == Event.START_SPAN and is_manual):
            assert ours not in taken
            now[theirs] = ours
            taken.add(ours)
        elif kind in DEATHS:
            assert now.pop(theirs) == ours
            taken.remove(ours)
        else:
            assert ours == theirs


@pytest.mark.parametrize("path", [*TRACES, LRU], ids=lambda p: p.stem)
def test_rows(path: Path) -> None:
    want = Slow(path).workload()
    stream = TraceStream(path)
    whole = open_recording(path)
    assert_same_rows(want.columns, whole.columns)
    assert len(want) <= len(stream) <= 1.2 * len(want)
    assert outcome(replay(want)) == outcome(replay(stream)) == outcome(replay(whole))


@pytest.mark.parametrize("path", TRACES, ids=lambda p: p.stem)
@pytest.mark.parametrize("size", [1, 64, 1000])
def test_chunks(path: Path, size: int) -> None:
    """Wherever it is cut, the rows are the same; and they can be asked for again."""
    stream = TraceStream(path)
    want = joined(list(stream.chunks()))
    chunks = list(stream.chunks(size))
    assert max(map(len, chunks)) <= max(size, 8 + 2 * stream.procs)
    assert all(len(chunk) for chunk in chunks)
    for name, column in joined(chunks).items():
        np.testing.assert_array_equal(want[name], column)


def test_handles_are_used_again() -> None:
    columns = open_recording(LRU).columns
    born, dead = np.isin(columns.kind, BIRTHS), np.isin(columns.kind, DEATHS)
    manual = (columns.kind == Event.START_SPAN) & (columns.type == 1)
    alive = np.cumsum((born | manual).astype(np.int64) - dead)
    assert columns.object[born].max() < alive.max() < np.count_nonzero(born) / 2


def test_allocated_on_no_p(monkeypatch: pytest.MonkeyPatch) -> None:
    """An allocation whose P is lost among two is laid to the P that was seen last."""
    batches = TraceReader.batches

    def lossy(self: TraceReader, *args: Any, **options: Any) -> Iterator[EventBatch]:
        for batch in batches(self, *args, **options):
            batch.p[:] = np.arange(len(batch)) % 3 - 1
            yield batch

    monkeypatch.setattr(TraceReader, "batches", lossy)
    columns = joined_columns(TraceStream(LRU))
    assert set(columns.proc[columns.kind == Event.ALLOC].tolist()) == {0, 1}
    assert replay(TraceStream(LRU)).compared > 10_000


@pytest.mark.parametrize("part", [0.3, 0.6, 0.9, 0.99])
def test_cut_short(part: float, tmp_path: Path) -> None:
    data = LRU.read_bytes()
    cut = tmp_path / "cut.trace"
    cut.write_bytes(data[: int(len(data) * part)])
    assert replay(TraceStream(cut)).compared > 10_000
    assert_same_rows(Slow(cut).workload().columns, joined_columns(TraceStream(cut)))


def joined_columns(stream: TraceStream) -> Columns:
    return Columns(**joined(list(stream.chunks())))


@pytest.mark.parametrize("path", sorted(DATA.glob("go12[2357].trace")), ids=lambda p: p.stem)
def test_damaged(path: Path, tmp_path: Path) -> None:
    """Any byte may be wrong: it is refused, or makes rows; the core survives either (under ASan too)."""
    data = path.read_bytes()
    rng = np.random.default_rng(1)
    for at in rng.integers(16, len(data), 60).tolist():
        bad = tmp_path / "bad.trace"
        bad.write_bytes(data[:at] + bytes([data[at] ^ int(rng.integers(1, 256))]) + data[at + 1 :])
        try:
            rows = sum(len(chunk) for chunk in TraceStream(bad).chunks(100))
        except TraceError:
            continue
        assert rows


def test_open_stream(tmp_path: Path) -> None:
    assert isinstance(open_stream(LRU), TraceStream)
    saved = open_recording(TRACES[0]).save(tmp_path / "saved.pymem")
    assert isinstance(open_stream(saved), Workload)


def test_no_allocations() -> None:
    with pytest.raises(TraceError, match="no allocation events"):
        TraceStream(DATA / "go122.trace")
