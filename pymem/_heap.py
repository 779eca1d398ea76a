"""A handle of the core with an owner: made, called, closed. Everything above talks to the heap through it."""

from __future__ import annotations

import operator
from typing import Any

from pymem._native import check, ffi, lib
from pymem.errors import ClosedError, ConfigError

__all__ = ["ARENA_SIZE", "Heap"]

ARENA_SIZE = 64 << 20
"""Bytes of an arena."""
_MAX_BASE = 1 << 47
_MAX_SPACE = 1 << 46


def _whole(what: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise ConfigError(f"{what}={value!r}: give a whole number") from None


class Heap:
    """One heap of the core.

    Closing drops the reference; the memory goes when no call in another thread still holds it.
    """

    __slots__ = ("_handle",)

    def __init__(
        self, *, arena_base: int, address_space: int, padding_pages: int = 0, birth_fault: int = 0
    ) -> None:
        arena_base = _whole("arena_base", arena_base)
        address_space = _whole("address_space", address_space)
        padding_pages = _whole("heap_padding_pages", padding_pages)
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
            },
        )
        out = ffi.new("pymem_heap **")
        if lib.pymem_heap_new(config, out) != lib.PYMEM_OK:
            raise MemoryError("no memory for a new heap")
        self._handle: Any = ffi.gc(out[0], lib.pymem_heap_free)

    @property
    def handle(self) -> Any:
        """The core's pointer."""
        if self._handle is None:
            raise ClosedError("this runtime is closed: make a new one with pymem.Runtime()")
        return self._handle

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._handle is None

    def close(self) -> None:
        """Give the heap's memory back. Closing twice is no error."""
        self._handle = None

    def call(self, function: Any, *args: Any) -> None:
        """Call a function of the core on this heap and raise what its status means."""
        handle = self.handle
        status = function(handle, *args)
        if status:
            check(status, handle)
