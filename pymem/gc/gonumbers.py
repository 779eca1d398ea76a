"""Go's numbers on amd64, where Python's differ: integers that wrap, and conversions of what does not fit.

Ordinary heaps never get near these edges; a first cycle with nothing to scan, or GOGC=off without a limit, do.
"""

from __future__ import annotations

import math

__all__ = ["MASK64", "MAX_INT64", "divide", "int64", "to_int64", "to_uint64"]

MASK64 = (1 << 64) - 1
"""The largest uint64; `x & MASK64` is what uint64 arithmetic leaves of x."""
MAX_INT64 = (1 << 63) - 1
_MIN_INT64 = -(1 << 63)
_TWO63, _TWO64 = float(1 << 63), float(1 << 64)


def int64(n: int) -> int:
    """Return what is left of n in an int64: its lowest 64 bits, the top one as sign."""
    return ((n + (1 << 63)) & MASK64) - (1 << 63)


def to_int64(x: float) -> int:
    """Convert as `int64(x)` does: truncate; what does not fit, infinities and NaN become the smallest int64."""
    return int(x) if -_TWO63 <= x < _TWO63 else _MIN_INT64


def to_uint64(x: float) -> int:
    """Convert as `uint64(x)` does: a negative one wraps; what fits in neither 64-bit type becomes 1 << 63."""
    return int(x) & MASK64 if -_TWO63 <= x < _TWO64 else 1 << 63


def divide(a: float, b: float) -> float:
    """Divide by IEEE 754's rules, which know no ZeroDivisionError."""
    if b:
        return a / b
    return math.copysign(math.inf, a) * math.copysign(1.0, b) if a and not math.isnan(a) else math.nan
