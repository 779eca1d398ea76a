"""The lines of gctrace, gcpacertrace and scavtrace, against those of real Go."""

from __future__ import annotations

import io
import json
import re
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import cycle_records

from pymem.env import Settings
from pymem.gc.state import CycleRecord
from pymem.stats.gctrace import (
    GCTRACE,
    Tracer,
    format_ms,
    gctrace_line,
    go_float,
    pacer_end_line,
    pacer_start_line,
    parse_gctrace,
    read_gctrace,
    scavenge_line,
    sweep_line,
)

GOLDEN = Path(__file__).parent / "golden"
MB = 1 << 20


def _real(start: str) -> Iterator[tuple[str, str]]:
    """Return (Go version, line) of the real lines that start so."""
    version = ""
    for line in (GOLDEN / "reports_gctrace.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("# go"):
            version = line[2:]
        elif line.startswith(start):
            yield version, line


def test_real_lines_read_and_written() -> None:
    read = Counter[str]()
    for version, line in _real("gc "):
        found = parse_gctrace(line)
        assert found is not None, line
        assert str(found) == line
        read[version] += 1
    assert set(read) == {"go1.27.3", "go1.21.13", "go1.24.11", "go1.26.6"}
    assert min(read.values()) > 30


def test_real_lines_of_every_form() -> None:
    lines = [found for _, line in _real("gc ") if (found := parse_gctrace(line))]
    assert {line.gomaxprocs for line in lines} == {1, 2, 3}
    assert {line.forced for line in lines} == {True, False}
    assert {line.leak_check for line in lines} == {True, False}
    assert max(line.stacks for line in lines) >= 4 * MB
    assert {line.globals for line in lines} == {2 * MB}


def test_fields() -> None:
    line = (
        "gc 6 @0.394s 24%: 3.4+5.5+0.046 ms clock, 6.9+0/1.7/4.4+0.092 ms cpu, "
        "44->45->12 MB, 69 MB goal, 3 MB stacks, 2 MB globals, 2 P (forced)"
    )
    found = parse_gctrace(line)
    assert found is not None
    assert (found.number, found.at_ns, found.percent) == (6, 394_000_000, 24)
    assert (found.sweep_term_ns, found.mark_ns, found.mark_term_ns) == (3_400_000, 5_500_000, 46_000)
    assert (found.sweep_term_cpu_ns, found.mark_term_cpu_ns) == (6_900_000, 92_000)
    assert (found.assist_cpu_ns, found.background_cpu_ns, found.idle_cpu_ns) == (0, 1_700_000, 4_400_000)
    assert (found.heap0, found.heap1, found.heap2, found.goal) == (44 * MB, 45 * MB, 12 * MB, 69 * MB)
    assert (found.stacks, found.globals, found.gomaxprocs) == (3 * MB, 2 * MB, 2)
    assert (found.forced, found.leak_check) == (True, False)


def _shown(ns: int) -> int:
    """Return what is left of a time in a line of gctrace."""
    step = int(10 ** (6 if ns >= 10_000_000 else max(3, len(str(ns)) - 2)))
    return ns // step * step


@given(cycle_records())
def test_ours_field_for_field(cycle: CycleRecord) -> None:
    """The expression that reads Go's lines reads ours, and each number is what it was, as far as the line has room."""
    exact = gctrace_line(cycle)
    assert GCTRACE.fullmatch(str(exact))
    read = parse_gctrace(str(exact))
    assert read is not None
    assert str(read) == str(exact)
    for name in exact.__slots__:
        want, got = getattr(exact, name), getattr(read, name)
        if name == "at_ns":
            assert got == want // 1_000_000 * 1_000_000
        elif name.endswith("_ns"):
            assert got == _shown(want)
        elif name in ("heap0", "heap1", "heap2", "goal", "stacks", "globals"):
            assert got == want >> 20 << 20
        else:
            assert got == want


def test_pauses_are_billed_to_every_p() -> None:
    cycle = CycleRecord(gomaxprocs=8, start_ns=0, mark_ns=10, term_ns=100, end_ns=130)
    line = gctrace_line(cycle)
    assert (line.sweep_term_cpu_ns, line.mark_term_cpu_ns) == (80, 240)
    cycle.stw_procs = 2
    assert gctrace_line(cycle).mark_term_cpu_ns == 60


TIMES = {
    "Zero": (0, "0"),
    "BelowOne": (999, "0"),
    "OneMicrosecond": (1_000, "0.001"),
    "TwoDigits": (99_999, "0.099"),
    "ThreeDigits": (123_456, "0.12"),
    "Millisecond": (1_000_000, "1.0"),
    "BelowTen": (9_999_999, "9.9"),
    "Ten": (10_000_000, "10"),
    "Whole": (12_345_678_901, "12345"),
}


@pytest.mark.parametrize("name", TIMES)
def test_milliseconds(name: str) -> None:
    ns, text = TIMES[name]
    assert format_ms(ns) == text


def test_floats_as_go_prints_them() -> None:
    printed: dict[str, str] = json.loads((GOLDEN / "reports_floats.json").read_text(encoding="utf-8"))[
        "printed"
    ]
    ours = {bits: go_float(struct.unpack(">d", bytes.fromhex(bits))[0]) for bits in printed}
    assert ours == printed


@given(st.floats(allow_nan=False))
def test_floats_read_back(x: float) -> None:
    assert float(go_float(x)) == x


_FLOAT = r"([-+.\de]+|\+Inf|NaN)"
PACER_START = rf"pacer: assist ratio={_FLOAT} \(scan (\d+) MB in (\d+)->(\d+) MB\) workers=(\d+)\+{_FLOAT}"
PACER_END = (
    r"pacer: (\d+)% CPU \(25 exp\.\) for (\d+)\+(\d+)\+(\d+) B work \((\d+) B exp\.\)"
    rf" in (\d+) B -> (\d+) B \(∆goal (-?\d+), cons/mark {_FLOAT}\)"
)
SWEPT = (
    r"pacer: sweep done at heap size (\d+)MB; allocated (\d+)MB during sweep;"
    rf" swept (\d+) pages at {_FLOAT} pages/byte"
)
SCAVENGED = (
    r"scav (\d+) KiB work \(bg\), (\d+) KiB work \(eager\), (\d+) KiB now, (\d+)% util"
    r"( \(forced\)| \[controller reset\])?"
)


def _pacer_start(groups: tuple[str, ...]) -> str:
    ratio, scan, heap0, goal, dedicated, fractional = groups
    return pacer_start_line(
        CycleRecord(
            assist_ratio=float(ratio),
            heap_scan=int(scan) * MB,
            heap0=int(heap0) * MB,
            start_goal=int(goal) * MB,
            dedicated_workers=int(dedicated),
            fractional_goal=float(fractional),
        )
    )


def _pacer_end(groups: tuple[str, ...]) -> str:
    percent, heap, stack, global_, expected, trigger, live, delta, cons_mark = groups
    return pacer_end_line(
        CycleRecord(
            utilization=(int(percent) + 0.5) / 100,
            heap_scan_work=int(heap),
            stack_scan_work=int(stack),
            globals_scan_work=int(global_),
            expected_scan_work=int(expected),
            trigger=int(trigger),
            heap1=int(live),
            goal=int(live) - int(delta),
            cons_mark=float(cons_mark),
        )
    )


def _swept(groups: tuple[str, ...]) -> str:
    live, allocated, pages, ratio = groups
    return sweep_line(
        heap_live=int(live) * MB,
        heap_live_basis=(int(live) - int(allocated)) * MB,
        pages_swept=int(pages),
        pages_per_byte=float(ratio),
    )


def _scavenged(groups: tuple[str, ...]) -> str:
    background, eager, released, util, note = groups
    return scavenge_line(
        background=int(background) << 10,
        eager=int(eager) << 10,
        released=int(released) << 10,
        in_use=int(util),
        free=100 - int(util),
        forced=note == " (forced)",
        controller_reset=note == " [controller reset]",
    )


FORMS = {
    "PacerStart": (PACER_START, _pacer_start),
    "PacerEnd": (PACER_END, _pacer_end),
    "SweepDone": (SWEPT, _swept),
    "Scavenged": (SCAVENGED, _scavenged),
}


@pytest.mark.parametrize("form", FORMS)
def test_real_pacer_and_scavenger_lines(form: str) -> None:
    """Numbers taken out of real lines make the same lines again."""
    pattern, write = FORMS[form]
    lines = [line for start in ("pacer: ", "scav ") for _, line in _real(start)]
    matches = [match for line in lines if (match := re.fullmatch(pattern, line))]
    assert len(matches) > 30
    for match in matches:
        assert write(match.groups()) == match[0]


def test_no_real_line_left_over() -> None:
    lines = [line for start in ("pacer: ", "scav ") for _, line in _real(start)]
    assert not [line for line in lines if not any(re.fullmatch(p, line) for p, _ in FORMS.values())]


def test_heap_that_shrank_while_swept() -> None:
    """Go subtracts unsigned numbers, and prints what comes of it."""
    line = sweep_line(heap_live=MB, heap_live_basis=3 * MB, pages_swept=7, pages_per_byte=0)
    assert "allocated 17592186044414MB during sweep" in line


def test_goal_off() -> None:
    """The distance from a goal that is off wraps, as in Go."""
    line = pacer_end_line(CycleRecord(heap1=5 * MB, goal=(1 << 64) - 1))
    assert f"(∆goal {5 * MB + 1}, cons/mark 0)" in line


def test_controller_reset() -> None:
    line = scavenge_line(background=0, eager=0, released=0, in_use=0, free=0, controller_reset=True)
    assert line == "scav 0 KiB work (bg), 0 KiB work (eager), 0 KiB now, 0% util [controller reset]"


def test_lines_in_a_log() -> None:
    (_, first), *_ = _real("gc ")
    log = [
        "starting",
        f"2026-01-02T03:04:05Z app[7] {first}\r\n",
        "gc 1 @0.002s 1%: cut",
        f'{{"log":"{first}\\n"}}',
    ]
    assert [str(line) for line in read_gctrace(log)] == [first, first]
    assert parse_gctrace("") is None


TRACED = {
    "Nothing": (Settings(), ""),
    "GCTrace": (Settings(gctrace=1), "gc 1"),
    "Pacer": (Settings(gcpacertrace=1), "pacer: assist|pacer: 0%|pacer: sweep"),
    "Scavenger": (Settings(scavtrace=1), "scav 0"),
    "Negative": (Settings(gctrace=-1), ""),
    "All": (
        Settings(gctrace=2, gcpacertrace=1, scavtrace=1),
        "pacer: assist|pacer: 0%|gc 1|pacer: sweep|scav 0",
    ),
}


@pytest.mark.parametrize("name", TRACED)
def test_tracer(name: str) -> None:
    settings, starts = TRACED[name]
    out = io.StringIO()
    tracer = Tracer(settings, out)
    cycle = CycleRecord(number=1, trigger=5)
    tracer.mark_started(cycle)
    tracer.mark_ended(cycle)  # nothing was allocated: no line
    cycle.heap1 = 6
    tracer.mark_ended(cycle)
    tracer.cycle_ended(cycle)
    tracer.swept(heap_live=1, heap_live_basis=1, pages_swept=0, pages_per_byte=0.0)
    tracer.scavenged(background=0, eager=0, released=0, in_use=1, free=0)
    lines = out.getvalue().splitlines()
    want = starts.split("|") if starts else []
    assert [line[: len(start)] for line, start in zip(lines, want, strict=True)] == want
