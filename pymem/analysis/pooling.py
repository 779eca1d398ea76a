"""What a sync.Pool on a type would do: every allocation a Get, every death a Put.

Go's rules, by `sync/pool.go`. A Get takes what was put back last; then what is left of the generation before, the
*victims*; then it allocates. When a cycle begins, with the world stopped, the victims are dropped, so that this very
mark does not find them, and all that is in the pool become the victims. So an object put back is there for one whole
cycle and is gone at the second.

How it is modelled, and where that flatters a pool:

- There is a pool for each type and size asked for, since a Get of another size would be of no use.
- Whatever dies was put back just then: the program is taken to know when it is done with an object. What the object
  points to has been let go before.
- All Ps share a pool. In Go each keeps one object to itself, so with n Ps up to n - 1 objects are not found.
- Cycles are those of the emulated pacer, which sees the rows a few thousand at a time: pools are emptied before the
  rows in which a cycle is due, early by up to so many rows. A cycle that comes unexpected empties them late.
- Which of several equal objects is dropped makes no difference to their number: it is the oldest.
- A Get and a Put cost nothing, and neither does clearing what comes out of a pool.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from pymem.analysis.births import Living, pair, shares_block
from pymem.analysis.changes import change_program, is_of
from pymem.analysis.patterns import find_types
from pymem.gc.controller import NO_TRIGGER, TriggerKind
from pymem.gc.pacer import GoPacer
from pymem.workload.columns import DTYPES, Columns, Event

if TYPE_CHECKING:
    import numpy.typing as npt

    from pymem.program import Program

    Ints = npt.NDArray[np.int64]
    Bools = npt.NDArray[np.bool_]

__all__ = ["CountingPacer", "PoolRows", "PoolUse", "Stock", "pool"]

STRETCH = 1 << 11
"""Rows between two looks at the pacer."""
_HANDLES = (
    Event.ALLOC, Event.DEATH, Event.STACK_ALLOC, Event.STACK_FREE, Event.MANUAL_ALLOC, Event.MANUAL_FREE,
    Event.START_SPAN, Event.START_OBJECT,
)  # fmt: skip
"""Rows whose object is a handle, and no processor's number."""


class CountingPacer(GoPacer):
    """Go's pacer, which counts the cycles it has begun."""

    __slots__ = ("starts",)

    def __init__(self) -> None:
        self.starts = 0
        super().__init__()

    def start_cycle(
        self, now: int, procs: int, kind: TriggerKind = TriggerKind.HEAP, *, stop_the_world: bool = False
    ) -> None:
        """Begin a cycle. Go: (*gcControllerState).startCycle."""
        self.starts += 1
        super().start_cycle(now, procs, kind, stop_the_world=stop_the_world)


@dataclass(slots=True)
class PoolUse:
    """What went through the pools of a run."""

    gets: int = 0
    """Allocations of the program as it was."""
    hits: int = 0
    """Of these, served from a pool."""
    puts: int = 0
    dropped: int = 0
    """Objects that a cycle took out."""
    hit_bytes: int = 0
    """Bytes that were not allocated."""
    idle_objects: int = 0
    """In the pools, at the end."""
    idle_bytes: int = 0
    peak_idle_objects: int = 0
    peak_idle_bytes: int = 0
    """The most that lay in the pools at once, as seen every few thousand rows."""


