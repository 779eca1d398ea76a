"""The census by type: lives and lifetimes that can be computed by hand, and against a plain model."""

from __future__ import annotations

from dataclasses import replace
from math import inf, isnan
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymem.analysis.births import pair
from pymem.analysis.census import Census, TypeLife, census
from pymem.analysis.patterns import find_types
from pymem.analysis.quantiles import Tallies, bin_floor, bin_of, product_limit
from pymem.errors import ConfigError, RecordingError
from pymem.workload.columns import DTYPES, Columns, Event
from pymem.workload.sources import open_stream
from pymem.workload.synthetic import Stream
from pymem.workload.workload import Workload, WorkloadType

NODE, LEAF = WorkloadType("main.node", 64, 8), WorkloadType("main.leaf", 16, 0)


def of(result: Census, name: str) -> TypeLife:
    return next(t for t in result.types if t.name == name)


# ---- by hand ----


def by_hand() -> Workload:
    """Four nodes of 64 B and four leaves of 16 B by turns; a collection after the fourth and the eighth object.

    Nodes are numbers 0, 2, 4, 6 and never die; leaf 1 dies after the next allocation, 3 after the one after that, 5 at
    once, 7 never.
    """
    return Workload.from_arrays(
        [64, 16] * 4,
        lifetimes=[-1, 1, -1, 2, -1, 0, -1, -1],
        types=[1, 2] * 4,
        type_table=[NODE, LEAF],
        gc_every=4,
    )


def test_counts() -> None:
    result = census(by_hand())
    assert [t.name for t in result.types] == ["main.node", "main.leaf"]
    node, leaf = result.types
    assert (node.allocated_objects, node.allocated_bytes, node.largest_bytes) == (4, 256, 64)
    assert (leaf.allocated_objects, leaf.allocated_bytes, leaf.largest_bytes) == (4, 64, 16)
    assert (result.cycles, result.allocated_bytes, result.tier) == (2, 320, "arrays")


def test_lifetimes() -> None:
    """Leaf 1 lives for 64 B and no mark, 3 for 64 + 16 B and the first mark, 5 for none; 7 survives the last one."""
    leaf = of(census(by_hand()), "main.leaf")
    # Of 5, 1, 3 and 7: 0, 64, 80 bytes, and 7 for at least 0.
    assert leaf.lifetime_bytes.p50 == 64
    assert leaf.lifetime_bytes.p90 == 80  # 7 is told of for 0 bytes only, so it says nothing of later
    assert leaf.lifetime_cycles == (0, inf, inf)
    assert leaf.died_young == 2 / 4
    assert leaf.died_young_bytes == 0.5


def test_what_never_dies() -> None:
    node = of(census(by_hand()), "main.node")
    assert node.lifetime_bytes == node.lifetime_cycles == (inf, inf, inf)
    assert node.died_young == 0


def test_young_is_unknown_without_a_cycle() -> None:
    result = census(Workload.from_arrays([8, 8]))
    assert isnan(result.types[0].died_young)
    assert result.types[0].name == "(unknown)"


def test_live_over_time() -> None:
    result = census(by_hand(), samples=8)
    assert result.time_ns.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert of(result, "main.node").live_bytes.tolist() == [64, 128, 128, 192, 192, 256, 256, 256]
    # leaf 1 dies at the time of 3, leaf 3 at that of 6, leaf 5 at that of 6
    assert of(result, "main.leaf").live_bytes.tolist() == [16, 16, 16, 16, 32, 0, 16, 16]
    assert (result.live_bytes == sum(t.live_bytes for t in result.types)).all()


def test_rate() -> None:
    result = census(by_hand())
    assert result.duration_ns == 8
    assert result.rate(of(result, "main.node")) == 256 * 1e9 / 8


def test_born_amid_a_mark() -> None:
    """The mark that runs when an object is born is not its first: it could not have found it dead."""
    kinds = [
        Event.PROC_NEW,
        Event.SWEEP_DONE,
        Event.ALLOC,
        Event.FLIP,
        Event.DEATH,
        Event.SWEEP_DONE,
        Event.FLIP,
    ]
    result = census(Workload(rows(kinds)))
    assert result.types[0].died_young == 1
    assert result.types[0].lifetime_cycles.p50 == 0


