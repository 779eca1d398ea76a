"""Snapshots: what goes on from one gives the results of the original; what is damaged is refused."""

from __future__ import annotations

import io
import json
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from core import NO_PROC, Core
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import many_sizes, seeds

import pymem
from pymem import types
from pymem._arrays import pointer
from pymem._heap import Heap
from pymem._native import ffi, lib
from pymem.env import read_settings
from pymem.gc.controller import Controller, TriggerKind
from pymem.gc.events import GCEvent
from pymem.snapshot import Snapshot

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
        """Store pointers between held objects: where a word fits."""
        if self.rt._gc.liveness == "record":
            return 0
        done = ffi.new("uint64_t *")
        for _ in range(min(len(self.held), 100)):
            src, target = self.rng.choice(self.held), self.rng.choice(self.held)
            found = self.rt.object_at(src)
            room = found.slot_size - (src - found.span_base) % found.slot_size
            if room < 8 or src % 8:
                continue
            row = ffi.new("uint64_t[3]", [src, self.rng.randrange(room // 8) * 8, target])
            self.rt._heap.call(lib.pymem_store_batch, row, row + 1, row + 2, 1, done)
        return len(self.held)

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


# ---- forks ----


@settings(max_examples=25, deadline=None)
@given(
    seed=seeds,
    liveness=st.sampled_from(["record", "graph"]),
    before=st.integers(0, 15),
    after=st.integers(1, 12),
    marking=st.booleans(),
    cache=st.sampled_from(["p", "p", "goroutine"]),
    padding=st.sampled_from([0, 3, 600]),
)
def test_fork(
    *, seed: int, liveness: str, before: int, after: int, marking: bool, cache: str, padding: int
) -> None:
    """A fork at any safepoint, and a fork of the fork, go on as the original does."""
    one = start(seed, liveness, cache=cache, heap_padding_pages=padding, gomaxprocs=seed % 3 + 1)
    one.run(before)
    if marking:
        amid_marking(one)
    other = one.fork()
    same(one, other)
    one.run(after)
    other.run(after)
    same(one, other)
    third = other.fork()
    one.seen, one.trace_from = [], one.trace.tell()
    one.run(3)
    third.run(3)
    same(one, third)


@pytest.mark.parametrize("liveness", ["record", "graph"])
def test_fork_at_every_stage(liveness: str) -> None:
    """Amid marking, amid sweeping, between cycles: each was met, and each goes on alike."""
    one = start(5, liveness, gomaxprocs=2)
    met = set()
    for k in range(200):
        one.rt.malloc_batch(48, 3000, p=k % 2)
        addrs = one.rt.malloc_batch(48, 1500, p=k % 2)
        if liveness == "record":
            one.rt.declare_dead(addrs)
        elif k % 5 == 0:
            one._take(addrs)
        gc = one.rt._gc
        stage = "mark" if gc._mark else "idle" if gc.sweeper.done else "sweep"
        if stage in met and k % 10:
            continue
        met.add(stage)
        other = one.fork()
        for program in (one, other):
            program.seen.append(program.rt.malloc_batch(48, 40_000).tolist())
            program.seen.append(repr(program.rt.read_mem_stats()))
            program.seen.append(repr(program.rt.gc_stats))
        same(one, other)
    assert met == {"mark", "idle", "sweep"}


def test_original_is_left_alone() -> None:
    one, two = start(9), start(9)
    for program in (one, two):
        program.run(8)
    one.rt.snapshot()
    one.rt.fork()
    same(one, two)


def test_many_times() -> None:
    """One warm prefix, any number of runs."""
    program = start(3)
    program.run(10)
    snapshot = program.rt.snapshot()
    results = []
    for gogc in (50, 200, 50):
        with pymem.Runtime.restore(snapshot) as rt:
            rt.set_gc_percent(gogc)
            addrs = rt.malloc_batch(64, 300_000)
            results.append((addrs.tolist(), rt.gc_stats.num_gc, rt.now, repr(rt.read_mem_stats())))
    assert results[0] == results[2]
    assert results[0] != results[1]


def test_goroutines_and_types() -> None:
    with pymem.Runtime(gomaxprocs=2) as rt:
        g = rt.go("worker", p=1)
        t = rt.register_type("T", 48)
        fork = rt.fork()
        [copy] = fork.goroutines
        assert (copy.id, copy.name, copy.p, copy.stack) == (g.id, "worker", 1, g.stack)
        assert fork.types == rt.types
        assert copy.malloc(48, type=t) == g.malloc(48, type=t)
        assert copy.grow_stack() == g.grow_stack()
        copy.exit()
        assert (rt.num_goroutine(), fork.num_goroutine()) == (1, 0)
        assert fork.go().id == 2
        fork.check()


def test_observers_stay_behind() -> None:
    """And cannot take a snapshot: the collector is in the middle of a step."""
    with pymem.Runtime() as rt:
        events: list[GCEvent] = []
        rt.on_gc(events.append)
        rt.fork().gc()
        assert not events
        rt.on_gc(lambda event: rt.fork().close())
        with pytest.raises(pymem.ConfigError, match="when the call is over"):
            rt.gc()


def test_closed() -> None:
    rt = pymem.Runtime()
    snapshot = rt.snapshot()
    rt.close()
    with pytest.raises(pymem.ClosedError):
        rt.snapshot()
    assert pymem.Runtime.restore(snapshot).malloc(8)


class TwiceLive(Controller):
    """A policy of one's own."""

    __slots__ = ("asked",)

    def __init__(self) -> None:
        self.asked = 0
        super().__init__()

    def trigger(self) -> tuple[int, int]:
        self.asked += 1
        goal = max(2 * self.heap_marked, 4 << 20)
        return goal * 3 // 4, goal


def test_own_pacer(tmp_path: Path) -> None:
    """It is copied for each fork, but does not go to a file."""
    pacer = TwiceLive()
    with pymem.Runtime(pacer=pacer, gogc=100) as rt:
        rt.malloc_batch(64, 100_000)
        fork = rt.fork()
        copy = fork._gc.pacer
        assert isinstance(copy, TwiceLive)
        assert copy is not pacer
        assert (copy.asked, copy.globals_scan) == (pacer.asked, pacer.globals_scan)
        assert fork.malloc_batch(64, 100_000).tolist() == rt.malloc_batch(64, 100_000).tolist()
        assert fork.now == rt.now
        assert copy.asked == pacer.asked
        with pytest.raises(pymem.ConfigError, match=r"TwiceLive.* cannot go to a file"):
            rt.snapshot().save(tmp_path / "x")
        assert not list(tmp_path.iterdir())


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


@settings(max_examples=20, deadline=None)
@given(seed=seeds, marking=st.booleans(), budget=st.integers(1, 120_000))
def test_fork_of_a_graph(*, seed: int, marking: bool, budget: int) -> None:
    """A fork has types, roots, frames and contents, amid a mark too; both go on equal."""
    with graph_runtime(seed) as rt:
        rt.gc()  # so that the next mark begins with what this one left of its queue
        if marking:
            mark_a_little(rt, budget)
        with rt.fork() as fork:
            assert fork.types == rt.types
            assert contents(fork) == contents(rt)
            assert go_on(fork, 4) == go_on(rt, 4)
            assert fork.snapshot().heap == rt.snapshot().heap
            assert fork.snapshot().state == rt.snapshot().state
            rt.check()
            fork.check()


def test_fork_shares_nothing() -> None:
    """What one does to names, frames and contents the other does not see."""
    with graph_runtime(3) as rt, rt.fork() as fork:
        before = dict(fork.globals), [dict(f) for g in fork.goroutines for f in g.frames], contents(fork)
        for g in rt.goroutines:
            g.frames[-1]["c"] = 0
            g.frames[-1].leave()
            g.roots["mine"] = 0
        rt.globals["g0"], rt.globals["new"] = 0, 0
        rt.store(rt.new(NODE), "next", 0)
        rt.gc()
        assert before == (
            dict(fork.globals),
            [dict(f) for g in fork.goroutines for f in g.frames],
            contents(fork),
        )


@pytest.mark.parametrize("marking", [False, True])
def test_file_of_a_graph(tmp_path: Path, marking: bool) -> None:
    """A file has no fields of types, but knows a type again by name, size and pointers."""
    with graph_runtime(4) as rt:
        if marking:
            mark_a_little(rt, 9000)
        path = rt.snapshot().save(tmp_path / "graph")
        with pymem.Runtime.restore(path) as other:
            assert [(t.name, t.size, t.noscan, t.layout) for t in other.types[1:]] == [
                ("Node", 24, False, None),
                ("Wide", 752, False, None),
            ]
            assert other.snapshot().state == rt.snapshot().state
            with pytest.raises(pymem.SizeError, match="no whole number of Node"):
                other.malloc(25, type=1)
            with pytest.raises(pymem.ConfigError, match="has no type with fields"):
                other.store(other.globals["g0"], "next", 0)
            assert other.register_type(types.struct("Node", key=types.int64)).id == 3  # not the same
            with pymem.Runtime.restore(path) as third:
                assert third.register_type(WIDE) == rt.types[2]
                assert third.register_type(NODE) == rt.types[1]
                assert go_on(third, 4) == go_on(rt, 4)
                assert third.types == rt.types


def test_types_of_one_name(tmp_path: Path) -> None:
    """Types that a file cannot tell apart are known again in the order in which they come."""
    one, two = (types.struct("T", p=types.ptr("T")) for _ in range(2))
    with pymem.Runtime() as rt:
        assert (rt.register_type(one).id, rt.register_type(two).id) == (1, 2)
        path = rt.snapshot().save(tmp_path / "twins")
    with pymem.Runtime.restore(path) as rt:
        assert (rt.register_type(two).id, rt.register_type(one).id) == (1, 2)
        assert rt.register_type(types.struct("T", p=types.ptr("T"))).id == 3


# ---- files ----


@pytest.mark.parametrize("liveness", ["record", "graph"])
def test_file(tmp_path: Path, liveness: str) -> None:
    one = start(21, liveness)
    one.run(12)
    amid_marking(one)
    path = one.rt.snapshot().save(tmp_path / "a.snap")
    assert path.read_bytes() == one.rt.snapshot().save(tmp_path / "b.snap").read_bytes()
    trace = io.StringIO()
    other = Program(pymem.Runtime.restore(path, trace=trace), 0, trace)
    other.rng.setstate(one.rng.getstate())
    other.held, other.roots = list(one.held), one.roots
    one.seen, one.trace_from = [], one.trace.tell()
    for program in (one, other):
        program.run(10)
    same(one, other)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.snap", "b.snap"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    program = start(2)
    program.run(6)
    return program.rt.snapshot().save(tmp_path_factory.mktemp("snap") / "s").read_bytes()


def test_file_cut(saved: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cut"
    for n in [*range(0, 64, 7), 1000, len(saved) // 2, len(saved) - 1]:
        path.write_bytes(saved[:n])
        with pytest.raises(pymem.RecordingError, match=r"cut: not a whole snapshot .*: take it again"):
            pymem.Runtime.restore(path)


def test_file_altered(saved: bytes, tmp_path: Path) -> None:
    path, rng = tmp_path / "altered", random.Random(1)
    for _ in range(60):
        raw = bytearray(saved)
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        path.write_bytes(raw)
        with pytest.raises(pymem.RecordingError, match="not a whole snapshot"):
            pymem.Runtime.restore(path)


def test_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"go 1.27 trace\0\0\0" * 10)
    with pytest.raises(pymem.RecordingError, match="does not begin as one"):
        pymem.Runtime.restore(path)
    with pytest.raises(FileNotFoundError):
        pymem.Runtime.restore(tmp_path / "nowhere")


def test_file_of_another_version(saved: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(saved[:16] + b"\2\0\0\0" + saved[20:])
    with pytest.raises(pymem.RecordingError, match="of format 2 and this pymem reads 1"):
        pymem.Runtime.restore(path)


def _fields(tree: Any) -> list[tuple[Any, Any]]:
    """Return every place in a tree of dicts and lists, as (container, key)."""
    if not isinstance(tree, (dict, list)):
        return []
    keys = tree if isinstance(tree, dict) else range(min(len(tree), 3))
    return [place for key in keys for place in [(tree, key), *_fields(tree[key])]]


@pytest.mark.parametrize("value", ["x", None, True, -1, 1.5, [], {}, 1 << 70])
def test_state_altered(value: Any) -> None:
    """A file of the right checksum whose state is none is refused, or makes a runtime that raises errors of its own."""
    program = start(4, "graph")
    program.run(5)
    build(program.rt, 1)
    amid_marking(program)
    snapshot = program.rt.snapshot()
    for i in range(0, len(_fields(snapshot.state)), 5):
        state = json.loads(json.dumps(snapshot.state))
        where, key = _fields(state)[i]
        where[key] = value
        try:
            rt = pymem.Runtime.restore(Snapshot(snapshot.heap, state))
        except pymem.RecordingError as error:
            assert "this snapshot: not a whole snapshot" in str(error)
            continue
        rt.check()


# ---- the core's part ----


def marking_core(seed: int) -> Core:
    """A heap of many kinds of objects, with a mark of the graph half done."""
    rng = random.Random(seed)
    c = Core(padding_pages=2, address_space=1 << 32)
    c.proc_new()
    c.proc_new()
    mask = np.array([0b101], np.uint64)
    for id_, size in ((1, 24), (2, 64), (3, 8)):
        c.heap.call(lib.pymem_type_add, id_, size, 8 if size == 8 else 24, pointer("uint64_t", mask), 1)
    addrs = [
        a
        for size in (8, 24, 24, 64, 200, 640, 3000)
        for a in c.malloc_same(0, size, False, rng.randrange(4), 60)
    ]
    addrs += c.malloc_same(1, 300_000, False, 2, 2) + c.malloc_same(1, 7, True, 0, 50)
    words = [a for a in addrs if a % 8 == 0]
    n = 3000
    src = np.array([rng.choice(words[:-50]) for _ in range(n)], np.uint64)
    to = np.array([rng.choice(addrs) for _ in range(n)], np.uint64)
    done, out = ffi.new("uint64_t *"), ffi.new("uint32_t *")
    columns = [pointer("uint64_t", a) for a in (src, np.zeros(n, np.uint64), to)]
    c.heap.call(lib.pymem_store_batch, *columns, n, done)
    for kind in range(2):
        roots = np.array(rng.sample(addrs, 40), np.uint64)
        c.heap.call(lib.pymem_roots_new, kind, out)
        c.heap.call(lib.pymem_roots_resize, out[0], 40)
        c.heap.call(lib.pymem_roots_set, out[0], 0, pointer("uint64_t", roots), 40)
    lent = [(c.stack_alloc(0, size), size) for size in (2048, 4096, 32768)]
    c.stack_free(0, *lent[0])
    c.gc_begin(0)
    c.heap.call(lib.pymem_mark_start_graph, False)
    drain(c, rng.randrange(6000))
    return c


def drain(c: Core, budget: int) -> tuple[int, ...]:
    out = ffi.new("pymem_mark_progress *")
    c.heap.call(lib.pymem_mark_drain, budget, out)
    return out.heap_scan, out.stack_scan, out.globals_scan, out.objects, out.idle


def finish(c: Core) -> list[Any]:
    """End the mark in small steps, and do what comes after."""
    seen: list[Any] = [drain(c, 300) for _ in range(200)]
    seen.append(drain(c, 1 << 60))
    c.heap.call(lib.pymem_mark_stop)
    c.heap.call(lib.pymem_gc_flip)
    c.gc_end(0)
    seen.append(c.sweep_all(0))
    seen.append(c.malloc_same(0, 24, False, 1, 500) + c.malloc_same(1, 5, True, 0, 90))
    stats = c.stats(0, flush=True)
    seen += [stats.heap_objects, stats.heap_inuse, stats.gc_sys, stats.other_sys, stats.heap_released]
    seen.append(c.spans().tolist())
    return seen


def restored(data: bytes, fault: int = -1) -> Core:
    c = Core.__new__(Core)
    c.heap = Heap.restore(data, fault=fault)
    return c


@settings(max_examples=30, deadline=None)
@given(seed=seeds)
def test_mark_under_way(seed: int) -> None:
    """Queues, bits and counts of a mark are those of the original, to the order of work."""
    c = marking_core(seed)
    data = c.heap.snapshot()
    copy = restored(data)
    assert copy.heap.snapshot() == data
    assert finish(copy) == finish(c)
    assert copy.heap.snapshot() == c.heap.snapshot()


def test_long_queues() -> None:
    """More pages and objects wait than the first buffers hold."""
    copies = []
    for fork_at in (-1, 3):
        c = Core(address_space=1 << 34)
        c.proc_new()
        c.proc_new()
        addrs = np.array(
            c.malloc_same(0, 512, False, 0, 60_000) + c.malloc_same(0, 1024, False, 0, 3000), np.uint64
        )
        np.random.default_rng(1).shuffle(addrs)
        table = c.malloc_same(0, 8 * len(addrs), False, 0, 1)[0]
        done, out = ffi.new("uint64_t *"), ffi.new("uint32_t *")
        columns = [np.full(len(addrs), table, np.uint64), np.arange(len(addrs), dtype=np.uint64) * 8, addrs]
        c.heap.call(lib.pymem_store_batch, *[pointer("uint64_t", a) for a in columns], len(addrs), done)
        c.heap.call(lib.pymem_roots_new, 0, out)
        c.heap.call(lib.pymem_roots_resize, out[0], 1)
        c.heap.call(lib.pymem_roots_set, out[0], 0, pointer("uint64_t", columns[0]), 1)
        c.gc_begin(0)
        c.heap.call(lib.pymem_mark_start_graph, False)
        seen: list[Any] = []
        for step in range(60):
            if step == fork_at:
                c = restored(c.heap.snapshot())
            seen.append(drain(c, 200_000))
        copies.append((seen, finish(c)))
    assert copies[0] == copies[1]


def test_faults() -> None:
    """Each allocation of taking and of restoring fails once; nothing is left behind, and the heap is as it was."""
    c = marking_core(7)
    data = c.heap.snapshot()
    n, failed = 0, True
    while failed:
        try:
            restored(data, n).check()
            failed = False
        except MemoryError:
            n += 1
    assert n > 20
    held = c.metadata_bytes()
    for fault in range(2):
        c.fault_after(fault)
        with pytest.raises(MemoryError):
            c.heap.snapshot()
        c.fault_after(-1)
        assert c.metadata_bytes() == held
    assert c.heap.snapshot() == data


def use(c: Core) -> None:
    """Do what reaches far into a heap; errors are its own affair."""
    for step in (
        lambda: drain(c, 1 << 40),
        lambda: c.heap.call(lib.pymem_mark_stop),
        lambda: c.heap.call(lib.pymem_gc_flip),
        lambda: c.gc_end(0),
        lambda: c.sweep_one(0),
        lambda: c.malloc_same(0, 24, False, 1, 3000),
        lambda: c.malloc_each(1, [5, 700, 40000, 9, 9, 16] * 50, [i % 2 > 0 for i in range(300)], [1] * 300),
        lambda: [c.stack_alloc(0, 2048 << k % 6) for k in range(60)],
        lambda: c.sweep_all(0),
        lambda: c.gc_collect(0, []),
        lambda: c.malloc_same(1, 640, False, 2, 3000),
        c.scavenge_all,
        lambda: c.proc_destroy(1),
        lambda: c.stats(0, flush=True),
        c.spans,
        c.pages,
        c.heap.snapshot,
    ):
        try:
            step()
        except (pymem.PymemError, MemoryError):
            continue


def mutated(data: bytes, rng: random.Random) -> bytes:
    raw = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        at = rng.randrange(len(raw))
        match rng.randrange(4):
            case 0:
                raw[at] ^= 1 << rng.randrange(8)
            case 1:
                raw[at] = rng.choice([0, 1, 2, 0x7F, 0x80, 0xFF])
            case 2:
                del raw[at : at + rng.choice([1, 1, 8, 200])]
            case _:
                raw[at:at] = raw[at - 8 : at] if rng.random() < 0.5 else b"\0"
    return bytes(raw)


@pytest.mark.parametrize("kind", ["plain", "graph"])
def test_damaged_heap(kind: str) -> None:
    """Whatever the bytes are: refused with a sentence, or a heap that is whole and can be used."""
    if kind == "graph":
        data = marking_core(3).heap.snapshot()
    else:
        program = start(8, gomaxprocs=2)
        program.run(4)
        data = program.rt._heap.snapshot()
    rng, whole, refused = random.Random(kind), 0, 0
    for _ in range(1500):
        try:
            c = restored(mutated(data, rng))
        except (pymem.RecordingError, MemoryError) as error:  # it may ask for any amount of address space
            assert str(error)
            refused += 1
            continue
        whole += 1
        use(c)
        c.close()
    assert refused > 500
    assert whole > 10


def test_damaged_heap_is_shut() -> None:
    """Of one that was refused nothing can be had but its sentence and its end."""
    data = marking_core(3).heap.snapshot()
    out, need = ffi.new("pymem_heap **"), ffi.new("uint64_t *")
    assert lib.pymem_restore(data[:-1], len(data) - 1, -1, out) == lib.PYMEM_EFORMAT
    assert lib.pymem_snapshot(out[0], ffi.NULL, 0, need) == lib.PYMEM_EBUSY
    assert b"the heap: " in ffi.string(lib.pymem_heap_message(out[0]))
    lib.pymem_heap_free(out[0])


def test_empty_heap() -> None:
    c = Core()
    copy = restored(c.heap.snapshot())
    for heap in (c, copy):
        heap.malloc(NO_PROC, 100)
        heap.proc_new()
        heap.malloc(0, 100)
    assert copy.heap.snapshot() == c.heap.snapshot()
    assert zlib.crc32(c.heap.snapshot()) == zlib.crc32(copy.heap.snapshot())
