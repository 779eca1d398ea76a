"""Every picture in words: a title that says what one sees, a text that says what it means, and its figures as a table.

Pages and image files take their words from here, so both say the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pymem.report.heap_map import STATES
from pymem.report.sampling import largest
from pymem.units import NO_LIMIT, format_bytes, format_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pymem.gc.state import CycleRecord
    from pymem.replay import ClassUse
    from pymem.report.data import ReportData, TypeLifeLike
    from pymem.report.rows import EstimateLike, RowLike

__all__ = [
    "STREAMS",
    "Picture",
    "byte_unit",
    "class_name",
    "mmu_rows",
    "pictures",
    "plain_bytes",
    "plain_time",
    "row_name",
    "short",
    "time_unit",
]

STREAMS = 9
"""Types with a colour of their own; the rest is one stream."""
LIVES = 15
"""Types whose lifetimes are drawn."""
UNKNOWN = "(unknown)"
"""How a type is called that the recording does not name."""
_ROWS = 60
_NAME = 160


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture's words."""

    key: str
    title: str
    """What one sees in this recording."""
    meaning: str
    """How to read it, and what follows."""
    caption: str
    """Of the table."""
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    clock: str = ""
    """Whose time its axis shows, where it has one: `run` or `recording`."""


# ---- numbers for people ----


def byte_unit(most: float) -> tuple[float, str]:
    """Return the unit to draw amounts up to `most` bytes in: its bytes and its name."""
    for power, name in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if most >= 2 * 1024**power:
            return float(1024**power), name
    return 1.0, "bytes"


def time_unit(most: float) -> tuple[float, str]:
    """Return the unit to draw times up to `most` ns in: its ns and its name."""
    for size, name in ((1e9, "s"), (1e6, "ms"), (1e3, "µs")):
        if most >= 2 * size:
            return size, name
    return 1.0, "ns"


def short(name: str, most: int = 34) -> str:
    """Shorten a type's name: the middle goes. What begins a formula to Bokeh is taken apart."""
    name = re.sub(r"\$(?=\$)|\\(?=[(\[])", r"\g<0> ", name or UNKNOWN)
    if len(name) <= most:
        return name
    return f"{name[: most // 2 - 1]}…{name[len(name) - most + most // 2 :]}"


def class_name(use: ClassUse) -> str:
    """Name a span class."""
    size = f"{use.size:,}" if use.size else "large"
    return f"{size}{' noscan' if use.noscan else ''}"


def row_name(row: RowLike, rows: Sequence[RowLike]) -> str:
    """Name a scenario by those of its settings in which the rows differ."""
    parts = [f"GOGC={'off' if row.gogc < 0 else row.gogc}"]
    if len({r.memory_limit for r in rows}) > 1:
        limit = "off" if row.memory_limit >= NO_LIMIT else plain_bytes(row.memory_limit)
        parts.append(f"limit {limit}")
    if len({r.gomaxprocs for r in rows}) > 1:
        parts.append(f"{row.gomaxprocs} P")
    return ", ".join(parts)


def plain_bytes(n: float) -> str:
    """Write bytes in as few digits as do."""
    unit, name = byte_unit(2 * n)
    return f"{n / unit:.4g} {name}"


def plain_time(ns: float) -> str:
    """Write a time in as few digits as do."""
    unit, name = time_unit(2 * ns)
    return f"{ns / unit:.4g} {name}"


def _share(part: float) -> str:
    return f"{100 * part:.3g} %" if part else "0 %"


