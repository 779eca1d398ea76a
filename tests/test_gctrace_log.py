"""Logs of gctrace: read from whatever is around them, and run again under other settings.

The logs in golden/amounts.json are real Go's. Those below of versions that are not at hand are short and written by
hand, by the formats that the runtime's documentation gives.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Command
from hypothesis import given, settings
from hypothesis import strategies as st

from pymem.errors import RecordingError
from pymem.replay import replay
from pymem.rerun import Rerun, rerun
from pymem.workload import Event, open_recording, open_stream
from pymem.workload.curve import LEAST_PIECE, CurveSource, bounded, piece_bytes
from pymem.workload.gctrace_log import NO_GOAL, GCTraceLog, has_gctrace, read_gctrace_log
from pymem.workload.sources import kind_of_file

GOLDEN = Path(__file__).parent / "golden"
MB = 1 << 20
TIMES = "0.10+2.5+0.003 ms clock, 0.21+0.16/0.45/0.10+0.006 ms cpu"


def _line(
    number: int, heap: str = "4->4->2", *, goal: int = 4, roots: str = "0 MB stacks, 1 MB globals, "
) -> str:
    return f"gc {number} @{number / 100:.3f}s 2%: {TIMES}, {heap} MB, {goal} MB goal, {roots}2 P"


def _read(tmp_path: Path, text: str, **options: Any) -> GCTraceLog:
    path = tmp_path / "log"
    path.write_text(text, encoding="utf-8")
    return read_gctrace_log(path, **options)


def _steady(cycles: int, **options: Any) -> str:
    return "\n".join(_line(i, "19->20->10", goal=21, **options) for i in range(1, cycles + 1))


# ---- lines ----


def test_fields(tmp_path: Path) -> None:
    """A line's numbers stand in the fields of a cycle, in ns and bytes."""
    cycle = _read(tmp_path, _line(3) + " (forced)\n").cycles[0]
    told = {name: cycle[name].item() for name in cycle.dtype.names}
    assert told == {
        "number": 3, "at_ns": 30_000_000, "percent": 2, "sweep_term_ns": 100_000, "mark_ns": 2_500_000,
        "mark_term_ns": 3_000, "sweep_term_cpu_ns": 210_000, "assist_cpu_ns": 160_000, "background_cpu_ns": 450_000,
        "idle_cpu_ns": 100_000, "mark_term_cpu_ns": 6_000, "heap0": 4 * MB, "heap1": 4 * MB, "heap2": 2 * MB,
        "goal": 4 * MB, "stacks": 0, "globals": MB, "gomaxprocs": 2, "forced": True, "leak_check": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("version", "line", "stacks"),
    [
        ("1.17", _line(1, roots=""), -1),
        ("1.18", _line(1), 0),
        ("1.22", _line(1) + " (forced)", 0),
        ("1.26", _line(1).replace("2%:", "2% (checking for goroutine leaks):"), 0),
        ("json", json.dumps({"log": _line(1) + "\n", "stream": "stderr"}).replace(">", "\\u003e"), 0),
        ("journal", f"Nov 23 12:00:01 host app[7]: {_line(1)}\r", 0),
    ],
)  # fmt: skip
def test_formats(tmp_path: Path, version: str, line: str, stacks: int) -> None:
    """Lines of several versions of Go, and as collectors of logs wrap them."""
    log = _read(tmp_path, f"starting\n{line}\nlistening on :80\n")
    assert (len(log.cycles), log.lines, log.damaged, log.cycles["stacks"][0]) == (1, 3, 0, stacks), version


def test_real_versions(tmp_path: Path) -> None:
    """Real lines of four versions of Go, among gcpacertrace's and scavtrace's: each process a log of its own."""
    log = read_gctrace_log(GOLDEN / "reports_gctrace.txt")
    text = (GOLDEN / "reports_gctrace.txt").read_text(encoding="utf-8").splitlines()
    assert sum(log.processes) == sum(line.startswith("gc ") for line in text)
    assert (log.damaged, log.missing, log.cycles["number"][0]) == (0, 0, 1)


def test_no_goal(tmp_path: Path) -> None:
    """With GOGC=off a forced cycle has a goal beyond all memory: it is read, and tells nothing of GOGC."""
    log = _read(tmp_path, "\n".join(_line(i, goal=8532210231534) + " (forced)" for i in range(1, 9)))
    assert (log.cycles["goal"] == NO_GOAL).all()
    assert log.gogc is None
    assert log.source().forced.all()


