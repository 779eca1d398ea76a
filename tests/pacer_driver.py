"""The emulated controller and limiter behind the operations of `tests/golden/gc_controller.txt`."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from pymem.gc.controller import TriggerKind
from pymem.gc.gonumbers import MASK64
from pymem.gc.limiter import GCCPULimiter, LimiterEvent, LimiterEventType
from pymem.gc.pacer import GoPacer


def bits(x: float) -> int:
    """Return a float's bits."""
    number: int = struct.unpack("<Q", struct.pack("<d", x))[0]
    return number


@dataclass
class Driver:
    """Performs operations, and writes what each changed as the oracle does."""

    c: GoPacer = field(default_factory=GoPacer)
    limiter: GCCPULimiter = field(default_factory=lambda: GCCPULimiter(0, 1))
    e: LimiterEvent = field(default_factory=LimiterEvent)
    last: dict[str, int] = field(default_factory=dict)

    def answer(self, operation: str) -> str:
        """Perform an operation and return it with what it changed, as a line of the golden file."""
        name, *words = operation.split()
        event = self.operations()[name](*map(int, words))
        kind, duration = event if isinstance(event, tuple) else (LimiterEventType.NONE, 0)
        state = {**self.pacer_state(), **self.limiter_state(), "event_kind": kind, "event_duration": duration}
        changes = [
            f" {key}={value & MASK64:x}" for key, value in state.items() if value != self.last.get(key, 0)
        ]
        self.last = state
        return f"{operation} =>{''.join(changes)}"

    def operations(self) -> dict[str, Callable[..., object]]:
        c, limiter = self.c, self.limiter
        return {
            "new": self.new,
            "heap": self.heap,
            "roots": self.roots,
            "memory": self.memory,
            "percent": c.set_gc_percent,
            "limit": c.set_memory_limit,
            "commit": lambda swept: c.commit(bool(swept)),
            "start": lambda now, procs, kind: c.start_cycle(now, procs, TriggerKind(kind)),
            "work": self.work,
            "revise": c.revise,
            "times": self.times,
            "end": c.end_cycle,
            "reset": c.reset_live,
            "lassist": limiter.add_assist_time,
            "lidle": limiter.add_idle_time,
            "lupdate": limiter.update,
            "lstart": lambda enable, now: limiter.start_gc_transition(bool(enable), now),
            "lfinish": limiter.finish_gc_transition,
            "lreset": limiter.reset_capacity,
            "estart": self.start_event,
            "econsume": self.e.consume,
            "estop": lambda now: (self.e.kind, self.e.stop(self.e.kind, now)),
        }

    def new(self, percent: int, limit: int, now: int, procs: int) -> None:
        self.c, self.limiter, self.e = GoPacer(percent, limit), GCCPULimiter(0, 0), LimiterEvent()
        self.limiter.reset_capacity(now, procs)

    def heap(self, live: int, scan: int) -> None:
        self.c.update(live, scan)

    def roots(self, stacks: int, globals_: int) -> None:
        self.c.add_scannable_stack(stacks)
        self.c.add_globals(globals_)

    def memory(self, free: int, alloc: int, freed: int, ready: int) -> None:
        c = self.c
        c.heap_free, c.total_alloc, c.total_free, c.mapped_ready = free, alloc, freed, ready

    def work(self, heap: int, stacks: int, globals_: int) -> None:
        self.c.heap_scan_work += heap
        self.c.stack_scan_work += stacks
        self.c.globals_scan_work += globals_
        self.c.revise()

    def times(self, assist: int, idle: int) -> None:
        self.c.assist_time += assist
        self.c.idle_mark_time += idle

    def start_event(self, kind: int, now: int) -> tuple[int, int]:
        return (kind if self.e.start(LimiterEventType(kind), now) else 0), 0

    def pacer_state(self) -> dict[str, int]:
        c = self.c
        goal, least = c.heap_goal_internal()
        return {
            "goal": goal,
            "least": least,
            "trigger": c.trigger()[0],
            "gc_percent": c.gc_percent,
            "memory_limit": c.memory_limit,
            "heap_minimum": c.heap_minimum,
            "runway": c.runway,
            "cons_mark": bits(c.cons_mark),
            **{f"last_cons_mark{i}": bits(measured) for i, measured in enumerate(c.last_cons_mark)},
            "gc_percent_heap_goal": c.gc_percent_heap_goal,
            "sweep_dist_min_trigger": c.sweep_dist_min_trigger,
            "triggered": c.triggered,
            "last_heap_goal": c.last_heap_goal,
            "heap_live": c.heap_live,
            "heap_scan": c.heap_scan,
            "heap_marked": c.heap_marked,
            "last_heap_scan": c.last_heap_scan,
            "last_stack_scan": c.last_stack_scan,
            "max_stack_scan": c.max_stack_scan,
            "globals_scan": c.globals_scan,
            "dedicated": c.dedicated_mark_workers_needed,
            "fractional": bits(c.fractional_utilization_goal),
            "idle_workers": c.idle_mark_workers,
            "max_idle_workers": c.max_idle_mark_workers,
            "assist_work_per_byte": bits(c.assist_work_per_byte),
            "assist_bytes_per_work": bits(c.assist_bytes_per_work),
        }

    def limiter_state(self) -> dict[str, int]:
        limiter = self.limiter
        return {
            "limiting": int(limiter.limiting()),
            "fill": limiter.fill,
            "capacity": limiter.capacity,
            "overflow": limiter.overflow,
            "last_update": limiter.last_update,
            "assist_pool": limiter.assist_time_pool,
            "idle_pool": limiter.idle_time_pool,
        }
