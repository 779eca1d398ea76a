"""Every allocation inside the core fails once, wherever it happens.

The error is MemoryError, the heap stays whole, and work goes on afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from core import NO_PROC, Core
from strategies import many_sizes

import pymem
from pymem import inspect
from pymem._native import ffi, lib
from pymem.trace import _DTYPES, EventBatch, TraceReader
from pymem.workload.columns import Columns
from pymem.workload.trace_stream import KINDS, _Converter, _Events

Scenario = Callable[[Core], None]
_MOST_FAULTS = 2000
TRACE = Path(__file__).parent / "data" / "go127_second.trace"
LRU = Path(__file__).parents[1] / "examples" / "lru.trace"


def boot(c: Core) -> None:
    """Before there is a processor."""
    c.malloc(NO_PROC, 100)
    c.stack_alloc(NO_PROC, 4096)
    c.proc_new()


def procs(c: Core) -> None:
    """More than the first table of processors holds."""
    for _ in range(20):
        c.proc_new()


def kinds(c: Core) -> None:
    """One object of each kind, with its side tables."""
    c.proc_new()
    for size, noscan in [(8, True), (8, True), (16, False), (600, False), (32768, True), (90000, False)]:
        c.malloc(0, size, noscan)
        c.malloc(0, size, noscan, 5)


def same(c: Core) -> None:
    c.proc_new()
    c.malloc_same(0, 48, False, 3, 5000)


def each(c: Core) -> None:
    c.proc_new()
    c.malloc_each(0, many_sizes(2000, 1), [i % 3 > 0 for i in range(2000)], [i % 2 for i in range(2000)])


def growth(c: Core) -> None:
    """Page tables of several arenas, longer bitmaps and summaries."""
    c.proc_new()
    for _ in range(12):
        c.malloc(0, 30 << 20)


def stacks(c: Core) -> None:
    c.proc_new()
    lent = [(c.stack_alloc(0, size), size) for size in (2048, 4096, 32768, 65536) * 20]
    for addr, size in lent:
        c.stack_free(0, addr, size)


def collection(c: Core) -> None:
    """Dead bits, and slot bitmaps for everything that is swept."""
    c.proc_new()
    c.proc_new()
    addrs = [a for size in range(8, 2000, 8) for a in c.malloc_same(0, size, False, 0, 30)]
    addrs += c.malloc_same(1, 7, True, 0, 3000)
    c.gc_collect(0, addrs[::2])
    c.gc_collect(1, addrs[1::2])


def unswept(c: Core) -> None:
    """Sweeping on an allocation's way, in turn, out of turn, and when a stale cache is flushed."""
    c.proc_new()
    c.proc_new()
    for cycle in range(3):
        addrs = [a for size in range(8, 1500, 16) for a in c.malloc_same(cycle % 2, size, True, 0, 20)]
        c.malloc_same(1, 64, False, 0, 3000)
        c.mark_dead(addrs[::3])
        c.gc_begin(0)
        c.gc_mark_and_flip()
        c.gc_end(0)
        c.pace_sweeper(0)
        c.malloc_same(0, 64, False, 0, 500)
        c.sweep_one(0)
        c.malloc(0, 100000)
        c.proc_destroy(1)
        c.proc_new()
    c.sweep_all(0)
    c.stats(0, flush=True)


def scavenged(c: Core) -> None:
    """Heap growth that gives back on its way, and a heap that was scavenged."""
    c.proc_new()
    c.scavenge_goals(0, 1)
    held = [c.manual_alloc(0, npages) for npages in (3, 700, 40, 9000, 1, 600)]
    for addr in held[::2]:
        c.manual_free(0, addr)
    c.malloc_same(0, 64, False, 0, 500)
    c.scavenge_all()
    c.malloc(0, 80 << 20)


def graph(c: Core) -> None:
    """Object memory, types, roots, the queues of a mark, its check; and a collection by graph."""
    c.proc_new()
    c.type_add(1, 16, (0, 1))
    c.type_add(200, 4096, (0, 100))
    addrs = [
        c.malloc(0, size, False, type_) for size, type_ in [(16, 1), (16, 1), (4096, 200), (500_000, 200)]
    ]
    roots = c.roots_new(addrs[:1])
    for _ in range(20):
        c.roots_new([0], stack=True)
    c.store([addrs[0], addrs[2]], [0, 0], [addrs[2], addrs[3]])
    c.roots_resize(roots, 100)
    c.gc_graph()
    c.malloc_same(0, 16, False, 1, 1000)
    assert sorted(c.load([addrs[0], addrs[2]], [0, 0])) == sorted(addrs[2:])


