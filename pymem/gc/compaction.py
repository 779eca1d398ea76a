"""Compaction: what moving objects would buy. Go never moves one; a runtime does if it was made with `compaction=True`.

At the end of a cycle, the world stopped and all swept, the sparsest spans of each size class are emptied into free
slots of the others, and their pages are given back. `csrc/compact.c` chooses, moves and sets pointers right; here it
is asked to, and what it says becomes a record.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pymem._arrays import addresses, pointer
from pymem._native import ffi, lib
from pymem.errors import ConfigError

if TYPE_CHECKING:
    import numpy.typing as npt

    from pymem._arrays import UInt64s
    from pymem._heap import Heap
    from pymem.gc.costs import Costs

__all__ = ["Compaction", "Compactor", "Moves"]

_HALF = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Compaction:
    """What one compaction did."""

    objects_moved: int
    """Slots; a tiny block is one, however many objects share it."""
    bytes_moved: int
    spans_freed: int
    """Spans that were emptied."""
    pages_won: int
    """Their pages of 8,192 bytes, free now."""
    spans_pinned: int
    """Spans that were as sparse but stayed: an object without a known type may point into them."""
    pointers_set: int
    """Words of objects and roots that hold another address now; 0 where objects have no contents."""
    time_ns: int = 0
    """For how long the world stood still for it, the sweep that came first included."""

    def ns(self, costs: Costs, scan_work: int) -> float:
        """Return the processor time it takes: moving, and a look at all pointers, so many bytes of scan work."""
        if not self.spans_freed:
            return 0.0
        moving = self.objects_moved * costs.move_object_ns + self.bytes_moved * costs.move_byte_ns
        return moving + scan_work * costs.fix_byte_ns


@dataclass(frozen=True, slots=True)
class Moves:
    """Where a compaction put things: arrays of equal length, by old address."""

    old: UInt64s = field(repr=False)
    """Addresses of the slots that were left."""
    new: UInt64s = field(repr=False)
    """Those that were moved to."""
    size: UInt64s = field(repr=False)
    """Bytes of each slot."""

    def __len__(self) -> int:
        return len(self.old)

    def translate(self, addrs: npt.ArrayLike) -> UInt64s:
        """Return the addresses as they are since: others for what has moved, with the same offset inside."""
        array = addresses(np.atleast_1d(addrs)).copy()
        if len(self) and len(array):
            at = np.searchsorted(self.old, array, side="right") - 1
            offset = array - self.old[at]
            moved = (at >= 0) & (offset < self.size[at])
            array[moved] = self.new[at[moved]] + offset[moved]
        return array

    def apply(self, addrs: UInt64s) -> None:
        """Put the addresses as they are since into the array itself."""
        addrs[...] = self.translate(addrs)


class Compactor:
    """Compacts one heap.

    Args:
        heap: the heap.
        max_fill: spans filled to this share or less are sparse, above 0 and at most 1; True: to a half.

    """

    __slots__ = ("_heap", "max_fill", "moves")

    def __init__(self, heap: Heap, max_fill: bool | float) -> None:
        self.max_fill = _HALF if max_fill is True else max_fill
        if not isinstance(self.max_fill, int | float) or not 0 < self.max_fill <= 1:
            raise ConfigError(f"compaction={max_fill!r}: give True, False, or a share above 0 and at most 1")
        self._heap = heap
        self.moves: Moves | None = None
        """Those of the last compaction."""

    def run(self, proc: int, held: list[UInt64s]) -> Compaction:
        """Compact, leaving what is at the addresses held where it is. MemoryError: nothing has moved."""
        pins = np.concatenate([np.zeros(0, np.uint64), *held])
        out = ffi.new("pymem_compaction *")
        args = (proc, self.max_fill, pointer("uint64_t", pins), len(pins))
        self._heap.call(lib.pymem_compact, *args, ffi.NULL, out)
        columns = np.zeros((3, out.objects_moved), np.uint64)
        if out.spans_freed:
            self._heap.call(lib.pymem_compact, *args, _moves(columns), out)
        order = np.argsort(columns[0])
        self.moves = Moves(*(column[order] for column in columns))
        return Compaction(
            objects_moved=out.objects_moved,
            bytes_moved=out.bytes_moved,
            spans_freed=out.spans_freed,
            pages_won=out.pages_won,
            spans_pinned=out.spans_pinned,
            pointers_set=out.pointers_set,
        )


def _moves(columns: npt.NDArray[np.uint64]) -> Any:
    """Return room for the moves in the core's form; the columns must outlive it."""
    moves = ffi.new("pymem_moves *")
    moves.before, moves.after, moves.size = (pointer("uint64_t", column) for column in columns)
    moves.cap = columns.shape[1]
    return moves
