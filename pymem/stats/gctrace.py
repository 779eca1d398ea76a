"""The lines of GODEBUG=gctrace=1, gcpacertrace=1 and scavtrace=1, as Go 1.27.3 prints them; and gctrace's read back.

gctrace rounds: times to two or three digits, sizes down to MB. What was read therefore prints the same line again, but
holds no more than the line does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TextIO

from pymem.gc.gonumbers import int64

if TYPE_CHECKING:
    from pymem.env import Settings
    from pymem.gc.state import CycleRecord

__all__ = [
    "GCTRACE",
    "GCTraceLine",
    "Tracer",
    "format_ms",
    "gctrace_line",
    "go_float",
    "pacer_end_line",
    "pacer_start_line",
    "parse_gctrace",
    "read_gctrace",
    "scavenge_line",
    "sweep_line",
]

_MB = 20
"""Bits: a shift by it turns bytes to MB, rounded down."""
_GOAL_PERCENT = 25
"""What the pacer wants marking to take of the processors. Go: gcGoalUtilization."""


# ---- numbers ----


def format_ms(ns: int) -> str:
    """Write a time in ms: whole from 10 ms on; below two digits, three places at most, rounded down. Go: fmtNSAsMS."""
    if ns >= 10_000_000:
        return str(ns // 1_000_000)
    x, places = ns // 1_000, 3
    while x >= 100:
        x, places = x // 10, places - 1
    return _divided(x, places) if x else "0"


def _divided(n: int, places: int) -> str:
    """Write n / 10^places with that many places, at least one. Go: itoaDiv."""
    whole, part = divmod(n, 10**places)
    return f"{whole}.{part:0{places}}"


def _scaled(text: str, places: int) -> int:
    """Read a decimal number, times 10^places."""
    whole, _, part = text.partition(".")
    return int(whole + part.ljust(places, "0"))


def go_float(x: float) -> str:
    """Write a float as print does in Go 1.27: the shortest text that reads back, with an exponent outside [1e-4, 1e+6).

    Go: printfloat64.
    """
    if math.isnan(x):
        return "NaN"
    if math.isinf(x):
        return "+Inf" if x > 0 else "-Inf"
    sign = "-" if math.copysign(1, x) < 0 else ""
    if x == 0:
        return f"{sign}0"
    shortest = Decimal(repr(abs(x))).normalize()
    exponent = shortest.adjusted()
    if -4 <= exponent < 6:
        return f"{sign}{shortest:f}"
    digits = "".join(map(str, shortest.as_tuple().digits))
    point = "." if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{point}{digits[1:]}e{'-' if exponent < 0 else '+'}{abs(exponent):02}"


# ---- gctrace=1 ----

_MS = r"\d+(?:\.\d+)?"
GCTRACE = re.compile(
    r"(?<!\w)gc (?P<number>\d+) @(?P<at>\d+\.\d{3})s (?P<percent>-?\d+)%(?P<leaks> \(checking for goroutine leaks\))?:"
    rf" (?P<clock0>{_MS})\+(?P<clock1>{_MS})\+(?P<clock2>{_MS}) ms clock,"
    rf" (?P<cpu0>{_MS})\+(?P<cpu1>{_MS})/(?P<cpu2>{_MS})/(?P<cpu3>{_MS})\+(?P<cpu4>{_MS}) ms cpu,"
    r" (?P<heap0>\d+)->(?P<heap1>\d+)->(?P<heap2>\d+) MB, (?P<goal>\d+) MB goal,"
    r"(?: (?P<stacks>\d+) MB stacks, (?P<globals>\d+) MB globals,)? (?P<procs>\d+) P(?P<forced> \(forced\))?"
)
"""A line of gctrace, wherever it stands in a line of a log, of Go 1.5 to 1.27. Before 1.18: no stacks, no globals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GCTraceLine:
    """The numbers of one line of gctrace: times in ns, sizes in bytes; `str()` writes the line.

    Read from a text they are as coarse as the text (sizes whole MB); made from a record, exact.
    """

    number: int
    at_ns: int
    """When the cycle began, since the process did."""
    percent: int
    """Of all processor time since then, the collector's."""
    leak_check: bool = False
    """The cycle looked for goroutine leaks (Go 1.26 and newer)."""
    sweep_term_ns: int
    """Elapsed: world stopped at the start; marking; world stopped at the end."""
    mark_ns: int
    mark_term_ns: int
    sweep_term_cpu_ns: int
    """Processor time: of the pauses, assists, dedicated and fractional workers, idle workers."""
    assist_cpu_ns: int
    background_cpu_ns: int
    idle_cpu_ns: int
    mark_term_cpu_ns: int
    heap0: int
    """heapLive at the start, at mark termination, and what was marked."""
    heap1: int
    heap2: int
    goal: int
    stacks: int
    """-1, as globals: the line has none."""
    globals: int
    gomaxprocs: int
    forced: bool = False

    def __str__(self) -> str:
        clock = "+".join(map(format_ms, (self.sweep_term_ns, self.mark_ns, self.mark_term_ns)))
        marking = "/".join(map(format_ms, (self.assist_cpu_ns, self.background_cpu_ns, self.idle_cpu_ns)))
        cpu = f"{format_ms(self.sweep_term_cpu_ns)}+{marking}+{format_ms(self.mark_term_cpu_ns)}"
        heap = "->".join(str(n >> _MB) for n in (self.heap0, self.heap1, self.heap2))
        leaks = " (checking for goroutine leaks)" if self.leak_check else ""
        roots = (
            f" {self.stacks >> _MB} MB stacks, {self.globals >> _MB} MB globals," if self.stacks >= 0 else ""
        )
        return (
            f"gc {self.number} @{_divided(self.at_ns // 1_000_000, 3)}s {self.percent}%{leaks}:"
            f" {clock} ms clock, {cpu} ms cpu, {heap} MB, {self.goal >> _MB} MB goal,{roots}"
            f" {self.gomaxprocs} P{' (forced)' if self.forced else ''}"
        )


