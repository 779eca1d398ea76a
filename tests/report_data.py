"""Data for tests of reports: what other parts of pymem would bring, and the largest report there may be."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pymem.report.heap_map import CELLS, STATES, HeapMap
from pymem.report.rows import Estimate, ReportRow
from pymem.rerun import TIMELINE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from pymem.report import ReportData

__all__ = ["MadeCensus", "MadeType", "made_census", "made_rows", "worst"]

NAMES = (
    "main.node",
    "*encoding/json.decodeState",
    "map.bucket[string]github.com/prometheus/prometheus/model/labels.Labels",
    "[]uint8",
    "struct { Name string \"json:\\\"name\\\"\"; Price $$x$$; Next *[4]func(io.Writer) (int, error) }",
    "go.shape.struct { sync.Mutex; m map[<b>string</b>]int }",
)  # fmt: skip


@dataclass(frozen=True)
class MadeType:
    name: str
    allocated_objects: int
    allocated_bytes: int
    live_bytes: npt.NDArray[np.int64]
    lifetime_bytes: tuple[float, float, float]
    died_young: float


@dataclass(frozen=True)
class MadeCensus:
    time_ns: npt.NDArray[np.int64]
    types: tuple[MadeType, ...]


def made_census(data: ReportData, *, names: Sequence[str] = NAMES, n: int = 24) -> MadeCensus:
    """Make types that come and go; of every seventh more than half outlive the recording."""
    rng = np.random.default_rng(7)
    at = np.arange(200)
    types = []
    for i in range(n):
        swing = 1 + 0.5 * np.sin(at / 7 + i)
        live = 4e6 / (i + 1) * rng.random() * swing * np.minimum(1, at / 30)
        p50 = 10 ** rng.uniform(3, 6) if i % 7 != 6 else float("inf")
        types.append(
            MadeType(
                name=names[i % len(names)] + ("" if i < len(names) else f"[{i}]"),
                allocated_objects=100_000 // (i + 1),
                allocated_bytes=50_000_000 // (i + 1),
                live_bytes=live.astype(np.int64),
                lifetime_bytes=(p50, 8 * p50, 60 * p50),
                died_young=float(rng.random()),
            )
        )
    times = np.linspace(0, int(data.heap_map.time_ns[-1]), len(at)).astype(np.int64)
    return MadeCensus(times, tuple(types))


def made_rows(gogc: Sequence[int] = (25, 50, 100, 200, 400)) -> tuple[ReportRow, ...]:
    """Make the rows of a what-if over GOGC and three limits."""

    def about(value: float, part: float) -> Estimate:
        return Estimate(value, value * (1 - part), value * (1 + part))

    rows = []
    for limit in (2**63 - 1, 24 << 20, 40 << 20):
        off = limit == 2**63 - 1
        for percent in gogc:
            cpu = 0.3 * (25 / percent) ** 0.8 * (1 if off else 1 + 6e6 / limit)
            memory = (12 + percent / 10) * 2**20 * (1 if off else 0.95)
            peak, share = about(memory, 0.04), about(cpu, 0.08)
            gcs, heap = about(3000 / percent, 0.05), about(0.8 * memory, 0.04)
            rows.append(ReportRow(percent, limit, 2, off, gcs, heap, peak, share))
    return tuple(rows)


def worst(data: ReportData) -> ReportData:
    """Return a report on a long run: a million samples, 100,000 cycles, 10,000 types with long names, 3,000 rows."""
    rng = np.random.default_rng(3)
    n, cycles = 1_000_000, 100_000
    line: npt.NDArray[Any] = np.zeros(n, TIMELINE)
    line["time_ns"] = np.arange(n) * 1_000_000
    for name in ("heap_live", "heap_goal", "heap_in_use", "heap_released", "mapped_ready"):
        line[name] = rng.integers(1 << 30, 1 << 34, n)
    one = data.run.cycles[0]
    step = n * 1_000_000 // cycles
    many = tuple(
        replace(one, number=i + 1, start_ns=i * step, mark_ns=i * step + 10_000, term_ns=i * step + step // 3,
                end_ns=i * step + step // 3 + 20_000 + i % 977, heap1=int(rng.integers(1 << 30, 1 << 34)))
        for i in range(cycles)
    )  # fmt: skip
    heap = data.heap_map
    shape = (64, CELLS)
    whole = HeapMap(
        time_ns=np.arange(64) * n * 15_000,
        states=rng.integers(0, len(STATES), shape).astype(np.uint8),
        pages_a_cell=1 << 16,
        base=heap.base,
        mapped=np.full(64, 1 << 40),
        in_spans=np.full(64, 1 << 40),
        used=np.full(64, 1 << 39),
    )
    from pymem.report.data import pauses_of
    from pymem.report.mmu import mmu_curve

    run = replace(data.run, timeline=line, cycles=many, virtual_ns=n * 1_000_000)
    census = made_census(data, names=["a/very/long." * 400], n=10_000)
    return replace(
        data,
        run=run,
        heap_map=whole,
        census=census,
        pauses=pauses_of(many),
        mmu=mmu_curve(many, run.virtual_ns),
        rows=made_rows(range(1, 1001)),
        command="x" * 100_000,
        name="n" * 250,
    )
