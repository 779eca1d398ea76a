"""Amounts as people read them."""

from __future__ import annotations

import pytest

from pymem.units import format_bytes, format_duration


@pytest.mark.parametrize(
    ("n", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (1536, "1.50 KiB"), (1 << 20, "1.00 MiB"), (5 << 30, "5.00 GiB"),
     (1 << 50, "1024.00 TiB"), (-2048, "-2.00 KiB")],
)  # fmt: skip
def test_format_bytes(n: int, text: str) -> None:
    assert format_bytes(n) == text


@pytest.mark.parametrize(
    ("ns", "text"),
    [(0, "0 ns"), (999, "999 ns"), (1500, "1.500 us"), (2_000_000, "2.000 ms"), (90 * 10**9, "90.000 s")],
)
def test_format_duration(ns: int, text: str) -> None:
    assert format_duration(ns) == text
