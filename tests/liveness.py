"""Random programs on an object graph, held against a plain model of it (`liveness_model.py`).

`ByRuntime` drives a `Runtime` with its collector, `ByCore` the core's calls with marks in steps from one byte up. As a
program:

    python tests/liveness.py [--steps N] [--seed S] [--by runtime|core|both]
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable
from typing import Any, ClassVar

from core import Core
from liveness_model import (
    BIG,
    NODE,
    PLACES,
    SMALL,
    TINY,
    Obj,
    Program,
    Root,
    Roots,
    Shape,
    address,
    assign,
    bytes_of,
)

import pymem
from pymem._arrays import pointer
from pymem._native import ffi, lib
from pymem.gc.costs import Costs
from pymem.gc.events import GCEvent, GCPhase

_WIDE = 40_000
"""Globals in a large set: more than are scanned in one go."""


# ---- a runtime ----


class _G:
    """A goroutine with its frames."""

    def __init__(self, g: pymem.Goroutine) -> None:
        self.g = g
        self.frames: list[tuple[Any, int, Roots]] = []
        """Each with its number of variables, and what they hold."""


_MB = 1 << 20
_MOST_OBJECTS = 3000
_MOST_FRAMES = 8


class ByRuntime(Program):
    """A program of several goroutines under the collector, with a small heap so that it collects all the time."""

    STEPS: ClassVar = {
        "new": 30,
        "batch": 6,
        "link": 20,
        "move": 10,
        "take": 10,
        "drop": 5,
        "global": 8,
        "variable": 8,
        "push": 6,
        "pop": 6,
        "go": 1,
        "exit": 1,
        "work": 30,
        "contents": 4,
        "setting": 1,
        "stats": 1,
        "fault": 2,
        "rare": 1,
    }

    def __init__(self, seed: int, **options: Any) -> None:
        rng = random.Random(seed)
        settings: dict[str, Any] = {
            "gomaxprocs": rng.randrange(1, 5),
            "gogc": rng.choice([3, 5, 10]),
            "costs": Costs(mark_byte_ns=rng.choice([0.35, 20.0, 500.0])),
            "globals_bytes": rng.choice([0, 1000]),
            "cache": rng.choice(["p", "p", "goroutine"]),
            "check_mark": True,
        }
        self.rt = rt = pymem.Runtime(**(settings | options))
        super().__init__(seed, rt._heap)
        self.globals: Roots = {}
        self.model.variables.append(self.globals)
        self.gs: list[_G] = []
        self.cycles_at_call = 0
        rt.on_gc(self.observe)
        for k in range(rng.randrange(11)):
            self._add_ballast(f"ballast {k}")

    def _add_ballast(self, name: str) -> None:
        """Hold something large: as an assist scans 64 KB at least, a small heap would be marked at a blow."""
        shape = BIG[-1]
        obj = self.made([self.rt.new(NODE, shape[1])], shape)[0]
        self.rt.globals[name] = obj.addr
        self.globals[name] = obj, obj.addr

    # ---- the collector ----

    def observe(self, event: GCEvent) -> None:
        if event.phase is GCPhase.MARK:
            self.model.mark_begins(open_blocks=self.rt._sched.gomaxprocs + len(self.gs) + 1)
        elif event.phase is GCPhase.SWEEP:
            self.model.mark_ends(self.living())

    def made(self, addrs: list[int], shape: Shape) -> list[Obj]:
        """Enter what a call has made: a cycle that began or ended on its way has kept all of it."""
        model = self.model
        new = [model.born(addr, shape) for addr in addrs]
        if model.cycles != self.cycles_at_call:
            assert all(self.lives(addr) for addr in addrs)
        unknown = model.strangers - {obj.addr for obj in new}
        assert not unknown, f"nobody has made {[hex(a) for a in unknown]}"
        self.settle()
        return new

    def settle(self) -> None:
        self.model.strangers.clear()
        self.cycles_at_call = self.model.cycles

    def adopt(self) -> None:
        """What a call that ran out of memory has made is garbage."""
        for addr in self.living() - set(self.model.objects):
            self.model.objects[addr] = Obj(addr, 1, (), tiny=addr % TINY == 0 and self._is_tiny(addr))
        self.settle()

    def _is_tiny(self, addr: int) -> bool:
        return self.lives(addr) and bool(self._info.tiny)

    # ---- allocation ----

    def allocator(self) -> Any:
        """Return how to allocate: on a P, or as a goroutine."""
        if self.gs and self.rng.random() < 0.5:
            return self.rng.choice(self.gs).g, {}
        return self.rt, {"p": self.rng.randrange(self.rt._sched.gomaxprocs)}

    def do_new(self) -> None:
        shape, (by, options) = self.shape(), self.allocator()
        type_, n, noscan = shape
        addr = by.malloc(n, noscan=noscan, **options) if type_ is None else by.new(type_, n, **options)
        self.keep(self.made([addr], shape)[0])

    def do_batch(self) -> None:
        shape, n = self.rng.choice(SMALL), self.count(200)
        by, options = self.allocator()
        type_, _, noscan = shape
        size = bytes_of(shape)
        if self.rng.random() < 0.5:
            addrs = by.malloc_batch(size, n, noscan=noscan, types=type_ or 0, **options)
        else:
            types_ = None if type_ is None else [self.rt.register_type(type_).id] * n
            addrs = by.malloc_batch([size] * n, noscan=noscan, types=types_, **options)
        new = self.made([int(a) for a in addrs], shape)
        self.chain(new)
        self.keep(new[0])

    def keep(self, obj: Obj) -> None:
        """Store a new object somewhere, or let it go."""
        which = self.rng.random()
        if len(self.model.objects) > _MOST_OBJECTS:
            which = 0.95
        if which < 0.6 and (holder := self.holder()):
            self.set_place(holder, self.place(holder), self.model.inside(obj))
        elif which < 0.8:
            self._set_global(self.model.inside(obj))
        elif which < 0.9:
            self.hold(self.model.inside(obj))
        elif len(self.model.objects) > _MOST_OBJECTS:
            self._set_global(None)
            self.do_drop()

    # ---- variables ----

    def _set_global(self, value: Root) -> None:
        name = f"g{self.rng.randrange(16)}"
        if value is None and name in self.rt.globals and self.rng.random() < 0.5:
            del self.rt.globals[name]
        else:
            self.rt.globals[name] = address(value)
        assign(self.globals, name, value)

    def do_global(self) -> None:
        obj = self.model.stroll()
        self._set_global(self.model.inside(obj) if obj and self.rng.random() < 0.85 else None)

    def hold(self, value: Root) -> bool:
        framed = [g for g in self.gs if g.frames]
        if not framed:
            return False
        frame, n, roots = self.rng.choice(self.rng.choice(framed).frames)
        name = f"v{self.rng.randrange(n)}"
        frame[name] = address(value)
        assign(roots, name, value)
        return True

    def do_variable(self) -> None:
        obj = self.model.stroll()
        self.hold(self.model.inside(obj) if obj and self.rng.random() < 0.85 else None)

    def do_push(self) -> None:
        room = [g for g in self.gs if len(g.frames) < _MOST_FRAMES]
        if not room:
            return
        g, n, values = self.rng.choice(room), self.rng.randrange(1, 5), Roots()
        for i in range(n):
            obj = self.model.stroll()
            assign(values, f"v{i}", self.model.inside(obj) if obj else None)
        frame = g.g.frame({name: address(values.get(name)) for name in (f"v{i}" for i in range(n))})
        frame.__enter__()
        g.frames.append((frame, n, values))
        self.model.variables.append(values)

    def do_pop(self) -> None:
        framed = [g for g in self.gs if g.frames]
        if framed:
            g = self.rng.choice(framed)
            frame, _, values = g.frames[-1]
            frame.__exit__(None, None, None)
            g.frames.pop()
            self._forget(values)

    def _forget(self, values: Roots) -> None:
        self.model.variables = [v for v in self.model.variables if v is not values]

    def do_go(self) -> None:
        if len(self.gs) < 6:
            self.gs.append(_G(self.rt.go()))

    def do_exit(self) -> None:
        if self.gs:
            g = self.rng.choice(self.gs)
            g.g.exit()
            self.gs.remove(g)
            for _, _, values in g.frames:
                self._forget(values)

    # ---- time, and what else happens ----

    def do_work(self) -> None:
        self.rt.work(self.count(20_000))

    def do_setting(self) -> None:
        rng, rt = self.rng, self.rt
        match rng.randrange(4):
            case 0:
                rt.gomaxprocs(rng.randrange(1, 6))
            case 1:
                rt.set_gc_percent(rng.choice([3, 5, 20, 100]))
            case 2:
                rt.set_memory_limit(rng.choice([1 << 62, 8 * _MB, 16 * _MB, 64 * _MB]))
            case _:
                for g in self.gs:
                    if g.g.stack_size < 64 << 10:
                        g.g.grow_stack()

    def do_stats(self) -> None:
        self.rt.read_mem_stats(flush=self.rng.random() < 0.7)
        assert self.rt.gc_stats.num_gc == self.model.cycles
        assert self.rt.marking == self.model.marking

    def do_rare(self) -> None:
        match self.rng.randrange(12):
            case 0:
                self.rt.free_os_memory()
            case 1:
                self.rt.sleep(self.rng.choice([1e3, 1e9, 130e9]))
            case 2 | 3:
                self.rt.gc(p=self.rng.randrange(self.rt._sched.gomaxprocs))
            case _:
                self.do_stats()

    def do_fault(self) -> None:
        """Memory runs out in the next step, soon or not at all."""
        step: Callable[[], None] = self.rng.choice(
            [
                self.do_new, self.do_batch, self.do_push, self.do_pop, self.do_global, self.do_go, self.do_exit,
                self.do_work, self.do_setting, self.do_stats, self.do_rare, self.do_link,
            ]
        )  # fmt: skip
        lib.pymem_fault_after(self.heap.handle, self.rng.randrange(4))
        try:
            step()
        except MemoryError:
            lib.pymem_fault_after(self.heap.handle, -1)
            self.adopt()
        finally:
            lib.pymem_fault_after(self.heap.handle, -1)

    def finish(self) -> None:
        """Two collections leave what can be reached and nothing else."""
        for _ in range(2):
            self.rt.gc()
        assert self.living() >= self.model.reach()
        assert all(o.tiny for a, o in self.model.objects.items() if a not in self.model.reach())
        self.rt.check()
        self.rt.close()


# ---- the core ----


class ByCore(Program):
    """The core's calls in any order that they allow, and marks in steps from one byte up."""

    STEPS: ClassVar = {
        "new": 24,
        "batch": 6,
        "link": 14,
        "move": 10,
        "take": 10,
        "drop": 8,
        "root": 14,
        "resize": 2,
        "set": 2,
        "mark": 30,
        "end": 1,
        "contents": 4,
        "sweep": 3,
        "flush": 1,
        "procs": 1,
        "stack": 2,
    }

    def __init__(self, seed: int) -> None:
        self.core = Core()
        super().__init__(seed, self.core.heap)
        self.core.proc_new()
        self.procs = [0]
        self.ids = {t: k + 1 for k, t in enumerate({s[0] for s in PLACES if s[0] and not s[2]})}
        for type_, id_ in self.ids.items():
            words = type_.pointer_words()
            args = (id_, type_.size, type_.ptrdata, pointer("uint64_t", words), len(words))
            self.heap.call(lib.pymem_type_add, *args)
        self.sets: list[tuple[int, list[int], Roots]] = []
        """Sets of roots: number, how many places (a list of one), what they hold."""
        self.stacks: list[tuple[int, int]] = []
        for n in (_WIDE, 10):
            self._add_set(n, stack=False)
        self._add_set(10, stack=True)
        self.progress = ffi.new("pymem_mark_progress *")

    def _add_set(self, n: int, *, stack: bool) -> None:
        roots: Roots = {}
        self.sets.append((self.core.roots_new([0] * n, stack=stack), [n], roots))
        self.model.variables.append(roots)

    # ---- objects ----

    def do_new(self) -> None:
        shape = self.shape()
        type_ = self.ids.get(shape[0], 0) if shape[0] else 0
        addr = self.core.malloc(self.rng.choice(self.procs), bytes_of(shape), shape[2], type_)
        self.keep(self.model.born(addr, shape))

    def do_batch(self) -> None:
        shape, n, proc = self.rng.choice(SMALL), self.count(200), self.rng.choice(self.procs)
        size, noscan, type_ = bytes_of(shape), shape[2], self.ids.get(shape[0], 0) if shape[0] else 0
        if self.rng.random() < 0.5:
            addrs = self.core.malloc_same(proc, size, noscan, type_, n)
        else:
            addrs = self.core.malloc_each(proc, [size] * n, [noscan] * n, [type_] * n)
        new = [self.model.born(addr, shape) for addr in addrs]
        self.chain(new)
        self.keep(new[0])

    def keep(self, obj: Obj) -> None:
        which = self.rng.random()
        if which < 0.6 and (holder := self.holder()):
            self.set_place(holder, self.place(holder), self.model.inside(obj))
        elif which < 0.9:
            self._set_root(self.model.inside(obj))
        if len(self.model.objects) > _MOST_OBJECTS:
            self._set_root(None)
            self.do_drop()

    # ---- roots ----

    def _set_root(self, value: Root) -> None:
        id_, n, roots = self.rng.choice(self.sets)
        place = self.rng.choice(list(roots)) if roots and not value else self.rng.randrange(min(n[0], 12))
        if n[0] == _WIDE and self.rng.random() < 0.5:
            place = _WIDE - 1 - place % 12
        self.core.roots_set(id_, place, [address(value)])
        assign(roots, place, value)

    def do_root(self) -> None:
        obj = self.model.stroll()
        self._set_root(self.model.inside(obj) if obj and self.rng.random() < 0.85 else None)

    def hold(self, value: Root) -> bool:
        self._set_root(value)
        return True

    def do_resize(self) -> None:
        """A stack grows or shrinks; globals too, though no program does that."""
        id_, n, roots = self.rng.choice(self.sets)
        n[0] = self.rng.choice([_WIDE, _WIDE - 6, 20]) if n[0] > 100 else self.rng.randrange(1, 20)
        self.core.roots_resize(id_, n[0])
        for place in [place for place in roots if place >= n[0]]:
            del roots[place]

    def do_set(self) -> None:
        """A goroutine ends, another begins."""
        if len(self.sets) > 6 or (len(self.sets) > 2 and self.rng.random() < 0.4):
            id_, _, roots = self.sets.pop(self.rng.randrange(len(self.sets)))
            self.core.roots_free(id_)
            self.model.variables = [v for v in self.model.variables if v is not roots]
        else:
            stack = self.rng.random() < 0.7
            self._add_set(
                self.rng.randrange(1, 12) if stack or self.rng.random() < 0.7 else _WIDE, stack=stack
            )

    # ---- collections ----

    def do_mark(self) -> None:
        if not self.model.marking:
            self.core.mark_start_graph(self.rng.choice(self.procs))
            self.model.mark_begins(open_blocks=len(self.procs))
        most = 1_000_000 if self.rng.random() < 0.05 else 200
        budget = self.rng.choice([0, 1, self.count(most), self.count(most)])
        self.heap.call(lib.pymem_mark_drain, budget, self.progress)
        if self.progress.idle and self.rng.random() < 0.6:
            self._end()

    def do_end(self) -> None:
        if self.model.marking:
            self.core.mark_drain()
            self._end()

    def _end(self) -> None:
        self.core.mark_check()
        self.heap.call(lib.pymem_mark_stop)
        self.heap.call(lib.pymem_gc_flip)
        self.core.gc_end(self.rng.choice(self.procs))
        self.model.mark_ends(self.living())
        self.core.pace_sweeper(self.rng.choice([0, 1 << 30]))

    def do_sweep(self) -> None:
        proc = self.rng.choice(self.procs)
        if self.rng.random() < 0.1:
            self.core.sweep_all(proc)
        else:
            self.core.sweep_one(proc)

    # ---- the rest ----

    def do_flush(self) -> None:
        proc = self.rng.choice(self.procs)
        match self.rng.randrange(3):
            case 0:
                self.core.flush(proc)
            case 1:
                self.core.page_cache_flush(proc)
            case _:
                self.core.stats(proc, flush=True)

    def do_procs(self) -> None:
        if len(self.procs) > 3 or (len(self.procs) > 1 and self.rng.random() < 0.5):
            self.core.proc_destroy(self.procs.pop(self.rng.randrange(len(self.procs))))
        else:
            self.procs.append(self.core.proc_new())

    def do_stack(self) -> None:
        """Stacks take pages from among the heap's."""
        proc = self.rng.choice(self.procs)
        if self.stacks and self.rng.random() < 0.5:
            self.core.stack_free(proc, *self.stacks.pop(self.rng.randrange(len(self.stacks))))
        else:
            size = 2048 << self.rng.randrange(7)
            self.stacks.append((self.core.stack_alloc(proc, size), size))

    def finish(self) -> None:
        """A collection with nothing in its way leaves what can be reached and nothing else."""
        self.do_end()
        for _ in range(2):
            self.do_mark()
            self.do_end()
        rest = set(self.model.objects) - self.model.reach()
        assert all(self.model.objects[addr].tiny for addr in rest)
        self.core.sweep_all(self.procs[0])
        self.core.check()
        self.core.close()


