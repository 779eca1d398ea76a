"""The façade: allocation, goroutines, collections, looking inside, and what it says to those who get it wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import some_of

import pymem
from pymem import Runtime
from pymem.inspect import SpanKind

BASE = 0xC000000000


@pytest.fixture
def rt() -> Iterator[Runtime]:
    with Runtime() as runtime:
        yield runtime
        if not runtime.closed:
            runtime.check()


# ---- allocation ----

# name: sizes and noscan in turn, and the offsets from the heap's base at which the objects lie
PLACES: dict[str, list[tuple[int, bool, int]]] = {
    "Slots": [(64, True, 0), (64, True, 64), (60, True, 128)],
    "ScanAndNoscanApart": [(64, True, 0), (64, False, 8192), (64, True, 64)],
    "Header": [(512, False, 0), (513, False, 8192 + 8), (560, False, 8192 + 576 + 8)],
    "TinyShares": [(8, True, 0), (1, True, 8), (4, True, 12), (1, True, 9 + 7)],
    "TinyAligned": [(1, True, 0), (8, True, 8), (1, True, 16)],
    "TinyScanIsNot": [(8, False, 0), (8, False, 8)],
    "SixteenIsNotTiny": [(1, True, 0), (16, True, 16), (1, True, 1)],
    "LargestSmall": [(32760, False, 8), (32760, True, 32768)],
    "Large": [(32761, True, 0), (32769, False, 4 * 8192), (1, False, 9 * 8192)],
}


@pytest.mark.parametrize("name", PLACES)
def test_malloc(name: str, rt: Runtime) -> None:
    got = [rt.malloc(size, noscan=noscan) - BASE for size, noscan, _ in PLACES[name]]
    assert got == [offset for _, _, offset in PLACES[name]]


@pytest.mark.parametrize("size", [1, 8, 16, 24, 512, 513, 5000, 32760, 40000])
@pytest.mark.parametrize("noscan", [True, False])
def test_batch_is_n_times_malloc(size: int, noscan: bool) -> None:
    with Runtime() as one, Runtime() as many:
        want = [one.malloc(size, noscan=noscan) for _ in range(300)]
        assert many.malloc_batch(size, 300, noscan=noscan).tolist() == want
        assert many.read_mem_stats() == one.read_mem_stats()


@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_any_batch_is_n_times_malloc(data: st.DataObject) -> None:
    """Whatever the sizes, the mask and the types, zeros among them."""
    sizes = data.draw(st.lists(st.one_of(st.integers(0, 40), st.integers(0, 70_000)), max_size=60))
    n = len(sizes)
    noscan = data.draw(st.one_of(st.none(), st.booleans(), st.lists(st.booleans(), min_size=n, max_size=n)))
    types = data.draw(st.one_of(st.none(), st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    with Runtime() as one, Runtime() as many:
        for r in (one, many):
            r.register_type("pointers", 24)
            r.register_type("plain", 24, noscan=True)
        masks = noscan if isinstance(noscan, list) else [noscan] * n
        want = [
            one.malloc(s, noscan=m, type=t) for s, m, t in zip(sizes, masks, types or [0] * n, strict=True)
        ]
        got = many.malloc_batch(sizes, noscan=noscan, types=types)
        assert got.tolist() == want
        assert many.read_mem_stats() == one.read_mem_stats()
        for addr in {*want} - {pymem.ZERO_BASE}:
            assert many.object_at(addr) == one.object_at(addr)


def test_batch_of_one_size_and_many_kinds(rt: Runtime) -> None:
    addrs = rt.malloc_batch(64, 3, noscan=[True, False, True])
    assert (addrs - np.uint64(BASE)).tolist() == [0, 8192, 64]


def test_batch_out(rt: Runtime) -> None:
    out = np.zeros(10, np.uint64)
    assert rt.malloc_batch(32, 10, out=out) is out
    assert out[9] == BASE + 9 * 32


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.int64, np.uint64])
def test_batch_dtypes(dtype: type[np.integer[Any]], rt: Runtime) -> None:
    """Any integers do, also those that are not next to each other."""
    sizes = np.array([8, 0, 24, 0, 120, 0], dtype)[::2]
    with Runtime() as other:
        assert rt.malloc_batch(sizes).tolist() == [other.malloc(int(s)) for s in sizes]


def test_empty_batches(rt: Runtime) -> None:
    assert rt.malloc_batch([]).tolist() == []
    assert rt.malloc_batch(8, 0).dtype == np.uint64
    assert rt.read_mem_stats().heap_sys == 0


def test_zero_size(rt: Runtime) -> None:
    """All objects of 0 bytes have one address, outside the heap, and take no slot."""
    assert rt.malloc(0) == rt.malloc(0, noscan=True) == pymem.ZERO_BASE
    assert rt.malloc_batch(0, 2).tolist() == [pymem.ZERO_BASE] * 2
    assert rt.malloc_batch([0, 8, 0]).tolist() == [pymem.ZERO_BASE, BASE, pymem.ZERO_BASE]
    assert rt.read_mem_stats().mallocs == 1
    assert rt.gc(dead=[pymem.ZERO_BASE]).freed_objects == 0


def test_types(rt: Runtime) -> None:
    node = rt.register_type("main.node", 24)
    text = rt.register_type("main.text", 24, noscan=True)
    a, b, c = rt.malloc(24, type=node), rt.malloc(24, type=text.id), rt.malloc(24, type=text, noscan=False)
    assert [(rt.object_at(x).type, rt.object_at(x).noscan) for x in (a, b, c)] == [
        (1, False),
        (2, True),
        (2, False),
    ]
    assert [t.name for t in rt.types] == ["", "main.node", "main.text"]
    addrs = rt.malloc_batch(24, 3, types=[0, 1, 2])
    assert [(rt.object_at(int(x)).type, rt.object_at(int(x)).noscan) for x in addrs] == [
        (0, False),
        (1, False),
        (2, True),
    ]
    assert {rt.object_at(int(x)).type for x in rt.malloc_batch(24, 100, types=text)} == {2}


# ---- processors and goroutines ----


def test_procs_have_their_own_spans() -> None:
    with Runtime(gomaxprocs=2) as rt:
        assert [rt.malloc(64, p=p) - BASE for p in (0, 1, 0, 1)] == [0, 8192, 64, 8192 + 64]
        rt.check()


def test_gomaxprocs() -> None:
    with Runtime(gomaxprocs=4) as rt:
        for p in range(4):
            rt.malloc(64, p=p)
        g = rt.go(p=3)
        assert rt.gomaxprocs(2) == 4
        assert (rt.gomaxprocs(), g.p) == (2, 1)
        assert rt.spans()["cached"].sum() == 2
        g.malloc(64)
        rt.gomaxprocs(3)
        assert rt.malloc(64, p=2)
        rt.check()


def test_goroutines_take_turns_on_ps() -> None:
    with Runtime(gomaxprocs=2) as rt:
        assert [rt.go().p for _ in range(4)] == [0, 1, 0, 1]
        assert rt.go("writer", p=1).p == 1
        assert [g.name for g in rt.goroutines][-1] == "writer"


def test_stack(rt: Runtime) -> None:
    """2 KB from a pool; growing doubles and gives the old one back; at exit it goes too."""
    with rt.go() as g:
        sizes, addrs = [g.stack_size], [g.stack]
        for _ in range(5):
            addrs.append(g.grow_stack())
            sizes.append(g.stack_size)
        assert sizes == [2048, 4096, 8192, 16384, 32768, 65536]
        assert len(set(addrs)) == 6
        assert rt.span_of(addrs[-1] or 0).kind == SpanKind.STACK
        assert rt.read_mem_stats().stack_inuse == 65536  # reading gave back the stock of small ones
    assert rt.read_mem_stats().stack_inuse == 0
    assert g.stack is None


def test_stacks_lie_among_objects(rt: Runtime) -> None:
    rt.malloc(64)
    rt.go()
    assert rt.malloc(128) == BASE + 5 * 8192


def test_stack_overflow(rt: Runtime) -> None:
    g = rt.go()
    with pytest.raises(pymem.SizeError, match="exceeds 1000000000-byte limit"):
        while True:
            g.grow_stack()
    assert g.stack_size == 1 << 29


def test_cache_per_goroutine() -> None:
    """Each goroutine fills spans of its own; two Ps share two among any number of goroutines."""
    inuse = {}
    for cache in ("p", "goroutine"):
        with Runtime(gomaxprocs=2, cache=cache) as rt:
            gs = [rt.go() for _ in range(50)]
            for g in gs:
                g.malloc_batch(64, 3, noscan=True)
            inuse[cache] = rt.read_mem_stats()
            for g in gs:
                g.exit()
            assert rt.read_mem_stats().mcache_inuse == 2 * 2296
            rt.check()
    assert inuse["p"].heap_inuse == 2 * 8192
    assert inuse["goroutine"].heap_inuse == 50 * 8192
    assert inuse["goroutine"].mcache_inuse == 52 * 2296


def test_exited_goroutine(rt: Runtime) -> None:
    g = rt.go("short")
    addr = g.malloc(8)
    g.exit()
    assert rt.object_at(addr).address == addr
    for call in (g.exit, g.grow_stack, lambda: g.malloc(8), lambda: g.malloc_batch(8, 1)):
        with pytest.raises(pymem.ConfigError, match="'short' has ended"):
            call()


# ---- collection ----


def test_gc(rt: Runtime) -> None:
    addrs = rt.malloc_batch(1024, 80, noscan=True)
    result = rt.gc(dead=addrs[:72])
    assert result == pymem.GCResult(
        cycle=1, marked_bytes=8 * 1024, freed_objects=72, freed_bytes=72 * 1024, swept_spans=10, freed_pages=9
    )
    assert rt.malloc(1024, noscan=True) == BASE + 10 * 8192  # the processor still has pages in stock
    assert rt.malloc(16 * 8192) == BASE + 64 * 8192
    assert rt.malloc(9 * 8192) == BASE + 11 * 8192
    assert rt.gc(dead=()).freed_objects == 0


def test_gc_frees_slots_for_reuse(rt: Runtime) -> None:
    """Free slots are filled in address order, in the span that has been swept first."""
    addrs = rt.malloc_batch(64, 100, noscan=True)
    rt.gc(dead=addrs[10:20])
    assert rt.malloc_batch(64, 11, noscan=True).tolist() == [*addrs[10:20].tolist(), int(addrs[99]) + 64]


def test_gc_of_tiny_block(rt: Runtime) -> None:
    """A block is freed with the last of the objects that share it."""
    a, b = rt.malloc(8, noscan=True), rt.malloc(8, noscan=True)
    assert rt.gc(dead=[a]).freed_objects == 0
    assert rt.gc(dead=[b]).freed_objects == 1
    assert rt.malloc(8, noscan=True) == a


def test_gc_of_large(rt: Runtime) -> None:
    addr = rt.malloc(1 << 20)
    assert rt.gc(dead=addr).freed_pages == 128
    assert rt.malloc(1 << 20) == addr


BAD_DEAD: dict[str, Callable[[list[int]], Any]] = {
    "Foreign": lambda a: [*a, 0x1234],
    "BeyondTheHeap": lambda a: [*a, BASE + (1 << 30)],
    "FreeSlot": lambda a: [*a, max(a) + 64],
    "Inside": lambda a: [*a, a[0] + 8],
    "Twice": lambda a: [*a, a[3]],
    "Negative": lambda a: [*a, -1],
    "Float": lambda a: [float(x) for x in a],
    "Nan": lambda a: [float("nan")],
    "Matrix": lambda a: np.array([a], np.uint64),
    "Text": lambda a: ["0xc000000000"],
    "HugeInt": lambda a: [1 << 70],
}


@pytest.mark.parametrize("name", BAD_DEAD)
def test_bad_dead_changes_nothing(name: str, rt: Runtime) -> None:
    addrs = [int(a) for a in rt.malloc_batch([64] * 20 + [4, 4, 16], noscan=True)]
    before = rt.spans().tolist(), [rt.object_at(a) for a in addrs]
    with pytest.raises(pymem.AddressError):
        rt.gc(dead=BAD_DEAD[name](addrs[::-1]))
    assert before == (rt.spans().tolist(), [rt.object_at(a) for a in addrs])
    assert rt.read_mem_stats().num_gc == 0
    assert rt.gc(dead=addrs).marked_bytes == 0


def test_freed_address(rt: Runtime) -> None:
    addr = rt.malloc(64)
    rt.malloc(64)
    rt.gc(dead=[addr])
    with pytest.raises(pymem.AddressError, match="free slot"):
        rt.gc(dead=[addr])


# ---- looking inside ----


def test_spans(rt: Runtime) -> None:
    a, b = rt.malloc(1000), rt.malloc(100_000, noscan=True)
    rt.go()
    small, large, stack = rt.spans()
    assert (small["base"], small["slot_size"], small["used"], small["cached"]) == (a - 8, 1024, 1, 1)
    assert (large["base"], large["pages"], large["span_class"], large["slots"]) == (b, 13, 1, 1)
    assert (stack["kind"], stack["state"], stack["slot_size"]) == (SpanKind.STACK, 2, 2048)
    assert rt.span_of(b + 99_000).base == b


def test_many_spans(rt: Runtime) -> None:
    """More than one call of the core returns."""
    rt.malloc_batch(8192, 10_000, noscan=True)
    assert np.array_equal(rt.spans()["base"], BASE + np.arange(10_000, dtype=np.uint64) * 8192)


def test_objects_are_those_alive() -> None:
    """Every object that lives is in exactly one span's list."""
    with Runtime() as rt:
        sizes = np.random.default_rng(3).integers(16, 3000, 5000)
        addrs = rt.malloc_batch(sizes).tolist()
        dead = some_of(addrs, 0.5, 1)
        rt.gc(dead=dead)
        found = [int(a) for span in rt.spans() for a in rt.objects(int(span["base"]))["address"]]
        assert sorted(found) == sorted({*addrs} - {*dead})


