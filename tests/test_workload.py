"""Workloads: what they are built from, and files that hold them, whole or damaged."""

from __future__ import annotations

import io
import json
import resource
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from strategies import replay_rows

from pymem.errors import RecordingError
from pymem.replay import replay
from pymem.workload.columns import DTYPES, Columns, Event
from pymem.workload.synthetic import LAB, Stream, exponential, steady, uniform_sizes
from pymem.workload.workload import Workload, WorkloadType

# ---- files ----


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    n = draw(st.integers(0, 50))
    columns = {name: draw(arrays.arrays(dtype, n)) for name, dtype in DTYPES.items()}
    size = st.integers(0, 1 << 40)
    return Workload(
        columns=Columns(**columns),
        types=tuple(draw(st.lists(st.builds(WorkloadType, st.text(), size, size), min_size=1, max_size=4))),
        tier=draw(st.sampled_from(["exact", "trace", "arrays", "synthetic"])),
        resolution=draw(st.sampled_from(["event", "cycle"])),
        procs=draw(st.integers(1, 64)),
        arena_base=draw(st.integers(1, 1000)) * (64 << 20),
        padding_pages=draw(st.integers(0, 8191)),
        origin=draw(st.dictionaries(st.text(), st.text(), max_size=3)),
        recorded_stats=({"Alloc": 5, "BySize": [{"Size": 8, "Mallocs": 2, "Frees": 1}]},)
        * draw(st.integers(0, 2)),
    )


def saved_and_loaded(workload: Workload) -> Workload:
    with tempfile.TemporaryDirectory() as folder:
        return Workload.load(workload.save(Path(folder) / "w"))


@settings(max_examples=60, deadline=None)
@given(workloads())
def test_save_and_load(workload: Workload) -> None:
    assert saved_and_loaded(workload) == workload


def small() -> Workload:
    return steady(300, gc_every=100, rng=1)


def test_same_workload_same_bytes(tmp_path: Path) -> None:
    assert small().save(tmp_path / "a").read_bytes() == small().save(tmp_path / "b").read_bytes()


@pytest.mark.parametrize("field", ["tier", "procs", "padding_pages", "origin", "types", "recorded_stats"])
def test_unequal(field: str) -> None:
    other: dict[str, Any] = {"tier": "exact", "procs": 9, "padding_pages": 1, "origin": {"go": "1"}}
    other |= {"types": (WorkloadType("T", 8, 0),), "recorded_stats": ({"Alloc": 1},)}
    assert small() != replace(small(), **{field: other[field]})
    assert small() == small()


def test_save_over(tmp_path: Path) -> None:
    path = small().save(tmp_path / "w")
    steady(10).save(path)
    assert Workload.load(path) == steady(10)
    assert list(tmp_path.iterdir()) == [path]


