"""Objects with contents: allocated by type, pointed at each other, seen as arrays, kept alive by roots."""

from __future__ import annotations

import gc
import mmap
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphs import collect
from hypothesis import given, settings
from hypothesis import strategies as st

import pymem
from pymem import types
from pymem._native import lib
from pymem.errors import AddressError, ClosedError, ConfigError, PymemError, SizeError
from pymem.gotypes import AnyType
from pymem.layout import Type

NODE = types.struct("Node", left=types.ptr("Node"), right=types.ptr("Node"), key=types.int64)
WIDE = types.struct(
    "Wide",
    n=types.int32,
    items=types.slice(types.ptr(NODE)),
    any=types.any,
    slots=types.array(types.struct(p=types.ptr(NODE), n=types.int), 3),
)


@pytest.fixture
def rt() -> Iterator[pymem.Runtime]:
    with pymem.Runtime() as runtime:
        yield runtime
        if not runtime.closed:
            runtime.check()


def lives(rt: pymem.Runtime, addr: int) -> bool:
    try:
        rt.object_at(addr)
    except AddressError:
        return False
    return True


# ---- types in a runtime ----


def test_type_is_registered_at_first_use(rt: pymem.Runtime) -> None:
    a, b = rt.new(NODE), rt.new(NODE)
    assert [(t.id, t.name, t.size, t.noscan, t.layout) for t in rt.types[1:]] == [
        (1, "Node", 24, False, NODE)
    ]
    assert rt.object_at(a).type == rt.object_at(b).type == 1


def test_equal_types_are_one(rt: pymem.Runtime) -> None:
    assert rt.register_type(types.slice(NODE)) is rt.register_type(types.slice(NODE))
    assert rt.register_type(types.slice(NODE)) is not rt.register_type(types.slice(types.int))


def test_each_runtime_has_its_own_numbers(rt: pymem.Runtime) -> None:
    with pymem.Runtime() as other:
        other.new(types.string)
        rt.new(NODE)
        rt.new(types.ptr(NODE))
        assert other.register_type(NODE).id == 2
        with pytest.raises(ConfigError, match="another runtime"):
            rt.malloc(24, type=other.register_type(NODE))


def test_named_and_full_types_share_the_numbers(rt: pymem.Runtime) -> None:
    plain = rt.register_type("plain", 24)
    assert (plain.id, plain.layout, rt.register_type(NODE).id) == (1, None, 2)


def test_malloc_takes_types(rt: pymem.Runtime) -> None:
    found = rt.object_at(rt.malloc(72, type=NODE))
    assert (found.type, found.noscan, found.slot_size) == (1, False, 80)
    assert rt.object_at(rt.malloc(64, type=types.int64)).noscan


def test_malloc_batch_takes_types(rt: pymem.Runtime) -> None:
    assert rt.object_at(int(rt.malloc_batch(24, 3, types=NODE)[2])).type == 1
    ints = types.array(types.int, 4)
    mixed: list[AnyType] = [NODE, ints, rt.register_type(NODE)]
    addrs = rt.malloc_batch([24, 32, 24], types=mixed)
    assert [rt.object_at(a).type for a in addrs.tolist()] == [1, 2, 1]
    assert [rt.object_at(a).noscan for a in addrs.tolist()] == [False, True, False]


# ---- new ----


def test_new(rt: pymem.Runtime) -> None:
    found = rt.object_at(rt.new(NODE))
    assert (found.slot_size, found.noscan) == (24, False)
    assert rt.object_at(rt.new(NODE, 5)).slot_size == 128
    assert rt.new(types.struct()) == rt.new(NODE, 0) == pymem.ZERO_BASE


def test_new_is_zero(rt: pymem.Runtime) -> None:
    """Slots that are used again too."""
    for _ in range(2):
        nodes = rt.new_batch(NODE, 1000).tolist()
        assert not any(rt.view(n).tobytes().strip(b"\0") for n in nodes)
        for n in nodes:
            rt.view(n, types.byte)[:] = 255
        assert collect(rt).objects_marked == 0


