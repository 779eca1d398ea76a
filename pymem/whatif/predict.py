"""From a program and a scenario to a row: a run for the middle, and some more for what chance does.

What a recording cannot tell is drawn: how dear marking is in that run (caches, neighbours), how fast the program, and
where in the scheduler's rounds it begins. The draws are the same for all scenarios, so that rows differ by their
settings and not by luck. A figure is the median of its runs. Its interval is as wide as the runs scatter, in
logarithms, with what predictions have been found to err by besides (`_MODEL`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from pymem.gc.cpu import TIME_SLICE
from pymem.rerun import CENTRE, Chance, reruns
from pymem.units import NO_LIMIT, format_bytes
from pymem.whatif.figures import Figures, figures
from pymem.whatif.row import Estimate, Row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pymem.program import Fit, Program
    from pymem.whatif.scenario import Scenario

__all__ = ["THRASHING", "chances", "predict", "thrashes"]

_MARK_SPREAD, _TIME_SPREAD = 0.12, 0.06
"""Standard deviations of the logarithms of what marking costs and of the program's time, from one run to the next."""
_MARK_RUNS, _TIME_RUNS = 0.05, 0.03
"""The same where a log of an untraced run was fitted to: what is left is how runs differ."""
_Z = 1.645
"""Standard deviations to either side that hold nine of ten."""
_MODEL = {"num_gc": 0.06, "peak_heap": 0.085, "mean_heap": 0.085, "peak_footprint": 0.05, "marked_bytes": 0.08,
          "gc_cpu": 0.25, "assist_ns": 0.5, "pause_ns": 0.3, "pause_p99_ns": 0.5, "pause_max_ns": 0.7}  # fmt: skip
"""Standard deviation of the logarithm of a prediction's error that the draws do not account for."""
_FITTED = {"num_gc": 0.05, "peak_heap": 0.1}
"""The same of programs calibrated by a log."""
_LIMITED = {"num_gc": 0.09, "marked_bytes": 0.13}
"""The same where it is a memory limit that sets goals: then cycles are as many as the room that is left is small."""
_AMOUNTS = {"num_gc": 0.125, "peak_heap": 0.11, "mean_heap": 0.11}
_AMOUNTS_LIMITED = {"num_gc": 0.48, "marked_bytes": 0.55, "gc_cpu": 0.52}
"""The same of logs, and by them of samples (not measured), which tell amounts alone.

num_gc, peak_heap, marked_bytes and gc_cpu, in all of these, are by the ten programs of docs/accuracy.md that were not
kept apart: so that nine of ten rows lie inside. The others were not measured."""
_KNOW_AMOUNTS = {"gctrace", "samples"}
_POINT = 0.01
"""Of all processor time: what `gc_cpu` is off by besides, in programs that hardly collect."""
_COUNTS = {"num_gc"}
_BOUND, _NEAR = 0.9, 0.95
"""Of GOGC: where the goal acts as less than this, it is the limit that sets it. Of the limit: what is near it."""
THRASHING = 0.4
"""Of the processor time: above this under a limit the collector works for the limit alone."""


def chances(draws: int, seed: int, fit: Fit | None = None) -> tuple[Chance, ...]:
    """Return so many draws, the centre first; the same ones for the same seed, and the first n of any more.

    fit: of the program, if it has one.
    """
    mark_spread, time_spread = _spreads(fit)
    out = [CENTRE]
    for n in range(1, draws):
        rng = np.random.default_rng([seed, n])
        mark, time, phase = rng.normal(), rng.normal(), rng.uniform()
        out.append(
            Chance(
                mark=math.exp(mark_spread * mark),
                time=math.exp(time_spread * time),
                phase_ns=int(phase * 2 * TIME_SLICE),
            )
        )
    return tuple(out)


def _spreads(fit: Fit | None) -> tuple[float, float]:
    """Return by how much costs of marking and time scatter, sigma of logarithms: a fit knows them better."""
    if fit is None:
        return _MARK_SPREAD, _TIME_SPREAD
    return math.hypot(_MARK_RUNS, fit.mark_error), math.hypot(_TIME_RUNS, fit.time_error)


