"""What a size-class table of one's own would waste on a program's objects, beside Go's table.

The core's heap has Go's classes built in, so this is no replay: the objects that live at the program's fullest moment
are counted by size, and each table packs them into as few spans as they fill. Holes that deaths leave in spans, caches
of Ps, and what another table does to the times of collections are not in it. Against Go's own table, packed alike, it
tells what there is to win at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pymem.analysis.births import PAGE_SIZE, Living, StartSizes, pair, shares_block
from pymem.errors import ConfigError, RecordingError
from pymem.program import read_program
from pymem.sizeclasses import size_classes
from pymem.workload.columns import Columns, Event

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    import numpy.typing as npt

    from pymem.replay import EventSource

    Ints = npt.NDArray[np.int64]

__all__ = ["ClassTable", "Packed", "TableAnswer", "go_table", "read_table", "try_table"]

_LARGEST = 32_768
_MOST_PAGES = 64
_HEADER, _HEADER_FROM, _LARGEST_SMALL = 8, 512, 32_760
_INLINE_MARKS, _HEAP_BITS_A_PAGE = 128, PAGE_SIZE // 64
_SAMPLES = 64
_TINY = 16


@dataclass(frozen=True, slots=True, eq=False)
class ClassTable:
    """Size classes, smallest first."""

    size: Ints
    """Bytes a slot."""
    pages: Ints
    """Of 8,192 bytes, a span."""

    def slots(self, noscan: bool) -> Ints:
        """Return the slots a span. A span keeps 128 B of mark bits for slots of 16 to 512 B, and pointer bits."""
        small = self.size <= _HEADER_FROM
        marks = np.where(small & (self.size >= _TINY), _INLINE_MARKS, 0)
        bits = np.where(small & (not noscan), self.pages * _HEAP_BITS_A_PAGE, 0)
        out: Ints = (self.pages * PAGE_SIZE - marks - bits) // self.size
        return out


@dataclass(frozen=True, slots=True)
class Packed:
    """Objects packed into spans by a table. Bytes: in spans = asked for + inside slots + rest."""

    classes: int
    bytes_in_spans: int
    slot_waste: int
    """Inside slots, headers included."""
    span_waste: int
    """Tails, bitmaps, and the free slots of each class's last span."""


@dataclass(frozen=True, slots=True)
class TableAnswer:
    """The objects of the fullest moment by both tables."""

    time_ns: int
    objects: int
    asked_bytes: int
    sizes: str
    """`exact`, or `slots`: of an execution trace, in which Go's classes have already rounded sizes up."""
    go: Packed
    own: Packed
    worst: tuple[tuple[int, int, int], ...]
    """Sizes on which the own table loses most beside Go's: (bytes asked for, objects, bytes more); at most five."""


def go_table() -> ClassTable:
    """Return Go 1.27's table."""
    table = size_classes()[1:]
    return ClassTable(table["size"].astype(np.int64), table["pages"].astype(np.int64))


def read_table(path: str | os.PathLike[str]) -> ClassTable:
    """Read a table: a class a line, its bytes and, if wanted, pages a span; what follows a # is a comment.

    Without pages it is as many as leave a tail of at most an eighth of the span. Raises `ConfigError`, `OSError`.
    """
    sizes: list[int] = []
    pages: list[int] = []
    lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        try:
            size, npages = int(words[0]), int(words[1]) if words[1:] else 0
            good = 8 <= size <= _LARGEST and size % 8 == 0 and not words[2:] and 0 <= npages <= _MOST_PAGES
        except ValueError:
            good = False
        if not good or (sizes and size <= sizes[-1]):
            raise ConfigError(
                f"{path}: line {number}: {line.strip()[:40]!r}: give a size, rising, a multiple of 8 up to {_LARGEST}, "
                f"and perhaps pages a span up to {_MOST_PAGES}: `1152 1`"
            )
        npages = npages or _usual_pages(size)
        if npages * PAGE_SIZE < size:
            raise ConfigError(
                f"{path}: line {number}: {npages} pages hold no slot of {size} bytes: give more pages"
            )
        sizes.append(size)
        pages.append(npages)
    if not sizes:
        raise ConfigError(f"{path}: no size class in it: write one a line, such as `1152 1`")
    return ClassTable(np.array(sizes, np.int64), np.array(pages, np.int64))


def _usual_pages(size: int) -> int:
    pages = 1
    while pages * PAGE_SIZE % size > pages * PAGE_SIZE // 8 or pages * PAGE_SIZE < size:
        pages += 1
    return pages


