"""A row of the answer: what is predicted for one scenario, and how far that may be off."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Estimate", "Row", "mark_pareto"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and the interval that should hold a real run's median nine times in ten."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One scenario. Bytes, nanoseconds, fractions; see `Figures` for what each is."""

    gogc: int
    """Percent, -1 for off."""
    memory_limit: int
    """Bytes, 2**63 - 1 for none."""
    gomaxprocs: int
    tier: str
    """What the prediction rests on: `exact`, `trace`, `workload`, `gctrace` or `samples`."""
    num_gc: Estimate
    peak_heap: Estimate
    mean_heap: Estimate
    peak_footprint: Estimate
    gc_cpu: Estimate
    assist_ns: Estimate
    pause_ns: Estimate
    pause_p99_ns: Estimate
    pause_max_ns: Estimate
    marked_bytes: Estimate
    live_heap: Estimate
    limited: Estimate
    effective_gogc: Estimate
    duration_ns: Estimate
    warning: str = ""
    """What is wrong with these settings, in a sentence; as a rule nothing."""
    pareto: bool = False
    """Whether no other row needs both less memory (peak_footprint) and less processor time (gc_cpu)."""

    def facts(self) -> dict[str, Any]:
        """Return the row as --json prints it. None is infinite: the effective GOGC of one that is off."""
        facts = asdict(self)
        for estimate in facts.values():
            if isinstance(estimate, dict):
                estimate |= {name: None for name, x in estimate.items() if math.isinf(x)}
        return facts

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Row:
        """Make a row of what `facts` returned. Raises KeyError, TypeError."""
        estimates = {f.name for f in fields(cls) if f.type == "Estimate"}
        values: dict[str, Any] = {n: _estimate(**v) if n in estimates else v for n, v in facts.items()}
        return cls(**values)


def _estimate(**figures: float | None) -> Estimate:
    return Estimate(**{name: math.inf if x is None else x for name, x in figures.items()})


def mark_pareto(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Return the rows, those marked that no other beats in memory and processor time both.

    Of equal ones all are marked. Sorted by memory, a row is on the front if it takes less time than all before it.
    """
    rows = tuple(rows)
    best = float("inf")
    front = set()
    places = sorted(range(len(rows)), key=lambda i: (rows[i].peak_footprint.value, rows[i].gc_cpu.value))
    for i in places:
        cpu, memory = rows[i].gc_cpu.value, rows[i].peak_footprint.value
        if cpu < best or (cpu, memory) in front:
            best = cpu
            front.add((cpu, memory))
    return tuple(replace(row, pareto=(row.gc_cpu.value, row.peak_footprint.value) in front) for row in rows)
