"""The heap by Go type over time: who allocates, who lives, for how long, and who is dead before a GC comes by.

All is from a recording's rows, read once. Bytes are those that the recording has: asked for, or of slots where it is
an execution trace. Where deaths are known only to a GC cycle they are spread over it first (`spread_deaths`). Then a
lifetime in bytes is an estimate, one in cycles is what was recorded, and what died after the last mark began is not
known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pymem.analysis.births import Living, StartSizes, pair, shares_block
from pymem.analysis.patterns import name_of
from pymem.analysis.quantiles import Quantiles, Tallies, product_limit
from pymem.program import read_program
from pymem.workload.columns import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from pymem.analysis.births import Pairs
    from pymem.replay import EventSource
    from pymem.workload.columns import Columns
    from pymem.workload.workload import WorkloadType

    Ints = npt.NDArray[np.int64]

__all__ = ["Census", "TypeLife", "census"]

_FINER = 4
"""Buckets of time, at most, for each sample asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class TypeLife:
    """What became of the objects of one type."""

    name: str
    allocated_objects: int
    """While recording; parts of a tiny block count where the recording tells of each."""
    allocated_bytes: int
    live_bytes: npt.NDArray[np.int64]
    """At each of the census' times."""
    live_objects: npt.NDArray[np.int64]
    lifetime_bytes: Quantiles
    """Bytes that the program allocates between an object's birth and its death."""
    lifetime_cycles: Quantiles
    """GC cycles that an object survives."""
    died_young: float
    """Share of the objects dead before their first GC, the first that began after their birth; NaN: none is known."""
    died_young_bytes: float
    """The same share in bytes."""
    largest_bytes: int
    """Of one object allocated while recording."""
    peak_bytes: int
    """The largest sample of live_bytes, of those at which deaths are known (all, if they never are)."""
    last_bytes: int
    """The last of these samples."""


@dataclass(frozen=True, slots=True, eq=False)
class Census:
    """All types of a recording."""

    time_ns: npt.NDArray[np.int64]
    """When the samples were taken: evenly, from shortly after the start to the end, at most as many as asked for."""
    types: tuple[TypeLife, ...]
    """By bytes allocated, most first."""
    duration_ns: int
    """Of the recording; recording slows a program down, so rates per second are too low rather than too high."""
    known_until_ns: int
    """Until when deaths are known; from there on live bytes hold garbage as well."""
    cycles: int
    tier: str
    resolution: str
    tiny_parts: int
    """Objects that joined a tiny block without a row of their own."""

    @property
    def allocated_bytes(self) -> int:
        """Of all types."""
        return sum(t.allocated_bytes for t in self.types)

    @property
    def live_bytes(self) -> npt.NDArray[np.int64]:
        """Of all types, at each time."""
        total = np.zeros(len(self.time_ns), np.int64)
        for type_ in self.types:
            total += type_.live_bytes
        return total

    @property
    def peak_live(self) -> int:
        """The largest sample of live_bytes at which deaths are known, of all types together."""
        return int(self.live_bytes[: _known(self.time_ns, self.known_until_ns)].max(initial=0))

    def rate(self, type_: TypeLife) -> float:
        """Return the bytes of a type allocated a second of recorded time."""
        return type_.allocated_bytes * 1e9 / self.duration_ns if self.duration_ns else 0.0


def census(
    source: EventSource, *, samples: int = 200, progress: Callable[[int, int], None] | None = None
) -> Census:
    """Read a recording once and count its objects by type.

    samples: at most so many times, 1 or more. progress: called now and then with (rows read, rows in all). Memory: a
    cycle's rows, 33 bytes an object alive at once, 64 bytes a type and sample. Raises `RecordingError`.
    """
    if samples < 1:
        raise ValueError(f"samples={samples}: give 1 or more")
    counter = _Counter(source, samples)
    for part in read_program(source, calibrated=False, keep=False).parts():
        counter.add(part.columns)
        if progress:
            progress(min(counter.rows, len(source)), len(source))
    return counter.result()


