"""Steps of the collector are whole: whoever looks on, raises, calls back, or comes from another thread."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator

import pytest

import pymem
import pymem.gc.pacer
from pymem.gc.events import GCEvent, GCPhase

PHASES = [phase for phase in GCPhase if phase is not GCPhase.COMPACTION]


def goes_on(rt: pymem.Runtime) -> None:
    """Whatever happened, the runtime works."""
    before = rt.gc_stats.num_gc
    rt.malloc_batch(64, 200_000, noscan=True)
    rt.gc()
    rt.check()
    assert rt.gc_stats.num_gc > before


@pytest.mark.parametrize("phase", PHASES)
def test_observer_raises(phase: GCPhase) -> None:
    """It comes out of the call that the step was part of, once."""
    left = [ValueError("mine")]

    def observe(event: GCEvent) -> None:
        if event.phase is phase and left:
            raise left.pop()

    with pymem.Runtime(gogc=100) as rt:
        rt.on_gc(observe)
        with pytest.raises(ValueError, match="mine"):
            rt.gc()
        goes_on(rt)


CALLS: dict[str, Callable[[pymem.Runtime], object]] = {
    "gc": lambda rt: rt.gc(),
    "dead": lambda rt: rt.gc(dead=[]),
    "free_os_memory": lambda rt: rt.free_os_memory(),
    "sleep": lambda rt: rt.sleep(1e6),
    "set_gc_percent": lambda rt: rt.set_gc_percent(50),
}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("call", CALLS)
def test_observer_calls_back(phase: GCPhase, call: str) -> None:
    def observe(event: GCEvent) -> None:
        if event.phase is phase:
            CALLS[call](rt)

    with pymem.Runtime(gogc=100) as rt:
        rt.on_gc(observe)
        with pytest.raises(pymem.ConfigError, match="the collector is at work"):
            rt.gc()
        rt._gc.observers.clear()
        goes_on(rt)


def test_observer_looks() -> None:
    seen = []
    with pymem.Runtime(gogc=100) as rt:
        rt.on_gc(lambda event: seen.append((rt.now, rt.read_mem_stats(flush=False).num_gc)))
        rt.gc()
        assert len(seen) == len(PHASES)
        goes_on(rt)


@pytest.fixture
def restless() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("restless")
def test_two_threads() -> None:
    """Whoever comes in amid a step gets the named error, and the runtime goes on."""
    errors: list[BaseException] = []

    def work(rt: pymem.Runtime) -> None:
        for _ in range(300):
            try:
                rt.malloc_batch(48, 2000, noscan=True)
            except BaseException as error:
                errors.append(error)

    with pymem.Runtime(gogc=50) as rt:
        threads = [threading.Thread(target=work, args=(rt,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {type(e) for e in errors} <= {pymem.ThreadError, pymem.ConfigError}
        goes_on(rt)


class _FixedHeap(pymem.gc.pacer.GoPacer):
    """Begins a cycle at 8 MB, whatever GOGC says."""

    def trigger(self) -> tuple[int, int]:
        return 8 << 20, 8 << 20


def test_pacer_of_ones_own_without_gogc() -> None:
    with pymem.Runtime(pacer=_FixedHeap()) as rt:
        rt.malloc_batch(1024, 24_000, noscan=True)
        assert rt.marking or rt.gc_stats.num_gc > 0


def test_huge_objects_take_no_memory() -> None:
    """What is placed where something died reads as zeros, and is not written to for that."""
    with pymem.Runtime() as rt:
        rt.globals["x"] = 0
        for _ in range(3):
            big = rt.malloc(8 << 30, noscan=True)
            rt.view(big)[123_456_789] = 7
            assert rt.view(big)[123_456_788] == 0
            rt.gc()
            again = rt.malloc(8 << 30, noscan=True)
            assert again == big
            assert rt.view(again)[123_456_789] == 0
            rt.gc()


def test_deep_frames() -> None:
    """A frame knows by itself whether it is entered; a goroutine's end takes all off."""
    with pymem.Runtime() as rt:
        g = rt.go("deep")
        frame = g.frame(x=0)
        frame.__enter__()
        g.exit()
        with pytest.raises(pymem.ConfigError, match="not entered"):
            frame["x"] = 0


@pytest.mark.parametrize("stop", ["percent", "procs"])
def test_settings_wait_for_the_mark(stop: str) -> None:
    """Go: gcWaitOnMark, stopTheWorldGC."""
    with pymem.Runtime(gogc=100, gomaxprocs=2) as rt:
        while not rt.marking:
            rt.malloc_batch(64, 500)
        if stop == "percent":
            rt.set_gc_percent(-1)
        else:
            rt.gomaxprocs(3)
        assert not rt.marking
        goes_on(rt)