def _times(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


# ---- pictures ----


def pictures(data: ReportData) -> tuple[Picture, ...]:
    """Return the pictures of a report, in its order; those without figures to draw are left out."""
    made = [_sawtooth(data)]
    if data.rows:
        made.append(_whatif(data))
    made.append(_memory(data))
    if data.census is not None and len(data.census.types):
        made += [_types(data), _lifetimes(data)]
    if data.classes():
        made.append(_classes(data))
    if data.heap_map.states.size:
        made.append(_map(data))
    if data.run.cycles:
        made += [_pauses(data), _mmu(data)]
    return tuple(made)


def _sawtooth(data: ReportData) -> Picture:
    run = data.run
    most = max((c.heap1 for c in run.cycles), default=run.peak_heap)
    live = float(np.median([c.heap2 for c in run.cycles])) if run.cycles else 0.0
    if run.cycles:
        title = (
            f"{_times(len(run.cycles), 'collection')}; the heap peaks at {plain_bytes(most)}"
            f"{f', {most / live:.1f} times the {plain_bytes(live)} that typically survive' if live else ''}"
        )
    else:
        title = f"No collection; the heap grows to {plain_bytes(most)}"
    meaning = (
        "The blue line is the heap the collector counts as live. It rises while the program allocates; a collection"
        " (grey band) begins at the trigger, aims to end before the goal (orange), and what it marked (green) is where"
        " the next tooth starts. Tall, rare teeth cost memory; short, frequent ones cost processor time. GOGC sets the"
        " goal: marked heap, plus GOGC percent of it, stacks and globals. A marked heap that rises from tooth to tooth"
        " is a growing program or a leak."
    )
    if data.limit is not None:
        meaning += (
            f" The memory limit, {plain_bytes(data.limit)}, counts more than the heap:"
            " compare it with all memory, below."
        )
    kept = _picked(run.cycles)
    which = "" if len(kept) == len(run.cycles) else f"; of {len(run.cycles):,}, the highest of each stretch"
    rows = tuple(
        (
            f"{c.number:,}",
            format_duration(c.start_ns),
            format_bytes(c.trigger),
            format_bytes(c.heap1),
            format_bytes(c.heap2),
            format_bytes(c.goal) if c.goal < 1 << 60 else "off",
            format_duration(c.term_ns - c.mark_ns),
            format_duration(c.assist_ns),
            "yes" if c.forced else "no",
        )
        for c in kept
    )
    columns = ("GC", "begins", "trigger", "peak", "marked", "goal", "marking took", "assists", "forced")
    return Picture("sawtooth", title, meaning, f"Collections{which}", columns, rows, "run")


def _picked(cycles: Sequence[CycleRecord]) -> list[CycleRecord]:
    if len(cycles) <= _ROWS:
        return list(cycles)
    ends = np.array([c.end_ns for c in cycles], np.int64)
    peaks = np.array([c.heap1 for c in cycles], np.float64)
    return [cycles[i] for i in largest(ends, peaks, _ROWS).tolist()]


def _whatif(data: ReportData) -> Picture:
    rows = data.rows
    front = [r for r in rows if r.pareto]
    least = min(rows, key=lambda r: (r.peak_footprint.value, r.gc_cpu.value))
    fastest = min(rows, key=lambda r: (r.gc_cpu.value, r.peak_footprint.value))
    title = (
        f"From {plain_bytes(least.peak_footprint.value)} at {_share(least.gc_cpu.value)} GC CPU"
        f" ({row_name(least, rows)}) to {plain_bytes(fastest.peak_footprint.value)} at"
        f" {_share(fastest.gc_cpu.value)} ({row_name(fastest, rows)})"
    )
    meaning = (
        "A point is one setting, predicted: peak memory (what a container is charged for) to the right, the share of"
        " all processor time that the collector takes upwards, with their intervals. Lower left is better. The line"
        f" joins the {_times(len(front), 'setting')} that no other one beats in both (the Pareto front); choose among"
        " them, the others waste memory or time."
    )
    shown = sorted(rows, key=lambda r: (not r.pareto, r.peak_footprint.value))[: 3 * _ROWS]
    table = tuple(
        (
            row_name(r, rows),
            _interval(r.peak_footprint, plain_bytes),
            _interval(r.gc_cpu, _share),
            _interval(r.num_gc, lambda n: f"{n:,.0f}"),
            _interval(r.peak_heap, plain_bytes),
            "yes" if r.pareto else "no",
        )
        for r in shown
    )
    columns = ("setting", "peak memory", "GC CPU", "collections", "peak heap", "on the front")
    caption = "Predictions, with their intervals"
    return Picture("whatif", title, meaning, caption, columns, table)


def _interval(estimate: EstimateLike, write: Callable[[float], str]) -> str:
    value = write(estimate.value)
    if estimate.low == estimate.high:
        return value
    return f"{value} ({write(estimate.low)} to {write(estimate.high)})"


def _memory(data: ReportData) -> Picture:
    parts = data.footprint()
    total = parts["live"] + parts["unused"] + parts["other"]
    peak = int(np.argmax(total)) if len(total) else 0
    most = float(total[peak]) if len(total) else 0.0
    share = float(parts["live"][peak]) / most if most else 0.0
    title = f"Memory peaks at {plain_bytes(most)}, of which {_share(share)} is live heap"
    limit = data.limit
    if limit is not None:
        over = "above" if most > limit else "below"
        title += f"; {plain_bytes(abs(limit - most))} {over} the limit"
    meaning = (
        "All memory that the runtime holds from the system, by what it is used for; the top of the solid areas is what"
        " GOMEMLIMIT limits and the OOM killer sees (Sys - HeapReleased). Free slots and garbage not yet swept shrink"
        " with more collections; the rest above them is free pages kept for later, stacks, and the runtime's own"
        " data. The hatched part was given back and costs nothing."
    )
    step = max(-(-len(total) // _ROWS), 1)
    at = sorted({*range(0, len(total), step), peak}) if len(total) else []
    rows = tuple(
        (
            format_duration(int(parts["time_ns"][i])),
            *(
                format_bytes(int(v))
                for v in (
                    total[i],
                    parts["live"][i],
                    parts["unused"][i],
                    parts["other"][i],
                    parts["released"][i],
                )
            ),
        )
        for i in at
    )
    columns = (
        "at",
        "in all",
        "live heap",
        "free slots and garbage",
        "free pages, stacks, runtime",
        "given back",
    )
    return Picture("memory", title, meaning, "Memory by use", columns, rows, "run")


def _types(data: ReportData) -> Picture:
    assert data.census is not None
    types = data.census.types
    by_peak = sorted(types, key=lambda t: -int(t.live_bytes.max(initial=0)))
    total = np.sum([t.live_bytes for t in types], axis=0)
    when = int(np.argmax(total))
    first = next((t for t in by_peak if t.name and t.name != UNKNOWN), by_peak[0])
    share, rest = (
        float(sum(t.live_bytes[when] for t in some)) / max(float(total[when]), 1.0)
        for some in ([first], by_peak[STREAMS:])
    )
    known = "" if first is by_peak[0] else "known "
    title = f"{short(first.name)} is the largest {known}type: {_share(share)} of the heap at its peak"
    if rest >= 0.1:
        title += f"; {_share(rest)} is spread over {len(types) - STREAMS:,} smaller types"
    meaning = (
        "Bytes of living objects by Go type, as recorded. A stream that widens and never narrows again is what a leak"
        " looks like; one that opens and closes with every tooth is short-lived garbage."
    )
    allocated = sum(t.allocated_bytes for t in types)
    rows = tuple(
        (
            short(t.name, _NAME),
            format_bytes(int(t.live_bytes.max(initial=0))),
            format_bytes(int(t.live_bytes[-1]) if len(t.live_bytes) else 0),
            format_bytes(t.allocated_bytes),
            _share(t.allocated_bytes / allocated if allocated else 0),
            f"{t.allocated_objects:,}",
        )
        for t in by_peak[:_ROWS]
    )
    columns = ("type", "most alive", "alive at the end", "allocated", "share of it", "objects")
    return Picture(
        "types", title, meaning, _first("Types by most alive", rows, types), columns, rows, "recording"
    )


def _first(what: str, shown: Sequence[object], all_: Sequence[object]) -> str:
    return what if len(shown) == len(all_) else f"{what} (the first {len(shown)} of {len(all_):,})"


def _lifetimes(data: ReportData) -> Picture:
    assert data.census is not None
    types = data.census.types
    objects = sum(t.allocated_objects for t in types)
    young = sum(t.died_young * t.allocated_objects for t in types if np.isfinite(t.died_young))
    title = f"{_share(young / objects if objects else 0)} of all objects die before their first collection"
    meaning = (
        "How many bytes the program allocates between an object's birth and its death: the dot is the median, the bar"
        " ends where 99 % are dead, at the right edge if the recording is too short to tell; types that allocate"
        " most stand on top. Far left: garbage that a pool, a larger buffer or a value instead of a pointer would"
        " avoid. Far right: what the heap is made of; each collection marks it again."
    )
    rows = tuple(
        (
            short(t.name, _NAME),
            format_bytes(t.allocated_bytes),
            *(_quantile(q) for q in t.lifetime_bytes),
            _share(t.died_young) if np.isfinite(t.died_young) else "",
        )
        for t in types[:_ROWS]
    )
    columns = ("type", "allocated", "half dead after", "90 %", "99 %", "dead before a GC")
    return Picture(
        "lifetimes", title, meaning, _first("Lifetimes in bytes allocated", rows, types), columns, rows
    )


def _quantile(q: float) -> str:
    if np.isnan(q):
        return ""
    return format_bytes(int(q)) if np.isfinite(q) else "later"


def lives(data: ReportData) -> list[TypeLifeLike]:
    """Return the types whose lifetimes are drawn: those that allocate most, as far as anything is known of them."""
    if data.census is None:
        return []
    return [t for t in data.census.types if t.allocated_objects and not np.isnan(t.lifetime_bytes).any()][
        :LIVES
    ]


def _classes(data: ReportData) -> Picture:
    uses = data.classes()
    inside, used = sum(c.bytes_in_spans for c in uses), sum(c.bytes_used for c in uses)
    worst = max(uses, key=lambda c: c.bytes_in_spans - c.bytes_used)
    title = (
        f"{_share(used / inside if inside else 1)} of the {plain_bytes(inside)} in spans is used at the end;"
        f" most is lost in class {class_name(worst)}"
    )
    meaning = (
        "A slot is one of the sizes that Go rounds objects up to, a span a run of pages of equal slots. Blue is in"
        " slots with an object, orange in free slots, which only objects of that class can use. A wide orange part that"
        " stays is fragmentation: a burst of this class that left a few survivors in each span."
    )
    rows = tuple(
        (
            class_name(c),
            f"{c.spans:,}",
            f"{c.slots:,}",
            f"{c.used:,}",
            format_bytes(c.bytes_in_spans),
            _share(c.bytes_used / c.bytes_in_spans),
            format_bytes(c.bytes_in_spans - c.bytes_used),
        )
        for c in uses
    )
    columns = ("class, bytes a slot", "spans", "slots", "used", "in spans", "in use", "unused")
    return Picture("classes", title, meaning, "Size classes at the end of the run", columns, rows)


def _map(data: ReportData) -> Picture:
    heap = data.heap_map
    full = float(heap.used[-1]) / float(heap.in_spans[-1]) if heap.in_spans[-1] else 1.0
    peak = int(np.argmax(heap.mapped))
    title = (
        f"At the end the heap's pages hold {plain_bytes(int(heap.mapped[-1]))}, spans {_share(full)} full;"
        f" at most it was {plain_bytes(int(heap.mapped[peak]))}"
    )
    meaning = (
        f"The heap's address space, a cell {plain_bytes(heap.pages_a_cell * 8192)}, left to right and downwards, as"
        " recorded; the slider moves through time. Deep blue cells are full, pale ones hold a few objects each. Go"
        " moves no object: pale cells that stay pale are memory that neither other sizes nor the system can have."
    )
    rows = tuple(
        (
            format_duration(int(t)),
            format_bytes(int(heap.mapped[i])),
            format_bytes(int(heap.in_spans[i])),
            format_bytes(int(heap.used[i])),
            *(f"{n:,}" for n in np.bincount(heap.states[i], minlength=len(STATES))[1:]),
        )
        for i, t in enumerate(heap.time_ns.tolist())
    )
    columns = ("at", "heap", "in spans", "used", *(f"cells: {s}" for s in STATES[1:]))
    return Picture("map", title, meaning, "The heap at each moment", columns, rows, "recording")


def _pauses(data: ReportData) -> Picture:
    pauses = data.pauses
    p50, p99, most = (pauses.quantile(q) for q in (0.5, 0.99, 1.0))
    title = (
        f"{_times(len(pauses.length_ns), 'pause')}: half up to {plain_time(p50)}, 99 % up to {plain_time(p99)},"
        f" the longest {plain_time(most)}"
    )
    meaning = (
        "Each cycle stops the world twice: to begin marking and to end it. Their length is what the cost model charges"
        " for a stop, without what a busy machine adds until all threads stand still. What slows requests down more"
        " often is assists: goroutines that allocate while marking have to help."
    )
    kinds = [("begins marking", ~pauses.ends), ("ends marking", pauses.ends)]
    rows = []
    for name, mask in kinds:
        some = pauses.length_ns[mask]
        values = [int(np.quantile(some, q, method="higher")) for q in (0.5, 0.9, 0.99, 1.0)]
        total = format_duration(int(some.sum()))
        rows.append((name, f"{len(some):,}", *(format_duration(v) for v in values), total))
    assists = sum(c.assist_ns for c in data.run.cycles)
    rows.append(
        (
            "assists",
            f"{sum(c.assist_ns > 0 for c in data.run.cycles):,}",
            "",
            "",
            "",
            "",
            format_duration(assists),
        )
    )
    columns = ("what", "times", "p50", "p90", "p99", "longest", "in all")
    return Picture("pauses", title, meaning, "Stops of the world, and assists", columns, tuple(rows), "run")


def mmu_rows(data: ReportData) -> list[tuple[int, float]]:
    """Return windows of round length, ns, and the program's least share in them."""
    windows, least = data.mmu
    round_ = [n * 10**p for p in range(4, 13) for n in (1, 2, 5)]
    inside = [w for w in round_ if windows[0] <= w <= windows[-1]]
    return [(w, float(np.interp(np.log(w), np.log(windows), least))) for w in inside]


def _mmu(data: ReportData) -> Picture:
    rows = mmu_rows(data)
    at_ms = [(w, u) for w, u in rows if w in (10**6, 10**7, 10**8)] or rows[-1:]
    shares = [f"{_share(u)} of any {plain_time(w)}" for w, u in at_ms[:2]]
    title = f"The program is sure of {' and '.join(shares)}"
    meaning = (
        "Minimum mutator utilisation: of all stretches of this length, the one in which the collector took most;"
        " what share of GOMAXPROCS was left to the program. The curve leaves 0 at the longest pause and ends at the"
        " whole run's average. Read it at your deadline: an answer due in 10 ms can count on the share at 10 ms."
    )
    table = tuple((plain_time(w), _share(u)) for w, u in rows)
    caption = "Least share left to the program"
    return Picture("mmu", title, meaning, caption, ("window", "share of GOMAXPROCS"), table)
