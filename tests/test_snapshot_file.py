"""Snapshots in files: they say all that memory says, and what is damaged is refused."""

from __future__ import annotations

import io
import itertools
import json
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from snapshot_programs import (
    NODE,
    WIDE,
    Program,
    amid_marking,
    build,
    go_on,
    graph_runtime,
    mark_a_little,
    same,
    start,
)

import pymem
from pymem import types
from pymem.snapshot import Snapshot


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
    path.write_bytes(saved[:16] + b"\1\0\0\0" + saved[20:])
    with pytest.raises(pymem.RecordingError, match="of format 1 and this pymem reads 3"):
        pymem.Runtime.restore(path)


_OTHERS: list[Any] = ["x", None, True, -1, 1.5, [], {}, 1 << 70, 3]
EVERY = types.struct(
    "Every",
    NODE,
    a=types.array(types.string, 3),
    b=types.chan(types.int8, direction="send"),
    c=types.func(types.slice(types.ptr("Every")), results=(types.error,), variadic=True),
    d=types.map(types.string, types.any),
    e=types.ptr("Nobody"),
    f=types.named("Celsius", types.float64),
)


def every_place(tree: Any) -> list[tuple[Any, Any]]:
    """Return every place in a tree of lists, as (list, index)."""
    return [
        place
        for i, one in enumerate(tree)
        for place in [(tree, i), *(every_place(one) if isinstance(one, list) else [])]
    ]


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
            rt = pymem.Runtime.restore(Snapshot(snapshot.heap, state, None, snapshot.layouts))
        except pymem.RecordingError as error:
            assert "this snapshot: not a whole snapshot" in str(error)
            continue
        rt.check()


# ---- types ----


@pytest.mark.parametrize("marking", [False, True])
def test_file_of_a_graph(tmp_path: Path, marking: bool) -> None:
    """A file has types with all their fields, and a program's own type is known for what it was."""
    with graph_runtime(4) as rt:
        if marking:
            mark_a_little(rt, 9000)
        path = rt.snapshot().save(tmp_path / "graph")
        with pymem.Runtime.restore(path) as other:
            assert [(t.name, t.size, t.noscan) for t in other.types[1:]] == [
                ("Node", 24, False),
                ("Wide", 752, False),
            ]
            assert other.snapshot().state == rt.snapshot().state
            with pytest.raises(pymem.SizeError, match="no whole number of Node"):
                other.malloc(25, type=1)
            assert other.register_type(types.struct("Node", key=types.int64)).id == 3  # not the same
            with pymem.Runtime.restore(path) as third:
                assert third.register_type(WIDE) == rt.types[2]
                assert third.register_type(NODE) == rt.types[1]
                assert go_on(third, 4) == go_on(rt, 4)
                assert third.types == rt.types


def test_fields_after_loading(tmp_path: Path) -> None:
    """Objects are read and written by the names of fields, with nothing but the file."""
    with graph_runtime(6) as rt:
        path = rt.snapshot().save(tmp_path / "graph")
    with pymem.Runtime.restore(path) as rt:
        node, wide = rt.types[1], rt.types[2]
        first = rt.new(node)
        rt.globals["first"] = first
        second = rt.globals["second"] = rt.new(wide)
        rt.store(first, "next", second)
        rt.store(second, "tail", first)
        rt.view(first)["key"] = 7
        rt.gc()
        assert (rt.load(first, "next"), rt.load(second, "tail")) == (second, first)
        assert rt.view(first).dtype == NODE.dtype
        with pytest.raises(pymem.ConfigError, match="Node has no field 'nowhere': it has next, other, key"):
            rt.store(first, "nowhere", 0)
        with rt.fork() as fork, pymem.Runtime.restore(rt.snapshot().save(tmp_path / "again")) as again:
            for copy in (fork, again):
                assert copy.load(first, "next") == second
                assert copy.register_type(NODE).id == 1  # what it is does not get lost on the way


def test_other_fields_of_the_same_pointers(tmp_path: Path) -> None:
    """A type of the same name, size and pointers whose fields are called otherwise is another one."""
    with pymem.Runtime() as rt:
        assert rt.register_type(types.struct("T", p=types.unsafe_pointer, n=types.int64)).id == 1
        path = rt.snapshot().save(tmp_path / "T")
    with pymem.Runtime.restore(path) as rt:
        assert rt.register_type(types.struct("T", p=types.unsafe_pointer, m=types.int64)).id == 2
        assert rt.register_type(types.struct("T", p=types.unsafe_pointer, n=types.int64)).id == 1


def test_types_of_one_name(tmp_path: Path) -> None:
    """Types that are alike in memory are known again in the order in which they come."""
    one, two = (types.struct("T", p=types.ptr("T")) for _ in range(2))
    with pymem.Runtime() as rt:
        assert (rt.register_type(one).id, rt.register_type(two).id) == (1, 2)
        path = rt.snapshot().save(tmp_path / "twins")
    with pymem.Runtime.restore(path) as rt:
        assert (rt.register_type(two).id, rt.register_type(one).id) == (1, 2)
        assert rt.register_type(types.struct("T", p=types.ptr("T"))).id == 3


def test_type_that_is_asked_for(tmp_path: Path) -> None:
    """A function in a type is asked when a file is written, which is left alone if it fails."""
    with pymem.Runtime() as rt:
        rt.register_type(types.struct("T", p=types.ptr(lambda: NODE)))
        layout = Snapshot.load(rt.snapshot().save(tmp_path / "t")).layouts[0]
        assert layout is not None
        assert layout.field("p").type.name == "*Node"
        rt.register_type(types.struct("U", p=types.ptr(lambda: 1 // 0)))  # type: ignore[arg-type, return-value]
        with pytest.raises(ZeroDivisionError):
            rt.snapshot().save(tmp_path / "t")
        assert len(Snapshot.load(tmp_path / "t").layouts) == 1
        rt.fork().close()


def resealed(raw: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """Change the tree in a file, whose checksum is right again."""
    size, heap = struct.unpack_from("<QQ", raw, 24)
    tree = json.loads(raw[40 : 40 + size])
    change(tree)
    text = json.dumps(tree).encode()
    rest = struct.pack("<QQ", len(text), heap) + text + raw[40 + size :]
    return raw[:20] + struct.pack("<I", zlib.crc32(rest)) + rest


def test_types_altered(tmp_path: Path) -> None:
    """Types that are none, or not those of the heap's objects, are refused with a sentence."""
    with graph_runtime(5) as rt:
        rt.register_type(EVERY)
        raw = rt.snapshot().save(tmp_path / "whole").read_bytes()
    path, refused = tmp_path / "t", 0
    size = struct.unpack_from("<Q", raw, 24)[0]
    tree = json.loads(raw[40 : 40 + size])
    for i, value in itertools.product(range(len(every_place(tree["types"]))), _OTHERS):

        def change(tree: dict[str, Any], i: int = i, value: Any = value) -> None:
            where, key = every_place(tree["types"])[i]
            where[key] = value

        path.write_bytes(resealed(raw, change))
        try:
            with pymem.Runtime.restore(path) as rt:
                assert [t.layout.size if t.layout else t.size for t in rt.types] == [t.size for t in rt.types]
                rt.check()
        except pymem.RecordingError as error:
            assert "t: not a whole snapshot of pymem: " in str(error)
            refused += 1
    assert refused > 1000
