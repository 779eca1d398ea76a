"""Columns of events run on a heap: the same as calling it, or an error that names the row, never worse."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from core import Core
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import BASE, replay_rows, seeds, trace_rows

import pymem
from pymem._heap import Heap
from pymem._native import ffi, lib
from pymem.checking import _Follower
from pymem.errors import RecordingError
from pymem.replay import Player, replay
from pymem.stats.memstats import read_mem_stats
from pymem.workload.columns import Columns, Event
from pymem.workload.workload import Workload

E = Event
NAMES = ("kind", "flags", "proc", "type", "object", "size", "expect")
ALL_ONES = 2**64 - 1
SPACE = 256 << 20


def row(kind: int, **fields: int) -> dict[str, int]:
    return {"kind": int(kind), **fields}


def columns(*rows: dict[str, int]) -> Columns:
    table: dict[str, Any] = {
        name: np.array(
            [r.get(name, 0) for r in rows], np.uint64 if name in {"object", "size", "expect"} else np.int64
        )
        for name in NAMES
    }
    return Columns(time=np.arange(len(rows)), goroutine=np.zeros(len(rows), np.uint32), **table)


P = row(E.PROC_NEW, proc=-1)
CYCLE = (row(E.SWEEP_DONE), row(E.FLIP), row(E.FLUSH), row(E.GC_END, flags=1), row(E.SWEEP_ALL))


def alloc(handle: int, size: int = 64, **fields: int) -> dict[str, int]:
    return row(E.ALLOC, object=handle, size=size, **fields)


def death(handle: int, **fields: int) -> dict[str, int]:
    return row(E.DEATH, object=handle, **fields)


def player(*, tier: str = "arrays") -> Player:
    source = Workload(columns=columns(), tier=tier)
    return Player(source, follow=tier == "exact", address_space=SPACE)


def addresses(p: Player, n: int) -> list[int]:
    out = np.zeros(n, np.uint64)
    lib.pymem_replay_addresses(p._replay, 0, n, ffi.from_buffer("uint64_t[]", out))
    return [int(a) for a in out]


# ---- what is replayed is what is called ----


def test_same_as_runtime() -> None:
    """Objects of all kinds, deaths, a collection, more objects: addresses and statistics."""
    sizes = [1, 8, 15, 16, 24, 100, 600, 2000, 32760, 40000] * 30
    rows = [P, *(alloc(i, size, flags=i % 2) for i, size in enumerate(sizes))]
    rows += [death(i) for i in range(0, len(sizes), 3)]
    rows += [*CYCLE, *(alloc(1000 + i, size) for i, size in enumerate(sizes))]
    with player() as p, pymem.Runtime() as rt:
        p.play(columns(*rows))
        made = [rt.malloc(size, noscan=bool(i % 2)) for i, size in enumerate(sizes)]
        rt.gc(dead=made[::3])
        later = [rt.malloc(size, noscan=False) for size in sizes]
        told = addresses(p, 1000 + len(sizes))
        assert [a for i, a in enumerate(told[: len(sizes)]) if i % 3] == [
            a for i, a in enumerate(made) if i % 3
        ]
        assert told[1000:] == later
        assert told[0] == 0  # dead
        mine, theirs = p.mem_stats(), rt.read_mem_stats()
        p.heap.call(lib.pymem_flush, 0)
        assert p.mem_stats().by_size_class == theirs.by_size_class
        assert (mine.heap_inuse, mine.num_gc) == (theirs.heap_inuse, theirs.num_gc)


def test_expected_addresses() -> None:
    with player() as p:
        p.play(
            columns(
                P,
                alloc(0, flags=1, expect=BASE),
                alloc(1, flags=1, expect=BASE + 64),
                alloc(2, flags=1, expect=BASE),
            )
        )
        (miss,) = p.misses()
        assert (miss.row, miss.kind, miss.got, miss.want) == (3, E.ALLOC, BASE + 128, BASE)
        assert (p.counts()["compared"][E.ALLOC], p.counts()["matched"][E.ALLOC]) == (3, 2)


def test_rows_are_counted_over_calls() -> None:
    """A stop for statistics at the end of one call does not lose count in the next."""
    stops: list[int] = []
    with player() as p:
        p.play(columns(P, row(E.STATS)), at_stats=lambda: stops.append(p.mem_stats().mallocs))
        p.play(
            columns(row(E.STATS), alloc(0, expect=8)), at_stats=lambda: stops.append(p.mem_stats().mallocs)
        )
        assert p.misses()[0].row == 3
        assert len(stops) == 2


def test_handles_serve_again() -> None:
    with player() as p:
        p.play(columns(P, *[r for _ in range(500) for r in (alloc(3), death(3))]))
        assert addresses(p, 4) == [0, 0, 0, 0]


def test_cycles() -> None:
    run = replay(
        Workload(columns=columns(P, *(alloc(i) for i in range(10)), death(2), death(3), *CYCLE, *CYCLE))
    )
    assert [(c.forced, c.heap_before, c.marked, c.freed_objects) for c in run.cycles] == [
        (True, 640, 512, 2),
        (True, 512, 512, 0),
    ]


def test_start_heap() -> None:
    """The first free slot of the only span that is not full comes next."""
    span = row(E.START_SPAN, proc=-1, size=1, flags=5 << 1 | 1, expect=BASE)
    full = [row(E.START_OBJECT, proc=-1, object=i, expect=BASE + 48 * i) for i in (0, 1, 3)]
    with player() as p:
        p.play(
            columns(P, span, *full, row(E.START_DONE, proc=-1), alloc(7, 48, flags=1), alloc(8, 48, flags=1))
        )
        assert addresses(p, 9)[7:] == [BASE + 96, BASE + 192]
        p.heap.call(lib.pymem_heap_check)


def test_scavenge() -> None:
    """Pages on their way to the system are nobody's; then they count as released."""
    span = row(E.MANUAL_ALLOC, object=0, size=32, flags=1)
    with player() as p:
        p.play(columns(P, span, row(E.MANUAL_FREE, object=0), row(E.SCAVENGE, object=BASE + 8192, size=4)))
        p.heap.call(lib.pymem_heap_check)
        before = p.mem_stats().heap_released
        p.play(columns(row(E.MANUAL_ALLOC, object=1, size=32, flags=1)))
        assert addresses(p, 2)[1] == BASE + 5 * 8192
        p.play(columns(row(E.SCAVENGE, object=BASE + 8192, size=4, flags=1)))
        p.heap.call(lib.pymem_heap_check)
        assert p.mem_stats().heap_released == before - 5 * 8192 + 4 * 8192


