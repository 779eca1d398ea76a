"""`pymem check --rerun`: predictions beside what the real program does."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pymem.cli._options import with_commas
from pymem.cli._output import count, note, print_facts, print_json, print_table, progress, suggest
from pymem.units import format_bytes, format_gogc

if TYPE_CHECKING:
    from pymem.accuracy import Accuracy, Comparison, Rung, Summary

__all__ = ["Gogcs", "Keep", "Limits", "Procs", "RecordGogc", "Reruns", "check_reruns"]

Gogcs = Annotated[
    str | None,
    typer.Option(
        "--gogc", metavar="LIST", help="Percentages or off, with commas between. [default: 25,50,100,200,400]"
    ),
]
Limits = Annotated[
    str | None,
    typer.Option(
        "--memory-limit",
        metavar="LIST",
        help="GOMEMLIMITs: off,64MiB, or 1.3x for 1.3 times the live heap. [default: off]",
    ),
]
Procs = Annotated[
    int | None,
    typer.Option("--gomaxprocs", metavar="N", min=1, max=254, help="Ps of all runs. [default: as it is]"),
]
Reruns = Annotated[
    int | None, typer.Option("--reruns", metavar="N", min=1, help="Real runs a setting. [default: 5]")
]
RecordGogc = Annotated[
    str | None,
    typer.Option("--record-gogc", metavar="PERCENT", help="GOGC of the recording. [default: 20]"),
]
Keep = Annotated[str | None, typer.Option("--output", "-o", metavar="FILE", help="Keep the recording here.")]

_TITLES = {"num_gc": "GCs", "peak_heap": "peak heap", "marked_bytes": "marked", "gc_cpu": "GC CPU"}


def check_reruns(command: list[str], options: dict[str, Any], *, as_json: bool) -> int:
    """Do it and print it. options: those of `pymem.accuracy.accuracy` that were given, lists as text."""
    from pymem.accuracy import accuracy

    for name in ("gogc", "memory_limit"):
        if name in options:
            options[name] = with_commas(f"--{name.replace('_', '-')}", options[name])
    with progress("rerunning", shlex.join(command[:3]), quiet=as_json) as tell:
        result = accuracy(command, **options, progress=tell)
    if as_json:
        print_json(result.facts())
    else:
        _report(result)
    return 0


def _report(result: Accuracy) -> None:
    rungs = result.rungs
    print_facts(
        [
            ("Program", shlex.join(result.command)),
            ("Recorded", f"at GOGC={format_gogc(result.record_gogc)}"),
            ("Live heap", format_bytes(result.live_heap)),
            ("Real runs", f"{count(len(rungs[0].runs))} a setting, GOMAXPROCS={rungs[0].row.gomaxprocs}"),
        ]
    )
    for name, title in _TITLES.items():
        print_table(
            title,
            ["GOGC", "limit", "predicted", "interval", "real median", "least-most", "noise", "error"],
            [[*_settings(rung), *_compared(rung.comparisons[name])] for rung in rungs],
            left=2,
        )
    print_table(
        "Over all settings",
        ["", "mean error", "bias", "noise of a run", "in the interval"],
        [_sum(summary) for summary in result.summaries],
    )
    print(
        "\n! the median lies outside the interval. Below 10 cycles one more or less is no error; GC CPU errs by points."
    )
    for rung in rungs:
        predicted, measured = rung.thrashing
        if predicted or measured:
            said = {(True, True): "predicted, and so it is", (True, False): "predicted, but it does not"}
            note(
                f"{rung.scenario}: collects all the time: {said.get((predicted, measured), 'not predicted')}"
            )
    if not any(run.num_gc for rung in rungs for run in rung.runs):
        note("no cycle in any run: the program is too small for these settings, or is no Go program")
    if result.recording:
        suggest(["whatif", result.recording])


def _settings(rung: Rung) -> list[str]:
    asked = f"{rung.asked} = " if rung.asked else ""
    return [format_gogc(rung.scenario.gogc), f"{asked}{rung.scenario.limit_text}"]


def _compared(c: Comparison) -> list[str]:
    p, m = c.predicted, c.measured
    value, low, high, median, least, most = (
        _value(c.figure, x) for x in (p.value, p.low, p.high, m.median, m.least, m.most)
    )
    mark = "" if c.inside or c.error is None else " !"
    error = "-" if c.error is None else f"{c.error:+.1%}{mark}"
    return [value, f"{low}-{high}", median, f"{least}-{most}", f"{m.noise:.1%}", error]


def _value(figure: str, value: float) -> str:
    if figure == "num_gc":
        return f"{value:g}"
    if figure == "gc_cpu":
        return f"{value:.1%}"
    return f"{value / (1 << 20):.1f} MiB"


def _sum(s: Summary) -> list[str]:
    unit = " points" if s.figure == "gc_cpu" else "%"
    inside = f"{s.inside} of {s.rungs}"
    return [
        _TITLES[s.figure],
        f"{100 * s.mean_error:.1f}{unit}",
        f"{100 * s.bias:+.1f}{unit}",
        f"{100 * s.noise:.1f}%",
        inside,
    ]
