"""A recorded program, ready to run under any settings: its rows without the recorder, deaths in their place, costs.

Getting there (decoding, calibrating, placing deaths) takes longer than a run does, and is the same for all settings. So
it is done once; the rows stay in memory unless there are too many, and then each run reads the recording anew.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pymem._arguments import whole
from pymem.gc.costs import Costs
from pymem.gc.cycle import EMPTY_PROGRAM_GLOBALS
from pymem.gc.gonumbers import MAX_INT64
from pymem.replay import EventSource, commits_of
from pymem.workload.calibration import Calibration, calibrate
from pymem.workload.columns import Columns, Event
from pymem.workload.spread import spread_deaths
from pymem.workload.steady_procs import with_steady_procs
from pymem.workload.trace_stream import TraceStream
from pymem.workload.without_tracer import without_tracer

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from pymem.workload.workload import WorkloadType

__all__ = ["MOST_KEPT", "Fit", "Part", "Program", "part_of", "read_program"]

MOST_KEPT = 24_000_000
"""Rows kept in memory, 41 bytes each: about 1 GB."""
_CHUNK = 1 << 17


class Part(NamedTuple):
    """Some rows in a row."""

    columns: Columns
    busy: int
    """Goroutines, or Ps, that make a fair share (a tenth) of the allocations: as many Ps as could be at work."""
    stack_rows: npt.NDArray[np.int64]
    """Rows in which stacks come or go."""
    stack_bytes: npt.NDArray[np.int64]
    """By how much they have grown with each of these, since the first."""

    def stacks_before(self, row: int) -> int:
        """Return by how many bytes stacks have grown in the rows before this one.

        Rows do not tell a system stack from a goroutine's, nor that a goroutine has ended whose stack is kept for the
        next one.
        """
        i = bisect_left(self.stack_rows.data, row)
        return int(self.stack_bytes[i - 1]) if i else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What a log of an untraced run says of a recording (`pymem.whatif.fitting`)."""

    mark: float
    """How many times the costs of marking that the recording tells."""
    time: float
    """How many times the time that the recording says the program takes."""
    mark_error: float
    """Standard errors of the logarithms of these two."""
    time_error: float
    cycles: int
    """Of the log."""
    gogc: int
    """Percent, of the log."""
    stops: tuple[int, ...]
    """ns that the world was stopped for to begin each cycle, and to end its mark."""
    terms: tuple[int, ...]

    def costs(self, costs: Costs) -> Costs:
        """Return costs that are by the log where it tells them."""
        return replace(
            costs,
            mark_byte_ns=costs.mark_byte_ns * self.mark,
            mark_object_ns=costs.mark_object_ns * self.mark,
            stop_ns=round(median(self.stops)),
            term_ns=round(median(self.terms)),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """What `rerun` runs. It is never changed, so threads may share it."""

    source: EventSource
    costs: Costs
    """What this program's collections cost, as far as its recording tells."""
    globals_bytes: int
    """Globals that hold pointers, and stacks where the recording has these together."""
    calibration: Calibration | None
    """Of an execution trace."""
    spread: bool
    kept: tuple[Part, ...] | None
    """All rows; None: they are read anew for each run."""
    fit: Fit | None = None
    """Of a log beside the recording; `costs` are by it then."""

    def fitted(self, fit: Fit) -> Program:
        """Return the program as a log of an untraced run has it. The fit is of the program as it is, fitted or not."""
        costs, old = fit.costs(self.costs), self.fit
        if old:
            fit = replace(fit, mark=fit.mark * old.mark, time=fit.time * old.time)
        return replace(self, costs=costs, fit=fit)

    @property
    def types(self) -> Sequence[WorkloadType]:
        """The types that rows name by number."""
        return self.source.types

    @property
    def procs(self) -> int:
        """The recorded GOMAXPROCS."""
        return self.source.procs

    def parts(self) -> Iterator[Part]:
        """Yield the rows in order."""
        yield from self.kept if self.kept is not None else _parts(self.source, spread=self.spread)


def read_program(
    source: EventSource,
    *,
    costs: Costs | None = None,
    globals_bytes: int | None = None,
    spread: bool = True,
    calibrated: bool = True,
    keep: bool | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Program:
    """Make a recording ready to run.

    Args:
        source: the recording.
        costs: what collecting costs where an execution trace does not tell; None: what the source says, or `Costs()`.
        globals_bytes: globals that hold pointers; None: the record's, or an empty program's where it does not tell.
        spread: move deaths from the mark that found them to somewhere since the one before (`spread_deaths`).
        calibrated: take off what recording cost, and have marking cost what it did then (`calibrate`). Of execution
            traces only; others leave it.
        keep: keep the rows in memory; None: if they are no more than MOST_KEPT.
        progress: called now and then with (rows read, rows in all).

    Raises what `replay` raises.

    """
    given = costs is not None
    if costs is None:  # some sources say what collecting cost
        costs = (getattr(source, "costs", None) if calibrated else None) or Costs()
    if globals_bytes is None:  # and how large they were
        globals_bytes = getattr(source, "globals_bytes", None)
    else:
        globals_bytes = whole("globals_bytes", globals_bytes, 0, MAX_INT64)
    calibration = None
    if isinstance(source, TraceStream):
        if calibrated:
            calibration = calibrate(source, costs=costs, globals_bytes=globals_bytes)
            costs, globals_bytes = calibration.costs(costs), calibration.globals_bytes
            costs = costs if given else calibration.pauses(costs)
    elif globals_bytes is None:
        commits = commits_of(source)
        globals_bytes = commits[-1].globals_scan if commits else None
    kept = None
    if len(source) <= MOST_KEPT if keep is None else keep:
        kept = _keep(source, spread=spread, progress=progress)
    return Program(
        source=source,
        costs=costs,
        globals_bytes=EMPTY_PROGRAM_GLOBALS if globals_bytes is None else globals_bytes,
        calibration=calibration,
        spread=spread,
        kept=kept,
    )


def _keep(
    source: EventSource, *, spread: bool, progress: Callable[[int, int], None] | None
) -> tuple[Part, ...]:
    kept, rows = [], 0
    for part in _parts(source, spread=spread):
        kept.append(part)
        rows += len(part.columns)
        if progress:
            progress(min(rows, len(source)), len(source))
    return tuple(kept)


def _parts(source: EventSource, *, spread: bool) -> Iterator[Part]:
    chunks = source.chunks(_CHUNK)
    if source.tier == "trace":
        chunks = with_steady_procs(without_tracer(chunks, source.types), source.procs)
    if spread and getattr(source, "resolution", "cycle") == "cycle":
        chunks = spread_deaths(chunks)
    for columns in chunks:
        yield part_of(columns)


def part_of(columns: Columns) -> Part:
    """Return rows as a part of a program."""
    made, gone = columns.kind == Event.STACK_ALLOC, columns.kind == Event.STACK_FREE
    rows = np.flatnonzero(made | gone)
    grown = np.where(made[rows], 1, -1) * columns.size[rows].astype(np.int64)
    return Part(columns, _busy(columns), rows, np.cumsum(grown))


def _busy(columns: Columns) -> int:
    """Return how many Ps the program could keep at work: one a goroutine that allocates much.

    Those that take turns count as if they ran side by side.
    """
    allocs = columns.kind == Event.ALLOC
    who = columns.goroutine[allocs] if columns.goroutine.any() else columns.proc[allocs]
    if not len(who):
        return 1
    shares = np.unique(who, return_counts=True)[1]
    return max(1, int((shares * 10 >= len(who)).sum()))
