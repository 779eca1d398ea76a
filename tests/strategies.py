"""Hypothesis strategies that several tests share."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

import pymem
from pymem.gc.state import CycleRecord
from pymem.trace import EventKind
from pymem.workload.columns import Columns, Event

_EDGES = sorted(
    {
        size
        for bound in [*pymem.size_classes()["size"][1:].tolist(), 512, 32760]
        for size in (bound - 8, bound - 1, bound, bound + 1)
        if size > 0
    }
)

tiny = st.integers(1, 15)
small = st.one_of(st.integers(1, 1024), st.sampled_from(_EDGES))
large = st.integers(32761, 600_000)
huge = st.integers(3 << 20, 20 << 20)
sizes = st.one_of(tiny, small, small, large)
"""Bytes an object: tiny, small, at the edges of classes, large."""

counts = st.one_of(st.integers(1, 40), st.integers(300, 2500))
"""Objects in a batch: some for a part of a span, some for many spans."""

type_ids = st.sampled_from([0, 0, 1, 2, 7])
stack_sizes = st.sampled_from([2048, 2048, 4096, 8192, 16384, 32768, 65536])
seeds = st.integers(0, 2**32 - 1)

page_words = st.one_of(
    st.integers(0, 2**64 - 1),
    st.sampled_from([0, 1, 1 << 63, 2**64 - 1, 2**64 - 2, 2**63 - 1, 0x5555555555555555]),
)
"""64 pages, a bit each."""


graph_steps = st.lists(st.tuples(st.sampled_from("aaasssddrgmmcf"), seeds), min_size=5, max_size=120)
"""Steps of a program with a graph: allocate, store, drop, set a root, mark a bit, collect, and so on."""


def some_of(pool: Sequence[int], share: float, seed: int) -> list[int]:
    """Return a share of a pool in random order. A seed keeps Hypothesis from drawing each element."""
    rng = random.Random(seed)
    return rng.sample(pool, round(share * len(pool)))


def many_sizes(n: int, seed: int) -> list[int]:
    """Return n sizes: mostly small, as programs' are, with some of every kind."""
    rng = random.Random(seed)
    bounds = rng.choices([(1, 15), (1, 300), (0, len(_EDGES) - 1), (32761, 200_000)], [30, 40, 30, 0.5], k=n)
    drawn = [(bound, rng.randint(*bound)) for bound in bounds]
    return [_EDGES[x] if bound[0] == 0 else x for bound, x in drawn]


# Rows for the replay and for the follower: what a program might do, and what a damaged file might say it did.

BASE = 0xC000000000
_PAGE = 8192
_ODD_NUMBERS = (0, 1, 2, 7, 8, 15, 63, 64, 4095, 8192, 2**31, 2**32 - 1, 2**40, 2**47, 2**63, 2**64 - 1)


class _Random:
    """Numbers as files have them: mostly sensible."""

    def __init__(self, seed: int, wild: float) -> None:
        self.rng = random.Random(seed)
        self.wild = wild

    def number(self, sensible: int) -> int:
        """Return the sensible number, or sometimes anything."""
        rng = self.rng
        if rng.random() >= self.wild:
            return sensible
        return (
            rng.choice([rng.choice(_ODD_NUMBERS), sensible + rng.choice([-8, -1, 1, 8]), rng.getrandbits(64)])
            % 2**64
        )

    def page(self) -> int:
        """Return the address of a page near the heap's beginning."""
        return BASE + _PAGE * self.rng.choice([self.rng.randrange(64), self.rng.randrange(1024)])


_REPLAY_WEIGHTS = {
    Event.ALLOC: 30, Event.DEATH: 12, Event.STACK_ALLOC: 5, Event.STACK_FREE: 4, Event.MANUAL_ALLOC: 3,
    Event.MANUAL_FREE: 3, Event.FLUSH: 2, Event.STACK_CLEAR: 1, Event.GC_PHASE: 1, Event.SWEEP_DONE: 1, Event.FLIP: 1,
    Event.SWEEP: 3, Event.SWEEP_IN: 2, Event.GC_END: 1, Event.PROC_NEW: 2, Event.PROC_DESTROY: 1, Event.PERSISTENT: 1,
    Event.SYS: 1, Event.PAGES_FLUSH: 1, Event.SCAVENGE: 3, Event.GOAL: 1, Event.SPAN: 1, Event.STATS: 1,
    Event.SWEEP_ALL: 1, Event.TINY: 1, Event.START_SPAN: 1, Event.START_OBJECT: 1, Event.START_DONE: 1,
    Event.FINALIZER: 1,
}  # fmt: skip


