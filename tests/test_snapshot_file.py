"""Snapshots in files: they say all that memory says, and what is damaged is refused."""

from __future__ import annotations

import io
import json
import random
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


# ---- types ----


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