def test_sweeps_in_turn_leave_their_sets() -> None:
    """A refill's budget is not spent on spans that were swept in turn, though the turns were taken from the record."""
    spans, per_span, hole = 200, 126, 180
    born = [alloc(i, flags=1) for i in range(spans * per_span)]
    turn = (row(E.SWEEP_DONE), row(E.FLIP), row(E.FLUSH), row(E.GC_END))
    before = [P, *born, death(hole * per_span), *turn]
    after = [alloc(len(born), flags=1)]
    told = []
    for tier in ("arrays", "exact"):
        with player(tier=tier) as p:
            p.play(columns(*before))
            bases = sorted({a & ~8191 for a in addresses(p, len(born)) if a})
            p.play(columns(*(row(E.SWEEP, expect=base) for base in bases[:150]), *after))
            p.heap.call(lib.pymem_heap_check)
            assert p.counts()["matched"][E.SWEEP] == 150
            told.append(addresses(p, len(born) + 1)[-1])
    assert told == [bases[hole], bases[hole]]


def test_reclaimed_after_the_search() -> None:
    """What the reclaimer sweeps has free slots for the refill after this one only."""
    spans, per_span, hole = 200, 126, 180
    born = [alloc(i, flags=1) for i in range(spans * per_span)]
    with player(tier="exact") as p:
        p.play(columns(P, *born, death(hole * per_span), row(E.SWEEP_DONE), row(E.FLIP), row(E.FLUSH)))
        base = addresses(p, len(born))[hole * per_span + 1] & ~8191
        sweep = row(E.SWEEP_IN, expect=base, flags=1)
        p.play(columns(sweep, *(alloc(len(born) + i, flags=1) for i in range(per_span + 1))))
        fresh, *_, second = addresses(p, len(born) + per_span + 1)[len(born) :]
        assert fresh == base + (spans - hole) * 8192
        assert second == base
        p.heap.call(lib.pymem_heap_check)


