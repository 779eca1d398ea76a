"""Record once, predict a ladder of settings, run the real program under each, and hold one against the other."""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pymem._arguments import whole
from pymem.accuracy.ladder import ladder, live_heap, parse_limit
from pymem.accuracy.measure import Measured, Measurement, measure, measurement
from pymem.accuracy.settings import measured_env, traced
from pymem.errors import ConfigError, RecordingError
from pymem.program import read_program
from pymem.record.running import run_program
from pymem.record.subject import Subject, prepare
from pymem.units import NO_LIMIT, parse_gogc
from pymem.whatif.predict import THRASHING, thrashes
from pymem.whatif.row import Estimate, Row
from pymem.whatif.sweep import sweep
from pymem.workload.sources import open_stream
from pymem.workload.trace_stream import MOST_PROCS

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pymem.gc.costs import Costs
    from pymem.program import Program
    from pymem.record.running import Ran
    from pymem.whatif.scenario import Scenario

__all__ = [
    "FIGURES",
    "Accuracy",
    "Comparison",
    "Rung",
    "Summary",
    "accuracy",
    "compare",
    "record",
    "rerun_ladder",
    "summarise",
]

FIGURES = ("num_gc", "peak_heap", "marked_bytes", "gc_cpu")
"""What is compared, as `Row` and `Measurement` call it."""
_NEAR_LIMIT = 0.5
"""Of a limit: where heapLive alone comes to less, a busy collector is GOGC's and not the limit's."""
_ROUNDED = 0.05
_FEW = 10
"""Cycles, below which one more or less is chance."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure under one setting."""

    figure: str
    predicted: Estimate
    measured: Measured
    rounding: float = 0.0
    """By how much the median may be off, in its own unit, since it is known no better."""

    @property
    def error(self) -> float | None:
        """Prediction less measured median, as a share of that; of gc_cpu, in its own unit. None: nothing to compare.

        Of fewer than ten cycles, one more or less is no error. What is known to no better than 5 % is not compared.
        """
        real = self.measured.median
        difference = self.predicted.value - real
        if self.figure == "gc_cpu":
            return difference
        if self.rounding > _ROUNDED * abs(real):
            return None
        if difference == 0 or (self.figure == "num_gc" and real < _FEW and abs(difference) <= 1):
            return 0.0
        return difference / real if real else None

    @property
    def inside(self) -> bool:
        """Whether the measured median lies in the predicted interval."""
        return self.predicted.low <= self.measured.median <= self.predicted.high

    def facts(self) -> dict[str, Any]:
        """Return what --json prints."""
        return {
            "predicted": asdict(self.predicted),
            "measured": self.measured._asdict(),
            "error": self.error,
            "inside": self.inside,
        }


@dataclass(frozen=True, slots=True)
class Rung:
    """One setting: the prediction, and the real runs."""

    scenario: Scenario
    asked: str
    """The limit as it was asked for, where that was a multiple of the live heap; else nothing."""
    row: Row
    runs: tuple[Measurement, ...]

    @property
    def comparisons(self) -> dict[str, Comparison]:
        """By figure."""
        found = measure(self.runs)
        rounding = {"marked_bytes": found["marked_rounding"].median}
        return {
            name: Comparison(name, getattr(self.row, name), found[name], rounding.get(name, 0.0))
            for name in FIGURES
        }

    @property
    def thrashing(self) -> tuple[bool, bool]:
        """Whether the collector works most of the time for the limit's sake: predicted, and by measure."""
        row, limit = self.row, self.scenario.memory_limit
        told = ("limited", "effective_gogc", "peak_footprint", "gc_cpu")
        predicted = thrashes(self.scenario, **{name: getattr(row, name).value for name in told})
        busy = statistics.median(run.gc_cpu for run in self.runs) > THRASHING
        peak = statistics.median(run.peak_heap for run in self.runs)
        near = self.scenario.gogc < 0 or peak >= _NEAR_LIMIT * limit
        return predicted, busy and limit < NO_LIMIT and near

    def facts(self) -> dict[str, Any]:
        """Return what --json prints."""
        predicted, measured = self.thrashing
        return {
            "gogc": self.scenario.gogc,
            "memory_limit": self.scenario.memory_limit,
            "limit_asked": self.asked,
            "gomaxprocs": self.row.gomaxprocs,
            **{name: c.facts() for name, c in self.comparisons.items()},
            "thrashing": {"predicted": predicted, "measured": measured},
            "seconds": measure(self.runs)["seconds"]._asdict(),
            "warning": self.row.warning,
        }


