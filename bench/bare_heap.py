"""What the benchmarks share: a heap of the core without the façade, and sizes that shrink for a smoke run.

`Heap` calls the core as `pymem.Runtime` does, once a batch: what is timed is the core and the call into it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from pymem._native import check, ffi, lib

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Words = NDArray[np.uint64]

PAGE = 8192
CHUNK = 4 << 20  # bytes by which the heap grows
PROC = 0
ROUNDS = 7


def column(array: Any, ctype: str) -> Any:
    """Return the array's memory as the core takes it; None stays NULL."""
    return ffi.NULL if array is None else ffi.from_buffer(f"{ctype}[]", array)


def mix(numbers: Words) -> Words:
    """Return splitmix64 of each number, as `mix` in bench/go/work.go does."""
    z = numbers * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    mixed: Words = z ^ z >> np.uint64(31)
    return mixed


def draw(n: int, below: int) -> Words:
    """Return n numbers from 0 to below - 1, the same on every machine."""
    drawn: Words = mix(np.arange(n, dtype=np.uint64)) % np.uint64(below)
    return drawn


def checksum(addresses: Words) -> int:
    """Return a number that depends on each address, relative to the first, and on its place."""
    weights = 2 * np.arange(len(addresses), dtype=np.uint64) + 1
    return int(((addresses - addresses[0]) * weights).sum(dtype=np.uint64))


def scale(benchmark: Any, full: int, smoke: int) -> int:
    """Return how much work to do: little where timing is off (`--benchmark-disable`)."""
    return smoke if benchmark.disabled else full


def time_rounds(
    benchmark: Any,
    run: Callable[[], object],
    *,
    units: int,
    setup: Callable[[], object] = lambda: None,
    before_first: bool = True,
) -> int:
    """Time `run`, with `setup` untimed before each round; return how many rounds there were.

    The first round is a warm-up and is not counted in the figures, but it is in what is returned.
    """
    done = 0

    def counted() -> None:
        nonlocal done
        done += 1
        run()

    def prepare() -> None:
        if done or before_first:
            setup()

    if not benchmark.disabled:
        prepare()
        counted()
    benchmark.pedantic(counted, setup=prepare, rounds=ROUNDS)
    if not benchmark.disabled:
        benchmark.extra_info["ns_per_unit"] = round(benchmark.stats.stats.median / units * 1e9, 3)
    return done


class Heap:
    """A heap with one processor. Its methods are the core's calls; a status other than OK raises."""

    def __init__(self, *, address_space: int = 1 << 40) -> None:
        config = ffi.new("pymem_config *", {"arena_base": 0xC000000000, "address_space": address_space})
        out = ffi.new("pymem_heap **")
        if lib.pymem_heap_new(config, out):
            raise MemoryError("no memory for a heap")
        self._heap = out[0]
        self._done = ffi.new("uint64_t *")
        self._addr = ffi.new("uint64_t *")
        self.call(lib.pymem_proc_new, ffi.new("int32_t *"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the heap; a second time does nothing."""
        lib.pymem_heap_free(self._heap)
        self._heap = ffi.NULL

    def call(self, function: Any, *args: Any) -> None:
        """Call the core on this heap."""
        check(function(self._heap, *args), self._heap)

    def malloc(self, size: int, *, noscan: bool = True, type_id: int = 0) -> int:
        """Allocate one object."""
        self.call(lib.pymem_malloc, PROC, size, noscan, type_id, self._addr)
        return int(self._addr[0])

    def malloc_same(self, size: int, out: Words, *, noscan: bool = True, type_id: int = 0) -> None:
        """Allocate as many objects of one size as `out` has room for addresses."""
        addrs = column(out, "uint64_t")
        self.call(lib.pymem_malloc_same, PROC, size, noscan, type_id, len(out), addrs, self._done)

    def malloc_each(
        self,
        sizes: Words,
        out: Words,
        *,
        noscan: bool = True,
        mask: NDArray[np.bool_] | None = None,
        types: NDArray[np.uint32] | None = None,
    ) -> None:
        """Allocate an object for each of the sizes; `mask`, if given, says which are pointer-free."""
        self.call(
            lib.pymem_malloc_each,
            PROC,
            column(sizes, "uint64_t"),
            column(mask, "uint8_t"),
            noscan,
            column(types, "uint32_t"),
            len(out),
            column(out, "uint64_t"),
            self._done,
        )

    def mark_dead(self, addrs: Words) -> None:
        """Declare objects dead."""
        self.call(lib.pymem_mark_dead, column(addrs, "uint64_t"), len(addrs), self._done)

    def flip(self) -> None:
        """Run a collection up to where everything is unswept and the processor's spans are given back."""
        self.call(lib.pymem_gc_begin, PROC)
        self.call(lib.pymem_mark_start, False)
        self.call(lib.pymem_mark_stop)
        self.call(lib.pymem_gc_flip)
        self.call(lib.pymem_flush, PROC)
        self.call(lib.pymem_gc_end, PROC, 1)

    def sweep(self) -> int:
        """Sweep all that is unswept; return how many spans that were."""
        self.call(lib.pymem_sweep_all, PROC, self._done)
        return int(self._done[0])

    def collect(self, dead: Words) -> int:
        """Free the dead objects; return how many spans were swept."""
        self.mark_dead(dead)
        self.flip()
        return self.sweep()

    def object_type(self, addr: int) -> int:
        """Return the type id of the object at this address."""
        info = ffi.new("pymem_object_info *")
        self.call(lib.pymem_object_at, addr, info)
        return int(info.type)

    def span_alloc(self, npages: int) -> int:
        """Take a span of pages that holds no objects."""
        self.call(lib.pymem_manual_alloc, PROC, npages, lib.PYMEM_SPAN_OTHER, self._addr)
        return int(self._addr[0])

    def span_free(self, base: int) -> None:
        """Give such a span back."""
        self.call(lib.pymem_manual_free, PROC, base)

    def stats(self) -> Any:
        """Return MemStats as the core's struct, after flushing the caches as Go does."""
        out = ffi.new("pymem_mem_stats *")
        self.call(lib.pymem_read_mem_stats, PROC, 1, out)
        return out

    def check(self) -> None:
        """Prove the heap's invariants."""
        self.call(lib.pymem_heap_check)

    @property
    def metadata_bytes(self) -> int:
        """Bytes that the emulator holds for this heap."""
        return int(lib.pymem_metadata_bytes(self._heap))
