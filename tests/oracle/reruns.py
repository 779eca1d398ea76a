"""Run real Go programs again and again under different settings, and keep what came out beside the noise of it.

``python tests/oracle/reruns.py [--traces FOLDER] [--only NAME]`` writes ``tests/golden/reruns.json``: of each program,
at each GOMAXPROCS and GOGC, minimum, median, maximum and noise over the runs. Programs are those of ``reruns/`` and the
compiler compiling go/types. With a folder, each is recorded there instead, at GOGC=20 and each GOMAXPROCS: what
``bench/vs_reruns.py`` predicts the rest from. A traced run is the same program; it only traces itself.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymem.record.overlay import Toolchain, find_toolchain

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "golden" / "reruns.json"
PROGRAMS = ("tree", "lru", "json", "parser", "table", "compile")
PROCS = (1, 2)
GOGC = (50, 100, 200, 400)
RECORDED_AT = 20
"""GOGC of the recordings: the more cycles, the better are deaths dated."""
RUNS = 10
FIGURES = ("num_gc", "peak", "marked_mb", "gc_cpu_ms", "mark_ms", "cpu_s")

_GC = re.compile(
    r"gc \d+ @.*: [\d.]+\+([\d.]+)\+[\d.]+ ms clock, [\d.]+\+([\d.]+)/([\d.]+)/([\d.]+)\+[\d.]+ ms cpu, "
    r"\d+->\d+->(\d+) MB"
)
_PEAK = re.compile(r"pacer: .* in \d+ B -> (\d+) B")


@dataclass(frozen=True, slots=True)
class Programs:
    """The programs, built, and how to call them."""

    folder: Path
    toolchain: Toolchain

    @classmethod
    def build(cls, folder: Path) -> Programs:
        """Build what can be built, and find what the compiler needs."""
        made = cls(folder, find_toolchain())
        go = str(made.toolchain.go)
        env = {**os.environ, "GOTOOLCHAIN": "local", "GOWORK": "off"}
        subprocess.run(
            [go, "build", "-o", str(folder / "reruns"), "."], cwd=HERE / "reruns", env=env, check=True
        )
        export = "{{if .Export}}packagefile {{.ImportPath}}={{.Export}}{{end}}"
        source = "{{$d := .Dir}}{{range .GoFiles}}{{$d}}/{{.}} {{end}}"
        for file, told in {
            "importcfg": ["list", "-deps", "-export", "-f", export, "go/types"],
            "sources": ["list", "-f", source, "go/types"],
            "compiler": ["tool", "-n", "compile"],
        }.items():
            done = subprocess.run([go, *told], env=env, check=True, capture_output=True)
            (folder / file).write_bytes(done.stdout)
        return made

    def command(self, name: str, trace: Path | None) -> list[str]:
        """Return the command line of a program; with a trace, it is to write it there."""
        if name != "compile":
            return [str(self.folder / "reruns"), name]
        options = ["-p", "go/types", "-std", "-complete", "-importcfg", str(self.folder / "importcfg")]
        traced = [f"-traceprofile={trace}"] if trace else []
        files = (self.folder / "sources").read_text().split()
        return [(self.folder / "compiler").read_text().strip(), *options, *traced, "-o", os.devnull, *files]

    def run(self, name: str, *, procs: int, gogc: int | str, trace: Path | None = None, debug: str) -> str:
        """Run a program, and return what the runtime printed."""
        env = {
            "GOMAXPROCS": str(procs),
            "GOGC": str(gogc),
            "GODEBUG": debug,
            "HOME": os.environ.get("HOME", "/"),
        }
        if trace and name != "compile":
            env["PYMEM_TRACE"] = str(trace)
        done = subprocess.run(self.command(name, trace), env=env, check=True, capture_output=True, text=True)
        return done.stderr

    def record(self, name: str, *, procs: int, output: Path, gogc: int | str = RECORDED_AT) -> Path:
        """Record a program, once, as a user would, and return the trace."""
        self.run(name, procs=procs, gogc=gogc, trace=output, debug="traceallocfree=1")
        return output

    def measure(self, name: str, *, procs: int, gogc: int | str) -> dict[str, float]:
        """Run a program untraced, and return the figures of this run."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        printed = self.run(name, procs=procs, gogc=gogc, debug="gctrace=1,gcpacertrace=1")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return figures(printed) | {"cpu_s": round(cpu, 3)}