class _Counter:
    """What the rows so far come to. Types are numbered by name from 0, in the order of the table."""

    def __init__(self, source: EventSource, samples: int) -> None:
        self._source = source
        self._names, self._number = _by_name(source.types)
        n = len(self._names)
        self.rows = 0
        self._objects, self._bytes, self._largest = (np.zeros(n, np.int64) for _ in range(3))
        self._fate = {kind: np.zeros((2, n), np.int64) for kind in ("young", "old")}
        self._living = Living(type=np.int32, size=np.int64, place=np.int64, begins=np.int64)
        self._start = StartSizes()
        self._dead_bytes, self._dead_cycles = Tallies(), Tallies()
        self._timeline = _Timeline(samples, n)
        self._place = self._begins = self._flips = self._tiny = 0
        self._dated = getattr(source, "resolution", "event") == "event"
        self._begun: tuple[int, int] | None = None  # time and place at which the last mark began
        self._known: tuple[int, int] | None = None  # the same, of the last one that has ended

    def add(self, rows: Columns) -> None:
        """Take in some rows."""
        if not len(rows):
            return
        self._start.learn(rows)
        alloc, start = rows.kind == Event.ALLOC, rows.kind == Event.START_OBJECT
        # After a row: bytes allocated so far, cycles begun, marks ended.
        place = self._place + np.cumsum(np.where(alloc, rows.size, 0).astype(np.int64))
        begins = self._begins + np.cumsum(rows.kind == Event.SWEEP_DONE)
        flips = self._flips + np.cumsum(rows.kind == Event.FLIP)
        self._count(rows, np.flatnonzero(alloc))
        lives = (alloc & ~shares_block(rows, self._source.tier)) | start
        pairs = pair(rows, lives, rows.kind == Event.DEATH)
        fresh = self._fresh(rows, pairs, place, begins)
        dead = self._living.step(rows, pairs, fresh)
        self._bury(dead, place[pairs.deaths], flips[pairs.deaths])
        self._timeline.add(rows.time[pairs.births], fresh["type"], fresh["size"], 1)
        self._timeline.add(rows.time[pairs.deaths], dead["type"], dead["size"], -1)
        self._timeline.reach(rows.time)
        self._follow_marks(rows, place)
        self._place, self._begins, self._flips = int(place[-1]), int(begins[-1]), int(flips[-1])
        self._tiny += int(np.count_nonzero(rows.kind == Event.TINY))
        self.rows += len(rows)

    def _follow_marks(self, rows: Columns, place: Ints) -> None:
        for row in np.flatnonzero((rows.kind == Event.SWEEP_DONE) | (rows.kind == Event.FLIP)).tolist():
            if rows.kind[row] == Event.FLIP:
                self._known = self._begun
            else:
                self._begun = int(rows.time[row]), int(place[row])

    def _count(self, rows: Columns, alloc: Ints) -> None:
        types, sizes = self._types(rows, alloc), rows.size[alloc].astype(np.int64)
        self._objects += np.bincount(types, minlength=len(self._names))
        self._bytes += _sums(types, sizes, len(self._names))
        np.maximum.at(self._largest, types, sizes)

    def _types(self, rows: Columns, which: Ints) -> Ints:
        number = rows.type[which].astype(np.int64)
        return self._number[np.where(number < len(self._number), number, 0)]

    def _fresh(
        self, rows: Columns, pairs: Pairs, place: Ints, begins: Ints
    ) -> dict[str, npt.NDArray[np.int64]]:
        born = pairs.births
        size = rows.size[born].astype(np.int64)
        of_start = rows.kind[born] == Event.START_OBJECT
        size[of_start] = self._start.of(rows.expect[born[of_start]])[1]
        return {
            "type": self._types(rows, born),
            "size": size,
            "place": np.where(of_start, -1, place[born]),  # nobody knows when those were born
            "begins": begins[born],
        }

    def _bury(self, dead: dict[str, npt.NDArray[np.int64]], place: Ints, flips: Ints) -> None:
        known = dead["place"] >= 0
        types, sizes = dead["type"][known].astype(np.int64), dead["size"][known]
        survived = np.maximum(flips[known] - dead["begins"][known], 0)
        self._dead_bytes.add(types, place[known] - dead["place"][known])
        self._dead_cycles.add(types, survived)
        self._judge(types, sizes, survived)

    def _judge(self, types: Ints, sizes: Ints, survived: Ints) -> None:
        for kind, mask in (("young", survived == 0), ("old", survived > 0)):
            n = len(self._names)
            self._fate[kind][0] += np.bincount(types[mask], minlength=n)
            self._fate[kind][1] += _sums(types[mask], sizes[mask], n)

    def result(self) -> Census:
        """Count those that still live as living longer than they have, and return it all."""
        living = self._living.all()
        until, end = (self._timeline.last, self._place) if self._dated else self._known or (0, 0)
        known = (living["place"] >= 0) & (living["place"] <= end)
        types = living["type"][known].astype(np.int64)
        survived = np.maximum(self._flips - living["begins"][known], 0)
        more_bytes, more_cycles = Tallies(), Tallies()
        more_bytes.add(types, end - living["place"][known])
        more_cycles.add(types, survived)
        old = survived > 0  # the others may yet die before their first GC
        self._judge(types[old], living["size"][known][old], survived[old])
        time, objects, sizes = self._timeline.result()
        told = _known(time, until)
        seen = (self._objects > 0) | sizes.any(axis=0)
        order = [i for i in np.argsort(-self._bytes, kind="stable").tolist() if seen[i]]
        return Census(
            time_ns=time,
            types=tuple(
                TypeLife(
                    name=self._names[i],
                    allocated_objects=int(self._objects[i]),
                    allocated_bytes=int(self._bytes[i]),
                    live_bytes=np.ascontiguousarray(sizes[:, i]),
                    live_objects=np.ascontiguousarray(objects[:, i]),
                    lifetime_bytes=product_limit(self._dead_bytes.of(i), more_bytes.of(i)),
                    lifetime_cycles=product_limit(self._dead_cycles.of(i), more_cycles.of(i)),
                    died_young=self._young(0, i),
                    died_young_bytes=self._young(1, i),
                    largest_bytes=int(self._largest[i]),
                    peak_bytes=int(sizes[:told, i].max(initial=0)),
                    last_bytes=int(sizes[told - 1, i]) if told else 0,
                )
                for i in order
            ),
            duration_ns=self._timeline.duration,
            known_until_ns=until,
            cycles=self._flips,
            tier=self._source.tier,
            resolution=getattr(self._source, "resolution", "event"),
            tiny_parts=self._tiny,
        )

    def _young(self, what: int, i: int) -> float:
        young, old = int(self._fate["young"][what, i]), int(self._fate["old"][what, i])
        return young / (young + old) if young + old else float("nan")