@pytest.mark.parametrize("intruder", ["INFO request 4711 took 12 ms", "2026/11/23 12:00:00 request"])
@pytest.mark.parametrize("cut", [6, 13, 14, 40, 75, 95, len(_line(7)) - 8])
def test_interleaved(tmp_path: Path, cut: int, intruder: str) -> None:
    """Another line came into one: it is put together, or counted as lost where that could be done in two ways."""
    line = _line(7)
    log = _read(tmp_path, f"{_line(6)}\n{line[:cut]}{intruder}\n{line[cut:]}\n{_line(8)}\n")
    assert log.healed + log.damaged + log.missing in (1, 2)
    assert log.healed == 1 - log.missing
    if log.healed:
        assert log.cycles[1].tolist() == _read(tmp_path, line).cycles[0].tolist()


def test_several_processes(tmp_path: Path) -> None:
    """Processes that write by turns are told apart by their numbers; the one with most cycles counts, or one named."""
    short = [_line(i, "7->7->3", goal=7) for i in range(1, 4)]
    long = [_line(i, "30->31->9", goal=30) for i in range(40, 46)]
    mixed = [line for pair in zip(long, [*short, "", "", ""], strict=True) for line in pair]
    text = "\n".join(mixed)
    assert _read(tmp_path, text).processes == (6, 3)
    assert _read(tmp_path, text).cycles["number"].tolist() == list(range(40, 46))
    assert _read(tmp_path, text, process=1).cycles["number"].tolist() == [1, 2, 3]
    with pytest.raises(RecordingError, match="no process 2"):
        _read(tmp_path, text, process=2)


def test_missing_cycles(tmp_path: Path) -> None:
    """Cycles that the log lost are taken to be like their neighbours; where most are lost it is refused."""
    lines = _steady(40).splitlines()
    whole, holes = _read(tmp_path, "\n".join(lines)), _read(tmp_path, "\n".join(lines[:10] + lines[15:]))
    assert holes.missing == 5
    assert holes.source().cycles == 40
    assert holes.source().allocated[-1] == pytest.approx(whole.source().allocated[-1])
    with pytest.raises(RecordingError, match="cycles are missing"):
        _read(tmp_path, f"{lines[0]}\n{lines[-1]}").source()


@pytest.mark.parametrize("gogc", [25, 50, 100, 150, 400])
def test_gogc_by_goals(tmp_path: Path, gogc: int) -> None:
    """Goals of heaps of some hundred MB tell GOGC to a percent or so."""
    heaps = [200 + 37 * i % 101 for i in range(20)]
    goals = [4, *(int(h + 0.5 + (h + 1.7) * gogc / 100) for h in heaps)]
    text = "\n".join(
        _line(i + 1, f"{g - 3}->{g - 3}->{h}", goal=g)
        for i, (h, g) in enumerate(zip(heaps, goals, strict=False))
    )
    assert _read(tmp_path, text).gogc == pytest.approx(gogc, rel=0.03)


def test_no_line(tmp_path: Path) -> None:
    """A file without a line says what to do."""
    for text in ("", "hello\n", "gc 1 @0.1s and then it was killed"):
        with pytest.raises(RecordingError, match=r"GODEBUG=gctrace=1 2> LOG"):
            _read(tmp_path, text)
    (tmp_path / "log").write_text("some text\nof a program\n")
    with pytest.raises(RecordingError, match=r"GODEBUG=gctrace=1 2> LOG"):
        kind_of_file(tmp_path / "log")