def figures(printed: str) -> dict[str, float]:
    """Return what the lines of gctrace and gcpacertrace of one run come to; peak is in bytes."""
    cycles = [tuple(float(x) for x in m.groups()) for m in _GC.finditer(printed)]
    return {
        "num_gc": len(cycles),
        "peak": max((int(m[1]) for m in _PEAK.finditer(printed)), default=0),
        "marked_mb": sum(c[4] for c in cycles),
        "gc_cpu_ms": round(sum(c[1] + c[2] + c[3] for c in cycles), 3),
        "mark_ms": round(sum(c[0] for c in cycles), 3),
    }


def summary(runs: Iterable[dict[str, float]]) -> dict[str, list[float]]:
    """Return minimum, median and maximum of each figure, and how far a run lies from the median on average."""
    runs = list(runs)
    out = {}
    for figure in FIGURES:
        values = [run[figure] for run in runs]
        middle = statistics.median(values)
        noise = statistics.fmean(abs(v - middle) for v in values) / middle if middle else 0.0
        out[figure] = [min(values), middle, max(values), round(noise, 4)]
    return out


def measure(programs: Programs, names: Iterable[str], runs: int) -> list[dict[str, Any]]:
    """Return a row for each program and setting. Settings take turns, so that a busy minute meets all of them."""
    rows = []
    for name in names:
        settings = [(procs, gogc) for procs in PROCS for gogc in GOGC]
        found: dict[tuple[int, int], list[dict[str, float]]] = {setting: [] for setting in settings}
        for _ in range(runs):
            for procs, gogc in settings:
                found[procs, gogc].append(programs.measure(name, procs=procs, gogc=gogc))
        for (procs, gogc), results in found.items():
            row = {"program": name, "gomaxprocs": procs, "gogc": gogc, **summary(results)}
            print(row, flush=True)
            rows.append(row)
    return rows


def load() -> dict[str, Any]:
    """Return what was measured, or nothing."""
    told: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}
    return told


def save(programs: Programs, rows: list[dict[str, Any]], runs: int) -> None:
    """Put the rows in the place of those of the same programs."""
    new = {row["program"] for row in rows}
    kept = [row for row in load().get("rows", []) if row["program"] not in new]
    table = {
        "made": f"{programs.toolchain.version}, by tests/oracle/reruns.py",
        "runs": runs,
        "columns": "each figure: minimum, median, maximum, mean distance from the median as a share of it",
    }
    ordered = sorted(kept + rows, key=lambda r: (PROGRAMS.index(r["program"]), r["gomaxprocs"], r["gogc"]))
    head = json.dumps(table, indent=1)[:-2]
    lines = ",\n  ".join(json.dumps(row) for row in ordered)
    GOLDEN.write_text(f'{head},\n "rows": [\n  {lines}\n ]\n}}\n', encoding="utf-8")


def main() -> None:
    """Record, measure, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--traces", type=Path, help="record there, and measure nothing")
    parser.add_argument("--only", choices=PROGRAMS, action="append", help="one program; may be given again")
    parser.add_argument("--runs", type=int, default=RUNS)
    options = parser.parse_args()
    names = options.only or PROGRAMS
    with tempfile.TemporaryDirectory() as folder:
        programs = Programs.build(Path(folder))
        if not options.traces:
            save(programs, measure(programs, names, options.runs), options.runs)
            return
        options.traces.mkdir(parents=True, exist_ok=True)
        for name in names:
            for procs in PROCS:
                print(programs.record(name, procs=procs, output=options.traces / f"{name}-{procs}.trace"))


if __name__ == "__main__":
    main()
