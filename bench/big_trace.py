"""What a trace of 100 million events takes: time and memory of each verb that reads one, and the size of its report.

    python bench/big_trace.py FOLDER [--events N] [--only VERB,VERB]
    python bench/big_trace.py --smoke

bench/go_churn is built and records itself in FOLDER, where the trace stays, 6 bytes an event. Each verb is a process of
its own; peak memory is what the system says of it, pages of the trace that it has mapped included. The answers asserted
are that each verb ends well and that the report is at most 5 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from vs_go import AnswerError, find_go, go_environment

SOURCE = Path(__file__).parent / "go_churn"
EVENTS, SMOKE_EVENTS = 100_000_000, 1_000_000
EVENTS_AN_OBJECT = 1.85
"""A birth each, and a death for most."""
MOST_REPORT_BYTES = 5_000_000
PYMEM = "import sys; from pymem.cli import main; sys.exit(main())"
"""The command line, run with -P: the pymem that is installed, not the sources in the folder it is run from."""
VERBS = {
    "info": ["info", "--json", "{trace}"],
    "whatif": ["whatif", "{trace}", "--gogc", "50,200", "--draws", "1"],
    "report": ["report", "{trace}", "-o", "{report}"],
    "types": ["types", "{trace}"],
    "fragmentation": ["fragmentation", "{trace}"],
    "doctor": ["doctor", "{trace}"],
    "check": ["check", "{trace}"],
}


@dataclass(frozen=True, slots=True)
class Measured:
    """One process."""

    seconds: float
    peak: int
    """Bytes resident at most."""


def measure(command: list[str], log: Path, **env: str) -> Measured:
    """Run a command, its output into a file; raises `AnswerError` where it fails."""
    started = time.perf_counter()
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=os.environ | env, stdout=out, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise AnswerError(f"{' '.join(command)}: {log.read_text(errors='replace')[-500:]}")
    return Measured(seconds, usage.ru_maxrss * 1024)


def make_trace(folder: Path, events: int) -> Path:
    """Build the program and have it record itself, if that is not there."""
    trace = folder / f"churn-{events}.trace"
    if trace.exists():
        return trace
    program, part = folder / "churn", folder / "churn.part"
    subprocess.run(
        [find_go(), "build", "-o", str(program), "."],
        cwd=SOURCE,
        check=True,
        env=os.environ | go_environment(),
    )
    env = {"GODEBUG": "traceallocfree=1", "GOGC": "20", "GOMAXPROCS": "2", "PYMEM_TRACE": str(part)}
    measured = measure([str(program), str(round(events / EVENTS_AN_OBJECT))], folder / "churn.log", **env)
    part.rename(trace)
    report("(record)", measured, f"{trace.stat().st_size / 1e6:,.0f} MB on disk")
    return trace


def report(name: str, measured: Measured, what: str = "") -> None:
    """Print a line of the table."""
    print(f"{name:<14} {measured.seconds:9.1f} s {measured.peak / 1e6:9,.0f} MB  {what}".rstrip(), flush=True)


def run(verb: str, trace: Path, folder: Path) -> None:
    """Measure one verb and print its line."""
    page = folder / "report.html"
    words = [word.format(trace=trace, report=page) for word in VERBS[verb]]
    command = [sys.executable, "-P", "-c", PYMEM, *words]
    log = folder / f"{verb}.log"
    measured = measure(command, log)
    what = ""
    if verb == "info":
        what = f"{json.loads(log.read_text())['events']:,} events"
    elif verb == "report":
        what = f"{page.stat().st_size / 1e6:.2f} MB of HTML"
    report(verb, measured, what)
    if verb == "report" and page.stat().st_size > MOST_REPORT_BYTES:
        raise AnswerError(f"the report has {page.stat().st_size:,} bytes, more than {MOST_REPORT_BYTES:,}")


def main(argv: list[str]) -> int:
    """Record, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "folder", nargs="?", type=Path, help="where the trace goes, and stays; none: for as long as this runs"
    )
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--only", default=",".join(VERBS), help="verbs, with commas between")
    parser.add_argument("--smoke", action="store_true", help="a million events")
    options = parser.parse_args(argv)
    events = SMOKE_EVENTS if options.smoke else options.events
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name)
        trace = make_trace(folder, events)
        for verb in options.only.split(","):
            run(verb, trace, folder)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except AnswerError as wrong:
        sys.exit(f"big_trace: {wrong}")
