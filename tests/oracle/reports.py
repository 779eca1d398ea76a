"""Make the golden files of what the runtime reports: metrics, trace lines, settings, pauses, floats.

``python tests/oracle/reports.py [GO ...]`` writes ``tests/golden/reports_*``. GO: go commands of other versions, from
1.21 on, whose gctrace lines go into the file too. The programs are in ``gctrace`` and ``reports``.
"""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pymem.record.overlay import find_toolchain

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "golden"
TRACE = "gctrace=1,gcpacertrace=1,scavtrace=1"

GOGC = (
    *("", "off", "OFF", "Off", "100", "0", "1", "-0", "-1", "-5", "+50", "050", "1e2", "50%", "abc", "off "),
    *(" 50", "50 ", "1_0", "0x10", "12.5", "2147483647", "2147483648", "-2147483648", "-2147483649", "٣"),
)
GOMEMLIMIT = (
    *(
        "",
        "off",
        "OFF",
        "off ",
        "0",
        "1",
        "-1",
        "-0",
        "+0",
        "+5",
        "007",
        "1e6",
        "1.5GiB",
        "1_000",
        "0x10",
        "٣",
    ),
    *(
        "1B",
        "B",
        "iB",
        "-1B",
        "+1B",
        "0B",
        "1BB",
        "1b",
        "1K",
        "1KB",
        "1Ki",
        "1kiB",
        "1KIB",
        "1KiB",
        "KiB",
        "1M",
    ),
    *("1MiB", "1mib", "1 MiB", " 1MiB", "1MiB ", "+1MiB", "-1MiB", "-0MiB", "512MiB", "1GiB", "3TiB", "1PiB"),
    *("1EiB", "1KiBB", "1iB", "1xiB", "9223372036854775807", "9223372036854775808", "9223372036854775807B"),
    *(
        "8388607TiB",
        "8388608TiB",
        "16777216TiB",
        "8589934591GiB",
        "9007199254740991KiB",
        "9007199254740992KiB",
    ),
    *("99999999999999999999", "99999999999999999999TiB", "max", "100%"),
)
GOMAXPROCS = ("", "0", "3", "5", "-3", "+3", "007", "abc", "3 ", " 3", "1_0", "64", "2147483648", "3.0", "٣")
GODEBUG = (
    *(
        "",
        "gctrace=1",
        "gctrace=0",
        "gctrace=2",
        "gctrace=-1",
        "gctrace=+1",
        "gctrace=",
        "gctrace",
        "gctrace=x",
    ),
    *(
        "gctrace=1,gctrace=0",
        "gctrace=0,gctrace=1",
        "gctrace=1,gctrace=x",
        "gctrace= 1",
        " gctrace=1",
        "gctrace=1 ",
    ),
    *("gctrace=1=1", "gctrace=2147483648", "gctrace=1,", ",gctrace=1", ",,", "GCTRACE=1", "foo=1,gctrace=1"),
    *(
        "gctrace=1,scavtrace=1",
        "gcpacertrace=1",
        "scavtrace=1",
        "gctrace=1, scavtrace=1",
        TRACE,
        "gctrace=01",
    ),
)


def build(program: str, folder: Path, go: str, *, modules: str = "on") -> Path:
    """Build one of the two programs."""
    binary = folder / program
    command = [go, "build", "-o", str(binary), "main.go"]
    env = {**os.environ, "GOTOOLCHAIN": "local", "GO111MODULE": modules}
    subprocess.run(command, cwd=HERE / program, env=env, check=True)
    return binary


def run(binary: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a program in an environment in which nothing but env sets anything."""
    return subprocess.run([str(binary), *args], env=env, capture_output=True, text=True, check=False)


def gctrace(folder: Path, go: str, kinds: tuple[str, ...]) -> list[str]:
    """Return the lines of these kinds from runs at 1, 2 and 3 Ps, after a line with the version."""
    version = subprocess.run(
        [go, "env", "GOVERSION"], capture_output=True, text=True, check=True
    ).stdout.strip()
    binary = build("gctrace", folder, go, modules="off")  # the module is for 1.27
    lines = [f"# {version}"]
    for procs in "123":
        printed = run(binary, GODEBUG=TRACE, GOMAXPROCS=procs).stderr.splitlines()
        lines += [line for line in printed if line.startswith(kinds)]
    return lines


def settings(binary: Path) -> list[dict[str, Any]]:
    """Return what the runtime makes of each environment."""
    cases: list[dict[str, str]] = [{}]
    for name, values in (
        ("GOGC", GOGC),
        ("GOMEMLIMIT", GOMEMLIMIT),
        ("GOMAXPROCS", GOMAXPROCS),
        ("GODEBUG", GODEBUG),
    ):
        cases += [{name: value} for value in values]
    return [{"env": env, **_outcome(run(binary, "settings", **env))} for env in cases]


def _outcome(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    if done.returncode:
        return {"error": done.stderr.splitlines()[:2]}
    told: dict[str, Any] = json.loads(done.stdout)
    if told["GOMAXPROCS"] == told.pop("NumCPU"):
        told["GOMAXPROCS"] = None
    lines = done.stderr.splitlines()
    kinds = {"gctrace": "gc ", "gcpacertrace": "pacer: ", "scavtrace": "scav "}
    return told | {"lines": [k for k, start in kinds.items() if any(s.startswith(start) for s in lines)]}


def floats(binary: Path) -> dict[str, str]:
    """Return float64s, by their bits in hex, as print writes them."""
    rng = random.Random(1)
    values = [0.0, -0.0, float("inf"), float("-inf"), float("nan"), 5e-324, 1.7976931348623157e308, 0.1, 0.25]
    values += [sign * 10.0**e for e in range(-8, 24) for sign in (1, -1)]
    values += [rng.uniform(-1, 1) * 10.0 ** rng.randrange(-12, 22) for _ in range(150)]
    values += [float(rng.randrange(10 ** rng.randrange(1, 17))) for _ in range(50)]
    bits = [struct.pack(">d", value).hex() for value in values]
    return dict(zip(bits, run(binary, "floats", *bits).stderr.splitlines(), strict=True))


def main(others: list[str]) -> None:
    """Write all golden files."""
    toolchain = find_toolchain()
    go = str(toolchain.go)
    stamp = f"{toolchain.version}, by tests/oracle/reports.py"
    GOLDEN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        traced = gctrace(folder, go, ("gc ", "pacer: ", "scav "))
        for other in others:
            traced += gctrace(folder, other, ("gc ",))
        binary = build("reports", folder, go)
        show = {
            "metrics": json.loads(run(binary, "metrics", GOMAXPROCS="1", GOGC="off").stdout),
            "settings": {"runs": settings(binary)},
            "pauses": {"readings": json.loads(run(binary, "pauses", GOMAXPROCS="1").stdout)},
            "floats": {"printed": floats(binary)},
        }
    (GOLDEN / "reports_gctrace.txt").write_text("\n".join([f"# {stamp}", *traced, ""]), encoding="utf-8")
    for name, content in show.items():
        text = json.dumps({"made": stamp} | content, ensure_ascii=False, separators=(",", ":"))
        (GOLDEN / f"reports_{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
