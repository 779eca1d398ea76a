"""The three classic troubles of a Go heap, each found by a rule, with its figures and the usual remedies.

A rule is a threshold on figures that a recording or a rerun of it has; docs/doctor.md says why each is where it is.
What a rule cannot judge, since the recording is too short, is said and is no finding. Rules by trouble:

    memory      growth, large-objects, stacks, pools, fragmentation
    frequency   frequent-gc, with its cause: the memory limit, Go's least heap, or GOGC
    churn       churn
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pymem.analysis.census import Census, TypeLife, census
from pymem.analysis.fragmentation import Fragmentation, survey_heap
from pymem.program import Program, read_program
from pymem.rerun import rerun
from pymem.units import NO_LIMIT, format_bytes
from pymem.whatif.figures import Figures, figures

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from pymem.replay import EventSource
    from pymem.rerun import Rerun

    Ints = npt.NDArray[np.int64]

__all__ = ["RULES", "Diagnosis", "Evidence", "Finding", "diagnose", "judge"]

MB = 1 << 20

START_UP = 1 / 3
"""Of the time, in which a program may grow as it likes."""
GROWTH_SHARE, GROWTH_BYTES = 0.2, MB
"""Growth of the live heap after start-up, of its mean and in bytes, from which on it is growth."""
STILL = 0.5
"""The last quarter must have grown by so much of what a quarter grows on average: it has not levelled off."""
LEAST_SAMPLES = 16
LARGE_SHARE, LARGE_BYTES = 0.5, 16 * MB
STACK_SHARE, STACK_BYTES = 0.25, 8 * MB
RING_SLOTS = 1024
"""Slots of a sync.Pool's ring; it doubles when it is full, so half of them have been idle objects at once."""
RING_SLOT = 16
LOST_SHARE, LOST_BYTES = 0.25, 8 * MB
FREQUENT_CPU, CHURN_CPU = 0.10, 0.05
"""Shares of all processor time."""
LEAST_CYCLES = 8
"""Fewer tell nothing of a rate: real runs differ by a cycle or two."""
YOUNG_SHARE, TURNOVER, CULPRIT = 0.8, 10.0, 0.1
LEAST_HEAP = 4 * MB
"""Go's least heap goal at GOGC=100."""

_TRACERS = {"runtime.traceFrame"}
"""Types of the tracer's tables of stacks. Go: makeTraceFrames."""

