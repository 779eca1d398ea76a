"""The policies in `examples`, on a program made of rates."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from pacer_scenarios import Cycle, Scenario, Simulation, add, constant, ramp

from pymem.gc.pacer import Pacer

EXAMPLES = Path(__file__).parent.parent / "examples"
MB = 1 << 20


def example(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / f"{name}_pacer.py"), run_name=name)


FIXED = example("fixed_heap")["FixedHeapPacer"]
MEMBALANCER = example("membalancer")["MemBalancerPacer"]


def cycles(pacer: Pacer, *, rate: float = 33.0, growth: float = 2.0, length: int = 60) -> list[Cycle]:
    """Run a heap that grows by `growth` - 1 in all over some cycles, and then stays."""
    steady = Scenario(
        name="",
        alloc_rate=constant(rate),
        growth_rate=add(constant(growth), ramp(1.0 - growth, 12)),
        length=length,
    )
    return Simulation(steady, pacer).run()


def test_fixed_heap() -> None:
    """The goal is the size until the live heap is larger; then there is 1 MB."""
    small, large = cycles(FIXED(256 * MB)), cycles(FIXED(8 * MB))
    assert {cycle.goal for cycle in small} == {256 * MB}
    assert large[-1].goal == large[-1].live + MB
    assert all(cycle.live <= cycle.trigger <= cycle.goal for cycle in small + large)


def test_fixed_heap_has_the_memory_it_needs() -> None:
    """Cycles with a heap of twice the live size are as GOGC=100 has them, and nobody assists."""
    *_, last = cycles(FIXED(256 * MB, 0.8))
    assert last.utilization == 0.25
    assert last.peak <= last.goal


@pytest.mark.parametrize("factor", [4, 16])
def test_membalancer_room_grows_by_the_root(factor: int) -> None:
    """Four times the allocation, or a price of memory four times as low: twice the room."""
    c = 1e-9
    before, busier, cheaper = (
        cycles(MEMBALANCER(c / price), rate=rate)[-1]
        for price, rate in ((1, 4.0), (1, 4.0 * factor), (factor, 4.0))
    )
    room = before.goal - before.live
    assert cheaper.goal - cheaper.live == pytest.approx(room * factor**0.5, rel=0.1)
    assert busier.goal - busier.live == pytest.approx(room * factor**0.5, rel=0.2)


def test_membalancer_is_in_time() -> None:
    """Without assists, a little before the goal."""
    *_, last = cycles(MEMBALANCER(1e-9))
    assert last.utilization == pytest.approx(0.25, abs=0.01)
    assert last.peak == pytest.approx(last.goal, rel=0.05)


@pytest.mark.parametrize("name", ["fixed_heap", "membalancer"])
def test_examples_run(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    example(name)["main"]()
    assert len(capsys.readouterr().out.splitlines()) > 5
