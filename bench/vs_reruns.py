"""How well a rerun predicts the real program: each recorded once at GOGC=20, predicted for others, held against reruns.

    python bench/vs_reruns.py TRACES [--only NAME] [--apart NAME] [--markdown] [--draws N]

TRACES is the folder that `python tests/oracle/reruns.py --traces TRACES` filled. What real Go did, and its noise over
ten runs, is in tests/golden/reruns.json. An error is the distance from the median of the real runs, in percent of it;
noise is how far a single real run lies from it on average. With --draws a prediction is a row of `pymem whatif`: the
median of so many runs, and an interval that should hold the median of real runs nine times in ten.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

from pymem import whatif
from pymem.gc.costs import Costs
from pymem.program import Program, read_program
from pymem.replay import EventSource
from pymem.rerun import Rerun, rerun
from pymem.whatif import Scenario
from pymem.workload.sources import open_stream

GOLDEN = Path(__file__).parent.parent / "tests" / "golden" / "reruns.json"
FIGURES: dict[str, Callable[[Rerun], float]] = {
    "num_gc": lambda run: len(run.cycles),
    "peak": lambda run: run.peak_heap,
    "marked_mb": lambda run: sum(c.heap2 >> 20 for c in run.cycles),
    "gc_cpu_ms": lambda run: (
        sum(c.assist_ns + c.dedicated_ns + c.fractional_ns + c.idle_ns for c in run.cycles) / 1e6
    ),
}
TITLES = {"num_gc": "NumGC", "peak": "peak, MB", "marked_mb": "marked, MB", "gc_cpu_ms": "GC CPU, ms"}


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of one setting: predicted, and what ten real runs had."""

    predicted: float
    least: float
    median: float
    most: float
    noise: float
    """Mean distance of a real run from the median, as a share of it."""
    interval: tuple[float, float] | None = None
    """That should hold the median."""

    @property
    def held(self) -> bool:
        """Whether the interval holds the median."""
        return self.interval is not None and self.interval[0] <= self.median <= self.interval[1]

    @property
    def inside(self) -> bool:
        """Whether it lies between the least and the most of the real runs."""
        return self.least <= self.predicted <= self.most

    @property
    def error(self) -> float:
        """Distance from the median, as a share of it."""
        return self.predicted / self.median - 1 if self.median else 0.0


@dataclass(frozen=True, slots=True)
class Row:
    """One program under one setting."""

    program: str
    gomaxprocs: int
    gogc: int
    figures: dict[str, Figure]
    seconds: float
    """That the emulation took."""


@cache
def _open(path: Path) -> EventSource:
    return open_stream(path)  # one stream for all settings: it remembers what it was calibrated to


def predict(traces: Path, real: dict[str, Any], costs: Costs, options: dict[str, Any]) -> Row:
    """Run a recorded program again under one of the real runs' settings."""
    name, procs, gogc = real["program"], real["gomaxprocs"], real["gogc"]
    run = rerun(_open(traces / f"{name}-{procs}.trace"), gogc=gogc, costs=costs, **options)
    figures = {figure: Figure(get(run), *real[figure]) for figure, get in FIGURES.items()}
    return Row(name, procs, gogc, figures, run.seconds)


@cache
def _read(path: Path, costs: Costs) -> Program:
    return read_program(open_stream(path), costs=costs)


def predict_by_draws(traces: Path, real: dict[str, Any], costs: Costs, draws: int) -> Row:
    """Do the same by `pymem whatif`'s way. GC CPU is left out: the golden runs have milliseconds, a row has a share."""
    name, procs, gogc = real["program"], real["gomaxprocs"], real["gogc"]
    started = perf_counter()
    row = whatif.predict(_read(traces / f"{name}-{procs}.trace", costs), Scenario(gogc), draws=draws)
    # gctrace's megabytes are rounded down, by half of one on average
    rounded = row.num_gc.value / 2
    of = {
        "num_gc": (row.num_gc, 1.0, 0.0),
        "peak": (row.peak_heap, 1.0, 0.0),
        "marked_mb": (row.marked_bytes, 1 / 2**20, rounded),
    }
    figures = {}
    for figure, (e, unit, less) in of.items():
        least, median, most, noise = real[figure]
        interval = e.low * unit - less, e.high * unit - less
        figures[figure] = Figure(e.value * unit - less, least, median, most, noise, interval)
    return Row(name, procs, gogc, figures, perf_counter() - started)


