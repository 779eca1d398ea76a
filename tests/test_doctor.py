"""The three troubles: programs that have one of them, and healthy ones of which nothing is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymem.analysis import doctor
from pymem.analysis.census import census
from pymem.analysis.doctor import RULES, Diagnosis, Finding, diagnose
from pymem.workload.columns import DTYPES, Columns, Event
from pymem.workload.synthetic import exponential, forever, mixture, steady
from pymem.workload.workload import Workload, WorkloadType

MB = 1 << 20
NODE, RING = WorkloadType("main.node", 512, 8), WorkloadType("sync.eface", 16, 16)


def rules(result: Diagnosis) -> list[str]:
    return [f.rule for f in result.findings]


def finding(result: Diagnosis, rule: str) -> Finding:
    return next(f for f in result.findings if f.rule == rule)


def program(n: int, *, kept: int, apart_ns: int = 100, lifetimes: Any = 0, cycles: int = 40) -> Workload:
    """Make n nodes of 512 B: the first ones stay, the others die; the program asks for some collections."""
    life = np.full(n, lifetimes)
    life[:kept] = -1
    return Workload.from_arrays(
        np.full(n, 504),
        lifetimes=life,
        types=1,
        type_table=[NODE],
        births_ns=np.arange(n) * apart_ns,
        gc_every=max(n // cycles, 1) if cycles else 0,
    )


# ---- healthy ----


def test_nothing_to_do() -> None:
    """A steady program that works for much longer than it collects."""
    result = diagnose(program(100_000, kept=2000, apart_ns=100_000))
    assert result.findings == ()
    assert result.unjudged == ()
    assert result.figures["num_gc"] >= 8
    assert result.figures["died_young_bytes"] > 0.9


def test_too_short() -> None:
    result = diagnose(Workload.from_arrays([64] * 10))
    assert result.findings == ()
    assert "too short" in result.unjudged[0]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_no_growth_in_a_steady_state(seed: int) -> None:
    """Chance alone is no leak: objects with lifetimes drawn at random, the same mix all the time."""
    made = steady(
        20_000, sizes=lambda rng, n: rng.integers(500, 5000, n), lifetimes=exponential(800), rng=seed
    )
    assert "growth" not in rules(diagnose(made))


def test_start_up_is_no_leak() -> None:
    """A heap that is built at first and stays."""
    assert "growth" not in rules(diagnose(program(60_000, kept=15_000)))


def test_a_cache_that_is_emptied_is_no_leak() -> None:
    n = 40_000
    life = 10_000 - np.arange(n) % 10_000
    made = Workload.from_arrays(np.full(n, 512), lifetimes=life, gc_every=1000)
    assert "growth" not in rules(diagnose(made))


# ---- memory ----


def test_growth() -> None:
    """One node in ten stays for ever: by the end 4 MB of them."""
    life = np.where(np.arange(80_000) % 10 == 0, -1, 5)
    result = diagnose(program(80_000, kept=0, lifetimes=life, apart_ns=10_000))
    found = finding(result, "growth")
    assert found.trouble == "memory"
    assert found.types[0][0] == "main.node"
    assert found.figures["growth_bytes"] == pytest.approx(80_000 / 10 * 504 * 2 / 3, rel=0.05)


def test_growth_names_who_grows() -> None:
    n = 60_000
    types = np.arange(n) % 2 + 1
    made = Workload.from_arrays(
        np.full(n, 100),
        lifetimes=np.where(types == 2, -1, 50),
        types=types,
        type_table=[NODE, WorkloadType("main.leak", 100, 8)],
    )
    assert [name for name, _ in finding(diagnose(made), "growth").types] == ["main.leak"]


def test_large_objects() -> None:
    made = Workload.from_arrays([4 * MB] * 6 + [64] * 1000, noscan=True, type_table=[NODE], types=1)
    found = finding(diagnose(made), "large-objects")
    assert found.figures["large_bytes"] == 24 * MB
    assert found.types == (("main.node", 24 * MB),)


def test_fragmentation() -> None:
    """All but every tenth node dies and is swept, so that each span keeps one or two."""
    n = 40_000
    life = np.where(np.arange(n) % 10 == 0, -1, n - 1 - np.arange(n))
    made = Workload.from_arrays(
        [512] * n + [96] * 5000, noscan=True, lifetimes=[*life, *[-1] * 5000], gc_every=n + 1000
    )
    found = finding(diagnose(made), "fragmentation")
    assert (found.figures["class_size"], found.figures["class_noscan"]) == (512, True)
    assert found.figures["lost"] > 8 * MB
    assert "apart" in found.remedies[0]


def with_stacks(n: int) -> Workload:
    """Put n stacks of 8 KB behind the start of a program."""
    made = Workload.from_arrays([64] * 1000)
    rows: dict[str, Any] = {name: np.zeros(n, dtype) for name, dtype in DTYPES.items()}
    rows["kind"] = np.full(n, int(Event.STACK_ALLOC))
    rows["size"] = np.full(n, 8192)
    rows["object"] = np.arange(n) + 10_000
    whole = [made.columns[:1], Columns(**rows), made.columns[1:]]
    return replace(
        made, columns=Columns(**{name: np.concatenate([getattr(c, name) for c in whole]) for name in DTYPES})
    )


@pytest.mark.parametrize(("n", "found"), [(500, False), (1500, True)])
def test_stacks(n: int, found: bool) -> None:
    result = diagnose(with_stacks(n))
    assert ("stacks" in rules(result)) == found
    if found:
        assert finding(result, "stacks").figures["stack_bytes"] == n * 8192


@pytest.mark.parametrize(("slots", "found"), [(512, False), (1024, True)])
def test_pools(slots: int, found: bool) -> None:
    """A pool's ring doubles when it is full, so one of 1,024 slots was made since 512 objects lay idle."""
    result = diagnose(Workload.from_arrays([16 * slots], types=1, type_table=[RING]))
    assert ("pools" in rules(result)) == found
    if found:
        assert finding(result, "pools").figures["idle_objects"] == 512


