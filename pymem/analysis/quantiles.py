"""Distributions of many whole numbers in little memory, also where some are only known to be larger than they look.

Numbers below 128 have a bin each; above, an octave has 64, so a number read back is at most 1/64 too small. An object
that lives when the recording ends has a lifetime of at least so much (statisticians call it censored); the
product-limit estimate of Kaplan and Meier takes it into account. With nothing censored it is the plain distribution.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]

__all__ = ["Quantiles", "Tallies", "bin_floor", "bin_of", "product_limit"]

_EXACT_BITS = 7
_HALF = 1 << (_EXACT_BITS - 1)
_BINS = 1 << 13
"""More than there are bins: 64 for each of 57 octaves, and 128."""
_PENDING = 1 << 20
_ROUNDING = 1e-9


class Quantiles(NamedTuple):
    """Numbers that half, nine in ten, and 99 in 100 do not exceed; infinity: the recording is too short to tell."""

    p50: float
    p90: float
    p99: float


def bin_of(values: Ints) -> Ints:
    """Return the bins of whole numbers from 0 to 2**63 - 1."""
    octave = np.maximum(np.frexp(values.astype(np.float64))[1].astype(np.int64) - _EXACT_BITS, 0)
    octave -= (values >> octave) < _HALF * (
        octave > 0
    )  # rounding to a float may have reached the next octave
    bins: Ints = octave * _HALF + (values >> octave)
    return bins


def bin_floor(bins: Ints) -> Ints:
    """Return the least number of each bin."""
    octave = np.maximum(bins // _HALF - 1, 0)
    out: Ints = (bins - octave * _HALF) << octave
    return out


class Tallies:
    """How often each of many things had each number; sparse, so memory is by pairs seen."""

    def __init__(self) -> None:
        self._keys: Ints = np.zeros(0, np.int64)
        self._counts: npt.NDArray[np.float64] = np.zeros(0)
        self._pending: list[tuple[Ints, npt.NDArray[np.float64]]] = []
        self._waiting = 0

    def add(self, things: Ints, values: Ints) -> None:
        """Count a number for each thing, things being numbered from 0."""
        keys, counts = np.unique(things * _BINS + bin_of(values), return_counts=True)
        self._pending.append((keys, counts.astype(np.float64)))
        self._waiting += len(keys)
        if self._waiting > _PENDING:
            self._merge()

    def of(self, thing: int) -> tuple[Ints, npt.NDArray[np.float64]]:
        """Return the bins of a thing, rising, and their counts."""
        self._merge()
        low, high = np.searchsorted(self._keys, [thing * _BINS, (thing + 1) * _BINS])
        return self._keys[low:high] - thing * _BINS, self._counts[low:high]

    def _merge(self) -> None:
        if not self._pending:
            return
        keys = np.concatenate([self._keys, *(k for k, _ in self._pending)])
        counts = np.concatenate([self._counts, *(c for _, c in self._pending)])
        self._keys, where = np.unique(keys, return_inverse=True)
        self._counts = np.bincount(where, counts, len(self._keys)).astype(np.float64)
        self._pending, self._waiting = [], 0


def product_limit(seen: tuple[Ints, Any], censored: tuple[Ints, Any]) -> Quantiles:
    """Return quantiles from bins and counts of numbers seen, and of numbers known to be larger."""
    bins = np.union1d(seen[0], censored[0])
    dead, left = np.zeros(len(bins)), np.zeros(len(bins))
    dead[np.searchsorted(bins, seen[0])] = seen[1]
    left[np.searchsorted(bins, censored[0])] = censored[1]
    at_risk = np.cumsum((dead + left)[::-1])[::-1]
    reached = 1 - np.cumprod(1 - dead / np.maximum(at_risk, 1))
    floors = bin_floor(bins).tolist()
    at = np.searchsorted(reached, np.array([0.5, 0.9, 0.99]) - _ROUNDING)
    return Quantiles(*(float(floors[i]) if i < len(floors) else float("inf") for i in at.tolist()))
