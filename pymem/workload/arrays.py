"""Columns from plain arrays of sizes and lifetimes."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from pymem.workload.columns import Columns, Event

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

__all__ = ["columns_from_arrays"]

_MOST = (1 << 63) - 1
_LARGEST = 1 << 47
"""Bytes: no address space that Go uses holds a larger object."""

# Within one moment: objects die, the cycle turns, then the next object is born.
_DIES, _COLLECTS, _BORN = 0, 1, 2


def _whole(values: npt.ArrayLike, what: str, n: int | None = None) -> Array:
    try:
        array = np.asarray(values)
    except ValueError:
        raise ValueError(f"{what}: its rows have different lengths: give a flat array") from None
    if array.size == 0:
        array = array.astype(np.int64)  # numpy takes an empty list for floats
    if array.dtype.kind not in "iub":
        raise ValueError(f"{what}: give whole numbers, not {array.dtype}")
    if array.size and int(array.max()) > _MOST:
        raise ValueError(f"{what}: {array.max()} is too large")
    array = array.astype(np.int64, copy=False)
    if n is not None:
        if array.ndim > 1 or array.shape not in ((), (n,)):
            raise ValueError(f"{what}: give one value or {n}, not shape {array.shape}")
        return np.broadcast_to(array, (n,))
    if array.ndim != 1:
        raise ValueError(f"{what}: give a flat array, not {array.ndim} dimensions")
    return array


def _sizes(values: npt.ArrayLike) -> Array:
    size = _whole(values, "sizes")
    if len(size) and size.min() < 1:
        raise ValueError(
            f"sizes: element {int(np.argmin(size))} is {size.min()}: an object has at least one byte"
        )
    if len(size) and size.max() > _LARGEST:
        raise ValueError(f"sizes: element {int(np.argmax(size))} is {size.max()}: no address space holds it")
    return size


def _within(values: npt.ArrayLike, what: str, n: int, most: int, remedy: str) -> Array:
    """Return n numbers from 0 to `most`."""
    array = _whole(values, what, n)
    if n and (array.min() < 0 or array.max() > most):
        raise ValueError(f"{what}: {remedy}")
    return array


def _births(values: npt.ArrayLike | None, n: int) -> Array:
    birth = np.arange(n) if values is None else _whole(values, "births_ns", n)
    early = birth[1:] < birth[:-1]
    if np.any(early):
        raise ValueError(f"births_ns: element {int(np.argmax(early)) + 1} is earlier than the one before it")
    return birth


def _interval(gc_every: int) -> int:
    try:
        every = operator.index(gc_every)
    except TypeError:
        every = -1
    if every < 0:
        raise ValueError(f"gc_every={gc_every}: give a whole number of allocations, or 0 for no collection")
    return every


def columns_from_arrays(
    sizes: npt.ArrayLike,
    *,
    noscan: npt.ArrayLike,
    births_ns: npt.ArrayLike | None,
    lifetimes: npt.ArrayLike | None,
    types: npt.ArrayLike,
    procs: npt.ArrayLike,
    gc_every: int,
) -> Columns:
    """Return the columns; `Workload.from_arrays` says what the arguments are."""
    size = _sizes(sizes)
    n = len(size)
    flags = _within(noscan, "noscan", n, 1, "give 0 or 1, or bools")
    type_id = _within(types, "types", n, (1 << 32) - 1, "give indices into the type table, from 0 on")
    proc = _within(procs, "procs", n, 1023, "give processor numbers from 0 to 1023")
    every = _interval(gc_every)
    life = np.full(n, -1) if lifetimes is None else _whole(lifetimes, "lifetimes", n)
    dying = np.flatnonzero((life >= 0) & (life < n - np.arange(n)))
    when = dying + 1 + life[dying]  # so many allocations after its own
    parts = _Parts(n, int(proc.max(initial=0)) + 1, _births(births_ns, n))
    parts.add(Event.ALLOC, np.arange(n), _BORN, object=np.arange(n), size=size, flags=flags,
              type=type_id, proc=proc)  # fmt: skip
    parts.add(Event.DEATH, when, _DIES, object=dying)
    if every:
        parts.collections(np.arange(every, n + 1, every))
    return parts.columns()


class _Parts:
    """Rows by the allocation (its number) that they come before."""

    def __init__(self, n: int, procs: int, birth: Array) -> None:
        self.n, self.procs, self.birth = n, procs, birth
        self.rows: list[dict[str, Array]] = []
        self.add(Event.PROC_NEW, np.full(procs, 0), -1, proc=np.full(procs, -1))

    def add(self, kind: Event, at: Array, rank: int, **columns: Array) -> None:
        row: dict[str, Array] = {
            "at": at,
            "rank": np.full(len(at), rank),
            "kind": np.full(len(at), int(kind)),
        }
        for name in ("object", "size", "flags", "type", "proc"):
            row[name] = columns.get(name, np.zeros(len(at), np.int64))
        self.rows.append(row)

    def collections(self, at: Array) -> None:
        """Full collections: the rows of one belong together, in this order."""
        one = [Event.SWEEP_DONE, Event.FLIP, *[Event.FLUSH] * self.procs, Event.GC_END, Event.SWEEP_ALL]
        owner = np.array([0, 0, *range(self.procs), 0, 0])
        forced = np.array([int(kind == Event.GC_END) for kind in one])
        for step, kind in enumerate(one):
            place = np.full(len(at), step)
            self.add(kind, at, _COLLECTS, object=owner[place], flags=forced[place])

    def columns(self) -> Columns:
        whole = {name: np.concatenate([row[name] for row in self.rows]) for name in self.rows[0]}
        order = np.lexsort((np.arange(len(whole["at"])), whole["rank"], whole["at"]))
        at = whole.pop("at")[order]
        del whole["rank"]
        last = int(self.birth[-1]) + 1 if self.n else 0
        time = np.append(self.birth, last)[np.minimum(at, self.n)]
        return Columns(
            time=time,
            goroutine=np.zeros(len(at), np.uint32),
            expect=np.zeros(len(at), np.uint64),
            **{n: c[order] for n, c in whole.items()},
        )
