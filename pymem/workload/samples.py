"""Samples of a program's own figures, as CSV or JSON lines: runtime/metrics, MemStats, or what Prometheus calls them.

A sample needs a time, all bytes allocated so far, cycles so far, and what was alive at the last mark: that itself, or
the goal that was set by it, or at least the bytes of the heap. Whatever else of the known names is there makes the
answer better: GOGC, globals and stacks, processor time of the collector, pauses, GOMAXPROCS.

Where cycles lie between two samples is not known: they are spread evenly over what was allocated meanwhile, and what
was alive is known where the last of them was. Bytes marked count what was born during the mark. How much that is no
sample tells; where the collector's processor time is there, how long marks took is reckoned from it, and what the
program allocates in so long comes off. Where it is not, what is alive comes out too high.
"""

from __future__ import annotations

import csv
import json
import math
import os
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from pymem._files import check_regular
from pymem.errors import RecordingError
from pymem.gc.costs import Costs
from pymem.gc.cycle import EMPTY_PROGRAM_GLOBALS
from pymem.workload.curve import CurveSource, apart, bounded, piece_bytes
from pymem.workload.trace_stream import MOST_PROCS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

__all__ = ["FIELDS", "Samples", "names_fields", "read_samples"]

_CPU = "/cpu/classes/gc"
FIELDS: dict[str, tuple[str, ...]] = {
    "time": (
        "time",
        "timestamp",
        "@timestamp",
        "ts",
        "t",
        "time_s",
        "seconds",
        "time_ms",
        "time_us",
        "time_ns",
    ),
    "allocated": (
        *("/gc/heap/allocs:bytes", "totalalloc", "go_memstats_alloc_bytes_total"),
        "go_gc_heap_allocs_bytes_total",
    ),
    "cycles": (
        *("/gc/cycles/total:gc-cycles", "numgc", "go_gc_duration_seconds_count"),
        "go_gc_cycles_total_gc_cycles_total",
    ),
    "forced": ("/gc/cycles/forced:gc-cycles", "numforcedgc", "go_gc_cycles_forced_gc_cycles_total"),
    "live": ("/gc/heap/live:bytes", "go_gc_heap_live_bytes"),
    "goal": ("/gc/heap/goal:bytes", "nextgc", "go_memstats_next_gc_bytes", "go_gc_heap_goal_bytes"),
    "heap": (
        *("/memory/classes/heap/objects:bytes", "heapalloc", "alloc", "go_memstats_heap_alloc_bytes"),
        *("go_memstats_alloc_bytes", "go_memory_classes_heap_objects_bytes"),
    ),
    "gogc": ("/gc/gogc:percent", "gogc", "go_gc_gogc_percent"),
    "procs": ("/sched/gomaxprocs:threads", "gomaxprocs", "go_sched_gomaxprocs_threads"),
    "globals": ("/gc/scan/globals:bytes", "go_gc_scan_globals_bytes"),
    "stacks": ("/gc/scan/stack:bytes", "go_gc_scan_stack_bytes"),
    "assist_s": (f"{_CPU}/mark/assist:cpu-seconds",),
    "dedicated_s": (f"{_CPU}/mark/dedicated:cpu-seconds",),
    "idle_s": (f"{_CPU}/mark/idle:cpu-seconds",),
    "gc_s": (f"{_CPU}/total:cpu-seconds",),
    "pause_s": (f"{_CPU}/pause:cpu-seconds",),
    "user_s": ("/cpu/classes/user:cpu-seconds",),
    "pause_ns": ("pausetotalns",),
    "gc_share": ("gccpufraction", "go_memstats_gc_cpu_fraction"),
}
"""What is read, and the names it goes by, in small letters; the first that a file has counts."""