def gctrace_line(cycle: CycleRecord) -> GCTraceLine:
    """Return what gctrace=1 prints of a finished cycle. Go: gcMarkTermination."""
    stw_procs = cycle.stw_procs or cycle.gomaxprocs
    sweep_term, mark_term = cycle.mark_ns - cycle.start_ns, cycle.end_ns - cycle.term_ns
    return GCTraceLine(
        number=cycle.number,
        at_ns=cycle.start_ns,
        percent=int(cycle.gc_cpu_fraction * 100),
        sweep_term_ns=sweep_term,
        mark_ns=cycle.term_ns - cycle.mark_ns,
        mark_term_ns=mark_term,
        sweep_term_cpu_ns=stw_procs * sweep_term,
        assist_cpu_ns=cycle.assist_ns,
        background_cpu_ns=cycle.dedicated_ns + cycle.fractional_ns,
        idle_cpu_ns=cycle.idle_ns,
        mark_term_cpu_ns=stw_procs * mark_term,
        heap0=cycle.heap0,
        heap1=cycle.heap1,
        heap2=cycle.heap2,
        goal=cycle.goal,
        stacks=cycle.stack_bytes,
        globals=cycle.globals_bytes,
        gomaxprocs=cycle.gomaxprocs,
        forced=cycle.forced,
    )


def parse_gctrace(line: str) -> GCTraceLine | None:
    """Return the numbers of a line of gctrace, None if it is none. Text around it, as log collectors add, may be."""
    match = GCTRACE.search(line)
    if match is None:
        return None
    clock = [_scaled(match[f"clock{i}"], 6) for i in range(3)]
    cpu = [_scaled(match[f"cpu{i}"], 6) for i in range(5)]
    return GCTraceLine(
        number=int(match["number"]),
        at_ns=_scaled(match["at"], 9),
        percent=int(match["percent"]),
        leak_check=match["leaks"] is not None,
        sweep_term_ns=clock[0],
        mark_ns=clock[1],
        mark_term_ns=clock[2],
        sweep_term_cpu_ns=cpu[0],
        assist_cpu_ns=cpu[1],
        background_cpu_ns=cpu[2],
        idle_cpu_ns=cpu[3],
        mark_term_cpu_ns=cpu[4],
        heap0=int(match["heap0"]) << _MB,
        heap1=int(match["heap1"]) << _MB,
        heap2=int(match["heap2"]) << _MB,
        goal=int(match["goal"]) << _MB,
        stacks=int(match["stacks"]) << _MB if match["stacks"] else -1,
        globals=int(match["globals"]) << _MB if match["globals"] else -1,
        gomaxprocs=int(match["procs"]),
        forced=match["forced"] is not None,
    )


def read_gctrace(lines: Iterable[str]) -> Iterator[GCTraceLine]:
    """Return the gctrace lines among lines of a log, in order."""
    return (found for found in map(parse_gctrace, lines) if found is not None)


