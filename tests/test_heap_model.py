"""The C heap against the plain-Python heap: the same calls, the same addresses and counters after every step."""

from __future__ import annotations

import random
from typing import Any

import pytest
from core import BASE, NO_PROC, OTHER, WORKBUF, Core
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from reference_heap import UNSWEPT, ReferenceHeap
from strategies import counts, huge, many_sizes, seeds, sizes, some_of, stack_sizes, type_ids

import pymem

procs = st.integers(0, 3)
rooms = st.sampled_from(
    [1 << 60, 20 << 20, 3 << 20, 0]
)  # bytes to the next trigger: the less, the faster the sweep
shares = st.sampled_from([0.01, 0.3, 0.7, 0.97, 1.0])


class HeapMachine(RuleBasedStateMachine):
    """Calls go to both heaps. A drawn processor is one of those that exist, or none at all before the first."""

    core: Core
    model: ReferenceHeap

    @initialize(padding=st.sampled_from([0, 1, 100, 511, 700]), nprocs=st.integers(0, 3))
    def birth(self, padding: int, nprocs: int) -> None:
        self.core = Core(padding_pages=padding)
        self.model = ReferenceHeap(base=BASE, padding_pages=padding)
        self.stacks: dict[int, int] = {}
        self.manual: list[int] = []
        self.gone: list[int] = []  # addresses of the latest dead; some may be in use again
        for _ in range(nprocs):
            self.both("proc_new")

    def both(self, name: str, *args: Any) -> Any:
        got, want = getattr(self.core, name)(*args), getattr(self.model, name)(*args)
        assert got == want, (name, args)
        return got

    def on(self, proc: int) -> int:
        numbers = sorted(self.model.procs)
        return numbers[proc % len(numbers)] if numbers else NO_PROC

    def may_allocate(self) -> bool:
        return bool(self.model.procs) or self.model.no_p.cache is not None

    def teardown(self) -> None:
        if hasattr(self, "core"):
            self.core.close()

    # ---- objects ----

    @precondition(may_allocate)
    @rule(proc=procs, size=sizes, noscan=st.booleans(), type_=type_ids)
    def malloc(self, proc: int, size: int, noscan: bool, type_: int) -> None:
        self.both("malloc", self.on(proc), size, noscan, type_)

    @precondition(may_allocate)
    @rule(proc=procs, size=huge)
    def malloc_huge(self, proc: int, size: int) -> None:
        self.both("malloc", self.on(proc), size)

    @precondition(may_allocate)
    @rule(proc=procs, size=sizes, noscan=st.booleans(), type_=type_ids, n=counts)
    def malloc_same(self, proc: int, size: int, noscan: bool, type_: int, n: int) -> None:
        self.both("malloc_same", self.on(proc), size, noscan, type_, min(n, (16 << 20) // size))

    @precondition(may_allocate)
    @rule(proc=procs, n=counts, seed=seeds, typed=st.booleans())
    def malloc_each(self, proc: int, n: int, seed: int, typed: bool) -> None:
        rng = random.Random(seed)
        noscan = [rng.random() < 0.6 for _ in range(n)]
        types = [rng.choice([0, 3, 4]) if typed else 0 for _ in range(n)]
        self.both("malloc_each", self.on(proc), many_sizes(n, seed), noscan, types)

    @rule(share=shares, seed=seeds)
    def die(self, share: float, seed: int) -> None:
        self.gone = some_of(list(self.model.objects), share, seed)
        self.both("mark_dead", self.gone)

    @precondition(lambda self: self.model.spans)
    @rule(seed=seeds)
    def span_dies(self, seed: int) -> None:
        """Whole spans fall free, so that pages do."""
        base = random.Random(seed).choice(sorted(self.model.spans))
        self.both("mark_dead", [a for a, (s, _, _) in self.model.objects.items() if s.base == base])

    # ---- processors ----

    @precondition(lambda self: len(self.model.procs) < 4)
    @rule()
    def proc_new(self) -> None:
        self.both("proc_new")

    @precondition(lambda self: self.model.procs)
    @rule(proc=procs)
    def proc_destroy(self, proc: int) -> None:
        self.both("proc_destroy", self.on(proc))

    @rule(proc=procs)
    def flush(self, proc: int) -> None:
        self.both("flush", self.on(proc))

    @rule(proc=procs)
    def page_cache_flush(self, proc: int) -> None:
        self.both("page_cache_flush", self.on(proc))

    @rule()
    def scavenge_all(self) -> None:
        self.both("scavenge_all")

    # ---- stacks and manual spans ----

    @rule(proc=procs, size=stack_sizes, cached=st.booleans(), n=st.integers(1, 20))
    def stack_alloc(self, proc: int, size: int, cached: bool, n: int) -> None:
        for _ in range(n):
            addr = self.both("stack_alloc", self.on(proc), size, cached)
            assert addr not in self.stacks
            self.stacks[addr] = size

    @rule(proc=procs, cached=st.booleans(), share=shares, seed=seeds)
    def stack_free(self, proc: int, cached: bool, share: float, seed: int) -> None:
        for addr in some_of(list(self.stacks), share, seed):
            self.both("stack_free", self.on(proc), addr, self.stacks.pop(addr), cached)

    @rule(
        proc=procs,
        npages=st.one_of(st.integers(1, 20), st.integers(60, 600)),
        kind=st.sampled_from([WORKBUF, OTHER]),
    )
    def manual_alloc(self, proc: int, npages: int, kind: int) -> None:
        self.manual.append(self.both("manual_alloc", self.on(proc), npages, kind))

    @precondition(lambda self: self.manual)
    @rule(proc=procs, i=st.integers(0, 99))
    def manual_free(self, proc: int, i: int) -> None:
        self.both("manual_free", self.on(proc), self.manual.pop(i % len(self.manual)))

    # ---- collections, whole or piece by piece ----

    @precondition(lambda self: not self.model.marking)
    @rule(proc=procs, share=shares, seed=seeds)
    def gc_collect(self, proc: int, share: float, seed: int) -> None:
        self.both("gc_collect", self.on(proc), some_of(list(self.model.objects), share, seed))

    @precondition(lambda self: not self.model.marking)
    @rule(proc=procs)
    def gc_begin(self, proc: int) -> None:
        self.both("gc_begin", self.on(proc))

    @precondition(lambda self: self.model.marking)
    @rule(proc=procs, room=rooms)
    def gc_finish(self, proc: int, room: int) -> None:
        self.both("gc_mark_and_flip")
        self.both("gc_end", self.on(proc), False)
        self.both("pace_sweeper", self.model.heap_live + room)

    @precondition(lambda self: not self.model.marking)
    @rule(proc=procs, share=shares, seed=seeds, room=rooms)
    def gc_unswept(self, proc: int, share: float, seed: int, room: int) -> None:
        """A cycle turns and nothing is swept: what follows allocates and flushes on the way."""
        self.die(share, seed)
        self.gc_begin(proc)
        self.gc_finish(proc, room)

    @precondition(lambda self: not self.model.sweep_done and self.may_allocate())
    @rule(proc=procs, seed=seeds)
    def malloc_unswept(self, proc: int, seed: int) -> None:
        """Objects of the classes that wait for the sweeper, enough of them for several spans."""
        waiting = [s for s in self.model.spans.values() if s.state == UNSWEPT and s.slots > 1]
        if waiting:
            s = random.Random(seed).choice(sorted(waiting, key=lambda s: s.base))
            noscan = bool(s.span_class & 1)
            size = s.size if noscan or s.size <= 512 else s.size - 8
            self.both("malloc_same", self.on(proc), size, noscan, 0, min(3 * s.slots, 1500))

    @rule(proc=procs, n=st.integers(1, 30))
    def sweep_some(self, proc: int, n: int) -> None:
        for _ in range(n):
            self.both("sweep_one", self.on(proc))

    @precondition(lambda self: any(s.state == UNSWEPT for s in self.model.spans.values()))
    @rule(proc=procs, seed=seeds)
    def sweep_span(self, proc: int, seed: int) -> None:
        unswept = sorted(s.base for s in self.model.spans.values() if s.state == UNSWEPT)
        self.both("sweep_span", self.on(proc), random.Random(seed).choice(unswept))

    @rule(proc=procs)
    def sweep_all(self, proc: int) -> None:
        self.both("sweep_all", self.on(proc))

    @rule(proc=procs)
    def read_mem_stats(self, proc: int) -> None:
        self.model.read_mem_stats(self.on(proc))
        self.core.stats(self.on(proc), flush=True)

    # ---- what must hold after each ----

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "core"):
            return
        self.core.check()
        stats, want = self.core.stats(), self.model.stats()
        assert {name: getattr(stats, name) for name in want} == want
        assert list(stats.by_size_mallocs)[1:] == self.model.mallocs[1:]
        assert list(stats.by_size_frees)[1:] == self.model.frees[1:]
        fields = ["base", "pages", "span_class", "used", "kind", "cached"]
        assert self.core.spans()[fields].tolist() == self.model.span_rows()

    @rule(seed=seeds)
    def same_objects(self, seed: int) -> None:
        for addr in some_of(list(self.model.objects), 0.2, seed):
            s, slot, type_ = self.model.objects[addr]
            got = self.core.object_at(addr)
            assert (got.span_base, got.slot, got.noscan) == (s.base, slot, bool(s.span_class & 1))
            assert got.tiny == bool(s.tiny.get(slot))
            assert got.tiny or got.type == type_

    @rule(seed=seeds)
    def dead_stay_dead(self, seed: int) -> None:
        """Before the mark that finds them, between it and their sweep, and afterwards."""
        for addr in some_of(self.gone, 0.1, seed):
            if addr not in self.model.objects:
                with pytest.raises(pymem.AddressError):
                    self.core.mark_dead([addr])

    @precondition(lambda self: self.model.spans)
    @rule(seed=seeds)
    def same_slots(self, seed: int) -> None:
        s = random.Random(seed).choice([s for _, s in sorted(self.model.spans.items())])
        if s.kind == "heap":
            living = {slot for t, slot, _ in self.model.objects.values() if t is s}
            assert {(addr - s.base) // s.size for addr, _ in self.core.objects(s.base)} == living


_QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def run(examples: int, steps: int) -> None:
    chosen = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=_QUIET
    )
    run_state_machine_as_test(HeapMachine, settings=chosen)


def test_model() -> None:
    run(300, 40)


@pytest.mark.slow
def test_model_long() -> None:
    run(3000, 60)


@pytest.mark.parametrize("room", [2 << 20, 8 << 20, 64 << 20])
@pytest.mark.parametrize("seed", range(5))
def test_paced(seed: int, room: int) -> None:
    """The nearer the trigger, the more is swept for each span that is taken: as much as the plain heap sweeps."""
    rng = random.Random(seed)
    core, model = Core(), ReferenceHeap(base=BASE)
    sizes = many_sizes(6000, seed)
    noscan = [rng.random() < 0.5 for _ in sizes]
    both: tuple[Core | ReferenceHeap, ...] = (core, model)
    for heap in both:
        heap.proc_new()
        heap.malloc_each(0, sizes, noscan, [0] * len(sizes))
    dead = some_of(sorted(model.objects), 0.5, seed)
    for heap in both:
        heap.mark_dead(dead)
        heap.gc_begin(0)
        heap.gc_mark_and_flip()
        heap.gc_end(0)
        heap.pace_sweeper(core.stats().heap_live + room)
    for size in many_sizes(1500, seed + 100):
        assert core.malloc(0, size, True) == model.malloc(0, size, True)
        assert core.stats().frees == model.stats()["frees"]
    core.check()
