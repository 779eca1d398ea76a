"""Level of detail: long series cut down to what a screen can show, without losing a peak or a dip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["BUCKETS", "bucket_starts", "extremes", "largest"]

BUCKETS = 1000
"""Buckets of equal time that a series is cut into: about one a pixel of a wide screen."""


def bucket_starts(time: npt.NDArray[Any], buckets: int = BUCKETS) -> npt.NDArray[np.int64]:
    """Return the index of the first sample in each bucket that has any. time: rising, not empty."""
    first, span = int(time[0]), max(int(time[-1]) - int(time[0]), 1)
    since = (time - first).astype(np.float64)
    bucket = np.minimum(since * buckets / span, buckets - 1).astype(np.int64)
    return np.flatnonzero(np.append(True, bucket[1:] != bucket[:-1]))


def extremes(
    time: npt.NDArray[Any], value: npt.NDArray[Any], buckets: int = BUCKETS
) -> npt.NDArray[np.int64]:
    """Return the indices to keep, rising: of every bucket the lowest and the highest sample; and both ends.

    At most 2 * buckets + 2. Where there are no more samples than that, all. NaN counts as neither.
    """
    n = len(time)
    if n <= 2 * buckets + 2:
        return np.arange(n)
    starts = bucket_starts(time, buckets)
    low = _first_at(np.where(np.isnan(value), np.inf, value), starts, np.minimum)
    high = _first_at(np.where(np.isnan(value), -np.inf, value), starts, np.maximum)
    return np.unique(np.concatenate([[0], low, high, [n - 1]]))


def largest(time: npt.NDArray[Any], value: npt.NDArray[Any], buckets: int = BUCKETS) -> npt.NDArray[np.int64]:
    """Return the indices to keep, rising: of every bucket the highest sample; where they are few, all."""
    if len(time) <= buckets:
        return np.arange(len(time))
    return _first_at(value.astype(np.float64), bucket_starts(time, buckets), np.maximum)


def _first_at(
    value: npt.NDArray[Any], starts: npt.NDArray[np.int64], pick: np.ufunc
) -> npt.NDArray[np.int64]:
    """Return, for each run of samples that begins at a start, the index of the first one that `pick` chooses."""
    best = pick.reduceat(value, starts)
    run = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(value))))
    hits = np.flatnonzero(value == best[run])
    first = np.append(True, run[hits][1:] != run[hits][:-1])
    out: npt.NDArray[np.int64] = hits[first]
    return out
