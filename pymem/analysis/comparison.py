"""A program and the same with types changed, run side by side under one setting and the same draws of chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pymem.analysis.changes import noscan, resize
from pymem.analysis.pooling import CountingPacer, PoolUse, pool
from pymem.program import Program, read_program
from pymem.rerun import rerun
from pymem.whatif.figures import figures
from pymem.whatif.predict import chances

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from pymem.replay import EventSource
    from pymem.rerun import Rerun

__all__ = ["Changes", "Comparison", "Side", "Spread", "compare"]


@dataclass(frozen=True, slots=True)
class Changes:
    """What is changed; types by name or pattern. Sizes first, then pointers, then pools."""

    pool: Sequence[str] = ()
    noscan: Sequence[str] = ()
    resize: Mapping[str, int] = field(default_factory=dict)
    """Bytes a value."""

    def __bool__(self) -> bool:
        return bool(self.pool or self.noscan or self.resize)


class Side(NamedTuple):
    """What one of the two runs came to."""

    allocations: int
    """Objects, parts of tiny blocks included."""
    allocated_bytes: int
    """Of slots."""
    num_gc: int
    peak_heap: int
    mean_heap: int
    peak_footprint: int
    gc_cpu: float
    """Share of all processor time."""
    gc_cpu_ns: int
    """Processor time of collecting, what idle Ps did apart."""
    assist_ns: int
    pause_ns: int
    """All pauses together."""
    marked_bytes: int
    allocation_cpu_ns: int
    """Processor time of allocating, by `Costs.malloc_ns` and `malloc_byte_ns`: an estimate."""


class Spread(NamedTuple):
    """By how much a figure changes: the median, the least and the most over all draws."""

    median: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether it goes the same way whatever chance does."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both programs, run under the same draws of chance."""

    gogc: int
    memory_limit: int
    gomaxprocs: int
    draws: int
    before: Side
    """Medians over the draws, as `after`."""
    after: Side
    changes: dict[str, Spread]
    """After less before, draw by draw, of each figure of a side."""
    pool: PoolUse | None
    """Of the middle draw; None: nothing was pooled."""


def compare(
    source: EventSource | Program,
    changes: Changes,
    *,
    gogc: int | str | None = 100,
    memory_limit: int | str | None = None,
    gomaxprocs: int | None = None,
    draws: int = 5,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Run a program as it was recorded and with changes, both by the emulated pacer.

    The settings are `rerun`'s; draws and seed those of `pymem.whatif.chances`: one run may have a cycle more by chance
    alone. Time is the record's in both: what the program saves or spends itself (allocating, clearing, cache misses)
    does not move it. progress: called now and then with (rows done, rows of all runs). Raises `ConfigError` for types
    that the recording has not, and what `rerun` raises.
    """
    if draws < 1:
        raise ValueError(f"draws={draws}: give 1 or more")
    program = source if isinstance(source, Program) else read_program(source)
    after = program
    if changes.resize:
        after = resize(after, changes.resize)
    if changes.noscan:
        after = noscan(after, changes.noscan)
    pairs: list[list[Side]] = []
    uses: list[PoolUse] = []
    for chance in chances(draws, seed):
        sides: list[Side] = []
        for of, pooled in ((program, ()), (after, changes.pool)):
            pacer, use = CountingPacer(), PoolUse()
            run = rerun(
                pool(of, pooled, pacer, use),
                gogc=gogc,
                memory_limit=memory_limit,
                gomaxprocs=gomaxprocs,
                pacer=pacer,
                chance=chance,
                progress=_part_of(progress, 2 * len(pairs) + len(sides), 2 * draws),
            )
            sides.append(_side(run, program))
        pairs.append(sides)
        uses.append(use)
    table = np.array(pairs, float)  # draw, side, figure
    return Comparison(
        gogc=run.gogc,
        memory_limit=run.memory_limit,
        gomaxprocs=run.gomaxprocs,
        draws=draws,
        before=_middle(table[:, 0]),
        after=_middle(table[:, 1]),
        changes={
            name: Spread(float(np.median(change)), float(change.min()), float(change.max()))
            for name, change in zip(Side._fields, (table[:, 1] - table[:, 0]).T, strict=True)
        },
        pool=uses[0] if changes.pool else None,
    )


def _middle(figures: npt.NDArray[np.float64]) -> Side:
    named = Side(*np.median(figures, axis=0).tolist())
    return Side(*(value if name == "gc_cpu" else round(value) for name, value in named._asdict().items()))


def _part_of(
    progress: Callable[[int, int], None] | None, part: int, parts: int
) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(part * total + done, parts * total)


def _side(run: Rerun, program: Program) -> Side:
    told, stats, costs = figures(run), run.memstats, program.costs
    return Side(
        allocations=stats.mallocs,
        allocated_bytes=stats.total_alloc,
        num_gc=len(run.cycles),
        peak_heap=run.peak_heap,
        mean_heap=round(told.mean_heap),
        peak_footprint=round(told.peak_footprint),
        gc_cpu=told.gc_cpu,
        gc_cpu_ns=run.stats.cpu.gc_total - run.stats.cpu.gc_idle,
        assist_ns=round(told.assist_ns),
        pause_ns=sum(c.pause_ns for c in run.cycles),
        marked_bytes=round(told.marked_bytes),
        allocation_cpu_ns=round(stats.mallocs * costs.malloc_ns + stats.total_alloc * costs.malloc_byte_ns),
    )