def rows(kinds: list[Event], handles: list[int] | None = None) -> Columns:
    """Make rows of these kinds, a nanosecond each, of objects of 32 B."""
    columns: dict[str, Any] = {name: np.zeros(len(kinds), dtype) for name, dtype in DTYPES.items()}
    columns |= {"time": np.arange(len(kinds)), "kind": np.array(kinds, np.uint8)}
    columns["size"] += 32
    if handles is not None:
        columns["object"] = np.array(handles, np.uint64)
    return Columns(**columns)


def test_types_of_one_name_count_together() -> None:
    made = Workload.from_arrays([8, 24], types=[1, 2], type_table=[LEAF, LEAF._replace(size=24)])
    (only,) = census(made).types
    assert (only.name, only.allocated_bytes) == ("main.leaf", 32)


def test_a_death_without_a_birth() -> None:
    with pytest.raises(RecordingError, match="never allocated"):
        census(Workload(rows([Event.PROC_NEW, Event.DEATH], [0, 5])))


def test_of_nothing() -> None:
    result = census(Workload(rows([])))
    assert (len(result.time_ns), result.types, result.duration_ns) == (0, (), 0)
    with pytest.raises(ValueError, match="samples"):
        census(by_hand(), samples=0)


# ---- against a plain model ----


def model(made: Workload) -> dict[int, dict[str, list[int]]]:
    """Follow the rows one by one: for each type its lifetimes (bytes, marks survived) and the living at the end."""
    place = begins = flips = 0
    alive: dict[int, tuple[int, int, int, int]] = {}
    out: dict[int, dict[str, list[int]]] = {}
    c = made.columns
    for kind, handle, type_, size in zip(c.kind, c.object, c.type, c.size, strict=True):
        if kind == Event.ALLOC:
            place += int(size)
            alive[int(handle)] = int(type_), int(size), place, begins
            out.setdefault(int(type_), {"bytes": [], "marks": [], "live": []})
        elif kind == Event.DEATH:
            type_id, _, born, begun = alive.pop(int(handle))
            out[type_id]["bytes"].append(place - born)
            out[type_id]["marks"].append(max(flips - begun, 0))
        begins += kind == Event.SWEEP_DONE
        flips += kind == Event.FLIP
    for type_id, size, _, _ in alive.values():
        out[type_id]["live"].append(size)
    return out


@st.composite
def programs(draw: st.DrawFn) -> Workload:
    n = draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return Workload.from_arrays(
        rng.integers(1, 100, n),
        lifetimes=rng.integers(-1, 20, n),
        types=rng.integers(0, 3, n),
        births_ns=np.cumsum(rng.integers(0, 10, n)),
        type_table=[NODE, LEAF],
        gc_every=draw(st.integers(0, 20)),
    )


@settings(deadline=None)  # chunks of a few rows are slow
@given(programs(), st.integers(1, 30), st.integers(3, 50))
def test_model(made: Workload, samples: int, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pymem.program._CHUNK", chunk)
        result = census(made, samples=samples)
    want = model(made)
    names = ["(unknown)", "main.node", "main.leaf"]
    assert {t.name for t in result.types} == {names[i] for i in want}
    for i, lives in want.items():
        got = of(result, names[i])
        assert got.live_bytes[-1] == sum(lives["live"])
        assert got.live_objects[-1] == len(lives["live"])
        assert got.allocated_objects == len(lives["live"]) + len(lives["bytes"])
        if not lives["live"]:
            middle = sorted(lives["bytes"])[(len(lives["bytes"]) - 1) // 2]
            assert got.lifetime_bytes.p50 == bin_floor(bin_of(np.array([middle])))[0]
            assert got.died_young == np.mean(np.array(lives["marks"]) == 0)
    assert 1 <= len(result.time_ns) <= samples
    assert (np.diff(result.time_ns) > 0).all()


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=60))
def test_pair(steps: list[tuple[int, bool]]) -> None:
    """Handles are given out and taken back at random; whatever is out at the start was born before."""
    out: dict[int, int] = {}
    kinds, handles, mates, births = [], [], [], 0
    for handle, _ in steps:
        handles.append(handle)
        if handle in out or (handle not in out and handle not in {h for h in handles[:-1]} and handle % 2):
            kinds.append(Event.DEATH)
            mates.append(out.pop(handle, -1))
        else:
            kinds.append(Event.ALLOC)
            out[handle] = births
            births += 1
    columns = rows(kinds, handles)
    pairs = pair(columns, columns.kind == Event.ALLOC, columns.kind == Event.DEATH)
    assert pairs.mate.tolist() == mates
    assert np.flatnonzero(pairs.survives).tolist() == sorted(out.values())


