"""Columns from plain arrays of sizes and lifetimes."""

from __future__ import annotations

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
    array = np.asarray(values)
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
    size = _whole(sizes, "sizes")
    n = len(size)
    if n and size.min() < 1:
        raise ValueError(
            f"sizes: element {int(np.argmin(size))} is {size.min()}: an object has at least one byte"
        )
    if n and size.max() > _LARGEST:
        raise ValueError(f"sizes: element {int(np.argmax(size))} is {size.max()}: no address space holds it")
    is_noscan, type_id = _whole(noscan, "noscan", n), _whole(types, "types", n)
    if n and (is_noscan.min() < 0 or is_noscan.max() > 1):
        raise ValueError("noscan: give 0 or 1, or bools")
    if n and (type_id.min() < 0 or type_id.max() >= 1 << 32):
        raise ValueError("types: give indices into the type table, from 0 on")
    proc = _whole(procs, "procs", n)
    if n and (proc.min() < 0 or proc.max() > 1023):
        raise ValueError("procs: give processor numbers from 0 to 1023")
    birth = np.arange(n) if births_ns is None else _whole(births_ns, "births_ns", n)
    if np.any(birth[1:] < birth[:-1]):
        raise ValueError(
            f"births_ns: element {int(np.argmax(birth[1:] < birth[:-1])) + 1} is earlier than the one before it"
        )
    if gc_every < 0:
        raise ValueError(f"gc_every={gc_every}: give a number of allocations, or 0 for no collection")
    life = np.full(n, -1) if lifetimes is None else _whole(lifetimes, "lifetimes", n)
    dying = np.flatnonzero((life >= 0) & (life < n - np.arange(n)))
    when = dying + 1 + life[dying]  # so many allocations after its own
    parts = _Parts(n, int(proc.max(initial=0)) + 1, birth)
    parts.add(Event.ALLOC, np.arange(n), _BORN, object=np.arange(n), size=size, flags=is_noscan,
              type=type_id, proc=proc)  # fmt: skip
    parts.add(Event.DEATH, when, _DIES, object=dying)
    if gc_every:
        parts.collections(np.arange(gc_every, n + 1, gc_every))
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
