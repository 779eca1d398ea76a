"""The rungs of a ladder: a grid of settings, limits in bytes or as multiples of what the program keeps alive."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, NamedTuple

from pymem.errors import ConfigError
from pymem.rerun import rerun
from pymem.units import parse_memory_limit
from pymem.whatif.scenario import Scenario, grid

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pymem.program import Program

__all__ = ["Multiple", "ladder", "live_heap", "parse_limit"]

_MULTIPLE = re.compile(r"(\d+(?:\.\d+)?)x")


class Multiple(NamedTuple):
    """A memory limit, in units of the live heap."""

    times: float

    def __str__(self) -> str:
        return f"{self.times:g}x"


def parse_limit(limit: int | str | None) -> int | Multiple:
    """Return a limit in bytes (as `rerun` takes it), or as a multiple of the live heap: "1.3x". Raises ConfigError."""
    match = _MULTIPLE.fullmatch(limit.strip()) if isinstance(limit, str) else None
    if match is None:
        return parse_memory_limit(limit.strip() if isinstance(limit, str) else limit)
    times = float(match[1])
    if not 0 < times <= 1000:
        raise ConfigError(
            f"memory limit {limit!r}: give a multiple of the live heap from 0 to 1000, such as 1.3x"
        )
    return Multiple(times)


def live_heap(program: Program, *, gogc: int) -> int:
    """Return the most that a collection found alive, bytes: by a rerun under the recording's own GOGC.

    Without a cycle it is the most that there ever was.
    """
    run = rerun(program, gogc=gogc)
    return max((c.heap2 for c in run.cycles), default=run.peak_heap)


def ladder(
    gogc: Iterable[int | str | None],
    limits: Iterable[int | Multiple],
    *,
    live: int,
    gomaxprocs: int | None,
) -> dict[Scenario, str]:
    """Return the rungs in order, each with its limit as it was asked for ("1.3x", or nothing if in bytes)."""
    rungs: dict[Scenario, str] = {}
    percents = tuple(gogc)
    for limit in limits:
        times = isinstance(limit, Multiple)
        amount = math.ceil(limit.times * live) if isinstance(limit, Multiple) else limit
        for scenario in grid(gogc=percents, memory_limit=[amount], gomaxprocs=[gomaxprocs]):
            rungs.setdefault(scenario, str(limit) if times else "")
    return rungs