class _ReplayRows(_Random):
    """Rows under way: what has been born, so that most of what follows makes sense."""

    def __init__(self, seed: int, wild: float) -> None:
        super().__init__(seed, wild)
        self.rows: list[tuple[int, ...]] = []
        self.born: list[int] = []
        self.stacks: list[int] = []
        self.manual: list[int] = []
        self.taken: tuple[int, int] | None = None  # being scavenged

    def _handle(self, kind: int) -> int:
        if kind in _BIRTHS:
            handle = len(self.rows)
            pool = {Event.STACK_ALLOC: self.stacks, Event.MANUAL_ALLOC: self.manual}.get(
                Event(kind), self.born
            )
            pool.append(handle)
            return handle
        if kind in _OF_PROC:
            return self.rng.randrange(3)
        pool = {Event.STACK_FREE: self.stacks, Event.MANUAL_FREE: self.manual}.get(Event(kind), self.born)
        return self.rng.choice(pool or [0])

    def _size(self, kind: int, handle: int) -> int:
        rng = self.rng
        if kind in {Event.STACK_ALLOC, Event.STACK_FREE}:
            return 2048 << (handle % 6)
        if kind in {Event.MANUAL_ALLOC, Event.START_SPAN}:
            return rng.choice([rng.randint(1, 15), rng.randint(16, 60)])
        return rng.choice([rng.randint(1, 600), 8 * rng.randint(1, 64), rng.randint(1, 80_000)])

    def add(self, kind: int, **fields: int) -> None:
        """Add a row; what is not given is made up, and now and then what is given is not taken."""
        rng = self.rng
        handle = fields.get("object", self._handle(kind) if kind in set(Event) else 0)
        flags = rng.randrange(1, 4) if kind == Event.MANUAL_ALLOC else rng.randrange(4)
        proc = -1 if kind == Event.PROC_NEW else rng.choice([0, 0, 0, 0, 1, -1])
        row = {"flags": flags, "proc": proc, "type": rng.choice([0, 0, 1, 3]), "object": handle,
               "size": self._size(kind, handle), "expect": self.page()} | fields  # fmt: skip
        small = (
            (row["flags"], row["proc"])
            if rng.random() >= self.wild
            else (rng.randrange(256), rng.randint(-3, 9))
        )
        numbers = (self.number(row[name]) for name in ("object", "size", "expect"))
        self.rows.append((kind, *small, row["type"], *numbers))

    def start_heap(self) -> None:
        page, rng, table = BASE, self.rng, pymem.size_classes()
        for handle in range(1000, 1000 + rng.randrange(12)):
            size_class = rng.randrange(68)
            npages = int(table["pages"][size_class]) or rng.randint(1, 9)
            self.add(Event.START_SPAN, proc=-1, object=handle, size=npages, flags=2 * size_class + rng.randrange(2),
                     type=rng.choice([0, 0, 0, 1]), expect=page)  # fmt: skip
            slot = int(table["size"][size_class])
            for k in range(rng.randrange(3)):
                at = page + rng.choice([0, k]) * slot
                self.add(Event.START_OBJECT, proc=-1, object=8 * handle + k, expect=at)
            page += _PAGE * (npages + rng.choice([0, 0, 1, 40]))
        self.add(Event.START_DONE, proc=-1)

    def cycle(self) -> None:
        for step, kind in enumerate(_CYCLE):
            self.add(kind, object=step - 2 if kind == Event.FLUSH else 0)

    def scavenge(self) -> None:
        back = self.taken if self.rng.random() < 0.7 else None
        self.taken = None if back else (self.page(), self.rng.randint(1, 2))
        page, npages = back or self.taken or (BASE, 1)
        self.add(Event.SCAVENGE, object=page, size=npages, flags=int(back is not None))


_BIRTHS = {Event.ALLOC, Event.STACK_ALLOC, Event.MANUAL_ALLOC}
_OF_PROC = {Event.FLUSH, Event.STACK_CLEAR, Event.PROC_DESTROY, Event.PAGES_FLUSH}
_CYCLE = (Event.SWEEP_DONE, Event.FLIP, Event.FLUSH, Event.FLUSH, Event.FLUSH, Event.GC_END)


def replay_rows(seed: int, n: int, *, wild: float = 0.02) -> Columns:
    """Return rows of all kinds over a few handles and processors, some whole cycles and start heaps among them."""
    r = _ReplayRows(seed, wild)
    kinds, weights = list(_REPLAY_WEIGHTS), list(_REPLAY_WEIGHTS.values())
    for _ in range(r.rng.choice([0, 1, 1, 2, 2])):
        r.add(Event.PROC_NEW)
    if r.rng.random() < 0.3:
        r.start_heap()
    while len(r.rows) < n:
        kind = r.rng.choices(kinds, weights)[0]
        if r.rng.random() < wild / 4:
            r.add(r.rng.randrange(256))
        elif kind == Event.SWEEP_DONE and r.rng.random() < 0.8:
            r.cycle()
        elif kind == Event.SCAVENGE:
            r.scavenge()
        else:
            r.add(kind)
    numbers = np.array([row[4:] for row in r.rows], np.uint64).T
    kind_, flags, proc, type_ = np.array([row[:4] for row in r.rows], np.int64).T
    place = np.arange(len(r.rows))
    return Columns(
        **{"time": place, "kind": kind_, "flags": flags, "proc": proc, "goroutine": 0 * place, "type": type_},
        **dict(zip(("object", "size", "expect"), numbers, strict=True)),
    )


