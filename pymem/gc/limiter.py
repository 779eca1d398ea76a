"""The limit on the collector's share of processor time, 50 %: when memory is short, the program still gets on.

A bucket fills with the collector's CPU time and leaks with the program's. At 50 % of each it stays as it is; above, it
fills up, and once it is full nobody assists and nobody gives memory back for the limit's sake. Its capacity is the
collector's only leeway: one CPU second a P. It is never below empty, so that an idle day earns nothing.

Go guards it with a lock that is only ever tried; whoever fails leaves their time to the next update. Here one thread
owns all, and the lock is down to one case: while the world is stopped for a transition, updates do nothing.

Times are nanoseconds of the virtual clock, or CPU nanoseconds: of one P. Go: mgclimit.go.
"""

from __future__ import annotations

from enum import IntEnum

from pymem.errors import CorruptHeapError
from pymem.gc.controller import BACKGROUND_UTILIZATION
from pymem.gc.gonumbers import to_int64

__all__ = ["CAPACITY_PER_PROC", "UPDATE_PERIOD", "GCCPULimiter", "LimiterEvent", "LimiterEventType"]

CAPACITY_PER_PROC = 1_000_000_000
"""CPU nanoseconds that the bucket holds for each P. Go: capacityPerProc."""
UPDATE_PERIOD = 10_000_000
"""Nanoseconds after which an update is due. Go: gcCPULimiterUpdatePeriod."""


class LimiterEventType(IntEnum):
    """What a P does that the limiter has to know. Go: limiterEventType."""

    NONE = 0
    IDLE_MARK_WORK = 1
    MARK_ASSIST = 2
    SCAVENGE_ASSIST = 3
    IDLE = 4


_IDLE = (LimiterEventType.IDLE, LimiterEventType.IDLE_MARK_WORK)


class LimiterEvent:
    """What one P does, and since when. Go: limiterEvent.

    Go packs both into a word that has 61 bits for the time, and loses an event that spans 2**61 ns (73 years).
    """

    __slots__ = ("kind", "since")

    def __init__(self) -> None:
        self.kind = LimiterEventType.NONE
        self.since = 0
        """Time of the start, or when an update last counted it. 0 with NONE."""

    def start(self, kind: LimiterEventType, now: int) -> bool:
        """Begin. No if something is on already: a P's time is counted once."""
        if self.kind is not LimiterEventType.NONE:
            return False
        self.kind, self.since = kind, now
        return True

    def consume(self, now: int) -> tuple[LimiterEventType, int]:
        """Return what is on and its nanoseconds up to now, and count on from here; NONE where the clock stood still."""
        duration = now - self.since
        if self.kind is LimiterEventType.NONE or duration <= 0:
            return LimiterEventType.NONE, 0
        self.since = now
        return self.kind, duration

    def stop(self, kind: LimiterEventType, now: int) -> int:
        """End it and return its nanoseconds since it was last counted."""
        if self.kind is not kind:
            raise CorruptHeapError(
                f"limiterEvent.stop: found wrong event in p's limiter event slot: want={kind} got={self.kind}"
            )
        since, self.kind, self.since = self.since, LimiterEventType.NONE, 0
        return max(now - since, 0)