def test_use_by_type_amid_sweeping() -> None:
    """An object found dead is not counted, though its span is not swept yet."""
    objects = [alloc(i) for i in range(200)]  # the first span is full, so no flush sweeps it
    run = replay(Workload(columns=columns(P, *objects, death(0), *CYCLE[:3])))
    assert [use.objects for use in run.heap_by_type] == [199]


EXPECTED = {"object": BASE, "expect": BASE}


def test_scavenge_that_does_not_fit() -> None:
    """A recorded run of pages that the emulator has in use in part is a miss; what is free of it is released."""
    took = row(E.SCAVENGE, size=4, **EXPECTED)
    with player(tier="exact") as p:
        p.play(
            columns(
                P,
                row(E.MANUAL_ALLOC, object=0, size=18, flags=1),
                row(E.MANUAL_ALLOC, object=1, size=16, flags=1),
            )
        )
        p.play(columns(row(E.MANUAL_FREE, object=0)))
        before = p.mem_stats().heap_released
        run = {"object": BASE + 16 * 8192, "expect": BASE + 16 * 8192}
        p.play(columns(took | run, took | run | {"flags": 1}))
        p.heap.call(lib.pymem_heap_check)
        (miss,) = p.misses()
        assert (miss.kind, miss.got, miss.want) == (E.SCAVENGE, 0, BASE + 16 * 8192)
        assert p.mem_stats().heap_released == before + 2 * 8192
        p.play(columns(took, took | {"flags": 1}))
        assert p.mem_stats().heap_released == before + 6 * 8192
        assert (p.counts()["compared"][E.SCAVENGE], p.counts()["matched"][E.SCAVENGE]) == (2, 1)


def test_scavenge_beyond_the_emulated_heap() -> None:
    """The recorded heap is larger than the one that wrong predictions have led to."""
    far = {"object": BASE + (8 << 20), "expect": BASE + (8 << 20)}
    with player(tier="exact") as p:
        p.play(columns(P, alloc(0), row(E.SCAVENGE, size=4, **far), row(E.SCAVENGE, size=4, flags=1, **far)))
        assert len(p.misses()) == 1


def test_tiny_block_divided_differently() -> None:
    """After a wrong prediction a block's death may find its slot dead: another one's had been the same."""
    with player(tier="exact") as p:
        p.play(columns(P, *BLOCK, alloc(2, expect=BASE), death(1, flags=1)))
        assert len(p.misses()) == 1
        p.heap.call(lib.pymem_heap_check)


# ---- what contradicts the heap ----

START = row(E.START_SPAN, proc=-1, size=1, flags=11, expect=BASE)
STACK = row(E.STACK_ALLOC, object=0, size=65536)
STACK_FREE = row(E.STACK_FREE, object=0, size=65536)
BLOCK = (alloc(0, 8, flags=1), alloc(1, 8, flags=1), death(0, flags=1))  # of two objects, dead as one
MANUAL = row(E.MANUAL_ALLOC, object=0, size=32, flags=1)
MANUAL_FREE = row(E.MANUAL_FREE, object=0)
TAKEN = row(E.SCAVENGE, object=BASE, size=2)

