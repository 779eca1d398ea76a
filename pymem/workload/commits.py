"""What a recorded program's pacer was told, and what it answered, each time it computed its goal anew."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from pymem.workload.exact_log import ExactLog, Op

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Commit", "commits_from_log"]

_GROUP = (Op.PACER, Op.PACER_GOAL, Op.PACER_HEAP, Op.PACER_MEMORY, Op.PACER_TRIGGER)


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit of Go's gcController, all in bytes but GOGC and cons/mark.

    Up to deaths_known they are what an emulator of the heap cannot know; the others are there to be compared with.
    """

    gc_percent: int
    """GOGC in percent, -1 for off."""
    memory_limit: int
    """2**63 - 1 for none."""
    last_stack_scan: int
    """Of stacks, scanned by the last cycle."""
    globals_scan: int
    cons_mark: float
    """It depends on times."""
    sweep_done: bool
    deaths_known: bool
    """Whether the last cycle's sweep ends within the record, so that it tells of all that the cycle found dead."""
    heap_live: int
    heap_marked: int
    heap_scan: int
    last_heap_scan: int
    """Scanned by the last cycle."""
    total_alloc: int
    total_free: int
    mapped_ready: int
    heap_free: int
    gc_percent_heap_goal: int
    """By GOGC alone; 2**64 - 1 for off."""
    sweep_dist_min_trigger: int
    """0 where sweep_done."""
    heap_goal: int
    trigger: int

    @classmethod
    def read(cls, values: dict[str, object]) -> Commit:
        """Make one of what JSON says. Raises `ValueError`, `KeyError`."""
        kinds = {f.name: {"int": int, "float": float, "bool": bool}[str(f.type)] for f in fields(cls)}
        for name, kind in kinds.items():
            if type(values[name]) is not kind:
                raise ValueError(f"{name} of a commit is {values[name]!r:.40}")
        return cls(**{name: values[name] for name in kinds})  # type: ignore[arg-type]


def commits_from_log(log: ExactLog) -> tuple[npt.NDArray[np.int64], tuple[Commit, ...]]:
    """Return the commits of a log, and where in it they are; none of a log from before they were recorded whole."""
    ops = log.records["op"]
    at = [np.flatnonzero(ops == op) for op in _GROUP]
    n = len(at[-1])
    if not n or any(len(a) < n for a in at):
        return np.empty(0, np.int64), ()
    rows = [log.records[a[:n]][["a", "b", "c"]].tolist() for a in at]
    settings = (_settings(log, op, at[-1]) for op in (Op.GC_PERCENT, Op.MEMORY_LIMIT))
    ended = np.flatnonzero(ops == Op.GC_SWEEP_DONE)
    flips = np.flatnonzero(ops == Op.FLIP)
    last = np.searchsorted(flips, at[-1])
    swept = np.append(True, np.searchsorted(ended, flips) < len(ended))[last].tolist()
    floats = log.records["c"][at[-1]].view(np.float64).tolist()
    commits = [_commit(*one) for one in zip(*settings, floats, swept, zip(*rows, strict=True), strict=True)]
    return at[-1], tuple(commits)


def _settings(log: ExactLog, op: Op, commits: npt.NDArray[np.int64]) -> list[int]:
    """Return the value that a setting had at each commit: the last one recorded before it."""
    set_at = np.flatnonzero(log.records["op"] == op)
    values = log.records["a"][set_at].view(np.int64)
    return [int(values[i - 1]) for i in np.searchsorted(set_at, commits)]


def _commit(
    gc_percent: int,
    memory_limit: int,
    cons_mark: float,
    deaths_known: bool,
    group: tuple[tuple[int, int, int], ...],
) -> Commit:
    pacer, goal, heap, memory, trigger = group
    return Commit(
        gc_percent=gc_percent,
        memory_limit=memory_limit,
        last_stack_scan=pacer[0],
        globals_scan=pacer[1],
        cons_mark=cons_mark,
        sweep_done=memory[2] == 0,
        deaths_known=deaths_known,
        heap_live=goal[0],
        heap_marked=pacer[2],
        heap_scan=heap[0],
        last_heap_scan=goal[1],
        total_alloc=heap[1],
        total_free=heap[2],
        mapped_ready=memory[0],
        heap_free=memory[1],
        gc_percent_heap_goal=goal[2],
        sweep_dist_min_trigger=memory[2],
        heap_goal=trigger[1],
        trigger=trigger[0],
    )