def test_save_nowhere(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        small().save(tmp_path / "none" / "w")
    (tmp_path / "w").mkdir()
    with pytest.raises(OSError, match="w"):
        small().save(tmp_path / "w")
    assert list(tmp_path.iterdir()) == [tmp_path / "w"]


def test_disk_full(tmp_path: Path) -> None:
    """What was there before stays, and nothing half-written is left beside it."""
    path = small().save(tmp_path / "w")
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            steady(20_000).save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# ---- damaged files ----


def refuses(path: Path) -> None:
    """Load a file that is no workload; the error is one sentence that names it."""
    with pytest.raises(RecordingError, match="not a whole pymem workload") as error:
        Workload.load(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_truncated(tmp_path: Path) -> None:
    whole = small().save(tmp_path / "w").read_bytes()
    for end in [*range(0, 200), *range(200, len(whole), 37), len(whole) - 1]:
        (tmp_path / "cut").write_bytes(whole[:end])
        refuses(tmp_path / "cut")


def test_flipped_bits(tmp_path: Path) -> None:
    """A flip is found, or hits what means nothing (a date, a version needed): then the workload is the same."""
    workload = small()
    whole = workload.save(tmp_path / "w").read_bytes()
    path, refused = tmp_path / "flipped", 0
    rng = np.random.default_rng(1)
    for at in rng.integers(0, 8 * len(whole), 1500):
        data = bytearray(whole)
        data[at // 8] ^= 1 << at % 8
        path.write_bytes(data)
        try:
            assert Workload.load(path) == workload
        except RecordingError:
            refused += 1
    assert refused > 1000


def rewritten(path: Path, change: Callable[[dict[str, Any]], object] = bool, **members: bytes | None) -> Path:
    """Write a workload's file with another header or other members; None leaves one out."""
    whole = small().save(path.with_name("whole"))
    with zipfile.ZipFile(whole) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    header = json.loads(content["workload.json"])
    change(header)
    content["workload.json"] = json.dumps(header).encode()
    changed: dict[str, bytes | None] = {**content}
    changed.update({f"{name}.npy": data for name, data in members.items()})
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in changed.items():
            if data is not None:
                archive.writestr(name, data)
    return path


def test_rewritten_as_it_was(tmp_path: Path) -> None:
    assert Workload.load(rewritten(tmp_path / "w")) == small()


_NUMBERS = [2**60, 2**40, -1, 1.0, 300.5, "7", None, True, float("nan"), [3], {}]


_HEADER_NUMBERS = [
    (field, value)
    for field in ("events", "procs", "padding_pages", "arena_base", "format")
    for value in _NUMBERS
    if (field, value) != ("arena_base", 2**40)  # a good one
]


@pytest.mark.parametrize(("field", "value"), _HEADER_NUMBERS, ids=repr)
def test_header_numbers(tmp_path: Path, field: str, value: object) -> None:
    refuses(rewritten(tmp_path / "w", lambda header: header.update({field: value})))


@pytest.mark.parametrize(
    "change",
    [
        {"tier": 5}, {"origin": 5}, {"origin": {"go": 1}}, {"types": 5}, {"types": [[1, 2, 3]]}, {"types": [["T", 1]]},
        {"types": [["T", -1, 0]]}, {"types": [["T", 0, 1e9]]}, {"recorded_stats": 1}, {"recorded_stats": [1]},
        {"recorded_stats": [{"BySize": [{"Mallocs": 1, "Frees": 1}] * 69}]}, {"recorded_stats": [{"BySize": [3]}]},
    ],
    ids=repr,
)  # fmt: skip
def test_header_fields(tmp_path: Path, change: dict[str, Any]) -> None:
    refuses(rewritten(tmp_path / "w", lambda header: header.update(change)))


@pytest.mark.parametrize("field", ["format", "events", "tier", "types", "origin", "recorded_stats"])
def test_header_without(tmp_path: Path, field: str) -> None:
    refuses(rewritten(tmp_path / "w", lambda header: header.pop(field)))


@pytest.mark.parametrize(
    "header",
    [b"", b"[]", b"5", b"{", b"\xff", b"[" * 100_000],
    ids=["None", "List", "Number", "Cut", "Bytes", "Deep"],
)
def test_header_is_none(tmp_path: Path, header: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "w", "w") as archive:
        archive.writestr("workload.json", header)
    refuses(tmp_path / "w")


N = len(small())


def npy(array: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, np.asarray(array), **options)
    return out.getvalue()


@pytest.mark.parametrize(
    "column",
    [
        None, b"", b"\x93NUMPY", npy(np.zeros(3, np.uint64)), npy(np.zeros(N, np.float64)),
        npy(np.zeros((N, 1), np.uint64)),
        npy(np.zeros(N, ">u8")), npy(np.array([None] * N)), npy(np.zeros(N, np.uint64), version=(2, 0)),
        npy(np.zeros(N, np.uint64))[:-8], npy(np.zeros(N, np.uint64)) + bytes(8),
    ],
    ids=["None", "Empty", "Magic", "Short", "Floats", "Flat", "Endian", "Pickled", "Version", "Cut", "Long"],
)  # fmt: skip
def test_columns(tmp_path: Path, column: bytes | None) -> None:
    refuses(rewritten(tmp_path / "w", size=column))


def test_hostile_sizes(tmp_path: Path) -> None:
    """Header and columns agree on 2**40 events, and no memory is asked for them."""
    shapes = {}
    for name, dtype in DTYPES.items():
        raw = (
            npy(np.zeros(0, dtype))
            .replace(b"'shape': (0,)", b"'shape': (%d,)" % 2**40)
            .replace(b" " * 12, b"", 1)
        )
        shapes[name] = raw
    path = rewritten(tmp_path / "w", lambda header: header.update(events=2**40), **shapes)
    tracemalloc.start()
    refuses(path)
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


def test_foreign_files(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w", "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
    refuses(tmp_path / "w")
    np.savez(tmp_path / "arrays.npz", size=np.arange(3))
    refuses(tmp_path / "arrays.npz")
    (tmp_path / "text").write_text("no zip")
    refuses(tmp_path / "text")
    refuses(tmp_path)


# ---- from arrays ----


def births_and_deaths(workload: Workload) -> list[str]:
    """Return the events in a reader's words."""
    words = {Event.ALLOC: "+{object}:{size}", Event.DEATH: "-{object}", Event.FLIP: "gc", Event.PROC_NEW: "P"}
    c = workload.columns
    return [
        words[Event(int(kind))].format(object=c.object[i], size=c.size[i])
        for i, kind in enumerate(c.kind)
        if int(kind) in words
    ]


def test_lifetimes() -> None:
    """Alive for so many allocations after its own; a collection comes after the deaths of its moment."""
    workload = Workload.from_arrays([8, 16, 24, 32], lifetimes=[0, 2, -1, 0], gc_every=2)
    assert births_and_deaths(workload) == [
        "P",
        "+0:8",
        "-0",
        "+1:16",
        "gc",
        "+2:24",
        "+3:32",
        "-1",
        "-3",
        "gc",
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 40_000), st.integers(-1, 30), st.booleans(), st.integers(0, 2)), max_size=60
    ),
    st.integers(0, 9),
)
def test_from_arrays(objects: list[tuple[int, int, bool, int]], gc_every: int) -> None:
    """A plain model of who is alive when a collection comes, and the emulator's account of it."""
    sizes, lifetimes, noscan, procs = ([o[i] for o in objects] for i in range(4))
    many: dict[str, Any] = {
        "lifetimes": np.array(lifetimes, int),
        "noscan": np.array(noscan, bool),
        "procs": np.array(procs, int),
    }
    workload = Workload.from_arrays(np.array(sizes, int), gc_every=gc_every, **many)
    n = len(objects)
    dies = {i: i + 1 + life for i, life in enumerate(lifetimes) if 0 <= life < n - i}
    assert births_and_deaths(workload)[workload.procs :] == model(sizes, dies, gc_every)
    assert (workload.objects, workload.bytes_allocated) == (n, sum(sizes))
    run = replay(workload)
    collected = n // gc_every * gc_every if gc_every else 0
    tiny = any(s and size < 16 for s, size in zip(noscan, sizes, strict=True))
    if not tiny:  # of a tiny block nothing goes before all has gone
        freed = sum(death <= collected for death in dies.values())
        assert run.memstats.mallocs == n
        assert run.memstats.frees == freed
        assert sum(cycle.freed_objects for cycle in run.cycles) == freed
    assert len(run.cycles) == workload.cycles == (n // gc_every if gc_every else 0)


def model(sizes: list[int], dies: dict[int, int], gc_every: int) -> list[str]:
    said = []
    for now in range(len(sizes) + 1):
        said += [f"-{i}" for i, when in dies.items() if when == now]
        if gc_every and now and now % gc_every == 0:
            said.append("gc")
        if now < len(sizes):
            said.append(f"+{now}:{sizes[now]}")
    return said


@pytest.mark.parametrize(
    ("sizes", "options", "match"),
    [
        ([1.5], {}, "sizes: give whole numbers"),
        (["8"], {}, "sizes: give whole numbers"),
        ([[8]], {}, "sizes: give a flat array, not 2"),
        ([8, 0], {}, "sizes: element 1 is 0"),
        ([8, -8], {}, "sizes: element 1 is -8"),
        ([8, 8], {"noscan": [True]}, "noscan: give one value or 2"),
        ([8, 8], {"noscan": [0.5, 0.5]}, "noscan: give whole numbers"),
        ([8, 8], {"lifetimes": [1, 2, 3]}, "lifetimes: give one value or 2"),
        ([8, 8], {"births_ns": [5, 4]}, "births_ns: element 1 is earlier"),
        ([8, 8], {"types": [[1, 2]]}, "types: give one value or 2"),
        ([8], {"types": -1}, "types"),
        ([8], {"types": 1 << 40}, "types"),
        ([8], {"procs": -1}, "procs: give processor numbers"),
        ([8], {"procs": 1024}, "procs: give processor numbers"),
        ([8], {"noscan": 2}, "noscan: give 0 or 1"),
        ([1 << 48], {}, "sizes: element 0 is"),
        ([8], {"lifetimes": np.array([1 << 63], np.uint64)}, "lifetimes: .* too large"),
        ([8], {"gc_every": -1}, "gc_every=-1"),
        ([8], {"births_ns": 1 << 63}, "births_ns"),
    ],
)
def test_from_bad_arrays(sizes: Any, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Workload.from_arrays(sizes, **options)


def test_empty() -> None:
    workload = Workload.from_arrays(np.empty(0, int), gc_every=5)
    run = replay(workload)
    assert (workload.objects, workload.duration_ns, run.cycles, run.memstats.mallocs) == (0, 0, (), 0)


def test_columns_of_two_lengths() -> None:
    columns = {name: np.zeros(3, dtype) for name, dtype in DTYPES.items()}
    with pytest.raises(ValueError, match=r"column size has shape \(2,\), time has \(3,\)"):
        Columns(**columns | {"size": np.zeros(2, np.uint64)})


# ---- made-up programs ----


def test_seed() -> None:
    one, same, other = (steady(2000, gc_every=500, procs=2, rng=seed) for seed in (7, 7, 8))
    assert one == same
    assert one != other


@pytest.mark.slow
@pytest.mark.parametrize("name", LAB)
def test_lab(name: str) -> None:
    assert LAB[name].make() == LAB[name].make()
    assert replay(LAB[name].make()).cycles


def test_draws() -> None:
    rng = np.random.default_rng(1)
    assert set(uniform_sizes(3, 5)(rng, 1000).tolist()) == {3, 4, 5}
    assert exponential(50)(rng, 20_000).mean() == pytest.approx(50, rel=0.05)


def joined(stream: Stream, size: int) -> dict[str, Any]:
    chunks = list(stream.chunks(size))
    return {name: np.concatenate([getattr(c, name) for c in chunks]) for name in DTYPES}


def test_stream_repeats() -> None:
    stream = Stream(50_000, live=500, gc_every=7000, seed=3)
    once, twice = joined(stream, 1 << 14), joined(stream, 1 << 14)
    assert all(np.array_equal(once[name], twice[name]) for name in DTYPES)
    assert len(once["kind"]) == 50_000
    alive = np.cumsum(
        np.where(once["kind"] == Event.ALLOC, 1, 0) - np.where(once["kind"] == Event.DEATH, 1, 0)
    )
    assert alive.max() <= 500


@pytest.mark.parametrize("gc_every", [0, 700, 100_000])
def test_stream_is_the_same_in_any_chunks(gc_every: int) -> None:
    """And it collects after as many allocations as it was told to."""
    stream = Stream(300_000, live=500, gc_every=gc_every)
    whole, cut = joined(stream, 1 << 20), joined(stream, 1000)
    assert all(np.array_equal(whole[name], cut[name]) for name in DTYPES)
    births = np.cumsum(whole["kind"] == Event.ALLOC)
    flips = births[whole["kind"] == Event.FLIP]
    assert flips.tolist() == (list(range(gc_every, births[-1] + 1, gc_every)) if gc_every else [])
    assert np.all(np.diff(whole["time"]) > 0)


@pytest.mark.parametrize("gc_every", [1.5, -1, "often", None])
def test_stream_collects_after_whole_numbers(gc_every: Any) -> None:
    with pytest.raises(ValueError, match=rf"^gc_every {gc_every!r}: give a whole number of allocations"):
        Stream(1000, gc_every=gc_every)


def test_stream_is_bounded() -> None:
    """Twenty times the events, the same memory."""

    def peak(n: int) -> int:
        tracemalloc.start()
        run = replay(Stream(n, live=2000, gc_every=10_000), progress=None)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert run.events == n
        assert run.memstats.heap_sys < 16 << 20
        return top

    assert peak(1_000_000) < 1.5 * peak(50_000)


def test_chunks_do_not_matter() -> None:
    """A workload is the same events however it is cut."""
    workload = steady(5000, gc_every=700, procs=2, rng=2)
    whole = replay(workload)

    class Cut:
        types, arena_base, padding_pages, tier = workload.types, workload.arena_base, 0, "arrays"
        procs = workload.procs

        def chunks(self, size: int = 0) -> Any:
            return workload.chunks(97)

        def __len__(self) -> int:
            return len(workload)

    pieces = replay(Cut())
    assert replace(pieces, seconds=0.0) == replace(whole, seconds=0.0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_rows_survive_files(seed: int) -> None:
    workload = Workload(columns=replay_rows(seed, 100, wild=0.2))
    assert saved_and_loaded(workload) == workload


def test_from_no_arrays() -> None:
    """A program may allocate nothing."""
    nothing: list[Any] = [[], (), np.empty(0)]
    for sizes in nothing:
        workload = Workload.from_arrays(sizes, noscan=[], lifetimes=[], births_ns=[], types=[], procs=[])
        assert workload.objects == 0
        assert replay(workload).memstats.mallocs == 0


@pytest.mark.parametrize("gc_every", [1.5, "2", None, -1])
def test_from_arrays_every_so_many(gc_every: Any) -> None:
    with pytest.raises(ValueError, match=f"gc_every={gc_every}: give a whole number"):
        Workload.from_arrays([8], gc_every=gc_every)


def test_from_ragged_arrays() -> None:
    ragged: Any = [[8], [8, 8]]
    with pytest.raises(ValueError, match="sizes: its rows have different lengths"):
        Workload.from_arrays(ragged)
    with pytest.raises(ValueError, match="types: its rows have different lengths"):
        Workload.from_arrays([8, 8], types=ragged)
