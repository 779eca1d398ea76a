"""The only door to the compiled core: its functions and types; here alone a status becomes an exception."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pymem import _core
from pymem.errors import (
    AddressError,
    ConfigError,
    CorruptHeapError,
    PymemError,
    RecordingError,
    SizeError,
    ThreadError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["check", "ffi", "lib", "text"]

ffi: Any = _core.ffi
lib: Any = _core.lib

_BUSY = "this heap is in use by another thread: give each thread its own Runtime, or take turns with a lock"

_EXCEPTIONS: dict[int, Callable[[str], Exception]] = {
    lib.PYMEM_ENOMEM: MemoryError,
    lib.PYMEM_ELIMIT: MemoryError,
    lib.PYMEM_EINVAL: ConfigError,
    lib.PYMEM_ESIZE: SizeError,
    lib.PYMEM_EADDRESS: AddressError,
    lib.PYMEM_EBUSY: ThreadError,
    lib.PYMEM_ETHROW: CorruptHeapError,
    lib.PYMEM_EFORMAT: RecordingError,
}


def text(chars: Any) -> str:
    """Return a C string of the core as text."""
    raw: bytes = ffi.string(chars)
    return raw.decode(errors="replace")


def check(status: int, handle: Any, *, context: str = "") -> None:
    """Raise what a status other than OK means, with the sentence that the heap keeps of it."""
    if status == lib.PYMEM_OK:
        return
    sentence = _BUSY if status == lib.PYMEM_EBUSY else text(lib.pymem_heap_message(handle))
    make = _EXCEPTIONS.get(status, PymemError)
    raise make(f"{context}: {sentence}" if context else sentence)
