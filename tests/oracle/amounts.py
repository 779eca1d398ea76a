"""Logs of gctrace and samples of real programs, and what the same programs did under other settings.

``cd tests; python -m oracle.amounts [--runs N]`` writes ``tests/golden/amounts.json``: of each program of ``reruns/``
(and the compiler), at each GOMAXPROCS, the log of one run at GOGC=100; of ``samples/`` its own samples at GOGC=100 too;
and of N runs at each GOGC how many cycles there were and the largest heap when a mark ended, bytes, by gcpacertrace.
Runs take turns, so that a busy minute meets all settings.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from oracle.reruns import GOGC, PROCS, PROGRAMS, Programs, figures

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "golden" / "amounts.json"
RECORDED_AT = 100
SAMPLED = "samples"


def run(
    programs: Programs, name: str, *, procs: int, gogc: int, debug: str, folder: Path | None = None
) -> str:
    """Run a program and return what its runtime printed. folder: where `samples` writes its own."""
    if name != SAMPLED:
        return programs.run(name, procs=procs, gogc=gogc, debug=debug)
    env = {"GOMAXPROCS": str(procs), "GOGC": str(gogc), "GODEBUG": debug}
    command = [str(programs.folder / SAMPLED), *([str(folder)] if folder else [])]
    return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stderr


def build(folder: Path) -> Programs:
    """Build all programs."""
    programs = Programs.build(folder)
    env = {**os.environ, "GOTOOLCHAIN": "local", "GOWORK": "off"}
    command = [str(programs.toolchain.go), "build", "-o", str(folder / SAMPLED), "."]
    subprocess.run(command, cwd=HERE / SAMPLED, env=env, check=True)
    return programs


def record(programs: Programs, name: str, procs: int) -> dict[str, Any]:
    """Return a program's log, and its samples if it takes some."""
    row: dict[str, Any] = {"program": name, "gomaxprocs": procs}
    row["log"] = run(programs, name, procs=procs, gogc=RECORDED_AT, debug="gctrace=1").splitlines()
    if name == SAMPLED:
        run(programs, name, procs=procs, gogc=RECORDED_AT, debug="gctrace=0", folder=programs.folder)
        for file in ("metrics.csv", "memstats.jsonl"):
            row[file] = (programs.folder / file).read_text(encoding="utf-8").splitlines()
    return row


def measure(programs: Programs, runs: int) -> list[dict[str, Any]]:
    """Return a row for each program and GOMAXPROCS."""
    rows = [record(programs, name, procs) for name in (*PROGRAMS, SAMPLED) for procs in PROCS]
    for row in rows:
        row["real"] = {str(gogc): {"num_gc": [], "peak": []} for gogc in GOGC}
    for _ in range(runs):
        for row in rows:
            for gogc in GOGC:
                debug = "gctrace=1,gcpacertrace=1"
                told = figures(run(programs, row["program"], procs=row["gomaxprocs"], gogc=gogc, debug=debug))
                for figure, values in row["real"][str(gogc)].items():
                    values.append(told[figure])
        print(".", end="", flush=True)
    return rows


def main() -> None:
    """Run, and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        programs = build(Path(folder))
        rows = measure(programs, options.runs)
        made = f"{programs.toolchain.version}, by tests/oracle/amounts.py"
    lines = ",\n  ".join(json.dumps(row) for row in rows)
    GOLDEN.write_text(f'{{\n "made": "{made}",\n "rows": [\n  {lines}\n ]\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
