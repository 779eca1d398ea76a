"""Columns of events: what a workload is made of, in memory."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from pymem._native import lib

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["DTYPES", "Columns", "Event"]


class Event(IntEnum):
    """What happens in a row; `csrc/pymem_api.h` says which columns each kind uses."""

    ALLOC = lib.PYMEM_EV_ALLOC
    DEATH = lib.PYMEM_EV_DEATH
    STACK_ALLOC = lib.PYMEM_EV_STACK_ALLOC
    STACK_FREE = lib.PYMEM_EV_STACK_FREE
    MANUAL_ALLOC = lib.PYMEM_EV_MANUAL_ALLOC
    MANUAL_FREE = lib.PYMEM_EV_MANUAL_FREE
    FLUSH = lib.PYMEM_EV_FLUSH
    STACK_CLEAR = lib.PYMEM_EV_STACK_CLEAR
    GC_PHASE = lib.PYMEM_EV_GC_PHASE
    SWEEP_DONE = lib.PYMEM_EV_SWEEP_DONE
    FLIP = lib.PYMEM_EV_FLIP
    SWEEP = lib.PYMEM_EV_SWEEP
    SWEEP_IN = lib.PYMEM_EV_SWEEP_IN
    GC_END = lib.PYMEM_EV_GC_END
    PROC_NEW = lib.PYMEM_EV_PROC_NEW
    PROC_DESTROY = lib.PYMEM_EV_PROC_DESTROY
    PERSISTENT = lib.PYMEM_EV_PERSISTENT
    SYS = lib.PYMEM_EV_SYS
    PAGES_FLUSH = lib.PYMEM_EV_PAGES_FLUSH
    SCAVENGE = lib.PYMEM_EV_SCAVENGE
    GOAL = lib.PYMEM_EV_GOAL
    SPAN = lib.PYMEM_EV_SPAN
    STATS = lib.PYMEM_EV_STATS
    SWEEP_ALL = lib.PYMEM_EV_SWEEP_ALL
    TINY = lib.PYMEM_EV_TINY
    START_SPAN = lib.PYMEM_EV_START_SPAN
    START_OBJECT = lib.PYMEM_EV_START_OBJECT
    START_DONE = lib.PYMEM_EV_START_DONE
    FINALIZER = lib.PYMEM_EV_FINALIZER


DTYPES: dict[str, Any] = {
    "time": np.int64,
    "kind": np.uint8,
    "flags": np.uint8,
    "proc": np.int16,
    "goroutine": np.uint32,
    "type": np.uint32,
    "object": np.uint64,
    "size": np.uint64,
    "expect": np.uint64,
}


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Events in order, a numpy array a column, all of one length.

    time: nanoseconds since the start. kind: an `Event`. proc: the P, -1 for none. goroutine: its id, 0 unknown.
    type: an index into the workload's type table, 0 unknown. object: a handle. size: bytes or pages.
    expect: the recorded address or base, 0 unknown.
    """

    time: npt.NDArray[np.int64]
    kind: npt.NDArray[np.uint8]
    flags: npt.NDArray[np.uint8]
    proc: npt.NDArray[np.int16]
    goroutine: npt.NDArray[np.uint32]
    type: npt.NDArray[np.uint32]
    object: npt.NDArray[np.uint64]
    size: npt.NDArray[np.uint64]
    expect: npt.NDArray[np.uint64]

    def __post_init__(self) -> None:
        for name, dtype in DTYPES.items():
            column = np.ascontiguousarray(getattr(self, name), dtype=dtype)
            object.__setattr__(self, name, column)
            if column.shape != self.time.shape or column.ndim != 1:
                raise ValueError(
                    f"column {name} has shape {column.shape}, time has {self.time.shape}: give all columns one length"
                )

    def __len__(self) -> int:
        return len(self.time)

    def __getitem__(self, rows: slice) -> Columns:
        return Columns(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def where(self, mask: npt.NDArray[np.bool_]) -> Columns:
        """Return the rows that the mask selects, copied."""
        return Columns(**{f.name: getattr(self, f.name)[mask] for f in fields(self)})
