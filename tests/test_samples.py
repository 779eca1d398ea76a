"""Samples of MemStats and runtime/metrics, as CSV and JSON lines, and what becomes of them."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymem.errors import RecordingError
from pymem.replay import replay
from pymem.rerun import rerun
from pymem.workload import open_stream
from pymem.workload.samples import FIELDS, Samples, read_samples
from pymem.workload.sources import kind_of_file

GOLDEN = Path(__file__).parent / "golden"
MB = 1 << 20
METRICS = "time,/gc/heap/allocs:bytes,/gc/heap/live:bytes,/gc/cycles/total:gc-cycles\n"


def _read(tmp_path: Path, text: str) -> Samples:
    (tmp_path / "samples").write_text(text, encoding="utf-8")
    return read_samples(tmp_path / "samples")


def _memstats(i: int, **more: Any) -> str:
    fields = {"TotalAlloc": i * 10 * MB, "HeapAlloc": 15 * MB, "NextGC": 20 * MB, "NumGC": i, **more}
    return json.dumps({"time": i, **fields})


@pytest.mark.parametrize("divider", [",", ";", "\t"])
def test_csv(tmp_path: Path, divider: str) -> None:
    """Columns under known names, in any order and among others."""
    text = "b,NumGC,Time_ms,Alloc,TotalAlloc\nx,1,1000,5,10\ny,3,1500,6,30\n".replace(",", divider)
    samples = _read(tmp_path, text)
    assert {name: values.tolist() for name, values in samples.columns.items()} == {
        "time": [0.0, 5e8], "allocated": [10.0, 30.0], "cycles": [1.0, 3.0], "heap": [5.0, 6.0],
    }  # fmt: skip
    assert (samples.num_gc, samples.duration_ns, samples.procs, samples.gogc) == (2, 500_000_000, 1, None)


def test_json_lines(tmp_path: Path) -> None:
    """An object a line; a MemStats may be one in it, as expvar has it, and longer than a head of a file."""
    stats = [{**json.loads(_memstats(i)), "PauseNs": [0] * 5000} for i in range(3)]
    whole = [json.dumps({"ts": 1700000000 + i, "memstats": one}) for i, one in enumerate(stats)]
    path = tmp_path / "lines"
    path.write_text("\n".join(line.replace('"time"', '"tim"') for line in whole))
    assert kind_of_file(path) == "samples"
    assert read_samples(path).columns["time"].tolist() == [0.0, 1e9, 2e9]


@pytest.mark.parametrize(
    ("times", "step"),
    [
        (("0", "0.5"), 5e8),
        (("1700000000000", "1700000000250"), 2.5e8),
        (("1700000000", "1700000001"), 1e9),
        (("1700000000000000", "1700000000000250"), 2.5e5),
        (("2026-11-23T12:00:00Z", "2026-11-23T12:00:01+00:00"), 1e9),
        (("2026-11-23 12:00:00", "2026-11-23 12:01:00"), 6e10),
    ],
)
def test_times(tmp_path: Path, times: tuple[str, str], step: float) -> None:
    """Seconds, dates, and what a number's size says of its unit."""
    text = METRICS + "".join(f"{time},{i},{i},{i}\n" for i, time in enumerate(times))
    assert _read(tmp_path, text).columns["time"].tolist() == pytest.approx([0.0, step], abs=300)


def test_broken_rows_and_restarts(tmp_path: Path) -> None:
    """Rows without what is needed are left out, and of several processes the longest counts."""
    rows = [f"{i},{i * MB},{MB},{i}" for i in range(9)]
    text = METRICS + "\n".join(["0,5,5,5", *rows, "9,9", "10,,1,", "x,1,1,1", "11,nan,1,9"])
    samples = _read(tmp_path, text)
    assert (len(samples), samples.damaged, samples.restarts) == (9, 4, 1)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "no time, no /gc/heap/allocs"),
        ("time,NumGC\n1,1\n2,2\n", "no /gc/heap/allocs:bytes or TotalAlloc"),
        ("time,NumGC,TotalAlloc\n1,1,1\n2,2,2\n", "NextGC or HeapAlloc"),
        (METRICS, "no time"),
        (METRICS + "1,1,1,1\n", "take several"),
        ('{"TotalAlloc": 1}\n' + "[" * 100_000, "no time"),
    ],
)
def test_what_is_missing(tmp_path: Path, text: str, what: str) -> None:
    """What is not there is named, with what to do."""
    with pytest.raises(RecordingError, match=what):
        _read(tmp_path, text)


