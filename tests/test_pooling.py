"""Types changed on their way into a run: pools by Go's victim rule, other sizes, no pointers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymem.analysis.changes import noscan, resize
from pymem.analysis.comparison import Changes, compare
from pymem.analysis.pooling import CountingPacer, PoolUse, Stock, pool
from pymem.errors import ConfigError
from pymem.program import Program, read_program
from pymem.rerun import Rerun, rerun
from pymem.workload.columns import Event
from pymem.workload.sources import open_stream
from pymem.workload.workload import Workload, WorkloadType

LRU = "examples/lru.trace"
MB = 1 << 20
TYPES = [WorkloadType("main.buffer", MB, 0), WorkloadType("main.node", 48, 8)]
BUFFER, NODE = 1, 2


def program(
    types: Sequence[int], lifetimes: Sequence[int], *, gc_every: int = 0, sizes: Sequence[int] | None = None
) -> Program:
    made = Workload.from_arrays(
        [TYPES[t - 1].size for t in types] if sizes is None else sizes,
        types=types,
        lifetimes=lifetimes,
        noscan=np.array(types) == BUFFER,
        type_table=TYPES,
        gc_every=gc_every,
    )
    return read_program(made)


def run(before: Program, *patterns: str) -> tuple[Rerun, PoolUse]:
    """Run with pools; only the cycles that the program asks for, so it is known where they are."""
    pacer, use = CountingPacer(), PoolUse()
    return rerun(pool(before, patterns, pacer, use), gogc="off", pacer=pacer), use


# ---- pools by hand ----


def test_one_object_serves_all() -> None:
    """Ten buffers, each dead before the next is made: one is allocated and used ten times."""
    before = program([BUFFER] * 10, [0] * 10)
    result, use = run(before, "main.buffer")
    assert (use.gets, use.hits, use.puts, use.dropped) == (10, 9, 10, 0)
    assert use.hit_bytes == 9 * MB
    assert result.memstats.mallocs == 1


def test_as_many_as_live_at_once() -> None:
    """Each lives while three more are made: four are allocated."""
    before = program([BUFFER] * 12, [3] * 12)
    result, use = run(before, "main.buffer")
    assert (use.gets, use.hits) == (12, 8)
    assert result.memstats.mallocs == 4


@pytest.mark.parametrize(("cycles", "hits", "dropped"), [(0, 1, 0), (1, 1, 0), (2, 0, 1), (3, 0, 1)])
def test_victims(cycles: int, hits: int, dropped: int) -> None:
    """A buffer is put back, so many cycles pass, and another is wanted: after two the first has gone."""
    types = [NODE] * 5 + [BUFFER, *[NODE] * (10 * cycles), BUFFER]
    before = program(types, [-1] * 5 + [0] + [-1] * (len(types) - 6), gc_every=10)
    result, use = run(before, "main.buffer")
    assert len(result.cycles) == cycles
    assert (use.hits, use.dropped) == (hits, dropped)


def test_what_a_cycle_drops_it_does_not_mark() -> None:
    """An idle buffer survives its first cycle as a victim; its second finds it dead."""
    types = [BUFFER] + [NODE] * 39
    result, use = run(program(types, [0] + [-1] * 39, gc_every=10), "main.buffer")
    marked = [c.heap2 for c in result.cycles]
    assert len(marked) == 4
    assert [m > MB for m in marked] == [True, False, False, False]
    assert (use.dropped, use.peak_idle_objects, use.peak_idle_bytes) == (1, 1, MB)
    unpooled, _ = run(program(types, [0] + [-1] * 39, gc_every=10))
    assert not any(c.heap2 > MB for c in unpooled.cycles)


def test_sizes_have_pools_of_their_own() -> None:
    before = program([BUFFER] * 4, [0] * 4, sizes=[1000, 2000, 1000, 2000])
    assert run(before, "main.buffer")[1].hits == 2


def test_nothing_pooled_changes_nothing() -> None:
    before = read_program(open_stream(LRU))
    plain = rerun(before, gogc="off")
    same, use = run(before)
    assert use == PoolUse()
    for name in ("mallocs", "frees", "total_alloc"):
        assert getattr(same.memstats, name) == getattr(plain.memstats, name)


def test_pool_of_a_trace() -> None:
    """What is not served from a pool is allocated: the counts add up, and nothing else changes."""
    before = read_program(open_stream(LRU))
    plain, _ = run(before)
    pooled, use = run(before, "uint8")
    assert 0 < use.hits < use.gets
    assert plain.memstats.mallocs - pooled.memstats.mallocs == use.hits
    assert plain.memstats.total_alloc - pooled.memstats.total_alloc == use.hit_bytes


def test_a_pool_can_be_run_twice() -> None:
    before = read_program(open_stream(LRU))
    uses = [compare(before, Changes(pool=["uint8"]), draws=1).pool for _ in range(2)]
    assert uses[0] == uses[1]


# ---- against a plain model ----


class PlainPool:
    """sync.Pool on one P, object by object."""

    def __init__(self) -> None:
        self.primary: list[int] = []
        self.victim: list[int] = []

    def get(self) -> bool:
        for place in (self.primary, self.victim):
            if place:
                place.pop()
                return True
        return False

    def collect(self) -> int:
        dropped = len(self.victim)
        self.primary, self.victim = [], self.primary
        return dropped


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("ppgggc|"))))
def test_stock(steps: list[tuple[int, str]]) -> None:
    """Puts, gets, cycles and ends of a batch at random, on four pools."""
    stock, plain = Stock(), [PlainPool() for _ in range(4)]
    stock.grow(4)
    batch: list[tuple[int, bool]] = []
    want: list[bool] = []

    def flush() -> None:
        pools, puts = np.array([p for p, _ in batch], np.int64), np.array([b for _, b in batch], bool)
        assert stock.run(pools, puts).tolist() == want
        batch.clear()
        want.clear()
        assert stock.idle.tolist() == [len(p.primary) + len(p.victim) for p in plain]
        assert stock.victims.tolist() == [len(p.victim) for p in plain]

    for number, step in steps:
        if step == "p":
            plain[number].primary.append(0)
            batch.append((number, True))
            want.append(False)
        elif step == "g":
            batch.append((number, False))
            want.append(plain[number].get())
        else:
            flush()
            if step == "c":
                assert stock.collect().tolist() == [p.collect() for p in plain]
    flush()


@settings(deadline=None)
@given(st.integers(1, 120), st.integers(0, 30), st.integers(0, 2**32 - 1))
def test_pool_model(n: int, gc_every: int, seed: int) -> None:
    """A program at random, followed row by row with plain pools, cycles where it asks for them."""
    rng = np.random.default_rng(seed)
    types, sizes = rng.integers(1, 3, n), rng.choice([64, 128], n)
    before = program(types.tolist(), rng.integers(-1, 9, n).tolist(), gc_every=gc_every, sizes=sizes.tolist())
    assert isinstance(before.source, Workload)
    pools: dict[int, PlainPool] = {64: PlainPool(), 128: PlainPool()}
    gets = hits = puts = dropped = 0
    of: dict[int, int] = {}
    rows = before.source.columns
    for kind, handle, type_, size in zip(rows.kind, rows.object, rows.type, rows.size, strict=True):
        if kind == Event.ALLOC and type_ == NODE:
            of[int(handle)] = int(size)
            gets += 1
            hits += pools[int(size)].get()
        elif kind == Event.DEATH and int(handle) in of:
            pools[of[int(handle)]].primary.append(0)
            puts += 1
        elif kind == Event.GC_END:
            dropped += sum(p.collect() for p in pools.values())
    _, use = run(before, "main.node")
    assert (use.gets, use.hits, use.puts, use.dropped) == (gets, hits, puts, dropped)
    assert use.idle_objects == sum(len(p.primary) + len(p.victim) for p in pools.values())


# ---- sizes and pointers ----


def test_resize() -> None:
    """48 B become 96 B; a slice of three of them becomes 288 B; other types stay."""
    before = program([NODE, NODE, BUFFER], [-1] * 3, sizes=[48, 144, 1000])
    after = resize(before, {"main.node": 96})
    assert [t.size for t in after.types] == [0, MB, 96]
    stats = rerun(after, gogc="off").memstats
    assert stats.total_alloc == 96 + 288 + 1024
    assert rerun(before, gogc="off").memstats.total_alloc == 48 + 144 + 1024


def test_resize_to_tiny() -> None:
    """Noscan objects that become tiny share blocks, and die one by one."""
    types = [BUFFER] * 64
    before = program(types, [5] * 64, gc_every=16, sizes=[MB] * 64)
    after = rerun(resize(before, {"main.buffer": 8}), gogc="off")
    assert after.memstats.mallocs == 64
    assert after.memstats.total_alloc == 32 * 16


def test_noscan() -> None:
    """Without pointers there is nothing to scan, and no header: 1 KB fits its class exactly."""
    before = program([NODE] * 1000, [-1] * 1000, sizes=[1008 // 48 * 48 + 16] * 1000, gc_every=1000)
    after = noscan(before, ["main.node"])
    assert after.types[NODE].ptrdata == 0
    scanned = [rerun(p, gogc="off").cycles[0].heap_scan_work for p in (before, after)]
    assert scanned[0] > 0
    assert scanned[1] == 0


@pytest.mark.parametrize("size", [0, -1, 1 << 41])
def test_resize_refuses(size: int) -> None:
    with pytest.raises(ConfigError, match="1 TB"):
        resize(program([NODE], [-1]), {"main.node": size})


def test_unknown_types_are_refused() -> None:
    before = program([NODE], [-1])
    for changes in (Changes(pool=["x"]), Changes(noscan=["x"]), Changes(resize={"x": 8})):
        with pytest.raises(ConfigError, match="no type"):
            compare(before, changes)


# ---- side by side ----


def test_compare() -> None:
    """Buffers of 1 MB, each dead at once: the pool saves all but one, and all collections."""
    before = program([BUFFER] * 100, [0] * 100)
    result = compare(before, Changes(pool=["main.buffer"]), draws=3)
    assert (result.before.allocations, result.after.allocations) == (100, 1)
    assert result.before.num_gc > 10
    assert result.after.num_gc == 0
    assert result.changes["num_gc"].clear
    assert result.changes["num_gc"].median == -result.before.num_gc
    assert result.pool is not None
    assert result.pool.hits == 99


def test_compare_nothing() -> None:
    result = compare(read_program(open_stream(LRU)), Changes(), draws=2)
    assert result.before == result.after
    assert result.pool is None
    assert not any(change.clear for change in result.changes.values())
    with pytest.raises(ValueError, match="draws"):
        compare(program([NODE], [-1]), Changes(), draws=0)
