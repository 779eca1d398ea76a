"""Go 1.27's memory manager as a Python library."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pymem.errors import (
    AddressError,
    ClosedError,
    ConfigError,
    CorruptHeapError,
    PymemError,
    RecordingError,
    SizeError,
    ThreadError,
    TraceError,
)

if TYPE_CHECKING:
    from pymem import debug, metrics, types
    from pymem.gc.events import GCResult
    from pymem.gotypes import GoType
    from pymem.inspect import GoObject, Span
    from pymem.malloc import ZERO_BASE
    from pymem.runtime import Runtime
    from pymem.sched import Goroutine
    from pymem.sizeclasses import size_classes, size_to_class
    from pymem.snapshot import Snapshot
    from pymem.stats.memstats import MemStats
    from pymem.trace import read_trace

__all__ = [
    "ZERO_BASE",
    "AddressError",
    "ClosedError",
    "ConfigError",
    "CorruptHeapError",
    "GCResult",
    "GoObject",
    "GoType",
    "Goroutine",
    "MemStats",
    "PymemError",
    "RecordingError",
    "Runtime",
    "SizeError",
    "Snapshot",
    "Span",
    "ThreadError",
    "TraceError",
    "debug",
    "metrics",
    "read_trace",
    "size_classes",
    "size_to_class",
    "types",
]

_LATER = {
    "GCResult": "pymem.gc.events",
    "GoType": "pymem.gotypes",
    "GoObject": "pymem.inspect",
    "Span": "pymem.inspect",
    "ZERO_BASE": "pymem.malloc",
    "Runtime": "pymem.runtime",
    "Goroutine": "pymem.sched",
    "size_classes": "pymem.sizeclasses",
    "size_to_class": "pymem.sizeclasses",
    "Snapshot": "pymem.snapshot",
    "MemStats": "pymem.stats.memstats",
    "read_trace": "pymem.trace",
}
"""What is imported when it is first asked for, and from where: numpy alone takes longer than a command line may."""


_MODULES = ("debug", "metrics", "types")
"""Modules that are there without being imported, for the same reason."""


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"pymem.{name}")
    if name not in _LATER:
        raise AttributeError(f"module 'pymem' has no attribute {name!r}")
    value = getattr(import_module(_LATER[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER, *_MODULES})