def test_arena_map(rt: Runtime) -> None:
    rt.malloc(64)
    rt.malloc(64, noscan=True)
    pages = rt.arena_map()
    assert len(pages) == 512
    assert (pages["address"][1], pages["allocated"].sum(), pages["cached"].sum()) == (BASE + 8192, 64, 62)
    assert pages["scavenged"].sum() == 510 - 62


def test_padding() -> None:
    with Runtime(heap_padding_pages=7) as rt:
        assert rt.malloc(8) == BASE + 7 * 8192
        assert rt.arena_map()["padding"].sum() == 7
        rt.check()


def test_arena_base() -> None:
    with Runtime(arena_base=1 << 40) as rt:
        assert rt.malloc(8) == 1 << 40


def test_metadata_is_small(rt: Runtime) -> None:
    """At most 24 bytes of this machine for a live 16-byte object."""
    before = rt.metadata_bytes
    rt.malloc_batch(16, 1_000_000, noscan=True)
    assert rt.metadata_bytes - before < 24 * 1_000_000


def test_nothing_there(rt: Runtime) -> None:
    addr = rt.malloc(64)
    for call in (rt.span_of, rt.object_at, rt.objects):
        with pytest.raises(pymem.AddressError):
            call(addr + (1 << 22))
    with pytest.raises(pymem.AddressError):
        rt.object_at(addr + 1)
    with pytest.raises(pymem.AddressError):
        rt.objects(addr + 64)


