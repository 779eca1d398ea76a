"""`pymem check`: every address of a recording predicted, and held against the real one; --rerun: real runs."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pymem.cli._output import (
    Json,
    count,
    percent,
    print_facts,
    print_json,
    print_table,
    progress,
    suggest,
)
from pymem.cli.accuracy import Gogcs, Keep, Limits, Procs, RecordGogc, Reruns, check_reruns
from pymem.errors import ConfigError
from pymem.units import format_duration

if TYPE_CHECKING:
    from pymem.checking import Check

__all__ = ["check"]

_MISSES = 10  # shown; --json has all that were kept
_TOO_FEW = 1  # exit status below --fail-under


class Mode(StrEnum):
    """How a recording is checked."""

    AUTO = "auto"
    OPEN_LOOP = "open-loop"
    FOLLOW = "follow"


_Mode = Annotated[
    Mode,
    typer.Option(
        help="open-loop: predict from the start state alone; follow: repair the heap from the record after a miss."
    ),
]
_FailUnder = Annotated[
    float | None,
    typer.Option(
        metavar="RATE",
        min=0,
        max=1,
        help="End with status 1 where fewer match (0.995, say), or nothing is there to match.",
    ),
]


_What = Annotated[
    list[str],
    typer.Argument(metavar="FILE | -- COMMAND", help="A recording; with --rerun, the program to run."),
]
_Rerun = Annotated[
    bool,
    typer.Option(
        "--rerun",
        help="Record the program, predict other settings, run it under each, and compare."
        " The options below are for this.",
    ),
]


def check(
    what: _What,
    *,
    mode: _Mode = Mode.AUTO,
    fail_under: _FailUnder = None,
    as_json: Json = False,
    rerun: _Rerun = False,
    gogc: Gogcs = None,
    memory_limit: Limits = None,
    gomaxprocs: Procs = None,
    reruns: Reruns = None,
    record_gogc: RecordGogc = None,
    keep: Keep = None,
) -> int:
    """Predict every address of a recording, and compare; with --rerun, predict real runs.

    The emulator places every allocation by itself; where it put one elsewhere than Go did, that is a miss.
    --rerun records a command once, predicts what it does under other settings, and runs it untraced under each: the
    median of the real runs stands beside the prediction, and how far they differ from each other.
    """
    options = {
        "gogc": gogc,
        "memory_limit": memory_limit,
        "gomaxprocs": gomaxprocs,
        "reruns": reruns,
        "record_gogc": record_gogc,
        "recording": keep,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if rerun:
        if mode is not Mode.AUTO or fail_under is not None:
            raise ConfigError(
                "--mode and --fail-under are for checking a recording: leave them out with --rerun"
            )
        return check_reruns(what, given, as_json=as_json)
    if given or len(what) != 1:
        raise ConfigError(
            "give one recording to check; a command, and settings to run it under, only with --rerun"
        )
    return _check_file(what[0], mode, fail_under, as_json=as_json)


def _check_file(file: str, mode: Mode, fail_under: float | None, *, as_json: bool) -> int:
    from pymem.checking import check as run_check

    with progress("checking", file, quiet=as_json) as tell:
        result = run_check(file, mode=mode.value, progress=tell)
    if as_json:
        print_json({"file": file, **_facts(result)})
    else:
        _report(file, result)
        suggest(["replay", file] if result.matched == result.allocations else ["check", file, "--json"])
    return _TOO_FEW if fail_under is not None and not _reaches(result, fail_under) else 0


def _reaches(result: Check, rate: float) -> bool:
    """Tell whether enough matched; without a prediction nothing is proved."""
    return result.allocations > 0 and result.rate >= rate


def _facts(result: Check) -> dict[str, Any]:
    from dataclasses import asdict

    return {"rate": result.rate, **asdict(result)}


def _matched(result: Check) -> str:
    if not result.allocations:
        return "nothing to predict"
    return f"{count(result.matched)} ({percent(result.matched, result.allocations)})"


def _report(file: str, result: Check) -> None:
    lines = [
        ("Checked", f"{file}, {result.mode}"),
        ("Allocations", count(result.allocations)),
        ("Matched", _matched(result)),
    ]
    for name, number, what in (
        ("Tiny", result.tiny, "parts of blocks that were there already: nothing to predict"),
        ("Learned", result.learned, "from the record: who held which span at its start"),
        ("Unknown", result.unknown, "in no recorded span"),
    ):
        if number:
            lines.append((name, f"{count(number)} {what}"))
    for name, matched, compared in (
        ("Spans", result.spans_matched, result.spans),
        ("Sweeps", result.sweeps_matched, result.sweeps),
    ):
        if compared:
            lines.append((name, f"{count(matched)} of {count(compared)} ({percent(matched, compared)})"))
    if result.memstats_compared:
        equal = percent(result.memstats_equal, result.memstats_compared)
        lines.append(
            (
                "MemStats",
                f"{count(result.memstats_equal)} of {count(result.memstats_compared)} fields equal ({equal})",
            )
        )
    if result.commits:
        equal_numbers = result.commits_compared - len(result.commit_differences)
        lines.append(
            (
                "Pacer",
                f"{count(equal_numbers)} of {count(result.commits_compared)} numbers equal at {count(result.commits)}"
                " goals computed",
            )
        )
    lines.append(("Time", format_duration(round(result.seconds * 1e9))))
    print_facts(lines)
    _print_misses(result)


def _print_misses(result: Check) -> None:
    more = f" (the first {_MISSES})" if result.allocations - result.matched > _MISSES else ""
    print_table(
        f"Misses{more}",
        ["kind", "row", "at", "P", "class", "predicted", "recorded"],
        [
            [
                str(m.kind),
                count(m.row),
                format_duration(m.time_ns),
                str(m.p),
                str(m.size_class),
                hex(m.got),
                hex(m.want),
            ]
            for m in result.misses[:_MISSES]
        ],
    )
    print_table(
        "Pacer's numbers that differ",
        ["field", "of goal", "here", "recorded", "difference"],
        [
            [d.field, str(d.commit), count(d.got), count(d.want), f"{d.got - d.want:+,}"]
            for d in result.commit_differences[:_MISSES]
        ],
    )
    print_table(
        "MemStats that differ",
        ["field", "of dump", "here", "recorded", "difference"],
        [
            [d.field, str(d.dump), count(d.got), count(d.want), f"{d.got - d.want:+,}"]
            for d in result.memstats_differences[:_MISSES]
        ],
    )
