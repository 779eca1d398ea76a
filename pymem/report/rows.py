"""Rows of a what-if table, as a report reads them: from `pymem.whatif`, or from the JSON that its verb prints."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pymem.errors import RecordingError

if TYPE_CHECKING:
    import os

__all__ = ["Estimate", "EstimateLike", "ReportRow", "RowLike", "load_rows"]


class EstimateLike(Protocol):
    """A prediction and its interval."""

    @property
    def value(self) -> float:
        """The prediction."""

    @property
    def low(self) -> float:
        """Lower end of its interval."""

    @property
    def high(self) -> float:
        """Upper end of its interval."""


class RowLike(Protocol):
    """One scenario; what a report reads of it."""

    @property
    def gogc(self) -> int:
        """Percent, -1: off."""

    @property
    def memory_limit(self) -> int:
        """Bytes, 2**63 - 1: off."""

    @property
    def gomaxprocs(self) -> int:
        """Ps."""

    @property
    def pareto(self) -> bool:
        """Whether no other row needs both less memory and less processor time."""

    @property
    def num_gc(self) -> EstimateLike:
        """GC cycles."""

    @property
    def peak_heap(self) -> EstimateLike:
        """Bytes."""

    @property
    def peak_footprint(self) -> EstimateLike:
        """Bytes."""

    @property
    def gc_cpu(self) -> EstimateLike:
        """Share of all processor time, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A prediction and its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ReportRow:
    """One scenario, read from a file."""

    gogc: int
    memory_limit: int
    gomaxprocs: int
    pareto: bool
    num_gc: Estimate
    peak_heap: Estimate
    peak_footprint: Estimate
    gc_cpu: Estimate


def load_rows(path: str | os.PathLike[str]) -> tuple[ReportRow, ...]:
    """Read the rows in what `pymem whatif FILE --json` printed. Raises `RecordingError`, `OSError`."""
    raw = Path(path).read_bytes()
    try:
        return tuple(_row(row) for row in json.loads(raw)["rows"])
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise RecordingError(
            f"{path}: not the answer of a what-if: {why}: write it with `pymem whatif FILE --json > rows.json`"
        ) from None


def _row(row: dict[str, Any]) -> ReportRow:
    if not isinstance(row["pareto"], bool):
        raise ValueError(f"pareto is {row['pareto']!r:.40}")
    return ReportRow(
        gogc=_whole(row["gogc"], "gogc"),
        memory_limit=_whole(row["memory_limit"], "memory_limit"),
        gomaxprocs=_whole(row["gomaxprocs"], "gomaxprocs"),
        pareto=row["pareto"],
        num_gc=_estimate(row["num_gc"], "num_gc"),
        peak_heap=_estimate(row["peak_heap"], "peak_heap"),
        peak_footprint=_estimate(row["peak_footprint"], "peak_footprint"),
        gc_cpu=_estimate(row["gc_cpu"], "gc_cpu"),
    )


def _whole(value: Any, name: str) -> int:
    if type(value) is not int or not -1 <= value < 1 << 63:
        raise ValueError(f"{name} is {value!r:.40}, no whole number")
    return value


def _estimate(value: dict[str, Any], name: str) -> Estimate:
    numbers = [value[key] for key in ("value", "low", "high")]
    for number in numbers:
        if type(number) not in (int, float) or not math.isfinite(number) or not 0 <= number < 1 << 63:
            raise ValueError(f"{name} has {number!r:.40}")
    return Estimate(*map(float, numbers))