# ---- what is refused ----

BAD_SIZES: dict[str, tuple[Any, str]] = {
    "Negative": (-1, "negative"),
    "Absurd": (1 << 62, "larger than the address space"),
    "Beyond64Bits": (1 << 64, "64 bits"),
    "Float": (8.0, "whole number"),
    "Nan": (float("nan"), "whole number"),
    "Text": ("8", "whole number"),
    "Nothing": (None, "whole number"),
}


@pytest.mark.parametrize("name", BAD_SIZES)
def test_bad_size(name: str, rt: Runtime) -> None:
    size, sentence = BAD_SIZES[name]
    with pytest.raises(pymem.SizeError, match=sentence):
        rt.malloc(size)
    with pytest.raises(pymem.SizeError, match=sentence):
        rt.malloc_batch(size, 3)
    assert rt.read_mem_stats().mallocs == 0


BAD_BATCHES: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "HowMany": ((8,), {}, "Give n"),
    "NegativeCount": ((8, -1), {}, "n -1 is negative"),
    "AbsurdCount": ((8, 1 << 50), {}, "nothing could hold"),
    "CountOfSizes": (([8, 8], 3), {}, "leave n out"),
    "Floats": (([8.0],), {}, "dtype float64"),
    "Nan": ((np.array([np.nan]),), {}, "dtype float64"),
    "Bools": (([True],), {}, "dtype bool"),
    "Texts": ((["8"],), {}, "integers"),
    "Objects": (([1 << 70],), {}, "integers"),
    "Matrix": (([[8]],), {}, "flat"),
    "Ragged": (([[8], [8, 8]],), {}, "sizes: its rows have different lengths"),
    "RaggedMask": (([8, 8],), {"noscan": [[True], [True, False]]}, "noscan: its rows have different lengths"),
    "RaggedTypes": (([8, 8],), {"types": [[0], [0, 0]]}, "types: its rows have different lengths"),
    "NegativeInside": (([8, -8],), {}, "element 1 is negative"),
    "AbsurdInside": (([8, 1 << 62],), {}, "larger than the address space"),
    "ShortMask": (([8, 8],), {"noscan": [True]}, "2 bools"),
    "MaskOfInts": (([8, 8],), {"noscan": [1, 0]}, "2 bools"),
    "ShortOut": ((8, 3), {"out": np.zeros(2, np.uint64)}, r"shape \(3,\)"),
    "OutOfInts": ((8, 3), {"out": np.zeros(3, np.int64)}, "uint64"),
    "OutWithGaps": ((8, 3), {"out": np.zeros(6, np.uint64)[::2]}, "contiguous"),
}