class Stock:
    """What lies in pools, by number of the pool: some numbers, and no objects."""

    def __init__(self) -> None:
        self.idle = np.zeros(0, np.int64)
        """Objects in it, those that are victims included."""
        self.victims = np.zeros(0, np.int64)

    def grow(self, pools: int) -> None:
        """Make room for so many pools."""
        more = np.zeros(max(pools - len(self.idle), 0), np.int64)
        self.idle, self.victims = np.append(self.idle, more), np.append(self.victims, more)

    def run(self, pools: Ints, puts: Bools) -> Bools:
        """Put (or get, where not `puts`) an object, one after the other; return which gets found one.

        With h objects to begin with and s the puts less the gets so far, the pool holds h + s, and one more for every
        get that found nothing: so many as h + s was ever below 0. What has been put last is on top, victims are below:
        they are fewer if the pool ever holds less.
        """
        found = np.zeros(len(pools), bool)
        if not len(pools):
            return found
        order = np.argsort(pools, kind="stable")
        pool, put = pools[order], puts[order]
        first = np.flatnonzero(np.append(True, pool[1:] != pool[:-1]))
        which = pool[first]
        part = np.cumsum(np.append(False, pool[1:] != pool[:-1]))
        step = np.cumsum(np.where(put, 1, -1))
        before = np.append(0, step[first[1:] - 1])
        level = self.idle[which][part] + step - before[part]
        # A running minimum for each pool: what is far below all of the pool before begins anew.
        apart = 2 * (np.abs(level).max() + 1)
        lowest = np.minimum.accumulate(np.minimum(level, 0) - part * apart) + part * apart
        held = level - lowest
        previous = np.append(0, lowest[:-1])
        previous[first] = 0
        found[order] = ~put & (lowest == previous)
        last = np.append(first[1:] - 1, len(pool) - 1)
        self.idle[which] = held[last]
        self.victims[which] = np.minimum(self.victims[which], np.minimum.reduceat(held, first))
        return found

    def collect(self) -> Ints:
        """Let a cycle begin: return how many objects each pool drops. Go: poolCleanup."""
        dropped = self.victims
        self.idle = self.idle - dropped
        self.victims = self.idle.copy()
        return dropped


def pool(program: Program, patterns: Sequence[str], pacer: CountingPacer, use: PoolUse) -> Program:
    """Return the program with pools, for one run under this pacer; `use` is filled in by the run.

    patterns: types by name or pattern; none leaves the program as it is, for comparison. Raises `ConfigError`.
    """
    types = np.zeros(len(program.types), bool)
    for pattern in patterns:
        types |= find_types(program.types, pattern)
    return change_program(program, lambda: PoolRows(types, program.source.tier, pacer, use))


