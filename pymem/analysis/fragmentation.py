"""Where the heap's memory goes that holds no object: inside slots, in free slots, at the ends of spans.

Of the bytes in a size class's spans

    in spans = asked for + lost inside slots + dead, not yet swept + free slots + tails

A slot is as large as its class, so an object wastes what it did not ask for. A span with few living objects keeps the
rest of its slots from all other classes. A tail is what does not make a slot, and the span's bitmaps.

What was asked for is in exact recordings. An execution trace has slots only; there the waste inside is a lower bound,
from types: a slot holds as many whole values of its object's type as fit, and the rest is lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from pymem._heap import Heap
from pymem.analysis.births import PAGE_SIZE, Living, StartSizes, pair, shares_block, slot_of
from pymem.analysis.patterns import name_of
from pymem.inspect import SpanKind, arena_map, spans
from pymem.program import read_program
from pymem.replay import ClassUse, Player, Run, class_uses
from pymem.rerun import Rerun
from pymem.sizeclasses import size_classes
from pymem.units import format_bytes
from pymem.workload.columns import Columns, Event

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from pymem.replay import EventSource

    Ints = npt.NDArray[np.int64]

__all__ = ["USES", "AddressMap", "ClassLoss", "Fragmentation", "Moment", "fragmentation", "survey_heap"]

_SAMPLES = 64
_MOST_CELLS = 1 << 14
_TINY_CLASS = 2 << 1 | 1
"""Span class of tiny blocks: 16 B without pointers."""
_SPAN_CLASSES = 136

USES = ("released", "free", "objects", "noscan", "large", "stacks", "other")
"""What a page may be used for, by the number that stands for it in an address map. released: free and not backed by
memory, as it has been given back or never been used; objects and noscan: small ones, with pointers and without;
other: work buffers and what else the runtime has of its own."""


@dataclass(frozen=True, slots=True)
class ClassLoss(ClassUse):
    """What one size class has lost. Bytes."""

    slot_waste: int | None
    """Lost inside used slots; None: sizes are not known. Of a trace a lower bound."""
    dead_bytes: int
    """In slots of objects that have died, but are not swept."""

    @property
    def utilisation(self) -> float:
        """Used slots, in bytes, of all that the spans hold: 0 to 1."""
        return self.bytes_used / self.bytes_in_spans if self.bytes_in_spans else 0.0

    @property
    def partial_bytes(self) -> int:
        """In free slots of spans that have used ones, or wait in a cache."""
        return self.bytes_in_spans - self.bytes_used - self.tail_bytes

    @property
    def lost(self) -> int:
        """Bytes that hold nothing, and will not by the next sweep: inside slots, free slots and tails."""
        return (self.slot_waste or 0) + self.partial_bytes + self.tail_bytes


@dataclass(frozen=True, slots=True, eq=False)
class AddressMap:
    """The heap's pages in address order."""

    time_ns: int
    pages: npt.NDArray[np.uint8]
    """An index into `USES` for each cell: of several pages, the use that comes last in `USES`."""
    pages_a_cell: int
    """1, or a power of 2 where the heap has more than 16,384 pages (128 MB)."""


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """The heap at one time."""

    time_ns: int
    classes: tuple[ClassLoss, ...]
    stack_bytes: int
    """In spans of stacks."""
    types: dict[tuple[int, bool], tuple[tuple[str, int], ...]]
    """For each size class, by (size, noscan): the types with most bytes in it, and these bytes; at most five."""

    @property
    def bytes_in_spans(self) -> int:
        """Of objects."""
        return sum(c.bytes_in_spans for c in self.classes)

    @property
    def lost(self) -> int:
        """Of all classes."""
        return sum(c.lost for c in self.classes)

    @property
    def worst(self) -> ClassLoss | None:
        """The class to look at: the one that has lost most. None: nothing is lost."""
        worst = max(self.classes, key=lambda c: c.lost, default=None)
        return worst if worst and worst.lost else None

    def advice(self) -> str:
        """Say which class to look at, and why."""
        worst = self.worst
        if worst is None:
            return "Nothing is lost."
        name = f"the {worst.size:,} B class" if worst.size else "large objects"
        what = "without pointers" if worst.noscan else "with pointers"
        types = self.types.get((worst.size, worst.noscan), ())
        of = f" Most bytes in it: {', '.join(t for t, _ in types[:2])}." if types else ""
        return (
            f"Look at {name} {what}: {format_bytes(worst.lost)} of its {format_bytes(worst.bytes_in_spans)} hold "
            f"nothing, {worst.lost / max(self.lost, 1):.0%} of all that is lost, most of it {_cause(worst)}.{of}"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Fragmentation:
    """A heap over time, its recorded collections at their places."""

    sizes: str
    """What is known of sizes asked for: `exact`, or `least` (of a trace)."""
    peak: Moment
    """The sample with the most bytes in spans of objects."""
    end: Moment
    timeline: tuple[tuple[int, int, int, int], ...]
    """(time_ns, bytes in spans of objects, bytes lost, bytes in spans of stacks) at each sample."""
    maps: tuple[AddressMap, ...]
    arena_base: int
    """Address of the first cell."""


_CAUSES = {
    "slot_waste": "inside slots larger than what was asked for",
    "partial_bytes": "in free slots of spans that are not empty",
    "tail_bytes": "behind the last slot of its spans",
}


def _cause(loss: ClassLoss) -> str:
    return _CAUSES[max(_CAUSES, key=lambda name: getattr(loss, name) or 0)]


def fragmentation(of: Run | Rerun | Heap | Sequence[ClassUse]) -> tuple[ClassLoss, ...]:
    """Return what each size class has lost at the end of a run, or in a heap; what is lost inside slots is not known.

    `survey_heap` knows that too, as it sees the sizes.
    """
    if isinstance(of, Heap):
        uses: Sequence[ClassUse] = class_uses(of)
    else:
        uses = of.fragmentation if isinstance(of, Run | Rerun) else of
    return tuple(_loss(use, None, None) for use in uses)


def _loss(use: ClassUse, asked: int | None, slots: int | None) -> ClassLoss:
    """Return the losses of a class whose living objects asked for so much, and have slots of so much."""
    waste, dead = None, 0
    if asked is not None and slots is not None:
        dead = 0 if use.size == 16 and use.noscan else max(use.bytes_used - slots, 0)
        waste = max(use.bytes_used - dead - asked, 0)
    return ClassLoss(**asdict(use), slot_waste=waste, dead_bytes=dead)


# ---- over time ----


def survey_heap(
    source: EventSource, *, samples: int = _SAMPLES, progress: Callable[[int, int], None] | None = None
) -> Fragmentation:
    """Replay a recording and look at its heap at so many times, evenly by rows, and at its end.

    Collections are the record's; what a tracer keeps on the heap is left out. progress: called now and then with (rows
    done, rows in all). Memory: the replay's, 16 bytes an object, and the maps, 16 KB each at most. Raises what
    `replay` raises.
    """
    if samples < 1:
        raise ValueError(f"samples={samples}: give 1 or more")
    every = max(len(source) // samples, 1)
    asked = _Asked(source)
    moments: list[Moment] = []
    maps: list[AddressMap] = []
    peak: Moment | None = None
    with Player(source, follow=source.tier == "exact") as player:
        for part in read_program(source, calibrated=False, keep=False, spread=False).parts():
            for start, stop in _cuts(player.rows, len(part.columns), every):
                rows = part.columns[start:stop]
                player.play(rows)
                asked.add(rows)
                if player.rows % every == 0:
                    moment = _look(player.heap, asked, int(rows.time[-1]))
                    moments.append(moment)
                    maps.append(_map(player.heap, moment.time_ns))
                    peak = moment if peak is None or moment.bytes_in_spans > peak.bytes_in_spans else peak
            if progress:
                progress(min(player.rows, len(source)), len(source))
        end = _look(player.heap, asked, asked.time)
        base = source.arena_base
        maps = [*maps[: samples - 1], _map(player.heap, asked.time)]
    moments = [*moments[: samples - 1], end]
    return Fragmentation(
        sizes="least" if source.tier == "trace" else "exact",
        peak=end if peak is None or end.bytes_in_spans >= peak.bytes_in_spans else peak,
        end=end,
        timeline=tuple((m.time_ns, m.bytes_in_spans, m.lost, m.stack_bytes) for m in moments),
        maps=tuple(maps),
        arena_base=base,
    )


def _cuts(before: int, rows: int, every: int) -> Iterator[tuple[int, int]]:
    """Cut rows wherever their number, from the beginning, is a multiple of `every`."""
    start = 0
    while start < rows:
        stop = min(rows, start + every - (before + start) % every)
        yield start, stop
        start = stop


class _Asked:
    """What the living objects have asked for, and the slots for it, by span class."""

    def __init__(self, source: EventSource) -> None:
        self._source = source
        self._sizes = np.array([t.size for t in source.types] or [0], np.int64)
        self._names = [name_of(t) for t in source.types] or ["(unknown)"]
        self._living = Living(key=np.int64, asked=np.int64, slot=np.int64)
        self._start = StartSizes()
        self.asked, self.slots = (np.zeros((_SPAN_CLASSES, len(self._sizes)), np.int64) for _ in range(2))
        self.time = 0

    def add(self, rows: Columns) -> None:
        """Take in some rows."""
        if not len(rows):
            return
        self.time = int(rows.time[-1])
        self._start.learn(rows)
        alloc = (rows.kind == Event.ALLOC) & ~shares_block(rows, self._source.tier)
        pairs = pair(rows, alloc | (rows.kind == Event.START_OBJECT), rows.kind == Event.DEATH)
        fresh = self._fresh(rows, pairs.births)
        dead = self._living.step(rows, pairs, fresh)
        self._count(fresh, 1)
        self._count(dead, -1)

    def _fresh(self, rows: Columns, born: Ints) -> dict[str, Ints]:
        types = np.where(rows.type[born] < len(self._sizes), rows.type[born], 0).astype(np.int64)
        size = rows.size[born].astype(np.int64)
        of_start = rows.kind[born] == Event.START_OBJECT
        span_class, slot = slot_of(size, rows.flags[born] & 1 == 1)
        started = self._start.of(rows.expect[born[of_start]])
        span_class[of_start], slot[of_start] = started
        size[of_start] = started[1]
        if self._source.tier == "trace":
            size, of_start = slot, np.ones(len(born), bool)
        values = self._sizes[types]
        fits = of_start & (values > 0) & (values <= slot)
        asked = np.where(fits, slot // np.maximum(values, 1) * values, size)
        return {"key": span_class * len(self._sizes) + types, "asked": asked, "slot": slot}

    def _count(self, of: dict[str, Ints], sign: int) -> None:
        self.asked += sign * self._sums(of["key"], of["asked"])
        self.slots += sign * self._sums(of["key"], of["slot"])

    def _sums(self, keys: Ints, amounts: Ints) -> Ints:
        sums = np.bincount(keys, amounts.astype(np.float64), self.asked.size)
        return sums.astype(np.int64).reshape(self.asked.shape)

    def of(self, span_class: int) -> tuple[int, int]:
        """Return the bytes asked for in a span class, and those of the slots."""
        return int(self.asked[span_class].sum()), int(self.slots[span_class].sum())

    def types(self, span_class: int) -> tuple[tuple[str, int], ...]:
        """Return the types with most bytes in a span class."""
        held = self.asked[span_class]
        return tuple(
            (self._names[i], int(held[i])) for i in np.argsort(-held, kind="stable")[:5] if held[i] > 0
        )


def _look(heap: Heap, asked: _Asked, time: int) -> Moment:
    losses, types = [], {}
    for use in class_uses(heap):
        number = _span_class(use)
        wanted, slots = asked.of(number)
        losses.append(_loss(use, wanted, slots))
        types[use.size, use.noscan] = asked.types(number)
    table = spans(heap)
    stacks = table[(table["state"] == 2) & (table["kind"] == SpanKind.STACK)]
    return Moment(time, tuple(losses), int(stacks["pages"].sum()) * PAGE_SIZE, types)


def _span_class(use: ClassUse) -> int:
    return int(np.searchsorted(size_classes()["size"], use.size)) << 1 | use.noscan


def _map(heap: Heap, time: int) -> AddressMap:
    pages = arena_map(heap)
    use = np.where(pages["scavenged"] | pages["padding"], 0, 1).astype(np.uint8)
    if len(pages):
        table = spans(heap)
        _paint(use, pages, table)
    cell = 1
    while len(use) > _MOST_CELLS * cell:
        cell *= 2
    whole = np.concatenate([use, np.zeros(-len(use) % cell, np.uint8)])
    return AddressMap(time, whole.reshape(-1, cell).max(axis=1) if len(whole) else use, cell)


def _paint(use: npt.NDArray[np.uint8], pages: npt.NDArray[np.void], table: npt.NDArray[np.void]) -> None:
    """Enter the use of each span's pages."""
    small = (table["span_class"] >> 1) > 0
    of = np.where(small, np.where(table["span_class"] & 1, 3, 2), 4)
    manual = table["state"] == 2
    of = np.where(manual, np.where(table["kind"] == SpanKind.STACK, 5, 6), of).astype(np.uint8)
    first = ((table["base"] - pages["address"][0]) // PAGE_SIZE).astype(np.int64)
    count = table["pages"].astype(np.int64)
    at = np.repeat(first - np.append(0, np.cumsum(count)[:-1]), count) + np.arange(count.sum())
    inside = at < len(use)
    use[at[inside]] = np.repeat(of, count)[inside]
