"""What pages and image files draw alike: which streams, bars, points, labels and ticks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pymem.report.colours import STREAM_COLOURS
from pymem.report.pictures import STREAMS, class_name, lives, short
from pymem.report.sampling import largest
from pymem.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    from pymem.report.data import CensusLike, ReportData
    from pymem.report.heap_map import HeapMap
    from pymem.report.rows import EstimateLike, RowLike

    Series = tuple[str, str, npt.NDArray[np.float64], npt.NDArray[np.float64]]

__all__ = [
    "LifeBar",
    "bars",
    "byte_ticks",
    "grid_of",
    "labelled",
    "life_bars",
    "paused",
    "reach",
    "shows_limit",
    "stream_colours",
    "streams",
    "time_ticks",
]

_CLASSES = 32
_COLUMNS = 64
_LABELS = 14


class LifeBar(NamedTuple):
    """Lifetimes of one type, bytes; and the share that died before a GC."""

    name: str
    p50: float
    p90: float
    p99: float
    young: float


def shows_limit(data: ReportData, most: float) -> bool:
    """Say whether the memory limit is near enough to a heap of `most` bytes to be drawn beside it."""
    return data.limit is not None and data.limit <= 3 * most


def streams(census: CensusLike) -> tuple[list[str], list[npt.NDArray[np.float64]]]:
    """Return names and bytes over time: the types with the most bytes alive at once, and all others."""
    order = sorted(census.types, key=lambda t: -int(t.live_bytes.max(initial=0)))
    layers = [t.live_bytes.astype(np.float64) for t in order[:STREAMS]]
    rest = [t.live_bytes for t in order[STREAMS:]]
    others = np.zeros(len(census.time_ns))
    for one in rest:
        others += one
    names = _apart([short(t.name) for t in order[:STREAMS]])
    return [*names, f"{len(rest):,} others"], [*layers, others]


def stream_colours(names: Sequence[str]) -> list[str]:
    """Return a colour for each of the names that `streams` returns."""
    return [*STREAM_COLOURS[: len(names) - 1], STREAM_COLOURS[-1]]


def _apart(names: Sequence[str]) -> list[str]:
    """Add a number to names that came out alike."""
    seen: dict[str, int] = {}
    out = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return out


def life_bars(data: ReportData) -> list[LifeBar]:
    """Return the lifetimes to draw, those of the types that allocate most first.

    None is below a byte, or above what the whole recording allocates, which stands for all that is longer.
    """
    types = lives(data)
    most = max(float(sum(t.allocated_bytes for t in data.census.types)), 2.0) if data.census else 2.0

    def seen(q: float) -> float:
        return min(max(q, 1.0), most)

    names = _apart([short(t.name) for t in types])
    return [
        LifeBar(name, seen(p50), seen(p90), seen(p99), float(t.died_young))
        for name, t in zip(names, types, strict=True)
        for p50, p90, p99 in (t.lifetime_bytes,)
    ]


def bars(data: ReportData) -> tuple[list[str], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return names, bytes in use and bytes not in use of the size classes with the largest spans, by slot size."""
    uses = data.classes()
    kept = {id(c) for c in sorted(uses, key=lambda c: -c.bytes_in_spans)[:_CLASSES]}
    shown = [c for c in uses if id(c) in kept]
    used = np.array([c.bytes_used for c in shown], np.float64)
    return [class_name(c) for c in shown], used, np.array([c.bytes_in_spans for c in shown]) - used


def paused(data: ReportData) -> list[Series]:
    """Return key, name, times and lengths in ns of both kinds of pauses and of assists, where there are any.

    Of each stretch of time, the longest.
    """
    pauses = data.pauses
    assists = [(c.start_ns, c.assist_ns) for c in data.run.cycles if c.assist_ns]
    at = np.array(assists, np.int64).reshape(-1, 2)
    series = (
        ("begin", "pause to begin marking", pauses.time_ns[~pauses.ends], pauses.length_ns[~pauses.ends]),
        ("end", "pause to end marking", pauses.time_ns[pauses.ends], pauses.length_ns[pauses.ends]),
        ("assists", "assists of a cycle, all together", at[:, 0], at[:, 1]),
    )
    out = []
    for key, name, times, lengths in series:
        if not len(times):
            continue
        kept = largest(times, lengths)
        out.append(
            (key, name, times[kept].astype(np.float64), np.maximum(lengths[kept], 1).astype(np.float64))
        )
    return out


def grid_of(heap: HeapMap) -> tuple[npt.NDArray[np.uint8], int, int]:
    """Return the address map as pictures (moments, lines, columns), columns and lines; the lowest address on top.

    Lines at either end in which there never is anything are left out: the padding, and what is not mapped yet.
    """
    moments, cells = heap.states.shape
    columns = min(_COLUMNS, cells)
    lines = -(-cells // columns)
    grid = np.zeros((moments, lines * columns), np.uint8)
    grid[:, :cells] = heap.states
    images = grid.reshape(moments, lines, columns)
    filled = np.flatnonzero(images.any(axis=(0, 2)))
    if len(filled):
        images = images[:, filled[0] : filled[-1] + 1]
    return images, columns, images.shape[1]


def labelled(rows: Sequence[RowLike]) -> list[RowLike]:
    """Return the rows of the Pareto front that have room for a label: not too near to one that has."""
    front = sorted((r for r in rows if r.pareto), key=lambda r: r.peak_footprint.value)
    if not front:
        return []
    x = np.array([r.peak_footprint.value for r in rows])
    y = np.array([r.gc_cpu.value for r in rows])
    width, height = max(float(np.ptp(x)), 1e-12), max(float(np.ptp(y)), 1e-12)
    kept: list[Any] = []
    for row in front:
        near = any(
            abs(row.peak_footprint.value - other.peak_footprint.value) < 0.2 * width
            and abs(row.gc_cpu.value - other.gc_cpu.value) < 0.06 * height
            for other in kept
        )
        if not near and len(kept) < _LABELS:
            kept.append(row)
    return kept


def reach(estimates: Iterable[EstimateLike], unit: float) -> tuple[float, float]:
    """Return from where to where an axis goes that shows estimates with their intervals, in a unit."""
    both = [(e.low / unit, e.high / unit) for e in estimates]
    low, high = min(one for one, _ in both), max(one for _, one in both)
    room = 0.08 * (high - low) or 0.1 * high or 1.0
    return max(low - room, 0.0), high + room


def time_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Return the powers of ten from low to high, ns, with their names; with their doubles and fives if they are few."""
    units = ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns"))
    between = (1, 2, 5) if high < 200 * low else (1,)
    out = []
    for at in (float(n * 10**power) for power in range(13) for n in between):
        if 0.4 * low <= at <= 2.5 * high:
            size, name = next((s, n) for s, n in units if at >= s)
            out.append((at, f"{at / size:.0f} {name}"))
    return out


def byte_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Return powers of two from low to high, bytes, with their names: about eight."""
    powers = [p for p in range(60) if low <= 2.0**p <= high]
    step = next(s for s in (1, 2, 5, 10) if len(powers) <= 9 * s)
    return [(2.0**p, format_bytes(2**p).replace(".00", "")) for p in powers if p % step == 0]