# ---- gcpacertrace=1 ----


def pacer_start_line(cycle: CycleRecord) -> str:
    """Return what gcpacertrace=1 prints at mark start. Go: (*gcControllerState).startCycle."""
    return (
        f"pacer: assist ratio={go_float(cycle.assist_ratio)}"
        f" (scan {cycle.heap_scan >> _MB} MB in {cycle.heap0 >> _MB}->{cycle.start_goal >> _MB} MB)"
        f" workers={cycle.dedicated_workers}+{go_float(cycle.fractional_goal)}"
    )


def pacer_end_line(cycle: CycleRecord) -> str:
    """Return what gcpacertrace=1 prints at mark termination.

    Go prints none where heapLive did not grow while marking. Go: (*gcControllerState).endCycle.
    """
    return (
        f"pacer: {int(cycle.utilization * 100)}% CPU ({_GOAL_PERCENT} exp.)"
        f" for {cycle.heap_scan_work}+{cycle.stack_scan_work}+{cycle.globals_scan_work} B work"
        f" ({cycle.expected_scan_work} B exp.) in {cycle.trigger} B -> {cycle.heap1} B"
        f" (∆goal {int64(cycle.heap1 - cycle.goal)}, cons/mark {go_float(cycle.cons_mark)})"
    )


def sweep_line(*, heap_live: int, heap_live_basis: int, pages_swept: int, pages_per_byte: float) -> str:
    """Return what gcpacertrace=1 prints when the sweep is done; basis: heapLive when the sweep was paced.

    heapLive may have fallen: Go subtracts without a sign. Go: (*activeSweep).end.
    """
    grown = (heap_live - heap_live_basis) % (1 << 64)
    return (
        f"pacer: sweep done at heap size {heap_live >> _MB}MB; allocated {grown >> _MB}MB during sweep;"
        f" swept {pages_swept} pages at {go_float(pages_per_byte)} pages/byte"
    )


# ---- scavtrace=1 ----


def scavenge_line(
    *,
    background: int,
    eager: int,
    released: int,
    in_use: int,
    free: int,
    forced: bool = False,
    controller_reset: bool = False,
) -> str:
    """Return what scavtrace=1 prints at the end of a sweep, or (forced) of `free_os_memory`. All sizes are bytes.

    background, eager: given back since the line before, by the scavenger and by those who allocate; released: scavenged
    now; in_use, free: pages of spans of objects, and free ones not scavenged. Go: printScavTrace.
    """
    note = " (forced)" if forced else " [controller reset]" if controller_reset else ""
    util = in_use * 100 // max(in_use + free, 1)
    return (
        f"scav {background >> 10} KiB work (bg), {eager >> 10} KiB work (eager),"
        f" {released >> 10} KiB now, {util}% util{note}"
    )


# ---- who prints what ----


class Tracer:
    """Prints the lines that settings ask for to a stream. The cycle and the scavenger call it where Go prints."""

    __slots__ = ("_pacer", "_scavenger", "_stream", "_summary")

    def __init__(self, settings: Settings, stream: TextIO) -> None:
        self._summary = settings.gctrace > 0
        self._pacer = settings.gcpacertrace > 0
        self._scavenger = settings.scavtrace > 0
        self._stream = stream

    def mark_started(self, cycle: CycleRecord) -> None:
        """Tell of a cycle when concurrent marking begins."""
        if self._pacer:
            self._print(pacer_start_line(cycle))

    def mark_ended(self, cycle: CycleRecord) -> None:
        """Tell of a cycle at mark termination; as in Go not of one in which heapLive did not grow."""
        if self._pacer and cycle.heap1 > cycle.trigger:
            self._print(pacer_end_line(cycle))

    def cycle_ended(self, cycle: CycleRecord) -> None:
        """Tell of a cycle when the world runs again."""
        if self._summary:
            self._print(str(gctrace_line(cycle)))

    def swept(self, **numbers: Any) -> None:
        """Tell that all is swept. Takes what `sweep_line` takes."""
        if self._pacer:
            self._print(sweep_line(**numbers))

    def scavenged(self, **numbers: Any) -> None:
        """Tell that a sweep found its end, or that all was given back by force. Takes what `scavenge_line` takes."""
        if self._scavenger:
            self._print(scavenge_line(**numbers))

    def _print(self, line: str) -> None:
        self._stream.write(f"{line}\n")
