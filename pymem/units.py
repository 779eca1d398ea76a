"""Amounts of memory and percentages as Go's environment variables write them."""

from __future__ import annotations

import re

from pymem.errors import ConfigError

__all__ = ["NO_LIMIT", "format_bytes", "format_duration", "parse_gogc", "parse_memory_limit"]

NO_LIMIT = (1 << 63) - 1
"""Bytes: what `GOMEMLIMIT=off` stands for, the largest int64."""

_FACTORS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def parse_memory_limit(limit: int | str | None) -> int:
    """Return a memory limit in bytes from bytes, from GOMEMLIMIT's grammar ("64MiB"), or from None or "off"."""
    if limit is None or limit == "off":
        return NO_LIMIT
    if isinstance(limit, str):
        match = re.fullmatch(r"(\d+)(B|KiB|MiB|GiB|TiB)?", limit)
        if match is None:
            raise ConfigError(
                f"memory limit {limit!r}: write bytes, or a whole number with KiB, MiB, GiB or TiB, or off"
            )
        limit = int(match[1]) * _FACTORS[match[2] or ""]
    if not isinstance(limit, int) or isinstance(limit, bool) or not 0 <= limit <= NO_LIMIT:
        raise ConfigError(f"memory limit {limit!r}: give a number of bytes from 0 to {NO_LIMIT}, or 'off'")
    return limit


def parse_gogc(gogc: int | str | None) -> int | None:
    """Return GOGC in percent, None for off. As in Go, any negative number is off."""
    if gogc is None or gogc == "off":
        return None
    if isinstance(gogc, str) and re.fullmatch(r"-?\d+", gogc):
        gogc = int(gogc)
    if not isinstance(gogc, int) or isinstance(gogc, bool) or gogc >= 1 << 31:
        raise ConfigError(f"gogc={gogc!r}: give a percentage such as 100, or 'off'")
    return gogc if gogc >= 0 else None


def format_bytes(n: int) -> str:
    """Write an amount of memory for people, in the largest unit that keeps it at 1 or more."""
    sign, amount = "-" if n < 0 else "", float(abs(n))
    if amount < 1024:
        return f"{n} B"
    power = min(int(amount).bit_length() - 1, 49) // 10
    return f"{sign}{amount / 1024**power:.2f} {list(_FACTORS)[power + 1]}"


def format_duration(ns: int) -> str:
    """Write a span of time for people."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= size:
            return f"{ns / size:.3f} {unit}"
    return f"{ns} ns"