_OF = {name: key for key, names in reversed(FIELDS.items()) for name in names}
_NEEDED = {
    "time": "time",
    "allocated": "/gc/heap/allocs:bytes or TotalAlloc",
    "cycles": "/gc/cycles/total:gc-cycles or NumGC",
}
_RISING = ("time", "allocated", "cycles")
_UNITS = {"time_ns": 1.0, "time_us": 1e3, "time_ms": 1e6, "time_s": 1e9, "seconds": 1e9}
_EPOCHS = ((1e17, 1.0), (1e14, 1e3), (1e11, 1e6))
"""A number from the first on has so many ns a unit; it is a date since 1970 then, and seconds below all."""
_LINE = 1 << 20
_BLOCK = 4096
_MOST = 2.0**56
_HEAP_MINIMUM = 4 << 20
_MOST_CYCLES = 1 << 22
_MOST_BORN = 0.75
_MARKS_LAST = 2.0


# ---- rows ----


def _plain(name: object) -> str:
    return str(name).strip().strip("\ufeff").lower()


def _flat(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object's fields by plain names, with those of objects in it: a MemStats beside its time."""
    out: dict[str, Any] = {}
    for name, inner in value.items():
        if isinstance(inner, dict):
            out |= {_plain(n): v for n, v in inner.items()}
        else:
            out[_plain(name)] = inner
    return out


def _objects(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return _flat(value) if isinstance(value, dict) else None


def _header(line: str) -> tuple[list[str], str]:
    """Return the names of a CSV header, and what divides them."""
    divider = max(",;\t", key=line.count)
    return [_plain(name) for name in _cells(line, divider)], divider


def _cells(line: str, divider: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=divider), [])
    except csv.Error:
        return []


def names_fields(line: str) -> bool:
    """Say whether a file's first line is of samples: a CSV header or a JSON object with more than a known time."""
    names = (_objects(line) or {}).keys() if line.lstrip().startswith("{") else _header(line)[0]
    return any(_OF.get(name, "time") != "time" for name in names)


def _number(text: object) -> float:
    """Return a number; NaN where there is none."""
    if isinstance(text, bool) or not isinstance(text, (int, float, str)):
        return math.nan
    try:
        value = float(text)
    except (ValueError, OverflowError):
        return math.nan
    return value if abs(value) < _MOST * 64 else math.nan


def _time_ns(value: object, name: str) -> float:
    """Return ns, since whenever. A date, a number with a unit in its name, or one whose size tells its unit."""
    number = _number(value)
    if not math.isnan(number):
        return number * (_UNITS.get(name) or next((unit for least, unit in _EPOCHS if number >= least), 1e9))
    if not isinstance(value, str):
        return math.nan
    try:
        date = datetime.fromisoformat(value.strip())
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        return (date - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1e9
    except (ValueError, OverflowError):
        return math.nan


def _lines(file: BinaryIO) -> Iterator[str]:
    while raw := file.readline(_LINE):
        text = raw.decode("utf-8", "replace").strip("\r\n")
        if text.strip():
            yield text


def _rows(file: BinaryIO) -> Iterator[dict[str, Any] | None]:
    """Yield the fields of each line, None of one that has none."""
    lines = _lines(file)
    first = next(lines, "")
    if first.lstrip().startswith("{"):
        yield _objects(first)
        for line in lines:
            yield _objects(line)
        return
    names, divider = _header(first)
    for line in lines:
        cells = _cells(line, divider)
        yield dict(zip(names, cells, strict=True)) if len(cells) == len(names) else None


def _values(row: dict[str, Any]) -> list[float]:
    """Return the value of each of FIELDS, NaN where a row has none."""
    out = []
    for key, names in FIELDS.items():
        name = next((n for n in names if n in row), "")
        value = row.get(name)
        out.append(_time_ns(value, name) if key == "time" else _number(value))
    return out


# ---- the samples ----


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Figures over time, of one process: the longest stretch in which nothing that only grows fell back."""

    columns: dict[str, Floats]
    """By the names of `FIELDS`: only what the file has. time is in ns from 0 on, sizes in bytes; gaps are NaN."""
    damaged: int = 0
    """Lines without the figures that are needed."""
    restarts: int = 0
    """Times that the process began anew; only the longest stretch is here."""
    origin: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.columns["time"])

    @property
    def num_gc(self) -> int:
        """Cycles between the first sample and the last."""
        return int(self.columns["cycles"][-1] - self.columns["cycles"][0])

    @property
    def duration_ns(self) -> int:
        """From the first sample to the last."""
        return int(self.columns["time"][-1])

    @property
    def gogc(self) -> int | None:
        """GOGC in percent, where the samples have it."""
        values = self.known("gogc")
        middle = float(np.median(values)) if len(values) else -1.0
        return round(middle) if 0 < middle < 1e6 else None

    @property
    def procs(self) -> int:
        """GOMAXPROCS; 1 where the samples do not tell."""
        values = self.known("procs")
        return int(min(max(np.median(values), 1), MOST_PROCS)) if len(values) else 1

    def known(self, name: str) -> Floats:
        """Return the values of a field, without gaps; none where the samples do not have it."""
        values = self.columns.get(name, np.zeros(0))
        return values[~np.isnan(values)]

    def source(
        self, *, gogc: int | None = None, procs: int | None = None, costs: Costs | None = None
    ) -> CurveSource:
        """Return a source of tier `samples`. gogc, procs: as they were, where the samples do not say; else 100 and 1.

        Raises `RecordingError` where there is no cycle between the samples.
        """
        if self.num_gc < 1:
            raise RecordingError(
                f"{self.origin.get('file', 'the samples')}: no GC cycle between the first sample and the last: take"
                " samples over a longer time"
            )
        return _source(
            self, gogc or self.gogc or 100, procs or self.procs, Costs() if costs is None else costs
        )


def read_samples(path: str | os.PathLike[str]) -> Samples:
    """Read samples: CSV with a header, or a JSON object a line. Raises `RecordingError`, `OSError`."""
    check_regular(path, "write the samples to a file, and give that")
    full: list[npt.NDArray[Any]] = []
    rows: list[list[float]] = []
    damaged = 0
    needed = [list(FIELDS).index(name) for name in _NEEDED]
    best = [False] * len(FIELDS)
    with open(path, "rb") as file:
        for row in _rows(file):
            values = _values(row) if row else [math.nan] * len(FIELDS)
            best = [b or not math.isnan(v) for b, v in zip(best, values, strict=True)]
            if any(math.isnan(values[i]) or values[i] < 0 for i in needed):
                damaged += 1
                continue
            rows.append(values)
            if len(rows) == _BLOCK:
                full.append(np.array(rows))
                rows = []
    _check(path, dict(zip(FIELDS, best, strict=True)))
    table = np.concatenate([*full, np.array(rows).reshape(-1, len(FIELDS))])
    table, restarts = _longest(table)
    if len(table) < 2:
        raise RecordingError(f"{path}: one sample at most: take several, over some GC cycles")
    table[:, 0] -= table[0, 0]
    columns = {name: table[:, i] for i, name in enumerate(FIELDS) if not np.isnan(table[:, i]).all()}
    return Samples(columns, damaged, restarts, {"file": str(path)})


def _check(path: str | os.PathLike[str], has: dict[str, bool]) -> None:
    missing = [what for name, what in _NEEDED.items() if not has[name]]
    if not any(has[name] for name in ("live", "goal", "heap")):
        missing.append("/gc/heap/live:bytes, NextGC or HeapAlloc")
    if missing:
        raise RecordingError(
            f"{path}: the samples have no {', no '.join(missing)}: write these too, a column each"
        )


def _longest(table: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], int]:
    """Return the longest stretch in which time, bytes and cycles never fall, and how often one ends."""
    names = list(FIELDS)
    rising = table[:, [names.index(name) for name in _RISING]]
    falls = np.flatnonzero((np.diff(rising, axis=0) < 0).any(axis=1)) + 1
    edges = np.concatenate([[0], falls, [len(table)]])
    longest = int(np.argmax(np.diff(edges)))
    return table[edges[longest] : edges[longest + 1]].copy(), len(falls)


# ---- the source ----


def _filled(values: Floats) -> Floats:
    """Return values with gaps closed on the way between their neighbours."""
    known = np.flatnonzero(~np.isnan(values))
    return np.interp(np.arange(len(values)), known, values[known])


def _roots(samples: Samples) -> float:
    """Return bytes of globals and stacks."""
    shown = [samples.known(name) for name in ("globals", "stacks")]
    total = sum(float(values.mean()) for values in shown if len(values))
    return total if len(shown[0]) else total + EMPTY_PROGRAM_GLOBALS


def _marked(samples: Samples, gogc: int, roots: float) -> Floats:
    """Return bytes marked by the last cycle before each sample: told, or by its goal, or by the least of the heap.

    Goal = marked + (marked + roots) x GOGC / 100, but no less than 4 MB x GOGC / 100: such a one tells nothing.
    """
    columns = samples.columns
    if "live" in columns:
        return _filled(columns["live"])
    heap = _least(_filled(columns["heap"]), columns["cycles"]) if "heap" in columns else None
    if "goal" not in columns:
        assert heap is not None
        return heap
    g = gogc / 100
    goal = _filled(columns["goal"])
    least = _HEAP_MINIMUM * g
    by_goal = np.maximum((goal - roots * g) / (1 + g), 0.0)
    at_least = np.minimum(heap, by_goal) if heap is not None else by_goal / 2
    if heap is not None:  # a goal may have been put off for a late start
        by_goal = np.minimum(by_goal, heap)
    return np.where(goal > least * 1.001, by_goal, at_least)


def _least(heap: Floats, cycles: Floats) -> Floats:
    """Return the least that the heap was between two cycles as far as samples saw it: what was marked, and some."""
    _, which = np.unique(cycles, return_inverse=True)
    least = np.full(int(which.max()) + 1, np.inf)
    np.minimum.at(least, which, heap)
    return least[which]


def _source(samples: Samples, gogc: int, procs: int, costs: Costs) -> CurveSource:
    """Put the points of the curve at the samples' last marks, one at the first sample, and one at the last."""
    columns, roots = samples.columns, _roots(samples)
    total = columns["allocated"] - columns["allocated"][0]
    counts = np.diff(columns["cycles"]).astype(np.int64)
    counts = np.maximum(counts if counts.sum() <= _MOST_CYCLES else counts * _MOST_CYCLES // counts.sum(), 0)
    marked = _marked(samples, gogc, roots)
    alive = marked * (1 - _share_born(samples, marked, procs))
    new = np.flatnonzero(counts)
    at = total[new + 1] - np.diff(total)[new] / (2 * counts[new])
    peak = float(max(marked.max(), _filled(columns["heap"]).max() if "heap" in columns else 0.0))
    piece = piece_bytes(peak=peak * (1 + gogc / 100), allocated=float(total[-1]))
    points = np.concatenate([[0.0], at, [max(total[-1], at[-1] if len(at) else 0.0)]])
    order = apart(points, piece)
    own = _own_time(samples, procs)
    begin = _spread(total, counts)
    begin = apart(begin, piece)
    live = np.concatenate([[alive[0]], alive[new + 1], [alive[-1]]])
    forced = np.diff(columns["forced"]) if "forced" in columns else np.zeros(len(counts))
    return CurveSource(
        allocated=order,
        time_ns=np.interp(points, total, own),
        live=bounded(live, order),
        mark_begin=begin,
        mark_end=begin,
        forced=_forced(counts, np.nan_to_num(forced)),
        tier="samples",
        piece=piece,
        procs=procs,
        busy=_busy(samples, procs),
        costs=_costs(samples, alive, roots, procs, costs),
        globals_bytes=round(roots),
        origin=samples.origin | {"gogc": str(gogc)},
    )


def _spread(total: Floats, counts: npt.NDArray[np.int64]) -> Floats:
    """Return where cycles began, so many between each two samples, evenly over the bytes allocated."""
    first = np.repeat(np.cumsum(counts) - counts, counts)
    nth = np.arange(int(counts.sum())) - first
    of = np.repeat(np.arange(len(counts)), counts)
    spread: Floats = total[of] + np.diff(total)[of] * ((nth + 0.5) / counts[of])
    return spread


def _forced(counts: npt.NDArray[np.int64], forced: Floats) -> npt.NDArray[np.bool_]:
    """Return which cycles were forced: the first ones between two samples, as many as were."""
    first = np.repeat(np.cumsum(counts) - counts, counts)
    nth = np.arange(int(counts.sum())) - first
    return np.asarray(nth < np.repeat(forced, counts))


def _busy(samples: Samples, procs: int) -> int:
    """Return how many Ps the program kept at work, by its processor time; 1 where nothing tells."""
    user = samples.known("user_s")
    if len(user) < 2 or not samples.duration_ns:
        return 1
    return int(min(max(round((user[-1] - user[0]) * 1e9 / samples.duration_ns), 1), procs))


def _own_time(samples: Samples, procs: int) -> Floats:
    """Return the program's own time at each sample, ns: pauses and what it assisted come off, where they are known."""
    columns, lost = samples.columns, np.zeros(len(samples))
    if "pause_s" in columns:
        lost += _filled(columns["pause_s"]) * 1e9 / procs
    elif "pause_ns" in columns:
        lost += _filled(columns["pause_ns"])
    if "assist_s" in columns:
        lost += _filled(columns["assist_s"]) * 1e9 / _busy(samples, procs)
    own = columns["time"] - (lost - lost[0])
    return np.maximum.accumulate(np.maximum(own, 0.0))


def _mark_seconds(samples: Samples, procs: int, *, idle: bool = True) -> float | None:
    """Return seconds of processor time that marking took between the first sample and the last; None: unknown.

    idle: that of Ps that had nothing else to do counts too, where it is known.
    """
    columns = samples.columns
    names = ("assist_s", "dedicated_s", *(["idle_s"] if idle else []))
    marking: list[str] = [n for n in names if n in columns]
    parts = marking or ["gc_s"]
    if parts[0] in columns:
        filled = [_filled(columns[name]) for name in parts]
        return float(sum(values[-1] - values[0] for values in filled))
    if "gc_share" in columns:
        return float(_filled(columns["gc_share"])[-1]) * procs * samples.duration_ns / 1e9
    return None


def _share_born(samples: Samples, marked: Floats, procs: int) -> float:
    """Return which part of what was marked was born during the mark, on average; 0 where nothing tells.

    Were it workers alone that take a quarter of the Ps, marks would last 4 / procs of their processor time, in all; and
    of all bytes allocated as great a part falls in them as they are of the time. With assists they last half as long
    (measured: tests/oracle/samples).
    """
    seconds = _mark_seconds(samples, procs, idle=False)
    bytes_marked = float((marked[1:] * np.diff(samples.columns["cycles"])).sum())
    if seconds is None or not bytes_marked or not samples.duration_ns:
        return 0.0
    share = min(max(seconds * 1e9 * _MARKS_LAST / procs / samples.duration_ns, 0.0), 1.0)
    allocated = float(samples.columns["allocated"][-1] - samples.columns["allocated"][0])
    return min(share * allocated / bytes_marked, _MOST_BORN)


def _costs(samples: Samples, marked: Floats, roots: float, procs: int, costs: Costs) -> Costs:
    """Return what collecting cost, where the samples tell, by the byte alone; and no page faults: time has them."""
    costs = replace(costs, fault_page_ns=0.0, mark_object_ns=0.0)
    seconds = _mark_seconds(samples, procs)
    work = float(((marked[1:] + roots) * np.diff(samples.columns["cycles"])).sum())
    if seconds and seconds > 0 and work > 0:
        costs = replace(costs, mark_byte_ns=min(seconds * 1e9 / work, 1e6))
    if "pause_ns" in samples.columns:
        pause = _filled(samples.columns["pause_ns"])
        each = min(max(pause[-1] - pause[0], 0.0) / max(samples.num_gc, 1) / 2, 1e8)
        costs = replace(costs, stop_ns=round(each), term_ns=round(each))
    return costs
