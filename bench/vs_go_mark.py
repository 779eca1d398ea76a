"""Times full marks of the same graphs, and a sweep, in real Go 1.27 and in the emulator, by turns, and prints ratios.

    python bench/vs_go_mark.py            some minutes: 8 million objects
    python bench/vs_go_mark.py --smoke    seconds; the figures mean little

What is timed, as processor time on either side: runtime.GC() with GOMAXPROCS=1, which is mark and sweep; here
gc_begin, mark_start_graph, mark_drain, mark_stop, gc_flip, flush and sweep_all. The graphs are built once, in the same
order of allocation: a binary tree (a node before its children), a list (each cell before the one in front of it), a
random graph of out-degree 4 behind an array, an array of pointers to 16 bytes. What is compared: objects marked.

The sweep: of the objects behind an array every other one is new and dead; the others and their spans are as the sweep
before left them. From the end of marking to that of the sweep, by the clock on either side, for Go tells no more.

Stores: ns a store in batches into 3 MB of objects, which the processor's cache holds (the core is timed, not memory),
outside of a mark and during one: what a pointer leads to grey or black already, white.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from vs_go import AnswerError, find_go, go_environment, spread

from pymem._arrays import pointer
from pymem._heap import Heap
from pymem._native import ffi, lib

SOURCE = Path(__file__).parent / "go_mark"
TARGETS = {"tree": 4.0, "list": 1.5, "graph": 2.0, "array": 3.0, "sweep": 1.0}
STORE_TARGET, STORES = 5.0, 100_000
GO_EXTRA_OBJECTS = 1000
NODE, CELL, VERTEX, WORD = 1, 2, 3, 4
TYPES = {NODE: (16, 0b11), CELL: (16, 0b1), VERTEX: (32, 0b1111), WORD: (8, 0b1)}

Words = npt.NDArray[np.uint64]


def mix(i: Words) -> Words:
    """Return the counter's numbers, as splitmix64."""
    z = i * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return z ^ z >> np.uint64(31)


class Graph:
    """A heap with one graph."""

    def __init__(self, name: str, n: int) -> None:
        self.heap = Heap(arena_base=0xC000000000, address_space=1 << 40)
        self.heap.call(lib.pymem_proc_new, ffi.new("int32_t *"))
        for type_, (size, mask) in TYPES.items():
            ptrdata = mask.bit_length() * 8
            self.heap.call(lib.pymem_type_add, type_, size, ptrdata, ffi.new("uint64_t[]", [mask]), 1)
        self.stores: list[float] = []
        self.sweeps: list[int] = []
        self._arrays: list[int] = []
        self._root(getattr(self, f"_{name}")(n))

    def _new(self, type_: int, n: int, *, size: int = 0, noscan: bool = False) -> Words:
        addrs, done = np.zeros(n, np.uint64), ffi.new("uint64_t *")
        size = size or TYPES[type_][0]
        self.heap.call(lib.pymem_malloc_same, 0, size, noscan, type_, n, pointer("uint64_t", addrs), done)
        return addrs

    def _store(self, objects: Words, offsets: Any, targets: Words) -> None:
        columns = [
            np.ascontiguousarray(np.broadcast_to(np.asarray(c, np.uint64), objects.shape))
            for c in (objects, offsets, targets)
        ]
        done = ffi.new("uint64_t *")
        start = time.process_time_ns()
        self.heap.call(lib.pymem_store_batch, *(pointer("uint64_t", c) for c in columns), len(objects), done)
        self.stores.append((time.process_time_ns() - start) / len(objects))

    def _root(self, addr: int) -> None:
        roots = ffi.new("uint32_t *")
        self.heap.call(lib.pymem_roots_new, lib.PYMEM_ROOTS_GLOBALS, roots)
        self.heap.call(lib.pymem_roots_resize, roots[0], 1)
        self.heap.call(lib.pymem_roots_set, roots[0], 0, ffi.new("uint64_t[]", [addr]), 1)

    def _tree(self, n: int) -> int:
        """Level by level: where each subtree begins in preorder, and how many nodes it has."""
        addrs = self._new(NODE, n)
        starts, sizes = np.zeros(1, np.int64), np.array([n])
        while len(starts):
            left, right = (sizes - 1) // 2, sizes - 1 - (sizes - 1) // 2
            lefts, rights = starts[left > 0] + 1, (starts + 1 + left)[right > 0]
            if len(lefts):
                self._store(addrs[starts[left > 0]], 0, addrs[lefts])
            if len(rights):
                self._store(addrs[starts[right > 0]], 8, addrs[rights])
            starts = np.concatenate([lefts, rights])
            sizes = np.concatenate([left[left > 0], right[right > 0]])
            by_address = np.argsort(starts)
            starts, sizes = starts[by_address], sizes[by_address]
        return int(addrs[0])

    def _list(self, n: int) -> int:
        cells = self._new(CELL, n)
        self._store(cells[1:], 0, cells[:-1])
        return int(cells[-1])

    def _array_of(self, addrs: Words) -> int:
        array = self._new(WORD, 1, size=8 * len(addrs))
        self._arrays.append(int(array[0]))
        self._store(np.repeat(array, len(addrs)), np.arange(len(addrs)) * 8, addrs)
        return int(array[0])

    def _graph(self, n: int) -> int:
        vertices = self._new(VERTEX, n)
        array = self._array_of(vertices)
        targets = vertices[mix(np.arange(4 * n, dtype=np.uint64)) % np.uint64(n)]
        self._store(np.repeat(vertices, 4), np.tile(np.arange(4) * 8, n), targets)
        return array

    def _array(self, n: int) -> int:
        return self._array_of(self._new(0, n, size=16, noscan=True))

    def _sweep(self, n: int) -> int:
        self._odd = n // 2
        return self._array_of(self._new(0, n, size=16, noscan=True))

    def time_stores(self, n: int, *, scattered: bool) -> tuple[float, float, float]:
        """Return ns a store into new objects, before a mark and in it: targets black, targets white."""
        objects = self._new(VERTEX, n)
        targets = np.random.default_rng(1).permutation(objects) if scattered else np.roll(objects, 1)
        self._store(objects, 0, targets)
        self.heap.call(lib.pymem_gc_begin, 0)
        self.heap.call(lib.pymem_mark_start_graph, 0)
        self._store(objects, 8, targets)
        self._store(objects, 16, targets)
        outside, white, black = self.stores[-3:]
        return outside, black, white

    def halve(self) -> None:
        """Allocate as many objects as every other one of the array, and have them dead."""
        array = self._arrays[-1]
        odd = np.arange(1, 2 * self._odd, 2, dtype=np.uint64) * np.uint64(8)
        objects = np.full(len(odd), array, np.uint64)
        self._store(objects, odd, self._new(0, len(odd), size=16, noscan=True))
        self._store(objects, odd, np.zeros(1, np.uint64))

    def collect(self) -> tuple[int, int]:
        """Return nanoseconds and objects marked; the clock's nanoseconds of the sweep go to sweeps."""
        call, progress = self.heap.call, ffi.new("pymem_mark_progress *")
        start = time.process_time_ns()
        call(lib.pymem_gc_begin, 0)
        call(lib.pymem_mark_start_graph, 0)
        call(lib.pymem_mark_drain, 1 << 62, progress)
        call(lib.pymem_mark_stop)
        marked = time.perf_counter_ns()
        call(lib.pymem_gc_flip)
        call(lib.pymem_gc_end, 0, 1)
        call(lib.pymem_flush, 0)
        call(lib.pymem_sweep_all, 0, ffi.new("uint64_t *"))
        self.sweeps.append(time.perf_counter_ns() - marked)
        return time.process_time_ns() - start, int(progress.objects)