def compacted(c: Core) -> None:
    """Objects of each kind moved out of sparse spans, with their side tables, and a pointer to one of them."""
    c.proc_new()
    c.type_add(1, 32, (0,))
    kept, dead = [], []
    for size, noscan in [(32, False), (5, True), (16, True), (1024, False), (9000, True)]:
        addrs = c.malloc_same(0, size, noscan, 1, 3 * 512)
        kept += addrs[::17]
        dead += sorted({*addrs} - {*addrs[::17], *([] if size == 5 else addrs[8:16])})
    c.malloc_same(0, 32, False, 0, 300)
    c.roots_new(kept[:1])
    c.gc_collect(0, dead)
    c.mark_dead(kept[100:110])
    done, moves = c.compact(0)
    assert done.spans_freed > 10
    assert len(moves) > 100


SCENARIOS = [graph, compacted, boot, procs, kinds, same, each, growth, stacks, collection, unswept, scavenged]


def faults(scenario: Scenario) -> Iterator[Core]:
    """Run a scenario with its first allocation failing, its second, and so on until none does."""
    for n in range(_MOST_FAULTS):
        c = Core(padding_pages=3)
        c.fault_after(n)
        failed = False
        try:
            scenario(c)
        except MemoryError:
            failed = True
        yield c
        if not failed:
            assert n > 0, "the scenario allocates nothing: it proves nothing"
            return
    pytest.fail(f"still failing after {_MOST_FAULTS} allocations")


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.__name__)
def test_whole_after_fault(scenario: Scenario) -> None:
    for c in faults(scenario):
        c.check()
        c.fault_after(-1)
        proc = c.proc_new()
        finish_cycle(c)
        c.gc_collect(proc, [])  # those that the scenario declared dead
        addrs = c.malloc_same(proc, 64, False, 1, 1000) + c.malloc_same(proc, 5, True, 0, 100)
        c.check()
        # Three objects of 5 bytes share a block, and the last block has one and takes others: it stays for a cycle.
        assert c.gc_collect(proc, addrs)[2] == 1000 + 33
        assert c.gc_collect(proc, [])[2] == 1
        c.check()
        c.close()


def finish_cycle(c: Core) -> None:
    """End the cycle that a fault has cut short, if one has begun."""
    with suppress(pymem.PymemError):
        c.mark_drain()
        c.mark_end()
    with suppress(pymem.PymemError):
        c.gc_mark_and_flip()


def test_birth() -> None:
    for n in (1, 2):
        with pytest.raises(MemoryError):
            Core(birth_fault=n)
    Core(birth_fault=3).check()


def test_collection_is_atomic() -> None:
    """A collection that runs out of memory has freed nothing and turned nothing."""
    n, failed = 0, True
    while failed:
        c = Core()
        c.proc_new()
        addrs = c.malloc_same(0, 7, True, 0, 4000) + [
            a for size in range(16, 3000, 150) for a in c.malloc_same(0, size, True, 0, 60)
        ]
        before = c.spans().tolist()
        c.fault_after(n)
        try:
            c.gc_collect(0, addrs)
            failed = False
        except MemoryError:
            assert c.spans().tolist() == before
            assert all(c.object_at(a).address == a for a in addrs[::17])
            assert c.stats().num_gc == 0
        c.fault_after(-1)
        if failed:
            c.gc_collect(0, addrs)
        assert c.stats().heap_objects == 1  # a tiny block that took others when the mark began
        c.gc_collect(0, [])
        assert c.stats().heap_objects == 0
        c.check()
        c.close()
        n += 1
    assert n > 3


def test_batch_says_how_far() -> None:
    with pymem.Runtime(address_space=64 << 20) as rt:
        out = np.zeros(100_000, np.uint64)
        with pytest.raises(MemoryError, match=r"\(\d+ of 100000 objects were made and stay\)"):
            rt.malloc_batch(1024, len(out), out=out)
        made = out[out > 0]
        assert 0 < len(made) < len(out)
        assert rt.read_mem_stats().heap_objects == len(made)
        rt.gc(dead=made)
        rt.malloc(1024)
        rt.check()


def test_runtime_unharmed() -> None:
    """Changing gomaxprocs and starting a goroutine take several calls: a fault takes back the first ones."""
    n, failed = 0, True
    while failed:
        rt = pymem.Runtime(cache="goroutine")
        lib.pymem_fault_after(rt._heap.handle, n)
        failed = False
        try:
            rt.gomaxprocs(12)
        except MemoryError:
            failed = True
            assert rt.gomaxprocs() == 1
        try:
            rt.go()
        except MemoryError:
            failed = True
            assert rt.goroutines == []
        rt.check()
        lib.pymem_fault_after(rt._heap.handle, -1)
        assert rt.read_mem_stats().mcache_inuse == 2296 * (rt.gomaxprocs() + len(rt.goroutines))
        n += 1
    assert n > 10


