"""Make execution traces with the stock toolchain: tests of the standard library, the compiler, programs of our own.

``python tests/oracle/traces.py FOLDER`` makes those of `ALL` and prints how well each is predicted.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pymem.record.overlay import find_toolchain

HERE = Path(__file__).parent


class Setting(NamedTuple):
    """How a program is run: GOMAXPROCS, and GOGC as Go reads it."""

    procs: int
    gogc: str

    @property
    def env(self) -> dict[str, str]:
        traced = {"GODEBUG": "traceallocfree=1", "GOMAXPROCS": str(self.procs), "GOGC": self.gogc}
        return {**os.environ, **traced}


OFF, CONCURRENT, TWO_OFF, TWO = Setting(1, "off"), Setting(1, "100"), Setting(2, "off"), Setting(2, "100")


def go_reads(trace: Path) -> bool:
    """Tell whether Go's own reader takes a whole trace. It has written ones, now and then, that it does not."""
    command = [str(find_toolchain().go), "tool", "trace", "-d=parsed", str(trace)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return done.returncode == 0


class Tracer:
    """Builds each program once, in a folder of its own, and runs it as often as it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.go = str(find_toolchain().go)
        self.made = 0

    def _output(self) -> Path:
        self.made += 1
        return (
            self.folder / f"{os.getpid()}-{self.made}.trace"
        )  # a name used before is a build that is cached

    def _build(self, binary: Path, *command: str) -> Path:
        if not binary.exists():
            subprocess.run([self.go, *command[:1], "-o", str(binary), *command[1:]], cwd=HERE, check=True)
        return binary

    def test(
        self, package: str, setting: Setting, *, run: str = "^$", bench: str = "^$", times: int = 1
    ) -> Path:
        """Run a package's tests and benchmarks, as `go test -trace` does. Each benchmark asks for collections."""
        binary = self._build(self.folder / f"{package.replace('/', '_')}.test", "test", "-c", package)
        output = self._output()
        root = subprocess.run(
            [self.go, "env", "GOROOT"], check=True, capture_output=True, text=True
        ).stdout.strip()
        flags = [
            f"-test.trace={output}",
            f"-test.run={run}",
            f"-test.bench={bench}",
            f"-test.benchtime={times}x",
        ]
        subprocess.run(
            [str(binary), *flags],
            cwd=Path(root) / "src" / package,
            env=setting.env,
            check=True,
            capture_output=True,
        )
        return output

    def compile(self, package: str, setting: Setting) -> Path:
        """Compile a package with the compiler tracing itself."""
        output = self._output()
        command = [self.go, "build", f"-gcflags={package}=-traceprofile={output}", package]
        subprocess.run(command, cwd=HERE, env=setting.env, check=True)
        return output

    def program(self, name: str, setting: Setting, steps: int = 40000) -> Path:
        """Run a program of `traced/main.go`."""
        binary = self._build(self.folder / "traced", "build", "./traced")
        output = self._output()
        subprocess.run([str(binary), name, str(output), str(steps)], env=setting.env, check=True)
        return output


def main(folder: Path) -> None:
    """Make every trace and print its rate."""
    from pymem.checking import check

    folder.mkdir(parents=True, exist_ok=True)
    tracer = Tracer(folder)
    settings = (OFF, CONCURRENT, TWO_OFF, TWO)
    makers: dict[str, Callable[[Setting], Path]] = {
        "json tests": lambda s: tracer.test("encoding/json", s, run="."),
        "json bench": lambda s: tracer.test("encoding/json", s, bench="Decode|Encode", times=20),
        "fmt bench": lambda s: tracer.test("fmt", s, bench=".", times=1000),
        "parser bench": lambda s: tracer.test("go/parser", s, bench=".", times=20),
        "tree": lambda s: tracer.program("tree", s, 400_000),
        "small cache": lambda s: tracer.program("small", s, 400_000),
        "large cache": lambda s: tracer.program("large", s, 400_000),
        "compile go/types": lambda s: tracer.compile("go/types", s),
    }
    for name, make in makers.items():
        for setting in settings:
            path = make(setting)
            done = check(path)
            print(
                f"{name:18} {setting.procs} P GOGC={setting.gogc:4} {done.mode:9} {done.cycles:4} cycles "
                f"{done.matched:10,} of {done.allocations:10,} {done.rate:.6%}  "
                f"spans {done.spans_matched}/{done.spans} {path.stat().st_size >> 20} MB",
                flush=True,
            )
            path.unlink()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/oracle/traces.py FOLDER")
    main(Path(sys.argv[1]))
