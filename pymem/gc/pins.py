"""Objects that a call has made and its caller does not hold yet: roots for as long as a cycle marks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pymem._arrays import pointer
from pymem._native import ffi, lib

if TYPE_CHECKING:
    from pymem._arrays import UInt64s
    from pymem._heap import Heap

__all__ = ["Pins"]


class Pins:
    """A set of roots that is there while it holds something."""

    __slots__ = ("_heap", "_id")

    def __init__(self, heap: Heap) -> None:
        self._heap = heap
        self._id: int | None = None

    def hold(self, addrs: UInt64s | None) -> None:
        """Make roots of objects. Raises MemoryError; then some of them may be, until `release`."""
        if addrs is None or not len(addrs):
            return
        out = ffi.new("uint32_t *")
        self._heap.call(lib.pymem_roots_new, lib.PYMEM_ROOTS_HELD, out)
        self._id = int(out[0])
        self._heap.call(lib.pymem_roots_resize, self._id, len(addrs))
        self._heap.call(lib.pymem_roots_set, self._id, 0, pointer("uint64_t", addrs), len(addrs))

    def release(self) -> None:
        """Let them go."""
        if self._id is not None:
            self._heap.call(lib.pymem_roots_free, self._id)
            self._id = None