_PIECES = st.sampled_from(
    [
        *_line(1).replace("->", " -> ").split(" "),
        _line(2),
        _line(3)[:50],
        "9" * 5000,
        "\n",
        " ",
        "->",
        "\x85",
        "{",
        "²",
    ]
)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(), st.lists(_PIECES, max_size=40).map(" ".join), st.lists(_PIECES, max_size=40).map("".join)
    )
)
def test_any_text(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Any text is a log or is refused in a sentence; one that is read makes a source whose rows replay."""
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_text(text, encoding="utf-8", errors="replace")
    try:
        log = read_gctrace_log(path)
        source = log.source()
    except RecordingError:
        return
    assert has_gctrace(path)
    assert sum(log.processes) >= len(log.cycles)
    assert len(source.allocated) == len(log.cycles) + log.missing + 2 - log.amid


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Nothing but RecordingError comes of any bytes, whatever they are taken for."""
    path = tmp_path_factory.getbasetemp() / "bytes"
    path.write_bytes(data)
    try:
        open_stream(path)
    except RecordingError:
        return
    assert kind_of_file(path)


_numbers = st.one_of(st.integers(0, 300), st.integers(0, 1 << 62), st.integers(0, 1 << 80))
_times = st.tuples(st.integers(0, 10**9), st.integers(0, 999)).map(lambda t: f"{t[0]}.{t[1]}")


@st.composite
def _any_line(draw: st.DrawFn) -> str:
    n = [draw(_numbers) for _ in range(8)]
    t = [draw(_times) for _ in range(8)]
    return (
        f"gc {n[0]} @{draw(st.integers(0, 10**9))}.{draw(st.integers(100, 999))}s {n[1] % 101}%:"
        f" {t[0]}+{t[1]}+{t[2]} ms clock, {t[3]}+{t[4]}/{t[5]}/{t[6]}+{t[7]} ms cpu,"
        f" {n[2]}->{n[3]}->{n[4]} MB, {n[5]} MB goal, {n[6] % 9} MB stacks, {n[7] % 9} MB globals, {n[0] % 70} P"
    )


@settings(max_examples=200, deadline=None)
@given(st.lists(_any_line(), min_size=1, max_size=8))
def test_any_numbers(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    """Lines of the right form with any numbers make a source with finite, rising points, or are refused."""
    path = tmp_path_factory.getbasetemp() / "numbers"
    path.write_text("\n".join(lines))
    try:
        source = read_gctrace_log(path).source()
    except RecordingError:
        return
    for column in (source.allocated, source.time_ns, source.live):
        assert np.isfinite(column).all()
        assert (column >= 0).all()
    assert (np.diff(source.allocated) >= 0).all()
    assert (np.diff(source.time_ns) >= 0).all()
    assert (np.diff(source.live) <= np.diff(source.allocated) * (1 + 1e-9) + 1).all()


# ---- the source ----


def _source(
    live: list[float], allocated: list[float], *, procs: int = 1, piece: int = LEAST_PIECE
) -> CurveSource:
    points = np.array(allocated)
    marks = points[1:-1]
    return CurveSource(
        allocated=points,
        time_ns=points / 10,
        live=bounded(np.array(live), points),
        mark_begin=marks,
        mark_end=marks,
        forced=np.zeros(len(marks), bool),
        tier="gctrace",
        piece=piece,
        procs=procs,
        busy=procs,
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3 * MB), st.integers(0, 2 * MB)), min_size=2, max_size=8),
    st.integers(1, 3),
    st.integers(1, 4000),
)
def test_rows_follow_the_curve(points: list[tuple[int, int]], procs: int, size: int) -> None:
    """Rows are the same in any chunks, allocate what the curve says, and leave alive what it says; they replay."""
    allocated = np.cumsum([0, *(p[0] + LEAST_PIECE for p in points)]).astype(float).tolist()
    source = _source([0.0, *(float(p[1]) for p in points)], allocated, procs=procs)
    parts = list(source.chunks(size))
    assert all(0 < len(part) <= size for part in parts)
    kind = np.concatenate([part.kind for part in parts])
    time = np.concatenate([part.time for part in parts])
    born, died = (int((kind == k).sum()) for k in (Event.ALLOC, Event.DEATH))
    assert born == int(source.allocated[-1] / source.piece)
    assert (np.diff(time) >= 0).all()
    slopes = np.abs(np.diff(source.live) / np.diff(source.allocated))
    near = (2 + 2 * slopes.max()) * source.piece  # an amount is known to a piece, and so is its place
    assert abs((born - died) * source.piece - source.live[-1]) <= near
    assert abs(len(kind) - len(source)) <= near // source.piece
    run = replay(source)
    assert len(run.cycles) == source.cycles
    for cycle, live in zip(run.cycles, source.live[1:-1], strict=True):
        assert abs(cycle.marked - live) <= near


def test_holds_more_than_objects() -> None:
    """The heap has holes and structs besides its pieces, more as it grows, never less; a limit binds sooner by them."""
    source = _source([0.0, 8 * MB, 16 * MB, 4 * MB, 4 * MB], [0.0, 32 * MB, 64 * MB, 96 * MB, 128 * MB])
    parts = list(source.chunks())
    kind = np.concatenate([part.kind for part in parts])
    more = np.concatenate([part.size for part in parts])[kind == Event.SYS]
    assert more.sum() == pytest.approx(1.5 * MB + 0.2 * 16 * MB, abs=LEAST_PIECE)
    assert (more.astype(np.int64) > 0).all()
    run = rerun(source, gogc="off", memory_limit=26 * MB)
    besides = run.memstats.sys - run.memstats.heap_sys
    assert besides > more.sum()
    assert run.timeline["heap_goal"][-1] < 26 * MB - besides


