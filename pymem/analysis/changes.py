"""A recorded program with a type changed: other sizes, no pointers, or a pool (`pymem.analysis.pooling`).

The rows are changed as they stream by, after deaths have been put in their place; time, costs and all else stay as they
were recorded, so two reruns, of the program and of the changed one, differ by the change alone. The objects of the heap
that a recording starts from stay as they are: they lie at recorded addresses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pymem.analysis.births import Living, pair, shares_block
from pymem.analysis.patterns import find_types
from pymem.errors import ConfigError
from pymem.program import Program, part_of
from pymem.workload.columns import Columns, Event

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from pymem.program import Part
    from pymem.workload.workload import WorkloadType

    Bools = npt.NDArray[np.bool_]

__all__ = ["Change", "ChangedProgram", "ChangedSource", "change_program", "is_of", "noscan", "resize"]

_MOST_BYTES = 1 << 40


class Change(Protocol):
    """One run's worth of changing rows."""

    def __call__(self, rows: Columns, /) -> Iterator[Columns]:
        """Yield what becomes of some rows, in order."""


class ChangedSource:
    """A recording whose rows are changed on their way; `chunks` and `parts` begin the change anew each time."""

    def __init__(
        self, program: Program, begin: Callable[[], Change], types: Sequence[WorkloadType] | None = None
    ) -> None:
        source = program.source
        self._program, self._begin = program, begin
        self.types = program.types if types is None else types
        self.arena_base, self.padding_pages = source.arena_base, source.padding_pages
        self.procs, self.tier, self.resolution = source.procs, source.tier, "event"

    def __len__(self) -> int:
        return len(self._program.source)

    def parts(self) -> Iterator[Part]:
        """Yield the changed rows; as many Ps are busy as before."""
        change = self._begin()
        for part in self._program.parts():
            for columns in change(part.columns):
                yield part_of(columns)._replace(busy=part.busy)

    def chunks(self, size: int = 1 << 20) -> Iterator[Columns]:
        """Yield the changed rows, as they come."""
        for part in self.parts():
            yield part.columns


@dataclass(frozen=True, slots=True, eq=False)
class ChangedProgram(Program):
    """A program whose source changes its rows. Make one with `change_program`."""

    source: ChangedSource

    def parts(self) -> Iterator[Part]:
        """Yield the changed rows."""
        return self.source.parts()


def change_program(
    program: Program, begin: Callable[[], Change], types: Sequence[WorkloadType] | None = None
) -> ChangedProgram:
    """Return a program whose rows go through a change, which each run begins anew; types: None, as they were."""
    return ChangedProgram(
        source=ChangedSource(program, begin, types),
        costs=program.costs,
        globals_bytes=program.globals_bytes,
        calibration=program.calibration,
        spread=False,
        kept=None,
    )


# ---- other sizes, no pointers ----


def resize(program: Program, sizes: Mapping[str, int]) -> Program:
    """Return the program with values of some types larger or smaller.

    sizes: bytes a value, 1 or more, by name or pattern. An object of k values (the element type is all that an
    execution trace tells of a slice) gets k times the bytes; where the slot is larger than k values it is k that fit.
    Pointers reach as far as they did, or to the new end. Raises `ConfigError`.
    """
    types = list(program.types)
    changed = np.zeros(len(types), bool)
    for pattern, size in sizes.items():
        if not 1 <= size <= _MOST_BYTES:
            raise ConfigError(f"--resize {pattern}={size}: give the bytes of a value, from 1 to 1 TB")
        found = find_types(program.types, pattern)
        for i in np.flatnonzero(found).tolist():
            types[i] = types[i]._replace(size=size, ptrdata=min(types[i].ptrdata, size // 8 * 8))
        changed |= found
    return _retyped(program, types, changed, noscan=False)


def noscan(program: Program, patterns: Sequence[str]) -> Program:
    """Return the program with types that hold no pointers: not scanned, and without headers.

    What the pointers pointed to lives and dies as it did: some other way to find it is taken for granted. Raises
    `ConfigError`.
    """
    types = list(program.types)
    changed = np.zeros(len(types), bool)
    for pattern in patterns:
        changed |= find_types(program.types, pattern)
    for i in np.flatnonzero(changed).tolist():
        types[i] = types[i]._replace(ptrdata=0)
    return _retyped(program, types, changed, noscan=True)


def _retyped(program: Program, types: Sequence[WorkloadType], changed: Bools, *, noscan: bool) -> Program:
    old = np.array([t.size for t in program.types], np.uint64)
    new = np.array([t.size for t in types], np.uint64)
    tier = program.source.tier
    return change_program(program, lambda: _Retype(old, new, changed, noscan=noscan, tier=tier), types)


class _Retype:
    """Gives the objects of some types other sizes and flags."""

    def __init__(
        self,
        old: npt.NDArray[np.uint64],
        new: npt.NDArray[np.uint64],
        changed: Bools,
        *,
        noscan: bool,
        tier: str,
    ) -> None:
        self._old, self._new, self._changed = old, new, changed
        self._noscan, self._tier = noscan, tier
        self._living = Living(changed=np.bool_)

    def __call__(self, rows: Columns, /) -> Iterator[Columns]:
        """Yield the rows with their sizes and flags changed."""
        alloc = rows.kind == Event.ALLOC
        which = alloc & ~shares_block(rows, self._tier) & is_of(rows, self._changed)
        if self._tier == "exact":  # the block of a tiny object has others in it, who would be left without
            which &= ~((rows.size < 16) & (rows.flags & 1 == 1))
        lives = alloc & ~shares_block(rows, self._tier) | (rows.kind == Event.START_OBJECT)
        pairs = pair(rows, lives, rows.kind == Event.DEATH)
        dead = self._living.step(rows, pairs, {"changed": which[pairs.births]})["changed"]
        size, flags, expect = rows.size.copy(), rows.flags.copy(), rows.expect.copy()
        of = rows.type[which]
        values = rows.size[which] // np.maximum(self._old[of], 1)
        size[which] = np.where(
            self._old[of] > 0, np.maximum(values, 1) * self._new[of], self._unsized(of, rows.size[which])
        )
        if self._noscan:
            flags[which] |= 1
        expect[which] = 0
        flags[pairs.deaths[dead]] = 0  # by itself: it may share a tiny block now
        yield replace(rows, size=size, flags=flags, expect=expect)

    def _unsized(self, of: npt.NDArray[np.uint32], size: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        """Return new sizes for objects of types whose size is not known: a value each."""
        new = self._new[of]
        return np.where(new > 0, new, size)


def is_of(rows: Columns, types: Bools) -> Bools:
    """Say which rows are of some types."""
    known = rows.type < len(types)
    out: Bools = types[np.where(known, rows.type, 0)] & known
    return out
