"""`pymem whatif`: one row a setting, and which are worth having. `pymem recommend`: the one to use."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pymem.cli._cluster import cluster as on_cluster
from pymem.cli._options import CostsFile, load_costs, with_commas
from pymem.cli._output import File, Json, count, note, print_facts, print_json, print_table, progress, suggest
from pymem.errors import ConfigError
from pymem.units import NO_LIMIT, format_bytes, format_gogc, go_bytes, parse_byte_count

if TYPE_CHECKING:
    from pymem.program import Fit
    from pymem.whatif import Estimate, Recommendation, Row
    from pymem.workload.gctrace_log import GCTraceLog

__all__ = ["recommend", "whatif"]

_WIDTH = 100
"""Columns of text; tables have no more either."""
_HOURS = {"s": 1 / 3600, "min": 1 / 60, "h": 1.0, "d": 24.0}

Gogcs = Annotated[
    str, typer.Option("--gogc", help="Percentages or off, with commas between.", metavar="LIST")
]
Limits = Annotated[str, typer.Option("--memory-limit", help="GOMEMLIMITs: off,512MiB,1GiB.", metavar="LIST")]
Procs = Annotated[
    str | None,
    typer.Option("--gomaxprocs", help="Numbers of Ps; as recorded, if not given.", metavar="LIST"),
]
Draws = Annotated[
    int, typer.Option("--draws", help="Runs a row: intervals come from their scatter.", min=1, max=1000)
]
Seed = Annotated[int, typer.Option("--seed", help="Which draws; the same seed gives the same answer.", min=0)]
Calibrate = Annotated[
    str | None,
    typer.Option(
        "--calibrate",
        help="GODEBUG=gctrace=1 log of the program untraced, to go by where the recording is off.",
        metavar="LOG",
    ),
]
Results = Annotated[
    str | None,
    typer.Option("--results", help="Keep rows in this file; go on from what it has.", metavar="FILE"),
]
Cluster = Annotated[
    str | None,
    typer.Option("--cluster", help="Work on a Dask cluster: its scheduler's address.", metavar="ADDRESS"),
]


def whatif(
    file: File,
    *,
    gogc: Gogcs = "25,50,100,200,400",
    memory_limit: Limits = "off",
    gomaxprocs: Procs = None,
    leak: Annotated[
        str | None,
        typer.Option("--leak", help="Say when a leak of so much ends in trouble: 5MiB/min.", metavar="RATE"),
    ] = None,
    draws: Draws = 8,
    seed: Seed = 0,
    costs: CostsFile = None,
    calibrate: Calibrate = None,
    results: Results = None,
    cluster: Cluster = None,
    as_json: Json = False,
) -> None:
    """Predict what the recorded program would do under other settings: one row for each combination.

    Peak heap is the largest heapLive at the end of marking (gctrace's middle figure); footprint is the largest
    Sys - HeapReleased, which GOMEMLIMIT and the OOM killer see. What is in brackets should hold the median of real runs
    nine times in ten. A star marks the rows that no other beats in both footprint and GC CPU. Pauses are quantiles of
    the recorded ones, or of the log's: settings change how many there are, and with that the longest to be expected,
    but not their median, nor the 99th percentile of 50 cycles or more.
    """
    from pymem.whatif import grid, source_for, sweep

    rate = _rate(leak) if leak is not None else None
    paid, log = load_costs(costs), _log(calibrate)
    scenarios = grid(
        gogc=with_commas("--gogc", gogc),
        memory_limit=with_commas("--memory-limit", memory_limit),
        gomaxprocs=_procs(gomaxprocs),
    )
    with progress("predicting", file, quiet=as_json) as tell, on_cluster(cluster) as executor:
        source = source_for(file, costs=paid, calibrate=log, executor=executor)
        rows = sweep(
            source,
            scenarios,
            draws=draws,
            seed=seed,
            executor=executor,
            results=results,
            progress=tell,
        )
    if as_json:
        told = {"calibration": _fit_facts(calibrate, source.fit)} if source.fit else {}
        found = [_facts(r, rate) for r in rows]
        print_json({"file": file, "draws": draws, "seed": seed, **told, "rows": found})
        return
    _print_fit(calibrate, source.fit)
    _print_rows(file, rows, rate, fit=source.fit)
    suggest(["recommend", file, *_same(calibrate, costs), "--limit", _roomy(rows)])


def recommend(
    file: File,
    *,
    limit: Annotated[str, typer.Option("--limit", help="Memory the program may use: 2GiB.", metavar="BYTES")],
    max_gc_cpu: Annotated[
        str | None,
        typer.Option("--max-gc-cpu", help="CPU that collecting may take: 5%.", metavar="SHARE"),
    ] = None,
    headroom: Annotated[
        str, typer.Option("--headroom", help="Share of the limit that stays free.", metavar="SHARE")
    ] = "10%",
    draws: Draws = 8,
    seed: Seed = 0,
    costs: CostsFile = None,
    calibrate: Calibrate = None,
    cluster: Cluster = None,
    as_json: Json = False,
) -> None:
    """Say which GOGC and GOMEMLIMIT to use in so much memory, as a line to paste, and why."""
    from pymem.whatif import recommend as search
    from pymem.whatif import source_for

    share = _share("--max-gc-cpu", max_gc_cpu) if max_gc_cpu is not None else None
    free, paid, log = _share("--headroom", headroom), load_costs(costs), _log(calibrate)
    with progress("searching", file, quiet=as_json) as tell, on_cluster(cluster) as executor:
        source = source_for(file, costs=paid, calibrate=log, executor=executor)
        answer = search(
            source,
            limit=limit,
            max_gc_cpu=share,
            headroom=free,
            draws=draws,
            seed=seed,
            executor=executor,
            progress=tell,
        )
    if as_json:
        names = ("choice", "thriftier", "faster", "with_more")
        rows = {name: row and row.facts() for name in names for row in [getattr(answer, name)]}
        told = {"calibration": _fit_facts(calibrate, source.fit)} if source.fit else {}
        said = {"line": answer.line, "why": answer.why}
        print_json({"file": file, **told, **said, **rows, "more": answer.more})
    else:
        _print_fit(calibrate, source.fit)
        _print_answer([file, *_same(calibrate, costs)], answer)
    if answer.choice is None:
        raise typer.Exit(1)


# ---- what was asked ----


def _procs(text: str | None) -> list[int | None]:
    if text is None:
        return [None]
    words = with_commas("--gomaxprocs", text)
    if not all(word.isdecimal() and len(word) < 9 for word in words):
        raise ConfigError(f"--gomaxprocs {text!r}: give numbers of processors, such as 2,4")
    return [int(word) for word in words]


def _share(option: str, text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", text.strip())
    if match is None:
        raise ConfigError(f"{option} {text!r}: give a share such as 5% or 0.05")
    share = float(match[1]) / (100 if match[2] else 1)
    if share > 1:
        raise ConfigError(f"{option} {text!r}: is more than all: give a share such as 5% or 0.05")
    return share


def _log(path: str | None) -> GCTraceLog | None:
    """Return the log of --calibrate, before the recording is read."""
    from pymem.whatif.fitting import load_log

    if path is None:
        return None
    try:
        return load_log(path)
    except ConfigError as error:
        raise ConfigError(f"--calibrate {error}") from None


def _same(calibrate: str | None, costs: str | None) -> list[str]:
    """Return the options that a further command needs to come to the same figures."""
    given = {"--calibrate": calibrate, "--costs": costs}
    return [word for option, value in given.items() if value for word in (option, value)]


def _rate(text: str) -> float:
    """Return bytes an hour from "5MiB/min"."""
    amount, _, unit = text.partition("/")
    n = parse_byte_count(amount.strip())
    if not n or unit.strip() not in _HOURS:
        raise ConfigError(f"--leak {text!r}: give an amount a time, such as 5MiB/min (s, min, h, d)")
    return n / _HOURS[unit.strip()]


# ---- what is answered ----


def _fit_facts(log: str | None, fit: Fit) -> dict[str, Any]:
    names = ("mark", "mark_error", "time", "time_error", "cycles", "gogc")
    return {"log": log, **{name: getattr(fit, name) for name in names}}


def _print_fit(log: str | None, fit: Fit | None) -> None:
    if fit is None:
        return
    rows = [("the program's time", fit.time, fit.time_error), ("marking", fit.mark, fit.mark_error)]
    print_table(
        f"Calibrated by {log}: {count(fit.cycles)} cycles at GOGC={fit.gogc}",
        ["", "times the recording's", "standard error"],
        [[name, f"{factor:.2f}", f"{error:.0%}"] for name, factor, error in rows],
        left=1,
    )


def _facts(row: Row, rate: float | None) -> dict[str, Any]:
    from pymem.whatif.leak import leak

    forecast = leak(row, rate) if rate is not None else None
    facts = row.facts()
    if rate is not None:
        told = forecast and {"hours_to_spiral": forecast.spiral, "hours_to_limit": forecast.passed}
        facts["leak"] = told  # null without a limit
    return facts


def _settings(row: Row) -> list[str]:
    limit = "off" if row.memory_limit >= NO_LIMIT else go_bytes(row.memory_limit)
    return [format_gogc(row.gogc), limit, str(row.gomaxprocs)]


def _figures(row: Row) -> list[str]:
    return [_number(row.num_gc), _amount(row.peak_heap), _amount(row.peak_footprint), _percent(row.gc_cpu)]


_SETTINGS = ("GOGC", "limit", "Ps")
_FIGURES = ("GCs", "peak heap", "footprint", "GC CPU")
_LENGTHS = ("p50", "p99", "longest")


def _print_rows(file: str, rows: tuple[Row, ...], rate: float | None, *, fit: Fit | None) -> None:
    from pymem.whatif import Scenario

    print_facts([("recording", f"{file}, tier {rows[0].tier}"), ("rows", count(len(rows)))])
    print_table(
        "Predicted (in brackets: what should hold the median of real runs nine times in ten)",
        [*_SETTINGS, "", *_FIGURES],
        [[*_settings(r), "*" if r.pareto else "", *_figures(r)] for r in rows],
        left=4,
    )
    recorded = "quantiles of the recorded ones" if rows[0].tier == "trace" else "by Costs"
    pauses = "quantiles of the log's" if fit else recorded
    print_table(
        f"Besides: means and sums; pauses, {pauses}; what a limit does",
        [*_SETTINGS, "mean heap", "marked", "assists", *_LENGTHS, "as GOGC", "limited"],
        [
            [
                *_settings(r),
                *map(format_bytes, (int(r.mean_heap.value), int(r.marked_bytes.value))),
                *map(_time, (r.assist_ns, r.pause_ns, r.pause_p99_ns, r.pause_max_ns)),
                f"{r.effective_gogc.value:.0f}",
                f"{r.limited.value:.0%}",
            ]
            for r in rows
        ],
        left=3,
    )
    for row in rows:
        if row.warning:
            note(f"{Scenario(row.gogc, row.memory_limit, row.gomaxprocs)}: {row.warning}")
    if rate is not None:
        _print_leak(rows, rate)


def _print_leak(rows: tuple[Row, ...], rate: float) -> None:
    from pymem.whatif.leak import leak

    told = [(r, forecast) for r in rows if (forecast := leak(r, rate)) is not None]
    if not told:
        note("a leak has no end without a limit: add --memory-limit")
    print_table(
        "With the leak, hours until",
        [*_SETTINGS, "GC all the time", "limit passed"],
        [[*_settings(r), f"{f.spiral:.3g}", f"{f.passed:.3g}"] for r, f in told],
        left=3,
    )


def _print_answer(asked: list[str], answer: Recommendation) -> None:
    why = textwrap.fill(answer.why, _WIDTH)
    if answer.choice is None:
        print(why)
        suggest(["types", asked[0]])
        return
    print(f"{answer.line}\n\n{why}")
    rows = [("thriftier", answer.thriftier), ("to use", answer.choice), ("faster", answer.faster)]
    if answer.more is not None:
        rows.append((f"in {go_bytes(answer.more)}", answer.with_more))
    print_table(
        "Beside it",
        ["", "GOGC", *_FIGURES],
        [[name, format_gogc(row.gogc), *_figures(row)] for name, row in rows if row],
        left=2,
    )
    suggest(["whatif", *asked, "--memory-limit", f"off,{go_bytes(answer.choice.memory_limit)}"])


def _number(e: Estimate) -> str:
    return f"{e.value:.0f} ({e.low:.0f}-{e.high:.0f})"


def _amount(e: Estimate) -> str:
    """Write bytes and their interval to three digits, all in the unit of the middle."""
    power = min(max(int(e.value).bit_length() - 1, 0) // 10, len(_UNITS) - 1)
    middle, low, high = (_digits(x / 1024**power) for x in (e.value, e.low, e.high))
    return f"{middle} {_UNITS[power]} ({low}-{high})"


_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def _digits(x: float) -> str:
    return f"{x:.{0 if x >= 99.95 else 1 if x >= 9.995 else 2}f}"


def _time(e: Estimate) -> str:
    """Write a time to three digits: no figure of these is known better."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if e.value >= size:
            return f"{_digits(e.value / size)} {unit}"
    return f"{e.value:.0f} ns"


def _percent(e: Estimate) -> str:
    return f"{e.value:.1%} ({100 * e.low:.1f}-{100 * e.high:.1f})"


def _roomy(rows: tuple[Row, ...]) -> str:
    """Return an amount of memory to try `recommend` with: that of the middle row, and a quarter more."""
    peaks = sorted(r.peak_footprint.value for r in rows)
    return f"{max(int(peaks[len(peaks) // 2] * 1.25) >> 20, 8)}MiB"