_TRACE_WEIGHTS = {
    EventKind.OBJECT_ALLOC: 30, EventKind.OBJECT_FREE: 12, EventKind.SPAN_ALLOC: 6, EventKind.SPAN_FREE: 4,
    EventKind.GC_BEGIN: 1, EventKind.GC_END: 1, EventKind.SWEEP_BEGIN: 2, EventKind.SWEEP_END: 2,
    EventKind.STW_BEGIN: 1, EventKind.SPAN: 1, EventKind.OBJECT: 1, EventKind.STW_END: 1, EventKind.PROCS_CHANGE: 1,
}  # fmt: skip


def _pages(base: int, npages: int) -> range:
    first = (base - BASE) // _PAGE
    return range(first, first + npages)


def trace_rows(seed: int, n: int, *, wild: float = 0.02) -> list[tuple[int, int, int, int, int]]:
    """Return rows of an execution trace (kind, p, a, b, c) that knows of a few spans and makes up the rest."""
    r = _Random(seed, wild)
    rng = r.rng
    table = pymem.size_classes()
    spans: dict[int, tuple[int, int, bool]] = {}
    free = set(range(1024))
    rows: list[tuple[int, int, int, int, int]] = []

    def span(kind: int) -> None:
        size_class = rng.choice([0, 1, 2, 2, 3, rng.randrange(68)])
        npages = int(table["pages"][size_class]) or rng.choice([1, 2, 4, 20])
        code = rng.choice([1, size_class << 2, size_class << 2 | 2])
        base = next((b for b in (r.page() for _ in range(9)) if free.issuperset(_pages(b, npages))), r.page())
        free.difference_update(_pages(base, npages))
        spans[base] = (0 if code == 1 else size_class, npages, code & 3 == 0)
        rows.append((kind, rng.randrange(-1, 3), r.number(base), r.number(npages), r.number(code) % 65536))

    def place(alloc: bool) -> int:
        base = rng.choice(list(spans) or [BASE])
        size_class, _, scan = spans.get(base, (1, 1, False))
        size = int(table["size"][size_class]) or 1
        slots = int(table["slots_scan"][size_class]) or 1
        return base + rng.randrange(slots) * size + (8 if alloc and scan and size > 512 else 0)

    for _ in range(rng.randrange(10)):
        span(EventKind.SPAN)
        for _ in range(rng.randrange(6)):
            rows.append((EventKind.OBJECT, 0, r.number(place(False)), rng.randrange(4), 0))
    rows.append((EventKind.STW_END, 0, 0, 0, 0))
    kinds, weights = list(_TRACE_WEIGHTS), list(_TRACE_WEIGHTS.values())
    while len(rows) < n:
        kind = rng.choices(kinds, weights)[0]
        p = rng.choice([0, 0, 1, -1]) if rng.random() >= wild else rng.randrange(-5, 100)
        if kind in {EventKind.SPAN, EventKind.SPAN_ALLOC}:
            span(kind)
        elif kind == EventKind.SPAN_FREE:
            base = rng.choice(list(spans) or [BASE])
            free.update(_pages(base, spans.pop(base, (0, 0, False))[1]))
            rows.append((kind, p, r.number(base), 0, 0))
        elif kind in {EventKind.OBJECT, EventKind.OBJECT_ALLOC, EventKind.OBJECT_FREE}:
            rows.append((kind, p, r.number(place(kind == EventKind.OBJECT_ALLOC)), rng.randrange(4), 0))
        else:
            rows.append(
                (
                    int(kind) if rng.random() >= wild else rng.randrange(256),
                    p,
                    r.number(1),
                    1,
                    rng.randrange(2),
                )
            )
    return rows


@st.composite
def cycle_records(draw: st.DrawFn) -> CycleRecord:
    """Draw a finished cycle with whatever numbers fit its fields."""
    ns = st.one_of(st.integers(0, 20_000), st.integers(0, 10**11))
    size = st.integers(0, 1 << 48)
    times = np.cumsum([draw(ns) for _ in range(4)]).tolist()
    return CycleRecord(
        number=draw(st.integers(1, 10**6)),
        forced=draw(st.booleans()),
        gomaxprocs=draw(st.integers(1, 512)),
        stw_procs=draw(st.integers(0, 64)),
        start_ns=times[0],
        mark_ns=times[1],
        term_ns=times[2],
        end_ns=times[3],
        heap0=draw(size),
        heap1=draw(size),
        heap2=draw(size),
        goal=draw(size),
        stack_bytes=draw(size),
        globals_bytes=draw(size),
        assist_ns=draw(ns),
        dedicated_ns=draw(ns),
        fractional_ns=draw(ns),
        idle_ns=draw(ns),
        gc_cpu_fraction=draw(st.floats(0, 1)),
    )


def span_sizes() -> st.SearchStrategy[int]:
    """Draw a span's pages: a few, or about as many as some arenas have."""
    return st.one_of(
        st.integers(1, 600),
        st.builds(lambda arenas, more: arenas * 8192 + more, st.integers(1, 4), st.integers(-3, 3)),
    )