def test_starts_amid(tmp_path: Path) -> None:
    """A log that begins amid has its first cycle's heap from the start on, and that one replays and runs again."""
    lines = [_line(i, "19->20->10", goal=21) for i in range(500, 540)]
    log = _read(tmp_path, "\n".join(lines))
    source = log.source()
    assert log.amid
    assert source.live[0] == pytest.approx(9.3 * MB, rel=0.1)
    assert len(replay(source).cycles) == 40
    assert len(rerun(source, gogc=100).cycles) == pytest.approx(40, abs=6)


def test_pieces_are_bounded() -> None:
    """Some 1,000 pieces in a heap; in a long log as few as 32, and never less than a page each."""
    assert piece_bytes(peak=4 * MB, allocated=100 * MB) == LEAST_PIECE
    assert piece_bytes(peak=1 << 30, allocated=1 << 36) == 1 << 20
    assert piece_bytes(peak=1 << 30, allocated=1 << 46) == 1 << 25


def test_forced_cycles_stay(tmp_path: Path) -> None:
    """What the program asked for is asked for again."""
    lines = [line + (" (forced)" if i % 10 == 9 else "") for i, line in enumerate(_steady(40).splitlines())]
    source = _read(tmp_path, "\n".join(lines)).source()
    run = rerun(source, gogc=1000)
    assert sum(c.forced for c in run.cycles) == 4


def test_no_recording(tmp_path: Path) -> None:
    """Where objects are needed, a log says that it has none."""
    (tmp_path / "log").write_text(_steady(3))
    with pytest.raises(RecordingError, match="pymem record"):
        open_recording(tmp_path / "log")
    with pytest.raises(RecordingError, match="a device"):
        read_gctrace_log("/dev/null")


# ---- against real Go ----


def _rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((GOLDEN / "amounts.json").read_text(encoding="utf-8"))["rows"]
    return rows


def _error(run: Rerun, real: dict[str, list[float]]) -> tuple[float, float]:
    """Return how far number of cycles and peak are from the median; a cycle more or less is right below ten."""
    cycles, peak = statistics.median(real["num_gc"]), statistics.median(real["peak"])
    off = len(run.cycles) - cycles
    return 0.0 if cycles < 10 and abs(off) <= 1 else abs(off) / cycles, abs(run.peak_heap / peak - 1)


def test_predictions(tmp_path: Path) -> None:
    """From the log of one run at GOGC=100 alone: cycles and peak under it and others, on average over programs."""
    errors = []
    for row in _rows():
        (tmp_path / "log").write_text("\n".join(row["log"]))
        source = open_stream(tmp_path / "log")
        errors += [_error(rerun(source, gogc=gogc), real) for gogc, real in row["real"].items()]
    assert len(errors) == 56
    assert statistics.fmean(e[0] for e in errors) < 0.10
    assert statistics.median(e[1] for e in errors) < 0.10


# ---- on the command line ----


def test_info_and_replay(pymem: Command, tmp_path: Path) -> None:
    """`info` says what is in a log, `replay` runs it again, `check` says what it would need."""
    path = tmp_path / "app.log"
    path.write_text("hello\n" + _steady(40) + "\ngc 41 @0.5s")
    told = pymem("info", str(path), "--json").json
    assert (told["tier"], told["cycles"], told["lines"], told["damaged_lines"]) == ("gctrace", 40, 42, 1)
    assert "a log of GODEBUG=gctrace=1" in pymem("info", str(path)).out
    assert pymem("replay", str(path), "--json").json["events"] > 1000
    assert pymem("replay", str(path), "--gogc", "200", "--json").json["num_gc"] < 30
    failed = pymem("check", str(path))
    assert (failed.status, "pymem record" in failed.err) == (2, True)


def test_info_of_samples(pymem: Command, tmp_path: Path) -> None:
    """`info` says what samples have."""
    path = tmp_path / "app.csv"
    path.write_text(
        "time,TotalAlloc,NumGC,NextGC\n" + "".join(f"{i},{i << 23},{i},20000000\n" for i in range(9))
    )
    told = pymem("info", str(path), "--json").json
    assert (told["tier"], told["cycles"], told["samples"]) == ("samples", 8, 9)
    assert told["fields"] == ["time", "allocated", "cycles", "goal"]
    assert "9 of time" in pymem("info", str(path)).out
