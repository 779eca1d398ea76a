"""The core's part of a snapshot: a heap as bytes, amid a mark too; what is damaged is refused."""

from __future__ import annotations

import random
import zlib
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from core import NO_PROC, Core, restored
from hypothesis import given, settings
from snapshot_programs import start
from strategies import seeds

import pymem
from pymem._arrays import pointer
from pymem._native import ffi, lib


def marking_core(seed: int) -> Core:
    """A heap of many kinds of objects, with a mark of the graph half done."""
    rng = random.Random(seed)
    c = Core(padding_pages=2, address_space=1 << 32)
    c.proc_new()
    c.proc_new()
    mask = np.array([0b101], np.uint64)
    for id_, size in ((1, 24), (2, 64), (3, 8)):
        c.heap.call(lib.pymem_type_add, id_, size, 8 if size == 8 else 24, pointer("uint64_t", mask), 1)
    addrs = [
        a
        for size in (8, 24, 24, 64, 200, 640, 3000)
        for a in c.malloc_same(0, size, False, rng.randrange(4), 60)
    ]
    addrs += c.malloc_same(1, 300_000, False, 2, 2) + c.malloc_same(1, 7, True, 0, 50)
    words = [a for a in addrs if a % 8 == 0]
    n = 3000
    src = np.array([rng.choice(words[:-50]) for _ in range(n)], np.uint64)
    to = np.array([rng.choice(addrs) for _ in range(n)], np.uint64)
    done, out = ffi.new("uint64_t *"), ffi.new("uint32_t *")
    columns = [pointer("uint64_t", a) for a in (src, np.zeros(n, np.uint64), to)]
    c.heap.call(lib.pymem_store_batch, *columns, n, done)
    for kind in range(2):
        roots = np.array(rng.sample(addrs, 40), np.uint64)
        c.heap.call(lib.pymem_roots_new, kind, out)
        c.heap.call(lib.pymem_roots_resize, out[0], 40)
        c.heap.call(lib.pymem_roots_set, out[0], 0, pointer("uint64_t", roots), 40)
    lent = [(c.stack_alloc(0, size), size) for size in (2048, 4096, 32768)]
    c.stack_free(0, *lent[0])
    c.gc_begin(0)
    c.heap.call(lib.pymem_mark_start_graph, False)
    drain(c, rng.randrange(6000))
    return c


def drain(c: Core, budget: int) -> tuple[int, ...]:
    out = ffi.new("pymem_mark_progress *")
    c.heap.call(lib.pymem_mark_drain, budget, out)
    return out.heap_scan, out.stack_scan, out.globals_scan, out.objects, out.idle


def finish(c: Core) -> list[Any]:
    """End the mark in small steps, and do what comes after."""
    seen: list[Any] = [drain(c, 300) for _ in range(200)]
    seen.append(drain(c, 1 << 60))
    c.heap.call(lib.pymem_mark_stop)
    c.heap.call(lib.pymem_gc_flip)
    c.gc_end(0)
    seen.append(c.sweep_all(0))
    seen.append(c.malloc_same(0, 24, False, 1, 500) + c.malloc_same(1, 5, True, 0, 90))
    stats = c.stats(0, flush=True)
    seen += [stats.heap_objects, stats.heap_inuse, stats.gc_sys, stats.other_sys, stats.heap_released]
    seen.append(c.spans().tolist())
    return seen


@settings(max_examples=30, deadline=None)
@given(seed=seeds)
def test_mark_under_way(seed: int) -> None:
    """Queues, bits and counts of a mark are those of the original, to the order of work."""
    c = marking_core(seed)
    data = c.heap.snapshot()
    copy = restored(data)
    assert copy.heap.snapshot() == data
    assert finish(copy) == finish(c)
    assert copy.heap.snapshot() == c.heap.snapshot()


def test_long_queues() -> None:
    """More pages and objects wait than the first buffers hold."""
    copies = []
    for fork_at in (-1, 3):
        c = Core(address_space=1 << 34)
        c.proc_new()
        c.proc_new()
        addrs = np.array(
            c.malloc_same(0, 512, False, 0, 60_000) + c.malloc_same(0, 1024, False, 0, 3000), np.uint64
        )
        np.random.default_rng(1).shuffle(addrs)
        table = c.malloc_same(0, 8 * len(addrs), False, 0, 1)[0]
        done, out = ffi.new("uint64_t *"), ffi.new("uint32_t *")
        columns = [np.full(len(addrs), table, np.uint64), np.arange(len(addrs), dtype=np.uint64) * 8, addrs]
        c.heap.call(lib.pymem_store_batch, *[pointer("uint64_t", a) for a in columns], len(addrs), done)
        c.heap.call(lib.pymem_roots_new, 0, out)
        c.heap.call(lib.pymem_roots_resize, out[0], 1)
        c.heap.call(lib.pymem_roots_set, out[0], 0, pointer("uint64_t", columns[0]), 1)
        c.gc_begin(0)
        c.heap.call(lib.pymem_mark_start_graph, False)
        seen: list[Any] = []
        for step in range(60):
            if step == fork_at:
                c = restored(c.heap.snapshot())
            seen.append(drain(c, 200_000))
        copies.append((seen, finish(c)))
    assert copies[0] == copies[1]


