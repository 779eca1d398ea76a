"""What to ask for: settings, alone and in grids."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

from pymem._arguments import whole
from pymem.errors import ConfigError
from pymem.units import NO_LIMIT, format_bytes, format_gogc, go_bytes, parse_gogc, parse_memory_limit
from pymem.workload.trace_stream import MOST_PROCS

__all__ = ["Scenario", "grid"]


@dataclass(frozen=True, slots=True, order=True)
class Scenario:
    """Settings of Go's runtime."""

    gogc: int = 100
    """Percent; -1 is off."""
    memory_limit: int = NO_LIMIT
    """Bytes; `NO_LIMIT` is none."""
    gomaxprocs: int | None = None
    """Ps; None: as recorded."""

    def __str__(self) -> str:
        """Write the settings as a shell would set them."""
        words = [f"GOGC={format_gogc(self.gogc)}"]
        if self.memory_limit < NO_LIMIT:
            words.append(f"GOMEMLIMIT={go_bytes(self.memory_limit)}")
        if self.gomaxprocs is not None:
            words.append(f"GOMAXPROCS={self.gomaxprocs}")
        return " ".join(words)

    @property
    def limit_text(self) -> str:
        """The limit for people."""
        return "off" if self.memory_limit >= NO_LIMIT else format_bytes(self.memory_limit)


def grid(
    *,
    gogc: Iterable[int | str | None] = (100,),
    memory_limit: Iterable[int | str | None] = (None,),
    gomaxprocs: Iterable[int | None] = (None,),
) -> tuple[Scenario, ...]:
    """Return every combination, each once, in the order given: Ps first, then limits, then GOGC.

    Values are as in `rerun`. Raises ConfigError.
    """
    percents = [-1 if (percent := parse_gogc(g)) is None else percent for g in gogc]
    limits = [parse_memory_limit(limit) for limit in memory_limit]
    procs = list(gomaxprocs)
    for p in procs:
        if p is not None:
            whole("gomaxprocs", p, 1, MOST_PROCS)
    if not percents or not limits or not procs:
        raise ConfigError("a grid needs at least one value of each: leave out what is to stay as it is")
    return tuple(dict.fromkeys(Scenario(g, m, p) for p, m, g in product(procs, limits, percents)))
