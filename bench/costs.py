"""Measure what real Go's memory manager costs on this machine, and write it as a file of `pymem.gc.costs.Costs`.

    python bench/costs.py [--output FILE] [--rounds N] [--smoke]

Each thing is done by a process of its own (bench/costs_go) at one P, the collector off. Timed is the process's
processor time, so that other programs on the machine disturb little. A figure is the median of the rounds; behind it
stand least and most. `pymem replay FILE --gogc N --costs FILE` uses the file.

    malloc       512 MB of objects without pointers, in one size after the other: ns = object + byte * size
    mark         runtime.GC() over heaps of four shapes: ns = object * objects + byte * scanned, least squares, >= 0
    sweep        a collection that frees 8,192 spans less one that frees none
    stop, term   the pauses in gctrace's lines: wall-clock time, so a busy machine shows
    scavenge     FreeOSMemory over free pages in one run, and in 2,048 runs
    trace event  a million allocations with a trace less those without

No two numbers describe all heaps: what an object costs to mark depends on whether it is in the processor's caches. The
table shows by how much each shape misses the fit. A recording of a program tells its own (pymem.workload.calibration).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from vs_go import find_go, go_environment

from pymem.gc.costs import Costs

SOURCE = Path(__file__).parent / "costs_go"
SIZES = (16, 64, 256, 1024, 4096, 16384)
SHAPES = ("small", "tree", "wide", "bare")
_CLOCK = re.compile(r": ([\d.]+)\+[\d.]+\+([\d.]+) ms clock")

Result = dict[str, float]


@dataclass(frozen=True, slots=True)
class Measured:
    """A cost in all rounds."""

    name: str
    rounds: list[float]

    @property
    def median(self) -> float:
        """Nanoseconds."""
        return statistics.median(self.rounds)

    def __str__(self) -> str:
        """Write the median and the range."""
        return f"{self.name:20} {self.median:12.4g} ns  ({min(self.rounds):.4g} to {max(self.rounds):.4g})"


class Program:
    """bench/costs_go, built."""

    def __init__(self, folder: Path, go: str) -> None:
        self._folder = folder
        self._binary = folder / "costs"
        subprocess.run(
            [go, "build", "-o", str(self._binary), "."], cwd=SOURCE, check=True, env=go_environment()
        )

    def run(self, *what: str, debug: str = "") -> tuple[Result, str]:
        """Measure one thing once; return its result and what the runtime printed."""
        env = {**os.environ, "GOMAXPROCS": "1", "GODEBUG": debug}
        done = subprocess.run([str(self._binary), *what], env=env, check=True, capture_output=True, text=True)
        result: Result = json.loads(done.stdout)
        return result, done.stderr

    def get(self, *what: str, debug: str = "") -> Result:
        """Measure one thing once."""
        return self.run(*what, debug=debug)[0]

    @property
    def trace(self) -> str:
        """Where a trace may go."""
        return str(self._folder / "out.trace")


def fit(things: list[tuple[float, float, float]]) -> tuple[float, float]:
    """Return a, b >= 0 with a * x + b * y nearest to ns for all (x, y, ns), by relative error."""
    table = np.array(things)
    left, ones = table[:, :2] / table[:, 2:], np.ones(len(table))
    best = np.linalg.lstsq(left, ones, rcond=None)[0]
    if (best >= 0).all():
        return float(best[0]), float(best[1])
    alone = [float((left[:, i] @ ones) / (left[:, i] @ left[:, i])) for i in range(2)]
    pairs = [(alone[0], 0.0), (0.0, alone[1])]
    return min(pairs, key=lambda pair: float(((left @ np.array(pair) - 1) ** 2).sum()))


def malloc(program: Program) -> Result:
    """Return what an object and a byte cost."""
    things = []
    for size in SIZES:
        got = program.get("malloc", str(size))
        things.append((1.0, float(size), got["ns"] / got["objects"]))
    each, byte = fit(things)
    return {"malloc_ns": each, "malloc_byte_ns": byte, **{f"malloc {int(t[1])} B": t[2] for t in things}}


def marking(program: Program) -> Result:
    """Return what marking an object and scanning a byte cost, and by how much each shape misses that."""
    nothing = program.get("mark", "nothing")
    things = []
    for shape in SHAPES:
        got = program.get("mark", shape)
        things.append((got["objects"], got["bytes"], got["ns"] - nothing["ns"]))
    each, byte = fit(things)
    missed = {
        f"mark {shape}, share of fit": ns / (each * objects + byte * size)
        for shape, (objects, size, ns) in zip(SHAPES, things, strict=True)
    }
    return {"mark_object_ns": each, "mark_byte_ns": byte, **missed}


def sweeping(program: Program) -> Result:
    """Return what sweeping a span costs."""
    got = program.get("sweep")
    return {"sweep_span_ns": max(got["ns"], 0.0) / got["spans"]}


def pauses(program: Program) -> Result:
    """Return the median pauses of some collections."""
    printed = program.run("mark", "small", debug="gctrace=1")[1]
    found = [(float(m[1]), float(m[2])) for m in _CLOCK.finditer(printed)]
    stop, term = (statistics.median(column) * 1e6 for column in zip(*found, strict=True))
    return {"stop_ns": stop, "term_ns": term}


def scavenging(program: Program) -> Result:
    """Return what giving back a page costs, and a run of them."""
    one, many = program.get("scavenge"), program.get("scavenge-runs")
    page = one["ns"] / one["pages"]
    return {
        "scavenge_page_ns": page,
        "scavenge_call_ns": max(0.0, (many["ns"] - page * many["pages"]) / many["spans"]),
    }


def tracing(program: Program) -> Result:
    """Return what an event of a trace costs."""
    without = program.get("events", "none")
    with_trace = program.get("events", program.trace, debug="traceallocfree=1")
    return {"trace_event_ns": max(0.0, with_trace["ns"] - without["ns"]) / without["objects"]}


def measure(program: Program, rounds: int) -> dict[str, Measured]:
    """Measure everything, round by round, so that a busy minute meets all of it."""
    parts: tuple[Callable[[Program], Result], ...] = (malloc, marking, sweeping, pauses, scavenging, tracing)
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for part in parts:
            for name, value in part(program).items():
                found.setdefault(name, []).append(value)
    return {name: Measured(name, values) for name, values in found.items()}


def to_costs(measured: dict[str, Measured]) -> Costs:
    """Return the medians as costs; whole nanoseconds where `Costs` has such."""
    values = {name: m.median for name, m in measured.items() if name in Costs.__dataclass_fields__}
    whole = {name: round(values[name]) for name in ("stop_ns", "term_ns")}
    made = {name: round(value, 4) for name, value in values.items()} | whole
    return Costs(**made)  # type: ignore[arg-type]  # two of them are whole


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--go", help="the go command to build with")
    parser.add_argument("--output", type=Path, help="write the costs there, as JSON")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--smoke", action="store_true", help="one round: that it works, not what it measures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        program = Program(Path(folder), options.go or find_go())
        measured = measure(program, 1 if options.smoke else options.rounds)
    load = "/".join(f"{x:.1f}" for x in os.getloadavg())
    print(f"{platform.machine()}, {os.cpu_count()} processors, load {load}; median (range)")
    for one in measured.values():
        print(str(one) if "share" not in one.name else str(one).replace(" ns ", "    "))
    if options.output:
        to_costs(measured).save(options.output)
        print(f"written: {options.output}")


if __name__ == "__main__":
    main()