def test_faults() -> None:
    """Each allocation of taking and of restoring fails once; nothing is left behind, and the heap is as it was."""
    c = marking_core(7)
    data = c.heap.snapshot()
    n, failed = 0, True
    while failed:
        try:
            restored(data, n).check()
            failed = False
        except MemoryError:
            n += 1
    assert n > 20
    held = c.metadata_bytes()
    for fault in range(2):
        c.fault_after(fault)
        with pytest.raises(MemoryError):
            c.heap.snapshot()
        c.fault_after(-1)
        assert c.metadata_bytes() == held
    assert c.heap.snapshot() == data


def use(c: Core) -> None:
    """Do what reaches far into a heap; errors are its own affair."""
    for step in (
        lambda: drain(c, 1 << 40),
        lambda: c.heap.call(lib.pymem_mark_stop),
        lambda: c.heap.call(lib.pymem_gc_flip),
        lambda: c.gc_end(0),
        lambda: c.sweep_one(0),
        lambda: c.malloc_same(0, 24, False, 1, 3000),
        lambda: c.malloc_each(1, [5, 700, 40000, 9, 9, 16] * 50, [i % 2 > 0 for i in range(300)], [1] * 300),
        lambda: [c.stack_alloc(0, 2048 << k % 6) for k in range(60)],
        lambda: c.sweep_all(0),
        lambda: c.gc_collect(0, []),
        lambda: c.malloc_same(1, 640, False, 2, 3000),
        c.scavenge_all,
        lambda: c.proc_destroy(1),
        lambda: c.stats(0, flush=True),
        c.spans,
        c.pages,
        c.heap.snapshot,
    ):
        try:
            step()
        except (pymem.PymemError, MemoryError):
            continue


def mutated(data: bytes, rng: random.Random) -> bytes:
    raw = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        at = rng.randrange(len(raw))
        match rng.randrange(4):
            case 0:
                raw[at] ^= 1 << rng.randrange(8)
            case 1:
                raw[at] = rng.choice([0, 1, 2, 0x7F, 0x80, 0xFF])
            case 2:
                del raw[at : at + rng.choice([1, 1, 8, 200])]
            case _:
                raw[at:at] = raw[at - 8 : at] if rng.random() < 0.5 else b"\0"
    return bytes(raw)


@pytest.mark.parametrize("kind", ["plain", "graph"])
def test_damaged_heap(kind: str) -> None:
    """Whatever the bytes are: refused with a sentence, or a heap that is whole and can be used."""
    if kind == "graph":
        data = marking_core(3).heap.snapshot()
    else:
        program = start(8, gomaxprocs=2)
        program.run(4)
        data = program.rt._heap.snapshot()
    rng, whole, refused = random.Random(kind), 0, 0
    for _ in range(1500):
        try:
            c = restored(mutated(data, rng))
        except (pymem.RecordingError, MemoryError) as error:  # it may ask for any amount of address space
            assert str(error)
            refused += 1
            continue
        whole += 1
        use(c)
        c.close()
    assert refused > 500
    assert whole > 10


def test_current_tiny_block_amid_a_sweep() -> None:
    """A block that objects still join lies in a span that is swept, whatever the bytes say of the cycle."""
    c = Core(address_space=1 << 32)
    c.proc_new()
    dead = [*c.malloc_same(0, 14, True, 0, 503), c.malloc(0, 4, True)]  # the last slot has room
    c.malloc_same(0, 15, True, 0, 3)  # these open blocks of another span, and leave the current one alone
    c.mark_dead(dead)
    c.gc_begin(0)
    c.gc_mark_and_flip()
    c.gc_end(0)
    data = c.heap.snapshot()
    word = (1 << 55).to_bytes(8, "little")  # the marks of the last 64 slots: it is the current block's
    at = data.index(word)
    doctored = data[:at] + bytes(8) + data[at + 8 :]
    refused = 0
    for byte in (i for i, b in enumerate(doctored) if not b):
        for value in (1, 2):
            raw = doctored[:byte] + bytes([value]) + doctored[byte + 1 :]
            try:
                copy = restored(raw)
            except (pymem.RecordingError, MemoryError):
                refused += 1
                continue
            with suppress(pymem.PymemError, MemoryError):
                copy.gc_collect(0, [])
            with suppress(pymem.PymemError, MemoryError):
                copy.malloc(0, 4, True)
            copy.close()
    assert refused > 500


def test_damaged_heap_is_shut() -> None:
    """Of one that was refused nothing can be had but its sentence and its end."""
    data = marking_core(3).heap.snapshot()
    out, need = ffi.new("pymem_heap **"), ffi.new("uint64_t *")
    assert lib.pymem_restore(data[:-1], len(data) - 1, -1, out) == lib.PYMEM_EFORMAT
    assert lib.pymem_snapshot(out[0], ffi.NULL, 0, need) == lib.PYMEM_EBUSY
    assert b"the heap: " in ffi.string(lib.pymem_heap_message(out[0]))
    lib.pymem_heap_free(out[0])


def test_empty_heap() -> None:
    c = Core()
    copy = restored(c.heap.snapshot())
    for heap in (c, copy):
        heap.malloc(NO_PROC, 100)
        heap.proc_new()
        heap.malloc(0, 100)
    assert copy.heap.snapshot() == c.heap.snapshot()
    assert zlib.crc32(c.heap.snapshot()) == zlib.crc32(copy.heap.snapshot())