def try_table(
    source: EventSource, table: ClassTable, *, progress: Callable[[int, int], None] | None = None
) -> TableAnswer:
    """Count the objects that live when most bytes do (of 64 looks, evenly by rows), and pack them by both tables.

    Tiny objects count as they share blocks: 16 bytes without pointers. progress: called now and then with (rows done,
    rows in all). Raises `RecordingError`.
    """
    counter = _Counter(source)
    every = max(len(source) // _SAMPLES, 1)
    rows = 0
    for part in read_program(source, calibrated=False, keep=False, spread=False).parts():
        for start in range(0, len(part.columns), every):
            counter.add(part.columns[start : start + every])
        rows += len(part.columns)
        if progress:
            progress(min(rows, len(source)), len(source))
    asked, noscan, count = counter.peak()
    if not count.sum():
        raise RecordingError("nothing lives in this recording: there is nothing to pack")
    go, own = _pack(go_table(), asked, noscan, count), _pack(table, asked, noscan, count)
    more = _slots(table, asked, noscan) - _slots(go_table(), asked, noscan)
    worst = [i for i in np.argsort(-more * count, kind="stable")[:5].tolist() if more[i] > 0 and count[i]]
    return TableAnswer(
        time_ns=counter.time_of_peak,
        objects=int(count.sum()),
        asked_bytes=int((asked * count).sum()),
        sizes="slots" if source.tier == "trace" else "exact",
        go=go,
        own=own,
        worst=tuple((int(asked[i]), int(count[i]), int(more[i] * count[i])) for i in worst),
    )


class _Counter:
    """Living objects by size and pointers, and what they were when they had most bytes."""

    def __init__(self, source: EventSource) -> None:
        self._tier = source.tier
        self._keys: dict[int, int] = {}
        self._count = np.zeros(0, np.int64)
        self._most = -1
        self._at_most = self._count
        self.time_of_peak = 0
        self._living = Living(number=np.int64)
        self._start = StartSizes()

    def add(self, rows: Columns) -> None:
        """Take in some rows, and look."""
        if not len(rows):
            return
        self._start.learn(rows)
        alloc = (rows.kind == Event.ALLOC) & ~shares_block(rows, self._tier)
        pairs = pair(rows, alloc | (rows.kind == Event.START_OBJECT), rows.kind == Event.DEATH)
        fresh = self._numbers(rows, pairs.births)
        dead = self._living.step(rows, pairs, {"number": fresh})["number"]
        n = len(self._keys)
        self._count = np.append(self._count, np.zeros(n - len(self._count), np.int64))
        self._count += np.bincount(fresh, minlength=n) - np.bincount(dead, minlength=n)
        held = int((self._sizes()[0] * self._count).sum())
        if held > self._most:
            self._most, self._at_most, self.time_of_peak = held, self._count.copy(), int(rows.time[-1])

    def _numbers(self, rows: Columns, born: Ints) -> Ints:
        size, noscan = rows.size[born].astype(np.int64), (rows.flags[born] & 1).astype(np.int64)
        of_start = rows.kind[born] == Event.START_OBJECT
        span_class, slot = self._start.of(rows.expect[born[of_start]])
        size[of_start], noscan[of_start] = slot, span_class & 1
        size = np.where((size < _TINY) & (noscan == 1), _TINY, size)
        keys, where = np.unique(size << 1 | noscan, return_inverse=True)
        numbers = [self._keys.setdefault(key, len(self._keys)) for key in keys.tolist()]
        return np.array(numbers, np.int64)[where]

    def _sizes(self) -> tuple[Ints, npt.NDArray[np.bool_]]:
        keys = np.array(list(self._keys), np.int64)
        return keys >> 1, keys & 1 == 1

    def peak(self) -> tuple[Ints, npt.NDArray[np.bool_], Ints]:
        """Return sizes, whether without pointers, and how many objects of each."""
        n = len(self._at_most)
        asked, noscan = self._sizes()
        return asked[:n], noscan[:n], self._at_most


def _need(asked: Ints, noscan: npt.NDArray[np.bool_]) -> Ints:
    return asked + np.where(~noscan & (asked > _HEADER_FROM) & (asked <= _LARGEST_SMALL), _HEADER, 0)


def _slots(table: ClassTable, asked: Ints, noscan: npt.NDArray[np.bool_]) -> Ints:
    """Return the bytes that an object of each size takes: a slot, or whole pages where no class is large enough."""
    need = _need(asked, noscan)
    at = np.searchsorted(table.size, need)
    small = at < len(table.size)
    out: Ints = np.where(
        small, table.size[np.minimum(at, len(table.size) - 1)], -(-asked // PAGE_SIZE) * PAGE_SIZE
    )
    return out


def _pack(table: ClassTable, asked: Ints, noscan: npt.NDArray[np.bool_], count: Ints) -> Packed:
    slot = _slots(table, asked, noscan)
    at = np.searchsorted(table.size, _need(asked, noscan))
    small = at < len(table.size)
    held = int((slot[~small] * count[~small]).sum())
    for kind in (False, True):
        which = small & (noscan == kind)
        objects: Any = np.bincount(at[which], count[which], len(table.size))
        full = np.ceil(objects / table.slots(kind)).astype(np.int64)
        held += int((full * table.pages).sum()) * PAGE_SIZE
    in_slots = int((slot * count).sum())
    wanted = int((asked * count).sum())
    return Packed(len(table.size), held, in_slots - wanted, held - in_slots)
