"""Which settings to use in so much memory.

GOMEMLIMIT is always the container's limit less the headroom: a limit that does not bind costs nothing, and one that
does is what stands between a burst and the OOM killer. What is left to choose is GOGC. Every candidate is predicted;
those that would pass the limit, or live by the limit alone, are out. Of the others it is the one that takes least
processor time, or, where a share of processor time is given, the one that takes least memory within it.

Where none that fits is faster than the one chosen, the next GOGC is predicted without the limit: what more memory would
bring, and how much of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pymem.errors import ConfigError
from pymem.units import NO_LIMIT, format_bytes, format_gogc, go_bytes, parse_memory_limit
from pymem.whatif.scenario import Scenario
from pymem.whatif.sweep import source_for, sweep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pymem.whatif.row import Row

__all__ = ["CANDIDATES", "Recommendation", "recommend"]

CANDIDATES = (25, 35, 50, 70, 100, 140, 200, 280, 400, 560, 800, -1)
"""GOGC, percent: steps of the square root of 2, in each of which the heap's headroom changes by less than half."""
_TOLD = 3
"""Collections: where the recording ends before so many, it does not tell what a program that goes on would need."""
_AS_GOOD = 0.002
"""Of all processor time: who takes no more than this above the least is as good, and then less memory decides."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What to set, what else there is, and why."""

    choice: Row | None
    """None: the program does not fit."""
    thriftier: Row | None
    """The next one that takes less memory; None: there is none that fits."""
    faster: Row | None
    """The next one that takes less processor time; None: there is none that fits."""
    with_more: Row | None
    """Where none that fits is faster: what is, if the program may use `more` bytes. None: `why` says why not."""
    more: int | None
    """Bytes, in whole MiB, headroom included."""
    why: str
    """Three sentences."""
    rows: tuple[Row, ...]
    """All candidates."""

    @property
    def line(self) -> str:
        """What to paste; empty where nothing fits."""
        return settings_line(self.choice) if self.choice else ""


def settings_line(row: Row) -> str:
    """Return a row's settings as a shell sets them."""
    return str(Scenario(row.gogc, row.memory_limit))


def recommend(
    source: Any,
    *,
    limit: int | str,
    max_gc_cpu: float | None = None,
    headroom: float = 0.1,
    candidates: Sequence[int] = CANDIDATES,
    **options: Any,
) -> Recommendation:
    """Search GOGC for a program that may use `limit` bytes.

    Args:
        source: as in `sweep`, like all further options.
        limit: bytes or "2GiB": what the container has.
        max_gc_cpu: fraction of all processor time that collecting may take; None: as little as it can.
        headroom: fraction of the limit that is to stay free, for what Go's runtime does not count (0 to below 1).
        candidates: GOGC, percent, -1 for off.
        **options: draws, seed, costs, calibrate, executor, results, progress.

    Raises ConfigError for limits and fractions that cannot be.

    """
    total, room = _amounts(limit, max_gc_cpu, headroom)
    how = {name: options.get(name) for name in ("costs", "executor")}
    source = source_for(source, calibrate=options.pop("calibrate", None), **how)  # read once
    tell = options.pop("progress", None) or _nobody
    steps = len(candidates) + 1  # with what more memory would bring
    rows = sweep(
        source,
        [Scenario(gogc, room) for gogc in candidates],
        progress=lambda done, _: tell(done, steps),
        **options,
    )
    fit = _fitting(rows, total, room)
    if not fit:
        tell(steps, steps)
        return Recommendation(None, None, None, None, None, _why_not(rows, total, room), rows)
    choice = _best(fit, max_gc_cpu)
    less = [r for r in fit if r.peak_footprint.value < 0.98 * choice.peak_footprint.value]
    quick = [r for r in fit if r.gc_cpu.value < choice.gc_cpu.value - _AS_GOOD]
    thriftier = max(less, key=lambda r: (r.peak_footprint.value, -r.gc_cpu.value), default=None)
    faster = min(quick, key=lambda r: (r.peak_footprint.value, r.gc_cpu.value), default=None)
    roomier = None if faster else _roomier(source, choice, candidates, options)
    tell(steps, steps)
    more, clause = (None, "") if faster else _more(choice, roomier, headroom)
    why = _why(choice, fit, total, room, max_gc_cpu, clause=clause)
    return Recommendation(choice, thriftier, faster, roomier if more else None, more, why, rows)


