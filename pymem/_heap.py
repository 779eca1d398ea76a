"""A handle of the core with an owner: made, called, closed. Everything above talks to the heap through it."""

from __future__ import annotations

from functools import partial
from threading import RLock
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from pymem._arguments import whole
from pymem._native import check, ffi, lib
from pymem.errors import ClosedError, ConfigError, ThreadError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pymem._arrays import UInt64s

__all__ = ["ARENA_SIZE", "Heap"]

ARENA_SIZE = 64 << 20
"""Bytes of an arena."""
_CLOSED = "this runtime is closed: make a new one with pymem.Runtime()"
_GUESS = 1 << 28
"""Bytes that a snapshot is first given room for, at most."""
_MAX_BASE = 1 << 47
_MAX_SPACE = 1 << 46


def _let_go(handle: Any, part: Any) -> None:
    """Do nothing: a part of a heap that lies open had its handle until now."""


class Heap:
    """One heap of the core.

    Closing drops the reference; the memory goes when no call in another thread still holds it.
    """

    __slots__ = ("_handle", "_pace", "_stops", "armed", "lock", "on_stop")

    def __init__(
        self,
        *,
        arena_base: int,
        address_space: int,
        padding_pages: int = 0,
        birth_fault: int = 0,
        scan_sparse: bool = False,
    ) -> None:
        arena_base = whole("arena_base", arena_base)
        address_space = whole("address_space", address_space)
        padding_pages = whole("heap_padding_pages", padding_pages)
        if arena_base % ARENA_SIZE or not 0 < arena_base < _MAX_BASE:
            raise ConfigError(f"arena_base={arena_base:#x}: give a multiple of 64 MB between 0 and 2**47")
        if not ARENA_SIZE <= address_space <= _MAX_SPACE:
            raise ConfigError(f"address_space={address_space}: give between 64 MB and 2**46 bytes")
        if not 0 <= padding_pages < ARENA_SIZE // 8192:
            raise ConfigError(f"heap_padding_pages={padding_pages}: give 0 to 8191 pages, less than an arena")
        config = ffi.new(
            "pymem_config *",
            {
                "arena_base": arena_base,
                "address_space": address_space,
                "padding_pages": padding_pages,
                "birth_fault": birth_fault,
                "scan_sparse": scan_sparse,
            },
        )
        out = ffi.new("pymem_heap **")
        if lib.pymem_heap_new(config, out) != lib.PYMEM_OK:
            raise MemoryError("no memory for a new heap")
        self._hold(out[0])
        self.armed = False
        """Whether stops may come. Writer: the collector."""
        self.lock = RLock()
        """Held through a call, and through all the calls of a collector's step."""
        self.on_stop: Callable[[int, int, UInt64s | None], None] | None = None
        """Called with the processor, why, and the objects that the allocator's caller does not hold yet, where an
        allocation came back early; then it goes on."""

    @classmethod
    def restore(cls, data: bytes, *, fault: int = -1) -> Self:
        """Make a heap of what `snapshot` returned; RecordingError where it is damaged. fault: for tests."""
        out = ffi.new("pymem_heap **")
        status = lib.pymem_restore(ffi.from_buffer("char[]", data), len(data), fault, out)
        if not out[0]:
            raise MemoryError("no memory for a new heap")
        heap = cls.__new__(cls)
        heap._hold(out[0])
        heap.armed, heap.on_stop, heap.lock = False, None, RLock()
        check(status, heap._handle)
        return heap

    def _hold(self, heap: Any) -> None:
        """Own the core's heap, and what of it lies open: whoever looks at that holds the heap too."""
        self._handle: Any = ffi.gc(heap, lib.pymem_heap_free)
        self._pace: Any = ffi.gc(lib.pymem_pace(heap), partial(_let_go, self._handle))
        self._stops: Any = ffi.gc(lib.pymem_stops_of(heap), partial(_let_go, self._handle))

    def snapshot(self) -> bytes:
        """Return all of the heap as bytes."""
        need = ffi.new("uint64_t *")
        need[0] = min(int(lib.pymem_metadata_bytes(self.handle)), _GUESS)
        while True:
            out = np.empty(int(need[0]), np.uint8)  # what is not written to takes no memory
            self.call(lib.pymem_snapshot, ffi.from_buffer("char[]", out), len(out), need)
            if need[0] <= len(out):
                return out[: need[0]].tobytes()

    @property
    def handle(self) -> Any:
        """The core's pointer."""
        if self._handle is None:
            raise ClosedError(_CLOSED)
        return self._handle

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._handle is None

    def close(self) -> None:
        """Give the heap's memory back. Closing twice is no error."""
        self._handle = self._pace = self._stops = None

    @property
    def stops(self) -> Any:
        """When calls that allocate come back early, and why the last one did: a `pymem_stops` that may be written."""
        if self._stops is None:
            raise ClosedError(_CLOSED)
        return self._stops

    def pace(self) -> Any:
        """Return a `pymem_pace_info` of the heap as it is now, which the next call of the core makes out of date."""
        now = self._pace
        if now is None:
            raise ClosedError(_CLOSED)
        if not now.fresh:
            self.call(lib.pymem_read_pace, now)
        return now

    def stopped(self, proc: int, fresh: UInt64s | None) -> None:
        """After an allocation: have the collector act if a stop is due."""
        due = self.stops.due
        if due and self.on_stop:
            self.on_stop(proc, due, fresh)

    def call(self, function: Any, *args: Any) -> None:
        """Call a function of the core on this heap and raise what its status means."""
        lock = self.lock
        if not lock.acquire(blocking=False):
            raise ThreadError("another thread is in this heap: give each thread a runtime of its own")
        try:
            handle = self.handle
            status = function(handle, *args)
            if status:
                check(status, handle)
        finally:
            lock.release()
