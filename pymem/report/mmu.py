"""Minimum mutator utilisation: how much of the processors a program is sure to have, in any window of time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from pymem.gc.state import CycleRecord

__all__ = ["SHORTEST_NS", "collector_share", "mmu", "mmu_curve"]

SHORTEST_NS = 10_000
"""The shortest window of a curve."""
_WINDOWS = 80
_MOST_BREAKS = 200_000


def collector_share(
    cycles: Sequence[CycleRecord], end_ns: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return when the collector's share of the processors changes, and the share from each such time to the next.

    While the world is stopped it is 1. While marking it is the processor time of assists, dedicated and fractional
    workers over length times GOMAXPROCS, taken as even over the phase: when within a phase an assist ran is not kept.
    Idle workers take only what the program leaves, and count as the program's. Between cycles it is 0; sweeping and
    scavenging are left out. times: ns, from 0 to end_ns, one more than shares.
    """
    n = len(cycles)
    edges, shares = np.zeros((n, 4)), np.zeros((n, 4))
    for i, c in enumerate(cycles):
        length = max(c.term_ns - c.mark_ns, 1) * max(c.gomaxprocs, 1)
        edges[i] = c.start_ns, c.mark_ns, c.term_ns, c.end_ns
        shares[i] = 1.0, min((c.assist_ns + c.dedicated_ns + c.fractional_ns) / length, 1.0), 1.0, 0.0
    times = np.concatenate([[0.0], edges.ravel(), [float(max(end_ns, 1))]])
    return np.maximum.accumulate(times), np.concatenate([[0.0], shares.ravel()])


def mmu(
    times: npt.NDArray[np.float64], shares: npt.NDArray[np.float64], windows_ns: npt.ArrayLike
) -> npt.NDArray[np.float64]:
    """Return the minimum mutator utilisation for each window length, 0 to 1.

    MMU(w) is the least, over all windows of length w inside the run, of the share of GOMAXPROCS * w that the collector
    left to the program: 1 - (integral of its share over the window) / w. The share is constant between `times`, so its
    integral is made of straight lines, and a window that leaves least can be moved, without leaving more, until one of
    its ends is at one of `times`: only those are looked at. A window longer than the run is cut to it.
    """
    total = np.concatenate([[0.0], np.cumsum(np.diff(times) * shares)])
    end = times[-1]
    out = []
    for wanted in np.asarray(windows_ns, np.float64):
        window = min(wanted, end)
        starts = np.concatenate([times, times - window])
        starts = np.clip(starts, 0.0, end - window)
        taken = np.interp(starts + window, times, total) - np.interp(starts, times, total)
        out.append(1.0 - taken.max() / window)
    shares_left: npt.NDArray[np.float64] = np.clip(np.array(out), 0.0, 1.0)
    return shares_left


def mmu_curve(
    cycles: Sequence[CycleRecord], end_ns: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return window lengths (ns, evenly apart on a log scale up to the run's length) and `mmu` at each.

    Of very many cycles (over 50,000) those are taken that stopped or marked for longest, so the curve errs upwards.
    """
    most = _MOST_BREAKS // 4
    if len(cycles) > most:
        cost = np.array([c.end_ns - c.start_ns for c in cycles])
        kept = np.sort(np.argsort(-cost, kind="stable")[:most])
        cycles = [cycles[i] for i in kept.tolist()]
    end = max(end_ns, 2 * SHORTEST_NS)
    windows = np.geomspace(SHORTEST_NS, end, _WINDOWS)
    return windows, mmu(*collector_share(cycles, end), windows)
