"""A program and a collector made of rates alone, to drive a pacer: how fast either runs, and how the live heap grows.

The scenarios are those of Go's `TestGcPacer`, and so is the model: while marking, time goes in steps of 500 us, and in
each the assist ratio, held constant, says how the processors are split. The names are Go's; rates are KiB a
millisecond of one processor.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pymem.gc.pacer import Pacer
from pymem.units import NO_LIMIT

GOLDEN = Path(__file__).parent / "golden"
STEP = 500_000
"""Nanoseconds between two revisions."""
BACKGROUND = 0.25
_KIB_PER_STEP = 512.0
"""Turns KiB a millisecond into bytes a step."""
_FIRST_MARKED = 256 << 10
_MIN_RATE = 0.0001

Stream = Callable[[int], float]
"""A number for each cycle, counted from 0."""


def golden(name: str) -> list[str]:
    """Return the lines of a golden file but the first, which says who made it."""
    first, *lines = (GOLDEN / name).read_text().splitlines()
    assert first.startswith("# go1.27")
    return lines


def real(bits: str) -> float:
    """Read a float from its bits in hexadecimal."""
    number: float = struct.unpack("<d", struct.pack("<Q", int(bits, 16)))[0]
    return number


def _recorded(kind: str) -> dict[int, list[float]]:
    lines = [line.split() for line in golden("gc_streams.txt") if line.startswith(kind)]
    return {int(words[1]): [real(word) for word in words[2:]] for words in lines}


_RANDOM, _SINE = _recorded("random"), _recorded("sine")


def constant(c: float) -> Stream:
    return lambda _: c


def unit(amp: float) -> Stream:
    return lambda i: amp if i == 0 else 0.0


def ramp(height: float, length: int) -> Stream:
    return lambda i: height * float(min(i, length)) / float(length)


def oscillate(amp: float, period: int) -> Stream:
    return lambda i: _SINE[period][i % period] * amp


def random(amp: float, seed: int) -> Stream:
    return lambda i: _RANDOM[seed][i] * amp


def delay(stream: Stream, cycles: int) -> Stream:
    return lambda i: stream(i - cycles) if i >= cycles else 0.0


def add(*streams: Stream) -> Stream:
    return lambda i: sum((stream(i) for stream in streams[1:]), streams[0](i))


_GROWTH = add(constant(2.0), ramp(-1.0, 12))
_STEADY, _FAST, _SLOW = constant(33.0), constant(132.0), constant(1.0)
_SCAN, _SLOW_SCAN = constant(1024.0), constant(2048.0)
_ALL, _HARDLY_ANY = constant(1.0), constant(0.01)
_STACKS = constant(8192.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What a program does, cycle by cycle."""

    name: str
    alloc_rate: Stream
    growth_rate: Stream = _GROWTH
    """Live heap, over what it was a cycle ago."""
    scan_rate: Stream = _SCAN
    scannable_frac: Stream = _ALL
    stack_bytes: Stream = _STACKS
    globals_bytes: int = 32 << 10
    gc_percent: int = 100
    memory_limit: int = NO_LIMIT
    procs: int = 8
    length: int = 50


_LIMIT = 512 << 20
_EXCEED, _MAINTAIN = add(constant(3.5), ramp(-2.5, 12)), add(constant(3.0), ramp(-2.0, 12))

