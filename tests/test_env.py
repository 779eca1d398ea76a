"""GOGC, GOMEMLIMIT, GOMAXPROCS and GODEBUG, against what real Go made of the same texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pymem
from pymem.env import Settings, read_settings
from pymem.units import NO_LIMIT, parse_byte_count, parse_integer

RUNS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "golden/reports_settings.json").read_text(encoding="utf-8")
)["runs"]
LINES = ("gctrace", "gcpacertrace", "scavtrace")


@pytest.mark.parametrize("name", ["GOGC", "GOMEMLIMIT", "GOMAXPROCS", "GODEBUG"])
def test_as_go_understands(name: str) -> None:
    runs = [run for run in RUNS if name in run["env"] and "error" not in run]
    assert len(runs) > 10
    for run in runs:
        settings = read_settings(run["env"])
        assert (-1 if settings.gogc is None else settings.gogc) == run["GOGC"], run
        assert (settings.memory_limit, settings.gomaxprocs) == (run["GOMEMLIMIT"], run["GOMAXPROCS"]), run
        assert [line for line in LINES if getattr(settings, line) > 0] == run["lines"], run


def test_where_go_gives_up() -> None:
    """Real Go prints the variable, then its own error; ours says both and what to write."""
    runs = [run for run in RUNS if "error" in run]
    assert len(runs) > 30
    for run in runs:
        with pytest.raises(pymem.ConfigError) as error:
            read_settings(run["env"])
        told, why = run["error"]
        assert str(error.value).startswith(f"{told}: {why.removeprefix('fatal error: ')}: write bytes"), run


def test_nothing_set() -> None:
    assert read_settings({}) == Settings() == Settings(gogc=100, memory_limit=NO_LIMIT, gomaxprocs=None)


def test_all_at_once() -> None:
    env = {
        "GOGC": "off",
        "GOMEMLIMIT": "64MiB",
        "GOMAXPROCS": "4",
        "GODEBUG": "gctrace=2,gccheckmark=1",
        "HOME": "/",
    }
    want = Settings(gogc=None, memory_limit=64 << 20, gomaxprocs=4, gctrace=2, gccheckmark=1)
    assert read_settings(env) == want


@given(
    st.integers(0, NO_LIMIT),
    st.sampled_from([("", 0), ("B", 0), ("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)]),
)
def test_byte_counts(n: int, unit: tuple[str, int]) -> None:
    name, power = unit
    limit = n << power
    assert parse_byte_count(f"{n}{name}") == (limit if limit <= NO_LIMIT else None)


@given(st.text())
def test_no_text_breaks_it(text: str) -> None:
    """Nothing but the sentence comes out."""
    for name in ("GOGC", "GOMAXPROCS", "GODEBUG"):
        read_settings({name: text})
    limit = parse_byte_count(text)
    assert limit is None or 0 <= limit <= NO_LIMIT


def test_long_numbers() -> None:
    assert parse_integer("0" * 10_000 + "7", 32) == 7
    assert parse_integer("9" * 10_000, 64) is None
    assert [parse_integer(text, 64) for text in ("-9223372036854775808", "-9223372036854775809")] == [
        -(1 << 63),
        None,
    ]
