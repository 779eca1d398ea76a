"""Objects with contents: made by type, pointed at each other, read and written. Marking follows what is stored here.

An address in a Python variable keeps nothing alive: what shall live is stored in an object that lives, in a global or
in a goroutine's frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pymem._arrays import addresses, byte_count, pointer
from pymem._native import ffi, lib
from pymem.errors import ConfigError, SizeError
from pymem.inspect import object_at
from pymem.layout import Kind
from pymem.malloc import malloc, malloc_batch

if TYPE_CHECKING:
    import numpy.typing as npt

    from pymem._arrays import UInt64s
    from pymem._heap import Heap
    from pymem.gotypes import AnyType, GoType, TypeTable

__all__ = ["Where", "load", "load_batch", "new", "new_batch", "store", "store_batch", "view"]

Where = str | int
"""A place in an object: a field's path, such as `children[2].next`, or an offset in bytes."""


def new(heap: Heap, table: TypeTable, proc: int, type_: AnyType, n: int) -> int:
    """Allocate n values of a type in one object."""
    found = table.find(type_)
    return malloc(heap, table, proc, found.size * byte_count(n, "n"), noscan=None, type_=found.id)


def new_batch(heap: Heap, table: TypeTable, proc: int, type_: AnyType, n: int) -> UInt64s:
    """Allocate n objects of one value each."""
    found = table.find(type_)
    return malloc_batch(heap, table, proc, found.size, n, noscan=None, types=found.id, out=None)


# ---- pointers ----


def store(heap: Heap, table: TypeTable, obj: int, where: Where, target: int) -> None:
    """Store a pointer."""
    offset = _offset(heap, table, obj, where)
    row = _row(byte_count(obj, "object"), offset, byte_count(target, "target"))
    heap.call(lib.pymem_store_batch, row, row + 1, row + 2, 1, row + 3)


def load(heap: Heap, table: TypeTable, obj: int, where: Where) -> int:
    """Return the pointer stored at a place."""
    row = _row(byte_count(obj, "object"), _offset(heap, table, obj, where), 0)
    heap.call(lib.pymem_load_batch, row, row + 1, 1, row + 2, row + 3)
    return int(row[2])


def _row(*numbers: int) -> Any:
    """Return a batch of one in the core's form, with room for the count of what was done."""
    return ffi.new("uint64_t[4]", numbers)


def _offset(heap: Heap, table: TypeTable, obj: int, where: Where) -> int:
    if not isinstance(where, str):
        return byte_count(where, "offset")
    type_ = _type_of(heap, table, obj)
    if type_.layout is None:
        raise ConfigError(
            f"the object at {obj:#x} has no type with fields: give an offset, or allocate it with new(T)"
        )
    index, rest = _element(where)
    if index is None or type_.layout.kind is Kind.ARRAY:
        return type_.layout.pointer_at(where)
    return index * type_.size + type_.layout.pointer_at(rest)


def _element(path: str) -> tuple[int | None, str]:
    """Split the index off a path into an object of several values: `[3].next` is `next` of the fourth."""
    head, close, rest = path.partition("]")
    if not (close and head[:1] == "[" and head[1:].isdecimal()):
        return None, path
    return int(head[1:]), rest.removeprefix(".")


def _type_of(heap: Heap, table: TypeTable, obj: int) -> GoType:
    info = ffi.new("pymem_object_info *")
    heap.call(lib.pymem_object_at, byte_count(obj, "object"), info)
    return table.types[int(info.type)]


def store_batch(heap: Heap, objects: Any, offsets: Any, targets: Any) -> None:
    """Store many pointers, in order."""
    columns = _columns(objects, offsets, targets)
    done = ffi.new("uint64_t *")
    heap.call(lib.pymem_store_batch, *(pointer("uint64_t", c) for c in columns), len(columns[0]), done)


def load_batch(heap: Heap, objects: Any, offsets: Any) -> UInt64s:
    """Return many pointers."""
    places = _columns(objects, offsets)
    out = np.zeros(len(places[0]), np.uint64)
    done = ffi.new("uint64_t *")
    args = [pointer("uint64_t", c) for c in places]
    heap.call(lib.pymem_load_batch, *args, len(out), pointer("uint64_t", out), done)
    return out


def _columns(objects: Any, *others: Any) -> tuple[UInt64s, ...]:
    """Return columns of one length; a number stands for a column of it."""
    first = addresses(objects)
    rest = [_column(other, len(first)) for other in others]
    return (first, *rest)


def _column(values: Any, n: int) -> UInt64s:
    if isinstance(values, int | np.integer) or np.ndim(values) == 0:
        return np.full(n, byte_count(values, "number"), np.uint64)
    column = addresses(values)
    if len(column) != n:
        raise SizeError(f"{n} objects, but {len(column)} offsets or targets: give as many, or one number")
    return column


# ---- bytes ----


class _Memory:
    """An object's bytes, for numpy. It holds on to the heap, so that no view outlives the memory it shows."""

    __slots__ = ("__array_interface__", "heap")

    def __init__(self, heap: Any, at: int, size: int) -> None:
        self.heap = heap
        self.__array_interface__ = {"version": 3, "typestr": "|u1", "shape": (size,), "data": (at, False)}


def view(heap: Heap, table: TypeTable, obj: int, type_: AnyType | None, n: int | None) -> npt.NDArray[Any]:
    """Return an object's memory as an array over its very bytes."""
    found = object_at(heap, obj)
    shown = table.find(type_ if type_ is not None else 0 if found.tiny else found.type)
    dtype = np.dtype(np.uint8) if shown.layout is None else shown.layout.dtype
    if dtype.itemsize == 0:
        raise SizeError(f"a {shown.name} has no bytes: there is nothing to see")
    room = found.slot_size - (obj - found.span_base - found.slot * found.slot_size)
    fits = 1 if found.tiny and shown.id else room // dtype.itemsize
    count = fits if n is None else byte_count(n, "n")
    if count * dtype.itemsize > room:
        raise SizeError(
            f"the object has room for {fits} values, not for {count}: leave n out to see them all"
        )
    shape = () if n is None and count == 1 else (count,)
    return np.ndarray(shape, dtype, _bytes(heap, obj, count * dtype.itemsize))


def _bytes(heap: Heap, obj: int, size: int) -> npt.NDArray[np.uint8]:
    out = ffi.new("char **")
    heap.call(lib.pymem_memory, obj, size, out)
    return np.asarray(_Memory(heap.handle, int(ffi.cast("uintptr_t", out[0])), size))