class PoolRows:
    """Takes Gets that find something, and Puts, out of the rows, and puts in deaths where a cycle drops objects.

    A recording's handles become even numbers and those of pooled objects odd ones, as these outlive the record's.
    """

    def __init__(self, types: Bools, tier: str, pacer: CountingPacer, use: PoolUse) -> None:
        self._types, self._tier, self._pacer, self._use = types, tier, pacer, use
        self.stock = Stock()
        self._cleanups = 0
        self._numbers: dict[int, int] = {}  # of pools, by type, size and flags
        self._sizes = np.zeros(0, np.int64)
        self._objects: list[
            deque[int]
        ] = []  # handles of each pool's objects, oldest first, wherever they are
        self._free: list[int] = []
        self._next = 1
        self._living = Living(pool=np.int64)

    def __call__(self, rows: Columns, /) -> Iterator[Columns]:
        """Yield what becomes of some rows, in order."""
        for start, end in _stretches(rows):
            part = rows[start:end]
            if self._types.any():
                drops = self._before(part)
                if drops is not None:
                    yield drops
                part = self._pooled(part)
            if len(part):
                yield part

    # ---- cycles ----

    def _before(self, rows: Columns) -> Columns | None:
        """Empty pools for a cycle that has begun or is about to; return the deaths."""
        owed = self._pacer.starts - self._cleanups
        if owed <= 0 and not (owed == 0 and self._is_due(rows)):
            return None
        dropped = np.zeros(len(self._sizes), np.int64)
        for _ in range(max(owed, 1)):
            dropped += self.stock.collect()
            self._cleanups += 1
        handles = [self._objects[i].popleft() for i in np.flatnonzero(dropped) for _ in range(dropped[i])]
        self._use.dropped += len(handles)
        self._free.extend(handles)
        return _deaths(handles, int(rows.time[0])) if handles else None

    def _is_due(self, rows: Columns) -> bool:
        if _is_forced(rows)[0]:
            return True
        pacer = self._pacer
        born = int(rows.size[rows.kind == Event.ALLOC].sum())
        return pacer.triggered == NO_TRIGGER and pacer.heap_live + born >= pacer.trigger()[0]

    # ---- rows ----

    def _pooled(self, rows: Columns) -> Columns:
        alloc = rows.kind == Event.ALLOC
        lives = alloc & ~shares_block(rows, self._tier) | (rows.kind == Event.START_OBJECT)
        pairs = pair(rows, lives, rows.kind == Event.DEATH)
        of_birth = self._pools_of(rows, pairs.births)
        of_death = self._living.step(rows, pairs, {"pool": of_birth})["pool"]
        gets, puts = pairs.births[of_birth >= 0], pairs.deaths[of_death >= 0]
        at = np.concatenate([gets, puts])
        pools = np.concatenate([of_birth[of_birth >= 0], of_death[of_death >= 0]])
        is_put = np.arange(len(at)) >= len(gets)
        order = np.argsort(at)
        found = np.zeros(len(at), bool)
        found[order] = self.stock.run(pools[order], is_put[order])
        self._count(gets, puts, pools[found])
        gone = np.zeros(len(rows), bool)
        gone[puts] = True
        gone[at[found]] = True
        new = ~is_put & ~found
        return self._renamed(rows, at[new], pools[new], gone)

    def _pools_of(self, rows: Columns, births: Ints) -> Ints:
        """Return the number of the pool of each birth, -1 for none."""
        out = np.full(len(births), -1)
        poolable = (rows.kind[births] == Event.ALLOC) & is_of(rows, self._types)[births]
        if self._tier == "exact":  # see `changes`: others share a tiny object's block
            poolable &= ~((rows.size[births] < 16) & (rows.flags[births] & 1 == 1))
        which = births[poolable]
        key = rows.type[which].astype(np.uint64) << np.uint64(1) | rows.flags[which].astype(
            np.uint64
        ) & np.uint64(1)
        keys, where = np.unique(np.stack([key, rows.size[which]], axis=1), axis=0, return_inverse=True)
        numbers = [self._number(int(k), int(size)) for k, size in keys]
        out[poolable] = np.array(numbers, np.int64)[where.reshape(-1)]
        return out

    def _number(self, key: int, size: int) -> int:
        number = self._numbers.setdefault(key << 48 | size, len(self._numbers))
        if number == len(self._sizes):
            self._sizes = np.append(self._sizes, size)
            self._objects.append(deque())
            self.stock.grow(number + 1)
        return number

    def _count(self, gets: Ints, puts: Ints, hits: Ints) -> None:
        use, idle = self._use, self.stock.idle
        use.gets += len(gets)
        use.puts += len(puts)
        use.hits += len(hits)
        use.hit_bytes += int(self._sizes[hits].sum())
        use.idle_objects, use.idle_bytes = int(idle.sum()), int((idle * self._sizes).sum())
        use.peak_idle_objects = max(use.peak_idle_objects, use.idle_objects)
        use.peak_idle_bytes = max(use.peak_idle_bytes, use.idle_bytes)

    def _renamed(self, rows: Columns, new: Ints, pools: Ints, gone: Bools) -> Columns:
        """Return the rows that stay; `new` are the allocations of objects that belong to a pool from now on."""
        handle = np.where(np.isin(rows.kind, _HANDLES), rows.object * np.uint64(2), rows.object)
        for row, number in zip(new.tolist(), pools.tolist(), strict=True):
            if self._free:
                name = self._free.pop()
            else:
                name, self._next = self._next, self._next + 2
            self._objects[number].append(name)
            handle[row] = name
        return replace(rows, object=handle).where(~gone)


def _stretches(rows: Columns) -> Iterator[tuple[int, int]]:
    """Cut rows into a few thousand each, and before each cycle that the program asked for."""
    cuts = {*range(0, len(rows), STRETCH), *np.flatnonzero(_is_forced(rows)).tolist(), len(rows)}
    yield from pairwise(sorted(cuts))


def _is_forced(rows: Columns) -> Bools:
    forced: Bools = (rows.kind == Event.GC_END) & (rows.flags & 1 == 1)
    return forced


def _deaths(handles: list[int], time: int) -> Columns:
    """Make rows of deaths, which are nobody's doing."""
    columns: dict[str, Any] = {name: np.zeros(len(handles), dtype) for name, dtype in DTYPES.items()}
    columns |= {
        "kind": np.full(len(handles), int(Event.DEATH)),
        "time": np.full(len(handles), time),
        "proc": np.full(len(handles), -1),
        "object": np.array(handles, np.uint64),
    }
    return Columns(**columns)
