"""A rerun as the lines that GODEBUG=gctrace=1 would have printed, for whoever reads these."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pymem.errors import ConfigError
from pymem.stats.gctrace import gctrace_line

if TYPE_CHECKING:
    from pymem.export.history import History

__all__ = ["gctrace"]


def gctrace(history: History) -> str:
    """Return a line a cycle. Raises `ConfigError` for a recorded history: it lacks most of what a line tells."""
    if not history.emulated:
        raise ConfigError(
            "a recording does not tell what its collections cost, so there are no gctrace lines of it: "
            "give the settings of a rerun, such as --gogc 100"
        )
    return "".join(f"{gctrace_line(cycle)}\n" for cycle in history.cycles)
