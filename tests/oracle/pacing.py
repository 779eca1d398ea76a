"""Ask the toolchain's own pacer and CPU limiter, and write what they say to `tests/golden`.

``python tests/oracle/pacing.py`` writes three files, in a minute or two; each names the Go version in its first line:

- ``gc_pacer.txt``: the cycles that Go's own test `TestGcPacer` logs, by scenario.
- ``gc_controller.txt``: random operations on a gcController and a limiter, and all that each operation changed.
- ``gc_streams.txt``: random numbers and sines for the scenarios, conversions, and floats as Go prints them.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from pymem.record.overlay import Toolchain, find_toolchain

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "golden"
SCENARIOS = 40
_NO_LIMIT = (1 << 63) - 1


def go(toolchain: Toolchain, *args: str, **env: str) -> str:
    """Run the go command and return all it wrote."""
    command = [str(toolchain.go), *args]
    settings = {**os.environ, "GOFLAGS": "", "GOWORK": "off", **env}
    done = subprocess.run(
        command, env=settings, cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)}:\n{done.stdout.decode()}")
    return done.stdout.decode()


def pacer_cycles(log: str) -> str:
    """Sort the log of the parallel scenarios by scenario, each in the order in which the test starts them."""
    cycles: dict[str, list[str]] = defaultdict(list)
    name = ""
    for line in log.splitlines():
        if match := re.match(r"=== \w+ +TestGcPacer/(\w+)", line):
            name = match[1]
            cycles[name] += []
        elif match := re.search(r": (GC \d+ .*)", line):
            cycles[name].append(match[1])
    return "".join(f"{name}\n" + "".join(f"  {cycle}\n" for cycle in of) for name, of in cycles.items())


class Operations:
    """Random operations, in an order that a runtime could have, with numbers that few have."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0
        self.marking = self.transition = self.event = False

    def size(self) -> int:
        """Return bytes: none, a few, a heap's, more than there are in the world."""
        return int(
            self.random.choice([0, 1, 2**16, 2**20, 2**23, 2**23, 2**30, 2**40]) * self.random.random()
        )

    def time(self) -> int:
        """Return nanoseconds: none, a moment, a second, a day."""
        return int(self.random.choice([0, 10, 10**5, 10**7, 10**7, 10**9, 10**14]) * self.random.random())

    def later(self) -> int:
        """Return a time that is later now and then."""
        self.now += self.time()
        return self.now

    def scenario(self) -> Iterator[str]:
        """Yield the operations of a new controller's life."""
        limit = self.random.choice([_NO_LIMIT, _NO_LIMIT, self.size(), 2**26])
        procs = self.random.randint(1, 12)
        percent = self.random.choice([-1, 0, 20, 100, 100, 400, 2**31 - 1])
        yield f"new {percent} {limit} {self.later()} {procs}"
        if self.random.random() < 0.8:
            yield f"roots {self.size()} {self.size()}"
        for _ in range(self.random.randint(1, 7)):
            yield from self.between()
            yield from self.cycle()

    def between(self) -> Iterator[str]:
        """Yield what happens between cycles: allocation, changes of the settings, measurements of memory."""
        for _ in range(self.random.randint(0, 4)):
            yield self.random.choice([self.heap, self.memory, self.setting, self.limiter])()
            yield f"commit {self.random.randint(0, 1)}"

    def cycle(self) -> Iterator[str]:
        """Yield a cycle. Its trigger is of any kind, and some allocate nothing, scan nothing or take no time."""
        yield f"start {self.later()} {self.random.randint(1, 64)} {self.random.randint(0, 2)}"
        for _ in range(self.random.randint(0, 8)):
            yield self.random.choice([self.heap, self.work, self.work, self.mixed])()
            yield "revise"
        yield f"times {self.time()} {self.time()}"
        yield f"end {self.later()} {self.random.randint(1, 64)}"
        yield f"reset {self.size()}"
        yield f"commit {self.random.randint(0, 1)}"

    def mixed(self) -> str:
        return self.random.choice([self.memory, self.setting, self.limiter, self.limiter])()

    def heap(self) -> str:
        return f"heap {self.size()} {self.size()}"

    def work(self) -> str:
        return f"work {self.size()} {self.size()} {self.size()}"

    def setting(self) -> str:
        percent = self.random.choice([-1, -5, 0, 50, 100, 1000])
        limit = self.random.choice([-1, 0, self.size(), self.size(), _NO_LIMIT])
        return self.random.choice([f"percent {percent}", f"limit {limit}"])

    def memory(self) -> str:
        free, alloc, other = self.size(), self.size(), self.size()
        freed = int(alloc * self.random.random())
        return f"memory {free} {alloc} {freed} {free + alloc - freed + other}"

    def limiter(self) -> str:
        kinds = [self.pools, self.pools, self.update, self.update, self.move, self.events]
        return self.random.choice(kinds)()

    def pools(self) -> str:
        return f"{self.random.choice(['lassist', 'lassist', 'lidle'])} {self.time() * 4}"

    def update(self) -> str:
        """Yield an update, for a time that may have passed already."""
        return f"lupdate {max(0, self.later() - self.random.choice([0, 0, 0, self.time()]))}"

    def move(self) -> str:
        """Begin or end a transition, or have another GOMAXPROCS."""
        if self.transition:
            self.transition = False
            return f"lfinish {self.later()}"
        if self.random.random() < 0.3:
            return f"lreset {self.later()} {self.random.randint(1, 12)}"
        self.transition, self.marking = True, not self.marking
        return f"lstart {int(self.marking)} {self.later()}"

    def events(self) -> str:
        if not self.event or self.random.random() < 0.2:
            self.event = True
            return f"estart {self.random.randint(1, 4)} {self.later()}"
        if self.random.random() < 0.5:
            return f"econsume {max(0, self.later() - self.time())}"
        self.event = False
        return f"estop {self.later()}"