def measure(program: Path, name: str, n: int, rounds: int) -> tuple[list[float], list[float]]:
    """Return ns an object in Go and here, round by round."""
    graph = Graph(name, n)
    graph.collect()  # the Go program has collected once, too
    command = [str(program), name, str(n)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    go_ns, own_ns = [], []
    with subprocess.Popen(command, env={"GOMAXPROCS": "1"}, **pipes) as go:  # type: ignore[call-overload]
        for _ in range(rounds):
            if name == "sweep":
                graph.halve()
            go.stdin.write("\n")
            go.stdin.flush()
            theirs, objects = map(int, go.stdout.readline().split())
            own, marked = graph.collect()
            own = graph.sweeps[-1] if name == "sweep" else own
            if not marked <= objects <= marked + GO_EXTRA_OBJECTS:
                raise AnswerError(f"{name}: Go has {objects} objects, {marked} are marked here")
            go_ns.append(theirs / n)
            own_ns.append(own / n)
        go.stdin.close()
    return go_ns, own_ns


def measure_stores(n: int, *, scattered: bool) -> tuple[float, float, float]:
    """Return ns a store outside of a mark, during one to objects marked before, and to white ones."""
    graph = Graph("list", 2)
    return graph.time_stores(n, scattered=scattered)


def report(name: str, target: float, go_ns: list[float], own_ns: list[float]) -> None:
    """Print a line on one graph."""
    ratios = [a / b for a, b in zip(go_ns, own_ns, strict=True)]
    word = "reached" if statistics.median(ratios) >= target else "MISSED"
    print(f"{name:<6} Go {spread(go_ns)}  pymem {spread(own_ns)}  ratio {spread(ratios)}", end="")
    print(f"; target {target:g}: {word}", flush=True)


def report_stores(n: int, rounds: int) -> None:
    """Print two lines on stores; the target is for stores through the barrier to objects marked before."""
    for scattered in (False, True):
        columns = zip(*[measure_stores(n, scattered=scattered) for _ in range(rounds)], strict=True)
        outside, black, white = (spread(list(c)) for c in columns)
        print(f"stores, {'random' if scattered else 'near'} targets: outside of a mark {outside}", end="")
        print(f"  marked {black} (target {STORE_TARGET:g})  white {white}", flush=True)


def main(argv: list[str]) -> int:
    """Measure and print; a target that is missed is said, and is no error."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--go", help="the go command to build with")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=[*TARGETS, "stores"])
    parser.add_argument("--smoke", action="store_true", help="100 times fewer objects, 2 rounds")
    options = parser.parse_args(argv)
    n, rounds = (80_000, 2) if options.smoke else (8_000_000, options.rounds)
    print("ns an object: median (range); ratio: Go's time / pymem's, round by round")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "mark"
        command = [options.go or find_go(), "build", "-o", str(program), "."]
        subprocess.run(command, cwd=SOURCE, check=True, env=go_environment())
        for name, target in TARGETS.items():
            if options.only in (None, name):
                report(name, target, *measure(program, name, n, rounds))
    if options.only in (None, "stores"):
        report_stores(STORES, rounds)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except AnswerError as wrong:
        sys.exit(f"vs_go_mark: {wrong}")
