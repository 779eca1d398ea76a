"""The CPU limiter: what Go's own test of it checks, and any course of events against a bucket in plain words."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymem.errors import CorruptHeapError
from pymem.gc.limiter import (
    CAPACITY_PER_PROC,
    UPDATE_PERIOD,
    GCCPULimiter,
    LimiterEvent,
    LimiterEventType,
)

PROCS = 14
US, MS, S = 1_000, 1_000_000, 1_000_000_000
HOUR = 3600 * S
IDLE, IDLE_MARK = LimiterEventType.IDLE, LimiterEventType.IDLE_MARK_WORK
ASSIST, SCAVENGE = LimiterEventType.MARK_ASSIST, LimiterEventType.SCAVENGE_ASSIST


class Clocked(GCCPULimiter):
    """A limiter with a clock."""

    __slots__ = ("now",)

    def __init__(self, procs: int = PROCS) -> None:
        self.now = 0
        super().__init__(0, procs)

    def after(self, duration: int) -> int:
        self.now += duration
        return self.now

    def run(self, duration: int, *, gc: float | None = None) -> None:
        """Let time pass. gc is the collector's share: while marking at least 0.25, and assists make up the rest."""
        if gc is not None:
            self.add_assist_time(int((gc - 0.25 * self.gc_enabled) * duration * self.nprocs))
        self.update(self.after(duration))

    def pause(self, enable_gc: bool, duration: int) -> None:
        self.start_gc_transition(enable_gc, self.now)
        self.finish_gc_transition(self.after(duration))


def marking(*, fill: int = 0) -> Clocked:
    """Return a limiter while marking, with so many nanoseconds in the bucket for each P."""
    limiter = Clocked()
    limiter.pause(True, fill)
    return limiter


def state(limiter: GCCPULimiter) -> tuple[float, bool, float]:
    """Return fill and overflow in nanoseconds a P, as they are with 14 of them, and whether it limits."""
    return limiter.fill / PROCS, limiter.limiting(), limiter.overflow / PROCS


def test_new() -> None:
    assert Clocked().capacity == PROCS * CAPACITY_PER_PROC
    assert state(Clocked()) == (0, False, 0)


@pytest.mark.parametrize("duration", [10 * MS, S, HOUR])
def test_program_alone_leaves_it_empty(duration: int) -> None:
    limiter = Clocked()
    limiter.run(duration)
    assert state(limiter) == (0, False, 0)


def test_need_update() -> None:
    limiter = Clocked()
    assert not limiter.need_update(limiter.after(UPDATE_PERIOD))
    assert limiter.need_update(limiter.after(1))
    limiter.run(0)
    assert not limiter.need_update(limiter.now)


def test_pause_fills_it_on_all_procs() -> None:
    limiter = Clocked()
    limiter.run(109 * MS)
    limiter.pause(True, 2 * MS + US)
    assert state(limiter) == (2 * MS + US, False, 0)


def test_background_marking_drains_it() -> None:
    """A quarter in, three quarters out: half of the time in all."""
    limiter = marking(fill=2 * MS + US)
    limiter.run(2 * (2 * MS + US - 1))
    assert state(limiter) == (1, False, 0)
    limiter.run(HOUR)
    assert state(limiter) == (0, False, 0)


@pytest.mark.parametrize(("gc", "fill"), [(0.25, 0), (0.5, 10 * MS), (0.75, 15 * MS), (1.0, 20 * MS)])
def test_share(gc: float, fill: int) -> None:
    limiter = marking(fill=10 * MS)
    limiter.run(10 * MS if gc > 0.25 else HOUR, gc=gc)
    assert state(limiter) == (fill, False, 0)


def test_full_to_the_nanosecond() -> None:
    """It limits, but nothing has run over; and half and half does not change that."""
    limiter = marking()
    limiter.run(MS, gc=1.0)
    assert state(limiter) == (MS, False, 0)
    limiter.run(S - MS, gc=1.0)
    assert state(limiter) == (S, True, 0)
    limiter.run(S, gc=0.5)
    assert state(limiter) == (S, True, 0)


def test_draining_ends_limiting() -> None:
    limiter = marking(fill=S)
    assert limiter.limiting()
    limiter.run(S, gc=0.25)
    assert state(limiter) == (S / 2, False, 0)