SCENARIOS = (
    Scenario(name="Steady", alloc_rate=_STEADY),
    Scenario(
        name="SteadyBigStacks",
        alloc_rate=_FAST,
        stack_bytes=add(constant(2048.0), ramp(float(128 << 20), 8)),
    ),
    Scenario(name="SteadyBigGlobals", alloc_rate=_FAST, globals_bytes=128 << 20),
    Scenario(name="StepAlloc", alloc_rate=add(_STEADY, delay(ramp(66.0, 1), 50)), length=100),
    Scenario(name="HeavyStepAlloc", alloc_rate=add(_STEADY, delay(ramp(330.0, 1), 50)), length=100),
    Scenario(
        name="StepScannableFrac",
        alloc_rate=constant(128.0),
        scannable_frac=add(constant(0.2), delay(unit(0.5), 50)),
        length=100,
    ),
    Scenario(
        name="HighGOGC",
        gc_percent=1500,
        alloc_rate=add(random(7.0, 0x53), constant(165.0)),
        growth_rate=add(constant(2.0), ramp(-1.0, 12), random(0.01, 0x1), delay(unit(14.0), 25)),
    ),
    Scenario(name="OscAlloc", alloc_rate=add(oscillate(13.0, 8), constant(67.0))),
    Scenario(
        name="JitterAlloc",
        alloc_rate=add(random(13.0, 0xF), constant(132.0)),
        growth_rate=add(constant(2.0), ramp(-1.0, 12), random(0.01, 0xE)),
    ),
    Scenario(
        name="HeavyJitterAlloc",
        alloc_rate=add(random(33.0, 0x0), constant(330.0)),
        growth_rate=add(constant(2.0), ramp(-1.0, 12), random(0.01, 0x152)),
    ),
    *(
        Scenario(
            name=f"{size}HeapSlowAlloc",
            alloc_rate=_SLOW,
            scan_rate=_SLOW_SCAN,
            scannable_frac=_HARDLY_ANY,
            growth_rate=growth,
        )
        for size, growth in (
            ("Small", add(constant(2.0), ramp(-1.0, 3))),
            ("Medium", add(constant(2.0), ramp(-1.0, 8))),
            ("Large", add(constant(4.0), ramp(-3.0, 12))),
        )
    ),
    *(
        Scenario(
            name=name + suffix,
            alloc_rate=_STEADY,
            growth_rate=growth,
            gc_percent=percent,
            memory_limit=_LIMIT,
        )
        for name, growth in (
            ("SteadyMemoryLimit", _GROWTH),
            ("ExceedMemoryLimit", _EXCEED),
            ("MaintainMemoryLimit", _MAINTAIN),
        )
        for suffix, percent in (("", 100), ("NoGCPercent", -1))
    ),
)


@dataclass(frozen=True, slots=True)
class Cycle:
    """What came out of a cycle, in bytes."""

    number: int
    live: int
    """Marked by the cycle before."""
    trigger: int
    peak: int
    goal: int
    utilization: float
    """Share of the processors' time in marking, while marking."""

    def __str__(self) -> str:
        return (
            f"GC {self.number} {self.utilization * 100:2.1f}% "
            f"{self.live}->{self.trigger}->{self.peak} (goal: {self.goal})"
        )