@pytest.mark.parametrize("name", BAD_BATCHES)
def test_bad_batch(name: str, rt: Runtime) -> None:
    args, options, sentence = BAD_BATCHES[name]
    with pytest.raises(pymem.SizeError, match=sentence):
        rt.malloc_batch(*args, **options)
    assert rt.read_mem_stats().mallocs == 0


BAD_SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "NoProcs": ({"gomaxprocs": 0}, "1 to 32,768"),
    "HalfAProc": ({"gomaxprocs": 1.5}, "whole number"),
    "Gogc": ({"gogc": "fast"}, "percentage"),
    "Limit": ({"memory_limit": "64MB"}, "MiB"),
    "NegativeLimit": ({"memory_limit": -1}, "number of bytes"),
    "Cache": ({"cache": "thread"}, "'goroutine'"),
    "Base": ({"arena_base": 12345}, "64 MB"),
    "BaseAtNil": ({"arena_base": 0}, "64 MB"),
    "Space": ({"address_space": 1 << 60}, "2\\*\\*46"),
    "Padding": ({"heap_padding_pages": 8192}, "8191"),
}


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_bad_setting(name: str) -> None:
    options, sentence = BAD_SETTINGS[name]
    with pytest.raises(pymem.ConfigError, match=sentence):
        Runtime(**options)