def predict(program: Program, scenario: Scenario, *, draws: int = 8, seed: int = 0) -> Row:
    """Return the row of one scenario, from `draws` runs. The same arguments give the same row."""
    pauses = program.calibration.time.pauses if program.calibration else None
    if program.fit:
        pauses = np.array(program.fit.stops + program.fit.terms)
    runs = []
    for run in reruns(
        program,
        chances(draws, seed, program.fit),
        gogc=scenario.gogc,
        memory_limit=scenario.memory_limit,
        gomaxprocs=scenario.gomaxprocs,
    ):
        runs.append(figures(run, pauses))
    goal, footprint = (
        float(np.median([getattr(f, n) for f in runs])) for n in ("effective_gogc", "peak_footprint")
    )
    model = _model(program, limited=_binds(scenario, effective_gogc=goal, peak_footprint=footprint))
    estimates: dict[str, Any] = {
        name: _estimate(name, [getattr(f, name) for f in runs], model.get(name, 0.0))
        for name in Figures._fields
    }
    return Row(
        gogc=scenario.gogc,
        memory_limit=scenario.memory_limit,
        gomaxprocs=run.gomaxprocs,
        tier=program.source.tier,
        warning=_warning(scenario, estimates),
        **estimates,
    )


def _binds(scenario: Scenario, *, effective_gogc: float, peak_footprint: float) -> bool:
    """Say whether the memory limit decides when to collect, or is so near that it may."""
    if scenario.memory_limit >= NO_LIMIT:
        return False
    sets_goals = scenario.gogc < 0 or effective_gogc < _BOUND * scenario.gogc
    return sets_goals or peak_footprint >= _NEAR * scenario.memory_limit


def _model(program: Program, *, limited: bool) -> dict[str, float]:
    """Return what predictions are off by, a figure, for all that a program's recording tells."""
    model = _MODEL | (_FITTED if program.fit else {}) | (_LIMITED if limited else {})
    if program.source.tier in _KNOW_AMOUNTS:
        model |= _AMOUNTS | (_AMOUNTS_LIMITED if limited else {})
    return model


def _estimate(name: str, values: Sequence[float], model: float) -> Estimate:
    """Return the median and the interval around it; where it may be 0 or infinite, from the least to the most."""
    middle = float(np.median(values))
    if min(values) <= 0 or not np.isfinite(values).all():
        whole = float(round(middle)) if name in _COUNTS and math.isfinite(middle) else middle
        return Estimate(whole, float(min(values)), float(max(values)))
    logs = np.log(np.array(values, float))
    scatter = float(logs.std(ddof=1)) if len(values) > 1 else 0.0
    width, around = math.exp(_Z * math.hypot(scatter, model)), math.exp(_Z * model)
    # Where a few draws are of another kind (no collection at all), what was drawn is the bound.
    low, high = max(middle / width, min(values) / around), min(middle * width, max(values) * around)
    if name in _COUNTS:
        return Estimate(float(round(middle)), float(math.floor(low)), float(math.ceil(high)))
    if name == "gc_cpu":
        return Estimate(middle, max(low - _POINT, 0.0), min(high + _POINT, 1.0))
    return Estimate(middle, low, high)


def thrashes(
    scenario: Scenario, *, limited: float, effective_gogc: float, peak_footprint: float, gc_cpu: float
) -> bool:
    """Say whether the collector works most of the time for the limit's sake, from a row's values of these figures."""
    binds = _binds(scenario, effective_gogc=effective_gogc, peak_footprint=peak_footprint)
    return binds and (limited > 0 or gc_cpu > THRASHING)


def _warning(scenario: Scenario, of: Mapping[str, Estimate]) -> str:
    """Return what is wrong with the settings: a limit that is not kept, or only by collecting all the time."""
    if scenario.memory_limit >= NO_LIMIT:
        return ""
    limit, footprint = format_bytes(scenario.memory_limit), of["peak_footprint"].value
    told = ("limited", "effective_gogc", "peak_footprint", "gc_cpu")
    if thrashes(scenario, **{name: of[name].value for name in told}):
        return (
            f"limit below live heap + headroom: the collector takes {of['gc_cpu'].value:.0%} of the CPU; where it goes"
            " on so, Go's limiter holds it at 50 % and the limit is passed"
        )
    if footprint > scenario.memory_limit:
        return f"the limit of {limit} is passed: the peak is {format_bytes(int(footprint))}"
    return ""
