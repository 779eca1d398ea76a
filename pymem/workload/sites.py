"""Where in a program its objects are allocated: chains of callers, which exact recordings tell."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pymem.errors import RecordingError
from pymem.workload.exact import mallocs_of
from pymem.workload.exact_log import Op

if TYPE_CHECKING:
    import numpy.typing as npt

    from pymem.workload.exact_log import ExactLog

__all__ = ["SiteFrame", "Sites", "sites_from_log"]

_RUNTIME = ("runtime.", "internal/runtime/")
_GOEXIT = "runtime.goexit"
"""Around every goroutine's first function."""


@dataclass(frozen=True, slots=True, order=True)
class SiteFrame:
    """A call that is under way."""

    function: str
    file: str
    line: int


@dataclass(frozen=True, slots=True, eq=False)
class Sites:
    """The chains of callers of a recording, and whose each object is."""

    stacks: tuple[tuple[SiteFrame, ...], ...]
    """Innermost call first. Calls of Go's runtime at the inner end are left out, as in Go's profiles, unless there are
    no others. 0 is the unknown one, without a frame."""
    of: npt.NDArray[np.int64]
    """Of each object, by its handle: an index into stacks."""
    slots: npt.NDArray[np.int64]
    """Of each object: bytes of its slot; 0: it joined a tiny block."""


def sites_from_log(log: ExactLog) -> Sites:
    """Read the sites of an exact recording. Raises `RecordingError` for one without."""
    chains = _chains(log)
    if not chains:
        raise RecordingError(
            f"{log.path}: this recording does not tell where objects were allocated: record it again with"
            " `pymem record --exact`"
        )
    frames = _frames(log)
    numbers = np.array(sorted(chains), np.uint64)
    _, end = mallocs_of(log)
    told = log.records["c"][end]
    at = np.minimum(np.searchsorted(numbers, told), len(numbers) - 1)
    return Sites(
        stacks=((), *(_stack(chains[int(n)], frames) for n in numbers)),
        of=np.where(numbers[at] == told, at + 1, 0),
        slots=log.records["b"][end].astype(np.int64),
    )


def _chains(log: ExactLog) -> dict[int, list[int]]:
    """Return the pcs of each site, innermost first."""
    rows = log.records[log.records["op"] == Op.SITE]
    chains: defaultdict[int, dict[int, int]] = defaultdict(dict)
    for site, pc, place in zip(rows["a"].tolist(), rows["b"].tolist(), rows["c"].tolist(), strict=True):
        chains[site][place] = pc
    return {site: [pc for _, pc in sorted(places.items())] for site, places in chains.items()}


def _frames(log: ExactLog) -> dict[int, list[SiteFrame]]:
    """Return the calls that each pc stands for, innermost first."""
    files = {(int(row["a"]), int(row["c"])): name for row, name in log.named(Op.FILE)}
    frames: defaultdict[int, dict[int, SiteFrame]] = defaultdict(dict)
    for row, name in log.named(Op.FRAME):
        pc, line, depth = int(row["a"]), int(row["b"]), int(row["c"])
        frames[pc][depth] = SiteFrame(name, files.get((pc, depth), ""), line)
    return {pc: [frame for _, frame in sorted(of.items())] for pc, of in frames.items()}


def _stack(pcs: list[int], frames: dict[int, list[SiteFrame]]) -> tuple[SiteFrame, ...]:
    calls = [frame for pc in pcs for frame in frames.get(pc, [SiteFrame(f"{pc:#x}", "", 0)])]
    calls = [call for call in calls if call.function != _GOEXIT]
    first = next((i for i, call in enumerate(calls) if not call.function.startswith(_RUNTIME)), 0)
    return tuple(calls[first:])