@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=50))
def test_bins(values: list[int]) -> None:
    array = np.array(values)
    floors = bin_floor(bin_of(array))
    assert (floors <= array).all()
    assert (array - floors <= array / 64).all()
    assert (bin_of(floors) == bin_of(array)).all()
    assert (bin_of(np.sort(array))[1:] >= bin_of(np.sort(array))[:-1]).all()
    low = array < 128
    assert (floors[low] == array[low]).all()


@given(st.lists(st.tuples(st.integers(0, 100), st.booleans()), min_size=1, max_size=30))
def test_product_limit(lives: list[tuple[int, bool]]) -> None:
    seen, more = Tallies(), Tallies()
    for value, dies in lives:
        (seen if dies else more).add(np.array([0]), np.array([value]))
    survival, want = 1.0, inf
    for value in sorted({v for v, _ in lives}):
        at_risk = sum(v >= value for v, _ in lives)
        survival *= 1 - sum(v == value and dies for v, dies in lives) / at_risk
        if survival <= 0.5 + 1e-9:
            want = value
            break
    assert product_limit(seen.of(0), more.of(0)).p50 == want


# ---- recordings ----


def test_trace_ends_at_its_last_mark() -> None:
    """Of a trace deaths are known up to its last mark; the tracer's own buffers are left out."""
    result = census(open_stream("examples/lru.trace"))
    assert (result.tier, result.resolution) == ("trace", "cycle")
    assert 0 < result.known_until_ns < result.time_ns[-1]
    assert result.live_bytes.max() < 6e6
    assert result.peak_live < result.live_bytes[-1]  # garbage since the last mark is not known to be any
    leaf = of(result, "uint8")
    assert leaf.last_bytes < leaf.peak_bytes < leaf.live_bytes[-1]
    assert of(result, "main.document").died_young == 0
    assert of(result, "uint8").died_young > 0.9


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(20_000, live=500, gc_every=1000)
    before = census(stream)
    monkeypatch.setattr("pymem.program._CHUNK", 777)
    after = census(replace(stream))
    for a, b in zip(before.types, after.types, strict=True):
        assert a.live_bytes.tolist() == b.live_bytes.tolist()
        assert (a.lifetime_bytes, a.lifetime_cycles, a.died_young) == (
            b.lifetime_bytes,
            b.lifetime_cycles,
            b.died_young,
        )


# ---- names ----

NAMES = [WorkloadType(n, 8, 0) for n in ("", "main.node", "*main.node", "map[string]int", "main.node[int]")]


@pytest.mark.parametrize(
    ("pattern", "want"),
    [
        ("main.node", [1]),
        ("*main.node", [2]),
        ("*node", [1, 2]),
        ("main.*", [1, 4]),
        ("map[string]int", [3]),
        ("map[*", [3]),
        ("main.nod?", [1]),
        ("(unknown)", [0]),
    ],
)
def test_find_types(pattern: str, want: list[int]) -> None:
    assert np.flatnonzero(find_types(NAMES, pattern)).tolist() == want


def test_find_no_type() -> None:
    with pytest.raises(ConfigError, match=r"'main\.nod' or|'main\.node'"):
        find_types(NAMES, "main.nod")
    with pytest.raises(ConfigError, match=r"did you mean 'main\.node'\?"):
        find_types(NAMES, "[]main.node")
    with pytest.raises(ConfigError, match="pymem types FILE"):
        find_types(NAMES, "zzzzzz")


@pytest.mark.parametrize("handle", [0, 1 << 40, (1 << 64) - 1])
def test_pairs_by_handles_of_any_size(handle: int) -> None:
    """The first object dies before its handle is given again; the second outlives the rows."""
    births = np.array([True, False, False, True])
    rows = Columns(
        **{n: np.zeros(4, d) for n, d in DTYPES.items() if n != "object"},
        object=np.array([handle, 7, handle, handle], np.uint64),
    )
    pairs = pair(rows, births, ~births)
    assert pairs.mate.tolist() == [-1, 0]
    assert pairs.survives.tolist() == [False, True]