RULES = {
    "growth": "memory",
    "large-objects": "memory",
    "stacks": "memory",
    "pools": "memory",
    "fragmentation": "memory",
    "frequent-gc": "frequency",
    "churn": "churn",
}
"""Each rule's trouble."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A trouble that a rule found."""

    rule: str
    sentence: str
    figures: dict[str, Any]
    """What the rule went by. Bytes, nanoseconds, shares from 0 to 1."""
    types: tuple[tuple[str, int], ...]
    """Suspects: types and bytes, most first; of what, the sentence says."""
    remedies: tuple[str, ...]

    @property
    def trouble(self) -> str:
        """`memory`, `frequency` or `churn`."""
        return RULES[self.rule]


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What rules go by."""

    census: Census
    heap: Fragmentation
    run: Rerun
    """Under the settings asked for."""
    gentler: Rerun | None
    """With GOGC doubled, or the limit where collections come from that; None where there is no need to know."""

    @property
    def told(self) -> Figures:
        """The run's figures."""
        return figures(self.run)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found; nothing to do if that is nothing."""

    gogc: int
    memory_limit: int
    gomaxprocs: int
    findings: tuple[Finding, ...]
    unjudged: tuple[str, ...]
    """What the recording is too short to tell, in sentences."""
    figures: dict[str, Any]
    """What the rules looked at, found or not."""


def diagnose(
    source: EventSource,
    *,
    gogc: int | str | None = 100,
    memory_limit: int | str | None = None,
    gomaxprocs: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Diagnosis:
    """Look for the classic troubles in a recording, as it would run under these settings (`rerun`'s).

    progress: called now and then with (rows done, rows of all passes). Raises what `rerun` and `census` raise.
    """
    parts = 4
    program = read_program(source)
    settings: dict[str, Any] = {"memory_limit": memory_limit, "gomaxprocs": gomaxprocs}
    run = rerun(program, gogc=gogc, progress=_part_of(progress, 0, parts), **settings)
    evidence = Evidence(
        census=census(source, progress=_part_of(progress, 1, parts)),
        heap=survey_heap(source, progress=_part_of(progress, 2, parts)),
        run=run,
        gentler=_gentler(program, run, _part_of(progress, 3, parts), settings),
    )
    return judge(evidence)


def _part_of(
    progress: Callable[[int, int], None] | None, part: int, parts: int
) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(part * total + done, parts * total)


def _gentler(program: Program, run: Rerun, progress: Any, settings: dict[str, Any]) -> Rerun | None:
    """Where collections are so dear that it matters, run with twice the limit, or the GOGC, that they come from."""
    if figures(run).gc_cpu < FREQUENT_CPU:
        return None
    if _limited(run):
        limit = min(2 * run.memory_limit, NO_LIMIT)
        return rerun(program, gogc=run.gogc, progress=progress, **{**settings, "memory_limit": limit})
    if run.gogc <= 0:
        return None
    return rerun(program, gogc=2 * run.gogc, progress=progress, **settings)


def _limited(run: Rerun) -> bool:
    """Say whether it is the memory limit that collections come from."""
    return run.memory_limit < NO_LIMIT and (run.gogc < 0 or figures(run).effective_gogc < run.gogc / 2)


def judge(evidence: Evidence) -> Diagnosis:
    """Apply all rules."""
    rules = (_growth, _large_objects, _stacks, _pools, _fragmentation, _frequent_gc, _churn)
    found = [finding for rule in rules if (finding := rule(evidence))]
    run, told, c = evidence.run, evidence.told, evidence.census
    return Diagnosis(
        gogc=run.gogc,
        memory_limit=run.memory_limit,
        gomaxprocs=run.gomaxprocs,
        findings=tuple(found),
        unjudged=tuple(_unjudged(evidence)),
        figures={
            "gc_cpu": told.gc_cpu,
            "num_gc": len(run.cycles),
            "peak_heap": run.peak_heap,
            "peak_footprint": told.peak_footprint,
            "peak_live": c.peak_live,
            "allocated_bytes": c.allocated_bytes,
            "bytes_per_second": _rate(evidence),
            "died_young_bytes": _young_share(c),
            "sawtooth": _sawtooth(run),
            "lost": evidence.heap.peak.lost,
            "bytes_in_spans": evidence.heap.peak.bytes_in_spans,
            "stack_bytes": _peak_stacks(evidence.heap),
        },
    )


def _unjudged(evidence: Evidence) -> list[str]:
    out = []
    cycles = len(evidence.run.cycles)
    if 0 < cycles < LEAST_CYCLES:
        out.append(
            f"only {cycles} GC cycle{'s' * (cycles != 1)} under these settings: collections and churn are not judged"
            f" below {LEAST_CYCLES}; record for longer"
        )
    if len(_window(evidence.census)) < LEAST_SAMPLES:
        out.append("the recording is too short to tell whether the live heap grows")
    return out


# ---- memory use too high ----


def _window(c: Census) -> Ints:
    """Return the samples after start-up of which deaths are known."""
    if not len(c.time_ns):
        return np.zeros(0, np.int64)
    first = int(c.time_ns[-1]) - c.duration_ns
    known = c.time_ns <= c.known_until_ns
    start = first + (c.known_until_ns - first) * START_UP
    return np.flatnonzero(known & (c.time_ns > start))


def _floors(live: Ints) -> Ints:
    """Return the least of each quarter: what is never let go, whatever comes and goes in between."""
    return np.array([part.min() for part in np.array_split(live, 4)])


def _grows(live: Ints) -> bool:
    """Say whether the floors rise from each quarter to the next, and go on doing so in the last one."""
    rise = np.diff(_floors(live))
    first, second = np.array_split(np.array_split(live, 4)[-1], 2)
    step = STILL * rise.mean()
    return bool((rise > 0).all() and rise[-1] >= step and second.min() - first.min() >= step / 2)


def _growth_of(live: Ints) -> int:
    """Return by how much the floor rises over all: between four quarters it is three quarters of that."""
    floors = _floors(live)
    return int(floors[-1] - floors[0]) * 4 // 3


def _growth(evidence: Evidence) -> Finding | None:
    """Live heap growing cycle over cycle."""
    c = evidence.census
    window = _window(c)
    if len(window) < LEAST_SAMPLES:
        return None
    live = c.live_bytes[window]
    floors = _floors(live)
    growth, mean = _growth_of(live), float(live.mean())
    if not _grows(live) or growth < max(GROWTH_BYTES, GROWTH_SHARE * mean):
        return None
    suspects = [
        (t.name, _growth_of(t.live_bytes[window])) for t in _programs_own(c) if _grows(t.live_bytes[window])
    ]
    suspects = sorted((s for s in suspects if s[1] > 0), key=lambda s: -s[1])[:5]
    seconds = (int(c.time_ns[window[-1]]) - int(c.time_ns[window[0]])) / 1e9
    names = f"; {suspects[0][0]} grows most, by {format_bytes(suspects[0][1])}" if suspects else ""
    return Finding(
        rule="growth",
        sentence=(
            f"The live heap grows all along: by {format_bytes(growth)} in {seconds:.3g} s after start-up{names}. If the"
            " program is meant to be in a steady state, that is a leak."
        ),
        figures={
            "growth_bytes": growth,
            "mean_live": round(mean),
            "seconds": seconds,
            "floors": floors.tolist(),
        },
        types=tuple(suspects),
        remedies=(
            "see who keeps the suspects: a map or slice that only grows, a global cache without a bound, goroutines "
            "that never end (`go tool pprof` on two heap profiles, with -diff_base)",
            "give caches a bound or a time to live; delete from maps, and make a map that was once large anew",
        ),
    )


def _large_objects(evidence: Evidence) -> Finding | None:
    peak = evidence.heap.peak
    large = sum(c.bytes_in_spans for c in peak.classes if c.size == 0)
    if large < max(LARGE_BYTES, LARGE_SHARE * peak.bytes_in_spans):
        return None
    held: dict[str, int] = {}
    for name, size in (t for noscan in (False, True) for t in peak.types.get((0, noscan), ())):
        held[name] = held.get(name, 0) + size
    types = sorted(held.items(), key=lambda t: -t[1])
    return Finding(
        rule="large-objects",
        sentence=(
            f"Objects above 32 KB hold {format_bytes(large)} of the {format_bytes(peak.bytes_in_spans)} at the heap's "
            "fullest: each has pages of its own, and is zeroed anew."
        ),
        figures={"large_bytes": large, "bytes_in_spans": peak.bytes_in_spans},
        types=tuple(types[:5]),
        remedies=(
            "make slices and buffers as large as they will be (make with a capacity): append leaves the smaller ones "
            "behind as garbage",
            "reuse large buffers, or work on a stream in pieces instead of on the whole",
        ),
    )


def _peak_stacks(heap: Fragmentation) -> int:
    return max((stacks for _, _, _, stacks in heap.timeline), default=0)


def _stacks(evidence: Evidence) -> Finding | None:
    stacks, inside = max(((s, held) for _, held, _, s in evidence.heap.timeline), default=(0, 0))
    if stacks < max(STACK_BYTES, STACK_SHARE * (stacks + inside)):
        return None
    return Finding(
        rule="stacks",
        sentence=(
            f"Goroutine stacks hold {format_bytes(stacks)}, beside {format_bytes(inside)} of objects: about "
            f"{stacks // 2048:,} goroutines of 2 KB, or fewer with deep stacks."
        ),
        figures={"stack_bytes": stacks, "bytes_in_spans": inside},
        types=(),
        remedies=(
            "bound the number of goroutines (a semaphore, errgroup.SetLimit, a pool of workers)",
            "look for goroutines that wait for ever (`pprof` goroutine profile)",
            "keep large arrays and deep recursion out of goroutines that there are many of",
        ),
    )


def _pools(evidence: Evidence) -> Finding | None:
    """Look at the largest ring of a sync.Pool: it begins with 8 slots and doubles when it is full. Go: pushHead."""
    ring = next((t for t in evidence.census.types if t.name == "sync.eface"), None)
    slots = ring.largest_bytes // RING_SLOT if ring else 0
    if ring is None or slots < RING_SLOTS:
        return None
    return Finding(
        rule="pools",
        sentence=(
            f"A sync.Pool has a ring of {slots:,} slots, so at least {slots // 2:,} objects lay in it idle at once: "
            "they stay for up to two GC cycles."
        ),
        figures={"ring_slots": slots, "idle_objects": slots // 2, "rings_bytes": ring.peak_bytes},
        types=((ring.name, ring.peak_bytes),),
        remedies=(
            "do not put back what a burst needed: drop objects above a usual size before Put",
            "pool fewer and smaller things; a bounded free list (a channel) keeps as many as you say",
        ),
    )


def _fragmentation(evidence: Evidence) -> Finding | None:
    peak = max(evidence.heap.peak, evidence.heap.end, key=lambda moment: moment.lost)
    if peak.lost < max(LOST_BYTES, LOST_SHARE * peak.bytes_in_spans):
        return None
    worst = peak.worst
    assert worst is not None
    return Finding(
        rule="fragmentation",
        sentence=(
            f"{format_bytes(peak.lost)} of {format_bytes(peak.bytes_in_spans)} in spans hold no object. {peak.advice()}"
        ),
        figures={"lost": peak.lost, "bytes_in_spans": peak.bytes_in_spans, "class_size": worst.size,
                 "class_noscan": worst.noscan, "class_lost": worst.lost},
        types=peak.types.get((worst.size, worst.noscan), ()),
        remedies=_LOST_REMEDIES["slot_waste" if (worst.slot_waste or 0) > worst.partial_bytes else "partial_bytes"],
    )  # fmt: skip


_LOST_REMEDIES = {
    "slot_waste": (
        "reorder or shrink the fields, so that values fit a smaller size class (`pymem types --resize` tries it)",
        "of slices: ask for a capacity that fills a size class",
    ),
    "partial_bytes": (
        "allocate what lives long together, and apart from what does not: in slices of many, or before the rest",
        "after a burst: copy what is left into new objects once, so that the old spans come free",
    ),
}


# ---- collections too frequent, churn ----


def _rate(evidence: Evidence) -> float:
    """Return bytes allocated a second of the program's own time."""
    ns = evidence.run.virtual_ns
    return evidence.census.allocated_bytes * 1e9 / ns if ns else 0.0


def _frequent_gc(evidence: Evidence) -> Finding | None:
    run, told = evidence.run, evidence.told
    if len(run.cycles) < LEAST_CYCLES or told.gc_cpu < FREQUENT_CPU:
        return None
    goals = np.array([c.start_goal for c in run.cycles], float)
    least = LEAST_HEAP * run.gogc / 100 if run.gogc > 0 else 0.0
    figures_: dict[str, Any] = {
        "gc_cpu": told.gc_cpu,
        "num_gc": len(run.cycles),
        "cycles_per_second": len(run.cycles) * 1e9 / max(run.virtual_ns, 1),
        "median_goal": float(np.median(goals)),
        "effective_gogc": told.effective_gogc if np.isfinite(told.effective_gogc) else None,
        "bytes_per_second": _rate(evidence),
    }
    if _limited(run):
        cause = f"the memory limit leaves no more room than GOGC={max(told.effective_gogc, 0):.0f} would"
        remedies = ["raise GOMEMLIMIT, or need less memory: near the limit each byte of garbage costs a mark"]
    elif np.median(goals) <= least * 1.05:
        cause = f"the heap is at Go's least size, {format_bytes(round(least))} at this GOGC"
        remedies = ["raise GOGC: a heap this small can be many times larger and cost nothing that matters"]
    else:
        cause = f"at GOGC={run.gogc} the live heap of {format_bytes(round(told.marked_bytes / len(run.cycles)))} is"
        cause += " soon doubled" if run.gogc == 100 else " soon outgrown"
        remedies = ["raise GOGC, with a GOMEMLIMIT as the bound (`pymem recommend`)"]
    if evidence.gentler is not None:
        other = figures(evidence.gentler)
        setting = f"GOGC={evidence.gentler.gogc}"
        if _limited(run):
            setting = f"GOMEMLIMIT={evidence.gentler.memory_limit >> 20}MiB"
        figures_ |= {
            "doubled": {"setting": setting, "gc_cpu": other.gc_cpu, "peak_footprint": other.peak_footprint}
        }
        remedies.append(
            f"{setting} would take {other.gc_cpu:.1%} of the CPU instead of {told.gc_cpu:.1%}, and "
            f"{format_bytes(round(other.peak_footprint))} instead of {format_bytes(round(told.peak_footprint))}"
        )
    remedies.append("allocate less: the types below allocate most")
    return Finding(
        rule="frequent-gc",
        sentence=(
            f"Collecting takes {told.gc_cpu:.1%} of the CPU, {figures_['cycles_per_second']:.3g} cycles a second: "
            f"{cause}. The program allocates {format_bytes(round(_rate(evidence)))} a second."
        ),
        figures=figures_,
        types=tuple((t.name, t.allocated_bytes) for t in _programs_own(evidence.census)[:3]),
        remedies=tuple(remedies),
    )


def _programs_own(c: Census) -> list[TypeLife]:
    """Return the types without those that only a trace's recorder allocates, by bytes allocated."""
    return [t for t in c.types if c.tier != "trace" or t.name not in _TRACERS]


def _young_bytes(t: TypeLife) -> float:
    return t.allocated_bytes * t.died_young_bytes if np.isfinite(t.died_young_bytes) else 0.0


def _young_share(c: Census) -> float:
    """Return the share of all bytes that die before their first GC, by types of which it is known."""
    known = sum(t.allocated_bytes for t in c.types if np.isfinite(t.died_young_bytes))
    return sum(_young_bytes(t) for t in c.types) / known if known else 0.0


def _sawtooth(run: Rerun) -> float:
    """Return how many times the marked heap the heap is when a mark ends: the median over cycles, 0 without one."""
    return float(np.median([c.heap1 / c.heap2 for c in run.cycles if c.heap2] or [0.0]))


def _churn(evidence: Evidence) -> Finding | None:
    c, run, told = evidence.census, evidence.run, evidence.told
    peak, share = c.peak_live, _young_share(c)
    turnover = c.allocated_bytes / peak if peak else 0.0
    if (
        len(run.cycles) < LEAST_CYCLES
        or told.gc_cpu < CHURN_CPU
        or share < YOUNG_SHARE
        or turnover < TURNOVER
    ):
        return None
    young = sum(_young_bytes(t) for t in c.types)
    culprits = sorted(((t.name, round(_young_bytes(t))) for t in _programs_own(c)), key=lambda t: -t[1])
    culprits = [(name, amount) for name, amount in culprits[:5] if amount >= CULPRIT * young]
    if not culprits:
        return None
    return Finding(
        rule="churn",
        sentence=(
            f"{share:.0%} of all bytes die before their first GC, and the program allocates {turnover:,.0f} times what "
            f"it ever holds; the heap swings by a factor of {_sawtooth(run):.1f}. "
            f"{culprits[0][0]} makes up {culprits[0][1] / young:.0%} of these bytes, more than any other type."
        ),
        figures={
            "died_young_bytes": share,
            "turnover": turnover,
            "sawtooth": _sawtooth(run),
            "gc_cpu": told.gc_cpu,
        },
        types=tuple(culprits),
        remedies=_churn_remedies(culprits),
    )


def _churn_remedies(culprits: Sequence[tuple[str, int]]) -> tuple[str, ...]:
    named = [name for name, _ in culprits if not name.startswith("(")]
    pool = (f"try a sync.Pool before you write it: `pymem types FILE --pool '{named[0]}'`",) if named else ()
    return (
        *pool,
        "keep short-lived values on the stack (`go build -gcflags=-m` says what escapes), or reuse a buffer",
        "make fewer and larger allocations: slices with a capacity, strings.Builder with Grow",
    )
