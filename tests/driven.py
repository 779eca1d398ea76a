"""Programs at random on a runtime, for tests of what holds whatever the program does."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

import pymem

__all__ = ["Driven", "programs"]

MB = 1 << 20


@st.composite
def programs(draw: st.DrawFn) -> list[tuple[str, int]]:
    """Programs of what a runtime may meet: steps by name, with a number each."""
    return draw(
        st.lists(
            st.one_of(
                st.tuples(st.just("grow"), st.integers(1, 3 * MB)),
                st.tuples(st.just("one"), st.integers(1, 100_000)),
                st.tuples(st.just("drop"), st.integers(1, 100)),
                st.tuples(st.just("work"), st.integers(0, 10_000_000)),
                st.tuples(st.just("sleep"), st.integers(0, 50_000_000_000)),
                st.tuples(st.just("gc"), st.just(0)),
                st.tuples(st.just("dead"), st.integers(1, 100)),
                st.tuples(st.just("gogc"), st.integers(-1, 300)),
                st.tuples(st.just("limit"), st.integers(4 * MB, 64 * MB)),
                st.tuples(st.just("procs"), st.integers(1, 5)),
                st.tuples(st.just("stats"), st.just(0)),
                st.tuples(st.just("free"), st.just(0)),
            ),
            max_size=25,
        )
    )


class Driven:
    """A runtime that a program is run on, with its living objects."""

    def __init__(self, **options: Any) -> None:
        settings: dict[str, Any] = {"gogc": 100, "liveness": "record", "gomaxprocs": 2}
        self.rt = pymem.Runtime(**(settings | options))
        self.alive: list[int] = []

    def step(self, what: str, n: int) -> None:
        """Do one step of a program."""
        rt = self.rt
        if what == "grow":
            slot = 16 + n % 700
            self.alive += rt.malloc_batch(slot, n // slot, p=n % rt.gomaxprocs()).tolist()
        elif what == "one":
            self.alive.append(rt.malloc(n, noscan=bool(n & 1)))
        elif what in ("drop", "dead"):
            dead = self.alive[::2] if n > 50 else self.alive[: len(self.alive) * n // 50]
            rt.declare_dead(dead) if what == "drop" else rt.gc(dead)
            gone = set(dead)
            self.alive = [a for a in self.alive if a not in gone]
        elif what == "gogc":
            rt.set_gc_percent(n)
        elif what == "limit":
            rt.set_memory_limit(n)
        elif what == "procs":
            rt.gomaxprocs(n)
        else:
            self._pass(what, n)

    def _pass(self, what: str, n: int) -> None:
        rt = self.rt
        match what:
            case "work":
                rt.work(n)
            case "sleep":
                rt.sleep(n)
            case "gc":
                rt.gc()
            case "stats":
                rt.read_mem_stats()
            case _:
                rt.free_os_memory()