BAD: dict[str, tuple[str, list[dict[str, int]]]] = {
    "KindNone": ("no event of kind 0", [row(0)]),
    "KindUnknown": ("no event of kind 200", [row(200)]),
    "Proc": ("there is no processor 1", [alloc(0, proc=1)]),
    "ProcNegative": ("there is no processor -2", [alloc(0, proc=-2)]),
    "NoProc": ("without a processor", [alloc(0, proc=-1)]),
    "SizeZero": ("an object of 0 bytes", [alloc(0, 0)]),
    "SizeHuge": ("an object of 18446744073709551615 bytes", [alloc(0, ALL_ONES)]),
    "HandleHuge": ("handle 18446744073709551615: number the objects", [alloc(ALL_ONES)]),
    "HandleLarge": ("handle 1099511627776: number the objects", [alloc(1 << 40)]),
    "HandleTaken": ("handle 0 is given out again", [alloc(0), alloc(0)]),
    "HandleTakenByStack": ("handle 0 is given out again", [alloc(0), STACK]),
    "HandleTakenBySpan": ("handle 0 is given out again", [alloc(0), MANUAL]),
    "DeathOfNone": ("handle 5 is used but was never allocated", [death(5)]),
    "DeathTwice": ("handle 0 is used but was never allocated", [alloc(0), death(0), death(0)]),
    "DeathOfStack": ("not in any span of objects", [STACK, death(0)]),
    "DeathOfSlotOfStack": ("handle 0 dies but is not alive", [STACK, death(0, flags=1)]),
    "DeathOfDeadSlot": ("handle 1 dies but is not alive", [*BLOCK, death(1, flags=1)]),
    "DeathOfSweptSlot": ("handle 1 dies but is not alive", [*BLOCK, *CYCLE[:2], death(1, flags=1)]),
    "StackSize": ("a stack of 3000 bytes", [row(E.STACK_ALLOC, size=3000)]),
    "StackHuge": ("a stack of 9223372036854775808 bytes", [row(E.STACK_ALLOC, size=1 << 63)]),
    "StackFreedSmaller": ("no stack of 2048 bytes", [STACK, row(E.STACK_FREE, object=0, size=2048)]),
    "StackFreedTwice": ("handle 0 is used but", [STACK, *2 * [STACK_FREE]]),
    "StackIsObject": ("no stack of 4096 bytes", [alloc(0, 4096), row(E.STACK_FREE, object=0, size=4096)]),
    "StackAsSpan": ("handle 0 is no manual span", [STACK, MANUAL_FREE]),
    "StackHeldBack": ("handle 0 is used but", [STACK, row(E.GC_PHASE, size=1), STACK_FREE, MANUAL_FREE]),
    "SpanEmpty": ("a manual span of 0 pages", [row(E.MANUAL_ALLOC, size=0, flags=1)]),
    "SpanKind": ("a manual span of 1 pages and kind 9", [row(E.MANUAL_ALLOC, size=1, flags=9)]),
    "SpanFreedTwice": ("handle 0 is used but", [MANUAL, *2 * [MANUAL_FREE]]),
    "SpanIsObject": ("handle 0 is no manual span", [alloc(0), MANUAL_FREE]),
    "FlushOfNone": ("there is no processor 3", [row(E.FLUSH, object=3)]),
    "FlushOfNoThread": ("there is no processor -1", [row(E.FLUSH, object=ALL_ONES)]),
    "DestroyNone": ("there is no processor 3", [row(E.PROC_DESTROY, object=3)]),
    "DestroySelf": ("processor 0 ends itself", [row(E.PROC_DESTROY, object=0)]),
    "DestroyTwice": ("there is no processor 1", [P, *2 * [row(E.PROC_DESTROY, object=1)]]),
    "ProcsMany": ("more than 4096 processors", [P] * 4096),
    "PersistentZero": ("0 bytes of statistic 6", [row(E.PERSISTENT, size=0, flags=6)]),
    "PersistentHuge": ("bytes of statistic 6", [row(E.PERSISTENT, size=1 << 62, flags=6)]),
    "PersistentAlign": ("aligned to 3", [row(E.PERSISTENT, size=8, object=3, flags=6)]),
    "StatNone": ("statistic 0", [row(E.SYS, size=8, flags=0)]),
    "StatReleased": ("statistic 1", [row(E.SYS, size=8, flags=1)]),
    "StatUnknown": ("statistic 8", [row(E.SYS, size=8, flags=8)]),
    "SysUnderflow": ("more memory is given back than statistic 4 has", [row(E.SYS, size=2**64 - (1 << 27), flags=4)]),
    "SysHuge": ("bytes of statistic 4", [row(E.SYS, size=1 << 63, flags=4)]),
    "FinalizerGone": ("finalizers of 48 bytes", [row(E.FINALIZER, size=48)]),
    "FinalizerHuge": ("finalizers of", [row(E.FINALIZER, size=1 << 63, flags=1)]),
    "FlipAlone": (r"turns that has not begun \(SWEEP_DONE\)", [row(E.FLIP)]),
    "FlipTwice": ("turns that has not begun", [*CYCLE[:2], row(E.FLIP)]),
    "BeginTwice": (r"begins before the last one has turned \(FLIP\)", [CYCLE[0]] * 2),
    "BeginUnflushed": (r"processor 0 has not given back its spans \(FLUSH\)", [alloc(0), *CYCLE[:2], CYCLE[0]]),
    "AllocUnflushed": ("processor 0 allocates before it has given back", [alloc(0), *CYCLE[:2], alloc(1)]),
    "EndAlone": (r"a cycle ends that has not turned", [row(E.GC_END)]),
    "EndTwice": (r"a cycle ends that has not turned", [*CYCLE, row(E.GC_END)]),
    "ScavengeInUse": ("not all free", [alloc(0), TAKEN]),
    "ScavengeCached": ("not all free", [alloc(0), row(E.SCAVENGE, object=BASE + 2 * 8192, size=1)]),
    "ScavengeScavenged": ("not all free and unscavenged", [alloc(0), row(E.SCAVENGE, object=BASE + (1 << 20), size=1)]),
    "ScavengeBeyond": ("are not the heap's", [alloc(0), row(E.SCAVENGE, object=BASE + (4 << 20), size=1)]),
    "ScavengeBelow": ("are not the heap's", [alloc(0), row(E.SCAVENGE, object=8192, size=1)]),
    "ScavengeOdd": ("are not the heap's", [alloc(0), row(E.SCAVENGE, object=BASE + 1, size=1)]),
    "ScavengeNone": ("are not the heap's", [alloc(0), row(E.SCAVENGE, object=BASE, size=0)]),
    "ScavengeHuge": ("are not the heap's", [alloc(0), row(E.SCAVENGE, object=BASE + 8192, size=ALL_ONES)]),
    "ScavengeBackAlone": ("never taken out", [alloc(0), row(E.SCAVENGE, object=BASE, size=1, flags=1)]),
    "ScavengeBackMore": ("never taken out", [MANUAL, MANUAL_FREE, TAKEN, TAKEN | {"size": 3, "flags": 1}]),
    "ScavengeTwice": ("not all free", [MANUAL, MANUAL_FREE, TAKEN, TAKEN]),
    "StartLate": ("a row of the start heap comes after others", [alloc(0), START]),
    "StartDoneTwice": ("a row of the start heap comes after others", [START, *2 * [row(E.START_DONE)]]),
    "StartUnfinished": (r"the start heap is not complete \(START_DONE\)", [START, alloc(0)]),
    "StartOverlap": ("overlaps another one", [START, START]),
    "StartKind": ("no span of kind 4", [START | {"type": 4}]),
    "StartClass": ("of 1 pages and class 136", [START | {"flags": 136}]),
    "StartPages": ("of 2 pages and class 11", [START | {"size": 2}]),
    "StartOdd": ("cannot be", [START | {"expect": BASE + 8}]),
    "StartBelow": ("cannot be", [START | {"expect": 8192}]),
    "StartBeyond": ("cannot be", [START | {"expect": BASE + SPACE}]),
    "StartFar": ("cannot be", [START | {"expect": 1 << 63}]),
    "StartHuge": ("cannot be", [START | {"flags": 0, "size": ALL_ONES}]),
    "ObjectNowhere": ("in no slot of a span", [row(E.START_OBJECT, expect=BASE)]),
    "ObjectInManual": ("in no slot of a span", [START | {"type": 1}, row(E.START_OBJECT, object=1, expect=BASE)]),
    "ObjectBetween": ("in no slot of a span", [START, row(E.START_OBJECT, expect=BASE + 8)]),
    "ObjectInTail": ("in no slot of a span", [START, row(E.START_OBJECT, expect=BASE + 170 * 48)]),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_contradiction(name: str) -> None:
    """The row is named, it has changed nothing, and the heap goes on."""
    match, rows = BAD[name]
    rows = [P, *rows]
    kind = rows[-1]["kind"]
    known = Event(kind).name if kind in set(Event) else kind
    with player() as p:
        with pytest.raises(RecordingError, match=rf"^event {len(rows) - 1:,} \({known}\): .*{match}"):
            p.play(columns(*rows))
        p.heap.call(lib.pymem_heap_check)


@pytest.mark.parametrize(
    "rows",
    [[alloc(0, 200 << 20), alloc(1, 200 << 20)], [row(E.MANUAL_ALLOC, size=1 << 40, flags=1)],
     [row(E.MANUAL_ALLOC, size=ALL_ONES, flags=1)]],
    ids=["Objects", "Span", "Absurd"],
)  # fmt: skip
def test_address_space_used_up(rows: list[dict[str, int]]) -> None:
    with player() as p:
        with pytest.raises(MemoryError, match="address space"):
            p.play(columns(P, *rows))
        p.heap.call(lib.pymem_heap_check)


def test_no_processor() -> None:
    with pytest.raises(RecordingError, match="never starts a processor"):
        replay(Workload(columns=columns(row(E.TINY, proc=-1))))


# ---- rows of any kind ----


def replay_any(seed: int, wild: float, *, each: bool = False) -> None:
    """Run rows that may contradict each other, leaving out each one that is refused; the heap stays whole."""
    rows = replay_rows(seed, 300, wild=wild)
    source = Workload(
        columns=rows, tier="exact" if seed % 2 else "arrays", padding_pages=(0, 3, 600)[seed % 3]
    )
    with Player(source, follow=source.tier == "exact", address_space=SPACE) as p:
        start = 0
        while start < len(rows):
            stop = start + 1 if each else len(rows)
            before = sum(p.counts()["events"].values())
            try:
                p.play(rows[start:stop])
                start = stop
            except RecordingError as error:
                assert str(error).startswith("event ")
                start += sum(p.counts()["events"].values()) - before + 1
            except MemoryError:
                start += sum(p.counts()["events"].values()) - before + 1
            p.heap.call(lib.pymem_heap_check)
        read_mem_stats(p.heap, proc=lib.PYMEM_NO_PROC, flush=True)
        p.heap.call(lib.pymem_heap_check)


@settings(max_examples=60, deadline=None)
@given(seeds, st.sampled_from([0.0, 0.01, 0.1]))
def test_any_rows(seed: int, wild: float) -> None:
    replay_any(seed, wild)


class Rows:
    """Rows of a trace as the follower takes them."""

    strings = ("", "read mem stats")

    def __init__(self, rows: list[tuple[int, int, int, int, int]]) -> None:
        table = list(zip(*rows, strict=True))
        self.kind = np.array(table[0], np.uint8)
        self.p = np.array(table[1], np.int16)
        self.a, self.b = (np.array(column, np.uint64) for column in table[2:4])
        self.c = np.array(table[4], np.uint16)

    def __len__(self) -> int:
        return len(self.kind)


def follow(
    rows: list[tuple[int, int, int, int, int]], *, procs: int = 1, repair: bool = True, padding: int = 0
) -> int | None:
    """Follow a trace; returns the row that it breaks off at, None if it does not."""
    heap = Heap(arena_base=BASE, address_space=SPACE, padding_pages=padding)
    for _ in range(procs):
        heap.call(lib.pymem_proc_new, ffi.new("int32_t *"))
    with _Follower(heap, Rows(rows), repair=repair) as follower:  # type: ignore[arg-type]
        try:
            done = False
            while not done:
                done = follower.run(100)
                heap.call(lib.pymem_heap_check)
        except (RecordingError, MemoryError):
            heap.call(lib.pymem_heap_check)
            return int(lib.pymem_follow_row(follower._follow))
        counts = follower.counts()
        assert counts.matched <= counts.allocations
        assert counts.manual_matched <= counts.manual
    return None


def follow_any(seed: int, wild: float) -> list[tuple[int, int, int, int, int]]:
    """Follow a made-up trace, leaving out each row that is refused; returns what is left."""
    rows = trace_rows(seed, 300, wild=wild)
    for _ in range(100):
        bad = follow(rows, procs=1 + seed % 2, repair=seed % 3 > 0, padding=(0, 0, 3)[seed // 6 % 3])
        if bad is None or bad >= len(rows):
            break
        del rows[bad]
    return rows


@settings(max_examples=40, deadline=None)
@given(seeds, st.sampled_from([0.0, 0.01, 0.1]))
def test_any_trace(seed: int, wild: float) -> None:
    follow_any(seed, wild)


@pytest.mark.slow
def test_any_rows_long() -> None:
    """Thousands of each, without Hypothesis's book-keeping: for a build with the sanitizers."""
    for seed in range(4000):
        wild = (0.0, 0.01, 0.05, 0.3)[seed % 4]
        replay_any(seed, wild, each=seed % 50 == 0)
        follow_any(seed, wild)


K = pymem.trace.EventKind
SPAN_ROW = (K.SPAN, 0, BASE, 1, 11 << 1)
GO_ON = (K.STW_END, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("match", "rows"),
    [
        ("kind and class 546", [(K.SPAN_ALLOC, 0, BASE, 1, 273 << 1)]),
        ("kind and class 65535", [(K.SPAN_ALLOC, 0, BASE, 1, 65535)]),
        ("kind and class 3", [(K.SPAN_ALLOC, 0, BASE, 1, 3)]),
        ("of 0 pages", [(K.SPAN_ALLOC, 0, BASE, 0, 1)]),
        ("of 18446744073709551615 pages", [(K.SPAN_ALLOC, 0, BASE, ALL_ONES, 1)]),
        ("of 2 pages", [(K.SPAN_ALLOC, 0, BASE, 2, 11 << 1)]),
        ("at 0x2000 cannot be", [(K.SPAN_ALLOC, 0, 8192, 1, 1)]),
        ("at 0xc000000001 cannot be", [(K.SPAN_ALLOC, 0, BASE + 1, 1, 1)]),
        ("in no slot of its span", [SPAN_ROW, GO_ON, (K.OBJECT_ALLOC, 0, BASE + 8, 0, 0)]),
        ("in no slot of its span", [SPAN_ROW, GO_ON, (K.OBJECT_ALLOC, 0, BASE + 170 * 48, 0, 0)]),
        ("in no slot of its span", [(K.SPAN, 0, BASE, 1, 64 << 1), GO_ON, (K.OBJECT_ALLOC, 0, BASE, 0, 0)]),
        ("in no slot of a span", [SPAN_ROW, (K.OBJECT, 0, BASE + 8, 0, 0), GO_ON]),
        ("begins before the last one has ended", [GO_ON, *2 * [(K.GC_BEGIN, 0, 0, 0, 0)]]),
    ],
)  # fmt: skip
def test_damaged_trace(match: str, rows: list[tuple[int, int, int, int, int]]) -> None:
    heap = Heap(arena_base=BASE, address_space=SPACE)
    heap.call(lib.pymem_proc_new, ffi.new("int32_t *"))
    start = [] if GO_ON in rows else [GO_ON]
    with _Follower(heap, Rows([*start, *rows]), repair=True) as follower:  # type: ignore[arg-type]
        with pytest.raises(RecordingError, match=match):
            follower.run(100)
        heap.call(lib.pymem_heap_check)


@pytest.mark.parametrize(
    "rows",
    [
        [(K.SPAN_ALLOC, 0, BASE + 8192, 1, 13 << 1), *((K.OBJECT_ALLOC, 0, at, 0, 0) for at in (BASE + 8192, BASE))],
        [(K.OBJECT_ALLOC, 0, BASE + at * 48, 0, 0) for at in (0, 2, 3, 1, 4)],
    ],
    ids=["Span", "Slot"],
)  # fmt: skip
def test_late_events(rows: list[tuple[int, int, int, int, int]]) -> None:
    """A goroutine preempted after it took a span or a slot writes its event after others' events."""
    heap = Heap(arena_base=BASE, address_space=SPACE)
    heap.call(lib.pymem_proc_new, ffi.new("int32_t *"))
    first = (K.SPAN_ALLOC, 0, BASE, 1, 11 << 1)
    with _Follower(heap, Rows([GO_ON, first, *rows]), repair=False) as follower:  # type: ignore[arg-type]
        assert follower.run(100)
        assert (
            follower.counts().matched
            == follower.counts().allocations
            == len(rows) - ("SPAN" in K(rows[0][0]).name)
        )
        heap.call(lib.pymem_heap_check)


def test_frees_of_nothing() -> None:
    """A trace may free what was there before it began; that is no damage."""
    frees = [(K.OBJECT_FREE, 0, at, 0, 0) for at in (0, BASE, BASE + SPACE, ALL_ONES)]
    frees += [(K.SPAN_FREE, 0, at, 0, 0) for at in (0, BASE, BASE + SPACE, ALL_ONES)]
    assert follow([GO_ON, *frees]) is None


# ---- without memory ----


def outcome(p: Player) -> tuple[list[int], Any]:
    return addresses(p, 300), p.mem_stats()


def fault_points(run: Callable[[int], bool]) -> Iterator[int]:
    """Make the first allocation fail, then the second, until all has gone well."""
    n = 0
    while not run(n):
        n += 1
        yield n


def test_faults_in_replay() -> None:
    """Whichever allocation fails, the heap is whole, and going on from that row comes to the same."""
    rows = replay_rows(12, 300, wild=0.0)
    keep = []
    with player(tier="exact") as p:
        for i in range(len(rows)):
            try:
                p.play(rows[i : i + 1])
                keep.append(i)
            except RecordingError:
                pass
        want = outcome(p)
    good = Columns(**{name: getattr(rows, name)[keep] for name in ("time", "goroutine", *NAMES)})

    def run(n: int) -> bool:
        with player(tier="exact") as p:
            lib.pymem_fault_after(p.heap.handle, n)
            whole, start = True, 0
            while start < len(good):
                before = sum(p.counts()["events"].values())
                try:
                    p.play(good[start:])
                    start = len(good)
                except MemoryError:
                    whole = False
                    lib.pymem_fault_after(p.heap.handle, -1)
                    start += sum(p.counts()["events"].values()) - before
                p.heap.call(lib.pymem_heap_check)
            lib.pymem_fault_after(p.heap.handle, -1)
            assert outcome(p) == want
        return whole

    assert len(list(fault_points(run))) > 20


@pytest.mark.parametrize("seed", [2, 7, 8, 13])
def test_faults_in_follower(seed: int) -> None:
    """Its own tables, the start heap, repairs: the error is MemoryError and the heap is whole."""
    rows = follow_any(seed, 0.0)

    def run(n: int) -> bool:
        c = Core(address_space=SPACE)
        for _ in range(1 + seed % 2):
            c.proc_new()
        c.fault_after(n)
        try:
            with _Follower(c.heap, Rows(rows), repair=True) as follower:  # type: ignore[arg-type]
                while True:
                    try:
                        if follower.run(1000):
                            break
                    except RecordingError:
                        break
                    finally:
                        c.check()
        except MemoryError:
            return False
        return True

    assert len(list(fault_points(run))) > 20


@pytest.mark.parametrize(("flags", "more"), [(1, 48), (2, -48)], ids=["Set", "Revives"])
def test_finalizer(flags: int, more: int) -> None:
    """A mark counts an object with a finalizer once more; one that only its finalizer keeps it does not count."""
    rows = [alloc(0, 48), alloc(1, 48), row(E.FINALIZER, size=48, flags=flags), *CYCLE]
    with Player(Workload(columns=columns(P, *rows))) as player:
        player.play(columns(P, *rows))
        assert player.mem_stats().heap_live == 96 + more
        assert player.cycles()[0].marked == 96


# ---- a player's life ----

PLAYER_CALLS: dict[str, Callable[[Player], object]] = {
    "play": lambda player: player.play(columns(P)),
    "counts": Player.counts,
    "misses": Player.misses,
    "cycles": Player.cycles,
    "mem_stats": Player.mem_stats,
}


@pytest.mark.parametrize("name", PLAYER_CALLS)
def test_closed_player(name: str) -> None:
    player = Player(Workload(columns(P)), follow=False)
    player.play(columns(P))
    player.close()
    player.close()
    with pytest.raises(pymem.ClosedError, match="closed"):
        PLAYER_CALLS[name](player)


def test_dropped_player(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to close a player for its replay to be freed."""
    freed: list[Any] = []
    module = importlib.import_module("pymem.replay")
    free = module._free

    def counted(replay: Any, *, heap: Any) -> None:
        freed.append(1)
        free(replay, heap=heap)

    monkeypatch.setattr(module, "_free", counted)
    for _ in range(5):
        Player(Workload(columns(P)), follow=False)
    gc.collect()
    assert len(freed) == 5
