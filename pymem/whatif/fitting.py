"""What a recording is off by, from a gctrace log of the same program untraced: `--calibrate LOG`.

A recording is slower than the program: each event costs something, and caches are shared with the tracer. What is taken
off for that (`program_time`) is a mean over programs, and what marking cost while it was traced is not quite what it
costs untraced. A log of one untraced run knows both. So the program is run here under the log's own settings, a log is
made of that run, rounded as real ones are, and both are read in the same way: what is wrong with the reading (sizes are
whole MB) is wrong with both, and cancels.

    time     program's own time for the same amount allocated, real over predicted
    mark     processor time of marking for each byte that was alive or in roots, real over predicted

The predicted run changes with both, so this is done until nothing changes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pymem.errors import ConfigError, RecordingError
from pymem.program import Fit
from pymem.rerun import Chance, rerun
from pymem.stats.gctrace import gctrace_line
from pymem.workload.gctrace_log import GCTraceLog, read_gctrace_log

if TYPE_CHECKING:
    import os

    import numpy.typing as npt

    from pymem.program import Program

    Floats = npt.NDArray[np.float64]

__all__ = ["fit", "fitted", "load_log"]
_ROUNDS = 6
_SETTLED = 0.01
"""Change of a factor, as a share, below which it has settled."""
_LEAST, _MOST = 0.1, 10.0
"""Factors beyond these are of another program, or of another machine."""
_UNUSUAL = 10.0
_FEWEST = 3
"""Cycles of a log that tell anything."""
_OTHER_GOALS = 0.2
"""Share of goals that may be others than GOGC says: a few are, of a program that grows fast."""
_SAME_WORK = 1.6
"""Times as much may be allocated up to the last cycle."""
_SAME_HEAP, _ROUNDED = 2.0, 1.5 * (1 << 20)
"""Times as much may be alive, and bytes besides, as logs are in whole MB."""


class _Read(NamedTuple):
    """What a log says of a run, in sums over cycles that ratios are made of."""

    allocated: Floats
    """Bytes since the beginning when each cycle began."""
    time_ns: Floats
    """Of the program's own, then."""
    mark_ns: Floats
    """Processor time of each cycle's marking."""
    mark_bytes: Floats
    """What it found alive, and roots."""

    def time_at(self, allocated: Floats) -> Floats:
        """Return the program's own time when so much was allocated, within what is known."""
        return np.interp(allocated, self.allocated, self.time_ns)

    def mark_byte_ns(self, allocated: Floats) -> Floats:
        """Return what marking a byte cost around then."""
        return np.interp(allocated, self.allocated, self.mark_ns / np.maximum(self.mark_bytes, 1.0))


def fitted(program: Program, log: str | os.PathLike[str] | GCTraceLog, *, gogc: int | None = None) -> Program:
    """Return the program with its time, marking and pauses as a log of an untraced run has them.

    Args:
        program: of an execution trace or any other recording of the same program.
        log: of GODEBUG=gctrace=1, from the process's birth to the end of the same work, on the same machine with as
            many Ps, without a memory limit; three cycles at least.
        gogc: percent, of the log; None: as it says, or its goals do.

    Raises ConfigError for a log that tells too little or is of something else.

    """
    return program.fitted(fit(program, load_log(log), gogc=gogc))


def load_log(log: str | os.PathLike[str] | GCTraceLog) -> GCTraceLog:
    """Return a log to calibrate by, read if it is a file's name. Raises ConfigError."""
    if isinstance(log, GCTraceLog):
        return log
    try:
        return read_gctrace_log(log)
    except OSError as error:
        raise ConfigError(f"{log}: {error.strerror}; calibrate by a log of GODEBUG=gctrace=1") from None
    except RecordingError as error:
        raise ConfigError(str(error)) from None


def fit(program: Program, log: GCTraceLog, *, gogc: int | None = None) -> Fit:
    """Return by what factors a program's time and marking are off, and how well that is known. Raises as `fitted`."""
    percent = log.gogc if gogc is None else gogc
    _check(program, log, percent)
    assert percent is not None
    real = _read(log, percent)
    mark = time = 1.0
    for _ in range(_ROUNDS):
        predicted = _predicted(program, log, percent, Chance(mark=mark, time=time))
        _compare(real, predicted, log)
        mark_off, time_off = _off(real, predicted)
        mark, time = mark * mark_off, time * time_off
        if not (_LEAST < mark < _MOST and _LEAST < time < _MOST):
            raise _other(
                log, f"the program takes {time:.3g} times the time and marking {mark:.3g} times what it was"
            )
        if max(abs(mark_off - 1), abs(time_off - 1)) < _SETTLED:
            break
    return Fit(
        mark=mark,
        time=time,
        mark_error=_error(real.mark_ns, real.mark_bytes * predicted.mark_byte_ns(real.allocated)),
        time_error=_error(*_stretches(real, predicted)),
        cycles=len(log.cycles),
        gogc=percent,
        stops=tuple(log.cycles["sweep_term_ns"].tolist()),
        terms=tuple(log.cycles["mark_term_ns"].tolist()),
    )