def _amounts(limit: int | str, max_gc_cpu: float | None, headroom: float) -> tuple[int, int]:
    """Return the limit, and what of it is for Go. Bytes."""
    total = parse_memory_limit(limit)
    if not 0 < total < NO_LIMIT:
        raise ConfigError(f"limit {limit!r}: give the memory that the program may use, such as 2GiB")
    if not 0 <= headroom < 1:
        raise ConfigError(f"headroom {headroom!r}: give a fraction from 0 to below 1, such as 0.1")
    if max_gc_cpu is not None and not 0 < max_gc_cpu <= 1:
        raise ConfigError(f"max_gc_cpu {max_gc_cpu!r}: give a fraction above 0, such as 0.05")
    return total, max(int(total * (1 - headroom)) >> 20 << 20, min(total, 1 << 20))


def _fitting(rows: Sequence[Row], total: int, room: int) -> list[Row]:
    """Return the rows that fit; where the recording is long enough to tell of some, only these."""
    fit = [
        r for r in rows if not r.warning and r.peak_footprint.value <= room and r.peak_footprint.high <= total
    ]
    return [r for r in fit if r.num_gc.value >= _TOLD] or fit


def _nobody(done: int, total: int) -> None:
    pass


def _roomier(source: Any, choice: Row, candidates: Sequence[int], options: dict[str, Any]) -> Row | None:
    """Predict the next GOGC without the limit, or one that is off with twice as much; None: nothing would change."""
    if choice.gc_cpu.value <= _AS_GOOD:
        return None
    next_up = min((g for g in candidates if 0 <= choice.gogc < g), default=-1)
    limit = NO_LIMIT if next_up >= 0 else 2 * choice.memory_limit
    return sweep(source, [Scenario(next_up, limit)], **options)[0]


def _more(choice: Row, roomier: Row | None, headroom: float) -> tuple[int | None, str]:
    """Return the bytes that would do for the roomier settings, if they are worth it, and what to say of them.

    They do where the GOMEMLIMIT that goes with them does not bind.
    """
    if roomier is None:
        return None, "and there is next to nothing left to save"
    if roomier.num_gc.value < _TOLD:
        return None, "and the recording is too short to tell what more memory would bring"
    if roomier.gc_cpu.value >= choice.gc_cpu.value - _AS_GOOD:
        return None, "and more memory would not change that"
    more = math.ceil(roomier.peak_footprint.high / (1 - headroom) / (1 << 20)) << 20
    return (
        more,
        f"but given {go_bytes(more)}, GOGC={format_gogc(roomier.gogc)} would take {roomier.gc_cpu.value:.1%}",
    )


def _best(fit: Sequence[Row], max_gc_cpu: float | None) -> Row:
    within = [r for r in fit if max_gc_cpu is not None and r.gc_cpu.value <= max_gc_cpu]
    if not within:
        least = min(r.gc_cpu.value for r in fit)
        within = [r for r in fit if r.gc_cpu.value <= least + _AS_GOOD]
    return min(within, key=lambda r: (r.peak_footprint.value, r.gc_cpu.value))


def _why(
    choice: Row, fit: Sequence[Row], total: int, room: int, max_gc_cpu: float | None, *, clause: str
) -> str:
    memory, cpu = choice.peak_footprint, choice.gc_cpu
    first = (
        f"The peak footprint is {format_bytes(int(memory.value))} ({format_bytes(int(memory.low))} to"
        f" {format_bytes(int(memory.high))}), {memory.value / total:.0%} of {format_bytes(total)}, and collecting takes"
        f" {cpu.value:.1%} of the CPU (collections: {choice.num_gc.value:.0f})."
    )
    if max_gc_cpu is not None and cpu.value > max_gc_cpu:
        second = f"Nothing that fits takes as little as the {max_gc_cpu:.1%} asked for: this takes least"
    elif max_gc_cpu is not None:
        second = f"Of all that take at most {max_gc_cpu:.1%} it needs least memory"
    else:
        second = f"Of {len(fit)} settings that fit none takes noticeably less of it"
    third = (
        f"GOMEMLIMIT leaves {format_bytes(total - room)} to what Go does not count, and makes the collector work harder"
        " before the container is killed."
    )
    if choice.num_gc.value < _TOLD:
        third = (
            f"The recording ends after {choice.num_gc.value:.0f} collections under these settings, so it does not tell"
            " what a program that goes on would need: record for longer."
        )
    return f"{first} {second}{', ' if clause else ''}{clause}. {third}"


def _why_not(rows: Sequence[Row], total: int, room: int) -> str:
    least = min(rows, key=lambda r: r.peak_footprint.value)
    live = max(r.live_heap.value for r in rows)
    return (
        f"Nothing fits: with {go_bytes(room)} for the heap the least peak footprint is"
        f" {format_bytes(int(least.peak_footprint.value))} (GOGC={format_gogc(least.gogc)}), and"
        f" collecting takes {least.gc_cpu.value:.0%} of the CPU. {format_bytes(int(live))} live on the heap."
        f" Give the program more than {format_bytes(total)}, or have it keep less."
    )