BAD_NAMES: dict[str, tuple[Callable[[Runtime], object], str]] = {
    "Proc": (lambda rt: rt.malloc(8, p=1), "no P 1"),
    "NegativeProc": (lambda rt: rt.malloc(8, p=-1), "no P -1"),
    "ProcByName": (lambda rt: rt.malloc(8, p="0"), "no P '0'"),  # type: ignore[arg-type]
    "GoroutineProc": (lambda rt: rt.go(p=7), "no P 7"),
    "GcProc": (lambda rt: rt.gc(p=2), "no P 2"),
    "Type": (lambda rt: rt.malloc(8, type=1), "not registered"),
    "TypeByName": (lambda rt: rt.malloc(8, type="int"), "GoType or its id"),  # type: ignore[arg-type]
    "TypeOfAnother": (lambda rt: rt.malloc(8, type=Runtime().register_type("t", 8)), "register"),
    "Types": (lambda rt: rt.malloc_batch([8, 8], types=[0, 9]), "type 9 is not registered"),
    "TooFewTypes": (lambda rt: rt.malloc_batch([8, 8], types=[0]), "2 type ids"),
    "Gomaxprocs": (lambda rt: rt.gomaxprocs(0), "1 to 32,768"),
}


@pytest.mark.parametrize("name", BAD_NAMES)
def test_no_such_thing(name: str, rt: Runtime) -> None:
    call, sentence = BAD_NAMES[name]
    with pytest.raises(pymem.ConfigError, match=sentence):
        call(rt)