def _known(time: Ints, until: int) -> int:
    """Return how many samples have all deaths known; all of them, if none has."""
    return int(np.searchsorted(time, until, side="right")) or len(time)


def _by_name(types: Sequence[WorkloadType]) -> tuple[list[str], Ints]:
    """Return the names, each once, and for each type the number of its name."""
    numbers: dict[str, int] = {}
    number = [numbers.setdefault(name_of(t), len(numbers)) for t in types] or [0]
    return list(numbers) or ["(unknown)"], np.array(number, np.int64)


def _sums(keys: Ints, amounts: Ints, n: int) -> Ints:
    """Add amounts up by key. They are exact: no sum passes 2**53, 9 PB."""
    return np.bincount(keys, amounts.astype(np.float64), n).astype(np.int64)


class _Timeline:
    """Living objects and bytes by type over time, in equal buckets that get wider as time goes on."""

    def __init__(self, samples: int, types: int) -> None:
        self._samples = samples
        self._most = samples * _FINER
        self._width = 1
        self._first: int | None = None
        self.last = 0
        """Time of the last row."""
        self._column = np.full(types, -1)  # of a type that has been seen
        self._seen: list[int] = []
        self._delta = np.zeros((2, self._most, 0), np.int64)

    @property
    def duration(self) -> int:
        """Nanoseconds from the first row to the last."""
        return self.last - (self._first or 0)

    def add(self, time: Ints, types: Ints, sizes: Ints, sign: int) -> None:
        """Count births (sign 1) or deaths (-1)."""
        if not len(time):
            return
        self.reach(time)
        columns = self._columns(types)
        bucket = np.maximum(time - (self._first or 0), 0) // self._width
        first, n = int(bucket.min()), len(self._seen)
        buckets = int(bucket.max()) + 1 - first
        keys = (bucket - first) * n + columns
        objects, held = np.bincount(keys, minlength=buckets * n), _sums(keys, sizes, buckets * n)
        for delta, sums in zip(self._delta, (objects, held), strict=True):
            delta[first : first + buckets] += sign * sums.reshape(buckets, n)

    def reach(self, time: Ints) -> None:
        """Make room for rows of these times."""
        if self._first is None:
            self._first = self.last = int(time[0])
        self.last = max(self.last, int(time.max()))
        while (self.last - self._first) // self._width >= self._most:
            halved = self._delta[:, 0::2] + self._delta[:, 1::2]
            self._delta[:, : halved.shape[1]], self._delta[:, halved.shape[1] :] = halved, 0
            self._width *= 2

    def _columns(self, types: Ints) -> Ints:
        new = np.unique(types)
        new = new[self._column[new] < 0]
        if len(new):
            self._column[new] = len(self._seen) + np.arange(len(new))
            self._seen.extend(new.tolist())
            room = np.zeros((2, self._most, len(new)), np.int64)
            self._delta = np.concatenate([self._delta, room], axis=2)
        columns: Ints = self._column[types]
        return columns

    def result(self) -> tuple[Ints, Ints, Ints]:
        """Return times, and by time and type the living objects and bytes."""
        types = len(self._column)
        if self._first is None:
            return np.zeros(0, np.int64), np.zeros((0, types), np.int64), np.zeros((0, types), np.int64)
        buckets = (self.last - self._first) // self._width + 1
        at = np.unique(np.linspace(0, buckets - 1, self._samples + 1).round().astype(np.int64)[1:])
        time = np.minimum(self._first + (at + 1) * self._width - 1, self.last)
        live = np.zeros((2, len(at), types), np.int64)
        live[:, :, self._seen] = np.cumsum(self._delta[:, :buckets], axis=1)[:, at]
        return time, live[0], live[1]
