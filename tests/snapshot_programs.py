"""For tests of snapshots: programs at random that take down what they see, and graphs of typed objects."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

import numpy as np
from strategies import many_sizes

import pymem
from pymem import types
from pymem._arrays import pointer
from pymem._native import ffi, lib
from pymem.env import read_settings
from pymem.errors import AddressError
from pymem.gc.controller import TriggerKind

_TRACE_ALL = {"GODEBUG": "gctrace=1,gcpacertrace=1,scavtrace=1"}


class Program:
    """A program that does at random what programs do, and takes down all that it gets to see.

    Its types, roots and objects are known to it by address and number alone, so that a copy can go on from a fork.
    """

    def __init__(self, rt: pymem.Runtime, seed: int, trace: io.StringIO) -> None:
        self.rt = rt
        self.trace = trace
        self.seen: list[Any] = []
        self.rng = random.Random(seed)
        self.held: list[int] = []  # objects that it holds: by roots or, by record, until it lets go of them
        self.roots = -1
        self.trace_from = 0

    def fork(self) -> Program:
        trace = io.StringIO()
        copy = Program(self.rt.fork(trace=trace), 0, trace)
        copy.rng.setstate(self.rng.getstate())
        copy.held, copy.roots = list(self.held), self.roots
        self.seen, self.trace_from = [], self.trace.tell()
        return copy

    def results(self) -> tuple[list[Any], str]:
        return self.seen, self.trace.getvalue()[self.trace_from :]

    def run(self, steps: int) -> None:
        for _ in range(steps):
            name = self.rng.choice(sorted(self.steps))
            self.seen.append((name, self.steps[name](self), self.rt.now))

    # ---- steps ----

    def _p(self) -> int:
        return self.rng.randrange(self.rt.gomaxprocs())

    def _batch(self) -> Any:
        n = self.rng.choice([1, 30, 300, 1500])
        noscan = self.rng.random() < 0.5
        seed = self.rng.getrandbits(32)
        addrs = self.rt.malloc_batch(many_sizes(n, seed), noscan=noscan, types=self._type(), p=self._p())
        return self._take(addrs)

    def _same(self) -> Any:
        size, n = self.rng.choice([8, 24, 64, 520, 9000]), self.rng.choice([1, 50, 2000])
        return self._take(self.rt.malloc_batch(size, n, types=self._type(), p=self._p()))

    def _type(self) -> int:
        return self.rng.randrange(len(self.rt.types))

    def _take(self, addrs: Any) -> Any:
        """Hold on to some of them, and let the rest go."""
        held = [int(a) for a in np.unique(addrs)[:: self.rng.choice([1, 3, 50])]]
        if self.rt._gc.liveness == "record":
            self.rt.declare_dead(np.setdiff1d(addrs, np.array(held, np.uint64)))
        else:
            self._set_roots(held)
        self.held += held
        return addrs.tobytes()

    def _set_roots(self, more: list[int]) -> None:
        heap, out = self.rt._heap, ffi.new("uint32_t *")
        if self.roots < 0:
            heap.call(lib.pymem_roots_new, self.rng.randrange(2), out)
            self.roots = out[0]
        addrs = np.array([*self.held, *more], np.uint64)
        heap.call(lib.pymem_roots_resize, self.roots, len(addrs))
        heap.call(lib.pymem_roots_set, self.roots, 0, pointer("uint64_t", addrs), len(addrs))

    def _drop(self) -> int:
        keep = self.rng.randrange(len(self.held) + 1)
        gone, self.held = self.held[keep:], self.held[:keep]
        if self.rt._gc.liveness == "record":
            self.rt.declare_dead(gone)
        elif self.roots >= 0:
            self._set_roots([])
        return len(gone)

    def _link(self) -> int:
        """Store pointers between held objects: where a word fits and is a pointer's. Return how many were stored."""
        if self.rt._gc.liveness == "record":
            return 0
        done, stored = ffi.new("uint64_t *"), 0
        for _ in range(min(len(self.held), 100)):
            src, target = self.rng.choice(self.held), self.rng.choice(self.held)
            found = self.rt.object_at(src)
            room = found.slot_size - (src - found.span_base) % found.slot_size
            if room < 8 or src % 8:
                continue
            row = ffi.new("uint64_t[3]", [src, self.rng.randrange(room // 8) * 8, target])
            with suppress(AddressError):
                self.rt._heap.call(lib.pymem_store_batch, row, row + 1, row + 2, 1, done)
            stored += done[0]
        return stored

    def _procs(self) -> int:
        return self.rt.gomaxprocs(self.rng.randint(1, 4))

    def _go(self) -> Any:
        g = self.rt.go()
        return g.id, g.stack, g.grow_stack() if self.rng.random() < 0.5 else None

    def _exit(self) -> int:
        if self.rt.goroutines:
            self.rng.choice(self.rt.goroutines).exit()
        return self.rt.num_goroutine()

    def _settings(self) -> tuple[int, int]:
        limit = self.rng.choice(["off", "off", "24MiB"])
        return self.rt.set_gc_percent(self.rng.choice([20, 100, 300])), self.rt.set_memory_limit(limit)

    steps: ClassVar[dict[str, Callable[[Program], Any]]] = {
        "batch": _batch,
        "same": _same,
        "drop": _drop,
        "link": _link,
        "procs": _procs,
        "go": _go,
        "exit": _exit,
        "settings": _settings,
        "gc": lambda self: repr(self.rt.gc(p=self._p())),
        "work": lambda self: self.rt.work(self.rng.choice([1e3, 1e6, 1e8])),
        "sleep": lambda self: self.rt.sleep(self.rng.choice([1e4, 1e7, 1.3e11])),
        "stats": lambda self: repr(self.rt.read_mem_stats(p=self._p())),
        "gcstats": lambda self: repr(self.rt.gc_stats),
        "type": lambda self: self.rt.register_type("T", 24, noscan=self.rng.random() < 0.5),
        "os": lambda self: self.rt.free_os_memory(),
    }


def start(seed: int, liveness: Any = "record", **options: Any) -> Program:
    trace = io.StringIO()
    rt = pymem.Runtime(
        gogc=100,
        liveness=liveness,
        settings=read_settings(_TRACE_ALL),
        trace=trace,
        address_space=1 << 36,
        **options,
    )
    return Program(rt, seed, trace)


def amid_marking(program: Program) -> bool:
    """Allocate until a cycle marks."""
    for _ in range(300):
        if program.rt._gc._mark is not None:
            return True
        program._take(program.rt.malloc_batch(40, 2000))
    return False


def same(one: Program, other: Program) -> None:
    """Assert that nothing tells the two apart."""
    assert one.results() == other.results()
    a, b = one.rt.snapshot(), other.rt.snapshot()
    assert a.state == b.state
    assert a.heap == b.heap
    assert np.array_equal(one.rt.spans(), other.rt.spans())
    assert np.array_equal(one.rt.arena_map(), other.rt.arena_map())
    other.rt.check()


# ---- programs with types, roots and frames ----

NODE = types.struct("Node", next=types.ptr("Node"), other=types.ptr("Node"), key=types.int64)
WIDE = types.struct("Wide", head=types.ptr(NODE), pad=types.array(types.int64, 90), tail=types.slice(NODE))


def build(rt: pymem.Runtime, seed: int) -> None:
    """Make a graph of typed objects, held by globals, goroutines' roots and frames; part of it garbage."""
    rng = np.random.default_rng(seed)
    nodes = np.concatenate([rt.new_batch(NODE, 3000), rt.new_batch(WIDE, 40)])
    for path in ("next", "other"):
        src, to = rng.choice(nodes[:3000], 2000), rng.choice(nodes, 2000)
        rt.store_batch(src, NODE.pointer_at(path), to)
    rt.store_batch(nodes[3000:], WIDE.pointer_at("tail"), nodes[:40])
    rt.view(int(nodes[0]))["key"] = seed
    for i in range(5):
        rt.globals[f"g{i}"] = int(rng.choice(nodes))
    del rt.globals["g2"]
    for k in range(2):
        g = rt.go(f"worker {k}")
        g.roots["mine"] = int(rng.choice(nodes))
        g.frame(a=int(rng.choice(nodes)), b=0).__enter__()
        g.frame(c=int(nodes[0])).__enter__()


def go_on(rt: pymem.Runtime, rounds: int) -> list[Any]:
    """Go on by what the runtime itself tells of its roots and frames, and take down all that can be seen."""
    seen: list[Any] = [dict(rt.globals)]
    for i in range(rounds):
        for g in rt.goroutines:
            top = g.frames[-1]
            new = g.new_batch(NODE, 700)
            g.roots[f"r{i}"] = int(new[0])
            rt.store(int(new[0]), "next", top["c"])
            rt.store(top["c"], "other", int(new[5]))
            top["c"] = int(new[0])
            seen.append([dict(f) for f in g.frames] + [dict(g.roots)])
        rt.globals[f"n{i}"] = int(rt.new(WIDE))
        rt.store(rt.globals[f"n{i}"], "head", rt.goroutines[0].frames[0]["a"])
        rt.work(20_000)
        seen.append((rt.now, rt.marking, repr(rt.read_mem_stats())))
    for g in rt.goroutines:
        g.frames[-1].leave()
        seen.append(len(g.frames))
        with g.frame(last=g.frames[0]["a"]) as f:
            seen.append(f["last"])
    seen += [repr(rt.gc()), repr(rt.gc_stats), dict(rt.globals), contents(rt)]
    return seen


def contents(rt: pymem.Runtime) -> list[Any]:
    """Return each living object's address, type and bytes."""
    found = []
    for span in rt.spans()[rt.spans()["state"] == 1]:
        for addr, type_ in rt.objects(int(span["base"])).tolist():
            found.append((addr, type_, rt.view(addr, types.uint8).tobytes()))
    return found


def graph_runtime(seed: int) -> pymem.Runtime:
    rt = pymem.Runtime(gogc=50, gomaxprocs=seed % 3 + 1, address_space=1 << 36)
    build(rt, seed)
    return rt


def mark_a_little(rt: pymem.Runtime, budget: int) -> None:
    """Start a cycle, and leave it amid its mark."""
    rt._gc.settle()
    rt._gc.start(TriggerKind.HEAP)
    rt._gc._count(rt._gc._mark.drain_work(budget))  # type: ignore[union-attr]
    rt._gc.arm()