# ---- as a program ----

DRIVERS: dict[str, Callable[[int], ByRuntime | ByCore]] = {"runtime": ByRuntime, "core": ByCore}
_STEPS_EACH = 20_000


def run(by: str, steps: int, seed: int, *, check: int = 1) -> tuple[int, int]:
    """Run programs of so many steps in all, the first with this seed; return cycles and objects freed."""
    cycles = freed = 0
    for k, done in enumerate(range(0, steps, _STEPS_EACH)):
        program = DRIVERS[by](seed + k)
        try:
            program.run(min(_STEPS_EACH, steps - done), check=check)
            program.finish()
        except BaseException:
            print(f"{by}: seed {seed + k}, step {program.steps}", file=sys.stderr)
            raise
        cycles, freed = cycles + program.model.cycles, freed + program.model.freed
    return cycles, freed


def main() -> None:
    parser = argparse.ArgumentParser(description="Random programs on an object graph against a plain model.")
    parser.add_argument("--steps", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--by", choices=[*DRIVERS, "both"], default="both")
    parser.add_argument(
        "--check", type=int, default=1, help="prove the heap's invariants after every so many steps"
    )
    options = parser.parse_args()
    for by in DRIVERS if options.by == "both" else [options.by]:
        begin = time.monotonic()
        cycles, freed = run(by, options.steps, options.seed, check=options.check)
        took = time.monotonic() - begin
        print(
            f"{by}: {options.steps:,} steps, {cycles:,} cycles, {freed:,} objects freed, {took:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