def test_no_cycle(tmp_path: Path) -> None:
    """Without a cycle nothing is known of what lives."""
    with pytest.raises(RecordingError, match="longer time"):
        _read(tmp_path, METRICS + "1,1,1,1\n2,2,1,1\n").source()


def test_live_by_the_goal(tmp_path: Path) -> None:
    """A goal tells what was marked; with GOGC it is (goal - roots) / 2 at 100."""
    source = _read(tmp_path, "\n".join(_memstats(i) for i in range(20))).source()
    assert source.live[5] == pytest.approx(10 * MB, rel=0.01)
    assert _read(tmp_path, "\n".join(_memstats(i, gogc=300) for i in range(20))).source().live[
        5
    ] == pytest.approx(5 * MB, rel=0.03)


def test_steady_program(tmp_path: Path) -> None:
    """10 MB alive, 10 MB allocated a cycle: as many cycles at GOGC=100, half as many at 200."""
    text = METRICS + "".join(f"{i * 0.1},{i * 10 * MB},{10 * MB},{i}\n" for i in range(101))
    source = _read(tmp_path, text).source()
    assert len(replay(source).cycles) == 100
    assert len(rerun(source, gogc=100).cycles) == pytest.approx(100, abs=15)
    assert len(rerun(source, gogc=200).cycles) == pytest.approx(50, abs=8)


def test_forced(tmp_path: Path) -> None:
    """Forced cycles are forced again."""
    text = METRICS.strip() + ",NumForcedGC\n"
    text += "".join(f"{i * 0.1},{i * 10 * MB},{10 * MB},{i},{i // 10}\n" for i in range(101))
    run = rerun(_read(tmp_path, text).source(), gogc=400)
    assert sum(cycle.forced for cycle in run.cycles) == 10


_odd = st.sampled_from(["", "NaN", "inf", '"', "1e400", "2026-01-01"])
_cells = st.one_of(st.integers(-5, 10**30).map(str), st.floats().map(str), _odd)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([names[0] for names in FIELDS.values()]), min_size=1, max_size=8, unique=True),
    st.lists(st.lists(_cells, min_size=1, max_size=8), max_size=8),
    st.booleans(),
)
def test_any_table(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], rows: list[list[str]], as_json: bool
) -> None:
    """Any table becomes a source with finite, rising points, or is refused in a sentence."""
    path = tmp_path_factory.getbasetemp() / "table"
    if as_json:
        path.write_text("\n".join(json.dumps(dict(zip(names, row, strict=False))) for row in rows))
    else:
        path.write_text("\n".join(",".join(row) for row in [names, *rows]))
    try:
        source = read_samples(path).source()
    except RecordingError:
        return
    for column in (source.allocated, source.time_ns, source.live):
        assert np.isfinite(column).all()
    assert (np.diff(source.allocated) >= 0).all()
    assert (np.diff(source.time_ns) >= 0).all()


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Any text is read or refused."""
    path = tmp_path_factory.getbasetemp() / "text"
    path.write_text(text, encoding="utf-8", errors="replace")
    with pytest.raises(RecordingError):
        read_samples(path).source()


@pytest.mark.parametrize(("file", "most"), [("metrics.csv", 0.2), ("memstats.jsonl", 0.35)])
def test_real_program(tmp_path: Path, file: str, most: float) -> None:
    """From a real program's samples at GOGC=100: its cycles under other settings, on average. MemStats tell less."""
    errors = []
    for row in json.loads((GOLDEN / "amounts.json").read_text(encoding="utf-8"))["rows"]:
        if file in row:
            (tmp_path / file).write_text("\n".join(row[file]))
            source = open_stream(tmp_path / file)
            for gogc, real in row["real"].items():
                cycles = statistics.median(real["num_gc"])
                errors.append(abs(len(rerun(source, gogc=gogc).cycles) / cycles - 1))
    assert len(errors) == 8
    assert statistics.fmean(errors) < most
