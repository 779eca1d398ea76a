"""Amounts of memory and percentages as Go's environment variables write them."""

from __future__ import annotations

import re

from pymem.errors import ConfigError

__all__ = [
    "NO_LIMIT",
    "format_bytes",
    "format_duration",
    "format_gogc",
    "go_bytes",
    "parse_byte_count",
    "parse_gogc",
    "parse_integer",
    "parse_memory_limit",
]

NO_LIMIT = (1 << 63) - 1
"""Bytes: what `GOMEMLIMIT=off` stands for, the largest int64."""

_FACTORS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def parse_integer(text: str, bits: int) -> int | None:
    """Return a decimal number that fits a signed integer of so many bits, None if it is none. Go: strconv.ParseInt."""
    match = re.fullmatch(r"([+-]?)0*([0-9]{1,19})", text)  # 19 digits: no int64 has more
    if match is None:
        return None
    n = -int(match[2]) if match[1] == "-" else int(match[2])
    return n if -(1 << bits - 1) <= n < 1 << bits - 1 else None


def parse_byte_count(text: str) -> int | None:
    """Return bytes from a number with a unit or none ("512MiB"), None if it is none or passes an int64.

    Units are B, KiB, MiB, GiB and TiB, in this spelling. Go: parseByteCount.
    """
    match = re.fullmatch(r"([+-]?[0-9]+)(B|KiB|MiB|GiB|TiB)?", text)
    n = parse_integer(match[1], 64) if match else None
    if match is None or n is None or n < 0:
        return None
    limit = n * _FACTORS[match[2] or ""]
    return limit if limit <= NO_LIMIT else None


def parse_memory_limit(limit: int | str | None) -> int:
    """Return a memory limit in bytes from bytes, from GOMEMLIMIT's grammar ("64MiB"), or from None or "off"."""
    if limit is None or limit == "off":
        return NO_LIMIT
    n = parse_byte_count(limit) if isinstance(limit, str) else limit
    if n is None:
        raise ConfigError(
            f"memory limit {limit!r}: write bytes, or a whole number with KiB, MiB, GiB or TiB, or off"
        )
    if not isinstance(n, int) or isinstance(n, bool) or not 0 <= n <= NO_LIMIT:
        raise ConfigError(f"memory limit {limit!r}: give a number of bytes from 0 to {NO_LIMIT}, or 'off'")
    return n


def parse_gogc(gogc: int | str | None) -> int | None:
    """Return GOGC in percent, None for off. As in Go, any negative number is off."""
    if gogc is None or gogc == "off":
        return None
    n = parse_integer(gogc, 32) if isinstance(gogc, str) else gogc
    if not isinstance(n, int) or isinstance(n, bool) or n >= 1 << 31:
        raise ConfigError(f"gogc={gogc!r}: give a percentage such as 100, or 'off'")
    return n if n >= 0 else None


def format_gogc(percent: int) -> str:
    """Write GOGC as it is set; negative is off."""
    return "off" if percent < 0 else str(percent)


def go_bytes(n: int) -> str:
    """Write bytes in GOMEMLIMIT's grammar, in the largest unit that is exact."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if n and n % size == 0:
            return f"{n // size}{unit}"
    return f"{n}B"


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