# ---- frequency, churn ----


def test_frequent_and_churn() -> None:
    """2 MB that stay, and 100 MB of garbage in 20 ms: the collector has a good part of the CPU."""
    result = diagnose(program(200_000, kept=4000))
    assert rules(result) == ["frequent-gc", "churn"]
    frequent, churn = result.findings
    assert "Go's least size" in frequent.sentence
    assert frequent.figures["doubled"]["setting"] == "GOGC=200"
    assert frequent.figures["doubled"]["gc_cpu"] < frequent.figures["gc_cpu"]
    assert churn.types[0][0] == "main.node"
    assert churn.figures["turnover"] == pytest.approx(50, rel=0.05)
    assert "--pool 'main.node'" in churn.remedies[0]


def test_frequent_for_gogc() -> None:
    result = diagnose(program(200_000, kept=10_000, cycles=0))
    assert "at GOGC=100" in finding(result, "frequent-gc").sentence


def test_frequent_for_the_limit() -> None:
    """Under a limit it is the limit that is doubled, not GOGC."""
    result = diagnose(program(200_000, kept=10_000, cycles=0), gogc="off", memory_limit="14MiB")
    found = finding(result, "frequent-gc")
    assert "memory limit" in found.sentence
    assert found.figures["doubled"]["setting"] == "GOMEMLIMIT=28MiB"
    assert found.figures["doubled"]["gc_cpu"] < found.figures["gc_cpu"]


def test_long_lives_are_no_churn() -> None:
    """Garbage that outlives its first cycle is not short-lived."""
    result = diagnose(program(200_000, kept=4000, lifetimes=12_000))
    assert "churn" not in rules(result)


# ---- the rules themselves ----


@pytest.mark.parametrize(
    ("live", "grows"),
    [
        (range(100), True),
        ([5] * 100, False),
        ([*range(75), *[74] * 25], False),  # has levelled off
        ([i % 25 for i in range(100)], False),  # a sawtooth
        ([i + 40 * (i % 25) for i in range(100)], True),  # a sawtooth whose floor rises
        (range(100, 0, -1), False),
    ],
)
def test_grows(live: Sequence[int], grows: bool) -> None:
    assert doctor._grows(np.array(live)) == grows


def test_every_rule_has_a_trouble() -> None:
    assert set(RULES.values()) == {"memory", "frequency", "churn"}


def test_documented() -> None:
    """The document names every rule and states its thresholds."""
    text = Path("docs/doctor.md").read_text(encoding="utf-8")
    for rule in RULES:
        assert f"`{rule}`" in text


def test_the_tracers_own_is_no_suspect() -> None:
    """A trace's recorder allocates frames for its tables of stacks: that is not the program's doing."""
    made = program(200_000, kept=4000)
    traced = [made.types[0], WorkloadType("runtime.traceFrame", 512, 8)]
    for tier, suspects in (("trace", []), ("arrays", ["runtime.traceFrame"])):
        c = census(replace(made, types=tuple(traced), tier=tier))
        assert [t.name for t in doctor._programs_own(c)] == suspects


def test_mixture_leaks() -> None:
    """The laboratory's leak: one object in ten is never dropped."""
    made = steady(300_000, lifetimes=mixture((0.9, exponential(200)), (0.1, forever)), gc_every=30_000)
    assert "growth" in rules(diagnose(made))
