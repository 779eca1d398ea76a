"""Which death is whose: rows name objects by handles, and a handle may be used again after its object's death."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pymem._native import lib
from pymem.errors import RecordingError
from pymem.sizeclasses import size_classes
from pymem.workload.columns import Columns, Event

if TYPE_CHECKING:
    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]
    Bools = npt.NDArray[np.bool_]

__all__ = ["PAGE_SIZE", "TINY_SIZE", "Living", "Pairs", "StartSizes", "pair", "shares_block", "slot_of"]

TINY_SIZE = 16
"""Bytes of a tiny block; noscan objects below share them."""
PAGE_SIZE: int = lib.PYMEM_PAGE_SIZE
_HEADER, _HEADER_FROM, _LARGEST_SMALL = 8, 512, 32_760


class Pairs(NamedTuple):
    """Births and deaths among some rows, and who belongs to whom."""

    births: Ints
    """Row numbers, rising."""
    deaths: Ints
    """Row numbers, rising."""
    mate: Ints
    """For each death the index in `births` of its birth; -1: it was born before these rows."""
    survives: Bools
    """For each birth whether it does not die among these rows."""


def pair(columns: Columns, births: Bools, deaths: Bools) -> Pairs:
    """Pair the rows that two masks select."""
    rows = np.flatnonzero(births | deaths)
    order = _by_handle(columns.object[rows])
    handle, is_birth = columns.object[rows][order], births[rows][order]
    follows = np.append(False, handle[1:] == handle[:-1]) if len(handle) else np.zeros(0, bool)
    ends = np.flatnonzero(~is_birth & follows & np.append(False, is_birth[:-1])) if len(handle) else _NONE
    number = np.cumsum(births[rows]) - 1  # of a birth among the births, by place in `rows`
    mate = np.full(len(rows), -1)
    mate[order[ends]] = number[order[ends - 1]]
    survives = np.ones(len(rows), bool)
    survives[order[ends - 1]] = False
    of_birth = births[rows]
    return Pairs(rows[of_birth], rows[~of_birth], mate[~of_birth], survives[of_birth])


_NONE = np.zeros(0, np.int64)


def _by_handle(handles: npt.NDArray[np.uint64]) -> Ints:
    """Return the order of handles, equal ones as they come: numbers sort several times faster than places do."""
    n = max(len(handles), 1)
    if int(handles.max(initial=0)) >= (1 << 63) // n - 1:
        return np.argsort(handles, kind="stable")
    out: Ints = np.sort(handles.astype(np.int64) * n + np.arange(len(handles))) % n
    return out


class Living:
    """What is remembered of each object that lives, in columns by handle; as many rows as the highest handle."""

    def __init__(self, **dtypes: Any) -> None:
        self._columns: dict[str, npt.NDArray[Any]] = {n: np.zeros(0, d) for n, d in dtypes.items()}
        self._lives = np.zeros(0, bool)

    def step(
        self, columns: Columns, pairs: Pairs, fresh: dict[str, npt.NDArray[Any]]
    ) -> dict[str, npt.NDArray[Any]]:
        """Take in births, whose columns are `fresh`, and return the columns of the deaths.

        Raises `RecordingError` for the death of what was never born.
        """
        old = pairs.mate < 0
        handles = columns.object[pairs.deaths[old]].astype(np.int64)
        if len(handles) and (handles.max() >= len(self._lives) or not self._lives[handles].all()):
            raise RecordingError(
                "an object dies that was never allocated: the recording is damaged, record it again"
            )
        born = columns.object[pairs.births[pairs.survives]].astype(np.int64)
        self._grow(int(born.max(initial=-1)) + 1)
        out = {}
        for name, table in self._columns.items():
            values = np.empty(len(pairs.deaths), table.dtype)
            values[old] = table[handles]
            values[~old] = fresh[name][pairs.mate[~old]]
            out[name] = values
        self._lives[handles] = False
        for name, table in self._columns.items():
            table[born] = fresh[name][pairs.survives]
        self._lives[born] = True
        return out

    def all(self) -> dict[str, npt.NDArray[Any]]:
        """Return the columns of all that live."""
        return {name: table[self._lives] for name, table in self._columns.items()}

    def _grow(self, n: int) -> None:
        if n <= len(self._lives):
            return
        room = max(n, 2 * len(self._lives), 1024)
        for name, table in self._columns.items():
            self._columns[name] = np.concatenate([table, np.zeros(room - len(table), table.dtype)])
        self._lives = np.concatenate([self._lives, np.zeros(room - len(self._lives), bool)])


def shares_block(columns: Columns, tier: str) -> Bools:
    """Say which allocations only join a tiny block that is there; no row tells of their deaths.

    An exact recording has a row for each, with its address; the first of a block, at its front, dies for all.
    """
    if tier != "exact":
        return np.zeros(len(columns), bool)
    tiny = (columns.kind == Event.ALLOC) & (columns.flags & 1 == 1) & (columns.size < TINY_SIZE)
    shares: Bools = tiny & (columns.expect % TINY_SIZE != 0)
    return shares


def slot_of(size: npt.NDArray[Any], noscan: Bools) -> tuple[Ints, Ints]:
    """Return (span class, bytes of the slot) for objects of so many bytes asked for. Large: whole pages, class 0."""
    size = size.astype(np.int64)
    table = size_classes()["size"].astype(np.int64)
    headed = ~noscan & (size > _HEADER_FROM) & (size <= _LARGEST_SMALL)
    need = size + np.where(headed, _HEADER, 0)
    small = size <= _LARGEST_SMALL
    size_class = np.where(small, np.searchsorted(table[1:], np.minimum(need, table[-1])) + 1, 0)
    slot = np.where(small, table[size_class], -(-size // PAGE_SIZE) * PAGE_SIZE)
    return size_class << 1 | noscan, slot


class StartSizes:
    """Bytes of the slots of the heap that a recording starts from: its rows give spans, and objects' addresses."""

    def __init__(self) -> None:
        self._base = np.zeros(0, np.uint64)
        self._class = np.zeros(0, np.int64)
        self._pages = np.zeros(0, np.int64)

    def learn(self, columns: Columns) -> None:
        """Take in the spans."""
        spans = columns.kind == Event.START_SPAN
        if not spans.any():
            return
        base = np.concatenate([self._base, columns.expect[spans]])
        order = np.argsort(base, kind="stable")
        self._base = base[order]
        self._class = np.concatenate([self._class, columns.flags[spans].astype(np.int64)])[order]
        self._pages = np.concatenate([self._pages, columns.size[spans].astype(np.int64)])[order]

    def of(self, address: npt.NDArray[np.uint64]) -> tuple[Ints, Ints]:
        """Return (span class, bytes of the slot) of the objects there; 0 and 0 where there is no span."""
        if not len(self._base):
            return np.zeros(len(address), np.int64), np.zeros(len(address), np.int64)
        at = np.searchsorted(self._base, address, side="right") - 1
        there = at >= 0
        at = np.maximum(at, 0)
        size = size_classes()["size"].astype(np.int64)[self._class[at] >> 1]
        slot = np.where(size > 0, size, self._pages[at] * PAGE_SIZE)
        return np.where(there, self._class[at], 0), np.where(there, slot, 0)