def resident() -> int:
    """Bytes of this process that lie in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


@pytest.mark.parametrize(("size", "n"), [(64, 500_000), (1024, 30_000), (20_000, 1500), (32 << 20, 1)])
def test_reused_slots_that_nobody_wrote_to_take_no_memory(rt: pymem.Runtime, size: int, n: int) -> None:
    rt.globals["keep"] = rt.new(NODE)
    rt.malloc_batch(size, n, noscan=True)
    collect(rt)
    before = resident()
    rt.malloc_batch(size, n, noscan=True)
    assert resident() - before < 8 << 20


def test_memory_of_a_large_object_goes_with_it(rt: pymem.Runtime) -> None:
    before = resident()
    rt.view(rt.malloc(64 << 20, noscan=True))[:] = 255
    assert resident() - before > 60 << 20
    collect(rt)
    assert resident() - before < 8 << 20


@given(st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_new_objects_are_zero(seed: int) -> None:
    """Whoever wrote to their slots or pages before, with compaction, and in a fork."""
    rng, names = random.Random(seed), [f"v{i}" for i in range(12)]
    compaction = rng.random() < 0.5
    rt = pymem.Runtime(compaction=compaction)
    for step in range(rng.randrange(4, 12)):
        for name in names:
            rt.globals[name] = some_written(rt, rng)
        rt.gc()
        for name in rng.sample(names, 9):
            rt.globals[name] = 0
        if step % 3 == 0:
            rt.gc()
        if step % 4 == 3 and not compaction:
            rt = rt.fork()
    rt.check()


def some_written(rt: pymem.Runtime, rng: random.Random) -> int:
    """Return one of several new objects, which were all zero, and some of which were written to."""
    size, noscan = rng.choice([8, 24, 96, 512, 600, 3000, 9000, 40_000, 2 << 20]), rng.random() < 0.5
    typed = size % 24 == 0 and not noscan and rng.random() < 0.5
    made = rt.malloc_batch(size, 5, noscan=noscan, types=NODE if typed else 0)
    for addr in made.tolist():
        assert not rt.load_batch([addr] * (size // 8), np.arange(0, size, 8)).any()
    if rng.random() < 0.3:
        rt.view(int(rng.choice(made)), types.byte, size)[:] = 1
    if not noscan and rng.random() < 0.3:
        rt.store_batch(made[rng.randrange(5) :], 0, int(made[0]))
    return int(made[0])


def test_new_batch(rt: pymem.Runtime) -> None:
    with pymem.Runtime() as other:
        assert rt.new_batch(NODE, 400).tolist() == [other.new(NODE) for _ in range(400)]


def test_new_by_goroutine() -> None:
    """Each P has spans of its own."""
    with pymem.Runtime(gomaxprocs=2) as rt, rt.go(p=0) as g, rt.go(p=1) as h:
        assert rt.span_of(g.new(NODE)).base != rt.span_of(h.new(NODE)).base
        assert rt.span_of(int(h.new_batch(NODE, 2)[0])).base == rt.span_of(h.new(NODE)).base
        assert rt.span_of(rt.new(NODE, p=1)).base == rt.span_of(h.new(NODE)).base


# ---- pointers ----


def test_store(rt: pymem.Runtime) -> None:
    a, b = rt.new(NODE), rt.new(NODE)
    rt.store(a, "right", b)
    assert (rt.load(a, "left"), rt.load(a, "right"), rt.load(a, 8)) == (0, b, b)
    rt.store(a, 8, 0)
    assert rt.load(a, "right") == 0


@pytest.mark.parametrize(
    ("path", "offset"), [("items", 8), ("any", 40), ("any.data", 40), ("slots[2].p", 80), ("slots[0]", 48)]
)
def test_store_by_path(rt: pymem.Runtime, path: str, offset: int) -> None:
    wide, node = rt.new(WIDE), rt.new(NODE)
    rt.store(wide, path, node)
    assert rt.load(wide, offset) == rt.load(wide, path) == node


def test_store_in_array(rt: pymem.Runtime) -> None:
    nodes, pointers = rt.new(NODE, 10), rt.new(types.ptr(NODE), 100)
    rt.store(nodes, "[9].right", nodes)
    rt.store(pointers, "[70]", nodes + 24)
    assert rt.load(nodes, 9 * 24 + 8) == nodes
    assert rt.load(pointers, 560) == nodes + 24


def test_store_in_array_type(rt: pymem.Runtime) -> None:
    """Its own elements are meant, not several arrays."""
    array = rt.new(types.array(NODE, 10))
    rt.store(array, "[9].right", array)
    assert rt.load(array, 9 * 24 + 8) == array


def test_store_of_a_foreign_address(rt: pymem.Runtime) -> None:
    """As a pointer to a global variable is one."""
    node = rt.new(NODE)
    rt.store(node, "left", 0x500000)
    assert rt.load(node, "left") == 0x500000


@pytest.mark.parametrize(
    ("type_", "n", "offset"), [(NODE, 1, 16), (NODE, 50, 16 + 24 * 7), (WIDE, 1, 24), (NODE, 9000, 160_000)]
)
def test_store_where_no_pointer_is(rt: pymem.Runtime, type_: types.Type, n: int, offset: int) -> None:
    """It would be freed while stored: no mark looks there. Nil is none either."""
    obj = rt.new(type_, n)
    for target in (obj, 0):
        with pytest.raises(pymem.AddressError, match=rf"offset {offset} from {obj:#x} holds no pointer"):
            rt.store(obj, offset, target)
        with pytest.raises(pymem.AddressError, match="holds no pointer"):
            rt.store_batch([obj] * 40, offset, target)


def test_store_in_noscan(rt: pymem.Runtime) -> None:
    for size in (8, 64, 1024, 100_000):
        with pytest.raises(pymem.AddressError, match="holds no pointer"):
            rt.store(rt.malloc(size, noscan=True), 0, 0)


def test_store_in_what_was_not_asked_for(rt: pymem.Runtime) -> None:
    """20 bytes lie in a slot of 24, the third word of which no mark reads."""
    rt.new(NODE)  # before the first type or store only slots are known
    obj = rt.malloc(20)
    rt.store(obj, 8, obj)
    with pytest.raises(pymem.AddressError, match="holds no pointer"):
        rt.store(obj, 16, obj)


def test_noscan_of_a_type_with_pointers(rt: pymem.Runtime) -> None:
    plain = types.array(types.int64, 3)
    with pytest.raises(pymem.ConfigError, match="a Node has pointers"):
        rt.malloc(24, type=NODE, noscan=True)
    for flags in (True, [False, True, True]):
        with pytest.raises(pymem.ConfigError, match="a Node has pointers"):
            rt.malloc_batch([24] * 3, types=[NODE, plain, NODE], noscan=flags)
        with pytest.raises(pymem.ConfigError, match="a Node has pointers"):
            rt.malloc_batch(24, 3, types=NODE, noscan=flags)
    made = rt.malloc_batch([24] * 3, types=[NODE, plain, plain], noscan=[False, True, False])
    assert [rt.object_at(a).noscan for a in made.tolist()] == [False, True, False]
    assert rt.object_at(rt.malloc(24, type=rt.register_type("any", 24), noscan=True)).noscan


def test_batch(rt: pymem.Runtime) -> None:
    nodes = rt.new_batch(NODE, 1000)
    rt.store_batch(nodes[:-1], NODE.pointer_at("left"), nodes[1:])
    rt.store_batch(nodes, 8, nodes[0])
    assert rt.load_batch(nodes, 0).tolist() == [*nodes[1:].tolist(), 0]
    assert rt.load_batch(nodes[:2], [8, 0]).tolist() == [nodes[0], nodes[2]]
    assert rt.load_batch([], 0).tolist() == []


def test_batch_stops_at_the_first_wrong_one(rt: pymem.Runtime) -> None:
    nodes = rt.new_batch(NODE, 3)
    with pytest.raises(AddressError):
        rt.store_batch([nodes[0], 0x1234, nodes[1]], 0, nodes[2])
    assert rt.load_batch(nodes, 0).tolist() == [nodes[2], 0, 0]


# ---- views ----


def test_view(rt: pymem.Runtime) -> None:
    a, b = rt.new(NODE), rt.new(NODE)
    view = rt.view(a)
    view["key"] = -5
    rt.store(a, "left", b)
    assert (view.shape, int(view["key"]), int(view["left"]), int(view["right"])) == ((), -5, b, 0)
    assert int(rt.view(a)["key"]) == -5


def test_view_of_many(rt: pymem.Runtime) -> None:
    array = rt.new(types.float64, 1000)
    view = rt.view(array, n=1000)
    view[:] = np.arange(1000)
    assert rt.view(array)[:1000].sum() == 499500
    assert len(rt.view(array)) == 1024  # the slot's
    assert rt.view(rt.new(types.array(types.int16, 300))).shape == (300,)


def test_view_behind_a_header(rt: pymem.Runtime) -> None:
    """Objects over 512 bytes with pointers begin 8 bytes into their slot."""
    array = rt.new(types.ptr(NODE), 100)
    rt.store(array, "[99]", array)
    assert rt.view(array, n=100)[99] == array
    assert len(rt.view(array)) == 111
    assert array % 16 == 8


def test_view_of_bytes(rt: pymem.Runtime) -> None:
    untyped = rt.malloc(100)
    rt.view(untyped)[3] = 7
    assert rt.view(untyped).dtype == np.uint8
    assert len(rt.view(untyped)) == 112
    assert rt.view(untyped, NODE)["left"].tolist() == [7 << 24, 0, 0, 0]
    assert rt.view(untyped, NODE, 1).shape == (1,)


def test_view_of_tiny(rt: pymem.Runtime) -> None:
    a, b = rt.new(types.int32), rt.new(types.int64)
    rt.view(a, types.int32)[...] = -1
    rt.view(b, types.int64)[...] = -2
    assert (int(rt.view(a, types.int32)), int(rt.view(b, types.int64))) == (-1, -2)
    assert rt.view(b).dtype == np.uint8


def test_view_of_large(rt: pymem.Runtime) -> None:
    large = rt.new(NODE, 100_000)
    rt.view(large)["key"][:100_000] = np.arange(100_000)
    rt.store(large, "[99999].left", large + 24)
    assert rt.view(large)["key"][99_999] == 99_999
    assert rt.view(large)["left"][99_999] == large + 24


def test_view_outlives_its_runtime() -> None:
    rt = pymem.Runtime()
    view = rt.view(rt.new(types.int64, 1000))
    view[:] = 3
    part = view[10:20]
    rt.close()
    del rt, view
    gc.collect()
    assert part.tolist() == [3] * 10


# ---- roots ----


def chain(rt: pymem.Runtime, n: int) -> list[int]:
    nodes = rt.new_batch(NODE, n)
    rt.store_batch(nodes[:-1], 0, nodes[1:])
    return [int(a) for a in nodes]


def test_globals(rt: pymem.Runtime) -> None:
    nodes = chain(rt, 5)
    rt.globals["head"] = nodes[2]
    assert (rt.globals["head"], list(rt.globals), len(rt.globals)) == (nodes[2], ["head"], 1)
    collect(rt)
    assert [lives(rt, a) for a in nodes] == [False, False, True, True, True]
    del rt.globals["head"]
    assert "head" not in rt.globals
    collect(rt)
    assert not any(lives(rt, a) for a in nodes)


def test_globals_use_their_slots_again(rt: pymem.Runtime) -> None:
    a, b = chain(rt, 1) + chain(rt, 1)
    for i in range(100):
        rt.globals[f"a{i}"] = a
        rt.globals["b"] = b
        del rt.globals[f"a{i}"]
    assert dict(rt.globals) == {"b": b}
    assert collect(rt).globals_scan == 16
    assert (lives(rt, a), lives(rt, b)) == (False, True)


def test_global_that_is_not_there(rt: pymem.Runtime) -> None:
    with pytest.raises(KeyError, match="no root 'x'"):
        _ = rt.globals["x"]
    with pytest.raises(KeyError, match="no root 'x'"):
        del rt.globals["x"]
    assert rt.globals.get("x") is None


def test_interior_root(rt: pymem.Runtime) -> None:
    rt.globals["inside"] = (array := rt.new(NODE, 50)) + 700
    collect(rt)
    assert lives(rt, array)


def test_frames(rt: pymem.Runtime) -> None:
    a, b, c = (chain(rt, 1)[0] for _ in range(3))
    with rt.go() as g:
        with g.frame(a=a, n=0) as outer:
            with g.frame({"b": b}) as inner:
                collect(rt)
                assert [lives(rt, x) for x in (a, b, c)] == [True, True, False]
                outer["n"], inner["b"] = inner["b"], 0
                assert (dict(outer), dict(inner)) == ({"a": a, "n": b}, {"b": 0})
            collect(rt)
            assert [lives(rt, x) for x in (a, b)] == [True, True]
        collect(rt)
        assert [lives(rt, x) for x in (a, b)] == [False, False]


def test_frame_counts_as_stack(rt: pymem.Runtime) -> None:
    with rt.go() as g, g.frame(a=0, b=0, c=0):
        assert collect(rt).stack_scan == 24


def test_goroutines_have_stacks_of_their_own(rt: pymem.Runtime) -> None:
    """Frames of two goroutines may be left in any order."""
    a, b = chain(rt, 1)[0], chain(rt, 1)[0]
    g, h = rt.go(), rt.go()
    first, second = g.frame(x=a), h.frame(x=b)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    collect(rt)
    assert [lives(rt, x) for x in (a, b)] == [False, True]
    second.__exit__(None, None, None)


def test_goroutine_roots(rt: pymem.Runtime) -> None:
    (node,) = chain(rt, 1)
    with rt.go() as g:
        g.roots["node"] = node
        collect(rt)
        assert lives(rt, node)
    collect(rt)
    assert not lives(rt, node)


def test_exit_takes_the_frames(rt: pymem.Runtime) -> None:
    (node,) = chain(rt, 1)
    g = rt.go()
    with g.frame(node=node) as f:
        g.exit()
        collect(rt)
        assert not lives(rt, node)
        with pytest.raises(ConfigError, match="not entered"):
            f["node"] = 0


def test_frames_are_left_in_order(rt: pymem.Runtime) -> None:
    g = rt.go()
    outer, inner = g.frame(a=0), g.frame(b=0)
    outer.__enter__()
    inner.__enter__()
    with pytest.raises(ConfigError, match="inner frames first"):
        outer.__exit__(None, None, None)
    inner.__exit__(None, None, None)
    outer.__exit__(None, None, None)


def test_frame_used_wrongly(rt: pymem.Runtime) -> None:
    g = rt.go()
    f = g.frame(a=0)
    with pytest.raises(ConfigError, match="not entered"):
        f["a"] = 0
    with f:
        with pytest.raises(KeyError, match="no variable 'b'"):
            f["b"] = 0
        with pytest.raises(ConfigError, match="entered already"), f:
            pass
        assert ("a" in f, len(f), f["a"]) == (True, 1, 0)
    with pytest.raises(ConfigError, match="not entered"):
        _ = f["a"]


def test_frame_with_a_dead_address_is_not_entered(rt: pymem.Runtime) -> None:
    """Nothing of it is left on the stack."""
    (node,) = chain(rt, 1)
    collect(rt)
    with rt.go() as g:
        with pytest.raises(AddressError), g.frame(a=0, b=node):
            pass
        with g.frame(c=0) as f:
            assert dict(f) == {"c": 0}
            assert collect(rt).stack_scan == 8


# ---- what is refused ----


def node(rt: pymem.Runtime) -> int:
    return rt.new(NODE)


REFUSED: dict[str, tuple[Any, type[PymemError], str]] = {
    "NoField": (lambda rt: rt.store(node(rt), "up", 0), ConfigError, "no field 'up'"),
    "NoPointer": (lambda rt: rt.store(node(rt), "key", 0), ConfigError, "0 pointers"),
    "PathWithoutType": (lambda rt: rt.load(rt.malloc(24), "left"), ConfigError, "give an offset"),
    "NamedTypeHasNoFields": (
        lambda rt: rt.load(rt.malloc(24, type=rt.register_type("t", 24)), "left"),
        ConfigError,
        "give an offset",
    ),
    "OffsetBeyond": (lambda rt: rt.load(node(rt), 24), AddressError, "living|offset|object"),
    "ElementBeyond": (lambda rt: rt.load(rt.new(NODE, 2), "[5].left"), AddressError, "living|offset|object"),
    "NegativeOffset": (lambda rt: rt.load(node(rt), -8), SizeError, "negative"),
    "NoObject": (lambda rt: rt.store(0x1234, 0, 0), AddressError, "living|offset|object"),
    "NoObjectByPath": (lambda rt: rt.store(0x1234, "left", 0), AddressError, "living|offset|object"),
    "TargetInFreeSlot": (
        lambda rt: rt.store(node(rt), 0, node(rt) + 240),
        AddressError,
        "living|offset|object",
    ),
    "Lengths": (lambda rt: rt.store_batch([node(rt)], [0, 8], 0), SizeError, "1 objects"),
    "Batch": (lambda rt: rt.load_batch([1.5], 0), AddressError, "integers"),
    "PartOfAValue": (lambda rt: rt.malloc(25, type=NODE), SizeError, "no whole number of Node"),
    "PartInBatch": (lambda rt: rt.malloc_batch(25, 3, types=NODE), SizeError, "no whole number"),
    "PartInMixedBatch": (
        lambda rt: rt.malloc_batch([24, 25], types=[NODE, NODE]),
        SizeError,
        "25 bytes hold no whole number",
    ),
    "Types": (lambda rt: rt.malloc_batch([8, 8], types=[NODE]), ConfigError, "2 type ids"),
    "NewCount": (lambda rt: rt.new(NODE, -1), SizeError, "negative"),
    "NewHuge": (lambda rt: rt.new(NODE, 1 << 62), SizeError, "64 bits"),
    "NewBad": (lambda rt: rt.new("Node"), ConfigError, "pymem.types"),
    "NoSize": (lambda rt: rt.register_type("t"), ConfigError, "without a size"),
    "ViewBeyond": (lambda rt: rt.view(node(rt), n=2), SizeError, "room for 1"),
    "ViewOfNothing": (lambda rt: rt.view(node(rt), types.struct()), SizeError, "no bytes"),
    "ViewInside": (lambda rt: rt.view(node(rt) + 8), AddressError, "living|offset|object"),
    "RootNegative": (lambda rt: rt.globals.update(a=-1), SizeError, "negative"),
    "RootDead": (lambda rt: rt.globals.update(a=node(rt) + 240), AddressError, "living|offset|object"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(rt: pymem.Runtime, case: str) -> None:
    call, error, sentence = REFUSED[case]
    with pytest.raises(error, match=sentence):
        call(rt)


def test_refused_global_is_none(rt: pymem.Runtime) -> None:
    with pytest.raises(AddressError):
        rt.globals["a"] = rt.new(NODE) + 240
    assert list(rt.globals) == []
    rt.globals["b"] = 0
    assert collect(rt).globals_scan == 8


@pytest.mark.parametrize("call", ["new", "store", "load", "view", "globals", "frame"])
def test_closed(call: str) -> None:
    rt = pymem.Runtime()
    a, g = rt.new(NODE), rt.go()
    rt.close()
    calls: dict[str, Any] = {
        "new": lambda: rt.new(NODE),
        "store": lambda: rt.store(a, 0, a),
        "load": lambda: rt.load(a, "left"),
        "view": lambda: rt.view(a),
        "globals": lambda: rt.globals.update(a=a),
        "frame": lambda: g.frame(a=a).__enter__(),
    }
    with pytest.raises(ClosedError):
        calls[call]()


# ---- no memory ----


def every_fault(rt: pymem.Runtime, step: Callable[[], object]) -> int:
    """Do a step with the first allocation in the core failing, the second, and so on, until it succeeds."""
    for n in range(100):
        lib.pymem_fault_after(rt._heap.handle, n)
        try:
            step()
        except MemoryError:
            rt.check()
        else:
            return n
        finally:
            lib.pymem_fault_after(rt._heap.handle, -1)
    raise AssertionError("the step fails however often it is tried")


def test_no_memory_for_a_type(rt: pymem.Runtime) -> None:
    assert every_fault(rt, lambda: rt.register_type(NODE)) > 0
    assert [t.name for t in rt.types] == ["", "Node"]
    rt.store(rt.new(NODE), "left", 0)


def test_no_memory_for_roots(rt: pymem.Runtime) -> None:
    a, g = rt.new(NODE), rt.go()
    frame = g.frame(a=a, b=a)
    assert every_fault(rt, lambda: rt.globals.update(a=a)) > 0
    assert every_fault(rt, lambda: g.roots.update(a=a)) > 0
    assert every_fault(rt, frame.__enter__) > 0
    assert dict(rt.globals) == dict(g.roots) == {"a": a}
    assert dict(frame) == {"a": a, "b": a}
    totals = collect(rt)
    assert (totals.globals_scan, totals.stack_scan) == (8, 24)


# ---- against a plain model ----

SHAPES: tuple[tuple[Type, int], ...] = (
    (NODE, 1),
    (NODE, 30),
    (WIDE, 1),
    (types.ptr(NODE), 1),
    (types.any, 200),
    (types.array(types.struct(a=types.array(types.int64, 9), p=types.ptr(NODE)), 12), 5),
    (types.string, 3000),
)


class Model:
    """Objects as lists of pointers, each at its offset."""

    def __init__(self, rt: pymem.Runtime) -> None:
        self.rt = rt
        self.places: dict[int, list[int]] = {}
        self.edges: dict[int, dict[int, int]] = {}

    def new(self, shape: int) -> int:
        type_, n = SHAPES[shape]
        addr = self.rt.new(type_, n)
        words = np.flatnonzero(type_.pointer_mask()) * 8
        self.places[addr] = [int(i * type_.size + w) for i in range(n) for w in words]
        self.edges[addr] = {}
        return addr

    def store(self, obj: int, place: int, target: int, inside: int) -> None:
        offset = self.places[obj][place % len(self.places[obj])]
        self.edges[obj][offset] = target
        self.rt.store(obj, offset, target + inside % (max(self.places[target]) + 8) if target else 0)

    def reachable(self, roots: list[int]) -> set[int]:
        found, todo = set[int](), [a for a in roots if a]
        while todo:
            addr = todo.pop()
            if addr not in found:
                found.add(addr)
                todo += [a for a in self.edges[addr].values() if a]
        return found


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False))
def test_collections_free_what_is_unreachable(rng: random.Random) -> None:
    """Roots are globals and frames; pointers may point inside; arrays repeat their element's map."""
    with pymem.Runtime() as rt, rt.go() as g, g.frame(x=0, y=0) as frame:
        model = Model(rt)
        for _ in range(4):
            for _ in range(40):
                model.new(rng.randrange(len(SHAPES)))
            alive = sorted(model.edges)
            for _ in range(60):
                target = rng.choice([0, *alive])
                model.store(rng.choice(alive), rng.randrange(9999), target, rng.randrange(9999))
            for name in ("x", "y"):
                frame[name] = rng.choice(alive)
                rt.globals[name] = rng.choice([0, *alive])
            roots = [*frame.values(), *rt.globals.values()]
            found = model.reachable(roots)
            totals = collect(rt, budget=rng.choice([1, 100, 2**62]))
            assert totals.objects_marked == len(found)
            assert {a for a in alive if lives(rt, a)} == found
            rt.check()
            for a in set(alive) - found:
                del model.edges[a], model.places[a]
