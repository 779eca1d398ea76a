"""A distribution of times in buckets that grow with the time: what `runtime/metrics` shows of pauses."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["TimeHistogram"]

_MIN_BITS = 9
"""Times below 2^8 ns share the first bucket: their highest bit is below this one's."""
_MAX_BITS = 48
"""Times from 2^47 ns (39 hours) on overflow."""
_SUB_BITS = 2
_SUB = 1 << _SUB_BITS
_BUCKETS = _MAX_BITS - _MIN_BITS + 1


@dataclass(slots=True)
class TimeHistogram:
    """Counts of times by their highest bit and the two bits that follow it: buckets are at most a quarter wide.

    Go: timeHistogram.
    """

    counts: list[int] = field(default_factory=lambda: [0] * (_BUCKETS * _SUB))
    underflow: int = 0
    """Negative times. A virtual clock has none; Go's may."""
    overflow: int = 0

    def record(self, ns: int) -> None:
        """Count a time in ns. Go: (*timeHistogram).record."""
        if ns < 0:
            self.underflow += 1
            return
        top = max(ns.bit_length(), _MIN_BITS - 1)  # the highest bit's number, from 1
        bucket = top - (_MIN_BITS - 1)
        if bucket >= _BUCKETS:
            self.overflow += 1
            return
        # The first bucket has no highest bit of its own: it is cut as the second one is.
        shift = max(top, _MIN_BITS) - 1 - _SUB_BITS
        self.counts[bucket * _SUB + (ns >> shift) % _SUB] += 1

    def all_counts(self) -> list[int]:
        """Return the counts between the bounds of `bounds()`, one fewer than there are bounds."""
        return [self.underflow, *self.counts, self.overflow]

    @staticmethod
    def bounds() -> tuple[float, ...]:
        """Return the bounds of all buckets in seconds, from -inf to inf. Go: timeHistogramMetricsBuckets."""
        first = [j << (_MIN_BITS - 1 - _SUB_BITS) for j in range(_SUB)]
        others = [
            (_SUB + j) << (bit - 1 - _SUB_BITS) for bit in range(_MIN_BITS, _MAX_BITS) for j in range(_SUB)
        ]
        ns = [*first, *others, 1 << (_MAX_BITS - 1)]
        return (float("-inf"), *(n / 1e9 for n in ns), float("inf"))
