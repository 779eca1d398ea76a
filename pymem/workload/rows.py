"""Rows gathered kind by kind and sorted once: how recordings become columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pymem.workload.columns import Columns, Event

if TYPE_CHECKING:
    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]
    Array = npt.NDArray[Any]

__all__ = ["Rows", "latest"]

_RANKS = 16
"""Ranks that rows at one place may have, from -_RANKS / 2 on."""


class Rows:
    """Rows gathered in any order, each with the log position (and a rank within it) that it will be sorted by."""

    _NAMES = ("time", "kind", "flags", "proc", "goroutine", "type", "object", "size", "expect")

    def __init__(self, time: Array, proc: Array, goroutine: Array) -> None:
        self._time, self._proc, self._goroutine = time, proc, goroutine
        self._parts: list[dict[str, Array]] = []

    def add(
        self,
        kind: Event,
        at: Ints,
        *,
        rank: int = 1,
        proc: Array | None = None,
        source: Ints | None = None,
        **columns: Array | int,
    ) -> None:
        """Add a row at each position of `at`; `source` names the records that P, goroutine and time come from."""
        source = at if source is None else source
        part: dict[str, Array] = {
            "at": at,
            "rank": np.full(len(at), rank),
            "kind": np.full(len(at), int(kind)),
            "time": self._time[source],
            "goroutine": self._goroutine[source],
            "proc": self._proc[source] if proc is None else proc,
        }
        for name in ("flags", "type", "object", "size", "expect"):
            value = np.asarray(columns.get(name, 0)).astype(np.uint64)
            part[name] = np.broadcast_to(value, at.shape)
        self._parts.append(part)

    def columns(self) -> Columns:
        """Return all rows in the order of their places."""
        whole = {name: np.concatenate([p[name] for p in self._parts]) for name in self._parts[0]}
        place = whole["at"].astype(np.int64) * _RANKS + whole["rank"]
        order = np.argsort(place, kind="stable")  # the parts are runs in order: a merge, not a sort
        return Columns(**{name: whole[name][order] for name in self._NAMES})


def latest(keys: Array, born: Ints, wanted: Array, before: Ints) -> Ints:
    """For each wanted key return the index of the last of `keys` that was born before `before`, or -1."""
    if not len(keys) or not len(wanted):
        return np.full(len(wanted), -1)
    by_birth = np.argsort(born, kind="stable")
    order = by_birth[np.argsort(keys[by_birth], kind="stable")]
    ordered = keys[order]
    fresh = np.append(True, ordered[1:] != ordered[:-1])
    unique, rank = ordered[fresh], np.cumsum(fresh) - 1
    span = int(max(born.max(), before.max())) + 2  # one sortable number for (key, birth)
    haystack = rank * span + born[order]
    where = np.minimum(np.searchsorted(unique, wanted), len(unique) - 1)
    found = np.searchsorted(haystack, where * span + before) - 1
    candidate = order[np.maximum(found, 0)]
    good = (found >= 0) & (unique[where] == wanted) & (keys[candidate] == wanted)
    return np.where(good, candidate, -1)