def test_overflow() -> None:
    limiter = marking(fill=S // 2)
    limiter.run(S, gc=1.0)
    assert state(limiter) == (S, True, S / 2)


def test_end_of_marking_counts_what_is_left() -> None:
    limiter = marking(fill=S)
    limiter.add_assist_time(3 * MS * PROCS // 4)
    limiter.start_gc_transition(False, limiter.after(MS))
    assert state(limiter) == (S, True, MS)
    limiter.finish_gc_transition(limiter.after(5 * MS))
    assert state(limiter) == (S, True, 6 * MS)


def test_more_procs_end_limiting() -> None:
    limiter = marking(fill=S + MS)
    limiter.pause(False, 0)
    limiter.reset_capacity(limiter.now, PROCS + 10)
    assert state(limiter) == (S, False, MS)
    assert limiter.capacity == (PROCS + 10) * S


def test_fewer_procs_begin_limiting() -> None:
    """What is cut off is no overflow: nobody worked it."""
    limiter = marking(fill=S // 2)
    limiter.pause(False, 0)
    limiter.reset_capacity(limiter.now, PROCS - 10)
    assert (limiter.fill, limiter.limiting(), limiter.overflow) == (4 * S, True, 0)


def test_as_many_procs_keep_limiting() -> None:
    limiter = marking(fill=S)
    limiter.reset_capacity(limiter.now, PROCS)
    assert state(limiter) == (S, True, 0)


def test_nothing_stays() -> None:
    """All of it, and again: after an hour the bucket is as new, but for the overflow."""
    limiter = Clocked()
    for overflow in (0, S // 2 + 6 * MS):
        assert state(limiter) == (0, False, overflow)
        limiter.pause(True, S // 2)
        limiter.run(S, gc=1.0)
        limiter.pause(False, 6 * MS)
        limiter.run(HOUR)
    assert state(limiter) == (0, False, 2 * (S // 2 + 6 * MS))


def test_idle_time_is_nobodys() -> None:
    """Of 14 Ps 10 are idle: background marking then has 3.5 of the other 4, and the bucket fills."""
    limiter = marking()
    limiter.add_idle_time(10 * MS)
    limiter.run(MS)
    assert limiter.fill == 3 * MS


def test_time_that_has_passed() -> None:
    limiter = marking()
    limiter.run(10 * MS)
    limiter.add_assist_time(S)
    limiter.update(limiter.now - 1)
    assert (limiter.last_update, limiter.assist_time_pool) == (limiter.now, S)


def test_update_waits_for_the_transition() -> None:
    limiter = marking()
    limiter.start_gc_transition(False, limiter.now)
    limiter.add_assist_time(S)
    limiter.update(limiter.after(S))
    assert (limiter.fill, limiter.assist_time_pool) == (0, S)


def test_last_enabled_cycle() -> None:
    limiter = marking()
    assert limiter.last_enabled_cycle == 0
    limiter.num_gc = 6
    limiter.run(S, gc=1.0)
    limiter.num_gc = 7
    limiter.run(S, gc=1.0)
    assert limiter.last_enabled_cycle == 7


def test_no_capacity_never_limits() -> None:
    limiter = GCCPULimiter(0, 0)
    limiter.add_assist_time(5)  # of no time at all: the program had -5
    limiter.update(1)
    assert (limiter.limiting(), limiter.overflow) == (False, 10)


def test_transitions_out_of_turn() -> None:
    limiter = Clocked()
    with pytest.raises(CorruptHeapError, match="same state as before"):
        limiter.start_gc_transition(False, 0)
    with pytest.raises(CorruptHeapError, match="without starting one"):
        limiter.finish_gc_transition(0)
    limiter.start_gc_transition(True, 0)
    with pytest.raises(CorruptHeapError, match="start a GC transition"):
        limiter.start_gc_transition(False, 0)
    with pytest.raises(CorruptHeapError, match="reset capacity"):
        limiter.reset_capacity(0, 3)


# ---- events ----


def test_event() -> None:
    event = LimiterEvent()
    assert event.consume(5) == (LimiterEventType.NONE, 0)
    assert event.start(ASSIST, 10)
    assert not event.start(IDLE, 11)
    assert event.consume(14) == (ASSIST, 4)
    assert event.consume(14) == (LimiterEventType.NONE, 0)
    assert event.consume(13) == (LimiterEventType.NONE, 0)
    assert event.stop(ASSIST, 20) == 6
    assert event.start(IDLE, 21)
    assert event.stop(IDLE, 20) == 0


def test_event_of_another_kind() -> None:
    event = LimiterEvent()
    event.start(IDLE, 0)
    with pytest.raises(CorruptHeapError, match="wrong event in p's limiter event slot: want=2 got=4"):
        event.stop(ASSIST, 1)


@pytest.mark.parametrize(
    ("kind", "assisting", "idle", "counted"),
    [(IDLE, 0, 1, 1), (IDLE_MARK, 0, 1, 0), (ASSIST, 1, 0, 0), (SCAVENGE, 1, 0, 0)],
)
def test_kinds(kind: LimiterEventType, assisting: int, idle: int, counted: int) -> None:
    """Whether an update comes in between makes no difference; idle marking is not idle time to metrics."""
    limiter = Clocked(4)
    limiter.start_event(2, kind, 0)
    limiter.stop_event(2, kind, MS)
    assert (limiter.assist_time_pool, limiter.idle_time_pool) == (assisting * MS, idle * MS)
    assert limiter.idle_time == counted * MS
    limiter.start_event(1, kind, MS)
    limiter.update(3 * MS)
    limiter.stop_event(1, kind, 3 * MS)
    assert (limiter.assist_time_pool, limiter.idle_time_pool) == (0, 0)
    assert limiter.idle_time == 3 * counted * MS


# ---- any course of events ----


@dataclass
class Bucket:
    """The limiter in plain words. Every nanosecond is counted as it passes."""

    procs: int
    capacity: int = 0
    fill: int = 0
    overflow: int = 0
    limiting: bool = False
    gc_enabled: bool = False
    stopped: bool = False
    window: int = 0
    doing: dict[int, LimiterEventType] = field(default_factory=dict)
    assists: int = 0
    idle: int = 0

    def __post_init__(self) -> None:
        self.capacity = self.procs * S

    def pass_time(self, duration: int) -> None:
        self.window += duration
        for kind in self.doing.values():
            if kind in (ASSIST, SCAVENGE):
                self.assists += duration
            else:
                self.idle += duration

    def update(self) -> None:
        if self.stopped:
            return
        total = self.window * self.procs
        gc = self.assists + (total // 4 if self.gc_enabled else 0)
        self.pour(gc - (total - self.idle - gc))
        self.window = self.assists = self.idle = 0

    def switch(self) -> None:
        """Begin a transition, or end it."""
        if self.stopped:
            self.stopped = False
            self.pour(self.window * self.procs)
            self.window = 0
        else:
            self.update()
            self.stopped, self.gc_enabled = True, not self.gc_enabled

    def resize(self, procs: int) -> None:
        self.update()
        self.procs, self.capacity = procs, procs * S
        if self.fill != self.capacity:
            self.limiting = self.fill > self.capacity
        self.fill = min(self.fill, self.capacity)

    def pour(self, change: int) -> None:
        level = self.fill + change
        self.fill = min(max(level, 0), self.capacity)
        self.overflow += max(level - self.capacity, 0)
        if change:
            self.limiting = change > 0 and level >= self.capacity


STEPS = st.tuples(
    st.sampled_from([0, 1, 1000, 10 * MS, 10 * MS, 400 * MS, 3 * S]),
    st.sampled_from(["update", "update", "switch", "resize", "event", "event", "event"]),
    st.integers(0, 3),
    st.sampled_from([IDLE, IDLE_MARK, ASSIST, ASSIST, SCAVENGE]),
)


@given(st.lists(STEPS, max_size=60))
def test_any_course(steps: list[tuple[int, str, int, LimiterEventType]]) -> None:
    limiter, bucket = Clocked(4), Bucket(4)
    for duration, what, p, kind in steps:
        limiter.after(duration)
        bucket.pass_time(duration)
        perform(limiter, bucket, what, p, kind)
        assert (limiter.fill, limiter.capacity) == (bucket.fill, bucket.capacity)
        assert (limiter.overflow, limiter.limiting()) == (bucket.overflow, bucket.limiting)
        assert 0 <= limiter.fill <= limiter.capacity
        assert not limiter.limiting() or limiter.fill == limiter.capacity


def perform(limiter: Clocked, bucket: Bucket, what: str, p: int, kind: LimiterEventType) -> None:
    if what == "update":
        limiter.update(limiter.now)
        bucket.update()
    elif what == "switch":
        if bucket.stopped:
            limiter.finish_gc_transition(limiter.now)
        else:
            limiter.start_gc_transition(not bucket.gc_enabled, limiter.now)
        bucket.switch()
    elif what == "resize" and not bucket.stopped:
        limiter.reset_capacity(limiter.now, p + 1)
        bucket.resize(p + 1)
    elif what == "event":
        event(limiter, bucket, p, kind)


def event(limiter: Clocked, bucket: Bucket, p: int, kind: LimiterEventType) -> None:
    """End what P p does, or begin something."""
    if p in bucket.doing:
        limiter.stop_event(p, bucket.doing.pop(p), limiter.now)
    elif limiter.start_event(p, kind, limiter.now):
        bucket.doing[p] = kind
