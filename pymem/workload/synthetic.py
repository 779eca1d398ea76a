"""Made-up programs: sizes and lifetimes drawn from distributions, as workloads or as endless streams.

Every generator takes `rng=`: the same seed gives the same workload, byte for byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from pymem.workload.columns import Columns, Event
from pymem.workload.workload import ARENA_BASE, Workload, WorkloadType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]

__all__ = [
    "LAB",
    "LabProgram",
    "Stream",
    "exponential",
    "geometric_sizes",
    "mixture",
    "steady",
    "uniform_sizes",
]


class Draw(Protocol):
    """A distribution: give it a generator and a number, and it returns that many whole numbers."""

    def __call__(self, rng: np.random.Generator, n: int, /) -> Ints: ...


def uniform_sizes(low: int, high: int) -> Draw:
    """Return sizes from `low` to `high` bytes, all equally likely."""
    return lambda rng, n: rng.integers(low, high + 1, n)


def geometric_sizes(mean: float, *, most: int = 1 << 20) -> Draw:
    """Return sizes of 1 byte and more that fall off exponentially, as those of real programs do; none above `most`."""
    return lambda rng, n: np.minimum(rng.geometric(1 / mean, n), most)


def exponential(mean: float) -> Draw:
    """Return lifetimes (in allocations) that fall off exponentially."""
    return lambda rng, n: rng.exponential(mean, n).astype(np.int64)


def mixture(*parts: tuple[float, Draw]) -> Draw:
    """Return draws from several distributions: (weight, distribution) each. A lifetime of -1 never ends."""
    weights = np.array([weight for weight, _ in parts])

    def draw(rng: np.random.Generator, n: int) -> Ints:
        which = rng.choice(len(parts), n, p=weights / weights.sum())
        choices = np.stack([part(rng, n) for _, part in parts])
        chosen: Ints = choices[which, np.arange(n)]
        return chosen

    return draw


def forever(_: np.random.Generator, n: int) -> Ints:
    """Return lifetimes that never end."""
    return np.full(n, -1)


def steady(
    n: int,
    *,
    sizes: Draw | None = None,
    lifetimes: Draw | None = None,
    noscan: float = 0.5,
    gc_every: int = 0,
    procs: int = 1,
    rng: np.random.Generator | int = 0,
) -> Workload:
    """Return a program of `n` allocations with a steady mix of sizes and lifetimes.

    noscan: part of the objects without pointers. gc_every: a full collection after so many allocations, 0: none.
    procs: each allocation goes to a random P of so many. Raises `ValueError`.
    """
    rng = np.random.default_rng(rng)
    return Workload.from_arrays(
        (sizes or geometric_sizes(64))(rng, n),
        noscan=rng.random(n) < noscan,
        lifetimes=(lifetimes or exponential(1000))(rng, n),
        procs=rng.integers(0, procs, n),
        gc_every=gc_every,
        tier="synthetic",
    )


_USUAL_SIZES = geometric_sizes(64)


@dataclass(frozen=True, slots=True)
class Stream:
    """A program of any length whose events are made as they are needed: it replays in memory that does not grow.

    Objects live in `live` places; every allocation takes a random place and drops what was there, so at most `live`
    objects are alive, and the handles of the dead are used again.
    """

    n: int
    """Events in all, about: allocations, the deaths they cause, collections."""
    live: int = 100_000
    sizes: Draw = _USUAL_SIZES
    noscan: float = 0.5
    gc_every: int = 200_000
    """A full collection after so many allocations; 0: none."""
    seed: int = 0
    types: tuple[WorkloadType, ...] = (WorkloadType("", 0, 0),)
    arena_base: int = ARENA_BASE
    padding_pages: int = 0
    tier: str = "synthetic"
    procs: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.gc_every, (int, np.integer)) or self.gc_every < 0:
            raise ValueError(f"gc_every {self.gc_every!r}: give a whole number of allocations, 0 for none")

    def __len__(self) -> int:
        return self.n

    def chunks(self, size: int = 1 << 20) -> Iterator[Columns]:
        """Yield the events, at most `size` at a time; which they are does not depend on it."""
        for part in self._parts():
            for start in range(0, len(part), size):
                yield part[start : start + size]

    def _parts(self) -> Iterator[Columns]:
        """Yield the events between collections, each collection with what is before it."""
        rng = np.random.default_rng(self.seed)
        filled = np.zeros(self.live, bool)
        made = done = 0
        while done < self.n:
            births = min(self.gc_every - made % self.gc_every, _PART) if self.gc_every else _PART
            made += births
            collects = self.gc_every > 0 and made % self.gc_every == 0
            rows = _stream_rows(self, rng, births, filled, first=done, collects=collects)
            done += len(rows)
            yield rows[: self.n - (done - len(rows))]


_PART = 1 << 16
"""Allocations drawn at a time; another number draws another program."""

_COLLECTION = (Event.SWEEP_DONE, Event.FLIP, Event.FLUSH, Event.GC_END, Event.SWEEP_ALL)


def _stream_rows(
    stream: Stream,
    rng: np.random.Generator,
    births: int,
    filled: npt.NDArray[np.bool_],
    *,
    first: int,
    collects: bool,
) -> Columns:
    """Make the rows from number `first` on: `births` allocations, each after the death of what had its place."""
    collection = _COLLECTION if collects else ()
    place = rng.integers(0, stream.live, births)
    order = np.argsort(place, kind="stable")
    again = np.zeros(births, bool)
    again[order[1:]] = place[order[1:]] == place[order[:-1]]
    dies = again | filled[place]
    filled[place] = True
    head = 0 if first else 1  # the one processor is started first
    where = head + np.arange(births) + np.cumsum(dies)  # row of each birth; its death is the row before
    total = head + births + int(dies.sum()) + len(collection)
    columns: dict[str, Any] = {
        name: np.zeros(total, np.uint64) for name in ("object", "size", "type", "goroutine", "expect")
    }
    columns |= {"kind": np.full(total, int(Event.DEATH), np.uint8), "flags": np.zeros(total, np.uint8),
                "proc": np.zeros(total, np.int16)}  # fmt: skip
    if head:
        columns["kind"][0], columns["proc"][0] = int(Event.PROC_NEW), -1
    columns["kind"][where] = int(Event.ALLOC)
    columns["object"][where] = place
    columns["object"][where[dies] - 1] = place[dies]
    columns["size"][where] = stream.sizes(rng, births)
    columns["flags"][where] = rng.random(births) < stream.noscan
    if collection:
        columns["kind"][-len(collection) :] = [int(kind) for kind in collection]
        columns["flags"][-2] = 1  # GC_END: asked for
    return Columns(time=np.arange(first, first + total), **columns)


# ---- the laboratory ----


class LabProgram(NamedTuple):
    """A built-in program for `pymem lab`."""

    description: str
    make: Callable[[], Workload]


def _churn() -> Workload:
    return steady(500_000, lifetimes=exponential(200), gc_every=50_000)


def _leak() -> Workload:
    return steady(300_000, lifetimes=mixture((0.9, exponential(200)), (0.1, forever)), gc_every=30_000)


def _fragmentation() -> Workload:
    """Fill, then drop all but every 64th object: most spans keep one."""
    n = 200_000
    life = np.where(np.arange(n) % 64 == 0, -1, n - 1 - np.arange(n))
    tail = 50_000
    sizes = np.concatenate([np.full(n, 64), np.full(tail, 96)])
    life = np.concatenate([life, np.full(tail, -1)])
    return Workload.from_arrays(sizes, noscan=True, lifetimes=life, gc_every=n + 1000, tier="synthetic")


def _tiny() -> Workload:
    return steady(
        500_000, sizes=uniform_sizes(1, 15), noscan=1.0, lifetimes=exponential(1000), gc_every=100_000
    )


def _large() -> Workload:
    return steady(2_000, sizes=uniform_sizes(32_768, 1 << 20), lifetimes=exponential(50), gc_every=200)


def _two_procs() -> Workload:
    return steady(500_000, procs=2, gc_every=100_000)


LAB: dict[str, LabProgram] = {
    "churn": LabProgram("short-lived objects: most die before the next collection", _churn),
    "leak": LabProgram("one object in ten is never dropped", _leak),
    "fragmentation": LabProgram(
        "all but every 64th object die: spans stay for one slot each", _fragmentation
    ),
    "tiny": LabProgram("objects below 16 bytes without pointers share blocks", _tiny),
    "large": LabProgram("objects above 32 KB: a span each", _large),
    "procs": LabProgram("two Ps allocate by turns, each from its own spans", _two_procs),
}