def controller_answers(toolchain: Toolchain, folder: Path) -> str:
    """Have the runtime's own controller and limiter perform random operations."""
    asked, answers, overlay = folder / "operations", folder / "answers", folder / "overlay.json"
    asked.write_text(
        "".join(f"{line}\n" for seed in range(SCENARIOS) for line in Operations(seed).scenario())
    )
    added = {"pymem_controller_test.go": "controller.go", "pymem_operations_test.go": "controller_test.go"}
    files = {str(toolchain.runtime / name): str(HERE / "pacing" / source) for name, source in added.items()}
    overlay.write_text(json.dumps({"Replace": files}))
    env = {"PYMEM_OPERATIONS": str(asked), "PYMEM_ANSWERS": str(answers), "GOGC": "off"}
    go(toolchain, "test", "-overlay", str(overlay), "-count=1", "-run", "^TestPymem", "runtime", **env)
    return answers.read_text()


def log(toolchain: Toolchain) -> str:
    """Run Go's test of its pacer."""
    return go(toolchain, "test", "-count=1", "-v", "-run", "^TestGcPacer$", "runtime")


def write(name: str, toolchain: Toolchain, text: str) -> None:
    """Write a golden file, with who says so in its first line."""
    (GOLDEN / name).write_text(f"# {toolchain.version}, by tests/oracle/pacing.py\n{text}")


def main() -> None:
    """Write the golden files."""
    toolchain = find_toolchain()
    GOLDEN.mkdir(exist_ok=True)
    write("gc_streams.txt", toolchain, go(toolchain, "run", "./streams"))
    write("gc_pacer.txt", toolchain, pacer_cycles(log(toolchain)))
    with tempfile.TemporaryDirectory() as folder:
        write("gc_controller.txt", toolchain, controller_answers(toolchain, Path(folder)))


if __name__ == "__main__":
    main()