class GCCPULimiter:
    """The leaky bucket. Go: gcCPULimiterState.

    0 <= fill <= capacity always.

    Args:
        now: the time.
        nprocs: GOMAXPROCS.

    """

    __slots__ = (
        "_enabled",
        "assist_time_pool",
        "capacity",
        "events",
        "fill",
        "gc_enabled",
        "idle_time",
        "idle_time_pool",
        "last_enabled_cycle",
        "last_update",
        "nprocs",
        "num_gc",
        "overflow",
        "transitioning",
    )

    def __init__(self, now: int, nprocs: int) -> None:
        self._enabled = False
        self.gc_enabled = False
        """Whether marking is on; background workers' share counts while it is. Writer: start_gc_transition."""
        self.transitioning = False
        """Whether the world is stopped for a transition."""
        self.fill = 0
        """CPU nanoseconds in the bucket."""
        self.capacity = 0
        """CPU nanoseconds, CAPACITY_PER_PROC a P. Writer: reset_capacity."""
        self.overflow = 0
        """CPU nanoseconds of the collector that did not fit, since the start."""
        self.assist_time_pool = 0
        """CPU nanoseconds of assists since the last update. Writer: add_assist_time."""
        self.idle_time_pool = 0
        """CPU nanoseconds of Ps idle, or marking for being idle, since the last update. Writer: add_idle_time."""
        self.idle_time = 0
        """CPU nanoseconds that Ps were idle, since the start. Not reset; for metrics. Go: sched.idleTime."""
        self.last_update = 0
        """Time of the last update."""
        self.num_gc = 0
        """Cycles completed, as `MemStats.num_gc`. Writer: the cycle."""
        self.last_enabled_cycle = 0
        """Number of the cycle in which limiting last began, 0 for never. For metrics."""
        self.nprocs = 0
        self.events: list[LimiterEvent] = []
        """One a P. A P that goes keeps its own: by then it has stopped."""
        self.reset_capacity(now, nprocs)

    def limiting(self) -> bool:
        """Say whether the collector is to be held back: no assists, no giving back of memory for the limit."""
        return self._enabled

    # ---- transitions ----

    def start_gc_transition(self, enable_gc: bool, now: int) -> None:
        """Stop counting until finish_gc_transition: the world is stopped, to begin or to end marking."""
        self._unlocked("failed to acquire lock to start a GC transition")
        if self.gc_enabled == enable_gc:
            raise CorruptHeapError("transitioning GC to the same state as before?")
        self._update(now)
        self.gc_enabled, self.transitioning = enable_gc, True

    def finish_gc_transition(self, now: int) -> None:
        """Let the world go on. The pause was the collector's on all Ps: nobody else could use them."""
        if not self.transitioning:
            raise CorruptHeapError("finishGCTransition called without starting one?")
        if now >= self.last_update:
            self._accumulate(0, (now - self.last_update) * self.nprocs)
        self.last_update, self.transitioning = now, False

    def reset_capacity(self, now: int, nprocs: int) -> None:
        """Have a bucket for another GOMAXPROCS. What no longer fits is gone, but is no overflow: nobody worked it."""
        self._unlocked("failed to acquire lock to reset capacity")
        self._update(now)
        self.nprocs, self.capacity = nprocs, nprocs * CAPACITY_PER_PROC
        self.events.extend(LimiterEvent() for _ in range(nprocs - len(self.events)))
        if self.fill > self.capacity:
            self.fill = self.capacity
            self._enable()
        elif self.fill < self.capacity:
            self._enabled = False

    def _unlocked(self, complaint: str) -> None:
        if self.transitioning:
            raise CorruptHeapError(complaint)

    # ---- reports ----

    def add_assist_time(self, t: int) -> None:
        """Count CPU nanoseconds of assists, marking or scavenging, in the next update."""
        self.assist_time_pool += t

    def add_idle_time(self, t: int) -> None:
        """Count CPU nanoseconds of idle Ps, marking or not, in the next update."""
        self.idle_time_pool += t

    def start_event(self, p: int, kind: LimiterEventType, now: int) -> bool:
        """P p begins something; no if it is at something already, which then must not be stopped."""
        return self.events[p].start(kind, now)

    def stop_event(self, p: int, kind: LimiterEventType, now: int) -> None:
        """P p ends what it began."""
        duration = self.events[p].stop(kind, now)
        if kind in _IDLE:
            self.add_idle_time(duration)
            self.idle_time += duration if kind is LimiterEventType.IDLE else 0
        else:
            self.add_assist_time(duration)

    # ---- updates ----

    def need_update(self, now: int) -> bool:
        """Say whether the last update was more than UPDATE_PERIOD ago."""
        return now - self.last_update > UPDATE_PERIOD

    def update(self, now: int) -> None:
        """Bring the bucket up to now."""
        if not self.transitioning:
            self._update(now)

    def _update(self, now: int) -> None:
        """Account for the time since the last update.

            total = (now - last update) * nprocs
            gc    = assists + 25 % of total while marking is on
            all others' = total - idle - gc

        Idle time is nobody's. The 25 % are of all time nevertheless, as the workers' Ps are. All others' may come out
        negative when most is idle; then the bucket fills the faster. Go: updateLocked.
        """
        if now < self.last_update:
            return
        total = (now - self.last_update) * self.nprocs
        self.last_update = now
        gc, idle = self.assist_time_pool, self.idle_time_pool
        self.assist_time_pool = self.idle_time_pool = 0
        assisting, idling = self._consume_events(now)
        gc, idle = gc + assisting, idle + idling
        if self.gc_enabled:
            gc += to_int64(float(total) * BACKGROUND_UTILIZATION)
        self._accumulate(total - idle - gc, gc)

    def _consume_events(self, now: int) -> tuple[int, int]:
        """Return the CPU nanoseconds, assisting and idle, of what Ps are at, up to now."""
        assisting = idling = 0
        for event in self.events:
            if not event.kind:
                continue
            kind, duration = event.consume(now)
            if kind in _IDLE:
                idling += duration
                self.idle_time += duration if kind is LimiterEventType.IDLE else 0
            else:
                assisting += duration
        return assisting, idling

    def _accumulate(self, mutator_time: int, gc_time: int) -> None:
        """Fill or drain the bucket, and switch limiting. It is on exactly when the bucket came to be full.

        With as much of the one time as of the other nothing changes: a full bucket keeps limiting. A bucket without
        capacity is full and never switches on. Go: accumulate.
        """
        headroom = self.capacity - self.fill
        change = gc_time - mutator_time
        if change > 0 and headroom <= change:
            self.overflow += change - headroom
            self.fill = self.capacity
            if headroom:
                self._enable()
            return
        self.fill = max(self.fill + change, 0)
        if change and headroom == 0:
            self._enabled = False

    def _enable(self) -> None:
        self._enabled, self.last_enabled_cycle = True, self.num_gc + 1