def test_address_space_used_up() -> None:
    with Runtime(address_space=64 << 20) as rt:
        with pytest.raises(MemoryError, match="64 MB of address space"):
            for _ in range(100):
                rt.malloc(1 << 20)
        rt.check()
        rt.gc(dead=[BASE])
        assert rt.malloc(64)


CLOSED: dict[str, Callable[[Runtime], object]] = {
    "malloc": lambda rt: rt.malloc(8),
    "malloc_zero": lambda rt: rt.malloc(0),
    "malloc_batch": lambda rt: rt.malloc_batch(8, 0),
    "malloc_batch_zeros": lambda rt: rt.malloc_batch([0]),
    "gc": lambda rt: rt.gc(),
    "go": lambda rt: rt.go(),
    "gomaxprocs": lambda rt: rt.gomaxprocs(),
    "register_type": lambda rt: rt.register_type("t", 8),
    "read_mem_stats": lambda rt: rt.read_mem_stats(),
    "metadata_bytes": lambda rt: rt.metadata_bytes,
    "check": lambda rt: rt.check(),
    "spans": lambda rt: rt.spans(),
    "span_of": lambda rt: rt.span_of(BASE),
    "object_at": lambda rt: rt.object_at(BASE),
    "objects": lambda rt: rt.objects(BASE),
    "arena_map": lambda rt: rt.arena_map(),
    "goroutine": lambda rt: rt.goroutines[0].malloc(8),
    "goroutine_exit": lambda rt: rt.goroutines[0].exit(),
}


@pytest.mark.parametrize("name", CLOSED)
def test_closed(name: str) -> None:
    with Runtime() as rt:
        rt.go()
    assert rt.closed
    rt.close()
    with pytest.raises(pymem.ClosedError, match="make a new one"):
        CLOSED[name](rt)


def test_goroutine_outlives_its_runtime() -> None:
    """Leaving `with` in the wrong order is no error."""
    rt = Runtime()
    with rt.go():
        rt.close()


@pytest.mark.parametrize("p", [np.array([0, 0]), np.array([0]), [0], "0", 0.0, None], ids=repr)
def test_bad_processor(p: Any, rt: Runtime) -> None:
    calls: list[Callable[[], object]] = [
        lambda: rt.malloc(8, p=p),
        lambda: rt.malloc_batch(8, 2, p=p),
        lambda: rt.gc(p=p),
        lambda: rt.read_mem_stats(p=p),
    ]
    for call in calls:
        with pytest.raises(pymem.ConfigError, match="there is no P"):
            call()


@pytest.mark.parametrize("name", ["arena_base", "address_space", "heap_padding_pages"])
@pytest.mark.parametrize("value", ["x", 1.5, None, np.array([1, 2])], ids=repr)
def test_bad_space(name: str, value: Any) -> None:
    options: dict[str, Any] = {name: value}
    with pytest.raises(pymem.ConfigError, match=f"{name}=.*: give a whole number"):
        Runtime(**options)


@pytest.mark.parametrize("addr", [-1, 1 << 64, "x", 8.0, None], ids=repr)
def test_bad_address(addr: Any, rt: Runtime) -> None:
    for look in (rt.span_of, rt.object_at, rt.objects):
        with pytest.raises(pymem.AddressError, match=r"give an address|give one from 0"):
            look(addr)


def test_gc_takes(rt: Runtime) -> None:
    """The dead are an address, of Python or numpy, or many in any collection."""
    a, b, c, d, e = rt.malloc_batch(64, 5)
    rows: list[Any] = [a, int(b), {int(c)}, frozenset([d]), dict.fromkeys([e]).keys()]
    assert [rt.gc(dead=dead).freed_objects for dead in rows] == [1] * 5
    with pytest.raises(pymem.AddressError, match="its rows have different lengths"):
        rt.gc(dead=[[1], [1, 2]])
