"""Go's table of size classes, as the core derives it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from pymem._arrays import byte_count
from pymem._native import ffi, lib

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["SIZE_CLASS", "size_classes", "size_to_class"]

SIZE_CLASS = np.dtype(
    [
        ("size_class", np.uint8),
        ("size", np.uint32),
        ("pages", np.uint8),
        ("slots_scan", np.uint16),
        ("slots_noscan", np.uint16),
    ]
)
"""A size class: bytes a slot, pages of 8,192 bytes a span, and slots a span for objects with and without pointers
(a span keeps its mark bits, and pointer bits for small objects, at its end)."""


@cache
def size_classes() -> npt.NDArray[Any]:
    """Return the 68 size classes as a read-only structured array of dtype `SIZE_CLASS`.

    Class 0 stands for large objects, which have a span of their own; its row is zeros.
    Source: Go 1.27, `internal/runtime/gc/sizeclasses.go`, derived anew by `csrc/sizeclasses.c`.
    """
    table = np.zeros(lib.PYMEM_NUM_SIZE_CLASSES, SIZE_CLASS)
    out = [ffi.new("uint32_t *") for _ in range(4)]
    for c in range(len(table)):
        lib.pymem_size_class(c, *out)
        table[c] = (c, *(p[0] for p in out))
    table.flags.writeable = False
    return table


def size_to_class(size: int) -> int:
    """Return the class of slots of at least `size` bytes, 0 above 32,768: then the object is large.

    A scan object above 512 bytes needs 8 bytes more than its size, for its type.
    """
    return int(lib.pymem_size_to_class(byte_count(size)))
