"""`runtime/debug`, as far as it concerns memory: settings that a running program changes, and the history of pauses.

Each takes the runtime that it acts on, and each setter returns the setting before it, as in Go.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, Protocol

from pymem.errors import ConfigError
from pymem.gc import state
from pymem.units import parse_memory_limit

__all__ = [
    "DebugTarget",
    "GCStats",
    "free_os_memory",
    "read_gc_stats",
    "set_gc_percent",
    "set_max_stack",
    "set_memory_limit",
]


class DebugTarget(Protocol):
    """What is asked of a runtime. Each setter returns the setting before it."""

    @property
    def gc_stats(self) -> state.GCStats:
        """What the collector has counted."""

    @property
    def memory_limit(self) -> int:
        """Bytes."""

    def set_gc_percent(self, percent: int) -> int:
        """Set GOGC; -1: off."""

    def set_memory_limit(self, limit: int) -> int:
        """Set the memory limit, bytes from 0 on."""

    def set_max_stack(self, size: int) -> int:
        """Set how many bytes a goroutine's stack may have."""

    def free_os_memory(self) -> None:
        """Collect, and give all free pages back."""


@dataclass(frozen=True, slots=True)
class GCStats:
    """The history of pauses. Times are ns, dates ns since 1970. Go: debug.GCStats."""

    last_gc: int
    """0 before the first."""
    num_gc: int
    pause_total_ns: int
    pause_ns: tuple[int, ...]
    """The last 256 at most, newest first; a cycle's two pauses are one here."""
    pause_end: tuple[int, ...]
    """When those ended."""
    pause_quantiles: tuple[int, ...]
    """Of the pauses above, as many as were asked for, from the shortest to the longest."""


def set_gc_percent(rt: DebugTarget, percent: int) -> int:
    """Set GOGC in percent and return the old one; negative, as an argument or a result: off. Go: debug.SetGCPercent.

    ConfigError beyond an int32, where Go silently takes the lower half.
    """
    n = _integer("percent", percent)
    if not -(1 << 31) <= n < 1 << 31:
        raise ConfigError(f"percent={n}: give a percentage such as 100, or -1 for off")
    return rt.set_gc_percent(max(n, -1))


def set_memory_limit(rt: DebugTarget, limit: int | str) -> int:
    """Set the memory limit, in bytes or as GOMEMLIMIT has it ("64MiB", "off"), and return the old one in bytes.

    A negative number changes nothing. Go: debug.SetMemoryLimit.
    """
    if not isinstance(limit, str) and _integer("limit", limit) < 0:
        return rt.memory_limit
    return rt.set_memory_limit(parse_memory_limit(limit))


def set_max_stack(rt: DebugTarget, size: int) -> int:
    """Set how many bytes a goroutine's stack may grow to (1,000,000,000 at first), and return the old number.

    Go: debug.SetMaxStack.
    """
    n = _integer("size", size)
    if n < 0:
        raise ConfigError(f"size={n}: give a number of bytes from 0 on")
    return rt.set_max_stack(n)


def free_os_memory(rt: DebugTarget) -> None:
    """Collect, and give all free pages back to the system. Go: debug.FreeOSMemory."""
    rt.free_os_memory()


def read_gc_stats(rt: DebugTarget, *, quantiles: int = 5) -> GCStats:
    """Return the history of pauses, with so many quantiles (5: shortest, 25 %, 50 %, 75 %, longest).

    Go: debug.ReadGCStats.
    """
    gc = rt.gc_stats
    if _integer("quantiles", quantiles) < 0:
        raise ConfigError(f"quantiles={quantiles}: give how many, from 0 on")
    newest_first = [(gc.num_gc - 1 - i) % state.PAUSES_KEPT for i in range(min(gc.num_gc, state.PAUSES_KEPT))]
    pauses = tuple(gc.pause_ns[i] for i in newest_first)
    return GCStats(
        last_gc=gc.last_gc_unix_ns,
        num_gc=gc.num_gc,
        pause_total_ns=gc.pause_total_ns,
        pause_ns=pauses,
        pause_end=tuple(gc.pause_end[i] for i in newest_first),
        pause_quantiles=_quantiles(sorted(pauses), quantiles),
    )


def _quantiles(rising: list[int], count: int) -> tuple[int, ...]:
    """Return count values at even steps, the last being the largest; zeros where there is nothing."""
    if not rising or count == 0:
        return (0,) * count
    steps = count - 1
    return (*(rising[len(rising) * i // steps] for i in range(steps)), rising[-1])


def _integer(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise ConfigError(f"{name}={value!r}: give a whole number") from None