@dataclass(frozen=True, slots=True)
class Summary:
    """One figure over many rungs."""

    figure: str
    rungs: int
    """Those in which there was something to compare."""
    mean_error: float
    """Mean of the errors' absolute values. See `Comparison.error`."""
    bias: float
    """Mean of the errors."""
    noise: float
    """Mean of the rungs' noise: no prediction is worth more than that."""
    inside: int
    """Rungs whose measured median lies in the predicted interval."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """What came out of it."""

    command: tuple[str, ...]
    words: tuple[str, ...]
    """What was really run."""
    recording: str
    record_gogc: int
    live_heap: int
    """Bytes: what multiples in the ladder are of."""
    rungs: tuple[Rung, ...]

    @property
    def summaries(self) -> tuple[Summary, ...]:
        """Each figure over all rungs."""
        return summarise(self.rungs)

    def facts(self) -> dict[str, Any]:
        """Return what --json prints."""
        return {
            "command": list(self.command),
            "run": list(self.words),
            "recording": self.recording,
            "record_gogc": self.record_gogc,
            "live_heap": self.live_heap,
            "reruns": len(self.rungs[0].runs),
            "rungs": [rung.facts() for rung in self.rungs],
            "summary": {
                s.figure: {k: v for k, v in asdict(s).items() if k != "figure"} for s in self.summaries
            },
        }


def summarise(rungs: Iterable[Rung]) -> tuple[Summary, ...]:
    """Sum rungs up, of one program or of many, figure by figure."""
    rungs = tuple(rungs)
    return tuple(_summary(name, [rung.comparisons[name] for rung in rungs]) for name in FIGURES)


def _summary(name: str, comparisons: Sequence[Comparison]) -> Summary:
    told = [(c, error) for c in comparisons if (error := c.error) is not None]
    errors = [error for _, error in told] or [0.0]
    return Summary(
        figure=name,
        rungs=len(told),
        mean_error=statistics.fmean(map(abs, errors)),
        bias=statistics.fmean(errors),
        noise=statistics.fmean([c.measured.noise for c, _ in told] or [0.0]),
        inside=sum(c.inside for c, _ in told),
    )


class _Steps:
    """Tells how much is done."""

    def __init__(self, total: int, tell: Callable[[int, int], None] | None) -> None:
        self._total, self._tell, self._done = total, tell, 0
        self.done(0)

    def done(self, n: int = 1) -> None:
        self._done += n
        if self._tell:
            self._tell(self._done, self._total)


def accuracy(
    command: Sequence[str],
    *,
    gogc: Iterable[int | str | None] = (25, 50, 100, 200, 400),
    memory_limit: Iterable[int | str | None] = (None,),
    gomaxprocs: int | None = None,
    reruns: int = 5,
    record_gogc: int | str = 20,
    recording: str | os.PathLike[str] | None = None,
    draws: int = 8,
    seed: int = 0,
    costs: Costs | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Accuracy:
    """Record a command once, predict a ladder of settings, and rerun it untraced to see what they really do.

    Args:
        command: what to run, as for `pymem record`; a `go test` is built once.
        gogc: percentages, or "off".
        memory_limit: bytes, "64MiB", "off", or multiples of the live heap ("1.3x"); combined with each GOGC.
        gomaxprocs: Ps of all runs, the recorded one too; None: as it is.
        reruns: real runs a rung; rungs take turns, so that a busy minute meets all of them.
        record_gogc: percent, of the recording.
        recording: where to keep it; None: nowhere.
        draws: as in `sweep`, like seed and costs.
        seed: which draws.
        costs: what collecting costs.
        progress: called with (runs and rows done, all of them).

    Raises RecordingError where the command cannot be run or recorded, ConfigError for settings that are none.

    """
    percents = [-1 if (percent := parse_gogc(g)) is None else percent for g in gogc]
    limits = [parse_limit(limit) for limit in memory_limit]
    if not percents or not limits:
        raise ConfigError("a ladder needs at least one GOGC and one memory limit")
    whole("reruns", reruns, 1)
    if gomaxprocs is not None:
        whole("gomaxprocs", gomaxprocs, 1, MOST_PROCS)
    at = parse_gogc(record_gogc)
    steps = _Steps(1 + len(percents) * len(limits) * (1 + reruns), progress)
    with tempfile.TemporaryDirectory(prefix="pymem-accuracy-") as folder:
        subject = prepare(command, folder=Path(folder))
        trace = Path(recording or Path(folder, "recorded.trace")).absolute()
        record(subject, trace, gogc=-1 if at is None else at, gomaxprocs=gomaxprocs)
        steps.done()
        program = read_program(open_stream(trace), costs=costs)
        live = live_heap(program, gogc=-1 if at is None else at)
        rungs = ladder(percents, limits, live=live, gomaxprocs=gomaxprocs or program.procs)
        rows = predict_ladder(program, rungs, draws=draws, seed=seed, tell=steps.done)
        runs = rerun_ladder(subject, rungs, reruns=reruns, tell=steps.done)
    return Accuracy(
        command=subject.command,
        words=subject.words,
        recording=str(recording or ""),
        record_gogc=-1 if at is None else at,
        live_heap=live,
        rungs=compare(rungs, rows, runs),
    )


def record(subject: Subject, trace: Path, *, gogc: int, gomaxprocs: int | None) -> None:
    """Record a program, once. Raises RecordingError."""
    command = traced(subject, trace, gogc=gogc, gomaxprocs=gomaxprocs)
    ran = run_program(command.words, env=command.env, cwd=command.cwd)
    _succeeded(subject, ran, "while it was recorded")
    command.verify()


def predict_ladder(
    program: Program, rungs: Iterable[Scenario], *, draws: int, seed: int, tell: Callable[[int], None]
) -> dict[Scenario, Row]:
    """Predict each rung."""
    wanted, before = tuple(rungs), 0

    def progress(done: int, total: int) -> None:
        nonlocal before
        tell(done - before)
        before = done

    return dict(zip(wanted, sweep(program, wanted, draws=draws, seed=seed, progress=progress), strict=True))


def rerun_ladder(
    subject: Subject,
    rungs: Iterable[Scenario],
    *,
    reruns: int,
    tell: Callable[[int], None] = lambda n: None,
) -> dict[Scenario, list[Measurement]]:
    """Run the program under each setting, untraced. Settings take turns. Raises RecordingError."""
    found: dict[Scenario, list[Measurement]] = {scenario: [] for scenario in rungs}
    for _ in range(reruns):
        for scenario, runs in found.items():
            ran = run_program(subject.words, env=measured_env(scenario), cwd=subject.cwd)
            _succeeded(subject, ran, f"under {scenario}")
            runs.append(measurement(ran, gogc=scenario.gogc))
            tell(1)
    return found


def compare(
    rungs: Mapping[Scenario, str],
    rows: Mapping[Scenario, Row],
    runs: Mapping[Scenario, Sequence[Measurement]],
) -> tuple[Rung, ...]:
    """Put predictions and real runs side by side. rungs: the limits as asked for."""
    return tuple(Rung(s, asked, rows[s], tuple(runs[s])) for s, asked in rungs.items())


def _succeeded(subject: Subject, ran: Ran, when: str) -> None:
    if ran.status == 0:
        return
    said = [
        line.text for line in ran.lines if line.text.strip() and not line.text.startswith(("gc ", "pacer: "))
    ]
    why = f": {said[-1]}" if said else "; run it by itself to see why"
    raise RecordingError(f"{' '.join(subject.command)}: ended with status {ran.status} {when}{why}")