def _check(program: Program, log: GCTraceLog, gogc: int | None) -> None:
    """Refuse logs that cannot be read side by side with a run of the program."""
    name = _name(log)
    if program.source.tier == "gctrace":
        raise ConfigError("a log of gctrace tells what it would be calibrated by: leave the calibration out")
    if log.amid or log.missing:
        raise ConfigError(
            f"{name}: begins amid or has gaps: calibrate by a log from the program's start to its end"
        )
    if len(log.cycles) < _FEWEST:
        raise ConfigError(f"{name}: {len(log.cycles)} cycles do not tell enough: log a run with more of them")
    if gogc is None or log.differs(gogc) > _OTHER_GOALS:
        raise ConfigError(
            f"{name}: its goals are not those of one GOGC: log a run without a memory limit that keeps its GOGC"
        )
    if log.procs != program.procs:
        raise ConfigError(
            f"{name}: of a run with GOMAXPROCS={log.procs}, the recording has {program.procs}: log it with as many"
        )


def _compare(real: _Read, predicted: _Read, log: GCTraceLog) -> None:
    """Refuse a log of other work: less or more of it, or another heap.

    A program ends somewhere on the way to the next cycle, so the one that comes later may be one cycle ahead.
    """
    did, should = real.allocated[-2:], predicted.allocated[-2:]
    if did[-1] * _SAME_WORK < should[0] or should[-1] * _SAME_WORK < did[0]:
        raise ConfigError(
            f"{_name(log)}: the program allocates {did[-1] / should[-1]:.2g} times as much in it as when it was"
            " recorded: log the same work; if it was the same, the program allocates more the more often it collects"
            " (sync.Pool): record it with the log's GOGC"
        )
    live, kept = (float(np.median(r.mark_bytes)) for r in (real, predicted))
    if live > _SAME_HEAP * kept + _ROUNDED or kept > _SAME_HEAP * live + _ROUNDED:
        raise _other(log, f"it keeps {live / 2**20:.0f} MB alive where it kept {kept / 2**20:.0f}")


def _other(log: GCTraceLog, why: str) -> ConfigError:
    return ConfigError(
        f"{_name(log)}: by it {why} when it was recorded: log the same program, doing the same work, on the same"
        " machine"
    )


def _name(log: GCTraceLog) -> str:
    return log.origin.get("file", "the log")


def _predicted(program: Program, log: GCTraceLog, gogc: int, chance: Chance) -> _Read:
    run = rerun(program, gogc=gogc, gomaxprocs=log.procs, chance=chance, leftover=False)
    if len(run.cycles) < _FEWEST:
        raise ConfigError(
            f"the recording has {len(run.cycles)} collections at GOGC={gogc}, too few to calibrate by: record a longer"
            " run, or log one with a lower GOGC"
        )
    return _read(GCTraceLog.of_lines(gctrace_line(cycle) for cycle in run.cycles), gogc)


def _read(log: GCTraceLog, gogc: int) -> _Read:
    curve = log.source(gogc=gogc)
    cycles = log.cycles
    marked = cycles["assist_cpu_ns"] + cycles["background_cpu_ns"] + cycles["idle_cpu_ns"]
    live = curve.live[-1 - len(marked) : -1]
    begin = slice(-1 - len(marked), -1)
    return _Read(
        allocated=curve.allocated[begin],
        time_ns=curve.time_ns[begin],
        mark_ns=marked.astype(np.float64),
        mark_bytes=live + float(curve.globals_bytes or 0),
    )


def _off(real: _Read, predicted: _Read) -> tuple[float, float]:
    """Return real over predicted: marking a byte, and time for what both have allocated."""
    mark = _ratio(real.mark_ns, real.mark_bytes) / _ratio(predicted.mark_ns, predicted.mark_bytes)
    return mark, _ratio(*_stretches(real, predicted))


def _stretches(real: _Read, predicted: _Read) -> tuple[Floats, Floats]:
    """Return the program's own time from one real cycle to the next, real and predicted for the same allocations.

    Where a stretch took ten times as long as others do, the program waited, or did what is not in the recording, such
    as its initialisation.
    """
    first, last = predicted.allocated[0], predicted.allocated[-1]
    points = real.allocated[(real.allocated >= first) & (real.allocated <= last)]
    if len(points) < 2:  # cycles too few to lie within one another
        points = np.array([max(first, real.allocated[0]), min(last, real.allocated[-1])])
    took, should = np.diff(real.time_at(points)), np.diff(predicted.time_at(points))
    usual = took <= _UNUSUAL * np.median(took / np.maximum(should, 1.0)) * np.maximum(should, 1.0)
    return took[usual], should[usual]


def _ratio(above: Floats, below: Floats) -> float:
    return float(above.sum() / below.sum())


def _error(above: Floats, below: Floats) -> float:
    """Return the standard error of the logarithm of a ratio of sums, by leaving out one cycle after the other."""
    n = len(above)
    if n < 2:
        return 0.0
    left = np.log(np.maximum(above.sum() - above, 1.0) / np.maximum(below.sum() - below, 1.0))
    return math.sqrt((n - 1) / n * float(((left - left.mean()) ** 2).sum()))