def print_row(row: Row) -> None:
    """Print one row."""
    cells = [f"{row.program:8} {row.gomaxprocs} {row.gogc:4}"]
    for name, f in row.figures.items():
        unit = 1e6 if name == "peak" else 1
        real = f"{f.least / unit:.4g}/{f.median / unit:.4g}/{f.most / unit:.4g}"
        cells.append(f"{f.predicted / unit:7.1f}{' ' if f.inside else '!'} {real:<17} {f.error:+6.1%}")
    print(" | ".join(cells), flush=True)


def print_markdown(rows: Iterable[Row]) -> None:
    """Print the table of docs/prediction.md."""
    print("| program | Ps | GOGC | " + " | ".join(f"{t} | real" for t in list(TITLES.values())[:2]) + " |")
    print("|---|---|---|" + "---|" * 4)
    for row in rows:
        cells = [row.program, str(row.gomaxprocs), str(row.gogc)]
        for name in list(TITLES)[:2]:
            f, unit = row.figures[name], 1e6 if name == "peak" else 1
            form = "{:.1f}" if name == "peak" else "{:g}"
            real = "/".join(form.format(x / unit) for x in (f.least, f.median, f.most))
            mark = "" if f.inside else f" ({f.error:+.0%}, noise {f.noise:.0%})"
            cells += [form.format(f.predicted / unit) + mark, real]
        print("| " + " | ".join(cells) + " |")


def print_programs(rows: list[Row]) -> None:
    """Print the mean absolute errors of each program at each number of Ps."""
    for program, procs in dict.fromkeys((row.program, row.gomaxprocs) for row in rows):
        mine = [row for row in rows if (row.program, row.gomaxprocs) == (program, procs)]
        errors = (statistics.fmean(abs(row.figures[name].error) for row in mine) for name in list(TITLES)[:3])
        print(f"{program} {procs}: " + " / ".join(f"{error:.0%}" for error in errors), end="; ")
    print()


def print_means(rows: list[Row]) -> None:
    """Print mean absolute errors beside the noise."""
    for name, title in TITLES.items():
        all_of = [row.figures[name] for row in rows if name in row.figures]
        if not all_of:
            continue
        error = statistics.fmean(abs(f.error) for f in all_of)
        bias = statistics.fmean(f.error for f in all_of)
        noise = statistics.fmean(f.noise for f in all_of)
        inside = sum(f.inside for f in all_of)
        print(f"{title:11} mean error {error:5.1%} (bias {bias:+5.1%}), noise {noise:5.1%}, ", end="")
        held = f", interval holds the median {sum(f.held for f in all_of)}" if all_of[0].interval else ""
        print(f"inside min-max {inside} of {len(rows)}{held}")


def main() -> None:
    """Predict all that was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("traces", type=Path)
    parser.add_argument("--only", action="append", help="one program; may be given again")
    parser.add_argument(
        "--apart", action="append", help="a program not tuned on; means apart; may be given again"
    )
    parser.add_argument("--costs", help="file of costs, by bench/costs.py")
    parser.add_argument("--markdown", action="store_true", help="print the table of docs/prediction.md")
    parser.add_argument("--set", action="append", default=[], help="an option of rerun, as NAME=JSON")
    parser.add_argument("--draws", type=int, default=0, help="predict as `pymem whatif --draws` does")
    options = parser.parse_args()
    costs = Costs.load(options.costs) if options.costs else Costs()
    more = {name: json.loads(value) for name, _, value in (text.partition("=") for text in options.set)}
    told = json.loads(GOLDEN.read_text(encoding="utf-8"))
    rows = []
    for real in told["rows"]:
        missing = not (options.traces / f"{real['program']}-{real['gomaxprocs']}.trace").exists()
        if missing or (options.only and real["program"] not in options.only):
            continue
        if options.draws:
            rows.append(predict_by_draws(options.traces, real, costs, options.draws))
        else:
            rows.append(predict(options.traces, real, costs, more))
        if not options.markdown:
            print_row(rows[-1])
    if not rows:
        sys.exit(
            f"{options.traces}: no traces: `python tests/oracle/reruns.py --traces {options.traces}` makes them"
        )
    if options.markdown:
        print_markdown(rows)
    print_programs(rows)
    for title, apart in (("means:", False), ("apart:", True)):
        group = [row for row in rows if (row.program in (options.apart or [])) == apart]
        if group:
            print(title)
            print_means(group)
    if options.apart:
        print("all:")
        print_means(rows)


if __name__ == "__main__":
    main()
