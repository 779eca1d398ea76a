"""Who lives: random programs against a model, with the collector at work, and the places where it could go wrong."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from liveness import DRIVERS, ByCore, ByRuntime, run
from strategies import seeds

import pymem
from pymem import types
from pymem.gc.costs import Costs
from pymem.gc.events import GCEvent, GCPhase

STEPS = int(os.environ.get("PYMEM_LIVENESS_STEPS", "100000"))
"""Of all programs together."""
_STRETCH, _STRETCHES = 100, 5

NODE = types.struct("Node", left=types.ptr("Node"), right=types.ptr("Node"), key=types.int64)
SLOW = Costs(mark_byte_ns=1000.0)
"""So that a mark lasts as long as the test wants."""


# ---- random programs ----


def stretches(by: type[ByRuntime | ByCore]) -> st.SearchStrategy[list[tuple[str | None, int]]]:
    """Return programs of stretches: of steps of one kind (the simplest to look at), or of all kinds."""
    kinds = st.sampled_from([*by.STEPS, *[None] * (9 * len(by.STEPS))])
    return st.lists(st.tuples(kinds, seeds), min_size=_STRETCHES, max_size=_STRETCHES)


@pytest.mark.parametrize("by", DRIVERS)
def test_any_program(by: str) -> None:
    """Nothing reachable is freed, nothing that was unreachable before a mark outlives it; the heap is whole always.

    After each step all invariants are proven, and each mark is done a second time.
    """
    made = taken = 0
    programs = STEPS // len(DRIVERS) // (_STRETCH * _STRETCHES) + 1

    @settings(max_examples=programs, deadline=None, suppress_health_check=list(HealthCheck))
    @given(seed=seeds, program=stretches({"runtime": ByRuntime, "core": ByCore}[by]))
    def one(seed: int, program: list[tuple[str | None, int]]) -> None:
        nonlocal made, taken
        driver = DRIVERS[by](seed)
        for only, reseed in program:
            driver.rng.seed(reseed)
            driver.run(_STRETCH, only=only)
        driver.finish()
        made, taken = made + driver.model.cycles, taken + driver.steps

    one()
    assert taken >= STEPS // len(DRIVERS)
    assert made > taken // 1000


@pytest.mark.slow
@pytest.mark.parametrize("by", DRIVERS)
def test_long_programs(by: str) -> None:
    """Longer ones get further: larger heaps, more cycles, address space used again. CONTRIBUTING has the 10 million."""
    cycles, freed = run(by, 500_000, seed=1, check=20)
    assert cycles > 1000
    assert freed > 100_000


# ---- one trap after the other ----


def lives(rt: pymem.Runtime, addr: int) -> bool:
    try:
        rt.object_at(addr)
    except pymem.AddressError:
        return False
    return True


def begin_mark(**options: Any) -> pymem.Runtime:
    """Return a runtime in which a mark has just begun, with 4 MB still to scan and no end in sight."""
    usual: dict[str, Any] = {"gogc": 5, "costs": SLOW, "check_mark": True, "globals_bytes": 0}
    rt = pymem.Runtime(**(usual | options))
    rt.globals["ballast"] = ballast = rt.new(types.ptr(NODE), 500_000)
    while not rt.marking:
        rt.malloc(1 << 12, noscan=True)
    assert lives(rt, ballast)
    return rt


def end_mark(rt: pymem.Runtime) -> None:
    while rt.marking:
        rt.work(1e9)


def test_new_object_outlives_the_cycle_it_started() -> None:
    """Its address is on its way to the program when the world stops."""
    with pymem.Runtime(gogc=5, globals_bytes=0, check_mark=True) as rt:
        begun: list[int] = []
        rt.on_gc(lambda e: begun.append(e.cycle) if e.phase is GCPhase.MARK else None)
        for _ in range(60_000):
            seen = len(begun)
            addr = rt.new(NODE, 3)
            if len(begun) > seen:
                rt.gc_stats  # noqa: B018 (lets the mark run on)
                rt.work(1e9)
                assert lives(rt, addr)
        assert len(begun) > 3


def test_batch_outlives_the_cycles_in_it() -> None:
    """Those made before a cycle began, while it marked, and while it swept."""
    with pymem.Runtime(gogc=5, globals_bytes=0, check_mark=True, costs=Costs(malloc_ns=2000.0)) as rt:
        nodes = rt.new_batch(NODE, 300_000)
        assert rt.gc_stats.num_gc > 3
        assert all(lives(rt, int(a)) for a in nodes[::1001])
        assert rt.load_batch(nodes, 0).sum() == 0
        assert rt.gc().marked_bytes == 0


def test_batch_is_no_scan_work() -> None:
    """What a call holds until it returns is on a stack, but no stack that a program has."""
    with pymem.Runtime(gogc=100, globals_bytes=0) as rt:
        rt.new_batch(NODE, 300_000)
        rt.work(1e9)
        assert rt.gc_stats.num_gc > 0
        assert all(c.stack_scan_work == 0 for c in rt.gc_stats.cycles)


def test_frames_while_marking() -> None:
    with begin_mark(gogc=5) as rt, rt.go() as g:
        with g.frame(a=(a := rt.new(NODE))):
            with g.frame(b=rt.new(NODE), c=a + 8) as inner:
                rt.store(a, "left", inner["b"])
            end_mark(rt)
            assert lives(rt, a)
            assert lives(rt, rt.load(a, "left"))
        rt.gc()
        assert not lives(rt, a)


def test_variable_that_changes_its_stack_while_marking() -> None:
    """From a stack that is not scanned yet to one that is: only the second can tell the collector."""
    with pymem.Runtime(check_mark=True, gogc=5, costs=SLOW, globals_bytes=0) as rt:
        first, second = rt.go(), rt.go()
        with first.frame(x=0) as old, second.frame(x=rt.new(NODE)) as new:
            rt.globals["ballast"] = rt.new(types.ptr(NODE), 500_000)
            while not rt.marking:
                rt.malloc(1 << 12, noscan=True)
            rt.work(1)
            old["x"], new["x"] = new["x"], 0
            end_mark(rt)
            assert lives(rt, old["x"])


def test_goroutine_ends_while_marking() -> None:
    """With a cache of its own, which may be the one that the collector last worked on."""
    for cache in ("p", "goroutine"):
        with begin_mark(cache=cache, gomaxprocs=2) as rt:
            g = rt.go()
            g.roots["x"] = node = g.new(NODE)
            rt.globals["x"] = node
            end_mark(rt)
            while not rt.marking:
                g.malloc(1 << 12)
            g.exit()
            end_mark(rt)
            assert lives(rt, node)
            rt.check()


def test_fewer_processors_while_marking() -> None:
    """The P that the cycle began on goes, once its mark is over. Go: stopTheWorldGC."""
    for p in (0, 3):
        with begin_mark(gomaxprocs=4) as rt:
            end_mark(rt)
            while not rt.marking:
                rt.malloc(1 << 12, p=p)
            cycles = rt.gc_stats.num_gc
            rt.gomaxprocs(1)
            assert not rt.marking
            assert rt.gc_stats.num_gc == cycles + 1
            rt.gomaxprocs(8)
            rt.gc(p=7)
            rt.check()


@pytest.mark.parametrize("procs", [1, 2, 3, 4, 64])
def test_whole_mark_at_once(procs: int) -> None:
    with pymem.Runtime(gomaxprocs=procs, check_mark=True) as rt:
        rt.globals["x"] = node = rt.new(NODE)
        rt.new(NODE)
        result = rt.gc()
        assert (result.marked_bytes, result.freed_objects) == (24, 1)
        assert lives(rt, node)


CALLS: dict[str, Any] = {
    "free_os_memory": lambda rt: rt.free_os_memory(),
    "read_mem_stats": lambda rt: rt.read_mem_stats(),
    "gc": lambda rt: rt.gc(),
    "gc_dead": lambda rt: rt.gc(dead=[]),
    "set_gc_percent": lambda rt: rt.set_gc_percent(400),
    "off": lambda rt: rt.set_gc_percent("off"),
    "set_memory_limit": lambda rt: rt.set_memory_limit("5MiB"),
    "gomaxprocs": lambda rt: rt.gomaxprocs(3),
    "sleep": lambda rt: rt.sleep(1e12),
    "go": lambda rt: rt.go().exit(),
}


@pytest.mark.parametrize("name", CALLS)
def test_call_while_marking(name: str) -> None:
    with begin_mark() as rt:
        rt.globals["kept"] = kept = rt.new(NODE)
        rt.store(kept, "left", below := rt.new(NODE))
        rt.new(NODE)
        CALLS[name](rt)
        rt.check()
        end_mark(rt)
        rt.gc()
        assert lives(rt, kept)
        assert lives(rt, below)
        assert rt.read_mem_stats().heap_objects == 3
        rt.check()


def test_closed_while_marking() -> None:
    rt = begin_mark()
    with rt.go() as g, g.frame(x=rt.new(NODE)):
        rt.close()
    with pytest.raises(pymem.ClosedError):
        rt.gc()


def test_observer_that_looks_while_the_world_stands() -> None:
    """It may ask for anything that changes nothing."""
    with pymem.Runtime(gogc=5, globals_bytes=0, check_mark=True) as rt:
        seen: list[tuple[GCPhase, int, int]] = []

        def look(event: GCEvent) -> None:
            stats = rt.read_mem_stats(flush=False)
            seen.append((event.phase, rt.now, stats.num_gc))
            assert rt.gc_stats.num_gc == stats.num_gc

        rt.on_gc(look)
        for k in range(100):
            rt.globals["x"] = int(rt.new_batch(NODE, 1000)[k])
        assert len(seen) > 10
        assert [now for _, now, _ in seen] == sorted(now for _, now, _ in seen)


def test_memory_of_many_pages_is_zero() -> None:
    """Pages of which only later ones have been used before: a slot that begins on a fresh one is cleared as well."""
    with pymem.Runtime() as rt:
        hole = [rt.new(types.array(types.byte, 8192)) for _ in range(40)]
        for addr in hole[1:]:
            rt.view(addr, types.byte)[:] = 255
        rt.gc()
        large = rt.new(types.ptr(NODE), 40 * 1024)
        assert not set(hole).isdisjoint(range(large, large + 40 * 8192, 8192))
        assert not rt.view(large, types.int64).any()


# ---- deaths that are told, and deaths that are found ----


def test_told_death_of_what_is_pointed_to() -> None:
    """By graph a death is told only of what nothing leads to, else the next mark would follow a pointer to nowhere."""
    with pymem.Runtime() as rt, rt.go() as g:
        a, b, c, d = (rt.new(NODE) for _ in range(4))
        rt.store(a, "left", b + 8)
        rt.globals["d"] = d
        with pytest.raises(pymem.AddressError, match=rf"{b + 8:#x} cannot die: .* in the object at {a:#x}"):
            rt.gc(dead=[b])
        with pytest.raises(pymem.AddressError, match=f"{d:#x} cannot die: it is in a variable"):
            rt.gc(dead=[d])
        with g.frame(c=c), pytest.raises(pymem.AddressError, match="it is in a variable"):
            rt.gc(dead=[c])
        assert all(lives(rt, x) for x in (a, b, c, d))
        assert rt.gc(dead=[a, b]).freed_objects == 2
        assert (lives(rt, c), lives(rt, d)) == (True, True)
        assert rt.gc().freed_objects == 1
        assert lives(rt, d)


def test_told_death_by_a_word_that_is_no_pointer() -> None:
    with pymem.Runtime() as rt:
        a, b, c = rt.new(NODE), rt.new(NODE), rt.new(types.int64, 4)
        rt.view(a)["key"] = b
        rt.view(c)[:] = b
        assert rt.gc(dead=[b]).freed_objects == 1


def test_no_death_is_told_where_it_is_found() -> None:
    with pymem.Runtime() as rt, pytest.raises(pymem.ConfigError, match="liveness='record'"):
        rt.declare_dead([rt.new(NODE)])


def test_record_knows_better_than_pointers() -> None:
    with pymem.Runtime(liveness="record") as rt:
        a, b = rt.new(NODE), rt.new(NODE)
        rt.store(a, "left", b)
        rt.declare_dead([b])
        rt.gc()
        assert (lives(rt, a), lives(rt, b)) == (True, False)


# ---- check_mark ----


def marked_but_for_one(**options: Any) -> tuple[pymem.Runtime, int, int]:
    """Return a runtime that marks, and has lost sight of an object: who points to it is black, and no store told."""
    rt = begin_mark(**options)
    old = rt.new_batch(NODE, 2)
    rt.globals["old"] = int(old[0])
    end_mark(rt)
    lost = rt.new(NODE)
    rt.store(int(old[0]), "left", lost)
    while not rt.marking:
        rt.malloc(1 << 12, noscan=True)
    black = rt.new(NODE)
    rt.globals["black"] = black
    rt.view(black)["right"] = lost
    rt.view(int(old[0]))["left"] = 0
    return rt, black, lost


def test_check_mark_names_the_way() -> None:
    rt, black, lost = marked_but_for_one()
    with pytest.raises(
        pymem.CorruptHeapError,
        match=rf"checkmark found unmarked object {lost:#x} <- {black:#x}\+8 <- global black",
    ):
        end_mark(rt)


@pytest.mark.parametrize("where", ["frame", "roots"])
def test_check_mark_names_variables(where: str) -> None:
    rt, black, _ = marked_but_for_one()
    g = rt.go("worker")
    with g.frame(a=0, b=black if where == "frame" else 0):
        if where == "roots":
            g.roots["b"] = black
        del rt.globals["black"]
        with pytest.raises(pymem.CorruptHeapError, match="<- b of worker"):
            end_mark(rt)


def test_check_mark_only_if_asked() -> None:
    rt, _, lost = marked_but_for_one(check_mark=False)
    with rt:
        end_mark(rt)
        assert not lives(rt, lost)


def test_check_mark_from_the_environment() -> None:
    for value in ("0", "1"):
        env = {"GODEBUG": f"gccheckmark={value}", "GOGC": "5"}
        rt = pymem.Runtime.from_env(env, costs=SLOW)
        assert rt._gc._check_mark is (value == "1")
        rt.close()


def test_check_mark_takes_no_time() -> None:
    times = []
    for check_mark in (False, True):
        with pymem.Runtime(gogc=5, check_mark=check_mark, costs=Costs(malloc_ns=2000.0)) as rt:
            rt.globals["x"] = int(rt.new_batch(NODE, 100_000)[7])
            times.append((rt.now, rt.gc_stats.num_gc))
    assert times[0] == times[1]
    assert times[0][1] > 1
