"""The core's calls under their own names, for tests that need more than the façade: procs, sweeps, faults."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pymem import inspect
from pymem._arrays import UInt64s, pointer
from pymem._heap import Heap
from pymem._native import ffi, lib

NO_PROC: int = lib.PYMEM_NO_PROC
BASE = 0xC000000000
PAGE = 8192
WORKBUF: int = lib.PYMEM_SPAN_WORKBUF
OTHER: int = lib.PYMEM_SPAN_OTHER


class Core:
    """A heap of the core."""

    def __init__(
        self,
        *,
        padding_pages: int = 0,
        address_space: int = 1 << 40,
        birth_fault: int = 0,
        scan_sparse: bool = False,
    ) -> None:
        self.heap = Heap(
            arena_base=BASE,
            address_space=address_space,
            padding_pages=padding_pages,
            birth_fault=birth_fault,
            scan_sparse=scan_sparse,
        )

    def _number(self, function: Any, *args: Any, kind: str = "uint64_t *") -> int:
        out = ffi.new(kind)
        self.heap.call(function, *args, out)
        return int(out[0])

    def close(self) -> None:
        self.heap.close()

    def check(self) -> None:
        self.heap.call(lib.pymem_heap_check)

    def fault_after(self, n: int) -> None:
        lib.pymem_fault_after(self.heap.handle, n)

    def metadata_bytes(self) -> int:
        return int(lib.pymem_metadata_bytes(self.heap.handle))

    # ---- processors ----

    def proc_new(self) -> int:
        return self._number(lib.pymem_proc_new, kind="int32_t *")

    def proc_destroy(self, proc: int) -> None:
        self.heap.call(lib.pymem_proc_destroy, proc)

    def flush(self, proc: int) -> None:
        self.heap.call(lib.pymem_flush, proc)

    def page_cache_flush(self, proc: int) -> None:
        self.heap.call(lib.pymem_page_cache_flush, proc)

    # ---- objects ----

    def malloc(self, proc: int, size: int, noscan: bool = False, type_: int = 0) -> int:
        return self._number(lib.pymem_malloc, proc, size, noscan, type_)

    def malloc_same(self, proc: int, size: int, noscan: bool, type_: int, n: int) -> list[int]:
        addrs = np.zeros(n, np.uint64)
        self._number(lib.pymem_malloc_same, proc, size, noscan, type_, n, pointer("uint64_t", addrs))
        return [int(a) for a in addrs]

    def malloc_each(
        self, proc: int, sizes: Sequence[int], noscan: Sequence[bool], types: Sequence[int]
    ) -> list[int]:
        addrs, n = np.zeros(len(sizes), np.uint64), len(sizes)
        columns = (
            pointer("uint64_t", np.array(sizes, np.uint64)),
            pointer("uint8_t", np.array(noscan, np.uint8)),
            0,
            pointer("uint32_t", np.array(types, np.uint32)),
        )
        self._number(lib.pymem_malloc_each, proc, *columns, n, pointer("uint64_t", addrs))
        return [int(a) for a in addrs]

    def mark_dead(self, addrs: Sequence[int]) -> None:
        self._number(lib.pymem_mark_dead, *self._column(addrs))

    @staticmethod
    def _column(addrs: Sequence[int]) -> tuple[Any, int]:
        column: UInt64s = np.array(addrs, np.uint64)
        return pointer("uint64_t", column), len(column)

    # ---- stacks and manual spans ----

    def stack_alloc(self, proc: int, size: int, cached: bool = True) -> int:
        return self._number(lib.pymem_stack_alloc, proc, size, cached)

    def stack_free(self, proc: int, addr: int, size: int, cached: bool = True) -> None:
        self.heap.call(lib.pymem_stack_free, proc, addr, size, cached)

    def manual_alloc(self, proc: int, npages: int, kind: int = WORKBUF) -> int:
        return self._number(lib.pymem_manual_alloc, proc, npages, kind)

    def manual_free(self, proc: int, addr: int) -> None:
        self.heap.call(lib.pymem_manual_free, proc, addr)

    # ---- collections ----

    def gc_collect(self, proc: int, dead: Sequence[int]) -> tuple[int, ...]:
        out, done = ffi.new("pymem_gc_result *"), ffi.new("uint64_t *")
        self.heap.call(lib.pymem_gc_collect, proc, *self._column(dead), done, out)
        return (
            out.cycle,
            out.marked_bytes,
            out.freed_objects,
            out.freed_bytes,
            out.swept_spans,
            out.freed_pages,
        )

    def gc_begin(self, proc: int) -> None:
        self.heap.call(lib.pymem_gc_begin, proc)

    def gc_mark_and_flip(self) -> None:
        self.heap.call(lib.pymem_mark_start, False)
        self.heap.call(lib.pymem_mark_stop)
        self.heap.call(lib.pymem_gc_flip)

    def gc_end(self, proc: int, forced: bool = True) -> None:
        self.heap.call(lib.pymem_gc_end, proc, forced)

    def sweep_one(self, proc: int) -> int:
        return self._number(lib.pymem_sweep_one, proc)

    def sweep_span(self, proc: int, base: int) -> None:
        self.heap.call(lib.pymem_sweep_span, proc, base)

    def sweep_all(self, proc: int) -> int:
        return self._number(lib.pymem_sweep_all, proc)

    def pace_sweeper(self, trigger: int) -> None:
        self.heap.call(lib.pymem_pace_sweeper, trigger)

    def next_gen(self) -> None:
        """Turn an empty cycle, with nothing allocated on the way."""
        self.gc_begin(NO_PROC)
        self.gc_mark_and_flip()
        self.gc_end(NO_PROC)
        self.sweep_all(NO_PROC)

    # ---- the scavenger ----

    def scavenge(self, size: int, *, force: bool = False) -> int:
        return self._number(lib.pymem_scavenge, size, force)

    def scavenge_all(self) -> int:
        return self.scavenge((1 << 64) - 1, force=True)

    def scavenge_goals(self, gc_percent_goal: int, memory_limit: int) -> None:
        self.heap.call(lib.pymem_set_scavenge_goals, gc_percent_goal, memory_limit)

    def pace_info(self) -> Any:
        out = ffi.new("pymem_pace_info *")
        self.heap.call(lib.pymem_read_pace, out)
        return out

    def scavenge_chunks(self) -> list[tuple[int, int, int, bool]]:
        """Return in_use, last_in_use, generation and has_free of every chunk."""
        out, n = ffi.new("pymem_scavenge_chunk[4096]"), ffi.new("uint64_t *")
        self.heap.call(lib.pymem_scavenge_chunks, 0, out, 4096, n)
        return [(x.in_use, x.last_in_use, x.generation, bool(x.has_free)) for x in out[0 : n[0]]]

    # ---- the graph ----

    def type_add(self, type_: int, size: int, pointers: Sequence[int]) -> None:
        """Make a type of so many bytes whose words of these numbers hold pointers; objects have bytes from then on."""
        self.heap.call(lib.pymem_memory_on)
        ptrdata = 8 * (max(pointers) + 1) if pointers else 0
        mask = np.zeros(ptrdata // 512 + 1, np.uint64)
        for word in pointers:
            mask[word // 64] |= np.uint64(1 << word % 64)
        self.heap.call(lib.pymem_type_add, type_, size, ptrdata, pointer("uint64_t", mask), len(mask))

    def roots_new(self, addrs: Sequence[int], *, stack: bool = False) -> int:
        roots = self._number(lib.pymem_roots_new, stack, kind="uint32_t *")
        self.roots_resize(roots, len(addrs))
        self.roots_set(roots, 0, addrs)
        return roots

    def roots_resize(self, roots: int, n: int) -> None:
        self.heap.call(lib.pymem_roots_resize, roots, n)

    def roots_set(self, roots: int, first: int, addrs: Sequence[int]) -> None:
        self.heap.call(lib.pymem_roots_set, roots, first, *self._column(addrs))

    def roots_get(self, roots: int, first: int, n: int) -> list[int]:
        out = np.zeros(n, np.uint64)
        self.heap.call(lib.pymem_roots_get, roots, first, pointer("uint64_t", out), n)
        return [int(a) for a in out]

    def roots_free(self, roots: int) -> None:
        self.heap.call(lib.pymem_roots_free, roots)

    def store(self, objects: Sequence[int], offsets: Sequence[int], targets: Sequence[int]) -> int:
        """Return how many were stored; raise if not all."""
        columns = [self._column(c)[0] for c in (objects, offsets, targets)]
        return self._number(lib.pymem_store_batch, *columns, len(objects))

    def load(self, objects: Sequence[int], offsets: Sequence[int]) -> list[int]:
        out = np.zeros(len(objects), np.uint64)
        columns = [self._column(c)[0] for c in (objects, offsets)]
        self._number(lib.pymem_load_batch, *columns, len(objects), pointer("uint64_t", out))
        return [int(a) for a in out]

    def memory(self, addr: int, size: int) -> Any:
        """Return the bytes of a living object, to read and to write."""
        out = ffi.new("char **")
        self.heap.call(lib.pymem_memory, addr, size, out)
        return ffi.buffer(out[0], size)

    def mark_start_graph(self, proc: int = 0) -> None:
        self.gc_begin(proc)
        self.heap.call(lib.pymem_mark_start_graph, 0)

    def mark_drain(self, budget: int = 1 << 62) -> Any:
        out = ffi.new("pymem_mark_progress *")
        self.heap.call(lib.pymem_mark_drain, budget, out)
        return out

    def mark_set_phase(self, puts: int) -> None:
        self.heap.call(lib.pymem_mark_set_phase, puts)

    def mark_check(self) -> None:
        self.heap.call(lib.pymem_mark_check, ffi.NULL, 0, ffi.new("uint64_t *"))

    def mark_totals(self) -> Any:
        out = ffi.new("pymem_mark_totals *")
        self.heap.call(lib.pymem_mark_get, out)
        return out

    def mark_end(self, proc: int = 0) -> None:
        """End a mark and sweep all."""
        self.heap.call(lib.pymem_mark_stop)
        self.heap.call(lib.pymem_gc_flip)
        self.gc_end(proc)
        self.flush(proc)
        self.sweep_all(proc)

    def gc_graph(self, proc: int = 0) -> Any:
        """Collect all that the roots do not lead to; return what the mark came to."""
        self.mark_start_graph(proc)
        self.mark_drain()
        self.mark_check()
        totals = self.mark_totals()
        self.mark_end(proc)
        return totals

    def compact(
        self, proc: int = 0, max_fill: float = 1.0, pins: Sequence[int] = (), *, plan: bool = False
    ) -> tuple[Any, list[tuple[int, int, int]]]:
        """Return what it did, or would do, and the old address, new address and size of each slot that moved."""
        out, moves, args = ffi.new("pymem_compaction *"), ffi.new("pymem_moves *"), self._column(pins)
        self.heap.call(lib.pymem_compact, proc, max_fill, *args, ffi.NULL, out)
        if plan:
            return out, []
        columns = np.zeros((3, out.objects_moved), np.uint64)
        moves.before, moves.after, moves.size = (pointer("uint64_t", column) for column in columns)
        moves.cap = out.objects_moved
        self.heap.call(lib.pymem_compact, proc, max_fill, *args, moves, out)
        assert moves.n == out.objects_moved
        return out, [(int(a), int(b), int(size)) for a, b, size in columns.T]

    def living(self) -> dict[int, int]:
        """Return the type of each living object by its address."""
        spans = [s for s in self.spans() if s["state"] == 1]
        return {addr: type_ for s in spans for addr, type_ in self.objects(int(s["base"]))}

    # ---- what can be seen ----

    def stats(self, proc: int = NO_PROC, *, flush: bool = False) -> Any:
        out = ffi.new("pymem_mem_stats *")
        self.heap.call(lib.pymem_read_mem_stats, proc, flush, out)
        return out

    def spans(self) -> Any:
        return inspect.spans(self.heap)

    def objects(self, base: int) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = inspect.objects(self.heap, base).tolist()
        return found

    def object_at(self, addr: int) -> inspect.GoObject:
        return inspect.object_at(self.heap, addr)

    def pages(self) -> Any:
        return inspect.arena_map(self.heap)


def restored(data: bytes, fault: int = -1) -> Core:
    """Return the heap that a snapshot tells of."""
    c = Core.__new__(Core)
    c.heap = Heap.restore(data, fault=fault)
    return c