class Simulation:
    """One scenario under one pacer."""

    def __init__(self, scenario: Scenario, pacer: Pacer) -> None:
        self.scenario = scenario
        self.pacer = pacer
        self.clock = 0
        """Nanoseconds since the program began, when marking began. Go's test has no such clock, nor needs one."""
        self.now = 0
        """Nanoseconds since marking began."""
        self.assist_time = 0
        self.black = 0
        """Bytes allocated while this cycle, or the last one, marked. The next cycle frees them."""
        self.left = [0, 0, 0]
        """Bytes of globals, stacks and heap that this cycle has still to scan."""

    def run(self) -> list[Cycle]:
        """Run all cycles."""
        return [self.cycle(i) for i in range(self.scenario.length)]

    def cycle(self, i: int) -> Cycle:
        """Let the heap grow to the trigger, mark, and sweep what is dead."""
        pacer, of = self.pacer, self.scenario
        frac = min(max(of.scannable_frac(i), 0.0), 1.0)
        live, survivors = pacer.heap_marked, pacer.heap_marked - self.black
        marked = int(float(survivors) * max(of.growth_rate(i), _MIN_RATE)) if i else _FIRST_MARKED
        stacks = int(max(0.0, math.floor(of.stack_bytes(i) / 2048.0) * 2048.0))
        self.left = [of.globals_bytes, stacks, int(float(marked) * frac)]
        self.start(i, frac, stacks)
        self.mark(i, frac)
        utilization = float(self.assist_time) / (float(self.now) * float(of.procs)) + BACKGROUND
        done = Cycle(i + 1, live, pacer.triggered, pacer.heap_live, pacer.heap_goal(), utilization)
        self.end(marked + self.black)
        return done

    def start(self, i: int, frac: float, stacks: int) -> None:
        """Let the program alone allocate up to the trigger."""
        pacer, rate = self.pacer, max(self.scenario.alloc_rate(i), _MIN_RATE)
        trigger = max(pacer.trigger()[0], pacer.heap_marked)
        pacer.max_stack_scan, pacer.globals_scan = stacks, self.scenario.globals_bytes
        of_all_procs = rate * _KIB_PER_STEP / STEP * self.scenario.procs
        self.clock += self.now + int((trigger - pacer.heap_live) / of_all_procs)
        pacer.heap_live = trigger
        pacer.heap_scan += int(float(trigger - pacer.heap_marked) * frac)
        self.now = self.assist_time = self.black = 0
        pacer.start_cycle(self.clock, self.scenario.procs)

    def mark(self, i: int, frac: float) -> None:
        """Mark in steps until nothing is left to scan."""
        alloc_rate = max(self.scenario.alloc_rate(i), _MIN_RATE)
        scan_rate = max(self.scenario.scan_rate(i), _MIN_RATE)
        while sum(self.left) > 0:
            self.step(alloc_rate, scan_rate, frac)

    def step(self, alloc_rate: float, scan_rate: float, frac: float) -> None:
        """Let program and collector run for a step, or until there is nothing left to scan.

        With a share u of the processors in marking, bytes scanned and allocated are scan_rate * u and alloc_rate * (1 -
        u) a time. Assists see to it that their quotient is the assist ratio r, and so u = r * alloc_rate / (r *
        alloc_rate + scan_rate). It is no less than the background's share.
        """
        procs, owed = float(self.scenario.procs), self.pacer.assist_work_per_byte * alloc_rate
        u = max(owed / (owed + scan_rate), BACKGROUND)
        could_scan = scan_rate * _KIB_PER_STEP * procs * u
        allocated, elapsed = int(alloc_rate * _KIB_PER_STEP * procs * (1 - u)), STEP
        scanned = self.scan(int(could_scan))
        if sum(scanned) < int(could_scan):
            elapsed = int(float(sum(scanned)) * float(STEP) / could_scan)
            allocated = int(alloc_rate * _KIB_PER_STEP * float(elapsed) / float(STEP) * procs * (1 - u))
        self.report(scanned, allocated, int(float(allocated) * frac))
        self.assist_time += int(float(elapsed) * procs * (u - BACKGROUND))
        self.now += elapsed
        self.black += allocated

    def scan(self, work: int) -> list[int]:
        """Scan globals, then stacks, then heap, as far as `work` bytes go."""
        done = []
        for root, left in enumerate(self.left):
            done.append(min(left, work))
            self.left[root] -= done[-1]
            work -= done[-1]
        return done

    def report(self, scanned: list[int], allocated: int, scannable: int) -> None:
        pacer = self.pacer
        pacer.heap_live += allocated
        pacer.heap_scan += scannable
        pacer.globals_scan_work += scanned[0]
        pacer.stack_scan_work += scanned[1]
        pacer.heap_scan_work += scanned[2]
        pacer.revise()

    def end(self, marked: int) -> None:
        self.pacer.assist_time = self.assist_time
        self.pacer.end_cycle(self.clock + self.now, self.scenario.procs)
        self.pacer.reset_live(marked)
        self.pacer.commit(False)
