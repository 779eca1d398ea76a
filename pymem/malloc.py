"""Allocating, one object or many a call: arguments in, addresses out; where an object goes is the core's affair."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pymem._arrays import UInt64s, byte_count, check_even, mask, pointer, room, sizes
from pymem._native import ffi, lib
from pymem.errors import SizeError
from pymem.gotypes import AnyType, TypeTable

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from pymem._heap import Heap

__all__ = ["ZERO_BASE", "malloc", "malloc_batch"]

ZERO_BASE = 0x1000000
"""Address of every object of 0 bytes. Go too gives all of them one address, that of a variable outside the heap."""


def malloc(heap: Heap, table: TypeTable, proc: int, size: int, *, noscan: bool | None, type_: AnyType) -> int:
    """Allocate one object and return its address."""
    id_, noscan = _type(table, type_, noscan)
    nbytes = byte_count(size)
    table.check_size(id_, nbytes)
    if nbytes == 0:
        _ = heap.handle
        return ZERO_BASE
    out = ffi.new("uint64_t *")
    heap.call(lib.pymem_malloc, proc, nbytes, noscan, id_, out)
    if heap.armed:
        while not _made(heap, proc, out):
            heap.call(lib.pymem_malloc, proc, nbytes, noscan, id_, out)
    return int(out[0])


def _made(heap: Heap, proc: int, out: Any) -> bool:
    """Have the collector act; tell whether the object was made, not sent to assist first."""
    made = bool(out[0])
    heap.stopped(proc, np.array([out[0]], np.uint64) if made else None)
    return made


def malloc_batch(
    heap: Heap,
    table: TypeTable,
    proc: int,
    size_or_sizes: Any,
    n: int | None,
    *,
    noscan: Any,
    types: Any,
    out: UInt64s | None,
) -> UInt64s:
    """Allocate many objects and return their addresses."""
    _ = heap.handle
    for what, values in (("sizes", size_or_sizes), ("noscan", noscan), ("types", types)):
        check_even(what, values)
    one_size = np.ndim(size_or_sizes) == 0
    each = None if one_size else sizes(size_or_sizes)
    count = _count(each, n)
    addrs = room(count, out)
    types = 0 if types is None else types
    if one_size and np.ndim(noscan) == 0 and np.ndim(types) == 0:
        kind = _type(table, types, _flag(noscan))
        table.check_size(kind[0], byte_count(size_or_sizes))
        _same(heap, proc, byte_count(size_or_sizes), kind, addrs)
        return addrs
    if each is None:
        each = np.full(count, byte_count(size_or_sizes), np.uint64)
    kinds = _kinds(table, types, noscan, count)
    if kinds.ids is not None:
        table.check_sizes(kinds.ids, each)
    _each(heap, proc, each, kinds, addrs)
    return addrs


def _count(each: UInt64s | None, n: int | None) -> int:
    if each is None:
        if n is None:
            raise SizeError("one size, but how many objects? Give n: malloc_batch(64, 1000)")
        return byte_count(n, "n")
    if n is not None and n != len(each):
        raise SizeError(f"n is {n}, but there are {len(each)} sizes: leave n out")
    return len(each)


def _flag(noscan: Any) -> bool | None:
    return None if noscan is None else bool(noscan)


def _type(table: TypeTable, type_: AnyType, noscan: bool | None) -> tuple[int, bool]:
    """Return the id of a type and whether its object holds no pointers."""
    if type(type_) is int and type_ == 0:
        return 0, bool(noscan)
    found = table.find(type_)
    if noscan:
        table.check_noscan(found)
    return found.id, found.noscan if noscan is None else bool(noscan)


class _Kinds(NamedTuple):
    """What a batch's objects are, beside their sizes."""

    ids: npt.NDArray[np.uint32] | None
    noscan: npt.NDArray[np.uint8] | bool

    def of(self, some: npt.NDArray[np.bool_]) -> _Kinds:
        """Return those of some of the objects."""
        noscan = self.noscan if isinstance(self.noscan, bool) else self.noscan[some]
        return _Kinds(None if self.ids is None else self.ids[some], noscan)


def _kinds(table: TypeTable, types: Any, noscan: Any, n: int) -> _Kinds:
    if np.ndim(types) == 0:
        id_, default = _type(table, types, None)
        ids = np.full(n, id_, np.uint32) if id_ else None
        flags = default if noscan is None else noscan
    else:
        ids = table.ids(types, n)
        flags = table.noscan(ids) if noscan is None else noscan
    kinds = _Kinds(ids, bool(flags) if np.ndim(flags) == 0 else mask(flags, n))
    if noscan is not None and ids is not None:
        table.check_noscans(ids, kinds.noscan)
    return kinds


def _same(heap: Heap, proc: int, size: int, kind: tuple[int, bool], addrs: UInt64s) -> None:
    id_, noscan = kind
    if size == 0:
        addrs.fill(ZERO_BASE)
    else:
        _run(heap, proc, lib.pymem_malloc_same, lambda at: (size, noscan, id_), addrs)


def _each(heap: Heap, proc: int, each: UInt64s, kinds: _Kinds, addrs: UInt64s) -> None:
    if not each.all():
        _with_zeros(heap, proc, each, kinds, addrs)
        return
    ids, noscan = kinds

    def args(at: int) -> tuple[Any, ...]:
        return (
            pointer("uint64_t", each[at:]),
            ffi.NULL if isinstance(noscan, bool) else pointer("uint8_t", noscan[at:]),
            noscan is True,
            ffi.NULL if ids is None else pointer("uint32_t", ids[at:]),
        )

    _run(heap, proc, lib.pymem_malloc_each, args, addrs)


def _with_zeros(heap: Heap, proc: int, each: UInt64s, kinds: _Kinds, addrs: UInt64s) -> None:
    """Objects of 0 bytes are none of the core's business."""
    some = each != 0
    placed = np.zeros(int(some.sum()), np.uint64)
    try:
        _each(heap, proc, each[some], kinds.of(some), placed)
    finally:
        addrs.fill(ZERO_BASE)
        addrs[some] = placed


def _run(
    heap: Heap, proc: int, function: Any, args: Callable[[int], tuple[Any, ...]], addrs: UInt64s
) -> None:
    """Allocate until all are made, the collector acting at every stop; args(at): of the objects from `at` on."""
    done, at, n = ffi.new("uint64_t *"), 0, len(addrs)
    while True:
        begin, done[0] = at, 0
        try:
            heap.call(function, proc, *args(at), n - at, pointer("uint64_t", addrs[at:]), done)
            at += done[0]
            if heap.armed:
                heap.stopped(proc, addrs[:at])
        except MemoryError as error:
            made = begin + done[0]
            raise MemoryError(f"{error} ({made} of {n} objects were made and stay)") from None
        if at == n:
            return
