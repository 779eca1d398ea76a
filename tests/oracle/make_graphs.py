"""Makes tests/golden/graphs.json: what forced marks of five graphs come to in real Go.

    python tests/oracle/make_graphs.py PATH-OF-GO

Each graph is made with vector instructions (packed) and without (sparse), three times at GOMAXPROCS=1. A run gives
[scan bytes, objects, bytes] of its first and of its second collection, less those before the graph was there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
OUT = HERE.parent / "golden" / "graphs.json"
NAMES = ("tree", "list", "ring", "table", "lru")
OBJECTS = 20_000
RUNS = 3
_MODES = {"packed": "", "sparse": "cpu.avx512vl=off"}


def run(program: Path, name: str, debug: str) -> list[list[int]]:
    """Return what the collections of one run came to."""
    text = subprocess.run(
        [str(program), name, str(OBJECTS)],
        check=True,
        capture_output=True,
        text=True,
        env={"GOMAXPROCS": "1", "GODEBUG": debug},
    ).stdout
    before, *after = json.loads(text)
    return [[state[k] - before[k] for k in ("scan", "objects", "bytes")] for state in after]


def main(go: str) -> None:
    """Build the program, run it, write the file."""
    env = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "", "CGO_ENABLED": "0"}
    version = subprocess.run(
        [go, "version"], check=True, capture_output=True, text=True, env=env
    ).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "graphs"
        subprocess.run([go, "build", "-o", str(program), "."], cwd=HERE / "graphs", check=True, env=env)
        runs = {
            name: {mode: [run(program, name, debug) for _ in range(RUNS)] for mode, debug in _MODES.items()}
            for name in NAMES
        }
    document = {"go": version, "objects": OBJECTS, "runs": runs}
    OUT.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
