"""What real Go's collections mark and free of graphs: ``python tests/oracle/graphs.py`` writes ``golden/graphs.json``.

Each program of ``graphs`` runs often, with one P. The rows that most runs agree on are kept: now and then the runtime
allocates 16 bytes for itself. ``sparse`` is without the vector instructions by which Go's collector scans full pages;
``packed`` with them, where the processor has them: its scan work depends on how pages fill the queue, and that on how
many pages the runtime's own objects have put there since the process began: 16 in each collection of these programs, 7
in one that does nothing, and every 64th put sends the oldest pages to the back. So the same program is run after more
collections and beside a few more objects, and for each step the least and the most scan work are kept.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from pymem.record.overlay import find_toolchain

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "golden" / "graphs.json"
PROGRAMS = ("tree", "bush", "list", "ring", "table", "lru", "shapes")
MODES = {"sparse": "cpu.avx512bw=off", "packed": ""}
RUNS = 15
COLLECTIONS, PAGES = (5, 6, 7, 8), range(7)
"""Before the program, and beside it."""

Row = dict[str, Any]


def build(folder: Path) -> Path:
    """Build the programs."""
    binary = folder / "graphs"
    command = [str(find_toolchain().go), "build", "-o", str(binary), "."]
    subprocess.run(command, cwd=HERE / "graphs", check=True)
    return binary


def run(binary: Path, program: str, mode: str, *more: int) -> list[Row]:
    """Return what one run says after each of its steps."""
    env = {**os.environ, "GOMAXPROCS": "1", "GODEBUG": MODES[mode]}
    done = subprocess.run([str(binary), program, *map(str, more)], env=env, check=True, capture_output=True)
    rows: list[Row] = json.loads(done.stdout)
    return rows


def most_often(binary: Path, program: str, mode: str) -> tuple[int, list[Row]]:
    """Return how many runs agree, and on what."""
    said = Counter(json.dumps(run(binary, program, mode)) for _ in range(RUNS))
    rows, count = said.most_common(1)[0]
    return count, json.loads(rows)


def scan_range(binary: Path, program: str) -> list[tuple[int, int]]:
    """Return the least and the most scan work of each step, whatever else is in the process."""
    company = [(n, pages) for n in COLLECTIONS for pages in PAGES]
    runs = [[row["scan"] for row in run(binary, program, "packed", *more)] for more in company]
    return [(min(step), max(step)) for step in zip(*runs, strict=True)]


def main() -> None:
    """Write the golden file."""
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        binary = build(Path(folder))
        for mode in MODES:
            for program in PROGRAMS:
                agree, rows = most_often(binary, program, mode)
                row = {"program": program, "mode": mode, "runs": RUNS, "agree": agree, "rows": rows}
                if mode == "packed":
                    row["scan_range"] = scan_range(binary, program)
                lines.append(json.dumps(row))
                print(f"{program} {mode}: {agree} of {RUNS}", file=sys.stderr)
    GOLDEN.write_text(f'{{"go":"{find_toolchain().version}","programs":[\n' + ",\n".join(lines) + "\n]}\n")


if __name__ == "__main__":
    main()
