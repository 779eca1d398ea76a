"""Two comparisons with Go that start from traces, by turns in one run; medians of rounds and their ratios.

    python bench/vs_trace.py [--rounds N] [--smoke]

decode: `go tool trace -d=footprint`, the toolchain's own decoding pass, against our reader handing out all columns,
in a fresh process; Python's own start (0.2 s, numpy's import) is left out, go's (some ms) is not. MB/s. The trace is
the encoding/json benchmark's at one P. Target: 5 times.

replay: a program as it is, without a trace, from start to exit, against the replay of its trace from columns in memory
to the final MemStats, decoding excluded. Target: less time. Each program allocates the same in both; the answer
asserted is that every event was run and, where the trace allows it, every address matched.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from vs_go import find_go, go_environment

from pymem.replay import replay
from pymem.trace import TraceReader
from pymem.workload import open_recording

EXAMPLE = Path(__file__).parent.parent / "examples" / "lru"
DECODE_TARGET = 5.0
READER = """
import sys, time
from pymem.trace import TraceReader
started = time.perf_counter()
with TraceReader(sys.argv[1]) as reader:
    events = sum(len(batch) for batch in reader.batches())
print(events, time.perf_counter() - started)
"""


@dataclass(frozen=True, slots=True)
class Program:
    """Something to run twice: with a trace and without."""

    name: str
    command: list[str]
    trace_option: list[str]
    """Before the trace's path, empty: it goes into PYMEM_TRACE."""


def run(command: list[str], **env: str) -> float:
    """Run a command quietly; return its wall time in seconds."""
    started = time.perf_counter()
    subprocess.run(command, check=True, env=os.environ | go_environment() | env, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def build(go: str, folder: Path, *, times: int) -> list[Program]:
    """Build the programs: the example, and the benchmarks of three packages of the standard library."""
    env = os.environ | go_environment()
    lru = folder / "lru"
    subprocess.run([go, "build", "-o", str(lru), "."], check=True, cwd=EXAMPLE, env=env)
    programs = [Program("examples/lru", [str(lru)], [])]
    for package, pattern in (("encoding/json", "Decode|Encode"), ("go/parser", "."), ("fmt", "Sprintf")):
        binary = folder / package.replace("/", "_")
        subprocess.run([go, "test", "-c", "-o", str(binary), package], check=True, env=env)
        source = Path(
            subprocess.check_output([go, "list", "-f", "{{.Dir}}", package], env=env, text=True).strip()
        )
        count = times * (1000 if package == "fmt" else 1)
        options = ["-test.run=^$", f"-test.bench={pattern}", f"-test.benchtime={count}x"]
        programs.append(Program(package, ["env", "-C", str(source), str(binary), *options], ["-test.trace="]))
    return programs


def record(program: Program, path: Path) -> None:
    """Run the program with allocation events on."""
    traced = (
        program.command
        if not program.trace_option
        else [*program.command, program.trace_option[0] + str(path)]
    )
    run(traced, GODEBUG="traceallocfree=1", PYMEM_TRACE=str(path), GOMAXPROCS="1")


def compare_decoding(go: str, trace: Path, rounds: int) -> float:
    """Time both decoders by turns; print and return the median ratio."""
    mb = trace.stat().st_size / 1e6
    ratios, ours, theirs = [], [], []
    with TraceReader(trace) as reader:
        expected = sum(len(batch) for batch in reader.batches())
    for _ in range(rounds):
        theirs.append(run([go, "tool", "trace", "-d=footprint", str(trace)]))
        events, seconds = subprocess.check_output(
            [sys.executable, "-P", "-c", READER, str(trace)], text=True
        ).split()
        ours.append(float(seconds))
        assert int(events) == expected
        ratios.append(theirs[-1] / ours[-1])
    ratio = statistics.median(ratios)
    print(
        f"decode   {mb:6.1f} MB  go {mb / statistics.median(theirs):6.1f} MB/s  pymem "
        f"{mb / statistics.median(ours):6.1f} MB/s  ratio {ratio:.1f} ({min(ratios):.1f}-{max(ratios):.1f})  "
        f"target {DECODE_TARGET:.0f}  {'met' if ratio >= DECODE_TARGET else 'MISSED'}"
    )
    return ratio


def compare_replay(program: Program, trace: Path, rounds: int) -> None:
    """Time the untraced program and the replay of its trace by turns, and print both."""
    workload = open_recording(trace)
    real, emulated = [], []
    for _ in range(rounds):
        real.append(run(program.command, GOMAXPROCS="1"))
        outcome = replay(workload)
        assert outcome.events == len(workload)
        assert outcome.cycles or not workload.cycles
        if workload.cycles == workload.forced_cycles:
            assert outcome.matched == outcome.compared
        emulated.append(outcome.seconds)
    a, b = statistics.median(real), statistics.median(emulated)
    print(
        f"replay   {program.name:14} {workload.objects:>10,} objects  program {a:7.3f} s  replay {b:7.3f} s  "
        f"ratio {a / b:6.1f}  {'met' if b < a else 'MISSED'}"
    )


def main() -> None:
    """Run both comparisons."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="small and quick: the answers, not the times")
    options = parser.parse_args()
    rounds, times = (1, 1) if options.smoke else (options.rounds, 20)
    go = find_go()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for program in build(go, folder, times=times):
            trace = folder / "program.trace"
            record(program, trace)
            if program.name == "encoding/json":
                compare_decoding(go, trace, rounds)
            compare_replay(program, trace, rounds)


if __name__ == "__main__":
    main()