def replay_columns(n: int) -> Any:
    kind = np.full(n + 1, lib.PYMEM_EV_ALLOC, np.uint8)
    kind[0] = lib.PYMEM_EV_PROC_NEW
    proc = np.zeros(n + 1, np.int16)
    proc[0] = -1
    arrays = {
        "kind": kind,
        "flags": np.zeros(n + 1, np.uint8),
        "proc": proc,
        "type": np.ones(n + 1, np.uint32),
        "object": np.arange(n + 1, dtype=np.uint64),
        "size": np.full(n + 1, 24, np.uint64),
    }
    c_types = {"kind": "uint8_t[]", "flags": "uint8_t[]", "proc": "int16_t[]", "type": "uint32_t[]"}
    columns = ffi.new("pymem_columns *")
    keep = [ffi.from_buffer(c_types.get(name, "uint64_t[]"), array) for name, array in arrays.items()]
    for name, pointer in zip(arrays, keep, strict=True):
        setattr(columns, name, pointer)
    columns.expect = ffi.NULL
    columns.n = n + 1
    return columns, keep


def test_replay() -> None:
    """The replay's own tables; after a fault it goes on from the row at which it stopped."""
    columns, _keep = replay_columns(5000)
    n, failed = 0, True
    while failed:
        c = Core()
        c.fault_after(n)
        failed = not _replay(c, columns)
        n += 1
    assert n > 5


def _replay(c: Core, columns: Any) -> bool:
    """Return whether the replay went through without a fault."""
    out, row, stopped = ffi.new("pymem_replay **"), ffi.new("uint64_t *"), ffi.new("int *")
    try:
        c.heap.call(lib.pymem_replay_new, lib.PYMEM_REPLAY_TURNS, 1, out)
    except MemoryError:
        return False
    replay = out[0]
    try:
        status = lib.pymem_replay_run(replay, columns, row, stopped)
        good = bool(status == lib.PYMEM_OK)
        c.check()
        c.fault_after(-1)
        if not good:
            assert status == lib.PYMEM_ENOMEM
            assert lib.pymem_replay_run(replay, columns, row, stopped) == lib.PYMEM_OK
        assert row[0] == columns.n
        c.check()
        assert len(inspect.spans(c.heap)) > 10
    finally:
        lib.pymem_replay_free(replay)
    return good


def _read(data: bytes, faults: Any) -> int:
    """Read a trace to its end or first error, close it, and return the status."""
    out, columns, count, done = (
        ffi.new(t) for t in ("trace_reader **", "trace_columns *", "int64_t *", "int *")
    )
    arrays = {name: np.empty(1000, dtype) for name, dtype in _DTYPES.items()}
    for name, array in arrays.items():
        setattr(columns, name, ffi.cast("void *", array.ctypes.data))
    status = lib.trace_open(data, len(data), (1 << 64) - 1, faults, out)
    while not status and not done[0]:
        status = lib.trace_next(out[0], columns, 1000, count, done)
    if status and out[0]:
        assert lib.trace_next(out[0], columns, 1000, count, done) == status, "an error that stays"
    lib.trace_close(out[0])
    return int(status)


def test_trace_reader() -> None:
    data, n = TRACE.read_bytes(), 0
    while (status := _read(data, ffi.new("int64_t *", n))) != lib.PYMEM_OK:
        assert status == lib.PYMEM_ENOMEM
        n += 1
    assert n > 20


def _convert(batch: EventBatch, counter: int) -> tuple[list[Columns], bool]:
    """Return the rows of a trace, each call that fails made again, and whether one did."""
    faults, failed = ffi.new("int64_t *", counter), False
    rows: list[Columns] = []
    events, stop = _Events(batch), lib.TRACE_ROWS_FULL
    with _Converter(2, 0, 1 << 15, faults) as converter:
        while stop != lib.TRACE_ROWS_USED:
            try:
                if stop == lib.TRACE_ROWS_CYCLE:
                    ahead = _Events(batch, events.at[0])
                    while not converter.dead(ahead):
                        rows += converter.take()
                    converter.cycle(100)
                    stop = lib.TRACE_ROWS_FULL
                stop = converter.run(events)
            except MemoryError:
                failed, faults[0] = True, -1
                continue
            rows += converter.take()
            if stop == lib.TRACE_ROWS_START:
                converter.start(False)
    return rows, failed


def test_trace_rows() -> None:
    """An event that ran out of memory is tried again, and the rows are the same."""
    with TraceReader(LRU, kinds=KINDS) as reader:
        batch = next(reader.batches(1 << 20))
    want, _ = _convert(batch, -1)
    assert sum(map(len, want)) > 100_000
    with pytest.raises(MemoryError):
        _Converter(1, 0, 1 << 10, ffi.new("int64_t *", 0))
    n, failed = 1, True
    while failed:
        got, failed = _convert(batch, n)
        for name in Columns.__slots__:
            np.testing.assert_array_equal(
                np.concatenate([getattr(c, name) for c in want]),
                np.concatenate([getattr(c, name) for c in got]),
            )
        n += 1
    assert n > 10
